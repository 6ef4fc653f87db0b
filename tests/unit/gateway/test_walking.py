"""A walk that fails says how far it is behind, and that grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from gateway import walking
from gateway.deadline import Deadlines
from gateway.walking import lag_s
from sms.errors import StoreUnavailable
from sms.ids import id_at
from store.silence import Page, Turn, Walk
from telemetry.metrics import Metrics
from tests.unit.gateway.test_reports import Desk

AGE_S = 1000.0
NOW = 1_900_000_000.0


class FakeStore:
    """Fails where it is told to."""

    def __init__(self) -> None:
        self.fails = ""
        self.is_ours = True
        self.position = id_at(NOW - AGE_S - lag_s(AGE_S) - 500.0)

    async def begin(self, walk: Walk, hold_s: float) -> Turn | None:
        if self.fails == "begin":
            raise StoreUnavailable("away")
        return Turn(self.position, NOW) if self.is_ours else None

    async def page(self, position: int, bound: int, size: int) -> Page:
        if self.fails == "page":
            raise StoreUnavailable("statement timeout")
        self.position = bound
        return Page(bound, [], is_full=False)

    async def due(self, limit: int) -> Sequence[int]:
        return []


async def test_how_far_a_failing_walk_is_behind_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(walking, "monotonic", lambda: now[0])

    async def commit(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(walking, "commit", commit)
    store, metrics = FakeStore(), Metrics()
    desk = Desk()
    walk = Deadlines(
        store=cast(Any, store),
        reader=cast(Any, desk.reader),
        ledger=desk.kit.ledger,
        metrics=metrics,
        deadline_s=AGE_S,
    )
    behind = metrics.deadline_behind_seconds.values
    store.fails = "page"
    with pytest.raises(StoreUnavailable):
        await walk.round()
    assert behind[()] == pytest.approx(500.0, abs=0.1)
    store.fails = ""
    await walk.round()
    assert behind[()] == pytest.approx(0.0)
    store.fails = "begin"
    now[0] += 4000.0
    with pytest.raises(StoreUnavailable):
        await walk.round()
    assert behind[()] == pytest.approx(4000.0)
    store.fails, store.is_ours = "", False
    await walk.round()
    assert metrics.deadline_behind_seconds.values[()] == 0.0
