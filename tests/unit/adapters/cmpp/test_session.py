"""One session by hand: bytes and a clock of our own."""

from hashlib import md5
from typing import Any, cast

import pytest

from adapters.cmpp import pdu
from adapters.cmpp.auth import authenticators_ismg
from adapters.cmpp.pdu import Layout
from adapters.cmpp.session import Session, Token
from adapters.cmpp.settings import parse
from adapters.mainland import CODING_UCS2
from adapters.session import (
    Answered,
    Bound,
    Ended,
    Received,
    Reported,
    SessionPolicy,
    SessionState,
)
from loadtest.cmpp_server import CmppSide, parse_submit
from sms.errors import LocalProtocolError, RemoteProtocolError
from sms.model import Encoding, SegmentMark
from sms.outcomes import Cause, Rejected, Submitted, Throttled, Uncertain
from tests.support.cmpp import (
    SETTINGS,
    a_session,
    bound_session,
    connect_answer,
    deliver,
    frames,
    header,
    report,
    report_body,
    submit_answer,
)
from tests.support.smpp import a_message, outcomes, some_submits, submits_of

BOTH = pytest.mark.parametrize(("protocol", "layout"), [("cmpp2", Layout.V2), ("cmpp3", Layout.V3)])


def sent(session):
    return [(one.command_id, one.sequence) for one in frames(session.to_send(), session.layout)]


def tokens(event: Reported | Received) -> list[Token]:
    """What answers its reports or texts; the channel alone knows what a token is."""
    found = event.reports if isinstance(event, Reported) else event.texts
    return [cast(Token, one.token) for one in found]


# -- logging in ----------------------------------------------------------------------------


def test_it_logs_in_with_the_bytes_of_other_implementations():
    """cmpp30-gocmpp-cmpp_connect-9, but for its time and its sequence number."""
    session = a_session("cmpp3")
    session.connected(0.0)
    [connect] = frames(session.to_send(), Layout.V3)
    assert connect.fields["source_addr"] == "900001"
    assert connect.fields["version"] == 0x30
    assert connect.fields["timestamp"] == 1121202344
    assert session.free() == 0


def test_the_leading_zero_of_the_time_stamp_counts_in_the_hash():
    """New Year in China; the number on the wire has none."""
    parsed = parse("cmpp2", SETTINGS)
    session = Session(7, parsed, SessionPolicy(), 16, login_at=1767200400.0)
    session.connected(0.0)
    [connect] = frames(session.to_send())
    assert connect.number("timestamp") == 101010000
    proof = md5(b"900001" + bytes(9) + b"888888" + b"0101010000").digest()
    assert connect.octets("authenticator_source") == proof


@pytest.mark.parametrize("version", [0x20, 0x21])
def test_a_2_0_channel_names_its_version(version):
    session = a_session("cmpp2", version=version)
    session.connected(0.0)
    [connect] = frames(session.to_send())
    assert connect.number("version") == version


@BOTH
def test_a_taken_login_opens_the_window(protocol, layout):
    session = a_session(protocol)
    session.connected(0.0)
    [event] = session.receive(
        connect_answer(1, layout, version=0x20 + 0x10 * (protocol[-1] == "3")), 0.1
    )
    assert isinstance(event, Bound)
    assert session.free() == 16
    assert session.layout is layout


@pytest.mark.parametrize("proof", [bytes(16), b"mockauth".ljust(16, b"\0"), b"\xff" * 16])
def test_the_login_never_depends_on_the_carrier_s_hash(proof):
    session = a_session()
    session.connected(0.0)
    fields: dict[str, pdu.Value] = {"authenticator_ismg": proof, "version": 0x20}
    [event] = session.receive(pdu.build_pdu(pdu.CONNECT_RESP, 1, fields, Layout.V2), 0.1)
    assert isinstance(event, Bound)
    assert "authenticator of its own kind" in event.peer


@pytest.mark.parametrize("form", [0, 1, 2])
def test_a_hash_of_a_known_form_is_not_worth_a_word(form):
    session = a_session()
    session.connected(0.0)
    [connect] = frames(session.to_send())
    proof = authenticators_ismg(0, connect.octets("authenticator_source"), "888888")[form]
    fields: dict[str, pdu.Value] = {"authenticator_ismg": proof, "version": 0x20}
    [event] = session.receive(pdu.build_pdu(pdu.CONNECT_RESP, 1, fields, Layout.V2), 0.1)
    assert event == Bound("CMPP 2.0 and 2.1")


