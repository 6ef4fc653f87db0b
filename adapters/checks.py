"""Checks of a channel's settings, shared by the wire protocols: what is wrong, and what to do.

A protocol names its settings in one table, name → check; every wrong or unknown one is found in
one go, each with its JSON pointer, so that a configuration file is mended in one pass. Nothing here
echoes a value: it may be a secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from ipaddress import ip_network
from typing import Final

from adapters.base import CLOSE_SPELLING, NOT_A_SETTING

Check = Callable[[object], str | None]  # what is wrong with a value, or None


def is_whole(value: object) -> bool:
    """Whether it is an integer and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def integer(low: int, high: int) -> Check:
    """A whole number within these bounds."""

    def check(value: object) -> str | None:
        is_good = isinstance(value, int) and is_whole(value) and low <= value <= high
        is_quoted = isinstance(value, str) and value.isdecimal()
        hint = ", without quotes" if is_quoted else ""
        return None if is_good else f"give a whole number from {low} to {high}{hint}"

    return check


def seconds(low: float, high: float) -> Check:
    """Seconds within these bounds, whole or not."""

    def check(value: object) -> str | None:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        is_good = isinstance(value, (int, float)) and is_number and low <= value <= high
        return None if is_good else f"give seconds from {low:g} to {high:g}"

    return check


def string(least: int, most: int, source: str) -> Check:
    """Printable ASCII of this length; `source` is the standard that says so."""

    def check(value: object) -> str | None:
        is_good = (
            isinstance(value, str)
            and least <= len(value) <= most
            and value.isascii()
            and (value.isprintable() or not value)
        )
        size = f"at most {most}" if not least else f"{least} to {most}" if least < most else most
        hint = ", in quotes" if is_whole(value) else ""
        return None if is_good else f"give {size} printable ASCII characters{hint} ({source})"

    return check


def choice(words: type[StrEnum]) -> Check:
    """One of these words."""

    def check(value: object) -> str | None:
        known = [word.value for word in words]
        return None if value in known else f"give one of {', '.join(known)}"

    return check


def flag(value: object) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "give true or false"


def one_of(*numbers: int) -> Check:
    """One of these numbers."""
    shown = ", ".join(str(number) for number in numbers)

    def check(value: object) -> str | None:
        return None if is_whole(value) and value in numbers else f"give one of {shown}"

    return check


def digits(least: int, most: int) -> Check:
    """Text of this many decimal digits; none at all where `least` is 0."""
    size = f"at most {most}" if not least else f"{least} to {most}" if least < most else most

    def check(value: object) -> str | None:
        is_good = isinstance(value, str) and least <= len(value) <= most
        is_good = is_good and isinstance(value, str) and (value.isdecimal() or not value)
        is_good = is_good and isinstance(value, str) and value.isascii()
        hint = ", in quotes" if is_whole(value) else ""
        return None if is_good else f"give {size} digits{hint}"

    return check


def networks(value: object) -> str | None:
    """A list of addresses or networks, not empty and not everybody."""
    remedy = "give a list of the carrier's addresses or networks, as [203.0.113.7, 198.51.100.0/24]"
    if not isinstance(value, list | tuple) or not value:
        return remedy
    for one in value:
        try:
            found = ip_network(one) if isinstance(one, str) else None
        except ValueError:
            found = None
        if found is None:
            return f"{remedy}; a network has no bits behind its prefix"
        if not found.prefixlen:
            return "lets everybody in; list the carrier's own addresses"
    return None


def code_number(low: int, high: int) -> Callable[[object], int | None]:
    """How a code is read from YAML or JSON: a whole number, or its decimal digits."""

    def code_of(text: object) -> int | None:
        if isinstance(text, str) and text.isascii() and text.isdecimal():
            text = int(text)
        return text if isinstance(text, int) and is_whole(text) and low <= text <= high else None

    return code_of


def code_classes(
    code_of: Callable[[object], int | None], example: str, words: Collection[str]
) -> Check:
    """A map from the carrier's codes to classes of `sms.codes`."""

    def check(value: object) -> str | None:
        remedy = (
            f"give a map of codes to classes, as {{{example}: perm_number}}; "
            f"classes: {', '.join(sorted(words))}"
        )
        if not isinstance(value, Mapping):
            return remedy
        is_good = all(
            code_of(code) and isinstance(word, str) and word in words
            for code, word in value.items()
        )
        return None if is_good else remedy

    return check


def _pem(value: object) -> str | None:
    is_good = isinstance(value, str) and "-----BEGIN " in value
    return None if is_good else "give PEM text, or its file under the same name with _file behind"


# A wire protocol within TLS, whichever it is: the switch, and what belongs to it.
TLS_NAMES: Final = ("tls_server_name", "tls_ca", "tls_cert", "tls_key")
TLS: Final[Mapping[str, Check]] = {
    "tls": flag,
    "tls_server_name": string(1, 253, "RFC 6066"),
    **dict.fromkeys(TLS_NAMES[1:], _pem),
}


def _find_wrong_tls(raw: Mapping[str, object]) -> list[tuple[str, str]]:
    wrong = []
    if raw.get("tls") is not True:
        idle = "means nothing without `tls: true`; add that, or remove this"
        wrong = [(f"/{name}", idle) for name in TLS_NAMES if name in raw]
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if name in raw and other not in raw:
            wrong.append((f"/{name}", f"needs {other} beside it: a certificate and its key"))
    return wrong


def find_wrong_wire(
    raw: Mapping[str, object], checks: Mapping[str, Check], required: Collection[str], protocol: str
) -> list[tuple[str, str]]:
    """`find_wrong` of a wire protocol, whose own `checks` do not name what belongs to TLS."""
    return find_wrong(raw, {**checks, **TLS}, required, protocol) + _find_wrong_tls(raw)


def find_wrong(
    raw: Mapping[str, object], checks: Mapping[str, Check], required: Collection[str], protocol: str
) -> list[tuple[str, str]]:
    """Everything wrong with a channel's protocol settings: (JSON pointer, what to do)."""
    wrong = [
        (f"/{name}", f"is missing; {protocol} cannot log in without it")
        for name in required
        if name not in raw
    ]
    for name, value in raw.items():
        check = checks.get(name)
        found = _unknown(name, checks, protocol) if check is None else check(value)
        if found is not None:
            wrong.append((f"/{name.replace('~', '~0').replace('/', '~1')}", found))
    return wrong


def _unknown(name: str, checks: Mapping[str, Check], protocol: str) -> str:
    near = difflib.get_close_matches(name, checks, n=1, cutoff=CLOSE_SPELLING)
    hint = f"did you mean `{near[0]}`?" if near else f"its own are {', '.join(checks)}"
    return f"{NOT_A_SETTING} of {protocol}; {hint}"
