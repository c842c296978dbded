"""Clients of the API (PROTOCOL sections 1 to 7).

    async with Client("ws://127.0.10.10:6080") as client:
        await client.login_password("admin", "lab")
        print(await client.call("failover.status"))

Both are built on the websockets library. `Client` (aio.py) is the asyncio client: tests, tools and long-lived users.
`BlockingClient` (blocking.py) makes one call after another, for programs without an event loop. They are thin shells
around the same code without I/O: conversation.py, login.py, scram.py, extended_json.py.
"""

from typing import TYPE_CHECKING, Any

from middlewared.client.errors import ClientError, LoginError

if TYPE_CHECKING:
    from middlewared.client.aio import Client, Subscription
    from middlewared.client.blocking import BlockingClient

__all__ = ["BlockingClient", "Client", "ClientError", "LoginError", "Subscription"]


def __getattr__(name: str) -> Any:
    """Import a client when it is asked for: websockets costs 60 ms, which midctl --help need not pay (PEP 562)."""
    if name in ("Client", "Subscription"):
        from middlewared.client import aio

        return getattr(aio, name)
    if name == "BlockingClient":
        from middlewared.client.blocking import BlockingClient

        return BlockingClient
    raise AttributeError(name)
