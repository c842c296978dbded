"""The client's half of SCRAM-SHA-512 for API keys (RFC 5802 with the particulars of PROTOCOL 5.5)."""

import base64
import binascii
import hashlib
import hmac
import os

from middlewared.client.errors import ClientError

ITERATIONS_MIN = 50_000
ITERATIONS_MAX = 5_000_000
SALT_BYTES_MAX = 1024
NONCE_BYTES = 32


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _digest(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha512")


class ScramClient:
    """One login: `first`, then `final(server_first)`, then `verify(server_final)`. A refusal raises ClientError."""

    def __init__(self, username: str, api_key: str, binding: bytes | None = None, nonce: bytes | None = None) -> None:
        key_id, _, self._secret = api_key.partition("-")
        self._nonce = nonce or os.urandom(NONCE_BYTES)
        self._header = b"n,," if binding is None else b"p=tls-server-end-point,,"
        self._binding = binding or b""
        self._bare = f"n={username}:{key_id},r={_b64(self._nonce)}"
        self._server_signature = b""

    @property
    def first(self) -> str:
        return self._header.decode() + self._bare

    def final(self, server_first: str) -> str:
        """Answer the challenge. The proof covers every byte said before."""
        nonce, salt, iterations = self._challenge(server_first)
        without_proof = f"c={_b64(self._header + self._binding)},r={nonce}"
        message = f"{self._bare},{server_first},{without_proof}".encode()
        salted = hashlib.pbkdf2_hmac("sha512", self._secret.encode(), salt, iterations)
        client_key = _digest(salted, b"Client Key")
        signature = _digest(hashlib.sha512(client_key).digest(), message)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._server_signature = _digest(_digest(salted, b"Server Key"), message)
        return f"{without_proof},p={_b64(proof)}"

    def verify(self, server_final: str) -> None:
        """The server proves that it knows the key too."""
        if not hmac.compare_digest(server_final.encode(), f"v={_b64(self._server_signature)}".encode()):
            raise ClientError("the server could not prove that it knows the API key: it is not who it says")

    def _challenge(self, server_first: str) -> tuple[str, bytes, int]:
        fields = dict(part.split("=", 1) for part in server_first.split(",") if "=" in part)
        try:
            nonce, salt = base64.b64decode(fields["r"], validate=True), base64.b64decode(fields["s"], validate=True)
            iterations = int(fields["i"])
        except (KeyError, ValueError, binascii.Error) as error:
            raise ClientError("the server's SCRAM challenge is malformed") from error
        # A cheap challenge would let a false server guess the key off line; a dear one would hang us.
        if not (
            ITERATIONS_MIN <= iterations <= ITERATIONS_MAX
            and 0 < len(salt) <= SALT_BYTES_MAX
            and nonce.startswith(self._nonce)
            and len(nonce) > len(self._nonce)
        ):
            raise ClientError("the server's SCRAM challenge is out of bounds")
        return fields["r"], salt, iterations
