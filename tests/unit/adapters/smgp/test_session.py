"""One SMGP session by hand: bytes and a clock of our own."""

import pytest

from adapters.layout import Fields
from adapters.session import Answered, Bound, Ended, Received, Reported
from adapters.smgp import pdu
from sms.errors import RemoteProtocolError
from sms.model import Encoding, MessageClass, SegmentMark
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.smgp import (
    MSG_ID,
    STAMP,
    a_session,
    bound_session,
    deliver,
    frames,
    login_answer,
    report_body,
    submit_answer,
)
from tests.support.smpp import a_message, outcomes, some_submits, submits_of


def sent(session):
    return frames(session.to_send())


def token_of(found):
    """The channel alone knows what a token is."""
    return found.token


# -- logging in ----------------------------------------------------------------------------


def test_it_logs_in_with_the_recorded_proof():
    session = a_session(mode=0)
    session.connected(0.0)
    vector = "0000002a00000001000000013130363930303031779312591cf34fe7bf4781628a183c540042d4304a30"
    assert session.to_send().hex() == vector
    assert session.free() == 0
    [event] = session.receive(login_answer(), 0.1)
    assert isinstance(event, Bound)
    assert session.free() == 16


@pytest.mark.parametrize(
    ("mode", "window"), [(pdu.MODE_SEND, 16), (pdu.MODE_BOTH, 16), (pdu.MODE_RECEIVE, 0)]
)
def test_the_mode_says_what_may_be_sent(mode, window):
    session = a_session(mode=mode)
    session.connected(0.0)
    [login] = sent(session)
    assert login.number("login_mode") == mode
    session.receive(login_answer(), 0.1)
    assert session.free() == window


def test_the_version_and_the_padding_are_the_carriers():
    plain = a_session(client_id="sp1", client_version=0x13)
    padded = a_session(client_id="sp1", pad_client_id=True)
    proofs = []
    for session in (plain, padded):
        session.connected(0.0)
        [login] = sent(session)
        proofs.append(login.octets("authenticator_client"))
        assert login.text("client_id") == "sp1"
    assert login.number("timestamp") == STAMP
    assert proofs[0] != proofs[1]
    assert proofs[1] == pdu.authenticator("sp1\0\0\0\0\0", "888888", STAMP)


@pytest.mark.parametrize("proof", [bytes(16), b"authserver".ljust(16, b"\0"), b"\xff" * 16])
def test_the_carriers_own_authenticator_is_not_looked_at(proof):
    session = a_session()
    session.connected(0.0)
    fields: Fields = {"status": 0, "authenticator_server": proof, "server_version": 0}
    [event] = session.receive(pdu.build_pdu(pdu.LOGIN_RESP, 1, fields), 0.1)
    assert isinstance(event, Bound)


@pytest.mark.parametrize(("status", "word"), [(21, "shared_secret"), (20, "address"), (3, "SMSG")])
def test_a_refused_login_is_told_with_a_remedy(status, word):
    session = a_session()
    session.connected(0.0)
    [ended] = session.receive(login_answer(status), 0.1)
    assert isinstance(ended, Ended)
    assert str(status) in ended.reason
    assert word in ended.reason


def test_a_short_login_answer_is_enough():
    session = a_session()
    session.connected(0.0)
    [event] = session.receive(pdu.pack_header(16, pdu.LOGIN_RESP, 1) + bytes(4), 0.1)
    assert isinstance(event, Bound)
    session = a_session()
    session.connected(0.0)
    [ended] = session.receive(pdu.pack_header(15, pdu.LOGIN_RESP, 1) + bytes(3), 0.1)
    assert isinstance(ended, Ended)


# -- submitting ----------------------------------------------------------------------------


def test_a_submit_asks_for_its_report_and_says_that_it_is_one_part_of_one():
    session = bound_session(service_id="SVC", m_service_id="P1")
    session.submit(some_submits(1), 0.0)
    [found] = sent(session)
    assert found.sequence == 2
    assert (found.number("msg_type"), found.number("need_report")) == (6, 1)
    assert found.texts("dest_term_id") == ("13800138000",)
    assert found.text("src_term_id") == "10690001"
    assert found.number("msg_format") == 8
    assert found.octets("content") == "你好".encode("utf-16-be")
    assert found.tlvs == [
        (pdu.TLV_TP_PID, b"\0"),
        (pdu.TLV_TP_UDHI, b"\0"),
        (pdu.TLV_PK_TOTAL, b"\1"),
        (pdu.TLV_PK_NUMBER, b"\1"),
        (pdu.TLV_MSG_SRC, b"10690001"),
        (pdu.TLV_M_SERVICE_ID, b"P1".ljust(21, b"\0")),
    ]


