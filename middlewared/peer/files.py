"""One file over one stream: hashed, resumed where a broken attempt stopped, and durable before it is acknowledged.

Blocking: both halves run in threads. The sender speaks first; a message is four bytes of length and a JSON object, and
the file's bytes go bare between them:

    sender                                      receiver
    {"inbox", "name", "size_bytes", "mode"}  →
                                             ←  {"have_bytes"}          what an earlier attempt left
    {"busy"} …                               ↔  {"busy"} …              both hash those bytes, and say that they live
                                             ←  {"sha256"}              of these bytes
    {"from_bytes"}                           →                          all of them if both have the same, else 0
    the rest of the file                     →
    {"sha256"}                               →                          of the whole
                                             ←  {"busy"} …, {"done": true}

Either may answer {"error", "errno"} at any time. What arrives is NAME.partial in the inbox's folder: its content is all
the state that a resumed transfer needs, so neither a restarted daemon nor a lost power can make it lie.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import queue
import re
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from middlewared.errors import EREMOTENODEERROR, CallError

BLOCK_BYTES = 256 << 10
BLOCKS_AHEAD_MAX = 4  # read or received, and not yet hashed and written
MESSAGE_BYTES_MAX = 16 << 10
BUSY_S = 1.0  # a side that has nothing to say for so long says that it is busy
PARTIAL = ".partial"
STALE_S = 7 * 24 * 3600.0  # what nobody asked for in so long goes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LENGTH = struct.Struct("!I")

_Queue = queue.SimpleQueue[tuple[bytearray, int] | None]
ProgressCallback = Callable[[int, int], None]  # bytes that the other has, bytes in all; called in the thread


class StreamError(Exception):
    """The stream broke or says what it should not: another attempt may go on from here."""


class Stream(Protocol):
    """A connected socket, plain or TLS, whose every call is bounded by its own timeout. Raises OSError."""

    def sendall(self, data: bytes | memoryview, /) -> None: ...

    def recv_into(self, buffer: memoryview, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Inbox:
    """A folder into which the other controller may put files, under plain names. It is made when it is missing."""

    folder: Path
    size_bytes_max: int  # of one file
    files_max: int = 64


@dataclass(frozen=True, slots=True)
class Offer:
    inbox: str
    name: str
    size_bytes: int
    mode: int  # permissions, 0..0o777

    def check(self) -> None:
        """Raises CallError: a name that could lead elsewhere, or what is no offer at all."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name.endswith(PARTIAL):
            raise CallError(f"{self.name!r} is no plain file name", errno.EINVAL)
        if not all(type(value) is int and value >= 0 for value in (self.size_bytes, self.mode)) or self.mode > 0o777:
            raise CallError("The size or the mode of an offered file is wrong", errno.EINVAL)


# ---------------------------------------------------------------------------------------------- messages


class Talk:
    """Messages and bytes over a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._said_s = time.monotonic()

    def say(self, **members: Any) -> None:
        body = orjson.dumps(members)
        self.stream.sendall(_LENGTH.pack(len(body)) + body)
        self._said_s = time.monotonic()

    def say_busy(self) -> None:
        """At most once in BUSY_S; to be called again and again from what takes long."""
        if time.monotonic() - self._said_s >= BUSY_S:
            self.say(busy=True)

    def hear(self, *wanted: str) -> dict[str, Any]:
        """The next message that is not `busy`. Raises CallError (the other refuses), StreamError, OSError."""
        while True:
            length = _LENGTH.unpack(self._take(_LENGTH.size))[0]
            if length > MESSAGE_BYTES_MAX:
                raise StreamError(f"a message of {length} bytes")
            try:
                message = orjson.loads(self._take(length))
            except ValueError as error:
                raise StreamError("a message that is not JSON") from error
            if not isinstance(message, dict):
                raise StreamError("a message that is no object")
            if "error" in message:
                number = message.get("errno")
                raise CallError(str(message["error"])[:500], number if type(number) is int else EREMOTENODEERROR)
            if "busy" in message:
                continue
            if not all(member in message for member in wanted):
                raise StreamError(f"a message without {', '.join(wanted)}")
            return message

    def fill(self, buffer: memoryview) -> None:
        """Receive until the buffer is full. Raises StreamError at the stream's end."""
        while buffer:
            received = self.stream.recv_into(buffer)
            if received == 0:
                raise StreamError("the stream ended early")
            buffer = buffer[received:]

    def _take(self, size: int) -> bytes:
        data = bytearray(size)
        self.fill(memoryview(data))
        return bytes(data)


