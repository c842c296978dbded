"""Accounts as the store holds them: users, what their groups give them, and the rule that one administrator remains."""

import errno
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from middlewared.auth.identity import FULL_ADMIN, Credential
from middlewared.errors import CallError

ADMINISTRATORS = "builtin_administrators"

Query = Callable[..., list[dict[str, Any]]]
"""`Store.query` or `Transaction.execute`."""

_SELECT = (
    "SELECT id, username, full_name, uid, locked, builtin, groups, attributes,"
    " unseal('user', 'password_hash', id, password_hash) AS password_hash,"
    " unseal('user', 'otp_secret', id, otp_secret) AS otp_secret FROM user"
)


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the roles that its groups give it."""

    id: int
    username: str
    full_name: str
    uid: int | None
    password_hash: str | None
    otp_secret: str | None
    locked: bool
    builtin: bool
    groups: tuple[str, ...]
    attributes: dict[str, Any]
    roles: frozenset[str]
    allowlist: tuple[dict[str, Any], ...]

    @property
    def may_administer(self) -> bool:
        """Can log in with a password and then do everything."""
        return FULL_ADMIN in self.roles and not self.locked and self.password_hash is not None


def all_accounts(query: Query) -> list[Account]:
    """Every account, by id."""
    return _accounts(query, f"{_SELECT} ORDER BY id")


def find_by_id(query: Query, number: int) -> Account | None:
    return next(iter(_accounts(query, f"{_SELECT} WHERE id = ?", number)), None)


def find_by_name(query: Query, username: str) -> Account | None:
    return next(iter(_accounts(query, f"{_SELECT} WHERE username = ?", username)), None)


def find_by_uid(query: Query, uid: int) -> Account | None:
    return next(iter(_accounts(query, f"{_SELECT} WHERE uid = ?", uid)), None)


def _accounts(query: Query, sql: str, *params: Any) -> list[Account]:
    privileges = _privileges(query)
    return [_account(row, privileges) for row in query(sql, params)]


def _privileges(query: Query) -> list[dict[str, Any]]:
    rows = query("SELECT groups, roles, allowlist FROM privilege ORDER BY id")
    return [{column: json.loads(text) for column, text in row.items()} for row in rows]


def _account(row: dict[str, Any], privileges: Iterable[Mapping[str, Any]]) -> Account:
    groups = json.loads(row["groups"])
    given = [privilege for privilege in privileges if set(privilege["groups"]) & set(groups)]
    return Account(
        id=row["id"],
        username=row["username"],
        full_name=row["full_name"],
        uid=row["uid"],
        password_hash=row["password_hash"],
        otp_secret=row["otp_secret"],
        locked=bool(row["locked"]),
        builtin=bool(row["builtin"]),
        groups=tuple(groups),
        attributes=json.loads(row["attributes"]),
        roles=frozenset(role for privilege in given for role in privilege["roles"]),
        allowlist=tuple(entry for privilege in given for entry in privilege["allowlist"]),
    )


def set_password_hash(execute: Query, user_id: int, password_hash: str | None) -> None:
    """Inside a transaction: the new hash, sealed; None: no login by password."""
    execute(
        "UPDATE user SET password_hash = seal('user', 'password_hash', id, ?) WHERE id = ?", (password_hash, user_id)
    )


def set_otp_secret(execute: Query, user_id: int, secret: str | None) -> None:
    """Inside a transaction: the new secret, sealed; None: no second factor."""
    execute("UPDATE user SET otp_secret = seal('user', 'otp_secret', id, ?) WHERE id = ?", (secret, user_id))


def roles_of_groups(query: Query, groups: Iterable[str]) -> frozenset[str]:
    """The roles that membership in `groups` gives."""
    wanted = set(groups)
    return frozenset(
        role for privilege in _privileges(query) if wanted & set(privilege["groups"]) for role in privilege["roles"]
    )


def user_object(account: Account) -> dict[str, Any]:
    """The object of PROTOCOL 5.6. `pw_uid` is null for an account that has no identity on the unix socket."""
    return {
        "pw_name": account.username,
        "pw_gecos": account.full_name,
        "pw_dir": "/nonexistent",
        "pw_shell": "/usr/sbin/nologin",
        "pw_uid": account.uid,
        "pw_gid": account.uid,
        "grouplist": None,
        "sid": None,
        "source": "LOCAL",
        "local": True,
        "attributes": dict(account.attributes),
        "two_factor_config": {"secret_configured": account.otp_secret is not None},
        "privilege": _privilege_object(account.roles, account.allowlist),
        "account_attributes": ["LOCAL", *(["2FA"] if account.otp_secret else [])],
    }


def root_object() -> dict[str, Any]:
    """The object of PROTOCOL 5.6 for root on the unix socket, who needs no account."""
    return {
        "pw_name": "root",
        "pw_gecos": "root",
        "pw_dir": "/root",
        "pw_shell": "/bin/sh",
        "pw_uid": 0,
        "pw_gid": 0,
        "grouplist": None,
        "sid": None,
        "source": "LOCAL",
        "local": True,
        "attributes": {},
        "two_factor_config": {"secret_configured": False},
        "privilege": _privilege_object(frozenset({FULL_ADMIN}), ({"method": "*", "resource": "*"},)),
        "account_attributes": ["LOCAL"],
    }


def _privilege_object(roles: frozenset[str], allowlist: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"roles": set(roles), "allowlist": list(allowlist), "web_shell": False, "webui_access": bool(roles)}


def count_administrators(query: Query) -> int:
    """How many accounts could log in and do everything."""
    return sum(account.may_administer for account in all_accounts(query))


def keep_an_administrator(execute: Query, change: Callable[[], Any]) -> Any:
    """Run `change` inside a transaction; refuse it (raise, so that it is rolled back) if it takes the last full
    administrator away."""
    before = count_administrators(execute)
    result = change()
    if before and not count_administrators(execute):
        raise CallError(
            "Nobody could administer this system any more: it would lose its last unlocked full administrator with a "
            "password. Make another user a full administrator first.",
            errno.EBUSY,
        )
    return result


def require_cover(credential: Credential, roles: Iterable[str]) -> None:
    """Refuse to give to others, or to take from them, what the caller may not do itself."""
    if not credential.covers(roles):
        raise CallError("This concerns rights that you do not have yourself", errno.EACCES)
