from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.signature import sign
from loadtest.traffic import (
    LAST,
    RANGES,
    SHAPES,
    TENANTS,
    body_of,
    index_of,
    message_of,
    number_of,
    share_at,
    spread_users,
)
from sms.numbers import Number, parse_number
from sms.segmentation import Segmentation, segment

INDEXES = st.integers(0, LAST)


@given(INDEXES)
def test_a_number_leads_back_to_its_message(index):
    assert index_of(number_of(index)) == index
    assert index_of("+" + number_of(index)) == index


@given(INDEXES)
def test_the_gateway_takes_every_number_for_the_network_it_was_made_of(index):
    number = parse_number(message_of(index).to)
    assert isinstance(number, Number)
    expected = RANGES[index % len(RANGES)][1] if number.country == 86 else "other"
    assert number.carrier.value == expected


@pytest.mark.parametrize("digits", ["", "8613", "8613800138000", "12100000001", "121000000019"])
def test_a_stranger_is_nobodys_number(digits):
    assert index_of(digits) is None


def test_all_networks_and_provinces_are_among_the_first_messages():
    places = {i % len(RANGES) for i in range(2000) if number_of(i).startswith("86")}
    assert {RANGES[place][1] for place in places} == {"CM", "CU", "CT", "CB"}
    assert len({RANGES[place][2] for place in places}) == 32


def test_classes_encodings_and_lengths_are_mixed():
    seen: Counter[tuple[str, str, int]] = Counter()
    for index in range(2000):
        message = message_of(index)
        country = 86 if message.to.startswith("+86") else 1
        text = sign(message.text, TENANTS[0].signature if country == 86 else "", country)
        parts = segment(text, "auto", smart=False, max_segments=10)
        assert isinstance(parts, Segmentation)
        seen[message.message_class, parts.encoding.value, len(parts.texts)] += 1
    assert {kind[0] for kind in seen} == {"otp", "transactional", "marketing"}
    assert {kind[1:] for kind in seen} == {(e, n) for e in ("ucs2", "gsm7") for n in (1, 2, 3)}


def test_a_batch_holds_its_messages_in_order():
    import json

    entries = json.loads(body_of(17, 5))["messages"]
    assert entries == [message_of(index).entry() for index in range(17, 22)]
    assert json.loads(body_of(17, 1)) == message_of(17).entry()


@given(st.integers(40, 400))
def test_users_are_spread_by_share(users):
    given_to = Counter(islice(spread_users(users), users))
    for place, tenant in enumerate(TENANTS):
        assert abs(given_to[place] - users * tenant.share) < 2


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_shape_ends_when_it_should(name):
    stages = SHAPES[name](100.0)
    assert share_at(stages, 99.9) is not None
    assert share_at(stages, 100.0) is None


def test_a_spike_is_three_times_what_is_around_it():
    stages = SHAPES["spike"](100.0)
    assert [share_at(stages, at) for at in (10, 50, 90)] == [0.5, 1.5, 0.5]
