"""The `privilege.*` methods.

A privilege gives roles to groups. Nobody may give or take roles that it does not have itself, and the last full
administrator stays one.
"""

import errno
import json
from collections.abc import Iterable
from typing import Any

from middlewared.auth.accounts import Query, keep_an_administrator, require_cover
from middlewared.auth.identity import ROLES
from middlewared.errors import CallError, ValidationErrors, invalid, not_found
from middlewared.plugin import Call, Plugin, method
from middlewared.rpc import query as query_language
from middlewared.store.database import Transaction

PRIVILEGES_MAX = 200


class Privilege(Plugin):
    @method("privilege.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        return query_language.apply(_rows(self.context.store.query), filters, options)

    @method("privilege.get_instance")
    async def get_instance(self, call: Call, id: int) -> dict[str, Any]:
        return _find(self.context.store.query, id)

    @method("privilege.roles")
    async def roles(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        rows = [{"name": name, "description": description} for name, description in ROLES.items()]
        return query_language.apply(rows, filters, options)

    @method("privilege.create")
    async def create(self, call: Call, data: dict[str, Any]) -> dict[str, Any]:
        _check_roles(data["roles"])
        require_cover(call.credential, data["roles"])

        def add(transaction: Transaction) -> dict[str, Any]:
            existing = _rows(transaction.execute)
            _check_name(existing, data["name"], None)
            if len(existing) >= PRIVILEGES_MAX:
                raise CallError(f"There are {PRIVILEGES_MAX} privileges already, the most that are allowed")
            transaction.execute(
                "INSERT INTO privilege (name, groups, roles) VALUES (?, ?, ?)",
                (data["name"], _json(data["groups"]), _json(data["roles"])),
            )
            return _find(transaction.execute, transaction.last_insert_id)

        return await self.context.store.write(add)

    @method("privilege.update")
    async def update(self, call: Call, id: int, data: dict[str, Any]) -> dict[str, Any]:
        _check_roles(data.get("roles", []))

        def change(transaction: Transaction) -> dict[str, Any]:
            old = _find(transaction.execute, id)
            new = {**old, **data}
            require_cover(call.credential, {*old["roles"], *new["roles"]})
            if old["builtin"] and (new["name"], set(new["roles"])) != (old["name"], set(old["roles"])):
                raise CallError("The name and the roles of a built-in privilege cannot be changed", errno.EPERM)
            _check_name(_rows(transaction.execute), new["name"], id)
            transaction.execute(
                "UPDATE privilege SET name = ?, groups = ?, roles = ? WHERE id = ?",
                (new["name"], _json(new["groups"]), _json(new["roles"]), id),
            )
            return _find(transaction.execute, id)

        return await self.context.store.write(lambda t: keep_an_administrator(t.execute, lambda: change(t)))

    @method("privilege.delete")
    async def delete(self, call: Call, id: int) -> bool:
        def remove(transaction: Transaction) -> bool:
            old = _find(transaction.execute, id)
            require_cover(call.credential, old["roles"])
            if old["builtin"]:
                raise CallError("A built-in privilege cannot be deleted", errno.EPERM)
            transaction.execute("DELETE FROM privilege WHERE id = ?", (id,))
            return True

        return await self.context.store.write(lambda t: keep_an_administrator(t.execute, lambda: remove(t)))


def _rows(query: Query) -> list[dict[str, Any]]:
    return [_to_wire(row) for row in query("SELECT * FROM privilege ORDER BY id")]


def _find(query: Query, number: int) -> dict[str, Any]:
    for row in query("SELECT * FROM privilege WHERE id = ?", (number,)):
        return _to_wire(row)
    raise not_found(f"Privilege {number} does not exist")


def _to_wire(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "builtin": bool(row["builtin"]),
        "groups": json.loads(row["groups"]),
        "roles": json.loads(row["roles"]),
        "allowlist": json.loads(row["allowlist"]),
    }


def _json(values: Iterable[str]) -> str:
    """A JSON list without duplicates, in the order given."""
    return json.dumps(list(dict.fromkeys(values)))


def _check_roles(roles: list[str]) -> None:
    unknown = [(number, role) for number, role in enumerate(roles) if role not in ROLES]
    if unknown:
        raise ValidationErrors(
            (f"data.roles.{number}", f"Unknown role {role!r}; `privilege.roles` lists them", errno.EINVAL)
            for number, role in unknown
        )


def _check_name(existing: list[dict[str, Any]], name: str, own_id: int | None) -> None:
    if any(row["name"] == name and row["id"] != own_id for row in existing):
        raise invalid("data.name", f"A privilege named {name!r} exists already", errno.EEXIST)
