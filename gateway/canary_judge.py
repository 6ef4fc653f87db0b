"""Judges canaries: takes them a step further, makes them the route, or takes them back.

    due? ─▶ under the configuration's lock: still due, live, as it began? ─▶ counts ─▶ gate
                                                 └▶ not ─▶ aborted           ─▶ what follows
         ═ one COMMIT: canary, route, gate, audit rows ═▶ told

Every process asks now and then which canary is due; the lock and the time of the last gate let one
of them judge it. It decides from rows alone, so that another goes on where one was killed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Final

from failover.canary import (
    BUCKETS,
    Action,
    CanaryPolicy,
    Check,
    Counts,
    Decision,
    Finding,
    Gate,
    Standing,
    decide,
    gate,
)
from gateway import canaryspec
from gateway.canaries import KEPT_S
from gateway.settings import Reliability
from gateway.views import rfc3339
from sms.config import AdminState, CanaryState
from sms.errors import OutcomeUnknown
from store.audit import Author
from store.canaries import CanaryStore, Judging, Totals
from store.config import ConfigStore
from store.objects import Change, StoredObject, Upsert
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

AUTHOR: Final = Author("gateway", "canary")
LOOKS: Final = 30  # for one that is due, in the time from gate to gate; without a canary one
# What makes a channel another one, whose figures say nothing of the former.
_IDENTITY: Final = ("protocol", "settings", "sender")

log = get_logger(__name__)

Spec = Mapping[str, Any]


def canary_policy(
    numbers: Reliability, stricter: Mapping[str, float] | None = None
) -> CanaryPolicy:
    """The numbers from the settings `reliability.canary_…`, and a canary's own in front of them."""
    named = {one.name: getattr(numbers, f"canary_{one.name}") for one in fields(CanaryPolicy)}
    own = {name: value for name, value in (stricter or {}).items() if name in named}
    return CanaryPolicy(**(named | own))


@dataclass(frozen=True, slots=True)
class Bearing:
    """Whether the candidate takes messages now: good figures of earlier say nothing of that."""

    check: Check
    why: str = ""  # it does not

    def on(self, found: Gate) -> tuple[Gate, str]:
        """The gate with this as one finding more, and what speaks against the candidate."""
        worst = min((self.check, found.check), key=_WORST_FIRST.index)
        words = [
            word
            for check, word in ((self.check, self.why), (found.check, found.words()))
            if word and check is worst
        ]
        finding = Finding("health", self.check, None, None, 0)
        return replace(found, check=worst, findings=(*found.findings, finding)), "; ".join(words)


_WORST_FIRST: Final = (Check.BAD, Check.UNCLEAR, Check.GOOD)


