"""What may be asked of a list, as query parameters or as a body: checked, all faults at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from fastapi import Request

from gateway.admit import MOMENT
from gateway.api.cursors import open_cursor
from gateway.api.fields import Checked
from gateway.api.problems import FieldError, Problem, ProblemError, of_fields
from gateway.api.reply import check_query
from gateway.configfields import Field, one_of, text, whole
from sms.model import MessageClass, State

DEFAULT_LIMIT, MAX_LIMIT = 50, 1000
MAX_CLIENT_REF = 256
_WHOLE = re.compile(r"[0-9]{1,9}")
OBJECT_ID = re.compile(r"[a-z0-9_]{1,40}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FIRST_YEAR, _LAST_YEAR = 2000, 9998


def moment(value: object) -> str | None:
    """A time as RFC 3339 has it, with its zone."""
    found = moment_of(value)
    if found is None:
        return (
            "must be a time with its zone, such as 2026-11-22T08:00:00Z (in a URL a + is written "
            "%2B)"
        )
    is_near = _FIRST_YEAR <= found.year <= _LAST_YEAR
    return None if is_near else f"must be a time from {_FIRST_YEAR} to {_LAST_YEAR}"


def moment_of(value: object) -> datetime | None:
    """The time, None when it is none or has no zone."""
    if not isinstance(value, str) or MOMENT.fullmatch(value) is None:
        return None
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def day(value: object) -> str | None:
    """A date."""
    return None if day_of(value) is not None else "must be a date, such as 2026-11-22"


def day_of(value: object) -> date | None:
    """The date, None when it is none of this millennium."""
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        return None
    try:
        found = date.fromisoformat(value)
    except ValueError:
        return None
    return found if _FIRST_YEAR <= found.year <= _LAST_YEAR else None


def _client_ref(value: object) -> str | None:
    is_right = isinstance(value, str) and 1 <= len(value) <= MAX_CLIENT_REF
    return None if is_right else f"must have 1 to {MAX_CLIENT_REF} characters"


def _object_id(value: object) -> str | None:
    is_right = isinstance(value, str) and OBJECT_ID.fullmatch(value) is not None
    return None if is_right else "must be an id, as the answers of this API give them"


PAGING: Mapping[str, Field] = {
    "limit": Field(whole(1, MAX_LIMIT), json=int),
    "cursor": Field(text(200), json=str),
}
MESSAGE_FILTERS: Mapping[str, Field] = {
    "status": Field(one_of([str(word) for word in State]), json=str),
    "class": Field(one_of([str(word) for word in MessageClass]), json=str),
    "client_ref": Field(_client_ref, json=str),
    "channel": Field(text(64), json=str),
    "created_after": Field(moment, json=str),
    "created_before": Field(moment, json=str),
    **PAGING,
}
SEARCH_FILTERS: Mapping[str, Field] = {"to": Field(text(40), json=str), **MESSAGE_FILTERS}
INBOUND_FILTERS = PAGING
EVENT_FILTERS: Mapping[str, Field] = {
    "after": Field(text(200), json=str),
    "limit": Field(whole(1, MAX_LIMIT), json=int),
}
AUDIT_FILTERS: Mapping[str, Field] = {"object": Field(_object_id, json=str), **PAGING}
USAGE_FILTERS: Mapping[str, Field] = {
    "from": Field(day, json=str),
    "to": Field(day, json=str),
    **PAGING,
}


def from_query(request: Request, table: Mapping[str, Field]) -> dict[str, Any]:
    """The parameters that are given; raises the 422 with every fault."""
    check_query(request, table)
    given: dict[str, Any] = dict(request.query_params)
    limit = given.get("limit")
    if limit is not None and _WHOLE.fullmatch(limit):
        given["limit"] = int(limit)
    checked = Checked()
    good = checked.members(given, table)
    if checked.errors:
        errors = [FieldError(e.pointer, "query.value", e.detail) for e in checked.errors]
        raise ProblemError(of_fields(errors))
    return good


def position_of(
    key: bytes, place: bytes, given: Mapping[str, Any], name: str, *, is_query: bool
) -> int | None:
    """What the cursor among the parameters stands for; None without one, raises the 422."""
    cursor = given.get(name)
    if cursor is None:
        return None
    position = open_cursor(key, place, cursor)
    if position is None:
        detail = (
            f"`{name}` is not one that this list gave for these filters; begin without it, and "
            "change no filter between pages."
        )
        raise ProblemError(refusal(name, detail, is_query=is_query))
    return position


def refusal(name: str, detail: str, *, is_query: bool) -> Problem:
    """The 422 for one parameter or field."""
    code = "query.value" if is_query else "field.value"
    return of_fields([FieldError(f"/{name}", code, detail)])
