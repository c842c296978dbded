"""`lab up`: the process that the lab lives and dies with."""

import asyncio
import resource
import signal
import sys
from contextlib import suppress

from middlewared.lab.control import Control, Lock
from middlewared.lab.files import remove_sockets, write_files
from middlewared.lab.places import Places
from middlewared.lab.process import adopt_orphans
from middlewared.lab.room import Room
from middlewared.lab.screen import Screen
from middlewared.lab.surroundings import Loopback, Surroundings

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run(places: Places) -> None:
    """Until Ctrl-C, `lab down` or the terminal's end. Raises LabError when it cannot start."""
    places.prepare()
    Lock(places)  # until this process has ended: `lab down` waits for that
    adopt_orphans()
    _allow_many_files()
    over = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    screen = Screen(sys.stdout)
    await write_files(places)
    room = Room(places, _surroundings(places), screen.news)
    control = Control(room, over.set)

    def news(text: str) -> None:
        screen.news(text)
        control.news(text)

    room.on_news = news
    await room.start()
    starting = asyncio.create_task(room.power_up())
    try:
        await control.start()
        screen.welcome(places)
        await over.wait()
        screen.news("the lab ends")
    finally:
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        await room.stop()
        await control.stop()
        remove_sockets(places)


def _surroundings(places: Places) -> Surroundings:
    if places.layout.kind == "netns":
        from middlewared.lab.netns.around import Namespaces  # the loopback lab needs none of it

        return Namespaces(places)
    if places.layout.kind == "vm":
        from middlewared.lab.vm.around import VirtualMachines

        return VirtualMachines(places)
    return Loopback(places)


def _allow_many_files() -> None:
    """A connection on its way to a controller is an open file here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
