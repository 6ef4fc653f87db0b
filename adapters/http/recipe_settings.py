"""A recipe as a whole: every part of it read, what is wrong with it, its examples tried.

Which settings there are says docs/vendors-http.md; what a part means, the file that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from adapters import checks
from adapters.http import settings
from adapters.http.recipe_answer import ANSWER_NAMES, Answers, parse_answers
from adapters.http.recipe_callback import (
    ENVELOPE_NAMES,
    REPORT_NAMES,
    TEXT_NAMES,
    Envelope,
    ReportPaths,
    TextPaths,
    parse_envelope,
    parse_reports,
    parse_texts,
)
from adapters.http.recipe_query import TELLING_NAMES, Tellings, parse_tellings
from adapters.http.recipe_request import (
    EACH,
    REQUEST_NAMES,
    Known,
    Plan,
    Values,
    item_maker,
    parse_plan,
)
from adapters.http.recipe_section import Section, Wrong, member
from adapters.http.recipe_tree import Format, Path, Test
from adapters.http.recipe_values import (
    ACCOUNT,
    ACCOUNT_PLACES,
    MESSAGE,
    QUESTION,
    REQUEST,
    SECRETS,
    UNIQUE,
    Account,
)
from adapters.http.vendor import CallKind

PROTOCOL: Final = "a channel of protocol http"
MAX_EXAMPLES: Final = 50
_SOURCE = "as the provider gave it"


def _part(value: object) -> str | None:
    return None if isinstance(value, Mapping) else "give a mapping; see docs/vendors-http.md"


def _list(value: object) -> str | None:
    is_good = isinstance(value, list) and len(value) <= MAX_EXAMPLES
    return None if is_good else f"give a list of at most {MAX_EXAMPLES} examples"


# name → check of its outer form; what is inside is read by `read_recipe`
_CHECKS: Final[Mapping[str, checks.Check]] = {
    **dict.fromkeys(ACCOUNT, checks.string(1, 255, _SOURCE)),
    **dict.fromkeys(SECRETS, checks.string(1, 4096, _SOURCE)),
    **dict.fromkeys(("send", "answer", "receipts", "inbound", "query", "status_classes"), _part),
    "national_cn": checks.flag,
    "one_callback": checks.flag,
    "examples": _list,
}
_SEND: Final = (*REQUEST_NAMES, "encoding_words", "batch")
_BATCH: Final = ("max", EACH, "joint", "shares_id")
_PULL: Final = (*REQUEST_NAMES, "format", "items", "only")


@dataclass(frozen=True, slots=True)
class Sending:
    """How messages leave: the request, and how one of a batch is written in it."""

    plan: Plan
    encoding_words: Mapping[str, str]
    batch: int = 1
    each: Callable[[Values], object] | None = None
    each_names: frozenset[str] = frozenset()
    joint: str = ","

    @property
    def names(self) -> frozenset[str]:
        """Every place in it."""
        return self.plan.names | self.each_names


@dataclass(frozen=True, slots=True)
class Pulling:
    """How what was not pushed is fetched."""

    plan: Plan
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a channel's configuration says of its provider."""

    sending: Sending
    answers: Answers
    account: Account
    envelopes: Mapping[CallKind, Envelope]
    reports: ReportPaths | None
    texts: TextPaths | None
    pulls: Mapping[CallKind, Pulling]
    question: Plan | None
    tellings: Tellings | None
    one_callback: bool
    used: frozenset[str]  # places of the account and of messages that stand in any request


def outer_wrong(raw: Mapping[str, object]) -> Wrong:
    """What is wrong with the settings' names and forms, the parts' insides excepted."""
    pushes = [raw[kind.value] for kind in CallKind if isinstance(raw.get(kind.value), Mapping)]
    is_signed = all(isinstance(one, Mapping) and "verify" in one for one in pushes)
    wrong = settings.find_wrong(raw, _CHECKS, ("send", "answer"), PROTOCOL, is_signed=is_signed)
    return wrong + [found for name in _CHECKS for found in _unquoted(raw.get(name), f"/{name}")]


def _unquoted(value: object, pointer: str) -> Wrong:
    """Names that are no text: stored as JSON they would come back as another name."""
    if isinstance(value, list):
        inner = [_unquoted(one, f"{pointer}/{index}") for index, one in enumerate(value)]
        return [found for one in inner for found in one]
    if not isinstance(value, Mapping):
        return []
    wrong = [
        (member(pointer, name), "put this name in quotes")
        for name in value
        if not isinstance(name, str)
    ]
    for name, inner_value in value.items():
        wrong += _unquoted(inner_value, member(pointer, name))
    return wrong


def read_recipe(raw: Mapping[str, Any], channel: int, wrong: Wrong) -> Recipe:
    """Read everything; what is wrong is added to `wrong`, and then the recipe is not to be used."""
    top = Section(raw, "", [], {*_CHECKS, *settings.COMMON})  # names are `outer_wrong`'s to judge
    top.wrong = wrong
    account = Account(raw)
    known = Known(
        MESSAGE | REQUEST | ACCOUNT_PLACES,
        ACCOUNT_PLACES,
        REQUEST | ACCOUNT_PLACES,
        top.raw["url"] if isinstance(top.raw.get("url"), str) else "",
    )
    sending, shares_id = _sending(_inner(top, "send", _SEND), known)
    answer = _inner(top, "answer", ANSWER_NAMES)
    answers = parse_answers(answer, top, batch=sending.batch, shares_id=shares_id)
    reader = _Pushes(top, known, shares_id=shares_id)
    reports, texts = reader.receipts(), reader.inbound()
    has_ids = "id" in answer or "items" in answer
    plan, tellings = _query(top, known, channel, has_ids=has_ids, shares_id=shares_id)
    plans = [
        sending.plan,
        *(pull.plan for pull in reader.pulls.values()),
        *([plan] if plan else []),
    ]
    used = sending.each_names.union(
        *(one.names for one in plans),
        *(one.proof.names for one in reader.envelopes.values() if one.proof is not None),
    )
    _need_what_is_used(top, used - account.given)
    return Recipe(
        sending,
        answers,
        account,
        reader.envelopes,
        reports,
        texts,
        reader.pulls,
        plan,
        tellings,
        top.flag("one_callback"),
        used,
    )


