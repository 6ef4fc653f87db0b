"""What a provider writes, as one tree: paths to find a value in it, tests of what stands there.

Answers and pushes come as JSON, as a form, in a query, or as plain text. Each is read into the same
tree of mappings, lists and texts, so that one path language finds everything:

    $                    the whole            $.messages[0].status    members and places in lists
    $["a name.of"]       any name             $.messages[*].status    every element's
    $.text $.lines[0] $.parts[1]              of plain text: all, a line, the first line's words

Scalars are texts as the provider wrote them: 0 and "0" are equal, `true` is "true", null is like a
member that is missing. There are no regular expressions: a test compares, looks into a list, or at
how a text begins or what it holds, in time that grows with the text and no faster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl

from sms.errors import ConfigError, RemoteProtocolError

MAX_STEPS: Final = 20
MAX_FIELDS: Final = 10_000  # of a form or a query
MAX_TEXT: Final = 16_384  # characters of a scalar that is looked at

_STEP = re.compile(r"\.([^.\[\]\"'\s]+)|\[([0-9]{1,5})\]|\[(\*)\]|\[\"([^\"]{1,200})\"\]")


class Unreadable(RemoteProtocolError):
    """A body is not what its format says; the text says why and echoes nothing."""


class PathError(ConfigError):
    """A path that cannot be read; the text says what to do."""


class Format(StrEnum):
    """How a body is written."""

    JSON = "json"
    FORM = "form"  # a=1&b=2
    QUERY = "query"  # the same behind the URL's question mark; of a push only
    TEXT = "text"


class _Every:
    """The step `[*]`."""


_EVERY: Final = _Every()
Step = str | int | _Every


@dataclass(frozen=True, slots=True)
class Path:
    """Where a value stands."""

    steps: tuple[Step, ...]

    def every(self, tree: object) -> list[object]:
        """All values there; none where the tree has no such place. null is no value."""
        found = [tree]
        for step in self.steps:
            found = [inner for outer in found for inner in _within(outer, step)]
        return [value for value in found if value is not None]

    def text(self, tree: object) -> str:
        """The first scalar there, as text; "" where there is none."""
        for value in self.every(tree):
            if (text := scalar(value)) is not None:
                return text[:MAX_TEXT]
        return ""


def _within(value: object, step: Step) -> Sequence[object]:
    if isinstance(value, Mapping):
        if isinstance(step, _Every):
            return tuple(value.values())
        return (value[step],) if isinstance(step, str) and step in value else ()
    if isinstance(value, list):
        if isinstance(step, _Every):
            return value
        return (value[step],) if isinstance(step, int) and step < len(value) else ()
    return ()


def parse_path(text: object) -> Path:
    """Read a path; PathError says what is wrong with it."""
    if not isinstance(text, str) or not text.startswith("$"):
        raise PathError("give a path that begins with $, such as $.messages[0].id")
    steps: list[Step] = []
    position = 1
    while position < len(text):
        step = _STEP.match(text, position)
        if step is None:
            raise PathError(
                f'cannot be read from character {position + 1} on; write .name, ["a name"], [0] '
                "or [*]"
            )
        name, place, every, quoted = step.groups()
        steps.append(_EVERY if every else int(place) if place else name or quoted)
        position = step.end()
    if len(steps) > MAX_STEPS:
        raise PathError(f"has more than {MAX_STEPS} steps")
    return Path(tuple(steps))


def scalar(value: object) -> str | None:
    """A scalar as the text it is compared by; None for mappings, lists and null."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value)
    return None


def read_body(body: bytes, form: Format, separator: str | None = None) -> object:
    """The tree of a body; Unreadable when it is not what `form` says.

    `separator` divides the first line of a plain text into `$.parts`; None = white space.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        if form is not Format.TEXT:
            raise Unreadable("it is not UTF-8") from None
        text = body.decode("latin-1")  # the signs that tests look at are ASCII
    if form is Format.JSON:
        return read_json(text)
    if form is Format.TEXT:
        return _plain(text, separator)
    return read_form(text)


def read_json(text: str) -> object:
    """JSON with its numbers as they were written; Unreadable."""
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        raise Unreadable("it is not JSON") from None


def read_form(text: str) -> dict[str, str]:
    """A form or a query: of a name that stands twice the first value; Unreadable."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Unreadable("it has too many fields") from None
    return dict(reversed(pairs))


