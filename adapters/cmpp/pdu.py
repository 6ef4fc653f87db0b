"""CMPP 2.0 and 3.0 PDUs as tables (name, kind, length); parsers and builders come from the tables.

Header, 12 octets, big-endian (CMPP 3.0.0, QB-GF-028-2003):

    Total_Length u32 │ Command_Id u32 │ Sequence_Id u32

A response has the request's command with the top bit set. 3.0 widens numbers (21 → 32), status
fields (u8 → u32) and the reserved tail (8 → 20, LinkID) and adds number types; 2.1 is laid out as
2.0. `parse_pdu` and `build_pdu` serve every PDU; `parse_deliver` and `SubmitTemplate` are the same
layout laid out flat for the PDUs that travel once per segment (tests hold them equal to the
tables). No I/O, no clock.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from adapters.mainland import CODING_UCS2, CONTENT_MAXIMUM, absolute_time, content_of
from sms.errors import RemoteProtocolError
from sms.model import Encoding, Submit

HEADER_SIZE = 12
PDU_MAXIMUM = 4096  # the largest legal one is a 3.0 submit to 99 numbers: 3,471 octets

RESPONSE = 0x80000000
CONNECT = 0x00000001
TERMINATE = 0x00000002
SUBMIT = 0x00000004
DELIVER = 0x00000005
ACTIVE_TEST = 0x00000008
CONNECT_RESP = RESPONSE | CONNECT
TERMINATE_RESP = RESPONSE | TERMINATE
SUBMIT_RESP = RESPONSE | SUBMIT
DELIVER_RESP = RESPONSE | DELIVER
ACTIVE_TEST_RESP = RESPONSE | ACTIVE_TEST

RESULT_OK = 0
RESULT_FLOW_CONTROL = 8

ID_SIZE = 8

pack_header = struct.Struct(">III").pack
parse_header = struct.Struct(">III").unpack_from


class Layout(Enum):
    """How wide the fields are that 3.0 changed."""

    V2 = "2.0 and 2.1"
    V3 = "3.0"


class Kind(Enum):
    """How a field is laid out."""

    U8 = "one octet"
    U32 = "four octets"
    OCTETS = "`length` octets as they are"
    TEXT = "`length` octets, NUL padded on the right"
    NUMBERS = "one octet of count (dest_usr_tl), then that many texts of `length`"
    CONTENT = "one octet of count (msg_length), then that many octets"
    FLAG = "one octet, or none at all"


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a PDU's table."""

    name: str
    kind: Kind
    length: int = 1


Value = str | int | bytes | list[str]


def _octets(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, Kind.U8) for name in names)


def _texts(*rows: tuple[str, int]) -> tuple[Field, ...]:
    return tuple(Field(name, Kind.TEXT, length) for name, length in rows)


