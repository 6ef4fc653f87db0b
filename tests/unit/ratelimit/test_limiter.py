import math

from ratelimit.limiter import LocalLimiter
from sms.config import Snapshot, Tenant


def snapshot(*tenants):
    return Snapshot(tenants={tenant.id: tenant for tenant in tenants})


def tenant(number, rate=10.0, depth=20):
    return Tenant(number, f"t{number}", segments_per_second=rate, burst_segments=depth)


def limiter(*tenants, now=0.0):
    made = LocalLimiter()
    made.configure(snapshot(*tenants), now)
    return made


def test_one_tenant_does_not_spend_anothers_tokens():
    limits = limiter(tenant(1), tenant(2))
    assert limits.take(1, 20, 0.0).retry_after_s == 0.0
    assert limits.take(1, 1, 0.0).retry_after_s > 0.0
    assert limits.take(2, 20, 0.0).retry_after_s == 0.0


def test_what_the_headers_need():
    taken = limiter(tenant(1)).take(1, 5, 0.0)
    assert (taken.retry_after_s, taken.left, taken.depth, taken.rate) == (0.0, 15, 20.0, 10.0)


def test_looking_takes_nothing_also_when_empty():
    limits = limiter(tenant(1))
    limits.take(1, 20, 0.0)
    look = limits.take(1, 0, 0.0)
    assert (look.retry_after_s, look.left) == (0.0, 0)


def test_a_batch_is_taken_whole_or_not_at_all():
    limits = limiter(tenant(1))
    assert limits.take(1, 21, 0.0).retry_after_s == math.inf
    limits.take(1, 15, 0.0)
    refused = limits.take(1, 6, 0.0)
    assert refused.retry_after_s > 0.0
    assert refused.left == 5
    assert limits.take(1, 6, refused.retry_after_s).retry_after_s == 0.0


def test_what_was_not_accepted_is_given_back():
    limits = limiter(tenant(1))
    limits.take(1, 20, 0.0)
    limits.put_back(1, 7, 0.0)
    assert limits.take(1, 0, 0.0).left == 7
    limits.put_back(1, 100, 0.0)
    assert limits.take(1, 0, 0.0).left == 20


def test_a_new_configuration_keeps_the_fill():
    limits = limiter(tenant(1), tenant(2))
    limits.take(1, 20, 0.0)
    limits.take(2, 20, 0.0)
    limits.configure(snapshot(tenant(1), tenant(2, rate=100.0, depth=500)), 0.0)
    assert limits.take(1, 0, 0.0).left == 0
    assert limits.take(2, 0, 0.0).left == 0
    assert limits.take(1, 0, 1.0).left == 10
    assert limits.take(2, 0, 1.0).left == 100


def test_an_unknown_or_removed_tenant_gets_nothing():
    limits = limiter(tenant(1))
    assert limits.take(9, 1, 0.0).retry_after_s > 0.0
    limits.put_back(9, 1, 0.0)
    limits.configure(snapshot(), 0.0)
    assert limits.take(1, 1, 0.0).retry_after_s > 0.0
    limits.configure(snapshot(tenant(1)), 0.0)
    assert limits.take(1, 20, 0.0).retry_after_s == 0.0
