"""One channel under watch: its health and its breakers, as a whole and for each carrier.

    answers  ─▶ Health of the carrier, and of the whole ─┐
    links    ─▶ errors in a row                          ├─▶ tick, once a second ─▶ Breakers
    a glance ─▶ what waits, since when; is it up         ┘

What is the channel's own fault – its link, its account, no answer at all, a queue that stands –
opens the breaker of the whole. Failures, slow answers and silent receipts open that of one
carrier, so that a vendor whose way to one network broke keeps the others. Pure: `now` is
monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from failover.breaker import Breaker, BreakerState, Change
from failover.choose import Badness
from failover.health import Answers, Fault, Health, HealthPolicy, Signal
from sms.model import Carrier

_CLOSED, _OPEN = BreakerState.CLOSED, BreakerState.OPEN
_HALF_OPEN, _RAMP = BreakerState.HALF_OPEN, BreakerState.RAMP
_WORST = (_OPEN, _HALF_OPEN, _RAMP)


@dataclass(frozen=True, slots=True)
class Glance:
    """What a channel looks like from outside, once a second."""

    is_up: bool  # at least one session, its link tests answered
    has_room: bool  # a free slot
    # When each unanswered submit left.
    waiting: Mapping[Carrier, Sequence[float]] = field(default_factory=dict)
    head_age_s: float = 0.0  # of the oldest message that only a free slot is missing for


class Move(NamedTuple):
    """A breaker moved, of one carrier's messages or of all (None)."""

    carrier: Carrier | None
    change: Change


class Alarm(NamedTuple):
    """Something to look at; the channel is not left for it."""

    carrier: Carrier
    fault: Fault


class _Way:
    """What is known of some messages' way over the channel; mutable, one for its life."""

    __slots__ = ("alarms", "breaker", "health")

    def __init__(self, policy: HealthPolicy, now: float, dice: Callable[[], float]) -> None:
        self.health = Health(policy, now)
        self.breaker = Breaker(policy, now, dice)
        self.alarms: set[Signal] = set()  # told already

    def is_judged(self) -> bool:
        """While it is open nothing goes over it, and half-open the probes decide."""
        return self.breaker.state in (_CLOSED, _RAMP)


