"""One request of a recipe: read when the channel is made, built for each burst.

    url ─ literal host, places percent-encoded      query ─ a mapping, encoded
    headers ─ refused with control characters       auth ─ see recipe_sign
    one of  json ─ a mapping whose texts are templates: put into a tree and serialised, never pasted
            form ─ a mapping, encoded
            text ─ a template; places that come from outside need an escaping filter

`{each}` stands for the messages of a batch: as a list where it is alone in a member of `json`,
joined by `joint` elsewhere.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import md5, sha256
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from adapters.http import recipe_sign as signs
from adapters.http.recipe_section import Section, Wrong, header_name, member, template_at
from adapters.http.recipe_sign import Signing, Where
from adapters.http.recipe_template import (
    ESCAPES,
    INTEGER,
    OPTIONAL,
    Place,
    Template,
    json_text,
    octets,
)
from adapters.http.recipe_values import HIDDEN, STRUCTURED
from adapters.http.vendor import Request
from sms.errors import CannotSend

EACH: Final = "each"
REQUEST_NAMES: Final = (
    *("method", "url", "query", "headers", "auth"),
    *("json", "form", "text", "content_type"),
)
_BODIES: Final = ("json", "form", "text")
_TYPES: Final = {
    "json": "application/json; charset=utf-8",
    "form": "application/x-www-form-urlencoded",
    "text": "text/plain; charset=utf-8",
}
# What may be signed beside the account's and the request's own places.
_SIGNED: Final = frozenset(
    {"method", "host", "path", "query", "query_sorted", "params_sorted"}
    | {"body", "body_md5", "body_sha256"}
)
_URL = re.compile(r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[^?#\s]*)?", re.ASCII)
_MISSING: Final = object()

Values = Mapping[str, str]
Pairs = list[tuple[str, str]]
_Member = Callable[[Values, Sequence[object]], object]


class Method(StrEnum):
    """The methods that providers ask for."""

    GET = "GET"
    POST = "POST"
    PUT = "PUT"


class AuthType(StrEnum):
    """How a request proves who sends it."""

    NONE = "none"
    BASIC = "basic"
    BEARER = "bearer"
    HMAC = "hmac"
    DIGEST = "digest"


_AUTH_NAMES: Final[Mapping[AuthType, tuple[str, ...]]] = {
    AuthType.NONE: ("type",),
    AuthType.BASIC: ("type", "username", "password"),
    AuthType.BEARER: ("type", "token"),
    AuthType.HMAC: signs.SIGNING,
    AuthType.DIGEST: signs.SIGNING,
}


@dataclass(frozen=True, slots=True)
class Auth:
    """How a request is proven."""

    type: AuthType = AuthType.NONE
    first: Template = field(default_factory=lambda: Template(()))  # user name or token
    second: Template = field(default_factory=lambda: Template(()))  # password
    signing: Signing | None = None
    place: signs.Place = field(default_factory=lambda: signs.Place(Where.HEADER, "Authorization"))

    def header(self, values: Values, *, is_shown: bool) -> tuple[tuple[str, str], ...]:
        """The header of `basic` and `bearer`; without `is_shown` as a rehearsal prints it."""
        if self.type is AuthType.BEARER:
            return (("Authorization", f"Bearer {self.first.render(values)}"),)
        if self.type is not AuthType.BASIC:
            return ()
        login = octets(f"{self.first.render(values)}:{self.second.render(values)}")
        shown = base64.b64encode(login).decode("ascii") if is_shown else HIDDEN
        return (("Authorization", f"Basic {shown}"),)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that was read, ready to be built."""

    method: Method
    url: Template
    query: tuple[tuple[str, _Member], ...]
    headers: tuple[tuple[str, Template], ...]
    kind: str  # of _BODIES, "" = none
    body: _Member | None
    content_type: str
    auth: Auth
    names: frozenset[str]  # every place in it

    def build(
        self, values: Values, each: Sequence[object] = (), *, is_shown: bool = True
    ) -> Request:
        """The request; CannotSend when a value cannot stand in a header.

        `values` has one for each of `names`; `is_shown` False hides what is made from secrets.
        """
        pairs = _pairs(self.query, values, each)
        tree = self.body(values, each) if self.body else None
        headers = [(name, template.render(values)) for name, template in self.headers]
        headers.extend(self.auth.header(values, is_shown=is_shown))
        address = self._address(values)
        if self.auth.signing is not None:
            made = HIDDEN
            if is_shown:
                made = self.auth.signing.proof({**values, **self._signed(address, pairs, tree)})
            tree = _put(self.auth.place, made, headers, pairs, tree)
        if self.kind:
            headers.append(("Content-Type", self.content_type))
        url = f"{address}?{_encoded(pairs)}" if pairs else address
        return Request(self.method.value, url, _checked(headers), self._octets(tree))

    def _address(self, values: Values) -> str:
        return "".join(
            part if isinstance(part, str) else quote(octets(part.text(values)), safe="")
            for part in self.url.parts
        )

    def _octets(self, tree: object) -> bytes:
        if self.kind == "json":
            return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode(
                "utf-8", "replace"
            )
        if self.kind == "form":
            return urlencode(_form(tree), errors="replace").encode("ascii")
        return octets(tree) if isinstance(tree, str) else b""

    def _signed(self, address: str, pairs: Pairs, tree: object) -> dict[str, str]:
        """The values of what may be signed; the body's only where the signature is not in it."""
        parts = urlsplit(address)
        params = sorted([*pairs, *(_form(tree) if self.kind == "form" else [])])
        body = b"" if self.auth.place.where is Where.FIELD else self._octets(tree)
        return {
            "method": self.method.value,
            "host": parts.netloc,
            "path": parts.path or "/",
            "query": _encoded(pairs),
            "query_sorted": _encoded(sorted(pairs)),
            "params_sorted": "&".join(f"{name}={value}" for name, value in params),
            "body": body.decode("utf-8", "surrogateescape"),
            "body_md5": md5(body, usedforsecurity=False).hexdigest(),
            "body_sha256": sha256(body).hexdigest(),
        }