@BOTH
@pytest.mark.parametrize("status", [1, 2, 3, 4, 5, 255])
def test_a_refused_login_ends_it_in_words_with_a_remedy(protocol, layout, status):
    session = a_session(protocol)
    session.connected(0.0)
    [ended] = session.receive(connect_answer(1, layout, status), 0.1)
    assert isinstance(ended, Ended)
    assert f"status {status}:" in ended.reason
    assert session.free() == 0


@pytest.mark.parametrize(
    ("layout", "version", "spoken"),
    [
        (Layout.V2, 0x20, Layout.V2),  # an answer in 2.0 and says so
        (Layout.V3, 0x20, Layout.V2),  # told 2.0 in an answer of 3.0's size
        (Layout.V2, 0x30, Layout.V2),  # copied ours into an answer of 2.0's size
        (Layout.V2, 0, Layout.V2),  # no version: the size says it
        (Layout.V3, 0, Layout.V3),
        (Layout.V3, 0x30, Layout.V3),
    ],
)
def test_a_3_0_channel_speaks_what_the_carrier_speaks(layout, version, spoken):
    session = a_session("cmpp3")
    session.connected(0.0)
    session.to_send()
    session.receive(connect_answer(1, layout, version=version), 0.1)
    assert session.layout is spoken
    session.submit(some_submits(1), 1.0)
    [submit] = frames(session.to_send(), spoken)
    assert submit.texts("dest_terminal_id") == ["13800138000"]
    [event] = session.receive(report(5, 1, layout=spoken), 1.1)
    assert isinstance(event, Reported)


def test_a_2_0_channel_stays_with_it_whatever_the_carrier_could_speak():
    session = a_session("cmpp2")
    session.connected(0.0)
    session.receive(connect_answer(1, Layout.V2, version=0x30), 0.1)
    assert session.layout is Layout.V2


def test_a_login_without_answer_ends_after_the_response_time():
    session = a_session(policy=SessionPolicy(response_timeout_s=10))
    session.connected(0.0)
    assert session.tick(9.9) == []
    assert [type(event) for event in session.tick(10.0)] == [Ended]


# -- submits -------------------------------------------------------------------------------


@BOTH
def test_answers_are_matched_in_any_order_and_free_their_slots(protocol, layout):
    session = bound_session(protocol, window=4)
    submits = some_submits(4)
    assert session.submit(submits, 1.0) == []
    assert [one.sequence for one in frames(session.to_send(), layout)] == [2, 3, 4, 5]
    assert session.free() == 0
    last, first = submit_answer(5, 0xD, layout=layout), submit_answer(2, 0xA, layout=layout)
    [event] = session.receive(last + first, 1.1)
    assert isinstance(event, Answered)
    assert event.results == [
        (submits[3], Submitted("000000000000000d")),
        (submits[0], Submitted("000000000000000a")),
    ]
    assert session.free() == 2


def test_the_window_is_never_exceeded():
    session = bound_session(window=2)
    with pytest.raises(LocalProtocolError):
        session.submit(some_submits(3), 1.0)


def test_the_carrier_s_sequence_numbers_may_be_ours():
    """Keyed on (direction, number): its request 2 answers nothing of ours."""
    session = bound_session()
    submits = some_submits(1)
    session.submit(submits, 1.0)
    session.to_send()
    events = session.receive(deliver(2, b"hi") + header(pdu.ACTIVE_TEST, 2), 1.1)
    assert [type(event) for event in events] == [Received]
    assert sent(session) == [(pdu.ACTIVE_TEST_RESP, 2)]
    assert outcomes(session.receive(submit_answer(2, 1), 1.2)) == [Submitted(f"{1:016x}")]


def test_sequence_numbers_wrap():
    session = bound_session()
    session._sequence = 0xFFFFFFFE
    session.submit(some_submits(2), 1.0)
    assert [one.sequence for one in frames(session.to_send())] == [0xFFFFFFFF, 1]


