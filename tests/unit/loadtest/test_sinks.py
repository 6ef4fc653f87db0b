"""The sinks that misbehave, and the judge of what arrived at them."""

from __future__ import annotations

import time
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from loadtest.campaign.traffic import FIRST
from loadtest.sinks import report
from loadtest.sinks.cast import Part, Remedy, cast
from loadtest.sinks.course import Outcome
from loadtest.sinks.judge import Bodies, Heard, Seen, judge, number_of
from loadtest.sinks.manners import ELSEWHERE, Act, Cut, Manner
from loadtest.sinks.receiver import Request
from loadtest.sinks.signed import BOTH, NEW, NONE, OLD, Secrets
from webhooks import sign

N = FIRST + 1
OTHER = FIRST + 2


def event(number: int, n: int = N, status: str = "delivered", **data):
    of = {
        "id": f"msg_{n}",
        "to": f"+{number_of(n)[:5]}****{number_of(n)[-4:]}",
        "status": status,
        "sequence": number,
        "metadata": {"n": str(n)},
    }
    return {
        "id": f"evt_{number:016x}",
        "type": f"message.{status}",
        "timestamp": "2026-11-22T00:00:00Z",
        "data": {**of, **data},
    }


PULLED = [event(2, status="submitted"), event(3), event(4, OTHER, "submitted")]
VIEWS = {
    f"msg_{N}": {"status": "delivered", "sequence": 3},
    f"msg_{OTHER}": {"status": "submitted", "sequence": 4},
}


def heard(part=None, events=PULLED, **fields):
    requests = [Request(1000.0, 1, OLD, 200, True) for _ in events]
    made = Heard(
        part or Part("single"),
        requests,
        {one["id"]: one for one in events},
        {one["id"]: 1 for one in events},
        by_itself=len(events),
    )
    return replace(made, **fields)


def seen(*who, **fields):
    owed = {(one["data"]["id"], one["data"]["sequence"]) for one in PULLED}
    made = Seen(who or (heard(),), PULLED, [one["id"] for one in PULLED], owed, VIEWS)
    return replace(made, **fields)


def broken(what) -> list[str]:
    return [check.name for check in judge(what) if check.is_good is False]


# -- the judge ---------------------------------------------------------------------------------


def test_where_everything_arrived_nothing_is_wrong():
    assert broken(seen()) == []


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"pulled": PULLED[1:]}, "in the store and not in the pull"),
        ({"owed": set()}, "in the pull and not in the store"),
        ({"pulled": [*PULLED[::-1]]}, "out of order, or twice"),
        ({"pulled": [*PULLED, PULLED[-1]]}, "out of order, or twice"),
        ({"followed": ["evt_0000000000000002"]}, "missed by who reads on all the while"),
        (
            {"followed": [one["id"] for one in PULLED + PULLED]},
            "got twice by who reads on all the while",
        ),
        ({"knocks": 1}, "connections to where a redirect led"),
        ({"strangers": {"169.254.169.254"}}, "addresses outside this machine that were called"),
        ({"trouble": ["kill.worker: was not there"]}, "not done: kill.worker: was not there"),
    ],
)
def test_what_is_wrong_with_the_pull_or_the_run_is_told(fields, what):
    assert what in broken(seen(**fields))


@pytest.mark.parametrize(
    ("one", "what"),
    [
        (heard(events=PULLED[:2]), "events lost"),
        (heard(events=PULLED[:2]), "ends otherwise than GET says"),
        (heard(events=[PULLED[0], PULLED[2]]), "ends otherwise than GET says"),
        (heard(events=[*PULLED, event(9)]), "events nobody pulled"),
        (heard(by_itself=2), "arrived without help"),
        (heard(forgotten=["evt_1"]), "neither arrived nor parked"),
        (heard(faults={"a whole number": 1}), "bodies"),
        (heard(requests=[Request(1.0, 1, NONE)]), "signed with neither secret"),
        (heard(rotated_at=900.0), "signed with both secrets"),
        (heard(rotated_at=900.0), "the old secret alone, long after the rotation"),
        (
            heard(rotated_at=900.0, requests=[Request(901.0, 1, NEW), Request(902.0, 1, BOTH)]),
            "the new secret alone, in the overlap",
        ),
    ],
)
def test_what_is_wrong_with_a_sink_is_told(one, what):
    assert f"single: {what}" in broken(seen(one))


def test_a_filter_asks_for_its_share_and_a_help_that_was_needed_is_no_fault():
    finals = heard(Part("finals", events=("message.delivered",)), [PULLED[1]])
    helped = heard(Part("fails", remedy=Remedy.EVENTS), by_itself=0)
    assert broken(seen(finals, helped)) == []


