"""A tenant's own changes of the configuration: so many a minute, each tenant for itself."""

from __future__ import annotations

from gateway.changelimit import ChangeLimit


def test_a_minute_s_changes_at_once_and_then_one_at_a_time() -> None:
    limit = ChangeLimit(30)
    assert [limit.wait_s(1, 100.0) for _ in range(31)] == [0] * 30 + [
        3
    ]  # whole seconds, never too early
    assert limit.wait_s(2, 100.0) == 0
    assert limit.wait_s(1, 103.0) == 0
    assert [limit.wait_s(1, 200.0) for _ in range(31)].count(0) == 30
