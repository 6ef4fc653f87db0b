"""What a cell of usage costs."""

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.usage import cost_of
from sms.model import State
from store.usage import UsageRow


def row(status, channel=7, segments=3):
    return UsageRow(date(2026, 11, 22), "otp", channel, "CM", str(status), 2, segments, 0)


@pytest.mark.parametrize(
    ("status", "channel", "price", "cost"),
    [
        (State.DELIVERED, 7, "0.035", "0.105"),
        (State.UNDELIVERED, 7, "0.035", "0.105"),
        (State.UNCERTAIN, 7, "0.035", "0.105"),
        (State.EXPIRED, 7, "0.035", "0.105"),  # the carrier's receipt says so
        (State.EXPIRED, 0, "0.035", "0"),  # before any channel had it
        (State.FAILED, 7, "0.035", "0"),
        (State.REJECTED, 7, "0.035", "0"),
        (State.QUEUED, 7, "0.035", "0"),
        (State.DELIVERED, 7, None, None),
        (State.FAILED, 7, None, "0"),
        (State.DELIVERED, 7, "100", "300"),
    ],
)
def test_a_channel_is_paid_for_what_it_took(status, channel, price, cost):
    assert cost_of(row(status, channel), price and Decimal(price)) == cost


@given(st.integers(0, 10**9), st.decimals(0, 10**6, places=9))
def test_a_cost_is_exact_and_plainly_written(segments, price):
    told = cost_of(row(State.DELIVERED, segments=segments), price)
    assert told is not None
    assert Decimal(told) == price * segments
    assert "E" not in told
