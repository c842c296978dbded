"""Every way to log in, and every way not to."""

import base64
import json
from typing import Any

import pytest
from support.scram_client import client_final

from middlewared.auth import otp, scram
from middlewared.auth.authenticator import Authenticator, PendingOtp, PendingScram, Response, encode_verifier
from middlewared.auth.identity import INTERNAL, NODE, Credential, Origin
from middlewared.errors import CallError
from middlewared.store.database import Store

HERE = Origin("192.0.2.1")
ELSEWHERE = Origin("192.0.2.2")
UNIX = Origin("unix", uid=1000, gid=1000)
KEY_SECRET = "abcdefABCDEF0123456789"
OTP_SECRET = base64.b32encode(b"12345678901234567890").decode()


async def sql(store: Store, statement: str, *params: Any) -> None:
    await store.write(lambda t: t.execute(statement, params))


async def add_key(store: Store, **changes: Any) -> None:
    verifier = scram.derive(KEY_SECRET, b"0123456789abcdef")
    row = {"name": "key", "username": "admin", "created_at_ms": 0, "expires_at_ms": None, "revoked": 0, **changes}
    salt, iterations, stored_key, server_key = encode_verifier(verifier)
    row |= {"salt": salt, "iterations": iterations, "stored_key": stored_key, "server_key": server_key}
    await sql(store, f"INSERT INTO api_key ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())


# ---------------------------------------------------------------------------------------------- passwords


async def test_a_password_login(authenticator: Authenticator) -> None:
    outcome = await authenticator.password("admin", "lab", HERE)
    assert outcome.response is Response.SUCCESS
    assert outcome.credential is not None
    assert (outcome.credential.kind, outcome.credential.roles) == ("LOGIN_PASSWORD", frozenset({"FULL_ADMIN"}))
    user = outcome.credential.user
    assert user is not None
    assert user["pw_name"] == "admin"
    assert user["privilege"]["roles"] == {"FULL_ADMIN"}
    assert user["privilege"]["allowlist"] == [{"method": "*", "resource": "*"}]


async def test_wrong_passwords_and_unknown_users_look_alike(authenticator: Authenticator) -> None:
    for username, password in (("admin", "lap"), ("nobody", "lab"), ("", "")):
        outcome = await authenticator.password(username, password, HERE)
        assert (outcome.response, outcome.credential) == (Response.AUTH_ERR, None)


async def test_locked_and_powerless_accounts_are_denied_after_the_right_password_only(
    authenticator: Authenticator, store: Store
) -> None:
    for change in ("locked = 1", "groups = '[]'"):
        await sql(store, f"UPDATE user SET locked = 0, {change}")
        assert (await authenticator.password("admin", "lab", HERE)).response is Response.DENIED
        assert (await authenticator.password("admin", "lap", HERE)).response is Response.AUTH_ERR


async def test_a_changed_password_works_at_once_and_the_old_one_no_more(
    authenticator: Authenticator, store: Store
) -> None:
    assert (await authenticator.password("admin", "lab", HERE)).response is Response.SUCCESS
    await sql(store, "UPDATE user SET password_hash = ?", await authenticator.hash_password("new", HERE))
    assert (await authenticator.password("admin", "lab", HERE)).response is Response.AUTH_ERR
    assert (await authenticator.password("admin", "new", HERE)).response is Response.SUCCESS


async def test_failures_are_limited_by_address(authenticator: Authenticator, clock: Any) -> None:
    for _ in range(20):
        assert (await authenticator.password("admin", "lab", HERE)).response is Response.SUCCESS  # never counts
    for number in range(5):
        await authenticator.password("admin", f"guess {number}", HERE)
    with pytest.raises(CallError) as refusal:
        await authenticator.password("admin", "lab", HERE)
    assert refusal.value.errno == 16
    with pytest.raises(CallError):
        authenticator.token("x", HERE)
    assert (await authenticator.password("admin", "lab", ELSEWHERE)).response is Response.SUCCESS
    clock.now_s += 60
    assert (await authenticator.password("admin", "lab", HERE)).response is Response.SUCCESS


async def test_the_unix_socket_is_not_limited(authenticator: Authenticator) -> None:
    for _ in range(10):
        assert authenticator.token("guess", UNIX).response is Response.AUTH_ERR


# ---------------------------------------------------------------------------------------------- second factor


def code(clock: Any, drift: int = 0) -> str:
    return otp.code(OTP_SECRET, int(clock.now_s) // otp.STEP_S + drift)


async def begin_otp(authenticator: Authenticator, store: Store) -> PendingOtp:
    await sql(store, "UPDATE user SET otp_secret = ?", OTP_SECRET)
    outcome = await authenticator.password("admin", "lab", HERE)
    assert (outcome.response, outcome.username) == (Response.OTP_REQUIRED, "admin")
    assert isinstance(outcome.pending, PendingOtp)
    return outcome.pending


async def test_the_second_factor(authenticator: Authenticator, store: Store, clock: Any) -> None:
    pending = await begin_otp(authenticator, store)
    assert authenticator.second_factor(pending, "000000", HERE).response is Response.OTP_REQUIRED
    assert authenticator.second_factor(pending, code(clock), HERE).response is Response.SUCCESS


async def test_a_one_time_password_is_good_once(authenticator: Authenticator, store: Store, clock: Any) -> None:
    await begin_otp(authenticator, store)
    first = await authenticator.password("admin", "lab", HERE, code(clock))
    again = await authenticator.password("admin", "lab", HERE, code(clock))
    assert (first.response, again.response) == (Response.SUCCESS, Response.OTP_REQUIRED)
    assert again.credential is None
    assert (await authenticator.password("admin", "lab", HERE, code(clock, 1))).response is Response.SUCCESS


async def test_too_many_wrong_ones_end_the_login(authenticator: Authenticator, store: Store, clock: Any) -> None:
    pending = await begin_otp(authenticator, store)
    answers = [authenticator.second_factor(pending, "000000", HERE).response for _ in range(3)]
    assert answers == [Response.OTP_REQUIRED, Response.OTP_REQUIRED, Response.AUTH_ERR]
    assert authenticator.second_factor(pending, code(clock), HERE).response is Response.AUTH_ERR


async def test_a_late_second_factor_is_refused(authenticator: Authenticator, store: Store, clock: Any) -> None:
    pending = await begin_otp(authenticator, store)
    clock.now_s += 301
    assert authenticator.second_factor(pending, code(clock), HERE).response is Response.AUTH_ERR


# ---------------------------------------------------------------------------------------------- API keys


async def test_a_plain_api_key(authenticator: Authenticator, store: Store) -> None:
    await add_key(store)
    key = f"1-{KEY_SECRET}"
    for username in (None, "admin"):
        outcome = await authenticator.api_key(key, HERE, username)
        assert outcome.response is Response.SUCCESS
        assert outcome.credential is not None
        assert (outcome.credential.kind, outcome.credential.data["api_key_id"]) == ("API_KEY", 1)
    for wrong in (f"2-{KEY_SECRET}", "1-wrong"):
        assert (await authenticator.api_key(wrong, HERE, "admin")).response is Response.AUTH_ERR
    for wrong in ("1", "", f"{'9' * 30}-x"):
        assert (await authenticator.api_key(wrong, ELSEWHERE)).response is Response.AUTH_ERR
    assert (await authenticator.api_key(key, HERE, "eve")).response is Response.AUTH_ERR


@pytest.mark.parametrize(
    ("change", "response"),
    [
        ("UPDATE api_key SET revoked = 1", Response.AUTH_ERR),
        ("UPDATE api_key SET expires_at_ms = 1780000000000", Response.EXPIRED),
        ("UPDATE api_key SET expires_at_ms = 1780000000001", Response.SUCCESS),
        ("UPDATE user SET locked = 1", Response.DENIED),
        ("DELETE FROM user", Response.AUTH_ERR),
    ],
)
async def test_what_becomes_of_a_key(
    authenticator: Authenticator, store: Store, change: str, response: Response
) -> None:
    await add_key(store)
    assert (await authenticator.api_key(f"1-{KEY_SECRET}", HERE)).response is Response.SUCCESS
    await sql(store, change)
    assert (await authenticator.api_key(f"1-{KEY_SECRET}", HERE)).response is response


async def test_scram(authenticator: Authenticator, store: Store) -> None:
    await add_key(store)
    nonce = base64.b64encode(b"c" * 32).decode()
    first = authenticator.scram_first(f"n,,n=admin:1,r={nonce}", HERE)
    assert first.response is Response.SCRAM_RESPONSE
    assert isinstance(first.pending, PendingScram)
    assert authenticator.scram_final(first.pending, "c=biws,r=x,p=eA==", HERE).response is Response.AUTH_ERR
    done = authenticator.scram_final(first.pending, client_final(first.pending.exchange, KEY_SECRET), HERE)
    assert (done.response, done.username) == (Response.SUCCESS, "admin")
    assert done.rfc_str is not None
    assert done.rfc_str.startswith("v=")


async def test_scram_binds_the_channel(authenticator: Authenticator, store: Store) -> None:
    await add_key(store)
    secure = Origin("192.0.2.1", secure=True, channel_binding=b"certificate hash")
    nonce = base64.b64encode(b"c" * 32).decode()
    first = authenticator.scram_first(f"p=tls-server-end-point,,n=admin:1,r={nonce}", secure)
    assert isinstance(first.pending, PendingScram)
    good = client_final(first.pending.exchange, KEY_SECRET, b"certificate hash")
    tapped = client_final(first.pending.exchange, KEY_SECRET, b"the hash of a man in the middle")
    assert authenticator.scram_final(first.pending, tapped, secure).response is Response.AUTH_ERR
    assert authenticator.scram_final(first.pending, good, secure).response is Response.SUCCESS


@pytest.mark.parametrize("name", ["admin:2", "eve:1"])
async def test_scram_does_not_tell_which_keys_exist(authenticator: Authenticator, store: Store, name: str) -> None:
    await add_key(store)
    nonce = base64.b64encode(b"c" * 32).decode()
    salts = set()
    for _ in range(2):
        first = authenticator.scram_first(f"n,,n={name},r={nonce}", HERE)
        assert isinstance(first.pending, PendingScram)
        salts.add(first.pending.exchange.verifier.salt)
    assert len(salts) == 1  # as stable as a real one
    final = client_final(first.pending.exchange, KEY_SECRET)
    assert authenticator.scram_final(first.pending, final, HERE).response is Response.AUTH_ERR


async def test_malformed_scram_is_a_failed_login(authenticator: Authenticator) -> None:
    assert authenticator.scram_first("hello", HERE).response is Response.AUTH_ERR


# ---------------------------------------------------------------------------------------------- tokens


async def login(authenticator: Authenticator) -> Credential:
    outcome = await authenticator.password("admin", "lab", HERE)
    assert outcome.credential is not None
    return outcome.credential


async def test_a_token_stands_for_its_login(authenticator: Authenticator) -> None:
    text = authenticator.generate_token(await login(authenticator), HERE)
    outcome = authenticator.token(text, HERE)
    assert outcome.credential is not None
    assert (outcome.credential.kind, outcome.credential.username) == ("TOKEN", "admin")
    assert outcome.credential.data == {"parent": "LOGIN_PASSWORD"}
    assert authenticator.token(text, ELSEWHERE).response is Response.AUTH_ERR


async def test_a_download_token_is_for_its_download(authenticator: Authenticator) -> None:
    attrs = {"job": 7, "filename": "config.tar"}
    text = authenticator.generate_token(await login(authenticator), HERE, attrs=attrs, single_use=True)
    assert authenticator.token(text, HERE).response is Response.AUTH_ERR
    assert authenticator.redeem_token(text, HERE) is None
    assert authenticator.redeem_token(text, HERE, attrs) is not None
    assert authenticator.redeem_token(text, HERE, attrs) is None


async def test_a_token_is_worth_what_its_user_is_worth_now(authenticator: Authenticator, store: Store) -> None:
    text = authenticator.generate_token(await login(authenticator), HERE, match_origin=False)
    await sql(store, "UPDATE user SET groups = ?", json.dumps(["readonly_administrators"]))
    outcome = authenticator.token(text, ELSEWHERE)
    assert outcome.credential is not None
    assert outcome.credential.roles == {"READONLY_ADMIN"}
    await sql(store, "UPDATE user SET locked = 1")
    assert authenticator.token(text, ELSEWHERE).response is Response.AUTH_ERR


async def test_a_token_of_local_root_needs_no_account(authenticator: Authenticator) -> None:
    root = authenticator.unix_credential(Origin("unix", uid=0, gid=0))
    assert root is not None
    text = authenticator.generate_token(root, Origin("unix", uid=0, gid=0), match_origin=False)
    credential = authenticator.redeem_token(text, HERE)
    assert credential is not None
    assert credential.may([])
    assert authenticator.refresh(credential) == credential


# ---------------------------------------------------------------------------------------------- unix, refresh


async def test_the_unix_socket(authenticator: Authenticator, store: Store) -> None:
    root = authenticator.unix_credential(Origin("unix", uid=0, gid=0))
    assert root is not None
    assert (root.username, root.roles) == ("root", {"FULL_ADMIN"})
    assert authenticator.unix_credential(UNIX) is None
    assert authenticator.unix_credential(Origin("192.0.2.1", uid=0)) is None
    await sql(store, "UPDATE user SET uid = 1000")
    admin = authenticator.unix_credential(UNIX)
    assert admin is not None
    assert (admin.kind, admin.username) == ("UNIX_SOCKET", "admin")
    await sql(store, "UPDATE user SET locked = 1")
    assert authenticator.unix_credential(UNIX) is None


async def test_sessions_learn_what_they_are_worth_after_a_change(authenticator: Authenticator, store: Store) -> None:
    credential = await login(authenticator)
    seen: list[Credential | None] = []
    authenticator.on_change(lambda: seen.append(authenticator.refresh(credential)))
    assert authenticator.refresh(credential) is credential
    await sql(store, "UPDATE service_config SET enabled = 1")
    assert seen == []
    await sql(store, "UPDATE user SET groups = ?", json.dumps(["readonly_administrators"]))
    assert seen[-1] is not None
    assert seen[-1].roles == {"READONLY_ADMIN"}
    await sql(store, "UPDATE privilege SET groups = '[]'")
    assert seen[-1] is None
    assert authenticator.refresh(INTERNAL) is INTERNAL
    assert authenticator.refresh(NODE) is NODE


async def test_a_revoked_key_ends_its_sessions_and_their_tokens(authenticator: Authenticator, store: Store) -> None:
    await add_key(store)
    credential = (await authenticator.api_key(f"1-{KEY_SECRET}", HERE)).credential
    assert credential is not None
    text = authenticator.generate_token(credential, HERE)
    by_token = authenticator.token(text, HERE).credential
    assert by_token is not None
    await sql(store, "UPDATE api_key SET revoked = 1")
    assert authenticator.refresh(credential) is None
    assert authenticator.refresh(by_token) is None
    assert authenticator.token(text, HERE).response is Response.AUTH_ERR


async def test_redirect_replaces_a_success_only(authenticator: Authenticator) -> None:
    right = await authenticator.password("admin", "lab", HERE)
    wrong = await authenticator.password("admin", "lap", HERE)
    assert authenticator.redirected(right) is right
    authenticator.redirect = lambda: ["https://192.0.2.10"]
    assert authenticator.redirected(right).response is Response.REDIRECT
    assert authenticator.redirected(right).credential is None
    assert authenticator.redirected(wrong) is wrong
    authenticator.redirect = list
    assert authenticator.redirected(right) is right
