"""How a controller of any lab is started by the room: what it is told, and the refusal of whoever else tries."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

from middlewared.lab.places import NODES, Layout, Places
from middlewared.lab.process import die_with_parent
from middlewared.lab.units import rotate


def leads_its_group(room: int) -> bool:
    """A child of the room in a process group of its own, which is its power switch; it ends with the room."""
    die_with_parent()
    return os.getppid() == room and os.getpgrp() == os.getpid()


def is_init(room: int) -> bool:
    """The first process of a namespace."""
    return os.getpid() == 1


def by_room(layout: Layout, command: str, is_ours: Callable[[int], bool]) -> tuple[Places, str]:
    """The lab's places and which controller this is, by the command line. Exits unless the room started us."""
    parser = argparse.ArgumentParser(prog="a controller of the lab")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--node", choices=NODES, required=True)
    parser.add_argument("--paths", type=int, default=layout.paths, help="to each disk")
    parser.add_argument("--room", type=int, required=True, help="process id of the room that started us")
    arguments = parser.parse_args()
    if not is_ours(arguments.room):
        sys.exit(f"only the room starts a machine: `{command}`")
    places = Places(arguments.directory, dataclasses.replace(layout, paths=arguments.paths))
    rotate(places.node(arguments.node) / "machine.log")
    return places, arguments.node
