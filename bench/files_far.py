"""The far end of `bench.files`: a link with an inbox, and a bare TLS socket (`python -m bench.files_far FOLDER`).

Prints the link's address and the port of the bare socket; then answers `begin` and `worst` (the longest gap between two
heartbeats, ms), a line each. Ends when its standard input does.
"""

import asyncio
import socket
import ssl
import sys
import threading
from pathlib import Path

from bench.files import BLOCK_BYTES, INBOX, SIZE_BYTES, Gaps, settings_of
from middlewared.peer.files import Inbox
from middlewared.peer.link import PeerLink
from middlewared.peer.transport import load_trust


async def _serve(folder: Path) -> None:
    settings = settings_of(folder, "B", "127.0.0.1:1")
    link = PeerLink(settings, "B")
    gaps = Gaps(link)
    inbox = link.transfers.inboxes[INBOX] = Inbox(folder / "inbox", 1 << 40)
    await link.start()
    bare = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_take_bare, args=(bare, load_trust(settings).server), daemon=True).start()
    print(link.listening_at[0], bare.getsockname()[1], flush=True)
    while question := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if question == "begin":
            await asyncio.to_thread(_empty, inbox.folder)  # a big file in memory takes long to remove
            gaps.begin()
        print(gaps.worst_ms, flush=True)
    await link.stop()


def _empty(folder: Path) -> None:
    for path in folder.glob("*"):
        path.unlink()


def _take_bare(listener: socket.socket, tls: ssl.SSLContext) -> None:
    buffer = memoryview(bytearray(BLOCK_BYTES))
    while True:
        plain, _ = listener.accept()
        with tls.wrap_socket(plain, server_side=True) as secured:
            taken_bytes = 0
            while taken_bytes < SIZE_BYTES and (received := secured.recv_into(buffer)):
                taken_bytes += received
            secured.send(b".")


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
