"""Registered texts with variables, and the same texts as vendors' templates ("twins").

    fill:   template + values ─▶ text                    at the door
    match:  text ─▶ template + values ─▶ vendor's code   when a vendor sends templates only

Nothing of a template is stored with a message: its text says which one it is. Where a text can be
read in more than one way any of them is right, because the vendor puts the same values back into
the same words. A match takes time in proportion to the text, for each literal of the template,
and a look through all templates ends after MAX_PLACES: it runs where everything else waits.
Pure: nothing here knows signatures, routes or the store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sms.model import Filled, MessageClass, OnUncertain

MAX_VALUE = 200  # characters of one value
MAX_VARIABLES = 20
MAX_TEXT = 1000  # characters, the variables' names included
MAX_NAME = 32  # of a variable
MAX_TEMPLATES = 1000  # of one tenant, and as many of everybody's: all may be tried on a text
# Places of literals that one text is looked at with, over all templates: about 5 ms. Texts whose
# values do not hold the words that follow them need none.
MAX_PLACES = 5_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_BRACED = re.compile(r"\{([^{}]*)\}")
# Line ends too: no vendor takes them in a value.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Fault(NamedTuple):
    """What is wrong with the values for a template: of which variable, and what to do."""

    name: str
    code: str  # missing, unknown or value
    detail: str


@dataclass(frozen=True, slots=True)
class Twin:
    """The template as one vendor has it: its code there, and the variables in its order."""

    code: str
    order: tuple[str, ...]


class Places:
    """How many places of literals may still be looked at."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_PLACES


@dataclass(frozen=True, slots=True)
class Template:
    """One registered text. `twins` are by channel id; `tenant` 0 = every tenant may use it."""

    id: int
    name: str
    tenant: int
    message_class: MessageClass
    text: str
    twins: Mapping[int, Twin] = field(default_factory=dict)
    on_uncertain: OnUncertain | None = None  # of its messages that do not say; None = the tenant's

    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    literals: tuple[str, ...] = field(init=False, repr=False, compare=False)  # one more than names

    def __post_init__(self) -> None:
        """Take the text apart once."""
        parts = _BRACED.split(self.text)
        object.__setattr__(self, "literals", tuple(parts[::2]))  # frozen for everybody else
        object.__setattr__(self, "names", tuple(parts[1::2]))

    def fill(self, values: Mapping[str, str]) -> str | list[Fault]:
        """The text with the values in it, or everything that is wrong with them."""
        faults = [*self._missing(values), *self._wrong(values)]
        if faults:
            return faults
        found = [self.literals[0]]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            found += values[name], literal
        return "".join(found)

    def _missing(self, values: Mapping[str, str]) -> Iterator[Fault]:
        for name in self.names:
            if name not in values:
                detail = f"the template has the variable `{name}`; give its value"
                yield Fault(name, "missing", detail)

    def _wrong(self, values: Mapping[str, str]) -> Iterator[Fault]:
        known = ", ".join(self.names) or "none"
        for name, value in values.items():
            if name not in self.names:
                detail = f"the template has no such variable; remove it: there are {known}"
                yield Fault(name, "unknown", detail)
            elif not 1 <= len(value) <= MAX_VALUE:
                detail = f"`{name}` has {len(value)} characters; send 1 to {MAX_VALUE}"
                yield Fault(name, "value", detail)
            elif _CONTROLS.search(value):
                detail = f"`{name}` has a line end or another control character; remove it"
                yield Fault(name, "value", detail)

    def match(self, text: str, places: Places | None = None) -> dict[str, str] | None:
        """Values that `fill` makes this very text of; None when there are none.

        Also None where `places`, shared by the matches of one look, are used up.
        """
        first, *rest = self.literals
        if not text.startswith(first):
            return None
        if not rest:
            return {} if text == first else None
        if not text.endswith(rest[-1]):
            return None
        ends = self._ends(text, len(first), rest, places or Places())
        if ends is None:
            return None
        values: dict[str, str] = {}
        start = len(first)
        for name, literal, end in zip(self.names, rest, ends, strict=True):
            values[name] = text[start:end]
            start = end + len(literal)
        return values

    def _ends(
        self, text: str, start: int, literals: Sequence[str], places: Places
    ) -> list[int] | None:
        """Where each value ends: the nearest literal is tried first, then every other one."""
        last = len(text) - len(literals[-1])
        at, found = start, list[int]()
        for literal in literals[:-1]:
            end = text.find(literal, at + 1, last)
            if end < 0:
                return None  # not in order, however one reads it
            found.append(end)
            at = end + len(literal)
        found.append(last)
        starts = [start, *(end + len(lit) for end, lit in zip(found, literals, strict=False))]
        if all(_is_value(text, begin, end) for begin, end in zip(starts, found, strict=False)):
            return found
        return _all_ends(text, start, literals, places)

    @property
    def weight(self) -> int:
        """Characters that are its own: of two that match, the one with more says more."""
        return sum(map(len, self.literals))


