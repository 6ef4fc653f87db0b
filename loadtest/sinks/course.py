"""A run from its start to its verdicts.

    endpoints made ─▶ traffic, kills, secrets rotated half-way ─▶ traffic off, all at rest
                  ─▶ what arrived by itself ─▶ sinks well, tenant mends ─▶ judge

While it goes on a reader follows GET /v1/events, and nobody may knock at the door that redirects
lead to.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import psutil

from loadtest.campaign import planning
from loadtest.campaign.books import Books, Life
from loadtest.campaign.course import Plan as Campaign
from loadtest.campaign.course import patient, standing
from loadtest.campaign.faults import Fault, Ground, NotDone, Struck
from loadtest.campaign.node import ROUGH, Broken, Node
from loadtest.campaign.place import Place
from loadtest.campaign.traffic import Rates, Traffic, cancelled
from loadtest.faults.judging import Check
from loadtest.sinks.cast import SETTINGS, Part, Remedy, cast
from loadtest.sinks.judge import IN_FORCE_S, Bodies, Heard, Seen, judge, wants
from loadtest.sinks.mending import Mender
from loadtest.sinks.receiver import Event, Receiver, receiving
from loadtest.sinks.signed import Secrets
from loadtest.sinks.tenant import Tenant
from sms.errors import StoreUnavailable
from sms.ids import from_text, to_text
from store.spawn import started_at

# Processes at random moments, and workers at each place where a webhook may get lost.
FAULTS: Final = "kill.worker,kill.supervisor,kill.post*,kill.backend,kill.valkey,failpoint.notify.*"
RECOVER_S: Final = 120.0
REST_S: Final = 120.0
PULL_S: Final = 60.0  # until the pull has what is stored: processes that began anew run ahead
LOOK_S: Final = 0.1
FOLLOW_S: Final = 0.4  # between two pulls of who reads on
WATCH_S: Final = 0.5
PHONE_S: Final = 4.0  # between two rounds of texts from phones
FIRST_S: Final = 3.0  # of traffic before anything is done

Tell = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does."""

    seconds: float = 150.0
    kills: int = 10
    workers: int = 2
    seed: int = 7
    rates: Rates = field(default_factory=lambda: Rates().scaled(0.15))
    parent: Path | None = None


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    seed: int
    messages: int = 0
    kills: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)  # seconds from the start, what
    arrivals: dict[str, list[int]] = field(default_factory=dict)  # events a second, by sink
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        return [f"{one.name}: {one.value}" for one in self.checks if one.is_good is False]


@dataclass(slots=True)
class Seat:
    """One sink of this run."""

    part: Part
    receiver: Receiver
    secrets: Secrets
    bodies: Bodies
    id: str = ""  # of its endpoint
    rotated_at: float = 0.0
    by_itself: int = 0
    forgotten: list[str] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)


