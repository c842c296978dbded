"""The argument editor: its form by keys and mouse, and as YAML in $EDITOR."""

import os
from pathlib import Path

import pytest
from support.standin_server import invalid
from support.terminal import BACKSPACE, CTRL_E, CTRL_S, DOWN, ENTER, ESCAPE, RIGHT, TAB, UP, Terminal


def open_form(shell: Terminal, line: str) -> Terminal:
    shell.send(line, ENTER).shows("Save", "Cancel", "Esc cancel")
    return shell


def at_prompt(shell: Terminal) -> str:
    """Wait until the form is gone."""
    return shell.until("the prompt", lambda screen: screen.splitlines()[-1].rstrip() == "[nodea]>")


def test_a_form_filled_in_with_keys(shell, server):
    form = open_form(shell, "system failover control --")
    screen = form.shows("action *", "( ) ENABLE  ( ) DISABLE", "options", "  active", "default true")
    assert "What to do." in screen, "the description of the field that has the focus"
    form.send(" ").shows("(•) ENABLE")
    form.send(TAB, RIGHT, RIGHT).shows("(•) false")
    form.send(CTRL_S)
    assert "false" in at_prompt(form)
    assert server.called("failover.control") == [["ENABLE", {"active": False}]]


def test_a_command_that_lacks_something_opens_the_form(shell, server):
    form = open_form(shell, "account user create")
    form.shows("username *", "How the user is called.")
    form.send("eve", TAB, "Eve Adams", CTRL_S)
    at_prompt(form)
    assert server.called("user.create") == [[{"username": "eve", "full_name": "Eve Adams"}]]


def test_what_is_wrong_is_said_while_typing(shell, server):
    form = open_form(shell, "system failover update --")
    form.shows("now false", "integer, 0..120, now 0")
    form.send(TAB, TAB, "500").shows("500 is greater than the maximum of 120")
    form.send(BACKSPACE).hides("greater than")
    form.send("x").shows("needs a whole number")
    form.send(CTRL_S)  # refused: the form stays
    form.send(BACKSPACE).hides("needs a whole number")
    form.send(CTRL_S)
    at_prompt(form)
    assert server.called("failover.update") == [[{"timeout": 50}]]


def test_what_the_server_refuses_is_said_beside_the_field_and_corrected_in_place(shell, server):
    def update(data):
        if data.get("timeout") == 7:
            raise invalid(("failover_update.timeout", "Seven brings bad luck", 22), (None, "Think again", 22))
        return data

    server.methods["failover.update"] = update
    form = open_form(shell, "system failover update disabled=false timeout=7 --")
    form.send(CTRL_S)
    screen = form.shows("Seven brings bad luck", "Think again")
    lines = screen.splitlines()
    row = next(number for number, line in enumerate(lines) if line.lstrip().startswith("timeout"))
    assert "Seven brings bad luck" in lines[row + 1]
    assert "(•) false" in screen, "what was typed is still there"
    form.send(BACKSPACE, "8").hides("Seven")  # the focus is where the mistake is
    form.send(CTRL_S)
    at_prompt(form)
    assert server.called("failover.update")[-1] == [{"disabled": False, "timeout": 8}]


def test_required_fields_keep_the_form_open(shell, server):
    form = open_form(shell, "system failover control --")
    form.send(CTRL_S).shows("is required")
    form.send(" ").hides("is required")
    form.send(ESCAPE).shows("Nothing was done.")
    assert server.called("failover.control") == []


def test_nested_objects_and_lists(shell, server):
    form = open_form(shell, "account user create username=eve --")
    form.shows("groups", "[+ add]", "quota", "  bytes *")
    form.click_on("+ add")
    form.shows("1.", "[remove]")
    form.send("staff", UP, ENTER).shows("2.")  # up: back to the button
    form.send("wheel")
    form.click_on("+ add")
    form.shows("3.")
    form.click_on("remove")  # the first
    form.hides("3.")
    screen = form.hides("staff")
    assert "wheel" in screen
    form.send(*[DOWN] * 5, "12").shows("12")
    form.send(CTRL_S)
    form.shows("is required")  # the second item, which is empty
    form.send("x", CTRL_S)
    at_prompt(form)
    assert server.called("user.create") == [[{"username": "eve", "groups": ["wheel", "x"], "quota": {"bytes": 12}}]]


