"""The command `middlewared licence`. Exit status: 0 done, 1 it could not, 2 wrong words or settings."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from middlewared.licence.document import LicenceError
from middlewared.licence.files import Issued, LicenceFiles
from middlewared.plugins.platform import host
from middlewared.settings import SettingsError, load


def main(arguments: Sequence[str], default_config: Path) -> int:
    options = _parser(default_config).parse_args(arguments)
    act: Callable[[LicenceFiles, argparse.Namespace], None] = options.act
    try:
        settings = load(options.config)
        options.serial = options.serial or settings.platform.serial
        act(LicenceFiles(Path(settings.state_dir)), options)
    except SettingsError as error:
        print(f"middlewared licence: {error}", file=sys.stderr)
        return 2
    except LicenceError as error:
        print(f"middlewared licence: no licence: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"middlewared licence: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _parser(default_config: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="middlewared licence",
        description="The licence names the two controllers of a pair. The pair issues it itself, free of charge.",
    )
    parser.add_argument("--config", type=Path, default=default_config, metavar="FILE", help="settings (%(default)s)")
    parser.add_argument("--serial", default="", help="of this controller, where it is not what the firmware says")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    issue = commands.add_parser("issue", help="make a licence for this controller and the other")
    issue.add_argument("other", metavar="OTHER_SERIAL", help="`middlewared licence serial` on the other says it")
    issue.add_argument("--expires", default="", metavar="TIME", help="like 2030-12-31T00:00:00Z; otherwise never")
    issue.set_defaults(act=_issue)
    commands.add_parser("serial", help="the serial number of this controller").set_defaults(act=_serial)
    commands.add_parser("show", help="what the licence says").set_defaults(act=_show)
    commands.add_parser("verify", help="whether it holds for this controller").set_defaults(act=_verify)
    install = commands.add_parser("install", help="take over a licence that was issued elsewhere, and trust its key")
    install.add_argument("licence", type=Path, metavar="LICENCE", help="licence.json of the other controller")
    install.add_argument("key", type=Path, metavar="KEY", help="the public key, PEM: licence-keys/pair.pem there")
    install.set_defaults(act=_install)
    return parser


def _own_serial(options: argparse.Namespace) -> str:
    return str(options.serial) or host.serial()


def _issue(files: LicenceFiles, options: argparse.Namespace) -> None:
    files.issue((_own_serial(options), options.other), expires_at=options.expires)
    print(f"{files.path} holds for {_own_serial(options)} and {options.other}. The other controller needs it too.")


def _serial(files: LicenceFiles, options: argparse.Namespace) -> None:
    print(_own_serial(options))


def _show(files: LicenceFiles, options: argparse.Namespace) -> None:
    print(json.dumps(asdict(files.read()), indent=2))


def _verify(files: LicenceFiles, options: argparse.Namespace) -> None:
    licence = files.check(_own_serial(options))
    print(f"It holds: {' and '.join(licence.serials)}, issued by {licence.issuer} at {licence.issued_at}.")


def _install(files: LicenceFiles, options: argparse.Namespace) -> None:
    files.install(Issued(options.licence.read_bytes(), options.key.read_bytes()))
    _verify(files, options)
