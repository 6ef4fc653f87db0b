"""The pumping guard on a real Valkey: several processes, wiped, away, and who counts what."""

import asyncio
import contextlib
import random

import pytest
import redis.asyncio

from ratelimit.limiter import Valkey
from ratelimit.otp_caps import Wanted
from ratelimit.otp_guard import SCRIPT, OtpGuard
from sms.config import OtpCaps
from telemetry.metrics import Metrics

pytestmark = pytest.mark.integration

CAPS = OtpCaps(prefix_burst=0)


@contextlib.asynccontextmanager
async def guards(url, count):
    """As many processes, on one Valkey."""
    made = [OtpGuard(Valkey(url, script=SCRIPT), metrics=Metrics()) for _ in range(count)]
    tasks = [asyncio.create_task(one.run()) for one in made]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in made:
            await one.close()


async def take(guard, *wanted):
    return [one.wait_s for one in await guard.ask(wanted)]


def number():
    return random.randrange(1 << 62)


async def test_a_number_is_counted_over_all_processes(valkey):
    one = Wanted(number(), number(), CAPS)
    async with guards(valkey.url, 4) as made:
        answers = await asyncio.gather(*(take(guard, one) for guard in made for _ in range(12)))
        assert sum(wait_s == 0.0 for [wait_s] in answers) == 1
        assert all(55 < wait_s <= 60 for [wait_s] in answers if wait_s)


async def test_a_block_of_numbers_is_counted_over_all_processes(valkey):
    caps, block = OtpCaps(prefix_burst=20), number()
    async with guards(valkey.url, 2) as made:
        wanted = [Wanted(number(), block, caps) for _ in range(60)]
        answers = await asyncio.gather(
            *(take(made[place % 2], one) for place, one in enumerate(wanted))
        )
        assert 20 <= sum(wait_s == 0.0 for [wait_s] in answers) <= 21


async def test_what_is_given_back_is_free_for_every_process(valkey):
    one = Wanted(number(), number(), OtpCaps(per_minute=1, prefix_burst=1))
    async with guards(valkey.url, 2) as (first, second):
        counted = await first.ask([one])
        assert (await take(second, one))[0] > 55
        first.give_back(counted)
        assert await take(first, Wanted(number(), number(), CAPS)) == [0.0]  # told before
        assert await take(second, one) == [0.0]


async def test_the_same_request_counts_once_on_every_process(valkey):
    one = Wanted(number(), number(), CAPS, token=4711)
    async with guards(valkey.url, 3) as made:
        assert [await take(guard, one) for guard in made for _ in range(3)] == [[0.0]] * 9
        other = Wanted(one.number, one.prefix, CAPS, token=4712)
        assert (await take(made[0], other))[0] > 55


async def test_to_look_counts_nothing(valkey):
    one = Wanted(number(), number(), CAPS)
    async with guards(valkey.url, 2) as (first, second):
        assert await first.look(one) == 0.0
        assert await take(first, one) == [0.0]
        assert await second.look(one) > 55


async def test_a_wiped_valkey_costs_at_most_one_cap_more(valkey):
    one = Wanted(number(), number(), OtpCaps(per_minute=3, prefix_burst=0))
    async with guards(valkey.url, 2) as (first, second):
        for guard in (first, second, first, second, first):
            await guard.ask([one])
        valkey.wipe()
        again = [await take(guard, one) for guard in (first, second) * 6]
        assert sum(wait_s == 0.0 for [wait_s] in again) <= 3


async def test_a_valkey_that_is_not_there_costs_no_more_than_50_ms(tmp_path):
    one = Wanted(number(), number(), CAPS)
    async with guards(f"unix://{tmp_path}/none.sock", 1) as [guard]:
        began = asyncio.get_running_loop().time()
        assert await take(guard, one) == [0.0]
        assert asyncio.get_running_loop().time() - began < 0.2  # 50 ms, and a busy machine
        assert (await take(guard, one))[0] > 55


async def test_no_number_and_no_key_for_ever(valkey):
    client = redis.asyncio.Redis.from_url(valkey.url)
    async with guards(valkey.url, 1) as [guard]:
        await guard.ask([Wanted(number(), number(), OtpCaps())])
    keys = await client.keys("*")
    assert len(keys) == 2
    lives_ms = [await client.pttl(key) for key in keys]
    await client.aclose()
    assert all(0 < life_ms <= 86_400_000 for life_ms in lives_ms)
