"""SGIP 1.2 PDUs as tables; parsers and builders come from the tables.

Header, 20 octets, big-endian:

    Message Length u32 │ Command ID u32 │ Sequence Number: node u32, MMDDHHMMSS u32, counter u32

A response has the request's Command ID with the top bit set and copies the 12 octets. Those of a
SUBMIT are the message's id: its response carries no other and a REPORT names them. `SubmitTemplate`
and `parse_report` are the tables laid out flat for what travels once per segment (tests hold them
together). No I/O, no clock.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters.layout import Field, Fields, Kind, build_fields, octets, padded, parse_fields, texts
from sms.errors import RemoteProtocolError

HEADER_SIZE = 20
# By the book a message is at most 2 KiB; a SUBMIT to 100 numbers alone is 2.4.
PDU_MAXIMUM = 4 * 1024
CONTENT_MAXIMUM = 2 * 1024  # read; what we write is bounded by the air: 140 octets
USERS_MAXIMUM = 100

RESPONSE = 0x80000000
BIND = 0x1
UNBIND = 0x2
SUBMIT = 0x3
DELIVER = 0x4
REPORT = 0x5
USERRPT = 0x11
TRACE = 0x1000
BIND_RESP = RESPONSE | BIND
UNBIND_RESP = RESPONSE | UNBIND
SUBMIT_RESP = RESPONSE | SUBMIT
DELIVER_RESP = RESPONSE | DELIVER
REPORT_RESP = RESPONSE | REPORT
USERRPT_RESP = RESPONSE | USERRPT

LOGIN_SP = 1  # we connect to the SMG
LOGIN_SMG = 2  # the SMG connects to us

OK = 0
BAD_LOGIN = 1
BAD_LOGIN_TYPE = 4
BAD_PARAMETER = 5
BUSY = 11
COMMAND_NOT_SERVED = 7  # "message id"

STATE_DELIVERED = 0
STATE_WAITING = 1
STATE_FAILED = 2

CODING_ASCII = 0
CODING_UCS2 = 8

pack_header = struct.Struct(">IIIII").pack
parse_header = struct.Struct(">IIIII").unpack_from
_RESPONSE_SIZE = HEADER_SIZE + 9

# The three parts of a sequence number: node, MMDDHHMMSS, counter.
Sequence = tuple[int, int, int]
pack_sequence = struct.Struct(">III").pack

_RESERVE = Field("reserve", Kind.OCTETS, 8)
_RESP = (*octets("result"), _RESERVE)
_LENGTH = Field("message_length", Kind.NUMBER, 4)
_CONTENT = Field("content", Kind.CONTENT, count="message_length", most=CONTENT_MAXIMUM)
_SUBMIT_FRONT = texts(("sp_number", 21), ("charge_number", 21))
_SUBMIT_TAIL = (
    *texts(("corp_id", 5), ("service_type", 10)),
    *octets("fee_type"),
    *texts(("fee_value", 6), ("given_value", 6)),
    *octets("agent_flag", "more_late_to_mt_flag", "priority"),
    *texts(("expire_time", 16), ("schedule_time", 16)),
    *octets("report_flag", "tp_pid", "tp_udhi", "message_coding", "message_type"),
)
_SUBMIT = (
    *_SUBMIT_FRONT,
    *octets("user_count"),
    Field("user_number", Kind.TEXTS, 21, count="user_count", most=USERS_MAXIMUM),
    *_SUBMIT_TAIL,
    _LENGTH,
    _CONTENT,
    _RESERVE,
)
_DELIVER = (
    *texts(("user_number", 21), ("sp_number", 21)),
    *octets("tp_pid", "tp_udhi", "message_coding"),
    _LENGTH,
    _CONTENT,
    _RESERVE,
)
_REPORT = (
    Field("submit_sequence", Kind.OCTETS, 12),
    *octets("report_type"),
    *texts(("user_number", 21)),
    *octets("state", "error_code"),
    _RESERVE,
)

# Command ID → (name, fields)
PDUS: Mapping[int, tuple[str, tuple[Field, ...]]] = {
    BIND: (
        "SGIP_BIND",
        (*octets("login_type"), *texts(("login_name", 16), ("login_password", 16)), _RESERVE),
    ),
    BIND_RESP: ("SGIP_BIND_RESP", _RESP),
    UNBIND: ("SGIP_UNBIND", ()),
    UNBIND_RESP: ("SGIP_UNBIND_RESP", ()),
    SUBMIT: ("SGIP_SUBMIT", _SUBMIT),
    SUBMIT_RESP: ("SGIP_SUBMIT_RESP", _RESP),
    DELIVER: ("SGIP_DELIVER", _DELIVER),
    DELIVER_RESP: ("SGIP_DELIVER_RESP", _RESP),
    REPORT: ("SGIP_REPORT", _REPORT),
    REPORT_RESP: ("SGIP_REPORT_RESP", _RESP),
    USERRPT: (
        "SGIP_USERRPT",
        (*texts(("sp_number", 21), ("user_number", 21)), *octets("user_condition"), _RESERVE),
    ),
    USERRPT_RESP: ("SGIP_USERRPT_RESP", _RESP),
}


@dataclass(slots=True)  # not frozen: codec value (HOUSE section 4)
class Pdu:
    """One parsed PDU; `fields` by the table's names."""

    command_id: int
    sequence: Sequence
    fields: Fields = field(default_factory=dict)

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


