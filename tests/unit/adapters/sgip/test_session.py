"""SGIP in both directions by hand: bytes and a clock of our own."""

import pytest

from adapters.layout import Fields
from adapters.session import Answered, Bound, Ended, Received, Reported, SessionState
from adapters.sgip import pdu
from adapters.sgip.session import Account, Common
from sms.errors import RemoteProtocolError
from sms.model import Encoding, MessageClass, SegmentMark
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.sgip import (
    SMG,
    STAMP,
    a_guest,
    a_session,
    bind_asked,
    bound_guest,
    bound_session,
    deliver,
    frames,
    report,
    response,
)
from tests.support.smpp import a_message, outcomes, some_submits, submits_of

NODE = 3010012345


def sent(session):
    return frames(session.to_send())


def id_of(sequence):
    return pdu.pack_sequence(*sequence).hex()


def token_of(found):
    """The channel alone knows what a token is."""
    return found.token


# -- logging in at the SMG -----------------------------------------------------------------


def test_it_logs_in_with_type_1_and_its_node_and_time():
    session = a_session()
    session.connected(0.0)
    vector = (
        "0000003d00000001b36924b942d4341e000000010166616b656e616d6500000000000000003132333400000000"
        "00000000000000000000000000000000"
    )
    assert session.to_send().hex() == vector
    assert session.free() == 0
    [event] = session.receive(response(pdu.BIND_RESP, (NODE, STAMP, 1)), 0.1)
    assert isinstance(event, Bound)
    assert session.free() == 16


def test_a_refused_login_is_told_with_a_remedy():
    session = a_session()
    session.connected(0.0)
    [ended] = session.receive(response(pdu.BIND_RESP, (NODE, STAMP, 1), 1), 0.1)
    assert isinstance(ended, Ended)
    assert "1 (illegal login)" in ended.reason
    assert "login_name" in ended.reason
    assert session.was_refused(0.1)


def test_a_login_that_is_not_answered_ends():
    session = a_session()
    session.connected(0.0)
    assert session.tick(9.0) == []
    [ended] = session.tick(10.0)
    assert isinstance(ended, Ended)
    assert ended.reason == "the login was not answered"


def test_a_bind_answer_without_a_body_counts_as_taken():
    session = a_session()
    session.connected(0.0)
    [event] = session.receive(pdu.pack_header(20, pdu.BIND_RESP, NODE, STAMP, 1), 0.1)
    assert isinstance(event, Bound)


def test_closed_right_after_the_login_is_a_refused_login():
    """go_sgip's server answers a wrong password with 0 and closes."""
    session = bound_session()
    assert session.was_refused(0.5)
    assert not session.was_refused(5.0)


def test_after_such_an_end_a_login_must_hold_for_a_second_before_it_counts():
    session = a_session(is_doubtful=True)
    session.connected(0.0)
    assert session.receive(response(pdu.BIND_RESP, (NODE, STAMP, 1)), 0.1) == []
    assert session.free() == 0
    assert session.tick(1.0) == []
    [event] = session.tick(1.2)
    assert isinstance(event, Bound)
    assert session.free() == 16
    assert session.tick(2.2) == []


# -- submitting ----------------------------------------------------------------------------


def test_a_submit_carries_86_and_asks_for_every_report():
    session = bound_session()
    [submit] = some_submits(1)
    assert session.submit([submit], 0.0) == []
    [found] = sent(session)
    assert found.sequence == (NODE, STAMP, 2)
    assert found.texts("user_number") == ("8613800138000",)
    assert found.text("sp_number") == "10690001"
    assert found.text("corp_id") == "12345"
    assert found.text("charge_number") == "0" * 21
    assert found.number("report_flag") == 1
    assert (found.number("message_coding"), found.number("tp_udhi")) == (8, 0)
    assert found.octets("content") == "你好".encode("utf-16-be")


def test_a_number_may_go_out_without_86():
    session = bound_session(number_format="national_cn")
    session.submit(some_submits(1), 0.0)
    assert sent(session)[0].texts("user_number") == ("13800138000",)


