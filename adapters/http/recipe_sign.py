"""How a recipe proves who is calling: basic, bearer, HMAC and plain digests, both ways.

The same words describe what we put on a request and what a provider puts on its pushes: what is
signed is a template, where the signature stands is `in`, and what stands there around it `value`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from adapters.http.recipe_section import Section, header_name
from adapters.http.recipe_template import Template, octets
from adapters.http.recipe_values import ALL_SECRETS, SECRETS

SIGNATURE: Final = "signature"


class Algorithm(StrEnum):
    """The hash."""

    SHA256 = "sha256"
    SHA512 = "sha512"
    SHA1 = "sha1"
    MD5 = "md5"  # for providers that know no better


class Encoding(StrEnum):
    """How the hash is written."""

    HEX = "hex"
    HEX_UPPER = "hex_upper"
    BASE64 = "base64"
    BASE64_URL = "base64url"  # with - and _ for + and /


class Where(StrEnum):
    """Where a proof stands."""

    HEADER = "header"
    QUERY = "query"
    FIELD = "field"  # of a form or of JSON


@dataclass(frozen=True, slots=True)
class Place:
    """A header, a parameter or a member by its name."""

    where: Where
    name: str


@dataclass(frozen=True, slots=True)
class Signing:
    """A signature's recipe: `key` None makes a plain digest of what is signed."""

    algorithm: Algorithm
    encoding: Encoding
    key: Template | None
    signed: Template
    value: Template

    def proof(self, values: Mapping[str, str]) -> str:
        """What stands in the place, for these values of all places."""
        data = octets(self.signed.render(values))
        name = self.algorithm.value
        if self.key is None:
            made = hashlib.new(name, data, usedforsecurity=False).digest()
        else:
            made = hmac.new(octets(self.key.render(values)), data, name).digest()
        return self.value.render({**values, SIGNATURE: self._written(made)})

    def _written(self, made: bytes) -> str:
        if self.encoding is Encoding.BASE64:
            return base64.b64encode(made).decode("ascii")
        if self.encoding is Encoding.BASE64_URL:
            return base64.urlsafe_b64encode(made).decode("ascii")
        return made.hex().upper() if self.encoding is Encoding.HEX_UPPER else made.hex()

    @property
    def names(self) -> frozenset[str]:
        """The places it needs values for."""
        return (
            self.signed.names
            | self.value.names - {SIGNATURE}
            | (self.key.names if self.key else frozenset())
        )


SIGNING: Final = ("type", "algorithm", "encoding", "key", "sign", "in", "value")


def parse_signing(
    section: Section, known: Collection[str], account: Collection[str], *, prefix: str = ""
) -> Signing:
    """Read a recipe of `type: hmac` or `type: digest`; adds to what is wrong."""
    is_keyed = section.raw.get("type") == "hmac"
    section.need("sign", "in", *(["key"] if is_keyed else []))
    if not is_keyed and "key" in section:
        section.complain("key", "is for `type: hmac`; a digest signs its key as text in `sign`")
    key = section.template("key", account) if is_keyed else None
    signed = section.template("sign", known, prefix=prefix)
    value = section.template(
        "value", {*known, SIGNATURE}, default=f"{{{SIGNATURE}}}", prefix=prefix
    )
    if SIGNATURE not in value.names:
        section.complain("value", "has no {signature}; write where it stands")
    needs_secret(section, "key" if is_keyed else "sign", key or signed)
    return Signing(
        section.choice("algorithm", Algorithm, Algorithm.SHA256),
        section.choice("encoding", Encoding, Encoding.HEX),
        key,
        signed,
        value,
    )


def needs_secret(section: Section, name: str, *templates: Template) -> None:
    """Complain where no secret is used: it was written out, or forgotten."""
    used = frozenset().union(*(template.names for template in templates))
    if name in section and not used.intersection(ALL_SECRETS):
        section.complain(
            name,
            "uses no secret; give it as one of "
            f"{', '.join(f'{one} or {one}_file' for one in SECRETS)}, and write its name in "
            "braces here",
        )


def parse_place(section: Section) -> Place:
    """Read `in`: one of header, query, field, with its name."""
    found = section.inner("in", tuple(Where))
    nowhere = Place(Where.HEADER, "X-Signature")
    if found is None or not found.raw:
        return nowhere
    if len(found.raw) != 1:
        found.complain("", "give one of header, query, field")
        return nowhere
    [where] = found.raw
    name = found.text(where)
    if where not in tuple(Where):
        return nowhere
    if where == Where.HEADER and (refusal := header_name(name)):
        found.complain(where, refusal)
    elif not name:
        found.complain(where, "give its name")
    return Place(Where(where), name)


def same(given: str, right: str) -> bool:
    """Whether a proof is right, in a time that says nothing of it; an empty one never is."""
    return bool(right) and hmac.compare_digest(octets(given), octets(right))
