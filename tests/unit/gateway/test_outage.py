"""An outage of PostgreSQL is told once, and so is its end."""

from typing import Any

import pytest

from gateway import outage
from gateway.outage import Outage, forget_lost_connections


def test_an_outage_and_its_end_are_told_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[str, Any]] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(
            outage.log, level, lambda line, **told: lines.append((line, told.get("seconds")))
        )
    watched = Outage()
    ages: list[float] = []
    for now, is_up in ((1.0, True), (2.0, False), (3.0, False), (9.5, True), (10.0, True)):
        watched.look(now, is_up=is_up)
        ages.append(watched.age_s(now + 1.0))
    assert ages == [0.0, 1.0, 2.0, 0.0, 0.0]
    assert lines == [("PostgreSQL is away", None), ("PostgreSQL is back", 7.5)]


def test_only_a_broken_connection_that_nobody_waits_for_is_let_be() -> None:
    class Loop:
        told = 0

        def default_exception_handler(self, context: dict[str, Any]) -> None:
            self.told += 1

    loop: Any = Loop()
    words = "Future exception was never retrieved"
    forget_lost_connections(loop, {"message": words, "exception": ConnectionResetError()})
    assert loop.told == 0
    forget_lost_connections(loop, {"message": words, "exception": ValueError()})
    forget_lost_connections(loop, {"message": "a callback", "exception": ConnectionResetError()})
    assert loop.told == 2
