"""The link on the distribution's own Python, where that is another patch release than the one that runs the tests.

asyncio's transports differ between patch releases: on Debian 12's 3.11.2 the link once never connected, while all tests
passed on 3.11.7.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SYSTEM_PYTHON = Path("/usr/bin/python3")
ROOT = Path(__file__).parents[3]
VERSION = "import sys; print(*sys.version_info[:3])"


def _version() -> tuple[int, ...]:
    if not SYSTEM_PYTHON.exists():
        return ()
    return tuple(map(int, subprocess.check_output([SYSTEM_PYTHON, "-c", VERSION], text=True, timeout=30).split()))


def test_the_link_works_there() -> None:
    version = _version()
    if version[:2] != sys.version_info[:2] or version == sys.version_info[:3]:
        pytest.skip(f"needs a system Python of another patch release of {sys.version_info[0]}.{sys.version_info[1]}")
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])  # compiled modules fit within a minor release
    ended = subprocess.run(
        [SYSTEM_PYTHON, "-m", "pytest", "-x", "-p", "no:cacheprovider", "tests/unit/peer/test_link.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
