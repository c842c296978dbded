"""The subcommands of `middlewared lab`. Exit status: 0 done, 1 the lab could not, 2 wrong words."""

import argparse
import asyncio
import dataclasses
import difflib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from middlewared.lab import ledger, properties
from middlewared.lab.netns.layout import CLIENT, NETNS, PREFIX, SHELF
from middlewared.lab.places import LINKS, LOOPBACK, NODES, LabError, Layout, Places, default_directory
from middlewared.lab.vm.inside import inside, is_virtual, read_ledger
from middlewared.lab.vm.layout import PREFIX as VM_PREFIX
from middlewared.lab.vm.layout import SHELVES, VM
from middlewared.lines import LineClient, LineError, LineLost

_GONE_TIMEOUT_S = 15.0
_POLL_S = 0.1
_CALL_TIMEOUT_MS = 60_000  # a shelf that is a machine boots

_NODE_COMMANDS = {
    "kill": "power loss: every process of that controller dies by SIGKILL",
    "boot": "power on",
    "pause": "freeze the whole controller (SIGSTOP)",
    "resume": "let a frozen controller run again (SIGCONT)",
    "restart-daemon": "kill middlewared alone; the controller's init starts it again",
    "kill-keeper": "kill fenced alone; the controller's init starts it again",
    "kill-speaker": "kill keepalived alone; middlewared starts it again (--netns)",
}
_DISK_COMMANDS = {
    "fail-disk": "the disk answers errors to both controllers",
    "repair-disk": "the disk works again",
    "replace-disk": "the disk is taken out for good; a blank one comes in its place, with another serial and number",
}
_PULL_COMMANDS = {
    "pull-disk": "the disk disappears for one controller",
    "push-disk": "the disk is back for that controller",
}


