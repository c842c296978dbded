"""Secrets in the store, encrypted at rest: whoever gets hold of the file alone does not have them.

A sealed value reads `sealed:1:<key id>:<nonce and ciphertext, base64>`: AES-256-GCM, with table, column and row as
associated data, so that it opens at its own place only. In SQL the functions `seal` and `unseal` do it, both with the
arguments (table, column, row's id, value); NULL stays NULL. A value from before there was a key is plain, and `unseal`
lets it pass; `seal_again` seals it.

The key belongs to the pair. A controller that is paired gets the other's key, and keeps its own for what is sealed with
it already: the first key of the ring seals, each of them opens. So whichever store survives can be read on both
controllers, and so can what was kept aside.
"""

import base64
import binascii
import errno
import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apsw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from middlewared.errors import CallError

if TYPE_CHECKING:
    from middlewared.store.database import Transaction

KEY_BYTES = 32
KEYS_MAX = 16
_NONCE_BYTES = 12
_KEY_ID_CHARACTERS = 16
_PREFIX = "sealed:1:"

# Every column that holds a secret: (table, column). Each of these tables has a column `id`.
COLUMNS = (("user", "password_hash"), ("user", "otp_secret"), ("api_key", "stored_key"), ("api_key", "server_key"))

Query = Callable[..., list[dict[str, Any]]]
"""`Store.query` or `Transaction.execute`."""


