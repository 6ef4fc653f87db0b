"""A token bucket in segments: arithmetic only, exact to the last token.

    level ──▶ grows by `rate` a second up to `depth`; a take of n needs n in it

Kept in integers (nanoseconds, thousandths of a segment per second), so that no rounding ever adds
a token: in any window of t seconds at most rate · t + depth segments are taken. A time that goes
back changes nothing. `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from typing import Protocol

_NS = 1_000_000_000
_UNIT = 1000 * _NS  # one segment; the level grows by rate in thousandths per nanosecond
_MARGIN_NS = 1000  # so that `now + wait` as a float never falls short


class Tokens(Protocol):
    """What can be taken from, be it kept here or shared with other processes."""

    def take(self, n: int, now: float, *, is_otp: bool = True) -> float:
        """Take n segments or none: 0.0 = taken, else the seconds after which to ask again."""
        ...


class Bucket:
    """Rate in segments per second (to a thousandth), depth in segments.

    Full at the start unless `is_empty`. `otp_reserve` segments of the depth are kept for takes
    with `is_otp`.
    """

    __slots__ = ("_at_ns", "_depth", "_filled_at", "_level", "_rate", "_reserve")

    def __init__(
        self,
        rate: float,
        depth: float,
        now: float,
        *,
        otp_reserve: float = 0.0,
        is_empty: bool = False,
    ) -> None:
        self._at_ns = int(now * _NS)
        self._filled_at = now
        self._set(rate, depth, otp_reserve)
        self._level = 0 if is_empty else self._depth

    def _set(self, rate: float, depth: float, otp_reserve: float) -> None:
        self._rate = max(0, int(rate * 1000 + 0.5))
        self._depth = max(0, int(depth * _UNIT))
        self._reserve = min(self._depth, max(0, int(otp_reserve * _UNIT)))

    @property
    def rate(self) -> float:
        """Segments per second."""
        return self._rate / 1000

    @property
    def depth(self) -> float:
        """Segments the full bucket holds."""
        return self._depth / _UNIT

    def _fill(self, now: float) -> None:
        if now == self._filled_at:  # the takes of one burst share their moment: half the time
            return
        self._filled_at = now
        now_ns = int(now * _NS)
        passed = now_ns - self._at_ns
        if passed > 0:
            self._at_ns = now_ns
            level = self._level + passed * self._rate
            self._level = level if level < self._depth else self._depth

    def take(self, n: int, now: float, *, is_otp: bool = True) -> float:
        """Take n segments or none: 0.0 = taken, else the seconds after which it would be.

        infinity when n is more than can ever be in reach (the depth, without the reserve unless
        `is_otp`), or the rate is 0. n = 0 takes nothing and returns 0.0.
        """
        self._fill(now)
        if n <= 0:
            return 0.0
        kept = 0 if is_otp else self._reserve
        wanted = n * _UNIT
        missing = wanted + kept - self._level
        if missing <= 0:
            self._level -= wanted
            return 0.0
        if wanted + kept > self._depth or not self._rate:
            return math.inf
        return (-(-missing // self._rate) + _MARGIN_NS) / _NS

    def left(self, now: float) -> int:
        """Whole segments in the bucket."""
        self._fill(now)
        return self._level // _UNIT

    def put_back(self, n: int, now: float | None = None) -> None:
        """Give back n that were taken and not used; never more than the depth.

        With `now` what grew until then is counted first, so that nothing is lost or gained.
        """
        if now is not None:
            self._fill(now)
        self._level = min(self._depth, self._level + max(0, n) * _UNIT)

    def configure(self, rate: float, depth: float, now: float, *, otp_reserve: float = 0.0) -> None:
        """New rate and depth; what is in the bucket stays, cut to the new depth."""
        self._fill(now)
        self._set(rate, depth, otp_reserve)
        self._level = min(self._level, self._depth)
