"""JSON as strictly as RELIABILITY section 11 asks, and cheaply where nothing is wrong.

The decoder on the fast path (msgspec) already refuses NaN, lone surrogates, bad UTF-8 and control
characters. It lets two things pass: a name given twice, and an escaped NUL. `is_clean` proves
their absence by counting (0.3 µs); only where the count leaves a doubt, or the decoder said no,
`parse_strict` reads the text again with the exact rules and names what is wrong.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from gateway.api.models import SendRequest
from gateway.api.problems import NAME_LIKE, Problem, ProblemError

MAX_DEPTH = 20
# What no right request reaches; the json module would hold the interpreter for a second.
MAX_MEMBERS = 1_500  # of one object or list: a batch has 1000 messages, metadata 700 members
MAX_TOKENS = 120_000
MAX_BATCH_TOKENS = 2 * MAX_TOKENS  # in all entries of a batch that the decoder does not take
MAX_ESCAPES = 50_000  # in one string: the longest text has 39,015 characters
SURE_BYTES = 1 << 15  # in a larger text a doubt is not settled here, it is parsed
_FIELDS = len(SendRequest.__struct_fields__)
# Only ever run over text that the decoder took, so every string in it ends.
_STRING_AND_COLON = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(?:\s*(:))?')
# A string that never ends matches up to the end of the text, so that the scan stays linear.
_STRING = rf'"[^"\\]*+(?:\\.[^"\\]*+){{0,{MAX_ESCAPES}}}+(?:"|\\?\Z|(\\))'
_NUMBER = r"([-+.0-9eE]{1000})|[-+.0-9eE]++"  # 1000 characters of one are too many
# What stands between is skipped as one run: a search that begins anew at each of 8 million blanks
# holds the interpreter for half a second.
_TOKEN = re.compile(
    rf"[^\[\]{{}},\"\-+.0-9eE]*+(?:([\[\]{{}},])|{_STRING}|{_NUMBER}|\Z)", re.DOTALL
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def is_clean(raw: bytes, entry: SendRequest) -> bool:
    """Whether `raw`, which decoded to `entry`, surely repeats no name and holds no NUL.

    Every name in the text has a colon; as many colons as there are names in `entry` leave none
    for a repeated one. Colons inside values are the doubt that the scan over strings settles.
    """
    names = _FIELDS - msgspec.structs.astuple(entry).count(UNSET)
    if entry.metadata is not UNSET:
        names += len(entry.metadata)
    if entry.variables is not UNSET:
        names += len(entry.variables)
    if raw.count(b":") != names and (
        len(raw) > SURE_BYTES or _STRING_AND_COLON.findall(raw).count(b":") != names
    ):
        return False
    return b"\\u0000" not in raw


class Budget:
    """How many values of one request may yet be read by the exact rules, a microsecond each."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_BATCH_TOKENS


def parse_strict(
    raw: bytes, depth: int = 0, where: str = "", budget: Budget | None = None
) -> object:
    """Parse with the exact rules; raises `ProblemError` (400) that names the broken one.

    `depth` is how deep the text already stands in a larger one, `where` the pointer to it,
    `budget` what it shares with the other parts of that one.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise _refuse("json.not_utf8", where, f"byte {error.start} is not UTF-8") from None
    if not text.strip():
        raise _refuse("json.syntax", where, "there is nothing; send a JSON object")
    if text.startswith("\ufeff"):
        raise _refuse("json.syntax", where, "a byte order mark (BOM) comes first; leave it out")
    most = MAX_TOKENS if budget is None else min(MAX_TOKENS, budget.left)
    read = _check_shape(text, depth, where, most)
    if budget is not None:
        budget.left -= read
    try:
        document: object = json.loads(
            text, object_pairs_hook=_unique_pairs, parse_constant=_no_constant
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise _refuse("json.syntax", where, f"not JSON at {place}") from None
    except _RepeatedNameError as error:
        shown = f"the name `{error.name}`" if NAME_LIKE.fullmatch(error.name) else "a name"
        raise _refuse("json.duplicate_key", where, f"an object gives {shown} twice") from None
    except ValueError:  # NaN, Infinity, or an integer of thousands of digits
        raise _refuse("json.syntax", where, "a number is not one that JSON knows") from None
    if "\\u" in text:
        _check_strings(document, where)
    return document


class _RepeatedNameError(ValueError):
    """An object gives the same name twice."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _unique_pairs(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _RepeatedNameError(next(name for name, count in counts.items() if count > 1))
    return made


def _no_constant(_: str) -> object:
    raise ValueError


def _check_shape(text: str, depth: int, where: str, most: int) -> int:
    """Raise for what would take the parser too deep or too long, at its first sign.

    Returns how many signs and values it has, at most `most`.
    """
    members = [0]  # commas of every open object and list
    count = 0
    for count, token in enumerate(_TOKEN.finditer(text)):
        char = token[1]
        if char is None:
            pass
        elif char == ",":
            members[-1] += 1
        elif char in "[{":
            members.append(0)
            if depth + len(members) - 1 > MAX_DEPTH:
                raise _refuse("json.too_deep", where, f"nested deeper than {MAX_DEPTH} levels")
        elif len(members) > 1:
            members.pop()
        if members[-1] >= MAX_MEMBERS or count > most or (token.lastindex or 0) > 1:
            raise _refuse(
                "json.too_many_values", where, "more or longer values than a request can have"
            )
    return count


def _check_strings(value: object, where: str) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise _refuse("json.nul", where, "a string holds U+0000")
        if _LONE_SURROGATE.search(value):
            raise _refuse("json.surrogate", where, "a string holds half a surrogate pair")
    elif isinstance(value, dict):
        for name, inner in value.items():
            _check_strings(name, where)
            _check_strings(inner, where)
    elif isinstance(value, list):
        for inner in value:
            _check_strings(inner, where)


def _refuse(code: str, where: str, what: str) -> ProblemError:
    place = f"In {where}: " if where else "In the body: "
    return ProblemError(Problem(code, f"{place}{what}."))
