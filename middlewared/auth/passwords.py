"""Slow checks of secrets, where they harm nobody: in one thread, few at a time, never twice for the same secret.

A login costs tens of milliseconds of one core by design. Without bounds a flood of logins would be a denial of
service, and the thousands of clients that come back after a failover would be one too; so

- one thread of low priority does them all, one after the other;
- at most WAITING_MAX wait, at most WAITING_PER_ADDRESS_MAX of one address; the rest is told to come again;
- equal checks that are under way are one check, and a success is remembered (a keyed hash of it, in memory).
"""

import asyncio
import contextlib
import errno
import hmac
import json
import os
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from middlewared.auth.accounts import ADMINISTRATORS, set_password_hash
from middlewared.auth.ratelimit import limit_key
from middlewared.errors import CallError
from middlewared.store.database import Store, Transaction

T = TypeVar("T")

WAITING_MAX = 64
WAITING_PER_ADDRESS_MAX = 16
VERIFIED_MAX = 1024
_NICENESS = 10

# argon2id with 19 MiB, two passes: RFC 9106 scaled to a daemon that must stay small (the OWASP minimum).
_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

# For users who do not exist or have no password: checking takes as long as for the others. Made by the same hasher,
# from a random password that nobody kept.
_NOBODY = _HASHER.hash(secrets.token_urlsafe(32))


def hash_password(password: str) -> str:
    """The encoded argon2id hash. Slow: not for the event loop (use SlowChecks.run)."""
    return _HASHER.hash(_encode(password))


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _HASHER.verify(password_hash, _encode(password))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def _encode(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogatepass")


class SlowChecks:
    """Runs slow checks, bounded and shared. `close` ends its thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="login", initializer=_lower_priority)
        self._waiting: Counter[str] = Counter()
        self._underway: dict[bytes, asyncio.Task[bool]] = {}
        self._verified: OrderedDict[bytes, None] = OrderedDict()
        self._key = secrets.token_bytes(32)

    def waiting(self, address: str) -> int:
        """How many checks of this address are not finished."""
        return self._waiting[limit_key(address)]

    async def password(self, address: str, password_hash: str | None, password: str) -> bool:
        """Whether the password fits the hash. Without a hash: no, after the same time."""
        stored = password_hash or _NOBODY
        return await self.check(address, stored, password, lambda: _verify(stored, password))

    async def check(self, address: str, verifier: str, secret: str, verify: Callable[[], bool]) -> bool:
        """Whether `secret` fits `verifier`, as the slow function `verify` says. Raises EBUSY when too many wait."""
        digest = hmac.digest(self._key, _encode(json.dumps([verifier, secret])), "sha256")
        if digest in self._verified:
            self._verified.move_to_end(digest)
            return True
        task = self._underway.get(digest)
        if task is None:
            task = self._begin(address, verify)
            self._underway[digest] = task
            task.add_done_callback(lambda done: self._finished(digest, done))
        return await asyncio.shield(task)

    async def run(self, address: str, work: Callable[[], T]) -> T:
        """Run slow work in the thread. Raises EBUSY when too many wait."""
        return await asyncio.shield(self._begin(address, work))

    def _begin(self, address: str, work: Callable[[], T]) -> asyncio.Task[T]:
        """Take a place in the queue, at once, until the work is done."""
        key = limit_key(address)
        if self._waiting.total() >= WAITING_MAX or self._waiting[key] >= WAITING_PER_ADDRESS_MAX:
            raise CallError("Too many logins are being checked; try again in a moment", errno.EBUSY)
        self._waiting[key] += 1
        task = asyncio.create_task(self._in_thread(work))
        task.add_done_callback(lambda _: self._leave(key))
        return task

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _leave(self, key: str) -> None:
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._waiting[key]

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _finished(self, digest: bytes, task: asyncio.Task[bool]) -> None:
        del self._underway[digest]
        if task.cancelled() or task.exception() is not None or not task.result():
            return
        self._verified[digest] = None
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)


def _lower_priority() -> None:
    """On Linux a priority belongs to a thread: whoever logs in does not slow a failover down."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


async def ensure_administrator(store: Store, username: str, password: str) -> None:
    """Make sure that full administrator `username` exists (first boot, labs). An account of that name that is there
    keeps its password and its groups."""
    if store.query("SELECT 1 FROM user WHERE username = ?", (username,)):
        return
    password_hash = await asyncio.to_thread(hash_password, password)

    def add(transaction: Transaction) -> None:
        added = transaction.execute(
            "INSERT OR IGNORE INTO user (username, full_name, groups) VALUES (?, ?, ?) RETURNING id",
            (username, "Local Administrator", json.dumps([ADMINISTRATORS])),
        )
        for row in added:
            set_password_hash(transaction.execute, row["id"], password_hash)

    await store.write(add)
