"""Wake-ups over a real Valkey that comes and goes."""

import asyncio
import os
import signal
import time

import pytest
from redis import Redis

from cluster.wake import CHANNEL, MAX_PENDING, Wakes
from store.embedded import EmbeddedServers, endpoints_of

pytestmark = pytest.mark.integration


@pytest.fixture
def valkey(tmp_path):
    servers = EmbeddedServers(tmp_path, wanted=("valkey",))
    servers.start()
    yield servers
    servers.stop(is_fast=True)


def url(servers):
    return endpoints_of(servers.run_dir).redis_url


async def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.01)


class Pair:
    """Two processes; `heard` is what the second was told."""

    def __init__(self, url):
        self.heard = []
        self.first, self.second = Wakes(url, 1), Wakes(url, 2)

    async def __aenter__(self):
        self.first.start(lambda _: None)
        self.second.start(self.heard.append)
        return self

    async def __aexit__(self, *_):
        await self.first.close()
        await self.second.close()

    async def is_through(self):
        """Tell until it is heard: a subscription may have come back a moment later."""
        self.heard.clear()
        end = time.monotonic() + 60
        while not self.heard:
            assert time.monotonic() < end, "wake-ups did not come back"
            self.first.wake(2, "again")
            await asyncio.sleep(0.05)


async def test_a_wake_up_is_heard_at_once_by_the_one_it_is_for(valkey):
    async with Pair(url(valkey)) as pair:
        with Redis.from_url(url(valkey)) as redis:  # `is_up`: it has asked for it
            await until(lambda: redis.pubsub_numsub(f"{CHANNEL}2")[0][1] == 1)
        began = time.monotonic()
        pair.first.wake(2, "handovers")
        pair.first.wake(3, "nobody is there")
        await until(lambda: pair.heard)
        assert time.monotonic() - began < 5  # at once; nobody looks for it by itself
        assert pair.heard == ["handovers"]
        assert (pair.first.sent, pair.second.heard) == (2, 1)


async def test_equal_wake_ups_that_wait_are_told_once(valkey):
    async with Pair(url(valkey)) as pair:
        await until(lambda: pair.second.is_up)
        for _ in range(100):
            pair.first.wake(2, "a")
            pair.first.wake(2, "b")
        await until(lambda: len(pair.heard) >= 2)
        await asyncio.sleep(0.1)
        assert pair.heard == ["a", "b"]


async def test_what_waits_is_bounded_and_oneself_needs_no_valkey(tmp_path):
    wakes = Wakes(f"unix://{tmp_path}/nothing.sock", 1)
    heard: list[str] = []
    wakes.start(heard.append)
    wakes.wake(1, "me")
    assert heard == ["me"]
    for number in range(MAX_PENDING + 10):
        wakes.wake(2, str(number))
    assert wakes.dropped == 10
    await until(lambda: wakes.dropped == MAX_PENDING + 10 and wakes.failures >= 2)
    assert not wakes.is_up
    await wakes.close()


async def test_wake_ups_survive_a_valkey_that_stops_and_comes_back(valkey):
    async with Pair(url(valkey)) as pair:
        await pair.is_through()
        for _ in range(2):
            valkey.stop(is_fast=True)
            await until(lambda: not pair.second.is_up)
            dropped = pair.first.dropped
            pair.first.wake(2, "lost")  # neither blocks nor raises
            await until(lambda before=dropped: pair.first.dropped > before)
            valkey.start()
            await pair.is_through()
            assert "lost" not in pair.heard


async def test_a_valkey_that_hangs_is_noticed_and_used_again(valkey):
    """Frozen, it takes connections and answers nothing."""
    async with Pair(url(valkey)) as pair:
        await pair.is_through()
        pid = valkey.pids()["valkey"]
        os.kill(pid, signal.SIGSTOP)
        try:
            pair.first.wake(2, "into the void")
            await until(lambda: pair.first.dropped > 0)
            await until(lambda: not pair.second.is_up, 20)
        finally:
            os.kill(pid, signal.SIGCONT)
        await pair.is_through()


async def test_a_bug_behind_a_wake_up_does_not_deafen(valkey):
    address = url(valkey)
    heard: list[str] = []

    def fails(what):
        heard.append(what)
        raise ValueError("a bug")

    first, second = Wakes(address, 1), Wakes(address, 2)
    first.start(fails)
    second.start(fails)
    await until(lambda: second.is_up)
    for number in range(3):
        first.wake(2, str(number))
        await until(lambda number=number: len(heard) == number + 1)
    assert second.failures == 3
    for wakes in (first, second):
        await wakes.close()
