"""One iSCSI session (RFC 7143) by libiscsi, driven by asyncio: no threads, no waiting inside the library.

A session is a nexus of its own: registrations belong to it, and die or turn into ghosts with it. So it never
reconnects; whoever wants another one makes another one.

What the library must not be asked to forget: a command of which a part is still to be sent. Commands that are given up
stay with it until nothing waits to be sent any more, or the session ends.
"""

import asyncio
import ctypes
import itertools
import logging
import os
import select
import socket
from dataclasses import dataclass, field
from typing import Any

from middlewared.plugins.fencing import scsi
from middlewared.plugins.fencing.libiscsi import (
    CALLBACK,
    DIGEST_NONE,
    FUNCTION_COMPLETE,
    NO_LUN,
    NO_TASK,
    SESSION_NORMAL,
    TASK_DOES_NOT_EXIST,
    Ending,
    Library,
    TaskFunction,
    Transfer,
)
from middlewared.plugins.fencing.scsi import Reply
from middlewared.plugins.fencing.transport import TransportError

log = logging.getLogger(__name__)

COMMANDS_MAX = 4096  # under way in one session
ABORT_MS_MAX = 500  # a target that does not even answer ABORT TASK, nor anything else meanwhile, is given up
UNANSWERED_MAX = 64  # task management functions
_FLAT_LUN = 0x4000  # SAM-5 4.7.7.3: units above 255
_LUN_PERIPHERAL_MAX = 255
_SENSE_LENGTH_BYTES = 2  # before the sense data of a response, RFC 7143 11.4.7


