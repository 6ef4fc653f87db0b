"""Checks of configuration fields that bodies of any size go through."""

from __future__ import annotations

from gateway.configfields import list_of, text, whole


class Counted(str):
    """Text that counts how often it is compared."""

    compared = 0
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_thousand_entries_are_not_compared_with_each_other() -> None:
    Counted.compared = 0
    entries: list[object] = [Counted(f"brand{number}") for number in range(1000)]
    assert list_of(text(20))(entries) is None
    assert Counted.compared < 100


def test_every_entry_that_is_wrong_or_repeated_is_named() -> None:
    check = list_of(whole(1, 999))
    assert check.entries([86, "x", 86, 1, True, 86]) == [
        (1, "must be a whole number from 1 to 999"),
        (2, "stands there twice"),
        (4, "must be a whole number from 1 to 999"),
        (5, "stands there twice"),
    ]


def test_what_cannot_be_hashed_is_wrong_and_no_crash() -> None:
    assert [index for index, _ in list_of(text(20)).entries([[], {}, "a", "a"])] == [0, 1, 3]