def _inner(top: Section, name: str, known: tuple[str, ...]) -> Section:
    """A part that must be there; that it is missing says `outer_wrong`."""
    value = top.raw.get(name)
    return Section(value if isinstance(value, Mapping) else {}, f"/{name}", top.wrong, known)


def _need_what_is_used(top: Section, used: frozenset[str]) -> None:
    """Settings that a template wants and that are not given."""
    for name in sorted(used & ACCOUNT_PLACES):
        hint = f" (or {name}_file)" if name not in ACCOUNT else ""
        top.complain(name, f"is missing{hint}; a template uses {{{name}}}")
    addresses = sorted(used & {"callback_url", "inbound_url"})
    if addresses and "public_url" not in top:
        top.complain("public_url", f"is missing; {{{addresses[0]}}} is made from it")


def _sending(section: Section, known: Known) -> tuple[Sending, bool]:
    inner = section.inner("batch", _BATCH)
    words = section.raw.get("encoding_words", {})
    is_good = isinstance(words, Mapping) and all(
        name in ("gsm7", "ucs2") and isinstance(word, str) for name, word in words.items()
    )
    if not is_good:
        section.complain("encoding_words", "give texts for gsm7 and ucs2")
        words = {}
    if inner is None:
        return Sending(parse_plan(section, known), words), False
    inner.need("max", EACH)
    plan = parse_plan(section, replace(known, all=known.all | {EACH}))
    if EACH not in plan.names:
        section.complain("batch", "has no place in the request; write {each} where it goes")
    for name in sorted(plan.names & (UNIQUE | {"number", "number_plus", "number_national"})):
        section.complain(
            "batch",
            f"{{{name}}} stands outside `each`, so that no two messages could share a request; "
            "move it into `each`",
        )
    kind = plan.kind or "form"
    make, names = item_maker(inner, known, kind)
    most = inner.checked("max", checks.integer(2, settings.MAX_BATCH), 2)
    sending = Sending(plan, words, most, make, names, inner.text("joint", ","))
    return sending, inner.flag("shares_id")


class _Pushes:
    """Reads `receipts` and `inbound`: pushed, pulled, or both."""

    def __init__(self, top: Section, known: Known, *, shares_id: bool) -> None:
        self.envelopes: dict[CallKind, Envelope] = {}
        self.pulls: dict[CallKind, Pulling] = {}
        self._top = top
        self._known = known
        self._shares_id = shares_id
        self._national_cn = top.raw.get("national_cn") is True

    def receipts(self) -> ReportPaths | None:
        """Where reports' parts stand."""
        section = self._open(CallKind.RECEIPTS, REPORT_NAMES)
        if section is None:
            return None
        return parse_reports(section, national_cn=self._national_cn, shares_id=self._shares_id)

    def inbound(self) -> TextPaths | None:
        """Where texts' parts stand."""
        section = self._open(CallKind.INBOUND, TEXT_NAMES)
        return None if section is None else parse_texts(section, national_cn=self._national_cn)

    def _open(self, kind: CallKind, own: tuple[str, ...]) -> Section | None:
        if not isinstance(self._top.raw.get(kind.value), Mapping):
            return None
        section = self._top.inner(kind.value, (*ENVELOPE_NAMES, *own, "pull", "examples"))
        if section is None:
            return None
        envelope = parse_envelope(section, self._known.account)
        self.envelopes[kind] = envelope
        pull = section.inner("pull", _PULL)
        if pull is not None:
            self.pulls[kind] = self._pulling(pull, envelope)
        if "examples" in section:
            section.checked("examples", _list, [])
        return section

    def _pulling(self, section: Section, envelope: Envelope) -> Pulling:
        known = replace(self._known, all=self._known.request)
        items, only = section.path("items"), section.test("only")
        form = section.choice("format", Format, Format.JSON)
        pulled = replace(
            envelope,
            form=form,
            json_field="",
            items=items or Path(()),
            only=only if "only" in section else Test(),
        )
        return Pulling(parse_plan(section, known), pulled)


def _query(
    top: Section, known: Known, channel: int, *, has_ids: bool, shares_id: bool
) -> tuple[Plan | None, Tellings | None]:
    if not isinstance(top.raw.get("query"), Mapping):
        return None, None
    section = top.inner("query", (*REQUEST_NAMES, "answer"))
    if section is None:
        return None, None
    section.need("answer")
    plan = parse_plan(section, replace(known, all=known.request | QUESTION))
    if not plan.names & QUESTION:
        section.complain("", f"names no message; use one of {', '.join(sorted(QUESTION))}")
    answer = section.inner("answer", TELLING_NAMES)
    if answer is None:
        return plan, None
    national_cn = top.raw.get("national_cn") is True
    tellings = parse_tellings(
        answer, channel, national_cn=national_cn, has_ids=has_ids, shares_id=shares_id
    )
    return plan, tellings
