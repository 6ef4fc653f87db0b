"""Connections are taken at once, also when each turn of the event loop is long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import uvloop

from gateway.listener import EACH, Listener


class Counting(asyncio.Protocol):
    """Counts itself; slow to leave."""

    made: int = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).made += 1


def run(main: Callable[[], Awaitable[None]]) -> None:
    """On the event loop of the gateway."""
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def listening() -> socket.socket:
    made = socket.create_server(("127.0.0.1", 0), backlog=512)
    made.setblocking(False)
    return made


def test_a_crowd_is_taken_within_a_few_turns() -> None:
    async def main() -> None:
        Counting.made = 0
        with listening() as opened:
            crowd = [socket.create_connection(opened.getsockname()) for _ in range(10 * EACH)]
            listener = Listener(opened, Counting, None)
            turns = 0
            while Counting.made < len(crowd) and turns < 40:
                await asyncio.sleep(0)
                turns += 1
            listener.close()
            await listener.wait_closed()
            for client in crowd:
                client.close()
        assert Counting.made == len(crowd)

    run(main)


def test_after_close_new_ones_stay_in_the_queue_and_taken_ones_get_their_protocol() -> None:
    async def main() -> None:
        Counting.made = 0
        with listening() as opened:
            first = socket.create_connection(opened.getsockname())
            listener = Listener(opened, Counting, None)
            for _ in range(40):
                if listener.is_taking() or Counting.made:
                    break
                await asyncio.sleep(0)
            listener.close()
            await listener.wait_closed()
            assert Counting.made == 1
            second = socket.create_connection(opened.getsockname())
            for _ in range(20):
                await asyncio.sleep(0)
            assert Counting.made == 1
            taken, _ = opened.accept()  # as the next worker would
            for each in (first, second, taken):
                each.close()

    run(main)
