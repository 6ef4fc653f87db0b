"""Shared limits on a real Valkey: the script, its failures, and four processes at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from ratelimit.lease import LEASE_S
from ratelimit.leases import FIRST_PROBE_S, Leases
from ratelimit.limiter import CALL_TIMEOUT_S, PREFIX, Valkey
from sms.errors import ClusterUnavailable
from telemetry.metrics import Metrics
from tests.support.shared_bucket import SharedBuckets
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


async def test_the_script_does_what_its_model_does(valkey: ValkeyServer) -> None:
    """The law is proved on the model (`test_lease.py`): the script must not differ from it."""
    client = redis.asyncio.Redis.from_url(valkey.url, decode_responses=True)
    calls = [Valkey(valkey.url, timeout_s=5.0) for _ in range(3)]
    chance = random.Random(7)
    model = SharedBuckets()
    spent, granted = [0, 0, 0], [0, 0, 0]
    rate, depth = 0, 0
    for number in range(1200):
        if number % 300 == 0:
            rate, depth = [(1_000, 10), (500_000, 10), (90_000_000, 800), (10**9, 10**6)][
                number // 300
            ]
            spent, granted = [0, 0, 0], [0, 0, 0]
        if number % 300 == 200:
            await asyncio.sleep(LEASE_S + 0.1)  # every lease is over
        who = chance.randrange(3)
        key = f"{PREFIX}{depth}:{rate}"
        held = max(0, granted[who] - spent[who])
        spent[who] += chance.choice([0, 0, 1, held, held + 3, -2])
        held = max(0, granted[who] - spent[who])
        args = [
            *(rate, depth, chance.choice([0, depth // 8]), spent[who], granted[who]),
            *(chance.choice([held, held // 2]), chance.choice([0, 1, 7, depth])),
            chance.choice([1, 5]),
        ]
        got = await calls[who]([key], args)
        kept = await client.hgetall(key)
        model.now_us = int(kept.pop("at"))
        assert list(got) == model.call(calls[who].name, [key], args), (number, args)
        row = model.rows[key]
        assert int(kept.pop("level")) == row.level
        assert kept == {name: " ".join(map(str, told)) for name, told in row.holders.items()}
        granted[who] = spent[who] + got[0]
    for call in calls:
        await call.close()
    await client.aclose()


async def test_an_idle_bucket_leaves_nothing_behind(valkey: ValkeyServer) -> None:
    client = redis.asyncio.Redis.from_url(valkey.url)
    call = Valkey(valkey.url)
    await call([PREFIX + "a", PREFIX + "b"], [1000, 50, 0, 0, 0, 0, 50, 1] * 2)
    # until it is full again, and the last lease with it
    kept_ms = 50_000 + 1000 * LEASE_S + 1000
    assert kept_ms - 1000 < await client.pttl(PREFIX + "a") <= kept_ms
    await call.close()
    await client.aclose()


@contextlib.asynccontextmanager
async def limits(
    valkey: ValkeyServer, live: int, timeout_s: float = CALL_TIMEOUT_S
) -> AsyncIterator[Leases]:
    leases = Leases(Valkey(valkey.url, timeout_s), metrics=Metrics(), live=lambda: live)
    running = asyncio.create_task(leases.run())
    yield leases
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await leases.close()


async def test_a_wiped_or_restarted_valkey_is_used_again_at_once(valkey: ValkeyServer) -> None:
    async with limits(valkey, live=4, timeout_s=5.0) as leases:
        lease = leases.lease("t1", 1.0, 5)
        assert await leases.ask([(lease, 5)], time.monotonic()) is None
        assert await leases.ask([(lease, 1)], time.monotonic()) is not None
        valkey.wipe()
        assert await leases.ask([(lease, 5)], time.monotonic()) is None
        valkey.kill()
        valkey.start()
        assert await leases.ask([(lease, 5)], time.monotonic()) is None
        assert valkey.ask(b"SCRIPT FLUSH\r\n") == b"+OK\r\n"
        assert await leases.ask([(lease, 1)], time.monotonic()) is not None
        assert not leases.is_away


async def until_back(leases: Leases) -> None:
    async with asyncio.timeout(60):
        while leases.is_away:  # noqa: ASYNC110 (what it becomes is all there is to see)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["silent", "killed", "refusing"])
async def test_without_an_answer_each_process_has_its_share(valkey: ValkeyServer, how: str) -> None:
    async with limits(valkey, live=4) as leases:
        lease = leases.lease("t1", 40.0, 40)
        assert await leases.ask([(lease, 1)], time.monotonic()) is None
        if how == "silent":
            valkey.signal(signal.SIGSTOP)
        elif how == "killed":
            valkey.kill()
        else:
            valkey.ask(b"CONFIG SET maxmemory 1\r\n")
        began = time.monotonic()
        lack = await leases.ask([(lease, 1)], began)
        assert time.monotonic() - began < 3  # 50 ms, and what a busy machine adds
        assert lack is not None, "the share is empty at the start"
        assert leases.is_away
        taken, asked_at = 0, began
        while asked_at < began + 1.0:
            asked_at = time.monotonic()
            taken += await leases.ask([(lease, 1)], asked_at) is None
            await asyncio.sleep(0.01)
        assert taken <= 10 * (asked_at - began) + 1
        assert taken >= 8
        if how == "silent":
            valkey.signal(signal.SIGCONT)
        elif how == "killed":
            valkey.start()
        else:
            valkey.ask(b"CONFIG SET maxmemory 0\r\n")
        await until_back(leases)
        assert await leases.ask([(lease, 20)], time.monotonic()) is None


async def test_a_late_loop_is_not_taken_for_a_silent_valkey(valkey: ValkeyServer) -> None:
    call = Valkey(valkey.url)
    args = [1000, 5, 0, 0, 0, 0, 1, 1]
    await call([PREFIX + "a"], args)
    asking = asyncio.create_task(call([PREFIX + "a"], args))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.1)  # noqa: ASYNC251 (our own loop stands still while the answer arrives)
    assert len(await asking) == 2
    valkey.signal(signal.SIGSTOP)
    with pytest.raises(ClusterUnavailable):
        await call([PREFIX + "a"], args)
    valkey.signal(signal.SIGCONT)
    await call.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"+OK\r\n",
        b":abc\r\n",
        b"*2\r\n$1\r\nx\r\n$1\r\ny\r\n",
        b"\xff\x00\xfe" * 50,
        b"HTTP/1.1 400\r\n\r\n",
    ],
)
async def test_what_is_no_valkey_is_away(tmp_path: Path, garbage: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(1000):
                writer.write(garbage)
            writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / "s")
    call = Valkey(f"unix://{tmp_path}/s", timeout_s=0.5)
    for _ in range(3):
        with pytest.raises(ClusterUnavailable):
            await call([PREFIX + "a"], [1000, 5, 0, 0, 0, 0, 1, 1])
    await call.close()
    server.close()


# ---- four processes ----


class Four:
    """Four processes that share one bucket, and what they took, by the machine's clock."""

    def __init__(self, url: str, rate: float, depth: int, seconds: float) -> None:
        self.rate, self.depth, self.seconds = rate, depth, seconds
        self._url = url
        self._children: list[subprocess.Popen[str]] = []
        self.failed = 0  # calls without an answer

    def run(self, pauses: list[str]) -> None:
        """Let them begin together; each spends all it can get, or is idle."""
        self._children = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.support.limiter_child", self._url),
                    *(str(self.rate), str(self.depth), str(len(pauses)), str(self.seconds), pause),
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for pause in pauses
        ]
        for child in self._children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()

    def results(self) -> list[list[float]]:
        """When each of them took, in order."""
        told = [child.communicate(timeout=self.seconds + 30)[0] for child in self._children]
        found = [json.loads(text) for text in told]
        self.failed = int(sum(one["failed"] for one in found))
        return [one["taken"] for one in found]

    def check_law(self, moments: list[float], extra: float = 0.0) -> None:
        """In no window more than rate · t + depth, and what may come on top."""
        fill, before = 0.0, min(moments)
        for at in sorted(moments):
            fill = max(0.0, fill - self.rate * (at - before)) + 1
            before = at
            # noted a moment after it was decided; the machine may be busy
            assert fill <= self.depth + extra + self.rate * 0.05, self.told()

    def cut_off(self) -> float:
        """Segments on top because a call took over 50 ms, as on a busy machine.

        Valkey counts as away for that process, which goes by its share until the next try.
        """
        share = self.rate / len(self._children)
        return self.failed * share * (CALL_TIMEOUT_S + FIRST_PROBE_S)

    def told(self) -> str:
        """How well Valkey was reached."""
        return f"{self.failed} calls without an answer"


