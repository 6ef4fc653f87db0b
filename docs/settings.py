"""docs/settings.md: every setting, from gateway/settings.py.

    python -m docs.settings       write the page anew after a change there

What a setting means is the comment behind its field, with the comment above it in front where
there is one; what it takes is its type.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway import settings

PAGE: Final = Path(__file__).with_suffix(".md")
_SOURCE: Final = Path(settings.__file__)
_CLASS: Final = re.compile(r"class (\w+)")
_FIELD: Final = re.compile(r"    (\w+): ")
_CHAPTER: Final = re.compile(r" \(RELIABILITY [\d, ]+\)")  # readers of the page do not have it
_FAR: Final = 10_000_000
_UNITS: Final = {  # by the end of a name
    "_per_s": "a second",
    "_per_min": "a minute",
    "_s": "seconds",
    "_ms": "milliseconds",
    "_h": "hour of the day",
    **dict.fromkeys(("_share", "_part", "_lower"), "share"),
}

_PLAIN: Final = {bool: "`1` or `0`", Path: "a path", str: "text"}

_HEAD: Final = """# Settings

Every setting of the gateway, made from `gateway/settings.py` by `python -m docs.settings`. They
are environment variables, read once at start: an empty one counts as not set, a mistyped or wrong
one ends the start with its name and the remedy. `smsgw check` reads them too, and tries the
connections. Those one usually needs: [README](../README.md#settings). What belongs to a channel,
route, tenant or endpoint is no setting: [channels](channels.md), [routes](routes.md),
[limits](limits.md), [webhooks](webhooks.md).

A meaning that begins or ends with … goes on from or in the row beside it; "the same" is as in the
row above.
"""
_PROCESS: Final = """
## Processes, addresses, files

| variable | default | takes | meaning |
|---|---|---|---|
"""
_NUMBERS: Final = """
## Numbers of reliability

How long the gateway is patient, how much it keeps in memory, when it leaves a channel and comes
back. They fit together as they are; the tests run with other ones, a gateway seldom needs to.

| variable | default | takes | meaning |
|---|---|---|---|
"""


def meanings(source: str) -> dict[str, dict[str, str]]:
    """By class and field: the comment directly above the field and the one behind it."""
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    found: dict[str, dict[str, str]] = {}
    above: list[str] = []
    name = ""
    for number, line in enumerate(source.splitlines(), 1):
        if opened := _CLASS.match(line):
            name = opened[1]
        if line.strip().startswith("#"):
            above.append(comments[number])
            continue
        if field := _FIELD.match(line):
            words = [" ".join(above).partition("; `")[0].rstrip("."), comments.get(number, "")]
            found.setdefault(name, {})[field[1]] = ": ".join(word for word in words if word)
        above = []
    return found


def _bounds(field: FieldInfo, kind: str) -> str:
    """What a number may be, as `seconds, 0 to 600`; a bound that nobody meets is left out."""
    found = {
        name: bound
        for rule in field.metadata
        for name in ("ge", "gt", "le")
        if (bound := getattr(rule, name, None)) is not None
    }
    least = f"{found['ge']:,}" if "ge" in found else f"more than {found.get('gt', 0):,}"
    if found.get("le", _FAR) >= _FAR:
        return f"{kind}, {least}{' or more' if 'ge' in found else ''}"
    return f"{kind}, {least}{' to ' if 'ge' in found else ', at most '}{found['le']:,}"


def _takes(name: str, field: FieldInfo) -> str:
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    kind = kinds[0] if kinds else field.annotation
    if isinstance(kind, str):  # Literal
        return ", ".join(f"`{value}`" for value in kinds)
    if Ellipsis in kinds:
        return "a list, with commas"
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return ", ".join(f"`{value}`" for value in kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    return _bounds(field, unit or ("whole number" if kind is int else "number"))


def _default(field: FieldInfo) -> str:
    if field.default_factory is settings.default_workers:
        return "three quarters of the cores, at least 1"
    value = field.default
    if value is None or value == ():
        return "–"
    if isinstance(value, tuple):
        value = ",".join(f"{part:g}" for part in value)
    elif isinstance(value, bool):
        value = int(value)
    elif isinstance(value, float):
        value = f"{value:g}"
    return f"`{value}`"


def _rows(model: type[BaseModel], comments: dict[str, str]) -> Iterator[str]:
    is_numbers = model is settings.Reliability
    for name, field in model.model_fields.items():
        if name == "reliability":
            continue
        variable = settings.variable(name)
        if is_numbers:
            variable = settings.RELIABILITY_PREFIX + name.upper()
        text = _CHAPTER.sub("", comments.get(name, "")).replace("None = ", "unset: ")
        yield f"| `{variable}` | {_default(field)} | {_takes(name, field)} | {text} |"


def page() -> str:
    """The whole page."""
    comments = meanings(_SOURCE.read_text("utf-8"))
    process = _rows(settings.Settings, comments["Settings"])
    numbers = _rows(settings.Reliability, comments["Reliability"])
    return _HEAD + _PROCESS + "\n".join(process) + "\n" + _NUMBERS + "\n".join(numbers) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
