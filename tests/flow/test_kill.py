"""The proof: kill -9 of the worker and of PostgreSQL while 200 texts a second flow.

They go to four networks, a quarter over each protocol: CMPP 3.0, SGIP 1.2, SMGP 3.0 and SMPP 3.4.

The carriers' own records judge. What got a 202 is never missing; a text is at the carriers twice
only where the message is marked, and then the dead worker's journal shows that it was sent and
that no answer was known.

SMSGW_TEST_SEED=N replays the moments of a run, SMSGW_TEST_KILLS=N sets how many kills of each.
"""

import asyncio
import os
from itertools import pairwise

import pytest

from sms.model import FINAL_STATES, State
from tests.support.campaign import Json, Plan, Verdict, run_both
from tests.support.gateway_process import GatewayProcess

pytestmark = pytest.mark.flow

FIXED_SEED = 1  # one order in CI; `make campaign` rolls the dice

KINDS = ("worker", "postgres")
PRIMARIES = ("mobile-a", "unicom-a", "telecom-a", "global-a")
KILLS = int(os.environ.get("SMSGW_TEST_KILLS", "7"))
CAMPAIGN_KILLS = 40
# A long way to the carrier and back, so that something is open at every moment, and submits that
# the carrier says it did not take, so that some are tried again.
ROUGH = {
    "latency_ms": 40, "receipt_delay_ms": 400, "failure_share": 0.02, "throttle_share": 0.03,
}  # fmt: skip
BEHAVIOUR: dict[str, Json] = {"worker": ROUGH, "postgres": ROUGH}


def run(kills: int) -> dict[str, Verdict]:
    seed = int(os.environ.get("SMSGW_TEST_SEED", FIXED_SEED))
    print(f"seed {seed}")
    with GatewayProcess() as first, GatewayProcess() as second:
        plans = [
            (gateway, Plan(kind, kills, seed + number, BEHAVIOUR[kind]))
            for number, (gateway, kind) in enumerate(zip((first, second), KINDS, strict=True))
        ]
        verdicts = asyncio.run(run_both(plans))
    return {verdict.kind: verdict for verdict in verdicts}


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> dict[str, Verdict]:
    found = run(KILLS)
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for verdict in found.values():
            print(f"\n{verdict.table()}")
    return found


@pytest.fixture(params=KINDS)
def verdict(verdicts: dict[str, Verdict], request: pytest.FixtureRequest) -> Verdict:
    return verdicts[request.param]


# -- what must hold, for both kinds and for the long campaign too ------------------------------


def kills_hit_a_running_gateway(verdict: Verdict) -> None:
    accepted = [0, *(kill.accepted for kill in verdict.kills), len(verdict.accepted)]
    assert all(before < after for before, after in pairwise(accepted))
    assert sum(kill.in_flight for kill in verdict.kills) > 10 * len(verdict.kills)


def every_protocol_was_at_work(verdict: Verdict) -> None:
    taken = [verdict.taken[name] for name in PRIMARIES]
    assert min(taken) > sum(verdict.taken.values()) / 10


def nothing_accepted_is_missing(verdict: Verdict) -> None:
    accepted = verdict.accepted
    assert len(accepted) == sum(text.message_id is not None for text in verdict.texts)
    assert verdict.views.keys() == accepted.keys()
    wrong = {
        message_id: (view["status"], view["reason"])
        for message_id, view in verdict.views.items()
        if view["status"] != "delivered" and message_id not in verdict.held
    }
    assert wrong == {}
    missing = [
        text
        for message_id, text in accepted.items()
        if verdict.views[message_id]["status"] == "delivered" and 0 in verdict.copies[text.number]
    ]
    assert missing == []


def only_policy_holds_and_only_what_was_open(verdict: Verdict) -> None:
    assert verdict.held <= verdict.opened
    assert {verdict.stored[message_id] for message_id in verdict.held} <= {State.UNCERTAIN}
    for message_id in verdict.held & verdict.views.keys():
        view = verdict.views[message_id]
        if view["class"] == "marketing":
            assert not view["duplicate_risk"]
        else:  # its one copy was open at a second kill: a third is never sent
            assert view["duplicate_risk"]
            assert sum(message_id in kill.opened for kill in verdict.kills) == 2


def copies_are_marked_and_were_open(verdict: Verdict) -> None:
    marked = verdict.marked
    ids = {event["data"]["metadata"]["n"]: m for m, (event, *_) in verdict.events.items()}
    twice = {
        text.n: verdict.copies[text.number]
        for text in verdict.texts
        if max(verdict.copies[text.number]) > 1
    }
    unmarked = {n: copies for n, copies in twice.items() if ids[str(n)] not in marked}
    assert unmarked == {}
    assert all(max(copies) == 2 for copies in twice.values())
    assert marked <= verdict.opened
    for kill in verdict.kills:
        assert len(kill.marked) <= len(kill.opened)
        if kill.recovered:
            assert kill.recovered["uncertain"] == len(kill.opened)
            assert kill.recovered["is_journal_present"]


def it_adds_up(verdict: Verdict) -> None:
    assert verdict.accepted.keys() <= verdict.stored.keys()
    finals = sum(state in FINAL_STATES for state in verdict.stored.values())
    assert finals + len(verdict.held) == len(verdict.stored)
    assert verdict.sums == (len(verdict.stored), finals)
    assert verdict.illegal_rows == 0
    assert verdict.illegal_transitions == 0
    assert verdict.quarantined == []


def every_end_was_told(verdict: Verdict) -> None:
    told = {
        (message_id, event["data"]["sequence"])
        for message_id, events in verdict.events.items()
        for event in events
    }
    assert verdict.owed - told == set()
    assert {message_id for message_id, _ in verdict.owed} == verdict.stored.keys()
    assert verdict.bad_signatures == 0


def test_the_kills_hit_a_gateway_at_work(verdict):
    kills_hit_a_running_gateway(verdict)
    assert len(verdict.kills) == KILLS
    every_protocol_was_at_work(verdict)


def test_nothing_that_got_a_202_is_missing(verdict):
    nothing_accepted_is_missing(verdict)


def test_what_is_held_is_held_by_policy_and_was_open(verdict):
    only_policy_holds_and_only_what_was_open(verdict)


def test_no_copy_is_unmarked_and_each_marked_one_was_open(verdict):
    copies_are_marked_and_were_open(verdict)


def test_a_kill_of_the_database_alone_leaves_nothing_uncertain(verdicts):
    verdict = verdicts["postgres"]
    if not any(kill.recovered for kill in verdict.kills):  # the worker lived on
        assert verdict.marked == set()
        assert verdict.held == set()


def test_it_adds_up(verdict):
    it_adds_up(verdict)


def test_the_tenant_was_told_of_every_end(verdict):
    every_end_was_told(verdict)


@pytest.mark.campaign
def test_a_long_campaign_on_rough_carriers():
    for verdict in run(CAMPAIGN_KILLS).values():
        print(verdict.table())
        kills_hit_a_running_gateway(verdict)
        every_protocol_was_at_work(verdict)
        nothing_accepted_is_missing(verdict)
        only_policy_holds_and_only_what_was_open(verdict)
        copies_are_marked_and_were_open(verdict)
        it_adds_up(verdict)
        every_end_was_told(verdict)