def test_a_long_message_has_its_header_and_one_id_per_segment():
    session = bound_session()
    session.submit(submits_of(a_message(segments=3)), 0.0)
    found = sent(session)
    assert [one.number("tp_udhi") for one in found] == [1, 1, 1]
    assert [one.octets("content")[:6].hex() for one in found] == [
        "050003070301",
        "050003070302",
        "050003070303",
    ]
    assert len({one.sequence for one in found}) == 3


def test_a_gsm7_text_goes_out_as_ascii():
    session = bound_session()
    [submit] = some_submits(1)
    submit.encoding, submit.payload = Encoding.GSM7, b"code \x001234\x02"  # @ and $ of 03.38
    session.submit([submit], 0.0)
    [found] = sent(session)
    assert (found.number("message_coding"), found.octets("content")) == (0, b"code @1234$")


def test_what_does_not_fit_is_refused_and_takes_no_slot():
    session = bound_session()
    long, wide = some_submits(2)
    long.encoding, long.payload = Encoding.GSM7, b"a" * 141
    wide.sender = "1" * 22
    refused = session.submit([long, wide], 0.0)
    assert [one for one, _ in refused] == [long, wide]
    assert {type(outcome) for _, outcome in refused} == {Rejected}
    assert session.free() == 16
    assert session.to_send() == b""


def test_the_validity_stands_in_expire_time_when_the_carrier_wants_it():
    session = bound_session(validity_period="absolute")
    session.submit(some_submits(1), 0.0)  # 300 s
    assert sent(session)[0].text("expire_time") == "261121203800032+"


def test_answers_in_any_order_give_the_whole_sequence_as_id():
    session = bound_session()
    submits = some_submits(3)
    session.submit(submits, 1.0)
    sequences = [one.sequence for one in sent(session)]
    data = b"".join(response(pdu.SUBMIT_RESP, one) for one in reversed(sequences))
    [answered] = session.receive(data, 1.1)
    assert isinstance(answered, Answered)
    assert [one for one, _ in answered.results] == submits[::-1]
    assert outcomes([answered]) == [Submitted(id_of(one)) for one in sequences[::-1]]


def test_an_answer_that_changed_the_time_part_still_finds_its_submit():
    """SMGs put a time of their own there; the report names the one that we sent."""
    session = bound_session()
    session.submit(some_submits(1), 5.0)
    [sequence] = [one.sequence for one in sent(session)]
    answer = response(pdu.SUBMIT_RESP, (NODE, STAMP + 9, sequence[2]))
    assert outcomes(session.receive(answer, 6.0)) == [Submitted(id_of(sequence))]


@pytest.mark.parametrize(
    ("result", "cause", "reason"),
    [
        (1, Cause.CONFIG, "channel.account"),
        (5, Cause.CONFIG, "channel.misconfigured"),
        (6, Cause.NUMBER, "recipient.invalid"),
        (23, Cause.NETWORK, "recipient.ported"),
        (32, Cause.CHANNEL, "carrier.system_error"),
        (182, Cause.CONFIG, "channel.account"),
        (99, Cause.UNKNOWN, "carrier.unknown_code"),
    ],
)
def test_a_result_is_classed_by_the_table(result, cause, reason):
    session = bound_session()
    session.submit(some_submits(1), 0.0)
    [sequence] = [one.sequence for one in sent(session)]
    events = session.receive(response(pdu.SUBMIT_RESP, sequence, result), 0.1)
    assert outcomes(events) == [Rejected(str(result), cause, reason)]


@pytest.mark.parametrize("result", [11, 33])
def test_busy_is_throttled(result):
    session = bound_session()
    session.submit(some_submits(1), 0.0)
    [sequence] = [one.sequence for one in sent(session)]
    events = session.receive(response(pdu.SUBMIT_RESP, sequence, result), 0.1)
    assert outcomes(events) == [Throttled(1.0, str(result))]


def test_a_channel_may_class_a_code_itself():
    session = bound_session(status_classes={"99": "perm_blacklist"})
    session.submit(some_submits(1), 0.0)
    [sequence] = [one.sequence for one in sent(session)]
    [outcome] = outcomes(session.receive(response(pdu.SUBMIT_RESP, sequence, 99), 0.1))
    assert outcome == Rejected("99", Cause.NUMBER, "recipient.blocked")


