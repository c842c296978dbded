"""What a line typed into the shell means: a place to go to, a word of the shell's own, or a command.

A line is read like the arguments of the program itself, options included: `status --json`. It is looked up where one
stands, and from the root when the first word is unknown here.
"""

import asyncio
import contextlib
import sys
from typing import NamedTuple, TextIO

from middlewared.cli import usage
from middlewared.cli.arguments import split_line
from middlewared.cli.commands import Command, Namespace, resolve
from middlewared.cli.explain import OK, explain
from middlewared.cli.manual import listing, page
from middlewared.cli.shell import terminal
from middlewared.cli.shell.calls import Caller, Wanted
from middlewared.cli.shell.session import Session
from middlewared.cli.usage import MODES, Options, UsageError

# The shell's own words, and what `?` says of them.
WORDS = {
    "..": "go up",
    "/": "go to the root",
    "ls": "what there is here, or in the namespace before it: system failover ls",
    "man": "what a command does and takes: man system failover control",
    "?": "this list (also: help)",
    "watch": "both controllers on the whole screen, live",
    "call": "call a method of the API by its name: call failover.config",
    ".mode": "how results are shown: .mode table|csv|json",
    "exit": "leave (also: quit, Ctrl-D)",
}
SYNONYMS = {"help": "?", "quit": "exit", "-h": "?"}

HELP = """\
Type the words of a namespace to go there, or those of a command to run it,
from anywhere. Tab completes.

Arguments are NAME=VALUE. End a command with -- to fill them in in a form, or
press Ctrl-E for $EDITOR. --json and --mode M show the result so, --yes does not
ask, --dry-run only rehearses, and "> FILE" at the end writes the result there.
"""

# What belongs to the program's own command line, not to a line of the shell.
OUTSIDE = ("url", "user", "password", "password_file", "api_key_file", "otp", "timeout_s", "count", "listen_s")


class Exit(Exception):
    """The user leaves."""


class Line(NamedTuple):
    words: list[str]
    options: Options
    file: str | None  # where the output goes


