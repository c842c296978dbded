"""The methods of plugins auth, user, api_key, privilege, alert and audit, called as a client's calls are."""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.scram_client import client_final

from middlewared import loader
from middlewared.alerts import Alerts
from middlewared.audit import AuditLog
from middlewared.auth import otp
from middlewared.auth.authenticator import Authenticator
from middlewared.auth.identity import ROLES, Credential, Origin
from middlewared.bus import Bus
from middlewared.errors import CallError, ValidationErrors
from middlewared.plugin import Call, Plugin
from middlewared.plugins.alert.methods import Alert
from middlewared.plugins.api_key.methods import ApiKey
from middlewared.plugins.audit.methods import Audit
from middlewared.plugins.auth.methods import Auth
from middlewared.plugins.privilege.methods import Privilege
from middlewared.plugins.user.methods import User
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.registry import Registry
from middlewared.store.database import Store

HERE = Origin("192.0.2.1")
PLUGINS: list[type[Plugin]] = [Alert, ApiKey, Audit, Auth, Privilege, User]


@dataclass
class Client:
    """One connection: calls methods as whoever is logged in."""

    dispatcher: Dispatcher
    context: Any
    credential: Credential | None = None
    auth_state: Any = None
    origin: Origin = field(default=HERE)

    async def call(self, name: str, *params: Any) -> Any:
        return await self.dispatcher.call(name, params, credential=self.credential, origin=self.origin, session=self)

    async def login(self, username: str, password: str) -> "Client":
        """A second connection, logged in."""
        client = Client(self.dispatcher, self.context)
        assert await client.call("auth.login", username, password) is True
        return client


@pytest.fixture
async def nobody(tmp_path: Path, store: Store, authenticator: Authenticator, clock: Any) -> AsyncIterator[Client]:
    bus = Bus()
    audit = await AuditLog.open(tmp_path / "audit.db", "A", wall_s=clock)
    alerts = Alerts(bus, store, wall_s=clock)
    registry = Registry.load()
    context: Any = SimpleNamespace(store=store, bus=bus, alerts=alerts, audit=audit, authenticator=authenticator)
    for kind in PLUGINS:
        for name, handler in loader._handlers(kind(context)):
            registry.bind(name, handler)
    jobs: Any = None  # none of these methods is a job
    yield Client(Dispatcher(registry, jobs, Call, audit.record), context)
    await alerts.close()
    await audit.close()


@pytest.fixture
async def admin(nobody: Client) -> Client:
    return await nobody.login("admin", "lab")


async def add_operator(admin: Client, *roles: str) -> Client:
    """A user `op` with these roles, logged in."""
    await admin.call("privilege.create", {"name": "Operators", "groups": ["operators"], "roles": list(roles)})
    await admin.call("user.create", {"username": "op", "password": "op", "groups": ["operators"]})
    return await admin.login("op", "op")


async def user_id(admin: Client, username: str) -> int:
    number: int = (await admin.call("user.query", [["username", "=", username]], {"get": True}))["id"]
    return number


def test_every_method_of_the_schemas_has_a_handler() -> None:
    registry = Registry.load()
    described = {
        name
        for name in registry.methods
        if name.partition(".")[0] in {"alert", "api_key", "audit", "auth", "privilege", "user"}
    }
    context: Any = None
    assert described == {name for kind in PLUGINS for name, _ in loader._handlers(kind(context))}


def test_every_role_that_a_schema_names_can_be_given() -> None:
    registry = Registry.load()
    named = {role for spec in [*registry.methods.values(), *registry.events.values()] for role in spec.roles}
    assert named <= ROLES.keys()


# ---------------------------------------------------------------------------------------------- auth


async def test_simple_logins(nobody: Client) -> None:
    assert await nobody.call("auth.login", "admin", "lap") is False
    assert nobody.credential is None
    assert await nobody.call("auth.login", "admin", "lab", None) is True
    assert (await nobody.call("auth.me"))["pw_name"] == "admin"
    assert await nobody.call("auth.logout") is True
    with pytest.raises(CallError) as refusal:
        await nobody.call("auth.me")
    assert refusal.value.errno == 207


async def test_login_ex_with_a_password(nobody: Client) -> None:
    wrong = {"mechanism": "PASSWORD_PLAIN", "username": "admin", "password": "lap"}
    assert await nobody.call("auth.login_ex", wrong) == {"response_type": "AUTH_ERR"}
    options = {"user_info": False, "reconnect_token": True}
    result = await nobody.call("auth.login_ex", {**wrong, "password": "lab", "login_options": options})
    assert (result["response_type"], result["authenticator"], result["user_info"]) == ("SUCCESS", "LEVEL_1", None)
    again = {"mechanism": "TOKEN_PLAIN", "token": result["reconnect_token"]}
    user = (await nobody.call("auth.login_ex", again))["user_info"]
    assert user["privilege"]["roles"] == {"FULL_ADMIN"}


