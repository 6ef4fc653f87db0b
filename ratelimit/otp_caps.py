"""The pumping guard's arithmetic: how many otp messages a number and its neighbours may get.

    number   the moments of what it got: 1 in 60 s, 5 in an hour, 10 in a day, each window sliding
    prefix   number without its last four digits: a bucket of `prefix_burst`, filled in 60 s

Pure, and the same as the script of `ratelimit.otp_guard` does in Valkey: this is what holds while
Valkey is away, and what refuses a flood without asking it. Only blind indexes come here. A count
may carry a token, the request it was made for: the same request again counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sms.config import OtpCaps

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0
MAX_KNOWN = 100_000  # numbers, and as many prefixes; the longest untouched are forgotten


@dataclass(slots=True)  # not frozen: one for each otp message, 0.3 µs instead of 1.2
class Wanted:
    """One otp message that wants to be counted."""

    number: int  # blind index
    prefix: int  # blind index of the number without its last four digits
    caps: OtpCaps
    token: int = 0  # of the request, where it may come again; 0 = none


@lru_cache  # asked twice for each otp message; tenants have few different caps
def windows(caps: OtpCaps) -> tuple[tuple[int, float], ...]:
    """The caps of a number that are on: count and seconds, the shortest first."""
    all_of_them = ((caps.per_minute, MINUTE_S), (caps.per_hour, HOUR_S), (caps.per_day, DAY_S))
    return tuple((count, window_s) for count, window_s in all_of_them if count)


class CapBook:
    """What one process has counted; `now` is monotonic seconds."""

    def __init__(self, max_known: int = MAX_KNOWN) -> None:
        self._numbers: dict[int, list[tuple[float, int]]] = {}  # moments and tokens, oldest first
        self._full_at: dict[int, float] = {}  # of a prefix: when its bucket is full again
        self._max_known = max_known

    def wait_s(self, wanted: Wanted, now: float) -> float:
        """0.0 = it may be sent now; else the seconds until it may."""
        log = self._numbers.get(wanted.number, ())
        if wanted.token and log and any(token == wanted.token for _, token in log):
            return 0.0
        wait = 0.0
        for count, window_s in windows(wanted.caps) if log else ():
            if len(log) >= count:
                wait = max(wait, log[-count][0] + window_s - now)
        burst = wanted.caps.prefix_burst
        if burst:
            full_at = max(self._full_at.get(wanted.prefix, now), now)
            wait = max(wait, full_at + MINUTE_S / burst - MINUTE_S - now)
        return wait

    def count(self, wanted: Wanted, now: float) -> bool:
        """Count it; False when its token was counted before."""
        found = windows(wanted.caps)
        log = self._numbers.pop(wanted.number, [])
        is_new = not (wanted.token and log and any(token == wanted.token for _, token in log))
        if is_new and found:
            since = now - found[-1][1]
            most = max(found)[0]
            log = [*[entry for entry in log if entry[0] > since], (now, wanted.token)][-most:]
        if log:
            self._numbers[wanted.number] = log
        burst = wanted.caps.prefix_burst
        if is_new and burst:
            full_at = max(self._full_at.pop(wanted.prefix, now), now)
            self._full_at[wanted.prefix] = full_at + MINUTE_S / burst
        for known in (self._numbers, self._full_at):
            if len(known) > self._max_known:
                del known[next(iter(known))]
        return is_new

    def give_back(self, wanted: Wanted, at: float) -> None:
        """Take out what was counted at that moment: the message certainly was not accepted."""
        log = self._numbers.get(wanted.number, [])
        entry = (at, wanted.token)
        if entry in log:
            log.remove(entry)
            if not log:
                del self._numbers[wanted.number]
        if wanted.caps.prefix_burst and wanted.prefix in self._full_at:
            self._full_at[wanted.prefix] -= MINUTE_S / wanted.caps.prefix_burst