def test_a_long_message_has_header_and_part_numbers():
    session = bound_session()
    session.submit(submits_of(a_message(segments=2)), 0.0)
    found = sent(session)
    assert [one.tlv(pdu.TLV_TP_UDHI) for one in found] == [b"\1", b"\1"]
    assert [one.tlv(pdu.TLV_PK_TOTAL) for one in found] == [b"\2", b"\2"]
    assert [one.tlv(pdu.TLV_PK_NUMBER) for one in found] == [b"\1", b"\2"]
    assert [one.octets("content")[:6].hex() for one in found] == ["050003070201", "050003070202"]


def test_a_number_may_go_out_with_86():
    session = bound_session(number_format="e164")
    session.submit(some_submits(1), 0.0)
    assert sent(session)[0].texts("dest_term_id") == ("8613800138000",)


def test_a_gsm7_text_goes_out_as_ascii_or_ucs2():
    session = bound_session()
    plain, euro = some_submits(2)
    plain.encoding, plain.payload = Encoding.GSM7, b"\x00 \x1b\x3c1\x1b\x3e"  # @ [1]
    euro.encoding, euro.payload = Encoding.GSM7, b"\x1b\x65"
    session.submit([plain, euro], 0.0)
    first, second = sent(session)
    assert (first.number("msg_format"), first.octets("content")) == (0, b"@ [1]")
    assert (second.number("msg_format"), second.octets("content")) == (8, b"\x20\xac")


def test_what_does_not_fit_is_refused_and_takes_no_slot():
    session = bound_session()
    [long] = some_submits(1)
    long.encoding, long.payload = Encoding.GSM7, b"a" * 141
    assert [type(outcome) for _, outcome in session.submit([long], 0.0)] == [Rejected]
    assert (session.free(), session.to_send()) == (16, b"")
    roomy = bound_session(content_maximum=160)
    assert roomy.submit([long], 0.0) == []


def test_the_validity_stands_in_valid_time_when_the_carrier_wants_it():
    session = bound_session(validity_period="absolute")
    session.submit(some_submits(1), 0.0)  # 300 s
    assert sent(session)[0].text("valid_time") == "261121202800032+"


def test_answers_in_any_order_give_the_ten_octets_as_id():
    session = bound_session()
    submits = some_submits(3)
    session.submit(submits, 1.0)
    ids = [bytes((number,)) * 10 for number in (1, 2, 0xFE)]
    data = b"".join(submit_answer(sequence, ids[sequence - 2]) for sequence in (4, 2, 3))
    [answered] = session.receive(data, 1.1)
    assert isinstance(answered, Answered)
    assert [one for one, _ in answered.results] == [submits[2], submits[0], submits[1]]
    assert outcomes([answered]) == [Submitted(ids[n].hex()) for n in (2, 0, 1)]


@pytest.mark.parametrize(
    ("status", "cause", "reason"),
    [
        (10, Cause.CONFIG, "channel.misconfigured"),
        (21, Cause.CONFIG, "channel.account"),
        (37, Cause.NUMBER, "recipient.absent"),
        (39, Cause.NETWORK, "recipient.ported"),
        (47, Cause.NUMBER, "recipient.invalid"),
        (75, Cause.CONFIG, "channel.account"),
        (130, Cause.UNKNOWN, "carrier.unknown_code"),
    ],
)
def test_a_status_is_classed_by_the_table(status, cause, reason):
    session = bound_session()
    session.submit(some_submits(1), 0.0)
    events = session.receive(submit_answer(2, status=status), 0.1)
    assert outcomes(events) == [Rejected(str(status), cause, reason)]


def test_busy_is_throttled_and_a_vendors_code_may_be_classed():
    session = bound_session(status_classes={130: "throttled"})
    session.submit(some_submits(2), 0.0)
    data = submit_answer(2, status=1) + submit_answer(3, status=130)
    assert outcomes(session.receive(data, 0.1)) == [Throttled(1.0, "1"), Throttled(1.0, "130")]


