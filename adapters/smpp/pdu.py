"""SMPP 3.4 PDUs as tables (name, kind, length); parsers and builders come from the tables.

Header, 16 octets, big-endian (SMPP 3.4 issue 1.2, section 3.2):

    command_length u32 │ command_id u32 │ command_status u32 │ sequence_number u32

A response has the request's command_id with the top bit set. `parse_pdu` and `build_pdu` serve
every PDU; `parse_short` here and `template.SubmitTemplate` are the same layout laid out flat for
the two PDUs that travel once per segment (0.7 µs against 6 µs; tests hold them equal to the
tables). No I/O, no clock.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from adapters.wire import build_cstring, build_tlvs, parse_cstring, parse_tlvs
from sms.errors import RemoteProtocolError

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
QUERY_SM_RESP = RESPONSE | QUERY_SM

ESME_ROK = 0x00
ESME_RINVCMDLEN = 0x02
ESME_RINVCMDID = 0x03
ESME_RINVBNDSTS = 0x04
ESME_RSYSERR = 0x08
ESME_RINVPASWD = 0x0E
ESME_RINVSYSID = 0x0F
ESME_RTHROTTLED = 0x58
ESME_RQUERYFAIL = 0x67
ESME_RX_T_APPN = 0x64

TLV_QOS_TIME_TO_LIVE = 0x0017
TLV_RECEIPTED_MESSAGE_ID = 0x001E
TLV_USER_MESSAGE_REFERENCE = 0x0204
TLV_SAR_REFERENCE = 0x020C
TLV_SAR_TOTAL = 0x020E
TLV_SAR_NUMBER = 0x020F
TLV_SC_INTERFACE_VERSION = 0x0210
TLV_NETWORK_ERROR_CODE = 0x0423
TLV_MESSAGE_PAYLOAD = 0x0424
TLV_MESSAGE_STATE = 0x0427
TLV_CONGESTION_STATE = 0x0428  # SMPP 5.0

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


_CONGESTION_STATE = b"\x04\x28\x00\x01"  # tag and length


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
