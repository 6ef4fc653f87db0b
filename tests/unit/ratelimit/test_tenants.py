"""A tenant's limits: its bucket, its classes, its quotas, and what the answer is told of them."""

import asyncio
import math

import pytest

from ratelimit.leases import Leases
from ratelimit.quota import Period
from ratelimit.quota_book import QuotaBook
from ratelimit.tenants import TenantLimits
from sms.config import Burst, ClassLimit, Snapshot, Tenant
from sms.model import MessageClass
from telemetry.metrics import Metrics
from tests.support.quota_store import QuotaStore
from tests.support.shared_bucket import Caller, SharedBuckets

NOON = 1_800_000_000.0
OTP, TRANSACTIONAL, MARKETING = (
    MessageClass.OTP,
    MessageClass.TRANSACTIONAL,
    MessageClass.MARKETING,
)


class Rig:
    """Limits of one process; `is_shared`: on a Valkey in memory, else it is alone."""

    def __init__(self, *tenants: Tenant, is_shared: bool = False) -> None:
        self.valkey = SharedBuckets()
        self.call = Caller(self.valkey, "p")
        self.store = QuotaStore()
        metrics = Metrics()
        self.leases = Leases(self.call if is_shared else None, metrics=metrics, monotonic=self.now)
        self.book = QuotaBook(self.store.reserve_later, metrics=metrics, unix=self.unix)
        self.limits = TenantLimits(self.leases, self.book, unix=self.unix, monotonic=self.now)
        self.configure(*tenants)

    def configure(self, *tenants: Tenant) -> None:
        self.limits.configure(Snapshot(tenants={tenant.id: tenant for tenant in tenants}))

    def now(self) -> float:
        return self.valkey.now_us / 1e6

    def unix(self) -> float:
        return NOON + self.now() - 1000.0

    def advance(self, seconds: float) -> None:
        self.valkey.now_us += round(seconds * 1e6)

    def take(self, n: int, cls: MessageClass = TRANSACTIONAL, tenant: int = 1):
        return self.limits.take(tenant, cls, n, self.now())

    async def ask(self, wanted, tenant: int = 1):
        asking = asyncio.ensure_future(self.limits.ask(tenant, wanted, self.now()))
        for _ in range(4):
            await asyncio.sleep(0)
            if self.book._waiters:
                await self.book._round()
            if self.leases._waiters:
                await self.leases._round()
        return await asking


def tenant(number=1, rate=10.0, depth=20, **fields) -> Tenant:
    return Tenant(number, f"t{number}", segments_per_second=rate, burst_segments=depth, **fields)


def test_one_tenant_does_not_spend_anothers_tokens():
    rig = Rig(tenant(1), tenant(2))
    assert rig.take(20).retry_after_s == 0.0
    assert rig.take(1).retry_after_s > 0.0
    assert rig.take(20, tenant=2).retry_after_s == 0.0


def test_what_the_headers_need():
    taken = Rig(tenant()).take(5)
    assert (taken.retry_after_s, taken.left, taken.depth, taken.rate) == (0.0, 15, 20, 10.0)
    assert (taken.scope, taken.others) == ("tenant", ())


def test_looking_takes_nothing_also_when_empty():
    rig = Rig(tenant())
    rig.take(20)
    look = rig.limits.look(1, rig.now())
    assert (look.retry_after_s, look.left) == (0.0, 0)


def test_a_batch_is_taken_whole_or_not_at_all():
    rig = Rig(tenant())
    assert rig.take(21).retry_after_s == math.inf
    rig.take(15)
    refused = rig.take(6)
    assert refused.retry_after_s == pytest.approx(0.1, abs=0.01)
    assert refused.left == 5
    rig.advance(refused.retry_after_s)
    assert rig.take(6).retry_after_s == 0.0


def test_what_was_not_accepted_is_given_back():
    rig = Rig(tenant())
    rig.take(20)
    rig.limits.put_back(1, {TRANSACTIONAL: 7}, rig.now(), 0.0)
    assert rig.limits.look(1, rig.now()).left == 7
    rig.limits.put_back(1, {TRANSACTIONAL: 100}, rig.now(), 0.0)
    assert rig.limits.look(1, rig.now()).left == 20


