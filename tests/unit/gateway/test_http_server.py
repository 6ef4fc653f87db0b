"""Leaving the door in steps, with connections made of bytes."""

from __future__ import annotations

from typing import Any

import uvicorn

from gateway.http_protocol import ALL_OF_THEM, Connections
from gateway.http_server import HttpServer
from tests.support.fake_flow import FakeFlow
from tests.support.http_client import GOOD, READY, Client, held_back, request

END = 1  # s; a test that waits so long has failed


def server_of(*clients: Client) -> HttpServer:
    shared = clients[0].shared
    server = HttpServer(uvicorn.Config(_no_app), shared, [])
    for client in clients:
        client.connect(server.server_state)
    return server


async def _no_app(*_: Any) -> None:
    raise AssertionError


def together(count: int) -> list[Client]:
    shared = Connections(100)
    return [Client(FakeFlow(), shared=shared) for _ in range(count)]


async def test_idle_connections_stay_open_until_they_are_closed_last() -> None:
    idle, busy = together(2)
    server = server_of(idle, busy)
    held = held_back(busy.flow)
    await busy.send(request(busy.flow, GOOD))
    server.begin_drain()
    assert not await server.answer_busy(0)
    assert not idle.wire.is_closed
    held[0].set_result(None)
    await busy.send()
    assert await server.answer_busy(END)
    assert busy.wire.is_closed
    assert not idle.wire.is_closed  # it may still ask, and is answered
    [(status, headers, _)] = await idle.send(READY)
    assert (status, headers["connection"]) == (200, "close")


async def test_what_is_idle_is_closed_and_what_is_busy_is_not() -> None:
    idle, busy = together(2)
    server = server_of(idle, busy)
    await busy.send(READY[:10])
    assert not await server.close_idle(0)
    assert idle.wire.is_closed
    assert not busy.wire.is_closed
    await busy.send(READY[10:])
    busy.lose()
    idle.lose()
    assert await server.close_idle(END)


async def test_what_never_becomes_whole_is_refused_at_the_end() -> None:
    whole, part = together(2)
    server = server_of(whole, part)
    held = held_back(whole.flow)
    await whole.send(request(whole.flow, GOOD))
    await part.send(request(part.flow, GOOD)[:-3])
    server.give_up()
    assert [status for status, _, _ in await part.send()] == [503]
    assert not whole.wire.is_closed
    held[0].set_result(None)
    assert [status for status, _, _ in await whole.send()] == [202]
    whole.end()


async def test_to_let_some_go_is_not_to_leave() -> None:
    one, two = together(2)
    server = server_of(one, two)
    assert server.connections() == 2
    server.spread(1)
    await one.send(READY)
    await two.send(READY)
    assert [one.wire.is_closed, two.wire.is_closed] == [True, False]
    server.begin_drain()
    server.spread(0)
    assert one.shared.to_end == ALL_OF_THEM
    await two.send(READY)
    assert two.wire.is_closed
