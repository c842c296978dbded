"""`make bench`, or `python -m bench [MEASURE…]`: measure, and print one table.

Needs the addresses of the lab, and about three minutes of an otherwise idle machine. Nothing is asserted about times:
the exit status is 0 unless something broke.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import api, disks, failover, fencing, files, moves, processes, replication
from bench.lab import BenchError, Lab
from bench.table import Row, render

Measure = Callable[[Lab], Awaitable[list[Row]]]

MEASURES: dict[str, Measure] = {
    "idle": processes.measure_idle,  # first, while the daemons are as they started
    "start": processes.measure_start,
    "midctl": processes.measure_midctl,
    "calls": api.measure_calls,
    "takeover": moves.measure_takeover,
    "switchover": moves.measure_switchover,
    "events": api.measure_events,
}
WITHOUT_LAB = {
    "disks": disks.measure_disks,
    "fencing": fencing.measure_fencing,
    "files": files.measure_files,
    "replication": replication.measure_replication,
    "failover": failover.measure_failover,
}


async def _measure(names: list[str]) -> list[Row]:
    rows: list[Row] = []
    for name in names:
        if name in WITHOUT_LAB:
            _say(name)
            rows += await WITHOUT_LAB[name]()
    if set(names) & MEASURES.keys():
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            async with Lab(Path(directory)) as lab:
                for name in names:
                    if name in MEASURES:
                        _say(name)
                        rows += await MEASURES[name](lab)
    return rows


def _say(name: str) -> None:
    print(f"measuring: {name}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure a lab on this computer.")
    every = [*WITHOUT_LAB, *MEASURES]
    parser.add_argument("measure", nargs="*", metavar="MEASURE", help=f"all, unless named: {', '.join(every)}")
    names = parser.parse_args().measure or every
    unknown = [name for name in names if name not in every]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(every)}")
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))  # inherited by the lab and the crowds
    try:
        print(render(asyncio.run(_measure(names))))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