class Watch:
    """One channel's health and breakers in this process. All methods are synchronous."""

    def __init__(self, policy: HealthPolicy, now: float, dice: Callable[[], float]) -> None:
        """`dice` gives numbers in 0…1, for the jitter."""
        self._policy = policy
        self._dice = dice
        self._whole = _Way(policy, now, dice)
        self._ways: dict[Carrier, _Way] = {}
        self._link_errors = 0.0  # in a row
        self.tested_at = now
        self.link_test_s: float | None = None  # how long the newest one took
        self.slow_answer_s = policy.slow_answer_s
        self.is_closed = True  # every breaker is: the path asks nothing else
        self.alarms: list[Alarm] = []  # new since the last tick

    # -- what happens ----------------------------------------------------------------------

    def since(self, carrier: Carrier) -> float:
        """Submits that left before this moment say nothing any more."""
        return max(self._whole.health.since, self._way(carrier).health.since)

    def answered(self, carrier: Carrier, answers: Answers, now: float) -> None:
        """A burst of answers of one carrier's submits, of those made since `since`."""
        way, whole = self._way(carrier), self._whole
        way.health.answered(answers, now)
        whole.health.heard(answers, now)
        if answers.is_heard:
            self._link_errors = 0
        if not self.is_closed:
            bad = max((answers.failed + 1) // 2, answers.slow)
            way.breaker.probed(answers.total - bad, bad)
            whole.breaker.probed(answers.total - bad, bad)

    def receipted(
        self, carrier: Carrier, delivered: int, undelivered: int, lag_s: float, now: float
    ) -> None:
        """Final receipts came for submits that were taken `lag_s` ago."""
        self._way(carrier).health.receipted(delivered, undelivered, lag_s, now)

    def take_receipts(self) -> tuple[int, int]:
        """(submits that became old enough since this was last asked, receipts of such ones)."""
        taken = [way.health.take_receipts() for way in self._ways.values()]
        return sum(one for one, _ in taken), sum(one for _, one in taken)

    def link_failed(self, times: float = 1.0) -> None:
        """A connect, a login or a link test failed, or the last link was lost."""
        self._link_errors += times

    def link_tested(self, seconds: float, now: float, part: float = 1.0) -> None:
        """A link test was answered after so long; `part` of a channel's sessions made it."""
        self.tested_at, self.link_test_s = now, seconds
        if seconds < self._policy.link_test_s:
            self._link_errors = 0
        else:
            self._link_errors += part

    def link_came(self, now: float) -> None:
        """A login was answered, or a connection made."""
        self.tested_at = now

    def heard_at(self) -> float:
        """When its carrier last showed to be there: an answer, of a login or link test too."""
        return max(self._whole.health.heard_at, self.tested_at)

    def try_soon(self, now: float) -> None:
        """Somebody has looked at the channel: what is left is tried at the next tick."""
        for way in (self._whole, *self._ways.values()):
            way.breaker.try_soon(now)

    # -- what messages ask -----------------------------------------------------------------

    def takes(self, carrier: Carrier, key: int, *, is_otp: bool) -> bool:
        """Whether the channel takes a message of the carrier now (`Breaker.takes`)."""
        if not self._whole.breaker.takes(key, is_otp=is_otp):
            return False
        way = self._ways.get(carrier)
        return way is None or way.breaker.takes(key, is_otp=is_otp)

    def bound(self, carrier: Carrier) -> None:
        """A message of the carrier will go over it."""
        self._whole.breaker.bound()
        if (way := self._ways.get(carrier)) is not None:
            way.breaker.bound()

    def unbound(self) -> None:
        """What was bound to it and did not leave is chosen anew, and may be bound again."""
        for way in (self._whole, *self._ways.values()):
            way.breaker.unbound()

    def rank(self, carrier: Carrier) -> Badness:
        """How bad the channel is for the carrier, the lowest best."""
        way = self._ways.get(carrier)
        rank = self._whole.breaker.rank()
        return rank if way is None else max(rank, way.breaker.rank())

    def cause(self, carrier: Carrier) -> Signal | None:
        """Why it takes less than all of the carrier's messages; None when it takes all."""
        way = self._ways.get(carrier)
        return self._whole.breaker.cause or (None if way is None else way.breaker.cause)

    def left(self) -> dict[Carrier | None, Signal]:
        """Why breakers were left that are not closed yet: the whole channel's (None), carriers'."""
        found: dict[Carrier | None, Signal] = {}
        for carrier, way in ((None, self._whole), *self._ways.items()):
            if way.breaker.cause is not None:
                found[carrier] = way.breaker.cause
        return found

    def room(self, window: int, waiting: Sequence[float], now: float) -> int:
        """How many submits more may wait for their answer, of `window` in all (`Breaker.room`).

        `waiting` says when each of them left. One lane holds all carriers' messages: while one of
        them is well, its pace is not lowered.
        """
        lately = now - self._policy.failure_long_s
        limits = [
            way
            for way in self._ways.values()
            if way.breaker.state is not _CLOSED or way.health.touched_at > lately
        ]
        if self._whole.breaker.state is not _CLOSED:
            limits = [self._whole]
        rooms = [
            way.breaker.room(window, sum(at >= way.health.since for at in waiting))
            for way in limits
        ]
        return max(rooms, default=window)

    @property
    def is_left(self) -> bool:
        """Whether nothing goes over it but a try, of any carrier."""
        return not self.is_closed and self._whole.breaker.state is _OPEN

    def state(self) -> BreakerState:
        """The worst of its breakers, for gauges."""
        states = {way.breaker.state for way in (self._whole, *self._ways.values())}
        return next((state for state in _WORST if state in states), _CLOSED)

    # -- time ------------------------------------------------------------------------------

    def tick(self, glance: Glance, now: float) -> list[Move]:
        """Once a second: leave, try, climb, come back; returns what moved."""
        moves: list[Move] = []
        self.alarms = []
        change = self._tick_whole(glance, now)
        if change is not None:
            moves.append(Move(None, change))
        for carrier in glance.waiting:
            self._way(carrier)
        if self._whole.is_judged():
            for carrier, way in self._ways.items():
                change = self._tick_way(way, glance, glance.waiting.get(carrier, ()), now)
                if change is not None:
                    moves.append(Move(carrier, change))
                self._look(carrier, way)
        self.is_closed = self.state() is _CLOSED
        return moves

    def _tick_whole(self, glance: Glance, now: float) -> Change | None:
        whole = self._whole
        waiting = [
            at
            for carrier, ats in glance.waiting.items()
            for at in ats
            if at >= self._way(carrier).health.since
        ]
        fault = self._broken(glance, waiting, now)
        if fault is not None:
            self._forget_ways(now)
            self._link_errors = 0
            return self._trip(whole, fault, now)
        elsewhere = max((way.breaker.recent(now) for way in self._ways.values()), default=0)
        change = self._advance(whole, glance, waiting, elsewhere, now)
        if change is not None and change.state in (_OPEN, _HALF_OPEN):
            self._forget_ways(now)
        if change is not None and change.state is _HALF_OPEN:
            self._link_errors = 0  # those of the time when it was down
        return change

    def _forget_ways(self, now: float) -> None:
        """What was sent into the broken channel, or tried it, says nothing of any carrier."""
        for way in self._ways.values():
            way.health.forget(now)

    def _broken(self, glance: Glance, waiting: Sequence[float], now: float) -> Fault | None:
        """What is wrong with the channel itself."""
        whole, policy = self._whole, self._policy
        if whole.breaker.state is _HALF_OPEN and not glance.is_up:
            return Fault(Signal.LINK, "its link was lost while messages tried it")
        if not whole.is_judged():
            return None
        if self._link_errors >= policy.link_errors:
            return Fault(Signal.LINK, f"{self._link_errors:.0f} link errors in a row")
        if glance.is_up and glance.head_age_s > policy.head_age_s:
            words = f"the oldest message waits for {glance.head_age_s:.0f} s for a free slot"
            return Fault(Signal.HEAD_AGE, words)
        return whole.health.misconfigured() or whole.health.no_answer(waiting, now)

    def _tick_way(
        self, way: _Way, glance: Glance, waiting: Sequence[float], now: float
    ) -> Change | None:
        if way.is_judged():
            everything = [one.health for one in self._ways.values()]
            fault = way.health.judge(waiting, everything, now)
            if fault is not None:
                return self._trip(way, fault, now)
        return self._advance(way, glance, waiting, self._whole.breaker.recent(now), now)

    def _trip(self, way: _Way, fault: Fault, now: float) -> Change:
        way.health.forget(now)
        return way.breaker.trip(fault, now)

    def _advance(
        self, way: _Way, glance: Glance, waiting: Sequence[float], elsewhere: int, now: float
    ) -> Change | None:
        since, limit_s = way.health.since, self._policy.no_answer_s
        change = way.breaker.tick(
            now,
            is_ready=glance.is_up and glance.has_room,
            overdue=sum(at >= since and now - at > limit_s for at in waiting),
            elsewhere=elsewhere,
            is_proven=way.breaker.cause is not Signal.RECEIPTS or way.health.has_receipts(),
        )
        if change is not None and change.state in (_OPEN, _HALF_OPEN):
            way.health.forget(now)
        return change

    def _way(self, carrier: Carrier) -> _Way:
        way = self._ways.get(carrier)
        if way is None:  # what was sent before its first answer came is judged too
            since = self._whole.health.since
            way = self._ways[carrier] = _Way(self._policy, since, self._dice)
        return way

    def _look(self, carrier: Carrier, way: _Way) -> None:
        faults = way.health.alarms()
        for fault in faults:
            if fault.signal not in way.alarms:
                self.alarms.append(Alarm(carrier, fault))
        way.alarms = {fault.signal for fault in faults}