def test_a_duplicate_sequence_goes_again_once_with_a_new_one():
    session = bound_session()
    [submit] = some_submits(1)
    session.submit([submit], 0.0)
    assert outcomes(session.receive(submit_answer(2, status=12), 0.1)) == [Throttled(1.0, "12")]
    submit.message.throttled = 1  # what the flow notes when it puts it back
    session.submit([submit], 1.0)
    [outcome] = outcomes(session.receive(submit_answer(3, status=12), 1.1))
    assert outcome == Rejected("12", Cause.CHANNEL, "carrier.system_error")


def test_a_cut_answer_ends_the_session_and_loses_no_submit():
    session = bound_session()
    session.submit(some_submits(1), 0.0)
    frame = submit_answer(2)[:22]
    [ended] = session.receive(len(frame).to_bytes(4, "big") + frame[4:], 0.1)
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, RemoteProtocolError)
    assert outcomes(session.lost("channel.link_lost")) == [Uncertain("channel.link_lost")]


def test_a_time_out_is_uncertain_and_a_late_answer_is_told():
    session = bound_session()
    session.submit(some_submits(1, MessageClass.OTP), 0.0)
    assert outcomes(session.tick(10.0)) == [Uncertain("channel.timeout")]
    assert outcomes(session.receive(submit_answer(2), 11.0)) == [Submitted(MSG_ID.hex())]


# -- link tests ----------------------------------------------------------------------------


def test_a_silent_link_is_tested_three_times_and_then_closed():
    session = bound_session(active_test_s=30, response_timeout_s=60)
    session.to_send()
    for now in (30.0, 90.0, 150.0):
        assert session.tick(now) == []
        assert [one.request_id for one in sent(session)] == [pdu.ACTIVE_TEST]
    [ended] = session.tick(210.0)
    assert isinstance(ended, Ended)
    assert ended.reason == "Active_Test was not answered"


def test_an_answered_link_test_begins_anew():
    session = bound_session(active_test_s=30)
    session.to_send()
    session.tick(30.0)
    [asked] = sent(session)
    session.receive(pdu.pack_header(12, pdu.ACTIVE_TEST_RESP, asked.sequence), 31.0)
    assert session.tick(50.0) == []
    assert session.to_send() == b""
    session.tick(61.0)
    assert len(sent(session)) == 1


def test_the_carriers_link_test_is_answered():
    session = bound_session()
    session.to_send()
    assert session.receive(bytes.fromhex("0000000c0000000410000002"), 1.0) == []
    assert session.to_send().hex() == "0000000c8000000410000002"


# -- reports and texts ---------------------------------------------------------------------


def test_a_report_is_matched_on_the_id_inside_and_answered_with_the_one_outside():
    session = bound_session()
    session.to_send()
    [event] = session.receive(deliver(report_body()), 1.0)
    assert isinstance(event, Reported)
    [found] = event.reports
    assert (found.carrier_id, found.state, found.error) == (MSG_ID.hex(), "DELIVRD", "000")
    assert (found.channel, found.number) == (7, "8613800138000")
    assert session.to_send() == b""
    session.answer([token_of(found)], accepted=True)
    [answer] = sent(session)
    assert (answer.request_id, answer.sequence) == (pdu.DELIVER_RESP, 9)
    assert answer.fields == {"msg_id": b"\x99" * 10, "status": 0}
    session.answer([token_of(found)], accepted=False)
    assert sent(session)[0].number("status") == 1


def test_a_report_may_come_before_the_answer_with_it_or_twice():
    session = bound_session()
    session.submit(some_submits(2), 0.0)
    [early] = session.receive(deliver(report_body()), 0.1)
    assert isinstance(early, Reported)
    other = bytes.fromhex("28765811212025188515")
    together = deliver(report_body(other)) + submit_answer(3, other) + submit_answer(2)
    answered, reported = session.receive(together, 0.2)  # the outcomes are told first
    assert outcomes([answered]) == [Submitted(other.hex()), Submitted(MSG_ID.hex())]
    again = session.receive(deliver(report_body(), sequence=10), 0.3)
    events = (early, reported, *again)
    found = [one for event in events if isinstance(event, Reported) for one in event.reports]
    assert [report.carrier_id for report in found] == [MSG_ID.hex(), other.hex(), MSG_ID.hex()]
    session.to_send()
    session.answer([token_of(report) for report in found[::-1]], accepted=True)
    assert [answer.sequence for answer in sent(session)] == [10, 9, 9]  # each has its own