class Interpreter:
    """Runs lines, one after the other. `here`: the words of the namespace that one stands in."""

    def __init__(self, session: Session, mode: str, *, interactive: bool) -> None:
        self.session = session
        self.mode = mode
        self.interactive = interactive
        self.here: tuple[str, ...] = ()

    @property
    def namespace(self) -> Namespace:
        """Where one stands, in the newest tree; the root when that place is gone."""
        node: Namespace | Command = self.session.tree
        for word in self.here:
            node = node.children.get(word, self.session.tree) if isinstance(node, Namespace) else self.session.tree
        return node if isinstance(node, Namespace) else self.session.tree

    async def run(self, text: str) -> int:
        """The exit code that the line would have as a program; what went wrong has been said. Raises Exit."""
        try:
            return await self._run(text)
        except Exit:
            raise
        except Exception as error:
            message, status = explain(error, speaker="")
            print(message, file=sys.stderr)
            return status

    async def _run(self, text: str) -> int:
        if not text.strip() or text.lstrip().startswith("#"):
            return OK
        line = read(text)
        words = [SYNONYMS.get(word, word) for word in line.words]
        if words[:1] == ["exit"]:
            raise Exit
        if words[:1] == [".mode"]:
            return self._set_mode(words[1:])
        if words[:1] == ["call"]:
            return await self._call(line)
        if words[:1] == ["watch"]:
            return await self._watch()
        if words[:1] == ["man"]:
            return await self._page(words[1:])
        if words[-1:] == ["?"] and len(words) == 1:
            return await self._help()
        if words and words[-1] in ("ls", "?", "man"):
            return await self._page(words[:-1])
        return await self._go(line)

    async def _go(self, line: Line) -> int:
        node, rest = self.find(line.words)
        if isinstance(node, Namespace):
            self.here = node.words
            return OK
        if line.options.help:
            return await self._page(line.words)
        wanted = Wanted(node, rest, line.options, self._mode(line), line.file)
        return await Caller(self.session, interactive=self.interactive).run(wanted)

    def find(self, words: list[str]) -> tuple[Namespace | Command, list[str]]:
        """Follow `..`, `/` and words, from here or else from the root. Raises UsageError."""
        node, rest = self.namespace, list(words)
        while rest and rest[0] in ("..", "/"):
            up = node.words[:-1] if rest.pop(0) == ".." else ()
            found, _ = resolve(self.session.tree, list(up))
            node = found if isinstance(found, Namespace) else self.session.tree
        if rest and rest[0] not in node.children and rest[0] in self.session.tree.children:
            node = self.session.tree
        return resolve(node, rest)

    def may_be_kept(self, text: str) -> bool:
        """Whether a line may go into the history: it is one of ours, and holds no secret."""
        try:
            line = read(text)
            words = line.words
            if not words or SYNONYMS.get(words[0], words[0]) in WORDS:
                return words[:1] != ["call"] or not _takes_secrets(self.session.tree, words[1:2])
            node, rest = self.find(words)
        except UsageError:
            return False
        return isinstance(node, Namespace) or not (rest and node.entry.get("secrets"))

    def _mode(self, line: Line) -> str:
        return line.options.mode or self.mode

    def _set_mode(self, words: list[str]) -> int:
        if len(words) != 1 or words[0] not in MODES:
            if words:
                raise UsageError(f"{' '.join(words)} is no mode: choose one of {', '.join(MODES)}")
            print(self.mode)
            return OK
        self.mode = words[0]
        return OK

    async def _page(self, words: list[str]) -> int:
        node, _ = self.find(words)
        await self._show(listing(node) if isinstance(node, Namespace) else page(node))
        return OK

    async def _help(self) -> int:
        width = max(map(len, WORDS))
        own = "".join(f"  {word:{width}}  {what}\n" for word, what in WORDS.items())
        await self._show(f"{HELP}\n{own}\nHere\n{_indented(listing(self.namespace))}")
        return OK

    async def _call(self, line: Line) -> int:
        if len(line.words) < 2:
            raise UsageError("call what? For instance: call failover.config")
        caller = Caller(self.session, interactive=self.interactive)
        return await caller.run_method(line.words[1], line.words[2:], line.options.mode or "json", line.file)

    async def _watch(self) -> int:
        if not self.interactive:
            raise UsageError("watch needs a terminal")
        from middlewared.cli.shell.watch import watch

        await watch(self.session)
        return OK

    async def _show(self, text: str) -> None:
        await terminal.show(text, paged=self.interactive)


def read(text: str) -> Line:
    """Split a line and take options and `> FILE` out of it. Raises UsageError."""
    if _unbalanced(text):
        raise UsageError('a quote (") is open')
    tokens, file = split_line(text), None
    if len(tokens) > 1 and tokens[-2] == ">":
        tokens, file = tokens[:-2], tokens[-1]
    elif len(tokens) > 1 and tokens[-1].startswith(">"):
        tokens, file = tokens[:-1], tokens[-1][1:]
    if file == "":
        raise UsageError("write to which file?")
    options = usage.parse(tokens)
    for name in OUTSIDE:
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} belongs to the start of midctl, not into its shell")
    return Line(options.words, options, file)


async def run_all(interpreter: Interpreter, file: TextIO) -> int:
    """Lines from a pipe, to the end; the first failure is the exit code."""
    status = OK
    with contextlib.suppress(Exit):
        while text := await asyncio.to_thread(file.readline):
            failed = await interpreter.run(text)
            status = status or failed
    return status


def _takes_secrets(tree: Namespace, methods: list[str]) -> bool:
    """Whether a method called by its name is known to take none; one that we do not know might."""
    known = [node for node in tree.descendants() if isinstance(node, Command) and node.method in methods]
    return not known or any(command.entry.get("secrets") for command in known)


def _unbalanced(text: str) -> bool:
    return text.replace("\\\\", "").replace('\\"', "").count('"') % 2 == 1


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
