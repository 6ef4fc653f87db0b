"""Nonces over two processes and a real Valkey that goes away, hangs and comes back."""

import asyncio
import os
import signal
import time

import pytest
from redis import Redis

from cluster import nonces as module
from cluster.nonces import KEPT_S, Nonce, Nonces
from store.embedded import EmbeddedServers

pytestmark = pytest.mark.integration


@pytest.fixture
def valkey(tmp_path):
    servers = EmbeddedServers(tmp_path, wanted=("valkey",))
    servers.start()
    yield servers
    servers.stop(is_fast=True)


@pytest.fixture
def url(valkey):
    return f"unix://{valkey.run_dir / 'valkey.sock'}"


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5)  # the machine may be busy
    monkeypatch.setattr(module, "PAUSE_S", 0.2)


@pytest.fixture
async def two(url):
    made = Nonces(url), Nonces(url)
    yield made
    for one in made:
        await one.close()


async def test_a_replay_to_another_process_is_found(two):
    first, second = two
    assert await first.take(1, b"n") is Nonce.NEW
    assert await second.take(1, b"n") is Nonce.USED
    assert await first.take(1, b"n") is Nonce.USED
    assert await second.take(2, b"n") is Nonce.NEW  # another key's


async def test_of_many_at_once_each_goes_through_once(two):
    names = [b"%d" % (number % 300) for number in range(1200)]
    verdicts = await asyncio.gather(
        *[two[number % 2].take(1, name) for number, name in enumerate(names)]
    )
    assert verdicts.count(Nonce.NEW) == 300
    assert verdicts.count(Nonce.USED) == 900


async def test_it_is_kept_long_enough_and_not_for_ever(two, url):
    await two[0].take(0x8000_0000_0001, b"n")
    with Redis.from_url(url) as redis:
        [key] = redis.keys("*")
        assert key == b"smsgw:nonce:800000000001:n"
        assert 600 < redis.ttl(key) <= KEPT_S


async def test_while_valkey_is_away_each_process_finds_its_own_replays(two, valkey, url):
    first, second = two
    assert await first.take(1, b"before") is Nonce.NEW
    valkey.stop(is_fast=True)
    began = time.monotonic()
    assert await first.take(1, b"n") is Nonce.NEW_HERE
    assert await first.take(1, b"n") is Nonce.USED
    assert await first.take(1, b"before") is Nonce.USED
    # what is lost: the other process does not know
    assert await second.take(1, b"n") is Nonce.NEW_HERE
    assert time.monotonic() - began < 10
    valkey.start()
    await asyncio.sleep(0.3)
    assert await first.take(1, b"after") is Nonce.NEW
    assert await second.take(1, b"after") is Nonce.USED
    assert await second.take(1, b"before") is Nonce.USED  # Valkey kept it on disk


async def test_a_wiped_valkey_does_not_make_a_process_forget(two, url):
    assert await two[0].take(1, b"n") is Nonce.NEW
    with Redis.from_url(url) as redis:
        redis.flushall()
    assert await two[0].take(1, b"n") is Nonce.USED


async def test_a_valkey_that_hangs_costs_little_and_its_late_answers_are_not_believed(
    two, valkey, url
):
    first, second = two
    for name in (b"a", b"b"):
        assert await first.take(1, name) is Nonce.NEW
    with Redis.from_url(url) as redis:
        pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert await second.take(1, b"a") is Nonce.NEW_HERE  # asked: SET a NX, answered later
        assert time.monotonic() - began < 5  # 50 ms, and what a busy machine adds
        began = time.monotonic()
        assert await second.take(1, b"x") is Nonce.NEW_HERE
        assert time.monotonic() - began < 0.1  # not asked again so soon
    finally:
        os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(0.5)
    # were the late "exists" of `a` read as the answer to `c`, this would be USED
    assert await second.take(1, b"c") is Nonce.NEW
    assert await second.take(1, b"b") is Nonce.USED


async def test_who_waits_when_it_ends_is_answered(url, valkey):
    nonces = Nonces(url)
    assert await nonces.take(1, b"a") is Nonce.NEW
    with Redis.from_url(url) as redis:
        pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [asyncio.create_task(nonces.take(1, b"%d" % n)) for n in range(3)]
        await asyncio.sleep(0.05)
        await nonces.close()
        assert await asyncio.wait_for(asyncio.gather(*waiting), 60) == [Nonce.NEW_HERE] * 3
    finally:
        os.kill(pid, signal.SIGCONT)
