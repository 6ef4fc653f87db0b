"""A text that a phone sends through a simulated carrier: a request, checked, cut into segments.

{"from": "+8613800138000", "to": "10690001", "text": "TD"}
{"from": …, "to": …, "text": a long one, "long": "udh16", "reference": 7, "only": [1, 3]}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.server import OwedText
from sms.model import Encoding, SegmentMark
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


def deliveries(text: PhoneText) -> list[OwedText]:
    """Its segments that are to be sent, in the order asked for; their ids are the carrier's."""
    cut = segment(text.text, max_segments=_MAX_SEGMENTS, is_wide=text.long == "udh16")
    if not isinstance(cut, Segmentation):
        raise ValueError("more segments than a long text can have")
    total = len(cut.texts)
    if text.long == "payload" or total == 1:
        data, _ = payload((text.text,), 0, cut.encoding, 0)
        return [_owed(text, cut.encoding, data, is_payload=text.long == "payload")]
    owed = []
    for number in text.only or range(1, total + 1):
        if number > total:
            continue
        data, _ = payload((cut.texts[number - 1],), 0, cut.encoding, 0)
        if text.long == "sar":
            mark = SegmentMark(text.reference, total, number, 0)
            owed.append(_owed(text, cut.encoding, data, mark=mark))
        else:
            wide = text.reference.to_bytes(2, "big")
            head = (6, 8, 4, *wide) if text.long == "udh16" else (5, 0, 3, wide[1])
            owed.append(_owed(text, cut.encoding, data, header=bytes((*head, total, number))))
    return owed


def _owed(
    text: PhoneText,
    encoding: Encoding,
    data: bytes,
    *,
    header: bytes = b"",
    mark: SegmentMark | None = None,
    is_payload: bool = False,
) -> OwedText:
    number, to = text.number.encode(), text.to.encode()
    is_ucs2 = encoding is Encoding.UCS2
    return OwedText(b"", number, to, is_ucs2, header, data, mark, is_payload)