def test_a_refused_sequence_number_goes_again_once_with_a_new_one():
    session = bound_session()
    [submit] = some_submits(1)
    session.submit([submit], 0.0)
    [first] = [one.sequence for one in sent(session)]
    events = session.receive(response(pdu.SUBMIT_RESP, first, 9), 0.1)
    assert outcomes(events) == [Throttled(1.0, "9")]
    submit.message.throttled = 1  # what the flow notes when it puts it back
    session.submit([submit], 1.0)
    [second] = [one.sequence for one in sent(session)]
    assert second[2] != first[2]
    [outcome] = outcomes(session.receive(response(pdu.SUBMIT_RESP, second, 9), 1.1))
    assert outcome == Rejected("9", Cause.CHANNEL, "carrier.system_error")


def test_sessions_of_a_process_and_processes_of_a_node_never_share_a_counter():
    common = Common(process=3, life=1)
    first, second = bound_session(common=common), bound_session(common=common)
    other = bound_session(common=Common(process=4, life=1))
    for session in (first, second, other, first):
        session.submit(some_submits(4), 0.0)
    counters = [one.sequence[2] for one in sent(first) + sent(second) + sent(other)]
    assert len(set(counters)) == 16
    assert {counter >> 22 for counter in counters[:12]} == {3}
    assert {counter >> 22 for counter in counters[12:]} == {4}


def test_the_counter_wraps_inside_its_process():
    common = Common(process=3)
    common.last = common.highest - 1
    session = bound_session(common=common)
    session.submit(some_submits(3), 0.0)
    assert [one.sequence[2] for one in sent(session)] == [3 << 22, (3 << 22) + 1, (3 << 22) + 2]


def test_two_lives_of_a_process_begin_apart():
    assert Common(3, life=1).last != Common(3, life=2).last


def test_a_cut_answer_ends_the_session_and_loses_no_submit():
    session = bound_session()
    session.submit(some_submits(1), 0.0)
    [sequence] = [one.sequence for one in sent(session)]
    [ended] = session.receive(pdu.pack_header(20, pdu.SUBMIT_RESP, *sequence), 0.1)
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, RemoteProtocolError)
    assert outcomes(session.lost("channel.link_lost")) == [
        Uncertain("channel.link_lost", id_of(sequence))
    ]


def test_a_time_out_is_uncertain_and_a_late_answer_is_told():
    session = bound_session()
    submits = some_submits(1, MessageClass.OTP)
    session.submit(submits, 0.0)
    [sequence] = [one.sequence for one in sent(session)]
    assert outcomes(session.tick(10.0)) == [Uncertain("channel.timeout", id_of(sequence))]
    assert outcomes(session.receive(response(pdu.SUBMIT_RESP, sequence), 11.0)) == [
        Submitted(id_of(sequence))
    ]


def test_there_is_no_link_test_however_long_it_is_silent():
    session = bound_session()
    assert session.tick(3600.0) == []
    assert session.to_send() == b""


# -- reports and texts ---------------------------------------------------------------------


@pytest.mark.parametrize("make", [bound_session, bound_guest])
@pytest.mark.parametrize(
    ("state", "error", "word", "code"),
    [(0, 0, "DELIVRD", ""), (1, 0, "ACCEPTD", ""), (2, 29, "UNDELIV", "29"), (7, 0, "STATE7", "")],
)
def test_a_report_names_its_submit_and_is_answered_when_it_is_kept(make, state, error, word, code):
    session = make()
    [event] = session.receive(report((NODE, STAMP, 5), state, error), 1.0)
    assert isinstance(event, Reported)
    [found] = event.reports
    assert (found.carrier_id, found.state, found.error) == (id_of((NODE, STAMP, 5)), word, code)
    assert (found.channel, found.number) == (7, "8613800138000")
    assert session.to_send() == b""
    session.answer([token_of(found)], accepted=True)
    [answer] = sent(session)
    assert (answer.command_id, answer.sequence) == (pdu.REPORT_RESP, (100001, 1121203240, 77))
    assert answer.number("result") == 0
    session.answer([token_of(found)], accepted=False)
    assert sent(session)[0].number("result") == 11


@pytest.mark.parametrize("user", ["13800138000", "8613800138000", "+8613800138000"])
def test_a_report_may_name_the_number_with_86_or_without(user):
    [event] = bound_guest().receive(report((NODE, STAMP, 5), user=user), 1.0)
    assert isinstance(event, Reported)
    assert event.reports[0].number == "8613800138000"