@pytest.mark.parametrize("msg_id", [0x4D2, 0xBAD235402711_0001, 0xFFFF_FFFF_FFFF_FFFF])
def test_an_id_is_eight_opaque_octets(msg_id):
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    events = session.receive(submit_answer(2, msg_id) + report(9, msg_id), 1.1)
    assert outcomes(events) == [Submitted(f"{msg_id:016x}")]
    assert isinstance(events[1], Reported)
    assert events[1].reports[0].carrier_id == f"{msg_id:016x}"


def test_an_id_of_zeros_is_none():
    """go_cmpp gives it to every submit (vector cmpp20-go_cmpp-cmpp_submit_resp-4)."""
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    assert outcomes(session.receive(submit_answer(2, 0), 1.1)) == [Submitted("")]


@pytest.mark.parametrize(
    ("result", "kind", "cause"),
    [
        (8, Throttled, None),
        (9, Rejected, Cause.NETWORK),
        (13, Rejected, Cause.NUMBER),
        (6, Rejected, Cause.CONTENT),
        (1, Rejected, Cause.CONFIG),
        (3, Throttled, None),  # once
        (90, Rejected, Cause.UNKNOWN),
    ],
)
@BOTH
def test_each_result_becomes_one_outcome(protocol, layout, result, kind, cause):
    session = bound_session(protocol)
    session.submit(some_submits(1), 1.0)
    answer = submit_answer(2, 5, result, layout)
    [outcome] = outcomes(session.receive(answer, 1.1))
    assert isinstance(outcome, kind)
    assert getattr(outcome, "cause", None) is cause
    assert outcome.code == str(result)
    assert outcomes(session.receive(answer, 1.2)) == []
    assert session.strays == 1


@pytest.mark.parametrize("layout", list(Layout))
def test_an_answer_is_read_by_its_length_whatever_the_version(layout):
    session = bound_session("cmpp2")
    session.submit(some_submits(2), 1.0)
    data = submit_answer(2, 7, layout=layout) + submit_answer(3, 7, 8, layout)
    taken, throttled = outcomes(session.receive(data, 1.1))
    assert taken == Submitted(f"{7:016x}")
    assert isinstance(throttled, Throttled)


def test_a_cut_answer_ends_the_session_and_leaves_its_submit_uncertain():
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    [ended] = session.receive(pdu.pack_header(20, pdu.SUBMIT_RESP, 2) + bytes(8), 1.1)
    assert isinstance(ended, Ended)
    assert outcomes(session.lost("channel.link_lost")) == [Uncertain("channel.link_lost")]


def test_a_channel_s_own_classes_go_first():
    session = bound_session(status_classes={"90": "perm_number"})
    session.submit(some_submits(1), 1.0)
    [outcome] = outcomes(session.receive(submit_answer(2, 0, 90), 1.1))
    assert isinstance(outcome, Rejected)
    assert outcome.cause is Cause.NUMBER


@BOTH
def test_segments_carry_their_header_its_flag_and_their_numbers(protocol, layout):
    session = bound_session(protocol)
    session.submit(submits_of(a_message(segments=3)), 1.0)
    for index, one in enumerate(frames(session.to_send(), layout), 1):
        assert (one.number("pk_total"), one.number("pk_number")) == (3, index)
        assert one.number("tp_udhi") == 1
        assert one.number("msg_fmt") == CODING_UCS2
        assert one.octets("content")[:6] == bytes((5, 0, 3, 7, 3, index))
        assert one.number("registered_delivery") == 1
        assert one.octets("msg_id") == bytes(8)


def test_carriers_that_read_the_header_only_get_one_of_one():
    session = bound_session(pk_numbers="one")
    session.submit(submits_of(a_message(segments=2)), 1.0)
    assert [
        (one.number("pk_total"), one.number("pk_number")) for one in frames(session.to_send())
    ] == [(1, 1)] * 2


@pytest.mark.parametrize("fault", ["sender", "number", "payload"])
def test_a_submit_that_cannot_be_packed_is_told_and_takes_no_slot(fault):
    session = bound_session(window=4)
    good, bad = some_submits(2)
    setattr(bad, fault, {"sender": "1" * 22, "number": "9" * 22, "payload": bytes(141)}[fault])
    [(refused, outcome)] = session.submit([good, bad], 1.0)
    assert refused is bad
    assert isinstance(outcome, Rejected)
    assert outcome.cause is Cause.CONFIG
    assert session.free() == 3
    assert len(frames(session.to_send())) == 1


