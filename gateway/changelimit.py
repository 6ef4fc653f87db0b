"""How often a tenant may change the configuration itself.

Each change is a version that every process loads, under the one lock that all changes share, and
two rows that are kept for months: a loop of one tenant would be felt by all.
"""

from __future__ import annotations

import math

from ratelimit.bucket import Bucket


class ChangeLimit:
    """A bucket for each tenant, of this process."""

    def __init__(self, per_min: int) -> None:
        """So many changes a minute; as many at once when there were none for a minute."""
        self.per_min = per_min
        self._buckets: dict[int, Bucket] = {}

    def wait_s(self, tenant: int, now: float) -> int:
        """Take one: 0, or the whole seconds after which there is one. `now` is monotonic."""
        bucket = self._buckets.get(tenant)
        if bucket is None:
            bucket = Bucket(self.per_min / 60, self.per_min, now)
            self._buckets[tenant] = bucket
        return math.ceil(bucket.take(1, now))
