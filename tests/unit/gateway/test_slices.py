"""Large bursts of reports are handed on in slices, in order."""

import asyncio

import pytest

from gateway.slices import SLICE, Slices
from sms.model import Report


def some_reports(count, first=0):
    return [Report(1, str(first + n), "DELIVRD", "", "") for n in range(count)]


class Taker:
    def __init__(self):
        self.taken = []
        self.fails = False

    def take(self, channel, reports):
        if self.fails:
            self.fails = False
            raise RuntimeError
        self.taken.append((channel, [int(one.carrier_id) for one in reports]))


async def test_a_large_burst_lets_others_have_their_turns():
    taker, turns = Taker(), []
    slices = Slices(taker.take)
    slices.put(1, some_reports(2 * SLICE + 1))
    assert [len(ids) for _, ids in taker.taken] == [SLICE]
    asyncio.get_running_loop().call_soon(lambda: turns.append(len(taker.taken)))
    for _ in range(3):
        await asyncio.sleep(0)
    assert [len(ids) for _, ids in taker.taken] == [SLICE, SLICE, 1]
    assert turns == [2]  # another's turn came before the last slice


async def test_the_order_stays_when_more_comes_meanwhile():
    taker = Taker()
    slices = Slices(taker.take)
    slices.put(1, some_reports(SLICE + 1))
    slices.put(2, some_reports(1, first=SLICE + 1))
    for _ in range(3):
        await asyncio.sleep(0)
    assert [number for _, ids in taker.taken for number in ids] == list(range(SLICE + 2))
    assert [channel for channel, _ in taker.taken] == [1, 1, 2]
    slices.put(2, some_reports(3))  # nothing waits: at once again
    assert taker.taken[-1] == (2, [0, 1, 2])


async def test_one_that_fails_does_not_keep_the_others():
    taker = Taker()
    slices = Slices(taker.take)
    taker.fails = True
    with pytest.raises(RuntimeError):
        slices.put(1, some_reports(SLICE + 1))
    await asyncio.sleep(0)
    assert taker.taken == [(1, [SLICE])]
