"""What may stand in a configuration file: tables of fields, each with its check.

A check gets a value and returns None, or what is wrong and what to do about it. A field that
belongs to a later version is refused by name: ignoring it would promise what nobody keeps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from compliance.signature import is_brand
from sms.model import Carrier, MessageClass, State

Check = Callable[[object], str | None]

LATER = "comes with a later version; remove it for now"
MAX_RATE = 1_000_000
MAX_BACKUPS = 3

MAX_QUOTA = 10**12
MAX_BURSTS = 20

_CLASSES = [str(word) for word in MessageClass]
_PRICE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_QUOTES = "must be text; put it in quotes"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an object. `later`: known, but not offered yet."""

    check: Check
    is_required: bool = False
    is_later: bool = False


def is_number(value: object) -> bool:
    """Whether it is a number and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def text(most: int, least: int = 1) -> Check:
    """Text of `least` to `most` printable characters."""

    def check(value: object) -> str | None:
        if not isinstance(value, str):
            return _QUOTES
        if not least <= len(value) <= most or not (value.isprintable() or not value):
            return f"must have {least} to {most} printable characters"
        return None

    return check


def name(value: object) -> str | None:
    """A name that labels, keys and routes can hold."""
    wrong = text(64)(value)
    if wrong is None and any(char in "/* \\" for char in str(value)):
        return "must not hold a space, /, \\ or *"
    return wrong


def _unquote(value: object) -> str:
    is_quoted = isinstance(value, str) and value.replace(".", "", 1).isdecimal()
    return "; remove the quotes" if is_quoted else ""


def whole(low: int, high: int) -> Check:
    """A whole number."""

    def check(value: object) -> str | None:
        is_good = isinstance(value, int) and is_number(value) and low <= value <= high
        if is_good:
            return None
        return f"must be a whole number from {low} to {high}{_unquote(value)}"

    return check


def number(low: float, high: float) -> Check:
    """A number, whole or not."""

    def check(value: object) -> str | None:
        is_good = isinstance(value, int | float) and is_number(value) and low <= value <= high
        return None if is_good else f"must be a number from {low:g} to {high:g}{_unquote(value)}"

    return check


def flag(value: object) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "must be true or false"


def list_of(check: Check, least: int = 0, most: int = 1000) -> Check:
    """A list whose every entry passes `check` and stands there once."""

    def check_all(value: object) -> str | None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            return f"must be a list of {least} to {most} entries"
        for index, entry in enumerate(value):
            wrong = check(entry)
            if wrong is not None:
                return f"entry {index + 1} {wrong}"
            if entry in value[:index]:
                return f"entry {index + 1} stands there twice"
        return None

    return check_all


def one_of(words: Collection[str]) -> Check:
    """One of some words."""

    def check(value: object) -> str | None:
        return None if value in words else f"must be one of {', '.join(words)}"

    return check


def anything(_: object) -> str | None:
    """No check: the field is refused or checked elsewhere."""
    return None


def _brand(value: object) -> str | None:
    is_good = isinstance(value, str) and is_brand(value)
    return None if is_good else "must be 1 to 20 characters, without 【】 or []"


def _price(value: object) -> str | None:
    is_good = isinstance(value, str) and _PRICE.fullmatch(value)
    return None if is_good else 'must be a decimal in quotes, such as "0.035"'


def _country(value: object) -> str | None:
    return None if value == "*" else whole(1, 999)(value)


_later_events = ("inbound.received", "recipient.opted_out", "channel.degraded", "channel.recovered")
_SILENT = (State.ACCEPTED, State.QUEUED, State.SUBMITTING)
EVENTS = ("message.*", *(f"message.{state}" for state in State if state not in _SILENT))


def _event(value: object) -> str | None:
    if value in _later_events:
        return LATER
    return one_of(EVENTS)(value)


def _moment(value: object) -> str | None:
    try:
        is_good = isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        is_good = False
    return None if is_good else 'must be a time with its zone, "2026-11-11T00:00:00+08:00"'


_BUCKET: Mapping[str, Check] = {
    "segments_per_second": number(0.01, MAX_RATE),
    "burst_segments": whole(1, MAX_RATE),
}
_BURST: Mapping[str, Check] = {"from": _moment, "until": _moment, **_BUCKET}


def _members(value: object, table: Mapping[str, Check], required: Collection[str]) -> str | None:
    """What is wrong inside one of the small objects of a tenant's limits."""
    if not isinstance(value, dict):
        return f"must be an object with {', '.join(required)}"
    for member, inner in value.items():
        check = table.get(member)
        wrong = f"is not a field here; known are {', '.join(table)}"
        if check is not None:
            wrong = check(inner) or ""
        if wrong:
            return f"`{member}` {wrong}"
    missing = [member for member in required if member not in value]
    return f"has no `{missing[0]}`; add it" if missing else None


