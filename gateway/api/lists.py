"""Lists of messages: GET /v1/messages and POST /v1/messages:search (API section 3).

    filters, cursor ─▶ looks at the store ─▶ ids that match ─▶ read, folded ─▶ the objects of
                       at most 20,000 messages, 1 s              GET /v1/messages/{id}

A page ends when it is full, when it has looked at 20,000 messages or for a second, or at the end of
the list; only then it has no `next_cursor`. Whatever takes long lets others have the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.bodies import check_media_type
from gateway.api.cursors import place_of, seal_cursor
from gateway.api.fields import Checked
from gateway.api.filters import (
    DEFAULT_LIMIT,
    MESSAGE_FILTERS,
    SEARCH_FILTERS,
    from_query,
    moment_of,
    position_of,
)
from gateway.api.frame import headers_of
from gateway.api.messages import MessageRoutes, operator_view, view_of
from gateway.api.problems import FieldError
from gateway.api.reply import caller, check_query, json_response
from gateway.api.routing import add_route
from gateway.api.strict import parse_strict
from gateway.ledger import ENDS
from receipts.state import fold
from sms.config import ApiKey
from sms.ids import id_at, unix_of
from sms.model import MessageClass, State
from sms.numbers import BadNumber, parse_number
from store.intake import CLIENT_REF_LIFE_S
from store.lists import NO_ROW, NO_ROW_YET, Look, Wanted, newest_id
from store.read import Stored

MAX_BODY = 1 << 14
MAX_EXAMINED = 20_000
BUDGET_S = 1.0
_LEAST_LOOK, _MOST_LOOK = 500, 4000
_SLOW_S = 0.3  # a look that takes longer makes the next one smaller
_FIRST_DAYS = 2  # an id may be a few seconds ahead of midnight
# Before the message that has a client_ref, none has it for so long; an hour for clocks that differ.
_REF_ALONE_S = CLIENT_REF_LIFE_S - 3600
_SLICE = 100  # messages read, folded and shown in one turn of the loop
_MANY = 400  # of those that are only asked for one thing
# Where the owner's live object may know better than the newest row.
_MOVING = (State.ACCEPTED, State.QUEUED, State.SUBMITTING, State.SCHEDULED)


class _Query(NamedTuple):
    """One request for a page."""

    wanted: Wanted
    status: State | None
    client_ref: str | None
    number: str | None  # digits
    limit: int
    below: int
    is_first: bool  # page of the list


class Page(NamedTuple):
    """What was found; `below` is where the next page goes on, 0 at the end."""

    objects: list[dict[str, Any]]
    below: int


class MessageLists(MessageRoutes):
    """The two routes."""

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_reads.py`."""
        add_route(app, "/v1/messages", self.browse, name="listMessages")
        add_route(app, "/v1/messages:search", self.search, name="searchMessages", methods=["POST"])

    async def browse(self, request: Request) -> Response:
        """By filters in the URL; an admin key sees all tenants', with masked numbers."""
        key: ApiKey = request.state.key
        key = caller(request, self._flow, "read" if key.tenant else "admin")
        return await self._answer(key, from_query(request, MESSAGE_FILTERS), is_query=True)

    async def search(self, request: Request) -> Response:
        """The same with the filters in the body, where a number may stand."""
        key = caller(request, self._flow, "read")
        check_query(request)
        check_media_type(headers_of(request.scope["headers"]))
        raw = await self._bodies.read(request.receive, MAX_BODY)
        checked = Checked()
        given = checked.members(parse_strict(raw), SEARCH_FILTERS)
        if "to" in given:
            number = parse_number(given["to"])
            if isinstance(number, BadNumber):
                checked.errors.append(FieldError("/to", number.code, f"`to`: {number.detail}."))
            else:
                given["to"] = number.digits
        checked.stop()
        return await self._answer(key, given, is_query=False)

    async def _answer(self, key: ApiKey, given: Mapping[str, Any], *, is_query: bool) -> Response:
        filters = {k: v for k, v in given.items() if k not in ("limit", "cursor")}
        place = place_of("messages", key.tenant, filters)
        cursor_key = self._flow.keyring.cursor_key
        below = position_of(cursor_key, place, given, "cursor", is_query=is_query)
        page = await self._page(self._query(key, given, below), full_number=bool(key.tenant))
        following = seal_cursor(cursor_key, place, page.below) if page.below else None
        response = json_response({"data": page.objects, "next_cursor": following})
        response.headers["cache-control"] = "no-store"
        return response

    # -- what is asked for -----------------------------------------------------------------

    def _query(self, key: ApiKey, given: Mapping[str, Any], below: int | None) -> _Query:
        status = State(given["status"]) if "status" in given else None
        number = given.get("to")
        channel = given.get("channel")
        wanted = Wanted(
            key.tenant or None,
            None if status is None else _paths_of(status),
            status is State.UNCERTAIN,
            MessageClass(given["class"]) if "class" in given else None,
            None if channel is None else self._flow.channel_ids(channel),
            None if number is None else self._flow.keyring.number_index(key.tenant, number),
            _unix_of(given.get("created_after")),
            _unix_of(given.get("created_before")),
            has_options="client_ref" in given,
        )
        start = newest_id(wanted, self._unix()) if below is None else below
        limit = given.get("limit", DEFAULT_LIMIT)
        ref = given.get("client_ref")
        return _Query(wanted, status, ref, number, limit, start, is_first=below is None)

    # -- looking ---------------------------------------------------------------------------

    async def _page(self, query: _Query, *, full_number: bool) -> Page:
        """Look until the page is full, the list is at its end, or it was enough."""
        until = self._monotonic() + BUDGET_S
        below, days, examined = query.below, _FIRST_DAYS, 0
        is_narrow = _is_narrow(query)
        count = _LEAST_LOOK if is_narrow else query.limit + 1
        found: list[dict[str, Any]] = []
        enough = MAX_EXAMINED
        known = await self._known(query)
        if known is not None:
            if known < below:
                look = await self._flow.reading.lists.look(query.wanted, known + 1, 1, 1)
                found, _ = await self._objects(query, look, query.limit, full_number)
            below = min(below, max(0, id_at(unix_of(known) - _REF_ALONE_S)))
            enough = 1  # one look says whether older ones can follow
        while below:
            count = min(count, MAX_EXAMINED - examined)
            began = self._monotonic()
            look = await self._flow.reading.lists.look(query.wanted, below, count, days)
            took_s = self._monotonic() - began
            examined += look.examined
            more, rest = await self._objects(query, look, query.limit - len(found), full_number)
            found += more
            if rest:
                return Page(found, rest)
            if look.below and look.examined < count:
                days *= 2  # the window is empty behind here
            below = look.below
            if examined >= enough or self._monotonic() > until:
                break
            if is_narrow:
                count = max(_LEAST_LOOK, count // 2) if took_s > _SLOW_S else 2 * count
                count = min(count, _MOST_LOOK)
        return Page(found, below)

    async def _known(self, query: _Query) -> int | None:
        """The message that has this client_ref now: no other one of the last 7 days has it."""
        tenant = query.wanted.tenant
        if query.client_ref is None or tenant is None or not query.is_first:
            return None
        intake = self._flow.intake
        stored = await intake.find(intake.hasher.ref(tenant, query.client_ref))
        return None if stored is None else stored.first_id

    async def _objects(
        self, query: _Query, look: Look, room: int, full_number: bool
    ) -> tuple[list[dict[str, Any]], int]:
        """The objects of what a look found, at most `room`; where to go on when there was more."""
        found: list[dict[str, Any]] = []
        ids = await self._candidates(query, look)
        for start in range(0, len(ids), _SLICE):
            some = ids[start : start + _SLICE]
            stored = await self._flow.reading.reader.messages(some)
            for message_id in some:
                record = stored.get(message_id)
                shown = None if record is None else self._shown(query, record, full_number)
                if shown is None:
                    continue
                if len(found) == room:
                    return found, message_id + 1
                found.append(shown)
            await asyncio.sleep(0)
        return found, 0

    async def _candidates(self, query: _Query, look: Look) -> list[int]:
        """The ids of a look, less those of which it is known without reading the whole message
        that they do not match.
        """
        if query.client_ref is not None:
            return await self._with_ref(look.ids, query.client_ref)
        if query.status not in _MOVING:
            return look.ids
        found: list[int] = []
        for start in range(0, len(look.ids), _MANY):
            part = slice(start, start + _MANY)
            for message_id, path in zip(look.ids[part], look.paths[part], strict=True):
                live = self._flow.live(message_id)
                stands = _state_after(path) if live is None else live.state
                if stands in (None, query.status):
                    found.append(message_id)
            await asyncio.sleep(0)
        return found

    async def _with_ref(self, ids: Sequence[int], client_ref: str) -> list[int]:
        """Those that carry the reference; it is sealed, so each has to be opened."""
        found: list[int] = []
        for start in range(0, len(ids), _MANY):
            some = ids[start : start + _MANY]
            bodies = await self._flow.reading.reader.bodies(some)
            for message_id in some:
                message = bodies.message(message_id)
                if message is not None and message.client_ref == client_ref:
                    found.append(message_id)
            await asyncio.sleep(0)
        return found

    def _shown(self, query: _Query, stored: Stored, full_number: bool) -> dict[str, Any] | None:
        """The object of one message; None when it does not match after all, or not any more."""
        message = stored.message
        if query.number not in (None, message.number):
            return None  # two numbers may share a blind index
        fold(message, stored.rows)
        view_in = view_of if full_number else operator_view
        view = view_in(self._flow, message, stored.rows, self._clocks())
        if query.status is not None and view["status"] != query.status.value:
            return None
        channels = query.wanted.channels
        if channels is not None and message.channel not in channels:
            return None
        return view


def _is_narrow(query: _Query) -> bool:
    """Whether messages that are looked at may not match."""
    wanted = query.wanted
    filters = (query.status, query.client_ref, wanted.message_class, wanted.channels, wanted.before)
    return any(one is not None for one in filters)


def _state_after(path: int) -> State | None:
    """Where a message stands whose newest row has this path; None = the message itself says."""
    if path == NO_ROW_YET:
        return None
    return ENDS[path] or State.ACCEPTED


def _paths_of(status: State) -> tuple[int, ...]:
    """The paths of newest rows whose message may be shown with this status."""
    ends = _MOVING if status in _MOVING else (status,)
    paths = tuple(path for path, end in enumerate(ENDS) if end in ends)
    return (NO_ROW, NO_ROW_YET, *paths) if status in _MOVING else paths


def _unix_of(text: str | None) -> float | None:
    moment = moment_of(text)
    return None if moment is None else moment.timestamp()
