"""The guard of all processes: one call for all who wait, and what holds without Valkey."""

import asyncio
import contextlib

from ratelimit.otp_caps import Wanted
from ratelimit.otp_guard import MAX_MESSAGES, OtpGuard
from sms.config import OtpCaps
from sms.errors import ClusterUnavailable
from telemetry.metrics import Metrics

CAPS = OtpCaps(prefix_burst=0)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class FakeValkey:
    """Answers `waits_ms` of a number, else 'counted'; keeps the words it was asked."""

    def __init__(self):
        self.calls = []
        self.waits_ms = {}
        self.is_away = False

    async def __call__(self, asked):
        words = [one.split() for one in asked]
        self.calls.append(words)
        if self.is_away:
            raise ClusterUnavailable("gone")
        found = []
        for number, *_ in words:
            found += [self.waits_ms[number], 0] if number in self.waits_ms else [0, 55]
        return found

    async def close(self):
        pass


def name_of(number):
    return f"{number:x}"


@contextlib.asynccontextmanager
async def running(call):
    clock = Clock()
    guard = OtpGuard(call, metrics=Metrics(), monotonic=clock)
    task = asyncio.create_task(guard.run())
    try:
        yield guard, clock
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(is_so):
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 (what is waited for knows of no event)
            await asyncio.sleep(0)


async def test_those_who_wait_together_make_one_call():
    valkey = FakeValkey()
    async with running(valkey) as (guard, _):
        asked = [guard.ask([Wanted(n, 9, CAPS)]) for n in range(20)]
        found = [(await one)[0] for one in asked]
        assert [one.wait_s for one in found] == [0.0] * 20
        assert len(valkey.calls) == 1
        many = [guard.ask([Wanted(n, 9, CAPS)]) for n in range(100, 101 + MAX_MESSAGES)]
        await asyncio.gather(*many)
        assert [len(asked) for asked in valkey.calls[1:]] == [MAX_MESSAGES, 1]


async def test_what_this_process_knows_is_refused_without_a_call():
    valkey = FakeValkey()
    async with running(valkey) as (guard, clock):
        assert (await guard.ask([Wanted(1, 9, CAPS)]))[0].wait_s == 0.0
        clock.now += 1
        assert (await guard.ask([Wanted(1, 9, CAPS)]))[0].wait_s == 59.0
        assert len(valkey.calls) == 1


async def test_what_another_process_counted_is_refused_and_not_counted_here():
    valkey = FakeValkey()
    valkey.waits_ms[name_of(1)] = 30_000
    async with running(valkey) as (guard, _):
        first, second = await guard.ask([Wanted(1, 9, CAPS), Wanted(2, 9, CAPS)])
        assert (first.wait_s, second.wait_s) == (30.0, 0.0)
        valkey.waits_ms.clear()
        assert (await guard.ask([Wanted(1, 9, CAPS)]))[0].wait_s == 0.0


async def test_without_valkey_this_process_counts_alone():
    guard = OtpGuard(None, metrics=Metrics(), monotonic=Clock())
    assert (await guard.ask([Wanted(1, 9, CAPS)]))[0].wait_s == 0.0
    assert (await guard.ask([Wanted(1, 9, CAPS)]))[0].wait_s == 60.0


async def test_valkey_that_goes_away_is_asked_again_after_a_second():
    valkey = FakeValkey()
    valkey.is_away = True
    async with running(valkey) as (guard, clock):
        for number in range(5):  # the first finds out, the others do not wait
            assert (await guard.ask([Wanted(number, 9, CAPS)]))[0].wait_s == 0.0
        assert len(valkey.calls) == 1
        assert (await guard.ask([Wanted(0, 9, CAPS)]))[0].wait_s == 60.0
        clock.now += 1.1  # nobody waits for the question whether it is back
        assert guard.ask([Wanted(7, 9, CAPS)]).done()
        await until(lambda: len(valkey.calls) == 2)
        assert valkey.calls[1] == []
        valkey.is_away = False
        clock.now += 1.1
        assert guard.ask([Wanted(8, 9, CAPS)]).done()
        await until(lambda: len(valkey.calls) == 3)
        assert not guard.ask([Wanted(9, 9, CAPS)]).done()  # from now on all count together


async def test_while_valkey_is_away_a_number_gets_its_caps_and_no_more():
    valkey = FakeValkey()
    valkey.is_away = True
    async with running(valkey) as (guard, clock):
        got = []
        for minute in range(2 * 24 * 60):  # somebody who tries every minute for two days
            clock.now = 1000.0 + 60 * minute
            [counted] = await guard.ask([Wanted(1, 9, CAPS)])
            if not counted.wait_s:
                got.append(minute)
        assert got[:6] == [0, 1, 2, 3, 4, 60]
        assert len(got) == 20  # ten a day: refused for a time, never for ever
        assert got[10] == 24 * 60


async def test_who_does_not_wait_any_more_is_given_back():
    valkey = FakeValkey()
    async with running(valkey) as (guard, _):
        gone = guard.ask([Wanted(1, 9, CAPS)])
        gone.cancel()
        assert (await guard.ask([Wanted(2, 9, CAPS)]))[0].wait_s == 0.0
        assert (await guard.ask([Wanted(1, 9, CAPS)]))[0].wait_s == 0.0
        acts = [one[7] for asked in valkey.calls for one in asked]
        assert acts == ["0", "0", "55", "0"]


async def test_given_back_here_and_there():
    valkey = FakeValkey()
    async with running(valkey) as (guard, _):
        counted = await guard.ask([Wanted(1, 9, CAPS)])
        guard.give_back(counted)
        assert (await guard.ask([Wanted(2, 9, CAPS)]))[0].wait_s == 0.0  # goes with the next call
        assert valkey.calls[1][0][7] == "55"  # the moment that Valkey had told
        assert (await guard.ask([Wanted(1, 9, CAPS)]))[0].wait_s == 0.0


async def test_to_look_counts_nothing():
    valkey = FakeValkey()
    async with running(valkey) as (guard, _):
        assert await guard.look(Wanted(1, 9, CAPS)) == 0.0
        assert valkey.calls[0][0][7] == "-1"
        assert (await guard.ask([Wanted(1, 9, CAPS)]))[0].wait_s == 0.0
        assert await guard.look(Wanted(1, 9, CAPS)) == 60.0
        valkey.waits_ms[name_of(2)] = 5000
        assert await guard.look(Wanted(2, 9, CAPS)) == 5.0
