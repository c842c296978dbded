"""The other controller, as far as replication needs it (`python -m bench.standby FOLDER`): a store behind a peer link.

Prints its port, and ends when its standard input does.
"""

import asyncio
import sys
from pathlib import Path

from middlewared.peer.link import PeerLink
from middlewared.settings import PeerSettings
from middlewared.store import changelog
from middlewared.store.database import Store


async def _serve(folder: Path) -> None:
    store = await Store.open(folder / "B" / "store.db")
    settings = PeerSettings(
        listen="127.0.0.1:0",
        connect="127.0.0.1:1",
        certificate=str(folder / "B.pem"),
        peer_certificate=str(folder / "A.crt"),
    )
    link = PeerLink(settings, "B")

    async def apply(data: bytes) -> None:
        await store.apply(changelog.decode(data))

    link.serve_changes, link.serve_snapshot = apply, store.restore
    store.on_commit(lambda tables: link.set_facts(store.position._asdict()))
    link.set_facts(store.position._asdict())
    await link.start()
    print(link.listening_at[0], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await link.stop()
    await store.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