@pytest.mark.parametrize(
    ("form", "number", "shown"),
    [
        ("national_cn", "8613800138000", "13800138000"),
        ("national_cn", "85291234567", "85291234567"),
        ("e164", "8613800138000", "8613800138000"),
        ("plus", "8613800138000", "+8613800138000"),
    ],
)
def test_a_number_is_written_as_the_carrier_wants_it(form, number, shown):
    session = bound_session(number_format=form)
    [submit] = some_submits(1)
    submit.number = number
    session.submit([submit], 1.0)
    [one] = frames(session.to_send())
    assert one.texts("dest_terminal_id") == [shown]


def gsm7(payload: bytes, *, has_udh: bool = False):
    [submit] = some_submits(1)
    submit.encoding, submit.payload, submit.has_udh = Encoding.GSM7, payload, has_udh
    return submit


@pytest.mark.parametrize(
    ("payload", "fmt", "content"),
    [
        (b"Hi \x00 \x02 \x1b\x3c", 0, b"Hi @ $ ["),  # septets of GSM-7, not ASCII
        (b"caf\x05", 8, "café".encode("utf-16-be")),
        (b"a" * 140, 0, b"a" * 140),
    ],
)
def test_gsm7_goes_as_ascii_where_it_can(payload, fmt, content):
    session = bound_session()
    session.submit([gsm7(payload)], 1.0)
    [one] = frames(session.to_send())
    assert (one.number("msg_fmt"), one.octets("content")) == (fmt, content)


@pytest.mark.parametrize("udh", [bytes((5, 0, 3, 1, 2, 1)), bytes((6, 8, 4, 1, 9, 2, 1))])
def test_the_header_of_a_gsm7_segment_stays(udh):
    session = bound_session()
    session.submit([gsm7(udh + b"\x00x", has_udh=True)], 1.0)
    [one] = frames(session.to_send())
    assert one.octets("content") == udh + b"@x"


@pytest.mark.parametrize(
    ("udh", "units"), [(bytes((5, 0, 3, 7, 2, 1)), 67), (bytes((6, 8, 4, 1, 7, 2, 1)), 66)]
)
def test_a_full_segment_with_an_8_or_16_bit_reference_goes_and_one_unit_more_does_not(udh, units):
    session = bound_session()
    good, bad = submits_of(a_message(segments=2))
    good.payload = udh + "字".encode("utf-16-be") * units
    bad.payload = udh + "字".encode("utf-16-be") * (units + 1)
    [(refused, _)] = session.submit([good, bad], 1.0)
    assert refused is bad
    [one] = frames(session.to_send())
    assert one.octets("content") == good.payload
    assert (one.number("tp_udhi"), one.number("pk_total"), one.number("pk_number")) == (1, 2, 1)
    facts = CmppSide("cmpp2").facts(
        parse_submit(pdu.build_pdu(4, 2, one.fields, Layout.V2), Layout.V2)
    )
    assert (facts.number, facts.total, facts.text) == (1, 2, "字" * units)


@pytest.mark.parametrize("maximum", [140, 150, 160])
def test_more_than_140_characters_go_only_where_the_carrier_says_so(maximum):
    session = bound_session(**({} if maximum == 140 else {"content_maximum": maximum}))
    assert session.submit([gsm7(b"a" * maximum)], 1.0) == []
    assert len(session.submit([gsm7(b"a" * (maximum + 1))], 1.0)) == 1


@pytest.mark.parametrize("ends_at", [1767200400.0, 1767200340.5])
def test_the_end_of_a_message_is_told_where_the_channel_says_so(ends_at):
    """Rounded up to minutes: a whole minute's messages share the part of the PDU that holds it."""
    session = bound_session(validity_period="absolute")
    message = a_message()
    message.valid_until = ends_at
    session.submit(submits_of(message), 1.0)
    [one] = frames(session.to_send())
    assert one.text("valid_time") == "260101010000032+"


def test_settings_stand_in_the_submit_by_their_names():
    own: dict[str, Any] = {
        "service_id": "SVC",
        "fee_user_type": 3,
        "fee_terminal_id": "13900139000",
    }
    own |= {"fee_type": "02", "fee_code": "000010", "msg_level": 9, "msg_src": "900002"}
    session = bound_session("cmpp3", **own)
    session.submit(some_submits(1), 1.0)
    [one] = frames(session.to_send(), Layout.V3)
    assert {name: one.fields[name] for name in own} == own
    assert one.text("src_id") == "10690001"