def test_each_manner_must_have_shown_itself():
    parts = {part.name: part for part in cast("http://127.0.0.1:9/door")}
    for name, codes in (
        ("hangs", ["webhook.timeout"]),
        ("redirects", ["webhook.redirect_refused"]),
        ("cuts", ["webhook.connection_lost"]),
        ("slow", ["webhook.delivered"]),
        ("gone", ["webhook.gone"]),
    ):
        attempts = [{"code": code, "ms": 14_010} for code in codes]
        told: dict[str, Any] = {"enabled": False, "disabled_reason": "gone", "dead_letters": 1}
        one = heard(parts[name], attempts=attempts, told=told)
        assert broken(seen(one, audited=1)) == [], name
        silent = replace(one, attempts=())
        assert broken(seen(silent, audited=1)), name
    gone = heard(parts["gone"], attempts=[{"code": "webhook.gone"}])
    for half in ({"enabled": True}, {"disabled_reason": "gone"}):
        assert broken(seen(replace(gone, told=half), audited=1))
    busy = {"enabled": False, "disabled_reason": "gone", "requests_while_disabled": 2}
    assert broken(seen(replace(gone, told=busy), audited=1)) == [
        "gone: requests while it was disabled"
    ]


def test_bodies_are_looked_at():
    def faults(one, webhook_id=None, *, full_number=False, is_batch=False):
        bodies = Bodies(full_number=full_number, is_batch=is_batch)
        bodies.see({"webhook-id": webhook_id or one["id"]}, one)
        return list(bodies.faults)

    whole = event(3, to=f"+{number_of(N)}")
    assert faults(event(3)) == faults(whole, full_number=True) == []
    assert faults(event(3), "whb_1", is_batch=True) == []
    assert len(faults(whole)) == 2
    assert faults(event(3), full_number=True)
    assert faults(event(3, client_ref=number_of(N)))
    assert faults(event(3, client_ref=f"第{N}号"))
    assert faults(event(3), "evt_0")
    assert faults(event(3), is_batch=True)
    assert faults({**event(3), "type": "message.failed"})
    phone = {"id": "evt_1", "type": "inbound.received", "data": {"from": "+8613900000001"}}
    assert faults(phone)
    assert faults(phone, full_number=True) == []


# -- the sinks ---------------------------------------------------------------------------------


def test_manners_keep_their_shares():
    dice = Random(1)
    cuts = [Manner(cut_asked=0.2, cut_answering=0.3).act(0, dice).cut for _ in range(2000)]
    assert 300 < cuts.count(Cut.ASKED) < 500
    assert 500 < cuts.count(Cut.ANSWERING) < 700
    fails = [Manner(fail_share=0.3, statuses=(500, 503)).act(0, dice) for _ in range(2000)]
    assert 500 < sum(not act.is_taken for act in fails) < 700
    assert {act.status for act in fails} == {200, 500, 503}
    assert Manner(hangs=True).act(0, dice).status is None
    assert [Manner(gone_after=1).act(n, dice).status for n in (0, 1)] == [200, 410]
    act = Manner(locations=ELSEWHERE).act(0, dice)
    assert 300 < (act.status or 0) < 309
    assert act.location in ELSEWHERE
    assert not act.is_taken
    assert not Act(200, cut=Cut.ASKED).is_taken
    assert Act(200, cut=Cut.ANSWERING).is_taken


def test_whose_signature_it_is_says_the_independent_library():
    (old, old_key), (new, new_key) = sign.new_secret(), sign.new_secret()
    secrets = Secrets()
    secrets.given(old)

    def said(*keys: bytes, body: bytes = b"{}") -> str:
        moment = int(time.time())
        return secrets.check(dict(sign.headers(keys, "evt_1", moment, b"{}")), body)

    assert said(old_key) == said(new_key, old_key) == OLD
    assert said(new_key) == said(old_key, body=b"[]") == NONE
    secrets.given(new)
    assert (said(old_key), said(new_key), said(new_key, old_key)) == (OLD, NEW, BOTH)


# -- the report --------------------------------------------------------------------------------


def test_the_report_names_what_is_broken_and_needs_nothing_from_elsewhere():
    outcome = Outcome(7, 10, ["kill.worker"], judge(seen()), [(1.0, "kill.<x>")], {"a": [1, 2]})
    assert "passed" in report.html(outcome)
    outcome.checks = judge(seen(knocks=1))
    page = report.html(outcome)
    assert "FAILED" in page
    assert "kill.&lt;x&gt;" in page
    assert page.count("<svg") == 1
    assert report.as_json(outcome)["problems"] == ["connections to where a redirect led: 1: 1"]
    assert report.table(outcome).row_count == len(outcome.checks)
    assert "1 of " in report.sentence(outcome)
