"""The limits of the tenants: segments per second, by class too, per day and per month.

`take` decides without waiting or says that it must ask; `ask` asks. One decision per request,
never per message: a batch is taken as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ratelimit.lease import Lease
from ratelimit.leases import Lack, Leases
from ratelimit.quota import Period, Quota, shown
from ratelimit.quota_book import QuotaBook
from sms.config import Snapshot, Tenant
from sms.model import MessageClass

UNKNOWN_TENANT_WAIT_S = 1.0
BURST_CHECK_S = 1.0  # a burst begins and ends so exactly
_SCOPES = {Period.DAY: "day", Period.MONTH: "month"}


class Policy(NamedTuple):
    """One more limit as the `RateLimit` headers tell it."""

    name: str
    quota: int  # segments
    window_s: int
    left: int  # segments
    reset_s: int


@dataclass(slots=True)  # not frozen: one per request on the hot path
class Taken:
    """What the limits said, with what the `RateLimit` headers need.

    `retry_after_s` 0.0 = taken; infinity = more than the limit can ever hold. `left`, `depth` and
    `rate` are the tenant's bucket; `scope` and `most` name the limit that refused and what it can
    hold: tenant, a class, day or month.
    """

    retry_after_s: float
    left: int  # whole segments
    depth: float  # segments
    rate: float  # segments per second
    scope: str = "tenant"
    most: int = 0  # segments
    resets: str = ""  # when a quota begins anew
    others: Sequence[Policy] = ()
    charged_at: float = 0.0  # Unix seconds, for `put_back`; 0.0 = no quota was charged


class _Entry:
    """One tenant's limits."""

    __slots__ = ("classes", "lease", "quotas")

    def __init__(
        self, lease: Lease, classes: Mapping[MessageClass, Lease], quotas: Sequence[Quota]
    ) -> None:
        self.lease = lease
        self.classes = classes
        self.quotas = quotas

    def needs(self, wanted: Mapping[MessageClass, int]) -> list[tuple[Lease, int]]:
        """What must be taken from which bucket; the tenant's comes last, the tighter ones first."""
        found = [
            (self.classes[message_class], n)
            for message_class, n in wanted.items()
            if message_class in self.classes
        ]
        found.append((self.lease, sum(wanted.values())))
        return found


