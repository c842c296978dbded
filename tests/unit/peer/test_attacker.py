"""An attacker at the peer port: whatever he has and however he comes, he gets nothing, not even a banner.

Whoever has the pinned certificate and its key is answered: that is the control, without which nothing here would show.
"""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from middlewared.peer import pairing
from middlewared.peer.codec import Hello, encode
from middlewared.peer.pairing import generate_certificate, public_part
from middlewared.peer.transport import dial, load_trust
from tests.unit.peer.conftest import DEADLINE_S, Side, settings_of

SHOWN = [None, "stranger", "keyless", "expired", "early", "revoked", "renewed", "listener"]
REQUESTS = {
    "silence": b"",
    "get": b"GET / HTTP/1.1\r\nHost: peer\r\n\r\n",
    "upgrade": b"GET / HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "api": b"GET /api/current HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "pairing": (41).to_bytes(4, "big") + b"mwpair1\0A" + bytes(32),
    "nonsense": bytes(range(256)) * 8,
}


@dataclass
class Port:
    """Controller B's, with A pinned; and what an attacker may have in hand."""

    side: Side
    folder: Path

    @property
    def address(self) -> str:
        return self.side.link.listening_at[0]

    def shown(self, who: str | None) -> Path | None:
        return None if who is None else self.folder / f"{who}.pem"


@pytest.fixture
async def port(start_side: Callable[..., Awaitable[Side]], tmp_path: Path) -> Port:
    """A's certificate has been renewed and re-paired: two former ones are not pinned any more."""
    now = datetime.now(UTC)
    long_ago = now - timedelta(days=pairing.VALID_DAYS + 2)
    made = {
        "A": generate_certificate("A"),
        "stranger": generate_certificate("A"),  # of the same name
        "expired": generate_certificate("A", now=long_ago),
        "early": generate_certificate("A", now=now + timedelta(days=100)),
        "revoked": generate_certificate("A"),
        "renewed": generate_certificate("A"),
        "listener": generate_certificate("B"),  # its own, come back
    }
    made["keyless"] = without_its_key(made["A"], made["stranger"])
    for name, pem in made.items():
        (tmp_path / f"{name}.pem").write_bytes(pem)
    pinned = tmp_path / "other.pem"
    pinned.write_bytes(public_part(made["revoked"]) + public_part(made["renewed"]))
    side = await start_side("B", certificate=str(tmp_path / "listener.pem"), peer_certificate=str(pinned))
    pinned.write_bytes(public_part(made["A"]))
    await side.link.follow_files()
    return Port(side, tmp_path)


def without_its_key(pinned: bytes, other: bytes) -> bytes:
    """The pinned certificate, with a private key that only claims to be its: OpenSSL takes the public half's word."""
    point, strange = (
        load_pem_x509_certificate(pem).public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)  # type: ignore[union-attr]  # it is an EC key
        for pem in (pinned, other)
    )
    key = load_pem_private_key(other, None).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert strange in key
    lines = base64.encodebytes(key.replace(strange, point))
    return b"-----BEGIN PRIVATE KEY-----\n" + lines + b"-----END PRIVATE KEY-----\n" + public_part(pinned)


