"""Our side of one bucket that several processes share: arithmetic only.

    Valkey:  level ──grant──▶ held by a process ──take──▶ spent
               ▲                    │
               └──── give back ─────┘        level + everything held ≤ depth, at every moment

A process takes a block of tokens, spends it without asking, and says at each call what it has
spent and what it keeps. As the level grows with the rate and grows no further than the depth
less what is held, all processes together spend at most rate · t + depth in any window of t
seconds. What one call says is absolute (spent in all, kept in all), so a call whose answer was
lost may be made again.

While Valkey is away a process has its share: rate and depth divided by the living processes,
empty at the start, beside what it still holds. `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ratelimit.bucket import Bucket

# What is held is void so long after the last call: both sides count on it. Twice what it was once,
# and no more: a process of that version takes what counts longer for a clock that went back.
LEASE_S = 2.0
_SURE_S = 0.9 * LEASE_S  # we stop before Valkey does: clocks run differently, calls take time
_RENEW_S = 0.4  # what is held longer is held anew so long before its end
BLOCK_S = 0.2  # a block is at most what the whole rate yields in this time
LEASED_ABOVE = 100.0  # segments per second and process; below it nothing is held ahead
_FIRST_BLOCK = 8  # segments, before it is known how fast they go
_FEW_S = 0.04  # what a small bucket yields meanwhile is worth a call
_IDLE_TICKS = 3  # after so many ticks without a take a few are kept, or what nobody else misses …
_GONE_TICKS = 20  # … and after so many nothing: a tenant of a message a second has to ask for none


@dataclass(slots=True)
class Ask:
    """What one call says and asks about one bucket; segments, but the rate in thousandths/s."""

    rate: int
    depth: int
    reserve: int  # left in the bucket for otp
    spent: int  # by us, in all
    granted: int  # the `spent` that we may reach, as far as we know; less than spent = debt
    hold: int  # what we keep of it, at most; the rest goes back
    want: int  # what we would like to hold after the call
    least: int  # fewer new ones than this would be of no use


class Lease:
    """Tokens of one bucket held by this process.

    `held`, `until`, `spent` and `waiting` are read and written by the limiter on its shortest
    way; everything else goes through the methods.
    """

    __slots__ = (
        "_back",
        "_level",
        "_live",
        "_marked",
        "_recent",
        "_reported",
        "_reserve",
        "_saving_until",
        "_share",
        "_told_at",
        "block",
        "depth",
        "granted",
        "held",
        "idle",
        "is_eager",
        "key",
        "low",
        "need",
        "need_is_otp",
        "rate",
        "spent",
        "until",
        "waiting",
    )

    def __init__(
        self,
        key: str,
        rate: float,
        depth: int,
        *,
        reserve: int = 0,
        live: float = 1,
        is_eager: bool = False,
    ) -> None:
        self.key = key
        self.held = 0  # segments that may be spent before `until`
        self.until = -math.inf
        self.spent = 0
        self.granted = 0
        self.waiting = 0  # requests that wait for a call: nobody overtakes them
        self.low = 0  # below it the next block is asked for
        self.need = 0  # segments that the dispatcher waits for
        self.need_is_otp = False
        self.idle = 0  # ticks without a take
        self.is_eager = is_eager  # who asks names one message only, and has more
        self._back = 0  # taken, not used: goes back with the next call
        self._level = float(depth)  # what Valkey had left when it last told
        self._told_at = -math.inf
        self._share: Bucket | None = None
        self._saving_until = 0.0
        self._reported = 0  # of `spent`, what Valkey knows
        self._marked = 0
        self._recent = 0  # segments of the last tick, falling by halves
        self._live = live
        self.block = 0
        self.rate = rate
        self.depth = depth
        self._reserve = reserve
        self._size()

    def configure(self, rate: float, depth: int, now: float, *, reserve: int = 0) -> None:
        """New rate and depth, in force with the next call."""
        if (rate, depth, reserve) == (self.rate, self.depth, self._reserve):
            return
        self._level = min(self._grown(now), float(depth))
        self._told_at = now if self._told_at > -math.inf else self._told_at
        self.rate = rate
        self.depth = depth
        self._reserve = reserve
        self._size()
        self._cut_share(now)

    def set_live(self, live: float, now: float) -> None:
        """Another number of living processes; ours is the 1/live of rate and depth."""
        if live == self._live:
            return
        self._live = max(1.0, live)
        self._size()
        self._cut_share(now)

    def _size(self) -> None:
        # Alone there is nobody for whom held tokens would be out of reach.
        is_leased = self._live <= 1 or self.rate / self._live > LEASED_ABOVE
        most = min(int(self.depth / (2 * self._live)), math.ceil(self.rate * BLOCK_S))
        self.block = most if is_leased else 0

    # -- taking --------------------------------------------------------------------------------

    def take(self, n: int, now: float, *, is_otp: bool = True) -> float:
        """Take n or none: 0.0 = taken, infinity = never, else when there may be enough.

        A wait is a guess while Valkey is there: others take and give back too.
        """
        if self.held >= n and now < self.until:
            self.held -= n
            self.spent += n
            return 0.0
        if n > self.depth:
            return math.inf
        if self._share is None:
            here = self.held if now < self.until else 0
            kept = 0 if is_otp else self._reserve
            missing = n + kept - here - self._grown(now)
            return max(0.001, missing / self.rate) if missing > 0 else 0.001
        wait_s = self._take_share(n, now, is_otp=is_otp)
        if wait_s == 0.0:
            self.spent += n
        return wait_s

    def _take_share(self, n: int, now: float, *, is_otp: bool) -> float:
        """From our share alone. What is larger than the share can ever hold is saved up for."""
        share = self._share
        if share is None:
            return math.inf
        size, kept = self._share_size()
        wanted = n if is_otp else n + kept
        if wanted > share.depth:
            share.configure(self.rate / self._live, wanted, now, otp_reserve=kept)
        wait_s = share.take(n, now, is_otp=is_otp)
        if wanted > size and wait_s > 0.0:
            self._saving_until = now + 2 * wait_s
        elif share.depth > size and (wanted > size or now > self._saving_until):
            share.configure(self.rate / self._live, size, now, otp_reserve=kept)
        return wait_s

    def undo(self, n: int, now: float) -> None:
        """Back out of a take of the same moment."""
        self.spent -= n
        if self._share is not None:
            self._share.put_back(n, now)
        else:
            self.held += n

    def put_back(self, n: int, now: float) -> None:
        """Give back what was taken for messages that certainly were not accepted."""
        if self._share is not None:
            self.spent -= n
            self._share.put_back(n, now)
        else:
            self._back += n
            self._level += n

    def left(self, now: float) -> int:
        """Whole segments that can be had, as far as we know."""
        here = self.held if now < self.until else 0
        if self._share is not None:
            return here + self._share.left(now)
        level = self._level + (now - self._told_at) * self.rate
        rest = self.depth - here
        return here + int(level if level < rest else rest)

    def _grown(self, now: float) -> float:
        """The level that Valkey may have by now, if nobody else took."""
        return min(float(self.depth), self._level + (now - self._told_at) * self.rate)

    # -- calls ---------------------------------------------------------------------------------

    def ask(self, now: float, needs: Sequence[int] = (), *, is_otp: bool = False) -> Ask:
        """What to say in a call that begins now; `needs` are the requests that wait for it.

        From here on we hold no more than the ask says, whether it arrives or not.
        """
        self.spent -= self._back
        self._back = 0
        if needs:
            self.idle = 0
        if now >= self.until:
            self.held = 0
        pending = sum(needs)
        # Into the reserve only for what needs it: nothing is held ahead from there.
        is_otp = is_otp and not self.was_rich(pending)
        wanted = max(pending, self.held) if is_otp else pending + self._ahead()
        wanted = min(wanted, self.depth)
        self.held = min(self.held, wanted)
        return Ask(
            rate=max(1, round(self.rate * 1000)),
            depth=self.depth,
            reserve=0 if is_otp else self._reserve,
            spent=self.spent,
            granted=self.granted,
            hold=self.held,
            want=wanted,
            least=max(1, min(needs) - self.held) if needs else 1,
        )

    def _ahead(self) -> int:
        """Segments to hold beyond what is asked for: twice what went in the last tick."""
        if self.idle >= _GONE_TICKS:
            return 0
        if self.idle >= _IDLE_TICKS and (self._live > 1 or not self.block):
            return min(self.block, _FIRST_BLOCK)
        if not self.block and self.is_eager:
            few = _FIRST_BLOCK if self.was_rich(_FIRST_BLOCK) else math.ceil(self.rate * _FEW_S)
            return min(few, int(self.depth / (4 * self._live)))
        pace = max(self._recent, self.spent - self._marked, self.block // 16, _FIRST_BLOCK // 2)
        return min(self.block, 2 * pace)

    def told(self, ask: Ask, out: int, level: float, sent_at: float, now: float) -> None:
        """The answer: we may hold `out` beyond what the ask said was spent.

        `level` is what is left for all, `sent_at` the moment before the call.
        """
        self.granted = ask.spent + out
        self.held = max(0, self.granted - self.spent)
        self._reported = ask.spent
        self.until = sent_at + _SURE_S
        self.low = self._ahead() // 2
        self._level = level
        self._told_at = now
        self._share = None

    def was_rich(self, n: int) -> bool:
        """Whether Valkey had n left for all when it last told: worth asking at once."""
        return self._level - self._reserve >= n

    def has_news(self) -> bool:
        """Whether Valkey should hear of it: something is held, spent or to be given back."""
        return self.held > 0 or self._back > 0 or self.spent != self._reported

    def tick(self, now: float) -> bool:
        """Every tenth of a second: how fast tokens go now. Whether it is time for a call."""
        used = self.spent - self._marked
        self._marked = self.spent
        self._recent = max(used, self._recent // 2)
        self.idle = 0 if used > 0 else self.idle + 1
        # What is spent and not told keeps the bucket from filling to its depth: a little may wait.
        is_much = 4 * (self.spent - self._reported) > self.block
        if is_much or self.until - now < _RENEW_S:
            return True
        return self.idle >= _IDLE_TICKS and self.held > self._ahead()

    # -- without Valkey ------------------------------------------------------------------------

    def go_local(self, since: float) -> None:
        """Valkey has been away since then: live on our share of rate and depth."""
        if self._share is None:
            self._share = self._make_share(since, is_empty=True)

    def go_alone(self, now: float) -> None:
        """There is no Valkey at all: the share is full, as a bucket is at the start."""
        if self._share is None:
            self._share = self._make_share(now, is_empty=False)

    def come_back(self) -> None:
        """Valkey answers again: what the share held is void, what it spent is told."""
        self._share = None

    def is_local(self) -> bool:
        """Whether it lives on its share."""
        return self._share is not None

    def _make_share(self, now: float, *, is_empty: bool) -> Bucket:
        size, kept = self._share_size()
        return Bucket(self.rate / self._live, size, now, otp_reserve=kept, is_empty=is_empty)

    def _share_size(self) -> tuple[float, float]:
        return self.depth / self._live, self._reserve / self._live

    def _cut_share(self, now: float) -> None:
        if self._share is not None:
            size, kept = self._share_size()
            self._share.configure(self.rate / self._live, size, now, otp_reserve=kept)
