"""Reading what vendors send: JSON, forms, numbers, codes, Retry-After; nothing here raises.

A vendor's codes stand as data in data/<vendor>.json, each with the page that says so:

    "answers": {code: [class, reason] or ["throttled", reason, seconds]}   of a request or a number
    "reports": {word or code: class of receipts.normalise}                 of a receipt

A class of an answer is a `Cause`, `throttled`, or `uncertain`: the vendor's words do not say that
the message was not taken. A code is looked up as the vendor writes it; `Family.*` stands for every
code of a family without a row of its own. One that no table has is `Rejected(…, UNKNOWN)`, never a
guess (RELIABILITY section 6).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from adapters.http.vendor import Reply
from sms.codes import THROTTLE_PAUSE_S, THROTTLED
from sms.model import Submit
from sms.outcomes import Cause, Outcome, Rejected, Throttled, Uncertain

UNREADABLE: Final = "carrier.unknown_outcome"  # why a submit is uncertain after an odd answer
UNCERTAIN: Final = "uncertain"  # stands where a cause would, as `throttled` does
MAX_PAUSE_S: Final = 60.0  # however long a vendor asks us to wait: the flow asks again then
MAX_WORD: Final = 64  # characters of a code or an id that are kept
MAX_FIELDS: Final = 1000  # of a form
_SERVER_FAULT: Final = 500

Json = Mapping[str, object]
_NOTHING: Final[Json] = {}


class Codes:
    """What one vendor's codes mean, from data/<vendor>.json."""

    __slots__ = ("answers", "reports")

    def __init__(self, vendor: str) -> None:
        loaded = _load(vendor)
        self.answers: Mapping[str, list[Any]] = loaded["answers"]
        self.reports: Mapping[str, str] = loaded["reports"]

    def knows(self, code: str) -> bool:
        """Whether the table of answers has a row of its own for it."""
        return code in self.answers

    def row(self, code: str) -> list[Any] | None:
        """The row of a code, or of its nearest family: `A.B.C`, `A.B.*`, `A.*`."""
        found = self.answers.get(code)
        family = code
        while found is None and "." in family:
            family = family.rpartition(".")[0]
            found = self.answers.get(f"{family}.*")
        return found

    def outcome(self, code: str, reply: Reply) -> Rejected | Throttled | Uncertain:
        """The outcome of a submit that was answered with this code, which is not success.

        A code that no table has is a refusal with an unknown cause, but not beside a 5xx: there
        the body must say that the message was not accepted (RELIABILITY section 6).
        """
        kind, reason, *seconds = self.row(code) or (str(Cause.UNKNOWN), "carrier.unknown_code")
        if not code:
            return Uncertain(UNREADABLE)
        if kind == THROTTLED:
            return too_fast(reply, code, *seconds)
        if kind == UNCERTAIN:
            return Uncertain(reason)
        if kind == Cause.UNKNOWN and reply.status >= _SERVER_FAULT:
            return Uncertain(UNREADABLE)
        return Rejected(code, Cause(kind), reason)


def too_fast(reply: Reply, code: str, usual_s: float = THROTTLE_PAUSE_S) -> Throttled:
    """What a vendor's flow control says: for as long as Retry-After asks, else `usual_s`."""
    pause_s = pause_of(reply)
    return Throttled(usual_s if pause_s is None else pause_s, code)


def refused(
    submits: Sequence[Submit], outcome: Outcome, *, is_shared: bool = False
) -> list[Outcome | None]:
    """What the refusal of a whole request means for its submits; None: it goes again (`read`).

    One number, one value or one country may have been the reason, and nobody says whose. It is the
    verdict on all of them where the account is at fault, the vendor itself, or what all of them
    have in common (`is_shared`).
    """
    is_of_all = (
        is_shared
        or len(submits) == 1
        or not isinstance(outcome, Rejected)
        or outcome.cause is Cause.CHANNEL
        or outcome.reason == "channel.account"
    )
    return [outcome if is_of_all else None for _ in submits]


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
