"""SMGP 3.0 PDUs as tables; parsers and builders come from the tables.

Header, 12 octets, big-endian:

    PacketLength u32 │ RequestID u32 │ SequenceID u32

A response has the request's RequestID with the top bit set and copies the SequenceID. TLVs may
follow the fixed part of Submit and Deliver. `SubmitTemplate`, `parse_submit_resp` and
`parse_deliver` are the tables laid out flat for what travels once per segment (tests hold them
together). No I/O, no clock.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adapters.layout import Field, Fields, Kind, build_fields, octets, padded, parse_fields, texts
from adapters.wire import build_tlvs, parse_tlvs
from sms.errors import RemoteProtocolError

HEADER_SIZE = 12
PDU_MAXIMUM = 8 * 1024
SEQUENCE_MAXIMUM = 0xFFFFFFFF
DESTINATIONS_MAXIMUM = 100
MSG_ID_SIZE = 10
MSG_ID_NONE = bytes(MSG_ID_SIZE)

RESPONSE = 0x80000000
LOGIN = 0x1
SUBMIT = 0x2
DELIVER = 0x3
ACTIVE_TEST = 0x4
EXIT = 0x6
LOGIN_RESP = RESPONSE | LOGIN
SUBMIT_RESP = RESPONSE | SUBMIT
DELIVER_RESP = RESPONSE | DELIVER
ACTIVE_TEST_RESP = RESPONSE | ACTIVE_TEST
EXIT_RESP = RESPONSE | EXIT

VERSION = 0x30
MODE_SEND = 0
MODE_RECEIVE = 1
MODE_BOTH = 2

OK = 0
BUSY = 1
BAD_STRUCTURE = 10
BAD_AUTHENTICATION = 21

MSG_TYPE_MT = 6
FORMAT_ASCII = 0
FORMAT_UCS2 = 8

TLV_TP_PID = 0x01
TLV_TP_UDHI = 0x02
TLV_PK_TOTAL = 0x09
TLV_PK_NUMBER = 0x0A
TLV_MSG_SRC = 0x10
TLV_M_SERVICE_ID = 0x12

pack_header = struct.Struct(">III").pack
parse_header = struct.Struct(">III").unpack_from

_RESERVE = Field("reserve", Kind.OCTETS, 8)
_MSG_ID = Field("msg_id", Kind.OCTETS, MSG_ID_SIZE)
_STATUS = Field("status", Kind.NUMBER, 4)
_ANSWER = (_MSG_ID, _STATUS)
_LENGTH = Field("msg_length", Kind.NUMBER, 1)
_CONTENT = Field("content", Kind.CONTENT, count="msg_length", most=255)
_LOGIN = (
    *texts(("client_id", 8)),
    Field("authenticator_client", Kind.OCTETS, 16),
    *octets("login_mode"),
    Field("timestamp", Kind.NUMBER, 4),
    *octets("client_version"),
)
_LOGIN_RESP = (
    _STATUS,
    Field("authenticator_server", Kind.OCTETS, 16),
    *octets("server_version"),
)
_SUBMIT_HEAD = (
    *octets("msg_type", "need_report", "priority"),
    *texts(("service_id", 10), ("fee_type", 2), ("fee_code", 6), ("fixed_fee", 6)),
    *octets("msg_format"),
    *texts(("valid_time", 17), ("at_time", 17), ("src_term_id", 21), ("charge_term_id", 21)),
)
_SUBMIT = (
    *_SUBMIT_HEAD,
    *octets("dest_term_id_count"),
    Field("dest_term_id", Kind.TEXTS, 21, count="dest_term_id_count", most=DESTINATIONS_MAXIMUM),
    _LENGTH,
    _CONTENT,
    _RESERVE,
)
_DELIVER = (
    _MSG_ID,
    *octets("is_report", "msg_format"),
    *texts(("recv_time", 14), ("src_term_id", 21), ("dest_term_id", 21)),
    _LENGTH,
    _CONTENT,
    _RESERVE,
)

# RequestID → (name, fields)
PDUS: Mapping[int, tuple[str, tuple[Field, ...]]] = {
    LOGIN: ("Login", _LOGIN),
    LOGIN_RESP: ("Login_Resp", _LOGIN_RESP),
    SUBMIT: ("Submit", _SUBMIT),
    SUBMIT_RESP: ("Submit_Resp", _ANSWER),
    DELIVER: ("Deliver", _DELIVER),
    DELIVER_RESP: ("Deliver_Resp", _ANSWER),
    ACTIVE_TEST: ("Active_Test", ()),
    ACTIVE_TEST_RESP: ("Active_Test_Resp", ()),
    EXIT: ("Exit", ()),
    EXIT_RESP: ("Exit_Resp", ()),
}


@dataclass(slots=True)  # not frozen: codec value (HOUSE section 4)
class Pdu:
    """One parsed PDU; `fields` by the table's names."""

    request_id: int
    sequence: int
    fields: Fields = field(default_factory=dict)
    tlvs: list[tuple[int, bytes]] = field(default_factory=list)

    def text(self, name: str) -> str:
        """A text field, "" when there is none."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        """A number, 0 when there is none."""
        value = self.fields.get(name)
        return value if isinstance(value, int) else 0

    def octets(self, name: str) -> bytes:
        """Octets, empty when there are none."""
        value = self.fields.get(name)
        return value if isinstance(value, bytes) else b""

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, empty when there is none."""
        value = self.fields.get(name)
        return value if isinstance(value, tuple) else ()

    def tlv(self, tag: int) -> bytes | None:
        """The first optional parameter with this tag."""
        return next((value for found, value in self.tlvs if found == tag), None)


