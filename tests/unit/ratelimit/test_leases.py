"""Who waits for a call, what is asked in it, and what happens without an answer."""

import asyncio
import itertools
import math

import pytest

from ratelimit.leases import (
    FIRST_PROBE_S,
    GAP_S,
    LAST_PROBE_S,
    MAX_BUCKETS,
    REFILL_S,
    TICK_S,
    ChannelBucket,
    Leases,
)
from telemetry.metrics import Metrics
from tests.support.shared_bucket import Caller, SharedBuckets


class Rig:
    """One process's leases on a Valkey in memory; the clock moves by hand, calls are made by it."""

    def __init__(self, live: int = 2, valkey: SharedBuckets | None = None) -> None:
        self.valkey = valkey or SharedBuckets()
        self.call = Caller(self.valkey, f"p{id(self)}")
        self.metrics = Metrics()
        self.live = live
        self.leases = Leases(
            self.call, metrics=self.metrics, live=lambda: self.live, monotonic=self.now
        )

    def now(self) -> float:
        return self.valkey.now_us / 1e6

    def advance(self, seconds: float) -> None:
        self.valkey.now_us += int(seconds * 1e6)

    async def round(self) -> None:
        await self.leases._round()

    async def ask(self, *needs):
        """One request that waits, and the call that decides it."""
        asking = asyncio.ensure_future(self.leases.ask(needs, self.now()))
        await asyncio.sleep(0)
        if not asking.done():
            await self.round()
        return await asking

    async def run_for(self, seconds: float, step_s: float = 0.001) -> None:
        """What `run` would do meanwhile."""
        for _ in range(round(seconds / step_s)):
            if self.leases._due_at() <= self.now():
                await self.round()
            self.advance(step_s)


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_requests_that_wait_are_decided_in_one_call_first_come_first_served(rig):
    lease = rig.leases.lease("t1", 10.0, 20)
    asked = [asyncio.ensure_future(rig.leases.ask([(lease, n)], rig.now())) for n in (8, 15, 12, 1)]
    await asyncio.sleep(0)
    await rig.round()
    lacks = [await one for one in asked]
    assert [lack is None for lack in lacks] == [True, False, True, False]
    assert lacks[1].wait_s > 0.0
    assert len(rig.call.calls) == 1


async def test_nobody_overtakes_those_that_wait(rig):
    lease = rig.leases.lease("t1", 1000.0, 1000)
    assert await rig.ask((lease, 1)) is None
    assert lease.held > 3
    waiting = asyncio.ensure_future(rig.leases.ask([(lease, lease.held + 1)], rig.now()))
    await asyncio.sleep(0)
    small = asyncio.ensure_future(rig.leases.ask([(lease, 1)], rig.now()))
    await asyncio.sleep(0)
    assert not small.done()
    await rig.round()
    assert await waiting is None
    assert await small is None
    assert lease.waiting == 0


async def test_a_refusal_is_only_given_after_a_call_that_began_later(rig):
    lease = rig.leases.lease("t1", 10.0, 20)
    other = Rig(valkey=rig.valkey)
    theirs = other.leases.lease("t1", 10.0, 20)
    assert await other.ask((theirs, 20)) is None
    other.leases.put_back(theirs, 20, other.now())
    assert await rig.ask((lease, 5)) is not None  # not given back yet
    await other.round()
    assert await rig.ask((lease, 5)) is None


async def test_more_than_the_bucket_holds_is_said_without_a_call(rig):
    lease = rig.leases.lease("t1", 10.0, 20)
    lack = await rig.leases.ask([(lease, 21)], rig.now())
    assert lack.wait_s == math.inf
    assert rig.call.calls == []


async def test_all_or_nothing_over_several_buckets(rig):
    one, two = rig.leases.lease("a", 10.0, 20), rig.leases.lease("b", 10.0, 5)
    assert await rig.ask((one, 10), (two, 4)) is None
    lack = await rig.ask((one, 10), (two, 4))
    assert lack.lease is two
    assert await rig.ask((one, 10)) is None


async def test_a_request_whose_client_went_away_takes_nothing(rig):
    lease = rig.leases.lease("t1", 10.0, 20)
    asking = asyncio.ensure_future(rig.leases.ask([(lease, 20)], rig.now()))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await rig.round()
    rig.advance(REFILL_S)
    await rig.round()
    assert lease.waiting == 0
    assert rig.valkey.left(lease.key) == 20


