"""The faults: what is done, at which moment, and what must be back before it is over.

A fault is a coroutine that does its harm while traffic flows and says when that was. Everything
else – waiting for the recovery, judging – is the same for all of them.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final

from loadtest.campaign.books import TABLES, Books
from loadtest.campaign.cutter import Cut, Cutter
from loadtest.campaign.node import Node
from loadtest.campaign.place import Place
from telemetry.failpoints import POINTS

FIRE_S: Final = 90.0  # an armed place must be reached within; handed-over blocks are rare
CUT_S: Final = 60.0
LINKS_DOWN_S: Final = 0.6
FROZEN_S: Final = 3.0
TAKEN_OVER_S: Final = 90.0
STALLED_S: Final = 0.5
PAST_LEASE_S: Final = 17.0  # of 15
FULL_S: Final = 4.0
LOOK_S: Final = 0.02
PHONES_S: Final = 0.2  # between two texts from phones


@dataclass(slots=True)
class Struck:
    """What a fault did."""

    at: float  # Unix
    gone: set[int] = field(default_factory=set)  # processes that must not be seen again
    kills: int = 0  # strikes with SIGKILL, however many processes one of them hits
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Ground:
    """What a fault works on."""

    node: Node
    books: Books
    place: Place
    rng: Random
    most_hits: int = 40  # an armed place acts at its 1st to so-many-th hit
    cutters: list[Cutter] = field(default_factory=list)  # connections still pass through them

    async def close(self) -> None:
        """At the end of a campaign."""
        for cutter in self.cutters:
            await cutter.close()
        self.cutters.clear()


class NotDone(Exception):
    """A fault could not be brought about: a finding by itself."""


Strike = Callable[[Ground], Awaitable[Struck]]
Firing = asyncio.Task[tuple[float, int]]  # when an armed place acted, and in which process


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault."""

    name: str
    strike: Strike
    kills: bool = True  # by SIGKILL
    weight: int = 1  # how often the dice take it once all were there
    workers: int = 1  # at least so many are needed


# -- failpoints --------------------------------------------------------------------------------


async def _strike_point(ground: Ground, point: str) -> Struck:
    """Kill -9 of a worker by itself, at a named place."""
    node = ground.node
    hit = ground.rng.randint(1, 2 if point in RARE else ground.most_hits)
    if point in ONCE:
        hit = 1
    spec = node.arm(f"{point}=kill:{hit}")
    firing = asyncio.create_task(_fired(node, spec))
    try:
        kills = await PROVOKED.get(point, _nothing)(ground, firing)
        at, pid = await firing
    finally:
        firing.cancel()
        node.disarm()
    return Struck(at, {pid}, 1 + kills, notes={"point": point, "hit": hit})


async def _fired(node: Node, spec: str) -> tuple[float, int]:
    end = time.monotonic() + FIRE_S
    while True:
        fired = node.fired(spec)
        if fired is not None:
            return fired
        if time.monotonic() > end:
            raise NotDone(f"{spec.partition('=')[0]} was not reached within {FIRE_S:g} s")
        await asyncio.sleep(LOOK_S)


async def _nothing(_: Ground, __: Firing) -> int:
    return 0


async def _lose_commit(ground: Ground, _: Firing) -> int:
    """Lose the connection in a COMMIT, which is when the place is reached."""
    await _cut(ground, "messages", Cut.ANSWER)
    return 0


async def _drop_links(ground: Ground, firing: Firing) -> int:
    """No carrier for a moment: texts are held, unclaimed, some as ids alone, and bound anew."""
    while not firing.done():
        await ground.node.behave({"link": "down"})
        await asyncio.sleep(LINKS_DOWN_S)
        await ground.node.behave({"link": "up"})
        await asyncio.wait({firing}, timeout=3.0)
    return 0


