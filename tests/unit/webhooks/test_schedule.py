from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhooks.schedule import (
    BREAKER_FAILURES,
    DEAD,
    MAX_TRIES,
    RETRY_AFTER_CAP_S,
    RETRY_AFTER_S,
    Breaker,
    next_due,
    parse_retry_after,
)

DICE = st.floats(min_value=0, max_value=1, exclude_max=True)
NOW = 1_800_000_000.0


def test_the_waits_are_those_of_the_reliability_rules():
    waits = [next_due(tries, None, 0.0, 0.5) for tries in range(1, MAX_TRIES + 1)]
    assert waits == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400, DEAD]


@given(tries=st.integers(1, MAX_TRIES - 1), dice=DICE)
def test_jitter_stays_within_a_fifth(tries: int, dice: float):
    wait = next_due(tries, None, NOW, dice) - NOW
    nominal = RETRY_AFTER_S[tries - 1]
    assert nominal * 0.8 - 1e-6 <= wait <= nominal * 1.2 + 1e-6


@given(tries=st.integers(1, MAX_TRIES - 1), after=st.floats(min_value=0, max_value=1e9), dice=DICE)
def test_retry_after_lengthens_a_wait_up_to_its_cap(tries: int, after: float, dice: float):
    plain = next_due(tries, None, NOW, dice)
    due = next_due(tries, after, NOW, dice)
    assert due >= plain
    assert due >= NOW + min(after, RETRY_AFTER_CAP_S) - 1e-6
    assert due <= max(plain, NOW + RETRY_AFTER_CAP_S)


@given(tries=st.integers(MAX_TRIES, 1000), after=st.none() | st.floats(0, 1e6), dice=DICE)
def test_after_the_last_try_nothing_revives_an_event(tries: int, after: float | None, dice: float):
    assert next_due(tries, after, NOW, dice) == math.inf


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("9" * 400, 999_999_999.0),
        ("Fri, 15 Jan 2027 08:02:00 GMT", 120.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("Fri, 15 Jan 2027 08:02:00 -0000", 120.0),
        ("soon", None),
        ("-3", None),
        ("", None),
        ("1.5", None),
        ("٣", None),
        ("Fri, 99 Jan 2027 08:02:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None):
    assert parse_retry_after(text, NOW) == seconds


@given(st.text(max_size=60))
def test_any_retry_after_is_survived(text: str):
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or seconds >= 0


def test_the_breaker_opens_at_the_fifth_failure_in_a_row():
    breaker = Breaker()
    for _ in range(BREAKER_FAILURES - 1):
        assert not breaker.failed(0.0, 0.5)
    breaker.succeeded()
    for _ in range(BREAKER_FAILURES - 1):
        assert not breaker.failed(0.0, 0.5)
    assert breaker.may_try(0.0, 31)
    assert breaker.failed(0.0, 0.5)
    assert not breaker.may_try(4.9, 0)


def open_breaker() -> Breaker:
    breaker = Breaker()
    for _ in range(BREAKER_FAILURES):
        breaker.failed(0.0, 0.5)
    return breaker


def test_an_open_breaker_lets_one_probe_at_a_time_through():
    breaker = open_breaker()
    assert breaker.until == 5.0
    assert breaker.may_try(5.0, 0)
    assert not breaker.may_try(5.0, 1)
    assert breaker.succeeded()
    assert breaker.may_try(5.0, 31)


def test_failed_probes_are_spaced_further_and_further():
    breaker = open_breaker()
    now, waits = 5.0, []
    for _ in range(10):
        breaker.failed(now, 0.5)
        assert breaker.until is not None
        waits.append(breaker.until - now)
        now = breaker.until
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300, 300, 300]


def test_stragglers_do_not_move_the_time_of_the_probe():
    breaker = open_breaker()
    for _ in range(27):
        breaker.failed(1.0, 0.5)
    assert breaker.until == 5.0


def test_the_endpoints_own_retry_after_opens_at_once_up_to_the_cap():
    breaker = Breaker()
    assert breaker.failed(100.0, 0.5, 30.0)
    assert breaker.until == 130.0
    assert breaker.failed(100.0, 0.5, 1e9)
    assert breaker.until == 100.0 + RETRY_AFTER_CAP_S