def _tables(layout: Layout) -> dict[int, tuple[str, tuple[Field, ...]]]:
    is_v3 = layout is Layout.V3
    number = 32 if is_v3 else 21
    status = Kind.U32 if is_v3 else Kind.U8
    tail = Field("link_id", Kind.TEXT, 20) if is_v3 else Field("reserve", Kind.OCTETS, 8)
    msg_id = Field("msg_id", Kind.OCTETS, ID_SIZE)
    return {
        CONNECT: (
            "CMPP_CONNECT",
            (
                *_texts(("source_addr", 6)),
                Field("authenticator_source", Kind.OCTETS, 16),
                *_octets("version"),
                Field("timestamp", Kind.U32),
            ),
        ),
        CONNECT_RESP: (
            "CMPP_CONNECT_RESP",
            (
                Field("status", status),
                Field("authenticator_ismg", Kind.OCTETS, 16),
                *_octets("version"),
            ),
        ),
        TERMINATE: ("CMPP_TERMINATE", ()),
        TERMINATE_RESP: ("CMPP_TERMINATE_RESP", ()),
        SUBMIT: (
            "CMPP_SUBMIT",
            (
                msg_id,
                *_octets("pk_total", "pk_number", "registered_delivery", "msg_level"),
                *_texts(("service_id", 10)),
                *_octets("fee_user_type"),
                *_texts(("fee_terminal_id", number)),
                *(_octets("fee_terminal_type") if is_v3 else ()),
                *_octets("tp_pid", "tp_udhi", "msg_fmt"),
                *_texts(("msg_src", 6), ("fee_type", 2), ("fee_code", 6)),
                *_texts(("valid_time", 17), ("at_time", 17), ("src_id", 21)),
                Field("dest_terminal_id", Kind.NUMBERS, number),
                *(_octets("dest_terminal_type") if is_v3 else ()),
                Field("content", Kind.CONTENT),
                tail,
            ),
        ),
        SUBMIT_RESP: ("CMPP_SUBMIT_RESP", (msg_id, Field("result", status))),
        DELIVER: (
            "CMPP_DELIVER",
            (
                msg_id,
                *_texts(("dest_id", 21), ("service_id", 10)),
                *_octets("tp_pid", "tp_udhi", "msg_fmt"),
                *_texts(("src_terminal_id", number)),
                *(_octets("src_terminal_type") if is_v3 else ()),
                *_octets("registered_delivery"),
                Field("content", Kind.CONTENT),
                tail,
            ),
        ),
        DELIVER_RESP: ("CMPP_DELIVER_RESP", (msg_id, Field("result", status))),
        ACTIVE_TEST: ("CMPP_ACTIVE_TEST", ()),
        ACTIVE_TEST_RESP: ("CMPP_ACTIVE_TEST_RESP", (Field("reserved", Kind.FLAG),)),
    }


# layout → command → (name, fields)
PDUS: Mapping[Layout, Mapping[int, tuple[str, tuple[Field, ...]]]] = {
    layout: _tables(layout) for layout in Layout
}
# octets of a CONNECT_RESP → layout: what its sender speaks, whatever version it names
CONNECT_RESP_SIZES: Mapping[int, Layout] = {30: Layout.V2, 33: Layout.V3}