async def _fail_webhooks(ground: Ground, firing: Firing) -> int:
    """The receiver refuses for a moment, so that events are parked."""
    await ground.node.behave_sink(fail_share=1)
    await asyncio.wait({firing})
    await ground.node.behave_sink(fail_share=0)
    return 0


async def _phones(ground: Ground, firing: Firing) -> int:
    """Phones send texts, and one long one in its segments, until the place is reached."""
    while not firing.done():
        await ground.node.phone(4)
        await asyncio.wait({firing}, timeout=PHONES_S)
    return 0


async def _kill_a_worker(ground: Ground, _: Firing) -> int:
    """The next life of a worker meets the armed place in its recovery."""
    return (await _kill_worker(ground)).kills


Provoke = Callable[[Ground, Firing], Awaitable[int]]
# Places that ordinary traffic does not come by, and what brings it there.
PROVOKED: Final[Mapping[str, Provoke]] = {
    "accept.in_doubt": _lose_commit,
    "dispatch.claiming": _drop_links,
    "dispatch.claimed": _drop_links,
    "choose.again": _drop_links,
    "spill.kept": _drop_links,
    "spill.read": _drop_links,
    "notify.parked": _fail_webhooks,
    "inbound.before_commit": _phones,
    "inbound.committed": _phones,
    "recover.decided": _kill_a_worker,
    "recover.committed": _kill_a_worker,
    "recover.done": _kill_a_worker,
}
ONCE: Final = frozenset({*PROVOKED, "marks.written"})  # in one life of a process, or in 5 s
SELDOM: Final = tuple(p for p in POINTS if p.startswith(("schedule.", "commands.")))
# A few in a second, not hundreds.
RARE: Final = frozenset({"notify.before_send", "notify.sent", *SELDOM})


TAKEOVER: Final = tuple(point for point in POINTS if point.startswith("takeover."))
# What needs several workers: a channel of the sandbox has two sessions, so the third has none, and
# a process that is alone asks nobody else.
WORKERS: Final[Mapping[str, int]] = {"handover": 3, "commands": 2}


async def _strike_takeover(ground: Ground) -> Struck:
    """A worker is lost for good, and whoever takes over is killed at each step of that."""
    node = ground.node
    before = node.workers
    at = time.time()
    gone: set[int] = set()
    spec = node.arm(f"{TAKEOVER[0]}=kill")
    try:
        await _restart_with(ground, before - 1)
        for point in TAKEOVER:
            if point != TAKEOVER[0]:
                spec = node.arm(f"{point}=kill")
            gone.add((await _fired(node, spec))[1])
    finally:
        node.disarm()
    await _taken_over(ground)
    taken_over_s = round(time.time() - at, 1)
    await _restart_with(ground, before)
    return Struck(at, gone, 2 + len(TAKEOVER), {"taken_over_s": taken_over_s})


async def _restart_with(ground: Ground, workers: int) -> None:
    """Kill all of the node and start it with another number of workers."""
    node = ground.node
    await _kill(ground, "supervisor")
    node.workers = workers
    await node.start()


async def _taken_over(ground: Ground) -> None:
    """Until nothing of a lost worker is anybody's but a living one's."""
    end = time.monotonic() + TAKEN_OVER_S
    while await ground.books.orphans(ground.node.workers):
        if time.monotonic() > end:
            raise NotDone(f"the lost worker was not taken over within {TAKEN_OVER_S:g} s")
        await asyncio.sleep(LOOK_S * 10)


# -- kills -------------------------------------------------------------------------------------


async def _kill(ground: Ground, *names: str) -> Struck:
    """SIGKILL to named processes, one right after the other."""
    pids = await asyncio.to_thread(ground.node.pids)
    doomed = {name: pids[name] for name in names if name in pids}
    if not doomed:
        raise NotDone(f"{' and '.join(names)} does not run")
    at = time.time()
    for pid in doomed.values():
        ground.node.send(pid)
    return Struck(at, set(doomed.values()), 1, {"killed": list(doomed)})


