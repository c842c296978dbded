"""SCRAM by the frames recorded with the stock client (PROTOCOL Z.K3; the key is that of K4)."""

import base64
import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scram_client import client_final

from middlewared.auth import scram
from middlewared.auth.scram import ScramError

SECRET = "abcdefABCDEF0123456789"
SALT = base64.b64decode("MDEyMzQ1Njc4OWFiY2RlZg==")
CLIENT_FIRST = "n,,n=root:1,r=n+62WCAncciv1VTUXIKnvX0fwYF+aZKeEDYWDtmd1Ko="
NONCE = "n+62WCAncciv1VTUXIKnvX0fwYF+aZKeEDYWDtmd1KrYlCjjCNKg12zvsDRovCj8B2wtjIpENgxjuzrOf8oWZg=="
SERVER_FIRST = f"r={NONCE},s=MDEyMzQ1Njc4OWFiY2RlZg==,i=50000"
PROOF = "i6PvGw0iWprZsJu/r5sNwPZ5fMloBkWMGlSD9lRjxwDdco+ZTMP7JIijzvFezUqHIFv7PcHVqKrpfdW0CJlOyg=="
CLIENT_FINAL = f"c=biws,r={NONCE},p={PROOF}"
SERVER_FINAL = "v=bj2DfnrxmpSZj2JZhGrDxIWDxURJvF4dXcbZ+K02U/2485ml6I36suaAZY+vG2e6wOSJHtX40sDoCBBXFNj5IQ=="
BINDING = hashlib.sha256(b"a certificate").digest()


@pytest.fixture(scope="module")
def verifier() -> scram.Verifier:
    return scram.derive(SECRET, SALT, 50_000)


def exchange(verifier: scram.Verifier, client_first: str = CLIENT_FIRST, bindable: bool = False) -> scram.Exchange:
    client = scram.parse_client_first(client_first, bindable=bindable)
    return scram.answer_first(client, base64.b64decode(NONCE)[32:], verifier)


def test_the_recorded_login(verifier: scram.Verifier) -> None:
    begun = exchange(verifier)
    assert (begun.client.username, begun.client.key_id) == ("root", 1)
    assert begun.server_first == SERVER_FIRST
    assert scram.answer_final(begun, CLIENT_FINAL, None) == SERVER_FINAL


def test_a_wrong_secret_nonce_or_proof_is_refused(verifier: scram.Verifier) -> None:
    begun = exchange(verifier)
    assert scram.answer_final(begun, client_final(begun, "wrong"), None) is None
    assert scram.answer_final(begun, CLIENT_FINAL.replace("r=n", "r=m"), None) is None
    assert scram.answer_final(begun, CLIENT_FINAL.replace("p=i6", "p=j6"), None) is None
    assert scram.answer_final(begun, f"c=biws,r={NONCE},p=YWJj", None) is None
    assert scram.answer_final(begun, CLIENT_FINAL.replace("biws", "eSws"), None) is None  # "y,,"


def test_channel_binding(verifier: scram.Verifier) -> None:
    bound = exchange(verifier, CLIENT_FIRST.replace("n,,", "p=tls-server-end-point,,", 1), bindable=True)
    message = client_final(bound, SECRET, BINDING)
    assert scram.answer_final(bound, message, BINDING) is not None
    assert scram.answer_final(bound, message, hashlib.sha256(b"another").digest()) is None
    assert scram.answer_final(bound, client_final(bound, SECRET), BINDING) is None


@pytest.mark.parametrize(
    ("header", "bindable", "allowed"),
    [
        ("n,,", False, True),
        ("n,,", True, True),
        ("y,,", False, True),
        ("y,,", True, False),  # RFC 5802 section 6: a downgrade attack
        ("p=tls-server-end-point,,", False, False),
        ("p=tls-unique,,", True, False),
        ("n,a=admin,", False, False),
        ("x,,", False, False),
    ],
)
def test_headers(header: str, bindable: bool, allowed: bool) -> None:
    text = header + CLIENT_FIRST[3:]
    if allowed:
        assert scram.parse_client_first(text, bindable=bindable).header == header
        return
    with pytest.raises(ScramError):
        scram.parse_client_first(text, bindable=bindable)


def test_escaped_names_and_long_nonces() -> None:
    nonce = base64.b64encode(b"n" * 64).decode()
    client = scram.parse_client_first(f"n,,n=a=2Cb=3Dc:17,r={nonce}", bindable=False)
    assert (client.username, client.key_id, client.nonce) == ("a,b=c", 17, b"n" * 64)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "n,,",
        "n,,n=root:1",
        "n,,n=root,r=n+62WCAncciv1VTUXIKnvX0fwYF+aZKeEDYWDtmd1Ko=",
        "n,,n=root:-1,r=n+62WCAncciv1VTUXIKnvX0fwYF+aZKeEDYWDtmd1Ko=",
        "n,,n=root:1,r=c2hvcnQ=",
        "n,,n=root:1,r=*",
        "n,,m=ext,n=root:1,r=n+62WCAncciv1VTUXIKnvX0fwYF+aZKeEDYWDtmd1Ko=",
    ],
)
def test_malformed_first_messages(text: str) -> None:
    with pytest.raises(ScramError):
        scram.parse_client_first(text, bindable=False)


@given(st.text(max_size=200))
def test_any_text_is_refused_without_breaking(text: str) -> None:
    begun = exchange(scram.Verifier(SALT, 50_000, b"s" * 64, b"k" * 64))
    with pytest.raises(ScramError):
        scram.parse_client_first(text, bindable=False)
    with contextlib.suppress(ScramError):
        assert scram.answer_final(begun, text, None) is None
