"""Extended JSON, URLs and SCRAM: no connection needed."""

import base64
from datetime import UTC, date, datetime, time
from ipaddress import ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scram_reference import ScramServer

from middlewared.client import ClientError, extended_json
from middlewared.client.endpoint import API_PATH, default_url, parse_url
from middlewared.client.scram import ScramClient

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 11, 24, 1, 2, 3, 456000, tzinfo=UTC), '{"$date":1795482123456}'),
        (datetime(1960, 1, 1, tzinfo=UTC), '{"$date":-315619200000}'),
        (date(2026, 11, 24), '{"$type":"date","$value":"2026-11-24"}'),
        (time(1, 2, 3), '{"$time":"01:02:03"}'),
        ({"x"}, '{"$set":["x"]}'),
        (ip_interface("10.0.0.1/24"), '{"$ipv4_interface":"10.0.0.1/24"}'),
        (ip_interface("fe80::1/64"), '{"$ipv6_interface":"fe80::1/64"}'),
        (
            [
                {
                    "deep": {
                        "x",
                    }
                }
            ],
            '[{"deep":{"$set":["x"]}}]',
        ),
    ],
)
def test_extended_json_both_ways(value, text):
    assert extended_json.dumps(value) == text
    assert extended_json.loads(text) == value


@pytest.mark.parametrize("text", ['{"$date":1,"x":2}', '{"$type":"date"}', '{"$type":"x","$value":"2026-11-24"}', "{}"])
def test_objects_with_other_keys_stay_as_they_are(text):
    assert extended_json.dumps(extended_json.loads(text)) == text


@pytest.mark.parametrize(
    "text", ['{"$date":"x"}', '{"$date":1e99}', '{"$time":"25:00"}', '{"$set":1}', '{"$set":[[]]}']
)
def test_malformed_special_objects_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        extended_json.loads(text)


@pytest.mark.parametrize("value", [object(), datetime(2026, 1, 1), b"x"])
def test_what_has_no_place_on_the_wire_is_refused(value):
    with pytest.raises(TypeError):
        extended_json.dumps([value])


@given(JSON)
def test_plain_json_passes_unchanged(value):
    assert extended_json.loads(extended_json.dumps(value)) == value


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "path", "private"),
    [
        ("ws://10.0.0.1", "10.0.0.1", 80, False, API_PATH, False),
        ("ws://10.0.0.1:6080/", "10.0.0.1", 6080, False, API_PATH, False),
        ("wss://nas.example/api/v1.0.0", "nas.example", 443, True, "/api/v1.0.0", True),
        ("https://[::1]:6443", "::1", 6443, True, API_PATH, True),
        ("http://nas", "nas", 80, False, API_PATH, False),
    ],
)
def test_urls(url, host, port, tls, path, private):
    endpoint = parse_url(url)
    assert (endpoint.host, endpoint.port, endpoint.tls, endpoint.path) == (host, port, tls, path)
    assert endpoint.private is private


def test_urls_of_sockets_and_the_default(monkeypatch):
    assert parse_url("ws+unix:///run/x.sock").socket_path == parse_url("/run/x.sock").socket_path == "/run/x.sock"
    assert parse_url("/run/x.sock").private
    monkeypatch.delenv("MIDDLEWARED_URL", raising=False)
    assert default_url() == "ws+unix:///run/middleware/middlewared.sock"
    monkeypatch.setenv("MIDDLEWARED_URL", "ws://elsewhere")
    assert default_url() == "ws://elsewhere"


def test_the_authority_leaves_out_the_usual_port():
    assert parse_url("ws://[::1]:80").authority == "[::1]"
    assert parse_url("wss://h:80").websocket_url == f"wss://h:80{API_PATH}"


def test_scram_against_the_recorded_login_of_the_protocol():
    """Appendix Z.K3: the secret is not recorded, but everything that does not depend on it must be the same."""
    nonce = base64.b64decode("n+62WCAncciv1VTUXIKnvX0fwYF+aZKeEDYWDtmd1Ko=")
    client = ScramClient("root", "1-abcdefABCDEF0123456789", nonce=nonce)
    assert client.first == "n,,n=root:1,r=n+62WCAncciv1VTUXIKnvX0fwYF+aZKeEDYWDtmd1Ko="
    both = "n+62WCAncciv1VTUXIKnvX0fwYF+aZKeEDYWDtmd1KrYlCjjCNKg12zvsDRovCj8B2wtjIpENgxjuzrOf8oWZg=="
    final = client.final(f"r={both},s=MDEyMzQ1Njc4OWFiY2RlZg==,i=50000")
    assert final.startswith(f"c=biws,r={both},p=")


@pytest.mark.parametrize("binding", [None, b"hash of a certificate"])
def test_scram_against_the_reference(binding):
    server = ScramServer("admin", "7-Secret", binding=binding)
    client = ScramClient("admin", "7-Secret", binding)
    challenge = server.login_ex(_message("CLIENT_FIRST_MESSAGE", client.first))["rfc_str"]
    verdict = server.login_ex(_message("CLIENT_FINAL_MESSAGE", client.final(challenge)))
    client.verify(verdict["rfc_str"])
    with pytest.raises(ClientError, match="could not prove"):
        client.verify("v=" + base64.b64encode(bytes(64)).decode())


def _message(kind: str, text: str) -> dict[str, str]:
    return {"mechanism": "SCRAM", "scram_type": kind, "rfc_str": text}


NONCE = bytes(32)
BOTH = base64.b64encode(NONCE + bytes(32)).decode()


@pytest.mark.parametrize(
    "challenge",
    [
        f"r={BOTH},s=AAAA,i=49999",
        f"r={BOTH},s=AAAA,i=5000001",
        f"r={BOTH},s=AAAA,i=x",
        f"r={BOTH},s=,i=50000",
        f"r={BOTH},s={base64.b64encode(bytes(1025)).decode()},i=50000",
        f"r={base64.b64encode(NONCE).decode()},s=AAAA,i=50000",
        f"r={base64.b64encode(b'x' * 64).decode()},s=AAAA,i=50000",
        "r=!,s=AAAA,i=50000",
        f"s=AAAA,i=50000,{BOTH}",
        "",
    ],
)
def test_scram_refuses_challenges_out_of_bounds(challenge):
    with pytest.raises(ClientError, match="challenge"):
        ScramClient("admin", "7-Secret", nonce=NONCE).final(challenge)
