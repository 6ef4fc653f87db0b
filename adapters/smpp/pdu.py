"""SMPP 3.4 PDUs as tables (name, kind, length); parsers and builders come from the tables.

Header, 16 octets, big-endian (SMPP 3.4 issue 1.2, section 3.2):

    command_length u32 │ command_id u32 │ command_status u32 │ sequence_number u32

A response has the request's command_id with the top bit set. `parse_pdu` and `build_pdu` serve
every PDU; `parse_short` and `SubmitTemplate` are the same layout laid out flat for the two PDUs
that travel once per segment (0.7 µs against 6 µs; tests hold them equal to the tables). No I/O,
no clock.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from adapters.wire import build_cstring, build_tlvs, parse_cstring, parse_tlvs
from sms.errors import RemoteProtocolError
from sms.model import Encoding, Submit

HEADER_SIZE = 16
PDU_MAXIMUM = 64 * 1024
SEQUENCE_MAXIMUM = 0x7FFFFFFF
# Read more generously than we write: smscsim sends a service_type of 7 where 5 are allowed, others
# long alphanumeric addresses.
CSTRING_READ_MAXIMUM = 65

RESPONSE = 0x80000000
GENERIC_NACK = 0x80000000
BIND_RECEIVER = 0x00000001
BIND_TRANSMITTER = 0x00000002
QUERY_SM = 0x00000003
SUBMIT_SM = 0x00000004
DELIVER_SM = 0x00000005
UNBIND = 0x00000006
CANCEL_SM = 0x00000008
BIND_TRANSCEIVER = 0x00000009
OUTBIND = 0x0000000B
ENQUIRE_LINK = 0x00000015
ALERT_NOTIFICATION = 0x00000102
DATA_SM = 0x00000103
SUBMIT_SM_RESP = RESPONSE | SUBMIT_SM
DELIVER_SM_RESP = RESPONSE | DELIVER_SM
BIND_RECEIVER_RESP = RESPONSE | BIND_RECEIVER
BIND_TRANSMITTER_RESP = RESPONSE | BIND_TRANSMITTER
BIND_TRANSCEIVER_RESP = RESPONSE | BIND_TRANSCEIVER
ENQUIRE_LINK_RESP = RESPONSE | ENQUIRE_LINK
UNBIND_RESP = RESPONSE | UNBIND
DATA_SM_RESP = RESPONSE | DATA_SM

ESME_ROK = 0x00
ESME_RINVCMDLEN = 0x02
ESME_RINVCMDID = 0x03
ESME_RINVBNDSTS = 0x04
ESME_RSYSERR = 0x08
ESME_RINVPASWD = 0x0E
ESME_RINVSYSID = 0x0F
ESME_RTHROTTLED = 0x58
ESME_RX_T_APPN = 0x64

TLV_RECEIPTED_MESSAGE_ID = 0x001E
TLV_SAR_REFERENCE = 0x020C
TLV_SAR_TOTAL = 0x020E
TLV_SAR_NUMBER = 0x020F
TLV_SC_INTERFACE_VERSION = 0x0210
TLV_NETWORK_ERROR_CODE = 0x0423
TLV_MESSAGE_PAYLOAD = 0x0424
TLV_MESSAGE_STATE = 0x0427

TON_SHORT_CODE = 3
TON_ALPHANUMERIC = 5
ESM_UDHI = 0x40
ESM_TYPE = 0x3C
ESM_RECEIPT = 0x04

pack_header = struct.Struct(">IIII").pack
parse_header = struct.Struct(">IIII").unpack_from


class Kind(Enum):
    """How a mandatory field is laid out."""

    CSTRING = "NUL-terminated, at most `length` octets with the NUL"
    U8 = "one octet"
    COUNTED = "one octet of count, then that many octets, at most `length`"


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a PDU's table."""

    name: str
    kind: Kind
    length: int = 1


def _strings(*rows: tuple[str, int]) -> tuple[Field, ...]:
    return tuple(Field(name, Kind.CSTRING, length) for name, length in rows)


def _octets(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name, Kind.U8) for name in names)


def _address(side: str, field_name: str, length: int) -> tuple[Field, ...]:
    return (*_octets(f"{side}_addr_ton", f"{side}_addr_npi"), *_strings((field_name, length)))


