"""The argument editor: what a command takes, filled in by hand until the server accepts it.

fields      the arguments as a tree of fields: text in, value or problem out
form        that tree on the whole screen, for keys and mouse
document    the same as YAML: template, and back
external    the YAML in $EDITOR
"""

import contextlib
from typing import Any

from middlewared.cli import arguments
from middlewared.cli.commands import Command
from middlewared.cli.shell.editor import document
from middlewared.cli.shell.session import Session
from middlewared.client.errors import ClientError
from middlewared.errors import CallError, ValidationErrors

Refusal = list[tuple[str | None, str]]  # (dotted attribute or nothing, what is wrong with it)

from_text = document.parse


class Editor:
    """One command being filled in. `by_form` and `by_text` return the `params` of the call, None when given up."""

    def __init__(self, session: Session, command: Command, tokens: list[str]) -> None:
        self._session = session
        self._command = command
        self._values = arguments.given(command, tokens)
        self._now: dict[str, Any] = {}
        self._refusal: Refusal = []
        self._choices: dict[str, list[str]] = {}

    async def look_up(self) -> None:
        """Ask what holds now, for commands that change something, and what can be chosen. Both are only hints."""
        from middlewared.cli.shell.choices import choices_of, live

        command, service = self._command, self._command.method.rpartition(".")[0]
        accepts = command.entry.get("accepts") or []
        with contextlib.suppress(CallError, ClientError):
            if command.kind == "config.update":
                self._now = {accepts[0]["_name_"]: await self._session.call(f"{service}.config")}
            elif command.kind == "crud.update" and accepts[0]["_name_"] in self._values:
                key = self._values[accepts[0]["_name_"]]
                self._now = {accepts[1]["_name_"]: await self._session.call(f"{service}.get_instance", key)}
        for schema in accepts:
            for path, wanted in choices_of(schema):
                self._choices[path] = await live(self._session, wanted)

    async def by_form(self) -> list[Any] | None:
        from middlewared.cli.shell.editor.fields import Form as Fields
        from middlewared.cli.shell.editor.form import Outcome, Screen

        fields = Fields(self._command, self._values, self._now)
        fields.refuse(self._refusal)
        screen = Screen(self._command, fields, self._choices)
        with self._session.quiet():
            outcome = await screen.run()
        if outcome is Outcome.CANCEL:
            return None
        self._values = fields.document()
        if outcome is Outcome.TEXT:
            return await self.by_text()
        return arguments.assemble(self._command.entry.get("accepts") or [], self._values)

    async def by_text(self) -> list[Any] | None:
        from middlewared.cli.shell.editor import external

        text = document.template(self._command, self._values, self._refusal)
        edited = await external.edit(text, lambda text: document.parse(self._command, text))
        if edited is None:
            return None
        names = [schema["_name_"] for schema in self._command.entry.get("accepts") or []]
        self._values = dict(zip(names, edited, strict=False))
        return edited

    def refused(self, error: ValidationErrors | CallError) -> None:
        """The server's answer, to be shown where it belongs when the editor opens again."""
        if isinstance(error, ValidationErrors):
            self._refusal = [(attribute, text) for attribute, text, _ in error.errors]
        else:
            self._refusal = [(None, error.message)]