def test_a_report_on_a_text_that_was_passed_on_is_answered_and_dropped():
    session = bound_guest()
    frame = bytearray(report((NODE, STAMP, 5)))
    frame[32] = 1  # ReportType
    assert session.receive(bytes(frame), 1.0) == []
    assert sent(session)[0].number("result") == 0


def test_a_report_before_the_answer_is_the_answer():
    """It comes on the other connection; what comes on ours afterwards is nobody's."""
    common = Common()
    session, guest = bound_session(common=common), bound_guest(common)
    submits = some_submits(2)
    session.submit(submits, 1.0)
    first, second = (one.sequence for one in sent(session))
    answered, reported = guest.receive(report(second), 1.1)
    assert isinstance(answered, Answered)
    assert answered.results == [(submits[1], Submitted(id_of(second)))]
    assert isinstance(reported, Reported)
    assert session.free() == 15
    assert session.receive(response(pdu.SUBMIT_RESP, second), 1.2) == []
    assert session.strays == 1
    again = guest.receive(report(second), 1.3)  # twice
    assert [type(event) for event in again] == [Reported]
    assert outcomes(session.receive(response(pdu.SUBMIT_RESP, first), 1.4)) == [
        Submitted(id_of(first))
    ]


def test_a_report_is_evidence_for_a_submit_that_was_given_up():
    common = Common()
    session, guest = bound_session(common=common), bound_guest(common)
    session.submit(some_submits(1, MessageClass.OTP), 0.0)
    [sequence] = [one.sequence for one in sent(session)]
    assert outcomes(session.tick(10.0)) == [Uncertain("channel.timeout", id_of(sequence))]
    assert outcomes(guest.receive(report(sequence), 12.0)) == [Submitted(id_of(sequence))]


def test_a_report_on_an_older_submit_with_the_same_counter_is_no_evidence():
    common = Common()
    session, guest = bound_session(common=common), bound_guest(common)
    session.submit(some_submits(1), 1.0)
    [(node, stamp, counter)] = [one.sequence for one in sent(session)]
    events = guest.receive(report((node, stamp - 1000000, counter)), 1.1)
    assert [type(event) for event in events] == [Reported]
    assert len(session.window.open) == 1


def test_another_channels_report_is_no_evidence():
    common = Common()
    session = bound_session(common=common, channel=8)
    session.submit(some_submits(1), 1.0)
    [sequence] = [one.sequence for one in sent(session)]
    assert outcomes(bound_guest(common).receive(report(sequence), 1.1)) == []


def test_a_session_that_is_over_has_told_the_ids_of_its_submits():
    """Nobody looks there any more: whoever heard of the loss knows what its report will name."""
    common = Common()
    session = bound_session(common=common)
    submits = some_submits(2)
    session.submit(submits[:1], 1.0)
    session.submit(submits[1:], 2.0)  # another second, another time part
    sequence, other = [one.sequence for one in sent(session)]
    assert outcomes(session.lost("channel.link_lost")) == [
        Uncertain("channel.link_lost", id_of(sequence)),
        Uncertain("channel.link_lost", id_of(other)),
    ]
    assert outcomes(bound_guest(common).receive(report(sequence), 1.1)) == []
    assert common.sessions == {7: []}


@pytest.mark.parametrize("make", [bound_session, bound_guest])
@pytest.mark.parametrize(
    ("content", "coding", "udhi", "text"),
    [
        ("回复TD".encode("gbk"), 15, 0, "回复TD"),
        ("退订".encode("utf-16-be"), 8, 0, "退订"),
        (b"TD", 0, 0, "TD"),
        (b"\x05\x00\x03\x01\x02\x01" + "回".encode("utf-16-be"), 8, 1, "回"),
        (b"\xff", 8, 0, "\ufffd"),
    ],
)
def test_a_text_from_a_phone_is_read_whatever_it_is_coded_in(make, content, coding, udhi, text):
    session = make()
    [event] = session.receive(deliver(content, coding, udhi), 1.0)
    assert isinstance(event, Received)
    [found] = event.texts
    assert (found.number, found.to, found.text) == ("8613800138000", "10690001", text)
    assert found.carrier_id == pdu.pack_sequence(*SMG).hex()
    assert found.mark == (SegmentMark(1, 2, 1, 8) if udhi else None)
    session.answer([token_of(found)], accepted=True)
    [answer] = sent(session)
    assert (answer.command_id, answer.sequence) == (pdu.DELIVER_RESP, SMG)


