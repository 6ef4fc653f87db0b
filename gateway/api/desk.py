"""What every administrative route shares: who asks, the body, If-Match, pages, the author."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.convertors import Convertor, register_url_convertor

from gateway.api.access import Gate
from gateway.api.bodies import check_media_type
from gateway.api.cursors import place_of, seal_cursor
from gateway.api.fields import Checked
from gateway.api.filters import DEFAULT_LIMIT, PAGING, from_query, position_of
from gateway.api.frame import BodyReader, headers_of
from gateway.api.problems import Problem, ProblemError, retry_after
from gateway.api.reply import caller, check_query, json_response, not_found
from gateway.api.routing import add_route
from gateway.api.strict import parse_strict
from gateway.configfields import Field
from sms.config import ApiKey
from sms.errors import ConfigError, Unavailable
from sms.ids import from_text, to_text
from store.audit import Author
from telemetry.logs import get_logger

if TYPE_CHECKING:
    from gateway.api.port import FlowPort
    from store.config import ConfigStore
    from store.objects import StoredObject

log = get_logger(__name__)

MAX_BODY = 1 << 16  # no object is larger; read by the exact parser, on the loop
REFRESH_S = 2.0
_ETAG = re.compile(rb'\s*(W/)?"([!#-~]{0,64})"\s*')

Handler = Callable[[Request], Awaitable[Response]]


class _Id(Convertor[str]):
    """One segment of a path without a colon: what comes behind one is an action."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        """As it stands."""
        return value

    def to_string(self, value: str) -> str:
        """As it stands."""
        return value


register_url_convertor("oid", _Id())


class Page(NamedTuple):
    """Which part of a list is asked for; `following` makes the cursor behind an id."""

    limit: int
    below: int | None
    given: Mapping[str, Any]  # the filters
    following: Callable[[int], str]


class Desk:
    """The shared steps; one for all administrative routes."""

    def __init__(self, flow: FlowPort) -> None:
        self._flow = flow
        self._gate = Gate(flow)
        self._bodies = BodyReader()

    def now(self) -> float:
        """Unix seconds."""
        return self._flow.access.now()

    @property
    def has_client_ca(self) -> bool:
        """Whether the public port asks clients for certificates."""
        return self._flow.access.has_client_ca

    @property
    def pepper(self) -> bytes:
        """Key of the HMAC over API secrets."""
        return self._flow.keyring.pepper

    @property
    def store(self) -> ConfigStore:
        """Where the configuration is kept; raises the 503."""
        if self._flow.access.config is None:
            detail = "This process has no configuration store."
            raise ProblemError(retry_after("store.unavailable", detail, 2))
        return self._flow.access.config

    def enter(self, request: Request, *parameters: str) -> ApiKey:
        """The admin key that asks; raises the 403, and the 422 for an unknown parameter."""
        key = caller(request, self._flow, "admin")
        check_query(request, parameters)
        return key

    def author(self, request: Request, key: ApiKey) -> Author:
        """Who is written into the audit log."""
        address = self._gate.address_of(request.scope)
        return Author(
            kind="key",
            name=key.name,
            id=to_text("key", key.id),
            address=None if address is None else str(address),
            request_id=request.state.request_id,
        )

    async def body(
        self,
        request: Request,
        table: Mapping[str, Field],
        *,
        is_partial: bool = False,
        is_open: bool = False,
    ) -> tuple[dict[str, Any], Checked]:
        """The good fields and the faults so far; raises for what is no JSON at all."""
        headers = headers_of(request.scope["headers"])
        check_media_type(headers)
        raw = await self._bodies.read(request.receive, MAX_BODY)
        checked = Checked()
        document = parse_strict(raw)
        good = checked.members(document, table, is_partial=is_partial, is_open=is_open)
        return good, checked

    def page(self, request: Request, key: ApiKey, table: Mapping[str, Field] = PAGING) -> Page:
        """What the URL says of a list; raises the 422. The cursor is good for this list alone."""
        given = from_query(request, table)
        filters = {name: value for name, value in given.items() if name not in PAGING}
        place = place_of(request.scope["path"], key.tenant, filters)
        cursor_key = self._flow.keyring.cursor_key
        below = position_of(cursor_key, place, given, "cursor", is_query=True)
        limit = given.get("limit", DEFAULT_LIMIT)
        return Page(limit, below, filters, partial(seal_cursor, cursor_key, place))

    async def no_body(self, request: Request) -> None:
        """Refuse fields where none is known; nothing at all and {} are the same."""
        await no_body(self._bodies, request)

    async def done(self) -> None:
        """Take the change up in this process now; the others look each second."""
        await self.at_once(self._flow.access.refresh)

    @staticmethod
    async def at_once(refresh: Callable[[], Awaitable[None]]) -> None:
        """Put a change in force here; when that fails now, the poll does it."""
        try:
            await asyncio.wait_for(refresh(), REFRESH_S)
        except (Unavailable, ConfigError, TimeoutError) as error:
            log.warning("a change is taken up later", error=type(error).__name__)


async def no_body(bodies: BodyReader, request: Request) -> None:
    """Refuse fields where none is known; nothing at all and {} are the same."""
    headers = headers_of(request.scope["headers"])
    raw = await bodies.read(request.receive, MAX_BODY)
    if raw or b"content-encoding" in headers:
        check_media_type(headers)
    if raw:
        checked = Checked()
        checked.members(parse_strict(raw), {})
        checked.stop()


def register(app: FastAPI, path: str, name: str, **handlers: Handler) -> None:
    """Add one path with its methods, so that a 405 names all of them."""

    async def endpoint(request: Request) -> Response:
        return await handlers[request.method](request)

    add_route(app, path, endpoint, name=name, methods=list(handlers))


def id_in(request: Request, name: str, prefix: str) -> int:
    """The number behind an id in the path; raises the 404 for what is none."""
    number = from_text(prefix, request.path_params[name])
    if number is None:
        raise not_found()
    return number


def check_if_match(request: Request, standing: StoredObject, *, is_required: bool) -> None:
    """Raise the 412 unless If-Match names what stands; 428 when it has to be there and is not."""
    given = dict(request.scope["headers"]).get(b"if-match")
    if given is None:
        if is_required:
            detail = "Say which version you change: send the ETag you read in If-Match."
            raise ProblemError(Problem("if_match.required", detail))
        return
    if given.strip() == b"*":
        return
    tags = [_ETAG.fullmatch(part) for part in given.split(b",")]
    if not all(tags):
        detail = "If-Match is not a list of ETags in double quotes."
        raise ProblemError(Problem("if_match.malformed", detail))
    version = b"%d" % standing.version
    if not any(tag[2] == version and not tag[1] for tag in tags if tag is not None):
        detail = "The object was changed since you read it; read it again and repeat your change."
        raise ProblemError(Problem("if_match.mismatch", detail))


def list_response(page: Page, rows: Sequence[Any], ids: Sequence[int]) -> Response:
    """One page; `rows` may hold one more than the limit, which says that there is a next one."""
    more = len(rows) > page.limit
    cursor = page.following(ids[page.limit - 1]) if more else None
    return private_response({"data": rows[: page.limit], "next_cursor": cursor})


def object_response(view: Mapping[str, Any], status: int = 200) -> Response:
    """One object with its ETag."""
    response = private_response(view, status)
    response.headers["etag"] = f'"{view["version"]}"'
    return response


def private_response(value: object, status: int = 200) -> Response:
    """An answer that no cache keeps: who is whose customer is nobody else's business."""
    response = json_response(value, status)
    response.headers["cache-control"] = "no-store"
    return response
