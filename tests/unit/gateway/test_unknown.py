"""Reports that wait for a look-up: no channel's flood takes another's room."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.unknown import Unknown
from sms.model import Report


def reports(channel: int, count: int) -> list[Report]:
    return [Report(channel, f"{channel}-{n}", "DELIVRD", "", "") for n in range(count)]


def test_one_flooded_channel_has_half_the_next_half_of_the_rest() -> None:
    unknown = Unknown(90)
    assert len(unknown.put(1, reports(1, 200))) == 155
    assert len(unknown.put(2, reports(2, 200))) == 177  # half of what is left
    assert unknown.put(3, reports(3, 5)) == ()  # a quiet one always finds a place
    assert len(unknown) == 73


def test_what_is_looked_up_counts_until_it_is_gone_and_comes_back_first() -> None:
    unknown = Unknown(10)
    unknown.put(1, reports(1, 9))
    page = unknown.page(3)
    assert [report.carrier_id for report in page] == ["1-0", "1-1", "1-2"]
    assert len(unknown.put(1, reports(1, 1))) == 1
    unknown.back(page)
    assert unknown.page(4)[:3] == page
    unknown.gone(page)
    assert unknown.put(1, reports(1, 1)) == ()


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 30)), max_size=30), st.integers(1, 60))
def test_nothing_is_lost_and_no_more_wait_than_there_is_room(
    bursts: list[tuple[int, int]], most: int
) -> None:
    unknown = Unknown(most)
    given_of: Counter[int] = Counter()
    refused: Counter[int] = Counter()
    for channel, count in bursts:
        given_of[channel] += count
        refused[channel] += len(unknown.put(channel, reports(channel, count)))
        assert len(unknown) <= most
    waiting = Counter(report.channel for report in unknown.page(10_000))
    assert given_of == waiting + refused