class Course:
    """One run; `run` it once."""

    def __init__(self, plan: Plan, node: Node, place: Place, http: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._node = node
        self._rng = Random(plan.seed)
        self._traffic = Traffic(node.url, Random(plan.seed + 1), plan.rates)
        self._books = Books(node.data_dir, node.dsn)
        self._ground = Ground(node, self._books, place, self._rng, most_hits=20)
        self._tenant = Tenant(http, node.url, node.api_key)
        self._admin = Tenant(http, node.url, str(node.sandbox["admin_key"]))
        self._door = Receiver()
        self._seats: list[Seat] = []
        self._followed: list[str] = []
        self._strangers: set[str] = set()
        self._trouble: list[str] = []
        self._since = 0.0
        self.outcome = Outcome(plan.seed)

    async def run(self, tell: Tell) -> Outcome:
        """All of it; raises Broken when the gateway does not come back or the API refuses."""
        began = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(receiving(self._door))
            for part in cast(self._door.url):
                self._seats.append(await stack.enter_async_context(self._seated(part)))
            await self._node.behave(ROUGH)
            tell(0, "endpoints are made")
            for seat in self._seats:
                await self._make(seat)
            await asyncio.sleep(IN_FORCE_S)  # until then another process may not know them
            await patient(self._books.begin)
            self._since = time.time()
            sending = asyncio.create_task(self._traffic.run(self._node.api_key))
            beside = [asyncio.create_task(one()) for one in (self._follow, self._watch)]
            try:
                await self._under_fire(tell)
                seen = await self._settle(tell)
            finally:
                for task in (sending, *beside):
                    await cancelled(task)
                await self._ground.close()
                await self._books.close()
        self.outcome.checks = judge(seen)
        self.outcome.seconds = time.monotonic() - began
        self.outcome.arrivals = {s.part.name: self._arrivals(s) for s in self._seats}
        return self.outcome

    # -- who is there ----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _seated(self, part: Part) -> AsyncIterator[Seat]:
        secrets = Secrets()
        bodies = Bodies(full_number=part.full_number, is_batch=part.is_batch)
        dice = Random(f"{self._plan.seed} {part.name}")
        receiver = Receiver(part.manner, dice, secrets.check, bodies.see)
        async with receiving(receiver):
            yield Seat(part, receiver, secrets, bodies)

    async def _make(self, seat: Seat) -> None:
        made = await self._tenant.call(
            "POST", "/webhook-endpoints", seat.part.body(seat.receiver.url)
        )
        seat.id = made["id"]
        seat.secrets.given(made["secret"])

    async def _rotate(self) -> None:
        for seat in self._seats:
            if seat.part.rotates:
                path = f"/webhook-endpoints/{seat.id}:rotate-secret"
                seat.secrets.given((await self._tenant.call("POST", path))["secret"])
                seat.rotated_at = time.time()
        self._mark("secrets rotated")

    # -- while it goes on ------------------------------------------------------------------

    async def _under_fire(self, tell: Tell) -> None:
        plan = self._plan
        kinds = planning.schedule(
            planning.choose(FAULTS, (plan.workers,)), plan.kills, Random(plan.seed)
        )
        self._traffic.open()
        await self._flows(time.time())
        phones = asyncio.create_task(self._phone())
        step_s = (plan.seconds - FIRST_S) / (len(kinds) + 1)
        try:
            await self._until(FIRST_S, tell, "")
            for number, kind in enumerate(kinds):
                if number == len(kinds) // 2:
                    await self._rotate()
                at_s = FIRST_S + (number + self._rng.uniform(0.3, 1.0)) * step_s
                await self._until(at_s, tell, f"{number} of {len(kinds)} kills")
                await self._strike(kind)
            if not kinds:
                await self._until(plan.seconds / 2, tell, "")
                await self._rotate()
            await self._until(plan.seconds, tell, "")
        finally:
            await cancelled(phones)
        texts = await self._traffic.close()
        self.outcome.messages = sum(text.message_id > 0 for text in texts)

    async def _until(self, at_s: float, tell: Tell, what: str) -> None:
        while (now_s := time.time() - self._since) < at_s:
            tell(now_s, what)
            await asyncio.sleep(min(1.0, at_s - now_s))

    async def _strike(self, kind: Fault) -> None:
        asked_at = time.time()
        try:
            struck = await kind.strike(self._ground)
        except (NotDone, StoreUnavailable) as error:
            struck = Struck(asked_at)
            self._trouble.append(f"{kind.name}: {error}")
        self._mark(kind.name, struck.at)
        self.outcome.kills.append(kind.name)
        end = time.monotonic() + RECOVER_S
        while any(map(started_at, struck.gone)) or not await self._node.has_all():
            if not self._node.is_running() or time.monotonic() > end:
                raise Broken(f"it does not come back\n{self._node.last_words()}")
            await asyncio.sleep(LOOK_S)
        await self._flows(time.time())
        await self._node.behave(ROUGH)

    async def _flows(self, since: float) -> None:
        end = time.monotonic() + RECOVER_S
        while self._traffic.newest_answered <= since:
            if time.monotonic() > end:
                raise Broken(f"no text is accepted\n{self._node.last_words()}")
            await asyncio.sleep(LOOK_S)

    async def _phone(self) -> None:
        while True:
            await self._node.phone(2)
            await asyncio.sleep(PHONE_S)

    async def _follow(self) -> None:
        """Who fetches events with a cursor all the while."""
        after: str | None = None
        while True:
            with contextlib.suppress(Broken):
                events, after = await self._tenant.pull(after)
                self._followed += [event["id"] for event in events]
            await asyncio.sleep(FOLLOW_S)

    async def _watch(self) -> None:
        """Whether a worker has a connection to anywhere but this machine."""
        while True:
            with contextlib.suppress(psutil.Error):
                self._strangers |= await asyncio.to_thread(self._called)
            await asyncio.sleep(WATCH_S)

    def _called(self) -> set[str]:
        return set(_called(self._node))

    # -- its end ---------------------------------------------------------------------------

    async def _settle(self, tell: Tell) -> Seen:
        tell(self._plan.seconds, "until all is at rest")
        lives = await self._rest()
        owed = {(to_text("msg", one.message_id), number) for one in lives for number in one.owed}
        pulled = await self._pulled(owed)
        mender = Mender(self._tenant, self._since)
        await mender.calm(self._seats, pulled)
        for seat in self._seats:
            seat.by_itself = sum(
                event["id"] in seat.receiver.taken for event in pulled if wants(seat.part, event)
            )
        await self._find_forgotten(pulled)
        self._mark("sinks are well")
        tell(self._plan.seconds, "the tenant mends")
        await mender.mend(self._seats, pulled)
        end = time.monotonic() + PULL_S
        while not {event["id"] for event in pulled} <= set(self._followed):
            if time.monotonic() > end:
                break
            await asyncio.sleep(LOOK_S)
        tell(self._plan.seconds, "judging")
        views = {one["id"]: one for one in await self._tenant.pages("/messages")}
        heard = [await self._heard(seat) for seat in self._seats]
        audit = await self._admin.pages("/audit-events")
        return Seen(
            heard,
            pulled,
            self._followed,
            owed,
            views,
            self._door.connections,
            self._strangers,
            sum(one["actor"]["kind"] == "gateway" and "whe_" in str(one) for one in audit),
            self._trouble,
        )

    async def _rest(self) -> list[Life]:
        """Every message of the run, once all are at their end or held by policy."""
        end = time.monotonic() + REST_S
        while True:
            ids = await patient(lambda: self._books.open_ids(self._since))
            lives = await patient(partial(self._books.lives, ids))
            if all(life.is_at_rest for life in lives):
                break
            if time.monotonic() > end:
                self._trouble.append("not all messages came to their end")
                break
            await asyncio.sleep(0.5)
        ids = await patient(lambda: self._books.ids(self._since))
        return await patient(partial(self._books.lives, ids))

    async def _find_forgotten(self, pulled: list[Event]) -> None:
        """What a sink does not have must be known to the gateway, before anybody replays it.

        A disabled endpoint's are not: while it is, no event is kept for it.
        """
        parked = await patient(self._books.parked)
        for seat in self._seats:
            if seat.part.remedy is not Remedy.GONE:
                number = from_text("whe", seat.id)
                seat.forgotten = [
                    event["id"]
                    for event in pulled
                    if wants(seat.part, event)
                    and event["id"] not in seat.receiver.taken
                    and (number, from_text("evt", event["id"])) not in parked
                ]

    async def _pulled(self, owed: set[tuple[str, int]]) -> list[Event]:
        """All events there are, once the pull has what is stored or does not get it in time."""
        end = time.monotonic() + PULL_S
        while True:
            pulled = await self._tenant.pull_all()
            told = {(event["data"].get("id"), event["data"].get("sequence")) for event in pulled}
            if owed <= told or time.monotonic() > end:
                return pulled
            await asyncio.sleep(1.0)

    async def _heard(self, seat: Seat) -> Heard:
        manner = seat.part.manner
        is_told = any((manner.hangs, manner.locations, manner.cut_asked, manner.delay_s))
        path = f"/webhook-endpoints/{seat.id}/attempts"
        wanted = is_told or manner.gone_after is not None
        return Heard(
            seat.part,
            seat.receiver.requests,
            seat.receiver.taken,
            seat.receiver.times,
            seat.bodies.faults,
            seat.by_itself,
            seat.forgotten,
            await self._tenant.pages(path) if wanted else (),
            seat.rotated_at,
            seat.told,
        )

    # -- for the report --------------------------------------------------------------------

    def _mark(self, text: str, at: float | None = None) -> None:
        self.outcome.marks.append(((at or time.time()) - self._since, text))

    def _arrivals(self, seat: Seat) -> list[int]:
        """Events taken, by the second in which they were sent."""
        counts = [0] * (int(time.time() - self._since) + 1)
        for request in seat.receiver.requests:
            if request.is_taken:
                counts[int(request.at - self._since)] += request.events
        return counts


def _called(node: Node) -> Iterator[str]:
    for name, pid in node.pids().items():
        if name.startswith("worker-"):
            for one in psutil.Process(pid).net_connections("inet"):
                if one.raddr and not one.raddr.ip.removeprefix("::ffff:").startswith("127."):
                    yield one.raddr.ip


async def run(plan: Plan, tell: Tell) -> Outcome:
    """A whole run; `tell` hears how many seconds of traffic are over and what is going on."""
    tell(0, "starting the gateway")
    campaign = Campaign(
        [planning.Round(plan.workers, [])],
        plan.seed,
        place="plain",
        parent=plan.parent,
        reliability=SETTINGS,
    )
    timeout = aiohttp.ClientTimeout(total=10.0)
    async with (
        standing(campaign) as (node, place),
        aiohttp.ClientSession(timeout=timeout, trust_env=False) as http,
    ):
        return await Course(plan, node, place, http).run(tell)
