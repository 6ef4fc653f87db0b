"""An upgrade from end to end, and back: what a tenant, the carriers and the database see of it.

    old alone ─▶ `smsgw migrate`, killed and run again ─▶ new node joins ─▶ new code applies a
    configuration ─▶ old gets SIGTERM ─▶ new alone ─▶ old joins again ─▶ new gets SIGTERM ─▶ old
    alone on the new schema ─▶ new joins again ─▶ old gets SIGTERM ─▶ new alone ─▶ judged

or, in place: old alone ─▶ the new version's files over the old one's ─▶ `smsgw restart`, refused ─▶
`smsgw migrate` ─▶ `smsgw restart` ─▶ judged

Zero errors: every answer is 202 (200 where it is read), no connection is refused or cut. The rest
is judged as in `make campaign`: every text that got a 202 comes to its end, each segment is in a
carrier's record, none twice without a mark, every event at the sink.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp

from loadtest.campaign.books import Books, Life, owed_by
from loadtest.campaign.judge import Fault, Seen, Verdict, judge
from loadtest.campaign.node import ROUGH, Broken
from loadtest.campaign.records import Records
from loadtest.campaign.traffic import ACCEPTED, Answer, Rates, Traffic, cancelled
from loadtest.upgrade import locks
from loadtest.upgrade.front import watched
from loadtest.upgrade.locks import Held
from loadtest.upgrade.old import ROOT, OldVersion
from loadtest.upgrade.place import LOCK_MS, Node, Place

REST_S: Final = 90.0
LOOK_S: Final = 0.2
CALM_S: Final = 30.0  # so long may the first answer in a new state of things take
READ_PAUSE_S: Final = 0.05
SHOWN: Final = 10
OTHER_RATE: Final = "999999"  # what the configuration of the newer version changes
RATE: Final = "segments_per_second: 1000000"
# Short where a run would only wait; the order of things is not changed.
NUMBERS: Final = {
    "drain_before_s": "1",
    "drain_idle_s": "1",
    "partitions_ahead_days": "1",
    "lane_otp": "2000",
    "lane_transactional": "2000",
    "lane_marketing": "2000",
}

ROOMS: Final = sorted(file.parent.name for file in ROOT.glob("*/__init__.py"))
NOT_COPIED: Final = shutil.ignore_patterns("__pycache__")
REFUSED: Final = "run `smsgw migrate` of this version first"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do."""

    version: OldVersion
    old_root: Path
    rates: Rates = field(default_factory=Rates)
    calm_s: float = 5.0  # each state of things is kept so long
    migration_kills: int = 3
    is_in_place: bool = False  # instead: one node, whose code is replaced under its supervisor
    turns: int = 3  # 1 = to the new version, 2 = and back to the old one, 3 = and to the new one
    seed: int = 1
    numbers: Mapping[str, str] = field(default_factory=dict)  # settings beside `NUMBERS`


@dataclass(slots=True)
class Outcome:
    """What was seen."""

    commit: str
    asked: int = 0
    read: int = 0
    errors: list[str] = field(default_factory=list)  # of clients
    problems: list[str] = field(default_factory=list)
    migration_s: float = 0.0
    migrated: list[str] = field(default_factory=list)
    held: Held = field(default_factory=Held)
    drains_s: list[float] = field(default_factory=list)
    verdict: Verdict | None = None
    seconds: float = 0.0

    @property
    def has_kept_all(self) -> bool:
        """No client saw it, and nothing was lost or doubled: what holds at any speed."""
        kept = self.verdict is not None and self.verdict.is_good
        return kept and not self.errors and not self.problems

    @property
    def is_good(self) -> bool:
        """That, and no table was kept from its users for longer than may be."""
        return self.has_kept_all and self.held.longest_ms <= LOCK_MS

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        told = asdict(self)
        told["verdict"] = None if self.verdict is None else self.verdict.as_json()
        return told | {"is_good": self.is_good, "longest_lock_ms": self.held.longest_ms}


