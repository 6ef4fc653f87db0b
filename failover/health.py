"""What a channel's answers and receipts say of it, counted in seconds and judged by numbers.

    answers, time-outs, receipts ──▶ Ring: counts per second ──▶ Health.judge ──▶ Fault │ None
    unanswered submits, head age ──────────────────────────────────▲   once a second

Memory is constant: whole seconds of some minutes, and the receipts of a day in 24 sums. What is
the number's or the text's fault counts as a good answer, throttling counts as none. The numbers
are RELIABILITY section 7's. Pure: `now` is monotonic seconds, and only ever grows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

P95: Final = 0.05  # p95 is above a bound when more than this part is: no histogram is needed
FEW_SLOW: Final = 0.5  # of answers too few for a p95, this part says that it is above the bound
BASELINE_PARTS: Final = 24

# Columns of the ring.
_ANSWERS, _FAILED, _SLOW, _SUBMITTED, _RECEIPTED, _DELIVERED, _UNDELIVERED = range(7)


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When a channel is left, and how it is come back to (RELIABILITY section 7)."""

    link_errors: int = 5  # connects, logins or links lost, in a row
    link_test_s: float = 5.0  # a link test answered later is an error as well
    config_errors: int = 3  # answers that name the account or the sender, none taken in between
    no_answer_s: float = 10.0  # nothing heard for so long …
    no_answer_waiting: int = 8  # … while so many submits wait
    failure_share: float = 0.5  # failed of the answers …
    failure_s: float = 10.0  # … of so many seconds …
    failure_least: int = 20  # … of which there are so many
    failure_long_share: float = 0.2  # the same over a longer time
    failure_long_s: float = 60.0
    failure_long_least: int = 100
    slow_answer_s: float = 10.0  # p95 of the answers above this …
    slow_s: float = 30.0  # … for so long …
    slow_least: int = 3  # … and where answers are fewer than `failure_least`, so many
    head_age_s: float = 300.0  # the oldest message waits so long for a slot, unthrottled
    receipts_from_s: float = 300.0  # of the submits made so long ago …
    receipts_until_s: float = 360.0  # … up to so long …
    receipts_least: int = 100  # … if they are so many …
    receipts_part: float = 0.5  # … a smaller part of the usual share has its receipt
    receipts_baseline_s: float = 86_400.0  # what is usual, over so long
    alarm_failure_share: float = 0.05  # above it, of `failure_long_s`: an alarm, nothing else
    alarm_failure_least: int = 200
    alarm_delivery_share: float = 0.95  # delivered of the final receipts, below it: an alarm
    alarm_delivery_s: float = 300.0
    alarm_delivery_least: int = 200

    open_s: float = 30.0  # nothing goes over it for so long, doubled each time in a row …
    open_cap_s: float = 600.0  # … up to this
    jitter: float = 0.2  # either way
    probes: int = 10  # then so many ordinary messages …
    probes_good: int = 9  # … of which so many must be answered well
    half_open_s: float = 60.0  # fewer came in so long: those that came decide
    ramp: tuple[float, ...] = (0.01, 0.1, 0.5, 1.0)  # then these shares of the messages …
    ramp_step_s: float = 60.0  # … for so long each
    switches: int = 4  # at most, away and back, …
    switches_s: float = 600.0  # … in so long; beyond it stays on the backup


class Signal(StrEnum):
    """What was wrong; the `cause` of metrics and events."""

    LINK = "link"
    CONFIG = "config"
    NO_ANSWER = "no_answer"
    FAILURES = "failures"
    SLOW = "slow"
    HEAD_AGE = "head_age"
    RECEIPTS = "receipts"
    DELIVERY = "delivery"
    PROBES = "probes"


@dataclass(frozen=True, slots=True)
class Fault:
    """A signal beyond its number, in words for logs and events; never a number or a text."""

    signal: Signal
    words: str


