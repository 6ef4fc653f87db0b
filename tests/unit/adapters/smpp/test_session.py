"""One session by hand: bytes and a clock of our own."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.session import (
    Answered,
    Bound,
    Ended,
    Received,
    Reported,
    SessionPolicy,
    SessionState,
    is_linked,
)
from adapters.smpp import pdu
from adapters.smpp.references import LostSubmits
from adapters.smpp.session import Session, Token
from adapters.smpp.settings import parse
from sms.attempts import reference
from sms.errors import LocalProtocolError, RemoteProtocolError
from sms.gsm import encode as encode_gsm7
from sms.model import Encoding, MessageClass
from sms.outcomes import Cause, NotSent, Rejected, Submitted, Throttled, Uncertain
from tests.support.smpp import (
    SETTINGS,
    a_message,
    bound_session,
    frames,
    outcomes,
    report,
    some_submits,
    submit_answer,
    submits_of,
)


def header(command_id, sequence=1, status=0):
    return pdu.pack_header(16, command_id, status, sequence)


def sent(session):
    return [(found.command_id, found.sequence, found.status) for found in frames(session.to_send())]


def tokens(reported: Reported) -> list[Token]:
    """What answers its reports; the channel alone knows what a token is."""
    return [cast(Token, report.token) for report in reported.reports]


# -- logging in ----------------------------------------------------------------------------


def test_it_logs_in_as_a_transceiver_with_the_settings():
    settings = parse({**SETTINGS, "system_type": "VMS", "addr_ton": 1, "addr_npi": 1})
    session = Session(7, settings, SessionPolicy(), 16)
    session.connected(0.0)
    vector = "0000002800000009000000000000000165736d65303100736563726574303800564d530034010100"
    assert session.to_send().hex() == vector
    assert session.free() == 0
    [event] = session.receive(
        bytes.fromhex("0000001c8000000900000000000000015635534d5343000210000150"), 0.1
    )
    assert event == Bound("V5SMSC")
    assert session.free() == 16


@pytest.mark.parametrize(
    ("bind", "free"), [(pdu.BIND_TRANSMITTER, 16), (pdu.BIND_RECEIVER, 0), (9, 16)]
)
def test_a_pair_logs_in_by_kind_and_only_a_transmitter_takes_submits(bind, free):
    session = Session(7, parse(SETTINGS), SessionPolicy(), 16, bind=bind)
    session.connected(0.0)
    assert sent(session) == [(bind, 1, 0)]
    answer = pdu.build_pdu(bind | pdu.RESPONSE, 1, {"system_id": "SMSC"})
    assert session.receive(answer, 0.1) == [Bound("SMSC")]
    assert session.free() == free
    [event] = session.receive(report(3, "id1"), 0.2)
    assert isinstance(event, Reported)  # wherever it comes, it counts


@pytest.mark.parametrize("answer", [header(0x80000009, 1, 0x0E), header(0x80000000, 1, 3)])
def test_a_refused_login_ends_it_with_the_code(answer):
    session = Session(7, parse(SETTINGS), SessionPolicy(), 16)
    session.connected(0.0)
    [ended] = session.receive(answer, 0.1)
    assert isinstance(ended, Ended)
    assert "0x000000" in ended.reason
    assert session.free() == 0


def test_a_login_without_answer_ends_after_the_response_time():
    session = Session(7, parse(SETTINGS), SessionPolicy(response_timeout_s=10), 16)
    session.connected(0.0)
    assert session.tick(9.9) == []
    assert [type(event) for event in session.tick(10.0)] == [Ended]


# -- submits -------------------------------------------------------------------------------


def test_answers_are_matched_in_any_order_and_free_their_slots():
    session = bound_session(window=4)
    submits = some_submits(4)
    assert session.submit(submits, 1.0) == []
    assert [found.sequence for found in frames(session.to_send())] == [2, 3, 4, 5]
    assert session.free() == 0
    [event] = session.receive(submit_answer(5, "d") + submit_answer(2, "a"), 1.1)
    assert event == Answered([(submits[3], Submitted("d")), (submits[0], Submitted("a"))])
    assert event.results[0][0] is submits[3]
    assert session.free() == 2
    assert submits[0].sent_at == 1.0


def test_the_window_is_never_exceeded():
    session = bound_session(window=2)
    with pytest.raises(LocalProtocolError):
        session.submit(some_submits(3), 1.0)


def test_segments_carry_their_header_and_its_flag():
    session = bound_session()
    session.submit(submits_of(a_message(segments=2)), 1.0)
    for index, found in enumerate(frames(session.to_send()), 1):
        assert found.number("esm_class") == 0x40
        assert found.octets("short_message")[:6] == bytes((5, 0, 3, 7, 2, index))
        assert found.number("registered_delivery") == 1


def test_a_submit_that_cannot_be_packed_is_told_and_takes_no_slot():
    session = bound_session(window=4)
    good, bad = some_submits(2)
    bad.sender = "x" * 40
    [(refused, outcome)] = session.submit([good, bad], 1.0)
    assert refused is bad
    assert isinstance(outcome, Rejected)
    assert outcome.cause is Cause.CONFIG
    assert session.free() == 3
    assert len(frames(session.to_send())) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (submit_answer(2, status=0x58), Throttled),  # no body
        (pdu.build_pdu(0x80000004, 2, {"message_id": ""}, status=0x0B), Rejected),
        (header(0x80000000, 2, 3), Rejected),
        (header(0x80000000, 2, 0), Rejected),
        (header(0x80000004, 2), Submitted),  # taken, and no id
    ],
)
def test_each_form_of_answer_becomes_one_outcome(answer, kind):
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    [outcome] = outcomes(session.receive(answer, 1.1))
    assert isinstance(outcome, kind)
    assert outcomes(session.receive(answer, 1.2)) == []
    assert session.strays == 1


def test_an_id_longer_than_the_standard_s_is_cut_and_the_submit_is_still_taken():
    session = bound_session()
    session.submit(some_submits(2), 1.0)
    body = b"z" * 90 + b"\0"
    long = pdu.pack_header(16 + len(body), pdu.SUBMIT_SM_RESP, 0, 2) + body
    unended = pdu.pack_header(16 + 3, pdu.SUBMIT_SM_RESP, 0, 3) + b"abc"
    assert outcomes(session.receive(long + unended, 1.1)) == [Submitted("z" * 64), Submitted("abc")]


def test_sequence_numbers_wrap_to_one():
    session = bound_session()
    session._sequence = pdu.SEQUENCE_MAXIMUM - 1
    session.submit(some_submits(3), 1.0)
    assert [found.sequence for found in frames(session.to_send())] == [0x7FFFFFFF, 1, 2]


def test_an_unbound_answer_makes_it_bind_again_after_the_rest():
    session = bound_session()
    session.submit(some_submits(2), 1.0)
    events = session.receive(submit_answer(2, status=0x04), 1.1)
    assert outcomes(events) == [NotSent("channel.link_lost")]  # sent again, no attempt
    assert session.free() == 0
    events = session.receive(submit_answer(3, status=0x04), 1.2)
    assert [type(event) for event in events] == [Answered, Ended]
    assert outcomes(events) == [NotSent("channel.link_lost")]


def test_a_channel_may_class_the_unbound_answer_itself():
    session = bound_session(status_classes={"0x04": "perm_content"})
    session.submit(some_submits(1), 1.0)
    [outcome] = outcomes(session.receive(submit_answer(2, status=0x04), 1.1))
    assert outcome == Rejected("0x00000004", Cause.CONTENT, "content.blocked")


# -- time ----------------------------------------------------------------------------------


def test_a_time_out_is_uncertain_once_keeps_its_slot_and_a_late_answer_is_told_again():
    session = bound_session(window=2)
    otp, other = some_submits(1, message_class=MessageClass.OTP) + some_submits(1)
    session.submit([otp, other], 0.0)
    session.to_send()
    session.receive(header(pdu.ENQUIRE_LINK), 9.0)  # the link is alive
    session.to_send()
    assert session.tick(9.9) == []
    [event] = session.tick(10.0)
    assert isinstance(event, Answered)
    assert event.results == [(otp, Uncertain("channel.timeout"))]
    assert session.free() == 0
    assert outcomes(session.tick(11.0)) == []
    [late] = session.receive(submit_answer(2, "late"), 12.0)
    assert isinstance(late, Answered)
    assert late.results == [(otp, Submitted("late"))]
    assert session.free() == 1


def test_a_late_answer_counts_even_after_its_slot_came_back():
    session = bound_session(window=1, policy=SessionPolicy(link_test_s=1e6))
    [otp] = some_submits(1, message_class=MessageClass.OTP)
    session.submit([otp], 0.0)
    session.tick(10.0)
    session.tick(129.0)
    assert session.free() == 0
    session.tick(130.0)
    assert session.free() == 1
    assert outcomes(session.receive(submit_answer(2, "x"), 200.0)) == [Submitted("x")]


def test_the_channel_s_own_time_out_goes_before_the_class_s():
    session = bound_session()
    session.submit_timeout_s = 3.0
    session.submit(some_submits(1), 0.0)
    assert outcomes(session.tick(3.0)) == [Uncertain("channel.timeout")]


def test_a_loss_makes_every_unanswered_submit_uncertain_exactly_once():
    session = bound_session()
    otp, second, third = some_submits(1, message_class=MessageClass.OTP) + some_submits(2)
    session.submit([otp, second, third], 0.0)
    session.receive(submit_answer(3, "x"), 1.0)
    session.tick(10.0)
    [event] = session.lost("channel.link_lost")
    assert isinstance(event, Answered)
    assert event.results == [(third, Uncertain("channel.link_lost"))]
    assert event.results[0][0] is third
    assert session.lost("channel.link_lost") == []
    assert session.receive(submit_answer(4, "x"), 11.0) == []
    assert session.to_send() == b""


# -- link tests ----------------------------------------------------------------------------


def test_silence_is_answered_with_a_link_test_and_its_answer_keeps_the_session():
    session = bound_session(policy=SessionPolicy(link_test_s=15, response_timeout_s=10))
    assert session.tick(14.9) == []
    assert session.to_send() == b""
    session.tick(15.0)
    [(command_id, sequence, _)] = sent(session)
    assert command_id == pdu.ENQUIRE_LINK
    session.tick(16.0)
    assert session.to_send() == b""
    session.receive(header(pdu.ENQUIRE_LINK_RESP, sequence), 20.0)
    assert session.tick(30.0) == []
    assert (session.tests_s, session.tests_lost) == ([5.0], 0)


def test_an_unanswered_link_test_ends_the_session():
    session = bound_session(policy=SessionPolicy(link_test_s=15, response_timeout_s=10))
    session.tick(15.0)
    assert session.tick(24.9) == []
    assert [type(event) for event in session.tick(25.0)] == [Ended]
    assert (session.tests_s, session.tests_lost) == ([], 1)


def test_a_nacked_link_test_says_that_somebody_is_there():
    session = bound_session()
    session.tick(15.0)
    [(_, sequence, _)] = sent(session)
    session.receive(header(pdu.GENERIC_NACK, sequence, 3), 15.1)
    assert session.tick(26.0) == []


def test_the_peer_s_link_test_is_answered_in_every_state():
    session = bound_session()
    session.receive(header(pdu.ENQUIRE_LINK, 77), 1.0)
    assert sent(session) == [(pdu.ENQUIRE_LINK_RESP, 77, 0)]
    session.unbind(1.0)
    session.to_send()
    session.receive(header(pdu.ENQUIRE_LINK, 78), 1.1)
    assert sent(session) == [(pdu.ENQUIRE_LINK_RESP, 78, 0)]


# -- logging out ---------------------------------------------------------------------------


def test_our_logout_waits_for_its_answer():
    session = bound_session()
    session.unbind(1.0)
    [(command_id, sequence, _)] = sent(session)
    assert command_id == pdu.UNBIND
    assert session.free() == 0
    [ended] = session.receive(header(pdu.UNBIND_RESP, sequence), 1.1)
    assert ended == Ended("unbound")


def test_an_unanswered_logout_ends_by_itself():
    session = bound_session()
    session.unbind(1.0)
    assert [type(event) for event in session.tick(11.0)] == [Ended]


def test_the_peer_s_logout_lets_the_last_answers_come():
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    session.to_send()
    assert session.receive(header(pdu.UNBIND, 9), 1.1) == []
    assert sent(session) == [(pdu.UNBIND_RESP, 9, 0)]
    assert session.free() == 0
    events = session.receive(submit_answer(2, "x"), 1.2)
    assert [type(event) for event in events] == [Answered, Ended]


def test_the_peer_s_logout_is_not_waited_for_for_ever():
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    session.receive(header(pdu.UNBIND, 9), 1.1)
    assert [type(event) for event in session.tick(11.1)] == [Ended]
    assert outcomes(session.lost("channel.link_lost")) == [Uncertain("channel.link_lost")]


def test_the_peer_s_logout_with_nothing_open_ends_at_once():
    session = bound_session()
    [ended] = session.receive(header(pdu.UNBIND, 9), 1.0)
    assert isinstance(ended, Ended)
    assert sent(session) == [(pdu.UNBIND_RESP, 9, 0)]


# -- reports and texts ---------------------------------------------------------------------


def test_reports_wait_for_their_answer_and_a_burst_is_one_event():
    session = bound_session()
    [event] = session.receive(report(11, "a") + report(12, "b", "UNDELIV"), 1.0)
    assert isinstance(event, Reported)
    assert [(found.carrier_id, found.state) for found in event.reports] == [
        ("a", "DELIVRD"),
        ("b", "UNDELIV"),
    ]
    assert event.reports[0].number == "8613800138000"
    assert event.reports[0].channel == 7
    assert session.to_send() == b""
    first, second = tokens(event)
    session.answer([first], accepted=True)
    session.answer([second], accepted=False)
    assert session.to_send().hex() == (
        "000000118000000500000000" + "0000000b00" + "000000118000000500000064" + "0000000c00"
    )


def test_an_answer_comes_before_the_report_of_the_same_burst():
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    events = session.receive(report(11, "a") + submit_answer(2, "a"), 1.1)
    assert [type(event) for event in events] == [Answered, Reported]


def test_ids_are_written_alike_where_the_channel_says_so():
    session = bound_session(id_match="hex_decimal")
    session.submit(some_submits(1), 1.0)
    events = session.receive(submit_answer(2, "1a2b3c00") + report(11, "439041024"), 1.1)
    assert outcomes(events) == [Submitted("439041024")]
    assert isinstance(events[1], Reported)
    assert events[1].reports[0].carrier_id == "439041024"


def deliver(**fields):
    return pdu.build_pdu(
        pdu.DELIVER_SM,
        5,
        {"source_addr": "+8613800138000", "destination_addr": "10690001", **fields},
    )


def test_a_text_from_a_phone_is_handed_on_and_answered_when_told():
    session = bound_session()
    text = "退订".encode("utf-16-be")
    [event] = session.receive(deliver(data_coding=8, short_message=text), 1.0)
    assert isinstance(event, Received)
    [inbound] = event.texts
    assert (inbound.number, inbound.to, inbound.text) == ("+8613800138000", "10690001", "退订")
    assert session.to_send() == b""


def test_a_token_tells_whether_its_session_stands():
    session = bound_session()
    [event] = session.receive(deliver(short_message=b"x"), 1.0)
    assert isinstance(event, Received)
    [text] = event.texts
    assert is_linked(text.token)
    session.unbind(1.0)
    assert not is_linked(text.token)
    assert not is_linked(None)


@pytest.mark.parametrize(
    ("ton", "source", "number"),
    [
        (1, "13475550123", "+13475550123"),  # New York
        (1, "+13475550123", "+13475550123"),
        (2, "13475550123", "13475550123"),  # China Mobile's
        (1, "Bank", "Bank"),
    ],
)
def test_a_number_that_says_it_is_international_is_handed_on_so(ton, source, number):
    session = bound_session()
    frame = deliver(source_addr_ton=ton, source_addr=source, short_message=b"x")
    [event] = session.receive(frame, 1.0)
    assert isinstance(event, Received)
    assert [text.number for text in event.texts] == [number]


@pytest.mark.parametrize("esm_class", [0x08, 0x10, 0x20, 0x0C])
def test_other_kinds_of_delivery_are_answered_and_dropped(esm_class):
    session = bound_session()
    assert session.receive(deliver(esm_class=esm_class, short_message=b"x"), 1.0) == []
    assert sent(session) == [(pdu.DELIVER_SM_RESP, 5, 0)]


def test_a_report_that_says_nothing_is_told_as_one_about_nothing():
    """As one about nothing: who counts the others counts it, and it does not come again."""
    session = bound_session()
    [event] = session.receive(deliver(esm_class=4, short_message=b"hello"), 1.0)
    assert isinstance(event, Reported)
    [report] = event.reports
    assert (report.carrier_id, report.state, report.number) == ("", "", "")
    session.answer([cast(Token, report.token)], accepted=True)
    assert sent(session) == [(pdu.DELIVER_SM_RESP, 5, 0)]


def test_a_report_may_come_as_data_sm():
    session = bound_session()
    frame = pdu.build_pdu(
        pdu.DATA_SM,
        6,
        {"source_addr": "8613800138000", "esm_class": 4},
        tlvs=[(pdu.TLV_RECEIPTED_MESSAGE_ID, b"m1\0"), (pdu.TLV_MESSAGE_STATE, b"\x02")],
    )
    [event] = session.receive(frame, 1.0)
    assert isinstance(event, Reported)
    assert [(found.carrier_id, found.state) for found in event.reports] == [("m1", "2")]
    session.answer(tokens(event), accepted=True)
    assert sent(session) == [(pdu.DATA_SM_RESP, 6, 0)]


def test_a_text_from_a_phone_may_come_as_data_sm_however_long():
    session = bound_session()
    frame = pdu.build_pdu(
        pdu.DATA_SM,
        6,
        {"source_addr": "+8613800138000", "destination_addr": "10690001", "data_coding": 8},
        tlvs=[(pdu.TLV_MESSAGE_PAYLOAD, ("退订" * 200).encode("utf-16-be"))],
    )
    [event] = session.receive(frame, 1.0)
    assert isinstance(event, Received)
    [text] = event.texts
    assert (text.number, text.to, text.text) == ("+8613800138000", "10690001", "退订" * 200)
    session.answer([cast(Token, text.token)], accepted=True)
    assert session.to_send().hex() == "0000001180000103000000000000000600"


def test_a_channel_may_submit_by_data_sm_and_its_answers_count_the_same():
    session = bound_session(submit_pdu="data_sm")
    submits = some_submits(3)
    session.submit(submits, 1.0)
    assert [found.command_id for found in frames(session.to_send())] == [pdu.DATA_SM] * 3
    answers = (
        pdu.build_pdu(pdu.DATA_SM_RESP, 2, {"message_id": "d1"}),
        header(pdu.DATA_SM_RESP, 3, pdu.ESME_RTHROTTLED),
        header(pdu.GENERIC_NACK, 4, 8),
        header(pdu.DATA_SM_RESP, 9),
    )
    [event] = session.receive(b"".join(answers), 1.1)
    taken, throttled, nacked = outcomes([event])
    assert taken == Submitted("d1")
    assert isinstance(throttled, Throttled)
    assert isinstance(nacked, Rejected)
    assert (session.free(), session.strays) == (16, 1)


@pytest.mark.parametrize(("submit_pdu", "command_id"), [("submit_sm", 4), ("data_sm", 0x103)])
def test_a_text_that_leaves_whole_is_one_pdu_one_slot_and_one_answer(submit_pdu, command_id):
    session = bound_session(window=1, long_messages="payload", submit_pdu=submit_pdu)
    parts = submits_of(a_message(segments=3))
    text = "长" * 200
    [whole] = some_submits(1)
    whole.payload, whole.parts = text.encode("utf-16-be"), tuple(parts)
    assert session.submit([whole], 1.0) == []
    [sent_pdu] = frames(session.to_send())
    assert sent_pdu.command_id == command_id
    assert sent_pdu.tlv(pdu.TLV_MESSAGE_PAYLOAD) == text.encode("utf-16-be")
    assert sent_pdu.octets("short_message") == b""
    assert sent_pdu.number("esm_class") == 0
    assert session.free() == 0
    answer = pdu.build_pdu(command_id | pdu.RESPONSE, 2, {"message_id": "w1"})
    assert session.receive(answer, 1.1) == [Answered([(whole, Submitted("w1"))])]
    assert session.free() == 1


# -- what is wrong -------------------------------------------------------------------------


def test_an_unknown_request_is_nacked_and_the_session_goes_on():
    session = bound_session()
    silent = header(0x102, 6) + header(0x0B, 7) + header(0x80000103, 8) + header(0x80000000, 0, 3)
    assert session.receive(header(0x21, 5) + silent, 1.0) == []
    assert session.strays == 2  # an answer and a generic_nack about nothing of ours
    assert sent(session) == [(pdu.GENERIC_NACK, 5, 3)]
    assert session.state is SessionState.BOUND


@pytest.mark.parametrize("length", [0, 15, 0x10001, 0xFFFFFFFF])
def test_a_bad_length_keeps_the_good_answers_nacks_and_ends(length):
    session = bound_session()
    session.submit(some_submits(2), 1.0)
    session.to_send()
    data = submit_answer(2, "a") + length.to_bytes(4, "big") + b"\0" * 40
    answered, ended = session.receive(data, 1.1)
    assert isinstance(answered, Answered)
    assert answered.results[0][1] == Submitted("a")
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, RemoteProtocolError)
    assert sent(session) == [(pdu.GENERIC_NACK, 0, 2)]
    assert outcomes(session.lost("channel.link_lost")) == [Uncertain("channel.link_lost")]


def test_a_cut_deliver_keeps_the_good_answers_and_ends():
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    cut = pdu.pack_header(20, pdu.DELIVER_SM, 0, 5) + b"abcd"
    answered, ended = session.receive(submit_answer(2, "a") + cut, 1.1)
    assert isinstance(answered, Answered)
    assert isinstance(ended, Ended)
    assert session.free() == 0


def test_a_second_connect_is_our_own_mistake():
    session = bound_session()
    with pytest.raises(LocalProtocolError):
        session.connected(1.0)


# -- congestion_state (SMPP 5.0) -----------------------------------------------------------


def told_by(*answers: bytes) -> int:
    session = bound_session(window=16)
    session.submit(some_submits(len(answers)), 1.0)
    session.to_send()
    [event] = session.receive(b"".join(answers), 1.1)
    assert isinstance(event, Answered)
    assert len(event.results) == len(answers)
    return session.congestion


def with_tlvs(sequence: int, tlvs: bytes, status: int = 0) -> bytes:
    body = b"id\0" + tlvs
    return pdu.pack_header(16 + len(body), 0x80000004, status, sequence) + body


STATE = b"\x04\x28\x00\x01"


def test_the_highest_congestion_that_was_told_is_kept_and_the_ids_are_whole():
    assert told_by(submit_answer(2, "a")) == 0
    assert told_by(with_tlvs(2, STATE + b"\x2e")) == 0x2E
    assert told_by(with_tlvs(2, STATE + b"\x5a"), with_tlvs(3, STATE + b"\x10")) == 90
    assert told_by(with_tlvs(2, b"\x12\x34\x00\x02ab" + STATE + b"\x50")) == 80
    assert told_by(with_tlvs(2, STATE + b"\xff")) == 100
    assert told_by(with_tlvs(2, STATE + b"\x64", status=0x58)) == 100


def test_an_error_answer_may_tell_it_without_an_id_and_a_link_test_too():
    bare = pdu.pack_header(21, 0x80000004, 0x58, 2) + STATE + b"\x63"
    assert told_by(bare) == 99
    session = bound_session()
    session.tick(15.0)
    assert sent(session) == [(pdu.ENQUIRE_LINK, 2, 0)]
    session.receive(pdu.pack_header(21, pdu.ENQUIRE_LINK_RESP, 0, 2) + STATE + b"\x5b", 15.1)
    assert session.congestion == 91
    assert session.tick(16.0) == []


@given(st.binary(max_size=20))
def test_what_is_no_tlv_is_no_congestion_and_the_answer_counts(octets):
    assert 0 <= told_by(with_tlvs(2, octets)) <= 100


def test_an_error_of_ours_costs_one_session_and_nothing_that_the_burst_told(monkeypatch):
    def crash(*_, **__):
        raise IndexError("ours")

    monkeypatch.setattr("adapters.smpp.session.parse_usual_receipt", crash)
    session = bound_session()
    session.submit(some_submits(2), 1.0)
    session.to_send()
    events = session.receive(submit_answer(2, "a") + report(7, "a") + submit_answer(3, "b"), 1.1)
    assert outcomes(events) == [Submitted("a")]
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, RemoteProtocolError)
    assert isinstance(ended.error.__cause__, IndexError)
    assert session.faults == 1
    assert outcomes(session.lost("channel.link_lost")) == [Uncertain("channel.link_lost")]


def test_what_the_smsc_brought_is_answered_before_its_unbind():
    session = bound_session()
    [reported] = session.receive(report(7, "a") + header(pdu.UNBIND, 8), 1.0)
    assert isinstance(reported, Reported)
    assert sent(session) == []
    session.answer(tokens(reported), accepted=True)
    assert sent(session) == [(pdu.DELIVER_SM_RESP, 7, 0), (pdu.UNBIND_RESP, 8, 0)]


@pytest.mark.parametrize("body", [b"", b"SMSC", b"a name of more than 16 octets"])
def test_a_bind_answer_in_any_form_is_a_login(body):
    session = Session(7, parse(SETTINGS), SessionPolicy(), 16)
    session.connected(0.0)
    frame = pdu.pack_header(16 + len(body), pdu.BIND_TRANSCEIVER_RESP, 0, 1) + body
    assert session.receive(frame, 0.1) == [Bound(body[:16].decode())]
    assert session.free() == 16


@pytest.mark.parametrize(
    ("settings", "coding", "octets"),
    [
        ({}, 0, b"a\x00b\x11\x02 \x05"),
        ({"gsm7_data_coding": 1}, 8, "a@b_$ é".encode("utf-16-be")),
        ({"gsm7_data_coding": 3}, 3, "a@b_$ é".encode("latin-1")),
        ({"default_alphabet": "latin1"}, 0, "a@b_$ é".encode("latin-1")),
        ({"default_alphabet": "latin1", "gsm7_data_coding": 0xF0}, 0xF0, b"a@b_$ \xe9"),
        ({"default_alphabet": "ascii"}, 8, "a@b_$ é".encode("utf-16-be")),
    ],
)
def test_gsm7_goes_out_in_the_characters_of_its_data_coding(settings, coding, octets):
    session = bound_session(**settings)
    [submit] = some_submits(1)
    submit.encoding, submit.payload = Encoding.GSM7, encode_gsm7("a@b_$ é")
    assert session.submit([submit], 1.0) == []
    [found] = frames(session.to_send())
    assert (found.number("data_coding"), found.octets("short_message")) == (coding, octets)
    # What waits for its answer is the flow's own, not the copy.
    [answered] = session.receive(submit_answer(found.sequence, "x"), 1.1)
    assert isinstance(answered, Answered)
    assert answered.results[0][0] is submit


def test_a_header_stays_and_what_does_not_fit_as_ucs2_is_refused():
    session = bound_session(default_alphabet="ascii")
    first, second = submits_of(a_message(segments=2))
    for submit, text in ((first, "@"), (second, "é" * 68)):
        submit.encoding = Encoding.GSM7
        submit.payload = submit.payload[:6] + encode_gsm7(text)
    [(refused, _)] = session.submit([first, second], 1.0)
    assert refused is second
    [found] = frames(session.to_send())
    assert found.octets("short_message") == first.payload[:6] + b"@"


def test_a_text_under_coding_0_is_read_in_the_carrier_s_alphabet():
    fields: dict[str, str | int | bytes] = {
        "source_addr": "86138",
        "destination_addr": "1069",
        "short_message": b"a_b@\xe9",
    }
    frame = pdu.build_pdu(pdu.DELIVER_SM, 7, fields)
    [received] = bound_session(default_alphabet="latin1").receive(frame, 1.0)
    assert isinstance(received, Received)
    assert received.texts[0].text == "a_b@é"


@pytest.mark.parametrize(
    ("form", "answer", "text", "tlv"),
    [
        ("hex_decimal", "1a2b3c00", "439041024", "1a2b3c00"),  # the TLV is the answer's own
        ("hex_decimal", "1a2b3c00", "439041024", "439041024"),
        ("hex_decimal", "1a2b3c00", "439041024", ""),
        ("hex_decimal", "12345678", "305419896", "12345678"),  # no letter says its radix
        ("hex_decimal", "1A2B3C00", "", "1a2b3c00"),
        ("decimal_hex", "439041024", "1A2B3C00", "439041024"),
        ("decimal_hex", "0439041024", "1a2b3c00", ""),
    ],
)
def test_an_id_in_another_radix_is_found_whatever_the_tlv_holds(form, answer, text, tlv):
    session = bound_session(id_match=form)
    session.submit(some_submits(1), 1.0)
    [submitted] = outcomes(session.receive(submit_answer(2, answer), 1.1))
    name = f"id:{text} " if text else ""
    body = f"{name}sub:001 dlvrd:001 submit date:2611212028 done date:2611212028"
    fields: dict[str, str | int | bytes] = {
        "source_addr": "86138",
        "destination_addr": "1069",
        "esm_class": 4,
    }
    for rest in (" stat:DELIVRD err:000 text:", " err:000 stat:DELIVRD"):  # usual, and not
        tlvs = [(pdu.TLV_RECEIPTED_MESSAGE_ID, tlv.encode() + b"\0")] if tlv else []
        fields["short_message"] = (body + rest).encode()
        [event] = session.receive(pdu.build_pdu(pdu.DELIVER_SM, 5, fields, tlvs=tlvs), 1.2)
        assert isinstance(event, Reported)
        assert Submitted(event.reports[0].carrier_id) == submitted


# -- user_message_reference ----------------------------------------------------------------


def echoing(sequence, carrier_id, bits, number="8613800138000"):
    """A receipt with the TLV."""
    text = f"id:{carrier_id} sub:001 dlvrd:001 stat:DELIVRD err:000 text:"
    fields = {"source_addr": number, "destination_addr": "1", "esm_class": 4}
    tlvs = [(pdu.TLV_USER_MESSAGE_REFERENCE, bits.to_bytes(2, "big"))]
    fields["short_message"] = text.encode()
    return pdu.build_pdu(pdu.DELIVER_SM, sequence, fields, tlvs=tlvs)


def an_echoing_pair(**settings):
    """Two sessions of one channel: what the one has lost the other is told of."""
    lost = LostSubmits()
    chosen = parse({**SETTINGS, "user_message_reference": True, **settings})
    found = []
    for _ in range(2):
        session = Session(7, chosen, SessionPolicy(), 16)
        session.lost_submits = lost
        session.connected(0.0)
        session.receive(pdu.build_pdu(pdu.BIND_TRANSCEIVER_RESP, 1, {"system_id": "S"}), 0.0)
        session.to_send()
        found.append(session)
    return found


def brought(session, *data):
    [reported] = session.receive(b"".join(data), 5.0)
    return [(one.reference, one.part) for one in reported.reports]


@pytest.mark.parametrize("kind", ["submit_sm", "data_sm"])
def test_submits_carry_their_reference_where_the_channel_says_so(kind):
    session, _ = an_echoing_pair(submit_pdu=kind)
    session._sequence = 0x1FFFE
    session.submit(submits_of(a_message(segments=2)), 1.0)
    bits = [dict(one.tlvs)[pdu.TLV_USER_MESSAGE_REFERENCE] for one in frames(session.to_send())]
    assert bits == [b"\xff\xff", b"\x00\x00"]
    usual = bound_session(submit_pdu=kind)
    usual.submit(some_submits(1), 1.0)
    [one] = frames(usual.to_send())
    assert pdu.TLV_USER_MESSAGE_REFERENCE not in dict(one.tlvs)


def test_a_receipt_that_echoes_it_names_the_attempt_whose_answer_was_lost():
    gone, session = an_echoing_pair()
    gone.submit(submits_of(a_message(segments=2)), 1.0)
    sequences = [one.sequence for one in frames(gone.to_send())]
    gone.lost("channel.link_lost")
    word = reference(1, 1)
    data = [echoing(9 + n, f"x{n}", bits) for n, bits in enumerate(sequences)]
    assert brought(session, *data) == [(word, (1, 2)), (word, (2, 2))]
    national = echoing(20, "y", sequences[0], number="13800138000")
    other = echoing(21, "z", sequences[0], number="13900139000")
    assert brought(session, national, other, echoing(22, "u", 4711), report(23, "v")) == [
        (word, (1, 2)), ("", None), ("", None), ("", None)
    ]  # fmt: skip


def test_a_receipt_that_is_quicker_than_its_answer_names_it_too():
    session, _ = an_echoing_pair()
    session.submit(some_submits(1), 1.0)
    [one] = frames(session.to_send())
    assert brought(session, echoing(9, "x", one.sequence)) == [(reference(1, 1), None)]
    session.receive(submit_answer(one.sequence, "x"), 5.0)
    assert brought(session, echoing(10, "x", one.sequence)) == [("", None)]  # its id says it


def test_two_lost_ones_that_fit_are_none():
    gone, session = an_echoing_pair()
    for _ in range(2):  # the bits have come round
        gone._sequence = 41
        gone.submit(some_submits(1), 1.0)
        gone.state = SessionState.BOUND
        gone._given_up([*gone.window.clear()], "channel.link_lost")
    assert brought(session, echoing(9, "x", 42)) == [("", None)]


def test_a_channel_without_the_setting_believes_no_reference():
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    [one] = frames(session.to_send())
    assert brought(session, echoing(9, "x", one.sequence)) == [("", None)]
