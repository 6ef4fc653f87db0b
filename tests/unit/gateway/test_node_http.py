"""The admin port: no query, and no connection that only stays."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from uvicorn.server import ServerState

from gateway.node_http import HEAD_TIMEOUT_S, Node, make_server


async def get(target):
    app: Any = Node([]).app
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
        return await http.get(target)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/elsewhere"])
async def test_no_query_is_taken(path):
    assert (await get(path + "?x=1")).status_code == 422
    answer = await get(path + "?api%5Fkey=smsgw_1_secret")
    assert (answer.status_code, answer.json()["code"]) == (400, "auth.secret_in_query")
    assert "smsgw_1" not in answer.text


class Loop:
    """The running loop, whose timers a test lets run out."""

    def __init__(self):
        self.timers = []

    def call_later(self, delay_s, callback, *args):
        self.timers.append(asyncio.TimerHandle(0, callback, args, asyncio.get_running_loop()))
        assert delay_s in (HEAD_TIMEOUT_S, 5)  # uvicorn's own, between two requests
        return self.timers[-1]

    def create_task(self, work, **kwargs):
        return asyncio.get_running_loop().create_task(work, **kwargs)

    def run_out(self):
        for timer in self.timers:
            if not timer.cancelled():
                timer._run()


class Wire(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.sent = b""
        self.is_closed = False

    def write(self, data):
        self.sent += data

    def close(self):
        self.is_closed = True

    def is_closing(self):
        return self.is_closed


@pytest.fixture
async def connection():
    config = make_server(Node([])).config
    config.load()
    loop, wire = Loop(), Wire()
    protocol: Any = config.http_protocol_class
    protocol = protocol(config, ServerState(), {}, loop)
    protocol.connection_made(wire)
    return protocol, loop, wire


@pytest.mark.parametrize("part", [b"", b"GET /healthz HTTP/1.1\r\nHo"])
async def test_a_connection_that_does_not_ask_is_closed(connection, part):
    protocol, loop, wire = connection
    if part:
        protocol.data_received(part)
    loop.run_out()
    assert wire.is_closed


@pytest.mark.parametrize("part", [b"", b"GET /healthz HTTP/1.1\r\nHo"])
async def test_and_so_is_one_that_asks_no_more(connection, part):
    protocol, loop, wire = connection
    protocol.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0)
    assert not any(not timer.cancelled() for timer in loop.timers[:1])  # the head was there
    assert wire.sent.startswith(b"HTTP/1.1 200")
    if part:
        protocol.data_received(part)
    assert not wire.is_closed
    loop.run_out()
    assert wire.is_closed


async def test_a_lost_connection_waits_for_nothing(connection):
    protocol, loop, _ = connection
    protocol.connection_lost(None)
    assert all(timer.cancelled() for timer in loop.timers)
