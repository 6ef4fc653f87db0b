"""Up and down, and what the log says."""

import asyncio
import time
from typing import cast

import pytest

from adapters.http import link
from adapters.http.client import Client, Fail, Failed
from adapters.http.link import FAILURES, Link
from adapters.http.vendor import Reply
from adapters.session import SessionPolicy
from adapters.shell import REMIND_S
from sms import config
from sms.outcomes import Cause, Rejected, Submitted, Uncertain
from tests.support.smpp import FakeSink


class Lines:
    def __init__(self):
        self.found = []

    def info(self, event, **fields):
        self.found.append((event, fields))

    warning = info


@pytest.fixture
def lines(monkeypatch):
    kept = Lines()
    monkeypatch.setattr(link, "log", kept)
    return kept


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


async def a_link():
    return Link(config.Channel(7, "cloud", "http", {}), FakeSink(), SessionPolicy(), lambda: 0.5)


async def test_five_failures_in_a_row_take_it_down_and_a_success_between_counts_anew(lines):
    ours = await a_link()
    assert ours.why_down() == "still connecting"
    ours.reached()
    for _ in range(FAILURES - 1):
        ours.unreached("a reason")
    assert ours.is_up
    ours.reached()
    for _ in range(FAILURES - 1):
        ours.unreached("a reason")
    assert ours.is_up
    ours.unreached("a reason")
    assert not ours.is_up
    assert ours.why_down() == "a reason"
    assert ours._sink.links == [(True, "connected"), (False, "a reason")]
    ours.reached()
    assert ours._sink.links[-1] == (True, "connected")


async def test_before_the_first_success_one_failure_is_told(lines):
    ours = await a_link()
    ours.unreached("a reason")
    assert ours.why_down() == "a reason"
    assert ours._sink.links == []  # it was never up


async def test_an_account_that_is_refused_is_told_once_a_minute_and_stays_up(lines, clock):
    ours = await a_link()
    ours.reached()
    lines.found.clear()
    refused = [Rejected("isv.OUT_OF_SERVICE", Cause.CONFIG, "channel.account")]
    ours.answered(Reply(200, {}, b""), refused)
    clock[0] += 59
    ours.answered(Reply(403, {}, b""), [])
    clock[0] += 1
    ours.answered(Reply(401, {}, b""), [])
    ours.answered(Reply(200, {}, b""), [Submitted("1")])
    assert [fields["status"] for _, fields in lines.found] == [200, 401]
    assert lines.found[0][1]["codes"] == ["isv.OUT_OF_SERVICE"]
    assert "check its keys" in lines.found[0][0]
    assert ours.is_up


async def test_a_reason_is_logged_when_it_is_new_and_then_once_a_minute(lines, clock):
    ours = await a_link()
    for wait, reason in ((0, "a"), (1, "a"), (1, "b"), (59, "b"), (1, "b")):
        clock[0] += wait
        ours.unreached(reason)
        ours._tell_down()
    assert [fields["reason"] for _, fields in lines.found] == ["a", "b", "b"]
    assert {event for event, _ in lines.found} == {"channel cannot hold a session"}


class Door:
    """A vendor that is there or not; how often it was looked for."""

    def __init__(self):
        self.failed = None
        self.looks = 0

    async def reach(self, url):
        self.looks += 1
        return self.failed


async def test_a_vendor_that_went_away_while_nothing_was_sent_is_found_down(lines):
    ours, door = await a_link(), Door()
    ours._policy = SessionPolicy(reconnect_min_s=0.001, reconnect_max_s=0.002)
    ours.start(door, "http://vendor.example")
    async with asyncio.timeout(10):
        while door.looks < 3:  # noqa: ASYNC110 – what another task does
            await asyncio.sleep(0)
        assert ours.is_up
        door.failed = Failed(Fail.UNREACHED, "a reason")
        while ours.is_up:  # noqa: ASYNC110 – the same
            await asyncio.sleep(0)
        assert ours._sink.links == [(True, "connected"), (False, "a reason")]
        door.failed = None
        while not ours.is_up:  # noqa: ASYNC110 – the same
            await asyncio.sleep(0)
    await ours.stop()


async def test_an_answer_that_says_nothing_is_told_once_a_minute(lines, clock):
    ours = await a_link()
    for _ in range(3):
        ours.answered(Reply(500, {}, b"<html>"), [Uncertain("carrier.unknown_outcome")] * 2)
    clock[0] += REMIND_S
    ours.answered(Reply(200, {}, b""), [Submitted("id"), Uncertain("carrier.unknown_outcome")])
    told = [fields for event, fields in lines.found if "does not say" in event]
    assert [(one["status"], one["messages"]) for one in told] == [(500, 2), (200, 1)]


async def until(is_true):
    async with asyncio.timeout(5):
        while not is_true():  # noqa: ASYNC110 (nobody signals it, and the loop's turns are the wait)
            await asyncio.sleep(0)


class Probed:
    """A client whose vendor is reached or not, and the moments of its probes."""

    def __init__(self, failed=None):
        self.failed, self.at = failed, []

    async def reach(self, url):
        self.at.append(asyncio.get_running_loop().time())
        return self.failed


async def test_an_idle_vendor_is_probed_and_found_dead_before_it_is_needed(lines):
    policy = SessionPolicy(probe_s=0.02, reconnect_min_s=0.01, reconnect_max_s=1.0)
    sink, client = FakeSink(), Probed()
    ours = Link(config.Channel(7, "cloud", "http", {}), sink, policy, lambda: 0.5)
    ours.start(cast("Client", client), "https://vendor.example")
    await until(lambda: len(client.at) >= 3)
    assert len(ours.probes_s) >= 3
    client.failed = Failed(Fail.UNREACHED, "refused")
    await until(lambda: not ours.is_up)
    assert sink.links[-1] == (False, "refused")
    assert ours.failures == FAILURES
    client.failed = None
    await until(lambda: ours.is_up)
    await ours.stop()


@pytest.mark.parametrize(("dice", "wait_s"), [(0.0, 8.0), (0.5, 10.0), (1.0, 12.0)])
async def test_probes_of_many_processes_do_not_come_together(monkeypatch, dice, wait_s):
    waited = []

    async def pause(event, timeout_s):
        waited.append(timeout_s)
        return True

    monkeypatch.setattr(link, "_pause", pause)
    ours = Link(
        config.Channel(7, "cloud", "http", {}), FakeSink(), SessionPolicy(probe_s=10), lambda: dice
    )
    ours.reached()
    await ours._has_fallen(cast("Client", Probed()), "https://vendor.example")
    assert waited == [pytest.approx(wait_s)]
