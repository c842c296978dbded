"""The program midctl: one command, then out.

Imports are made where they are needed: what a command does not use it does not pay for.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from middlewared.cli.usage import LONG, PROGRAM, SHORT, Options, UsageError, parse, suggestion
from middlewared.client import ClientError
from middlewared.errors import ENOMETHOD, ENOTAUTHENTICATED, CallError, ValidationErrors

if TYPE_CHECKING:
    from middlewared.cli.commands import Command, Namespace
    from middlewared.client.blocking import BlockingClient

OK, FAILED, USAGE, BROKEN_PIPE = 0, 1, 2, 141

# The administrator's contract shows these results so; everywhere else they stay as on the wire.
WORDS_SHOWN = {"failover.status": {"BACKUP": "SLAVE"}}
SILENT = ("config.update", "crud.create", "crud.update", "crud.delete")
SHOWN_ALTHOUGH_CREATED = ("api_key.create",)  # the key is shown now or never


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
        text, status = _explain(error)
        sys.stdout.flush()
        print(text.rstrip("\n"), file=sys.stderr)
        return status


def _explain(error: Exception) -> tuple[str, int]:
    """One or two lines and the exit code (PROTOCOL 10.5)."""
    if isinstance(error, UsageError):
        return f"{PROGRAM}: {error}", USAGE
    if isinstance(error, ClientError):
        return f"{PROGRAM}: {error}", FAILED
    if isinstance(error, ValidationErrors):
        lines = [f"* {attribute}: {text}" if attribute else f"* {text}" for attribute, text, _ in error.errors]
        return "\n".join(["Validation errors:", *lines]), FAILED
    if isinstance(error, CallError):
        hint = ""
        if error.errno == ENOTAUTHENTICATED:
            hint = "\nLog in with --user USER --password-file F, or with --api-key-file F; see midctl --help"
        return f"Error: {error.message}{hint}", FAILED
    return f"{PROGRAM}: unexpected {type(error).__name__}: {error} (MIDCTL_DEBUG=1 shows where)", FAILED


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
    if not words:
        print(SHORT, end="", file=sys.stderr)
        return USAGE
    if words[0] in ("call", "subscribe") and len(words) < 2:
        raise UsageError(f'{words[0]} what? See "{PROGRAM} --help"')
    if (options.count or options.listen_s) and words[0] != "subscribe":
        raise UsageError("-n and -t belong to subscribe")
    from middlewared.cli.credentials import complete, connect

    complete(options)
    with connect(options) as client:
        if wants_help:
            return _help(client, words[1:] if words[0] == "help" else words)
        if words[0] == "call":
            return _call(client, options)
        if words[0] == "subscribe":
            return _subscribe(client, options)
        return _command(client, options)


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
    result = _invoke(client, node, rest, options)
    mode = options.mode or "table"
    silent = node.kind in SILENT and node.method not in SHOWN_ALTHOUGH_CREATED
    told = node.entry.get("job") and (
        result is None or result is True
    )  # the progress and the exit code have said it all
    if mode != "json" and (silent or told):
        return OK
    from middlewared.cli.output import render

    whole = any(schema.get("x-cli-whole") for schema in node.entry.get("returns") or ())
    sys.stdout.write(render(result, mode, whole=whole))
    return OK


def _invoke(client: "BlockingClient", command: "Command", tokens: list[str], options: Options) -> Any:
    """Call the command's method and return what is to be shown."""
    if command.entry.get("filterable"):
        from middlewared.cli import filters

        params, columns = filters.parse(tokens)
        return filters.select(client.call(command.method, *params), columns)
    from middlewared.cli.arguments import parse as parse_arguments

    params = parse_arguments(command, tokens)
    if command.entry.get("job"):
        stream = sys.stdout if options.mode in (None, "table") else sys.stderr
        return _follow(client, command.method, params, stream, options)
    result = client.call(command.method, *params)
    shown = WORDS_SHOWN.get(command.method, {})
    return shown.get(result, result) if isinstance(result, str) else result


def _follow(client: "BlockingClient", method: str, params: list[Any], stream: Any, options: Options) -> Any:
    from middlewared.cli.output import ProgressPrinter

    def write(line: str) -> None:
        stream.write(line)
        stream.flush()  # whoever waits for a job sees it move, through a pipe too

    return client.call_job(method, *params, on_progress=ProgressPrinter(write), timeout_s=options.timeout_s)


def _call(client: "BlockingClient", options: Options) -> int:
    """Like `midclt call` (PROTOCOL 13), but JSON is JSON and a job is followed, its progress on standard error."""
    method, params = options.words[1], [_json_argument(word) for word in options.words[2:]]
    try:
        result = _follow(client, method, params, sys.stderr, options)
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


def _json_argument(word: str) -> Any:
    """JSON if it is, text otherwise."""
    from middlewared.client import extended_json

    if word == "-":
        try:
            return extended_json.loads(sys.stdin.read())
        except ValueError as error:
            raise UsageError(f"standard input is not JSON: {error}") from None
    try:
        return extended_json.loads(word)
    except ValueError:
        return word


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