async def test_calls_are_paced_and_never_one_per_message(rig):
    lease = rig.leases.lease("t1", 2000.0, 4000)
    taken = 0
    for _ in range(1000):  # a second, two messages each millisecond
        for _ in range(2):
            if rig.leases.take([(lease, 1)], rig.now()) is None:
                taken += 1
            else:
                taken += await rig.ask((lease, 1)) is None
        await rig.run_for(0.001)
    assert taken == 2000
    assert len(rig.call.calls) < 30


async def test_a_hammered_bucket_is_asked_for_at_most_every_few_milliseconds(rig):
    lease = rig.leases.lease("t1", 1.0, 1)
    asked = []
    for _ in range(100):
        asked.append(asyncio.ensure_future(rig.leases.ask([(lease, 1)], rig.now())))
        await asyncio.sleep(0)
        await rig.run_for(0.001)
    await rig.run_for(0.02)
    lacks = await asyncio.gather(*asked)
    assert sum(lack is None for lack in lacks) == 1
    assert len(rig.call.calls) <= 0.12 / GAP_S + 2


async def test_an_idle_process_makes_no_calls_and_holds_nothing(rig):
    lease = rig.leases.lease("t1", 2000.0, 4000)
    assert await rig.ask((lease, 10)) is None
    await rig.run_for(4.0, 0.01)
    made = len(rig.call.calls)
    assert lease.held == 0
    assert made <= 4  # to take, to keep it for a little, to give back
    await rig.run_for(5.0, 0.01)
    assert len(rig.call.calls) == made
    assert await rig.ask((lease, 4000)) is None


async def test_what_was_put_back_is_there_for_others_soon(rig):
    lease = rig.leases.lease("t1", 1.0, 20)
    assert await rig.ask((lease, 20)) is None
    rig.leases.put_back(lease, 20, rig.now())
    await rig.run_for(2 * REFILL_S)
    assert rig.valkey.left(lease.key) >= 20


async def test_one_call_holds_a_bounded_number_of_buckets(rig):
    leases = [rig.leases.lease(f"t{n}", 10.0, 20) for n in range(2 * MAX_BUCKETS + 1)]
    asked = [asyncio.ensure_future(rig.leases.ask([(one, 1)], rig.now())) for one in leases]
    await asyncio.sleep(0)
    for _ in range(3):
        await rig.round()
    assert [lack for lack in await asyncio.gather(*asked) if lack] == []
    assert [len(keys) for keys in rig.call.calls][:2] == [MAX_BUCKETS, MAX_BUCKETS]


async def test_without_valkey_everybody_who_waits_gets_the_share_at_once(rig):
    lease = rig.leases.lease("t1", 10.0, 20)
    rig.call.is_away = True
    asked = [asyncio.ensure_future(rig.leases.ask([(lease, 1)], rig.now())) for _ in range(3)]
    await asyncio.sleep(0)
    await rig.round()
    assert all(lack is not None for lack in await asyncio.gather(*asked))
    assert rig.leases.is_away
    assert rig.metrics.limits_local.values[()] == 1.0
    rig.advance(1.0)
    taken = [rig.leases.take([(lease, 1)], rig.now()) for _ in range(6)]
    assert [lack is None for lack in taken] == [True] * 5 + [False]
    assert rig.metrics.limit_calls_total.values[("failed",)] == 1


async def test_all_or_nothing_holds_on_the_share_too(rig):
    one, two = rig.leases.lease("a", 10.0, 20), rig.leases.lease("b", 1.0, 4)
    rig.call.is_away = True
    await rig.ask((one, 1))
    rig.advance(1.0)
    assert rig.leases.take([(one, 5), (two, 1)], rig.now()) is not None
    assert rig.leases.take([(one, 5)], rig.now()) is None


async def test_valkey_is_tried_again_ever_slower_and_used_when_it_answers(rig):
    lease = rig.leases.lease("t1", 10.0, 20)
    rig.call.is_away = True
    await rig.ask((lease, 1))
    probes = []
    for _ in range(500):
        before = len(rig.call.calls)
        await rig.run_for(0.01, 0.01)
        if len(rig.call.calls) > before:
            probes.append(rig.now())
    gaps = [b - a for a, b in itertools.pairwise(probes)]
    assert gaps[0] == pytest.approx(2 * FIRST_PROBE_S, abs=0.02)
    assert gaps[-1] == pytest.approx(LAST_PROBE_S, abs=0.02)
    assert rig.leases.take([(lease, 8)], rig.now()) is None
    rig.call.is_away = False
    await rig.run_for(LAST_PROBE_S + 0.01, 0.01)
    assert not rig.leases.is_away
    assert rig.metrics.limits_local.values[()] == 0.0
    assert rig.valkey.left(lease.key) < 13  # the 8 of the share were told
    assert not lease.is_local()


