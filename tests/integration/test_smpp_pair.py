"""`bind: tx+rx` over real sockets: what happens when one of the two connections is away."""

import asyncio

import pytest

from tests.support.smpp import some_submits
from tests.support.wire_rig import WireRig

pytestmark = pytest.mark.integration


async def until(is_true):
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 – any condition, at the door's outside
            await asyncio.sleep(0.002)


@pytest.fixture
async def rig():
    rig = WireRig("smpp", settings={"bind": "tx+rx"})
    await rig.start()
    await until(lambda: rig.channel.is_up() and rig.channel.is_receiving())
    yield rig
    await rig.stop()


def one(rig, *, sends):
    return next(peer for peer in rig.peers if peer.session.may_submit == sends)


async def test_without_its_receiver_it_sends_says_so_and_gets_the_reports_later(rig):
    one(rig, sends=False).transport.abort()
    await until(lambda: not rig.channel.is_receiving())
    assert rig.channel.is_up()
    assert rig.channel.last_reason.startswith("receiver: link lost")
    assert [is_up for is_up, _ in rig.sink.links] == [True]
    assert rig.channel.submit(some_submits(2)) == []
    await until(lambda: len(rig.sink.results) == 2)
    await until(rig.channel.is_receiving)  # by itself
    rig.report(1, 2)
    await until(lambda: len(rig.sink.received) == 2)


async def test_without_its_transmitter_it_is_down_and_still_gets_reports(rig):
    rig.refuses_login = True
    one(rig, sends=True).transport.abort()
    await until(lambda: not rig.channel.is_up())
    assert rig.channel.is_receiving()
    rig.report(1)
    await until(lambda: rig.sink.received)
    rig.channel.answer([rig.sink.received[0].token], accepted=True)
    await until(lambda: rig.taken == 1)
    await until(lambda: rig.channel.why_down().startswith("transmitter: bind refused"))
    rig.refuses_login = False
    await until(rig.channel.is_up)