class TenantLimits:
    """All tenants' limits; `now` is monotonic seconds everywhere."""

    def __init__(
        self,
        leases: Leases,
        book: QuotaBook,
        *,
        unix: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._book = book
        self._unix = unix
        self._monotonic = monotonic
        self._tenants: Mapping[int, Tenant] = {}
        self._entries: dict[int, _Entry] = {}
        self._plain: dict[int, Lease] = {}  # those that have one bucket and nothing else
        self._names: dict[int, set[str]] = {}
        self._bursting: dict[int, Tenant] = {}
        self._bursts_at = float("inf")  # when the next burst begins or ends, Unix seconds

    # -- configuration -------------------------------------------------------------------------

    def configure(self, snapshot: Snapshot) -> None:
        """Follow the configuration: a new bucket is full, others keep what is in them."""
        before, self._tenants = self._tenants, snapshot.tenants
        unix = self._unix()
        for number, tenant in snapshot.tenants.items():
            if before.get(number) is not tenant:  # of ten thousand, most are as they were
                self._set(tenant, unix)
        for number in self._entries.keys() - snapshot.tenants.keys():
            del self._entries[number]
            self._plain.pop(number, None)
            self._bursting.pop(number, None)
            for name in self._names.pop(number):
                self._leases.forget(name)
        self._note_bursts(unix)

    def _set(self, tenant: Tenant, unix: float) -> None:
        names = self._names.get(tenant.id, set())
        entry = self._entries[tenant.id] = self._entry(tenant, unix)
        for name in names - self._names[tenant.id]:
            self._leases.forget(name)
        self._plain.pop(tenant.id, None)
        if not entry.classes and not entry.quotas:
            self._plain[tenant.id] = entry.lease
        self._bursting.pop(tenant.id, None)
        if tenant.bursts:
            self._bursting[tenant.id] = tenant

    def _note_bursts(self, unix: float) -> None:
        moments = [
            moment
            for tenant in self._bursting.values()
            for burst in tenant.bursts
            for moment in (burst.since, burst.until)
            if moment > unix
        ]
        self._bursts_at = min(moments, default=float("inf"))

    def _entry(self, tenant: Tenant, unix: float) -> _Entry:
        name = f"t{tenant.id}"
        rate, depth = tenant.limit_at(unix)
        lease = self._leases.lease(name, rate, depth)
        names = self._names[tenant.id] = {name}
        classes = {}
        for limit in tenant.class_limits:
            class_name = f"{name}:{limit.message_class}"
            names.add(class_name)
            classes[limit.message_class] = self._leases.lease(
                class_name, limit.segments_per_second, limit.burst_segments
            )
        wanted = ((Period.DAY, tenant.segments_per_day), (Period.MONTH, tenant.segments_per_month))
        quotas = [
            self._book.quota(tenant.id, period, limit)
            for period, limit in wanted
            if limit is not None
        ]
        return _Entry(lease, classes, quotas)

    async def run(self) -> None:
        """Talk with Valkey and PostgreSQL; for as long as the process lives."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._leases.run())
            group.create_task(self._book.run())
            group.create_task(self._follow_bursts())

    async def _follow_bursts(self) -> None:
        while True:
            await asyncio.sleep(BURST_CHECK_S)
            unix = self._unix()
            if unix >= self._bursts_at:
                for tenant in list(self._bursting.values()):
                    self._set(tenant, unix)
                self._note_bursts(unix)

    async def close(self) -> None:
        """Give back what is held; after `run` was ended."""
        await self._leases.close()
        await self._book.close()

    # -- taking --------------------------------------------------------------------------------

    def take(
        self, tenant_id: int, message_class: MessageClass, segments: int, now: float
    ) -> Taken | None:
        """Take all or nothing for messages of one class; None = `ask` must be asked.

        A tenant that the configuration does not hold gets nothing: it was removed a moment ago.
        """
        lease = self._plain.get(tenant_id)
        if lease is not None and lease.held >= segments and now < lease.until and not lease.waiting:
            lease.held -= segments
            lease.spent += segments
            if lease.held < lease.low:
                self._leases.spent(lease)
            return Taken(0.0, lease.left(now), lease.depth, lease.rate)
        return self._take_slowly(tenant_id, {message_class: segments}, now)

    def _take_slowly(
        self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float
    ) -> Taken | None:
        entry = self._entries.get(tenant_id)
        if entry is None:
            return Taken(UNKNOWN_TENANT_WAIT_S, 0, 0.0, 1.0)
        needs = entry.needs(wanted)
        is_away = self._leases.is_away
        if not is_away and any(lease.waiting for lease, _ in needs):
            return None
        n = needs[-1][1]
        if any(quota.waiting for quota in entry.quotas):
            return None
        charged_at = self._unix()
        if self._book.take(entry.quotas, n) is not None:
            return None
        lack = self._leases.take(needs, now)
        if lack is None:
            return self._taken(entry, wanted, now, charged_at)
        self._book.put_back(entry.quotas, n, charged_at)
        return self._lacking(entry, wanted, lack, now) if is_away else None

    def expects(self, tenant_id: int, segments: int, now: float) -> bool:
        """Whether `ask` most likely gives them, after a call to Valkey at most.

        Of a tenant with one bucket and no quota, by what is known of its level.
        """
        lease = self._plain.get(tenant_id)
        return lease is not None and not self._leases.is_away and lease.left(now) >= segments

    async def ask(self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float) -> Taken:
        """Take all or nothing; never refuses while Valkey or PostgreSQL may hold enough.

        Raises StoreUnavailable when a quota cannot be known.
        """
        entry = self._entries.get(tenant_id)
        if entry is None:
            return Taken(UNKNOWN_TENANT_WAIT_S, 0, 0.0, 1.0)
        needs = entry.needs(wanted)
        n = needs[-1][1]
        charged_at = self._unix()
        if entry.quotas:
            used_up = await self._book.ask(entry.quotas, n)
            if used_up is not None:
                return self._used_up(entry, wanted, used_up, n)
        lack = await self._leases.ask(needs, now)
        if lack is None:
            return self._taken(entry, wanted, self._monotonic(), charged_at)
        self._book.put_back(entry.quotas, n, charged_at)
        return self._lacking(entry, wanted, lack, self._monotonic())

    def look(self, tenant_id: int, now: float) -> Taken:
        """How it stands; takes nothing."""
        entry = self._entries.get(tenant_id)
        if entry is None:
            return Taken(UNKNOWN_TENANT_WAIT_S, 0, 0.0, 1.0)
        return self._taken(entry, {}, now)

    def put_back(
        self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float, charged_at: float
    ) -> None:
        """Give back what was taken for messages that certainly were not accepted.

        `charged_at` is that of the answer: a quota takes back nothing of an earlier day or month.
        """
        entry = self._entries.get(tenant_id)
        if entry is None:
            return
        needs = entry.needs(wanted)
        for lease, n in needs:
            self._leases.put_back(lease, n, now)
        self._book.put_back(entry.quotas, needs[-1][1], charged_at)

    # -- words ---------------------------------------------------------------------------------

    def _taken(
        self,
        entry: _Entry,
        wanted: Mapping[MessageClass, int],
        now: float,
        charged_at: float = 0.0,
    ) -> Taken:
        lease = entry.lease
        taken = Taken(0.0, lease.left(now), lease.depth, lease.rate, charged_at=charged_at)
        if entry.classes or entry.quotas:
            taken.others = self._policies(entry, wanted, now)
        return taken

    def _lacking(
        self, entry: _Entry, wanted: Mapping[MessageClass, int], lack: Lack, now: float
    ) -> Taken:
        taken = self._taken(entry, wanted, now)
        taken.retry_after_s = lack.wait_s
        taken.most = lack.lease.depth
        for message_class, lease in entry.classes.items():
            if lease is lack.lease:
                taken.scope = message_class.value
        return taken

    def _used_up(
        self, entry: _Entry, wanted: Mapping[MessageClass, int], quota: Quota, n: int
    ) -> Taken:
        taken = self._taken(entry, wanted, self._monotonic())
        taken.retry_after_s = max(1.0, quota.ends_at - self._unix())
        taken.scope = _SCOPES[quota.period]
        taken.most = quota.limit
        taken.resets = shown(quota.ends_at)
        if n > quota.limit:
            taken.retry_after_s = float("inf")
        return taken

    def _policies(
        self, entry: _Entry, wanted: Mapping[MessageClass, int], now: float
    ) -> list[Policy]:
        found = []
        for message_class, lease in entry.classes.items():
            if message_class in wanted:
                left = lease.left(now)
                fill_s = -(-lease.depth // max(0.001, lease.rate))
                reset_s = -(-(lease.depth - left) // max(0.001, lease.rate))
                found.append(
                    Policy(message_class.value, lease.depth, int(fill_s), left, int(reset_s))
                )
        unix = self._unix()
        for quota in entry.quotas:
            window_s = int(quota.ends_at - quota.begins_at)
            reset_s = max(0, int(quota.ends_at - unix) + 1)
            found.append(
                Policy(_SCOPES[quota.period], quota.limit, window_s, quota.rest(), reset_s)
            )
        return found
