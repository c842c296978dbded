"""The server's half of SCRAM-SHA-512, straight from RFC 5802 section 3 and PROTOCOL 5.5; shares no code with ours."""

import base64
import hashlib
import hmac
import os
from typing import Any

REFUSED = {"response_type": "AUTH_ERR"}


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha512).digest()


class ScramServer:
    """Plug `login_ex` in as auth.login_ex. `said` keeps what the client sent."""

    def __init__(self, username: str, api_key: str, iterations: int = 50_000, binding: bytes | None = None) -> None:
        self._user = f"n={username}:{api_key.split('-')[0]}"
        self._salt = os.urandom(16)
        self.iterations = iterations
        self._salted = hashlib.pbkdf2_hmac("sha512", api_key.split("-")[1].encode(), self._salt, 50_000)
        self._header = b"n,," if binding is None else b"p=tls-server-end-point,,"
        self._binding = binding or b""
        self.lies = False
        self.said: list[str] = []

    def login_ex(self, request: dict[str, Any]) -> dict[str, Any]:
        assert request["mechanism"] == "SCRAM"
        self.said.append(request["rfc_str"])
        if request["scram_type"] == "CLIENT_FIRST_MESSAGE":
            return self._first(request["rfc_str"])
        return self._final(request["rfc_str"])

    def _first(self, text: str) -> dict[str, Any]:
        assert text.startswith(self._header.decode())
        self._bare = text.removeprefix(self._header.decode())
        user, nonce = self._bare.split(",r=")
        if user != self._user:
            return REFUSED
        both = base64.b64encode(base64.b64decode(nonce) + os.urandom(32)).decode()
        self._challenge = f"r={both},s={base64.b64encode(self._salt).decode()},i={self.iterations}"
        answer = {"scram_type": "SERVER_FIRST_RESPONSE", "rfc_str": self._challenge, "user_info": None}
        return {"response_type": "SCRAM_RESPONSE", **answer}

    def _final(self, text: str) -> dict[str, Any]:
        without_proof, proof = text.split(",p=")
        channel = base64.b64encode(self._header + self._binding).decode()
        assert without_proof == f"c={channel},{self._challenge.split(',')[0]}"
        message = f"{self._bare},{self._challenge},{without_proof}"
        stored = hashlib.sha512(_hmac(self._salted, "Client Key")).digest()
        signature = _hmac(stored, message)
        client_key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        if hashlib.sha512(client_key).digest() != stored:
            return REFUSED
        verdict = bytes(64) if self.lies else _hmac(_hmac(self._salted, "Server Key"), message)
        answer = {"scram_type": "SERVER_FINAL_RESPONSE", "rfc_str": f"v={base64.b64encode(verdict).decode()}"}
        return {"response_type": "SCRAM_RESPONSE", **answer, "user_info": {"pw_name": "admin"}}