class Story:
    """One run; `tell` hears each step."""

    def __init__(self, plan: Plan, place: Place, tell: Tell) -> None:
        self._plan = plan
        self._place = place
        self._tell = tell
        self._rng = Random(plan.seed)
        self._old = Node(place, "old", plan.old_root)
        self._new = Node(place, "new", ROOT)
        self.outcome = Outcome(plan.version.commit)
        self._records = Records(place.records)
        self._traffic: Traffic

    async def run(self) -> Outcome:
        """All of it; raises Broken when a step cannot be done."""
        began = time.monotonic()
        nodes = (self._old,) if self._plan.is_in_place else (self._old, self._new)
        self._place.tenants.fails_open = self._plan.is_in_place  # there is no other one
        fronts = (self._place.tenants, self._place.carriers)

        def running() -> list[tuple[str, tuple[int, int]]]:
            return [(n.admin_url, (n.port, n.smg_port)) for n in nodes if n.is_running]

        try:
            async with watched(running, fronts):
                await self._begin()
                await self._flow()
        except Broken as error:
            self.outcome.problems.append(str(error))
        finally:
            for node in nodes:
                node.kill()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    async def _begin(self) -> None:
        """The old version as it stood: its schema, its configuration, its node."""
        self._tell(f"the old version ({self._plan.version.commit[:12]}) starts")
        await self._old.command("apply", str(self._place.folder / "config.yaml"))
        await self._old.start()
        await self._seen_ready(self._old)
        await self._place.tell_vendors()
        await self._place.behave(ROUGH)

    async def _seen_ready(self, node: Node) -> None:
        """Until the balancer sends it requests."""
        await self._place.tenants.becomes_ready(node.port)

    # -- under load ------------------------------------------------------------------------

    async def _flow(self) -> None:
        place = self._place
        books = Books(place.folder, place.dsn)
        url = f"http://127.0.0.1:{place.tenants.port}"
        self._traffic = Traffic(url, self._rng, self._plan.rates)
        self._traffic.on_answer = self._answered
        since = time.time()
        sending = asyncio.create_task(self._traffic.run(place.api_key))
        reading = asyncio.create_task(self._read(url))
        try:
            self._traffic.open()
            await self._steps()
            texts = await self._traffic.close()
            reading.cancel()
            self._tell("until all is at rest")
            lives = await self._rest(books, since)
            events = await self._records.until_told(owed_by(lives), REST_S)
        finally:
            await cancelled(sending)
            await cancelled(reading)
            await books.close()
        fault = Fault(1, "upgrade", since, time.time(), law=await books.law(since))
        fault.quarantined += [text for _, text in await books.quarantined(since)]
        await books.close()
        self.outcome.verdict = judge(Seen([fault], texts, lives, self._records.submits(), events))[
            0
        ]
        self._front_problems()

    async def _steps(self) -> None:
        await self._calm("old alone")
        if self._plan.is_in_place:
            await self._replace()
            return
        await self._migrate()
        await self._calm("old alone on the new schema")
        await self._join(self._new)
        await self._configure()
        await self._calm("both")
        for turn in range(self._plan.turns):
            comes, goes = (self._old, self._new) if turn % 2 else (self._new, self._old)
            if turn:
                await self._join(comes)
                await self._calm(f"both (turn {turn + 1})")
            await self._leave(goes)
            await self._calm(f"{comes.name} alone (turn {turn + 1})")

    async def _replace(self) -> None:
        """The new version over the old one's files; then `smsgw restart`, refused and done."""
        self._tell("the new version is installed in place")
        for room in ROOMS:
            shutil.copytree(
                ROOT / room, self._plan.old_root / room, dirs_exist_ok=True, ignore=NOT_COPIED
            )
        try:
            await self._old.command("restart")
        except Broken as error:
            if REFUSED not in str(error):
                raise
        else:
            raise Broken("smsgw restart did not refuse a schema that is too old")
        await self._migrate()
        self._tell("`smsgw restart`")
        await self._old.command("restart")
        await self._calm("new workers under the old supervisor")

    async def _calm(self, what: str) -> None:
        self._tell(what)
        wanted = self.outcome.asked + 1
        await asyncio.sleep(self._plan.calm_s)
        end = time.monotonic() + CALM_S
        while self.outcome.asked < wanted:
            if time.monotonic() > end:
                raise Broken(f"{what}: nobody is answered")
            await asyncio.sleep(LOOK_S)

    async def _join(self, node: Node) -> None:
        self._tell(f"the {node.name} node joins")
        await node.start()
        await self._seen_ready(node)

    async def _leave(self, node: Node) -> None:
        self._tell(f"SIGTERM to the {node.name} node")
        self.outcome.drains_s.append(await node.stop())

    async def _migrate(self) -> None:
        """The command of the new version beside the old one's load, killed a few times first."""
        place = self._place
        async with locks.watched(place.dsn, await locks.tables(place.dsn)) as held:
            self.outcome.held = held
            for number in range(self._plan.migration_kills):
                self._tell(f"`smsgw migrate` is killed ({number + 1})")
                await self._new.command("migrate", kill_after_s=self._rng.uniform(0.2, 1.2))
            self._tell("`smsgw migrate`")
            began = time.monotonic()
            self.outcome.migrated = (await self._new.command("migrate")).splitlines()
            self.outcome.migration_s = time.monotonic() - began

    async def _configure(self) -> None:
        """A change by the new version is in force on both."""
        self._tell("the new version applies a configuration")
        file = self._place.folder / "config.yaml"
        text = file.read_text("utf-8")
        file.write_text(text.replace(RATE, f"segments_per_second: {OTHER_RATE}"), "utf-8")
        await self._new.command("apply", str(file))

    def _answered(self, answer: Answer) -> None:
        self.outcome.asked += 1
        if answer.status != ACCEPTED:
            self._error(f"{answer.status} {answer.code}")

    def _error(self, what: str) -> None:
        self.outcome.errors.append(f"{time.time():.2f} {what}")

    async def _read(self, url: str) -> None:
        """Read what was accepted a moment ago, by whichever node comes, over kept connections."""
        headers = {"Authorization": f"Bearer {self._place.api_key}"}
        timeout = aiohttp.ClientTimeout(total=8.0)
        async with aiohttp.ClientSession(
            url, headers=headers, timeout=timeout, trust_env=False
        ) as client:
            while True:
                await asyncio.sleep(READ_PAUSE_S)
                known = [text for text in self._traffic.texts[-200:] if text.message_id]
                if not known:
                    continue
                message_id = f"msg_{self._rng.choice(known).message_id:016x}"
                try:
                    async with client.get(f"/v1/messages/{message_id}") as answer:
                        await answer.read()
                        self.outcome.read += 1
                        if answer.status != 200:
                            self._error(f"read: {answer.status} {await answer.text()}")
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    self._error(f"read: {error!r}")

    # -- its end ---------------------------------------------------------------------------

    async def _rest(self, books: Books, since: float) -> list[Life]:
        end = time.monotonic() + REST_S
        while True:
            lives = await books.lives(await books.open_ids(since))
            if all(life.is_at_rest for life in lives) or time.monotonic() > end:
                return await books.lives(await books.ids(since))
            await asyncio.sleep(LOOK_S)

    def _front_problems(self) -> None:
        front = self._place.tenants
        if front.refused:
            self.outcome.problems.append(
                f"{len(front.refused)} connections refused by a node that called itself ready"
            )
        if front.homeless:
            self.outcome.problems.append(f"{front.homeless} connections found no node ready")


@contextlib.asynccontextmanager
async def open_place(folder: Path, numbers: Mapping[str, str]) -> AsyncIterator[Place]:
    """A place in a new folder, which is the caller's to remove."""
    place = Place(folder, {**NUMBERS, **numbers})
    try:
        await place.open()
        yield place
    finally:
        await place.close()


async def run(plan: Plan, folder: Path, tell: Tell) -> Outcome:
    """One upgrade; on the main thread. Raises Broken when the place cannot be made."""
    async with open_place(folder, plan.numbers) as place:
        place.workers = 2 if plan.is_in_place else 1  # one stays while the other is replaced
        return await Story(plan, place, tell).run()
