"""Checks of one value of a channel's settings; each says what to do, or None when it is good.

What a protocol's `settings.py` puts into its table, so that every wrong field is found in one go.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from ipaddress import ip_network

from adapters.base import NOT_A_SETTING
from adapters.classes import CLASSES

Check = Callable[[object], str | None]  # what is wrong with a value, or None


def integer(low: int, high: int) -> Check:
    """A whole number, written without quotes."""

    def check(value: object) -> str | None:
        is_good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        is_quoted = isinstance(value, str) and value.isdecimal()
        hint = ", without quotes" if is_quoted else ""
        return None if is_good else f"give a whole number from {low} to {high}{hint}"

    return check


def seconds(low: float, high: float) -> Check:
    """A time in seconds."""

    def check(value: object) -> str | None:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        is_good = is_number and isinstance(value, (int, float)) and low <= value <= high
        return None if is_good else f"give seconds from {low:g} to {high:g}"

    return check


def flag(value: object) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "give true or false"


def string(least: int, most: int, what: str = "printable ASCII characters") -> Check:
    """Text that fits a field of `most` octets."""

    def check(value: object) -> str | None:
        is_good = (
            isinstance(value, str)
            and least <= len(value) <= most
            and value.isascii()
            and (value.isprintable() or not value)
        )
        size = f"{least} to {most}" if least else f"at most {most}"
        hint = ", in quotes" if isinstance(value, int) and not isinstance(value, bool) else ""
        return None if is_good else f"give {size} {what}{hint}"

    return check


def digits(least: int, most: int) -> Check:
    """Text of decimal digits, or none where `least` is 0."""
    text = string(least, most, "digits")

    def check(value: object) -> str | None:
        wrong = text(value)
        if wrong is None and isinstance(value, str) and value and not value.isdecimal():
            return text(None)
        return wrong

    return check


def choice(words: type[StrEnum]) -> Check:
    """One of a few words."""

    def check(value: object) -> str | None:
        known = [word.value for word in words]
        return None if value in known else f"give one of {', '.join(known)}"

    return check


def one_of(*numbers: int) -> Check:
    """One of a few numbers."""
    shown = ", ".join(str(number) for number in numbers)

    def check(value: object) -> str | None:
        is_good = value in numbers and not isinstance(value, bool)
        return None if is_good else f"give one of {shown}"

    return check


def networks(value: object) -> str | None:
    """A list of addresses or networks, not empty."""
    remedy = "give a list of the carrier's addresses or networks, as [203.0.113.7, 198.51.100.0/24]"
    if not isinstance(value, list | tuple) or not value:
        return remedy
    for one in value:
        try:
            network = ip_network(one) if isinstance(one, str) else None
        except ValueError:
            return f"{remedy}; {str(one)[:60]} is none (a network has no bits beyond its prefix)"
        if network is None:
            return remedy
        if not network.prefixlen:
            return "lets everybody in; list the carrier's own addresses"
    return None


def result_classes(low: int, high: int) -> Check:
    """A mapping from the numbers of answers to classes."""

    def check(value: object) -> str | None:
        remedy = (
            f'give codes from {low} to {high} and what they mean, as {{"130": number}}; '
            f"classes: {', '.join(sorted(CLASSES))}"
        )
        if not isinstance(value, Mapping):
            return remedy
        is_good = all(
            code_number(code, low, high) is not None and word in CLASSES
            for code, word in value.items()
        )
        return None if is_good else remedy

    return check


def code_number(text: object, low: int, high: int) -> int | None:
    """A code as YAML or JSON gives it: a number or its digits."""
    if isinstance(text, bool):
        return None
    if isinstance(text, str) and text.isascii() and text.isdecimal():
        text = int(text)
    return text if isinstance(text, int) and low <= text <= high else None


def wrong_fields(
    protocol: str, raw: Mapping[str, object], checks: Mapping[str, Check], required: Iterable[str]
) -> list[tuple[str, str]]:
    """Everything wrong with a channel's own settings: (JSON pointer, what to do)."""
    wrong = [
        (f"/{name}", f"is missing; an {protocol} channel cannot log in without it")
        for name in required
        if name not in raw
    ]
    for name, value in raw.items():
        check = checks.get(name)
        found = _unknown(protocol, name, checks) if check is None else check(value)
        if found is not None:
            wrong.append((f"/{name.replace('~', '~0').replace('/', '~1')}", found))
    return wrong


def _unknown(protocol: str, name: str, checks: Mapping[str, Check]) -> str:
    near = difflib.get_close_matches(name, checks, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"its own are {', '.join(checks)}"
    return f"{NOT_A_SETTING} of {protocol}; {hint}"