@dataclass(slots=True)  # not frozen: one per burst of answers
class Answers:
    """What one burst came to, of one carrier's submits that count (see `Health.since`)."""

    total: int = 0  # answered or given up, without what was throttled
    failed: int = 0  # in halves: 2 for a failure, 1 for a code that nobody mapped
    slow: int = 0  # later than `slow_answer_s`, or given up
    taken: int = 0  # of them, by the carrier: they await receipts
    config: int = 0  # of the failed ones, those that name the account or the sender
    is_account: bool = False  # one of them names the account as a whole
    is_heard: bool = False  # the carrier said anything at all


class Ring:
    """Counts per second of the newest `span_s` seconds."""

    __slots__ = ("_last", "_size", "columns")

    def __init__(self, span_s: float, columns: int, now: float) -> None:
        self._size = math.ceil(span_s) + 2
        # Public, as `turn` gives the place in them: a method call for each count costs 0.1 µs.
        self.columns = [[0] * self._size for _ in range(columns)]
        self._last = int(now)

    def turn(self, now: float) -> int:
        """Come to `now`: the seconds that nobody counted in are empty; returns its place."""
        second = int(now)
        if second > self._last:
            self._empty(second)
            self._last = second
        return self._last % self._size

    def _empty(self, second: int) -> None:
        steps = min(second - self._last, self._size)
        for step in range(1, steps + 1):
            at = (second - steps + step) % self._size
            for column in self.columns:
                column[at] = 0

    def add(self, column: int, number: int, age_s: float = 0.0) -> None:
        """Count in the newest second, or in that of so long ago; too old is no more counted."""
        age = int(age_s)
        if 0 <= age < self._size:
            self.columns[column][(self._last - age) % self._size] += number

    def total(self, column: int, from_s: float, until_s: float) -> int:
        """The sum over the seconds that are `from_s` (0 = the newest) to below `until_s` old."""
        counts, size = self.columns[column], self._size
        first, last = math.floor(from_s), min(math.ceil(until_s), size)
        if first >= last:
            return 0
        low, high = (self._last - last + 1) % size, (self._last - first) % size
        if low <= high:
            return sum(counts[low : high + 1])
        return sum(counts[low:]) + sum(counts[: high + 1])

    def clear(self) -> None:
        """Forget all."""
        for column in self.columns:
            column[:] = [0] * self._size


class Baseline:
    """The share of submits that had a receipt in time, over a day, in 24 parts."""

    __slots__ = ("_part", "_part_s", "_receipted", "_submitted")

    def __init__(self, span_s: float, now: float) -> None:
        self._part_s = span_s / BASELINE_PARTS
        self._part = int(now / self._part_s)
        self._submitted = [0] * BASELINE_PARTS
        self._receipted = [0] * BASELINE_PARTS

    def add(self, submitted: int, receipted: int, now: float) -> None:
        """So many submits became so old, and of them so many have a receipt."""
        part = int(now / self._part_s)
        for step in range(1, min(part - self._part, BASELINE_PARTS) + 1):
            old = (self._part + step) % BASELINE_PARTS
            self._submitted[old] = self._receipted[old] = 0
        self._part = part
        at = part % BASELINE_PARTS
        self._submitted[at] += submitted
        self._receipted[at] += min(receipted, submitted)  # those of an earlier life are more

    def sums(self) -> tuple[int, int]:
        """(submits, those of them with a receipt)."""
        return sum(self._submitted), sum(self._receipted)