class _Parser(argparse.ArgumentParser):
    """Argparse that suggests what was meant."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = [str(choice) for choice in action.choices or ()]
        if not choices or str(value) in choices:
            return
        raise argparse.ArgumentError(action, f"{_unknown(str(value), choices)}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nSee: {self.prog} --help\n")


def main(argv: list[str]) -> int:
    """Run one subcommand."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 2
    places = Places(arguments.dir.absolute())
    try:
        places.check()
        if arguments.command == "up":
            return _up(places, arguments)
        if arguments.command == "down":
            return _down(places)
        if arguments.command == "status":
            return _status(places, as_json=arguments.json)
        if arguments.command == "exec":
            return _exec(places, arguments.words)
        if arguments.command == "ledger":
            return _ledger(places)
        return _tell(places, arguments)
    except LabError as error:
        print(f"middlewared lab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `middlewared lab status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument(
        "--dir",
        type=Path,
        default=Path(os.environ.get("MIDDLEWARED_LAB_DIR") or default_directory()),
        metavar="DIR",
        help="where the lab keeps its files (default: $MIDDLEWARED_LAB_DIR or %(default)s)",
    )
    parser = _Parser(
        prog="middlewared lab",
        description="Two controllers, their network and their disks on this computer, without root.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, text: str, **options: Any) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common], **options)

    _describe_up(add("up", "start the lab; Ctrl-C ends it"))
    add("down", "end the lab")
    add("status", "show controllers, links and disks").add_argument("--json", action="store_true", help="for programs")
    for name, text in _NODE_COMMANDS.items():
        add(name, text).add_argument("node", choices=NODES, metavar="a|b")
    add("cut", "cut a link").add_argument("link", choices=LINKS, metavar="LINK", help=", ".join(LINKS))
    add("heal", "heal a link, or all").add_argument(
        "link", nargs="?", choices=LINKS, metavar="LINK", help=f"all, unless one of: {', '.join(LINKS)}"
    )
    for name, text in _DISK_COMMANDS.items():
        add(name, text).add_argument("disk", type=_disk, metavar="N", help="its number, from 0")
    for name, text in _PULL_COMMANDS.items():
        command = add(name, text)
        command.add_argument("node", choices=NODES, metavar="a|b")
        command.add_argument("disk", type=_disk, metavar="N", help="its number, from 0")
    add("restart-shelf", "the target restarts, and forgets all reservations that it does not keep")
    add("ledger", "what the workload was acknowledged, and whether all of it is on the disks (--netns)")
    add("exec", "run a command on the client or a controller (--netns)").add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="client|a|b COMMAND…",
        help="for example: exec client ping 192.0.2.10",
    )
    add(
        "set",
        "change a property of a controller",
        usage="middlewared lab set [-h] [--dir DIR] a|b KEY VALUE\n       middlewared lab set pools none|default",
        epilog=f"properties:\n{properties.describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).add_argument("words", nargs="+", metavar="a|b KEY VALUE", help="see below")
    return parser


def _describe_up(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--detach", action="store_true", help="start it in the background, and return when both controllers are healthy"
    )
    up.add_argument(
        "--netns",
        action="store_true",
        help="in network namespaces, with keepalived, nftables and an iSCSI target for real; needs root",
    )
    up.add_argument(
        "--vm",
        action="store_true",
        help="two virtual machines with a real kernel, ZFS and systemd; needs root and qemu",
    )
    up.add_argument(
        "--shelf",
        choices=SHELVES,
        help="with --vm: what serves the disks: tgt (the default), or lio, a third machine with the kernel's target,"
        " which keeps reservations over a loss of power",
    )
    up.add_argument(
        "--paths", type=int, choices=(1, 2), help="with --vm: from each controller to each disk; 2: dm-multipath"
    )


def _disk(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"disks have numbers, from 0; {word!r} is none")
    return int(word)


def _unknown(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
    return f"{word!r} is unknown; {hint}"


# ---------------------------------------------------------------------------------------------- up and down


def _up(places: Places, arguments: argparse.Namespace) -> int:
    if not arguments.vm and (arguments.shelf or arguments.paths):
        print("middlewared lab up: --shelf and --paths are for the lab of virtual machines: add --vm", file=sys.stderr)
        return 2
    layout = _layout(arguments)
    if arguments.vm:
        from middlewared.lab.vm.prepare import ensure

        asyncio.run(ensure(lambda text: print(f"  {text}", flush=True), layout))
    places = dataclasses.replace(places, layout=layout)
    if arguments.detach:
        return asyncio.run(_up_detached(places, _kind(layout)))
    from middlewared.lab.supervisor import run  # all of the lab: other subcommands start faster without

    asyncio.run(run(places))
    return 0


def _layout(arguments: argparse.Namespace) -> Layout:
    if arguments.vm:
        return dataclasses.replace(VM, shelf=arguments.shelf or VM.shelf, paths=arguments.paths or VM.paths)
    return NETNS if arguments.netns else LOOPBACK


def _kind(layout: Layout) -> list[str]:
    """The words of `lab up` that make it."""
    if layout.kind == "vm":
        return ["--vm", "--shelf", layout.shelf, "--paths", str(layout.paths)]
    return ["--netns"] if layout.kind == "netns" else []


async def _up_detached(places: Places, kind: list[str]) -> int:
    places.prepare()
    with places.log.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  not waited for: it outlives us
            [sys.executable, "-m", "middlewared.lab.commands", "up", "--dir", str(places.directory), *kind],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    healthy_s_max = places.layout.healthy_s_max
    deadline_s = time.monotonic() + healthy_s_max
    trouble = "it has not started"
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            print(places.log.read_text().strip() or "middlewared lab: it ended at once", file=sys.stderr)
            return 1
        trouble = await _trouble(places)
        if not trouble:
            print(f"The lab runs in {places.directory}: `middlewared lab status`, `middlewared lab down`.")
            return 0
        await asyncio.sleep(_POLL_S)
    print(
        f"middlewared lab: it runs, but is not healthy after {healthy_s_max} s: {trouble}.\n"
        f"See `middlewared lab status` and the logs in {places.directory}; `middlewared lab down` ends it.",
        file=sys.stderr,
    )
    return 1


async def _trouble(places: Places) -> str:
    """Why the pair is not healthy; empty when it is."""
    from middlewared.lab.daemons import ask_all

    try:
        status = await _ask_room(places, "status")
    except LabError as error:
        return str(error)
    answers = await ask_all(places, {node: row["power"] for node, row in status["controllers"].items()})
    for node in NODES:
        answer = answers.get(node)
        if answer is None:
            ended = status["controllers"][node]["failures"].get("middlewared", 0)
            times = f"; it has ended {ended} times, see {places.node(node) / 'middlewared.log'}" if ended else ""
            return f"middlewared on {node.upper()} does not answer{times}"
        if answer[1]:
            return f"{node.upper()} says {', '.join(answer[1])}"
    roles = sorted(answer[0] for answer in answers.values() if answer is not None)
    return "" if roles == ["BACKUP", "MASTER"] else f"the controllers are {' and '.join(roles)}"


def _down(places: Places) -> int:
    from middlewared.lab.control import Lock

    asyncio.run(_ask_room(places, "down"))
    deadline_s = time.monotonic() + _GONE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            Lock(places).release()
            return 0
        except LabError:
            time.sleep(_POLL_S / 2)
    raise LabError(f"the lab in {places.directory} does not end; see {places.log}")


# ---------------------------------------------------------------------------------------------- the rest


def _exec(places: Places, words: list[str]) -> int:
    if len(words) < 2 or words[0] not in (CLIENT, *NODES):
        print("middlewared lab exec: write client, a or b, and a command", file=sys.stderr)
        return 2
    virtual = is_virtual(places)
    if virtual and words[0] in NODES:
        print(asyncio.run(inside(places, words[0], *words[1:])), end="")
        return 0
    space = f"{VM_PREFIX if virtual else PREFIX}-{words[0]}"
    if os.geteuid() != 0 or not Path(f"/run/netns/{space}").exists():
        raise LabError(
            f"{words[0]} has no network namespace: is `middlewared lab up --netns` running, and are you root?"
        )
    return subprocess.run(["ip", "netns", "exec", space, *words[1:]], check=False).returncode


def _ledger(places: Places) -> int:
    """Reads what lies on the disks and in the controllers' notes; the lab may be running, or over."""
    if is_virtual(places):
        return _virtual_ledger(places)
    files = sorted((places.directory / SHELF).glob("disk*.img"))
    if not files:
        raise LabError(f"there is no ledger in {places.directory}: the lab with --netns writes one")
    notes = ledger.read_notes(places.notes(node) for node in NODES)
    disks, problems = {}, []
    for file in files:
        disks[file.name], wrong = ledger.read_disk(file)
        problems += wrong
    problems += ledger.check(disks, notes)
    imports = [f"{node.upper()}" for _, node in sorted({(note.tenure, note.node) for note in notes})]
    print(f"{len(notes)} records acknowledged on {len(files)} disks, in imports by {', '.join(imports) or 'nobody'}")
    print("\n".join(problems) or "all of them are there, and nobody wrote out of turn")
    return 1 if problems else 0


def _virtual_ledger(places: Places) -> int:
    """The file in the pool, and the client's notes; whoever is MASTER reads it."""
    status = asyncio.run(_ask_room(places, "status"))
    masters = [node for node, row in status["controllers"].items() if row["role"] == "MASTER"]
    if not masters:
        raise LabError("no controller is MASTER: nobody can read the pool")
    found = asyncio.run(read_ledger(places, masters[0]))
    servers = sorted({note.node.upper() for note in found.notes})
    print(f"{len(found.notes)} records acknowledged by {', '.join(servers) or 'nobody'}")
    print("\n".join(found.problems) or "all of them are in the pool, and none is torn")
    return 1 if found.problems else 0


def _status(places: Places, *, as_json: bool) -> int:
    from middlewared.lab.daemons import ask_all
    from middlewared.lab.screen import Screen

    async def gather() -> tuple[dict[str, Any], dict[str, tuple[str, list[str]] | None]]:
        status = await _ask_room(places, "status")
        powers = {node: row["power"] for node, row in status["controllers"].items()}
        return status, await ask_all(places, powers)

    status, answers = asyncio.run(gather())
    if as_json:
        for node, answer in answers.items():
            role, reasons = answer if answer is not None else (None, None)
            status["controllers"][node] |= {"failover_status": role, "disabled_reasons": reasons}
        print(json.dumps(status, indent=2))
    else:
        Screen(sys.stdout).status(status, answers)
    return 0


def _tell(places: Places, arguments: argparse.Namespace) -> int:
    """A fault: the words of the command line are the arguments of the operation of the same name."""
    values = {name: getattr(arguments, name) for name in ("node", "link", "disk") if hasattr(arguments, name)}
    if arguments.command == "set":
        try:
            values = _set_values(arguments.words)
        except LabError as error:
            print(f"middlewared lab set: {error}\nSee: middlewared lab set --help", file=sys.stderr)
            return 2
    asyncio.run(_ask_room(places, arguments.command, **values))
    return 0


def _set_values(words: list[str]) -> dict[str, str]:
    """Check here what the room would refuse. Raises LabError."""
    if words[0] == "pools" or (len(words) == 3 and words[1] == "pools"):
        if words[-1] not in properties.POOLS or len(words) == 1:
            raise LabError(f"pools takes {' or '.join(properties.POOLS)}")
        return {"key": "pools", "value": words[-1]}
    if words[0] not in NODES:
        raise LabError(_unknown(words[0], [*NODES, "pools"]))
    if len(words) != 3:
        raise LabError("it takes a controller, a property and a value")
    node, key, value = words
    if key not in properties.PROPERTIES:
        raise LabError(_unknown(key, [*properties.PROPERTIES, "pools"]))
    properties.read(key, value)
    return {"node": node, "key": key, "value": value}


async def _ask_room(places: Places, op: str, **args: Any) -> Any:
    """One operation of the running lab. Raises LabError."""
    client = LineClient(places.control)
    try:
        await client.connect()
    except LineLost as error:
        raise LabError(f"no lab runs in {places.directory}: `middlewared lab up` starts one") from error
    try:
        return await client.call(op, timeout_ms=_CALL_TIMEOUT_MS, **args)
    except LineError as error:
        raise LabError(error.message) from error
    finally:
        await client.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