def test_the_sequence_wraps_and_zero_is_left_out():
    session = bound_session()
    session._sequence = 0xFFFFFFFE
    session.submit(some_submits(2), 0.0)
    assert [found.sequence for found in sent(session)] == [0xFFFFFFFF, 1]


def test_a_report_without_a_state_is_told_as_one_about_nothing():
    session = bound_session()
    session.to_send()
    [event] = session.receive(deliver(b"no report at all"), 1.0)
    assert isinstance(event, Reported)
    [report] = event.reports
    assert (report.carrier_id, report.state, report.number) == ("", "", "")
    session.answer([token_of(report)], accepted=True)
    assert sent(session)[0].number("status") == 0


@pytest.mark.parametrize("tail", [b"\x00\x02", b"\x00\x02\xff\xff\x01", b"\x7f\x01\x00\x01\x05"])
def test_a_tail_that_cannot_be_read_loses_no_report(tail):
    frame = deliver(report_body()) + tail
    frame = len(frame).to_bytes(4, "big") + frame[4:]
    [event] = bound_session().receive(frame, 1.0)
    assert isinstance(event, Reported)


def test_a_report_without_a_reserve_is_read():
    frame = deliver(report_body())[:-8]
    [event] = bound_session().receive(len(frame).to_bytes(4, "big") + frame[4:], 1.0)
    assert isinstance(event, Reported)


@pytest.mark.parametrize(
    ("content", "msg_format", "tlvs", "text"),
    [
        ("回复TD".encode("gbk"), 15, [], "回复TD"),
        ("退订".encode("utf-16-be"), 8, [], "退订"),
        (b"TD", 0, [], "TD"),
        (
            b"\x05\x00\x03\x01\x02\x01" + "回".encode("utf-16-be"),
            8,
            [(pdu.TLV_TP_PID, b"\0"), (0x7F01, b"x"), (pdu.TLV_TP_UDHI, b"\1")],
            "回",
        ),
    ],
)
def test_a_text_from_a_phone_is_read_whatever_it_is_coded_in(content, msg_format, tlvs, text):
    session = bound_session()
    session.to_send()
    frame = deliver(content, is_report=0, msg_format=msg_format, tlvs=tlvs)
    [event] = session.receive(frame, 1.0)
    assert isinstance(event, Received)
    [found] = event.texts
    assert (found.number, found.to, found.text) == ("8613800138000", "10690001", text)
    assert found.carrier_id == "99" * 10
    assert found.mark == (SegmentMark(1, 2, 1, 8) if tlvs else None)
    session.answer([token_of(found)], accepted=True)
    assert sent(session)[0].fields == {"msg_id": b"\x99" * 10, "status": 0}


def test_a_content_longer_than_its_frame_ends_the_session():
    frame = bytearray(deliver(b"x"))
    frame[80] = 255
    [ended] = bound_session().receive(bytes(frame), 1.0)
    assert isinstance(ended, Ended)


def test_a_command_that_nobody_knows_is_counted_and_passed_over():
    session = bound_session()
    session.to_send()
    data = pdu.pack_header(12, 0x5, 1) + pdu.pack_header(12, pdu.RESPONSE | 7, 2)
    assert session.receive(data + login_answer() + submit_answer(77), 1.0) == []
    assert session.strays == 4
    assert session.to_send() == b""


# -- logging out ---------------------------------------------------------------------------


def test_we_log_out():
    session = bound_session()
    session.unbind(5.0)
    assert [one.request_id for one in sent(session)] == [pdu.EXIT]
    assert session.receive(bytes.fromhex("0000000c8000000600000003"), 5.1) == [Ended("unbound")]


def test_the_carrier_logs_out_and_what_is_open_may_still_be_answered():
    session = bound_session()
    session.submit(some_submits(1), 0.0)
    session.to_send()
    assert session.receive(pdu.pack_header(12, pdu.EXIT, 4), 1.0) == []
    assert [one.request_id for one in sent(session)] == [pdu.EXIT_RESP]
    assert session.free() == 0
    answered, ended = session.receive(submit_answer(2), 1.1)
    assert outcomes([answered]) == [Submitted(MSG_ID.hex())]
    assert isinstance(ended, Ended)


def test_an_id_of_zeros_is_none():
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    assert outcomes(session.receive(submit_answer(2, bytes(10)), 1.1)) == [Submitted("")]