_BIND = (
    *_strings(("system_id", 16), ("password", 9), ("system_type", 13)),
    *_octets("interface_version", "addr_ton", "addr_npi"),
    *_strings(("address_range", 41)),
)
_BIND_RESP = _strings(("system_id", 16))
_MESSAGE_ID = _strings(("message_id", 65))
_SHORT = (
    *_strings(("service_type", 6)),
    *_address("source", "source_addr", 21),
    *_address("dest", "destination_addr", 21),
    *_octets("esm_class", "protocol_id", "priority_flag"),
    *_strings(("schedule_delivery_time", 17), ("validity_period", 17)),
    *_octets("registered_delivery", "replace_if_present_flag", "data_coding", "sm_default_msg_id"),
    Field("short_message", Kind.COUNTED, 254),
)
_DATA = (
    *_strings(("service_type", 6)),
    *_address("source", "source_addr", 65),
    *_address("dest", "destination_addr", 65),
    *_octets("esm_class", "registered_delivery", "data_coding"),
)

# command_id → (name, mandatory fields): SMPP 3.4 section 4
PDUS: Mapping[int, tuple[str, tuple[Field, ...]]] = {
    GENERIC_NACK: ("generic_nack", ()),
    BIND_RECEIVER: ("bind_receiver", _BIND),
    RESPONSE | BIND_RECEIVER: ("bind_receiver_resp", _BIND_RESP),
    BIND_TRANSMITTER: ("bind_transmitter", _BIND),
    RESPONSE | BIND_TRANSMITTER: ("bind_transmitter_resp", _BIND_RESP),
    QUERY_SM: ("query_sm", (*_MESSAGE_ID, *_address("source", "source_addr", 21))),
    RESPONSE | QUERY_SM: (
        "query_sm_resp",
        (*_MESSAGE_ID, *_strings(("final_date", 17)), *_octets("message_state", "error_code")),
    ),
    SUBMIT_SM: ("submit_sm", _SHORT),
    SUBMIT_SM_RESP: ("submit_sm_resp", _MESSAGE_ID),
    DELIVER_SM: ("deliver_sm", _SHORT),
    DELIVER_SM_RESP: ("deliver_sm_resp", _MESSAGE_ID),
    UNBIND: ("unbind", ()),
    UNBIND_RESP: ("unbind_resp", ()),
    CANCEL_SM: (
        "cancel_sm",
        (
            *_strings(("service_type", 6)),
            *_MESSAGE_ID,
            *_address("source", "source_addr", 21),
            *_address("dest", "destination_addr", 21),
        ),
    ),
    RESPONSE | CANCEL_SM: ("cancel_sm_resp", ()),
    BIND_TRANSCEIVER: ("bind_transceiver", _BIND),
    BIND_TRANSCEIVER_RESP: ("bind_transceiver_resp", _BIND_RESP),
    OUTBIND: ("outbind", _strings(("system_id", 16), ("password", 9))),
    ENQUIRE_LINK: ("enquire_link", ()),
    ENQUIRE_LINK_RESP: ("enquire_link_resp", ()),
    ALERT_NOTIFICATION: (
        "alert_notification",
        (*_address("source", "source_addr", 65), *_address("esme", "esme_addr", 65)),
    ),
    DATA_SM: ("data_sm", _DATA),
    DATA_SM_RESP: ("data_sm_resp", _MESSAGE_ID),
}


@dataclass(slots=True)  # not frozen: codec value (HOUSE section 4)
class Pdu:
    """One parsed PDU; `fields` holds str, int or (short_message) bytes by the table's names."""

    command_id: int
    status: int
    sequence: int
    fields: dict[str, str | int | bytes] = field(default_factory=dict)
    tlvs: list[tuple[int, bytes]] = field(default_factory=list)

    def text(self, name: str) -> str:
        """A string field, "" when the body was left out."""
        value = self.fields.get(name, "")
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        """An integer field, 0 when the body was left out."""
        value = self.fields.get(name, 0)
        return value if isinstance(value, int) else 0

    def octets(self, name: str) -> bytes:
        """A counted field, empty when the body was left out."""
        value = self.fields.get(name, b"")
        return value if isinstance(value, bytes) else b""

    def tlv(self, tag: int) -> bytes | None:
        """The first optional parameter with this tag."""
        return next((value for found, value in self.tlvs if found == tag), None)


def parse_pdu(frame: bytes) -> Pdu:
    """Parse one whole frame by its table.

    A response may come without its body (an error answer often does). Raises
    RemoteProtocolError for an unknown command, a request without body or a cut field.
    """
    length, command_id, status, sequence = parse_header(frame)
    if length != len(frame):
        raise RemoteProtocolError(f"command_length {length} over {len(frame)} octets")
    known = PDUS.get(command_id)
    if known is None:
        raise RemoteProtocolError(f"unknown command_id {command_id:#010x}")
    pdu = Pdu(command_id, status, sequence)
    if length == HEADER_SIZE and command_id & RESPONSE:
        return pdu
    position = HEADER_SIZE
    for row in known[1]:
        value, position = _parse_field(row, frame, position)
        pdu.fields[row.name] = value
    pdu.tlvs = parse_tlvs(frame, position)
    return pdu


