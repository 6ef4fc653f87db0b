"""Requests that wait for a block of a quota."""

import asyncio

import pytest

from ratelimit.quota import Period
from ratelimit.quota_book import QuotaBook
from sms.errors import StoreUnavailable
from telemetry.metrics import Metrics
from tests.support.quota_store import QuotaStore

NOON = 1_800_000_000.0


class Rig:
    def __init__(self) -> None:
        self.now = NOON
        self.store = QuotaStore()
        self.metrics = Metrics()
        self.book = QuotaBook(self.store.reserve_later, metrics=self.metrics, unix=lambda: self.now)
        self.day = self.book.quota(1, Period.DAY, 100)
        self.month = self.book.quota(1, Period.MONTH, 150)

    async def ask(self, n: int, *quotas):
        asking = asyncio.ensure_future(self.book.ask(quotas or (self.day, self.month), n))
        await asyncio.sleep(0)
        if not asking.done():
            await self.book._round()
        return await asking


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_day_and_month_are_taken_together_or_not_at_all(rig):
    assert await rig.ask(100) is None
    assert await rig.ask(1) is rig.day
    rig.now += 86_400
    assert await rig.ask(60) is rig.month
    assert await rig.ask(50) is None
    assert await rig.ask(1) is rig.month


async def test_those_that_wait_share_one_statement(rig):
    asked = [asyncio.ensure_future(rig.book.ask((rig.day,), 10)) for _ in range(12)]
    await asyncio.sleep(0)
    await rig.book._round()
    used_up = await asyncio.gather(*asked)
    assert [one is None for one in used_up] == [True] * 10 + [False] * 2
    assert rig.store.calls == 1


async def test_a_used_up_quota_is_not_asked_for_with_every_request(rig):
    assert await rig.ask(100, rig.day) is None
    made = rig.store.calls
    for _ in range(50):
        assert await rig.ask(1, rig.day) is rig.day
    assert rig.store.calls == made + 1
    rig.store.taken.clear()  # the operator, or others that gave back
    rig.now += 1.1
    assert await rig.ask(1, rig.day) is None


async def test_more_than_the_limit_is_refused_without_asking(rig):
    assert await rig.ask(101) is rig.day
    assert rig.store.calls == 0


async def test_without_the_store_nobody_waits(rig):
    rig.store.is_away = True
    with pytest.raises(StoreUnavailable):
        await rig.ask(1)
    assert rig.metrics.quota_calls_total.values[("failed",)] == 1
    rig.store.is_away = False
    assert await rig.ask(1) is None


async def test_what_is_put_back_can_be_taken_again(rig):
    assert await rig.ask(100, rig.day) is None
    rig.book.put_back((rig.day,), 30, rig.now)
    assert await rig.ask(30, rig.day) is None
    assert await rig.ask(1, rig.day) is rig.day


async def test_closing_gives_the_blocks_back(rig):
    rig.day = rig.book.quota(1, Period.DAY, 100_000)
    assert await rig.ask(10, rig.day) is None
    assert rig.day.left > 0
    await rig.book.close()
    assert list(rig.store.taken.values()) == [10]


async def test_a_client_that_went_away_takes_nothing(rig):
    asking = asyncio.ensure_future(rig.book.ask((rig.day,), 100))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await rig.book._round()
    assert rig.day.waiting == 0
    assert await rig.ask(100, rig.day) is None


async def test_run_asks_when_somebody_waits(rig):
    running = asyncio.ensure_future(rig.book.run())
    assert await rig.book.ask((rig.day,), 1) is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
