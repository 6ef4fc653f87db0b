"""Reading a recipe: one part of the configuration after the other, everything wrong at once.

A part that is wrong still gives something to go on with, so that one `smsgw apply` names all that
is to be mended. What was read may only be used when nothing is wrong. No value is echoed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

from adapters.http.recipe_template import Template, TemplateError, nearest, parse_template
from adapters.http.recipe_tree import Path, PathError, Test, parse_path, parse_test

Wrong = list[tuple[str, str]]  # (JSON pointer, what to do)
Word = TypeVar("Word", bound=StrEnum)

MAX_NAME: Final = 128  # characters of a header's or parameter's name
_NOTHING: Final = Template(())
_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~")  # and letters and digits: RFC 9110, 5.6.2


def member(pointer: str, name: object) -> str:
    """The pointer to a member (RFC 6901, section 3)."""
    return f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}"


class Section:
    """One mapping of the recipe, at `pointer`; complains of names that it does not know."""

    def __init__(self, raw: object, pointer: str, wrong: Wrong, known: Collection[str]) -> None:
        self.pointer = pointer
        self.wrong = wrong
        self.raw: Mapping[str, Any] = {}
        if not isinstance(raw, Mapping):
            self.complain("", f"give a mapping of {', '.join(known)}")
            return
        self.raw = raw
        for name in raw:
            if name not in known:
                self.complain(name, f"is not known here; {nearest(str(name), known)}")

    def __contains__(self, name: str) -> bool:
        return name in self.raw

    def at(self, name: object) -> str:
        """The pointer to a member; to the mapping itself with ""."""
        return member(self.pointer, name) if name != "" else self.pointer

    def complain(self, name: object, detail: str) -> None:
        """Note what is wrong with a member."""
        self.wrong.append((self.at(name), detail))

    def need(self, *names: str) -> None:
        """Complain of those that are missing."""
        for name in names:
            if name not in self.raw:
                self.complain(name, "is missing")

    def inner(self, name: str, known: Collection[str]) -> Section | None:
        """A mapping in it, None when it is not there."""
        if name not in self.raw:
            return None
        return Section(self.raw[name], self.at(name), self.wrong, known)

    def checked(self, name: str, check: Callable[[object], str | None], default: Any) -> Any:  # noqa: ANN401 - what the check lets through
        """A member that a check of `adapters.checks` looks at; `default` where that says no."""
        if name not in self.raw:
            return default
        found = check(self.raw[name])
        if found is not None:
            self.complain(name, found)
            return default
        return self.raw[name]

    def text(self, name: str, default: str = "") -> str:
        """A text as it is."""
        value = self.raw.get(name, default)
        if isinstance(value, str):
            return value
        self.complain(name, "give text, in quotes")
        return default

    def flag(self, name: str) -> bool:
        """true or false, unless given false."""
        value = self.raw.get(name, False)
        if not isinstance(value, bool):
            self.complain(name, "give true or false")
        return value is True

    def choice(self, name: str, words: type[Word], default: Word) -> Word:
        """One of these words."""
        value = self.raw.get(name, default.value)
        try:
            return words(value)
        except ValueError:
            self.complain(name, f"give one of {', '.join(words)}")
            return default

    def path(self, name: str) -> Path | None:
        """A path, None when it is not there."""
        if name not in self.raw:
            return None
        try:
            return parse_path(self.raw[name])
        except PathError as error:
            self.complain(name, str(error))
            return None

    def test(self, name: str) -> Test:
        """A test; one that never holds when it is not there."""
        if name not in self.raw:
            return Test()
        return parse_test(self.raw[name], self.at(name), self.wrong)

    def template(
        self, name: str, known: Collection[str], *, default: str = "", prefix: str = ""
    ) -> Template:
        """A template."""
        value = self.raw.get(name, default)
        return template_at(value, self.at(name), self.wrong, known, prefix=prefix)

    def words(self, name: str, allowed: Collection[str], example: str) -> dict[str, str]:
        """A map from the provider's words or codes to words of ours."""
        value = self.raw.get(name, {})
        if not isinstance(value, Mapping):
            self.complain(name, f"give a map, as {{{example}}}")
            return {}
        found = {}
        for key, word in value.items():
            if not isinstance(word, str) or word not in allowed:
                known = ", ".join(sorted(allowed))
                self.wrong.append((member(self.at(name), key), f"give one of {known}"))
            else:
                found[str(key)] = word
        return found


def template_at(
    value: object,
    pointer: str,
    wrong: Wrong,
    known: Collection[str],
    *,
    prefix: str = "",
    is_member: bool = False,
) -> Template:
    """The template that stands there; an empty one where it cannot be read."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        wrong.append((pointer, "give text, in quotes; places stand in braces, such as {number}"))
        return _NOTHING
    try:
        return parse_template(value, known, prefix=prefix, is_member=is_member)
    except TemplateError as error:
        wrong.append((pointer, str(error)))
        return _NOTHING


def header_name(name: object) -> str | None:
    """What is wrong with the name of a header (RFC 9110, 5.6.2), or None."""
    is_good = isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isascii()
    is_good = (
        is_good
        and isinstance(name, str)
        and all(char.isalnum() or char in _TOKEN_CHARS for char in name)
    )
    return None if is_good else "is no name of a header; write it like X-Api-Key"
