"""What the controllers themselves say about their failover, asked over their unix sockets as any client would."""

import asyncio

from middlewared.client import Client, ClientError, LoginError
from middlewared.errors import CallError
from middlewared.lab.places import PASSWORD, USER, Places

_TIMEOUT_S = 1.0


async def ask(places: Places, node: str) -> tuple[str, list[str]] | None:
    """(failover.status, failover.disabled.reasons); None when the daemon does not answer."""
    try:
        async with (
            asyncio.timeout(_TIMEOUT_S),
            Client(f"ws+unix://{places.api(node)}", timeout_s=_TIMEOUT_S, connect_timeout_s=_TIMEOUT_S) as client,
        ):
            await client.login_password(USER, PASSWORD)
            role = await client.call("failover.status")
            reasons = await client.call("failover.disabled.reasons")
            return str(role), list(reasons)
    except (ClientError, LoginError, CallError, TimeoutError, OSError):
        return None


async def ask_all(places: Places, powers: dict[str, str]) -> dict[str, tuple[str, list[str]] | None]:
    """Both at once; `powers` as the room has them: only a controller that is on can answer."""
    nodes = [node for node, power in powers.items() if power == "on"]
    answers = await asyncio.gather(*(ask(places, node) for node in nodes))
    return dict(zip(nodes, answers, strict=True))