# -- time and link tests -------------------------------------------------------------------


def test_a_time_out_is_uncertain_and_a_late_answer_is_told_again():
    session = bound_session(policy=SessionPolicy(link_test_s=1e6))
    submits = some_submits(1)
    session.submit(submits, 0.0)
    assert outcomes(session.tick(60.0)) == [Uncertain("channel.timeout")]
    assert outcomes(session.receive(submit_answer(2, 3), 61.0)) == [Submitted(f"{3:016x}")]


def test_an_active_test_is_sent_three_times_before_the_link_counts_as_dead():
    session = bound_session(policy=SessionPolicy(response_timeout_s=10), active_test_s=30)
    assert session.tick(29.9) == []
    asked = []
    for now in (30.0, 40.0, 50.0):
        assert session.tick(now) == []
        [(command_id, sequence)] = sent(session)
        assert command_id == pdu.ACTIVE_TEST
        asked.append(sequence)
        assert session.tick(now + 9.9) == []
    assert len(set(asked)) == 3
    [ended] = session.tick(60.0)
    assert ended == Ended("active test was not answered")
    assert session.tests_lost == 3


@pytest.mark.parametrize("body", [b"", b"\0", b"0x00"])  # pycmpp writes the last one
def test_an_answered_active_test_keeps_the_session(body):
    session = bound_session(active_test_s=30)
    session.tick(30.0)
    session.tick(40.0)
    [_, (_, sequence)] = sent(session)
    answer = pdu.pack_header(12 + len(body), pdu.ACTIVE_TEST_RESP, sequence) + body
    assert session.receive(answer, 41.0) == []
    assert (session.tests_s, session.tests_lost) == ([11.0], 1)  # from the first of them on
    assert session.tick(70.9) == []
    assert sent(session) == []
    for now in (71.0, 81.0, 91.0):  # and it has three tries again
        assert session.tick(now) == []
        assert [command for command, _ in sent(session)] == [pdu.ACTIVE_TEST]
    assert [type(event) for event in session.tick(101.0)] == [Ended]


def test_the_carrier_s_active_test_is_answered_at_once_in_every_state():
    session = bound_session()
    session.receive(header(pdu.ACTIVE_TEST, 0), 1.0)
    assert session.to_send().hex() == "0000000d800000080000000000"
    session.unbind(1.0)
    session.to_send()
    session.receive(header(pdu.ACTIVE_TEST, 78), 1.1)
    assert sent(session) == [(pdu.ACTIVE_TEST_RESP, 78)]


# -- logging out ---------------------------------------------------------------------------


def test_our_logout_waits_for_its_answer():
    session = bound_session()
    session.unbind(1.0)
    [(command_id, sequence)] = sent(session)
    assert command_id == pdu.TERMINATE
    assert session.free() == 0
    assert session.receive(header(pdu.TERMINATE_RESP, sequence), 1.1) == [Ended("unbound")]


def test_the_carrier_s_logout_lets_the_last_answers_come():
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    session.to_send()
    assert session.receive(header(pdu.TERMINATE, 9), 1.1) == []
    assert sent(session) == [(pdu.TERMINATE_RESP, 9)]
    assert session.free() == 0
    events = session.receive(submit_answer(2, 1), 1.2)
    assert [type(event) for event in events] == [Answered, Ended]


# -- reports and texts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "layout", "size"),
    [
        ("cmpp2", Layout.V2, 60),
        ("cmpp3", Layout.V3, 71),
        ("cmpp3", Layout.V3, 60),  # gosms and a helper of gocmpp
        ("cmpp2", Layout.V2, 71),
    ],
)
def test_reports_of_both_sizes_wait_for_their_answer_in_one_event(protocol, layout, size):
    session = bound_session(protocol)
    first = report(11, 0xA, size=size, layout=layout)
    second = report(12, 0xB, "MK:0001", size=size, layout=layout)
    [event] = session.receive(first + second, 1.0)
    assert isinstance(event, Reported)
    assert [(one.carrier_id, one.state, one.number) for one in event.reports] == [
        (f"{0xA:016x}", "DELIVRD", "8613800138000"),
        (f"{0xB:016x}", "MK:0001", "8613800138000"),
    ]
    assert event.reports[0].channel == 7
    assert session.to_send() == b""
    taken, again = tokens(event)
    session.answer([taken], accepted=True)
    session.answer([again], accepted=False)
    answers = frames(session.to_send(), layout)
    assert [(one.command_id, one.sequence, one.number("result")) for one in answers] == [
        (pdu.DELIVER_RESP, 11, 0),
        (pdu.DELIVER_RESP, 12, 8),
    ]
    assert [one.octets("msg_id")[-1] for one in answers] == [11, 12]  # theirs, copied


