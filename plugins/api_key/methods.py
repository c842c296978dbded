"""The `api_key.*` methods. The text of a key is shown once, when it is made; only its SCRAM verifier is stored."""

import errno
import time
from datetime import UTC, datetime
from typing import Any

from middlewared.auth.accounts import Query, find_by_name, require_cover
from middlewared.auth.authenticator import encode_verifier
from middlewared.errors import CallError, invalid, not_found
from middlewared.plugin import Call, Plugin, method
from middlewared.rpc import query as query_language
from middlewared.store.database import Transaction

API_KEYS_MAX = 1000


class ApiKey(Plugin):
    @method("api_key.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        return query_language.apply(_rows(self.context.store.query), filters, options)

    @method("api_key.get_instance")
    async def get_instance(self, call: Call, id: int) -> dict[str, Any]:
        return _find(self.context.store.query, id)

    @method("api_key.create")
    async def create(self, call: Call, data: dict[str, Any]) -> dict[str, Any]:
        username = data["username"] or call.credential.username
        expires_at_ms = _expiry_ms(data["expires_at"])
        self._check_owner(call, self.context.store.query, username)
        secret, verifier = await self.context.authenticator.new_api_key(call.origin)

        def add(transaction: Transaction) -> dict[str, Any]:
            self._check_owner(call, transaction.execute, username)
            existing = _rows(transaction.execute)
            _check_name(existing, data["name"], None)
            if len(existing) >= API_KEYS_MAX:
                raise CallError(f"There are {API_KEYS_MAX} API keys already, the most that are allowed")
            salt, iterations, stored_key, server_key = encode_verifier(verifier)
            transaction.execute(
                "INSERT INTO api_key (name, username, salt, iterations, stored_key, server_key, created_at_ms,"
                " expires_at_ms) VALUES (?, ?, ?, ?, '', '', ?, ?)",
                (data["name"], username, salt, iterations, int(time.time() * 1000), expires_at_ms),
            )
            key_id = transaction.last_insert_id
            transaction.execute(  # the row has its number now, and a secret is sealed to its row
                "UPDATE api_key SET stored_key = seal('api_key', 'stored_key', id, ?),"
                " server_key = seal('api_key', 'server_key', id, ?) WHERE id = ?",
                (stored_key, server_key, key_id),
            )
            return _find(transaction.execute, key_id)

        row = await self.context.store.write(add)
        return {**row, "key": f"{row['id']}-{secret}"}

    @method("api_key.update")
    async def update(self, call: Call, id: int, data: dict[str, Any]) -> dict[str, Any]:
        def change(transaction: Transaction) -> dict[str, Any]:
            old = _find(transaction.execute, id)
            self._check_owner(call, transaction.execute, old["username"])
            new = {**old, **data}
            if old["revoked"] and not new["revoked"]:
                raise invalid("data.revoked", "A revoked key stays revoked; create a new one")
            _check_name(_rows(transaction.execute), new["name"], id)
            expires_at_ms = _expiry_ms(data["expires_at"]) if "expires_at" in data else _to_ms(old["expires_at"])
            transaction.execute(
                "UPDATE api_key SET name = ?, revoked = ?, expires_at_ms = ? WHERE id = ?",
                (new["name"], int(new["revoked"]), expires_at_ms, id),
            )
            return _find(transaction.execute, id)

        return await self.context.store.write(change)

    @method("api_key.delete")
    async def delete(self, call: Call, id: int) -> bool:
        def remove(transaction: Transaction) -> bool:
            self._check_owner(call, transaction.execute, _find(transaction.execute, id)["username"])
            transaction.execute("DELETE FROM api_key WHERE id = ?", (id,))
            return True

        return await self.context.store.write(remove)

    def _check_owner(self, call: Call, query: Query, username: str) -> None:
        """A key is worth what its user is worth: only who has those rights may deal with it."""
        account = find_by_name(query, username)
        if account is None:
            raise invalid("data.username", f"User {username!r} does not exist; a key belongs to a user", errno.ENOENT)
        require_cover(call.credential, account.roles)


def _rows(query: Query) -> list[dict[str, Any]]:
    return [_to_wire(row) for row in query("SELECT * FROM api_key ORDER BY id")]


def _find(query: Query, number: int) -> dict[str, Any]:
    for row in query("SELECT * FROM api_key WHERE id = ?", (number,)):
        return _to_wire(row)
    raise not_found(f"API key {number} does not exist")


def _to_wire(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "username": row["username"],
        "created_at": _from_ms(row["created_at_ms"]),
        "expires_at": _from_ms(row["expires_at_ms"]),
        "revoked": bool(row["revoked"]),
        "local": True,
    }


def _from_ms(moment_ms: int | None) -> datetime | None:
    return None if moment_ms is None else datetime.fromtimestamp(moment_ms / 1000, UTC)


def _to_ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _expiry_ms(moment: datetime | None) -> int | None:
    expires_at_ms = _to_ms(moment)
    if expires_at_ms is not None and expires_at_ms <= time.time() * 1000:
        raise invalid("data.expires_at", "This moment has passed; `revoked` ends a key at once")
    return expires_at_ms


def _check_name(existing: list[dict[str, Any]], name: str, own_id: int | None) -> None:
    if any(row["name"] == name and row["id"] != own_id for row in existing):
        raise invalid("data.name", f"An API key named {name!r} exists already", errno.EEXIST)
