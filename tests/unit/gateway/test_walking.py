"""A walk that fails says how far it is behind, and that grows."""

from __future__ import annotations

import asyncio
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
    assert metrics.deadline_behind_seconds.values == {}  # another process says it


@pytest.mark.parametrize(
    ("elapsed_s", "computed_s", "count", "rest_s"),
    [
        (1.0, 0.2, 25, 0.25),  # an idle loop and a quick store: on after a quarter
        (1.0, 0.9, 25, 0.9),  # others compute as well: half of the loop is theirs
        (4.0, 0.2, 25, 4.0),  # a slow store: half of its lane is theirs
        (0.01, 0.0, 0, 0.0025),  # pages in which all have ended
    ],
)
def test_a_walk_rests_by_what_others_need(
    elapsed_s: float, computed_s: float, count: int, rest_s: float
) -> None:
    assert walking.rest_s(elapsed_s, computed_s, count) == pytest.approx(rest_s)


async def test_some_slices_are_under_way_and_none_after_one_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walking, "SLICE", 1)
    under_way: set[int] = set()
    most: list[int] = []

    async def read(_: object, ids: Sequence[int]) -> list[Any]:
        return list(ids)

    async def handle(messages: list[Any], aside: list[int]) -> int:
        assert aside == []
        [one] = messages
        under_way.add(one)
        most.append(len(under_way))
        try:
            await asyncio.sleep(0)
            if one == 7:
                raise StoreUnavailable("away")
            return int(one)
        finally:
            under_way.remove(one)

    monkeypatch.setattr(walking, "read", read)
    opener = walking.Opener(cast(Any, None), Metrics())
    assert await opener.each(range(6), handle) == [0, 1, 2, 3, 4, 5]
    assert 1 < max(most) <= walking.OVERLAP
    with pytest.raises(StoreUnavailable):
        await opener.each(range(20), handle)
    assert under_way == set()
