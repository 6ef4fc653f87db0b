"""The generic HTTP channel's templates: text with places, and nothing that could run.

    {text}            a place: the value of that name
    {text|json}       through a filter; several are applied from left to right
    {{ and }}         a brace

There is no arithmetic, no attribute, no condition and no loop. A template is read once, when the
channel is made; an unknown place or filter is an error then, with the nearest names. Rendering
joins strings and cannot fail. Where a value ends up decides how it is escaped: members of JSON,
forms, queries and paths by their own rules, by whoever writes those (`recipe_request`). Only a raw
text body has no rules of its own, so there a filter must stand.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

from sms.errors import ConfigError

MAX_TEMPLATE: Final = 4096  # characters
# Filters that change the kind of a JSON or form member instead of its text; only alone in one.
OPTIONAL: Final = "optional"  # the member is left out when the value is empty
INTEGER: Final = "int"  # a JSON number
MEMBER_FILTERS: Final = frozenset({OPTIONAL, INTEGER})

# What others call our places; by spelling alone {message} would be {message_id}.
_CALLED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("message", "msg", "content", "body", "sms"), "text"),
    **dict.fromkeys(("to", "phone", "mobile", "msisdn", "recipient", "destination"), "number"),
    **dict.fromkeys(("from", "source", "sender_id", "sign"), "sender"),
    **dict.fromkeys(("id", "ref", "client_ref"), "reference"),
    **dict.fromkeys(("key", "apikey", "token"), "api_key"),
}
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SPACES = re.compile(r"\s*\|\s*")


class TemplateError(ConfigError):
    """A template that cannot be read; the text says what to do."""


def octets(text: str) -> bytes:
    """UTF-8; an octet that came in undecodable (`surrogateescape`) goes out as it came."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, which no body can hold
        return text.encode("utf-8", "replace")


def hexed(text: str, encoding: str) -> str:
    """The text's octets as upper case hex digits."""
    return text.encode(encoding, "replace").hex().upper()


def json_text(value: object) -> str:
    """Compact JSON, characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_FILTERS: Final[Mapping[str, Callable[[str], str]]] = {
    "urlencode": lambda text: quote(octets(text), safe=""),
    "json": lambda text: json_text(text)[1:-1],  # what stands between the quotes
    "xml": lambda text: escape(text, {'"': "&quot;", "'": "&apos;"}),
    "raw": lambda text: text,
    "upper": str.upper,
    "lower": str.lower,
    "base64": lambda text: base64.b64encode(octets(text)).decode("ascii"),
    "hex_utf8": lambda text: octets(text).hex().upper(),
    "hex_utf16": lambda text: hexed(text, "utf-16-be"),
    "md5": lambda text: hashlib.md5(octets(text), usedforsecurity=False).hexdigest(),
    "sha1": lambda text: hashlib.sha1(octets(text), usedforsecurity=False).hexdigest(),
    "sha256": lambda text: hashlib.sha256(octets(text)).hexdigest(),
}
FILTERS: Final = frozenset(_FILTERS) | MEMBER_FILTERS
# What makes any text safe inside a raw text body (or says that its author knows better).
ESCAPES: Final = frozenset(
    {"urlencode", "json", "xml", "raw", "base64", "hex_utf8", "hex_utf16", "md5", "sha1", "sha256"}
)


@dataclass(frozen=True, slots=True)
class Place:
    """One place: whose value, through which filters of text, and how it is a member."""

    name: str
    filters: tuple[str, ...] = ()
    member: frozenset[str] = frozenset()  # of MEMBER_FILTERS

    def text(self, values: Mapping[str, str]) -> str:
        """The value, filtered."""
        text = values[self.name]
        for name in self.filters:
            text = _FILTERS[name](text)
        return text


@dataclass(frozen=True, slots=True)
class Template:
    """A template that was read: literal texts and places."""

    parts: tuple[str | Place, ...]

    @property
    def names(self) -> frozenset[str]:
        """The names of its places: what `render` needs values for."""
        return frozenset(part.name for part in self.parts if isinstance(part, Place))

    @property
    def places(self) -> tuple[Place, ...]:
        """Its places in order."""
        return tuple(part for part in self.parts if isinstance(part, Place))

    @property
    def sole(self) -> Place | None:
        """Its place, when it is nothing but one."""
        only = self.parts[0] if len(self.parts) == 1 else None
        return only if isinstance(only, Place) else None

    def render(self, values: Mapping[str, str]) -> str:
        """The text; `values` has one for each of `names`."""
        return "".join(part if isinstance(part, str) else part.text(values) for part in self.parts)


def parse_template(
    text: str, known: Collection[str], *, prefix: str = "", is_member: bool = False
) -> Template:
    """Read a template whose places may be `known`, or begin with `prefix` where one is given.

    `is_member`: it is a member of JSON, a form or a query, where `optional` and `int` may stand.
    Raises TemplateError.
    """
    if len(text) > MAX_TEMPLATE:
        raise TemplateError(f"is longer than {MAX_TEMPLATE} characters; shorten it")
    parts: list[str | Place] = []
    literal, position = "", 0
    for token in _TOKEN.finditer(text):
        literal += text[position : token.start()]
        position = token.end()
        if token[1] is not None:
            place = _place(token[1], known, prefix)
            parts.extend((literal, place) if literal else (place,))
            literal = ""
        elif len(token[0]) == 2:  # a doubled brace
            literal += token[0][0]
        else:
            raise TemplateError(
                f"has a `{token[0]}` without its partner; write `{token[0] * 2}` for a brace"
            )
    literal += text[position:]
    if literal:
        parts.append(literal)
    template = Template(tuple(parts))
    if any(place.member for place in template.places) and not (is_member and template.sole):
        raise TemplateError(
            "`optional` and `int` are for a member of `json`, `form` or `query` that is one place "
            'and nothing else, such as "{sender|optional}"'
        )
    return template


def _place(inner: str, known: Collection[str], prefix: str) -> Place:
    name, *filters = _SPACES.split(inner.strip())
    if name not in known and not (prefix and name.startswith(prefix) and len(name) > len(prefix)):
        raise TemplateError(f"has a place that is not known here; {_places_near(name, known)}")
    for one in filters:
        if one not in FILTERS:
            raise TemplateError(f"has a filter that is not known; {nearest(one, FILTERS)}")
    return Place(
        name,
        tuple(one for one in filters if one not in MEMBER_FILTERS),
        frozenset(filters) & MEMBER_FILTERS,
    )


def _places_near(word: str, known: Collection[str]) -> str:
    """The same for a place, and always all there are: what is near by spelling is often not it."""
    meant = _CALLED.get(word.lower(), "")
    there = f"there are: {', '.join(sorted(known))}"
    if meant in known:
        return f"did you mean {meant}? {there}"
    near = nearest(word, known)
    return f"{near} {there}" if near.startswith("did") else there


def nearest(word: str, known: Collection[str]) -> str:
    """Which names may have been meant, or else which there are; `word` is never echoed."""
    near = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are: {', '.join(sorted(known))}"
