"""The control socket of a running lab: the server's side of every `lab` subcommand."""

import errno
import fcntl
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from middlewared.lab import properties
from middlewared.lab.places import LINKS, NODES, LabError, Places
from middlewared.lab.room import Room
from middlewared.lines import LineConnection, LineError, LineServer


class Lock:
    """Held by the process that runs the lab in a folder; the kernel releases it, however that process ends."""

    def __init__(self, places: Places) -> None:
        self._file = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise LabError(f"a lab runs in {places.directory} already: `middlewared lab down` ends it") from error

    def release(self) -> None:
        with suppress(OSError):
            os.close(self._file)


class Control:
    """Serves DIR/lab.sock. Every line of news also goes to whoever is connected, as the event `news`."""

    def __init__(self, room: Room, on_down: Callable[[], None]) -> None:
        self._room = room
        self._on_down = on_down
        self._server = LineServer(self._handle)
        self._started_s = time.monotonic()
        self._ops: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "status": self._status,
            "down": self._down,
            "kill": self._power,
            "boot": self._power,
            "pause": self._power,
            "resume": self._power,
            "restart-daemon": self._power,
            "kill-keeper": self._power,
            "kill-speaker": self._power,
            "cut": self._cut,
            "heal": self._heal,
            "fail-disk": self._disk,
            "repair-disk": self._disk,
            "replace-disk": self._disk,
            "pull-disk": self._disk,
            "push-disk": self._disk,
            "restart-shelf": self._restart_shelf,
            "set": self._set,
        }

    async def start(self) -> None:
        await self._server.start(self._room.places.control)

    async def stop(self) -> None:
        await self._server.stop()

    def news(self, text: str) -> None:
        self._server.broadcast("news", {"t_ms": time.monotonic() * 1000, "text": text})

    async def _handle(self, connection: LineConnection, op: str, args: dict[str, Any]) -> Any:
        run = self._ops.get(op)
        if run is None:
            raise LineError("EINVAL", f"this lab does not know {op!r}: it was started by another version")
        try:
            return await run(args | {"op": op})
        except LabError as error:
            raise LineError("EINVAL", str(error)) from error

    async def _down(self, args: dict[str, Any]) -> None:
        self._on_down()

    async def _power(self, args: dict[str, Any]) -> None:
        room, node = self._room, _node(args)
        match args["op"]:
            case "kill":
                await room.kill(node)
            case "boot":
                await room.boot(node)
            case "pause":
                await room.pause(node)
            case "resume":
                await room.resume(node)
            case "restart-daemon":
                room.restart_daemon(node)
            case "kill-keeper":
                room.kill_keeper(node)
            case "kill-speaker":
                await room.kill_speaker(node)

    async def _cut(self, args: dict[str, Any]) -> None:
        await self._room.set_link(_link(args["link"]), up=False)

    async def _heal(self, args: dict[str, Any]) -> None:
        wanted = args.get("link")
        for link in LINKS if wanted is None else (_link(wanted),):
            await self._room.set_link(link, up=True)

    async def _disk(self, args: dict[str, Any]) -> None:
        lun, disks = args["disk"], self._room.disks
        if lun not in disks:
            raise LabError(f"there are disks {min(disks)} to {max(disks)}; `middlewared lab status` shows each")
        match args["op"]:
            case "fail-disk" | "repair-disk":
                await self._room.set_disk_failed(lun, args["op"] == "fail-disk")
            case "replace-disk":
                await self._room.replace_disk(lun)
            case "pull-disk" | "push-disk":
                await self._room.set_disk_pulled(_node(args), lun, args["op"] == "pull-disk")

    async def _restart_shelf(self, args: dict[str, Any]) -> None:
        await self._room.restart_shelf()

    async def _set(self, args: dict[str, Any]) -> None:
        key, word = args["key"], args["value"]
        if self._room.places.layout.drivers == "linux":
            raise LabError("these machines are real ones: change things inside, with `middlewared lab exec a|b …`")
        if key == "pools":
            if word not in properties.POOLS:
                raise LabError(f"pools takes {' or '.join(properties.POOLS)}")
            self._room.set_pools(word)
            return
        if key not in properties.PROPERTIES:
            raise LabError(f"there is no property {key!r}")
        self._room.set_property(_node(args), key, properties.read(key, word))

    async def _status(self, args: dict[str, Any]) -> dict[str, Any]:
        room = self._room
        holders = await room.around.holders()
        return {
            "kind": room.places.layout.kind,
            "directory": str(room.places.directory),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "pools": room.pools,
            "controllers": {node: self._controller(node) for node in NODES},
            "links": room.links,
            "disks": [self._disk_row(lun, holder) for lun, holder in sorted(holders.items())],
        }

    def _controller(self, node: str) -> dict[str, Any]:
        room = self._room
        view, supply = room.views[node], room.supplies[node]
        units = view.report.get("units", {})
        changed = {
            name: value for name, value in room.properties[node].items() if value != properties.PROPERTIES[name].default
        }
        return {
            "power": str(supply.state),
            "boots": supply.boots,
            "role": view.role,
            "middlewared": units.get("middlewared"),
            "fenced": units.get("fenced"),
            "failures": view.failures,
            "vrrp": view.report.get("vrrp", {}),
            "pools": view.report.get("pools", []),
            "virtual_addresses": room.around.held(node),
            "firewall_allowed": view.report.get("firewall_allowed", False),
            "properties": changed,
        }

    def _disk_row(self, lun: int, holder: str | None) -> dict[str, Any]:
        room = self._room
        return {
            "lun": lun,
            "failed": lun in room.failed,
            "pulled": [node for node in NODES if (node, lun) in room.pulled],
            "holder": holder,
        }


def _node(args: dict[str, Any]) -> str:
    node = args["node"]
    if node not in NODES:
        raise LabError("there are controllers a and b")
    return str(node)


def _link(link: str) -> str:
    if link not in LINKS:
        raise LabError(f"there is no link {link!r}; known: {', '.join(LINKS)}")
    return link
