"""Read a YAML file so that every complaint can name its line.

Values are plain: mappings, lists, strings, numbers, booleans, null. What would be read as
something else than it looks (a name given twice, a merge key, a foreign tag) is a complaint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 1 << 20
_MAX_DEPTH = 20
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")  # 1:30 reads as 90
_MAX_NODES = 200_000  # aliases are written out: a small file must not become a huge document


@dataclass(frozen=True, slots=True, order=True)
class Complaint:
    """One thing that is wrong: where (line from 1, RFC 6901 pointer) and what to do."""

    line: int
    pointer: str
    detail: str
    code: str = field(default="field.value", compare=False)  # what the API calls it


class Lines:
    """Which line a pointer's value stands on."""

    def __init__(self) -> None:
        self._lines: dict[str, int] = {"": 1}

    def put(self, pointer: str, line: int) -> None:
        """Note a line, counted from 1."""
        self._lines[pointer] = line

    def find(self, pointer: str) -> int:
        """The line of the value, or of the nearest thing around it."""
        while pointer not in self._lines:
            pointer = pointer.rpartition("/")[0]
        return self._lines[pointer]


_TOO_MUCH = "too deeply nested, or too many values; write it plainly, without aliases"


class _TooMuchError(Exception):
    """The document is nested too deeply or has too many values."""


def member(pointer: str, name: object) -> str:
    """The pointer to a member (RFC 6901, section 3)."""
    return f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}"


def read_yaml(text: str) -> tuple[object, Lines, list[Complaint]]:
    """The document, the lines of its values, and what is wrong with its form."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        detail = f"the file is larger than {MAX_BYTES} bytes; divide it into several"
        return None, Lines(), [Complaint(1, "", detail)]
    reader = _Reader(text)
    try:
        return reader.read(), reader.lines, reader.complaints
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        reader.complaints.append(Complaint(line, "", f"not YAML: {_remedy(error)}"))
    except yaml.YAMLError:
        detail = "not YAML: it holds characters that YAML does not allow"
        reader.complaints.append(Complaint(1, "", detail))
    except _TooMuchError:
        reader.complaints.append(Complaint(1, "", _TOO_MUCH))
    except RecursionError:  # of the parser, before there is a document to measure
        reader.complaints.append(Complaint(reader.line(), "", _TOO_MUCH))
    return None, reader.lines, reader.complaints


# What the parser says in the usual cases, and what to do about it; the first that fits.
_CHECK_FORM = "check brackets, commas and indentation above this line"
_REMEDIES = (
    ("'\\t'", "a tab stands here; indent with spaces"),
    ("alias", 'a value begins with * and has no quotes; write "*"'),
    ("anchor", "a value begins with & and has no quotes; put it in quotes"),
    (
        "mapping values are not allowed",
        "a : stands where none may; indent the fields of one object alike, and put a text that "
        "holds ': ' in quotes",
    ),
    ("could not find expected ':'", "a name without `:` after it; write `name: value`"),
    ("expected ',' or", f"a list or object is not closed; {_CHECK_FORM}"),
    ("expected <block end>", f"this does not belong to what stands above; {_CHECK_FORM}"),
    ("cannot start any token", "a value begins with a sign of YAML's own; put it in quotes"),
)


def _remedy(error: yaml.MarkedYAMLError) -> str:
    """What is wrong and what to do."""
    told = f"{error.context or ''} {error.problem or ''}"
    for words, remedy in _REMEDIES:
        if words in told:
            return remedy
    return f"{error.problem}; check quotes, brackets and indentation"


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines = Lines()
        self.complaints: list[Complaint] = []
        self._text = text
        self._nodes = 0

    def read(self) -> object:
        self._loader = yaml.SafeLoader(self._text)
        try:
            node = self._loader.get_single_node()
            return None if node is None else self._value(node, "", 0)
        finally:
            self._loader.dispose()

    def line(self) -> int:
        """Where the parser stands, counted from 1."""
        line: int = self._loader.line
        return line + 1

    def _value(self, node: yaml.Node, pointer: str, depth: int) -> object:
        self._nodes += 1
        if depth > _MAX_DEPTH or self._nodes > _MAX_NODES:
            raise _TooMuchError
        self.lines.put(pointer, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, pointer, depth)
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(inner, member(pointer, index), depth + 1)
                for index, inner in enumerate(node.value)
            ]
        if node.tag in _NUMBERS and _SEXAGESIMAL.fullmatch(node.value):
            detail = "is read to the base 60; write it as a plain number, or put it in quotes"
            self._complain(node, pointer, detail)
            return None
        try:
            return self._loader.construct_object(node, deep=True)
        # PyYAML's constructors trust their tag: `!!int ""`, `!!bool x` and `!!timestamp x` end in
        # these.
        except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError):
            self._complain(node, pointer, "not a plain value; put it in quotes")
            return None

    def _mapping(self, node: yaml.MappingNode, pointer: str, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, inner in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is None or name == "<<":
                self._complain(key, pointer, "a name must be plain text; merge keys are not read")
                continue
            at = member(pointer, name)
            if name in made:
                self._complain(key, at, "stands here twice; remove one of the two")
                continue
            made[name] = self._value(inner, at, depth + 1)
            self.lines.put(at, key.start_mark.line + 1)
        return made

    def _complain(self, node: yaml.Node, pointer: str, detail: str) -> None:
        self.complaints.append(Complaint(node.start_mark.line + 1, pointer, detail))