@dataclass(frozen=True, slots=True)
class Portal:
    """Where a target is: numeric address, port, name."""

    address: str
    port: int
    target: str

    def __str__(self) -> str:
        return f"{self.host}/{self.target}"

    @property
    def host(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def parse_portal(text: str) -> Portal:
    """ "192.0.2.1:3260/iqn.2026-11.org.example:shelf"; an IPv6 address in brackets. Raises ValueError."""
    host, slash, target = text.partition("/")
    address, colon, port = host.rpartition(":")
    if not (slash and colon and port.isdigit() and target.startswith(("iqn.", "eui.", "naa."))):
        raise ValueError(f"{text!r} is no iSCSI portal: write ADDRESS:PORT/TARGET-NAME")
    bracketed = address.startswith("[") and address.endswith("]")
    family, address = (socket.AF_INET6, address[1:-1]) if bracketed else (socket.AF_INET, address)
    try:
        socket.inet_pton(family, address)
    except OSError:
        raise ValueError(f"{text!r}: {address!r} is no numeric address") from None
    return Portal(address, int(port), target)


@dataclass(eq=False, slots=True)
class _Command:
    """A command or task management function that the library has. `task` is None for the latter."""

    future: "asyncio.Future[Any]"
    lun: int
    task: Any = None
    data: bytes = b""  # lent to the library until the command has ended
    ended: bool = False  # the library has called back


@dataclass(eq=False, slots=True)
class Session:
    """One login to a target by one portal. `closed` is set when it ended, and `reason` says why."""

    library: Library
    portal: Portal
    initiator: str
    isid: int  # 24 bits; with the name of the initiator it names the nexus (RFC 7143 11.12.5)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    _context: int = 0
    _peek: socket.socket | None = None
    _events: int = 0
    _sending: bool = False  # at the end of this turn of the loop
    _heard: int = 0  # how often something came from the target
    _under_way: dict[int, _Command] = field(default_factory=dict)
    _given_up: list[_Command] = field(default_factory=list)  # known to the library, awaited by nobody
    _to_free: list[_Command] = field(default_factory=list)  # ended, but parts of them may still be in its queue
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _lost: str = ""  # set by a callback; acted upon outside of it
    _callback: Any = None  # kept: the library calls it

    # ------------------------------------------------------------------------------------------ life

    async def login(self, timeout_ms: int) -> None:
        """Raises TransportError; then the session is closed."""
        library = self.library
        self._context = library.create_context(self.initiator.encode())
        if not self._context:
            raise TransportError(f"{self.portal}: the initiator name {self.initiator!r} is refused")
        self._callback = CALLBACK(self._called_back)
        library.set_target_name(self._context, self.portal.target.encode())
        library.set_session_type(self._context, SESSION_NORMAL)
        library.set_header_digest(self._context, DIGEST_NONE)
        library.set_isid_random(self._context, self.isid, 0)
        library.set_no_reconnect(self._context, 1)
        number, command = self._entry(_Command(asyncio.get_running_loop().create_future(), NO_LUN))
        try:
            if library.full_connect(self._context, self.portal.host.encode(), NO_LUN, self._callback, number):
                raise TransportError(f"{self.portal}: {library.error(self._context)}")
            self._peek = socket.socket(fileno=os.dup(library.get_fd(self._context)))
            self._watch()
            async with asyncio.timeout(timeout_ms / 1000):
                await command.future
        except TimeoutError:
            self.close(f"no login within {timeout_ms} ms")
            raise TransportError(f"{self.portal}: no login within {timeout_ms} ms") from None
        except BaseException as error:
            self.close(str(error))
            raise

    def close(self, reason: str) -> None:
        """End it without ceremony: what is under way fails. Not to be called from a callback of the library."""
        if self.closed.is_set():
            return
        self.reason = reason
        self.closed.set()
        self._unwatch()
        if self._peek is not None:
            self._peek.close()
        context, self._context = self._context, 0
        if context:
            self.library.destroy_context(context)  # calls back for some of what is under way, not for all
        for command in [*self._under_way.values(), *self._to_free]:
            self._free(command)
            if not command.future.done():
                command.future.set_exception(TransportError(f"{self.portal}: {reason}"))
                command.future.exception()  # nobody has to fetch it
        self._under_way.clear()
        self._to_free.clear()
        self._given_up.clear()

    # ------------------------------------------------------------------------------------------ commands

    async def command(self, lun: int, cdb: bytes, data: bytes, expected_bytes: int, timeout_ms: int) -> Reply:
        """One SCSI command. `expected_bytes`: how much is read at most. Raises TransportError."""
        if self.closed.is_set():
            raise TransportError(f"{self.portal}: {self.reason}")
        if len(self._under_way) >= COMMANDS_MAX:
            raise TransportError(f"{self.portal}: {COMMANDS_MAX} commands are under way already")
        library = self.library
        transfer = Transfer.WRITE if data else Transfer.READ if expected_bytes else Transfer.NONE
        task = library.create_task(len(cdb), cdb, transfer, len(data) or expected_bytes)
        if data:
            library.add_data_out(task, len(data), data)
        number, command = self._entry(_Command(asyncio.get_running_loop().create_future(), lun, task, data))
        if library.command(self._context, _address(lun), task, self._callback, None, number):
            del self._under_way[number]
            library.free_task(task)
            raise TransportError(f"{self.portal}: {library.error(self._context)}")
        reply: Reply = await self._answer(command, timeout_ms)
        return reply

    async def reset_unit(self, lun: int, timeout_ms: int) -> None:
        """LOGICAL UNIT RESET. Raises TransportError. Our own commands on the unit end with it, too."""
        before = [command for command in self._under_way.values() if command.task is not None and command.lun == lun]
        response = await self._manage(lun, TaskFunction.LOGICAL_UNIT_RESET, NO_TASK, 0, timeout_ms)
        if response != FUNCTION_COMPLETE:
            raise TransportError(f"{self.portal}: LOGICAL UNIT RESET of unit {lun} was refused ({response})")
        for command in before:
            if not command.ended:
                self._give_up(command, "ended by LOGICAL UNIT RESET")

    async def _manage(self, lun: int, function: TaskFunction, tag: int, sequence: int, timeout_ms: int) -> int:
        if self.closed.is_set():
            raise TransportError(f"{self.portal}: {self.reason}")
        number, command = self._entry(_Command(asyncio.get_running_loop().create_future(), lun))
        if self.library.task_management(self._context, _address(lun), function, tag, sequence, self._callback, number):
            del self._under_way[number]
            raise TransportError(f"{self.portal}: {self.library.error(self._context)}")
        response: int = await self._answer(command, timeout_ms)
        return response

    async def _answer(self, command: _Command, timeout_ms: int) -> Any:
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._send)
        # A timer by itself costs a fraction of asyncio.timeout, and a takeover sends some hundred commands.
        deadline = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._too_late, command, timeout_ms)
        try:
            return await command.future
        finally:
            deadline.cancel()
            if not command.ended and not self.closed.is_set() and command.task is not None:
                self._abort(command)

    def _too_late(self, command: _Command, timeout_ms: int) -> None:
        if not command.future.done():
            command.future.set_exception(TransportError(f"{self.portal}: no answer within {timeout_ms} ms"))

    # ------------------------------------------------------------------------------------------ giving up

    def _abort(self, command: _Command) -> None:
        """Nobody waits for it any more: the target is told, and if it does not answer that either, given up."""
        fields = command.task.contents
        aborting = asyncio.get_running_loop().create_task(self._do_abort(command, fields.tag, fields.sequence))
        aborting.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _do_abort(self, command: _Command, tag: int, sequence: int) -> None:
        heard = self._heard
        try:
            response = await self._manage(command.lun, TaskFunction.ABORT_TASK, tag, sequence, ABORT_MS_MAX)
            if response not in (FUNCTION_COMPLETE, TASK_DOES_NOT_EXIST):
                log.warning("%s: ABORT TASK was refused (%d)", self.portal, response)
        except TransportError:
            unanswered = sum(one.task is None for one in self._under_way.values())
            if heard == self._heard or unanswered > UNANSWERED_MAX:
                self.close("the target does not answer")
                return
        if not command.ended:
            self._give_up(command, "aborted")

    def _give_up(self, command: _Command, why: str) -> None:
        if not command.future.done():
            command.future.set_exception(TransportError(f"{self.portal}: {why}"))
        self._given_up.append(command)
        self._tidy()

    def _tidy(self) -> None:
        """Let the library forget what was given up, and free what has ended: only while it has nothing to send."""
        if not (self._given_up or self._to_free) or self._events & select.POLLOUT:
            return
        if self.library.out_queue_length(self._context):
            return
        given_up, self._given_up = self._given_up, []
        for command in given_up:
            if not command.ended:
                self.library.cancel_task(self._context, command.task)  # calls back at once
        for command in self._to_free:
            self._free(command)
        self._to_free.clear()

    def _free(self, command: _Command) -> None:
        task, command.task = command.task, None
        command.ended = True
        if task is not None:
            self.library.free_task(task)

    # ------------------------------------------------------------------------------------------ the library

    def _entry(self, command: _Command) -> tuple[int, _Command]:
        number = next(self._numbers)
        self._under_way[number] = command
        return number, command

    def _called_back(self, _context: int, status: int, data: int | None, number: int) -> None:
        """By the library, from inside one of its calls: only notes what happened."""
        command = self._under_way.pop(number, None)
        if command is None:
            if status != scsi.Status.GOOD:  # the login's callback, a second time: the connection has failed
                self._lost = self._lost or "the connection has failed"
            return
        command.ended = True
        waiting = command.future if not command.future.done() else None
        if status in (Ending.CANCELLED, Ending.ERROR, Ending.TIMEOUT):
            if waiting is not None:  # not one that we gave up
                self._lost = self._lost or self.library.error(self._context)
                waiting.set_exception(TransportError(f"{self.portal}: {self._lost}"))
        elif waiting is not None:
            self._settle(waiting, command, status, data)
        if command.task is None:
            return
        if status == scsi.Status.GOOD or not command.data:
            self._free(command)
        else:
            self._to_free.append(command)  # refused early: what it was still to write may be in the queue

    def _settle(self, waiting: "asyncio.Future[Any]", command: _Command, status: int, data: int | None) -> None:
        if command.task is None:  # login, or a task management function with its response
            response = ctypes.cast(data, ctypes.POINTER(ctypes.c_uint32)).contents.value if data else 0
            waiting.set_result(response)
            return
        fields = command.task.contents
        size = fields.data_bytes if fields.data else 0
        if not 0 <= size <= max(fields.expected_bytes, 2 + scsi.SENSE_BYTES_MAX + 2):
            waiting.set_exception(TransportError(f"{self.portal}: {size} bytes came unasked"))
            return
        raw = ctypes.string_at(fields.data, size) if size else b""
        if status == scsi.Status.CHECK_CONDITION:
            length = int.from_bytes(raw[:_SENSE_LENGTH_BYTES], "big")
            waiting.set_result(Reply(status, raw[_SENSE_LENGTH_BYTES : _SENSE_LENGTH_BYTES + length]))
        else:
            waiting.set_result(Reply(status, data=raw))

    # ------------------------------------------------------------------------------------------ its socket

    def _watch(self) -> None:
        """Have the loop call for what the library waits for."""
        if self._peek is None:
            return
        loop, wanted = asyncio.get_running_loop(), self.library.which_events(self._context)
        changed, self._events = wanted ^ self._events, wanted
        if changed & select.POLLIN:
            if wanted & select.POLLIN:
                loop.add_reader(self._peek, self._readable)
            else:
                loop.remove_reader(self._peek)
        if changed & select.POLLOUT:
            if wanted & select.POLLOUT:
                loop.add_writer(self._peek, self._serve, select.POLLOUT)
            else:
                loop.remove_writer(self._peek)

    def _unwatch(self) -> None:
        if self._peek is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._peek)
            loop.remove_writer(self._peek)
            self._events = 0

    def _readable(self) -> None:
        """The library takes the end of a connection for something to be put right later: look for it ourselves."""
        try:
            ended = self._peek is None or not self._peek.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            ended = False
        except OSError as error:
            self.close(f"the connection has failed: {error.strerror}")
            return
        if ended:
            self.close("the target closed the connection")
            return
        self._heard += 1
        self._serve(select.POLLIN)

    def _send(self) -> None:
        """What was handed in during one turn of the loop leaves in few segments: a wave to all disks wakes the target
        once, and not once a command."""
        self._sending = False
        if self._peek is None:
            return
        self._peek.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        self._serve(select.POLLOUT)
        if not self.closed.is_set():
            self._peek.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def _serve(self, events: int) -> None:
        if self.closed.is_set():
            return
        failed = self.library.service(self._context, events) != 0
        if failed or self._lost:
            self.close(self._lost or self.library.error(self._context))
            return
        self._watch()
        self._tidy()


def _address(lun: int) -> int:
    """The unit as the library takes it: it puts these 16 bits at the head of the LUN field as they are."""
    return lun if lun <= _LUN_PERIPHERAL_MAX else _FLAT_LUN | lun
