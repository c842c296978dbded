"""The program `middlewared`: the daemon of one controller, what belongs to setting one up, or the lab.

middlewared [--config FILE]     run this controller's daemon (default: /etc/middlewared/middlewared.toml)
middlewared doctor …            what this host lacks, and the remedy; `middlewared doctor --help`
middlewared pair …              make this controller and another one a pair; `middlewared pair --help`
middlewared licence …           the pair's licence, which it issues itself; `middlewared licence --help`
middlewared lab …               two simulated controllers on this computer; `middlewared lab --help`
"""

import argparse
import sys
from pathlib import Path

from middlewared import __version__

DEFAULT_CONFIG = Path("/etc/middlewared/middlewared.toml")


def main() -> int:
    """Exit status: 0 ended as asked, 1 failed, 2 wrong words on the command line."""
    if sys.argv[1:2] == ["lab"]:
        from middlewared.lab.commands import main as lab

        return lab(sys.argv[2:])
    if sys.argv[1:2] == ["doctor"]:
        from middlewared.doctor.commands import main as doctor

        return doctor(sys.argv[2:], DEFAULT_CONFIG)
    if sys.argv[1:2] == ["pair"]:
        from middlewared.pairing import main as pair

        return pair(sys.argv[2:], DEFAULT_CONFIG)
    if sys.argv[1:2] == ["licence"]:
        from middlewared.licensing import main as licence

        return licence(sys.argv[2:], DEFAULT_CONFIG)
    parser = argparse.ArgumentParser(
        prog="middlewared",
        description="High availability for two-controller storage: the daemon of one controller.",
        epilog="`middlewared pair --help`: make a pair of two controllers. `middlewared doctor --help`: what this host"
        " lacks. `middlewared licence --help`: the pair's licence. `middlewared lab --help`: two simulated controllers"
        " on this computer.",
    )
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="settings (default: %(default)s)"
    )
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.add_argument("--version", action="version", version=f"middlewared {__version__}")
    arguments = parser.parse_args()

    from middlewared.daemon import run

    return run(arguments.config, arguments.log_level)


if __name__ == "__main__":
    sys.exit(main())