def _is_value(text: str, start: int, end: int) -> bool:
    return 1 <= end - start <= MAX_VALUE and _CONTROLS.search(text, start, end) is None


def _all_ends(text: str, start: int, literals: Sequence[str], places: Places) -> list[int] | None:
    """Where each value ends, by every place where a value may begin; None without `places`.

    For a value that ends at a place the nearest beginning before it is the best one: if that is
    too far, or has a control character behind it, so is and has every earlier one. So each literal
    is looked for once, and each place remembers one beginning.
    """
    last = len(text) - len(literals[-1])
    begins = [start]  # of the value looked for, in order
    steps: list[dict[int, int]] = []  # for each value: its end → its beginning
    for number, literal in enumerate(literals):
        is_last = number == len(literals) - 1
        found = [last] if is_last else _places(text, literal, begins[0] + 1, last)
        step: dict[int, int] = {}
        nearest = 0
        for end in found:
            places.left -= 1
            if places.left < 0:
                return None
            while nearest + 1 < len(begins) and begins[nearest + 1] < end:
                nearest += 1
            if _is_value(text, begins[nearest], end):
                step[end] = begins[nearest]
        if not step:
            return None
        steps.append(step)
        begins = [end + len(literal) for end in step]
    ends = [last]
    for number in range(len(steps) - 1, 0, -1):
        ends.append(steps[number][ends[-1]] - len(literals[number - 1]))
    return ends[::-1]


def _places(text: str, literal: str, start: int, stop: int) -> Iterator[int]:
    """Where a literal stands, overlapping too; it must end before `stop`."""
    at = text.find(literal, start, stop)
    while at >= 0:
        yield at
        at = text.find(literal, at + 1, stop)


def text_refusal(text: str) -> str | None:
    """What is wrong with the text of a template, and what to do; None when nothing is."""
    parts = _BRACED.split(text)
    literals, names = parts[::2], parts[1::2]
    if not 1 <= len(text) <= MAX_TEXT or text.isspace():
        return f"must have 1 to {MAX_TEXT} characters, not only white space"
    if _CONTROLS.search(text.replace("\n", "")):
        return "holds a control character; remove it: only line ends may stand there"
    if any(char in "【】" for char in text):
        return "holds 【 or 】; remove them: the signature is put in front when it is sent"
    if any("{" in literal or "}" in literal for literal in literals):
        return "has a brace that belongs to no variable; write variables as {name}"
    return _names_refusal(names, literals)


def _names_refusal(names: Sequence[str], literals: Sequence[str]) -> str | None:
    if not all(_NAME.fullmatch(name) for name in names):
        return (
            "has a variable that is not named well; write {name} with letters, digits and _, not "
            f"with a digit in front, at most {MAX_NAME} characters"
        )
    if len(names) > MAX_VARIABLES:
        return f"has {len(names)} variables; at most {MAX_VARIABLES} are possible"
    if len(set(names)) != len(names):
        return "has a variable twice; give each place a name of its own"
    if not all(literals[1:-1]):
        return "has two variables side by side; put text between them, or make them one"
    return None


def names_in(text: str) -> list[str]:
    """The variables of a text that is a template's, in its order."""
    return _BRACED.split(text)[1::2]


class Book:
    """The templates of one configuration, so that a text's is found without asking each."""

    def __init__(self, templates: Iterable[Template] = ()) -> None:
        self._by_start: dict[tuple[int, MessageClass, str], list[Template]] = {}
        # The owner's before everybody's, then what says more, then the older one.
        for one in sorted(templates, key=lambda one: (not one.tenant, -one.weight, one.id)):
            if one.twins:  # no other is ever looked for
                key = one.tenant, one.message_class, one.literals[0][:1]
                self._by_start.setdefault(key, []).append(one)

    def candidates(self, tenant: int, message_class: MessageClass, text: str) -> Iterator[Template]:
        """Templates that the text may be of, the best one first."""
        for owner in (tenant, 0) if tenant else (0,):
            for start in (text[:1], "") if text else ("",):
                yield from self._by_start.get((owner, message_class, start), ())


class Look:
    """One message's look through a book, for all channels and all that its text may be.

    No template is tried twice on the same text, and all of it together takes at most MAX_PLACES.
    """

    def __init__(self, book: Book, tenant: int, message_class: MessageClass) -> None:
        self._book = book
        self._whose = tenant, message_class
        self._places = Places()
        self._known: dict[tuple[int, str], dict[str, str] | None] = {}

    def twin(self, channel: int, text: str) -> Filled | None:
        """The text as the channel's vendor has it; None when it has it not."""
        for template in self._book.candidates(*self._whose, text):
            twin = template.twins.get(channel)
            values = None if twin is None else self._values(template, text)
            if twin is not None and values is not None:
                return Filled(twin.code, tuple((name, values[name]) for name in twin.order))
        return None

    def _values(self, template: Template, text: str) -> dict[str, str] | None:
        key = template.id, text
        if key not in self._known:
            self._known[key] = template.match(text, self._places)
        return self._known[key]