def _parse_field(row: Field, frame: bytes, position: int) -> tuple[str | int | bytes, int]:
    if row.kind is Kind.CSTRING:
        octets, after = parse_cstring(frame, position, max(row.length, CSTRING_READ_MAXIMUM))
        return octets.decode("latin-1"), after
    if position >= len(frame):
        raise RemoteProtocolError(f"the PDU ends before {row.name}")
    value = frame[position]
    if row.kind is Kind.U8:
        return value, position + 1
    after = position + 1 + value
    if after > len(frame):
        raise RemoteProtocolError(f"the PDU ends inside {row.name}")
    return frame[position + 1 : after], after


def build_pdu(
    command_id: int,
    sequence: int,
    fields: Mapping[str, str | int | bytes] | None = None,
    *,
    status: int = ESME_ROK,
    tlvs: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """Build one whole PDU by its table.

    Fields left out are empty or 0; `fields=None` on a response with a status leaves the whole
    body out. Raises ValueError when a field does not fit its row.
    """
    rows = PDUS[command_id][1]
    parts: list[bytes] = []
    if fields is not None or not (command_id & RESPONSE and status):
        parts = [_build_field(row, (fields or {}).get(row.name)) for row in rows]
    body = b"".join(parts) + build_tlvs(list(tlvs))
    return pack_header(HEADER_SIZE + len(body), command_id, status, sequence) + body


def _build_field(row: Field, value: str | int | bytes | None) -> bytes:
    if isinstance(value, str):
        value = value.encode("latin-1")
    if row.kind is Kind.CSTRING:
        return build_cstring(value if isinstance(value, bytes) else b"", row.length)
    if row.kind is Kind.U8:
        return bytes((value if isinstance(value, int) else 0,))
    octets = value if isinstance(value, bytes) else b""
    if len(octets) > row.length:
        raise ValueError(f"{row.name} holds at most {row.length} octets")
    return bytes((len(octets),)) + octets


# The mandatory part of submit_sm and deliver_sm in one match, strings up to CSTRING_READ_MAXIMUM.
_SHORT_LAYOUT = re.compile(
    rb"[^\0]{0,64}\0..([^\0]{0,64})\0..([^\0]{0,64})\0(.)..[^\0]{0,64}\0[^\0]{0,64}\0(.).(.).(.)",
    re.DOTALL,
).match

# (source_addr, destination_addr, esm_class, registered_delivery, data_coding, short_message,
# position of the TLVs)
Short = tuple[bytes, bytes, int, int, int, bytes, int]


def parse_short(frame: bytes) -> Short:
    """The fields that matter of a submit_sm or deliver_sm frame; RemoteProtocolError when cut."""
    found = _SHORT_LAYOUT(frame, HEADER_SIZE)
    if found is None:
        raise RemoteProtocolError("the mandatory part of a short message is cut")
    source, destination, esm_class, registered, data_coding, count = found.groups()
    start = found.end()
    stop = start + count[0]
    if stop > len(frame):
        raise RemoteProtocolError("the PDU ends inside short_message")
    return (
        source,
        destination,
        esm_class[0],
        registered[0],
        data_coding[0],
        frame[start:stop],
        stop,
    )


_UCS2 = Encoding.UCS2  # as a global for the path: a call in Python 3.11
_COUNTS = tuple(bytes((count,)) for count in range(256))
_HEADS_MAXIMUM = 4096
_TAILS_MAXIMUM = 4096


@dataclass(frozen=True, slots=True)
class SubmitLook:
    """What every submit_sm of a channel has in common, by the standard's names."""

    service_type: str = ""
    source_addr_ton: int | None = None  # None: 3 for a sender of digits (short code), else 5
    source_addr_npi: int = 0
    dest_addr_ton: int = 1
    dest_addr_npi: int = 1
    gsm7_data_coding: int = 0
    ucs2_data_coding: int = 8
    registered_delivery: int = 1
    has_validity: bool = True
    is_sar: bool = False  # long texts by SAR TLVs instead of a header in the user data


class SubmitTemplate:
    """Packs submit_sm from parts that hardly change: a head per sender, a tail per look.

        header 16 │ head: service_type … sender … dest ton npi │ number NUL │
        tail: esm_class … sm_default_msg_id │ sm_length │ short_message

    0.6 µs a PDU against 6 from the table. `number_of` turns E.164 digits into what the
    carrier wants to see.
    """

    __slots__ = ("_heads", "_look", "_number_of", "_tails")

    def __init__(self, look: SubmitLook, number_of: Callable[[str], str] | None = None) -> None:
        self._look = look
        self._number_of = number_of
        self._heads: dict[str, bytes] = {}
        self._tails: dict[int, bytes] = {}

    def build_into(self, out: list[bytes], sequence: int, submit: Submit) -> None:
        """Append one submit_sm to `out`, in pieces, so that a burst is joined once.

        Raises ValueError, with `out` as it was, when sender, number or payload does not fit.
        """
        head = self._heads.get(submit.sender) or self._head(submit.sender)
        key = submit.validity_s * 4 + submit.has_udh
        if submit.encoding is _UCS2:
            key += 2
        tail = self._tails.get(key) or self._tail(key)
        number = submit.number
        if self._number_of is not None:
            number = self._number_of(number)
        digits, payload, tlvs = number.encode("ascii"), submit.payload, b""
        if submit.has_udh and self._look.is_sar:
            payload, tlvs = _as_sar(payload)
        count = len(payload)
        if len(digits) > 20 or count > 254:
            raise ValueError("number over 20 or payload over 254 octets")
        size = 17 + len(head) + len(digits) + len(tail) + count + len(tlvs)
        header = pack_header(size, SUBMIT_SM, 0, sequence)
        out += (header, head, digits, tail, _COUNTS[count], payload, tlvs)

    def _head(self, sender: str) -> bytes:
        look = self._look
        ton = look.source_addr_ton
        if ton is None:
            ton = TON_SHORT_CODE if sender.isdigit() else TON_ALPHANUMERIC
        head = b"".join(
            (
                build_cstring(look.service_type.encode("ascii"), 6),
                bytes((ton, look.source_addr_npi)),
                build_cstring(sender.encode("ascii"), 21),
                bytes((look.dest_addr_ton, look.dest_addr_npi)),
            )
        )
        if len(self._heads) >= _HEADS_MAXIMUM:
            self._heads.clear()
        self._heads[sender] = head
        return head

    def _tail(self, key: int) -> bytes:
        look = self._look
        validity = relative_time(key // 4) if look.has_validity else ""
        tail = b"".join(
            (
                b"\0",  # the end of destination_addr
                bytes((ESM_UDHI if key & 1 and not look.is_sar else 0, 0, 0)),
                b"\0",  # schedule_delivery_time: at once
                build_cstring(validity.encode("ascii"), 17),
                bytes((look.registered_delivery, 0)),
                bytes((look.ucs2_data_coding if key & 2 else look.gsm7_data_coding, 0)),
            )
        )
        if len(self._tails) >= _TAILS_MAXIMUM:
            self._tails.clear()
        self._tails[key] = tail
        return tail


def _as_sar(payload: bytes) -> tuple[bytes, bytes]:
    """User data without its header, and what the header said as TLVs (SMPP 3.4, 5.3.2.22-24)."""
    stop = 1 + payload[0]
    reference, total, number = payload[3 : stop - 2], payload[stop - 2], payload[stop - 1]
    tlvs = [
        (TLV_SAR_REFERENCE, reference.rjust(2, b"\0")),
        (TLV_SAR_TOTAL, bytes((total,))),
        (TLV_SAR_NUMBER, bytes((number,))),
    ]
    return payload[stop:], build_tlvs(tlvs)


def relative_time(seconds: int) -> str:
    """`YYMMDDhhmmss000R` (SMPP 3.4 section 7.1.1), months of 30 days; at least one second."""
    days, rest = divmod(max(1, seconds), 86400)
    months, days = divmod(days, 30)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    years, months = divmod(min(months, 99 * 12), 12)
    return f"{years:02}{months:02}{days:02}{hours:02}{minutes:02}{left:02}000R"


_CONGESTION_STATE = b"\x04\x28\x00\x01"  # tag and length, of SMPP 5.0


def congestion_of(frame: bytes, position: int) -> int:
    """congestion_state, 0 to 100, among the TLVs from `position`; 0 when it is not there.

    A hint: what cannot be read as TLVs says nothing, and its answer counts all the same.
    """
    size = len(frame)
    while position + 4 <= size:
        if frame.startswith(_CONGESTION_STATE, position) and position + 5 <= size:
            return min(frame[position + 4], 100)
        position += 4 + int.from_bytes(frame[position + 2 : position + 4], "big")
    return 0
