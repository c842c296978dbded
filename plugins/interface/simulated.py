"""Interfaces of the lab's machine. The heartbeat interface is not one of `nics`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from middlewared.machine import SimulatedMachine
from middlewared.plugins.interface.carry_out import carry_out
from middlewared.plugins.interface.plan import Change, describe, plan
from middlewared.ports import Interfaces, LinkConfig, Listener, Nic, PortError

_FIELDS = {field.name for field in dataclasses.fields(LinkConfig)}


class SimulatedInterfaces(Interfaces):
    def __init__(self, machine: SimulatedMachine) -> None:
        self._machine = machine

    def nics(self) -> Sequence[Nic]:
        return [_nic(row) for row in self._machine.state["nics"]]

    def heartbeat(self) -> Nic | None:
        row = self._machine.state["heartbeat"]
        return None if row is None else _nic(row)

    async def present(self) -> Sequence[LinkConfig]:
        return [_config(row) for row in await self._machine.call("links")]

    async def apply(self, wanted: Sequence[LinkConfig], owned: Sequence[LinkConfig]) -> None:
        await carry_out(plan(await self.present(), wanted, owned), self._perform)

    def on_change(self, listener: Listener) -> None:
        self._machine.on_change("nics", listener)
        self._machine.on_change("heartbeat", listener)

    async def _perform(self, change: Change) -> None:
        try:
            await self._machine.call("link_change", what=type(change).__name__, change=dataclasses.asdict(change))
        except PortError as error:
            raise PortError(f"{describe(change)}: {error}") from error


def _nic(row: dict[str, Any]) -> Nic:
    return Nic(row["name"], row["link_up"], row["mac"], tuple(row["addresses"]), row.get("kind", "PHYSICAL"))


def _config(row: dict[str, Any]) -> LinkConfig:
    known = {name: value for name, value in row.items() if name in _FIELDS}
    return LinkConfig(**{**known, "addresses": tuple(row["addresses"]), "ports": tuple(row["ports"])})
