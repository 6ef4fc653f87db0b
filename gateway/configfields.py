"""What may stand in a configuration: tables of fields, each with its check.

`smsgw apply` and the admin API read the same tables. A check gets a value and returns None, or
what is wrong and what to do about it. A field that belongs to a later version is refused by name:
ignoring it would promise what nobody keeps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv6Network, ip_network

from compliance.opt_out import MAX_LINE, is_line
from compliance.signature import is_brand
from receipts.normalise import own_classes_refusal
from sms.config import AdminState
from sms.model import Carrier, Encoding, MessageClass, OnUncertain, State, UncertainPolicy
from sms.templates import MAX_VARIABLES, names_in, text_refusal

Check = Callable[[object], str | None]

LATER = "comes with a later version; remove it for now"
MAX_RATE = 1_000_000
MAX_BACKUPS = 3
MAX_WEIGHT = 1000
MAX_NETWORKS = 256
MAX_CERTIFICATES = 32
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{64}|[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31}", re.ASCII)
MAX_QUOTA = 10**12
MAX_BURSTS = 20
MAX_TWINS = 64
MAX_OVERLAP_S = 30 * 86_400

_CLASSES = [str(word) for word in MessageClass]
_PRICE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_NUMBER = re.compile(r"[0-9]{3,20}")
_QUOTES = "must be text; put it in quotes"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an object. `is_later`: known, but not offered yet; `json`: its type there."""

    check: Check
    is_required: bool = False
    is_later: bool = False
    json: type | tuple[type, ...] = object
    is_nullable: bool = False


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


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose every entry passes `check` and stands there once; itself a check."""

    check: Check
    least: int = 0
    most: int = 1000

    def __call__(self, value: object) -> str | None:
        """What is wrong with the first entry that is."""
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            return f"must be a list of {self.least} to {self.most} entries"
        wrong = self.entries(value)
        return f"entry {wrong[0][0] + 1} {wrong[0][1]}" if wrong else None

    def entries(self, value: list[object]) -> list[tuple[int, str]]:
        """Every entry that is wrong, by its index."""
        found = []
        good: set[object] = set()  # what passes a check is text or a number
        for index, entry in enumerate(value):
            wrong = self.check(entry)
            if wrong is None and entry in good:
                wrong = "stands there twice"
            if wrong is None:
                good.add(entry)
            else:
                found.append((index, wrong))
        return found


def list_of(check: Check, least: int = 0, most: int = 1000) -> ListOf:
    """A list of `least` to `most` entries that all pass `check`."""
    return ListOf(check, least, most)


def network(value: object) -> str | None:
    """A network or a single address, written the way it is compared."""
    if not isinstance(value, str) or not value.isascii() or "%" in value:
        return "must be a network as text, such as 203.0.113.0/24 or 2001:db8::/32"
    try:
        found = ip_network(value)
    except ValueError as error:
        if "host bits" in str(error):
            return "has bits behind its mask; write the first address of the network"
        return "must be a network or an address, such as 203.0.113.0/24 or 2001:db8::7"
    if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped is not None:
        return "is an IPv4 network in IPv6 form; write it as IPv4"
    return None


def fingerprint(value: object) -> str | None:
    """The SHA-256 of a certificate as tools print it, with or without colons."""
    if isinstance(value, str) and _FINGERPRINT.fullmatch(value):
        return None
    return "must be the SHA-256 of a certificate (openssl x509 -noout -fingerprint -sha256)"


def one_of(words: Collection[str]) -> Check:
    """One of some words."""

    def check(value: object) -> str | None:
        return None if value in words else f"must be one of {', '.join(words)}"

    return check


def anything(_: object) -> str | None:
    """No check: the field is refused or checked elsewhere."""
    return None


def _weights(value: object) -> str | None:
    """Those of a route; that they are no more than its channels is checked beside these."""
    if not isinstance(value, list) or not 1 <= len(value) <= 1 + MAX_BACKUPS:
        return f"must be a list of 1 to {1 + MAX_BACKUPS} whole numbers, one beside each channel"
    one = whole(0, MAX_WEIGHT)
    for index, entry in enumerate(value):
        wrong = one(entry)
        if wrong is not None:
            return f"entry {index + 1} {wrong}"
    return None if any(value) else "must give one channel more than 0"


def _brand(value: object) -> str | None:
    is_good = isinstance(value, str) and is_brand(value)
    return None if is_good else "must be 1 to 20 characters, without 【】 or []"


def _opt_out_line(value: object) -> str | None:
    is_good = isinstance(value, str) and is_line(value)
    return None if is_good else f"must be at most {MAX_LINE} printable characters, without 【】"


def _encodings(value: object) -> str | None:
    wrong = list_of(one_of([str(word) for word in Encoding]))(value)
    if wrong is None and str(Encoding.UCS2) not in (value if isinstance(value, list) else ()):
        wrong = "must hold ucs2: every signature 【…】 needs it"
    return wrong


def _bits(value: object) -> str | None:
    return None if value in (8, 16) and is_number(value) else f"must be 8 or 16{_unquote(value)}"


def _price(value: object) -> str | None:
    is_good = isinstance(value, str) and _PRICE.fullmatch(value)
    return None if is_good else 'must be a decimal in quotes, such as "0.035"'


def _digits(value: object) -> str | None:
    is_good = isinstance(value, str) and _NUMBER.fullmatch(value) is not None
    return None if is_good else 'must be 3 to 20 digits in quotes, such as "1069000123"'


def _country(value: object) -> str | None:
    return None if value == "*" else whole(1, 999)(value)


def _template_text(value: object) -> str | None:
    return text_refusal(value) if isinstance(value, str) else _QUOTES


def twins_refusals(twins: object, body: str | None) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with a template's twins: the path below them, and what to do.

    `body`: the template's text, None where it is wrong itself.
    """
    if not isinstance(twins, dict) or len(twins) > MAX_TWINS:
        return [((), f"must be an object of at most {MAX_TWINS} channels by name")]
    found: list[tuple[tuple[str, ...], str]] = []
    for channel, twin in twins.items():
        if name(channel) is not None:
            found.append(((), "has a channel that is not named as one; correct the name"))
        elif not isinstance(twin, dict) or not {"code"} <= twin.keys() <= {"code", "order"}:
            what = "must be an object with `code`, and `order` where that is not the text's"
            found.append(((channel,), what))
        else:
            found += [((channel, word), wrong) for word, wrong in _twin_refusals(twin, body)]
    return found


