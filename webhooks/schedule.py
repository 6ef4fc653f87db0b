"""When a failed webhook is tried again, and when it is given up. Pure.

    try 1 ─5 s▶ 2 ─5 m▶ 3 ─30 m▶ 4 ─2 h▶ 5 ─5 h▶ 6 ─10 h▶ 7 ─14 h▶ 8 ─20 h▶ 9 ─24 h▶ 10 ─▶ dead

The breaker keeps an endpoint that only fails from costing a request per event: after five
failures in a row one request at a time is let through, at growing distances.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

RETRY_AFTER_S = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
MAX_TRIES = len(RETRY_AFTER_S) + 1  # the first one and nine retries
JITTER = 0.2  # each wait is off by up to this share, either way
RETRY_AFTER_CAP_S = 3600.0  # a Retry-After beyond it is a mistake, or malice
DEAD = float("inf")  # due of an event that is not tried again

BREAKER_FAILURES = 5  # in a row
BREAKER_FIRST_S = 5.0
BREAKER_LAST_S = 300.0


def next_due(tries: int, retry_after_s: float | None, now: float, dice: float) -> float:
    """When to try again after `tries` failed tries (>= 1), in the unit of `now`; `DEAD` = never.

    `dice` is a number in [0, 1). A Retry-After, up to its cap, can only make the wait longer.
    """
    if tries >= MAX_TRIES:
        return DEAD
    wait_s = RETRY_AFTER_S[tries - 1] * (1 - JITTER + 2 * JITTER * dice)
    return now + max(wait_s, min(retry_after_s or 0.0, RETRY_AFTER_CAP_S))


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110 10.2.3): seconds or a date.

    `now` is Unix seconds. None when the header is absent or makes no sense.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])  # nine digits are 31 years
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000": the sender says UTC without a zone
            moment = moment.replace(tzinfo=UTC)
        return max(moment.timestamp() - now, 0.0)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


class Breaker:
    """Whether an endpoint may be called now; times are monotonic seconds.

    Closed: every request may go. Open: none until `until`, then one at a time; the first that
    succeeds closes it.
    """

    __slots__ = ("_failures", "_opened", "until")

    def __init__(self) -> None:
        self._failures = 0
        self._opened = 0  # how often in a row it opened
        self.until: float | None = None  # None = closed

    def may_try(self, now: float, in_flight: int) -> bool:
        """Whether one more request may leave while `in_flight` are unanswered."""
        return self.until is None or (now >= self.until and in_flight == 0)

    def succeeded(self) -> bool:
        """Note a success; returns whether it closed the breaker."""
        self._failures = 0
        if self.until is None:
            return False
        self.until = None
        self._opened = 0
        return True

    def failed(self, now: float, dice: float, pause_s: float | None = None) -> bool:
        """Note a failure; `pause_s` (the endpoint's own Retry-After) opens it at once.

        Returns whether the breaker is open now. A failure of a request that left before it opened
        does not move `until`.
        """
        self._failures += 1
        if pause_s is not None:
            self.until = max(self.until or 0.0, now + min(pause_s, RETRY_AFTER_CAP_S))
            return True
        if self.until is None and self._failures < BREAKER_FAILURES:
            return False
        if self.until is None or now >= self.until:
            wait_s = min(BREAKER_FIRST_S * 2 ** min(self._opened, 16), BREAKER_LAST_S)
            self.until = now + wait_s * (1 - JITTER + 2 * JITTER * dice)
            self._opened += 1
        return True
