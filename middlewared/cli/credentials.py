"""Where to connect and as whom: command line, then environment, then ~/.config/midctl.toml."""

import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from middlewared.cli.usage import MODES, Options, UsageError
from middlewared.client import ClientError
from middlewared.client.endpoint import default_url

if TYPE_CHECKING:
    from middlewared.client.blocking import BlockingClient

SECRETS = ("password", "password_file", "api_key_file")
FILE_KEYS: dict[str, type | tuple[type, ...]] = {
    "url": str,
    "user": str,
    "password": str,
    "password_file": str,
    "api_key_file": str,
    "mode": str,
    "timeout": (int, float),
    "insecure": bool,
}
SECRET_BYTES_MAX = 64 << 10


def complete(options: Options) -> None:
    """Fill in from the environment and the file what the command line left open. Raises UsageError."""
    if sum(getattr(options, name) is not None for name in SECRETS) > 1:
        raise UsageError("give one of --password, --password-file and --api-key-file")
    _adopt(options, _environment())
    _adopt(options, _file())


class Login(NamedTuple):
    """As whom. The secrets have been read: a shell that connects again after a failover asks nobody."""

    user: str | None = None
    password: str | None = None
    api_key: str | None = None
    otp: str | None = None


def connect(options: Options) -> "BlockingClient":
    """Connect and log in. Raises ClientError (LoginError when refused) with the remedy."""
    from middlewared.client.blocking import CALL_TIMEOUT_S, BlockingClient

    try:
        client = BlockingClient(
            options.url or default_url(),
            timeout_s=options.timeout_s or CALL_TIMEOUT_S,
            verify=not options.insecure,
        )
    except ClientError as error:
        raise unreachable(options, error) from error
    try:
        login = resolve(options)
        if login.api_key is not None:
            client.login_api_key(login.api_key, login.user)
        elif login.user is not None and login.password is not None:
            client.login_password(login.user, login.password, login.otp)
    except BaseException:
        client.__exit__()
        raise
    return client


def unreachable(options: Options, error: ClientError) -> ClientError:
    """The error, and where a daemon might be if nobody said where."""
    return ClientError(f"{error}{_lab_hint() if options.url is None else ''}")


def resolve(options: Options) -> Login:
    """Read the secrets that the options name; ask for a password that is missing. Raises UsageError."""
    if options.api_key_file is not None:
        return Login(options.user, api_key=read_secret(options.api_key_file).strip())
    password = options.password
    if options.password_file is not None:
        password = read_secret(options.password_file)
    if options.user is None:
        if password is not None:
            raise UsageError("a password needs a user: --user USER (or MIDCTL_USER)")
        return Login()
    if password is None:
        if not sys.stdin.isatty():
            raise UsageError("--user needs --password-file F (or MIDCTL_PASSWORD, or --api-key-file F)")
        import getpass

        password = getpass.getpass(f"Password of {options.user}: ")
    return Login(options.user, password, otp=options.otp)


def read_secret(path: str) -> str:
    """A secret without its line end, from a file that nobody else may read (or from a pipe)."""
    path = os.path.expanduser(path)
    try:
        with open(path, encoding="utf-8") as file:
            _demand_private(os.fstat(file.fileno()), path)
            return file.read(SECRET_BYTES_MAX).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _demand_private(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise UsageError(f"{path} may be read by others (mode {mode:04o}): chmod 600 {path}")
    if status.st_uid not in (os.geteuid(), 0):
        raise UsageError(f"{path} belongs to another user: chown it to yourself")


def _adopt(options: Options, source: dict[str, Any]) -> None:
    """Take over what is still open. A secret counts as one thing: the nearest source that has any wins."""
    if any(getattr(options, name) is not None for name in SECRETS):
        source = {name: value for name, value in source.items() if name not in SECRETS}
    for name, value in source.items():
        if getattr(options, name) in (None, False):
            setattr(options, name, value)


def _environment() -> dict[str, Any]:
    names = ("url", "user", "password", "api_key_file")
    found = {name: os.environ.get(f"MIDCTL_{name.upper()}") for name in names}
    if found["password"] and found["api_key_file"]:
        raise UsageError("set one of MIDCTL_PASSWORD and MIDCTL_API_KEY_FILE")
    return {name: value for name, value in found.items() if value}


def _file() -> dict[str, Any]:
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = os.path.join(folder, "midctl.toml")
    try:
        file = open(path, "rb")  # noqa: SIM115  closed below; a missing file is the usual case
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    import tomllib

    with file:
        _demand_private(os.fstat(file.fileno()), path)
        try:
            found = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not TOML: {error}") from error
    for name, value in found.items():
        if name not in FILE_KEYS:
            raise UsageError(f'{path}: unknown key "{name}"; known are {", ".join(FILE_KEYS)}')
        if not isinstance(value, FILE_KEYS[name]) or (name == "mode" and value not in MODES):
            raise UsageError(f"{path}: {name} has a wrong value")
    if sum(name in found for name in SECRETS) > 1:
        raise UsageError(f"{path}: give one of {', '.join(SECRETS)}")
    if "timeout" in found:
        found["timeout_s"] = found.pop("timeout")
    return found


def _answers(path: str) -> bool:
    """Somebody listens on this unix socket; what a lab that crashed left behind does not count."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _lab_hint() -> str:
    """The daemon is not there, but a lab may be: name its sockets."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    places = [f"/tmp/middlewared-lab-{os.getuid()}"]  # noqa: S108  the lab's own default; only looked at
    if runtime:
        places.insert(0, os.path.join(runtime, "middlewared-lab"))
    for place in places:
        sockets = [path for node in "ab" if _answers(path := os.path.join(place, node, "middlewared.sock"))]
        if sockets:
            return "\nA lab is running here: add " + " or ".join(f"--url ws+unix://{path}" for path in sockets)
    return "\nElsewhere: --url ws://HOST:PORT"