def _twin_refusals(twin: Mapping[str, object], body: str | None) -> Iterator[tuple[str, str]]:
    wrong = text(100)(twin["code"])
    if wrong is not None:
        yield "code", wrong
    if "order" not in twin or body is None:
        return
    order, names = twin["order"], names_in(body)
    wrong = list_of(text(64), most=MAX_VARIABLES)(order)
    if wrong is not None or not isinstance(order, list):
        yield "order", wrong or "must be a list"
    elif sorted(order) != sorted(names):
        yield "order", f"must name each variable of the text once: {', '.join(names) or 'none'}"


_SILENT = (State.ACCEPTED, State.QUEUED, State.SUBMITTING)
EVENTS = (
    "message.*",
    *(f"message.{state}" for state in State if state not in _SILENT),
    "inbound.received",
    "recipient.opted_out",
    "channel.degraded",
    "channel.recovered",
)


def _moment(value: object) -> str | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        return 'must be a time with its zone, such as "2026-11-11T00:00:00+08:00"'
    is_near = _FIRST_MOMENT <= moment <= _LAST_MOMENT
    return None if is_near else "must be a time from 2000 to 9998"


_FIRST_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)
_LAST_MOMENT = datetime(9998, 12, 31, tzinfo=UTC)


def burst_refusal(burst: Mapping[str, str]) -> str | None:
    """What is wrong with the times of a burst together, said of its `until`."""
    begin, end = burst.get("from"), burst.get("until")
    if begin is None or end is None:
        return None
    is_good = datetime.fromisoformat(begin) < datetime.fromisoformat(end)
    return None if is_good else "ends before it begins; put it later than `from`"


