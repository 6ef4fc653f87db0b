"""What a process counts for canaries: which segments, in which slot; and nothing without one."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import cast

import pytest

from failover.canary import CanaryPolicy, Check, Counts, gate
from gateway.canaries import KEPT_S, Canaries, Meter
from gateway.canary_judge import bearing, canary_policy
from gateway.settings import Reliability
from sms.config import Canary, CanaryState, Route, Snapshot
from sms.model import Carrier, Submit
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Throttled, Uncertain
from store.canaries import CanaryStore, Slot
from telemetry.metrics import Metrics
from tests.support.flow_kit import UNIX, Kit

NOON = 1_800_000_000 // 3600 * 3600  # a full hour
BUSY = Rejected("8", Cause.CHANNEL, "carrier.system_error")
ABSENT = Rejected("13", Cause.NUMBER, "number.absent")


def canary(since: float = NOON, number: int = 1, channels: tuple[int, ...] = (2, 1)) -> Canary:
    return Canary(number, f"try{number}", 1, channels, 5, CanaryState.RUNNING, since)


def snapshot(*canaries: Canary) -> Snapshot:
    return Snapshot(routes=(Route(1, 0, None, None, 0, (1, 3)),), canaries=canaries)


class Kept(CanaryStore):
    """The store, in memory."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []

    async def add(self, process: int, life: int, slots: Collection[Slot]) -> None:
        assert (process, life) == (4, 7)
        self.slots += slots


class Desk:
    """Canaries of one process, on a clock by hand."""

    def __init__(self) -> None:
        self.now = float(NOON)
        self.kept = Kept()
        self.metrics = Metrics()
        self.canaries = Canaries(
            store=self.kept,
            process=4,
            life=7,
            step_s=600.0,
            metrics=self.metrics,
            unix=lambda: self.now,
        )

    def meter(self, channel: int = 2) -> Meter:
        return self.canaries.meters[channel]

    async def flushed(self) -> dict[int, tuple[int, ...]]:
        """By slot, seconds after noon: the sums of the candidate."""
        self.kept.slots.clear()
        await self.canaries.flush()
        return {one.slot - NOON: one.sums for one in self.kept.slots if one.channel == 2}


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.canaries.reconfigure(snapshot(canary()))
    return made


def test_the_settings_are_the_numbers_of_the_policy() -> None:
    assert canary_policy(Reliability()) == CanaryPolicy()
    assert canary_policy(Reliability(), {"failure_share": 0.01, "of_later": 1}) == CanaryPolicy(
        failure_share=0.01
    )


def test_candidate_and_primary_are_counted_and_nobody_else(desk: Desk) -> None:
    assert sorted(desk.canaries.meters) == [1, 2]
    kept = desk.meter()
    desk.canaries.reconfigure(snapshot(canary(NOON + 700)))
    assert desk.meter() is kept  # a step: what was counted stays
    desk.canaries.reconfigure(snapshot(canary(number=2)))
    assert desk.meter() is not kept
    desk.canaries.reconfigure(snapshot())
    assert desk.canaries.meters == {}


def test_the_share_of_the_live_ones_is_shown(desk: Desk) -> None:
    desk.metrics.snapshot()
    assert desk.metrics.canary_share.values == {("try1",): 5}
    desk.canaries.reconfigure(snapshot())
    desk.metrics.snapshot()
    assert desk.metrics.canary_share.values == {}


def burst(kit: Kit, outcome: Outcome, count: int = 3, waited_s: float = 0.2) -> None:
    """So many segments leave over channel 2 and are answered."""
    kit.dispatcher.put([kit.message() for _ in range(count)])
    kit.events.flush()
    kit.clock.now += waited_s
    waiting, kit.channels[1].open = kit.channels[1].open, []
    kit.dispatcher.heard(1, [(one, outcome) for one in waiting])


async def test_the_dispatcher_counts_as_the_health_does() -> None:
    kit, desk = Kit(channels=1), Desk()
    kit.dispatcher.meters = desk.canaries.meters
    desk.now = UNIX + kit.clock.now
    burst(kit, Submitted("x"))  # no canary yet
    desk.canaries.reconfigure(snapshot(canary(desk.now - 60, channels=(1,))))
    burst(kit, Submitted("x"))
    burst(kit, BUSY)
    burst(kit, ABSENT)
    burst(kit, Throttled(1.0, "8"))
    burst(kit, Uncertain("timeout"), 1, 60.0)
    kit.dispatcher.receipted(1, Carrier.CM, 5, 2, 1.0)
    desk.canaries.opted_out(1, 1)
    desk.canaries.opted_out(9, 1)
    await desk.canaries.flush()
    sums = [sum(column) for column in zip(*(one.sums for one in desk.kept.slots), strict=True)]
    assert sums == [10, 8, 3, 5, 2, 1]  # submits, failed halves, taken, delivered, not, opted out
    assert sum(sum(one.answers) for one in desk.kept.slots) == 10


