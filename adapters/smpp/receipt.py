"""What a deliver_sm holds: a status report in text and TLV form, or a text from a phone.

The report's text (SMPP 3.4 appendix B) is a habit, not a standard:

    id:… sub:SSS dlvrd:DDD submit date:YYMMDDhhmm done date:YYMMDDhhmm stat:DDDDDDD err:E text:…

so it is read by key names, any case, any of them absent but id and stat; each may come as a TLV
instead. The TLV's id wins (it is machine-made) unless the channel says how the text's is written,
the text's state word wins (it says more).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from adapters.smpp.alphabet import CODING_UCS2, Alphabet, text_of
from adapters.smpp.pdu import (
    ESM_UDHI,
    HEADER_SIZE,
    TLV_MESSAGE_PAYLOAD,
    TLV_MESSAGE_STATE,
    TLV_NETWORK_ERROR_CODE,
    TLV_RECEIPTED_MESSAGE_ID,
    TLV_SAR_NUMBER,
    TLV_SAR_REFERENCE,
    TLV_SAR_TOTAL,
    TLV_USER_MESSAGE_REFERENCE,
    Short,
)
from adapters.smpp.settings import IdMatch
from adapters.wire import parse_tlvs
from sms.concatenation import mark_of, split_header, whole
from sms.model import SegmentMark

TON_INTERNATIONAL: Final = 1

# The usual report as a whole deliver_sm frame, read in one match over its Latin-1 text (1.1 µs
# with its TLV, against 2.6 in steps): source_addr, sm_length, id, stat, err. Whatever does not
# fit it goes to the patient parser.
_USUAL = re.compile(
    r"[^\0]{0,64}\0..\+?([^\0]{0,64})\0..[^\0]{0,64}\0\x04..[^\0]{0,64}\0[^\0]{0,64}\0..\0.(.)"
    r"id:([!-~]{1,64}) sub:[!-~]{0,4} dlvrd:[!-~]{0,4} submit date:[!-~]{0,14}"
    r" done date:[!-~]{0,14} stat:([!-~]{1,20}) err:([!-~]{0,8})(?=[ \r\n]|\Z)",
    re.DOTALL,
).match
_KEYS = re.compile(r"(?:^|[\s,;])(id|stat|err)\s*:\s*([^\s,;]*)", re.IGNORECASE)
_ID_TLV_HEAD = "\x00\x1e\x00"

# (id, state word or number, error); "" when absent
Parsed = tuple[str, str, str]


def parse_usual_receipt(
    frame: bytes, *, is_text_first: bool = False
) -> tuple[str, str, str, str] | None:
    """Read a deliver_sm that is a report in its usual form: (number, id, state, error).

    `is_text_first`: the text's id counts, not the TLV's.
    None says only that the patient way (`parse_short`, `parse_receipt`) must look.
    """
    text = frame.decode("latin-1")
    found = _USUAL(text, HEADER_SIZE)
    if found is None:
        return None
    number, count, carrier_id, state, error = found.groups()
    tlvs = found.end(2) + ord(count)
    if found.end() > tlvs:
        return None
    if tlvs < len(frame):
        if tlvs + 4 > len(frame) or not text.startswith(_ID_TLV_HEAD, tlvs):
            return None
        stop = tlvs + 4 + frame[tlvs + 3]
        if stop > len(frame) or stop > tlvs + 69:
            return None
        if not is_text_first:
            carrier_id = text[tlvs + 4 : stop].partition("\0")[0] or carrier_id
    return number, carrier_id, state, error


def parse_receipt(frame: bytes, short: Short, *, is_text_first: bool = False) -> Parsed | None:
    """Read a status report; None when neither text nor TLVs name an id and a state.

    `is_text_first`: the text's id counts where it has one, not the TLV's.
    """
    tlvs = parse_tlvs(frame, short[6])
    body = short[5] or next((value for tag, value in tlvs if tag == TLV_MESSAGE_PAYLOAD), b"")
    text = body.decode("utf-16-be" if short[4] == CODING_UCS2 else "latin-1", "replace")
    keys = {key.lower(): value for key, value in reversed(_KEYS.findall(text[:1024]))}
    parsed = _merge(
        (
            keys.get("id", "").partition("\0")[0][:64],
            keys.get("stat", "")[:20],
            keys.get("err", "")[:8],
        ),
        tlvs,
        is_text_first,
    )
    return parsed if parsed[0] and parsed[1] else None


def echoed_reference(frame: bytes, short: Short) -> int | None:
    """The user_message_reference that a receipt echoes; None = it has none."""
    tlvs = parse_tlvs(frame, short[6])
    found = next((value for tag, value in tlvs if tag == TLV_USER_MESSAGE_REFERENCE), b"")
    return int.from_bytes(found, "big") if len(found) == 2 else None


def _merge(text: Parsed, tlvs: list[tuple[int, bytes]], is_text_first: bool) -> Parsed:
    carrier_id, state, error = text
    for tag, value in tlvs:
        if tag == TLV_RECEIPTED_MESSAGE_ID and not (is_text_first and carrier_id):
            carrier_id = value.partition(b"\0")[0][:64].decode("latin-1") or carrier_id
        elif tag == TLV_MESSAGE_STATE and not state and value:
            state = str(value[0])
        elif tag == TLV_NETWORK_ERROR_CODE and not error and len(value) == 3:
            error = str(int.from_bytes(value[1:], "big"))
    return carrier_id, state, error


def parse_text(
    frame: bytes, short: Short, alphabet: Alphabet = Alphabet.GSM7
) -> tuple[str, SegmentMark | None]:
    """The text of a deliver_sm from a phone without its user data header, and its place in a long
    one, told by that header or by the three SAR TLVs. `alphabet` is the carrier's own.
    """
    body, mark = short[5], None
    tlvs = dict(parse_tlvs(frame, short[6]))
    if not body:
        body = tlvs.get(TLV_MESSAGE_PAYLOAD, b"")
    if short[2] & ESM_UDHI:
        mark, body = split_header(body)
    elif TLV_SAR_REFERENCE in tlvs:
        mark = _sar_mark(tlvs)
    text = text_of(short[4], body, alphabet)
    return (text if mark is not None else whole(text)), mark


def is_international(frame: bytes) -> bool:
    """Whether a deliver_sm says that its sender is an international number (SMPP 3.4, 5.2.5)."""
    return frame[frame.index(0, HEADER_SIZE) + 1] == TON_INTERNATIONAL


def _sar_mark(tlvs: dict[int, bytes]) -> SegmentMark | None:
    """The place in a long text that the SAR TLVs tell; None unless each has a sensible width.

    SMPP 3.4, 5.3.2.22-24: 2, 1 and 1 octets; machines were seen that write all three with 2.
    """
    fields = [tlvs.get(tag, b"") for tag in (TLV_SAR_REFERENCE, TLV_SAR_TOTAL, TLV_SAR_NUMBER)]
    if not all(1 <= len(field) <= 2 for field in fields):
        return None
    reference, total, number = (int.from_bytes(field, "big") for field in fields)
    return mark_of(reference, total, number, 0)


def _plain_zeros(text: str) -> str:
    return text.lstrip("0") or text


def _from_hex(text: str) -> str:
    try:
        return str(int(text, 16))
    except ValueError:
        return text


def _from_decimal(text: str) -> str:
    """A decimal id, unless its letters say that it is hexadecimal: a TLV may have the answer's."""
    return _from_hex(text) if any(char in "abcdef" for char in text.lower()) else _plain_zeros(text)


# Where answer and report write an id in another radix, that is of the report's text: the TLV may
# hold the one or the other.
TEXT_FIRST: Final = frozenset({IdMatch.HEX_DECIMAL, IdMatch.DECIMAL_HEX})
# (how to write the id of an answer, how to write the id of a receipt) so that both are equal
_Form = Callable[[str], str] | None  # None = as it is
ID_FORMS: Final[dict[IdMatch, tuple[_Form, _Form]]] = {
    IdMatch.EXACT: (None, None),
    IdMatch.IGNORE_CASE: (str.lower, str.lower),
    IdMatch.IGNORE_ZEROS: (_plain_zeros, _plain_zeros),
    IdMatch.HEX_DECIMAL: (_from_hex, _from_decimal),
    IdMatch.DECIMAL_HEX: (_plain_zeros, _from_hex),
}