async def _kill_named(ground: Ground, name: str) -> Struck:
    return await _kill(ground, name)


async def _kill_worker(ground: Ground) -> Struck:
    slot = ground.rng.randrange(ground.node.workers)
    return await _kill(ground, f"worker-{slot}")


async def _kill_supervisor(ground: Ground) -> Struck:
    """With everything below it; whoever starts services starts it again."""
    node = ground.node
    before = set(await asyncio.to_thread(node.everything))
    struck = await _kill(ground, "supervisor")
    await node.start()
    struck.gone = before - set(await asyncio.to_thread(node.everything))
    return struck


async def _kill_postmaster(ground: Ground) -> Struck:
    """PostgreSQL's parent alone, as an impatient person would: its backends notice later."""
    return await _kill(ground, "postgres")


async def _kill_postgres(ground: Ground) -> Struck:
    """All of PostgreSQL at once."""
    node = ground.node
    children = [p.pid for p in await asyncio.to_thread(node.below, "postgres")]
    struck = await _kill(ground, "postgres")
    for pid in children:
        node.send(pid)
    struck.gone |= set(children)
    return struck


async def _kill_backend(ground: Ground) -> Struck:
    """One backend of ours: PostgreSQL ends all others too and recovers."""
    backends = await ground.books.backends()
    await ground.books.close()
    if not backends:
        raise NotDone("no connection of the gateway is open")
    pid = ground.rng.choice(backends)
    at = time.time()
    ground.node.send(pid)
    return Struck(at, {pid}, 1)


async def _kill_carrier(ground: Ground) -> Struck:
    """A simulated carrier; each is the primary of a quarter of the traffic."""
    names = [carrier["name"] for carrier in ground.node.sandbox["carriers"]]
    return await _kill(ground, ground.rng.choice(names))


async def _kill_pair(ground: Ground) -> Struck:
    """A worker and all of PostgreSQL together."""
    node = ground.node
    children = [p.pid for p in await asyncio.to_thread(node.below, "postgres")]
    slot = ground.rng.randrange(node.workers)
    struck = await _kill(ground, f"worker-{slot}", "postgres")
    for pid in children:
        node.send(pid)
    struck.gone |= set(children)
    return struck


async def _kill_stalled(ground: Ground, table: str) -> Struck:
    """Worker and PostgreSQL while their commits hang: whoever was told too early is found out."""
    async with ground.books.stalled(table):
        await asyncio.sleep(STALLED_S)
        return await _kill_pair(ground)


async def _lose_slot(ground: Ground) -> Struck:
    """Everything is killed and one worker fewer comes back: its messages are taken over."""
    before = ground.node.workers
    at = time.time()
    await _restart_with(ground, before - 1)
    await _taken_over(ground)
    taken_over_s = round(time.time() - at, 1)
    await _restart_with(ground, before)
    return Struck(at, kills=2, notes={"taken_over_s": taken_over_s})


# -- what is no kill ---------------------------------------------------------------------------


