"""Following another process's ids, never beyond what is reserved."""

from __future__ import annotations

import asyncio

from gateway.idreserve import AHEAD_S, IdReserve
from sms.ids import IdClock, id_at
from tests.support.flow_kit import UNIX


class Reserved:
    """A process whose mark is renewed when it asks, as the worker does."""

    def __init__(self) -> None:
        self.now = UNIX
        self.ids = IdClock(1, 0, lambda: self.now)
        self.reserve = IdReserve(self.ids)
        self.reserve.ask = self.renew_soon
        self.asked = 0
        self.running: list[int] = []  # marks of renewals that were asked for earlier
        self.renew()

    def renew(self) -> None:
        self.reserve.granted(self.ids.high_water(AHEAD_S))

    def renew_soon(self) -> None:
        self.asked += 1
        loop = asyncio.get_running_loop()
        if self.running:
            loop.call_soon(self.reserve.granted, self.running.pop())
        else:
            loop.call_soon(self.renew)


async def test_what_is_written_after_a_row_was_read_lies_above_it():
    one = Reserved()
    seen = id_at(one.now + 13) + 5
    await one.reserve.follow(seen)
    assert one.ids.next() > seen
    assert one.asked == 0


async def test_older_rows_move_nothing():
    one = Reserved()
    before = one.ids.next()
    await one.reserve.follow(before - 1)
    assert one.ids.next() == before + 1


async def test_the_mark_is_renewed_first_where_it_does_not_reach():
    one = Reserved()
    one.running = [id_at(one.now + 15)]  # one that ran already, and brings too little
    one.now += 4  # the last renewal was so long ago
    seen = id_at(one.now + 14)
    await one.reserve.follow(seen)
    assert one.asked == 2
    assert seen < one.ids.next() <= one.ids.high_water(AHEAD_S)


async def test_a_wrong_clock_is_not_followed():
    one = Reserved()
    await one.reserve.follow(id_at(one.now + 3600))
    assert one.asked == 0
    assert one.ids.next() < id_at(one.now + 1)


async def test_while_the_store_is_slow_nobody_goes_beyond_the_mark(monkeypatch):
    monkeypatch.setattr("gateway.idreserve._PATIENCE_S", 0.001)
    one = Reserved()
    one.reserve.ask = lambda: None
    one.now += 4
    await one.reserve.follow(id_at(one.now + 14))
    assert one.ids.next() < id_at(one.now + 1)