class SealingError(CallError):
    """A secret cannot be sealed or opened; the message says which, why, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, errno.EIO)


class KeyRing:
    """The first key seals, each of them opens. Never changes."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        """Doubles are dropped, and so are the oldest beyond KEYS_MAX. Raises ValueError: not keys."""
        self.keys = tuple(dict.fromkeys(keys))[:KEYS_MAX]
        if not self.keys or any(len(key) != KEY_BYTES for key in self.keys):
            raise ValueError(f"a key has {KEY_BYTES} bytes, and there is one at least")
        self._ciphers = {key_id(key): AESGCM(key) for key in self.keys}
        self.current_id = key_id(self.keys[0])

    @classmethod
    def generate(cls) -> "KeyRing":
        return cls([secrets.token_bytes(KEY_BYTES)])

    @classmethod
    def joint(cls, a: "KeyRing", b: "KeyRing") -> "KeyRing":
        """Of a pair: A's key seals from now on; B's comes next, as its store may be the one that survives."""
        return cls([a.keys[0], b.keys[0], *a.keys[1:], *b.keys[1:]])

    @classmethod
    def decode(cls, data: bytes) -> "KeyRing":
        """From `encode`. Raises ValueError."""
        try:
            return cls(base64.b64decode(line, validate=True) for line in data.split())
        except binascii.Error as error:
            raise ValueError("not base64") from error

    def encode(self) -> bytes:
        """A line each, base64."""
        return b"".join(base64.b64encode(key) + b"\n" for key in self.keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyRing) and self.keys == other.keys

    def __hash__(self) -> int:
        return hash(self.keys)

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._ciphers)})"

    def seal(self, table: str, column: str, row: int, value: str) -> str:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self.current_id].encrypt(nonce, value.encode(), _place(table, column, row))
        return f"{_PREFIX}{self.current_id}:{base64.b64encode(nonce + sealed).decode()}"

    def open(self, table: str, column: str, row: int, text: str) -> str:
        """Raises SealingError: of another key, altered, or moved here from another place."""
        number, _, body = text.removeprefix(_PREFIX).partition(":")
        cipher = self._ciphers.get(number)
        if cipher is None:
            raise _unknown_key(table, column, row, number)
        try:
            data = base64.b64decode(body, validate=True)
            plain = cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _place(table, column, row))
        except (InvalidTag, ValueError) as error:
            raise SealingError(f"{_where(table, column, row)} was altered, or belongs to another row") from error
        return plain.decode()

    def opens(self, text: str) -> bool:
        """There is a key for it, or it needs none."""
        return not is_sealed(text) or text.removeprefix(_PREFIX).partition(":")[0] in self._ciphers

    def is_fresh(self, text: str) -> bool:
        """Sealed with the key that seals now."""
        return text.startswith(f"{_PREFIX}{self.current_id}:")


@dataclass(slots=True)
class Sealing:
    """What a store seals with; `ring` may be exchanged at any time.

    Without a ring nothing is sealed: `seal` refuses, or, if not `required` (tools, tests), leaves values plain.
    """

    ring: KeyRing | None = None
    required: bool = True

    def register(self, connection: apsw.Connection) -> None:
        """Give a connection the functions `seal` and `unseal`."""
        connection.create_scalar_function("seal", self._seal, 4)
        connection.create_scalar_function("unseal", self._unseal, 4)

    def _seal(self, *arguments: Any) -> Any:
        table, column, row, value = arguments
        if value is None:
            return None
        if self.ring is None:
            if self.required:
                raise SealingError(
                    f"{_where(table, column, row)} cannot be sealed: this controller does not have the pair's key; "
                    "`middlewared pair` on both controllers brings it"
                )
            return value
        return self.ring.seal(table, column, row, value)

    def _unseal(self, *arguments: Any) -> Any:
        table, column, row, text = arguments
        if text is None or not is_sealed(text):
            return text
        if self.ring is None:
            raise _unknown_key(table, column, row, text.removeprefix(_PREFIX).partition(":")[0])
        return self.ring.open(table, column, row, text)


def key_id(key: bytes) -> str:
    """Names a key without telling anything about it."""
    return hashlib.sha256(b"middlewared key id" + key).hexdigest()[:_KEY_ID_CHARACTERS]


def is_sealed(text: str) -> bool:
    return text.startswith(_PREFIX)


def has_sealed(query: Query) -> bool:
    """Whether the store holds anything sealed, with whatever key."""
    return any(is_sealed(text) for _, _, _, text in _secrets(query))


def unreadable(query: Query, ring: KeyRing | None) -> int:
    """How many secrets no key of ours opens."""
    return sum(is_sealed(text) and (ring is None or not ring.opens(text)) for _, _, _, text in _secrets(query))


def is_stale(query: Query, ring: KeyRing) -> bool:
    """Whether there is anything for `seal_again` to do."""
    return any(not ring.is_fresh(text) and ring.opens(text) for _, _, _, text in _secrets(query))


def seal_again(transaction: "Transaction", ring: KeyRing) -> int:
    """Seal what is plain, or sealed with an older key; how many. What no key opens stays."""
    execute = transaction.execute
    count = 0
    for table, column, row, text in list(_secrets(execute)):
        if not ring.is_fresh(text) and ring.opens(text):
            plain = ring.open(table, column, row, text) if is_sealed(text) else text
            sql = f"UPDATE {table} SET {column} = ? WHERE id = ?"  # noqa: S608  names from COLUMNS
            execute(sql, (ring.seal(table, column, row, plain), row))
            count += 1
    if count:
        transaction.forget_history()  # the log has the same secrets as they were
    return count


def _secrets(query: Query) -> Iterator[tuple[str, str, int, str]]:
    for table, column in COLUMNS:
        sql = f"SELECT id, {column} AS secret FROM {table} WHERE {column} IS NOT NULL"  # noqa: S608  from COLUMNS
        for row in query(sql):
            yield table, column, row["id"], row["secret"]


def _place(table: str, column: str, row: int) -> bytes:
    return f"{table}\0{column}\0{row}".encode()


def _where(table: str, column: str, row: int) -> str:
    return f"The secret {table}.{column} of row {row}"


def _unknown_key(table: str, column: str, row: int, number: str) -> SealingError:
    return SealingError(
        f"{_where(table, column, row)} is sealed with the key {number}, which this controller does not have; "
        "`middlewared pair` on both controllers brings the pair's keys"
    )