async def _freeze(ground: Ground, seconds: float) -> Struck:
    """SIGSTOP of a worker, SIGCONT later; past its lease it must not send any more."""
    node = ground.node
    pids = await asyncio.to_thread(node.pids)
    pid = pids[f"worker-{ground.rng.randrange(node.workers)}"]
    at = time.time()
    node.send(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    node.send(pid, signal.SIGCONT)
    return Struck(at, notes={"frozen_s": seconds})


async def _roll_workers(ground: Ground) -> Struck:
    """A rolling restart: every worker drains and another one takes its place."""
    node = ground.node
    pids = await asyncio.to_thread(node.pids)
    at = time.time()
    node.send(pids["supervisor"], signal.SIGUSR1)
    return Struck(at, {pid for name, pid in pids.items() if name.startswith("worker-")})


async def _wipe_valkey(ground: Ground) -> Struck:
    """FLUSHALL: promise 7 says that nothing is lost by it."""
    reader, writer = await asyncio.open_unix_connection(ground.node.run_dir / "valkey.sock")
    at = time.time()
    writer.write(b"FLUSHALL\r\n")
    async with asyncio.timeout(5):
        answer = await reader.readline()
    writer.close()
    if not answer.startswith(b"+OK"):
        raise NotDone(f"Valkey says {answer!r}")
    return Struck(at)


async def _cut(ground: Ground, table: str, how: Cut) -> float:
    """Put the proxy in place, have everything come through it, lose one COMMIT."""
    cutter = Cutter(ground.node.run_dir)
    try:
        async with cutter:
            await ground.books.close()
            ended = await ground.books.end_backends()
            await ground.books.close()
            await cutter.has_connections(min(ended, 3), CUT_S)
            await asyncio.sleep(ground.rng.uniform(0.1, 0.6))
            return await cutter.cut(table, how, CUT_S)
    except TimeoutError:
        raise NotDone(f"no COPY into {table} came through the proxy") from None
    finally:
        ground.cutters.append(cutter)


async def _strike_cut(ground: Ground, table: str, how: Cut) -> Struck:
    return Struck(await _cut(ground, table, how), notes={"table": table, "cut": how.value})


async def _fill_disk(ground: Ground) -> Struck:
    """The disk of the data directory takes nothing for some seconds."""
    at = time.time()
    await asyncio.to_thread(ground.place.fill)
    try:
        await asyncio.sleep(FULL_S)
    finally:
        await asyncio.to_thread(ground.place.empty)
    return Struck(at, notes={"how": ground.place.how_filled})


async def _cut_power(ground: Ground) -> Struck:
    """Everything stops at one moment and starts again on what the disk held."""
    node = ground.node
    at = await ground.place.cut_power(ground.books)
    await node.start()
    return Struck(at, kills=1, notes={"how": ground.place.how_cut})


CATALOGUE: Final[tuple[Fault, ...]] = (
    *(
        Fault(
            f"failpoint.{point}",
            partial(_strike_point, point=point),
            weight=2,
            workers=WORKERS.get(point.partition(".")[0], 1),
        )
        for point in POINTS
        if point not in TAKEOVER
    ),
    Fault("failpoint.takeover", _strike_takeover, workers=2),
    Fault("kill.worker", _kill_worker, weight=12),
    Fault("kill.supervisor", _kill_supervisor, weight=8),
    Fault("kill.postmaster", _kill_postmaster, weight=5),
    Fault("kill.postgres", _kill_postgres, weight=5),
    Fault("kill.backend", _kill_backend, weight=5),
    Fault("kill.worker+postgres", _kill_pair, weight=5),
    *(
        Fault(f"kill.stalled.{table}", partial(_kill_stalled, table=table), weight=4)
        for table in TABLES
    ),
    Fault("kill.valkey", partial(_kill_named, name="valkey"), weight=4),
    Fault("kill.carrier", _kill_carrier, weight=6),
    Fault("lose.slot", _lose_slot, workers=2),
    Fault("kill.sink", partial(_kill_named, name="sink"), weight=2),
    Fault("power.cut", _cut_power, weight=3),
    Fault("freeze.worker", partial(_freeze, seconds=FROZEN_S), kills=False),
    Fault("freeze.past_lease", partial(_freeze, seconds=PAST_LEASE_S), kills=False),
    Fault("roll.workers", _roll_workers, kills=False),
    Fault("wipe.valkey", _wipe_valkey, kills=False),
    *(
        Fault(f"cut.{table}.{how}", partial(_strike_cut, table=table, how=how), kills=False)
        for table in TABLES
        for how in Cut
    ),
    Fault("disk.full", _fill_disk, kills=False),
)


def fault_of(point: str) -> str:
    """The name of the fault that kills at a place: those of a takeover follow one another."""
    return "failpoint.takeover" if point in TAKEOVER else f"failpoint.{point}"
