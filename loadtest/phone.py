"""A text that a phone sends through a simulated SMPP carrier: a request, checked, and its PDUs.

{"from": "+8613800138000", "to": "10690001", "text": "TD"}
{"from": …, "to": …, "text": a long one, "long": "udh16", "reference": 7, "only": [1, 3]}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.smpp import pdu
from adapters.wire import build_tlvs
from sms.model import Encoding
from sms.segmentation import Segmentation, payload, segment

FORMS = ("udh8", "udh16", "sar", "payload")
_MAX_TEXT = 10_000
_MAX_SEGMENTS = 255


@dataclass(frozen=True, slots=True)
class PhoneText:
    """What a phone sends; `long` is how its segments say that they belong together."""

    number: str
    to: str
    text: str
    long: str = "udh8"
    reference: int = 1
    only: tuple[int, ...] = ()  # the segments to send, in this order; empty = all


def parse_phone_text(raw: object) -> PhoneText | list[tuple[str, str]]:
    """The request, or everything wrong with it: (JSON pointer, detail)."""
    if not isinstance(raw, Mapping):
        return [("", "give a JSON object")]
    wrong = [(f"/{name}", _UNKNOWN) for name in raw if name not in _CHECKS]
    wrong += [(f"/{name}", "is missing") for name in ("from", "to", "text") if name not in raw]
    wrong += [
        (f"/{name}", detail)
        for name, (is_good, detail) in _CHECKS.items()
        if name in raw and not is_good(raw[name])
    ]
    if wrong:
        return wrong
    return PhoneText(
        raw["from"].lstrip("+"),
        raw["to"].lstrip("+"),
        raw["text"],
        raw.get("long", "udh8"),
        raw.get("reference", 1),
        tuple(raw.get("only", ())),
    )


def _is_number(value: Any) -> bool:  # noqa: ANN401 – straight from JSON
    return isinstance(value, str) and 1 <= len(value.lstrip("+")) <= 20 and value.isascii()


def _is_only(value: Any) -> bool:  # noqa: ANN401 – straight from JSON
    return isinstance(value, list) and all(type(n) is int and 1 <= n <= 255 for n in value)


_CHECKS: dict[str, tuple[Any, str]] = {
    "from": (_is_number, "give a number as text, such as +8613800138000"),
    "to": (_is_number, "give the access number as text, such as 10690001"),
    "text": (
        lambda value: isinstance(value, str) and len(value) <= _MAX_TEXT,
        f"give text of at most {_MAX_TEXT} characters",
    ),
    "long": (lambda value: value in FORMS, f"give one of {', '.join(FORMS)}"),
    "reference": (
        lambda value: type(value) is int and 0 <= value <= 0xFFFF,
        "give a whole number from 0 to 65535",
    ),
    "only": (_is_only, "give a list of segment numbers, counted from 1"),
}
_UNKNOWN = f"is unknown; known: {', '.join(_CHECKS)}"


def deliveries(text: PhoneText) -> list[bytes]:
    """The bodies of its deliver_sm, one for each segment that is to be sent."""
    cut = segment(text.text, max_segments=_MAX_SEGMENTS)
    if not isinstance(cut, Segmentation):
        raise ValueError("more segments than a long text can have")
    total = len(cut.texts)
    wanted = [number for number in text.only or range(1, total + 1) if number <= total]
    if text.long == "payload" or total == 1:
        whole, _ = payload((text.text,), 0, cut.encoding, 0)
        return [_delivery(text, cut.encoding, whole, is_in_tlv=text.long == "payload")]
    bodies = []
    for number in wanted:
        alone, _ = payload((cut.texts[number - 1],), 0, cut.encoding, 0)
        if text.long == "udh8":
            header = bytes((5, 0, 3, text.reference & 0xFF, total, number))
            bodies.append(_delivery(text, cut.encoding, header + alone, has_udh=True))
        elif text.long == "udh16":
            header = bytes((6, 8, 4, *text.reference.to_bytes(2, "big"), total, number))
            bodies.append(_delivery(text, cut.encoding, header + alone, has_udh=True))
        else:
            tlvs = [
                (pdu.TLV_SAR_REFERENCE, text.reference.to_bytes(2, "big")),
                (pdu.TLV_SAR_TOTAL, bytes((total,))),
                (pdu.TLV_SAR_NUMBER, bytes((number,))),
            ]
            bodies.append(_delivery(text, cut.encoding, alone, tlvs=tlvs))
    return bodies


def _delivery(
    text: PhoneText,
    encoding: Encoding,
    data: bytes,
    *,
    has_udh: bool = False,
    is_in_tlv: bool = False,
    tlvs: list[tuple[int, bytes]] | None = None,
) -> bytes:
    """Fields in the order of the standard (SMPP 3.4, 4.6.1)."""
    coding = 8 if encoding is Encoding.UCS2 else 0
    short = b"" if is_in_tlv else data
    extra = [(pdu.TLV_MESSAGE_PAYLOAD, data)] if is_in_tlv else tlvs or []
    return b"".join(
        (
            b"\0\1\1" + text.number.encode() + b"\0",
            b"\0\0" + text.to.encode() + b"\0",
            bytes((pdu.ESM_UDHI if has_udh else 0, 0, 0, 0, 0, 0, 0, coding, 0, len(short))),
            short,
            build_tlvs(extra),
        )
    )
