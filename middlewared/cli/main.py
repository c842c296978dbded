"""The program midctl: one command, then out.

Imports are made where they are needed: what a command does not use it does not pay for.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from middlewared.cli.explain import BROKEN_PIPE, FAILED, OK, USAGE, explain
from middlewared.cli.usage import LONG, PROGRAM, Options, UsageError, parse, suggestion
from middlewared.errors import ENOMETHOD, CallError

if TYPE_CHECKING:
    from middlewared.cli.commands import Command, Namespace
    from middlewared.cli.running import Prepared
    from middlewared.client.blocking import BlockingClient


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code. Nothing but text for a human ever reaches the user."""
    if argv is None:
        # As a program: Ctrl-C ends it as the kernel does. An exception could come up inside the websocket library
        # while it holds a lock that leaving needs.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        status = _guarded(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more; keep the interpreter from finding out again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def _guarded(argv: Sequence[str]) -> int:
    try:
        return _run(parse(argv))
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("MIDCTL_DEBUG"):
            import traceback

            traceback.print_exc()
        text, status = explain(error)
        sys.stdout.flush()
        print(text.rstrip("\n"), file=sys.stderr)
        return status


def _run(options: Options) -> int:
    if options.version:
        from middlewared import __version__

        print(f"{PROGRAM} {__version__}")
        return OK
    words = options.words
    wants_help = options.help or words[:1] == ["help"]
    if wants_help and words in ([], ["help"]):
        print(LONG, end="")
        return OK
    if words[:1] in (["call"], ["subscribe"]) and len(words) < 2:
        raise UsageError(f'{words[0]} what? See "{PROGRAM} --help"')
    if (options.count or options.listen_s) and words[:1] != ["subscribe"]:
        raise UsageError("-n and -t belong to subscribe")
    from middlewared.cli.credentials import complete, connect

    complete(options)
    if not wants_help and _wants_shell(options):
        from middlewared.cli.shell.program import run

        return run(options)
    with connect(options) as client:
        if wants_help:
            return _help(client, words[1:] if words[0] == "help" else words)
        if words[0] == "call":
            return _call(client, options)
        if words[0] == "subscribe":
            return _subscribe(client, options)
        return _command(client, options)


def _wants_shell(options: Options) -> bool:
    """What needs more than one call and its answer: no command at all, the editor, the dashboard."""
    words = options.words
    return words in ([], ["watch"]) or words[-1] == "--" or options.editor or options.print_template


def _tree(client: "BlockingClient") -> "Namespace":
    from middlewared.cli.commands import build

    services, methods = client.call_all([("core.get_services", ["CLI"]), ("core.get_methods", [None, "CLI"])])
    return build(services, methods)


def _help(client: "BlockingClient", words: list[str]) -> int:
    from middlewared.cli.commands import Namespace, resolve
    from middlewared.cli.manual import listing, page

    node, _ = resolve(_tree(client), words)
    print(listing(node) if isinstance(node, Namespace) else page(node), end="")
    return OK


def _command(client: "BlockingClient", options: Options) -> int:
    from middlewared.cli.commands import Namespace, resolve

    node, rest = resolve(_tree(client), options.words)
    if isinstance(node, Namespace):
        from middlewared.cli.manual import listing

        print(f'{PROGRAM}: "{node.path}" is not a whole command; it goes on with one of', file=sys.stderr)
        print(listing(node), end="", file=sys.stderr)
        return USAGE
    from middlewared.cli import running

    prepared = running.prepare(node, rest)
    if options.dry_run:
        return _rehearse(client, node, options)
    if not options.yes and not _agreed(client, prepared):
        return FAILED
    if node.entry.get("job"):
        from middlewared.cli.following import follow

        stream = sys.stdout if options.mode in (None, "table") else sys.stderr
        result = follow(client, node.method, prepared.params, stream, options.timeout_s)
    else:
        result = client.call(node.method, *prepared.params)
    sys.stdout.write(running.output(prepared, result, options.mode or "table"))
    return OK


def _rehearse(client: "BlockingClient", command: "Command", options: Options) -> int:
    from middlewared.cli import dangers
    from middlewared.cli.output import render

    result = client.call(dangers.rehearsal_of(command))
    sys.stdout.write(render(result, options.mode or "table", whole=True))
    return OK if result.get("would_work") else FAILED


def _agreed(client: "BlockingClient", prepared: "Prepared") -> bool:
    """Ask before something dangerous, if somebody is there to be asked."""
    if not (prepared.command.entry.get("danger") and sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    from middlewared.cli import dangers

    danger = dangers.of(prepared.command, prepared.params)
    if danger is None:
        return True
    rehearsed = None
    if danger.rehearsal:
        with contextlib.suppress(CallError):  # for those who may not rehearse
            rehearsed = client.call(danger.rehearsal)
    sys.stderr.write(dangers.warning(prepared.command, danger, rehearsed) + dangers.QUESTION)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() == "yes":
        return True
    print(dangers.GIVEN_UP, file=sys.stderr)
    return False


def _call(client: "BlockingClient", options: Options) -> int:
    """Like `midclt call` (PROTOCOL 13), but JSON is JSON and a job is followed, its progress on standard error."""
    from middlewared.cli.following import follow

    method, params = options.words[1], [_argument(word) for word in options.words[2:]]
    try:
        result = follow(client, method, params, sys.stderr, options.timeout_s)
    except CallError as error:
        if error.errno != ENOMETHOD:
            raise
        known = list(client.call("core.get_methods", None, "WS"))
        raise CallError(f'no method "{method}"{suggestion(method, known)}', ENOMETHOD) from error
    from middlewared.cli.output import as_json, render

    if options.mode in ("table", "csv"):
        sys.stdout.write(render(result, options.mode))
    else:
        print(result if isinstance(result, str) and options.mode != "json" else as_json(result))
    return OK


def _argument(word: str) -> Any:
    """`-` reads one JSON value from standard input."""
    from middlewared.cli.running import json_argument

    if word != "-":
        return json_argument(word)
    from middlewared.client import extended_json

    try:
        return extended_json.loads(sys.stdin.read())
    except ValueError as error:
        raise UsageError(f"standard input is not JSON: {error}") from None


def _subscribe(client: "BlockingClient", options: Options) -> int:
    """One JSON object a line; 1 when the time was over before N events came."""
    from middlewared.cli.output import as_json

    if len(options.words) > 2:
        raise UsageError("subscribe takes one event; run it twice for two")
    seen = 0
    for event in client.events(options.words[1], options.listen_s):
        print(as_json(event, indent=None), flush=True)
        seen += 1
        if seen == options.count:
            return OK
    if options.count is not None:
        print(f"{PROGRAM}: {seen} of {options.count} events came", file=sys.stderr)
        return FAILED
    return OK