class Health:
    """The signals of one channel and carrier, or what is heard of one channel as a whole.

    What was submitted before `since` is not judged: the channel was left for it already.
    """

    __slots__ = (
        "_aged_until",
        "_baseline",
        "_config",
        "_expected",
        "_in_time",
        "_is_account",
        "_late",
        "_policy",
        "_ring",
        "_silent_from",
        "_slow_since",
        "heard_at",
        "lately",
        "since",
        "touched_at",
    )

    def __init__(self, policy: HealthPolicy, now: float) -> None:
        span_s = max(policy.receipts_until_s, policy.alarm_delivery_s, policy.failure_long_s)
        self._policy = policy
        self._ring = Ring(span_s, 7, now)
        self._baseline = Baseline(policy.receipts_baseline_s, now)
        self._expected = self._in_time = 0  # of `take_receipts`
        self._aged_until = int(now)  # up to this second submits went into the baseline
        self._config = 0  # in a row
        self._is_account = False  # one of them was enough
        self._silent_from = now  # nothing was heard since, or what was heard does not count
        self._slow_since: float | None = None  # nothing spoke against it since
        self._late = 0  # answered late since then
        self.heard_at = now  # when the carrier said anything at all
        self.lately = 0, 0  # answers and what is overdue, late ones of them, as last judged
        self.since = now
        self.touched_at = -math.inf  # when anything was answered last

    # -- what happens ----------------------------------------------------------------------

    def answered(self, answers: Answers, now: float) -> None:
        """Note a burst of answers and of submits given up, all made since `since`."""
        at, columns = self._ring.turn(now), self._ring.columns
        self.touched_at = now
        columns[_ANSWERS][at] += answers.total
        columns[_SUBMITTED][at] += answers.taken
        columns[_FAILED][at] += answers.failed
        columns[_SLOW][at] += answers.slow
        self._late += answers.slow
        self.heard(answers, now)

    def heard(self, answers: Answers, now: float) -> None:
        """The same where nothing is counted: of a channel as a whole."""
        if answers.is_heard:
            self.heard_at = self._silent_from = now
        if answers.taken:
            self._config, self._is_account = 0, False
        self._config += answers.config
        self._is_account |= answers.is_account

    def receipted(self, delivered: int, undelivered: int, lag_s: float, now: float) -> None:
        """Final receipts came for submits that were taken `lag_s` ago."""
        at, columns = self._ring.turn(now), self._ring.columns
        self._ring.add(_RECEIPTED, delivered + undelivered, lag_s)
        columns[_DELIVERED][at] += delivered
        columns[_UNDELIVERED][at] += undelivered

    def forget(self, now: float) -> None:
        """Judge by what is submitted from now on; what is usual of receipts stays known."""
        self.turn(now)
        self._ring.clear()
        self._config, self._is_account = 0, False
        self._slow_since = None
        self.lately = 0, 0
        self.since = now
        self._silent_from = now

    def turn(self, now: float) -> None:
        """Once a second: what is older than the receipts' window goes into what is usual."""
        ring, until_s = self._ring, math.ceil(self._policy.receipts_until_s)
        ring.turn(now)
        second = int(now) - until_s
        count = min(second - self._aged_until, 2)  # the ring keeps no more beyond the window
        if second <= self._aged_until:
            return
        submitted = ring.total(_SUBMITTED, until_s, until_s + count)
        receipted = ring.total(_RECEIPTED, until_s, until_s + count)
        self._aged_until = second
        self._expected += submitted
        self._in_time += receipted
        if submitted:
            self._baseline.add(submitted, receipted, now)

    # -- what it comes to ------------------------------------------------------------------

    def judge(self, waiting: Sequence[float], whole: Sequence[Health], now: float) -> Fault | None:
        """What is wrong with it, if anything; call it once a second.

        `waiting` says when each unanswered submit left. `whole` are all of the channel, this one
        too: where one carrier's counts are too few, their sum decides, if its own point the same
        way.
        """
        self.turn(now)
        waiting = [at for at in waiting if at >= self.since]
        return (
            self.no_answer(waiting, now)
            or self._failures(whole)
            or self._slow(waiting, whole, now)
            or self._receipts(whole)
        )

    def no_answer(self, waiting: Sequence[float], now: float) -> Fault | None:
        """Nothing was heard since long, while enough submits wait for it.

        What was long overdue when something was heard is lost, and no sign of silence now. One
        that was lost before and many that left just now are none either: enough of them must have
        waited for half of that time.
        """
        policy = self._policy
        overdue_at = max(self.since, self._silent_from - policy.no_answer_s)
        waiting = sorted(at for at in waiting if at >= overdue_at)
        if len(waiting) < policy.no_answer_waiting:
            return None
        if now - waiting[policy.no_answer_waiting - 1] < policy.no_answer_s / 2:
            return None
        silent_s = now - max(self._silent_from, waiting[0])
        if silent_s < policy.no_answer_s:
            return None
        words = f"no answer for {silent_s:.0f} s while {len(waiting)} submits wait"
        return Fault(Signal.NO_ANSWER, words)

    def misconfigured(self) -> Fault | None:
        """The carrier refuses our account or what it permits, and takes nothing."""
        if self._is_account:
            return Fault(Signal.CONFIG, "an answer names the account: its login, balance or quota")
        if self._config < self._policy.config_errors:
            return None
        words = f"{self._config} answers in a row refuse the account, its balance or permission"
        return Fault(Signal.CONFIG, words)

    def _failures(self, whole: Sequence[Health]) -> Fault | None:
        policy = self._policy
        for seconds, share, least in (
            (policy.failure_s, policy.failure_share, policy.failure_least),
            (policy.failure_long_s, policy.failure_long_share, policy.failure_long_least),
        ):
            judged = self._enough(seconds, share, least, whole)
            if judged is not None:
                total, failed = judged
                words = f"{failed / 2 / total:.0%} of {total} submits failed in {seconds:g} s"
                return Fault(Signal.FAILURES, words)
        return None

    def _enough(
        self, seconds: float, share: float, least: int, whole: Sequence[Health]
    ) -> tuple[int, int] | None:
        """(answers, failed halves) when they are enough and too many failed."""
        total, failed = self.failed_in(seconds)
        if not total or failed < 2 * share * total:
            return None
        if total < least:
            total, failed = _sum(one.failed_in(seconds) for one in whole)
        return (total, failed) if total >= least and failed >= 2 * share * total else None

    def failed_in(self, seconds: float) -> tuple[int, int]:
        """(answers, failed ones in halves) of so many seconds."""
        return self._ring.total(_ANSWERS, 0, seconds), self._ring.total(_FAILED, 0, seconds)

    def _slow(self, waiting: Sequence[float], whole: Sequence[Health], now: float) -> Fault | None:
        """The p95 of what was answered lately, and of what is overdue, for a while.

        Answers come in bursts, and seldom where few are sent: a second without evidence either way
        changes nothing.
        """
        policy = self._policy
        self.lately = total, late = self._late_ones(waiting, now)
        if total < policy.failure_least and late > P95 * total:
            summed, summed_late = _sum(one.lately for one in whole)
            if summed >= policy.failure_least and summed_late > P95 * summed:
                total, late = summed, summed_late
        is_enough = total >= policy.failure_least
        if late <= (P95 if is_enough else 0) * total:
            if total:  # they are quick
                self._slow_since = None
            return None
        if not is_enough and late < FEW_SLOW * total:
            return None
        if self._slow_since is None:
            self._slow_since = now
            self._late = self._ring.total(_SLOW, 0, policy.failure_s)
        if now - self._slow_since < policy.slow_s:
            return None
        overdue = sum(now - at > policy.slow_answer_s for at in waiting)
        if not is_enough and max(self._late, overdue) < policy.slow_least:
            return None
        words = f"p95 of the answers above {policy.slow_answer_s:g} s for {policy.slow_s:g} s"
        return Fault(Signal.SLOW, f"{words} ({late} of {total})")

    def _late_ones(self, waiting: Sequence[float], now: float) -> tuple[int, int]:
        """(answers of the last `failure_s` and what became overdue, late ones of them).

        What waits and is young says nothing yet: with full windows it is half of all that is known.
        What is overdue for longer than answers are counted is lost, and says nothing of those that
        came since: its slot stays taken for minutes.
        """
        policy = self._policy
        answered = self._ring.total(_ANSWERS, 0, policy.failure_s)
        oldest_s = policy.slow_answer_s + (policy.failure_s if answered else math.inf)
        overdue = sum(policy.slow_answer_s < now - at <= oldest_s for at in waiting)
        return answered + overdue, self._ring.total(_SLOW, 0, policy.failure_s) + overdue

    def _receipts(self, whole: Sequence[Health]) -> Fault | None:
        """Receipts stay away: a carrier that takes everything and delivers nothing."""
        policy = self._policy
        submitted, receipted = self.receipted_in_time()
        usual, usually = self.baseline()
        if submitted < policy.receipts_least or usual < policy.receipts_least:
            usual, usually = _sum(one.baseline() for one in whole)
            if not self._is_silent(submitted, receipted, usual, usually):
                return None
            submitted, receipted = _sum(one.receipted_in_time() for one in whole)
        if submitted < policy.receipts_least:
            return None
        if not self._is_silent(submitted, receipted, usual, usually):
            return None
        words = (
            f"{receipted / submitted:.0%} of {submitted} submits have their receipt after "
            f"{policy.receipts_from_s:g} s, usually {usually / usual:.0%}"
        )
        return Fault(Signal.RECEIPTS, words)

    def has_receipts(self) -> bool:
        """Whether receipts come again for what was submitted since it was left; none was: yes."""
        policy = self._policy
        old_s = min(policy.ramp_step_s, policy.receipts_from_s)
        submitted = self._ring.total(_SUBMITTED, old_s, policy.receipts_until_s)
        usual, usually = self.baseline()
        if not submitted or not usual:
            return True
        receipted = self._ring.total(_RECEIPTED, 0, policy.receipts_until_s)
        return receipted >= policy.receipts_part * usually / usual * submitted

    def _is_silent(self, submitted: int, receipted: int, usual: int, usually: int) -> bool:
        """Whether the share with a receipt is too small a part of the usual one."""
        if usual < self._policy.receipts_least:
            return False
        return receipted < self._policy.receipts_part * usually / usual * submitted

    def receipted_in_time(self) -> tuple[int, int]:
        """(submits of the window that should have their receipts, those that have)."""
        span = self._policy.receipts_from_s, self._policy.receipts_until_s
        return self._ring.total(_SUBMITTED, *span), self._ring.total(_RECEIPTED, *span)

    def take_receipts(self) -> tuple[int, int]:
        """(submits that became old enough since this was last asked, receipts of such ones)."""
        taken = self._expected, self._in_time
        self._expected = self._in_time = 0
        return taken

    def baseline(self) -> tuple[int, int]:
        """The same of a day."""
        return self._baseline.sums()

    def alarms(self) -> list[Fault]:
        """What a person should look at; the channel is not left for it."""
        policy = self._policy
        found: list[Fault] = []
        total, failed = self.failed_in(policy.failure_long_s)
        if total >= policy.alarm_failure_least and failed > 2 * policy.alarm_failure_share * total:
            words = f"{failed / 2 / total:.1%} of {total} submits failed in "
            found.append(Fault(Signal.FAILURES, f"{words}{policy.failure_long_s:g} s"))
        delivered = self._ring.total(_DELIVERED, 0, policy.alarm_delivery_s)
        final = delivered + self._ring.total(_UNDELIVERED, 0, policy.alarm_delivery_s)
        is_enough = final >= policy.alarm_delivery_least
        if is_enough and delivered < policy.alarm_delivery_share * final:
            words = f"{delivered / final:.1%} of {final} receipts in {policy.alarm_delivery_s:g} s"
            found.append(Fault(Signal.DELIVERY, f"{words} say delivered"))
        return found


def _sum(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    first = second = 0
    for one, other in pairs:
        first += one
        second += other
    return first, second
