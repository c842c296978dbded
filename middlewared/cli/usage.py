"""What may stand on the command line, and what we say when it does not."""

from collections.abc import Sequence

PROGRAM = "midctl"
MODES = ("table", "csv", "json")

LONG = f"""\
usage: {PROGRAM} [options] [COMMAND…]

Commands
  (none)                          the interactive shell; commands from standard input if that is no terminal
  WORDS… [VALUE…] [NAME=VALUE…]   run a command of the server: system failover status
  WORDS… --                       fill in its arguments in a form; from YAML on standard input if that is no terminal
  call METHOD [JSON…]             call a method of the API; "-" reads one JSON value from standard input
  subscribe EVENT [-n N] [-t S]   print events, one JSON object a line, until N came or S seconds have passed
  watch                           both controllers on the whole screen, live
  help [WORDS…]                   what there is in a namespace, or how to use a command

Options
  --url URL            ws://HOST:PORT, wss://HOST:PORT or ws+unix:///PATH; without: this machine's daemon
  --user USER          log in as USER; root needs no login on the unix socket
  --password-file F    the password, in a file of mode 0600 (recommended)
  --password P         the password itself: every user of this machine can read it in the process list
  --api-key-file F     an API key, in a file of mode 0600
  --otp CODE           one-time code, for accounts with a second factor
  --mode MODE          table (default), csv or json
  --json               short for --mode json
  --timeout S          seconds to wait for an answer (60; a job may take as long as it lives)
  --insecure           wss:// without checking the certificate
  --yes                do it without asking, however dangerous
  --dry-run            only rehearse it, where the API can: nothing is changed
  --editor             fill in the arguments as YAML in $EDITOR
  --print-template     print that YAML and do nothing
  --version, --help

Environment: MIDCTL_URL, MIDCTL_USER, MIDCTL_PASSWORD, MIDCTL_API_KEY_FILE; MIDCTL_DEBUG=1 shows tracebacks.
File: ~/.config/midctl.toml of mode 0600, with the keys url, user, password, password_file, api_key_file, mode,
timeout, insecure. The command line beats the environment, which beats the file.

Exit codes: 0 done, 1 the call failed, 2 the command line is wrong, 130 interrupted.

Examples
  {PROGRAM} system failover status
  {PROGRAM} --url ws://127.0.10.10:6080 --user admin --password-file ~/.lab-password system failover config
  {PROGRAM} --json system failover disabled reasons
  {PROGRAM} system failover sync_to_peer options='{{"reboot": true}}'
"""

# Option -> the attribute it sets; None: it takes no value.
VALUED = {
    "--url": "url",
    "--user": "user",
    "--password": "password",
    "--password-file": "password_file",
    "--api-key-file": "api_key_file",
    "--otp": "otp",
    "--mode": "mode",
    "--timeout": "timeout_s",
    "-n": "count",
    "-t": "listen_s",
}
# Option -> the attribute that it makes true.
FLAGS = {
    "--insecure": "insecure",
    "--yes": "yes",
    "--dry-run": "dry_run",
    "--editor": "editor",
    "--print-template": "print_template",
    "--version": "version",
    "--help": "help",
    "-h": "help",
}


class UsageError(Exception):
    """The command line is wrong: exit code 2. The text says what would be right."""


class Options:
    """The command line, read. None: not given."""

    def __init__(self) -> None:
        self.url: str | None = None
        self.user: str | None = None
        self.password: str | None = None
        self.password_file: str | None = None
        self.api_key_file: str | None = None
        self.otp: str | None = None
        self.mode: str | None = None
        self.timeout_s: float | None = None
        self.count: int | None = None
        self.listen_s: float | None = None
        self.insecure = False
        self.yes = False
        self.dry_run = False
        self.editor = False
        self.print_template = False
        self.version = False
        self.help = False
        self.words: list[str] = []


def parse(argv: Sequence[str]) -> Options:
    """Options may stand anywhere before a `--`; everything else is a word of the command. Raises UsageError."""
    options = Options()
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            options.words += ["--", *rest]
        elif name in VALUED:
            if not equals:
                value = next(rest, "")
            if not value:
                raise UsageError(f"{name} needs a value")
            setattr(options, VALUED[name], _converted(name, value))
        elif word == "--json":
            options.mode = "json"
        elif word in FLAGS:
            setattr(options, FLAGS[word], True)
        elif word.startswith("-") and word != "-" and not word[1].isdecimal():
            raise UsageError(f'unknown option "{name}"{suggestion(name, [*VALUED, *FLAGS, "--json"])}')
        else:
            options.words.append(word)
    return options


def suggestion(word: str, known: Sequence[str]) -> str:
    """`: did you mean …?`, or nothing when nothing is near."""
    from difflib import get_close_matches  # only wrong command lines pay for it

    near = get_close_matches(word, known, n=1)
    return f': did you mean "{near[0]}"?' if near else ""


def _converted(name: str, value: str) -> str | int | float:
    if name == "--mode" and value not in MODES:
        raise UsageError(f'--mode is one of {", ".join(MODES)}, not "{value}"')
    if name not in ("--timeout", "-t", "-n"):
        return value
    try:
        number = int(value) if name == "-n" else float(value)
    except ValueError:
        number = 0
    if not 0 < number < 1e9:
        raise UsageError(f'{name} needs a number above 0, not "{value}"')
    return number