def _encoded(pairs: Pairs) -> str:
    return urlencode(pairs, quote_via=quote, safe="", errors="replace")


def _form(tree: object) -> Pairs:
    return tree if isinstance(tree, list) else []


def _pairs(
    rows: Sequence[tuple[str, _Member]], values: Values, each: Sequence[object]
) -> list[tuple[str, str]]:
    pairs: Pairs = []
    for name, make in rows:
        made = make(values, each)
        for one in made if isinstance(made, list) else [made]:
            if one is not _MISSING:
                pairs.append((name, str(one)))
    return pairs


def _put(
    place: signs.Place, made: str, headers: list[tuple[str, str]], pairs: Pairs, tree: object
) -> object:
    """Put a signature where it belongs; gives the body's tree."""
    if place.where is Where.HEADER:
        headers.append((place.name, made))
    elif place.where is Where.QUERY:
        pairs.append((place.name, made))
    elif isinstance(tree, dict):
        return {**tree, place.name: made}
    elif isinstance(tree, list):
        return [*tree, (place.name, made)]
    return tree


def _checked(headers: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Headers that cannot be two: no control characters, nothing beyond ISO 8859-1."""
    for _, value in headers:
        is_good = all("\x20" <= char <= "\xff" and char != "\x7f" for char in value)
        if not is_good or value != value.strip():
            raise CannotSend("header", "channel.misconfigured", is_channel=True)
    return tuple(headers)


# -- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """The places that a request may have."""

    all: frozenset[str]  # of messages, the request and the account
    account: frozenset[str]  # of these, the account's
    request: frozenset[str]  # and the request's: what may be signed
    base_url: str = ""  # the channel's `url`, which `{url}` at the front of a URL stands for


def parse_plan(section: Section, known: Known) -> Plan:
    """Read a request; adds to what is wrong."""
    section.need("url")
    method = section.choice("method", Method, Method.POST)
    url = _url(section, known)
    query, query_places = _mapping(section, "query", known.all)
    headers = _headers(section, known)
    auth = _auth(section, known)
    kind, body, body_places = _body(section, known)
    if kind and method is Method.GET:
        section.complain(kind, "cannot go with GET; use `query`, or another method")
    if auth.signing and auth.place.where is Where.FIELD and kind not in ("json", "form"):
        section.complain("auth", "puts a signature into a field, but there is no json or form")
    names = url.names.union(*(template.names for _, template in headers))
    names = names | query_places | body_places | auth.first.names | auth.second.names
    if auth.signing is not None:
        names |= auth.signing.names - _SIGNED
    content_type = section.text("content_type", _TYPES.get(kind, ""))
    return Plan(method, url, query, headers, kind, body, content_type, auth, names)


def _url(section: Section, known: Known) -> Template:
    value = section.raw.get("url")
    if isinstance(value, str) and value.startswith("{url}"):
        if not known.base_url:
            section.complain("url", "begins with {url}; give the channel its `url`")
        value = (known.base_url.rstrip("/") or "https://example.com") + value.removeprefix("{url}")
    if "url" not in section:
        return Template(())
    template = template_at(value, section.at("url"), section.wrong, known.all)
    literal = "".join(part if isinstance(part, str) else "x" for part in template.parts)
    first = template.parts[0] if template.parts else ""
    is_host_literal = isinstance(first, str) and (
        len(template.parts) == 1 or first.count("/") > 2  # https://host/
    )
    if template.parts and not (is_host_literal and _URL.fullmatch(literal)):
        section.complain(
            "url",
            "give https:// and a host without places, then a path; what follows a question mark "
            "goes into `query`",
        )
    return template


def _headers(section: Section, known: Known) -> tuple[tuple[str, Template], ...]:
    value = section.raw.get("headers", {})
    if not isinstance(value, Mapping):
        section.complain("headers", "give a mapping of names to texts")
        return ()
    rows = []
    for name, text in value.items():
        at = member(section.at("headers"), name)
        refusal = header_name(name)
        if refusal is None and str(name).lower() in ("host", "content-length", "content-type"):
            refusal = "is set by itself; a body's type is `content_type`"
        if refusal is not None:
            section.wrong.append((at, refusal))
        rows.append((str(name), template_at(text, at, section.wrong, known.all)))
    return tuple(rows)


def _mapping(
    section: Section, name: str, known: Collection[str]
) -> tuple[tuple[tuple[str, _Member], ...], frozenset[str]]:
    """A mapping whose values are templates, or lists of them for a name that stands repeatedly."""
    value = section.raw.get(name, {})
    if not isinstance(value, Mapping):
        section.complain(name, "give a mapping of names to texts")
        return (), frozenset()
    tree = _Tree(section.wrong, known, is_json=False)
    at = section.at(name)
    rows = [(str(key), tree.read(inner, member(at, key), depth=1)) for key, inner in value.items()]
    return tuple(rows), frozenset(tree.names)


def _body(section: Section, known: Known) -> tuple[str, _Member | None, frozenset[str]]:
    given = [name for name in _BODIES if name in section]
    if len(given) > 1:
        section.complain(given[1], f"stands beside `{given[0]}`; a request has one body")
    if not given:
        if "content_type" in section:
            section.complain("content_type", "is of a body; there is none")
        return "", None, frozenset()
    kind = given[0]
    if kind == "form":
        rows, names = _mapping(section, kind, known.all)
        return kind, lambda values, each: _pairs(rows, values, each), names
    if kind == "json":
        tree = _Tree(section.wrong, known.all, is_json=True)
        made = tree.read(section.raw[kind], section.at(kind))
        return kind, made, frozenset(tree.names)
    template = section.template(kind, known.all)
    _need_escapes(section, kind, template, known)
    return kind, lambda values, _: template.render(values), template.names


def _need_escapes(section: Section, name: str, template: Template, known: Known) -> None:
    """In raw text nothing escapes what comes from outside but a filter."""
    free = {"text", "sender", *STRUCTURED, "template_code"}
    for place in template.places:
        if place.name in free & known.all and not ESCAPES & set(place.filters):
            section.complain(
                name,
                f"lets {{{place.name}}} into raw text as it is; add a filter that escapes it: "
                "json, xml, urlencode, base64, hex_utf8, hex_utf16 (or raw: it needs none)",
            )


class _Tree:
    """Reads a tree whose texts are templates; what comes out makes the tree for given values."""

    def __init__(self, wrong: Wrong, known: Collection[str], *, is_json: bool) -> None:
        self.names: set[str] = set()
        self._wrong = wrong
        self._known = known
        self._is_json = is_json

    def read(self, value: object, pointer: str, depth: int = 0) -> _Member:
        if isinstance(value, Mapping) and self._is_json:
            return self._object(value, pointer)
        if isinstance(value, list) and (self._is_json or depth == 1):
            rows = [
                self.read(inner, f"{pointer}/{index}", depth + 1)
                for index, inner in enumerate(value)
            ]
            return lambda values, each: [
                made for row in rows if (made := row(values, each)) is not _MISSING
            ]
        if isinstance(value, str):
            return self._text(value, pointer)
        if isinstance(value, Mapping | list):
            self._wrong.append((pointer, "give text, or a list of texts"))
        if not self._is_json and isinstance(value, bool):
            self._wrong.append((pointer, 'put it in quotes, as the provider writes it: "true"'))
        return lambda _values, _each: value

    def _object(self, value: Mapping[Any, object], pointer: str) -> _Member:
        rows = [(str(key), self.read(inner, member(pointer, key))) for key, inner in value.items()]
        return lambda values, each: {
            name: made for name, row in rows if (made := row(values, each)) is not _MISSING
        }

    def _text(self, value: str, pointer: str) -> _Member:
        template = template_at(value, pointer, self._wrong, self._known, is_member=True)
        self.names |= template.names
        sole = template.sole
        if sole is None:
            return lambda values, _: template.render(values)
        if sole.member:
            return _special(sole, is_json=self._is_json)
        if self._is_json and sole.name == EACH and not sole.filters:
            return lambda _, each: list(each)
        if self._is_json and sole.name in STRUCTURED and not sole.filters:
            return lambda values, _: json.loads(values[sole.name])
        return lambda values, _: sole.text(values)


def _special(place: Place, *, is_json: bool) -> _Member:
    """A member that may be missing, or is a number in JSON."""

    def make(values: Values, _: Sequence[object]) -> object:
        text = place.text(values)
        if OPTIONAL in place.member and text in ("", "{}", "[]"):
            return _MISSING
        is_number = is_json and INTEGER in place.member
        if is_number and len(text) <= 18 and text.isascii() and text.isdecimal():  # 64 bits
            return int(text)
        if is_json and place.name in STRUCTURED and not place.filters:
            return json.loads(text)
        return text

    return make


def _auth(section: Section, known: Known) -> Auth:
    raw = section.raw.get("auth")
    if raw is None or raw == AuthType.NONE:
        return Auth()
    kind = raw.get("type") if isinstance(raw, Mapping) else None
    auth_type = next((one for one in AuthType if one.value == kind), None)
    names = _AUTH_NAMES[auth_type] if auth_type is not None else ("type",)
    inner = section.inner("auth", names)
    if inner is None or auth_type is None:
        section.wrong.append(
            (
                section.at("auth") + "/type",
                f"give one of {', '.join(AuthType)}; a key in a header "
                "or in the query stands in `headers` or `query`",
            )
        )
        return Auth()
    if auth_type is AuthType.BASIC:
        inner.need("username", "password")
        username = inner.template("username", known.account)
        password = inner.template("password", known.account)
        signs.needs_secret(inner, "password", username, password)
        return Auth(auth_type, username, password)
    if auth_type is AuthType.BEARER:
        inner.need("token")
        token = inner.template("token", known.account)
        signs.needs_secret(inner, "token", token)
        return Auth(auth_type, token)
    if auth_type is AuthType.NONE:
        return Auth()
    signing = signs.parse_signing(inner, known.request | _SIGNED, known.account)
    place = signs.parse_place(inner)
    if place.where is Where.FIELD and signing.names & {"body", "body_md5", "body_sha256"}:
        inner.complain("sign", "signs the body that holds the signature; sign {params_sorted}")
    return Auth(auth_type, signing=signing, place=place)


def item_maker(
    section: Section, known: Known, kind: str
) -> tuple[Callable[[Values], object], frozenset[str]]:
    """Read `each`: how one message of a batch is written inside a body of this kind."""
    tree = _Tree(section.wrong, known.all, is_json=kind == "json")
    made = tree.read(section.raw.get(EACH, ""), section.at(EACH), depth=2)
    return lambda values: made(values, ()), frozenset(tree.names)


def joined(items: Sequence[object], joint: str) -> str:
    """What `{each}` stands for where it is text."""
    return joint.join(one if isinstance(one, str) else json_text(one) for one in items)
