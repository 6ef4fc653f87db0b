import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.session import Reported
from adapters.smpp import pdu
from adapters.smpp.receipt import ID_FORMS, parse_receipt, parse_text, parse_usual_receipt
from adapters.smpp.settings import IdMatch
from sms.concatenation import join
from sms.model import SegmentMark
from tests.support.smpp import bound_session, report

SAR = SegmentMark(0x107, 2, 1, 0)


def deliver(text=b"", *, esm_class=4, data_coding=0, tlvs=()):
    return pdu.build_pdu(
        pdu.DELIVER_SM,
        1,
        {
            "source_addr": "8613800138000",
            "destination_addr": "10690001",
            "esm_class": esm_class,
            "data_coding": data_coding,
            "short_message": text,
        },
        tlvs=tlvs,
    )


def parsed(frame):
    return parse_receipt(frame, pdu.parse_short(frame))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"id:a1 stat:DELIVRD", ("a1", "DELIVRD", "")),
        (b"ID:A1 SUB:001 STAT:UNDELIV ERR:00A TEXT:x", ("A1", "UNDELIV", "00A")),
        (b"id:1\r\nstat:expired\r\nerr:5", ("1", "expired", "5")),
        (b"id: 77 stat: DELIVRD err: 0 Text: id:99 stat:REJECTD", ("77", "DELIVRD", "0")),
        (b"stat:DELIVRD,id:5,err:", ("5", "DELIVRD", "")),
        (b"id:9 submit date:261121202859 done date: stat:BUFFERED", ("9", "BUFFERED", "")),
    ],
)
def test_a_report_is_read_by_its_key_names(text, expected):
    assert parsed(deliver(text)) == expected


@pytest.mark.parametrize("esm_class", [0x04, 0x07, 0x84])
def test_a_report_is_known_by_its_four_bits_whatever_stands_beside_them(esm_class):
    session = bound_session()
    [event] = session.receive(deliver(b"id:a1 stat:DELIVRD", esm_class=esm_class), 1.0)
    assert isinstance(event, Reported)
    assert [found.carrier_id for found in event.reports] == ["a1"]


@pytest.mark.parametrize("text", [b"", b"hello", b"id: stat:DELIVRD", b"id:5 err:1", b"\xff\xfe"])
def test_a_report_without_id_or_state_says_nothing(text):
    assert parsed(deliver(text)) is None


def test_tlvs_alone_are_a_report():
    frame = deliver(
        tlvs=[
            (pdu.TLV_RECEIPTED_MESSAGE_ID, b"m1"),  # its NUL is missing, as some carriers do
            (pdu.TLV_MESSAGE_STATE, b"\x05"),
            (pdu.TLV_NETWORK_ERROR_CODE, b"\x03\x00\x1b"),
        ]
    )
    assert parsed(frame) == ("m1", "5", "27")


def test_the_id_of_the_tlv_wins_and_the_word_of_the_text():
    frame = deliver(
        b"id:wrong stat:UNDELIV err:001",
        tlvs=[(pdu.TLV_MESSAGE_STATE, b"\x02"), (pdu.TLV_RECEIPTED_MESSAGE_ID, b"right\0")],
    )
    assert parsed(frame) == ("right", "UNDELIV", "001")
    assert parse_usual_receipt(report(3, "abc")) == ("8613800138000", "abc", "DELIVRD", "000")


def test_a_usual_report_cut_anywhere_in_its_tlv_keeps_its_id():
    """Found by the fuzzer: the head of the TLV may be cut, too."""
    whole = report(3, "abc")
    for end in range(whole.index(b"text:") + 5, len(whole)):
        cut = end.to_bytes(4, "big") + whole[4:end]
        usual = ("8613800138000", "abc", "DELIVRD", "000")
        assert parse_usual_receipt(cut) in (None, usual)
        assert parsed(cut) == usual[1:]


def test_a_report_may_stand_in_utf_16_or_in_the_payload_tlv():
    text = "id:5 sub:001 stat:DELIVRD err:000"
    assert parsed(deliver(text.encode("utf-16-be"), data_coding=8)) == ("5", "DELIVRD", "000")
    frame = deliver(tlvs=[(pdu.TLV_MESSAGE_PAYLOAD, text.encode())])
    assert parsed(frame) == ("5", "DELIVRD", "000")


@given(
    carrier_id=st.text("abcdefXYZ0123456789-", min_size=1, max_size=64),
    state=st.sampled_from(["DELIVRD", "UNDELIV", "REJECTD", "EXPIRED"]),
    tlv=st.sampled_from(["none", "same", "other", "cut", "garbage"]),
)
def test_the_quick_parser_never_disagrees_with_the_patient_one(carrier_id, state, tlv):
    frame = report(3, carrier_id, state)
    size = 4 + len(carrier_id) + 1
    if tlv == "none":
        frame = frame[:-size]
    elif tlv == "other":
        frame = frame[:-size] + b"\x00\x1e\x00\x03zz\0"
    elif tlv == "cut":
        frame = frame[:-2]
    elif tlv == "garbage":
        frame += b"\x01\x02\x03"
    frame = len(frame).to_bytes(4, "big") + frame[4:]
    quick = parse_usual_receipt(frame)
    assert quick is None or quick[1:] == parsed(frame)
    if tlv in ("none", "same", "other"):
        assert quick is not None


