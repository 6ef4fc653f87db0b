"""The simulated SMSC, without sockets: a client session talks to it through bytes."""

import json
import random
import time

import pytest

from adapters.session import SessionPolicy
from adapters.smpp import pdu
from adapters.smpp.session import Session
from adapters.smpp.settings import parse
from loadtest import smsc as smsc_module
from loadtest.behaviour import Behaviour
from loadtest.record import Record
from loadtest.server import segment_of
from loadtest.smpp_server import ServerSession, SmppSide
from loadtest.smsc import Smsc
from loadtest.wheel import Wheel
from sms.outcomes import Cause, NotSent, Rejected, Submitted, Throttled
from tests.support.smpp import SETTINGS, a_message, outcomes, some_submits, submits_of


class FakeClock:
    def __init__(self):
        self.now = 0.0
        self.calls = []

    def time(self):
        return self.now

    def call_at(self, when, callback, *args):
        self.calls.append((when, callback, args))

    def run(self, until):
        while self.calls and min(self.calls, key=lambda call: call[0])[0] <= until:
            call = min(self.calls, key=lambda call: call[0])
            self.calls.remove(call)
            self.now = max(self.now, call[0])
            call[1](*call[2])
        self.now = until


class World:
    """One SMSC and clients, their bytes carried by hand."""

    def __init__(self, tmp_path, window=0, **behaviour):
        self.clock = FakeClock()
        self.path = tmp_path / "record.jsonl"
        self.smsc = Smsc(
            name="carrier-a",
            side=SmppSide(),
            system_id="esme01",
            password="secret08",
            window=window,
            record=Record(self.path),
            wheel=Wheel(self.clock, lambda: None),
            behaviour=Behaviour(**{"latency_ms": 0, "receipt_delay_ms": 0, **behaviour}),
        )
        self.links = []

    def client(self, bind=pdu.BIND_TRANSCEIVER, **settings):
        client = Session(7, parse({**SETTINGS, **settings}), SessionPolicy(), 64, bind=bind)
        server = ServerSession()
        self.links.append((client, server))
        client.connected(self.clock.now)
        return client, self.carry()

    def carry(self):
        """Move bytes both ways until nothing is left; what the clients saw."""
        events = []
        is_moving = True
        while is_moving:
            is_moving = False
            for client, server in self.links:
                data = client.to_send()
                if data:
                    self.smsc.receive(server, data, self.clock.now)
                back = server.to_send()
                if back:
                    events += client.receive(back, self.clock.now)
                is_moving |= bool(data or back)
        return events

    def drop(self, client):
        link = next(link for link in self.links if link[0] is client)
        self.links.remove(link)
        self.smsc.lost(link[1])

    def lines_raw(self):
        return self.path.read_bytes().splitlines()

    def lines(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def reports(events):
    return [report for event in events for report in getattr(event, "reports", ())]


@pytest.mark.parametrize(
    ("settings", "code"),
    [({"password": "wrong"}, "0x0000000e"), ({"system_id": "x"}, "0x0000000f")],
)
def test_a_wrong_login_is_refused(world, settings, code):
    _, [ended] = world.client(**settings)
    assert code in ended.reason
    assert world.smsc.sessions() == 0


def test_a_pair_gets_answers_on_one_connection_and_reports_on_the_other(world):
    sender, _ = world.client(bind=pdu.BIND_TRANSMITTER)
    sender.submit(some_submits(2), 0.0)
    events = world.carry()
    assert [type(outcome) for outcome in outcomes(events)] == [Submitted, Submitted]
    assert reports(events) == []
    assert world.smsc.waiting() == 2  # a transmitter is no place for them
    receiver, events = world.client(bind=pdu.BIND_RECEIVER)
    assert len(reports(events)) == 2
    assert (sender.free(), receiver.free()) == (64, 0)
    world.drop(receiver)  # before it answered
    assert world.smsc.waiting() == 2
    receiver, events = world.client(bind=pdu.BIND_RECEIVER)
    receiver.answer([report.token for report in reports(events)], accepted=True)
    assert world.carry() == []
    assert world.smsc.waiting() == 0


def test_who_gets_no_receipt_may_ask_and_nobody_else(tmp_path):
    world = World(tmp_path, receipts=False)
    client, _ = world.client()
    client.submit(some_submits(1), 0.0)
    [taken] = outcomes(world.carry())
    assert isinstance(taken, Submitted)
    server = world.links[0][1]
    for carrier_id, status, state in ((taken.carrier_id, 0, 2), ("nobody", 0x67, 0)):
        asked = pdu.build_pdu(pdu.QUERY_SM, 77, {"message_id": carrier_id})
        world.smsc.receive(server, asked, 0.0)
        answer = pdu.parse_pdu(server.to_send())
        assert (answer.status, answer.number("message_state")) == (status, state)


def test_a_data_sm_is_taken_answered_as_such_and_reported(world):
    client, _ = world.client(submit_pdu="data_sm")
    client.submit(some_submits(2), 0.0)
    events = world.carry()
    assert [type(outcome) for outcome in outcomes(events)] == [Submitted, Submitted]
    assert len(reports(events)) == 2
    assert [(line["to"], line["text"]) for line in world.lines()] == [("8613800138000", "你好")] * 2
    assert client.strays == 0


@pytest.mark.parametrize(("version", "told"), [(0x50, 95), (0x34, 0)])
def test_its_load_is_told_to_clients_of_5_0_only(tmp_path, version, told):
    world = World(tmp_path, congestion=95, throttle_share=0.5)
    client, _ = world.client(interface_version=version)
    client.submit(some_submits(20), 0.0)
    assert len(outcomes(world.carry())) == 20
    assert client.congestion == told


def test_a_submit_over_a_receiver_is_refused_as_not_bound(world):
    receiver, _ = world.client(bind=pdu.BIND_RECEIVER)
    receiver.window.capacity = 1  # as no gateway would
    receiver.submit(some_submits(1), 0.0)
    [outcome] = outcomes(world.carry())
    assert isinstance(outcome, NotSent)
    assert world.lines() == []


def test_a_submit_is_answered_and_reported_and_recorded(world):
    client, _ = world.client()
    client.submit(some_submits(2), 0.0)
    events = world.carry()
    taken = outcomes(events)
    assert all(isinstance(outcome, Submitted) for outcome in taken)
    found = reports(events)
    ids = [outcome.carrier_id for outcome in taken if isinstance(outcome, Submitted)]
    assert [report.carrier_id for report in found] == ids
    assert {report.state for report in found} == {"DELIVRD"}
    first = world.lines()[0]
    assert first["to"] == "8613800138000"
    assert (first["segment_ref"], first["index"], first["total"]) == (None, 1, 1)
    assert first["carrier_id"] == ids[0]
    assert first["text"] == "你好"
    assert pdu.parse_pdu(bytes.fromhex(first["hex"])).text("destination_addr") == first["to"]
    assert first["at"].endswith("Z")


def test_segments_are_recorded_with_reference_index_and_total(world):
    client, _ = world.client()
    client.submit(submits_of(a_message(segments=3)), 0.0)
    world.carry()
    rows = [(row["segment_ref"], row["index"], row["total"]) for row in world.lines()]
    assert rows == [(7, 1, 3), (7, 2, 3), (7, 3, 3)]


def test_a_sixteen_bit_reference_is_read_too():
    body = bytes.fromhex("0608041234020141")
    assert segment_of(True, body) == (0x1234, 1, 2, b"A")
    assert segment_of(True, b"\xff\x00") == (None, 1, 1, b"")
    assert segment_of(False, body) == (None, 1, 1, body)


def test_the_line_is_written_before_the_answer(tmp_path):
    world = World(tmp_path, latency_ms=50, receipt_delay_ms=100)
    client, _ = world.client()
    client.submit(some_submits(1), 0.0)
    assert world.carry() == []
    assert len(world.lines()) == 1
    world.clock.run(0.049)
    assert world.carry() == []
    world.clock.run(0.06)
    assert len(outcomes(world.carry())) == 1
    world.clock.run(0.14)
    assert world.carry() == []
    world.clock.run(0.17)
    assert len(reports(world.carry())) == 1


def test_shares_of_failures_and_throttling_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(smsc_module, "random", random.Random(1).random)
    world = World(tmp_path, throttle_share=0.3, failure_share=0.2)
    client, _ = world.client()
    results = []
    for _ in range(40):
        client.submit(some_submits(50), 0.0)
        results += outcomes(world.carry())
    throttled = sum(isinstance(outcome, Throttled) for outcome in results)
    failed = [outcome for outcome in results if isinstance(outcome, Rejected)]
    assert 500 < throttled < 700
    assert 320 < len(failed) < 480
    assert {outcome.cause for outcome in failed} == {Cause.CHANNEL}
    assert sum(row["carrier_id"] is None for row in world.lines()) == throttled + len(failed)


def test_no_more_is_taken_in_a_second_than_the_carrier_takes(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("loadtest.smsc.time.monotonic", lambda: now)
    world = World(tmp_path, takes_per_s=50)
    client, _ = world.client()
    taken = throttled = 0
    for _ in range(40):
        now += 0.1
        client.submit(some_submits(20), 0.0)
        results = outcomes(world.carry())
        taken += sum(isinstance(outcome, Submitted) for outcome in results)
        throttled += sum(isinstance(outcome, Throttled) for outcome in results)
    assert taken + throttled == 800
    assert 190 <= taken <= 210  # four seconds, and what the bucket holds


def test_silence_takes_submits_and_answers_none_but_the_link_lives(tmp_path):
    world = World(tmp_path, silent=True)
    client, _ = world.client()
    client.submit(some_submits(3), 0.0)
    assert world.carry() == []
    assert len(world.lines()) == 3
    client.tick(20.0)
    world.carry()
    assert client.tick(40.0) == []
    world.smsc.behaviour = Behaviour(latency_ms=0, receipt_delay_ms=0)
    client.submit(some_submits(1), 41.0)
    assert len(outcomes(world.carry())) == 1


def test_over_the_window_it_throttles(tmp_path):
    world = World(tmp_path, window=2, latency_ms=10)
    client, _ = world.client()
    client.submit(some_submits(3), 0.0)
    world.carry()
    world.clock.run(1.0)
    kinds = [type(outcome) for outcome in outcomes(world.carry())]
    assert kinds == [Submitted, Submitted, Throttled]


def test_without_receipts_there_are_none_and_undelivered_ones_say_so(tmp_path):
    world = World(tmp_path, receipts=False)
    client, _ = world.client()
    client.submit(some_submits(1), 0.0)
    assert reports(world.carry()) == []
    world.smsc.behaviour = Behaviour(latency_ms=0, receipt_delay_ms=0, undelivered_share=1.0)
    client.submit(some_submits(1), 0.0)
    assert [report.state for report in reports(world.carry())] == ["UNDELIV"]


def test_a_report_is_kept_until_it_is_answered_over_any_session(world):
    client, _ = world.client()
    client.submit(some_submits(3), 0.0)
    first, second, third = reports(world.carry())
    client.answer([first.token], accepted=True)
    world.carry()
    world.drop(client)
    assert world.smsc.waiting() == 2
    _, events = world.client()
    again = reports(events)
    assert [report.carrier_id for report in again] == [second.carrier_id, third.carrier_id]
    world.links[0][0].answer([report.token for report in again], accepted=True)
    world.carry()
    world.drop(world.links[0][0])
    _, events = world.client()
    assert reports(events) == []


def test_a_report_answered_with_an_error_comes_again_later(world):
    client, _ = world.client()
    client.submit(some_submits(1), 0.0)
    [report] = reports(world.carry())
    client.answer([report.token], accepted=False)
    assert world.carry() == []
    world.clock.run(1.1)
    [again] = reports(world.carry())
    assert again.carrier_id == report.carrier_id
    assert world.smsc.counts["reports_again"] == 1


def test_a_report_nobody_answers_comes_again(world):
    client, _ = world.client()
    client.submit(some_submits(1), 0.0)
    [report] = reports(world.carry())
    server = world.links[0][1]
    sent_at = next(iter(server._waiting.values()))[1]
    world.smsc.tick(sent_at + 29.0)
    assert reports(world.carry()) == []
    world.smsc.tick(sent_at + 31.0)
    assert [again.carrier_id for again in reports(world.carry())] == [report.carrier_id]


def test_an_answer_due_to_a_lost_link_is_dropped_and_its_report_waits(tmp_path):
    world = World(tmp_path, latency_ms=10, receipt_delay_ms=10)
    client, _ = world.client()
    client.submit(some_submits(1), 0.0)
    world.carry()
    world.drop(client)
    world.clock.run(1.0)
    _, events = world.client()
    assert outcomes(events) == []
    assert [report.carrier_id for report in reports(events)] == [world.lines()[0]["carrier_id"]]


def test_after_a_restart_it_owes_the_reports_of_what_it_had_taken(world, tmp_path):
    client, _ = world.client()
    client.submit(some_submits(3), 0.0)
    taken = [o.carrier_id for o in outcomes(world.carry()) if isinstance(o, Submitted)]
    world.smsc.record.write(['{"at":"2026-01-01T00:00:00.0Z","carrier_id":null}\n'])  # refused
    again = World(tmp_path)
    assert again.smsc.remember(again.lines_raw(), since=0.0) == 3
    _, events = again.client()
    found = reports(events)
    assert [report.carrier_id for report in found] == taken
    assert {report.state for report in found} == {"DELIVRD"}


def test_what_it_had_taken_long_ago_is_not_reported_again(world, tmp_path):
    client, _ = world.client()
    client.submit(some_submits(1), 0.0)
    world.carry()
    again = World(tmp_path)
    assert again.smsc.remember(again.lines_raw(), since=time.time() + 60) == 0


def test_submits_before_the_login_are_refused():
    server = ServerSession()
    frame = pdu.build_pdu(pdu.SUBMIT_SM, 5, {"destination_addr": "1"})
    assert server.receive(frame, 0.0) == []
    assert server.to_send() == pdu.pack_header(16, pdu.SUBMIT_SM_RESP, 4, 5)


@pytest.mark.parametrize(
    ("quirk", "states"),
    [
        ("none", ["DELIVRD"]),
        ("twice", ["DELIVRD"] * 2),
        ("accepted_first", ["ACCEPTD", "DELIVRD"]),
        ("decimal_id", ["DELIVRD"]),
        ("before_answer", ["DELIVRD"]),
    ],
)
def test_its_reports_may_be_odd(tmp_path, quirk, states):
    world = World(tmp_path, report_quirk=quirk, latency_ms=100)
    client, _ = world.client()
    client.submit(some_submits(1), 0.0)
    early = reports(world.carry())
    world.clock.run(1.0)
    events = world.carry()
    [submitted] = outcomes(events)
    assert isinstance(submitted, Submitted)
    late = reports(events)
    assert bool(early) is (quirk == "before_answer")
    assert [report.state for report in early + late] == states
    is_decimal = quirk == "decimal_id"
    expected = str(int(submitted.carrier_id, 16)) if is_decimal else submitted.carrier_id
    assert {report.carrier_id for report in early + late} == {expected}
