"""Read the number a tenant wrote: E.164, or the bare 11 digits of a mainland mobile.

A mainland number is looked up in the table of allocated prefixes (data/numberplan-cn.json, MIIT,
end of March 2023; the longest prefix of 5, 4 or 3 digits wins): the carrier is only the default,
numbers may have been ported. What the table does not hold is refused, with these decisions:

- Not allocated (140–144, 154, 160, 161, 163, 164, 168, 169, 179, 194) and the 13-digit machine
  numbers: refused, no text would arrive.
- IoT cards with 11 digits (146, 148, 149) and satellite phones (1349, 1740x, 1619, 1749 …): taken.
  They are allocated and some receive texts; the carrier's receipt is a better judge than we are.
- Landlines, hotlines, short, access and premium numbers: refused, each with its reason
  (data/refused-cn.json, looked at only once a number is refused).

Of another country only the calling code (data/calling-codes.json, ITU-T E.164) and the length are
checked. Digits are `[0-9]` alone: full-width or Arabic ones are refused, not converted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sms.model import Carrier

MAX_DIGITS = 15  # ITU-T E.164, 6.1
MIN_DIGITS = 7  # the shortest national numbers have four digits behind a code of three

INVALID = "recipient.invalid"


@dataclass(slots=True)  # not frozen: one per message on the hot path
class Number:
    """A number that can be sent to: E.164 digits without '+', calling code, default carrier."""

    digits: str
    country: int
    carrier: Carrier


@dataclass(frozen=True, slots=True)
class BadNumber:
    """Why a number was refused: a code of `sms.reasons` and what to do, for a person."""

    code: str
    detail: str


def parse_number(text: str) -> Number | BadNumber:
    """The number behind `+…` or a bare mainland number; about 0.4 µs for the mainland."""
    digits = text[1:] if text[:1] == "+" else "86" + text
    carrier = _MAINLAND.get(digits[:7])
    if carrier is not None and len(digits) == 13 and digits.isascii() and digits.isdigit():
        return Number(digits, 86, carrier)
    if text[:1] != "+":
        return _refuse_bare(text)
    if not (digits.isascii() and digits.isdigit()):
        return _SPELLING
    if digits[:2] == "86":
        return _refuse_mainland(digits[2:])
    return _parse_foreign(digits)


def phone_of(wire: str, *, is_mainland: bool) -> str:
    """A phone's number as a carrier writes it, as E.164 digits where it is one.

    Seen are 13800138000, 8613800138000, +8613800138000 and 008613800138000. Bare eleven digits are
    the mainland's only where the channel `is_mainland`: 13475550123 is a phone in New York too, and
    behind `+` or 00 it is never anything else. What is no number (a word, a short code) stays as it
    came, but for characters that no sender has: those are `?`.
    """
    text = wire.strip()
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        return _STRANGE.sub("?", text)
    if len(digits) < len(text):
        return digits
    if digits.startswith("00"):
        return digits[2:]
    if is_mainland and len(digits) == 11 and "86" + digits[:5] in _MAINLAND:
        return "86" + digits
    return digits


_STRANGE = re.compile(r"[^0-9A-Za-z .+_&@-]")


def _bad(detail: str) -> BadNumber:
    return BadNumber(INVALID, detail)


_SPELLING = _bad(
    "write the number as + and digits only, such as +8613800138000; no spaces, dashes or "
    "brackets, and + instead of 00"
)
_MOBILE = "mainland mobile numbers have 11 digits and begin with 13 to 19"
_NOT_MOBILE = _bad(f"not a mobile number of the mainland; {_MOBILE}")
_MACHINE = _bad("a 13-digit machine (IoT) number cannot receive ordinary texts")
_UNALLOCATED = _bad("no carrier has been given numbers with this beginning")
_LENGTH = _bad(f"a number has {MIN_DIGITS} to {MAX_DIGITS} digits, the calling code included")
_NO_COUNTRY = _bad("no country has this calling code")
_SERVICE = _bad("this calling code belongs to services, not to phones")


def _load_mainland() -> dict[str, Carrier]:
    """Every allocated five-digit prefix behind 86 with its carrier: the longest entry wins."""
    data = _load("numberplan-cn.json")
    carriers = {name: Carrier.OTHER if name == "OTHER" else Carrier(name) for name in _names(data)}
    table: dict[str, Carrier] = {}
    for prefix, entry in sorted(data["prefixes"].items(), key=lambda item: len(item[0])):
        free = 5 - len(prefix)
        for tail in range(10**free):
            digits = prefix + (f"{tail:0{free}}" if free else "")
            table["86" + digits] = carriers[entry["carrier"]]
    return table


def _names(data: dict[str, Any]) -> set[str]:
    return {entry["carrier"] for entry in data["prefixes"].values()}


def _load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((Path(__file__).parent / "data" / name).read_text("utf-8"))
    return loaded


_MAINLAND = _load_mainland()
_CODES = _load("calling-codes.json")
_GEOGRAPHIC = frozenset(str(code) for code in _CODES["geographic"])
_SERVICES = frozenset(str(code) for code in _CODES["services"])
_DIGITS: dict[str, int] = _CODES["digits"]


_REFUSED = tuple(
    (re.compile(entry["pattern"]), _bad(f"{entry['says']}; {_MOBILE}"))
    for entry in _load("refused-cn.json")["kinds"]
)


def _refuse_bare(text: str) -> BadNumber:
    """Without '+' only the mainland's 11 digits are read."""
    if 3 <= len(text) < 11 and text[:1] in "149":  # a short number has no other spelling
        known = _known_kind(text)
        if known is not None:
            return known
    if len(text) == 11 and text.isascii() and text.isdigit():
        return _refuse_mainland(text)
    if len(text) == 13 and text[:3] in _MACHINE_HEADS and text.isascii() and text.isdigit():
        return _MACHINE
    return _SPELLING


_MACHINE_HEADS = frozenset({"140", "141", "142", "143", "144"})


def _refuse_mainland(national: str) -> BadNumber:
    """Why a number behind +86 that is not in the table cannot be sent to."""
    if len(national) == 13 and national[:3] in _MACHINE_HEADS:
        return _MACHINE
    if len(national) == 11 and national[0] == "1" and national[1] in "3456789":
        return _UNALLOCATED
    return _known_kind(national) or _NOT_MOBILE


def _known_kind(national: str) -> BadNumber | None:
    """What else the number is, when that is known; `[0-9]` alone, as everywhere."""
    return next((why for kind, why in _REFUSED if kind.fullmatch(national)), None)


def _parse_foreign(digits: str) -> Number | BadNumber:
    """Calling codes are free of prefixes: one, two or three digits, at most one of them known."""
    if not MIN_DIGITS <= len(digits) <= MAX_DIGITS:
        return _LENGTH
    for size in (1, 2, 3):
        code = digits[:size]
        if code in _GEOGRAPHIC:
            wanted = _DIGITS.get(code)
            if wanted is not None and len(digits) != wanted:
                return _bad(f"a number of +{code} has {wanted} digits with the calling code")
            return Number(digits, int(code), Carrier.OTHER)
        if code in _SERVICES:
            return _SERVICE
    return _NO_COUNTRY
