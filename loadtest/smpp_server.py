"""The carrier's side of SMPP 3.4, sans I/O: what a simulated SMSC says on one connection."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from adapters.smpp import pdu
from adapters.smpp.alphabet import CODING_UCS2
from adapters.smpp.pdu import ESM_UDHI, HEADER_SIZE, PDU_MAXIMUM, pack_header, parse_header
from adapters.wire import Framer, build_tlvs, parse_tlvs
from loadtest.server import (
    Ended,
    Facts,
    LoginAsked,
    OwedReport,
    OwedText,
    ReportsAnswered,
    Side,
    Submits,
    segment_of,
)
from loadtest.server import ServerSession as SharedSession
from sms import gsm

SMPP_5 = 0x50
REPORT_ALWAYS = 1  # registered_delivery, bits 1–0
_BINDS = (pdu.BIND_TRANSCEIVER, pdu.BIND_TRANSMITTER, pdu.BIND_RECEIVER)
# deliver_sm of a report: service_type, source 1/1, destination 0/0, esm_class 4, eight zero octets
_REPORT = (
    b"\0\1\1%b\0\0\0%b\0\4\0\0\0\0\0\0\0\0%cid:%b sub:001 dlvrd:%b submit date:%b done date:%b"
    b" stat:%b err:%b text:\x00\x1e\x00%c%b\0\x04\x27\x00\x01%c"
)
REPORT_TEXT_SIZE = 92  # octets of the text around the id, its dates, state and error included


_MESSAGE_STATES = {b"DELIVRD": 2, b"UNDELIV": 5, b"ACCEPTD": 6}


def build_report(report: OwedReport) -> bytes:
    """The body of a deliver_sm with a report in text and TLV form."""
    carrier_id, is_good = report.carrier_id, report.is_good
    size = len(carrier_id) + REPORT_TEXT_SIZE
    return _REPORT % (
        report.to,
        report.sender,
        size,
        carrier_id,
        b"001" if is_good else b"000",
        report.submitted,
        report.done,
        report.state,
        b"000" if is_good else b"001",
        len(carrier_id) + 1,
        carrier_id,
        _MESSAGE_STATES[report.state],
    )


def _submitted(frame: bytes) -> pdu.Short:
    """A submit_sm; its text may stand in message_payload instead (SMPP 3.4 section 5.3.2.32)."""
    short = pdu.parse_short(frame)
    return short if short[5] else (*short[:5], _payload(parse_tlvs(frame, short[6])), short[6])


def _data_of(frame: bytes) -> pdu.Short:
    """A data_sm as if it were a submit_sm."""
    parsed = pdu.parse_pdu(frame)
    return (
        parsed.text("source_addr").encode("latin-1"),
        parsed.text("destination_addr").encode("latin-1"),
        parsed.number("esm_class"),
        parsed.number("registered_delivery"),
        parsed.number("data_coding"),
        _payload(parsed.tlvs),
        len(frame),
    )


def _payload(tlvs: Sequence[tuple[int, bytes]]) -> bytes:
    return next((value for tag, value in tlvs if tag == pdu.TLV_MESSAGE_PAYLOAD), b"")


class ServerSession(SharedSession):
    """One client's connection."""

    sequence_maximum = pdu.SEQUENCE_MAXIMUM

    def __init__(self) -> None:
        super().__init__(Framer(HEADER_SIZE, PDU_MAXIMUM))
        self._version = 0  # of the client
        self._data: set[int] = set()  # submits that came as data_sm and are not answered

    def _frame(
        self, frame: bytes, submits: Submits, answered: ReportsAnswered
    ) -> LoginAsked | Ended | None:
        _, command_id, status, sequence = parse_header(frame)
        if command_id == pdu.SUBMIT_SM and self.may_submit:
            submits.submits.append((sequence, frame, _submitted(frame)))
            return None
        if command_id == pdu.DATA_SM and self.may_submit:
            self._data.add(sequence)
            submits.submits.append((sequence, frame, _data_of(frame)))
            return None
        if command_id == pdu.DELIVER_SM_RESP:
            self._report_answered(sequence, status, answered)
            return None
        return self._control(frame)

    def _control(self, frame: bytes) -> LoginAsked | Ended | None:
        _, command_id, _, sequence = parse_header(frame)
        if command_id in _BINDS:
            asked = pdu.parse_pdu(frame)
            given = asked.text("password")
            return LoginAsked(
                sequence,
                command_id,
                asked.text("system_id"),
                lambda password: password == given,
                asked.number("interface_version"),
            )
        if command_id == pdu.ENQUIRE_LINK:
            self._respond(pdu.ENQUIRE_LINK_RESP, pdu.ESME_ROK, sequence)
        elif command_id == pdu.UNBIND:
            self._respond(pdu.UNBIND_RESP, pdu.ESME_ROK, sequence)
            self.is_closed = True
            return Ended("unbound")
        elif command_id == pdu.QUERY_SM:
            self._queried(frame)
        elif command_id in (pdu.SUBMIT_SM, pdu.DATA_SM):
            self._respond(command_id | pdu.RESPONSE, pdu.ESME_RINVBNDSTS, sequence)
        elif not command_id & pdu.RESPONSE:
            self._respond(pdu.GENERIC_NACK, pdu.ESME_RINVCMDID, sequence)
        return None

    def _queried(self, frame: bytes) -> None:
        asked = pdu.parse_pdu(frame)
        carrier_id = asked.text("message_id")
        state = self.states.get(carrier_id.encode("latin-1"))
        if state is None:
            self._respond(pdu.QUERY_SM_RESP, pdu.ESME_RQUERYFAIL, asked.sequence)
            return
        fields: dict[str, str | int | bytes] = {"message_id": carrier_id, "message_state": state}
        self._out.append(pdu.build_pdu(pdu.QUERY_SM_RESP, asked.sequence, fields))

    def _respond(self, command_id: int, status: int, sequence: int) -> None:
        self._out.append(pack_header(HEADER_SIZE, command_id, status, sequence))

    def _say_broken(self) -> None:
        self._respond(pdu.GENERIC_NACK, pdu.ESME_RINVCMDLEN, 0)

    def answer_login(self, asked: LoginAsked, status: int, server_id: str) -> None:
        """Take or refuse a login."""
        command_id = asked.command_id | pdu.RESPONSE
        if status:
            self._respond(command_id, status, asked.sequence)
            return
        self.system_id = asked.system_id
        self._version = asked.version
        self.may_submit = asked.command_id != pdu.BIND_RECEIVER
        self.may_deliver = asked.command_id != pdu.BIND_TRANSMITTER
        self._out.append(
            pdu.build_pdu(
                command_id,
                asked.sequence,
                {"system_id": server_id[:15]},
                tlvs=[(pdu.TLV_SC_INTERFACE_VERSION, bytes((min(asked.version, SMPP_5),)))],
            )
        )

    def answer_submits(self, answers: Sequence[tuple[int, int, bytes]]) -> None:
        """Answer submits: (sequence, status, carrier id); an error answer has no id."""
        out = self._out
        self.unanswered -= len(answers)
        load = b""
        if self.congestion is not None and self._version >= SMPP_5:
            load = build_tlvs([(pdu.TLV_CONGESTION_STATE, bytes((self.congestion,)))])
        for sequence, status, carrier_id in answers:
            command_id = pdu.SUBMIT_SM_RESP
            if sequence in self._data:
                self._data.discard(sequence)
                command_id = pdu.DATA_SM_RESP
            body = load if status else carrier_id + b"\0" + load
            size = HEADER_SIZE + len(body)
            out.append(pack_header(size, command_id, status, sequence) + body)

    def enquire(self) -> None:
        """Ask whether the client is still there."""
        self._respond(pdu.ENQUIRE_LINK, pdu.ESME_ROK, self._next())

    def _build_report(self, sequence: int, report: OwedReport) -> bytes:
        body = build_report(report)
        return pack_header(HEADER_SIZE + len(body), pdu.DELIVER_SM, 0, sequence) + body

    def _build_text(self, sequence: int, text: OwedText) -> bytes:
        """Fields in the order of the standard (SMPP 3.4, 4.6.1)."""
        short = b"" if text.is_payload else text.header + text.data
        tlvs = [(pdu.TLV_MESSAGE_PAYLOAD, text.data)] if text.is_payload else []
        if text.mark is not None:
            tlvs += [
                (pdu.TLV_SAR_REFERENCE, text.mark.reference.to_bytes(2, "big")),
                (pdu.TLV_SAR_TOTAL, bytes((text.mark.total,))),
                (pdu.TLV_SAR_NUMBER, bytes((text.mark.number,))),
            ]
        esm_class = ESM_UDHI if text.header else 0
        coding = CODING_UCS2 if text.is_ucs2 else 0
        body = b"".join(
            (
                b"\0\1\1" + text.number + b"\0",
                b"\0\0" + text.to + b"\0",
                bytes((esm_class, 0, 0, 0, 0, 0, 0, coding, 0, len(short))),
                short,
                build_tlvs(tlvs),
            )
        )
        return pack_header(HEADER_SIZE + len(body), pdu.DELIVER_SM, 0, sequence) + body


