"""Simulated carriers of SGIP and SMGP, without sockets: our sessions talk to them through bytes."""

import json
from dataclasses import replace
from typing import Any

import pytest

from adapters.session import Ended, Received, Reported
from adapters.sgip.session import Common
from adapters.smgp import pdu as smgp_pdu
from loadtest.behaviour import Behaviour
from loadtest.phone import PhoneText
from loadtest.record import Record
from loadtest.server import Side
from loadtest.sgip_server import SgipCaller, SgipSide
from loadtest.smgp_server import SmgpSide
from loadtest.smsc import Smsc
from loadtest.wheel import Wheel
from sms.concatenation import join
from sms.model import SegmentMark
from sms.outcomes import Cause, Rejected, Submitted, Throttled
from tests.support import sgip, smgp
from tests.support.smpp import a_message, outcomes, some_submits, submits_of
from tests.unit.loadtest.test_smsc import FakeClock


class World:
    """One carrier and its connections, their bytes carried by hand."""

    def __init__(self, tmp_path, side: Side, system_id: str, password: str, **behaviour: Any):
        self.clock = FakeClock()
        self.path = tmp_path / "record.jsonl"
        self.smsc = Smsc(
            name="carrier",
            side=side,
            system_id=system_id,
            password=password,
            window=0,
            record=Record(self.path),
            wheel=Wheel(self.clock, lambda: None),
            behaviour=Behaviour(**({"latency_ms": 0, "receipt_delay_ms": 0} | behaviour)),
        )
        self.links: list[tuple[Any, Any]] = []

    def add(self, ours, theirs=None):
        """Join a session of ours to one of the carrier's."""
        self.links.append((ours, theirs or self.smsc.side.session()))

    def carry(self):
        """Move bytes both ways until nothing is left; what our sessions saw."""
        events = []
        is_moving = True
        while is_moving:
            is_moving = False
            for ours, theirs in self.links:
                data = ours.to_send()
                if data:
                    self.smsc.receive(theirs, data, 0.0)
                back = theirs.to_send()
                if back:
                    events += ours.receive(back, 0.0)
                is_moving |= bool(data or back)
        return events

    def lines(self):
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]


def sgip_world(tmp_path, **behaviour):
    """(world, our session to the SMG, the SMG's to us), both logged in."""
    world = World(tmp_path, SgipSide(), "fakename", "1234", **behaviour)
    common = Common()
    session, guest = sgip.a_session(64, common=common), sgip.a_guest(common)
    session.connected(0.0)
    caller = SgipCaller("fakename", "1234")
    caller.connected()
    world.add(session)
    world.add(guest, caller)
    world.carry()
    assert caller.may_deliver
    world.smsc.joined(caller)
    return world, session, guest


def smgp_world(tmp_path, *modes: int, **behaviour):
    """(world, our sessions), logged in."""
    world = World(tmp_path, SmgpSide(), "10690001", "888888", **behaviour)
    sessions = [smgp.a_session(64, mode=mode) for mode in modes or (smgp_pdu.MODE_BOTH,)]
    for session in sessions:
        session.connected(0.0)
        world.add(session)
    world.carry()
    return world, *sessions


def taken_of(events):
    """The outcomes, each of which must be an accepted submit."""
    found = outcomes(events)
    assert all(isinstance(outcome, Submitted) for outcome in found)
    return [outcome for outcome in found if isinstance(outcome, Submitted)]


def reports(events):
    return [report for event in events if isinstance(event, Reported) for report in event.reports]


def test_an_smgs_reports_come_over_its_own_connection(tmp_path):
    world, session, guest = sgip_world(tmp_path)
    session.submit(submits_of(a_message(segments=2)), 0.0)
    events = world.carry()
    taken = [submitted.carrier_id for submitted in taken_of(events)]
    assert [report.carrier_id for report in reports(events)] == taken
    assert {report.state for report in reports(events)} == {"DELIVRD"}
    assert [(row["index"], row["total"], row["text"]) for row in world.lines()] == [
        (1, 2, "你好"),
        (2, 2, "你好"),
    ]
    assert [row["carrier_id"] for row in world.lines()] == taken
    assert (world.smsc.sessions(), world.smsc.sessions(calls=True)) == (1, 1)
    guest.answer([report.token for report in reports(events)], accepted=True)
    world.carry()
    assert world.smsc.counts["reports_answered"] == 2


def test_an_smgws_reports_come_over_the_connection_that_receives(tmp_path):
    world, sender, receiver = smgp_world(tmp_path, smgp_pdu.MODE_SEND, smgp_pdu.MODE_RECEIVE)
    sender.submit(some_submits(2), 0.0)
    events = world.carry()
    taken = [submitted.carrier_id for submitted in taken_of(events)]
    assert [report.carrier_id for report in reports(events)] == taken
    assert {report.token[0] for report in reports(events)} == {receiver}
    assert [row["to"] for row in world.lines()] == ["13800138000"] * 2
    receiver.answer([report.token for report in reports(events)], accepted=False)
    world.carry()
    assert world.smsc.counts["reports_again"] == 2