def parse_pdu(frame: bytes) -> Pdu:
    """Parse one whole frame by its table; octets after its last field are ignored.

    A Reserve that was left out is empty, an UNBIND_RESP may have a body (both seen). Raises
    RemoteProtocolError for an unknown command or a cut field.
    """
    length, command_id, *sequence = parse_header(frame)
    if length != len(frame):
        raise RemoteProtocolError(f"Message Length {length} over {len(frame)} octets")
    known = PDUS.get(command_id)
    if known is None:
        raise RemoteProtocolError(f"unknown Command ID {command_id:#010x}")
    rows = known[1]
    if rows and rows[-1] is _RESERVE:
        fields, after = parse_fields(rows[:-1], frame, HEADER_SIZE)
        fields["reserve"] = frame[after : after + 8]
    else:
        fields, _ = parse_fields(rows, frame, HEADER_SIZE)
    return Pdu(command_id, (sequence[0], sequence[1], sequence[2]), fields)


def build_pdu(command_id: int, sequence: Sequence, fields: Fields | None = None) -> bytes:
    """Build one whole PDU by its table; ValueError when a field does not fit its row."""
    body = build_fields(PDUS[command_id][1], fields or {})
    return pack_header(HEADER_SIZE + len(body), command_id, *sequence) + body


def build_answer(frame: bytes, result: int) -> bytes:
    """The response to a request, also to one that we do not know: its 12 octets and a result."""
    _, command_id, *sequence = parse_header(frame)
    command_id |= RESPONSE
    if command_id == UNBIND_RESP:
        return pack_header(HEADER_SIZE, command_id, *sequence)
    return pack_header(_RESPONSE_SIZE, command_id, *sequence) + bytes((result,)) + bytes(8)


_REPORT_BODY = struct.Struct(">12sB21sBB").unpack_from
_REPORT_LEAST = HEADER_SIZE + 36  # its Reserve may be missing

# (submit's 12 octets as hex, report type, user number as it stands there, state, error code)
Reported = tuple[str, int, str, int, int]


def parse_report(frame: bytes) -> Reported:
    """A REPORT frame, flat; RemoteProtocolError when it is cut."""
    if len(frame) < _REPORT_LEAST:
        raise RemoteProtocolError("the PDU ends inside a REPORT")
    submit, kind, user, state, error = _REPORT_BODY(frame, HEADER_SIZE)
    return submit.hex(), kind, user.partition(b"\0")[0].decode("latin-1"), state, error


@dataclass(frozen=True, slots=True)
class SubmitLook:
    """What every SUBMIT of a channel has in common, by the standard's names."""

    corp_id: str = ""
    service_type: str = ""
    charge_number: str = "0" * 21  # the SP pays
    fee_type: int = 1  # free
    fee_value: str = "0"
    given_value: str = "0"
    agent_flag: int = 0
    more_late_to_mt_flag: int = 2  # not caused by an MO
    priority: int = 0
    report_flag: int = 1  # always


_HEADS_MAXIMUM = 4096
_LENGTHS = tuple(struct.pack(">I", count) for count in range(256))
_RESERVED = bytes(8)


class SubmitTemplate:
    """Packs SUBMITs to one number from parts that hardly change.

    header 20 │ head: SPNumber, ChargeNumber, 1 │ UserNumber │
    tail: CorpId … MessageType │ MessageLength │ content │ Reserve
    """

    __slots__ = ("_heads", "_look", "_tails")

    def __init__(self, look: SubmitLook) -> None:
        self._look = look
        self._heads: dict[str, bytes] = {}
        self._tails: dict[tuple[int, bool, str], bytes] = {}

    def build_into(  # noqa: PLR0913 – one argument per part that differs
        self,
        out: list[bytes],
        sequence: Sequence,
        *,
        sender: str,
        number: str,
        coding: int,
        has_udh: bool,
        content: bytes,
        expire_time: str = "",
    ) -> None:
        """Append one SUBMIT to `out`, in pieces, so that a burst is joined once.

        `number` as the carrier wants it (86…), `expire_time` YYMMDDhhmmss032+. Raises ValueError,
        with `out` as it was, when something does not fit.
        """
        head = self._heads.get(sender) or self._head(sender)
        key = coding, has_udh, expire_time
        tail = self._tails.get(key) or self._tail(key)
        user = number.encode("ascii").ljust(21, b"\0")
        count = len(content)
        if len(user) > 21 or count > 255:
            raise ValueError("number over 21 or content over 255 octets")
        size = HEADER_SIZE + len(head) + 21 + len(tail) + 12 + count
        header = pack_header(size, SUBMIT, *sequence)
        out += (header, head, user, tail, _LENGTHS[count], content, _RESERVED)

    def _head(self, sender: str) -> bytes:
        head = padded(sender, 21) + padded(self._look.charge_number, 21) + b"\x01"
        if len(self._heads) >= _HEADS_MAXIMUM:
            self._heads.clear()
        self._heads[sender] = head
        return head

    def _tail(self, key: tuple[int, bool, str]) -> bytes:
        look = self._look
        coding, has_udh, expire_time = key
        tail = build_fields(
            _SUBMIT_TAIL,
            {
                "corp_id": look.corp_id,
                "service_type": look.service_type,
                "fee_type": look.fee_type,
                "fee_value": look.fee_value,
                "given_value": look.given_value,
                "agent_flag": look.agent_flag,
                "more_late_to_mt_flag": look.more_late_to_mt_flag,
                "priority": look.priority,
                "expire_time": expire_time,
                "report_flag": look.report_flag,
                "tp_udhi": int(has_udh),
                "message_coding": coding,
            },
        )
        if len(self._tails) >= _HEADS_MAXIMUM:
            self._tails.clear()
        self._tails[key] = tail
        return tail
