"""A load generator in a process of its own: `python -m bench.load`, a Task as JSON on standard input.

Each connection has one call under way at any time. It never sleeps: on a virtual machine the server would pay more for
waking the processor that it sleeps on than for the call. Prints {"p50_us", "calls_s"}.
"""

import json
import select
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from bench.wire import Connection, frame, request

_REPLY_BYTES_MAX = 65536


@dataclass(frozen=True, slots=True)
class Task:
    """`token` logs in first; without one the server is the echo."""

    host: str
    port: int
    path: str
    token: str
    connections: int
    seconds: float


def main() -> None:
    task = Task(**json.load(sys.stdin))
    call = frame(request("failover.status"))
    connections = [_connect(task) for _ in range(task.connections)]
    reply_bytes = _reply_bytes(connections[0], call)
    measure = _one if task.connections == 1 else _many
    print(json.dumps(measure(connections, call, reply_bytes, task.seconds)))


def _connect(task: Task) -> Connection:
    connection = Connection((task.host, task.port), task.path)
    if task.token and not connection.call("auth.login_with_token", task.token):
        raise RuntimeError("the token was refused")
    return connection


def _reply_bytes(connection: Connection, call: bytes) -> int:
    """How long the answer's frame is, so that the measured loop need not parse it."""
    connection.socket.sendall(call)
    reply = connection.receive()
    if b'"error"' in reply:
        raise RuntimeError(reply.decode())
    return len(reply) + 2


def _one(connections: list[Connection], call: bytes, reply_bytes: int, seconds: float) -> dict[str, Any]:
    socket, clock = connections[0].socket, time.perf_counter_ns
    socket.setblocking(False)
    times_ns: list[int] = []
    end_ns = clock() + int(seconds * 1e9)
    now_ns = clock()
    while now_ns < end_ns:
        before_ns = now_ns
        socket.send(call)
        while True:
            try:
                reply = socket.recv(_REPLY_BYTES_MAX)
                break
            except BlockingIOError:
                pass
        now_ns = clock()
        _check(reply, reply_bytes)
        times_ns.append(now_ns - before_ns)
    return {"p50_us": statistics.median(times_ns) / 1000, "calls_s": len(times_ns) / seconds}


def _many(connections: list[Connection], call: bytes, reply_bytes: int, seconds: float) -> dict[str, Any]:
    poll = select.epoll()
    sockets = {connection.socket.fileno(): connection.socket for connection in connections}
    for number, socket in sockets.items():
        poll.register(number, select.EPOLLIN)
        socket.send(call)
    answered = 0
    start_s = now_s = time.perf_counter()
    while now_s - start_s < seconds:
        for number, _ in poll.poll(0, len(sockets)):
            socket = sockets[number]
            _check(socket.recv(_REPLY_BYTES_MAX), reply_bytes)
            socket.send(call)
            answered += 1
        now_s = time.perf_counter()
    calls_s = answered / (now_s - start_s)
    return {"p50_us": len(sockets) / calls_s * 1e6, "calls_s": calls_s}


def _check(reply: bytes, size: int) -> None:
    if len(reply) != size:
        raise RuntimeError(f"an answer of {len(reply)} bytes in place of {size}")


def task_text(task: Task) -> str:
    return json.dumps(asdict(task))


if __name__ == "__main__":
    main()
