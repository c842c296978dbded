"""Arguments as YAML, there and back."""

import pytest
from support.standin_api import METHODS, SERVICES, dangerous, entry, obj, schema

from middlewared.cli import dangers
from middlewared.cli.arguments import parse
from middlewared.cli.commands import Command
from middlewared.cli.shell.editor.document import parse as read
from middlewared.cli.shell.editor.document import template
from middlewared.cli.usage import UsageError

UPDATE = """\
# Object
data:
  # Boolean: Turn failover off.
  # disabled:

  # Boolean | Null
  # master:

  # Integer: 0..120.
  # timeout: 0

"""
CONTROL = """\
# String: What to do. One of ENABLE, DISABLE.
action:

# Object
options:
  # Boolean
  # active: true

"""


def command(method: str) -> Command:
    service, _, word = method.rpartition(".")
    return Command((*service.split("."), word), method, METHODS[method], SERVICES[service]["type"])


@pytest.mark.parametrize(("method", "text"), [("failover.update", UPDATE), ("failover.control", CONTROL)])
def test_the_template(method, text):
    assert template(command(method)) == text


@pytest.mark.parametrize(
    ("method", "params"),
    [("failover.update", [{}]), ("failover.control", [None, {}]), ("failover.status", []), ("user.update", [None, {}])],
)
def test_the_template_itself_is_a_document(method, params):
    assert read(command(method), template(command(method))) == params


def test_values_and_complaints_stand_where_they_belong():
    values = {"id": 70, "data": {"full_name": "no", "groups": ["a b", "c"], "quota": {"bytes": 3}}}
    refusal = [("user_update.quota.bytes", "Too few"), ("user_update.groups", "Strange"), (None, "First\nSecond")]
    text = template(command("user.update"), values, refusal)
    assert text.startswith("# ERROR: First\n# ERROR: Second\n# Integer\nid: 70\n")
    assert '  # ERROR: Strange\n  # Array\n  groups:\n    - "a b"\n    - c\n' in text
    assert "    # ERROR: Too few\n    # Integer: 0...\n    bytes: 3\n" in text
    assert read(command("user.update"), text) == [70, values["data"]]


def test_yaml_1_2_words_and_dates_are_texts():
    assert read(command("user.create"), "data:\n  username: no\n  full_name: 2026-01-02\n") == [
        {"username": "no", "full_name": "2026-01-02"}
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("data: [", "line 1: this is not YAML"),
        ("data:\n  a: 1\n a: 2", "line 3: this is not YAML"),
        ("- 1", "write one NAME: VALUE a line"),
        ("dat: {}", 'unknown argument "dat": did you mean "data"?'),
        ("data: {}\ndata: {}", "this is not YAML"),
    ],
)
def test_what_is_no_such_document(text, complaint):
    with pytest.raises(UsageError) as caught:
        read(command("failover.update"), text)
    assert complaint in str(caught.value)


def test_what_is_dangerous_depends_on_the_arguments():
    control = command("failover.control")
    assert dangers.of(control, ["ENABLE"]) is None
    assert dangers.of(control, parse(control, ["DISABLE", "options={}"])) == ("Failover is switched off.", None)
    assert dangers.of(command("failover.status"), []) is None
    described = dangerous("Boom.", entry("X", obj("data", schema("deep", "boolean"))), when={"data.deep": True})
    nested = Command(("x",), "a.x", described, "service")
    assert dangers.of(nested, []) is None
    assert dangers.of(nested, [{"deep": False}]) is None
    assert dangers.of(nested, [{"deep": True}]) is not None
    assert dangers.described(nested) == "Asks first (with data.deep=true): Boom."


def test_a_rehearsal_that_fails_says_what_to_do():
    checks = [
        {"name": "peer", "subject": "A", "ok": True, "detail": "", "remedy": ""},
        {"name": "disk", "subject": "sda", "ok": False, "detail": "does not answer", "remedy": "Look at its cable."},
    ]
    text = dangers.verdict({"node": "B", "would_work": False, "checks": checks})
    assert text == "controller B could NOT take over.\n  - disk sda: does not answer. Look at its cable."
