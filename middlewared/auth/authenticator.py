"""Proves who a caller is: passwords, second factors, API keys, SCRAM, tokens, the unix socket (PROTOCOL 5).

Knows no session: what has to be remembered between two steps of a login is in the Outcome, and the caller keeps it.
A wrong secret is an Outcome, never an exception; CallError means that nothing was checked (rate limit, too busy).
"""

import base64
import enum
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from middlewared.auth import otp, scram
from middlewared.auth.accounts import Account, find_by_name, find_by_uid, root_object, user_object
from middlewared.auth.identity import FULL_ADMIN, Credential, Kind, Origin
from middlewared.auth.passwords import SlowChecks, hash_password
from middlewared.auth.ratelimit import MinuteLimiter
from middlewared.auth.tokens import TTL_S_DEFAULT, Token, Tokens
from middlewared.store.database import Store

MECHANISMS = ("API_KEY_PLAIN", "TOKEN_PLAIN", "PASSWORD_PLAIN", "SCRAM")
STEP_TIMEOUT_S = 300  # between the two steps of a login
OTP_ATTEMPTS_MAX = 3
API_KEY_SECRET_CHARACTERS = 64
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SELECT_KEY = (
    "SELECT id, username, salt, iterations, name, expires_at_ms, revoked,"
    " unseal('api_key', 'stored_key', id, stored_key) AS stored_key,"
    " unseal('api_key', 'server_key', id, server_key) AS server_key FROM api_key WHERE id = ?"
)
_ACCOUNT_TABLES = frozenset({"user", "privilege", "api_key"})


class Response(enum.StrEnum):
    """`response_type` of PROTOCOL 5.4."""

    SUCCESS = "SUCCESS"
    AUTH_ERR = "AUTH_ERR"
    OTP_REQUIRED = "OTP_REQUIRED"
    EXPIRED = "EXPIRED"
    DENIED = "DENIED"
    REDIRECT = "REDIRECT"
    SCRAM_RESPONSE = "SCRAM_RESPONSE"


@dataclass(slots=True)
class PendingOtp:
    """The password was right, the second factor is due."""

    username: str
    began_s: float
    attempts_left: int = OTP_ATTEMPTS_MAX


