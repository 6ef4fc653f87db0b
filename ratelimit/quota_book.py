"""The quotas of all tenants: blocks from PostgreSQL, and the requests that wait for one.

One statement at a time, for all that wait; none on the path while a block lasts. The store is a
function given by wiring. When it is away the request is refused as every send is then.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from ratelimit.quota import Period, Quota, Reservation, Reserved
from sms.errors import StoreUnavailable, Unavailable
from telemetry.metrics import Metrics

GAP_S = 0.01  # between two statements
TICK_S = 5.0  # a block that nobody used so long goes back
REFUSED_S = 1.0  # a used-up quota is not asked for again before
MAX_ROUNDS = 3

Reserve = Callable[[Sequence[Reservation]], Awaitable[Sequence[Reserved]]]


@dataclass(slots=True, eq=False)
class _Waiter:
    quotas: Sequence[Quota]
    n: int
    future: asyncio.Future[Quota | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    rounds: int = 0


class QuotaBook:
    """All quotas that this process has met."""

    def __init__(
        self,
        reserve: Reserve,
        *,
        metrics: Metrics,
        live: Callable[[], int] = lambda: 1,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._reserve = reserve
        self._metrics = metrics
        self._live = live
        self._unix = unix
        self._quotas: dict[tuple[int, Period], Quota] = {}
        self._waiters: list[_Waiter] = []
        self._wake = asyncio.Event()

    def quota(self, tenant: int, period: Period, limit: int) -> Quota:
        """The tenant's quota, made or given this limit."""
        known = self._quotas.get((tenant, period))
        if known is None:
            known = self._quotas[tenant, period] = Quota(tenant, period, limit, self._unix())
        known.limit = limit
        return known

    def take(self, quotas: Sequence[Quota], n: int) -> Quota | None:
        """Take n of each or of none, from what is here: the one that lacks, None = taken."""
        unix = self._unix()
        for index, quota in enumerate(quotas):
            if not quota.take(n, unix):
                for other in quotas[:index]:
                    other.put_back(n, unix, unix)
                return quota
        return None

    def put_back(self, quotas: Sequence[Quota], n: int, charged_at: float) -> None:
        """Give back what was taken for messages that certainly were not accepted.

        `charged_at` as in `Quota.put_back`.
        """
        unix = self._unix()
        for quota in quotas:
            quota.put_back(n, unix, charged_at)

    async def ask(self, quotas: Sequence[Quota], n: int) -> Quota | None:
        """Take n of each, asking the store when needed: the one that is used up, None = taken.

        Raises StoreUnavailable.
        """
        if not any(quota.waiting for quota in quotas) and self.take(quotas, n) is None:
            return None
        refusing = self._refusing(quotas, n)
        if refusing is not None:
            return refusing
        waiter = _Waiter(quotas, n)
        self._waiters.append(waiter)
        self._wake.set()
        for quota in quotas:
            quota.waiting += 1
        try:
            return await waiter.future
        finally:
            for quota in quotas:
                quota.waiting -= 1

    def _refusing(self, quotas: Sequence[Quota], n: int) -> Quota | None:
        unix = self._unix()
        for quota in quotas:
            if unix < quota.ends_at and quota.is_refused(n, unix):
                return quota
        return None

    # -- the store -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask whenever a request waits; for as long as the process lives."""
        loop = asyncio.get_running_loop()
        ticked_at = loop.time()
        while True:
            delay_s = max(0.0, ticked_at + TICK_S - loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()
            self._wake.clear()
            if loop.time() - ticked_at >= TICK_S:
                ticked_at = loop.time()
                with contextlib.suppress(Unavailable):
                    await self._give_back([q for q in self._quotas.values() if q.tick()])
            if self._waiters:
                await self._round()
                await asyncio.sleep(GAP_S)

    async def close(self) -> None:
        """Give every block back; without the store it is lost to its tenant."""
        with contextlib.suppress(Unavailable):
            await self._give_back(list(self._quotas.values()))

    async def _give_back(self, quotas: Sequence[Quota]) -> None:
        given = [ask for quota in quotas if (ask := quota.give_back()) is not None]
        if given:
            answers = await self._call(given)
            for ask, answer in zip(given, answers, strict=True):
                self._quotas[ask[0], Period(ask[1])].told(ask, answer)

    async def _round(self) -> None:
        waiters, self._waiters = self._waiters, []
        needs: dict[Quota, list[int]] = {}
        for waiter in waiters:
            for quota in waiter.quotas:
                needs.setdefault(quota, []).append(waiter.n)
        unix, live = self._unix(), max(1, self._live())
        asks = {
            quota: quota.ask(sizes, live, unix)
            for quota, sizes in needs.items()
            if sum(sizes) > quota.left
        }
        try:
            answers = await self._call(list(asks.values()))
        except Unavailable as error:
            for waiter in waiters:
                if not waiter.future.done():
                    waiter.future.set_exception(StoreUnavailable(str(error)))
            return
        for (quota, ask), answer in zip(asks.items(), answers, strict=True):
            quota.told(ask, answer)
        self._settle(waiters)

    def _settle(self, waiters: Sequence[_Waiter]) -> None:
        again: list[_Waiter] = []
        for waiter in waiters:
            if waiter.future.done():
                continue
            waiter.rounds += 1
            lacking = self.take(waiter.quotas, waiter.n)
            if lacking is None:
                waiter.future.set_result(None)
            elif lacking.rest() >= waiter.n and waiter.rounds < MAX_ROUNDS:
                again.append(waiter)
            else:
                lacking.refused(waiter.n, self._unix() + REFUSED_S)
                waiter.future.set_result(lacking)
        if again:
            self._waiters = again + self._waiters
            self._wake.set()

    async def _call(self, asks: Sequence[Reservation]) -> Sequence[Reserved]:
        if not asks:
            return ()
        try:
            answers = await self._reserve(asks)
        except Unavailable:
            self._metrics.quota_calls_total.inc(("failed",))
            raise
        self._metrics.quota_calls_total.inc(("answered",))
        return answers
