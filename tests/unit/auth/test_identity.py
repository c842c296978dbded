import pytest

from middlewared.auth.identity import INTERNAL, NODE, ROLES, Credential, Origin


@pytest.mark.parametrize(
    ("held", "wanted", "may"),
    [
        (["FULL_ADMIN"], ["FAILOVER_WRITE"], True),
        (["FULL_ADMIN"], [], True),
        ([], [], False),
        (["READONLY_ADMIN"], [], False),
        (["READONLY_ADMIN"], ["FAILOVER_READ"], True),
        (["READONLY_ADMIN"], ["FAILOVER_WRITE"], False),
        (["READONLY_ADMIN"], ["FULL_ADMIN"], False),
        (["FAILOVER_WRITE"], ["FAILOVER_READ"], True),
        (["FAILOVER_READ"], ["FAILOVER_WRITE"], False),
        (["ALERT_LIST_READ"], ["FAILOVER_READ", "ALERT_LIST_READ"], True),
    ],
)
def test_any_of_the_roles_suffices(held: list[str], wanted: list[str], may: bool) -> None:
    assert Credential("LOGIN_PASSWORD", "eve", frozenset(held)).may(wanted) is may


def test_one_covers_only_what_one_has() -> None:
    operator = Credential("LOGIN_PASSWORD", "op", frozenset({"FAILOVER_WRITE", "ACCOUNT_WRITE"}))
    assert operator.covers(["FAILOVER_READ", "ACCOUNT_WRITE"])
    assert not operator.covers(["FAILOVER_READ", "POOL_READ"])
    assert not operator.covers(["FULL_ADMIN"])
    assert INTERNAL.covers(ROLES)
    assert NODE.covers(ROLES)


def test_every_write_role_includes_a_read_role_that_exists() -> None:
    assert all(role.removesuffix("_WRITE") + "_READ" in ROLES for role in ROLES if role.endswith("_WRITE"))


def test_origins_match_by_address_and_on_the_unix_socket_by_user() -> None:
    assert Origin("192.0.2.1").matches(Origin("192.0.2.1", secure=True))
    assert not Origin("192.0.2.1").matches(Origin("192.0.2.2"))
    assert not Origin("unix", 1000, 1000).matches(Origin("unix", 1001, 1000))