def text_of(data_coding: int, data: bytes) -> str:
    """The text a phone would show."""
    if data_coding & 0x0F == CODING_UCS2:
        return data.decode("utf-16-be", "replace")
    return gsm.decode(data)


class SmppSide(Side):
    """A simulated SMSC."""

    name = "smpp"
    throttled = pdu.ESME_RTHROTTLED
    failure = pdu.ESME_RSYSERR
    unknown_account = pdu.ESME_RINVSYSID
    wrong_password = pdu.ESME_RINVPASWD

    def __init__(self) -> None:
        self._prefix = f"{int(time.time()) & 0xFFFFFFFF:08x}{os.getpid() & 0xFFFF:04x}"

    def session(self) -> ServerSession:
        """A new client's connection."""
        return ServerSession()

    def facts(self, parsed: pdu.Short) -> Facts:
        """What the record says of a submit_sm."""
        source, destination, esm_class, registered, data_coding, body, _ = parsed
        reference, index, total, data = segment_of(bool(esm_class & ESM_UDHI), body)
        text = text_of(data_coding, data)
        wants_report = registered & 3 == REPORT_ALWAYS
        return Facts(source, destination, reference, index, total, text, wants_report)

    def carrier_id(self, number: int, sequence: int) -> str:
        """Twenty hexadecimal digits: start, process, number."""
        return f"{self._prefix}{number:08x}"
