"""What a recipe makes of the answer to a send: one outcome per message.

    429, or `throttled` holds ─▶ Throttled, for as long as the provider says
    `accepted` holds ──────────▶ Submitted with the id that stands at `id`
    `refused` holds ───────────▶ Rejected (or Throttled) by the class of the code at `code`
    anything else ─────────────▶ Uncertain: the message may be with the provider

A 5xx is a refusal only by an alternative of `refused` that looks at the body; `accepted` and
`refused` that both hold contradict each other and say nothing. A batch that is refused as a whole
goes again, apart, but for the account's fault: whose other fault it was nobody says. With `items`
each message has its own verdict in a list, found by its place, by our reference or by its number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from adapters.http.reading import refused
from adapters.http.recipe_section import Section
from adapters.http.recipe_tree import Format, Path, Test, Unreadable, read_body
from adapters.http.vendor import Reply, reference_of
from sms import ids
from sms.codes import ANSWER_CLASSES, THROTTLE_PAUSE_S, UNKNOWN, outcome_of
from sms.model import Submit
from sms.numbers import phone_of
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Throttled, Uncertain

MAX_PAUSE_S: Final = 3600.0
MAX_ID: Final = 128  # characters of a provider's id
MAX_CODE: Final = 64  # characters of a code as tenants see it
TOO_MANY: Final = 429  # RFC 6585, 4
_UNCLEAR: Final = "carrier.unknown_outcome"
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
# What a status alone says where the recipe has no class for it: the login is at fault.
_STATUS_CLASSES: Final = {
    "http_401": "perm_account",
    "http_402": "perm_account",
    "http_403": "perm_config",  # it may be this text, or this number, that is forbidden
}


class By(StrEnum):
    """How the verdict of one message of a batch is found."""

    INDEX = "index"
    REFERENCE = "reference"
    MESSAGE_ID = "message_id"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Reading:
    """The tests and paths of one verdict."""

    accepted: Test
    refused: Test
    throttled: Test
    code: Path | None
    id: Path | None
    retry_after: Path | None


@dataclass(frozen=True, slots=True)
class Items:
    """Verdicts of single messages: where the list is, and which is whose."""

    path: Path
    by: By
    key: Path | None
    reading: Reading


@dataclass(frozen=True, slots=True)
class Answers:
    """How the answers of a send are read."""

    form: Format
    separator: str | None
    whole: Reading
    items: Items | None
    classes: Mapping[str, str]  # code → class of sms.codes
    national_cn: bool = False  # bare eleven digits are the mainland's
    shares_id: bool = False  # one id stands for all of a batch

    def read(self, submits: Sequence[Submit], reply: Reply) -> Sequence[Outcome | None]:
        """One outcome per submit, in order; never raises."""
        try:
            tree = read_body(reply.body, self.form, self.separator)
        except Unreadable:
            tree = None
        said = self._judge(self.whole, reply, tree, submits[0] if submits else None)
        if isinstance(said, Rejected):
            # `perm_config`, `perm_account`: what the recipe calls the account's own fault
            return refused(submits, said, is_shared=said.cause is Cause.CONFIG)
        if self.items is None or not isinstance(said, Submitted):
            return [self._of_one(said, submit) for submit in submits]
        return self._read_items(self.items, submits, reply, tree)

    def _of_one(self, said: Outcome, submit: Submit) -> Outcome:
        if not isinstance(said, Submitted):
            return said
        if self.shares_id:
            return Submitted(shared_id(said.carrier_id, submit.number))
        return said if self.whole.id is not None else Submitted(reference_of(submit))

    def _read_items(
        self, items: Items, submits: Sequence[Submit], reply: Reply, tree: object
    ) -> list[Outcome]:
        found = items.path.every(tree)
        if len(found) == 1 and isinstance(found[0], list):
            found = found[0]
        if items.by is By.INDEX:
            if len(found) != len(submits):
                return [Uncertain(_UNCLEAR) for _ in submits]
            mine: list[object] = list(found)
        else:
            mine = self._matched(items, submits, found)
        return [
            Uncertain(_UNCLEAR) if item is None else self._judge(items.reading, reply, item, submit)
            for submit, item in zip(submits, mine, strict=True)
        ]

    def _matched(
        self, items: Items, submits: Sequence[Submit], found: Sequence[object]
    ) -> list[object]:
        """The verdict of each submit; None where there is none, or more than one."""
        by_key: dict[str, list[object]] = {}
        for item in found:
            key = items.key.text(item) if items.key else ""
            by_key.setdefault(self._key(key, items.by), []).append(item)
        wanted = [_key_of(submit, items.by) for submit in submits]
        asked = Counter(wanted)
        return [
            by_key[key][0] if len(by_key.get(key, ())) == 1 and asked[key] == 1 else None
            for key in wanted
        ]

    def _key(self, text: str, by: By) -> str:
        return phone_of(text, is_mainland=self.national_cn) if by is By.NUMBER else text

    def _judge(
        self, reading: Reading, reply: Reply, tree: object, submit: Submit | None
    ) -> Outcome:
        status = reply.status
        code = readable(reading.code.text(tree) if reading.code else "", MAX_CODE)
        shown = code or f"http_{status}"
        if status == TOO_MANY or reading.throttled.holds(status, tree):
            return Throttled(_pause(reading, reply, tree), shown)
        is_accepted = status // 100 == 2 and reading.accepted.holds(status, tree)
        refused = reading.refused.about_body() if status >= 500 else reading.refused
        is_refused = refused.holds(status, tree)
        if is_accepted is is_refused:
            return Uncertain(_UNCLEAR)
        if is_refused:
            return self._refusal(code, status, _pause(reading, reply, tree))
        if reading.id is None:
            return Submitted(reference_of(submit) if submit is not None else "")
        carrier_id = carrier_id_of(reading.id.text(tree))
        return Submitted(carrier_id) if carrier_id else Uncertain(_UNCLEAR)

    def _refusal(self, code: str, status: int, pause_s: float) -> Rejected | Throttled:
        by_status = f"http_{status}"
        name = (
            self.classes.get(code)
            or self.classes.get(by_status)
            or _STATUS_CLASSES.get(by_status, UNKNOWN)
        )
        outcome = outcome_of(name, code or by_status)
        if isinstance(outcome, Throttled):
            return replace(outcome, retry_after_s=pause_s)
        return outcome


def _key_of(submit: Submit, by: By) -> str:
    if by is By.NUMBER:
        return submit.number
    return reference_of(submit) if by is By.REFERENCE else ids.to_text("msg", submit.message.id)


def shared_id(carrier_id: str, number: str) -> str:
    """An id that stands for a whole batch, made unique for one number without holding it."""
    return f"{carrier_id}.{blake2b(number.encode(), digest_size=4).hexdigest()}"


def carrier_id_of(text: str) -> str:
    """An id as it may be kept; "" when it is none."""
    return text if text.isprintable() and len(text) <= MAX_ID else ""


def readable(text: str, most: int) -> str:
    """A word or code as it may be shown: cut, and without signs that no log should hold."""
    return "".join(char if char.isprintable() else "?" for char in text[:most])


def _pause(reading: Reading, reply: Reply, tree: object) -> float:
    """How long the provider says that we are to wait (RFC 9110, 10.2.3), within bounds."""
    said = reading.retry_after.text(tree) if reading.retry_after else ""
    said = (said or reply.headers.get("retry-after", "")).strip()
    if _SECONDS.fullmatch(said):
        seconds = float(said)
    else:
        moment, now = _moment(said), _moment(reply.headers.get("date", ""))
        seconds = (moment - now).total_seconds() if moment and now else 0.0
    return min(max(seconds, THROTTLE_PAUSE_S), MAX_PAUSE_S)


def _moment(text: str) -> datetime | None:
    """A date of HTTP; None when it is none."""
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    return found if found.tzinfo is not None else None


# -- reading the recipe ---------------------------------------------------------------------------

_VERDICT: Final = ("accepted", "refused", "throttled", "code", "id", "retry_after")
ANSWER_NAMES: Final = ("format", "separator", *_VERDICT, "items")


def _reading(section: Section) -> Reading:
    return Reading(
        section.test("accepted"),
        section.test("refused"),
        section.test("throttled"),
        section.path("code"),
        section.path("id"),
        section.path("retry_after"),
    )


def parse_answers(section: Section, top: Section, *, batch: int, shares_id: bool) -> Answers:
    """Read `answer` and `status_classes`; adds to what is wrong."""
    section.need("accepted")
    form = section.choice("format", Format, Format.JSON)
    if form is Format.QUERY:
        section.complain("format", "is of pushes; an answer is json, form or text")
    inner = section.inner("items", ("path", "by", "key", *_VERDICT))
    items = None
    if inner is not None:
        inner.need("path", "accepted")
        by = inner.choice("by", By, By.INDEX)
        if by is not By.INDEX:
            inner.need("key")
        items = Items(inner.path("path") or Path(()), by, inner.path("key"), _reading(inner))
    elif batch > 1 and "id" in section and not shares_id:
        section.complain(
            "items",
            "is missing: a batch has a verdict for each message. Say where they stand, or, where "
            "one id stands for all of them, `shares_id: true` in `batch`",
        )
    return Answers(
        form,
        section.text("separator") or None,
        _reading(section) if items is None else replace(_reading(section), id=None),
        items,
        top.words("status_classes", ANSWER_CLASSES, '"21211": perm_number'),
        top.flag("national_cn"),
        shares_id,
    )
