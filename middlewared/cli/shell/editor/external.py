"""A text in $EDITOR, in a file that nobody else can read and that is gone afterwards."""

import asyncio
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from middlewared.cli.shell import terminal
from middlewared.cli.usage import UsageError

USUAL = ("sensible-editor", "editor", "nano", "vi")


async def edit(text: str, read: Callable[[str], list[Any]]) -> list[Any] | None:
    """What `read` makes of the edited text; None when the text is empty, or the user gives up correcting it."""
    program = _program()
    while True:
        text = await asyncio.to_thread(_edited, program, text)
        if not text.strip():
            return None
        try:
            return read(text)
        except UsageError as error:
            print(error, file=sys.stderr)
            if (await terminal.ask("Edit it again? [Y/n] ")).lower()[:1] == "n":
                return None


def _edited(program: list[str], text: str) -> str:
    number, path = tempfile.mkstemp(prefix="midctl-", suffix=".yaml")  # mkstemp: mode 0600
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        done = subprocess.run([*program, path], check=False)
        if done.returncode != 0:
            raise UsageError(f"{program[0]} ended with {done.returncode}: nothing was done")
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot edit with {program[0]}: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _program() -> list[str]:
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if chosen:
        return shlex.split(chosen)
    found = next((name for name in USUAL if shutil.which(name)), None)
    if found is None:
        raise UsageError("no editor: set EDITOR to the one that you like")
    return [found]