def parse_pdu(frame: bytes) -> Pdu:
    """Parse one whole frame by its table; a Reserve that was left out is empty.

    Raises RemoteProtocolError for an unknown command or a cut field; a TLV tail that cannot be
    read ends the list of TLVs.
    """
    length, request_id, sequence = parse_header(frame)
    if length != len(frame):
        raise RemoteProtocolError(f"PacketLength {length} over {len(frame)} octets")
    known = PDUS.get(request_id)
    if known is None:
        raise RemoteProtocolError(f"unknown RequestID {request_id:#010x}")
    rows = known[1]
    if rows and rows[-1] is _RESERVE:
        fields, after = parse_fields(rows[:-1], frame, HEADER_SIZE)
        fields["reserve"] = frame[after : after + 8]
        return Pdu(request_id, sequence, fields, parse_tlvs(frame, after + 8))
    fields, _ = parse_fields(rows, frame, HEADER_SIZE)
    return Pdu(request_id, sequence, fields)


def build_pdu(
    request_id: int,
    sequence: int,
    fields: Fields | None = None,
    *,
    tlvs: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """Build one whole PDU by its table; ValueError when a field does not fit its row."""
    body = build_fields(PDUS[request_id][1], fields or {}) + build_tlvs(list(tlvs))
    return pack_header(HEADER_SIZE + len(body), request_id, sequence) + body


def authenticator(client_id: str, secret: str, stamp: int, *, is_padded: bool = False) -> bytes:
    """MD5(ClientID + 7 × 0x00 + secret + MMDDHHMMSS), the login's proof.

    `is_padded`: ClientID is padded to its 8 octets before it is hashed; implementations differ
    for shorter ids.
    """
    name = client_id.encode("latin-1")
    if is_padded:
        name = name.ljust(8, b"\0")
    text = name + bytes(7) + secret.encode("latin-1") + b"%010d" % stamp
    return hashlib.md5(text, usedforsecurity=False).digest()


_ANSWER_SIZE = HEADER_SIZE + MSG_ID_SIZE + 4
_STATUS_AT = struct.Struct(">I").unpack_from


def parse_submit_resp(frame: bytes) -> tuple[str, int]:
    """(MsgID as 20 hexadecimal digits, Status) of a Submit_Resp frame.

    Raises RemoteProtocolError when it is cut.
    """
    if len(frame) < _ANSWER_SIZE:
        raise RemoteProtocolError("the PDU ends inside a Submit_Resp")
    return frame[12:22].hex(), _STATUS_AT(frame, 22)[0]


def build_deliver_resp(sequence: int, msg_id: bytes, status: int) -> bytes:
    """The answer to a Deliver: its own MsgID and a status."""
    return pack_header(_ANSWER_SIZE, DELIVER_RESP, sequence) + msg_id + struct.pack(">I", status)


_CONTENT_AT = HEADER_SIZE + 69

# (MsgID, IsReport, MsgFormat, source, destination, content, position after the Reserve)
Deliver = tuple[bytes, int, int, str, str, bytes, int]


def parse_deliver(frame: bytes) -> Deliver:
    """A Deliver frame, flat; RemoteProtocolError when it is cut."""
    if len(frame) < _CONTENT_AT:
        raise RemoteProtocolError("the PDU ends inside a Deliver")
    stop = _CONTENT_AT + frame[_CONTENT_AT - 1]
    if stop > len(frame):
        raise RemoteProtocolError("the PDU ends inside MsgContent")
    source = frame[38:59].partition(b"\0")[0].decode("latin-1")
    destination = frame[59:80].partition(b"\0")[0].decode("latin-1")
    content = frame[_CONTENT_AT:stop]
    return frame[12:22], frame[22], frame[23], source, destination, content, stop + 8


@dataclass(frozen=True, slots=True)
class SubmitLook:
    """What every Submit of a channel has in common, by the standard's names."""

    service_id: str = ""
    fee_type: str = "00"  # free
    fee_code: str = "000000"
    fixed_fee: str = "000000"
    charge_term_id: str = ""
    priority: int = 1
    need_report: int = 1
    msg_src: str = ""  # the SP's id
    m_service_id: str = ""  # the product, when the carrier gave one


_KEPT_MAXIMUM = 4096
_COUNTS = tuple(bytes((count,)) for count in range(256))


class SubmitTemplate:
    """Packs Submits to one number from parts that hardly change.

    header 12 │ head: MsgType … ChargeTermID, 1 │ DestTermID │ MsgLength │ content │
    tail: Reserve, TLVs
    """

    __slots__ = ("_heads", "_look", "_tails")

    def __init__(self, look: SubmitLook) -> None:
        self._look = look
        self._heads: dict[tuple[str, int, str], bytes] = {}
        self._tails: dict[tuple[bool, int, int], bytes] = {}

    def build_into(  # noqa: PLR0913 – one argument per part that differs
        self,
        out: list[bytes],
        sequence: int,
        *,
        sender: str,
        number: str,
        msg_format: int,
        content: bytes,
        has_udh: bool = False,
        part: int = 1,
        parts: int = 1,
        valid_time: str = "",
    ) -> None:
        """Append one Submit to `out`, in pieces, so that a burst is joined once.

        `part` of `parts` from 1, `valid_time` YYMMDDhhmmss032+. Raises ValueError, with `out` as
        it was, when something does not fit.
        """
        front = sender, msg_format, valid_time
        head = self._heads.get(front) or self._head(front)
        back = has_udh, part, parts
        tail = self._tails.get(back) or self._tail(back)
        to = number.encode("ascii").ljust(21, b"\0")
        count = len(content)
        if len(to) > 21 or count > 255:
            raise ValueError("number over 21 or content over 255 octets")
        size = HEADER_SIZE + len(head) + 22 + count + len(tail)
        header = pack_header(size, SUBMIT, sequence)
        out += (header, head, to, _COUNTS[count], content, tail)

    def _head(self, front: tuple[str, int, str]) -> bytes:
        look = self._look
        sender, msg_format, valid_time = front
        head = build_fields(
            _SUBMIT_HEAD,
            {
                "msg_type": MSG_TYPE_MT,
                "need_report": look.need_report,
                "priority": look.priority,
                "service_id": look.service_id,
                "fee_type": look.fee_type,
                "fee_code": look.fee_code,
                "fixed_fee": look.fixed_fee,
                "msg_format": msg_format,
                "valid_time": valid_time,
                "src_term_id": sender,
                "charge_term_id": look.charge_term_id,
            },
        )
        if len(self._heads) >= _KEPT_MAXIMUM:
            self._heads.clear()
        self._heads[front] = head = head + b"\x01"
        return head

    def _tail(self, back: tuple[bool, int, int]) -> bytes:
        has_udh, part, parts = back
        look = self._look
        tlvs = [
            (TLV_TP_PID, b"\0"),
            (TLV_TP_UDHI, _COUNTS[has_udh]),
            (TLV_PK_TOTAL, _COUNTS[parts]),
            (TLV_PK_NUMBER, _COUNTS[part]),
        ]
        if look.msg_src:
            tlvs.append((TLV_MSG_SRC, padded(look.msg_src, 8)))
        if look.m_service_id:
            tlvs.append((TLV_M_SERVICE_ID, padded(look.m_service_id, 21)))
        tail = bytes(8) + build_tlvs(tlvs)
        if len(self._tails) >= _KEPT_MAXIMUM:
            self._tails.clear()
        self._tails[back] = tail
        return tail
