"""A whole API on loopback, with small fake methods behind it and a fake authenticator beside it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp

from middlewared.auth.identity import FULL_ADMIN, Credential, Origin
from middlewared.bus import Bus
from middlewared.jobs import Jobs
from middlewared.plugin import Call
from middlewared.plugins.core.methods import Core
from middlewared.rpc.dispatch import Dispatcher
from middlewared.rpc.registry import SCHEMA_DIR, Registry
from middlewared.rpc.server import Server
from middlewared.settings import ApiSettings

ROOT = Credential("LOGIN_PASSWORD", "root", frozenset({FULL_ADMIN}))
ANSWER_TIMEOUT_S = 10


def method(name: str, params: Sequence[dict[str, Any]] = (), result: Any = None, **extra: Any) -> dict[str, Any]:
    """A method object with everything the registry insists on."""
    return {
        "name": name,
        "summary": "S",
        "description": "D",
        "params": list(params),
        "result": {"name": "result", "schema": result or {}},
        "examples": [{"name": "e", "params": [], "result": {"name": "result", "value": None}}],
        **{f"x-{key.replace('_', '-')}": value for key, value in extra.items()},
    }


def param(name: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"name": name, "required": required, "description": "D", "schema": schema}


def service(namespace: str, kind: str = "service", **extra: Any) -> dict[str, Any]:
    return {"namespace": namespace, "type": kind, "cli_namespace": f"system.{namespace}", **extra}


def event(name: str, **extra: Any) -> dict[str, Any]:
    return {"name": name, "description": "D", "schema": {}, **{f"x-{key}": value for key, value in extra.items()}}


@dataclass
class FakeAuthenticator:
    """Tokens in a dict, one password, and everybody on the unix socket is `local`."""

    local: Credential | None = None
    tokens: dict[str, tuple[Credential, dict[str, Any]]] = field(default_factory=dict)
    listeners: list[Callable[[], None]] = field(default_factory=list)
    current: dict[str, Credential | None] = field(default_factory=dict)

    def unix_credential(self, origin: Origin) -> Credential | None:
        return self.local if origin.is_unix else None

    def generate_token(self, credential: Credential, origin: Origin, *, attrs: dict[str, Any], **_: Any) -> str:
        text = f"token-{len(self.tokens)}"
        self.tokens[text] = (credential, attrs)
        return text

    def redeem_token(self, text: str, origin: Origin, attrs: dict[str, Any] | None = None) -> Credential | None:
        credential, wanted = self.tokens.get(text, (None, {}))
        if wanted and wanted != attrs:
            return None
        self.tokens.pop(text, None)
        return credential

    async def password(self, username: str, password: str, origin: Origin, otp_token: str | None = None) -> Any:
        return SimpleNamespace(credential=ROOT if (username, password) == ("root", "x") else None)

    async def api_key(self, key: str, origin: Origin, username: str | None = None) -> Any:
        return SimpleNamespace(credential=ROOT if key == "1-abc" else None)

    def refresh(self, credential: Credential) -> Credential | None:
        return self.current.get(credential.username, credential)

    def on_change(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)


class Api:
    """Everything from the schemas to the sockets. `handlers` are the fake methods, by name."""

    def __init__(
        self,
        directory: Path,
        document: dict[str, Any],
        handlers: dict[str, Callable[..., Awaitable[Any]]],
        *,
        settings: ApiSettings | None = None,
        audit: Any = None,
        **options: Any,
    ) -> None:
        core = json.loads((SCHEMA_DIR / "core.json").read_text())
        self.bus = Bus()
        self.jobs = Jobs(self.bus)
        self.registry = Registry({"core.json": core, "test.json": document})
        self.authenticator = FakeAuthenticator()
        self.dispatcher = Dispatcher(self.registry, self.jobs, Call, audit)
        context: Any = SimpleNamespace(
            jobs=self.jobs, registry=self.registry, authenticator=self.authenticator, call=self.dispatcher.call_internal
        )
        plugin = Core(context)
        for name in dir(plugin):
            member = getattr(plugin, name)
            if hasattr(member, "__api_method__"):
                self.registry.bind(member.__api_method__, member)
        for name, handler in handlers.items():
            self.registry.bind(name, handler)
        self.registry.check_complete()
        self.socket = directory / "api.sock"
        self.server = Server(
            settings or ApiSettings(listen=("127.0.0.1:0",)),
            self.socket,
            dispatcher=self.dispatcher,
            bus=self.bus,
            authenticator=self.authenticator,
            boot_id="boot-1",
            **options,
        )

    @property
    def port(self) -> int:
        return self.server.addresses[0][1]

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Client:
    """A well-behaved client: frames in and out, each wait bounded."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._last_id = 0

    async def send(self, message: Any) -> None:
        await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def receive(self) -> Any:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, message
        return json.loads(message.data)

    async def close_code(self) -> int | None:
        """Read until the server has closed."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while not self.socket.closed:
                await self.socket.receive()
        return self.socket.close_code

    async def request(self, method: str, *params: Any) -> int:
        self._last_id += 1
        await self.send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": list(params)})
        return self._last_id

    async def answer(self, method: str, *params: Any) -> Any:
        """The frame that answers; notifications before it are skipped."""
        number = await self.request(method, *params)
        while (frame := await self.receive()).get("id") != number or "method" in frame:
            pass
        return frame

    async def call(self, method: str, *params: Any) -> Any:
        frame = await self.answer(method, *params)
        assert "result" in frame, frame
        return frame["result"]


Connect = Callable[..., Awaitable[Client]]
Serve = Callable[..., Awaitable[Api]]

LOGIN = method(
    "auth.login",
    [param("username", {"type": "string"}), param("password", {"type": "string"})],
    auth="none",
    secret=["password"],
)


async def login(call: Call, username: str, password: str) -> bool:
    """The fake `auth.login`: everybody's password is x, and everybody is a full administrator but "guest"."""
    if password != "x" or call.session is None:
        return False
    roles = frozenset() if username == "guest" else frozenset({FULL_ADMIN})
    call.session.credential = Credential("LOGIN_PASSWORD", username, roles)
    return True