@given(st.binary(max_size=120), st.integers(0, 255), st.integers(0, 255))
def test_no_body_breaks_the_readers(body, esm_class, data_coding):
    frame = deliver(body, esm_class=esm_class, data_coding=data_coding)
    parsed(frame)
    parse_usual_receipt(frame)
    assert isinstance(parse_text(frame, pdu.parse_short(frame))[0], str)


@pytest.mark.parametrize("tail", [b"\x00\x1e\x00\x04", b"\x02\x0c\x00\x02\x01\x02"])
def test_stray_octets_behind_a_usual_report_do_not_hide_it(tail):
    """SMSCs leave the beginning of a parameter there."""
    whole = report(7, "m1")[: -4 - len("m1\0")]
    for stop in range(len(tail) + 1):
        frame = whole + tail[:stop]
        frame = len(frame).to_bytes(4, "big") + frame[4:]
        quick = parse_usual_receipt(frame)
        assert quick is None or quick[1:] == ("m1", "DELIVRD", "000")
        assert parsed(frame) == ("m1", "DELIVRD", "000")


@pytest.mark.parametrize(
    ("body", "esm_class", "data_coding", "text"),
    [
        (b"T", 0, 0, "T"),
        ("退订".encode("utf-16-be"), 0, 8, "退订"),
        (b"\x1be", 0, 0, "€"),
        (b"a_b@c{d}$", 0, 1, "a_b@c{d}$"),
        ("退订".encode("gbk"), 0, 15, "退订"),
        (b"\xe9@", 0, 4, "é@"),
        (b"\x00\x02", 0, 0xF1, "@$"),
        (b"\xe9", 0, 0xF5, "é"),
        ("退订".encode("utf-16-be"), 0, 0x18, "退订"),
        (b"caf\xe9", 0, 3, "café"),
        (b"\x05\x00\x03\x01\x02\x01" + "好".encode("utf-16-be"), 0x40, 8, "好"),
        (b"", 0, 0, ""),
        (b"\xff", 0x40, 0, "\ufffd"),  # no header at all: the text must not be lost
    ],
)
def test_a_text_from_a_phone_is_decoded(body, esm_class, data_coding, text):
    frame = deliver(body, esm_class=esm_class, data_coding=data_coding)
    assert parse_text(frame, pdu.parse_short(frame))[0] == text


def test_a_character_of_gbk_that_a_cut_went_through_is_joined():
    octets, segments = "退订短信".encode("gbk"), {}
    for number, part in enumerate((octets[:3], octets[3:]), 1):
        header = bytes((5, 0, 3, 1, 2, number))
        frame = deliver(header + part, esm_class=0x40, data_coding=15)
        segments[number] = parse_text(frame, pdu.parse_short(frame))[0]
    assert join(segments, 2) == "退订短信"


@pytest.mark.parametrize(
    ("form", "answer", "receipt"),
    [
        (IdMatch.IGNORE_CASE, "1A2B", "1a2b"),
        (IdMatch.IGNORE_ZEROS, "00042", "42"),
        (IdMatch.HEX_DECIMAL, "1a2b3c00", "439041024"),
        (IdMatch.HEX_DECIMAL, "1A2B3C00", "00439041024"),
        (IdMatch.DECIMAL_HEX, "439041024", "1a2b3c00"),
    ],
)
def test_the_id_of_an_answer_and_of_its_receipt_become_one(form, answer, receipt):
    answer_form, receipt_form = ID_FORMS[form]
    assert answer_form is not None
    assert receipt_form is not None
    assert answer_form(answer) == receipt_form(receipt)


def test_ids_are_left_alone_unless_the_channel_says_so():
    assert ID_FORMS[IdMatch.EXACT] == (None, None)


@pytest.mark.parametrize(
    ("esm_class", "body", "tlvs", "mark"),
    [
        (0x40, bytes((5, 0, 3, 7, 2, 1)) + b"T", [], SegmentMark(7, 2, 1, 8)),
        (0x40, bytes((6, 8, 4, 1, 7, 2, 1)) + b"T", [], SegmentMark(0x107, 2, 1, 16)),
        (
            0,
            b"T",
            [(0x020C, b"\1\7"), (0x020E, b"\2"), (0x020F, b"\1")],
            SegmentMark(0x107, 2, 1, 0),
        ),
        (0, b"T", [(0x020C, b"\1\7"), (0x020E, b"\1"), (0x020F, b"\1")], None),
        (0, b"T", [(0x020C, b"\1\7")], None),
        (0, b"", [(0x0424, b"T")], None),
        (0, b"T", [(0x020C, b"\1\7"), (0x020E, b"\0\2"), (0x020F, b"\0\1")], SAR),
        (0, b"T", [(0x020C, b"\1\7"), (0x020E, b"\xff\xff"), (0x020F, b"\1")], None),
        (0, b"T", [(0x020C, b"\1\7"), (0x020E, b"\0\0\0\2"), (0x020F, b"\1")], None),
        (0, b"T", [(0x020C, b"\1" * 2000), (0x020E, b"\2"), (0x020F, b"\1")], None),
        (0, b"T", [(0x020C, b"\1\7"), (0x020E, b"\2"), (0x020F, b"\1" * 2000)], None),
    ],
)
def test_a_segment_from_a_phone_says_its_place(esm_class, body, tlvs, mark):
    frame = pdu.build_pdu(
        pdu.DELIVER_SM, 5, {"esm_class": esm_class, "short_message": body}, tlvs=tlvs
    )
    assert parse_text(frame, pdu.parse_short(frame)) == ("T", mark)
