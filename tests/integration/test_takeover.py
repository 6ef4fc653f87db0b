"""Everything a dead process owed is somebody's again, once, wherever its taker dies meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import Any

import pytest

from gateway import takeover as module
from gateway.settings import Settings
from gateway.takeover import Takeover
from gateway.wiring import Worker, build
from receipts.state import Path as StatePath
from sms import config
from sms.errors import LeaseLost, StoreUnavailable
from sms.model import Message, MessageClass, State
from sms.outcomes import Cause, Rejected
from store import database, processes
from store.fragments import ParkedWebhook, Why, park_sql, park_webhooks_sql
from store.handovers import handover_sql
from store.journal import REJECTED, SUBMITTED, Journal, Replay
from store.journal_lock import JournalLock
from store.processes import ProcessLease, Seized
from telemetry.metrics import Metrics
from tests.support.postgres import World, text

pytestmark = pytest.mark.integration

OTP = MessageClass.OTP
THIRD = 77  # another process, alive
FAULT = Rejected("0x00000008", Cause.CHANNEL, "channel.rejected")
SNAPSHOT = config.Snapshot(
    version=1,
    channels={
        number: config.Channel(number, f"c{number}", "smpp", {}, classes=frozenset(MessageClass))
        for number in (1, 2)
    },
    routes=(config.Route(1, 0, None, None, 0, (1, 2)),),
    endpoints={1: config.WebhookEndpoint(1, 1, "http://127.0.0.1:9/x")},
)


@dataclass
class Scene:
    """A dead process with every kind of debt, and who takes it over."""

    dead: World
    worker: Worker
    lease: ProcessLease
    pool: database.Pool
    messages: dict[str, list[Message]] = field(default_factory=dict)

    @property
    def takeover(self) -> Takeover:
        return self.worker.peers.takeover

    async def fetch(self, sql: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in await self.pool.fetch(sql)]

    def ids(self, *kinds: str) -> set[int]:
        return {message.id for kind in kinds for message in self.messages[kind]}


async def accept(world: World, kind: str, scene: dict[str, list[Message]], count: int) -> None:
    scene[kind] = [
        text(message_class=OTP if n % 2 else MessageClass.TRANSACTIONAL) for n in range(count)
    ]
    acceptor = world.lanes[0]
    await acceptor.accept(scene[kind])  # type: ignore[union-attr]


async def owe(world: World, journal_dir: Path) -> dict[str, list[Message]]:
    """Accept, claim, write and park as a worker does, and stop in the middle of it."""
    await world.acceptor(lanes=1)
    lane = await world.event_lane()
    found: dict[str, list[Message]] = {}
    for kind in ("unanswered", "answered", "refused", "unwritten", "put_off", "held"):
        world.chooser = lambda messages: messages
        await accept(world, kind, found, 3)
    world.chooser = lambda _: []
    for kind in ("unclaimed", "parked", "uncertain", "submitted", "given", "delivered"):
        await accept(world, kind, found, 4)
    lock = JournalLock.take(journal_dir, world.lease.process)
    assert lock is not None
    journal = Journal(journal_dir, world.lease.process, world.lease.epoch)
    for kind in ("unanswered", "answered", "refused"):
        journal.write_lines([(m.id, 0, 1, 0, 1) for m in found[kind]])
    journal.answer_lines([(m.id, 0, 1, 0, SUBMITTED, f"c{m.id}", "") for m in found["answered"]])
    code = f"{FAULT.cause}|{FAULT.reason}|{FAULT.code}"
    journal.answer_lines([(m.id, 0, 1, 0, REJECTED, "", code) for m in found["refused"]])
    me, now = world.lease.process, time.time()

    def park(kind: str, why: Why) -> str:
        return park_sql(me, [(m.id, now + 60, why, m.message_class, 1) for m in found[kind]])

    lane.add([], urgent=True, sql=park("parked", Why.QUEUED))
    # Its last flush before the kill: the claims are still to be rid of them.
    rows = [
        world.event(m.id, path=int(StatePath.SCHEDULED), status=State.SCHEDULED)
        for m in found["put_off"]
    ]
    lane.add(rows, urgent=True, sql=park("put_off", Why.SCHEDULED) + park("held", Why.HELD))
    lane.add(
        [
            world.event(
                m.id, path=int(StatePath.UNCERTAIN), status=State.UNCERTAIN, carrier_id=None
            )
            for m in found["uncertain"]
        ],
        urgent=True,
        sql=park("uncertain", Why.UNCERTAIN),
    )
    rows = [world.event(m.id) for kind in ("submitted", "delivered") for m in found[kind]]
    lane.add(rows, urgent=True)
    last = [
        world.event(m.id, 3, path=int(StatePath.DELIVERED), status=State.DELIVERED, segment=0)
        for m in found["delivered"]
    ]
    webhook = ParkedWebhook(1, world.event_ids.next(), found["submitted"][0].id, 2, 1, now + 60)
    lane.add(last, urgent=True, sql=park_webhooks_sql(me, [webhook]))
    for giver, receiver, ids in ((me, THIRD, found["given"][:2]), (THIRD, me, found["given"][2:])):
        numbers = [m.id for m in ids]
        sql = handover_sql(world.ids.next(), giver, receiver, 1, OTP, numbers, [1, 1])
        lane.add([], urgent=True, sql=sql)
    assert await lane.drain(60)
    journal.close()
    lock.release()  # as the kernel does when it has ended
    return found


async def make_scene(dsn: str, data_dir: Path, *, node: str) -> Scene:
    dead = await World.make(dsn, slot=0)
    messages = await owe(dead, data_dir / "journal")
    for part in dead.lanes:
        await part.stop()
    settings = Settings(data_dir=data_dir, database_url=dsn, node=node, worker_slot=1)
    lease = await ProcessLease.take(dsn, node=node, slot=1, lease_s=15)
    pool = await database.open_pool(dsn, process=lease.process, epoch=lease.epoch)
    worker = build(
        settings,
        lease=lease,
        pool=pool,
        keyring=dead.keyring,
        metrics=Metrics(),
        first_block=1,
        lease_lost=lambda: pytest.fail("the taker lost its own lease"),
    )
    await worker.acceptor.start()
    await worker.events.start()
    worker.flow.reconfigure(SNAPSHOT)
    worker.notifier.reconfigure(SNAPSHOT)
    conn = await database.connect(dsn)
    await conn.execute(
        "UPDATE processes SET lease_until = now() - interval '1 minute' WHERE process = 0"
    )
    await conn.close()
    scene = Scene(dead, worker, lease, pool, messages)
    scene.takeover._steady_since -= 100
    return scene


@pytest.fixture
async def scene(dsn: str, tmp_path: Path) -> AsyncIterator[Scene]:
    scene = await make_scene(dsn, tmp_path, node="node")
    yield scene
    await close(scene)


async def close(scene: Scene) -> None:
    await scene.worker.acceptor.stop(1)
    await scene.worker.events.stop()
    await scene.worker.deliverer.close()
    await scene.lease.close()
    scene.pool.terminate()
    await scene.dead.close()


async def check(scene: Scene, *, has_journal: bool) -> None:
    """Every message stands in exactly one place, and it is the right one."""
    me = scene.lease.process
    stored = await scene.worker.flow.reader.messages(
        [m.id for some in scene.messages.values() for m in some]
    )
    newest = {
        number: record.rows[-1].path if record.rows else 0 for number, record in stored.items()
    }
    handed = await scene.fetch(f"SELECT unnest(ids) FROM handovers WHERE receiver = {me}")
    to_me = [row[0] for row in handed]
    assert len(to_me) == len(set(to_me))
    waits = scene.ids("unclaimed", "parked") | {m.id for m in scene.messages["given"][2:]}
    uncertain = scene.ids("unanswered", "uncertain")
    if has_journal:
        waits |= scene.ids("refused", "unwritten")
    else:
        uncertain |= scene.ids("answered", "refused", "unwritten")
    assert set(to_me) == waits
    parked = await scene.fetch("SELECT message_id, process, why FROM parked")
    aside = dict.fromkeys(scene.ids("put_off"), Why.SCHEDULED)
    aside |= dict.fromkeys(scene.ids("held"), Why.HELD)
    assert {row[0]: row[2] for row in parked} == dict.fromkeys(uncertain, Why.UNCERTAIN) | aside
    assert {row[1] for row in parked} == {me}
    [(dues,)] = await scene.fetch(
        f"SELECT count(*) FROM parked WHERE why IN ({Why.SCHEDULED:d},{Why.HELD:d})"
        " AND due BETWEEN now() AND now() + interval '60 s'"
    )
    assert dues == len(aside)
    assert {number for number in newest if newest[number] == StatePath.UNCERTAIN} == uncertain
    submitted = scene.ids("submitted") | (scene.ids("answered") if has_journal else set())
    assert {n for n in newest if newest[n] == StatePath.SUBMITTED} == submitted
    if has_journal:
        requeued = {n for n in newest if newest[n] == StatePath.REQUEUED}
        assert requeued == scene.ids("refused")
    assert await scene.fetch("SELECT FROM claims") == []
    gave = await scene.fetch(f"SELECT giver, ids FROM handovers WHERE receiver = {THIRD}")
    assert gave == [(me, [m.id for m in scene.messages["given"][:2]])]
    webhooks = await scene.fetch("SELECT DISTINCT process FROM webhook_parked")
    assert webhooks == [(me,)]
    told = await scene.fetch(
        "SELECT e.message_id FROM webhook_parked w JOIN events e USING (event_id)"
        " WHERE (event_id >> 12) & 1023 = 0"
    )
    assert scene.ids("submitted", "delivered") <= {row[0] for row in told}
    vacant = await scene.fetch("SELECT node, owed_to FROM processes WHERE process = 0")
    assert vacant == [(None, None)]
    assert await scene.fetch("SELECT FROM quarantine") == []


async def test_with_its_journal_only_what_was_open_is_uncertain(scene: Scene) -> None:
    await scene.takeover.step()
    await check(scene, has_journal=True)
    assert not (scene.worker.peers.takeover._taker.journal_dir / "0000").exists()


async def test_without_its_journal_everything_claimed_is_uncertain(
    dsn: str, tmp_path: Path
) -> None:
    """Its journal lies on another node, or another node's number left one here."""
    scene = await make_scene(dsn, tmp_path, node="elsewhere")
    await scene.takeover.step()
    await check(scene, has_journal=False)
    await close(scene)


