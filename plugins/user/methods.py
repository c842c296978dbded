"""The `user.*` methods.

Nobody may touch a user that has rights beyond its own, or give such rights; the last full administrator stays one.
Passwords and second-factor secrets never leave the store.
"""

import errno
import json
from typing import Any

from middlewared.auth import otp
from middlewared.auth.accounts import (
    ADMINISTRATORS,
    Account,
    Query,
    all_accounts,
    count_administrators,
    find_by_id,
    find_by_name,
    keep_an_administrator,
    require_cover,
    roles_of_groups,
    set_otp_secret,
    set_password_hash,
)
from middlewared.auth.identity import FULL_ADMIN
from middlewared.errors import CallError, ValidationErrors, invalid, not_found
from middlewared.plugin import Call, Plugin, method
from middlewared.rpc import query as query_language
from middlewared.store.database import Transaction

USERS_MAX = 1000
OTP_ISSUER = "middlewared"
_ACCOUNT_WRITE = ["ACCOUNT_WRITE"]


class User(Plugin):
    # -------------------------------------------------------------------------------------- questions

    @method("user.query")
    async def query(self, call: Call, filters: list[Any], options: dict[str, Any]) -> Any:
        rows = [_to_wire(account) for account in all_accounts(self.context.store.query)]
        return query_language.apply(rows, filters, options)

    @method("user.get_instance")
    async def get_instance(self, call: Call, id: int) -> dict[str, Any]:
        return _to_wire(_find(self.context.store.query, id))

    @method("user.has_local_administrator_set_up")
    async def has_local_administrator_set_up(self, call: Call) -> bool:
        return count_administrators(self.context.store.query) > 0

    # -------------------------------------------------------------------------------------- changes

    @method("user.setup_local_administrator")
    async def setup_local_administrator(self, call: Call, username: str, password: str) -> None:
        self._check_not_set_up(self.context.store.query)
        password_hash = await self.context.authenticator.hash_password(password, call.origin)

        def add(transaction: Transaction) -> None:
            self._check_not_set_up(transaction.execute)
            if find_by_name(transaction.execute, username) is not None:
                raise invalid("username", f"A user named {username!r} exists already", errno.EEXIST)
            transaction.execute(
                "INSERT INTO user (username, full_name, groups) VALUES (?, ?, ?)",
                (username, "Local Administrator", json.dumps([ADMINISTRATORS])),
            )
            set_password_hash(transaction.execute, transaction.last_insert_id, password_hash)

        await self.context.store.write(add)

    @method("user.create")
    async def create(self, call: Call, data: dict[str, Any]) -> dict[str, Any]:
        password_hash = await self._hash(call, data["password"])

        def add(transaction: Transaction) -> dict[str, Any]:
            accounts = all_accounts(transaction.execute)
            _check_unique(accounts, data["username"], data["uid"], None)
            _check_groups(transaction.execute, data["groups"], ())
            require_cover(call.credential, roles_of_groups(transaction.execute, data["groups"]))
            if len(accounts) >= USERS_MAX:
                raise CallError(f"There are {USERS_MAX} users already, the most that are allowed")
            transaction.execute(
                "INSERT INTO user (username, full_name, uid, locked, groups) VALUES (?, ?, ?, ?, ?)",
                (
                    data["username"],
                    data["full_name"],
                    data["uid"],
                    int(data["locked"]),
                    _json(data["groups"]),
                ),
            )
            user_id = transaction.last_insert_id
            set_password_hash(transaction.execute, user_id, password_hash)
            return _to_wire(_find(transaction.execute, user_id))

        return await self.context.store.write(add)

    @method("user.update")
    async def update(self, call: Call, id: int, data: dict[str, Any]) -> dict[str, Any]:
        new_hash = await self._hash(call, data.get("password"))

        def change(transaction: Transaction) -> dict[str, Any]:
            old = _find(transaction.execute, id)
            groups = data.get("groups", list(old.groups))
            uid = data.get("uid", old.uid)
            _check_unique(all_accounts(transaction.execute), old.username, uid, id)
            _check_groups(transaction.execute, groups, old.groups)
            require_cover(call.credential, old.roles | roles_of_groups(transaction.execute, groups))
            transaction.execute(
                "UPDATE user SET full_name = ?, uid = ?, locked = ?, groups = ? WHERE id = ?",
                (
                    data.get("full_name", old.full_name),
                    uid,
                    int(data.get("locked", old.locked)),
                    _json(groups),
                    id,
                ),
            )
            if "password" in data:
                set_password_hash(transaction.execute, id, new_hash)
            return _to_wire(_find(transaction.execute, id))

        return await self.context.store.write(lambda t: keep_an_administrator(t.execute, lambda: change(t)))

    @method("user.delete")
    async def delete(self, call: Call, id: int) -> bool:
        def remove(transaction: Transaction) -> bool:
            account = _find(transaction.execute, id)
            require_cover(call.credential, account.roles)
            if account.builtin:
                raise CallError("A built-in user cannot be deleted", errno.EPERM)
            transaction.execute("DELETE FROM user WHERE id = ?", (id,))
            return True

        return await self.context.store.write(lambda t: keep_an_administrator(t.execute, lambda: remove(t)))

    @method("user.set_password")
    async def set_password(self, call: Call, data: dict[str, Any]) -> None:
        account = self._account_to_change(call, data["username"], "data.username")
        if FULL_ADMIN not in call.credential.roles and account.username == call.credential.username:
            await self._check_old_password(call, account, data["old_password"])
        password_hash = await self._hash(call, data["new_password"])
        await self.context.store.write(lambda t: set_password_hash(t.execute, account.id, password_hash))

    @method("user.renew_2fa_secret")
    async def renew_2fa_secret(self, call: Call, username: str) -> dict[str, Any]:
        account = self._account_to_change(call, username, "username")
        secret = otp.new_secret()
        await self.context.store.write(lambda t: set_otp_secret(t.execute, account.id, secret))
        return {"secret": secret, "provisioning_uri": otp.provisioning_uri(secret, username, OTP_ISSUER)}

    @method("user.unset_2fa_secret")
    async def unset_2fa_secret(self, call: Call, username: str) -> None:
        account = self._account_to_change(call, username, "username")
        await self.context.store.write(lambda t: set_otp_secret(t.execute, account.id, None))

    # -------------------------------------------------------------------------------------- helpers

    def _check_not_set_up(self, query: Query) -> None:
        if count_administrators(query):
            raise CallError("A local administrator is set up already; log in as that user", errno.EEXIST)

    async def _hash(self, call: Call, password: str | None) -> str | None:
        return None if password is None else await self.context.authenticator.hash_password(password, call.origin)

    async def _check_old_password(self, call: Call, account: Account, old_password: str | None) -> None:
        if old_password is None:
            raise invalid("data.old_password", "attribute required")
        if not await self.context.authenticator.password_is(account, old_password, call.origin):
            raise invalid("data.old_password", "This is not the password of this user", errno.EPERM)

    def _account_to_change(self, call: Call, username: str, attribute: str) -> Account:
        """The account whose own secret shall be changed: one's own, or as an account administrator any within one's
        rights."""
        if username != call.credential.username and not call.credential.may(_ACCOUNT_WRITE):
            raise CallError("Not authorized", errno.EACCES)
        account = find_by_name(self.context.store.query, username)
        if account is None:
            raise invalid(attribute, f"User {username!r} does not exist", errno.ENOENT)
        require_cover(call.credential, account.roles)
        return account


