import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.smpp import pdu
from adapters.smpp.template import DataTemplate, SubmitLook, SubmitTemplate, relative_time
from sms.errors import RemoteProtocolError
from sms.model import Encoding, Submit
from tests.support.smpp import a_message, some_submits

WORDS = st.text("abcXYZ0123456789", min_size=1, max_size=20)


def strategy(row):
    match row.kind:
        case pdu.Kind.CSTRING:
            return st.text(
                st.characters(codec="latin-1", exclude_characters="\0"), max_size=row.length - 1
            )
        case pdu.Kind.U8:
            return st.integers(0, 255)
        case pdu.Kind.COUNTED:
            return st.binary(max_size=row.length)
        case _:
            raise AssertionError(row.kind)


@given(st.data())
def test_every_pdu_of_the_table_survives_a_round_trip(data):
    command_id = data.draw(st.sampled_from(sorted(pdu.PDUS)))
    fields = {row.name: data.draw(strategy(row)) for row in pdu.PDUS[command_id][1]}
    sequence = data.draw(st.integers(0, 0xFFFFFFFF))
    tlvs = data.draw(
        st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=20)), max_size=3)
    )
    parsed = pdu.parse_pdu(pdu.build_pdu(command_id, sequence, fields, tlvs=tlvs))
    if not fields and command_id & pdu.RESPONSE and not tlvs:
        assert parsed.tlvs == []
        return
    assert (parsed.fields, parsed.tlvs, parsed.sequence) == (fields, tlvs, sequence)


@given(
    sender=WORDS,
    number=st.text("0123456789", min_size=1, max_size=20),
    payload=st.binary(max_size=254),
    validity_s=st.integers(1, 300_000),
    is_ucs2=st.booleans(),
    has_udh=st.booleans(),
)
def test_the_template_and_the_table_build_the_same_submit(
    sender, number, payload, validity_s, is_ucs2, has_udh
):
    submit = Submit(
        a_message(),
        0,
        1,
        number,
        sender,
        Encoding.UCS2 if is_ucs2 else Encoding.GSM7,
        payload,
        has_udh,
        validity_s,
    )
    out: list[bytes] = []
    SubmitTemplate(SubmitLook()).build_into(out, 9, submit)
    assert b"".join(out) == pdu.build_pdu(
        pdu.SUBMIT_SM,
        9,
        {
            "source_addr_ton": 3 if sender.isdigit() else 5,
            "source_addr": sender,
            "dest_addr_ton": 1,
            "dest_addr_npi": 1,
            "destination_addr": number,
            "esm_class": 0x40 if has_udh else 0,
            "validity_period": relative_time(validity_s),
            "registered_delivery": 1,
            "data_coding": 8 if is_ucs2 else 0,
            "short_message": payload,
        },
    )


@pytest.mark.parametrize(
    ("number", "sender", "size"),
    [("1" * 21, "x", 1), ("1", "x" * 21, 1), ("1", "x", 255), ("é", "x", 1)],
)
def test_what_no_submit_can_hold_is_refused_and_leaves_nothing_behind(number, sender, size):
    out: list[bytes] = []
    submit = Submit(a_message(), 0, 1, number, sender, Encoding.UCS2, b"x" * size, False, 60)
    with pytest.raises(ValueError, match=r"at most|over|codec"):
        SubmitTemplate(SubmitLook()).build_into(out, 1, submit)
    assert out == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "000000000001000R"),
        (59, "000000000059000R"),
        (300, "000000000500000R"),
        (36000, "000000100000000R"),
        (259200, "000003000000000R"),
        (86400 * 31, "000101000000000R"),
    ],
)
def test_the_validity_is_relative_time(seconds, text):
    assert relative_time(seconds) == text


def test_a_response_may_come_without_its_body_and_a_request_may_not():
    bare = pdu.pack_header(16, pdu.SUBMIT_SM_RESP, 0x58, 3)
    assert pdu.parse_pdu(bare).fields == {}
    with pytest.raises(RemoteProtocolError):
        pdu.parse_pdu(pdu.pack_header(16, pdu.DELIVER_SM, 0, 3))


def test_a_cut_field_is_refused_wherever_it_is_cut():
    whole = pdu.build_pdu(pdu.DELIVER_SM, 1, {"source_addr": "86138", "short_message": b"hello"})
    for size in range(16, len(whole)):
        cut = size.to_bytes(4, "big") + whole[4:size]
        with pytest.raises(RemoteProtocolError):
            pdu.parse_pdu(cut)
        with pytest.raises(RemoteProtocolError):
            pdu.parse_short(cut)


@pytest.mark.parametrize("header", [bytes((5, 0, 3, 7, 3, 2)), bytes((6, 8, 4, 0, 7, 3, 2))])
def test_a_segment_may_say_its_place_in_tlvs_instead_of_a_header(header):
    [submit] = some_submits(1)
    submit.payload, submit.has_udh = header + "好".encode("utf-16-be"), True
    out: list[bytes] = []
    SubmitTemplate(SubmitLook(is_sar=True)).build_into(out, 9, submit)
    frame = b"".join(out)
    parsed = pdu.parse_pdu(frame)
    assert parsed.number("esm_class") == 0
    assert pdu.parse_short(frame)[5] == "好".encode("utf-16-be")
    assert dict(parsed.tlvs) == {
        pdu.TLV_SAR_REFERENCE: b"\0\7",
        pdu.TLV_SAR_TOTAL: b"\3",
        pdu.TLV_SAR_NUMBER: b"\2",
    }
    assert int.from_bytes(frame[:4], "big") == len(frame)


@given(
    sender=WORDS,
    number=st.text("0123456789", min_size=1, max_size=20),
    payload=st.binary(max_size=2000),
    validity_s=st.integers(1, 300_000),
    is_ucs2=st.booleans(),
    has_udh=st.booleans(),
)
def test_the_template_and_the_table_build_the_same_data_sm(
    sender, number, payload, validity_s, is_ucs2, has_udh
):
    encoding = Encoding.UCS2 if is_ucs2 else Encoding.GSM7
    submit = Submit(a_message(), 0, 1, number, sender, encoding, payload, has_udh, validity_s)
    out: list[bytes] = []
    DataTemplate(SubmitLook(service_type="CMT")).build_into(out, 9, submit)
    assert b"".join(out) == pdu.build_pdu(
        pdu.DATA_SM,
        9,
        {
            "service_type": "CMT",
            "source_addr_ton": 3 if sender.isdigit() else 5,
            "source_addr": sender,
            "dest_addr_ton": 1,
            "dest_addr_npi": 1,
            "destination_addr": number,
            "esm_class": 0x40 if has_udh else 0,
            "registered_delivery": 1,
            "data_coding": 8 if is_ucs2 else 0,
        },
        tlvs=[
            (pdu.TLV_QOS_TIME_TO_LIVE, validity_s.to_bytes(4, "big")),
            (pdu.TLV_MESSAGE_PAYLOAD, payload),
        ],
    )


def test_a_data_sm_that_nothing_can_hold_is_refused_and_leaves_nothing_behind():
    for number, sender, size in (("1" * 65, "x", 1), ("1", "x" * 21, 1), ("1", "x", 0x10000)):
        out: list[bytes] = []
        submit = Submit(a_message(), 0, 1, number, sender, Encoding.UCS2, b"x" * size, False, 60)
        with pytest.raises(ValueError, match=r"at most|over"):
            DataTemplate(SubmitLook()).build_into(out, 1, submit)
        assert out == []
