"""One channel of this process: its carrier's adapter, and what dispatch knows beside it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from adapters.base import Channel
from failover.health import HealthPolicy
from failover.watch import Watch
from ratelimit.bucket import Tokens
from ratelimit.throttle import Throttle
from sms import config
from sms.model import Submit

OTP_SHARE = 8  # 1/8 of each window and of the tokens is kept for otp


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
    down_at: float = 0.0  # monotonic
    is_lent: bool = False  # down for long: others send what would be held here
    is_pumping: bool = False
    # Its health and its breakers; wiring gives the one that outlives a change of sessions.
    watch: Watch = field(default_factory=lambda: Watch(HealthPolicy(), 0.0, lambda: 0.5))
    up_at: float = 0.0  # monotonic
    link_failures: int = 0  # the adapter's, as last seen

    throttle: Throttle = field(init=False)  # what the carrier's throttling answers leave of it

    def __post_init__(self) -> None:
        """Nothing is throttled yet."""
        self.throttle = Throttle(self.config.segments_per_second, 0.0)

    def take(self, n: int, now: float, *, is_otp: bool) -> float:
        """Take n segments from the bucket, at the carrier's pace: 0.0, or when to ask again."""
        throttle = self.throttle
        if throttle.is_free:
            return self.bucket.take(n, now, is_otp=is_otp)
        wait_s = throttle.wait_s(now, is_otp=is_otp) or self.bucket.take(n, now, is_otp=is_otp)
        if not wait_s:
            throttle.spend(n, now, is_otp=is_otp)
        return wait_s

    def room(self, now: float) -> int:
        """How many segments may leave while its breakers are not all closed."""
        sent_ats = [submit.sent_at for submit in self.adapter.waiting()]
        return self.watch.room(self.adapter.window(), sent_ats, now)

    def tick(self, now: float) -> None:
        """A few times a second: what the carrier said of its load, and the pace from it."""
        state = self.adapter.congestion()
        if state:
            self.throttle.congested(state, now)
        self.throttle.tick(now)
