"""What `midctl watch` shows: the questions it asks, and how the answers look. Pure."""

import textwrap
from collections.abc import Iterator
from typing import Any

from prompt_toolkit.formatted_text import StyleAndTextTuples as Text

from middlewared.cli.output import printable
from middlewared.cli.shell.board import CHANGES, STATUS, TO_OTHER, Source
from middlewared.cli.shell.statusline import other_node, other_role, role_style

ALERTS = ("alert.list",)

SOURCES = {
    **STATUS,
    "explain": Source("failover.explain", events=CHANGES),
    "info": Source("system.info", again=True),
    "other_info": Source("failover.call_remote", ("system.info", [], TO_OTHER), events=CHANGES, again=True),
    "interfaces": Source("interface.query", events=("interface.query", *CHANGES)),
    "keeper": Source("failover.fenced.run_info", events=CHANGES, again=True),
    "pools": Source("pool.query", events=CHANGES, again=True),
    "rehearsal": Source("failover.rehearse", events=(*CHANGES, *ALERTS)),  # it reads every disk: only on a change
    "history": Source("failover.history", ([], {"limit": 5}), events=("failover.history",)),
    "alerts": Source("alert.list", events=ALERTS),
}
LABEL_COLUMNS = 14


def draw(answers: dict[str, Any], *, connected: bool, columns: int) -> Text:
    """All sections, each line ended. A section whose question was not answered is left out."""
    if not connected:
        return [("class:bad", " No connection: trying again …\n")]
    text: Text = []
    sections = {
        "Controllers": _controllers(answers),
        "Failover": _failover(answers, columns),
        "Virtual IPs": _addresses(answers),
        "Reservations": _reservations(answers),
        "Pools": _pools(answers),
        "Replication": _replication(answers),
        "Last failovers": _history(answers),
        "Alerts": _alerts(answers, columns),
    }
    for title, lines in sections.items():
        for number, line in enumerate(_understood(lines)):
            if number == 0:
                text.append(("", "\n"))
            text.append(("class:label", f" {title if number == 0 else '':{LABEL_COLUMNS}} "))
            text += [*((style, printable(part)) for style, part, *_ in line), ("", "\n")]
    return text


def _understood(lines: Iterator[Text]) -> Iterator[Text]:
    """The lines; a server of another version may answer with something else than we know how to show."""
    try:
        yield from lines
    except (KeyError, TypeError, ValueError, AttributeError):
        yield [("class:dim", "(this controller answers in a way that this version does not understand)")]


def _controllers(answers: dict[str, Any]) -> Iterator[Text]:
    node, status = answers.get("node"), answers.get("status")
    if node is None or status is None:
        return
    rows = [(node, status, answers.get("info"))]
    if status != "SINGLE":
        rows.append((other_node(node), other_role(answers), answers.get("other_info")))
    for name, role, info in sorted(rows, key=lambda row: row[0]):
        line: Text = [("", f"{name}  "), (role_style(role), f"{role:<12}")]
        if info:
            line.append(
                ("", f"{info['hostname']}  {info['version']}  up {info['uptime']}  {info['system_serial'] or ''}")
            )
        yield line


def _failover(answers: dict[str, Any], columns: int) -> Iterator[Text]:
    if answers.get("ongoing"):
        yield [("class:warn", "under way")]
    reasons = answers.get("explain")
    if reasons == [] and not answers.get("ongoing"):
        yield [("class:good", "works")]
    for reason in reasons or []:
        since = reason.get("since")
        when = f"  since {since:%H:%M:%S}" if hasattr(since, "strftime") else ""
        yield [("class:bad", reason["code"]), ("class:dim", when), ("", f"  {_evidence(reason.get('evidence'))}")]
        for line in textwrap.wrap(f"→ {reason['remedy']}", max(columns - LABEL_COLUMNS - 6, 20)):
            yield [("", f"  {line}")]


