"""Endpoints, ways in and the closing of connections, on a real server."""

import asyncio
import hashlib
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.certificates import make_certificate
from support.rpc_api import LOGIN, ROOT, Api, Client, Connect, Serve, login, method, service

from middlewared.auth.identity import Origin
from middlewared.plugin import Call
from middlewared.rpc.server import API_VERSIONS, channel_binding
from middlewared.settings import ApiSettings

DOCUMENT = {"services": [service("auth"), service("test")], "methods": [LOGIN, method("test.origin", auth="none")]}


class World:
    def __init__(self) -> None:
        self.origins: list[Origin] = []

    async def origin(self, call: Call) -> None:
        self.origins.append(call.origin)


async def start(serve: Serve, world: World | None = None, **options: Any) -> Api:
    return await serve(DOCUMENT, {"auth.login": login, "test.origin": (world or World()).origin}, **options)


@pytest.mark.parametrize("path", ["/api/current", *(f"/api/{version}" for version in API_VERSIONS)])
async def test_json_rpc_endpoints(serve: Serve, connect: Connect, path: str) -> None:
    api = await start(serve)
    assert await (await connect(api, path)).call("core.ping") == "pong"


async def test_documents(serve: Serve, http: aiohttp.ClientSession) -> None:
    api = await start(serve)
    for path, expected in (
        ("/api/versions", list(API_VERSIONS)),
        ("/api/boot_id", "boot-1"),
        ("/openrpc.json", api.registry.openrpc),
    ):
        async with http.get(api.http + path) as response:
            assert (response.status, response.content_type) == (200, "application/json")
            assert await response.json() == expected


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api", 404),
        ("GET", "/api/v1.2.3", 404),
        ("GET", "/api/current/", 404),
        ("GET", "/api/current", 400),
        ("POST", "/api/versions", 404),
        ("GET", "/_upload/", 405),
        ("POST", "/_download/1", 405),
        ("GET", "/_download/x", 404),
        ("GET", "/_download/1", 401),
        ("GET", "/_download/1?auth_token=x", 404),
        ("GET", "/../../etc/passwd", 404),
    ],
)
async def test_other_requests(serve: Serve, http: aiohttp.ClientSession, verb: str, path: str, status: int) -> None:
    api = await start(serve)
    async with http.request(verb, api.http + path) as response:
        assert response.status == status


@pytest.mark.parametrize("path", ["/api/v0.0.1", "/websockets"])
async def test_a_wrong_websocket_path_is_not_found(serve: Serve, connect: Connect, path: str) -> None:
    api = await start(serve)
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await connect(api, path)
    assert caught.value.status == 404


async def test_repeated_slashes_are_merged(serve: Serve, http: aiohttp.ClientSession) -> None:
    api = await start(serve)
    async with http.get(api.http + "//api///versions?a=1", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (308, "/api/versions?a=1")
    async with http.get(api.http + "//evil.example/x", allow_redirects=False) as response:
        assert response.headers["Location"] == "/evil.example/x"


async def test_a_browser_that_finds_nothing_is_told_where_the_api_is(serve: Serve, http: aiohttp.ClientSession) -> None:
    api = await start(serve)
    async with http.get(api.http + "/") as response:
        assert response.status == 404
        assert "/api/current" in await response.text()


# ---------------------------------------------------------------------------------------------- ways in


async def test_the_unix_socket_is_open_to_all_and_knows_who_calls(serve: Serve) -> None:
    world = World()
    api = await start(serve, world)
    api.authenticator.local = ROOT
    assert api.socket.stat().st_mode & 0o777 == 0o666
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(api.socket))) as http:
        client = Client(await http.ws_connect("http://localhost/api/current"))
        assert await client.call("core.get_jobs") == []
        await client.call("test.origin")
    assert world.origins == [Origin("unix", uid=os.getuid(), gid=os.getgid())]


