"""A connection that outlives controllers: when it is lost, it is made again, to whichever answers at the address.

At the virtual IP that is the MASTER. What was under way when a controller died fails, and says that nobody knows what
it did; it is never repeated by itself.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from middlewared.cli import commands
from middlewared.cli.commands import Namespace
from middlewared.cli.credentials import Login, resolve, unreachable
from middlewared.cli.usage import Options
from middlewared.client.aio import CALL_TIMEOUT_S, Client, Subscription
from middlewared.client.conversation import Progress
from middlewared.client.endpoint import default_url
from middlewared.client.errors import ClientError, LoginError
from middlewared.errors import CallError

PING_INTERVAL_S = 2.0  # a controller that lost power says nothing: this long until we know, twice
CONNECT_TIMEOUT_S = 3.0
RETRY_FIRST_S = 0.2
RETRY_MAX_S = 2.0

Say = Callable[[str], None]


class Session:
    """`await open()` first. `say` is told, in a sentence, when the connection is lost and when it is back.

    `tree`: the commands, fresh with every connection. `connects`: how many times there was one: who has subscribed
    compares it.
    """

    def __init__(self, options: Options, say: Say) -> None:
        self._options = options
        self._tell = say
        self._quiet = False
        self._url = options.url or default_url()
        self._timeout_s = options.timeout_s or CALL_TIMEOUT_S
        self._login: Login | None = None
        self._client: Client | None = None
        self._back = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._refused: ClientError | None = None
        self.tree = Namespace(())
        self.hostname = ""
        self.connects = 0

    async def open(self) -> None:
        """Connect, log in and ask for the commands. Raises ClientError, CallError, UsageError."""
        try:
            client = await self._connect()
        except LoginError:
            raise
        except ClientError as error:
            raise unreachable(self._options, error) from error
        self._adopt(client)
        self._keeping = asyncio.create_task(self._keep(), name="keep connection")

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    @property
    def connected(self) -> bool:
        return self._back.is_set()

    async def wait_connected(self) -> None:
        """Returns when there is a connection. Raises ClientError when there will be none any more."""
        while not self.connected:
            if self._refused is not None:
                raise self._refused
            await self._back.wait()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """While the whole screen belongs to something that shows for itself whether there is a connection."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    async def call(self, method: str, *params: Any, timeout_s: float | None = None) -> Any:
        """As Client.call. Without a connection it waits for one first, as long as it would for an answer."""
        client = await self._present()
        with _lost_answer(client, method):
            return await client.call(method, *params, timeout_s=timeout_s)

    async def call_job(self, method: str, *params: Any, on_progress: Progress) -> Any:
        client = await self._present()
        with _lost_answer(client, method):
            return await client.call_job(method, *params, on_progress=on_progress, timeout_s=self._options.timeout_s)

    def subscribe(self, event: str) -> Subscription:
        """Events over the present connection: it ends with it. Raises ClientError when there is none."""
        if self._client is None or not self.connected:
            raise ClientError("not connected")
        return self._client.subscribe(event)

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._tell(text)

    async def _present(self) -> Client:
        """The client, once it is connected; a failover is waited for as long as an answer would be."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.wait_connected()
        except TimeoutError:
            raise ClientError(f"{self._url} has not answered for {self._timeout_s:.0f} s: nothing was sent") from None
        if self._client is None:
            raise ClientError("not connected")
        return self._client

    async def _keep(self) -> None:
        while self._client is not None:
            error = await self._client.wait_lost()
            self._back.clear()
            self._say(f"{str(error)[:1].upper()}{str(error)[1:]}. Trying to reach {self._url} again …")
            await self._client.close()
            try:
                self._adopt(await self._again())
            except (ClientError, CallError) as refused:
                self._refused = ClientError(f"cannot log in again: {refused}. Leave with exit, and start midctl anew")
                self._back.set()
                self._back.clear()
                self._say(str(self._refused))
                return
            self._say(f"Connected again: {await self._who()}.")

    async def _again(self) -> Client:
        """Try until somebody answers who takes our login."""
        pause_s = RETRY_FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, RETRY_MAX_S)
            try:
                return await self._connect()
            except LoginError as error:
                if error.response_type != "REDIRECT":  # a standby sends us away until it is the MASTER
                    raise
            except ClientError:
                continue
            except CallError:  # it is still starting
                continue

    async def _connect(self) -> Client:
        client = Client(
            self._url,
            timeout_s=self._timeout_s,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            verify=not self._options.insecure,
            ping_interval_s=PING_INTERVAL_S,
        )
        await client.connect()
        try:
            await self._log_in(client)
            services, methods, self.hostname = await asyncio.gather(
                client.call("core.get_services", "CLI"),
                client.call("core.get_methods", None, "CLI"),
                _hostname(client),
            )
        except BaseException:
            await client.close()
            raise
        self.tree = commands.build(services, methods)
        return client

    async def _log_in(self, client: Client) -> None:
        if self._login is None:
            self._login = resolve(self._options)
        login = self._login
        if login.api_key is not None:
            await client.login_api_key(login.api_key, login.user)
        elif login.user is not None and login.password is not None:
            await client.login_password(login.user, login.password, login.otp)

    def _adopt(self, client: Client) -> None:
        self._client = client
        self.connects += 1
        self._back.set()

    async def _who(self) -> str:
        with contextlib.suppress(ClientError, CallError):
            node, status = await asyncio.gather(self.call("failover.node"), self.call("failover.status"))
            return f"controller {node}, {status}"
        return self._url


@contextlib.contextmanager
def _lost_answer(client: Client, method: str) -> Iterator[None]:
    """The loss of the connection has been told; of a call that it took along there is something else to say."""
    try:
        yield
    except ClientError as error:
        if client.connected:
            raise
        raise ClientError(f"{method}: the answer went with the connection, and what it did is unknown") from error


async def _hostname(client: Client) -> str:
    """Only the first part; nothing where the server does not tell."""
    with contextlib.suppress(CallError):
        return str(await client.call("system.hostname")).partition(".")[0]
    return ""
