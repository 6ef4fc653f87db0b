"""The limits of the tenants: one bucket each, kept in this process.

One worker per node needs nothing more; leases from Valkey (DESIGN decision 9) fill the same
buckets once several processes share a tenant's limit. One take per request, never per message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ratelimit.bucket import Bucket
from sms.config import Snapshot, Tenant

UNKNOWN_TENANT_WAIT_S = 1.0


@dataclass(slots=True)  # not frozen: one per request on the hot path
class Taken:
    """What the bucket said, with what the `RateLimit` headers need.

    `retry_after_s` 0.0 = taken; infinity = more than the bucket can ever hold.
    """

    retry_after_s: float
    left: int  # whole segments
    depth: float  # segments
    rate: float  # segments per second


class LocalLimiter:
    """Buckets by tenant; `now` is monotonic seconds everywhere."""

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}
        self._limits: dict[int, tuple[float, int]] = {}
        self._tenants: Mapping[int, Tenant] = {}

    def configure(self, snapshot: Snapshot, now: float) -> None:
        """Follow the configuration: new tenants start full, others keep what they have.

        A tenant whose limits did not change keeps its bucket as it is; a removed one loses it.
        """
        before, self._tenants = self._tenants, snapshot.tenants
        for tenant_id, tenant in snapshot.tenants.items():
            if before.get(tenant_id) is tenant:  # of ten thousand, most are as they were
                continue
            limits = tenant.segments_per_second, tenant.burst_segments
            bucket = self._buckets.get(tenant_id)
            if bucket is None:
                self._buckets[tenant_id] = Bucket(*limits, now)
            elif self._limits[tenant_id] != limits:
                bucket.configure(*limits, now)
            self._limits[tenant_id] = limits
        for tenant_id in self._limits.keys() - snapshot.tenants.keys():
            del self._buckets[tenant_id], self._limits[tenant_id]

    def take(self, tenant_id: int, segments: int, now: float) -> Taken:
        """Take all or nothing; `segments` 0 only looks.

        A tenant that the snapshot does not hold gets nothing: it was removed a moment ago.
        """
        bucket = self._buckets.get(tenant_id)
        if bucket is None:
            return Taken(UNKNOWN_TENANT_WAIT_S, 0, 0.0, 1.0)
        wait_s = bucket.take(segments, now)
        return Taken(wait_s, bucket.left(now), bucket.depth, bucket.rate)

    def put_back(self, tenant_id: int, segments: int, now: float) -> None:
        """Give back what was taken for messages that certainly were not accepted."""
        bucket = self._buckets.get(tenant_id)
        if bucket is not None:
            bucket.put_back(segments, now)
