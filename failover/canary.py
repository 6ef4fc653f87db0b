"""Is a canary's candidate as good as the primary beside it? Counts in, a verdict out.

    counts of candidate and baseline ─▶ gate: four findings ─▶ Check ─▶ decide ─▶ Action
                                        delivery, failure,     good     wait, step, promote,
                                        answers, complaints    unclear  roll back
                                                               bad

What is judged is what was submitted in the same minutes, so that receipts that take long weigh on
both sides alike. A share counts as too high only when its lower 95 % bound is, as good when it is
not too high as observed; delivery is a difference, bad when it lies below the limit with 95 %
confidence and good when it does not with 95 % confidence. Between them it is unclear: the canary
stays where it is. The numbers are RELIABILITY section 8's. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple, Self

Z95: Final = 1.6448536269514722  # a one-sided bound that holds with 95 %
P95: Final = 0.95
FULL: Final = 100  # percent
# Upper bounds of the answer times in seconds, each a quarter above the last: 1 ms to 70 s.
BOUNDS: Final = tuple(0.001 * 1.25**step for step in range(51))
BUCKETS: Final = len(BOUNDS) + 1


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """When a canary goes on and when it goes back (RELIABILITY section 8)."""

    step_s: float = 600.0  # a step lasts so long at least …
    step_finals: int = 500  # … and has so many segments with a final receipt
    least: int = 100  # nothing is called bad by fewer segments
    bad_checks: int = 2  # so many in a row take it back
    delivery_lower: float = 0.02  # the delivered share may be so much lower, absolute
    failure_share: float = 0.05  # of the submits
    answer_factor: float = 1.5  # the p95 answer may take so many times as long …
    answer_floor_s: float = 0.1  # … as the baseline's, or as this: below it is no difference
    complaint_share: float = 0.001  # opt-outs, of what was taken


class Check(StrEnum):
    """What a gate says."""

    GOOD = "good"
    UNCLEAR = "unclear"  # too little data to say
    BAD = "bad"


class Action(StrEnum):
    """What follows from a gate."""

    WAIT = "wait"
    STEP = "step"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


@dataclass(slots=True)  # not frozen: counted into
class Counts:
    """What one channel's segments came to."""

    submits: int = 0  # answered or given up, without what was throttled
    failed: int = 0  # of them, in halves: 2 for a failure, 1 for a code that nobody mapped
    taken: int = 0  # of them, by the carrier
    delivered: int = 0
    undelivered: int = 0  # any other final receipt
    complaints: int = 0  # opt-outs that came over the channel
    answers: list[int] = field(default_factory=lambda: [0] * BUCKETS)  # by `BOUNDS`

    @property
    def finals(self) -> int:
        """Segments whose end a receipt told."""
        return self.delivered + self.undelivered

    def answered(self, seconds: float) -> None:
        """Count one answer time; of what was given up, how long it was waited for."""
        self.answers[bisect_left(BOUNDS, seconds)] += 1

    def add(self, other: Counts) -> None:
        """Count another's in."""
        self.submits += other.submits
        self.failed += other.failed
        self.taken += other.taken
        self.delivered += other.delivered
        self.undelivered += other.undelivered
        self.complaints += other.complaints
        self.answers = [a + b for a, b in zip(self.answers, other.answers, strict=True)]

    @classmethod
    def sum(cls, some: Iterable[Counts]) -> Self:
        """All of them together."""
        total = cls()
        for one in some:
            total.add(one)
        return total


class Finding(NamedTuple):
    """One signal: the candidate's figure beside the limit it is held to, and what that says."""

    signal: str
    check: Check
    candidate: float | None  # a share, or seconds; None without data
    baseline: float | None  # None where the limit is a number of its own
    segments: int  # that it rests on