def test_a_report_without_an_id_or_number_of_its_own_is_answered_with_what_it_has():
    """A carrier may leave the Msg_Id of the DELIVER itself 0, and counts its requests from 0."""
    session = bound_session()
    frame = deliver(0, report_body(5), registered=1, msg_id=bytes(8))
    [event] = session.receive(frame, 1.0)
    assert isinstance(event, Reported)
    session.answer(tokens(event), accepted=True)
    [answer] = frames(session.to_send())
    assert (answer.sequence, answer.octets("msg_id")) == (0, bytes(8))


def test_a_report_before_its_answer_in_one_burst_comes_after_it():
    session = bound_session()
    session.submit(some_submits(1), 1.0)
    events = session.receive(report(11, 5) + submit_answer(2, 5), 1.1)
    assert [type(event) for event in events] == [Answered, Reported]


def test_a_report_twice_is_told_twice_and_answered_twice():
    """Whether it is news is the flow's to know, also after a restart."""
    session = bound_session()
    [event] = session.receive(report(11, 5) + report(12, 5), 1.0)
    assert isinstance(event, Reported)
    session.answer(tokens(event), accepted=True)
    assert sent(session) == [(pdu.DELIVER_RESP, 11), (pdu.DELIVER_RESP, 12)]


def test_a_report_without_times_or_a_number_is_still_one():
    content = (5).to_bytes(8, "big") + b"EXPIRED" + bytes(45)
    session = bound_session()
    frame = deliver(1, content, registered=1, src_terminal_id="8613900139000")
    [event] = session.receive(frame, 1.0)
    assert isinstance(event, Reported)
    [one] = event.reports
    assert (one.carrier_id, one.state, one.number) == (f"{5:016x}", "EXPIRED", "8613900139000")


@pytest.mark.parametrize("content", [b"", bytes(8), bytes(60), b"12345678DELIV"])
def test_a_report_that_says_nothing_is_told_as_one_about_nothing(content):
    """As one about nothing: who counts the others counts it, and it does not come again."""
    session = bound_session()
    [event] = session.receive(deliver(5, content, registered=1), 1.0)
    assert isinstance(event, Reported)
    [report] = event.reports
    assert (report.carrier_id, report.state, report.number) == ("", "", "")
    session.answer(tokens(event), accepted=True)
    assert sent(session) == [(pdu.DELIVER_RESP, 5)]


@pytest.mark.parametrize(
    ("fmt", "content", "text"),
    [
        (0, b"TD", "TD"),
        (8, "退订".encode("utf-16-be"), "退订"),
        (15, "退订".encode("gb18030"), "退订"),
        (0, "退订".encode("gbk"), "退订"),  # GBK under the wrong number
        (4, b"\xe9", "é"),
        (8, "退".encode("utf-16-be") + b"\x4e", "退�"),
    ],
)
@BOTH
def test_a_text_from_a_phone_is_read_in_its_format(protocol, layout, fmt, content, text):
    session = bound_session(protocol)
    [event] = session.receive(deliver(5, content, layout=layout, msg_fmt=fmt), 1.0)
    assert isinstance(event, Received)
    [one] = event.texts
    assert (one.number, one.to, one.text) == ("8613800138000", "10690001", text)
    assert session.to_send() == b""
    session.answer(tokens(event), accepted=False)
    [answer] = frames(session.to_send(), layout)
    assert answer.number("result") == pdu.RESULT_FLOW_CONTROL


def test_a_segment_from_a_phone_loses_its_header():
    session = bound_session()
    content = bytes((5, 0, 3, 1, 2, 1)) + "退".encode("utf-16-be")
    [event] = session.receive(deliver(5, content, msg_fmt=8, tp_udhi=1), 1.0)
    assert isinstance(event, Received)
    [one] = event.texts
    assert (one.text, one.mark) == ("退", SegmentMark(1, 2, 1, 8))
    assert isinstance(one.token, tuple)
    assert one.carrier_id == one.token[2].hex()


