"""Python's collector is off in a worker: what is young is looked at often, the rest hardly ever."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway.garbage import WHOLE_S, YOUNG, Garbage


class Node:
    """Something that can stand in a circle."""

    def __init__(self) -> None:
        self.other: Node = self


@pytest.fixture(autouse=True)
def own_collector() -> Iterator[None]:
    gc.collect()
    yield
    gc.unfreeze()
    gc.enable()


class Clock:
    """Seconds, by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def circle() -> weakref.ref[Node]:
    return weakref.ref(Node())


def test_young_circles_go_and_what_lives_is_not_walked_again() -> None:
    garbage = Garbage(lambda: False)
    garbage.begin()
    assert not gc.isenabled()
    lost = circle()
    kept = [Node() for _ in range(YOUNG)]
    before = gc.get_freeze_count()
    garbage.round()
    assert lost() is None
    assert gc.get_freeze_count() - before >= len(kept)
    assert gc.get_count()[0] < YOUNG


def test_a_few_young_objects_are_left_alone() -> None:
    garbage = Garbage(lambda: False)
    garbage.begin()
    lost = circle()
    garbage.round()
    assert lost() is not None


@pytest.mark.parametrize("is_idle", [True, False])
def test_old_circles_go_when_there_is_nothing_to_do(
    is_idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.garbage.WHOLE_MAXIMUM", 10_000_000)  # pytest holds a lot itself
    clock = Clock()
    garbage = Garbage(lambda: is_idle, clock)
    lost = circle()
    garbage.begin()  # frozen as a circle
    clock.now = WHOLE_S - 1.0
    garbage.round()
    assert lost() is not None
    clock.now = WHOLE_S
    garbage.round()
    assert (lost() is None) == is_idle