def _plain(text: str, separator: str | None) -> dict[str, Any]:
    whole = text.strip()
    lines = [line.strip() for line in whole.splitlines()]
    first = lines[0] if lines else ""
    return {
        "text": whole,
        "lines": lines,
        "parts": [part.strip() for part in first.split(separator)],
    }


# -- tests ----------------------------------------------------------------------------------------

# What stands where a condition looks: scalars, and None for a mapping or a list, equal to nothing.
Found = Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of a test: where it looks, and whether what stands there is right."""

    path: Path | None  # None = the HTTP status
    holds: Callable[[Found], bool]


@dataclass(frozen=True, slots=True)
class Test:
    """Alternatives, of which one must hold whole; none = never."""

    alternatives: tuple[tuple[Condition, ...], ...] = ()

    def holds(self, status: int, tree: object) -> bool:
        """Whether it holds. `tree` None = the body could not be read: then only statuses count."""
        return any(_all(conditions, status, tree) for conditions in self.alternatives)

    def about_body(self) -> Test:
        """Those alternatives that look at the body."""
        return Test(tuple(one for one in self.alternatives if any(row.path for row in one)))


def _all(conditions: tuple[Condition, ...], status: int, tree: object) -> bool:
    for row in conditions:
        if row.path is None:
            found: Found = [str(status), f"{status // 100}xx"]
        elif tree is None:
            return False
        else:
            found = [scalar(value) for value in row.path.every(tree)]
        if not row.holds(found):
            return False
    return True


_OPERATORS: Final = ("equals", "in", "not", "exists", "prefix", "contains")


def _compare(operator: str, words: frozenset[str]) -> Callable[[Found], bool]:
    if operator == "exists":
        return lambda found: bool(found) is ("true" in words)
    if operator == "not":
        return lambda found: bool(found) and not any(one is None or one in words for one in found)
    if operator == "prefix":
        starts = tuple(words)
        return lambda found: any(one is not None and one.startswith(starts) for one in found)
    if operator == "contains":
        return lambda found: any(one is not None and word in one for one in found for word in words)
    return lambda found: any(one in words for one in found)


def parse_test(value: object, pointer: str, wrong: list[tuple[str, str]]) -> Test:
    """Read a test: a mapping of conditions that all hold, or a list of such; adds to `wrong`."""
    several = value if isinstance(value, list) else [value]
    found = []
    for index, one in enumerate(several):
        at = f"{pointer}/{index}" if isinstance(value, list) else pointer
        if not isinstance(one, Mapping) or not one:
            wrong.append((at, "give conditions, such as {status: 200, $.code: 0}"))
            continue
        rows = [_condition(name, wanted, at, wrong) for name, wanted in one.items()]
        found.append(tuple(row for row in rows if row is not None))
    if not several:
        wrong.append((pointer, "is empty; give conditions, or leave it out"))
    return Test(tuple(found))


def _condition(
    name: object, wanted: object, pointer: str, wrong: list[tuple[str, str]]
) -> Condition | None:
    at = f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}"
    path = None
    if name != "status":
        try:
            path = parse_path(name)
        except PathError as error:
            wrong.append((at, f"is no condition: `status`, or a path; {error}"))
            return None
    operator, operand = "equals", wanted
    if isinstance(wanted, Mapping):
        if len(wanted) != 1 or next(iter(wanted)) not in _OPERATORS:
            wrong.append((at, f"give a value, a list, or one of {', '.join(_OPERATORS)}"))
            return None
        [(operator, operand)] = wanted.items()
    words = [scalar(one) for one in (operand if isinstance(operand, list) else [operand])]
    is_flag = words in (["true"], ["false"])
    if not words or None in words or (operator == "exists" and not is_flag):
        detail = "true or false" if operator == "exists" else "a value or a list of values"
        wrong.append((at, f"compare with {detail}; null is {{exists: false}}"))
        return None
    return Condition(
        path, _compare(operator, frozenset(word for word in words if word is not None))
    )