async def test_a_socket_of_systemd_is_served_and_left_alone(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        api = await start(serve, inherited=[listening])
        api.authenticator.local = ROOT
        assert not api.socket.exists()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
            client = Client(await http.ws_connect("http://localhost/api/current"))
            assert await client.call("core.ping") == "pong"
        await api.server.stop()
    assert path.exists()


async def test_tcp_knows_both_addresses(serve: Serve, connect: Connect) -> None:
    world = World()
    api = await start(serve, world)
    await (await connect(api)).call("test.origin")
    assert world.origins == [Origin("127.0.0.1", local_address="127.0.0.1")]


async def test_tls_and_its_channel_binding(serve: Serve, tmp_path: Path) -> None:
    world = World()
    certificate = make_certificate(tmp_path)
    settings = ApiSettings(listen=(), listen_tls=("127.0.0.1:0",), certificate=str(certificate))
    api = await start(serve, world, settings=settings)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with aiohttp.ClientSession() as http:
        socket_ = await http.ws_connect(f"https://127.0.0.1:{api.port}/api/current", ssl=context)
        await Client(socket_).call("test.origin")
    (origin,) = world.origins
    assert origin.secure
    der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(Encoding.DER)
    assert origin.channel_binding == hashlib.sha384(der).digest() == channel_binding(certificate)


async def test_a_tls_handshake_that_fails_leaves_nothing_behind(serve: Serve, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    api = await start(serve, settings=ApiSettings(listen=(), listen_tls=("127.0.0.1:0",), certificate=str(certificate)))
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(10):
        await reader.read(-1)
    writer.close()
    assert api.server.connections == 0


async def test_connections_may_be_handed_over(serve: Serve, tmp_path: Path) -> None:
    world = World()
    certificate = make_certificate(tmp_path)
    handoff = tmp_path / "handoff.sock"
    settings = ApiSettings(
        listen=(), handoff=str(handoff), certificate=str(certificate), port=6080, port_tls=6443, listen_tls=()
    )
    await start(serve, world, settings=settings)
    assert handoff.stat().st_mode & 0o777 == 0o600
    switch = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    switch.connect(str(handoff))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]

    async def hand_over(message: bytes) -> None:
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        with accepted:
            socket.send_fds(switch, [message], [accepted.fileno()])

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with aiohttp.ClientSession() as http:
        for message, url in ((b"6080", "http"), (b"6443", "https")):
            handing = asyncio.create_task(hand_over(message))
            client = Client(await http.ws_connect(f"{url}://127.0.0.1:{port}/api/current", ssl=context))
            await handing
            await client.call("test.origin")
    assert [(origin.address, origin.secure) for origin in world.origins] == [("127.0.0.1", False), ("127.0.0.1", True)]

    for message in (b"nonsense", b"6080"):  # no port, no descriptor: ignored, and the switch stays connected
        if message == b"6080":
            switch.send(message)
        else:
            reader = asyncio.create_task(asyncio.open_connection("127.0.0.1", port))
            await hand_over(message)
            assert await (await reader)[0].read() == b""
    switch.close()
    listener.close()


# ---------------------------------------------------------------------------------- admission and end


async def test_admission_is_asked_for_each_connection(serve: Serve, connect: Connect) -> None:
    refused: set[str] = {"127.0.0.1"}
    asked: list[str] = []

    def admit(local_address: str) -> bool:
        asked.append(local_address)
        return local_address not in refused

    api = await start(serve, admit=admit)
    with pytest.raises(aiohttp.ClientError):
        await connect(api)
    refused.clear()
    assert await (await connect(api)).call("core.ping") == "pong"
    assert set(asked) == {"127.0.0.1"}


async def test_connections_of_an_address_can_be_closed(serve: Serve, http: aiohttp.ClientSession) -> None:
    api = await start(serve, settings=ApiSettings(listen=("0.0.0.0:0",)))
    leaving, staying = [
        Client(await http.ws_connect(f"http://{address}:{api.port}/api/current"))
        for address in ("127.0.0.2", "127.0.0.3")
    ]
    silent, _ = await asyncio.open_connection("127.0.0.2", api.port)
    while api.server.connections < 3:
        await asyncio.sleep(0)
    api.server.close_connections("127.0.0.2")
    assert await leaving.close_code() == 1001
    async with asyncio.timeout(5):  # long before the deadline for a request that does not come
        assert await silent.read() == b""
    assert await staying.call("core.ping") == "pong"


async def test_stopping_says_goodbye_and_removes_the_socket(serve: Serve, connect: Connect) -> None:
    api = await start(serve)
    client = await connect(api, login=True)
    closing = asyncio.create_task(client.close_code())
    await api.server.stop()
    assert await closing == 1001
    assert not api.socket.exists()


async def test_a_taken_address_is_named(serve: Serve) -> None:
    api = await start(serve)
    with pytest.raises(OSError, match=f"127.0.0.1:{api.port}"):
        await start(serve, settings=ApiSettings(listen=(f"127.0.0.1:{api.port}",)))
