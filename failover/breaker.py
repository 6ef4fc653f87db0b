"""How a channel is left and come back to, as a whole or for the messages of one carrier.

    closed ──fault──▶ open ──time over, link up──▶ half-open ──probes good──▶ ramp ──▶ closed
                       ▲                              │ bad                    │ fault
                       └──── twice the time ──────────┴────────────────────────┘

Coming back is refused while it could make more than four switches, away and back, in ten minutes:
then the channel stays left. No history keeps a channel open for ever: each wait has a cap, and a
half-open channel that gets too few messages is judged by those that came. Pure: `now` is monotonic
seconds, dice are given.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from failover.health import Fault, HealthPolicy, Signal

SHARES: Final = 10_000  # what a message's key is taken modulo


class BreakerState(StrEnum):
    """Where a breaker stands, in the order of RELIABILITY section 7."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    RAMP = "ramp"


_CLOSED, _OPEN = BreakerState.CLOSED, BreakerState.OPEN
_HALF_OPEN, _RAMP = BreakerState.HALF_OPEN, BreakerState.RAMP
# How bad a channel is that somebody must take: the lowest first.
_RANKS: Final = {_CLOSED: 0, _RAMP: 1, _HALF_OPEN: 2, _OPEN: 3}
ALONE: Final = frozenset({_RANKS[_CLOSED], _RANKS[_OPEN]})  # of equals one gets all of them


@dataclass(frozen=True, slots=True)
class Change:
    """A breaker moved, or refuses to; `is_page` when a person must know at once."""

    state: BreakerState
    signal: Signal | None  # why it was left; None on the way back
    words: str
    is_page: bool = False