@dataclass(frozen=True, slots=True)
class Gate:
    """One look at a candidate."""

    check: Check
    findings: tuple[Finding, ...]

    def words(self) -> str:
        """What speaks against it, for logs and events: "delivery 90.1 %, baseline 95.0 %"."""
        return "; ".join(
            _told(one) for one in self.findings if one.check is self.check is not Check.GOOD
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a canary is."""

    steps: Sequence[int]  # percent, growing, the last 100
    share: int  # percent
    since: float  # Unix seconds: when this step began
    bad: int = 0  # checks in a row that were bad


class Decision(NamedTuple):
    """What to do, with the share that is then in force and the bad checks in a row."""

    action: Action
    share: int
    bad: int


# -- statistics ------------------------------------------------------------------------------------


def wilson(count: float, total: int, z: float = Z95) -> tuple[float, float]:
    """Lower and upper bound of a share (Wilson 1927, JASA 22, 209-212)."""
    share = count / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def newcombe(
    first: tuple[float, int], second: tuple[float, int], z: float = Z95
) -> tuple[float, float]:
    """Bounds of the difference of two shares, each as (count, total).

    The hybrid of two score intervals: Newcombe 1998, Statistics in Medicine 17, 873-890, method
    10. It holds at small counts and at shares near 1, where delivery is.
    """
    share, other = first[0] / first[1], second[0] / second[1]
    low, high = wilson(*first, z)
    other_low, other_high = wilson(*second, z)
    difference = share - other
    return (
        difference - math.hypot(share - low, other_high - other),
        difference + math.hypot(high - share, other - other_low),
    )


def least_share(count: float, total: int, z: float = Z95) -> float:
    """The lower bound of a share, with a correction for whole counts: one in a hundred is chance.

    Newcombe 1998, Statistics in Medicine 17, 857-872, method 4.
    """
    if count <= 0:
        return 0.0
    share = count / total
    spread = z * z - 2 - 1 / total + 4 * share * (total * (1 - share) + 1)
    bound = 2 * count + z * z - 1 - z * math.sqrt(max(0.0, spread))
    return max(0.0, bound / (2 * (total + z * z)))


def quantile(answers: Sequence[int], part: float) -> float:
    """The time below which so large a part of the answers lies, even within its bucket."""
    rank = part * sum(answers)
    for place, number in enumerate(answers):
        if number and rank <= number:
            low, high = _edges(place)
            return low + (high - low) * rank / number
        rank -= number
    return BOUNDS[-1]


def later_than(answers: Sequence[int], seconds: float) -> float:
    """How many answers took longer."""
    place = bisect_left(BOUNDS, seconds)
    low, high = _edges(place)
    within = answers[place] * min(1.0, (high - seconds) / (high - low))
    return within + sum(answers[place + 1 :])


def _edges(place: int) -> tuple[float, float]:
    low = BOUNDS[place - 1] if place else 0.0
    return low, BOUNDS[place] if place < len(BOUNDS) else 2 * BOUNDS[-1]


# -- the gate --------------------------------------------------------------------------------------


def gate(policy: CanaryPolicy, candidate: Counts, baseline: Counts) -> Gate:
    """Compare what both channels did in the same minutes."""
    findings = (
        _delivery(policy, candidate, baseline),
        _share(policy, "failure", candidate.failed / 2, candidate.submits, policy.failure_share),
        _answers(policy, candidate, baseline),
        _share(policy, "complaints", candidate.complaints, candidate.taken, policy.complaint_share),
    )
    checks = {one.check for one in findings}
    worst = next(one for one in (Check.BAD, Check.UNCLEAR, Check.GOOD) if one in checks)
    return Gate(worst, findings)


def _delivery(policy: CanaryPolicy, candidate: Counts, baseline: Counts) -> Finding:
    if not candidate.finals or not baseline.finals:
        return Finding("delivery", Check.UNCLEAR, None, None, candidate.finals)
    ours = candidate.delivered, candidate.finals
    theirs = baseline.delivered, baseline.finals
    low, high = newcombe(ours, theirs)
    check = Check.UNCLEAR
    if low >= -policy.delivery_lower:
        check = Check.GOOD
    elif high < -policy.delivery_lower and min(ours[1], theirs[1]) >= policy.least:
        check = Check.BAD
    return Finding("delivery", check, ours[0] / ours[1], theirs[0] / theirs[1], ours[1])


def _answers(policy: CanaryPolicy, candidate: Counts, baseline: Counts) -> Finding:
    total, others = sum(candidate.answers), sum(baseline.answers)
    if not total or not others:
        return Finding("answers", Check.UNCLEAR, None, None, total)
    p95, usual = quantile(candidate.answers, P95), quantile(baseline.answers, P95)
    # p95 above a limit means that more than 5 % are: a share, whose bound is known.
    limit_s = policy.answer_factor * max(usual, policy.answer_floor_s)
    late = later_than(candidate.answers, limit_s)
    is_enough = min(total, others) >= policy.least
    check = _held_to(late, total, 1 - P95, is_enough=is_enough)
    return Finding("answers", check, p95, usual, total)


def _share(policy: CanaryPolicy, signal: str, count: float, total: int, limit: float) -> Finding:
    if not total:
        return Finding(signal, Check.UNCLEAR, None, None, 0)
    check = _held_to(count, total, limit, is_enough=total >= policy.least)
    return Finding(signal, check, count / total, None, total)


def _held_to(count: float, total: int, limit: float, *, is_enough: bool) -> Check:
    if count <= limit * total:
        return Check.GOOD
    return Check.BAD if is_enough and least_share(count, total) > limit else Check.UNCLEAR


_NAMES = {"delivery": "delivered", "failure": "failed", "complaints": "opted out"}


def _told(one: Finding) -> str:
    if one.candidate is None:
        return f"{one.signal}: nothing to judge by yet"
    if one.signal == "answers":
        return f"p95 answer {one.candidate:.2g} s, baseline {one.baseline or 0:.2g} s"
    words = f"{one.candidate:.2%} of {one.segments} {_NAMES[one.signal]}"
    return words if one.baseline is None else f"{words}, baseline {one.baseline:.2%}"


# -- what follows ----------------------------------------------------------------------------------


def decide(
    policy: CanaryPolicy, standing: Standing, check: Check, finals: int, now: float
) -> Decision:
    """What follows from a check; `finals` are the candidate's in this step, `now` Unix seconds."""
    if check is Check.BAD:
        bad = standing.bad + 1
        if bad >= policy.bad_checks:
            return Decision(Action.ROLL_BACK, 0, bad)
        return Decision(Action.WAIT, standing.share, bad)
    is_enough = now - standing.since >= policy.step_s and finals >= policy.step_finals
    if check is not Check.GOOD or not is_enough:
        return Decision(Action.WAIT, standing.share, 0)
    share = next((step for step in standing.steps if step > standing.share), None)
    if share is None:
        return Decision(Action.PROMOTE, FULL, 0)
    return Decision(Action.STEP, share, 0)
