"""Real sockets: endpoints that hang keep nobody else waiting, and hold no more than their part."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from gateway.endpoint_queue import NotifyPolicy
from tests.support.notify_world import TENANT, World, endpoint
from webhooks.address import AllowList
from webhooks.deliver import Deliverer, DeliveryPolicy

pytestmark = pytest.mark.integration

HANGING = 40
TOTAL = 256
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Hosts:
    """One server for many endpoints, told apart by path: `/bad…` is taken and never answered."""

    def __init__(self) -> None:
        self.good = 0
        self.hanging = 0  # at the moment
        self.most_hanging = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_hanging = False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
                if head.startswith(b"POST /bad"):
                    is_hanging = True
                    self.hanging += 1
                    self.most_hanging = max(self.most_hanging, self.hanging)
                    await reader.read()  # until the gateway gives up
                    break
                self.good += 1
                writer.write(OK)
        self.hanging -= is_hanging
        writer.close()


async def eventually(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, "it did not happen while the others hang"
        await asyncio.sleep(0.01)


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    made = Hosts()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def test_endpoints_that_hang_hold_their_part_and_no_more(hosts: Hosts) -> None:
    origin = f"http://127.0.0.1:{hosts.port}"
    deliverer = Deliverer(DeliveryPolicy(connect_s=30.0, total_s=60.0))
    world = World(
        deliver=deliverer.deliver,
        allow=AllowList.of([origin]),
        policy=NotifyPolicy(total_in_flight=TOTAL),
    )
    bad = [endpoint(number, url=f"{origin}/bad{number}") for number in range(1, HANGING + 1)]
    world.configure(*bad, endpoint(99, tenant=TENANT + 1, url=f"{origin}/good"))
    await world.notifier.recover(until=0)
    world.notifier.rows_committed(world.rows(30))  # 1,200 requests that would hang
    await eventually(lambda: hosts.hanging >= HANGING)
    mine = [replace(row, tenant=TENANT + 1) for row in world.rows(200)]
    world.notifier.rows_committed(mine)
    await eventually(lambda: hosts.good == 200)
    assert hosts.hanging >= HANGING  # none of them was given up for it
    assert HANGING < hosts.most_hanging < TOTAL
    await world.notifier.stop(0.0)
    await deliverer.close()