@dataclass(slots=True)  # not frozen: codec value (HOUSE section 4)
class Pdu:
    """One parsed PDU; `fields` by the table's names."""

    command_id: int
    sequence: int
    fields: dict[str, Value] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A text field."""
        value = self.fields.get(name, "")
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        """An integer field."""
        value = self.fields.get(name, 0)
        return value if isinstance(value, int) else 0

    def octets(self, name: str) -> bytes:
        """A field of octets."""
        value = self.fields.get(name, b"")
        return value if isinstance(value, bytes) else b""

    def texts(self, name: str) -> list[str]:
        """A list of numbers."""
        value = self.fields.get(name, [])
        return value if isinstance(value, list) else []


def parse_pdu(frame: bytes, layout: Layout) -> Pdu:
    """Parse one whole frame by its table; octets behind the last field are left alone.

    Raises RemoteProtocolError for an unknown command or a cut field.
    """
    length, command_id, sequence = parse_header(frame)
    if length != len(frame):
        raise RemoteProtocolError(f"Total_Length {length} over {len(frame)} octets")
    known = PDUS[layout].get(command_id)
    if known is None:
        raise RemoteProtocolError(f"unknown Command_Id {command_id:#010x}")
    pdu = Pdu(command_id, sequence)
    position = HEADER_SIZE
    for row in known[1]:
        pdu.fields[row.name], position = _parse_field(row, frame, position)
    return pdu


def _parse_field(row: Field, frame: bytes, position: int) -> tuple[Value, int]:
    if row.kind is Kind.FLAG:
        return (frame[position] if position < len(frame) else 0), position + 1
    count = 1
    if row.kind in (Kind.NUMBERS, Kind.CONTENT):
        if position >= len(frame):
            raise RemoteProtocolError(f"the PDU ends before {row.name}")
        count = frame[position]
        position += 1
    size = 4 if row.kind is Kind.U32 else row.length * count
    stop = position + size
    if stop > len(frame):
        raise RemoteProtocolError(f"the PDU ends inside {row.name}")
    octets = frame[position:stop]
    if row.kind in (Kind.U8, Kind.U32):
        return int.from_bytes(octets, "big"), stop
    if row.kind is Kind.TEXT:
        return unpad(octets), stop
    if row.kind is Kind.NUMBERS:
        starts = range(0, size, row.length)
        return [unpad(octets[start : start + row.length]) for start in starts], stop
    return octets, stop


def unpad(octets: bytes) -> str:
    """A padded field as text: up to its first NUL, blanks at the ends dropped."""
    return octets.partition(b"\0")[0].decode("latin-1").strip(" ")


def pad(text: str, length: int) -> bytes:
    """A text as a padded field; ValueError when it is too long or not Latin-1."""
    octets = text.encode("latin-1")
    if len(octets) > length:
        raise ValueError(f"at most {length} octets")
    return octets.ljust(length, b"\0")


def build_pdu(
    command_id: int, sequence: int, fields: Mapping[str, Value] | None, layout: Layout
) -> bytes:
    """Build one whole PDU by its table.

    Fields left out are empty or 0. Raises ValueError when a field does not fit its row.
    """
    rows = PDUS[layout][command_id][1]
    body = b"".join(_build_field(row, (fields or {}).get(row.name)) for row in rows)
    return pack_header(HEADER_SIZE + len(body), command_id, sequence) + body


def _build_field(row: Field, value: Value | None) -> bytes:
    if row.kind in (Kind.U8, Kind.U32, Kind.FLAG):
        number = value if isinstance(value, int) else 0
        return number.to_bytes(4 if row.kind is Kind.U32 else 1, "big")
    if row.kind is Kind.NUMBERS:
        numbers = value if isinstance(value, list) else []
        return bytes((len(numbers),)) + b"".join(pad(one, row.length) for one in numbers)
    if row.kind is Kind.TEXT:
        return pad(value if isinstance(value, str) else "", row.length)
    octets = value if isinstance(value, bytes) else b""
    if row.kind is Kind.CONTENT:
        return bytes((len(octets),)) + octets
    if len(octets) > row.length:
        raise ValueError(f"{row.name} holds {row.length} octets")
    return octets.ljust(row.length, b"\0")


# Of a DELIVER: Msg_Id, Dest_Id, TP_udhi, Msg_Fmt, Src_terminal_Id, Registered_Delivery, Msg_Content
Deliver = tuple[bytes, bytes, int, int, bytes, int, bytes]
_DELIVERS: Mapping[Layout, struct.Struct] = {
    Layout.V2: struct.Struct(">8s21s10xxBB21sBB"),
    Layout.V3: struct.Struct(">8s21s10xxBB32sxBB"),
}


def parse_deliver(frame: bytes, layout: Layout) -> Deliver:
    """The fields that matter of a DELIVER frame; RemoteProtocolError when cut.

    What stands behind the content may be missing or anything: nobody needs it.
    """
    row = _DELIVERS[layout]
    start = HEADER_SIZE + row.size
    if start > len(frame):
        raise RemoteProtocolError("the DELIVER is cut")
    *fields, count = row.unpack_from(frame, HEADER_SIZE)
    stop = start + count
    if stop > len(frame):
        raise RemoteProtocolError("the DELIVER ends inside Msg_Content")
    msg_id, dest_id, udhi, fmt, source, registered = fields
    return msg_id, dest_id, udhi, fmt, source, registered, frame[start:stop]


@dataclass(frozen=True, slots=True)
class SubmitLook:
    """What every SUBMIT of a channel has in common, by the standard's names."""

    msg_src: str
    service_id: str = ""
    fee_user_type: int = 2
    fee_terminal_id: str = ""
    fee_type: str = "01"
    fee_code: str = "000000"
    msg_level: int = 0
    tp_pid: int = 0
    has_pk: bool = True  # Pk_total and Pk_number say what the header in the content says
    has_valid_time: bool = False
    content_maximum: int = CONTENT_MAXIMUM  # octets of Msg_Fmt 0, more where the carrier says so


