"""What `store.quotas` keeps, in memory; `tests/integration/test_quotas.py` holds them together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from ratelimit.quota import Reservation, Reserved
from sms.errors import StoreUnavailable


class QuotaStore:
    """Sums by (tenant, period, first day)."""

    def __init__(self) -> None:
        self.taken: dict[tuple[int, int, date], int] = {}
        self.calls = 0
        self.is_away = False

    def reserve(self, asks: Sequence[Reservation]) -> list[Reserved]:
        self.calls += 1
        return [self._one(ask) for ask in asks]

    async def reserve_later(self, asks: Sequence[Reservation]) -> Sequence[Reserved]:
        if self.is_away:
            raise StoreUnavailable("away")
        return self.reserve(asks)

    def _one(self, ask: Reservation) -> Reserved:
        tenant, period, first_day, limit, least, want = ask
        known = (tenant, period, first_day)
        taken = self.taken.get(known, 0)
        if want < 0:
            granted = -min(-want, taken)
        else:
            granted = min(want, limit - taken) if limit - taken >= least else 0
        self.taken[known] = taken + granted
        return granted, taken + granted