# ---------------------------------------------------------------------------------------------- hashing


class Blocks:
    """Blocks on their way through functions, each in a thread of its own: the network waits neither for SHA-256 nor for
    the disk, as long as there are cores.

    A bounded number of buffers goes round. An error of a function comes out where the next buffer is asked for.
    """

    def __init__(self, *works: Callable[[memoryview], Any]) -> None:
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(BLOCKS_AHEAD_MAX):
            self._free.put(bytearray(BLOCK_BYTES))
        self._error: Exception | None = None
        self._queues: list[_Queue] = [queue.SimpleQueue() for _ in works]
        self._threads = [
            threading.Thread(target=self._run, args=(number, work), name="file blocks", daemon=True)
            for number, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()

    def buffer(self) -> bytearray:
        """A free one; waits until there is one. Raises what a function raised."""
        buffer = self._free.get()
        if self._error is not None:
            raise self._error
        return buffer

    def put(self, buffer: bytearray, size: int) -> None:
        self._queues[0].put((buffer, size))

    def finish(self) -> None:
        """Wait until everything went through. Raises what a function raised."""
        self.stop()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the threads; what was put before still goes through."""
        self._queues[0].put(None)
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, work: Callable[[memoryview], Any]) -> None:
        last = number + 1 == len(self._queues)
        while (item := self._queues[number].get()) is not None:
            buffer, size = item
            if self._error is None:
                try:
                    work(memoryview(buffer)[:size])
                except Exception as error:
                    self._error = error
            if last:
                self._free.put(buffer)
            else:
                self._queues[number + 1].put(item)
        if not last:
            self._queues[number + 1].put(None)


@contextlib.contextmanager
def _through(*works: Callable[[memoryview], Any]) -> Iterator[Blocks]:
    """Blocks whose threads end here, whatever happens."""
    blocks = Blocks(*works)
    try:
        yield blocks
    finally:
        blocks.stop()


def _hash_prefix(descriptor: int, size_bytes: int, talk: Talk) -> "hashlib._Hash":
    """SHA-256 so far of the first bytes of a file. Raises StreamError when it is shorter."""
    digest = hashlib.sha256()
    buffer = bytearray(BLOCK_BYTES)
    view = memoryview(buffer)
    at = 0
    while at < size_bytes:
        read = os.preadv(descriptor, [view[: min(BLOCK_BYTES, size_bytes - at)]], at)
        if read == 0:
            raise StreamError("the file is shorter than it was")
        digest.update(view[:read])
        at += read
        talk.say_busy()
    return digest


# ---------------------------------------------------------------------------------------------- sender


def send(
    stream: Stream,
    source: Path,
    offer: Offer,
    *,
    sha256: str | None = None,
    on_progress: ProgressCallback = lambda sent, size: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Returns once the file is durable there.

    `sha256`: of the whole, where the caller knows it already; it is then not computed again, and the receiver checks
    what arrived against it. `interrupted`: whether the other has said something, which can only be a refusal.

    Raises CallError (refused; a second attempt will be too), StreamError or OSError (the stream broke).
    """
    talk = Talk(stream)
    with _source(source) as file:
        if os.fstat(file.fileno()).st_size != offer.size_bytes:
            raise CallError(f"{source} has changed since it was offered; try again", errno.EAGAIN)
        talk.say(inbox=offer.inbox, name=offer.name, size_bytes=offer.size_bytes, mode=offer.mode)
        have_bytes = talk.hear("have_bytes")["have_bytes"]
        if type(have_bytes) is not int or not 0 <= have_bytes <= offer.size_bytes:
            raise StreamError("it has more than the file is long")
        digest = _hash_prefix(file.fileno(), have_bytes, talk)
        if talk.hear("sha256")["sha256"] != digest.hexdigest():
            have_bytes, digest = 0, hashlib.sha256()
        talk.say(from_bytes=have_bytes)
        file.seek(have_bytes)
        on_progress(have_bytes, offer.size_bytes)
        _send_rest(talk, file, have_bytes, offer.size_bytes, None if sha256 else digest, on_progress, interrupted)
        talk.say(sha256=sha256 or digest.hexdigest())
        talk.hear("done")


def _source(path: Path) -> Any:
    with _local(f"{path} cannot be read"):
        return path.open("rb", buffering=0)


def _send_rest(
    talk: Talk,
    file: Any,
    at: int,
    size_bytes: int,
    digest: "hashlib._Hash | None",
    on_progress: ProgressCallback,
    interrupted: Callable[[], bool],
) -> None:
    with _through(digest.update if digest is not None else len) as blocks:
        while at < size_bytes:
            if interrupted():
                talk.hear("done")  # only a refusal can come now
                raise StreamError("it said that it is done before it was")
            buffer = blocks.buffer()
            with _local(f"{file.name} cannot be read"):
                read = file.readinto(memoryview(buffer)[: min(BLOCK_BYTES, size_bytes - at)])
            if not read:
                raise CallError(f"{file.name} became shorter while it was sent", errno.EAGAIN)
            talk.stream.sendall(memoryview(buffer)[:read])
            blocks.put(buffer, read)
            at += read
            on_progress(at, size_bytes)
        blocks.finish()


# ---------------------------------------------------------------------------------------------- receiver


def receive(stream: Stream, inboxes: dict[str, Inbox]) -> str:
    """Take one file from the other controller; its name. Raises CallError (which the sender was told), StreamError,
    OSError (the stream broke: what came stays as NAME.partial)."""
    talk = Talk(stream)
    try:
        heard = talk.hear("inbox", "name", "size_bytes", "mode")
        offer = Offer(heard["inbox"], heard["name"], heard["size_bytes"], heard["mode"])
        offer.check()
        inbox = inboxes.get(offer.inbox) if isinstance(offer.inbox, str) else None
        if inbox is None:
            raise CallError("There is no such place for files on this controller", errno.ENOENT)
        if offer.size_bytes > inbox.size_bytes_max:
            text = f"{offer.name} has {offer.size_bytes} bytes; at most {inbox.size_bytes_max} are accepted"
            raise CallError(text, errno.EFBIG)
        with _folder(inbox) as folder:
            _receive_into(talk, folder, offer, inbox)
    except CallError as error:
        with contextlib.suppress(OSError):
            talk.say(error=error.message[:500], errno=error.errno)
        raise
    return offer.name


@contextlib.contextmanager
def _folder(inbox: Inbox) -> Iterator[int]:
    """The folder itself, so that nothing that happens to its path matters any more."""
    with _local(f"{inbox.folder} cannot be used"):
        inbox.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(inbox.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


def _receive_into(talk: Talk, folder: int, offer: Offer, inbox: Inbox) -> None:
    partial = offer.name + PARTIAL
    with _local(f"{offer.name} cannot be kept"):
        _make_room(folder, partial, offer, inbox)
        file = _open_partial(folder, partial, offer)
    with os.fdopen(file, "r+b", buffering=0) as open_file:
        have_bytes = os.fstat(file).st_size
        talk.say(have_bytes=have_bytes)
        digest = _hash_prefix(file, have_bytes, talk)
        talk.say(sha256=digest.hexdigest())
        from_bytes = talk.hear("from_bytes")["from_bytes"]
        if from_bytes != have_bytes:
            if from_bytes != 0:
                raise StreamError("it goes on where nothing stopped")
            digest = hashlib.sha256()
        with _local(f"{offer.name} cannot be kept"):
            os.ftruncate(file, from_bytes)
            os.lseek(file, from_bytes, os.SEEK_SET)
        _receive_rest(talk, open_file, from_bytes, offer, digest)
        if talk.hear("sha256")["sha256"] != digest.hexdigest():
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=folder)  # a resumed transfer would only find it wrong again
            raise CallError(f"{offer.name} was altered on its way: its SHA-256 differs", errno.EBADMSG)
        _sync(file, offer, talk)
        with _local(f"{offer.name} cannot be kept"):
            os.rename(partial, offer.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
    talk.say(done=True)


def _open_partial(folder: int, partial: str, offer: Offer) -> int:
    """The partial file, ours alone; a whole one of that name and size becomes it again, to be compared."""
    with contextlib.suppress(FileNotFoundError):
        whole = os.stat(offer.name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(whole.st_mode) and whole.st_size == offer.size_bytes and not _exists(folder, partial):
            os.rename(offer.name, partial, src_dir_fd=folder, dst_dir_fd=folder)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(partial, flags, 0o600, dir_fd=folder)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise CallError(f"{partial} is no file of ours", errno.EPERM)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StreamError(f"{offer.name} is being received already") from error
        os.fchmod(file, 0o600)
        if status.st_size > offer.size_bytes:
            os.ftruncate(file, 0)
    except BaseException:
        os.close(file)
        raise
    return file


def _receive_rest(talk: Talk, file: Any, at: int, offer: Offer, digest: "hashlib._Hash") -> None:
    def keep(block: memoryview) -> None:
        with _local(f"{offer.name} cannot be kept"):
            while block:
                block = block[file.write(block) :]

    with _through(digest.update, keep) as blocks:
        while at < offer.size_bytes:
            buffer = blocks.buffer()
            size = min(BLOCK_BYTES, offer.size_bytes - at)
            talk.fill(memoryview(buffer)[:size])
            blocks.put(buffer, size)
            at += size
        blocks.finish()


def _sync(file: int, offer: Offer, talk: Talk) -> None:
    """Make it durable; the sender hears meanwhile that we live."""
    failed: list[CallError] = []

    def sync() -> None:
        try:
            with _local(f"{offer.name} cannot be kept"):
                os.fchmod(file, offer.mode)
                os.fsync(file)
        except CallError as error:
            failed.append(error)

    thread = threading.Thread(target=sync, name="file sync", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(BUSY_S / 2)
        talk.say_busy()
    if failed:
        raise failed[0]


def _make_room(folder: int, partial: str, offer: Offer, inbox: Inbox) -> None:
    """Forget what is stale; refuse what would not fit."""
    now_s = time.time()
    names = os.listdir(folder)
    for name in names:
        if name not in (partial, offer.name):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and now_s - status.st_mtime > STALE_S:
                os.unlink(name, dir_fd=folder)
    if len(os.listdir(folder)) >= inbox.files_max and not {partial, offer.name} & set(names):
        raise CallError(f"{inbox.folder} holds {inbox.files_max} files already; remove some", errno.ENOSPC)
    space = os.fstatvfs(folder)
    present = sum(_size(folder, name) for name in (partial, offer.name))
    if offer.size_bytes - present > space.f_bavail * space.f_frsize:
        raise CallError(f"{inbox.folder} has no room for {offer.size_bytes} bytes; free some", errno.ENOSPC)


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _size(folder: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _local(trouble: str) -> Iterator[None]:
    """What the own disk refuses is an answer, not a broken stream."""
    try:
        yield
    except OSError as error:
        raise CallError(f"{trouble}: {error.strerror}", error.errno or errno.EIO) from error
