"""Tokens (PROTOCOL 5.7): opaque texts that stand for a login already made. In memory: they end with the daemon."""

import errno
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from middlewared.auth.identity import Credential, Origin
from middlewared.errors import CallError

TTL_S_DEFAULT = 600
TTL_S_MAX = 24 * 3600
TOKENS_MAX = 10_000
TOKENS_PER_USER_MAX = 1_000


@dataclass(slots=True)
class Token:
    """One token. `origin` is None when it may be used from anywhere; `attrs`, if any, name its only purpose."""

    credential: Credential
    origin: Origin | None
    ttl_s: int
    attrs: dict[str, Any] = field(default_factory=dict)
    single_use: bool = False
    used_s: float = 0.0


class Tokens:
    """The tokens that are valid now, by the hash of their text (a copy of this table opens nothing)."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._tokens: dict[bytes, Token] = {}

    def issue(self, token: Token) -> str:
        """Make a token valid from now on; its text. Raises EBUSY when its user or everybody has too many."""
        self._drop_expired()
        mine = sum(other.credential.username == token.credential.username for other in self._tokens.values())
        if mine >= TOKENS_PER_USER_MAX or len(self._tokens) >= TOKENS_MAX:
            raise CallError("Too many tokens are valid at once; wait until some expire", errno.EBUSY)
        text = secrets.token_urlsafe(32)
        token.used_s = self._clock_s()
        self._tokens[_digest(text)] = token
        return text

    def redeem(self, text: str, origin: Origin, attrs: dict[str, Any] | None = None) -> Token | None:
        """The token, if it is valid here and for this purpose: one with attributes is good for exactly `attrs`.

        Using a token renews it, or ends it if it is for a single use.
        """
        digest = _digest(text)
        token = self._tokens.get(digest)
        if token is None or self._expired(token):
            return None
        if token.origin is not None and not token.origin.matches(origin):
            return None
        if token.attrs and token.attrs != attrs:
            return None
        if token.single_use:
            del self._tokens[digest]
        token.used_s = self._clock_s()
        return token

    def _expired(self, token: Token) -> bool:
        return self._clock_s() - token.used_s >= token.ttl_s

    def _drop_expired(self) -> None:
        for digest in [digest for digest, token in self._tokens.items() if self._expired(token)]:
            del self._tokens[digest]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
