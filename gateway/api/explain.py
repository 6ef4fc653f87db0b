"""Why a body was refused: every wrong field at once, each with its pointer.

The slow twin of the decoder, run only after it said no. It takes the parsed document and builds
the request from the fields that are right, so that their meaning can be checked as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Any

from gateway.api.models import FIELD_NAMES, UNAVAILABLE, SendRequest
from gateway.api.problems import FieldError
from sms.model import MessageClass, OnUncertain

_NAME_LIKE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
_ENCODINGS = ("auto", "gsm7", "ucs2")


class _Expected(Exception):
    """A value is not of its field's type; `code` says which way."""

    def __init__(self, what: str, code: str = "field.type") -> None:
        super().__init__(what)
        self.what = what
        self.code = code


def child(parent: str, name: str) -> str:
    """RFC 6901: the pointer to a member; the parent's when the name is not like a name."""
    return f"{parent}/{name}" if _NAME_LIKE.fullmatch(name) else parent


def explain(document: object, at: str = "") -> tuple[SendRequest, list[FieldError]]:
    """Check one message object; return what is right and all that is wrong."""
    request = SendRequest()
    if not isinstance(document, dict):
        return request, [FieldError(at, "field.type", "A message is a JSON object.")]
    errors: list[FieldError] = []
    for name, value in document.items():
        check = _CHECKS.get(name)
        if check is None:
            errors.append(_unknown(at, name))
            continue
        try:
            setattr(request, FIELD_NAMES[name], _checked(value, check))
        except _Expected as wrong:
            errors.append(FieldError(f"{at}/{name}", wrong.code, f"`{name}` {wrong.what}."))
    return request, errors


def unknown_names(
    document: Mapping[str, object], known: Collection[str], at: str = ""
) -> list[FieldError]:
    """An error for each name of an object that is not among the known ones."""
    return [_unknown(at, name) for name in document if name not in known]


def _unknown(at: str, name: str) -> FieldError:
    if name in UNAVAILABLE:
        return FieldError(
            f"{at}/{name}",
            "field.unavailable",
            f"`{name}` is not available in this version; leave it out.",
        )
    shown = f"`{name}`" if _NAME_LIKE.fullmatch(name) else "A field here"
    return FieldError(
        child(at, name), "field.unknown", f"{shown} is not a field of this object; remove it."
    )


def _checked(value: object, check: Callable[[object], Any]) -> Any:  # noqa: ANN401 - JSON
    if value is None:
        raise _Expected("is null; leave it out instead", "field.null")
    return check(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Expected("must be a string")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Expected("must be a whole number, written without point or quotes")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Expected("must be true or false")
    return value


def _one_of(choices: type[StrEnum] | tuple[str, ...]) -> Callable[[object], str]:
    table = {str(choice): choice for choice in choices}
    words = ", ".join(table)

    def check(value: object) -> str:
        found = table.get(_text(value))
        if found is None:
            raise _Expected(f"must be one of {words}", "field.value")
        return found

    return check


def _string_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise _Expected("must be an object whose values are strings")
    return value


_CHECKS: dict[str, Callable[[object], Any]] = {
    "to": _text,
    "text": _text,
    "class": _one_of(MessageClass),
    "signature": _text,
    "sender_ext": _text,
    "metadata": _string_map,
    "valid_for_s": _whole,
    "encoding": _one_of(_ENCODINGS),
    "smart_encoding": _flag,
    "max_segments": _whole,
    "on_uncertain": _one_of(OnUncertain),
}