class Breaker:
    """Whether messages may go over a channel, and what part of them."""

    __slots__ = (
        "_bad",
        "_bound",
        "_closed_at",
        "_dice",
        "_good",
        "_is_held",
        "_moved_at",
        "_opened",
        "_policy",
        "_step",
        "_switches",
        "cause",
        "state",
        "until",
    )

    def __init__(self, policy: HealthPolicy, now: float, dice: Callable[[], float]) -> None:
        """`dice` gives numbers in 0…1, for the jitter."""
        self._policy = policy
        self._dice = dice
        self.state = _CLOSED
        self.cause: Signal | None = None  # why it was opened last, until it is closed again
        self.until = now  # open: not tried before
        self._moved_at = now  # into this state, or to this step of the ramp
        self._closed_at = -math.inf
        self._opened = 0  # in a row
        self._step = 0  # of the ramp
        self._switches: deque[float] = deque(maxlen=policy.switches)
        self._is_held = False  # it was told that it stays open for its switches
        self._bound = self._good = self._bad = 0  # probes

    # -- what messages ask -----------------------------------------------------------------

    def takes(self, key: int, *, is_otp: bool) -> bool:
        """Whether it takes a message now; `key` is any number that stays the message's own.

        The same key gives the same answer within a step of the ramp, so no dice are needed.
        """
        if self.state is _RAMP:
            return key % SHARES < self.share() * SHARES
        if self.state is _HALF_OPEN:
            return not is_otp and self._bound < self._policy.probes
        return self.state is _CLOSED

    def bound(self) -> None:
        """A message will go over it; only so many are let near a half-open one."""
        self._bound += 1

    def unbound(self) -> None:
        """What was bound and is not answered is chosen anew."""
        self._bound = self._good + self._bad

    def share(self) -> float:
        """The part of the messages that it takes, probes aside."""
        if self.state is _RAMP:
            return self._policy.ramp[self._step]
        return 1.0 if self.state is _CLOSED else 0.0

    def rank(self) -> tuple[int, int]:
        """How bad it is, the lowest best: for messages that no channel takes.

        On the ramp by how far it has come, else by how often it was left in a row.
        """
        if self.state is _RAMP:
            return _RANKS[_RAMP], len(self._policy.ramp) - self._step
        return _RANKS[self.state], self._opened

    def room(self, window: int, waiting: int) -> int:
        """How many submits more may wait for their answer, of `window` in all; for `pump`.

        Where nothing else takes them, messages stand before a channel that is not closed: one at a
        time goes over an open one, the rest of the probes over a half-open one, twice the share of
        the window over one on its ramp (so the share itself never waits for it).
        """
        match self.state:
            case BreakerState.CLOSED:
                return max(0, window - waiting)
            case BreakerState.OPEN:
                return max(0, 1 - waiting)
            case BreakerState.HALF_OPEN:
                return max(0, self._policy.probes - self._good - self._bad - waiting)
            case BreakerState.RAMP:
                return max(0, max(2, math.ceil(2 * self.share() * window)) - waiting)

    # -- what happens to it ----------------------------------------------------------------

    def trip(self, fault: Fault, now: float) -> Change:
        """Leave the channel, for longer each time in a row."""
        policy = self._policy
        if self.state is _CLOSED and now - self._closed_at > policy.switches_s:
            self._opened = 0
        if self.state in (_CLOSED, _RAMP):
            self._switches.append(now)
        wait_s = min(policy.open_s * 2.0 ** min(self._opened, 16), policy.open_cap_s)
        wait_s *= 1.0 + policy.jitter * (2.0 * self._dice() - 1.0)
        self._opened += 1
        self._move(_OPEN, now)
        self.until = now + wait_s
        self.cause = fault.signal
        is_page = fault.signal is Signal.CONFIG
        return Change(_OPEN, fault.signal, f"{fault.words}; left for {wait_s:.0f} s", is_page)

    def tick(
        self,
        now: float,
        *,
        is_ready: bool,
        overdue: int = 0,
        elsewhere: int = 0,
        is_proven: bool = True,
    ) -> Change | None:
        """Once a second. `is_ready`: its link is tested and has a free slot.

        `overdue` is how many probes are unanswered for too long, `elsewhere` how many switches
        another breaker made lately with the same messages. `is_proven`: whether what it was left
        for is over; good answers alone do not say it of silent receipts.
        """
        match self.state:
            case BreakerState.CLOSED:
                return None
            case BreakerState.OPEN:
                if not is_ready or now < self.until:
                    return None
                return self._half_open(now, elsewhere)
            case BreakerState.HALF_OPEN:
                return self._judge_probes(now, overdue)
            case BreakerState.RAMP:
                return self._climb(now, is_proven=is_proven)

    def try_soon(self, now: float) -> None:
        """Somebody has looked: the next tick tries it, however often it has switched."""
        if self.state is _OPEN:
            self.until = now
            self._switches.clear()

    def probed(self, good: int, bad: int) -> None:
        """Answers to what was sent since it is half-open; the next tick judges them."""
        if self.state is _HALF_OPEN:
            self._good += good
            self._bad += bad

    def recent(self, now: float) -> int:
        """How often it switched lately, away and back."""
        return sum(now - at < self._policy.switches_s for at in self._switches)

    # -- inside ----------------------------------------------------------------------------

    def _half_open(self, now: float, elsewhere: int) -> Change | None:
        # Coming back makes one switch, and leaving again, which is never refused, another.
        policy = self._policy
        recent = self.recent(now) + elsewhere
        if recent + 2 > policy.switches:
            if self._is_held:
                return None
            self._is_held = True
            words = f"{recent} switches in {policy.switches_s:g} s: it stays on the backup"
            return Change(_OPEN, self.cause, words, is_page=True)
        self._is_held = False
        self._move(_HALF_OPEN, now)
        return Change(_HALF_OPEN, None, f"{policy.probes} messages try it")

    def _judge_probes(self, now: float, overdue: int) -> Change | None:
        policy = self._policy
        bad, good = self._bad + overdue, self._good
        if bad > policy.probes - policy.probes_good:
            words = f"{bad} of {good + bad} messages that tried it failed"
            return self.trip(Fault(Signal.PROBES, words), now)
        if good >= policy.probes_good:
            return self._start_ramp(f"{good} messages that tried it were answered well", now)
        if now - self._moved_at < policy.half_open_s:
            return None
        if bad:
            words = f"{bad} of {good + bad} messages that tried it failed"
            return self.trip(Fault(Signal.PROBES, words), now)
        return self._start_ramp(f"{good} messages tried it in {policy.half_open_s:g} s", now)

    def _start_ramp(self, words: str, now: float) -> Change:
        self._switches.append(now)
        self._step = 0
        self._move(_RAMP, now)
        return Change(_RAMP, None, f"{words}; it takes {self.share():.0%}")

    def _climb(self, now: float, *, is_proven: bool) -> Change | None:
        passed_s = now - self._moved_at
        if passed_s < self._policy.ramp_step_s:
            return None
        if not is_proven and not self._step and passed_s < self._policy.receipts_until_s:
            return None  # by then it was judged again, if there is enough to judge
        if self._step + 1 < len(self._policy.ramp):
            self._step += 1
            self._moved_at = now
            return Change(_RAMP, None, f"it takes {self.share():.0%}")
        self._move(_CLOSED, now)
        self._closed_at = now
        self.cause = None
        return Change(_CLOSED, None, "it takes everything again")

    def _move(self, state: BreakerState, now: float) -> None:
        self.state = state
        self._moved_at = now
        self._bound = self._good = self._bad = 0
