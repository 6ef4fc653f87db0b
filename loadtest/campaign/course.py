"""A campaign from its start to its verdicts.

    round: traffic on ─▶ fault ─▶ recovered ─▶ fault ─▶ … ─▶ traffic off ─▶ all at rest ─▶ judge

Faults of one round follow each other under traffic that never pauses, so that the next one meets
what the last one left. At the end of a round everything must come to its end, and every text of it
is judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import aiohttp

from loadtest.campaign import troubles
from loadtest.campaign.books import Books, Law, Life, owed_by
from loadtest.campaign.faults import Fault as Kind
from loadtest.campaign.faults import Ground, NotDone, Struck
from loadtest.campaign.judge import Fault, Seen, Total, Verdict, judge
from loadtest.campaign.keep import Keeper
from loadtest.campaign.node import ROUGH, Broken, Node
from loadtest.campaign.place import Place, choose_place
from loadtest.campaign.planning import Round
from loadtest.campaign.records import Records
from loadtest.campaign.timeline import Timeline, timelines
from loadtest.campaign.traffic import Rates, Text, Traffic, cancelled
from loadtest.campaign.troubles import Bench, Trouble
from sms.errors import StoreUnavailable
from store.spawn import started_at

RECOVER_S: Final = 120.0  # from a fault to the next 202
REST_S: Final = 180.0  # from the end of a round's traffic until all is at rest
WARM_S: Final = 1.0
ASK_S: Final = 10.0
TROUBLED_S: Final = (0.5, 4.0)  # so long before a fault its trouble begins, …
STANDING_S: Final = (0.5, 3.0)  # … and so long after it the trouble ends
GAUGE_S: Final = 30.0  # the gauge looks every 10 s
LOOK_S: Final = 0.1
SAMPLE: Final = 20  # messages of a round that the API is asked about

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign does."""

    rounds: list[Round]
    seed: int
    pause_s: tuple[float, float] = (0.3, 1.5)  # between a recovery and the next fault
    rates: Rates = field(default_factory=Rates)
    reliability: Mapping[str, str] = field(default_factory=dict)  # settings of that kind
    place: str = "auto"  # see place.choose_place
    most_hits: int = 40
    under: Sequence[Trouble] = ()  # one of them stands at each fault, by turns
    parent: Path | None = None  # where the data lies; default: the system's temporary directory
    keep: Path | None = None  # where is written what is left of texts that something is said of

    @property
    def size(self) -> int:
        """How many faults there are."""
        return sum(len(one.faults) for one in self.rounds)


@dataclass(slots=True)
class Outcome:
    """What a campaign came to."""

    seed: int
    place: str
    verdicts: list[Verdict] = field(default_factory=list)
    timelines: list[Timeline] = field(default_factory=list)
    total: Total = field(default_factory=Total)
    taken: Mapping[str, int] = field(default_factory=dict)  # by each carrier, what it recorded
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "seed": self.seed,
            "place": self.place,
            "seconds": round(self.seconds, 1),
            "is_good": self.total.is_good,
            "total": asdict(self.total),
            "taken": dict(self.taken),
            "faults": [
                {**verdict.as_json(), "timeline": timeline.as_json()}
                for verdict, timeline in zip(self.verdicts, self.timelines, strict=True)
            ],
        }


