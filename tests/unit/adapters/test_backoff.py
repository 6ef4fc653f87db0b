"""How soon a link that is up again is used, and how often a carrier is asked meanwhile."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import shell
from adapters.backoff import Backoff
from adapters.session import SessionPolicy
from adapters.smpp.channel import SmppChannel
from sms import config
from tests.support.smpp import SETTINGS, FakeSink

POLICY = SessionPolicy()


@given(st.floats(0.0, 7200.0), st.integers(0, 10**6))
def test_a_link_that_is_up_again_is_used_within_seconds_however_long_it_was_down(down_s, seed):
    backoff = Backoff(POLICY, random.Random(seed).random)
    now, tries = backoff.fell(), 0
    while now < down_s:
        now += backoff.unreached()
        tries += 1
    assert now - down_s <= 6.0
    assert tries <= 3 + down_s / 4.0  # and meanwhile nobody is hammered


@pytest.mark.parametrize(
    ("failures", "least", "most"),
    [(1, 0.8, 1.2), (2, 1.6, 2.4), (4, 6.4, 9.6), (7, 48.0, 72.0), (10_000, 48.0, 72.0)],
)
def test_refused_logins_are_tried_ever_more_seldom(failures, least, most):
    low, high = Backoff(POLICY, lambda: 0.0), Backoff(POLICY, lambda: 1.0)
    for _ in range(failures):
        waits = low.refused(), high.refused()
    assert waits == pytest.approx((least, most))


def test_an_outage_is_no_refused_login_and_one_that_held_begins_anew():
    backoff = Backoff(POLICY, lambda: 0.5)
    for _ in range(100):
        backoff.unreached()
    assert [backoff.refused(), backoff.refused()] == [1.0, 2.0]
    assert backoff.unreached() == 1.0
    assert backoff.refused() == 4.0  # it was away in between: its lock on us may stand
    assert [backoff.fell(), backoff.refused()] == [1.0, 1.0]
    backoff.held()
    assert backoff.unreached() == 1.0


def test_the_smaller_cap_holds():
    backoff = Backoff(SessionPolicy(reconnect_min_s=0.1, reconnect_max_s=0.3), lambda: 0.5)
    assert [backoff.unreached() for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(("word", "last"), [(b"", 5.0), (b"\0\0\0\x10", 60.0)])
async def test_who_says_nothing_is_asked_sooner_than_who_refuses(monkeypatch, word, last):
    """A port that refuses, or a login without a word: nobody is there. Bytes: somebody is."""
    channel = SmppChannel(
        config.Channel(7, "x", "smpp", SETTINGS, window=4), FakeSink(), POLICY, dice=lambda: 0.5
    )
    waits: list[float] = []

    async def dial(number):
        link = shell.Link(channel, channel.make_session(number))
        if word:
            link.data_received(word)
        link.connection_lost(None)
        return link if word or len(waits) % 2 else None

    async def within(waiting, timeout_s):
        waiting.close()
        waits.append(timeout_s)
        if len(waits) == 8:
            channel._stopping.set()

    monkeypatch.setattr(channel, "_dial", dial)
    monkeypatch.setattr(shell, "_within", within)
    await channel._keep(0)
    assert waits[:3] == [1.0, 2.0, 4.0]
    assert waits[-1] == last
    assert channel.failures == 8