_UCS2 = Encoding.UCS2  # as a global for the path: a call in Python 3.11
_COUNTS: Mapping[Layout, tuple[bytes, ...]] = {
    Layout.V2: tuple(bytes((count,)) for count in range(256)),
    Layout.V3: tuple(bytes((0, count)) for count in range(256)),  # Dest_terminal_type: a number
}
_HEADS_MAXIMUM = 4096


class SubmitTemplate:
    """Packs SUBMIT from parts that hardly change: a head per sender, segment and encoding.

        header 12 │ head: Msg_Id … Src_Id, DestUsr_tl 1 │ number │ Msg_Length │ content │ tail

    One destination each: with n numbers one bad one refuses all, and carriers differ in how the
    reports name them. `number_of` turns E.164 digits into what the carrier wants to see.
    """

    __slots__ = ("_counts", "_fixed", "_heads", "_layout", "_look", "_number_of", "_tail", "_width")

    def __init__(
        self,
        look: SubmitLook,
        layout: Layout,
        number_of: Callable[[str], str] | None = None,
    ) -> None:
        self._look = look
        self._layout = layout
        self._number_of = number_of
        self._heads: dict[tuple[str, int, int, bool, int, float], bytes] = {}
        is_v3 = layout is Layout.V3
        self._width = 32 if is_v3 else 21
        self._counts = _COUNTS[layout]
        self._tail = bytes(20 if is_v3 else 8)
        self._fixed = HEADER_SIZE + self._width + len(self._counts[0]) + len(self._tail)

    def build_into(self, out: list[bytes], sequence: int, submit: Submit) -> None:
        """Append one SUBMIT to `out`, in pieces, so that a burst is joined once.

        Raises ValueError, with `out` as it was, when sender, number or content does not fit.
        """
        fmt, content = CODING_UCS2, submit.payload
        if submit.encoding is not _UCS2:
            fmt, content = content_of(submit, self._look.content_maximum)
        count = len(content)
        if count > CONTENT_MAXIMUM and fmt:
            raise ValueError(f"{count} octets of content")
        # In whole minutes, as it is written: a head is built once for all that end with them.
        until = -(-submit.message.valid_until // 60) * 60 if self._look.has_valid_time else 0.0
        key = (submit.sender, submit.total, submit.segment, submit.has_udh, fmt, until)
        head = self._heads.get(key) or self._head(key)
        number = submit.number
        if self._number_of is not None:
            number = self._number_of(number)
        digits, width = number.encode("ascii"), self._width
        if len(digits) > width:
            raise ValueError(f"number over {width} octets")
        header = pack_header(self._fixed + len(head) + count, SUBMIT, sequence)
        out += (header, head, digits.ljust(width, b"\0"), self._counts[count], content, self._tail)

    def _head(self, key: tuple[str, int, int, bool, int, float]) -> bytes:
        sender, total, segment, has_udh, fmt, until = key
        look, width = self._look, self._width
        is_v3 = self._layout is Layout.V3
        pk = (total, segment + 1) if look.has_pk else (1, 1)
        head = b"".join(
            (
                bytes(ID_SIZE),
                bytes((*pk, 1, look.msg_level)),
                pad(look.service_id, 10),
                bytes((look.fee_user_type,)),
                pad(look.fee_terminal_id, width),
                b"\0" if is_v3 else b"",  # Fee_terminal_type: a real number
                bytes((look.tp_pid, int(has_udh), fmt)),
                pad(look.msg_src, 6),
                pad(look.fee_type, 2),
                pad(look.fee_code, 6),
                pad(absolute_time(until) if until else "", 17),
                bytes(17),  # At_Time: at once
                pad(sender, 21),
                b"\x01",
            )
        )
        if len(self._heads) >= _HEADS_MAXIMUM:
            self._heads.clear()
        self._heads[key] = head
        return head
