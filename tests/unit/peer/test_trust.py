"""Who lacks the pinned certificate gets nothing."""

import asyncio
import contextlib
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from middlewared.peer.transport import PinnedConnection, dial, listen, load_trust, split_address
from middlewared.settings import PeerSettings, SettingsError

GREETING = b"GET / HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def answer_over_tls(address: str, context: ssl.SSLContext) -> bytes:
    """What the link sends to somebody who says GET; nothing if it closes the door."""
    host, port = address.split(":")
    received = b""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="peer")
        writer.write(GREETING)
        with contextlib.suppress(OSError):
            received = await reader.read()
        writer.transport.abort()
    return received


def client_context(certificate: Path | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


async def test_the_right_certificate_gets_an_answer(start_side: Any, certificates: Path) -> None:
    """The control: shows that the tests below would see an answer."""
    b = await start_side("B")
    answer = await answer_over_tls(b.link.listening_at[0], client_context(certificates / "A.pem"))
    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("who", ["stranger", "B", None], ids=["foreign", "our own", "none"])
async def test_another_certificate_gets_nothing(start_side: Any, certificates: Path, who: str | None) -> None:
    b = await start_side("B")
    certificate = certificates / f"{who}.pem" if who else None
    assert await answer_over_tls(b.link.listening_at[0], client_context(certificate)) == b""


async def test_an_expired_certificate_gets_nothing(start_side: Any, certificates: Path) -> None:
    link = await start_side("A", peer_certificate=str(certificates / "expired.crt"))
    answer = await answer_over_tls(link.link.listening_at[0], client_context(certificates / "expired.pem"))
    assert answer == b""


async def test_older_tls_gets_nothing(start_side: Any, certificates: Path) -> None:
    b = await start_side("B")
    context = client_context(certificates / "A.pem", ssl.TLSVersion.TLSv1_2)
    assert await answer_over_tls(b.link.listening_at[0], context) == b""


async def test_plain_tcp_gets_no_banner(start_side: Any) -> None:
    b = await start_side("B")
    host, port = b.link.listening_at[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(GREETING)
    received = b""
    with contextlib.suppress(OSError):
        received = await reader.read()
    writer.close()
    assert b"HTTP" not in received
    assert len(received) <= 7  # one TLS alert at most


def signed_by(issuer: Path, folder: Path) -> Path:
    """A certificate that the pinned key itself has signed, for another key."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = issuer.read_bytes()
    authority = x509.load_pem_x509_certificate(pem)
    authority_key = serialization.load_pem_private_key(pem, None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "child")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(authority_key, hashes.SHA256())
    )
    path = folder / "child.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def authority(folder: Path) -> Path:
    """A pinned certificate made by other tools: it may sign certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "authority.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


async def test_a_certificate_signed_by_the_pinned_one_gets_nothing(start_side: Any, tmp_path: Path) -> None:
    """OpenSSL lets it pass, as the chain is good: the exact comparison does not."""
    pinned = authority(tmp_path)
    b = await start_side("B", peer_certificate=str(pinned))
    child = client_context(signed_by(pinned, tmp_path))
    assert await answer_over_tls(b.link.listening_at[0], child) == b""
    assert (await answer_over_tls(b.link.listening_at[0], client_context(pinned))).startswith(b"HTTP/1.1 400")


async def test_a_node_does_not_talk_to_a_false_server(start_side: Any, stand_in: Any, certificates: Path) -> None:
    """A dials somebody else's server; once the true one listens at that place, it connects."""
    address, came = await stand_in(certificate="stranger")
    a = await start_side("A", connect=address)
    with pytest.raises(Exception, match="Could not connect"):
        await a.link.call("core.ping", [], connect_timeout_s=0.3)
    assert came.empty()
    assert a.history == []


async def test_a_node_does_not_talk_to_a_server_signed_by_the_pinned_one(certificates: Path, tmp_path: Path) -> None:
    pinned = authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed_by(pinned, tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def request() -> bytes:
            raw, _ = listener.accept()
            raw.settimeout(20)
            with raw, contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as secured:
                return secured.recv(1)
            return b""

        received = asyncio.create_task(asyncio.to_thread(request))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        trust = load_trust(PeerSettings(certificate=str(certificates / "A.pem"), peer_certificate=str(pinned)))
        with pytest.raises(ConnectionError, match="not the pinned one"):
            await dial(address, trust)
        assert await received == b""


async def test_nothing_waits_in_the_kernel_for_more(certificates: Path) -> None:
    """TCP_NODELAY is on at both ends."""
    accepted: asyncio.Queue[PinnedConnection] = asyncio.Queue()
    done = asyncio.Event()

    async def handle(connection: PinnedConnection) -> None:
        accepted.put_nowait(connection)
        await done.wait()

    settings = PeerSettings(certificate=str(certificates / "A.pem"), peer_certificate=str(certificates / "A.crt"))
    trust = load_trust(settings)
    server = await listen("127.0.0.1:0", trust, handle)
    dialled = await dial(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", trust)
    for connection in (dialled, await accepted.get()):
        raw = connection.transport.get_extra_info("socket")
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    done.set()
    await dialled.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("address", "expected"),
    [("169.254.10.1:6000", ("169.254.10.1", 6000)), ("[fe80::1]:6000", ("fe80::1", 6000))],
)
def test_addresses_are_split(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["", "host", ":1", "host:", "host:x", "host:65536", "host:²"])
def test_wrong_addresses_are_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        split_address(address)
