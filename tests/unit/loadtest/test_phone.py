"""A phone at a simulated carrier: what it may be asked for, and what the gateway reads of it."""

import pytest

from adapters.cmpp import pdu as cmpp
from adapters.mainland import text_of
from adapters.smpp import pdu
from adapters.smpp.receipt import parse_text
from loadtest.cmpp_server import CmppServerSession
from loadtest.phone import PhoneText, deliveries, parse_phone_text
from loadtest.smpp_server import ServerSession
from sms.concatenation import join, split_header

FROM, TO = "+8613800138000", "10690001"
LONG = "长短信😀" * 38


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ([], ""),
        ({"from": FROM, "to": TO}, "/text"),
        ({"from": 1, "to": TO, "text": ""}, "/from"),
        ({"from": FROM, "to": "1" * 21, "text": ""}, "/to"),
        ({"from": FROM, "to": TO, "text": "", "long": "x"}, "/long"),
        ({"from": FROM, "to": TO, "text": "", "reference": 65_536}, "/reference"),
        ({"from": FROM, "to": TO, "text": "", "only": [0]}, "/only"),
        ({"from": FROM, "to": TO, "text": "", "form": 1}, "/form"),
    ],
)
def test_a_request_that_is_wrong_says_where(raw, pointer):
    wrong = parse_phone_text(raw)
    assert isinstance(wrong, list)
    assert [where for where, _ in wrong] == [pointer]


def a_text(**more) -> PhoneText:
    found = parse_phone_text({"from": FROM, "to": TO, "text": LONG, "reference": 0x1234, **more})
    assert isinstance(found, PhoneText)
    return found


@pytest.mark.parametrize("form", ["udh8", "udh16", "sar", "payload"])
def test_the_gateway_reads_over_smpp_what_the_phone_sent(form):
    texts = {}
    for owed in deliveries(a_text(long=form)):
        frame = ServerSession()._build_text(9, owed)
        short = pdu.parse_short(frame)
        assert (short[0], short[1]) == (FROM[1:].encode(), TO.encode())
        text, mark = parse_text(frame, short)
        assert mark is None or mark.reference == (0x34 if form == "udh8" else 0x1234)
        texts[1 if mark is None else mark.number] = text
    assert join(texts, len(texts)) == LONG
    assert len(texts) == (1 if form == "payload" else 3)


@pytest.mark.parametrize("version", [0x20, 0x30])
@pytest.mark.parametrize("form", ["udh8", "udh16"])
def test_the_gateway_reads_over_cmpp_what_the_phone_sent(form, version):
    session, texts = CmppServerSession(version), {}
    for number, owed in enumerate(deliveries(a_text(long=form)), 1):
        named = owed._replace(carrier_id=f"{number:016x}".encode())
        frame = session._build_text(9, named)
        msg_id, _, udhi, fmt, _, registered, content = cmpp.parse_deliver(frame, session.layout)
        mark, body = split_header(content)
        assert (udhi, registered, int.from_bytes(msg_id, "big")) == (1, 0, number)
        assert mark is not None
        texts[mark.number] = text_of(fmt, body)
    assert join(texts, 3) == LONG


def test_only_the_segments_asked_for_are_sent_in_that_order():
    marks = [owed.mark for owed in deliveries(a_text(long="sar", only=[3, 1, 3, 9]))]
    assert [mark.number for mark in marks if mark] == [3, 1, 3]
