"""What starts the shell: a terminal, a pipe with commands, one command with the editor, or `watch`."""

import asyncio
import sys

from middlewared.cli.commands import Namespace
from middlewared.cli.explain import OK
from middlewared.cli.shell.calls import Caller, Wanted
from middlewared.cli.shell.lines import Interpreter, run_all
from middlewared.cli.shell.session import Session
from middlewared.cli.usage import Options, UsageError


def run(options: Options) -> int:
    """The exit code. Raises what connecting and calling raise."""
    return asyncio.run(_run(options))


async def _run(options: Options) -> int:
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    session = Session(options, _say)
    await session.open()
    try:
        if options.words == ["watch"]:
            if not interactive:
                raise UsageError("watch needs a terminal; for programs there is: midctl subscribe failover.status")
            from middlewared.cli.shell.watch import watch

            await watch(session)
            return OK
        interpreter = Interpreter(session, options.mode or "table", interactive=interactive)
        if options.words:
            return await _one(interpreter, options)
        if not interactive:
            return await run_all(interpreter, sys.stdin)
        from middlewared.cli.shell.prompt import Prompt

        return await Prompt(session, interpreter).run()
    finally:
        await session.close()


async def _one(interpreter: Interpreter, options: Options) -> int:
    """A single command that wants the editor. Raises what went wrong."""
    command, rest = interpreter.find([word for word in options.words if word != "--"])
    if isinstance(command, Namespace):
        raise UsageError(f'"{command.path}" is not a whole command')
    tokens = [*rest, "--"] if options.words[-1] == "--" else rest
    wanted = Wanted(command, tokens, options, options.mode or "table")
    return await Caller(interpreter.session, interactive=interpreter.interactive).run(wanted)


def _say(text: str) -> None:
    """What the connection tells, whatever goes on on the terminal."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{clear}{text}", file=sys.stderr, flush=True)
