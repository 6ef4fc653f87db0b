"""How many extra attempts may leave: a tenth of the first ones (RELIABILITY section 6).

    a first attempt leaves ─▶ first
    another one would      ─▶ ask ─▶ None: it may, for 10 % of the firsts of 60 s, at least 10 a
                                     minute, of its tenant and in total; else it waits

A carrier that refuses much is not to be sent everything twice, and a tenant whose messages are
refused is not to take the extra attempts of the others. Counted in sixtieths of the window, and
always on the safe side: firsts a part late and never too long, extras never too short. Pure:
`now` is monotonic seconds. Memory: the tenants, and the extra attempts, of one window.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

PARTS = 60  # of the window
TOTAL = 0  # tenants are positive


class Short(StrEnum):
    """Whose budget an attempt waits for."""

    TENANT = "tenant"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """The numbers of RELIABILITY section 6."""

    share: float = 0.1  # extra attempts, of the first ones …
    window_s: float = 60.0  # … of so long
    least: int = 10  # so many in any case


@dataclass(slots=True)  # mutable: it is counted in while it is the newest
class _Part:
    firsts: dict[int, int] = field(default_factory=dict)  # by tenant
    extras: dict[int, int] = field(default_factory=dict)
    keys: list[tuple[int, int]] = field(default_factory=list)  # what was granted in it


class RetryBudget:
    """What one process may try again. All methods are synchronous."""

    def __init__(self, policy: BudgetPolicy, now: float) -> None:
        self._policy = policy
        self._part_s = policy.window_s / PARTS
        self._part = int(now / self._part_s)
        self._now = _Part()
        self._parts: deque[_Part] = deque()  # those before, oldest first
        self._firsts: dict[int, int] = {}  # sums over the window, by tenant and in total
        self._extras: dict[int, int] = {}
        self._granted: dict[int, int] = {}  # message: its attempt that may leave

    def first(self, tenant: int) -> None:
        """A first attempt of the tenant leaves; 0.1 µs, it is counted with the next part."""
        firsts = self._now.firsts
        firsts[tenant] = firsts.get(tenant, 0) + 1

    def ask(self, message_id: int, attempt: int, tenant: int, now: float) -> Short | None:
        """Take one extra attempt, by its number; None = it may leave, else what it waits for.

        What was granted and did not leave after all is not taken twice: for a window it may
        ask again as often as it likes.
        """
        self._turn(now)
        if self._granted.get(message_id) == attempt:
            return None
        short = self.short_for(tenant)
        if short is None:
            self._take(message_id, attempt, tenant)
        return short

    def free(self, message_id: int, attempt: int, now: float) -> None:
        """This one costs nothing: no carrier has it, or an operator wants it."""
        self._turn(now)
        self._grant(message_id, attempt)

    def short_for(self, tenant: int) -> Short | None:
        """Whose budget has nothing left for the tenant, by the last `turn`."""
        if self._room(TOTAL) < 1:
            return Short.TOTAL
        return Short.TENANT if self._room(tenant) < 1 else None

    def turn(self, now: float) -> bool:
        """Forget what is too old; whether anything at all may be tried again now."""
        self._turn(now)
        return self._room(TOTAL) >= 1

    def size(self) -> int:
        """How much it remembers (for tests): tenants in all parts, and grants."""
        parts = (*self._parts, self._now)
        return len(self._granted) + sum(len(p.firsts) + len(p.extras) for p in parts)

    def _room(self, tenant: int) -> float:
        policy = self._policy
        most = max(policy.least, policy.share * self._firsts.get(tenant, 0))
        return most - self._extras.get(tenant, 0)

    def _take(self, message_id: int, attempt: int, tenant: int) -> None:
        _add(self._now.extras, tenant, 1)
        for key in (tenant, TOTAL):
            _add(self._extras, key, 1)
        self._grant(message_id, attempt)

    def _grant(self, message_id: int, attempt: int) -> None:
        self._granted[message_id] = attempt
        self._now.keys.append((message_id, attempt))

    def _turn(self, now: float) -> None:
        part = int(now / self._part_s)
        for _ in range(min(part - self._part, PARTS + 2)):  # then nothing is left of what was
            self._next_part()
        self._part = max(part, self._part)

    def _next_part(self) -> None:
        parts = self._parts
        for tenant, count in self._now.firsts.items():
            _add(self._firsts, tenant, count)
            _add(self._firsts, TOTAL, count)
        parts.append(self._now)
        self._now = _Part()
        if len(parts) >= PARTS:  # the newest 59 and the one that begins are at most a window
            old = parts[-PARTS]
            for tenant, count in old.firsts.items():
                _add(self._firsts, tenant, -count)
                _add(self._firsts, TOTAL, -count)
            old.firsts = {}
        if len(parts) > PARTS:  # these are older than a window, whenever in it they were
            old = parts.popleft()
            for tenant, count in old.extras.items():
                _add(self._extras, tenant, -count)
                _add(self._extras, TOTAL, -count)
            for message_id, attempt in old.keys:
                if self._granted.get(message_id) == attempt:
                    del self._granted[message_id]


def _add(counts: dict[int, int], key: int, count: int) -> None:
    left = counts.get(key, 0) + count
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)
