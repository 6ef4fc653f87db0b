"""Canaries over a real store: counts of two processes, one judge at a time, whole commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest

from gateway import canaryspec
from gateway.canaries import Canaries
from gateway.canary_judge import CanaryJudge
from gateway.settings import Reliability
from sms.errors import StoreUnavailable, Unavailable
from sms.model import Submit
from sms.outcomes import Cause, Rejected, Submitted
from store import database
from store.audit import Author
from store.canaries import CanaryStore, Judging
from store.config import ConfigStore
from store.database import Pool, acquire
from store.objects import Removal, StoredObject, Upsert
from store.seal import Keyring
from telemetry.metrics import Metrics
from tests.support.postgres import MASTER

pytestmark = pytest.mark.integration

TEST = Author("command", "test", os_user="somebody")
ROUTE = "*/*/*/0"
_AS_PROCESS_0 = (
    "SELECT set_config('smsgw.process', '0', true), set_config('smsgw.epoch', '1', true)"
)
# A gate whenever a test asks for one. Time is the test's: a step has its ten minutes.
SHORT = Reliability(canary_check_s=0.001)


def channel(name: str, **more: object) -> Upsert:
    settings = {"host": "127.0.0.1", "port": 2775}
    return Upsert("channel", name, {"protocol": "smpp", "settings": settings, **more}, {})


def route(*channels: str) -> Upsert:
    return Upsert("route", ROUTE, {"tenant": "*", "channels": list(channels)}, {})


def sent_at(monotonic: float) -> Submit:
    """A segment as a meter sees it: nothing else of it matters."""
    return cast("Submit", SimpleNamespace(sent_at=monotonic))


class World:
    """A route a, b with a canary of c; two processes that count and two that judge."""

    def __init__(self, pool: Pool, numbers: Reliability = SHORT) -> None:
        self.pool = pool
        self.config = ConfigStore(pool, Keyring(MASTER))
        self.store = CanaryStore(pool)
        self.metrics = [Metrics(), Metrics()]
        self.counting = [
            Canaries(
                store=self.store, process=process, life=9, step_s=numbers.canary_step_s,
                metrics=self.metrics[process], unix=lambda: self.now,
            )
            for process in (0, 1)
        ]  # fmt: skip
        self.judges = [
            CanaryJudge(
                config=ConfigStore(pool, Keyring(MASTER)), store=self.store, numbers=numbers,
                metrics=metrics,
            )
            for metrics in self.metrics
        ]  # fmt: skip
        self.now = 0.0

    async def begin(self) -> None:
        """A new canary, the only one."""
        last = [Removal("canary", "try-c")] if self.now else []
        await self.config.apply([*last, *map(channel, "abc"), route("a", "b")], TEST)
        async with acquire(self.pool) as conn:
            self.now = float(await conn.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
        spec = canaryspec.new_canary(ROUTE, ["c", "a"], "a", self.now)
        await self.config.apply([Upsert("canary", "try-c", spec, {})], TEST)
        await self.link(is_up=True)
        await self.reload()

    async def link(self, *, is_up: bool) -> None:
        """A living process has sessions of the candidate, or it lost them."""
        async with acquire(self.pool) as conn:
            await conn.execute(
                "INSERT INTO processes (process, epoch, node, slot, lease_until, id_high_water,"
                " low_water, event_cursor) VALUES (0, 1, 'n', 0, now() + interval '1 day', 0, 0, 0)"
                " ON CONFLICT DO NOTHING"
            )
            await conn.execute(
                "INSERT INTO process_channels VALUES (0, 3, 1, $1, now())"
                " ON CONFLICT (process, channel) DO UPDATE SET is_up = excluded.is_up",
                is_up,
            )

    async def leave(self, number: int) -> None:
        """A process leaves a channel for one carrier."""
        async with acquire(self.pool) as conn, conn.transaction():
            await conn.execute(_AS_PROCESS_0)
            await conn.execute(
                "INSERT INTO channels_left VALUES ($1, 0, 0, 'slow', now(), 0, now())", number
            )

    async def back(self) -> None:
        """Nothing is left any more."""
        async with acquire(self.pool) as conn, conn.transaction():
            await conn.execute(_AS_PROCESS_0)
            await conn.execute("DELETE FROM channels_left")

    async def reload(self) -> None:
        """Every process takes up the configuration."""
        snapshot = await self.config.load()
        for one in self.counting:
            one.reconfigure(snapshot)

    async def traffic(self, *, candidate: float, baseline: float = 0.95, each: int = 2500) -> None:
        """Segments on both channels in both processes, so many parts of them delivered."""
        self.now += 60.0
        for one in self.counting:
            for number, rate in ((3, candidate), (1, baseline)):
                meter = one.meters[number]
                submit = sent_at(99.8)
                meter.answered([(submit, Submitted("x"))] * each, 100.0)
                delivered = round(each * rate)
                meter.receipted(delivered, each - delivered, 0.0)
            await one.flush()

    async def canary(self) -> StoredObject:
        return (await self.config.current())["canary", "try-c"]

    async def state(self) -> tuple[str, int]:
        spec = (await self.canary()).spec
        return spec["state"], spec["share"]

    async def why(self) -> str:
        [last] = (await self.store.gates([1])).values()
        return str(last.gate["why"])

    async def gate(self, judge: int = 0) -> None:
        self.now += 30.0
        await asyncio.sleep(0.005)  # past `canary_check_s`
        await self.judges[judge].round()
        await self.reload()

    async def audited(self) -> list[tuple[str, str]]:
        async with acquire(self.pool) as conn:
            rows = await conn.fetch(
                "SELECT body::jsonb ->> 'action' AS action,"
                " body::jsonb -> 'actor' ->> 'kind' AS who FROM audit_events ORDER BY id"
            )
        return [tuple(row) for row in rows if row["who"] == "gateway"]

    async def route(self) -> list[str]:
        channels: list[str] = (await self.config.current())["route", ROUTE].spec["channels"]
        return channels

    async def counted(self) -> int:
        async with acquire(self.pool) as conn:
            return int(await conn.fetchval("SELECT count(*) FROM canary_counts"))


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    made = await database.open_pool(dsn, size=6)
    yield made
    made.terminate()


@pytest.fixture
async def world(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(pool)
    await made.begin()

    async def now(_: Judging) -> float:
        return made.now

    monkeypatch.setattr(Judging, "now", now)
    return made


async def to_full_share(world: World) -> None:
    for _ in range(2):
        world.now += 600.0
        await world.traffic(candidate=0.95)
        await world.gate()
    assert await world.state() == ("running", 100)


async def test_a_step_lasts_ten_minutes_however_much_comes(world: World) -> None:
    for _ in range(6):  # 90 s each
        await world.traffic(candidate=0.95, each=10_000)
        await world.gate()
    assert await world.state() == ("running", 5)


async def test_five_points_worse_goes_back_within_two_gates(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [sorted(one.meters) for one in world.counting] == [[1, 3], [1, 3]]
    await world.traffic(candidate=0.90)
    await world.gate(0)
    assert await world.state() == ("running", 5)
    await world.gate(1)  # another process goes on where the first one was
    assert await world.state() == ("rolled_back", 0)
    assert "delivered" in (await world.canary()).spec["reason"]
    assert await world.audited() == [("canary.rolled_back", "gateway")]
    assert await world.route() == ["a", "b"]
    assert world.metrics[1].canary_rollbacks_total.values[()] == 1
    bad = [one.canary_checks_total.values.get(("bad",)) for one in world.metrics]
    assert bad == [1, 1]
    assert (await world.config.load()).canaries == ()
    assert [one.meters for one in world.counting] == [{}, {}]
    assert await world.counted() == 0
    [last] = (await world.store.gates([1])).values()
    assert (last.bad, last.gate["verdict"]) == (2, "bad")
    await world.gate(0)  # it is over: nothing more happens, nobody is told twice
    assert sum(one.canary_rollbacks_total.values[()] for one in world.metrics) == 1


async def test_a_good_one_becomes_the_route_step_by_step(world: World) -> None:
    seen = []
    for share in (5, 30, 100):
        for one in world.counting:
            one._set_gauges()
        assert world.metrics[0].canary_share.values == {("try-c",): share}
        world.now += 600.0
        await world.gate()  # no data of this step
        seen.append(await world.state())
        await world.traffic(candidate=0.95)
        await world.gate()
    assert seen == [("running", 5), ("running", 30), ("running", 100)]
    assert await world.state() == ("promoted", 100)
    assert await world.route() == ["c", "a"]
    snapshot = await world.config.load()
    assert snapshot.routes[0].channels == (3, 1)
    assert snapshot.canaries == ()
    versions = {one.version for one in (await world.config.current()).values() if one.version > 4}
    assert len(versions) == 1  # canary and route in the same change
    assert [action for action, _ in await world.audited()] == [
        "canary.stepped",
        "canary.stepped",
        "route.promoted",
        "canary.promoted",
    ]


async def test_at_full_share_the_primary_of_the_earlier_steps_is_the_measure(world: World) -> None:
    await to_full_share(world)
    world.now += 600.0
    for one in world.counting:  # the primary has nothing any more
        one.meters[3].answered([(sent_at(99.8), Submitted("x"))] * 2000, 100.0)
        one.meters[3].receipted(1900, 100, 0.0)
        await one.flush()
    await world.gate()
    assert await world.state() == ("promoted", 100)


async def test_failed_submits_take_it_back_before_any_receipt(world: World) -> None:
    refused = Rejected("8", Cause.CHANNEL, "carrier.system_error")
    submit = sent_at(99.9)
    world.now += 60.0
    for one in world.counting:
        one.meters[3].answered([(submit, refused)] * 60, 100.0)
        await one.flush()
    await world.gate()
    await world.gate()
    assert await world.state() == ("rolled_back", 0)


async def test_what_it_does_not_go_by(world: World) -> None:
    """What was submitted before its step, another rate or a pause of its channel; its own pause."""
    for one in world.counting:
        for meter in one.meters.values():
            meter.receipted(2500, 0, 3600.0)
        await one.flush()
    world.now += 600.0
    await world.gate()
    assert await world.state() == ("running", 5)
    await world.config.apply([channel("c", admin_state="paused", segments_per_second=5)], TEST)
    await world.gate()
    assert await world.state() == ("running", 5)
    paused = canaryspec.paused((await world.canary()).spec)
    await world.config.apply([Upsert("canary", "try-c", paused, {})], TEST)
    await world.traffic(candidate=0.5)
    for _ in range(3):
        await world.gate()
    assert await world.state() == ("paused", 5)
    assert await world.audited() == []


async def test_a_candidate_that_is_paused_or_away_goes_no_step_further(world: World) -> None:
    await to_full_share(world)
    world.now += 600.0
    await world.traffic(candidate=0.95)
    await world.config.apply([channel("c", admin_state="paused")], TEST)
    await world.gate()
    assert await world.state() == ("running", 100)
    assert await world.why() == "channel c is paused"
    await world.config.apply([channel("c")], TEST)
    await world.link(is_up=False)
    await world.gate()
    assert await world.state() == ("running", 100)
    assert await world.why() == "channel c has no session"
    await world.link(is_up=True)
    await world.gate()
    assert await world.state() == ("promoted", 100)


async def test_a_candidate_that_is_left_is_taken_back_with_the_best_figures(world: World) -> None:
    world.now += 600.0
    await world.traffic(candidate=0.95)
    await world.leave(3)
    await world.leave(1)  # and the baseline, as when the trouble is ours
    for _ in range(3):
        await world.gate()
    assert await world.state() == ("running", 5)
    await world.back()
    await world.leave(3)
    await world.gate()
    await world.gate()
    assert await world.state() == ("rolled_back", 0)
    assert (await world.canary()).spec["reason"] == "channel c is left (slow)"


async def test_another_route_or_channel_ends_it(world: World) -> None:
    for write, why in (
        (route("a"), f"the channels of route {ROUTE} were changed"),
        (channel("c", sender="10690"), "channel c was changed"),
        (channel("a", protocol="cmpp"), "channel a was changed"),
        (Removal("route", ROUTE), f"route {ROUTE} was removed"),
        (Removal("channel", "c"), "channel c was removed"),
    ):
        await world.begin()
        await world.config.apply([write], TEST)
        await world.reload()  # what is gone stops nobody
        await world.gate()
        spec = (await world.canary()).spec
        assert (spec["state"], spec["share"], spec["reason"]) == ("aborted", 0, why)
    assert await world.audited() == [("canary.aborted", "gateway")] * 5


async def test_two_judges_at_once_are_one_gate(pool: Pool) -> None:
    world = World(pool, SHORT.model_copy(update={"canary_check_s": 30.0}))
    await world.begin()
    await world.traffic(candidate=0.90)
    await world.judges[0].round()
    assert await world.store.gates([1]) == {}  # it has just begun
    async with acquire(pool) as conn:
        await conn.execute("UPDATE objects SET created_at = created_at - interval '30 seconds'")
    await asyncio.gather(*(judge.round() for judge in world.judges * 2))
    [last] = (await world.store.gates([1])).values()
    assert last.bad == 1
    assert await world.state() == ("running", 5)
    checks = [one.canary_checks_total.values.get(("bad",), 0) for one in world.metrics]
    assert sum(checks) == 1


async def test_a_judge_killed_before_its_commit_has_done_nothing(
    world: World, pool: Pool, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last thing that PostgreSQL hears of it is that its connection is gone."""
    await to_full_share(world)
    world.now += 600.0
    await world.traffic(candidate=0.95)
    before = await world.canary()
    judged = Judging.judged

    async def killed(self: Judging, *args: object, **named: object) -> None:
        await judged(self, *args, **named)  # type: ignore[arg-type]  # handed through as they are
        pool.terminate()

    with monkeypatch.context() as patch:
        patch.setattr(Judging, "judged", killed)
        await asyncio.sleep(0.005)
        with pytest.raises(Unavailable):
            await world.judges[0].round()
    other = await database.open_pool(dsn, size=3)
    try:
        world.config, world.store = ConfigStore(other, Keyring(MASTER)), CanaryStore(other)
        world.pool = other
        assert await world.canary() == before
        assert await world.route() == ["a", "b"]
        judge = CanaryJudge(
            config=world.config, store=world.store, numbers=SHORT, metrics=world.metrics[1]
        )
        await judge.round()
        assert await world.state() == ("promoted", 100)
        assert await world.route() == ["c", "a"]
    finally:
        other.terminate()


async def test_who_takes_it_back_and_ends_before_it_told_is_told_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.traffic(candidate=0.90)
    await world.gate()
    with monkeypatch.context() as patch:

        async def killed(_: CanaryStore) -> None:
            raise StoreUnavailable("killed")

        patch.setattr(CanaryStore, "untold", killed)
        await asyncio.sleep(0.005)
        with pytest.raises(Unavailable):
            await world.judges[0].round()
    assert await world.state() == ("rolled_back", 0)
    await world.judges[1].round()
    assert world.metrics[1].canary_rollbacks_total.values[()] == 1


async def test_counts_that_could_not_be_kept_come_with_the_next_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        async def away(*_: object) -> None:
            raise StoreUnavailable("away")

        patch.setattr(CanaryStore, "add", away)
        with pytest.raises(StoreUnavailable):
            await world.traffic(candidate=0.95)
    assert await world.counted() == 0
    await world.counting[0].flush()
    assert await world.counted() == 2
    await world.counting[0].flush()  # nothing new
    assert await world.counted() == 2
