"""The sums of the quotas in PostgreSQL: atomic, never beyond the limit."""

from __future__ import annotations

import asyncio
import random
from datetime import date

import pytest

from ratelimit.quota import Period, Quota
from ratelimit.quota_book import QuotaBook
from sms.errors import StoreUnavailable
from store.quotas import Quotas, Reservation
from telemetry.metrics import Metrics
from tests.support.postgres import World
from tests.support.quota_store import QuotaStore

pytestmark = pytest.mark.integration
DAY = date(2027, 1, 15)


async def test_the_statement_does_what_its_model_does(world: World) -> None:
    quotas, model = Quotas(world.pool), QuotaStore()
    chance = random.Random(3)
    for _ in range(150):
        keys = chance.sample([(t, p) for t in (1, 2, 3) for p in (0, 1)], chance.randint(1, 4))
        asks: list[Reservation] = []
        for tenant, period in keys:
            least = chance.choice([1, 5, 40])
            want = chance.choice([least, least + 30, -7, -500])
            asks.append((tenant, period, DAY, chance.choice([0, 60, 100, 300]), least, want))
        assert await quotas.reserve(asks) == model.reserve(asks), asks


async def test_many_at_once_take_the_limit_and_not_more(world: World) -> None:
    quotas = Quotas(world.pool)

    async def take(tenants: list[int]) -> int:
        granted = await quotas.reserve([(tenant, 0, DAY, 100, 3, 3) for tenant in tenants])
        return sum(n for n, _ in granted)

    # the keys in another order each time: none may wait crosswise
    orders = [[1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2]] * 15
    assert sum(await asyncio.gather(*(take(order) for order in orders))) == 3 * 99


async def test_two_processes_share_a_quota_to_its_last_segment(world: World) -> None:
    books = [QuotaBook(Quotas(world.pool).reserve, metrics=Metrics(), live=lambda: 2) for _ in "ab"]
    quotas = [book.quota(1, Period.DAY, 500) for book in books]
    running = [asyncio.ensure_future(book.run()) for book in books]

    async def spend(book: QuotaBook, quota: Quota) -> int:
        taken = 0
        while await book.ask([quota], 1) is None:
            taken += 1
        return taken

    taken = await asyncio.gather(*(spend(*pair) for pair in zip(books, quotas, strict=True)))
    assert sum(taken) == 500
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for book in books:
        await book.close()


async def test_old_sums_are_forgotten(world: World) -> None:
    quotas = Quotas(world.pool)
    await quotas.reserve([(1, 0, DAY, 9, 1, 9), (1, 0, date(2027, 1, 16), 9, 1, 9)])
    await quotas.forget(date(2027, 1, 16))
    granted = await quotas.reserve([(1, 0, DAY, 9, 1, 9), (1, 0, date(2027, 1, 16), 9, 1, 9)])
    assert [n for n, _ in granted] == [9, 0]


async def test_without_the_store_it_says_so(world: World) -> None:
    quotas = Quotas(world.pool)
    world.pool.terminate()
    with pytest.raises(StoreUnavailable):
        await quotas.reserve([(1, 0, DAY, 9, 1, 1)])
