"""The pumping guard on a real Valkey: several processes, wiped, away, and who counts what."""

import asyncio
import contextlib
import random
import signal

import pytest
import redis.asyncio

from ratelimit.limiter import CALL_TIMEOUT_S
from ratelimit.otp_caps import Wanted
from ratelimit.otp_guard import PROBE_S, OtpGuard, OtpScript
from sms.config import OtpCaps
from sms.errors import ClusterUnavailable
from telemetry.metrics import Metrics

pytestmark = pytest.mark.integration

CAPS = OtpCaps(prefix_burst=0)


@contextlib.asynccontextmanager
async def guards(url, count, timeout_s=5.0):
    """As many processes, on one Valkey; with patience, for a busy machine."""
    made = [OtpGuard(OtpScript(url, timeout_s), metrics=Metrics()) for _ in range(count)]
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
        assert all(30 < wait_s <= 60 for [wait_s] in answers if wait_s)


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


async def test_a_call_that_is_made_twice_counts_once_and_gives_back_once(valkey):
    """As after a connection that broke between the script and its answer."""
    call = OtpScript(valkey.url)
    block = f"{number():x}"

    async def ask(who, token, act):
        """Milliseconds to wait, and the moment; of three in a block, each number one a minute."""
        return await call([f"{who} {block} 1 0 0 3 {token} {act}"])

    assert (await ask("a", 11, 0))[0] == 0
    moments = [await ask("b", 12, 0) for _ in range(2)]
    assert [wait_ms for wait_ms, _ in moments] == [0, 0]
    assert (await ask("b", 13, 0))[0] > 55_000
    for _ in range(2):
        await ask("b", 12, moments[0][1])  # given back
    assert [(await ask(who, 14, 0))[0] for who in "cd"] == [0, 0]
    assert (await ask("e", 15, 0))[0] > 15_000  # a, c and d fill the block
    await call.close()


async def test_a_valkey_that_stands_still_holds_nobody_up(valkey):
    one, other = (Wanted(number(), number(), CAPS) for _ in range(2))
    async with guards(valkey.url, 2, 0.5) as (first, second):
        assert await take(first, one) == [0.0]
        valkey.signal(signal.SIGSTOP)
        try:
            assert await take(second, one) == [0.0]  # it does not know: a cap more
            assert (await take(second, one))[0] > 55
            assert await take(first, other) == [0.0]
        finally:
            valkey.signal(signal.SIGCONT)
        async with asyncio.timeout(60):
            while True:  # each asks by itself whether it is back
                fresh = Wanted(number(), number(), CAPS)
                answers = [await take(guard, fresh) for guard in (first, second)]
                if answers[1][0] > 55:
                    break  # together again
                await asyncio.sleep(PROBE_S / 10)


@pytest.mark.parametrize("garbage", [b"+OK\r\n", b"$5\r\n1 2 3\r\n", b"*2\r\n:0\r\n:0\r\n", b"x"])
async def test_what_is_no_valkey_is_away(tmp_path, garbage):
    async def talk(reader, writer):
        with contextlib.suppress(OSError):
            while await reader.read(1000):
                writer.write(garbage)
            writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / "s")
    call = OtpScript(f"unix://{tmp_path}/s", timeout_s=0.5)
    for _ in range(3):
        with pytest.raises(ClusterUnavailable):
            await call(["a b 1 5 10 0 7 0"])
    await call.close()
    server.close()


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
    url = f"unix://{tmp_path}/none.sock"
    took_s = []
    for _ in range(3):  # a moment in which the machine has other work is not judged
        async with guards(url, 1, CALL_TIMEOUT_S) as [guard]:
            began = asyncio.get_running_loop().time()
            assert await take(guard, one) == [0.0]
            took_s.append(asyncio.get_running_loop().time() - began)
            assert (await take(guard, one))[0] > 30
    assert min(took_s) < 0.2


async def test_no_number_and_no_key_for_ever(valkey):
    client = redis.asyncio.Redis.from_url(valkey.url)
    async with guards(valkey.url, 1) as [guard]:
        await guard.ask([Wanted(number(), number(), OtpCaps())])
    keys = await client.keys("*")
    assert len(keys) == 2
    lives_ms = [await client.pttl(key) for key in keys]
    await client.aclose()
    assert all(0 < life_ms <= 86_400_000 for life_ms in lives_ms)