def test_a_new_configuration_keeps_the_fill():
    rig = Rig(tenant(1), tenant(2))
    rig.take(20)
    rig.take(20, tenant=2)
    rig.configure(tenant(1), tenant(2, rate=100.0, depth=500))
    assert [rig.limits.look(n, rig.now()).left for n in (1, 2)] == [0, 0]
    rig.advance(1.0)
    assert [rig.limits.look(n, rig.now()).left for n in (1, 2)] == [10, 100]


def test_an_unknown_or_removed_tenant_gets_nothing():
    rig = Rig(tenant())
    assert rig.take(1, tenant=9).retry_after_s > 0.0
    rig.limits.put_back(9, {OTP: 1}, rig.now(), 0.0)
    assert rig.limits.look(9, rig.now()).left == 0
    rig.configure()
    assert rig.take(1).retry_after_s > 0.0
    rig.configure(tenant())
    assert rig.take(20).retry_after_s == 0.0


async def test_an_unknown_tenant_is_told_so_by_ask_too():
    assert (await Rig().ask({OTP: 1})).retry_after_s > 0.0


# ---- shared ----


async def test_the_short_way_spends_what_is_held_and_asks_for_nothing_else():
    rig = Rig(tenant(rate=1000.0, depth=1000), is_shared=True)
    assert rig.take(1) is None
    assert (await rig.ask({TRANSACTIONAL: 1})).retry_after_s == 0.0
    made = len(rig.call.calls)
    for expected in range(998, 990, -1):
        taken = rig.take(1)
        assert (taken.retry_after_s, taken.left) == (0.0, expected)
    assert len(rig.call.calls) == made


async def test_the_short_way_refuses_only_when_nobody_can_be_asked():
    rig = Rig(tenant(), is_shared=True)
    assert (await rig.ask({TRANSACTIONAL: 20})).retry_after_s == 0.0
    assert rig.take(1) is None
    assert (await rig.ask({TRANSACTIONAL: 1})).retry_after_s > 0.0
    rig.call.is_away = True
    assert (await rig.ask({TRANSACTIONAL: 1})).retry_after_s > 0.0
    assert rig.take(1).retry_after_s > 0.0


# ---- classes ----

MIXED = tenant(class_limits=(ClassLimit(MARKETING, 1.0, 3), ClassLimit(OTP, 5.0, 10)))


async def test_a_class_has_its_own_bucket_beside_the_tenants():
    rig = Rig(MIXED)
    assert rig.take(3, MARKETING).retry_after_s == 0.0
    refused = rig.take(1, MARKETING)
    assert (refused.scope, refused.most) == ("marketing", 3)
    assert refused.retry_after_s == pytest.approx(1.0, abs=0.01)
    assert rig.take(17, TRANSACTIONAL).retry_after_s == 0.0
    assert rig.take(1, OTP).scope == "tenant"


async def test_what_a_class_refuses_costs_the_tenants_bucket_nothing():
    rig = Rig(MIXED)
    assert (await rig.ask({MARKETING: 4, TRANSACTIONAL: 1})).retry_after_s == math.inf
    rig.take(3, MARKETING)
    assert (await rig.ask({MARKETING: 1, TRANSACTIONAL: 1})).scope == "marketing"
    assert rig.limits.look(1, rig.now()).left == 17


async def test_the_headers_name_the_classes_of_the_request():
    rig = Rig(MIXED)
    taken = await rig.ask({MARKETING: 1, TRANSACTIONAL: 1})
    assert [tuple(policy) for policy in taken.others] == [("marketing", 3, 3, 2, 1)]
    rig.limits.put_back(1, {MARKETING: 1, TRANSACTIONAL: 1}, rig.now(), taken.charged_at)
    assert rig.take(1, MARKETING).others[0].left == 2


# ---- bursts ----


