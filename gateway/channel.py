"""One channel of this process: its carrier's adapter, and what dispatch knows beside it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from adapters.base import Channel
from failover.health import HealthPolicy
from failover.start import Start
from failover.watch import Watch
from gateway.lanes import Lane
from ratelimit.bucket import Tokens
from ratelimit.throttle import Throttle
from sms import config
from sms.config import AdminState
from sms.model import MessageClass, Submit

OTP_SHARE = 8  # 1/8 of each window and of the tokens is kept for otp
# What would wait longer for a carrier that throttles goes to a backup that does not.
PATIENCE_S = 10.0
OTP_PATIENCE_S = 1.0
_NOBODY: frozenset[MessageClass] = frozenset()


@dataclass(slots=True)
class ChannelRuntime:
    """One channel as dispatch sees it; mutable, one object per channel and process."""

    config: config.Channel
    adapter: Channel
    bucket: Tokens
    unsent: deque[Submit] = field(default_factory=deque)  # segments that found no slot yet
    repairs: list[tuple[float, float, Submit]] = field(default_factory=list)  # (due, until, …)
    claiming: int = 0  # segments whose claim is in a flush
    is_up: bool = False
    was_up: bool = False  # until it is, another process may have it
    down_at: float = 0.0  # monotonic, when it went down or was left
    is_lent: bool = False  # that is long ago: others send what would be held here
    is_pumping: bool = False
    # Its health and its breakers; wiring gives the one that outlives a change of sessions.
    watch: Watch = field(default_factory=lambda: Watch(HealthPolicy(), 0.0, lambda: 0.5))
    up_at: float = 0.0  # monotonic
    # What waits comes back by steps, and by class: while a start runs the window grows, and what is
    # transactional and waited before `strict_until` (monotonic) goes before all marketing.
    start: Start | None = None
    strict_until: float = 0.0
    link_failures: int = 0  # the adapter's, as last seen

    # What an operator lets it take: its classes, or nothing. Read for each message.
    takes: frozenset[MessageClass] = field(init=False)
    state: AdminState = field(init=False)
    quiet_at: float | None = None  # draining: since when nothing is open, monotonic

    # Classes of which a message would wait too long behind the carrier's pace (RELIABILITY 6).
    crowded: frozenset[MessageClass] = frozenset()

    throttle: Throttle = field(init=False)  # what the carrier's throttling answers leave of it

    def __post_init__(self) -> None:
        """Nothing is throttled yet."""
        self.use(self.config.admin_state)
        self.throttle = Throttle(self.config.segments_per_second, 0.0)

    @property
    def is_paused(self) -> bool:
        """Whether an operator keeps new messages from it; a channel has a class at least."""
        return not self.takes

    def use(self, state: AdminState) -> None:
        """Do as the operator says; who calls it moves what waits."""
        self.state, self.quiet_at = state, None
        self.takes = self.config.classes if state is AdminState.ACTIVE else frozenset()

    def is_drained(self, now: float, after_s: float) -> bool:
        """Whether it is to log out: draining, and for `after_s` nothing has been open."""
        if self.state is not AdminState.DRAINING:
            return False
        is_open = self.unsent or self.repairs or self.claiming
        if is_open or self.adapter.free() < self.adapter.window() or self.quiet_at is None:
            self.quiet_at = now
        return now - self.quiet_at >= after_s

    def take(self, n: int, now: float, *, is_otp: bool) -> float:
        """Take n segments from the bucket, at the carrier's pace: 0.0, or when to ask again."""
        throttle = self.throttle
        if throttle.is_free:
            return self.bucket.take(n, now, is_otp=is_otp)
        wait_s = throttle.wait_s(now, is_otp=is_otp) or self.bucket.take(n, now, is_otp=is_otp)
        if not wait_s:
            throttle.spend(n, now, is_otp=is_otp)
        return wait_s

    @property
    def is_away(self) -> bool:
        """Whether nothing of ours goes over it, though we had it: its sessions, or its health."""
        return self.was_up and (not self.is_up or self.watch.is_left)

    def slots(self, now: float) -> tuple[int, int]:
        """Segments that may leave now, and so many of them as are kept for otp."""
        free, reserve = self.adapter.free(), self.adapter.window() // OTP_SHARE
        if not self.watch.is_closed:
            return min(free, self.room(now)), 0
        if self.start is not None:  # otp does not wait for a start
            reserve = max(reserve, free - self.room(now))
        return free, reserve

    def room(self, now: float) -> int:
        """How many segments may leave while it takes less than its window."""
        sent_ats = [submit.sent_at for submit in self.adapter.waiting()]
        window = self.adapter.window()
        room = window if self.watch.is_closed else self.watch.room(window, sent_ats, now)
        if self.start is not None:
            room = min(room, self.start.room(window, len(sent_ats), now))
        return room

    def came_up(self, now: float, start: Start | None) -> None:
        """Its first session was bound; `start` where a crowd has waited for that."""
        self.is_up = self.was_up = True
        self.is_lent = False
        self.up_at = self.strict_until = now
        self.watch.link_came(now)
        self.start = start

    def moved(self, now: float) -> None:
        """One of its breakers moved: what waited till it is closed goes by class."""
        if self.is_up:
            self.is_lent, self.down_at = False, now
        self.strict_until = now if self.watch.is_closed else math.inf

    def look_at(self, lane: Lane) -> None:
        """A few times a second: which classes the carrier's pace keeps waiting too long."""
        pace = self.throttle.pace
        if pace == math.inf:
            self.crowded = _NOBODY
            return
        ahead, found = 0, []
        for message_class, queue in lane.queues():
            ahead += queue.size
            patience_s = OTP_PATIENCE_S if message_class is MessageClass.OTP else PATIENCE_S
            if ahead > pace * patience_s:
                found.append(message_class)
        self.crowded = frozenset(found)

    def tick(self, now: float) -> None:
        """A few times a second: what the carrier said of its load, and the pace from it."""
        state = self.adapter.congestion()
        if state:
            self.throttle.congested(state, now)
        self.throttle.tick(now)
        if self.start is not None and self.start.is_over(now):
            self.start = None
