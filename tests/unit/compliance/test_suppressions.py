"""The suppression list in memory, against plain sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compliance.suppressions import (
    BLOCKED,
    INVALID,
    OPTED_OUT,
    PLATFORM,
    Suppressions,
    unkeyed_index,
)
from sms.model import Held, MessageClass

OTP, TRANSACTIONAL, MARKETING = MessageClass
CHANGES = st.lists(
    st.tuples(
        st.sampled_from([PLATFORM, 1, 2]),
        st.sampled_from(["8613800138000", "8613900139000", "15550001111"]),
        st.frozensets(st.sampled_from(list(MessageClass))),
    )
)


@given(CHANGES)
def test_the_newest_change_of_an_entry_holds(
    changes: list[tuple[int, str, frozenset[MessageClass]]],
) -> None:
    held = Suppressions(unkeyed_index)
    standing: dict[tuple[int, str], frozenset[MessageClass]] = {}
    for tenant, number, classes in changes:
        held.change(tenant, unkeyed_index(tenant, number), classes)
        standing[tenant, number] = classes
    for cls in MessageClass:
        assert held.has_any(cls) == any(cls in classes for classes in standing.values())
        assert held.size(cls) == sum(cls in classes for classes in standing.values())
        for tenant in (1, 2):
            for number in ("8613800138000", "8613900139000", "15550001111"):
                wanted = None
                if cls in standing.get((PLATFORM, number), ()):
                    wanted = BLOCKED
                if cls in standing.get((tenant, number), ()):
                    wanted = OPTED_OUT
                assert held.refusal(tenant, cls, number) == wanted


def test_what_a_carrier_said_of_a_number_has_its_own_code() -> None:
    held = Suppressions(unkeyed_index)
    index = unkeyed_index(1, "8613800138000")
    for why, code in ((Held.INVALID, INVALID), (Held.BLOCKED, BLOCKED), (Held.ASKED, OPTED_OUT)):
        held.change(1, index, {MARKETING}, why)
        assert held.refusal(1, MARKETING, "8613800138000") == code
    assert held.size(MARKETING) == 1


def test_no_index_is_made_for_tenants_without_entries() -> None:
    asked: list[int] = []

    def index_of(tenant: int, number: str) -> int:
        asked.append(tenant)
        return unkeyed_index(tenant, number)

    held = Suppressions(index_of)
    held.change(1, unkeyed_index(1, "8613800138000"), {MARKETING})
    assert held.refusal(2, MARKETING, "8613800138000") is None
    assert held.refusal(1, OTP, "8613800138000") is None
    assert asked == []
    assert held.refusal(1, MARKETING, "8613800138000") == OPTED_OUT
    assert asked == [1]
