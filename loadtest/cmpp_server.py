"""The carrier's side of CMPP 2.0 and 3.0, sans I/O: what a simulated ISMG says on one connection.

It speaks to each client in the version that the client logs in with, up to its own.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence

from adapters.cmpp import pdu
from adapters.cmpp.auth import authenticator_source, authenticators_ismg
from adapters.cmpp.pdu import HEADER_SIZE, PDU_MAXIMUM, Layout, pack_header, parse_header
from adapters.cmpp.settings import VERSION_2, VERSION_3
from adapters.mainland import CODING_GBK, CODING_UCS2, text_of
from adapters.wire import Framer
from loadtest.server import (
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

STATUS_VERSION = 4
STATUS_ACCOUNT = 2
STATUS_PASSWORD = 3
RESULT_FAILURE = 3  # a duplicate sequence: once more, then the next channel may take it


# Src_Id, first Dest_terminal_Id, TP_udhi, Msg_Fmt, Registered_Delivery, Msg_Content of a SUBMIT
Submit = tuple[bytes, bytes, int, int, int, bytes]
# Registered_Delivery, TP_udhi, Msg_Fmt, Src_Id, DestUsr_tl; then the numbers
_SUBMITS = {
    Layout.V2: (struct.Struct(">10xB12x21xxBB31x17x21sB"), 21, 0),
    Layout.V3: (struct.Struct(">10xB12x33xxBB31x17x21sB"), 32, 1),
}


def parse_submit(frame: bytes, layout: Layout) -> Submit:
    """The fields that a carrier looks at, laid out flat: 1 µs against 25 from the table."""
    row, width, kinds = _SUBMITS[layout]
    start = HEADER_SIZE + row.size
    if start > len(frame):
        raise RemoteProtocolError("the SUBMIT is cut")
    registered, udhi, fmt, source, numbers = row.unpack_from(frame, HEADER_SIZE)
    number = frame[start : start + width] if numbers else b""
    position = start + width * numbers + kinds
    if position >= len(frame):
        raise RemoteProtocolError("the SUBMIT ends inside its numbers")
    stop = position + 1 + frame[position]
    if stop > len(frame):
        raise RemoteProtocolError("the SUBMIT ends inside Msg_Content")
    content = frame[position + 1 : stop]
    return source.rstrip(b"\0"), number.rstrip(b"\0"), udhi, fmt, registered, content


class CmppServerSession(ServerSession):
    """One client's connection."""

    def __init__(self, version: int, password: str = "") -> None:
        super().__init__(Framer(HEADER_SIZE, PDU_MAXIMUM))
        self.layout = Layout.V3 if version >= VERSION_3 else Layout.V2
        self._version = version
        self._password = password
        self._proof = b""  # the client's, which ours is made of

    def _frame(
        self, frame: bytes, submits: Submits, answered: ReportsAnswered
    ) -> LoginAsked | Ended | None:
        _, command_id, sequence = parse_header(frame)
        if command_id == pdu.SUBMIT and self.may_submit:
            submits.submits.append((sequence, frame, parse_submit(frame, self.layout)))
        elif command_id == pdu.DELIVER_RESP:
            result = frame[HEADER_SIZE + pdu.ID_SIZE :]
            self._report_answered(sequence, int.from_bytes(result[:4], "big"), answered)
        elif command_id == pdu.CONNECT and not self.system_id:
            return self._connect(frame)
        elif command_id == pdu.ACTIVE_TEST:
            self._out.append(pack_header(HEADER_SIZE + 1, pdu.ACTIVE_TEST_RESP, sequence) + b"\0")
        elif command_id == pdu.TERMINATE:
            self._out.append(pack_header(HEADER_SIZE, pdu.TERMINATE_RESP, sequence))
            self.is_closed = True
            return Ended("terminated")
        elif command_id == pdu.SUBMIT:
            raise RemoteProtocolError("a SUBMIT before the login")
        return None

    def _connect(self, frame: bytes) -> LoginAsked:
        asked = pdu.parse_pdu(frame, Layout.V2)
        proof, name = asked.octets("authenticator_source"), asked.text("source_addr")
        stamp = asked.number("timestamp")
        self._proof = proof
        return LoginAsked(
            asked.sequence,
            asked.command_id,
            name,
            lambda password: proof == authenticator_source(name, password, stamp),
            asked.number("version"),
        )

    def _say_broken(self) -> None:
        """CMPP has no word for it: the close must do."""

    def answer_login(self, asked: LoginAsked, status: int, server_id: str) -> None:
        """Take or refuse a login; one of a newer version is refused."""
        version = asked.version
        if version >= VERSION_3 > self._version:
            status, version = status or STATUS_VERSION, self._version
        self.layout = Layout.V3 if version >= VERSION_3 else Layout.V2
        proof = authenticators_ismg(status, self._proof, self._password)
        fields: dict[str, pdu.Value] = {
            "status": status,
            "authenticator_ismg": proof[1 if self.layout is Layout.V3 else 0],
            "version": version,
        }
        self._out.append(pdu.build_pdu(pdu.CONNECT_RESP, asked.sequence, fields, self.layout))
        if not status:
            self.system_id = asked.system_id
            self.may_submit = self.may_deliver = True

    def answer_submits(self, answers: Sequence[tuple[int, int, bytes]]) -> None:
        """Answer submits: (sequence, result, carrier id as 16 hexadecimal digits)."""
        size = 4 if self.layout is Layout.V3 else 1
        length = HEADER_SIZE + pdu.ID_SIZE + size
        self.unanswered -= len(answers)
        for sequence, result, carrier_id in answers:
            msg_id = bytes.fromhex(carrier_id.decode()).ljust(pdu.ID_SIZE, b"\0")
            self._out += (
                pack_header(length, pdu.SUBMIT_RESP, sequence),
                msg_id,
                result.to_bytes(size, "big"),
            )

    def enquire(self) -> None:
        """Ask whether the client is still there."""
        self._out.append(pack_header(HEADER_SIZE, pdu.ACTIVE_TEST, self._next()))

    def _build_report(self, sequence: int, report: OwedReport) -> bytes:
        width = 32 if self.layout is Layout.V3 else 21
        content = b"".join(
            (
                bytes.fromhex(report.carrier_id.decode()),
                report.state,
                report.submitted,
                report.done,
                report.to.ljust(width, b"\0"),
                sequence.to_bytes(4, "big"),
            )
        )
        fields: dict[str, pdu.Value] = {
            "msg_id": sequence.to_bytes(pdu.ID_SIZE, "big"),
            "dest_id": report.sender.decode("latin-1"),
            "src_terminal_id": report.to.decode("latin-1"),
            "registered_delivery": 1,
            "content": content,
        }
        return pdu.build_pdu(pdu.DELIVER, sequence, fields, self.layout)

    def _build_text(self, sequence: int, text: OwedText) -> bytes:
        header = text.header
        if text.mark is not None:  # CMPP has no fields for it
            reference, total, number, _ = text.mark
            header = bytes((5, 0, 3, reference & 0xFF, total, number))
        data = text.data if text.is_ucs2 else gsm.decode(text.data).encode("gb18030")
        fields: dict[str, pdu.Value] = {
            "msg_id": bytes.fromhex(text.carrier_id.decode()),
            "dest_id": text.to.decode("latin-1"),
            "src_terminal_id": text.number.decode("latin-1"),
            "tp_udhi": int(bool(header)),
            "msg_fmt": CODING_UCS2 if text.is_ucs2 else CODING_GBK,
            "content": header + data,
        }
        return pdu.build_pdu(pdu.DELIVER, sequence, fields, self.layout)


