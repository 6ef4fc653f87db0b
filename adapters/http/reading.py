"""Reading what vendors send: JSON, forms, numbers, codes, Retry-After; nothing here raises.

A vendor's codes stand as data in data/<vendor>.json, each with the page that says so:

    "answers": {code: [cause, reason] or ["throttled", reason, seconds]}   of a request or a number
    "reports": {word or code: class of receipts.normalise}                 of a receipt

A code is looked up as the vendor writes it. One that no table has is `Rejected(…, UNKNOWN)`, never
a guess (RELIABILITY section 6).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from adapters.http.vendor import Reply
from sms.codes import THROTTLE_PAUSE_S
from sms.outcomes import Cause, Rejected, Throttled

THROTTLED: Final = "throttled"  # stands where a cause would
MAX_PAUSE_S: Final = 60.0  # however long a vendor asks us to wait: the flow asks again then
MAX_WORD: Final = 64  # characters of a code or an id that are kept
MAX_FIELDS: Final = 1000  # of a form

Json = Mapping[str, object]
_NOTHING: Final[Json] = {}


class Codes:
    """What one vendor's codes mean, from data/<vendor>.json."""

    __slots__ = ("_answers", "reports")

    def __init__(self, vendor: str) -> None:
        loaded = _load(vendor)
        self._answers: Mapping[str, list[Any]] = loaded["answers"]
        self.reports: Mapping[str, str] = loaded["reports"]

    def knows(self, code: str) -> bool:
        """Whether the table of answers has it."""
        return code in self._answers

    def outcome(self, code: str, pause_s: float | None = None) -> Rejected | Throttled:
        """The outcome of a submit that was answered with this code, which is not success.

        `pause_s`: how long the vendor asked us to wait (`pause_of`), None when it did not say.
        """
        row = self._answers.get(code)
        if row is None:
            return Rejected(code, Cause.UNKNOWN, "carrier.unknown_code")
        if row[0] == THROTTLED:
            usual = row[2] if len(row) > 2 else THROTTLE_PAUSE_S
            return Throttled(usual if pause_s is None else pause_s, code)
        return Rejected(code, Cause(row[0]), row[1])


@cache
def _load(vendor: str) -> dict[str, Any]:
    text = (Path(__file__).parent / "data" / f"{vendor}.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def json_of(body: bytes) -> object:
    """The body as JSON; None when it is none (which JSON's null is as well)."""
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found


def fields(value: object) -> Json:
    """The value as an object of JSON; an empty one when it is something else."""
    return value if isinstance(value, dict) else _NOTHING


def listed(value: object) -> list[Json]:
    """The objects in a list of JSON; what is no object counts as an empty one: places matter."""
    return [fields(one) for one in value] if isinstance(value, list) else []


def form_of(text: bytes | str) -> dict[str, str]:
    """A form or a query by name, the first of a name; an empty one when it cannot be read."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS)
    except ValueError:
        return {}
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def word(value: object, most: int = MAX_WORD) -> str:
    """A code or an id: printable ASCII without blanks around, or "" when it is none.

    A longer one is none, too: half an id finds nothing.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        value = str(value)
    if not isinstance(value, str):
        return ""
    value = value.strip()
    return value if value.isascii() and value.isprintable() and len(value) <= most else ""


def digits_of(value: object) -> str:
    """A phone number's digits, without `+`; "" when it is none."""
    plain = word(value).removeprefix("+")
    return plain if plain.isdigit() else ""


def text_in(value: object) -> str:
    """A text from a phone; halves of surrogate pairs become U+FFFD, as nobody could store them."""
    if not isinstance(value, str):
        return ""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def pause_of(reply: Reply) -> float | None:
    """Seconds that Retry-After asks for (RFC 9110, 10.2.3), at most a minute; None without it.

    Its other form, a date, is left: our clock and theirs may differ by more than it asks for.
    """
    try:
        asked = float(reply.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(MAX_PAUSE_S, max(0.0, asked)) if math.isfinite(asked) else None
