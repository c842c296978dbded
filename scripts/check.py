"""Run the project's checks, in order, and stop at the first that fails: `check.py [STAGE…]`, all without arguments.

One line a stage. A stage's output is shown when it fails, and is kept whole in build/check/STAGE.log.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
LOGS = ROOT / "build" / "check"
SHOWN_LINES_MAX = 200
SKIPPED_SHOWN_MAX = 10

# name: (time limit in seconds, command). Quick ones first: a stray blank is told in a second.
STAGES: dict[str, tuple[int, list[str]]] = {
    "format": (60, ["ruff", "format", "--check", "."]),
    "lint": (60, ["ruff", "check", "."]),
    "imports": (120, ["lint-imports", "--no-cache"]),
    "types": (600, ["mypy"]),
    # Whatever is not named after it belongs to it, so that a new folder of tests is never left out.
    "unit": (
        900,
        ["pytest", "tests", *(f"--ignore=tests/{name}" for name in ("contract", "scenarios", "lab", "netns", "vm"))],
    ),
    "contract": (300, ["pytest", "tests/contract"]),
    "scenarios": (900, ["pytest", "tests/scenarios"]),
    "interruptions": (900, ["python", "-m", "tests.scenarios", "--interrupt", "--every", "5"]),
    "simulator": (1200, ["python", "-m", "tests.simulator", "--check"]),
    "lab": (1800, ["pytest", "tests/lab"]),
    "netns": (2400, ["pytest", "tests/netns"]),
    "vm": (1800, ["pytest", "tests/vm"]),  # two quick scenarios; all of them: make test-vm
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        print(f"no such stage: {', '.join(unknown)}; there are {', '.join(STAGES)}", file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    for name in names or STAGES:
        print(f"{name:<13}", end=" ", flush=True)
        started = time.monotonic()
        status, output = run(name)
        print(
            f"{'ok' if status == 0 else 'FAILED':<7}{time.monotonic() - started:7.1f} s  {last_line(output)}",
            flush=True,
        )
        for line in skipped(output):
            print(f"          {line}")
        if status != 0:
            report(name, output)
            return 1
    if not names:
        print("all checks passed")
    return 0


def run(name: str) -> tuple[int, str]:
    """Run one stage in a process group of its own; past its time limit the whole group is killed."""
    limit_s, command = STAGES[name]
    log = LOGS / f"{name}.log"
    with log.open("w") as output:
        child = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(limit_s)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as stopped:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(stopped, KeyboardInterrupt):
                raise
            output.write(f"\nstopped: still running after {limit_s} s\n")
            status = 1
    return status, log.read_text(errors="replace")


def last_line(output: str) -> str:
    lines = [line.strip("= ") for line in output.splitlines() if line.strip()]
    return lines[-1][:100] if lines else ""


def skipped(output: str) -> list[str]:
    """What was left out, and why: nobody shall take it for tested."""
    return sorted({line[:150] for line in output.splitlines() if line.startswith("SKIPPED [")})[:SKIPPED_SHOWN_MAX]


def report(name: str, output: str) -> None:
    lines = output.splitlines()
    if len(lines) > SHOWN_LINES_MAX:
        print(f"… the last {SHOWN_LINES_MAX} of {len(lines)} lines; all are in {LOGS / (name + '.log')}")
    print("\n".join(lines[-SHOWN_LINES_MAX:]))
    print(f"\n{name} failed. Again, alone: .venv/bin/python scripts/check.py {name}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stage under way is ended, too
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