async def test_login_ex_names_what_is_missing(nobody: Client) -> None:
    with pytest.raises(ValidationErrors) as refusal:
        await nobody.call("auth.login_ex", {"mechanism": "PASSWORD_PLAIN"})
    assert refusal.value.errors == [
        ("login_data.username", "attribute required", 22),
        ("login_data.password", "attribute required", 22),
    ]


async def test_two_factors(nobody: Client, admin: Client, clock: Any) -> None:
    secret = (await admin.call("user.renew_2fa_secret", "admin"))["secret"]
    first = {"mechanism": "PASSWORD_PLAIN", "username": "admin", "password": "lab"}
    assert await nobody.call("auth.login", "admin", "lab") is False
    assert await nobody.call("auth.login_ex", first) == {"response_type": "OTP_REQUIRED", "username": "admin"}
    assert nobody.credential is None
    wrong = {"mechanism": "OTP_TOKEN", "otp_token": "000000"}
    assert (await nobody.call("auth.login_ex_continue", wrong))["response_type"] == "OTP_REQUIRED"
    right = {"mechanism": "OTP_TOKEN", "otp_token": otp.code(secret, int(clock.now_s) // otp.STEP_S)}
    assert (await nobody.call("auth.login_ex_continue", right))["response_type"] == "SUCCESS"
    await admin.call("user.unset_2fa_secret", "admin")
    assert await nobody.call("auth.login", "admin", "lab") is True


async def test_second_steps_need_a_first(nobody: Client) -> None:
    for step in (
        {"mechanism": "OTP_TOKEN", "otp_token": "000000"},
        {"mechanism": "SCRAM", "scram_type": "CLIENT_FINAL_MESSAGE", "rfc_str": "c=biws,r=x,p=eA=="},
    ):
        with pytest.raises(CallError) as refusal:
            await nobody.call("auth.login_ex", step)
        assert refusal.value.errno == 22


async def test_api_keys_plain_and_scram(nobody: Client, admin: Client) -> None:
    made = await admin.call("api_key.create", {"name": "monitoring", "username": "admin"})
    number, _, secret = made["key"].partition("-")
    assert (int(number), len(secret), made["expires_at"]) == (made["id"], 64, None)
    assert await nobody.call("auth.login_with_api_key", made["key"]) is True
    nonce = base64.b64encode(b"c" * 32).decode()
    rfc_str = f"n,,n=admin:{number},r={nonce}"
    first = {"mechanism": "SCRAM", "scram_type": "CLIENT_FIRST_MESSAGE", "rfc_str": rfc_str}
    answer = await nobody.call("auth.login_ex", first)
    assert (answer["scram_type"], answer["user_info"]) == ("SERVER_FIRST_RESPONSE", None)
    final = client_final(nobody.auth_state.exchange, secret)
    last = {"mechanism": "SCRAM", "scram_type": "CLIENT_FINAL_MESSAGE", "rfc_str": final}
    answer = await nobody.call("auth.login_ex", last)
    assert (answer["response_type"], answer["scram_type"]) == ("SCRAM_RESPONSE", "SERVER_FINAL_RESPONSE")
    assert answer["user_info"]["pw_name"] == "admin"
    assert answer["rfc_str"].startswith("v=")


async def test_redirect_on_the_standby(nobody: Client) -> None:
    nobody.context.authenticator.redirect = lambda: ["https://192.0.2.10"]
    data = {"mechanism": "PASSWORD_PLAIN", "username": "admin", "password": "lab"}
    assert await nobody.call("auth.login_ex", data) == {"response_type": "REDIRECT", "urls": ["https://192.0.2.10"]}
    assert nobody.credential is None


async def test_tokens(nobody: Client, admin: Client) -> None:
    token = await admin.call("auth.generate_token", 600, {}, True, True)
    assert await nobody.call("auth.login_with_token", token) is True
    assert await nobody.call("auth.login_with_token", token) is False
    bound = await admin.call("auth.generate_token", None, {"job": 1})
    assert await nobody.call("auth.login_with_token", bound) is False


# ---------------------------------------------------------------------------------------------- users


async def test_users_come_and_go_and_never_show_a_secret(admin: Client, store: Store) -> None:
    made = await admin.call(
        "user.create", {"username": "op", "password": "a secret", "groups": ["readonly_administrators"]}
    )
    assert (made["roles"], made["password_disabled"], made["locked"]) == (["READONLY_ADMIN"], False, False)
    secret_hash = store.query("SELECT password_hash FROM user WHERE id = ?", (made["id"],))[0]["password_hash"]
    shown = str(await admin.call("user.query")) + str(await admin.call("user.get_instance", made["id"]))
    assert secret_hash not in shown
    assert "a secret" not in shown
    changed = await admin.call("user.update", made["id"], {"locked": True, "full_name": "Op"})
    assert (changed["locked"], changed["full_name"], changed["groups"]) == (True, "Op", ["readonly_administrators"])
    assert await admin.call("user.delete", made["id"]) is True
    with pytest.raises(ValidationErrors, match="does not exist"):
        await admin.call("user.get_instance", made["id"])


@pytest.mark.parametrize(
    ("data", "attribute"),
    [
        ({"username": "admin"}, "data.username"),
        ({"username": "a b"}, "data.username"),
        ({"username": "a:b"}, "data.username"),
        ({"username": "op", "groups": ["nobody knows"]}, "data.groups.0"),
        ({"username": "op", "uid": 0}, "data.uid"),
        ({"username": "op", "password": ""}, "data.password"),
        ({}, "data.username"),
    ],
)
async def test_users_that_cannot_be(admin: Client, data: dict[str, Any], attribute: str) -> None:
    with pytest.raises(ValidationErrors) as refusal:
        await admin.call("user.create", data)
    assert [error[0] for error in refusal.value.errors] == [attribute]


async def test_nobody_gives_more_than_it_has(admin: Client) -> None:
    operator = await add_operator(admin, "ACCOUNT_WRITE", "API_KEY_WRITE", "FAILOVER_READ")
    admin_id = await user_id(admin, "admin")
    own_id = await user_id(admin, "op")
    attempts: list[tuple[Any, ...]] = [
        ("user.create", {"username": "eve", "groups": ["builtin_administrators"]}),
        ("user.update", own_id, {"groups": ["builtin_administrators"]}),
        ("user.update", admin_id, {"password": "mine now"}),
        ("user.delete", admin_id),
        ("user.set_password", {"username": "admin", "new_password": "mine now"}),
        ("user.renew_2fa_secret", "admin"),
        ("privilege.create", {"name": "More", "groups": ["operators"], "roles": ["FAILOVER_WRITE"]}),
        ("privilege.update", 1, {"groups": ["operators"]}),
        ("privilege.update", 3, {"roles": ["FULL_ADMIN"]}),
        ("api_key.create", {"name": "key", "username": "admin"}),
    ]
    for name, *params in attempts:
        with pytest.raises(CallError) as refusal:
            await operator.call(name, *params)
        assert refusal.value.errno == 13, name
    assert (await operator.call("user.create", {"username": "helper", "groups": ["operators"]}))["id"]
    assert (await operator.call("api_key.create", {"name": "mine"}))["username"] == "op"


async def test_the_last_administrator_stays(admin: Client) -> None:
    admin_id = await user_id(admin, "admin")
    attempts: list[tuple[Any, ...]] = [
        ("user.delete", admin_id),
        ("user.update", admin_id, {"locked": True}),
        ("user.update", admin_id, {"groups": []}),
        ("user.update", admin_id, {"password": None}),
        ("privilege.update", 1, {"groups": []}),
    ]
    for name, *params in attempts:
        with pytest.raises(CallError, match="last unlocked full administrator"):
            await admin.call(name, *params)
    await admin.call("user.create", {"username": "deputy", "password": "x", "groups": ["builtin_administrators"]})
    assert await admin.call("user.delete", admin_id) is True


async def test_passwords_are_changed_by_who_knows_the_old_one(admin: Client, nobody: Client) -> None:
    operator = await add_operator(admin, "FAILOVER_READ")
    change = {"username": "op", "new_password": "new"}
    with pytest.raises(ValidationErrors, match="attribute required"):
        await operator.call("user.set_password", change)
    with pytest.raises(ValidationErrors, match="not the password"):
        await operator.call("user.set_password", {**change, "old_password": "guess"})
    with pytest.raises(CallError, match="Not authorized"):
        await operator.call("user.set_password", {**change, "username": "admin"})
    await operator.call("user.set_password", {**change, "old_password": "op"})
    assert await nobody.call("auth.login", "op", "new") is True
    await admin.call("user.set_password", {**change, "new_password": "newer"})
    assert await nobody.call("auth.login", "op", "newer") is True


async def test_the_first_administrator(nobody: Client, store: Store) -> None:
    assert await nobody.call("user.has_local_administrator_set_up") is True
    with pytest.raises(CallError, match="already"):
        await nobody.call("user.setup_local_administrator", "eve", "mine")
    await store.write(lambda t: t.execute("DELETE FROM user"))
    assert await nobody.call("user.has_local_administrator_set_up") is False
    await nobody.call("user.setup_local_administrator", "root2", "pw")
    assert await nobody.call("auth.login", "root2", "pw") is True


# ---------------------------------------------------------------------------------------------- privileges, keys


async def test_privileges(admin: Client) -> None:
    made = await admin.call("privilege.create", {"name": "Ops", "groups": ["ops", "ops"], "roles": ["POOL_READ"]})
    assert (made["groups"], made["builtin"]) == (["ops"], False)
    with pytest.raises(ValidationErrors) as refusal:
        await admin.call("privilege.update", made["id"], {"roles": ["POOL_READ", "GOD"]})
    assert refusal.value.errors[0][0] == "data.roles.1"
    with pytest.raises(ValidationErrors, match="exists already"):
        await admin.call("privilege.create", {"name": "Ops"})
    for params in (("privilege.delete", 1), ("privilege.update", 1, {"roles": []})):
        with pytest.raises(CallError, match="built-in"):
            await admin.call(*params)
    assert await admin.call("privilege.delete", made["id"]) is True
    assert {row["name"] for row in await admin.call("privilege.roles")} == set(ROLES)


async def test_api_keys(admin: Client, nobody: Client) -> None:
    made = await admin.call("api_key.create", {"name": "k", "expires_at": {"$date": 4_000_000_000_000}})
    key = made.pop("key")
    assert await admin.call("api_key.query") == [made]
    assert made["expires_at"].timestamp() == 4_000_000_000
    with pytest.raises(ValidationErrors, match="exists already"):
        await admin.call("api_key.create", {"name": "k"})
    with pytest.raises(ValidationErrors, match="has passed"):
        await admin.call("api_key.create", {"name": "old", "expires_at": {"$date": 0}})
    with pytest.raises(ValidationErrors, match="belongs to a user"):
        await admin.call("api_key.create", {"name": "lost", "username": "nobody"})
    revoked = await admin.call("api_key.update", made["id"], {"revoked": True})
    assert revoked == {**made, "revoked": True}
    assert await nobody.call("auth.login_with_api_key", key) is False
    with pytest.raises(ValidationErrors, match="stays revoked"):
        await admin.call("api_key.update", made["id"], {"revoked": False})
    assert await admin.call("api_key.delete", made["id"]) is True
    again = await admin.call("api_key.create", {"name": "k"})
    assert again["id"] > made["id"]


# ---------------------------------------------------------------------------------------------- alerts, audit


async def test_alerts(admin: Client) -> None:
    admin.context.alerts.set("x", "WARNING", "A disk is slow", "A")
    (alert,) = await admin.call("alert.list")
    await admin.call("alert.dismiss", alert["uuid"])
    assert (await admin.call("alert.list"))[0]["dismissed"] is True
    await admin.call("alert.restore", alert["uuid"])
    assert (await admin.call("alert.list"))[0]["dismissed"] is False
    with pytest.raises(ValidationErrors, match="does not exist"):
        await admin.call("alert.dismiss", "0")


async def test_logins_and_changes_are_audited_without_secrets(admin: Client, nobody: Client) -> None:
    await nobody.call("auth.login", "admin", "a bad secret")
    await admin.call("user.create", {"username": "op", "password": "a good secret"})
    with pytest.raises(ValidationErrors):
        await admin.call("user.create", {"username": "op", "password": "a good secret"})
    rows = await admin.call("audit.query", [], {"order_by": ["id"]})
    assert [(row["method"], row["username"], row["success"], row["error"]) for row in rows] == [
        ("auth.login", "admin", True, None),
        ("auth.login", "admin", False, "AUTH_ERR"),
        ("user.create", "admin", True, None),
        ("user.create", "admin", False, "[EEXIST] data.username: A user named 'op' exists already\n"),
    ]
    assert all("secret" not in str(row) for row in rows)
    assert {row["address"] for row in rows} == {"192.0.2.1"}


async def test_the_standby_refuses_changes_and_accepts_logins(admin: Client, store: Store) -> None:
    def standby() -> None:
        raise CallError("Controller B is active: change the configuration there")

    store.guard = standby
    with pytest.raises(CallError, match="Controller B"):
        await admin.call("user.create", {"username": "op"})
    assert await admin.call("auth.login", "admin", "lab") is True