def test_the_mouse_chooses_and_presses(shell, server):
    form = open_form(shell, "system failover control --")
    form.click_on("( ) ENABLE")
    form.shows("(•) ENABLE")
    form.click_on("Save")
    at_prompt(form)
    assert server.called("failover.control") == [["ENABLE"]]
    form = open_form(shell, "system failover control --")
    form.click_on("Cancel")
    form.shows("Nothing was done.")


def test_a_change_shows_what_holds_now_and_sends_only_what_was_changed(shell, server):
    form = open_form(shell, "account user update 70")
    form.shows("now Eve")
    form.send(TAB, "Eva", CTRL_S)
    at_prompt(form)
    assert server.called("user.update") == [[70, {"full_name": "Eva"}]]


def test_secrets_are_not_shown(shell, server):
    form = open_form(shell, "account user create username=eve --")
    form.send(TAB, TAB, "hunter2").shows("*******")
    assert "hunter2" not in form.text
    form.send(CTRL_S)
    at_prompt(form)
    assert server.called("user.create") == [[{"username": "eve", "password": "hunter2"}]]


@pytest.fixture
def editor(tmp_path: Path) -> Path:
    """An $EDITOR that keeps what it was given, and changes it by a sed script."""
    program = tmp_path / "editor"
    program.write_text(
        f'#!/bin/sh\nstat -c %a "$1" > {tmp_path}/mode\ncat "$1" >> {tmp_path}/seen\n'
        f'echo "$1" > {tmp_path}/name\nexec sed -i "$(cat {tmp_path}/script)" "$1"\n'
    )
    program.chmod(0o755)
    return program


def test_ctrl_e_edits_the_same_as_yaml(start, server, editor, tmp_path):
    (tmp_path / "script").write_text("s/timeout: 7/timeout: 8/")
    shell = start(environment={"EDITOR": str(editor)})
    shell.shows("failover works")
    shell.send("system failover update timeout=7", CTRL_E)
    shell.until("the call", lambda screen: bool(server.called("failover.update")))
    assert server.called("failover.update") == [[{"timeout": 8}]]
    seen = (tmp_path / "seen").read_text()
    assert "# Boolean: Turn failover off.\n  # disabled:\n" in seen
    assert "\n  timeout: 7\n" in seen
    assert (tmp_path / "mode").read_text().strip() == "600"
    assert not os.path.exists((tmp_path / "name").read_text().strip()), "gone afterwards"


def test_the_editor_opens_again_with_the_complaint(start, server, editor, tmp_path):
    def update(data):
        if data.get("timeout") == 7:
            raise invalid(("failover_update.timeout", "Seven brings bad luck", 22))
        return data

    server.methods["failover.update"] = update
    (tmp_path / "script").write_text("/ERROR/,$ s/timeout: 7/timeout: 8/")
    shell = start(environment={"EDITOR": str(editor)})
    shell.shows("failover works")
    shell.send("system failover update timeout=7 --editor", ENTER)
    shell.until("the second call", lambda screen: len(server.called("failover.update")) == 2)
    assert server.called("failover.update") == [[{"timeout": 7}], [{"timeout": 8}]]
    assert "  # ERROR: Seven brings bad luck\n  # Integer: 0..120.\n  timeout: 7\n" in (tmp_path / "seen").read_text()


def test_from_the_form_into_the_editor(start, server, editor, tmp_path):
    (tmp_path / "script").write_text("s/# active: true/active: false/; s/# options/options/")
    shell = start(environment={"EDITOR": str(editor)})
    shell.shows("failover works")
    form = open_form(shell, "system failover control --")
    form.send(" ", CTRL_E)
    shell.until("the call", lambda screen: bool(server.called("failover.control")))
    assert server.called("failover.control") == [["ENABLE", {"active": False}]]


def test_text_that_is_no_yaml_can_be_edited_again_or_given_up(start, server, editor, tmp_path):
    (tmp_path / "script").write_text("1i {")
    shell = start(environment={"EDITOR": str(editor)})
    shell.shows("failover works")
    shell.send("system failover update --editor", ENTER).shows("this is not YAML", "Edit it again? [Y/n]")
    shell.send("n", ENTER).shows("Nothing was done.")
    assert server.called("failover.update") == []


def test_one_command_from_outside_the_shell(start, server):
    form = start("system", "failover", "control", "--")
    form.shows("Save", "( ) ENABLE")
    form.send(" ", CTRL_S)
    assert form.ends() == 0
    assert server.called("failover.control") == [["ENABLE"]]
