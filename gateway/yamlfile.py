"""Read a YAML file so that every complaint can name its line.

Values are plain: mappings, lists, strings, numbers, booleans, null. What would be read as
something else than it looks (a name given twice, a merge key, a foreign tag) is a complaint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

_MAX_DEPTH = 20
_MAX_NODES = 200_000  # aliases are written out: a small file must not become a huge document


@dataclass(frozen=True, slots=True, order=True)
class Complaint:
    """One thing that is wrong: where (line from 1, RFC 6901 pointer) and what to do."""

    line: int
    pointer: str
    detail: str


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


class _TooMuchError(Exception):
    """The document is nested too deeply or has too many values."""


def member(pointer: str, name: object) -> str:
    """The pointer to a member (RFC 6901, section 3)."""
    return f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}"


def read_yaml(text: str) -> tuple[object, Lines, list[Complaint]]:
    """The document, the lines of its values, and what is wrong with its form."""
    reader = _Reader(text)
    try:
        return reader.read(), reader.lines, reader.complaints
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        reader.complaints.append(Complaint(line, "", f"not YAML: {error.problem}"))
    except yaml.YAMLError:
        detail = "not YAML: it holds characters that YAML does not allow"
        reader.complaints.append(Complaint(1, "", detail))
    except _TooMuchError:
        detail = "too deeply nested, or too many values; write it plainly, without aliases"
        reader.complaints.append(Complaint(1, "", detail))
    return None, reader.lines, reader.complaints


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
        try:
            return self._loader.construct_object(node, deep=True)
        except (yaml.constructor.ConstructorError, ValueError):
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
