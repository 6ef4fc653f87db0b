"""Our submits, packed from parts that hardly change: as submit_sm, or as data_sm.

Tests hold what is built here equal to the tables of `adapters.smpp.pdu`. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adapters.smpp.pdu import (
    DATA_SM,
    ESM_UDHI,
    SUBMIT_SM,
    TLV_MESSAGE_PAYLOAD,
    TLV_QOS_TIME_TO_LIVE,
    TLV_SAR_NUMBER,
    TLV_SAR_REFERENCE,
    TLV_SAR_TOTAL,
    TLV_USER_MESSAGE_REFERENCE,
    TON_ALPHANUMERIC,
    TON_SHORT_CODE,
    pack_header,
)
from adapters.wire import build_cstring, build_tlvs
from sms.model import Encoding, Submit

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
    is_payload: bool = False  # long texts whole, in message_payload
    is_data: bool = False  # data_sm instead of submit_sm
    has_reference: bool = False  # user_message_reference: the sequence number's low 16 bits


def source_ton(look: SubmitLook, sender: str) -> int:
    """The type of number of a sender."""
    if look.source_addr_ton is not None:
        return look.source_addr_ton
    return TON_SHORT_CODE if sender.isdigit() else TON_ALPHANUMERIC


class SubmitTemplate:
    """Packs submit_sm from parts that hardly change: a head per sender, a tail per look.

        header 16 │ head: service_type … sender … dest ton npi │ number NUL │
        tail: esm_class … sm_default_msg_id │ sm_length │ short_message

    0.6 µs a PDU against 6 from the table. `number_of` turns E.164 digits into what the
    carrier wants to see.
    """

    __slots__ = ("_has_reference", "_heads", "_look", "_number_of", "_tails")

    def __init__(self, look: SubmitLook, number_of: Callable[[str], str] | None = None) -> None:
        self._look = look
        self._has_reference = look.has_reference
        self._number_of = number_of
        self._heads: dict[str, bytes] = {}
        self._tails: dict[int, bytes] = {}

    def build_into(self, out: list[bytes], sequence: int, submit: Submit) -> None:
        """Append one submit_sm to `out`, in pieces, so that a burst is joined once.

        A text that leaves whole goes as message_payload. Raises ValueError, with `out` as it was,
        when sender, number or payload does not fit.
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
        if submit.parts:
            payload, tlvs = b"", build_tlvs([(TLV_MESSAGE_PAYLOAD, payload)])
        elif submit.has_udh and self._look.is_sar:
            payload, tlvs = _as_sar(payload)
        if self._has_reference:
            tlvs += _reference(sequence)
        count = len(payload)
        if len(digits) > 20 or count > 254:
            raise ValueError("number over 20 or payload over 254 octets")
        size = 17 + len(head) + len(digits) + len(tail) + count + len(tlvs)
        header = pack_header(size, SUBMIT_SM, 0, sequence)
        out += (header, head, digits, tail, _COUNTS[count], payload, tlvs)

    def _head(self, sender: str) -> bytes:
        look = self._look
        ton = source_ton(look, sender)
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


class DataTemplate(SubmitTemplate):
    """Packs data_sm, for carriers that want it (SMPP 3.4 section 4.7.1).

        header 16 │ head: as submit_sm's │ number NUL │ esm_class registered_delivery data_coding │
        TLVs: the place in a long text, qos_time_to_live, message_payload

    It has no validity_period: qos_time_to_live says the same.
    """

    __slots__ = ()

    def build_into(self, out: list[bytes], sequence: int, submit: Submit) -> None:
        """As `SubmitTemplate.build_into`."""
        look = self._look
        head = self._heads.get(submit.sender) or self._head(submit.sender)
        number = submit.number
        if self._number_of is not None:
            number = self._number_of(number)
        digits, payload, place = number.encode("ascii"), submit.payload, b""
        if submit.has_udh and look.is_sar:
            payload, place = _as_sar(payload)
        if len(digits) > 64 or len(payload) > 0xFFFF:
            raise ValueError("number over 64 or payload over 65,535 octets")
        is_ucs2 = submit.encoding is _UCS2
        fields = bytes(
            (
                0,  # the end of destination_addr
                ESM_UDHI if submit.has_udh and not look.is_sar else 0,
                look.registered_delivery,
                look.ucs2_data_coding if is_ucs2 else look.gsm7_data_coding,
            )
        )
        tlvs = [(TLV_MESSAGE_PAYLOAD, payload)]
        if look.has_validity:
            tlvs.insert(0, (TLV_QOS_TIME_TO_LIVE, submit.validity_s.to_bytes(4, "big")))
        tail = place + build_tlvs(tlvs)
        if self._has_reference:
            tail = _reference(sequence) + tail
        size = 16 + len(head) + len(digits) + len(fields) + len(tail)
        out += (pack_header(size, DATA_SM, 0, sequence), head, digits, fields, tail)


def _reference(sequence: int) -> bytes:
    """user_message_reference (SMPP 3.4, 5.3.2.17)."""
    return build_tlvs([(TLV_USER_MESSAGE_REFERENCE, (sequence & 0xFFFF).to_bytes(2, "big"))])


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