def _evidence(evidence: Any) -> str:
    if isinstance(evidence, list):
        return ", ".join(str(each) for each in evidence)
    return "" if evidence is None else str(evidence)


def _addresses(answers: dict[str, Any]) -> Iterator[Text]:
    for interface in answers.get("interfaces") or []:
        for alias in interface.get("failover_virtual_aliases") or []:
            up = interface["state"].get("link_state") == "LINK_STATE_UP"
            here = any(each["address"] == alias["address"] for each in interface["state"].get("aliases") or [])
            place = f"on {answers.get('node')}" if here else "not on this controller"
            link: tuple[str, str] = ("class:good", "link up") if up else ("class:bad", "link down")
            yield [("", f"{alias['address']}/{alias['netmask']}  {interface['name']}  {place}  "), link]


def _reservations(answers: dict[str, Any]) -> Iterator[Text]:
    keeper = answers.get("keeper")
    if not keeper:
        return
    if not keeper.get("running"):
        yield [("class:bad", "the keeper (fenced) does not run")]
        return
    disks = keeper.get("disks") or []
    held = sum(1 for disk in disks if disk.get("held"))
    style = "class:good" if held == len(disks) else "class:warn" if held else "class:calm"
    text = f"{held} of {len(disks)} disks held by {answers.get('node')}" if keeper.get("held") else "held by the other"
    yield [(style if keeper.get("held") else "class:calm", text), ("", f"  the other's key: {keeper.get('peer')}")]
    for disk in disks:
        if disk.get("failure"):
            yield [("class:bad", f"{disk['serial']}: {disk['failure']}")]


def _pools(answers: dict[str, Any]) -> Iterator[Text]:
    for pool in answers.get("pools") or []:
        style = "class:good" if pool.get("healthy") else "class:bad"
        if not pool.get("imported"):
            yield [("", f"{pool['name']:<12}"), ("class:calm", "not imported here")]
            continue
        free, size = pool.get("free"), pool.get("size")
        room = f"  {_bytes(free)} free of {_bytes(size)}" if free is not None and size else ""
        yield [("", f"{pool['name']:<12}"), (style, str(pool.get("status"))), ("", room)]


def _replication(answers: dict[str, Any]) -> Iterator[Text]:
    """Of the configuration, to the standby: a rehearsal compares both copies."""
    for check in (answers.get("rehearsal") or {}).get("checks", ()):
        if check["name"] == "configuration":
            style = "class:good" if check["ok"] else "class:bad"
            yield [("", f"{check['subject']} "), (style, check["detail"])]


def _history(answers: dict[str, Any]) -> Iterator[Text]:
    for row in answers.get("history") or []:
        started = row.get("started_at")
        when = f"{started:%Y-%m-%d %H:%M:%S}" if hasattr(started, "strftime") else "?"
        duration = row.get("duration_ms")
        took = f"{duration} ms" if duration is not None else "…"
        good = row.get("error") is None and row.get("outcome") not in ("ERROR", "INTERRUPTED")
        yield [
            ("class:dim", f"{when}  "),
            ("", f"{row.get('node')}  {row.get('role'):<10} {took:>9}  "),
            ("class:good" if good else "class:bad", f"{row.get('outcome') or 'under way':<10}"),
            ("", f" {row.get('trigger')}"),
        ]


def _alerts(answers: dict[str, Any], columns: int) -> Iterator[Text]:
    """Those that the reasons above have not said."""
    for alert in answers.get("alerts") or []:
        if str(alert.get("key", "")).startswith("failover.reason.") or alert.get("dismissed"):
            continue
        style = "class:bad" if alert.get("level") == "CRITICAL" else "class:warn"
        lines = textwrap.wrap(str(alert.get("text")), max(columns - LABEL_COLUMNS - 14, 20))
        for number, line in enumerate(lines):
            yield [(style, f"{alert.get('level') if number == 0 else '':<9}"), ("", f" {line}")]


def _bytes(count: int | float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if count < 1024 or unit == "PiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""