class Course:
    """One campaign; `run` it once."""

    def __init__(
        self,
        plan: Plan,
        node: Node,
        place: Place,
        tell: Callable[[int, str], None],
        bench: Bench | None = None,
    ) -> None:
        """`bench`: where the plan's troubles are made."""
        self._plan = plan
        self._bench = bench
        self._node = node
        self._place = place
        self._tell = tell  # (faults done, what is going on)
        self._rng = Random(plan.seed)
        self._troubles = iter(troubles.by_turns(plan.under, plan.size, Random(plan.seed + 2)))
        self._traffic = Traffic(node.url, Random(plan.seed + 1), plan.rates)
        self._records = Records(node.records)
        self._books = Books(node.data_dir, node.dsn)
        self._ground = Ground(node, self._books, place, self._rng, plan.most_hits)
        self._keeper = None
        if plan.keep is not None:
            self._keeper = Keeper(plan.keep, node.records, node.data_dir / "log")
        self._promised = array("q")
        self._since = 0.0
        self._illegal = 0.0
        self.outcome = Outcome(plan.seed, place.kind)

    async def run(self) -> Outcome:
        """All rounds; raises Broken when the gateway does not come back."""
        began = time.monotonic()
        await self._node.behave(ROUGH)
        sending = asyncio.create_task(self._traffic.run(self._node.api_key))
        first = 0
        try:
            for one in self._plan.rounds:
                if one.workers != self._node.workers:
                    self._tell(first, f"with {one.workers} workers")
                    await self._node.resize(one.workers)
                    await self._node.behave(ROUGH)
                await self._round(one.faults, first)
                first += len(one.faults)
            await self._look_back()
        finally:
            await cancelled(sending)
            await self._ground.close()
            await self._books.close()
        self.outcome.taken = self._records.taken
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    # -- a round ---------------------------------------------------------------------------

    async def _round(self, kinds: list[Kind], first: int) -> None:
        await patient(self._books.begin)
        self._since = time.time()
        self._traffic.open()
        await self._flows(time.time())
        await asyncio.sleep(WARM_S)
        done: list[Fault] = []
        for number, kind in enumerate(kinds, first + 1):
            self._tell(number - 1, kind.name)
            await asyncio.sleep(self._rng.uniform(*self._plan.pause_s))
            done.append(await self._strike(number, kind, await self._trouble()))
        await asyncio.sleep(WARM_S)
        texts = await self._traffic.close()
        self._tell(first + len(kinds), "until all is at rest")
        await self._conclude(done, texts)
        self._tell(first + len(kinds), "")

    async def _trouble(self) -> Trouble | None:
        """Begin the next one, where there are any, and let it work for a while."""
        trouble = next(self._troubles, None)
        if trouble is None or self._bench is None:
            return None
        await trouble.begin(self._bench)
        await asyncio.sleep(self._rng.uniform(*TROUBLED_S))
        return trouble

    async def _healed(self, trouble: Trouble | None) -> None:
        """The trouble goes on for a while, and ends."""
        if trouble is not None and self._bench is not None:
            await asyncio.sleep(self._rng.uniform(*STANDING_S))
            await self._bench.heal()

    async def _strike(self, number: int, kind: Kind, trouble: Trouble | None) -> Fault:
        asked_at = time.time()
        problems: list[str] = []
        try:
            struck = await kind.strike(self._ground)
        except (NotDone, StoreUnavailable) as error:
            struck = Struck(asked_at)
            problems.append(f"not done: {error}")
        # While the gateway recovers: with all carriers gone it does not call itself ready.
        healed = asyncio.create_task(self._healed(trouble))
        try:
            recovered_at = await self._recovered(struck)
        finally:
            await healed
        await self._node.behave(ROUGH)  # a carrier that was started again is as new
        return Fault(
            number,
            f"{kind.name} under {trouble.name}" if trouble else kind.name,
            struck.at,
            recovered_at,
            struck.kills,
            began_at=asked_at,
            law=await self._law(),
            notes=struck.notes,
            problems=problems,
        )

    async def _recovered(self, struck: Struck) -> float:
        """Until everything runs again and a request that left after that has its 202."""
        end = time.monotonic() + RECOVER_S
        while True:
            if not any(started_at(pid) for pid in struck.gone) and await self._node.has_all():
                break
            if not self._node.is_running():
                raise Broken(f"`smsgw up` ended by itself\n{self._node.last_words()}")
            self._check_time(end, "not all of it runs again")
            await asyncio.sleep(LOOK_S)
        return await self._flows(time.time())

    async def _flows(self, since: float) -> float:
        end = time.monotonic() + RECOVER_S
        while self._traffic.newest_answered <= since:
            self._check_time(end, "no text is accepted")
            await asyncio.sleep(LOOK_S / 4)
        return time.time()

    def _check_time(self, end: float, what: str) -> None:
        if time.monotonic() > end:
            raise Broken(f"{what} {RECOVER_S:g} s after a fault\n{self._node.last_words()}")

    async def _law(self) -> Law | None:
        return await patient(lambda: self._books.law(self._since))

    # -- its end ---------------------------------------------------------------------------

    async def _rest(self) -> list[Life]:
        """Until every stored message is at its end or held by policy, and then a moment more.

        Every message of the round, whether at rest or not.
        """
        end = time.monotonic() + REST_S
        while True:
            ids = await patient(lambda: self._books.open_ids(self._since))
            lives = await patient(partial(self._books.lives, ids))
            if all(life.is_at_rest for life in lives) or time.monotonic() > end:
                break
            await asyncio.sleep(0.5)
        await asyncio.sleep(WARM_S)
        ids = await patient(lambda: self._books.ids(self._since))
        return await patient(partial(self._books.lives, ids))

    async def _conclude(self, done: list[Fault], texts: list[Text]) -> None:
        lives = await self._rest()
        events = await self._records.until_told(owed_by(lives), REST_S)
        seen = Seen(done, texts, lives, self._records.submits(), events)
        for at, text in await patient(lambda: self._books.quarantined(self._since)):
            place = max(0, sum(fault.at <= at for fault in done) - 1)
            done[place].quarantined.append(text)
        done[-1].problems += await self._beside(lives)
        done[-1].problems += await self._phones()
        stored = {life.message_id for life in lives}  # a loss of this round is its own finding
        self._promised.extend(t.message_id for t in texts if t.message_id in stored)
        verdicts = judge(seen)
        if self._keeper is not None:
            await patient(partial(self._keeper.keep, self._books, verdicts))
        self.outcome.verdicts += verdicts
        self.outcome.timelines += timelines(seen)
        for verdict in verdicts:
            self.outcome.total.add(verdict)

    async def _beside(self, lives: list[Life]) -> list[str]:
        """What the gateway itself says at rest: the API's word on some messages, its gauges."""
        problems = []
        for life in self._rng.sample(lives, min(SAMPLE, len(lives))):
            view = await self._node.view(f"msg_{life.message_id:016x}")
            if view["status"] != life.state.value:
                problems.append(f"the API calls a message {view['status']}, it is {life.state}")
        illegal = await self._node.metric("illegal_transition_total")
        if illegal > self._illegal:
            problems.append(f"illegal_transition_total rose by {illegal - self._illegal:g}")
        self._illegal = illegal
        end = time.monotonic() + GAUGE_S
        while residual := await self._node.metric("conservation_residual"):
            if time.monotonic() > end:
                problems.append(f"conservation_residual stands at {residual:g}")
                break
            await asyncio.sleep(1.0)
        return problems

    async def _phones(self) -> list[str]:
        """What phones sent is kept once, every word of it, and told."""
        wanted = Counter(self._node.phoned)
        end = time.monotonic() + REST_S
        while True:
            kept = await self._node.inbound()
            self._records.events()
            told = self._records.from_phones
            is_whole = kept == wanted and wanted.keys() <= told.keys()
            if is_whole or time.monotonic() > end:
                break
            await asyncio.sleep(0.5)
        if is_whole:
            return []
        return [
            f"texts from phones: {(wanted - kept).total()} lost, {(kept - wanted).total()} too "
            f"many, {len(wanted.keys() - told.keys())} not told"
        ]

    async def _look_back(self) -> None:
        """After the last round: nothing of an earlier one has gone since."""
        total = self.outcome.total
        lost = await patient(partial(self._books.missing, list(self._promised)))
        if lost:
            total.missing += len(lost)
            total.problems.append(f"{len(lost)} messages of earlier rounds are gone")
        law = await patient(self._books.whole)
        if law.residual:
            total.residual += law.residual
            total.problems.append(f"the law does not hold over the whole campaign: {law}")