def _few(value: object) -> str | None:
    is_good = isinstance(value, list) and len(value) <= MAX_BURSTS
    return None if is_good else f"must be a list of at most {MAX_BURSTS} entries"


def _no_canaries(_: object) -> str:
    return "stand in no file: applied again, it would begin them again; POST /v1/canaries instead"


_later = Field(anything, is_later=True)

TOP: Mapping[str, Field] = {
    "tenants": Field(anything),
    "admin_keys": Field(anything),
    "channels": Field(anything),
    "routes": Field(anything),
    "templates": Field(anything),
    "webhook_endpoints": Field(anything),
    "canaries": Field(_no_canaries),
    **dict.fromkeys(("signatures", "suppressions", "consents", "word_lists"), _later),
}
# A token bucket beside the tenant's own; its depth is two seconds' worth unless given.
BUCKET: Mapping[str, Field] = {
    "segments_per_second": Field(number(0.01, MAX_RATE), is_required=True, json=(int, float)),
    "burst_segments": Field(whole(1, MAX_RATE), json=int),
}
CLASSES: Mapping[str, Field] = {word: Field(anything, json=dict) for word in _CLASSES}
BURST: Mapping[str, Field] = {
    "from": Field(_moment, json=str),
    "until": Field(_moment, is_required=True, json=str),
    **BUCKET,
}
LIMITS: Mapping[str, Field] = {
    "segments_per_second": Field(number(0.01, MAX_RATE), json=(int, float)),
    "burst_segments": Field(whole(1, MAX_RATE), json=int),
    "segments_per_day": Field(whole(1, MAX_QUOTA), json=int, is_nullable=True),
    "segments_per_month": Field(whole(1, MAX_QUOTA), json=int, is_nullable=True),
    "classes": Field(anything, json=dict),  # members: CLASSES, each a BUCKET
    "bursts": Field(_few, json=list),  # entries: BURST
}
# Of otp messages to one number, and to the 10,000 numbers around it; 0 = no such cap.
MAX_CAPS = {"per_minute": 60, "per_hour": 100, "per_day": 100, "prefix_burst": 10_000}
OTP_CAPS: Mapping[str, Field] = {
    word: Field(whole(0, most), json=int) for word, most in MAX_CAPS.items()
}
# What both the API and a file may say of a tenant.
TENANT_OBJECT: Mapping[str, Field] = {
    "name": Field(name, is_required=True, json=str),
    "signatures": Field(list_of(_brand), json=list),
    "countries": Field(list_of(whole(1, 999), least=1), json=list),
    "allowed_ips": Field(list_of(network, most=MAX_NETWORKS), json=list),
    "client_certificates": Field(list_of(fingerprint, most=MAX_CERTIFICATES), json=list),
    "inbound_numbers": Field(list_of(_digits), json=list),
    "limits": Field(anything, json=dict),
    "otp_caps": Field(anything, json=dict),  # members: OTP_CAPS
    "on_uncertain": Field(
        one_of([str(word) for word in UncertainPolicy]), json=str, is_nullable=True
    ),
}
TENANT: Mapping[str, Field] = {
    **TENANT_OBJECT,
    "suspended": Field(flag),
    "api_keys": Field(anything),
}
TENANT_SCOPES = ("send", "read")
KEY_OBJECT: Mapping[str, Field] = {
    "name": Field(name, is_required=True, json=str),
    "scopes": Field(list_of(one_of(TENANT_SCOPES), least=1), json=list),
    "signing": Field(flag, json=bool),
}
ADMIN_KEY_OBJECT: Mapping[str, Field] = {
    **KEY_OBJECT,
    "scopes": Field(list_of(one_of(["admin"]), least=1), json=list),
}
_KEY_IN_FILE: Mapping[str, Field] = {
    "secret": Field(text(200)),
    "secret_file": Field(text(4096)),
    "signing_secret": Field(text(200)),
    "signing_secret_file": Field(text(4096)),
    "revoked": Field(flag),
    "allowed_ips": _later,
}
API_KEY: Mapping[str, Field] = {**KEY_OBJECT, **_KEY_IN_FILE}
ADMIN_KEY: Mapping[str, Field] = {**ADMIN_KEY_OBJECT, **_KEY_IN_FILE}
# What every channel has; a protocol's own settings stand beside it, by their standard names.
CHANNEL: Mapping[str, Field] = {
    "name": Field(name, is_required=True, json=str),
    "protocol": Field(anything, is_required=True, json=str),
    "sessions": Field(whole(1, 64), json=int),
    "window": Field(whole(1, 10_000), json=int),
    "segments_per_second": Field(number(0.01, MAX_RATE), json=(int, float)),
    "classes": Field(list_of(one_of(_CLASSES), least=1), json=list),
    "sender": Field(text(20, least=0), json=str),
    "submit_timeout_s": Field(number(1, 3600), json=(int, float)),
    "price_per_segment": Field(_price, json=str),
    "opt_out_line": Field(_opt_out_line, json=str),
    "encodings": Field(_encodings, json=list),
    "signature_by": Field(one_of(["gateway", "carrier"]), json=str),
    "carriers": Field(list_of(one_of([str(word) for word in Carrier]), least=1), json=list),
    "countries": Field(list_of(whole(1, 999), least=1), json=list),
    "report_classes": Field(own_classes_refusal, json=dict),
    "reference_bits": Field(_bits, json=int),
    "admin_state": Field(one_of([str(word) for word in AdminState]), json=str),
}
ROUTE: Mapping[str, Field] = {
    "tenant": Field(text(64), json=str),
    "class": Field(one_of(["*", *_CLASSES]), json=str),
    "carrier": Field(one_of(["*", *(str(word) for word in Carrier)]), json=str),
    "country": Field(_country, json=(str, int)),
    "channels": Field(anything, is_required=True, json=list),
    "weights": Field(_weights, json=list, is_nullable=True),
}
# What both the API and a file may say of a template; the file names the tenant, the API its id.
TEMPLATE_CHANGE: Mapping[str, Field] = {
    "text": Field(_template_text, is_required=True, json=str),
    "twins": Field(anything, json=dict),  # by channel: `twins_refusals`
    "on_uncertain": Field(one_of([str(word) for word in OnUncertain]), json=str, is_nullable=True),
}
TEMPLATE: Mapping[str, Field] = {
    "tenant": Field(text(64), json=str),
    "name": Field(name, is_required=True, json=str),
    "class": Field(one_of(_CLASSES), is_required=True, json=str),
    **TEMPLATE_CHANGE,
}
# What both the API and a file may say of a webhook endpoint; the API never changes the secret so.
ENDPOINT_CHANGE: Mapping[str, Field] = {
    "url": Field(text(2048), is_required=True, json=str),
    "events": Field(list_of(one_of(EVENTS), least=1), json=list),
    "batch": Field(flag, json=bool),
    "full_number": Field(flag, json=bool),
    "enabled": Field(flag, json=bool),
}
ENDPOINT: Mapping[str, Field] = {**ENDPOINT_CHANGE, "secret": Field(text(200), json=str)}
WEBHOOK_ENDPOINT: Mapping[str, Field] = {
    "tenant": Field(name, is_required=True),
    **ENDPOINT,
    "secret_file": Field(text(4096)),
}
