"""The command `middlewared pair`. Exit status: 0 done, 1 it could not, 2 wrong words or settings."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from middlewared.client import ClientError
from middlewared.client.blocking import BlockingClient
from middlewared.errors import ENOTAUTHENTICATED, CallError
from middlewared.peer import meeting
from middlewared.peer.introduction import Controller, Paired, PairingError
from middlewared.peer.pairfiles import PairFiles, is_valid
from middlewared.peer.pake import PakeError, new_code, normalise
from middlewared.plugins.platform import host
from middlewared.settings import Settings, SettingsError, load

_ROTATE_TIMEOUT_S = 90.0
_DESCRIPTION = """\
Make this controller and another one a pair.

Run it on one controller: it shows a code, and waits. Run it on the other, with that code. Then each knows the other by
its certificate, they have a licence that names both, and a key for the secrets in their configuration. middlewared need
not run; if it does, it follows within a second. Pairing again, with the same or with another controller, replaces what
was before."""


def main(arguments: Sequence[str], default_config: Path) -> int:
    parser = _parser(default_config)
    options = parser.parse_args(arguments)
    try:
        if options.act is not None and options.code is not None:
            parser.error("a code goes with none of --show, --status, --rotate, --forget")
        settings = load(options.config)
        act: Callable[[Settings, argparse.Namespace], int] = options.act or _pair
        return act(settings, options)
    except (SettingsError, PakeError) as error:
        print(f"middlewared pair: {error}", file=sys.stderr)
        return 2
    except (PairingError, ClientError, CallError) as error:
        print(f"middlewared pair: {_words(error)}", file=sys.stderr)
    except OSError as error:
        print(f"middlewared pair: {error.filename}: {error.strerror}; run it as root", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nmiddlewared pair: stopped; `middlewared pair --status` says whether it is paired", file=sys.stderr)
    return 1


def _words(error: PairingError | ClientError | CallError) -> str:
    if isinstance(error, CallError) and error.errno == ENOTAUTHENTICATED:
        return "middlewared does not know you here: run it as root"
    return error.message if isinstance(error, CallError) else str(error)


def _parser(default_config: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="middlewared pair", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "code", nargs="?", metavar="CODE", help="what the other controller shows; asked for if left out"
    )
    parser.add_argument("--config", type=Path, default=default_config, metavar="FILE", help="settings (%(default)s)")
    parser.add_argument(
        "--peer", metavar="HOST:PORT", help="with a code: where the other waits (beside peer.connect of the settings)"
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to wait (beside peer.listen of the settings)")
    other = parser.add_mutually_exclusive_group()
    for word, act, text in (
        ("--show", _show, "show a code, and wait; never ask for one"),
        (
            "--status",
            _status,
            "who the other is, both fingerprints, when they expire, and whether the link is up (else 1)",
        ),
        ("--rotate", _rotate, "give this controller a new certificate, while the link is up"),
        ("--forget", _forget, "trust the other no longer: it gets nothing from now on"),
    ):
        other.add_argument(word, dest="act", action="store_const", const=act, help=text)
    return parser


# ---------------------------------------------------------------------------------------------- pairing


def _pair(settings: Settings, options: argparse.Namespace) -> int:
    """With a code: the other shows it. Without one, on a terminal: ask which side this is."""
    code = options.code
    if code is None and (options.peer is not None or sys.stdin.isatty()):
        try:
            code = input("Code that the other controller shows (nothing: show one here): ").strip()
        except EOFError as error:
            raise PairingError("there is nobody to be asked for the code") from error
    if not code:
        return _show(settings, options)
    address = options.peer or meeting.address_beside(settings.peer.connect)
    return _told(settings, asyncio.run(meeting.join(_controller(settings), normalise(code), address)))


def _show(settings: Settings, options: argparse.Namespace) -> int:
    address = options.listen or meeting.address_beside(settings.peer.listen)
    code = new_code()

    def listening(where: str) -> None:
        print(f"On the other controller, within {meeting.WAIT_S / 60:.0f} minutes:\n\n    middlewared pair {code}\n")
        print(f"Waiting for it at {where} ...", flush=True)

    def wrong_code(left: int) -> None:
        print(f"Somebody came with a wrong code; {left} more {'try' if left == 1 else 'tries'}.", flush=True)

    me = _controller(settings)
    paired = asyncio.run(meeting.show(me, normalise(code), address, on_listening=listening, on_wrong_code=wrong_code))
    return _told(settings, paired)


def _controller(settings: Settings) -> Controller:
    serial = settings.platform.serial or host.serial()
    if not serial:
        raise SettingsError("this machine has no serial number: set platform.serial in the settings")
    Path(settings.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    return Controller.of(settings, serial)


def _told(settings: Settings, paired: Paired) -> int:
    print(f"Paired with controller {paired.node} ({paired.hostname}), serial number {paired.serial}.")
    print(f"  {settings.node}, this one: {paired.own_fingerprint}")
    print(f"  {paired.node}, the other: {paired.other_fingerprint}")
    print(f"Both print the same two fingerprints. The licence for both was issued by {paired.issuer}.")
    print("middlewared, where it runs, connects within a few seconds: see `middlewared pair --status`.")
    return 0


# ---------------------------------------------------------------------------------------------- a pair that is there


def _status(settings: Settings, options: argparse.Namespace) -> int:
    files = PairFiles(settings.peer)
    if not files.paired:
        print(f"Controller {settings.node} is not paired: `middlewared pair` on both controllers pairs them.")
        return 1
    own, pinned = files.own(), files.pinned()
    print(f"Controller {settings.node} is paired with controller {files.partner() or settings.other_node}.")
    _print_certificate(f"{settings.node}, this one", own)
    _print_certificate(f"{settings.other_node}, the other", pinned[0])
    for certificate in pinned[1:]:
        _print_certificate(f"{settings.other_node}, about to be", certificate)
    ring = files.ring()
    print(f"  key of the pair: {'missing' if ring is None else ring.current_id} ({files.key_path})")
    connected, why = _connected(settings)
    print(f"The link is {'up' if connected else 'not up'}{why}.")
    return 0 if connected and ring is not None and all(is_valid(one) for one in (own, pinned[0])) else 1


def _print_certificate(whose: str, certificate: x509.Certificate) -> None:
    until = certificate.not_valid_after_utc
    state = "valid until" if is_valid(certificate) else "EXPIRED on"
    if datetime.now(UTC) < certificate.not_valid_before_utc:
        state = "NOT YET VALID (is the clock right?), until"
    print(f"  {whose}: {state} {until:%Y-%m-%d}")
    print(f"    {certificate.fingerprint(hashes.SHA256()).hex(':')}")


def _connected(settings: Settings) -> tuple[bool, str]:
    """What the daemon says, and why it says nothing."""
    try:
        return bool(_ask(settings, "pair.status")["connected"]), ""
    except (ClientError, CallError) as error:
        return False, f", as far as can be seen: {_words(error)}"


def _rotate(settings: Settings, options: argparse.Namespace) -> int:
    said = _ask(settings, "pair.rotate")
    print(f"Controller {settings.node} has a new certificate, and the link is up with it:")
    print(f"  {said['own']['fingerprint']}, valid until {said['own']['expires_at']:%Y-%m-%d}")
    print(f"The one of controller {settings.other_node} stays: run the same there to renew it.")
    return 0


def _forget(settings: Settings, options: argparse.Namespace) -> int:
    files = PairFiles(settings.peer)
    with files.exclusive():
        who = files.partner() or settings.other_node
        if not files.forget():
            print("There was nobody to forget: this controller is not paired.")
            return 0
    print(f"Controller {who} is not trusted any more. Where middlewared runs here, its link ends within a second.")
    print("`middlewared pair` on both controllers makes them a pair again.")
    return 0


def _ask(settings: Settings, method: str) -> Any:
    """Of the daemon of this controller, as root."""
    with BlockingClient(f"ws+unix://{settings.socket}", timeout_s=_ROTATE_TIMEOUT_S) as client:
        return client.call(method)
