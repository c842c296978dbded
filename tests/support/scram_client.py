"""The client's side of SCRAM (RFC 5802 section 3), for tests of ours."""

import base64
import hashlib
import hmac

from middlewared.auth.scram import Exchange


def client_final(exchange: Exchange, secret: str, binding: bytes = b"") -> str:
    """What a client that knows `secret`, and sees a certificate of hash `binding`, sends last."""
    header = base64.b64encode(exchange.client.header.encode() + binding).decode()
    without_proof = f"c={header},r={exchange.nonce}"
    message = f"{exchange.client.bare},{exchange.server_first},{without_proof}".encode()
    verifier = exchange.verifier
    salted = hashlib.pbkdf2_hmac("sha512", secret.encode(), verifier.salt, verifier.iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha512")
    signature = hmac.digest(hashlib.sha512(client_key).digest(), message, "sha512")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return f"{without_proof},p={base64.b64encode(proof).decode()}"
