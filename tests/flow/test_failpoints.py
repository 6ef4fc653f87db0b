"""Kill -9 at each named place of the path and of a carrier, and a COMMIT whose answer is lost.

Four carriers speak a protocol each: CMPP 3.0, SGIP 1.2, SMGP 3.0 and SMPP 3.4. One that is killed
breaks its links with submits open, and brings its last reports again when it is back.

Two gateways, one with one worker and one with three, each with half of the places: what they wait
for, they wait together. Texts flow all the time, and the next fault comes as soon as texts are
accepted again. The judge of `make campaign` decides: what got a 202 is at the carriers and at its
end, nothing is there twice unless it is marked, nothing scheduled is there before its hour, nothing
canceled at all, and the counts in the database add up.

SMSGW_TEST_SEED=N replays the order and the moments of a run.
"""

import asyncio
import os
import random

import pytest

from loadtest.campaign import faults, planning, report
from loadtest.campaign.course import Outcome, Plan, run
from loadtest.campaign.judge import Verdict
from loadtest.campaign.traffic import Rates
from telemetry.failpoints import POINTS

pytestmark = pytest.mark.flow

FIXED_SEED = 1  # one order in CI; `make campaign` rolls the dice

CUTS = ("cut.messages.answer", "cut.messages.request", "cut.events.answer")
CARRIER = "kill.carrier"
NAMES = (*{faults.fault_of(point): None for point in POINTS}, *CUTS, CARRIER)
AMONG_THREE = 14  # of those that one worker has as well, so that both take about as long
LEASE = {"lease_s": "6", "lease_renew_s": "1", "takeover_grace_s": "1"}  # a takeover waits for it


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> list[Outcome]:
    seed = int(os.environ.get("SMSGW_TEST_SEED", FIXED_SEED))
    chosen = planning.choose(",".join(NAMES), (3,))
    kinds = planning.schedule(chosen, sum(kind.kills for kind in chosen), random.Random(seed))
    # Webhooks that were refused come again after 5 s: that wait passes while the others are killed.
    kinds.sort(key=lambda kind: kind.name != "failpoint.notify.parked")
    several = [kind for kind in kinds if kind.workers > 1]
    one = [kind for kind in kinds if kind.workers == 1]
    rounds = [
        planning.Round(1, one[:-AMONG_THREE]),
        planning.Round(3, several + one[-AMONG_THREE:]),
    ]
    plans = [
        Plan(
            [some],
            seed + some.workers,
            pause_s=(0.0, 0.1),
            rates=Rates(singles=60, batches=2, batch=20),
            reliability=LEASE if some.workers > 1 else {},
            place="plain",
            most_hits=5,
        )
        for some in rounds
    ]
    print(f"seed {seed}")
    found = asyncio.run(both(plans))
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for outcome in found:
            print(f"\n{report.sentence(outcome)}")
    return found


async def both(plans: list[Plan]) -> list[Outcome]:
    return await asyncio.gather(*(run(plan, lambda *_: None) for plan in plans))


def of(outcomes: list[Outcome], name: str) -> Verdict:
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts]
    [found] = [verdict for verdict in verdicts if verdict.fault.name == name]
    return found


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_there_loses_nothing_and_doubles_nothing_unmarked(outcomes, point):
    verdict = of(outcomes, faults.fault_of(point))
    assert verdict.fault.problems == []  # it was reached, and the gateway came back
    assert verdict.fault.kills > 0
    assert verdict.examples == []
    assert verdict.is_good, verdict.as_json()


def test_a_carrier_that_dies_costs_nothing(outcomes):
    verdict = of(outcomes, CARRIER)
    assert verdict.fault.problems == []
    assert verdict.is_good, verdict.as_json()


@pytest.mark.parametrize("name", CUTS)
def test_a_connection_lost_in_commit_is_adopted_or_forgotten(outcomes, name):
    verdict = of(outcomes, name)
    assert verdict.is_good, verdict.as_json()
    assert verdict.fault.kills == 0
    # Nothing was killed and no session was lost: no answer of a carrier can be missing for it. What
    # was open before may be given up only now: a carrier that was killed is noticed by time-outs.
    assert verdict.fresh == 0, verdict.as_json()


def test_there_was_traffic_at_every_fault(outcomes):
    for outcome in outcomes:
        assert [verdict.fault.name for verdict in outcome.verdicts if not verdict.accepted] == []
        assert all(verdict.fault.law is not None for verdict in outcome.verdicts)
        assert outcome.total.marked > 0  # some were open when the process died
        assert outcome.total.scheduled > 0
        assert outcome.total.canceled > 0


def test_it_adds_up(outcomes):
    for outcome in outcomes:
        assert outcome.total.problems == []
        assert outcome.total.missing == 0
        assert outcome.total.unmarked == 0
        assert outcome.total.residual == 0
    assert sum(verdict.fault.kills for o in outcomes for verdict in o.verdicts) >= len(POINTS)
