"""A canary's life as it is stored: what each step changes, and what it leaves as it is."""

from __future__ import annotations

import pytest

from gateway import canaryspec
from sms.config import CanaryState

NOW = 1_800_000_000.0
THEN, LATER = "2027-01-15T08:00:00.000Z", "2027-01-15T08:10:00.000Z"
NEW = canaryspec.new_canary("*/otp/*/86", ["new", "old"], "old", NOW, gates={"failure_share": 0.01})


def test_a_new_one_is_at_its_first_step() -> None:
    assert NEW == {
        "route": "*/otp/*/86",
        "baseline": "old",
        "channels": ["new", "old"],
        "steps": [5, 30, 100],
        "share": 5,
        "state": "running",
        "since": THEN,
        "gates": {"failure_share": 0.01},
    }


def test_the_candidate_stands_before_the_routes_own_once() -> None:
    assert canaryspec.in_front("new", ["a", "b", "c", "d"]) == ["new", "a", "b", "c"]
    assert canaryspec.in_front("b", ["a", "b", "c", "d"]) == ["b", "a", "c", "d"]


def test_a_pause_keeps_the_share_and_its_end_begins_the_step_anew() -> None:
    paused = canaryspec.paused(canaryspec.at_share(NEW, 30, NOW))
    assert paused == {**NEW, "share": 30, "state": "paused"}
    resumed = canaryspec.resumed(paused, NOW + 600)
    assert resumed == {**NEW, "share": 30, "since": LATER}
    assert canaryspec.resumed(resumed, NOW + 900) == resumed


@pytest.mark.parametrize(
    ("end", "state", "share"),
    [
        (canaryspec.rolled_back, CanaryState.ROLLED_BACK, 0),
        (canaryspec.aborted, CanaryState.ABORTED, 0),
        (canaryspec.promoted, CanaryState.PROMOTED, 100),
    ],
)
def test_an_end_takes_everybody_off_it(end, state: CanaryState, share: int) -> None:
    ended = end(canaryspec.paused(NEW), NOW + 600)
    assert ended == {**NEW, "state": str(state), "share": share, "since": LATER}
    assert canaryspec.is_live(NEW)
    assert not canaryspec.is_live(ended)


def test_a_promoted_route_has_its_channels_and_nothing_else_changes() -> None:
    route = {"tenant": "*", "class": "otp", "carrier": "*", "country": 86, "channels": ["old"]}
    assert canaryspec.promoted_route(route, NEW) == {**route, "channels": ["new", "old"]}
