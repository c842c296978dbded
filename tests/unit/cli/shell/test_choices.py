"""Values that exist at this moment."""

from typing import Any

import pytest

from middlewared.cli.shell import choices
from middlewared.cli.shell.choices import Choices
from middlewared.errors import CallError


class Session:
    """What choices needs of one."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.asked = 0

    async def call(self, method: str, timeout_s: float) -> Any:
        self.asked += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "texts"),
    [
        ([{"id": 1}, {"id": None}, {"name": "x"}, {"id": "b"}], ["1", "b"]),
        (["eth0", "eth1"], ["eth0", "eth1"]),
        ({"eth0": "first", "eth1": "second"}, ["eth0", "eth1"]),
        (None, []),
        (CallError("no"), []),
    ],
)
async def test_texts_of_whatever_is_returned(result, texts):
    session = Session(result)
    assert await choices.live(session, Choices("x.query")) == texts  # type: ignore[arg-type]  # enough of a session


async def test_an_answer_is_kept_for_a_moment():
    session = Session(["a"])
    for _ in range(3):
        await choices.live(session, Choices("x.query"))  # type: ignore[arg-type]  # enough of a session
    assert session.asked == 1


def test_where_an_argument_s_values_are_looked_up():
    items = {
        "type": "array",
        "items": [{"type": "string", "x-choices": {"method": "privilege.roles", "column": "name"}}],
    }
    assert choices.of(items) == Choices("privilege.roles", "name")
    assert choices.of({"type": "string", "x-choices": {"method": "interface.query"}}) == Choices(
        "interface.query", "id"
    )
    assert choices.of({"type": "string"}) is None
    schema = {"_name_": "data", "properties": {"roles": {"_name_": "roles", **items}}, "_attrs_order_": ["roles"]}
    assert list(choices.choices_of(schema)) == [("data.roles", Choices("privilege.roles", "name"))]