@pytest.mark.parametrize("make", [sgip_world, smgp_world])
@pytest.mark.parametrize(
    ("switch", "kind", "cause"),
    [("throttle_share", Throttled, None), ("failure_share", Rejected, Cause.CHANNEL)],
)
def test_the_switches_do_what_they_say(tmp_path, make, switch, kind, cause):
    world, session, *_ = make(tmp_path, **{switch: 1.0})
    world.smsc.behaviour = replace(world.smsc.behaviour, failure_status=world.smsc.side.failure)
    session.submit(some_submits(1), 0.0)
    [outcome] = outcomes(world.carry())
    assert isinstance(outcome, kind)
    assert getattr(outcome, "cause", None) == cause


@pytest.mark.parametrize("make", [sgip_world, smgp_world])
def test_a_report_may_say_no(tmp_path, make):
    world, session, *_ = make(tmp_path, undelivered_share=1.0)
    session.submit(some_submits(1), 0.0)
    events = world.carry()
    assert isinstance(outcomes(events)[0], Submitted)
    [report] = reports(events)
    assert (report.state, report.error.lstrip("0")) in [("UNDELIV", "29"), ("UNDELIV", "3")]


@pytest.mark.parametrize("make", [sgip_world, smgp_world])
def test_a_report_may_say_first_that_it_waits(tmp_path, make):
    world, session, *_ = make(tmp_path, report_quirk="accepted_first")
    session.submit(some_submits(1), 0.0)
    assert [report.state for report in reports(world.carry())] == ["ACCEPTD", "DELIVRD"]


def texts(events):
    return [text for event in events if isinstance(event, Received) for text in event.texts]


def from_a_phone(tmp_path, make):
    """(world, the connection of ours that brings reports and texts)."""
    world, *sessions = make(tmp_path)
    return world, sessions[-1]


@pytest.mark.parametrize("make", [sgip_world, smgp_world])
def test_a_phones_text_comes_in_and_is_answered(tmp_path, make):
    world, ours = from_a_phone(tmp_path, make)
    for words in ("退订", "TD 回复", "@ $ {£}"):
        assert world.smsc.phone(PhoneText("8613800138000", "10690001", words)) == 1
    found = texts(world.carry())
    assert [(one.number, one.to, one.text) for one in found] == [
        ("8613800138000", "10690001", words) for words in ("退订", "TD 回复", "@ $ {£}")
    ]
    assert len({one.carrier_id for one in found}) == 3
    assert world.smsc.counts["reports_answered"] == 0
    ours.answer([one.token for one in found], accepted=True)
    world.carry()
    assert world.smsc.counts["reports_answered"] == 3
    assert world.smsc.waiting() == 0


@pytest.mark.parametrize("make", [sgip_world, smgp_world])
@pytest.mark.parametrize(("long", "bits"), [("udh8", 8), ("udh16", 16), ("sar", 8)])
def test_a_phones_long_text_comes_in_segments_that_say_their_place(tmp_path, make, long, bits):
    world, _ = from_a_phone(tmp_path, make)
    words = "长短信😀" * 38
    text = PhoneText("8613800138000", "10690001", words, long, 7, (3, 1, 2))
    assert world.smsc.phone(text) == 3
    found = texts(world.carry())
    assert [one.mark for one in found] == [SegmentMark(7, 3, n, bits) for n in (3, 1, 2)]
    assert join({one.mark.number: one.text for one in found}, 3) == words


@pytest.mark.parametrize("make", [sgip_world, smgp_world])
def test_a_phones_text_that_is_not_taken_comes_again_under_the_same_id(tmp_path, make):
    world, ours = from_a_phone(tmp_path, make)
    world.smsc.phone(PhoneText("8613800138000", "10690001", "TD"))
    [first] = texts(world.carry())
    ours.answer([first.token], accepted=False)
    assert texts(world.carry()) == []
    world.clock.run(2.0)
    [second] = texts(world.carry())
    assert (second.carrier_id, second.text) == (first.carrier_id, "TD")
    ours.answer([second.token], accepted=True)
    world.carry()
    assert world.smsc.counts["reports_answered"] == 1


@pytest.mark.parametrize(
    ("side", "session"),
    [
        (SgipSide(), sgip.a_session(password="wrong")),
        (SgipSide(), sgip.a_session(login_name="other")),
        (SmgpSide(), smgp.a_session(shared_secret="wrong")),
        (SmgpSide(), smgp.a_session(client_id="other")),
    ],
)
def test_a_wrong_login_is_refused(tmp_path, side, session):
    known = ("fakename", "1234") if side.name == "sgip" else ("10690001", "888888")
    world = World(tmp_path, side, *known)
    session.connected(0.0)
    world.add(session)
    [ended] = world.carry()
    assert isinstance(ended, Ended)
    assert "refused" in ended.reason
    assert world.smsc.counts["binds_refused"] == 1
