"""What a parameter or an empty body may be, where only the door can say no."""

from __future__ import annotations

import pytest

from gateway.api.filters import OBJECT_ID, moment_of


@pytest.mark.parametrize("good", ["ten_0000000000000001", "key_00000000000000ff"])
def test_an_id_names_an_object(good: str) -> None:
    assert OBJECT_ID.fullmatch(good)


@pytest.mark.parametrize("bad", ["\0", "\xff", "x" * 41, "", "TEN_1", "a b"])
def test_nothing_else_does(bad: str) -> None:
    assert OBJECT_ID.fullmatch(bad) is None


@pytest.mark.parametrize(
    "text",
    ["20261122T000000Z", "2026-W47-7T00:00:00Z", "2026-11-22x00:00:00Z", "2026-11-22T00:00:00", 1],
)
def test_only_rfc_3339_is_a_moment(text: object) -> None:
    assert moment_of(text) is None


def test_rfc_3339_is_one() -> None:
    assert moment_of("2026-11-22t08:00:00+08:00") == moment_of("2026-11-22T00:00:00Z")
