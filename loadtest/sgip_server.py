"""The carrier's side of SGIP 1.2, sans I/O: what a simulated SMG says on its connections.

    SgipServer   an SP connected to us and logged in (type 1): SUBMITs come in
    SgipCaller   we connected to the SP and logged in (type 2): REPORTs go out

A sequence number of 12 octets is one number here; that of a SUBMIT is its id.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence

from adapters.layout import Fields
from adapters.mainland import CODING_GBK, CODING_UCS2, stamp_of, text_of
from adapters.sgip import pdu
from adapters.sgip.pdu import HEADER_SIZE, PDU_MAXIMUM, pack_header, parse_header
from adapters.wire import Framer
from loadtest.server import (
    Delivery,
    Ended,
    Facts,
    LoginAsked,
    OwedReport,
    OwedText,
    ReportsAnswered,
    ServerSession,
    Side,
    Submits,
    segment_of,
)
from sms import gsm
from sms.errors import RemoteProtocolError

NODE = 100100  # of the simulated SMG
RESULT_FAILURE = 32  # the system's: the next channel may take it
ERROR_UNKNOWN_USER = 29
_SUBMIT_RESP = pack_header(HEADER_SIZE + 9, pdu.SUBMIT_RESP, 0, 0, 0)[:8]
_RESERVE = bytes(8)


def content_fields(text: OwedText, coding: str) -> Fields:
    """Coding, header flag and content of a text from a phone."""
    header = text.header
    if text.mark is not None:  # there are no fields for it
        reference, total, number, _ = text.mark
        header = bytes((5, 0, 3, reference & 0xFF, total, number))
    data = text.data if text.is_ucs2 else gsm.decode(text.data).encode("gb18030")
    return {
        coding: CODING_UCS2 if text.is_ucs2 else CODING_GBK,
        "tp_udhi": int(bool(header)),
        "content": header + data,
    }


# SPNumber, first UserNumber, TP_udhi, MessageCoding, ReportFlag, MessageContent of a SUBMIT
Submit = tuple[bytes, bytes, int, int, int, bytes]
_FRONT = struct.Struct(">21s21xB")  # SPNumber, UserCount; then the numbers
_BACK = struct.Struct(">63xBxBBxI")  # ReportFlag, TP_udhi, MessageCoding, Message Length


def parse_submit(frame: bytes) -> Submit:
    """The fields that a carrier looks at, laid out flat: 1 µs against 20 from the table."""
    start = HEADER_SIZE + _FRONT.size
    if start > len(frame):
        raise RemoteProtocolError("the SUBMIT is cut")
    source, numbers = _FRONT.unpack_from(frame, HEADER_SIZE)
    number = frame[start : start + 21] if numbers else b""
    back = start + 21 * numbers
    content = back + _BACK.size
    if content > len(frame):
        raise RemoteProtocolError("the SUBMIT ends before its content")
    wants_report, udhi, coding, size = _BACK.unpack_from(frame, back)
    if size > len(frame) - content:
        raise RemoteProtocolError("the SUBMIT ends inside MessageContent")
    body = frame[content : content + size]
    return source.rstrip(b"\0"), number.rstrip(b"\0"), udhi, coding, wants_report, body


def _number(frame: bytes) -> int:
    return int.from_bytes(frame[8:HEADER_SIZE], "big")


def _whole(counter: int) -> int:
    """The 12 octets of a command of ours, now."""
    return int.from_bytes(pdu.pack_sequence(NODE, stamp_of(time.time()), counter), "big")


def _parts(sequence: int) -> pdu.Sequence:
    return sequence >> 64, sequence >> 32 & 0xFFFFFFFF, sequence & 0xFFFFFFFF


class _Side(ServerSession):
    """What both kinds of connection do."""

    def __init__(self) -> None:
        super().__init__(Framer(HEADER_SIZE, PDU_MAXIMUM))

    def _frame(
        self, frame: bytes, submits: Submits, answered: ReportsAnswered
    ) -> LoginAsked | Ended | None:
        command_id = parse_header(frame)[1]
        if command_id == pdu.SUBMIT and self.may_submit:
            submits.submits.append((_number(frame), frame, parse_submit(frame)))
        elif command_id in (pdu.REPORT_RESP, pdu.DELIVER_RESP):
            result = pdu.parse_pdu(frame).number("result")
            self._report_answered(_number(frame), result, answered)
        elif command_id == pdu.UNBIND:
            self._out.append(pdu.build_answer(frame, pdu.OK))
            self.is_closed = True
            return Ended("unbound")
        else:
            return self._login_frame(command_id, frame)
        return None

    def _login_frame(self, command_id: int, frame: bytes) -> LoginAsked | Ended | None:
        if not command_id & pdu.RESPONSE:
            self._out.append(pdu.build_answer(frame, pdu.COMMAND_NOT_SERVED))
        return None

    def answer_login(self, asked: LoginAsked, status: int, server_id: str) -> None:
        """Take or refuse a login."""
        header = pack_header(HEADER_SIZE, pdu.BIND, *_parts(asked.sequence))
        self._out.append(pdu.build_answer(header, status))
        if not status:
            self.system_id = asked.system_id
            self.may_submit = True

    def answer_submits(self, answers: Sequence[tuple[int, int, bytes]]) -> None:
        """Answer submits: (sequence, result, id, which the answer does not carry)."""
        self.unanswered -= len(answers)
        for sequence, result, _ in answers:
            self._out += (_SUBMIT_RESP, sequence.to_bytes(12, "big"), bytes((result,)), _RESERVE)

    def enquire(self) -> None:
        """SGIP has no link test."""

    def _say_broken(self) -> None:
        """Nothing: the book has no word for it, the connection is closed."""

    def _build_report(self, sequence: int, report: OwedReport) -> bytes:
        fields: Fields = {
            "submit_sequence": bytes.fromhex(report.carrier_id.decode("ascii")),
            "user_number": report.to.decode("latin-1"),
            "state": _STATES[report.state],
            "error_code": 0 if report.is_good else ERROR_UNKNOWN_USER,
        }
        return pdu.build_pdu(pdu.REPORT, _parts(sequence), fields)

    def _build_text(self, sequence: int, text: OwedText) -> bytes:
        fields: Fields = {
            "user_number": text.number.decode("latin-1"),
            "sp_number": text.to.decode("latin-1"),
            **content_fields(text, "message_coding"),
        }
        return pdu.build_pdu(pdu.DELIVER, _parts(sequence), fields)

    def _sequence_of(self, one: Delivery) -> int:
        """A text that goes out again is the same command, so it has the same number."""
        if isinstance(one, OwedText):
            return int(one.carrier_id, 16)
        return _whole(self._next())


class SgipServer(_Side):
    """One connection that an SP opened; `pushes_here`: reports go over it too, as some do."""

    def __init__(self, *, pushes_here: bool = False) -> None:
        super().__init__()
        self._pushes_here = pushes_here

    def _login_frame(self, command_id: int, frame: bytes) -> LoginAsked | Ended | None:
        if command_id != pdu.BIND:
            return super()._login_frame(command_id, frame)
        asked = pdu.parse_pdu(frame)
        if asked.number("login_type") != pdu.LOGIN_SP:
            self._out.append(pdu.build_answer(frame, pdu.BAD_LOGIN_TYPE))
            self.is_closed = True
            return Ended("login type")
        given = asked.text("login_password")
        return LoginAsked(
            _number(frame), command_id, asked.text("login_name"), lambda known: known == given
        )

    def answer_login(self, asked: LoginAsked, status: int, server_id: str) -> None:
        """Take or refuse a login."""
        super().answer_login(asked, status, server_id)
        self.may_deliver = self.may_submit and self._pushes_here


_STATES = {
    b"DELIVRD": pdu.STATE_DELIVERED,
    b"ACCEPTD": pdu.STATE_WAITING,
    b"UNDELIV": pdu.STATE_FAILED,
}


class SgipCaller(_Side):
    """One connection that the SMG opened to the SP: it logs in and brings reports."""

    is_call = True

    def __init__(self, login_name: str, password: str) -> None:
        super().__init__()
        self._login = login_name, password

    def connected(self) -> None:
        """The socket is open: log in."""
        name, password = self._login
        fields: Fields = {
            "login_type": pdu.LOGIN_SMG,
            "login_name": name,
            "login_password": password,
        }
        self._out.append(pdu.build_pdu(pdu.BIND, _parts(_whole(self._next())), fields))

    def _login_frame(self, command_id: int, frame: bytes) -> LoginAsked | Ended | None:
        if command_id != pdu.BIND_RESP:
            return super()._login_frame(command_id, frame)
        result = pdu.parse_pdu(frame).number("result")
        if result:
            self.is_closed = True
            return Ended(f"login refused with {result}")
        self.system_id = self._login[0]
        self.may_deliver = True
        return None


class SgipSide(Side):
    """A simulated SMG of China Unicom."""

    name = "sgip"
    throttled = pdu.BUSY
    failure = RESULT_FAILURE
    unknown_account = pdu.BAD_LOGIN
    wrong_password = pdu.BAD_LOGIN

    def __init__(self, *, pushes_here: bool = False) -> None:
        """`pushes_here`: reports go over the SP's own connection too, as some platforms do."""
        self._pushes_here = pushes_here

    def session(self) -> SgipServer:
        """A new client's connection."""
        return SgipServer(pushes_here=self._pushes_here)

    def facts(self, parsed: Submit) -> Facts:
        """What the record says of a SUBMIT (its first number)."""
        source, number, udhi, coding, wants_report, content = parsed
        reference, index, total, data = segment_of(bool(udhi), content)
        text = text_of(coding, data)
        return Facts(source, number, reference, index, total, text, wants_report == 1)

    def carrier_id(self, number: int, sequence: int) -> str:
        """The submit's own 12 octets."""
        return f"{sequence:024x}"

    def text_id(self, number: int) -> str:
        """The 12 octets of the command that brings it."""
        return f"{_whole(number):024x}"
