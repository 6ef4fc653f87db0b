"""What the presets of the mainland's cloud vendors share: 【brand】, numbers, moments, pushes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Final

from adapters.checks import Check
from adapters.http.reading import UNREADABLE, Json, json_of, word
from adapters.http.vendor import CallAnswer
from sms.errors import CallRefused, CannotSend
from sms.model import Filled, Submit
from sms.outcomes import Outcome, Uncertain

CHINA: Final = timezone(timedelta(hours=8))  # moments in vendors' texts have no zone: this one
TOO_MANY: Final = 429
MAX_BRAND: Final = 20  # characters; compliance.signature has the same bound
_MAINLAND_DIGITS: Final = 13  # 86 and eleven


def uncertain(count: int) -> list[Outcome]:
    """Outcomes of submits whose answer says nothing that can be read."""
    return [Uncertain(UNREADABLE) for _ in range(count)]


def pushed_objects(body: bytes) -> list[Json]:
    """The objects of a push: an array of them, or a single one. CallRefused when it is neither."""
    found = json_of(body)
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise CallRefused(400, "the body is no JSON array of objects, which this vendor sends")
    return found


def said(answer: Mapping[str, object]) -> CallAnswer:
    """What a vendor wants to hear, as JSON."""
    body = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
    return CallAnswer(200, "application/json; charset=utf-8", body)


def filled_of(submit: Submit) -> Filled:
    """The vendor's template and values of a submit; CannotSend when it has none."""
    if submit.filled is None:
        raise CannotSend("no-template", "content.template", is_channel=True)
    return submit.filled


def extension_of(submit: Submit) -> str:
    """The sender as these vendors take one: an extension code, digits alone; CannotSend else."""
    sender = submit.sender
    if sender and not (sender.isascii() and sender.isdecimal()):
        raise CannotSend("sender-not-digits", "channel.misconfigured", is_channel=True)
    return sender


def brand_of(submit: Submit) -> str:
    """The brand between 【】 in front of the whole text; "" when it has none."""
    texts = submit.message.texts
    if not texts or not texts[0].startswith("【"):
        return ""
    brand, closing, _ = texts[0][1:].partition("】")
    return brand if closing else ""


def sign_name(value: object) -> str | None:
    """A signature as it is filed with the vendor: the brand alone, without 【】."""
    is_good = (
        isinstance(value, str)
        and 1 <= len(value) <= MAX_BRAND
        and value == value.strip()
        and value.isprintable()
        and not set("【】") & set(value)
    )
    return (
        None if is_good else f"give the brand as it was filed, 1 to {MAX_BRAND} characters, no 【】"
    )


def region(known: Mapping[str, str] | None = None) -> Check:
    """One of the vendor's regions; any well-formed one where the table is not closed."""

    def check(value: object) -> str | None:
        if known is not None:
            is_good = isinstance(value, str) and value in known
            return None if is_good else f"give one of {', '.join(sorted(known))}, or a `url`"
        parts = value.split("-") if isinstance(value, str) else [""]
        is_good = len(parts) > 1 and all(one.isascii() and one.isalnum() for one in parts)
        return None if is_good else "give the vendor's name of a region, such as ap-guangzhou"

    return check


def is_mainland(number: str) -> bool:
    """Whether E.164 digits are a mobile of the mainland."""
    return number.startswith("86") and len(number) == _MAINLAND_DIGITS


def local_of(number: str) -> str:
    """How vendors of the mainland write a number: eleven digits there, else all of them.

    Takes what was seen: 138…, 86138…, +86138…, 0086138….
    """
    digits = number.strip().removeprefix("+").removeprefix("00")
    return digits[2:] if is_mainland(digits) else digits


def unix_of(moment: object) -> float | None:
    """`2026-01-31 23:59:59` in UTC+8 as Unix seconds; None when it is no moment."""
    try:
        return datetime.fromisoformat(word(moment)).replace(tzinfo=CHINA).timestamp()
    except (ValueError, OverflowError):
        return None


def day_of(unix: float) -> str:
    """The day of UTC+8 in which a moment lies, YYYYMMDD."""
    return f"{datetime.fromtimestamp(unix, CHINA):%Y%m%d}"


def endpoint_of(url: str) -> tuple[str, str]:
    """(host, path) of a checked `url` as they are signed: no default port, a path from `/`."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    default = ":443" if scheme == "https" else ":80"
    return host.removesuffix(default).lower(), f"{slash}{path}" or "/"