def test_a_burst_is_in_force_from_its_begin_to_its_end():
    burst = Burst(NOON + 10, NOON + 20, 100.0, 500)
    rig = Rig(tenant(bursts=(burst,)))
    assert rig.take(1).depth == 20
    rig.advance(10)
    rig.configure(tenant(bursts=(burst,)))
    look = rig.limits.look(1, rig.now())
    assert (look.depth, look.rate) == (500, 100.0)
    assert look.left == 20  # a larger bucket, not a fuller one
    rig.advance(9.9)
    assert rig.take(500).retry_after_s == 0.0
    rig.advance(0.1)
    rig.configure(tenant(bursts=(burst,)))
    assert rig.limits.look(1, rig.now()).depth == 20


async def test_begin_and_end_of_a_burst_come_by_themselves(monkeypatch):
    monkeypatch.setattr("ratelimit.tenants.BURST_CHECK_S", 0)
    rig = Rig(tenant(bursts=(Burst(NOON - 5, NOON + 5, 100.0, 500),)))
    assert rig.limits.look(1, rig.now()).depth == 500
    running = asyncio.ensure_future(rig.limits._follow_bursts())
    for _ in range(3):
        await asyncio.sleep(0)
    assert rig.limits.look(1, rig.now()).depth == 500
    rig.advance(5)
    for _ in range(3):
        await asyncio.sleep(0)
    assert rig.limits.look(1, rig.now()).depth == 20
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# ---- quotas ----

QUOTAS = tenant(rate=1000.0, depth=1000, segments_per_day=30, segments_per_month=50)


async def test_a_quota_refuses_until_it_begins_anew_and_says_when():
    rig = Rig(QUOTAS)
    assert rig.take(1) is None  # the first block must be asked for
    assert (await rig.ask({OTP: 30})).retry_after_s == 0.0
    refused = await rig.ask({OTP: 1})
    assert (refused.scope, refused.most) == ("day", 30)
    assert refused.resets == "2027-01-15T16:00:00Z"
    assert refused.retry_after_s == 8 * 3600  # NOON is 16:00 there
    rig.advance(8 * 3600)
    assert (await rig.ask({OTP: 20})).retry_after_s == 0.0
    assert (await rig.ask({OTP: 1})).scope == "month"


async def test_what_the_bucket_refuses_costs_no_quota():
    rig = Rig(tenant(segments_per_day=100))
    assert (await rig.ask({OTP: 20})).retry_after_s == 0.0
    assert (await rig.ask({OTP: 10})).scope == "tenant"
    quota = rig.book.quota(1, Period.DAY, 100)
    assert quota.rest() == 80


async def test_a_request_larger_than_the_quota_never_fits():
    refused = await Rig(QUOTAS).ask({OTP: 31})
    assert (refused.retry_after_s, refused.scope, refused.most) == (math.inf, "day", 30)


async def test_quotas_stand_in_the_headers():
    rig = Rig(QUOTAS)
    taken = await rig.ask({OTP: 10})
    day, month = taken.others
    assert tuple(day) == ("day", 30, 86_400, 20, 8 * 3600 + 1)
    assert month[:4] == ("month", 50, 31 * 86_400, 40)


async def test_a_quota_is_given_back_with_the_tokens():
    rig = Rig(QUOTAS)
    taken = await rig.ask({OTP: 30})
    rig.limits.put_back(1, {OTP: 30}, rig.now(), taken.charged_at)
    taken = rig.take(30, OTP)  # also the way that waits for nobody
    assert taken.retry_after_s == 0.0
    rig.limits.put_back(1, {OTP: 30}, rig.now(), taken.charged_at)
    assert rig.take(30, OTP).retry_after_s == 0.0


async def test_what_was_charged_before_midnight_is_not_given_to_the_new_day():
    rig = Rig(QUOTAS)
    rig.advance(8 * 3600 - 1)
    taken = await rig.ask({OTP: 20})
    rig.advance(2)
    assert (await rig.ask({OTP: 10})).retry_after_s == 0.0  # the day has turned
    rig.limits.put_back(1, {OTP: 20}, rig.now(), taken.charged_at)
    assert (await rig.ask({OTP: 21})).scope == "day"
    assert (await rig.ask({OTP: 20})).retry_after_s == 0.0
    day, month = rig.limits.look(1, rig.now()).others
    assert (day.left, month.left) == (0, 20)  # of the month it was given back