async def patient(question: Callable[[], Awaitable[T]]) -> T:
    """Ask the database again while it is away; raises StoreUnavailable when it stays so."""
    end = time.monotonic() + ASK_S
    while True:
        try:
            return await question()
        except StoreUnavailable:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def standing(plan: Plan) -> AsyncIterator[tuple[Node, Place]]:
    """A ready node on a place of its own; nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="smsgw-", dir=plan.parent))
    timeout = aiohttp.ClientTimeout(total=10.0)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http:
        workers = plan.rounds[0].workers
        soon = troubles.NOTICED_SOON if plan.under else {}
        node = Node(folder, http, workers=workers, reliability={**soon, **plan.reliability})
        place: Place | None = None
        try:
            place = choose_place(node, plan.place)
            node.furnish()
            await node.start()
            yield node, place
            await node.stop()
        finally:
            node.kill_all()
            if place is not None:
                place.close()
            shutil.rmtree(folder, ignore_errors=True)


async def run(plan: Plan, tell: Callable[[int, str], None]) -> Outcome:
    """A whole campaign; `tell` hears how many faults are done and what is going on."""
    tell(0, "starting the gateway")
    async with standing(plan) as (node, place), contextlib.AsyncExitStack() as stack:
        bench = None
        if plan.under:
            bench = await stack.enter_async_context(troubles.opened(node, plan.seed))
        return await Course(plan, node, place, tell, bench).run()