def bearing(
    candidate: str,
    state: str,
    *,
    is_up: bool,
    causes: Collection[str],
    is_baseline_left: bool,
) -> Bearing:
    """What a candidate's state says: left is bad, away is no ground to go on. Pure.

    `causes`: why processes have left it. Where they have left the baseline as well, the trouble
    may be ours.
    """
    if state != AdminState.ACTIVE:
        return Bearing(Check.UNCLEAR, f"channel {candidate} is {state}")
    if causes:
        why = f"channel {candidate} is left ({', '.join(sorted(set(causes)))})"
        if is_baseline_left:
            return Bearing(Check.UNCLEAR, f"{why}, and so is the baseline")
        return Bearing(Check.BAD, why)
    if not is_up:
        return Bearing(Check.UNCLEAR, f"channel {candidate} has no session")
    return Bearing(Check.GOOD)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What became of one canary, told after the commit."""

    name: str
    action: Action
    share: int
    check: Check | None  # None: it was not judged, for it could not go on
    why: str


class CanaryJudge:
    """One for each process; `round` is called `LOOKS` times in `canary_check_s`."""

    def __init__(
        self,
        *,
        config: ConfigStore,
        store: CanaryStore,
        numbers: Reliability,
        metrics: Metrics,
        has_canaries: Callable[[], bool] = lambda: True,
    ) -> None:
        """`has_canaries`: whether any is live, as far as this process knows."""
        self._config = config
        self._store = store
        self._numbers = numbers
        self._every_s = numbers.canary_check_s
        self._metrics = metrics
        self._has_canaries = has_canaries
        self._looks = 0

    async def round(self) -> None:
        """Judge what is due, tell what was not told yet, drop old counts.

        Raises StoreUnavailable; what is left is done next time, here or elsewhere.
        """
        self._looks += 1
        if not self._has_canaries() and self._looks % LOOKS:
            return
        for canary in await self._store.due(self._every_s):
            try:
                verdict = await self._check(canary)
            except OutcomeUnknown as error:  # the rows know, and the next round reads them
                log.warning("canary gate in doubt", error=str(error))
                continue
            if verdict is not None:
                self._log(verdict)
        await self._tell()
        await self._store.forget(KEPT_S)

    async def _check(self, number: int) -> _Verdict | None:
        async with self._config.change(AUTHOR) as change:
            judging = self._store.judging(change)
            canary = await change.by_id("canary", number)
            if canary is None or not await judging.is_due(number, self._every_s):
                return None
            return await _Case(change, judging, canary, self._numbers).settle()

    def _log(self, verdict: _Verdict) -> None:
        if verdict.check is not None:
            self._metrics.canary_checks_total.inc((verdict.check.value,))
        about = {"canary": verdict.name, "share": verdict.share, "why": verdict.why}
        if verdict.check is None:
            log.warning("canary aborted", **about)
        elif verdict.action is Action.STEP:
            log.info("canary stepped", **about)
        elif verdict.action is Action.PROMOTE:
            log.info("canary promoted", **about)
        elif verdict.check is Check.BAD:
            log.warning("canary gate bad", **about)

    async def _tell(self) -> None:
        """Page for what was taken back: once, and again by others if we end before that is kept."""
        for number, name, last in await self._store.untold():
            log.error("canary rolled back", canary=name, why=last.get("why", ""))
            self._metrics.canary_rollbacks_total.inc()
            await self._store.told(number)


class _Case:
    """One canary at one moment, inside the change that its gate makes."""

    def __init__(
        self, change: Change, judging: Judging, canary: StoredObject, numbers: Reliability
    ) -> None:
        self._change = change
        self._judging = judging
        self._canary = canary
        self._spec = canary.spec
        self._policy = canary_policy(numbers, canary.spec.get("gates"))

    async def settle(self) -> _Verdict | None:
        """Judge it, and write what follows; None when there is nothing to judge."""
        now = await self._judging.now()
        broken = await self._broken()
        if broken:
            return await self._abort(broken, now)
        if self._spec["state"] == CanaryState.PAUSED:
            last = await self._judging.last(self._canary.id)
            await self._keep(self._canary, 0, last.gate if last else {})
            return None
        ours, theirs, since = await self._counts(now)
        found, why = (await self._bearing()).on(gate(self._policy, ours, theirs))
        last = await self._judging.last(self._canary.id)
        bad = last.bad if last is not None and last.version == self._canary.version else 0
        standing = Standing(self._spec["steps"], self._spec["share"], since, bad)
        decision = decide(self._policy, standing, found.check, ours.finals, now)
        after = await self._follow(decision, why, now)
        told = _told(found, why, decision, now)
        is_told = decision.action is not Action.ROLL_BACK
        await self._keep(after, decision.bad, told, is_told=is_told)
        name = self._canary.name
        return _Verdict(name, decision.action, decision.share, found.check, why)

    async def _keep(
        self, canary: StoredObject, bad: int, told: Mapping[str, Any], *, is_told: bool = True
    ) -> None:
        await self._judging.judged(canary.id, canary.version, bad, told, is_told=is_told)

    # -- what it rests on ------------------------------------------------------------------

    async def _broken(self) -> str:
        """Why it cannot go on: its route or a channel is no more what it was; "" when it can."""
        made = await self._judging.first_version(self._canary.id)
        route = await self._change.by_name("route", self._spec["route"])
        was = None if route is None else await self._change.at(route, made)
        if route is None or was is None:
            return f"route {self._spec['route']} was removed"
        if any(was.spec.get(key) != route.spec.get(key) for key in ("channels", "weights")):
            return f"the channels of route {self._spec['route']} were changed"
        for name in dict.fromkeys((*self._spec["channels"], self._spec["baseline"])):
            channel = await self._change.by_name("channel", name)
            earlier = None if channel is None else await self._change.at(channel, made)
            if channel is None or earlier is None:
                return f"channel {name} was removed"
            if any(earlier.spec.get(key) != channel.spec.get(key) for key in _IDENTITY):
                return f"channel {name} was changed"
        return ""

    async def _bearing(self) -> Bearing:
        name = self._spec["channels"][0]
        candidate = await self._change.by_name("channel", name)
        if candidate is None:
            raise RuntimeError("a canary without its channel was aborted")
        left = await self._judging.left()
        baseline = await self._id(self._spec["baseline"])
        return bearing(
            name,
            candidate.spec.get("admin_state", AdminState.ACTIVE),
            is_up=await self._judging.is_up(candidate.id),
            causes=[row.cause for row in left if row.way[0] == candidate.id],
            is_baseline_left=any(row.way[0] == baseline for row in left),
        )

    async def _counts(self, now: float) -> tuple[Counts, Counts, float]:
        """The candidate's and the baseline's, and when the step began.

        The baseline is the primary in the same minutes; where it has too few, as at 100 %, in all
        of the canary's.
        """
        since = datetime.fromisoformat(self._spec["since"]).timestamp()
        made = self._canary.created_at
        begin = max(now - KEPT_S, since if made is None else made.timestamp())
        totals = await self._judging.totals(self._canary.id, math.ceil(since), begin)
        ours = _counts(totals.get((await self._id(self._spec["channels"][0]), True)))
        baseline = await self._id(self._spec["baseline"])
        theirs = _counts(totals.get((baseline, True)))
        if theirs.finals < self._policy.step_finals:
            theirs.add(_counts(totals.get((baseline, False))))
        return ours, theirs, since

    async def _id(self, channel: str) -> int:
        stored = await self._change.by_name("channel", channel)
        return 0 if stored is None else stored.id

    # -- what follows ----------------------------------------------------------------------

    async def _follow(self, decision: Decision, why: str, now: float) -> StoredObject:
        spec = self._spec
        match decision.action:
            case Action.STEP:
                return await self._put(canaryspec.at_share(spec, decision.share, now), "stepped")
            case Action.PROMOTE:
                await self._promote()
                return await self._put(canaryspec.promoted(spec, now), "promoted")
            case Action.ROLL_BACK:
                ended = {**canaryspec.rolled_back(spec, now), "reason": why}
                return await self._put(ended, "rolled_back")
            case _:
                return self._canary

    async def _promote(self) -> None:
        route = await self._change.by_name("route", self._spec["route"])
        if route is None:
            raise RuntimeError("a canary without its route was aborted")
        wanted = canaryspec.promoted_route(route.spec, self._spec)
        await self._change.put(Upsert("route", route.name, wanted, {}, "promoted"))

    async def _abort(self, why: str, now: float) -> _Verdict:
        ended = {**canaryspec.aborted(self._spec, now), "reason": why}
        after = await self._put(ended, "aborted")
        last = await self._judging.last(after.id)
        await self._keep(after, 0, last.gate if last else {})
        return _Verdict(self._canary.name, Action.ROLL_BACK, 0, None, why)

    async def _put(self, spec: Spec, verb: str) -> StoredObject:
        canary = self._canary
        return await self._change.put(Upsert("canary", canary.name, dict(spec), {}, verb))


def _counts(totals: Totals | None) -> Counts:
    if totals is None:
        return Counts()
    submits, failed, taken, delivered, undelivered, complaints = totals.sums
    answers = [totals.answers.get(place, 0) for place in range(BUCKETS)]
    return Counts(submits, failed, taken, delivered, undelivered, complaints, answers)


def _told(found: Gate, why: str, decision: Decision, now: float) -> dict[str, Any]:
    """A gate as it is kept and shown."""
    return {
        "checked_at": rfc3339(now),
        "verdict": found.check.value,
        "bad_in_a_row": decision.bad,
        "why": why,
        "findings": [
            {
                "signal": one.signal,
                "verdict": one.check.value,
                "candidate": _round(one.candidate),
                "baseline": _round(one.baseline),
                "segments": one.segments,
            }
            for one in found.findings
        ],
    }


def _round(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 5)