class CmppSide(Side):
    """A simulated ISMG of China Mobile."""

    throttled = pdu.RESULT_FLOW_CONTROL
    failure = RESULT_FAILURE
    unknown_account = STATUS_ACCOUNT
    wrong_password = STATUS_PASSWORD

    def __init__(self, name: str, password: str = "") -> None:
        """`name` is cmpp2 or cmpp3; `password` is what our proof to clients is made of."""
        self.name = name
        self._version = VERSION_3 if name == "cmpp3" else VERSION_2
        self._password = password
        # As wide as a Msg_Id: moment, process, and 24 bits that the number is added to.
        self._first = (int(time.time()) & 0xFFFFFF) << 40 | (os.getpid() & 0xFFFF) << 24

    def session(self) -> CmppServerSession:
        """A new client's connection."""
        return CmppServerSession(self._version, self._password)

    def facts(self, parsed: Submit) -> Facts:
        """What the record says of a SUBMIT (its first number)."""
        source, number, udhi, fmt, registered, content = parsed
        reference, index, total, data = segment_of(bool(udhi), content)
        text = text_of(fmt, data)
        return Facts(source, number, reference, index, total, text, registered == 1)

    def carrier_id(self, number: int, sequence: int) -> str:
        """Sixteen hexadecimal digits, eight octets on the wire."""
        return f"{(self._first + number) & 0xFFFFFFFFFFFFFFFF:016x}"
