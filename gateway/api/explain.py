"""Why a body was refused: every wrong field at once, each with its pointer.

The slow twin of the decoder, run only after it said no. It takes the parsed document and builds
the request from the fields that are right, so that their meaning can be checked as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from enum import StrEnum
from typing import Any

from msgspec import UNSET

from gateway.api.models import FIELD_NAMES, SendRequest
from gateway.api.problems import NAME_LIKE, FieldError
from sms.model import MessageClass, OnUncertain

MAX_ERRORS = 100  # collected of one request
_REQUIRED = {"to": "give the number", "text": "give the text"}
_ENCODINGS = ("auto", "gsm7", "ucs2")


class _Expected(Exception):
    """A value is not of its field's type; `code` says which way."""

    def __init__(self, what: str, code: str = "field.type") -> None:
        super().__init__(what)
        self.what = what
        self.code = code


def child(parent: str, name: str) -> str:
    """RFC 6901: the pointer to a member; the parent's when the name is not like a name."""
    return f"{parent}/{name}" if NAME_LIKE.fullmatch(name) else parent


def explain(document: object, at: str = "") -> tuple[SendRequest, list[FieldError]]:
    """Check one message object; return what is right and what is wrong (`MAX_ERRORS`, no twins)."""
    request = SendRequest()
    if not isinstance(document, dict):
        return request, [FieldError(at, "field.type", "A message is a JSON object.")]
    errors: dict[FieldError, None] = {}
    for name, value in document.items():
        check = _CHECKS.get(name)
        if check is None:
            if len(errors) < MAX_ERRORS:
                errors[_unknown(at, name)] = None
            continue
        try:
            setattr(request, FIELD_NAMES[name], _checked(name, value, check))
        except _Expected as wrong:
            errors[FieldError(f"{at}/{name}", wrong.code, f"`{name}` {wrong.what}.")] = None
        if check is _string_map and isinstance(value, dict):
            wrong_members = list(_members(name, value, at))[: max(0, MAX_ERRORS - len(errors))]
            errors.update(dict.fromkeys(wrong_members))
            if wrong_members and (name != "variables" or "template_id" not in document):
                setattr(request, name, UNSET)
    return request, list(errors)


def unknown_names(
    document: Mapping[str, object], known: Collection[str], at: str = ""
) -> list[FieldError]:
    """An error for each name of an object that is not among the known ones (`MAX_ERRORS`)."""
    errors: dict[FieldError, None] = {}
    for name in document:
        if name not in known and len(errors) < MAX_ERRORS:
            errors[_unknown(at, name)] = None
    return list(errors)


def _unknown(at: str, name: str) -> FieldError:
    shown = f"`{name}`" if NAME_LIKE.fullmatch(name) else "A field here"
    return FieldError(
        child(at, name), "field.unknown", f"{shown} is not a field of this object; remove it."
    )


def _checked(name: str, value: object, check: Callable[[object], Any]) -> Any:  # noqa: ANN401 - JSON
    if value is None:
        remedy = _REQUIRED.get(name, "leave it out instead")
        raise _Expected(f"is null; {remedy}", "field.null")
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
    if not isinstance(value, dict):
        raise _Expected("must be an object whose values are strings")
    # What `_members` complains of counts as given: it is not to be called missing as well.
    return {name: inner if isinstance(inner, str) else "-" for name, inner in value.items()}


def _members(name: str, value: Mapping[str, object], at: str) -> Iterator[FieldError]:
    """Values that are no strings, each with its own error."""
    for member, inner in value.items():
        if not isinstance(inner, str):
            pointer = child(f"{at}/{name}", member)
            detail = f"`{name}` has a value that is not a string; put it in quotes."
            yield FieldError(pointer, "field.type", detail)


_CHECKS: dict[str, Callable[[object], Any]] = {
    "to": _text,
    "text": _text,
    "template_id": _text,
    "variables": _string_map,
    "class": _one_of(MessageClass),
    "signature": _text,
    "sender_ext": _text,
    "client_ref": _text,
    "metadata": _string_map,
    "send_at": _text,
    "valid_for_s": _whole,
    "encoding": _one_of(_ENCODINGS),
    "smart_encoding": _flag,
    "max_segments": _whole,
    "on_uncertain": _one_of(OnUncertain),
}
