"""Fixtures: `serve` starts a whole API on loopback, `connect` a well-behaved client of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.rpc_api import Api, Client, Connect, Serve


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def connect(http: aiohttp.ClientSession) -> Connect:
    async def connect(api: Api, path: str = "/api/current", *, login: bool = False) -> Client:
        client = Client(await http.ws_connect(api.http + path, autoping=True, max_msg_size=0))
        if login:
            await client.call("auth.login", "root", "x")
        return client

    return connect


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Start an Api; all of them are stopped at the end."""
    running: list[Api] = []

    async def serve(document: dict[str, Any], handlers: dict[str, Any], **options: Any) -> Api:
        directory = tmp_path / str(len(running))
        directory.mkdir()
        api = Api(directory, document, handlers, **options)
        await api.server.start()
        running.append(api)
        return api

    yield serve
    for api in running:
        await api.server.stop()
        await api.jobs.stop()
