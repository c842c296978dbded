"""Clients that change the configuration of a pair while everything breaks, and remember what they were told.

Every key is changed by one client alone. Of a change whose answer never came nobody knows whether it was made; one that
was answered has to be found, in order, in the pair's configuration, or in what was set aside with an alert.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from middlewared.client import Client, ClientError
from middlewared.errors import EHAUNAVAILABLE, CallError
from middlewared.lab.places import PASSWORD, PORT, USER, VIRTUAL_ADDRESSES
from support.stores import Dump

SERVICES = 5  # of one client
PRIVILEGES_MAX = 20
_CALL_TIMEOUT_S = 3.0
_PAUSE_S = 0.05

Value = object  # of a key, as the store has it; None: no such row


@dataclass(slots=True)
class Key:
    """What one key may be now: what was acknowledged last, or what was tried since."""

    acknowledged: Value = None
    tried: list[Value] = field(default_factory=list)

    @property
    def possible(self) -> list[Value]:
        return [self.acknowledged, *self.tried]


class Record:
    """What all clients were told, together."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.created: list[str] = []  # privileges, in the order of their acknowledgements
        self.before: dict[str, int] = {}  # how many had been acknowledged when this one was asked for
        self.acknowledged = self.refused = self.unknown = 0

    async def change(self, key: str, value: Value, work: Awaitable[Any]) -> bool:
        """Whether it was acknowledged. Raises ClientError, TimeoutError when nobody knows."""
        entry = self.keys.setdefault(key, Key())
        entry.tried.append(value)
        try:
            await work
        except CallError as error:
            if error.errno == EHAUNAVAILABLE:  # refused before anything was done
                entry.tried.remove(value)
                self.refused += 1
            else:
                self.unknown += 1
            return False
        except BaseException:
            self.unknown += 1
            raise
        entry.acknowledged, entry.tried = value, []
        self.acknowledged += 1
        return True

    def trouble(self, store: Dump, kept: list[Dump]) -> list[str]:
        """Acknowledged changes that are neither in the pair's store nor in one that was set aside, or out of order."""
        found = []
        views = [values(dump) for dump in (store, *kept)]
        for name, key in self.keys.items():
            if not any(view.get(name) in key.possible for view in views):
                found.append(f"{name}: {[view.get(name) for view in views]}, possible were {key.possible}")
        numbers = {f"privilege {row[1]}": int(str(row[0])) for row in store["privilege"]}
        for name, number in numbers.items():
            earlier = self.created[: self.before.get(name, 0)]
            late = [one for one in earlier if numbers.get(one, -1) > number]
            if late:
                found.append(f"{name} was asked for after {late} were acknowledged, and comes before")
        return found


def values(store: Dump) -> dict[str, Value]:
    """What a store says of every key; a service's columns are name, enabled, unit, start_order, critical."""
    found: dict[str, Value] = {f"privilege {row[1]}": "there" for row in store["privilege"]}
    return found | {f"service {row[0]}": (row[3], row[4]) for row in store["service_config"]}


class Tormentor:
    """One client: changes one thing after another on the virtual IP, until it is told to end."""

    def __init__(self, number: int, record: Record, seed: int) -> None:
        self._name = f"t{number}"
        self._record = record
        self._rng = random.Random(f"{seed} {number}")
        self._count = 0
        self._privileges: list[str] = []

    async def run(self, until: asyncio.Event) -> None:
        url = f"ws://{VIRTUAL_ADDRESSES[0]}:{PORT}"
        while not until.is_set():
            with suppress(ClientError, CallError, OSError, TimeoutError):
                async with Client(url, timeout_s=_CALL_TIMEOUT_S, connect_timeout_s=1.0) as client:
                    await client.login_password(USER, PASSWORD)
                    while not until.is_set():
                        if not await self._one(client):
                            await asyncio.sleep(_PAUSE_S)
            await asyncio.sleep(_PAUSE_S)

    async def _one(self, client: Client) -> bool:
        self._count += 1
        acts: list[Callable[[Client], Awaitable[bool]]] = [self._create, self._set, self._set]
        if len(self._privileges) > self._rng.randrange(1, PRIVILEGES_MAX):
            acts = [self._delete]
        return await self._rng.choice(acts)(client)

    async def _create(self, client: Client) -> bool:
        name = f"{self._name}-{self._count}"
        key, record = f"privilege {name}", self._record
        record.before[key] = len(record.created)
        self._privileges.append(name)
        data = {"name": name, "groups": [], "roles": []}
        done = await record.change(key, "there", client.call("privilege.create", data))
        if done:
            record.created.append(key)
        return done

    async def _delete(self, client: Client) -> bool:
        name = self._privileges.pop(self._rng.randrange(len(self._privileges)))
        rows = await client.call("privilege.query", [["name", "=", name]], {})
        if not rows:  # never made, or set aside by now
            return True
        return await self._record.change(f"privilege {name}", None, client.call("privilege.delete", rows[0]["id"]))

    async def _set(self, client: Client) -> bool:
        name = f"{self._name}-{self._rng.randrange(SERVICES)}"
        order, critical = self._rng.randrange(100), self._rng.random() < 0.5
        rows = await client.call("service.query", [["service", "=", name]], {})
        data = {"enable": False, "start_order": order, "critical": critical}
        if rows:
            work = client.call("service.update", name, data)
        else:
            work = client.call("service.create", {"service": name, **data})
        return await self._record.change(f"service {name}", (order, int(critical)), work)
