"""What a replay is asked: exactly one of three."""

from __future__ import annotations

import pytest

from gateway.api.fields import Checked
from gateway.api.problems import ProblemError
from gateway.api.replaying import asked_of

NOW = 1_800_000_000.0
EVENT = "evt_0000000000000001"
AFTER = {"created_after": "2027-01-15T07:00:00Z"}
RANGE = {**AFTER, "created_before": "2027-01-15T08:00:00Z"}


@pytest.mark.parametrize(
    ("good", "code", "words"),
    [
        ({"event_id": EVENT, "failed": True}, "field.value", "Only one of these at a time"),
        ({"failed": True, **RANGE}, "field.value", "Only one of these at a time"),
        ({"event_id": EVENT, **AFTER}, "field.value", "Only one of these at a time"),
        (AFTER, "field.missing", "Say what to send again"),
        ({"failed": False}, "field.missing", "Say what to send again"),
        ({}, "field.missing", "Say what to send again"),
    ],
)
def test_several_at_once_and_none_are_told_apart(
    good: dict[str, object], code: str, words: str
) -> None:
    with pytest.raises(ProblemError) as refused:
        asked_of(good, Checked(), NOW)
    [error] = refused.value.problem.errors
    assert (error.pointer, error.code) == ("", code)
    assert words in error.detail


def test_each_of_the_three_is_taken() -> None:
    assert asked_of({"event_id": EVENT}, Checked(), NOW).event_id == 1
    assert asked_of({"failed": True}, Checked(), NOW).is_failed
    assert asked_of(RANGE, Checked(), NOW).after > 0
