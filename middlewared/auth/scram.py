"""SCRAM-SHA-512 for API keys: RFC 5802 with the particulars of PROTOCOL 5.5. Pure: texts in, texts out.

    client-first  n,,n=<user>:<key id>,r=<base64 client nonce>
    server-first  r=<base64 of both nonces>,s=<base64 salt>,i=<iterations>
    client-final  c=<base64 header [+ binding]>,r=<as above>,p=<base64 proof>
    server-final  v=<base64 server signature>

The nonces are concatenated as bytes before base64, unlike in the RFC, where they are strings.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

ITERATIONS = 50_000  # the secret is random and long: more would cost us, not an attacker
NONCE_BYTES = 32
_NONCE_BYTES_ALLOWED = (32, 64)
_HASH = "sha512"
_BINDING_HEADER = "p=tls-server-end-point,,"


class ScramError(Exception):
    """The client's message does not follow the protocol."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is stored of a key: enough to check it, not enough to use it."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """`header` is the GS2 header with both commas; `bare` is the message without it."""

    header: str
    bare: str
    username: str
    key_id: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """The state between the server's first message and the client's final one."""

    client: ClientFirst
    server_first: str
    nonce: str
    verifier: Verifier


def derive(secret: str, salt: bytes, iterations: int = ITERATIONS) -> Verifier:
    """Make the verifier of a secret. Slow on purpose (tens of milliseconds): not for the event loop."""
    salted = hashlib.pbkdf2_hmac(_HASH, secret.encode("utf-8", "surrogatepass"), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", _HASH)
    stored_key = hashlib.new(_HASH, client_key).digest()
    return Verifier(salt, iterations, stored_key, hmac.digest(salted, b"Server Key", _HASH))


def parse_client_first(text: str, *, bindable: bool) -> ClientFirst:
    """Read the client-first message. `bindable`: this connection has channel binding data. Raises ScramError."""
    flag, _, rest = text.partition(",")
    authzid, _, bare = rest.partition(",")
    if authzid:
        raise ScramError("an authorization identity is not supported")
    if flag == "y" and bindable:
        raise ScramError("the client believes that we cannot bind the channel, so somebody tampered with the offer")
    if flag not in ("n", "y", "p=tls-server-end-point") or (flag.startswith("p") and not bindable):
        raise ScramError("the channel cannot be bound as the client asks")
    attributes = _attributes(bare, "nr")
    username, _, key_id = _unescape(attributes["n"]).rpartition(":")
    if not (key_id.isascii() and key_id.isdecimal() and len(key_id) <= 18):
        raise ScramError("the user name must end in the id of an API key")
    nonce = _decode(attributes["r"])
    if len(nonce) not in _NONCE_BYTES_ALLOWED:
        raise ScramError("the nonce must have 32 or 64 bytes")
    return ClientFirst(f"{flag},,", bare, username, int(key_id), nonce)


def answer_first(client: ClientFirst, server_nonce: bytes, verifier: Verifier) -> Exchange:
    """The server's first message (`Exchange.server_first`) and what to remember until the client's final one."""
    nonce = _encode(client.nonce + server_nonce)
    server_first = f"r={nonce},s={_encode(verifier.salt)},i={verifier.iterations}"
    return Exchange(client, server_first, nonce, verifier)


def answer_final(exchange: Exchange, text: str, channel_binding: bytes | None) -> str | None:
    """The server's final message, or None if the proof is wrong. Raises ScramError on a malformed message."""
    attributes = _attributes(text, "crp")
    expected = exchange.client.header.encode()
    if exchange.client.header == _BINDING_HEADER:
        expected += channel_binding or b""
    if not hmac.compare_digest(_decode(attributes["c"]), expected):
        return None
    if not hmac.compare_digest(attributes["r"].encode(), exchange.nonce.encode()):
        return None
    verifier = exchange.verifier
    without_proof = text.rpartition(",p=")[0]
    message = f"{exchange.client.bare},{exchange.server_first},{without_proof}".encode()
    client_signature = hmac.digest(verifier.stored_key, message, _HASH)
    proof = _decode(attributes["p"])
    if len(proof) != len(client_signature):
        return None
    client_key = bytes(a ^ b for a, b in zip(proof, client_signature, strict=True))
    if not hmac.compare_digest(hashlib.new(_HASH, client_key).digest(), verifier.stored_key):
        return None
    return f"v={_encode(hmac.digest(verifier.server_key, message, _HASH))}"


def _attributes(text: str, names: str) -> dict[str, str]:
    """Read `a=…,b=…`: exactly the attributes `names`, in that order (RFC 5802 section 5.1; no extensions)."""
    parts = [part.partition("=") for part in text.split(",")]
    if not text.isascii() and names == "crp":
        raise ScramError("only ASCII is allowed here")
    if [name for name, _, _ in parts] != list(names):
        raise ScramError(f"the attributes must be {', '.join(names)}, in this order")
    return {name: value for name, _, value in parts}


def _unescape(name: str) -> str:
    """RFC 5802 section 5.1: comma and equals sign travel as =2C and =3D."""
    return name.replace("=2C", ",").replace("=3D", "=")


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ScramError("not base64") from error