def _find(query: Query, number: int) -> Account:
    account = find_by_id(query, number)
    if account is None:
        raise not_found(f"User {number} does not exist")
    return account


def _to_wire(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "username": account.username,
        "full_name": account.full_name,
        "uid": account.uid,
        "groups": list(account.groups),
        "roles": sorted(account.roles),
        "locked": account.locked,
        "builtin": account.builtin,
        "local": True,
        "password_disabled": account.password_hash is None,
        "twofactor_auth_configured": account.otp_secret is not None,
    }


def _json(groups: list[str]) -> str:
    """A JSON list without duplicates, in the order given."""
    return json.dumps(list(dict.fromkeys(groups)))


def _check_unique(accounts: list[Account], username: str, uid: int | None, own_id: int | None) -> None:
    for other in accounts:
        if other.id == own_id:
            continue
        if other.username == username:
            raise invalid("data.username", f"A user named {username!r} exists already", errno.EEXIST)
        if uid is not None and other.uid == uid:
            raise invalid("data.uid", f"User {other.username!r} has this uid", errno.EEXIST)


def _check_groups(query: Query, groups: list[str], had: tuple[str, ...]) -> None:
    """A group exists by being named in a privilege; a user keeps those that it had."""
    known = {group for row in query("SELECT groups FROM privilege") for group in json.loads(row["groups"])}
    unknown = [(number, group) for number, group in enumerate(groups) if group not in known and group not in had]
    if unknown:
        raise ValidationErrors(
            (f"data.groups.{number}", f"No privilege names a group {group!r}", errno.ENOENT)
            for number, group in unknown
        )
