"""A crash while messages leave a channel: one outcome for each, whoever had it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from failover.breaker import BreakerState
from tests.support.inside import Inside, inside

pytestmark = pytest.mark.integration


async def left(worker: Inside) -> None:
    """Channel 1 hangs, and its breaker opens."""
    dispatcher = worker.flow.dispatcher
    watch = dispatcher.channels[1].watch
    watch.link_failed(5)
    while watch.state() is not BreakerState.OPEN:
        dispatcher.tick()
        await asyncio.sleep(0.05)


async def test_a_crash_while_a_channel_is_left_loses_nothing(dsn: str, tmp_path: Path) -> None:
    async with inside(dsn, tmp_path, channels=2) as worker:
        for number in worker.channels:
            worker.link(number, is_up=True)
        ids = await worker.send(600)
        stuck = {one.message.id for one in worker.channels[1].open}
        assert stuck
        assert not worker.channels[2].seen
        await left(worker)
        while len(worker.channels[2].seen) < 150:  # in the middle of what leaves
            waiting, worker.channels[1].open = worker.channels[1].open, []
            worker.answer()
            worker.channels[1].open = waiting
            await asyncio.sleep(0.01)
        assert stuck.isdisjoint(one.message.id for one in worker.channels[2].seen)
        await worker.crash()
        await worker.start()
        for number in worker.channels:
            worker.link(number, is_up=True)
        worker.run()
        await worker.drained()
        [(rows, messages)] = await worker.ask(
            "SELECT count(*), count(DISTINCT message_id) FROM events WHERE path IN (1, 4)"
        )
        assert rows == messages == len(ids)