def test_what_stands_behind_the_content_may_be_missing():
    frame = report(9, 5)[:-8]
    frame = (len(frame)).to_bytes(4, "big") + frame[4:]
    [event] = bound_session().receive(frame, 1.0)
    assert isinstance(event, Reported)


def test_a_content_longer_than_its_frame_ends_the_session():
    frame = deliver(9, report_body(5), registered=1)
    frame = frame[:76] + b"\xff" + frame[77:]
    [ended] = bound_session().receive(frame, 1.0)
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, RemoteProtocolError)


# -- what is wrong -------------------------------------------------------------------------


def test_an_unknown_request_is_left_alone():
    session = bound_session()
    assert session.receive(header(9, 5) + header(6, 6) + header(0x80000007, 7), 1.0) == []
    assert session.to_send() == b""
    assert session.state is SessionState.BOUND


@pytest.mark.parametrize("length", [0, 11, 4097, 0xFFFFFFFF])
def test_a_bad_length_keeps_the_good_answers_and_ends(length):
    session = bound_session()
    session.submit(some_submits(2), 1.0)
    session.to_send()
    data = submit_answer(2, 1) + length.to_bytes(4, "big") + b"\0" * 40
    answered, ended = session.receive(data, 1.1)
    assert isinstance(answered, Answered)
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, RemoteProtocolError)
    assert session.to_send() == b""
    assert outcomes(session.lost("channel.link_lost")) == [Uncertain("channel.link_lost")]


def test_a_session_that_is_over_ignores_its_tokens():
    session = bound_session()
    [event] = session.receive(report(11, 5), 1.0)
    assert isinstance(event, Reported)
    session.lost("channel.link_lost")
    session.answer(tokens(event), accepted=True)
    assert session.to_send() == b""


@pytest.mark.parametrize("protocol", ["cmpp2", "cmpp3"])
@pytest.mark.parametrize("body", [b"\3", b"\0\0\0\3", b"\3" + bytes(16)])
def test_a_refusal_that_ends_behind_its_status_is_told_as_one(protocol, body):
    if protocol == "cmpp3" and len(body) == 17:
        body = b"\0\0\0" + body
    session = a_session(protocol)
    session.connected(0.0)
    frame = pdu.pack_header(12 + len(body), pdu.CONNECT_RESP, 1) + body
    [ended] = session.receive(frame, 0.1)
    assert isinstance(ended, Ended)
    assert "status 3:" in ended.reason


def test_a_duplicate_sequence_goes_again_once_with_a_new_one():
    session = bound_session()
    [submit] = some_submits(1)
    session.submit([submit], 0.0)
    [first] = frames(session.to_send())
    assert outcomes(session.receive(submit_answer(first.sequence, 0, 3), 0.1)) == [
        Throttled(1.0, "3")
    ]
    submit.message.throttled = 1  # what the flow notes when it puts it back
    session.submit([submit], 1.0)
    [second] = frames(session.to_send())
    assert second.sequence != first.sequence
    [outcome] = outcomes(session.receive(submit_answer(second.sequence, 0, 3), 1.1))
    assert outcome == Rejected("3", Cause.CHANNEL, "carrier.system_error")


def test_a_carrier_whose_answers_come_late_is_not_cut():
    """It answers each active test 11 s after it, when ours of 10 s is over."""
    session = bound_session(policy=SessionPolicy(response_timeout_s=10), active_test_s=15)
    late: list[tuple[float, int]] = []
    for now in range(1, 120):
        for due, sequence in late:
            if due == now:
                answer = pdu.pack_header(12, pdu.ACTIVE_TEST_RESP, sequence)
                assert session.receive(answer, float(now)) == []
        assert session.tick(float(now)) == []
        late += [(now + 11, sequence) for _, sequence in sent(session)]
    assert len(late) > 3


def test_a_carrier_that_speaks_is_there_whatever_it_does_not_answer():
    session = bound_session(policy=SessionPolicy(response_timeout_s=10), active_test_s=15)
    for now in range(1, 120):
        if now > 16:
            session.receive(header(pdu.ACTIVE_TEST, now), float(now))
        assert session.tick(float(now)) == []
