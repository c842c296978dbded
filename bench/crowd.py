"""A crowd of subscribers in a process of its own: `python -m bench.crowd HOST PORT TOKEN COUNT EVENT WORD`.

Prints "ready" when all have subscribed; then, when each has got an event with WORD in it, {"first_s", "last_s"} by the
monotonic clock, which all processes of a machine share; then when each has got one without it; and so on. Ends when its
standard input does.
"""

import json
import select
import socket
import sys
import time

from bench.wire import Connection

_FRAMES_BYTES_MAX = 65536
_PING = 0x89
_PONG = b"\x8a\x80" + bytes(4)


def main(host: str, port: str, token: str, count: str, event: str, word: str) -> None:
    connections = [_join((host, int(port)), token, event) for _ in range(int(count))]
    print("ready", flush=True)
    poll = select.epoll()
    poll.register(sys.stdin, select.EPOLLIN)
    sockets = {connection.socket.fileno(): connection.socket for connection in connections}
    for number in sockets:
        poll.register(number, select.EPOLLIN)
    present = True
    while _follow(poll, sockets, word.encode(), present):
        present = not present


def _join(address: tuple[str, int], token: str, event: str) -> Connection:
    connection = Connection(address, timeout_s=30.0)
    if not connection.call("auth.login_with_token", token):
        raise RuntimeError("the token was refused")
    connection.call("core.subscribe", event)
    return connection


def _follow(poll: select.epoll, sockets: dict[int, socket.socket], word: bytes, present: bool) -> bool:
    """One change to all: until each has been told of something with the word in it, or without. False: input ended."""
    waiting, first_s, last_s = set(sockets), 0.0, 0.0
    while waiting:
        for number, _ in poll.poll(-1, len(sockets) + 1):
            if number == sys.stdin.fileno():
                return False
            data = sockets[number].recv(_FRAMES_BYTES_MAX)
            if not data:
                raise ConnectionError("a subscriber was cut off")
            if data[0] == _PING:
                sockets[number].send(_PONG)
            elif (word in data) is present:
                waiting.discard(number)
                last_s = time.monotonic()
                first_s = first_s or last_s
    print(json.dumps({"first_s": first_s, "last_s": last_s}), flush=True)
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