async def test_the_journal_of_who_may_only_be_frozen_is_not_trusted_and_stays(scene: Scene) -> None:
    """Same node, and its lease is over: it may be stopped between a valid lease and its burst."""
    journal_dir = scene.takeover._taker.journal_dir
    lock = JournalLock.take(journal_dir, 0)
    assert lock is not None
    await scene.takeover.step()
    await check(scene, has_journal=False)
    assert Journal.replay(journal_dir, 0).writes
    lock.release()


async def test_a_journal_is_locked_until_it_is_removed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number may be used again before that, and its next owner would lose its own."""
    journal_dir = scene.takeover._taker.journal_dir
    free: list[bool] = []
    real = Journal.remove

    def spy(directory: Path, process: int) -> None:
        free.append(JournalLock.take(directory, process) is not None)
        real(directory, process)

    monkeypatch.setattr(Journal, "remove", spy)
    await scene.takeover.step()
    assert free == [False]
    lock = JournalLock.take(journal_dir, 0)
    assert lock is not None
    lock.release()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("commit", range(5))
async def test_whoever_goes_on_after_a_crash_finds_what_is_left(
    scene: Scene, commit: int, when: str
) -> None:
    whole = scene.takeover._committed
    left = [commit]

    async def breaking(self: Takeover, sql: str) -> None:
        left[0] -= 1
        if left[0] == -1 and when == "before":
            raise StoreUnavailable("the taker dies here")
        await whole(sql)
        if left[0] == -1:
            raise StoreUnavailable("the taker dies here")

    scene.takeover._committed = MethodType(breaking, scene.takeover)  # type: ignore[method-assign]
    await scene.takeover.step()
    assert left == [-1]
    await scene.takeover.step()  # it is owed to us: found again
    await asyncio.sleep(0)
    await check(scene, has_journal=True)


async def test_the_journal_is_read_in_a_thread_and_only_for_what_was_claimed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = {row[0] for row in await scene.fetch("SELECT unnest(ids) FROM claims")}
    calls: list[tuple[bool, set[int]]] = []
    real = Journal.replay

    def spy(directory: Path, process: int, wanted: Collection[int]) -> Replay:
        in_main = threading.current_thread() is threading.main_thread()
        calls.append((in_main, set(wanted)))
        return real(directory, process, wanted)

    monkeypatch.setattr(Journal, "replay", spy)
    await scene.takeover.step()
    assert claimed
    assert calls == [(False, claimed)]
    await check(scene, has_journal=True)


@pytest.mark.parametrize("has_left", [False, True])
async def test_only_a_death_counts_as_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, has_left: bool
) -> None:
    """What was drained and released is settled all the same."""
    lines: list[tuple[str, dict[str, Any]]] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(module.log, level, lambda line, **told: lines.append((line, told)))
    if has_left:
        conn = await database.connect(scene.dead.dsn)
        await conn.execute("UPDATE processes SET role = 'left' WHERE process = 0")
        await conn.close()
    await scene.takeover.step()
    await check(scene, has_journal=True)
    assert scene.worker.flow.metrics.takeovers_total.values[()] == (0 if has_left else 1)
    (taken, _), (settled, told) = lines
    expected = (
        ("drained number taken", "drained number settled")
        if has_left
        else ("process taken over", "takeover settled")
    )
    assert (taken, settled) == expected
    assert ("dead" in told) is not has_left
    open_ones = scene.ids(
        "unanswered", "answered", "refused", "unwritten", "unclaimed", "parked", "uncertain"
    )
    twice = scene.ids("put_off", "held")  # found by a claim, and by the row that counts
    assert told["messages"] == len(open_ones) + 2 * len(twice)
    assert told["webhooks"] == 1


async def test_a_second_look_finds_nothing_to_do(scene: Scene) -> None:
    await scene.takeover.step()
    await scene.takeover.step()
    await check(scene, has_journal=True)


async def test_after_postgresql_was_away_nobody_is_judged_before_he_could_renew(
    scene: Scene,
) -> None:
    scene.takeover.unsteady()
    await scene.takeover.step()
    assert await scene.fetch("SELECT owed_to FROM processes WHERE process = 0") == [(None,)]
    assert await scene.fetch("SELECT node FROM processes WHERE process = 0") == [("node",)]


@pytest.mark.parametrize("where", ["seizing", "settling"])
async def test_one_debt_that_cannot_be_settled_now_does_not_stop_the_others(
    scene: Scene, dsn: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    for slot in (8, 9):
        lease = await ProcessLease.take(dsn, node="node", slot=slot, lease_s=-60)
        await lease.close()
    stuck = [True]
    real_settle = scene.takeover.settle

    async def seize(dsn: str, process: int, **kwargs: Any) -> Seized | None:
        if process == 0 and where == "seizing" and stuck[0]:
            raise StoreUnavailable("a writer of it cannot be ended yet")
        return await processes.seize(dsn, process, **kwargs)

    async def settle(seized: Seized) -> None:
        if seized.process == 0 and where == "settling" and stuck[0]:
            raise StoreUnavailable("not now")
        await real_settle(seized)

    monkeypatch.setattr(module, "seize", seize)
    monkeypatch.setattr(scene.takeover, "settle", settle)
    await scene.takeover.step()
    left = await scene.fetch(
        "SELECT process FROM processes WHERE process <> 1"
        " AND (node IS NOT NULL OR owed_to IS NOT NULL)"
    )
    assert left == [(0,)]
    stuck[0] = False
    await scene.takeover.step()
    await check(scene, has_journal=True)


async def test_a_step_of_the_database_s_clock_is_no_death(scene: Scene, dsn: str) -> None:
    """A virtual machine resumed, or time set: every lease looks over, and ours too."""
    conn = await database.connect(dsn)
    await conn.execute("UPDATE processes SET lease_until = lease_until - interval '18 s'")
    asked: list[bool] = []
    scene.takeover.renew = lambda: asked.append(True)
    await scene.takeover.step()
    assert asked == [True]
    seen = await conn.fetch("SELECT node, owed_to FROM processes ORDER BY process")
    assert [tuple(row) for row in seen] == [("node", None)] * 2
    await conn.execute("UPDATE processes SET lease_until = now() + interval '15 s' WHERE process=1")
    await scene.takeover.step()  # who lives gets the time to renew
    assert await conn.fetchval("SELECT node FROM processes WHERE process = 0") == "node"
    scene.takeover._steady_since -= 100
    await scene.takeover.step()
    await check(scene, has_journal=True)
    await conn.execute("UPDATE processes SET epoch = epoch + 1 WHERE process = 1")
    await conn.execute(
        "UPDATE processes SET node = 'node', slot = 0, lease_until = now() - interval '1 h'"
        " WHERE process = 0"
    )
    with pytest.raises(LeaseLost):  # another one owns our number: nothing more of ours
        await scene.takeover.step()
    await conn.close()


async def test_what_was_taken_over_is_sent_once_the_desk_takes_it(scene: Scene) -> None:
    await scene.takeover.step()
    await scene.worker.peers.desk.round()
    live = scene.worker.flow.ledger.live
    # No channel is up: it waits in the store. Only what a process without the channel had been
    # given comes back, as it would have to its giver.
    assert set(live) == {message.id for message in scene.messages["given"][:2]}
    remote = scene.worker.peers.remote
    came, went = remote.update({1: [THIRD], 2: [THIRD]}, ())
    scene.worker.flow.dispatcher.remote_changed(came, went)
    await scene.worker.peers.desk.round()
    for _ in range(100):
        if not live:
            break
        await asyncio.sleep(0.05)
        remote.seen(remote.committed(), [])  # as if the third took what it was given
    waits = await scene.fetch(f"SELECT unnest(ids) FROM handovers WHERE receiver = {THIRD}")
    wanted = scene.ids("unclaimed", "parked", "refused", "unwritten", "given")
    assert {row[0] for row in waits} == wanted
    assert len(waits) == len(wanted)
    assert live == {}