@pytest.mark.parametrize("make", [bound_session, bound_guest])
def test_what_the_network_says_of_a_subscriber_is_answered(make):
    session = make()
    fields: Fields = {"sp_number": "10690001", "user_number": "8613800138000", "user_condition": 1}
    assert session.receive(pdu.build_pdu(pdu.USERRPT, SMG, fields), 1.0) == []
    [answer] = sent(session)
    assert (answer.command_id, answer.number("result")) == (pdu.USERRPT_RESP, 0)


@pytest.mark.parametrize("make", [bound_session, bound_guest])
def test_a_command_that_we_do_not_serve_gets_an_error(make):
    session = make()
    assert session.receive(pdu.pack_header(20, pdu.TRACE, *SMG), 1.0) == []
    data = session.to_send()
    assert pdu.parse_header(data)[1] == pdu.RESPONSE | pdu.TRACE
    assert data[20] == 7


def test_an_answer_that_nobody_waits_for_is_counted():
    session = bound_session()
    assert session.receive(response(pdu.SUBMIT_RESP, SMG) + response(pdu.BIND_RESP, SMG), 1.0) == []
    assert session.strays == 2


@pytest.mark.parametrize("cut", [36, 60])
def test_a_cut_report_or_text_ends_the_session_only(cut):
    guest = bound_guest()
    frame = (report(SMG) if cut == 36 else deliver(b"x"))[:cut]
    [ended] = guest.receive(len(frame).to_bytes(4, "big") + frame[4:], 1.0)
    assert isinstance(ended, Ended)
    assert ended.error is not None
    assert guest.receive(report(SMG), 1.1) == []


def test_a_content_longer_than_its_frame_ends_the_session():
    frame = bytearray(deliver(b"x"))
    frame[65:69] = b"\xff\xff\xff\xff"
    [ended] = bound_guest().receive(bytes(frame), 1.0)
    assert isinstance(ended, Ended)
    assert "MessageContent" in ended.reason


# -- the SMG's login at our listener -------------------------------------------------------


def test_the_smg_logs_in_with_type_2():
    guest = a_guest()
    [event] = guest.receive(bind_asked(), 0.1)
    assert event == Bound("fakename")
    [answer] = sent(guest)
    assert (answer.command_id, answer.sequence) == (pdu.BIND_RESP, SMG)
    assert answer.number("result") == 0
    assert guest.channel == 7
    assert guest.free() == 0


@pytest.mark.parametrize(
    ("wrong", "result"),
    [({"login_type": 1}, 4), ({"name": "other"}, 1), ({"password": "x"}, 1), ({"password": ""}, 1)],
)
def test_a_wrong_login_is_answered_and_closed(wrong, result):
    guest = a_guest()
    [ended] = guest.receive(bind_asked(**wrong), 0.1)
    assert isinstance(ended, Ended)
    assert [answer.number("result") for answer in sent(guest)] == [result]
    assert guest.receive(report(SMG), 0.2) == []


def test_nobody_may_log_in_from_an_address_that_no_channel_lists():
    common = Common()
    guest = a_guest(common)
    guest._accounts = tuple
    [ended] = guest.receive(bind_asked(), 0.1)
    assert isinstance(ended, Ended)


def test_the_login_decides_the_channel():
    accounts = (Account(7, 1, "unicom-a", "1"), Account(8, 2, "unicom-b", "2"))
    guest = a_guest(None, *accounts)
    guest.receive(bind_asked(name="unicom-b", password="2"), 0.1)
    assert guest.channel == 8
    guest = a_guest(None, *accounts)
    [ended] = guest.receive(bind_asked(name="unicom-b", password="1"), 0.1)
    assert isinstance(ended, Ended)


