"""One channel of this process: its carrier's adapter, and what dispatch knows beside it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from adapters.base import Channel
from ratelimit.bucket import Tokens
from sms import config
from sms.model import Submit


@dataclass(slots=True)
class ChannelRuntime:
    """One channel as dispatch sees it; mutable, one object per channel and process."""

    config: config.Channel
    adapter: Channel
    bucket: Tokens
    unsent: deque[Submit] = field(default_factory=deque)  # segments that found no slot yet
    repairs: list[tuple[float, float, Submit]] = field(default_factory=list)  # (due, until, …)
    claiming: int = 0  # segments whose claim is in a flush
    share: float = 1.0  # of the window, cut by throttling answers
    cut_at: float = -10.0  # monotonic
    is_up: bool = False
    was_up: bool = False  # until it is, another process may have it
    down_at: float = 0.0  # monotonic
    is_lent: bool = False  # down for long: others send what would be held here
    is_pumping: bool = False

    def free(self) -> int:
        """Segments that may leave now: the windows' free slots inside our own share of them."""
        free = self.adapter.free()
        if self.share >= 1.0 or free <= 0:
            return free
        return min(free, self.allowed() - (self.adapter.window() - free))

    def allowed(self) -> int:
        """Our own share of the windows, in segments; an eighth of it is kept for otp."""
        return max(1, int(self.adapter.window() * self.share))
