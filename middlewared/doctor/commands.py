"""The command `middlewared doctor`. Exit status: 0 nothing is missing, 1 something is, 2 the settings are wrong."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from middlewared import drivers
from middlewared.doctor import host
from middlewared.ports import Finding
from middlewared.settings import Settings, SettingsError, load

SIMULATED = "drivers = simulated: of the machine itself nothing is looked at."


def main(arguments: Sequence[str], default_config: Path) -> int:
    parser = argparse.ArgumentParser(
        prog="middlewared doctor", description="Look at this host, change nothing, and say what it lacks."
    )
    parser.add_argument("--config", type=Path, default=default_config, metavar="FILE", help="settings (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    try:
        settings = load(options.config)
        findings = asyncio.run(examine(settings, datetime.now(UTC)))
    except SettingsError as error:
        print(f"middlewared doctor: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"drivers": settings.drivers, "findings": [asdict(one) for one in findings]}, indent=2))
    else:
        print(report(findings, simulated=settings.drivers == "simulated"), end="")
    return 0 if all(finding.ok for finding in findings) else 1


async def examine(settings: Settings, now: datetime) -> list[Finding]:
    """Everything: the host first, then the drivers in their order."""
    found = await asyncio.gather(host.examine(settings, now), drivers.examine(drivers.to_examine(settings)))
    return [finding for findings in found for finding in findings]


def report(findings: Sequence[Finding], *, simulated: bool) -> str:
    """The table as text: a line a finding, and below it the remedy where one is needed."""
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = [SIMULATED, ""] if simulated else []
    for finding in findings:
        lines.append(f"{'ok' if finding.ok else 'MISSING':7}  {finding.subject:{width}}  {finding.detail}")
        if not finding.ok and finding.remedy:
            lines.append(f"{'':7}  {'':{width}}  -> {finding.remedy}")
    missing = sum(not finding.ok for finding in findings)
    lines += ["", f"{missing} of {len(findings)} missing." if missing else f"All {len(findings)} are fine."]
    return "".join(f"{line}\n" for line in lines)
