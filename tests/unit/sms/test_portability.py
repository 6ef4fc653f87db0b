"""Overrides in memory, against a dict over the prefix table."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms.model import Carrier
from sms.numbers import BadNumber, Number, parse_number
from sms.portability import NETWORKS, Portability, parse_portable


def index_of(number: str) -> int:
    return int.from_bytes(blake2b(number.encode(), digest_size=8).digest(), "big", signed=True)


NUMBERS = st.sampled_from(
    ["8613800138000", "8613800138001", "8613000130000", "8619200192000", "8617400174000"]
)
CHANGES = st.lists(st.tuples(NUMBERS, st.one_of(st.none(), st.sampled_from(NETWORKS))))


@given(CHANGES)
def test_an_override_holds_until_it_ends_and_else_the_prefix(
    changes: list[tuple[str, Carrier | None]],
) -> None:
    known, plain = Portability(index_of), dict[str, Carrier]()
    for number, carrier in changes:
        known.change(index_of(number), carrier)
        if carrier is None:
            plain.pop(number, None)
        else:
            plain[number] = carrier
        assert known.size == len(plain)
    for number in ("8613800138000", "8613800138001", "8613000130000", "8619200192000"):
        by_prefix = parse_number("+" + number)
        assert isinstance(by_prefix, Number)
        for text in ("+" + number, number[2:]):
            found = known.parse(text)
            assert isinstance(found, Number)
            assert found.digits == number
            assert found.carrier == plain.get(number, by_prefix.carrier)


def test_a_number_that_is_not_overridden_and_a_foreign_one_are_as_before() -> None:
    known = Portability(index_of)
    known.change(index_of("8613800138000"), Carrier.CT)
    known.change(index_of("15550001111"), Carrier.CT)  # nobody can write this one
    assert known.parse("+8613800138001") == parse_number("+8613800138001")
    assert known.parse("+15550001111") == Number("15550001111", 1, Carrier.OTHER)
    assert known.parse("12") == parse_number("12")


def test_no_index_is_made_while_there_is_no_override() -> None:
    asked: list[str] = []

    def asking(number: str) -> int:
        asked.append(number)
        return index_of(number)

    known = Portability(asking)
    known.parse("+8613800138000")
    assert asked == []
    known.change(index_of("8613800138000"), Carrier.CU)
    found = known.parse("+8613800138000")
    assert isinstance(found, Number)
    assert found.carrier is Carrier.CU
    assert asked == ["8613800138000"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("13800138000", "8613800138000"),
        ("+8613800138000", "8613800138000"),
        ("+15551234567", None),
        ("12345", None),
        ("+8616000160000", None),
    ],
)
def test_only_mainland_numbers_can_be_ported(text: str, wanted: str | None) -> None:
    found = parse_portable(text)
    if wanted is None:
        assert isinstance(found, BadNumber)
    else:
        assert found == wanted