@dataclass(frozen=True, slots=True)
class PendingScram:
    """The server's first SCRAM message is out, the client's final one is due."""

    username: str
    exchange: scram.Exchange
    row: dict[str, Any] | None  # None: there is no such key, and the client shall not learn it here
    began_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step of a login ended.

    SUCCESS has a credential (SCRAM's also `rfc_str`). OTP_REQUIRED and SCRAM_RESPONSE have `pending`: hand it back
    with the next step. `username` is who tried, as far as known.
    """

    response: Response
    username: str = ""
    credential: Credential | None = None
    pending: PendingOtp | PendingScram | None = None
    rfc_str: str | None = None
    urls: list[str] = field(default_factory=list)


class Authenticator:
    """One daemon's. `redirect`, if set, names the URLs to log in at instead of here (empty: here is right)."""

    def __init__(
        self,
        store: Store,
        *,
        failures_per_minute_max: int = 20,
        monotonic_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.redirect: Callable[[], list[str]] | None = None
        self._store = store
        self._monotonic_s = monotonic_s
        self._wall_s = wall_s
        self._slow = SlowChecks()
        self._limiter = MinuteLimiter(failures_per_minute_max, monotonic_s)
        self._tokens = Tokens(monotonic_s)
        self._decoy_key = secrets.token_bytes(32)
        self._otp_used_steps: dict[str, int] = {}  # by username; bounded by the number of accounts
        self._accounts: dict[str, Account | None] = {}  # for `refresh`: read since the last change
        self._keys: dict[int, dict[str, Any] | None] = {}
        self._listeners: list[Callable[[], None]] = []
        store.on_commit(self._on_commit)

    async def close(self) -> None:
        await self._slow.close()

    # ------------------------------------------------------------------------------------------ without a secret

    def unix_credential(self, origin: Origin) -> Credential | None:
        """What a local process is without any login (PROTOCOL 5.2): root everything, others their account."""
        if not origin.is_unix or origin.uid is None:
            return None
        if origin.uid == 0:
            return Credential("UNIX_SOCKET", "root", frozenset({FULL_ADMIN}), root_object(), {"uid": 0})
        account = find_by_uid(self._store.query, origin.uid)
        if account is None or account.locked or not account.roles:
            return None
        return _credential("UNIX_SOCKET", account, {"uid": origin.uid})

    def refresh(self, credential: Credential) -> Credential | None:
        """The credential as it is worth now: None when its account or API key is gone, locked or without roles.

        Cheap: after each change of an account it is called for every session there is.
        """
        if credential.kind in ("INTERNAL", "NODE") or credential.data.get("uid") == 0:
            return credential
        key_id = credential.data.get("api_key_id")
        if key_id is not None and not self._key_is_valid(self._known_key(key_id)):
            return None
        account = self._known_account(credential.username)
        if account is None or account.locked or not account.roles:
            return None
        fresh = _credential(credential.kind, account, credential.data)
        return credential if fresh == credential else fresh

    def _known_account(self, username: str) -> Account | None:
        if username not in self._accounts:
            self._accounts[username] = find_by_name(self._store.query, username)
        return self._accounts[username]

    def _known_key(self, number: int) -> dict[str, Any] | None:
        if number not in self._keys:
            self._keys[number] = self._key_row(number)
        return self._keys[number]

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when accounts, privileges or API keys changed: credentials in use need a `refresh`."""
        self._listeners.append(listener)

    # ------------------------------------------------------------------------------------------ passwords

    async def password(self, username: str, password: str, origin: Origin, otp_token: str | None = None) -> Outcome:
        """Log in with a password, and with the second factor in the same step if `otp_token` is given."""
        self._admit(origin)
        account = find_by_name(self._store.query, username)
        password_hash = account.password_hash if account is not None else None
        right = await self._slow.password(origin.address, password_hash, password)
        # Looked up again: the account may have been changed while the check waited its turn.
        account = find_by_name(self._store.query, username)
        if not right or account is None or account.password_hash != password_hash:
            return self._failure(origin, username)
        if account.locked or not account.roles:
            return Outcome(Response.DENIED, username)
        if account.otp_secret is None:
            return self._success(_credential("LOGIN_PASSWORD", account, {}))
        pending = PendingOtp(username, self._monotonic_s())
        if otp_token is None:
            return Outcome(Response.OTP_REQUIRED, username, pending=pending)
        return self.second_factor(pending, otp_token, origin)

    def second_factor(self, pending: PendingOtp, otp_token: str, origin: Origin) -> Outcome:
        """The one-time password after OTP_REQUIRED. OTP_REQUIRED again: wrong, another attempt is allowed."""
        self._admit(origin)
        account = find_by_name(self._store.query, pending.username)
        if account is None or account.locked or not account.roles or account.otp_secret is None:
            return self._failure(origin, pending.username)
        if pending.attempts_left < 1 or self._monotonic_s() - pending.began_s > STEP_TIMEOUT_S:
            return self._failure(origin, pending.username)
        step = otp.matching_step(account.otp_secret, otp_token, self._wall_s())
        if step is not None and step > self._otp_used_steps.get(account.username, -1):
            self._otp_used_steps[account.username] = step  # RFC 6238 section 5.2: each one is good once
            return self._success(_credential("LOGIN_PASSWORD", account, {"second_factor": True}))
        pending.attempts_left -= 1
        self._failure(origin, pending.username)
        if pending.attempts_left < 1:
            return Outcome(Response.AUTH_ERR, pending.username)
        return Outcome(Response.OTP_REQUIRED, pending.username, pending=pending)

    async def hash_password(self, password: str, origin: Origin) -> str:
        """The hash to store for a new password; made in the slow thread."""
        return await self._slow.run(origin.address, lambda: hash_password(password))

    async def password_is(self, account: Account, password: str, origin: Origin) -> bool:
        """Whether this is the account's password (to confirm a change). A wrong one counts as a failed login."""
        self._admit(origin)
        right = await self._slow.password(origin.address, account.password_hash, password)
        if not right:
            self._failure(origin, account.username)
        return right

    # ------------------------------------------------------------------------------------------ API keys

    async def new_api_key(self, origin: Origin) -> tuple[str, scram.Verifier]:
        """A fresh secret (the part of the key after the dash) and what to store of it."""
        secret = "".join(secrets.choice(_ALPHABET) for _ in range(API_KEY_SECRET_CHARACTERS))
        salt = secrets.token_bytes(16)
        return secret, await self._slow.run(origin.address, lambda: scram.derive(secret, salt))

    async def api_key(self, key: str, origin: Origin, username: str | None = None) -> Outcome:
        """Log in with the text of an API key; it has to be `username`'s if that is given."""
        self._admit(origin)
        number, _, secret = key.partition("-")
        row = self._key_row(int(number)) if _is_id(number) else None
        verifier = _verifier(row) if row is not None else self._decoy(number)

        def verify() -> bool:
            derived = scram.derive(secret, verifier.salt, verifier.iterations)
            return hmac.compare_digest(derived.stored_key, verifier.stored_key)

        right = await self._slow.check(origin.address, verifier.stored_key.hex(), secret, verify)
        row = self._key_row(row["id"]) if row is not None else None
        if not right or row is None or username not in (None, row["username"]):
            return self._failure(origin, username or "")
        return self._key_outcome(row, origin)

    def scram_first(self, rfc_str: str, origin: Origin) -> Outcome:
        """The client's first SCRAM message. SCRAM_RESPONSE: send `rfc_str`, keep `pending`."""
        self._admit(origin)
        try:
            client = scram.parse_client_first(rfc_str, bindable=origin.channel_binding is not None)
        except scram.ScramError:
            return self._failure(origin, "")
        row = self._key_row(client.key_id)
        if row is not None and row["username"] != client.username:
            row = None
        verifier = _verifier(row) if row is not None else self._decoy(str(client.key_id))
        exchange = scram.answer_first(client, secrets.token_bytes(scram.NONCE_BYTES), verifier)
        pending = PendingScram(client.username, exchange, row, self._monotonic_s())
        return Outcome(Response.SCRAM_RESPONSE, client.username, pending=pending, rfc_str=exchange.server_first)

    def scram_final(self, pending: PendingScram, rfc_str: str, origin: Origin) -> Outcome:
        """The client's final SCRAM message. SUCCESS: send `rfc_str` as the server's final message."""
        self._admit(origin)
        try:
            answer = scram.answer_final(pending.exchange, rfc_str, origin.channel_binding)
        except scram.ScramError:
            answer = None
        row = self._key_row(pending.row["id"]) if pending.row is not None else None
        late = self._monotonic_s() - pending.began_s > STEP_TIMEOUT_S
        if answer is None or late or row is None or _verifier(row) != pending.exchange.verifier:
            return self._failure(origin, pending.username)
        return self._key_outcome(row, origin, answer)

    def _key_outcome(self, row: dict[str, Any], origin: Origin, rfc_str: str | None = None) -> Outcome:
        """The secret was right: what the key and its account are worth."""
        username = row["username"]
        if row["revoked"]:
            return self._failure(origin, username)
        if not self._key_is_valid(row):
            return Outcome(Response.EXPIRED, username)
        account = find_by_name(self._store.query, username)
        if account is None or account.locked or not account.roles:
            return Outcome(Response.DENIED, username)
        data = {"api_key_id": row["id"], "api_key_name": row["name"]}
        return self._success(_credential("API_KEY", account, data), rfc_str)

    def _key_row(self, number: int) -> dict[str, Any] | None:
        return next(iter(self._store.query(_SELECT_KEY, (number,))), None)

    def _key_is_valid(self, row: dict[str, Any] | None) -> bool:
        if row is None or row["revoked"]:
            return False
        expires_at_ms: int | None = row["expires_at_ms"]
        return expires_at_ms is None or self._wall_s() * 1000 < expires_at_ms

    def _decoy(self, key_id: str) -> scram.Verifier:
        """Stands for a key that does not exist: the same one each time, as a real one would be; nothing fits it."""
        seed = hmac.digest(self._decoy_key, key_id.encode("utf-8", "surrogatepass"), "sha512")
        return scram.Verifier(seed[:16], scram.ITERATIONS, hashlib.sha512(seed).digest(), seed)

    # ------------------------------------------------------------------------------------------ tokens

    def generate_token(
        self,
        credential: Credential,
        origin: Origin,
        *,
        ttl_s: int | None = TTL_S_DEFAULT,
        attrs: dict[str, Any] | None = None,
        match_origin: bool = True,
        single_use: bool = False,
    ) -> str:
        """A token that stands for `credential` until it was not used for `ttl_s`."""
        bound_to = origin if match_origin else None
        return self._tokens.issue(Token(credential, bound_to, ttl_s or TTL_S_DEFAULT, attrs or {}, single_use))

    def token(self, text: str, origin: Origin, attrs: dict[str, Any] | None = None) -> Outcome:
        """Log in with a token; `attrs` names the purpose for which a token with attributes is wanted."""
        self._admit(origin)
        token = self._tokens.redeem(text, origin, attrs)
        parent = self.refresh(token.credential) if token is not None else None
        if parent is None:
            return self._failure(origin, "")
        data = {**parent.data, "parent": parent.data.get("parent", parent.kind)}
        return self._success(Credential("TOKEN", parent.username, parent.roles, parent.user, data))

    def redeem_token(self, text: str, origin: Origin, attrs: dict[str, Any] | None = None) -> Credential | None:
        """`token` for uploads and downloads: the credential, or None if the token is not valid for that."""
        return self.token(text, origin, attrs).credential

    # ------------------------------------------------------------------------------------------ helpers

    def redirected(self, outcome: Outcome) -> Outcome:
        """A success here, or where to go instead when `redirect` says that this is not the place."""
        urls = self.redirect() if self.redirect is not None and outcome.response is Response.SUCCESS else []
        return Outcome(Response.REDIRECT, outcome.username, urls=urls) if urls else outcome

    def _admit(self, origin: Origin) -> None:
        if not origin.is_unix:
            self._limiter.check(origin.address, self._slow.waiting(origin.address))

    def _failure(self, origin: Origin, username: str) -> Outcome:
        if not origin.is_unix:
            self._limiter.count(origin.address)
        return Outcome(Response.AUTH_ERR, username)

    def _success(self, credential: Credential, rfc_str: str | None = None) -> Outcome:
        return Outcome(Response.SUCCESS, credential.username, credential, rfc_str=rfc_str)

    def _on_commit(self, tables: frozenset[str]) -> None:
        if tables & _ACCOUNT_TABLES:
            self._accounts.clear()
            self._keys.clear()
            for listener in self._listeners:
                listener()


def encode_verifier(verifier: scram.Verifier) -> tuple[str, int, str, str]:
    """The columns salt, iterations, stored_key, server_key of table api_key, the last two not yet sealed."""
    texts = [base64.b64encode(part).decode() for part in (verifier.salt, verifier.stored_key, verifier.server_key)]
    return texts[0], verifier.iterations, texts[1], texts[2]


def _verifier(row: dict[str, Any]) -> scram.Verifier:
    salt, stored_key, server_key = (base64.b64decode(row[name]) for name in ("salt", "stored_key", "server_key"))
    return scram.Verifier(salt, row["iterations"], stored_key, server_key)


def _credential(kind: Kind, account: Account, data: dict[str, Any]) -> Credential:
    return Credential(kind, account.username, account.roles, user_object(account), data)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18
