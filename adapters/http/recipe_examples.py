"""The examples of a recipe, tried when it is applied: a mistake is seen then and not at night.

    examples:            {status: 200, body: …, means: accepted, id: "…"}     an answer to a send
    receipts.examples:   {body: …, means: DELIVRD, id: "…"}                   a push
    inbound.examples:    {query: …, number: "…", text: "…"}

What stands beside `means` is compared as well. A body may be text, or JSON written as YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from adapters.http.recipe_callback import REPORT_WORDS, Envelope
from adapters.http.recipe_section import Section, Wrong, member
from adapters.http.recipe_settings import Recipe
from adapters.http.recipe_template import json_text
from adapters.http.recipe_values import ALL_SECRETS, HIDDEN
from adapters.http.vendor import Call, CallKind, Reply
from sms.errors import CallRefused
from sms.model import Carrier, Encoding, Filled, Inbound, Message, MessageClass, Report, Submit
from sms.outcomes import NotSent, Outcome, Rejected, Submitted, Throttled, Uncertain

_TEXT: Final = "【Example】Your code is 123456"
_NUMBER: Final = 8613800138000
_MEANINGS: Final = ("accepted", "refused", "throttled", "uncertain")
_ANSWER_NAMES: Final = ("status", "headers", "body", "means", "id", "code", "numbers")
_PUSH_NAMES: Final = (
    *("method", "headers", "query", "body", "means"),
    *("id", "reference", "number", "error", "text", "to"),
)
_PERSONAL: Final = frozenset({"number", "text", "to"})
_OTHERS: Final = " that are others"
_MAX_SHOWN: Final = 80  # characters
_REMEDIES: Final = {"means": "`states`, the path `state`"}
_Read = Callable[[Sequence[Submit], Reply], Sequence[Outcome | None]]


def sample(count: int, numbers: Sequence[str] = ()) -> list[Submit]:
    """Messages to try a recipe with: `msg_0000000000000001-1` to +8613800138000, and so on."""
    found = []
    for index in range(count):
        number = numbers[index] if index < len(numbers) else str(_NUMBER + index)
        message = Message(
            id=index + 1,
            tenant=1,
            message_class=MessageClass.TRANSACTIONAL,
            number=number,
            carrier=Carrier.CM,
            country=86,
            encoding=Encoding.UCS2,
            texts=(_TEXT,),
            valid_until=0.0,
            created_at=0.0,
        )
        filled = Filled("TEMPLATE-1", (("code", "123456"),))
        found.append(
            Submit(
                *(message, 0, 1, number, "10690001", Encoding.UCS2),
                *(_TEXT.encode("utf-16-be"), False, 600),
                filled=filled,
            )
        )
    return found


def find_wrong_examples(raw: Mapping[str, Any], recipe: Recipe, read: _Read) -> Wrong:
    """Which examples are read as something else than they say."""
    wrong: Wrong = []
    told = _Told(raw)
    for index, one in enumerate(raw.get("examples", [])):
        _try_answer(Section(one, f"/examples/{index}", wrong, _ANSWER_NAMES), read, told)
    for kind, envelope in recipe.envelopes.items():
        for index, one in enumerate(raw[kind.value].get("examples", [])):
            at = member(f"/{kind.value}/examples", index)
            section = Section(one, at, wrong, _PUSH_NAMES)
            found = _try_push(section, kind, envelope, recipe)
            if found is not None:
                _compare(section, found, told)
    return wrong


def _try_answer(section: Section, read: _Read, told: _Told) -> None:
    before = len(section.wrong)
    means = section.raw.get("means")
    words = means if isinstance(means, list) else [means]
    if not words or any(word not in _MEANINGS for word in words):
        section.complain("means", f"give one of {', '.join(_MEANINGS)}, or one for each message")
    status = section.raw.get("status", 200)
    if not isinstance(status, int):
        section.complain("status", "give a number, such as 200")
    if len(section.wrong) > before:
        return
    numbers = [str(number) for number in _listed(section.raw.get("numbers", []))]
    reply = Reply(status, _headers(section), _body(section.raw.get("body", "")))
    submits = sample(len(words), numbers)
    for word, submit, said in zip(words, submits, read(submits, reply), strict=True):
        # one that was refused with its whole batch goes again: what it says of one alone counts
        found, shown = _meaning(read([submit], reply)[0] if said is None else said)
        if found != word:
            code = f" with code {told.shown(shown)}" if shown and found != "accepted" else ""
            section.complain("", f"is read as {found}{code}, not as {word}; correct `answer` or it")
        name = "id" if found == "accepted" else "code"
        wanted = [str(one) for one in _listed(section.raw.get(name, shown))]
        if shown not in wanted:
            section.complain(
                name,
                f"another {name} is found: {told.differ(wanted, shown)}; correct the path in "
                "`answer`, or it",
            )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _meaning(outcome: Outcome | None) -> tuple[str, str]:
    """What an outcome is called in an example, and the id or code in it."""
    match outcome:
        case Submitted(carrier_id=carrier_id):
            return "accepted", carrier_id
        case Rejected(code=code):
            return "refused", code
        case Throttled(code=code):
            return "throttled", code
        case Uncertain() | NotSent() | None:
            return "uncertain", ""


def _headers(section: Section) -> dict[str, str]:
    value = section.raw.get("headers", {})
    if not isinstance(value, Mapping):
        section.complain("headers", "give a mapping of names to texts")
        return {}
    return {str(name).lower(): str(text) for name, text in value.items()}


def _body(value: object) -> bytes:
    text = value if isinstance(value, str) else json_text(value)
    return text.encode("utf-8", "replace")


def _try_push(
    section: Section, kind: CallKind, envelope: Envelope, recipe: Recipe
) -> Report | Inbound | None:
    """What an example of a push brings, to be compared; None with what is wrong noted."""
    query = section.text("query")
    means = section.raw.get("means")
    if kind is CallKind.RECEIPTS and means is not None and not isinstance(means, str):
        section.complain("means", f"give one of {', '.join(REPORT_WORDS)}, or `nothing`")
        return None
    method = section.text("method", "GET" if query else "POST")
    url = f"https://sms.example.com/?{query}"
    body = _body(section.raw.get("body", ""))
    call = Call(kind, method, url, _headers(section), body, 0.0)
    try:
        items = replace(envelope, proof=None).open(call, {})
    except CallRefused as refusal:
        section.complain("", f"is refused: {refusal.detail}")
        return None
    found: list[Report | Inbound] = []
    for item in items:
        paths = recipe.reports if kind is CallKind.RECEIPTS else recipe.texts
        one = paths.read(item, 0) if paths is not None else None
        found.extend((one,) if one is not None else ())
    if means == "nothing":
        if found:
            section.complain("means", "something is found in it; correct `only`, or it")
    elif not found:
        section.complain("", "nothing is found in it; correct the paths, or it")
    else:
        return found[0]
    return None


def _compare(section: Section, found: Report | Inbound, told: _Told) -> None:
    names = {"id": "carrier_id", "number": "number", "text": "text", "to": "to"}
    names |= {"means": "state", "reference": "reference", "error": "error"}
    for name, attribute in names.items():
        wanted = section.raw.get(name)
        is_there = getattr(found, attribute, None)
        if wanted is not None and str(wanted) != is_there:
            is_open = name not in _PERSONAL
            how = told.differ([str(wanted)], is_there) if is_open else _sizes(wanted, is_there)
            remedy = _REMEDIES.get(name, "the paths")
            section.complain(name, f"something else is found there: {how}; correct {remedy}, or it")


class _Told:
    """Values of an example as a complaint may show them: short, of one line, no secret in them."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._secrets = [str(raw[name]) for name in ALL_SECRETS if raw.get(name)]

    def shown(self, value: object) -> str:
        """One value."""
        text = str(value) if value not in (None, "") else ""
        if not text:
            return "nothing"
        if any(secret in text for secret in self._secrets):
            return HIDDEN
        return json_text(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")

    def differ(self, wanted: Sequence[str], found: object) -> str:
        """What was expected, and what was found."""
        expected = " or ".join(self.shown(one) for one in wanted)
        return f"expected {expected}, found {self.shown(found)}"


def _sizes(wanted: object, found: object) -> str:
    """The same of what is somebody's: numbers and texts are never shown."""
    counts = [f"{len(str(one))} characters" if one else "nothing" for one in (wanted, found)]
    return f"expected {counts[0]}, found {counts[1]}{_OTHERS if counts[0] == counts[1] else ''}"