@pytest.mark.parametrize("first", [report(SMG), deliver(b"x"), response(pdu.SUBMIT_RESP, SMG)])
def test_nothing_is_read_before_the_login(first):
    guest = a_guest()
    [ended] = guest.receive(first, 0.1)
    assert isinstance(ended, Ended)
    assert guest.to_send() == b""


def test_who_never_logs_in_is_closed():
    guest = a_guest()
    [ended] = guest.tick(10.0)
    assert isinstance(ended, Ended)


def test_a_second_login_changes_nothing():
    guest = bound_guest()
    assert guest.receive(bind_asked(), 1.0) == []
    assert [answer.number("result") for answer in sent(guest)] == [2]
    assert guest.state is SessionState.BOUND


# -- logging out ---------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", bytes(9)])
@pytest.mark.parametrize("make", [bound_session, bound_guest])
def test_we_log_out_and_take_either_answer_with_any_time(make, body):
    session = make()
    session.unbind(5.0)
    [asked] = sent(session)
    assert asked.command_id == pdu.UNBIND
    node, stamp, counter = asked.sequence
    answer = pdu.pack_header(20 + len(body), pdu.UNBIND_RESP, node, stamp - 1, counter) + body
    assert session.receive(answer, 5.1) == [Ended("unbound")]


def test_the_smg_logs_out_and_what_is_open_may_still_be_answered():
    session = bound_session()
    session.submit(some_submits(1), 0.0)
    [sequence] = [one.sequence for one in sent(session)]
    assert session.receive(pdu.pack_header(20, pdu.UNBIND, *SMG), 1.0) == []
    assert [one.command_id for one in sent(session)] == [pdu.UNBIND_RESP]
    assert session.free() == 0
    answered, ended = session.receive(response(pdu.SUBMIT_RESP, sequence), 1.1)
    assert outcomes([answered]) == [Submitted(id_of(sequence))]
    assert isinstance(ended, Ended)


@pytest.mark.parametrize("make", [bound_session, bound_guest])
def test_what_the_smg_brought_is_answered_before_its_logout(make):
    """In one burst with the logout: by the time it is kept the SMG must still be there."""
    session = make()
    unbind = pdu.pack_header(20, pdu.UNBIND, *SMG)
    reported, received = session.receive(report((NODE, STAMP, 5)) + deliver(b"x") + unbind, 1.0)
    assert session.to_send() == b""
    session.answer([token_of(reported.reports[0])], accepted=True)
    assert [one.command_id for one in sent(session)] == [pdu.REPORT_RESP]
    assert session.tick(2.0) == []
    session.answer([token_of(received.texts[0])], accepted=True)
    assert [one.command_id for one in sent(session)] == [pdu.DELIVER_RESP, pdu.UNBIND_RESP]
    assert session.tick(3.0) == [Ended("unbound by the carrier")]


def test_a_logout_is_answered_in_time_although_nothing_can_be_kept():
    guest = bound_guest()
    guest.receive(report((NODE, STAMP, 5)) + pdu.pack_header(20, pdu.UNBIND, *SMG), 1.0)
    assert guest.tick(10.9) == []
    assert guest.tick(11.0) == [Ended("unbound by the carrier")]
    assert [one.command_id for one in sent(guest)] == [pdu.UNBIND_RESP]


def test_an_smg_that_says_nothing_for_long_is_logged_out():
    guest = bound_guest()
    guest.receive(report((NODE, STAMP, 5)), 30.0)
    assert guest.tick(329.0) == []
    assert guest.tick(331.0) == []  # what it brought is not answered yet
    assert sent(guest) == []
    guest.answer([(guest, pdu.pack_header(29, pdu.REPORT, *SMG))], accepted=True)
    assert guest.tick(331.0) == []
    assert [one.command_id for one in sent(guest)] == [pdu.REPORT_RESP, pdu.UNBIND]
    [reported] = guest.receive(report((NODE, STAMP, 6)), 331.5)  # on its way meanwhile
    assert isinstance(reported, Reported)
    assert guest.tick(341.0) == [Ended("the logout was not answered")]


def test_who_is_logged_out_before_its_login_brings_nothing():
    guest = a_guest()
    guest.unbind(0.1)
    guest.to_send()
    [ended] = guest.receive(report((NODE, STAMP, 5)) + deliver(b"TD"), 0.2)
    assert isinstance(ended, Ended)
