"""A flood of reports: what is offered when, and what the judge of the figures sees."""

from dataclasses import replace

import pytest

from loadtest.behaviour import Behaviour
from loadtest.flood import ratios
from loadtest.floodjudge import LONGEST_MS, P99_MS, Seen, Sends, Stored, problems
from loadtest.measure import Spread
from loadtest.offering import Offering
from loadtest.smsc import OFFER_S
from tests.support.smpp import some_submits
from tests.unit.loadtest.test_smsc import World, reports

FAST = Spread(2.0, 5.0, 20.0, 600)
SENDS = Sends(accepted=600, refused=0, left=600, answer=FAST, wait=FAST)
STORED = Stored(
    messages=10_600,
    submitted=10_600,
    delivered=10_600,
    delivered_rows=10_600,
    elsewhere=5_300,
    parked_reports=0,
)
GOOD = Seen(
    accepted=10_600,
    stored=STORED,
    at_sink=10_600,
    told_twice=0,
    offered=10_600,
    answered=10_600,
    quiet={"otp": SENDS},
    flood={"otp": SENDS},
    metrics={"conservation_residual": 0.0, "quarantined_total{report}": 0.0},
)


# -- the rate ------------------------------------------------------------------------------


def test_as_many_may_leave_as_were_offered_by_now():
    offering = Offering(1000, began=50.0)
    assert (offering.room(50.0), offering.room(50.1)) == (0, 100)
    offering.leave(80)
    assert offering.room(50.1) == 20
    assert offering.room(51.0) == 920  # behind, and not forgotten
    offering.leave(-30)  # a session was lost with them
    assert offering.room(50.1) == 50


def test_a_wait_counts_from_when_a_report_was_offered():
    offering = Offering(100, began=0.0)
    assert offering.waits_ms() == {"p50": 0.0, "p99": 0.0, "maximum": 0.0}
    offering.take(99, now=1.0)  # offered between 0.01 and 0.99: half a second on average
    offering.take(1, now=3.0)  # offered at 1.0
    waits = offering.waits_ms()
    assert waits["p50"] == pytest.approx(500, rel=0.06)
    assert waits["p99"] == waits["p50"]
    assert waits["maximum"] == pytest.approx(2000, rel=0.06)


def test_held_reports_leave_at_the_rate_once_they_may(tmp_path):
    world = World(tmp_path, reports_held=True)
    client, _ = world.client()
    client.submit(some_submits(50), 0.0)
    world.carry()
    assert world.smsc.waiting() == 50

    before, world.smsc.behaviour = world.smsc.behaviour, Behaviour(reports_per_s=86_400_000)
    world.smsc.changed(before)
    world.clock.run(3 * OFFER_S)
    told = reports(world.carry())
    client.answer([report.token for report in told], accepted=True)
    world.carry()
    assert len(told) == 50
    assert world.smsc.offering is not None
    assert world.smsc.offering.answered == 50


def test_a_rate_of_nothing_lets_none_leave_before_its_time(tmp_path):
    world = World(tmp_path, reports_held=True)
    client, _ = world.client()
    client.submit(some_submits(50), 0.0)
    world.carry()
    before, world.smsc.behaviour = world.smsc.behaviour, Behaviour(reports_per_s=1)
    world.smsc.changed(before)
    assert len(reports(world.carry())) <= 1
    before, world.smsc.behaviour = world.smsc.behaviour, Behaviour()
    world.smsc.changed(before)  # as they come
    assert world.smsc.waiting() == 0
    assert world.smsc.offering is None


# -- the judge -----------------------------------------------------------------------------


def test_nothing_is_wrong_with_a_flood_that_was_taken():
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stored": replace(STORED, delivered=10_599, delivered_rows=10_599)}, "reports lost"),
        ({"stored": replace(STORED, delivered_rows=10_601)}, "more than once"),
        ({"stored": replace(STORED, submitted=10_599)}, "never submitted"),
        ({"stored": replace(STORED, parked_reports=1)}, "nobody found"),
        ({"stored": replace(STORED, elsewhere=100)}, "not half of them"),
        ({"accepted": 10_601}, "accepted and not stored"),
        ({"at_sink": 10_599}, "did not hear of"),
        ({"told_twice": 1}, "twice"),
        ({"answered": 10_599}, "not answered"),
        ({"flood": {"otp": replace(SENDS, left=599)}}, "never left"),
        ({"quiet": {"otp": replace(SENDS, refused=1)}}, "refused"),
        ({"metrics": {"conservation_residual": -1.0}}, "-1 in conservation_residual"),
        ({"metrics": {"quarantined_total{report}": 2.0}}, "2 in quarantined_total"),
    ],
)
def test_each_fault_is_named(change, words):
    [problem] = problems(replace(GOOD, **change))
    assert words in problem


@pytest.mark.parametrize(
    ("field", "spread", "words"),
    [
        ("wait", replace(FAST, p99=P99_MS["otp"] + 1), "p99 from accept to submit"),
        ("wait", replace(FAST, maximum=LONGEST_MS + 1), "longest from accept to submit"),
        ("answer", replace(FAST, maximum=LONGEST_MS + 1), "longest until the 202"),
    ],
)
def test_sends_that_wait_too_long_were_starved(field, spread, words):
    [problem] = problems(replace(GOOD, flood={"otp": replace(SENDS, **{field: spread})}))
    assert "starved" in problem
    assert words in problem
    # before the flood the machine is measured, not the gateway
    assert problems(replace(GOOD, quiet={"otp": replace(SENDS, **{field: spread})})) == []


def test_figures_are_compared_with_those_that_were_kept():
    now = {"drained_per_second": 12_000.0, "answered_per_second": 9.0, "cpu_us": {"worker": 30.0}}
    assert ratios(now, {"drained_per_second": 10_000.0, "cpu_us": {"worker": 40.0}}) == {
        "drained_per_second": 1.2,
        "worker": 0.75,
    }
    assert ratios(now, {}) == {}