def depth_of(rate: float) -> int:
    return max(2, int(rate))


async def check_one_bucket(valkey: ValkeyServer, rate: float, seconds: float) -> str:
    """All four, then one alone: never too much, and one gets all there is."""
    depth = depth_of(rate)
    lines = []
    for name, pauses in (("four", ["0.02"] * 4), ("one", ["0.02", "idle", "idle", "idle"])):
        valkey.wipe()
        four = Four(valkey.url, rate, depth, seconds)
        await asyncio.to_thread(four.run, pauses)
        found = await asyncio.to_thread(four.results)
        moments = [moment for taken in found for moment in taken]
        four.check_law(moments, four.cut_off())
        assert len(moments) <= rate * seconds + depth + four.cut_off(), four.told()
        assert len(moments) >= 0.95 * rate * seconds, four.told()
        lines.append(f"{name}: {len(moments)} of {rate * seconds:.0f}+{depth}, {four.told()}")
    return "; ".join(lines)


async def check_away_and_back(valkey: ValkeyServer, rate: float, seconds: float) -> str:
    """Valkey ends after a third of the time and comes back, empty, after another."""
    depth = depth_of(rate)
    four = Four(valkey.url, rate, depth, seconds)
    await asyncio.to_thread(four.run, ["0.02"] * 4)
    began = time.monotonic()
    await asyncio.sleep(seconds / 3)
    valkey.kill()
    away = time.monotonic()
    await asyncio.sleep(seconds / 3)
    valkey.start()
    back = time.monotonic()
    found = await asyncio.to_thread(four.results)
    moments = [moment for taken in found for moment in taken]
    # A share below one segment is saved up for: all four may come to theirs at one moment.
    four.check_law(moments, extra=depth + max(0, 4 - depth))
    assert len(moments) <= rate * seconds + 2 * depth, four.told()
    shares = [sum(away <= at < back for at in taken) for taken in found]
    for share in shares:  # a token that is not whole yet is nobody's
        assert share >= 0.95 * rate / 4 * (back - away) - 1
    before = sum(at < away for at in moments)
    after = sum(at >= back for at in moments)
    assert before >= 0.95 * rate * (away - began)
    # a process hears of it at its next try, within a second
    assert after >= 0.95 * rate * (began + seconds - back - 1.1) - 1
    return f"before {before}, shares {shares} in {back - away:.1f} s, after {after}"


@pytest.mark.parametrize("rate", [1.0, 1000.0])
async def test_four_processes_share_one_bucket(valkey: ValkeyServer, rate: float) -> None:
    await check_one_bucket(valkey, rate, 6.0)


@pytest.mark.parametrize("rate", [1.0, 1000.0])
async def test_valkey_goes_and_comes_back(valkey: ValkeyServer, rate: float) -> None:
    await check_away_and_back(valkey, rate, 9.0)


@pytest.mark.campaign
@pytest.mark.parametrize("rate", [1.0, 1000.0])
async def test_a_minute_of_it(valkey: ValkeyServer, rate: float) -> None:
    told = await check_one_bucket(valkey, rate, 60.0)
    told += "; " + await check_away_and_back(valkey, rate, 60.0)
    print(told)