async def test_the_number_of_processes_is_followed(rig):
    lease = rig.leases.lease("t1", 150.0, 300)
    assert await rig.ask((lease, 1)) is None
    assert lease.held == 0  # 75 a second and process: not leased
    rig.live = 1
    rig.advance(TICK_S)
    assert await rig.ask((lease, 1)) is None
    assert lease.held > 0


async def test_closing_gives_everything_back(rig):
    lease = rig.leases.lease("t1", 2000.0, 4000)
    assert await rig.ask((lease, 10)) is None
    assert lease.held > 0
    await rig.leases.close()
    assert lease.held == 0
    assert rig.valkey.left(lease.key) == 4000 - 10
    assert rig.call.is_closed


async def test_a_forgotten_bucket_is_not_asked_for_again(rig):
    lease = rig.leases.lease("t1", 2000.0, 4000)
    assert await rig.ask((lease, 10)) is None
    rig.leases.forget("t1")
    rig.leases.forget("t1")
    made = len(rig.call.calls)
    await rig.run_for(1.0, 0.01)
    assert len(rig.call.calls) == made


async def test_run_calls_when_somebody_waits_and_ends_when_cancelled(rig):
    lease = rig.leases.lease("t1", 10.0, 20)
    running = asyncio.ensure_future(rig.leases.run())
    assert await rig.leases.ask([(lease, 1)], rig.now()) is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# ---- the channel's bucket ----


class Channel:
    """A dispatcher that wants `n` and hears when it may try again."""

    def __init__(self, rig: Rig, rate: float, depth: int, reserve: int = 0) -> None:
        self.rig = rig
        lease = rig.leases.lease("c1", rate, depth, reserve=reserve, is_eager=True)
        self.bucket = ChannelBucket(rig.leases, lease)
        self.lease = lease
        self.heard = 0
        rig.leases.share("c1", 1 / rig.live)
        rig.leases.listen("c1", self.hear)

    def hear(self) -> None:
        self.heard += 1


async def test_the_dispatcher_asks_without_waiting_and_hears_when_tokens_came(rig):
    channel = Channel(rig, 1000.0, 1000)
    assert channel.bucket.take(3, rig.now()) > 0.0
    assert (channel.heard, rig.call.calls) == (0, [])
    await rig.run_for(0.002)
    assert channel.heard == 1
    assert channel.bucket.take(3, rig.now()) == 0.0


async def test_blocks_for_a_channel_are_fetched_ahead(rig):
    channel = Channel(rig, 1000.0, 1000)
    refused = 0
    for _ in range(1000):
        refused += channel.bucket.take(1, rig.now()) > 0.0
        await rig.run_for(0.001)
    assert refused < 20
    assert len(rig.call.calls) < 60


async def test_a_full_channel_is_not_asked_for_too_often_unless_for_otp(rig):
    channel = Channel(rig, 10.0, 40, reserve=5)
    for _ in range(1000):
        channel.bucket.take(1, rig.now(), is_otp=False)
        await rig.run_for(0.001)
    assert len(rig.call.calls) <= 1.0 / REFILL_S + 12
    assert 5 <= rig.valkey.left(channel.lease.key) < 6  # the reserve stands
    rig.advance(0.001)
    assert channel.bucket.take(1, rig.now()) > 0.0
    await rig.run_for(2 * GAP_S)
    assert channel.bucket.take(1, rig.now()) == 0.0


async def test_a_channel_lives_on_its_share_without_valkey(rig):
    channel = Channel(rig, 10.0, 40, reserve=8)
    rig.call.is_away = True
    channel.bucket.take(1, rig.now())
    await rig.round()
    rig.advance(2.0)
    waits = [channel.bucket.take(1, rig.now(), is_otp=False) for _ in range(8)]
    assert sum(wait == 0.0 for wait in waits) == 6  # 10 grew, 4 are otp's
    assert 0.0 < waits[-1] < 1.0
    assert channel.bucket.take(4, rig.now()) == 0.0


# ---- no Valkey at all ----


async def test_a_process_alone_without_valkey_has_whole_buckets():
    clock = Rig()
    leases = Leases(None, metrics=Metrics(), monotonic=clock.now)
    lease = leases.lease("t1", 10.0, 20)
    assert await leases.ask([(lease, 20)], clock.now()) is None
    lack = await leases.ask([(lease, 1)], clock.now())
    assert lack is not None
    assert lack.wait_s == pytest.approx(0.1, abs=0.01)
    clock.advance(0.1)
    assert await leases.ask([(lease, 1)], clock.now()) is None
    await leases.close()