def tls(certificate: Path | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


async def answer(address: str, request: bytes, context: ssl.SSLContext | None, *, enough: int = 1 << 16) -> bytes:
    """What comes back, until it is enough or the other side hangs up, as it does at once or by its deadline."""
    host, number = address.split(":")
    received = b""
    with contextlib.suppress(OSError):
        name = None if context is None else "peer"
        reader, writer = await asyncio.open_connection(host, int(number), ssl=context, server_hostname=name)
        writer.write(request)
        with contextlib.suppress(OSError):
            async with asyncio.timeout(DEADLINE_S):
                while len(received) < enough and (chunk := await reader.read(1 << 16)):
                    received += chunk
        writer.transport.abort()
    return received


def test_nothing_is_forgotten() -> None:
    assert "silence" in REQUESTS
    assert None in SHOWN


async def test_the_keyless_one_is_the_pinned_one(port: Port) -> None:
    """It is shown to be worth something: only its signature is wrong."""
    keyless, right = port.folder / "keyless.pem", port.folder / "A.pem"
    assert public_part(keyless.read_bytes()) == public_part(right.read_bytes())
    tls(keyless)  # loads


async def test_the_right_one_is_answered(port: Port) -> None:
    received = await answer(port.address, REQUESTS["upgrade"], tls(port.shown("A")), enough=1)
    assert received.startswith(b"HTTP/1.1 101")
    assert b"Server" not in received


async def test_what_tls_itself_shows_says_nothing(port: Port) -> None:
    """Our certificate comes before theirs is asked for: no host name, serial number, or name of a program is in it."""
    seen: list[bytes] = []
    host, number = port.address.split(":")
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(host, int(number), ssl=tls(None), server_hostname="peer")
        seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.close()
    [certificate] = [load_der_x509_certificate(der) for der in seen]
    names = {attribute.oid._name: attribute.value for attribute in certificate.subject}
    assert names.keys() == {"commonName", "serialNumber"}
    assert names["commonName"] == "controller-B"
    assert b"middlewared" not in seen[0]


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("who", SHOWN)
async def test_nobody_else(port: Port, who: str | None, request_name: str) -> None:
    assert await answer(port.address, REQUESTS[request_name], tls(port.shown(who))) == b""
    assert port.side.history == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("who", ["A", "stranger", None])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_no_older_tls(port: Port, who: str | None, version: ssl.TLSVersion) -> None:
    """Not even for the right certificate."""
    assert await answer(port.address, REQUESTS["upgrade"], tls(port.shown(who), version)) == b""


@pytest.mark.parametrize("request_name", [name for name in REQUESTS if name != "silence"])
async def test_no_plain_text(port: Port, request_name: str) -> None:
    """At most the seven bytes of a TLS alert."""
    received = await answer(port.address, REQUESTS[request_name], None)
    assert len(received) <= 7
    assert received[:1] in (b"", b"\x15")


async def test_silence_without_tls_is_ended(port: Port) -> None:
    assert len(await answer(port.address, b"", None)) <= 7


async def test_a_websocket_client_is_not_let_in(port: Port) -> None:
    """A whole client, with a foreign certificate."""
    with pytest.raises((OSError, EOFError, WebSocketException)):
        await connect(f"wss://{port.address}/", ssl=tls(port.shown("stranger")), proxy=None)
    assert port.side.history == []


async def test_a_connection_from_before_the_revocation_ends(port: Port) -> None:
    """Also one that has not said hello: it would be let in afterwards."""
    client = await connect(f"wss://{port.address}/", ssl=tls(port.shown("A")), proxy=None, ping_interval=None)
    (port.folder / "other.pem").write_bytes(public_part((port.folder / "renewed.pem").read_bytes()))
    await port.side.link.follow_files()
    with contextlib.suppress(Exception):
        await client.send(encode(Hello("A")))
    async with asyncio.timeout(DEADLINE_S):
        await client.wait_closed()
    assert port.side.history == []


async def test_a_certificate_that_expires_is_refused_although_tls_knows_it(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our own look at it, whatever OpenSSL's rules for pinned certificates are; on either side."""
    monkeypatch.setattr("middlewared.peer.transport.is_valid", lambda certificate: False)
    assert await answer(port.address, REQUESTS["upgrade"], tls(port.shown("A"))) == b""
    settings = settings_of(
        port.folder, "A", certificate=str(port.folder / "A.pem"), peer_certificate=str(port.folder / "listener.pem")
    )
    with pytest.raises(ConnectionError, match="expired"):
        await dial(port.address, load_trust(settings))


async def test_an_expired_server_is_not_talked_to(tmp_path: Path) -> None:
    """A, which dials, does not accept B's expired certificate, though it is the pinned one."""
    long_ago = datetime.now(UTC) - timedelta(days=pairing.VALID_DAYS + 2)
    (tmp_path / "B.pem").write_bytes(generate_certificate("B", now=long_ago))
    (tmp_path / "A.pem").write_bytes(generate_certificate("A"))
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            heard.append(await reader.read(100))
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "B.pem")
    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=context)
    settings: Any = settings_of(tmp_path, "A", peer_certificate=str(tmp_path / "B.pem"))
    try:
        with pytest.raises(OSError, match="expired"):
            await dial(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", load_trust(settings))
    finally:
        server.close()
    assert b"".join(heard) == b""