async def test_a_receipt_counts_in_the_minute_of_its_submit(desk: Desk) -> None:
    desk.now = NOON + 130
    desk.meter().receipted(1, 0, 5.0)
    desk.meter().receipted(0, 1, 75.0)
    desk.meter().receipted(1, 0, 200.0)  # before the canary began
    assert await desk.flushed() == {0: (0, 0, 0, 0, 1, 0), 120: (0, 0, 0, 1, 0, 0)}
    assert await desk.flushed() == {}  # nothing new


async def test_totals_are_brought_not_what_was_added(desk: Desk) -> None:
    for wanted in (1, 2):
        desk.meter().receipted(1, 0, 0.0)
        assert await desk.flushed() == {0: (0, 0, 0, wanted, 0, 0)}


async def test_after_two_hours_of_a_step_slots_are_hours(desk: Desk) -> None:
    for minutes in (119, 121, 190):
        desk.now = NOON + 60 * minutes
        desk.meter().receipted(1, 0, 0.0)
    assert sorted(await desk.flushed()) == [119 * 60, 7200, 3 * 3600]
    desk.canaries.reconfigure(snapshot(canary(desk.now)))  # its next step
    desk.now += 61
    desk.meter().receipted(1, 0, 0.0)
    assert sorted(await desk.flushed()) == [191 * 60]


async def test_a_week_is_kept(desk: Desk) -> None:
    desk.meter().receipted(1, 0, 0.0)
    desk.now += KEPT_S + 7200
    desk.meter().receipted(1, 0, 0.0)
    assert len(await desk.flushed()) == 1
    assert len(desk.meter()._slots) == 1


async def test_the_first_slot_of_a_step_begins_with_it(desk: Desk) -> None:
    """The judge takes slots from the begin of the step on: what is before it is in none of them."""
    desk.now = NOON + 1000.4
    desk.canaries.reconfigure(snapshot(canary(desk.now)))
    for later in (-0.1, 0.7, 60.0, 60.7):
        desk.now = NOON + 1000.4 + later
        desk.meter().receipted(1, 0, 0.0)
    slots = sorted(await desk.flushed())
    assert slots[-2:] == [1001, 1061]
    assert len(slots) == 3
    assert slots[0] < 1000.4


async def test_an_answer_counts_in_the_minute_of_its_submit(desk: Desk) -> None:
    desk.now = NOON + 70
    submit = cast("Submit", SimpleNamespace(sent_at=985.0))  # nothing else of it matters
    desk.meter().answered([(submit, Submitted("x"))], 1000.0)
    assert await desk.flushed() == {0: (1, 0, 1, 0, 0, 0)}


async def test_what_a_lost_link_swallowed_counts_as_failed(desk: Desk) -> None:
    """For a breaker it is one link error; a candidate that falls every minute is no good one."""
    desk.now = NOON + 10
    submit = cast("Submit", SimpleNamespace(sent_at=999.0))  # nothing else of it matters
    lost = [(submit, Uncertain("channel.link_lost"))] * 2 + [(submit, Uncertain("process.lost"))]
    desk.meter().answered(lost, 1000.0)
    assert await desk.flushed() == {0: (2, 4, 0, 0, 0, 0)}


@pytest.mark.parametrize(
    ("state", "is_up", "causes", "both", "check", "why"),
    [
        ("active", True, [], False, Check.GOOD, ""),
        ("paused", True, ["slow"], False, Check.UNCLEAR, "channel c is paused"),
        ("draining", False, [], False, Check.UNCLEAR, "channel c is draining"),
        ("active", False, [], False, Check.UNCLEAR, "channel c has no session"),
        ("active", False, ["link", "link"], False, Check.BAD, "channel c is left (link)"),
        ("active", True, ["slow"], True, Check.UNCLEAR,
         "channel c is left (slow), and so is the baseline"),
    ],
)  # fmt: skip
def test_a_candidate_that_takes_nothing_now_is_not_good(
    state: str, is_up: bool, causes: list[str], both: bool, check: Check, why: str
) -> None:
    well = Counts(1000, 0, 1000, 950, 50, 0)
    well.answers[10] = 1000
    found = gate(CanaryPolicy(), well, well)
    assert found.check is Check.GOOD
    held = bearing("c", state, is_up=is_up, causes=causes, is_baseline_left=both)
    seen, words = held.on(found)
    assert (seen.check, words, seen.findings[-1].check) == (check, why, check)


def test_bad_figures_stay_bad_whatever_its_state() -> None:
    ill, well = Counts(1000, 0, 1000, 500, 500), Counts(1000, 0, 1000, 950, 50)
    found = gate(CanaryPolicy(), ill, well)
    paused = bearing("c", "paused", is_up=True, causes=[], is_baseline_left=False)
    seen, words = paused.on(found)
    assert (seen.check, words) == (Check.BAD, found.words())
    left = bearing("c", "active", is_up=True, causes=["slow"], is_baseline_left=False)
    assert left.on(found)[1] == f"channel c is left (slow); {found.words()}"