def _class_limits(value: object) -> str | None:
    """Limits by class, as {marketing: {segments_per_second: 50}}."""
    if not isinstance(value, dict) or not value.keys() <= set(_CLASSES):
        return f"must be an object with some of {', '.join(_CLASSES)}"
    for word, limit in value.items():
        wrong = _members(limit, _BUCKET, ["segments_per_second"])
        if wrong is not None:
            return f"{word}: {wrong}"
    return None


def _bursts(value: object) -> str | None:
    """More for a while, as [{until: "…", segments_per_second: 5000}]."""
    if not isinstance(value, list) or len(value) > MAX_BURSTS:
        return f"must be a list of at most {MAX_BURSTS} entries"
    for index, burst in enumerate(value, 1):
        wrong = _members(burst, _BURST, ["until", "segments_per_second"])
        if wrong is None and "from" in burst:
            begin, end = (datetime.fromisoformat(burst[name]) for name in ("from", "until"))
            wrong = None if begin < end else "ends before it begins; correct `until`"
        if wrong is not None:
            return f"entry {index} {wrong}"
    return None


_later = Field(anything, is_later=True)

TOP: Mapping[str, Field] = {
    "tenants": Field(anything),
    "admin_keys": Field(anything),
    "channels": Field(anything),
    "routes": Field(anything),
    "webhook_endpoints": Field(anything),
    **dict.fromkeys(
        ("canaries", "signatures", "templates", "suppressions", "consents", "word_lists"), _later
    ),
}
TENANT: Mapping[str, Field] = {
    "name": Field(name, is_required=True),
    "signatures": Field(list_of(_brand)),
    "countries": Field(list_of(whole(1, 999), least=1)),
    "limits": Field(anything),
    "api_keys": Field(anything),
    **dict.fromkeys(("allowed_ips", "otp_caps", "on_uncertain"), _later),
}
LIMITS: Mapping[str, Field] = {
    "segments_per_second": Field(number(0.01, MAX_RATE)),
    "burst_segments": Field(whole(1, MAX_RATE)),
    "segments_per_day": Field(whole(1, MAX_QUOTA)),
    "segments_per_month": Field(whole(1, MAX_QUOTA)),
    "classes": Field(_class_limits),
    "bursts": Field(_bursts),
}
API_KEY: Mapping[str, Field] = {
    "name": Field(name, is_required=True),
    "scopes": Field(list_of(one_of(["send", "read"]), least=1)),
    "secret": Field(text(200)),
    "secret_file": Field(text(4096)),
    **dict.fromkeys(("signing", "allowed_ips"), _later),
}
ADMIN_KEY: Mapping[str, Field] = {**API_KEY, "scopes": Field(list_of(one_of(["admin"]), least=1))}
CHANNEL: Mapping[str, Field] = {
    "name": Field(name, is_required=True),
    "protocol": Field(anything, is_required=True),
    "sessions": Field(whole(1, 64)),
    "window": Field(whole(1, 10_000)),
    "segments_per_second": Field(number(0.01, MAX_RATE)),
    "classes": Field(list_of(one_of(_CLASSES), least=1)),
    "sender": Field(text(20, least=0)),
    "submit_timeout_s": Field(number(1, 3600)),
    "price_per_segment": Field(_price),
}
ROUTE: Mapping[str, Field] = {
    "tenant": Field(text(64)),
    "class": Field(one_of(["*", *_CLASSES])),
    "carrier": Field(one_of(["*", *(str(word) for word in Carrier)])),
    "country": Field(_country),
    "channels": Field(anything, is_required=True),
}
WEBHOOK_ENDPOINT: Mapping[str, Field] = {
    "tenant": Field(name, is_required=True),
    "url": Field(text(2048), is_required=True),
    "events": Field(list_of(_event, least=1)),
    "batch": Field(flag),
    "full_number": Field(flag),
    "secret": Field(text(200)),
    "secret_file": Field(text(4096)),
}
