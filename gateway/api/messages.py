"""One message: its object, its timeline, and canceling it (API section 3)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.desk import no_body, private_response
from gateway.api.frame import BodyReader
from gateway.api.problems import Problem, ProblemError, retry_after
from gateway.api.reply import caller, check_query, json_response, not_found
from gateway.api.routing import add_route
from gateway.api.standing import HELD as HELD_FOR_CHANNEL
from gateway.api.standing import Clocks, standing_of
from gateway.api.tellings import MAX_ENDPOINTS, events_told, webhook_steps
from gateway.timeline import timeline
from gateway.views import add_codes, message_view, rfc3339
from gateway.withdraw import Verdict
from receipts.state import Path, come_due, fold
from sms.config import ApiKey
from sms.errors import OutcomeUnknown
from sms.ids import from_text, to_text
from sms.model import FINAL_STATES, EventRow, Message, State

if TYPE_CHECKING:
    from gateway.api.port import FlowPort


T = TypeVar("T")

SUBMITTING: Final = "An attempt is open: a carrier has it, or may have it."
_WAITS = frozenset({State.ACCEPTED, State.QUEUED})
MESSAGE = "/v1/messages/{id:oid}"
HELD = "held: its batch is paused"
RETRY_S = 2


def view_of(
    flow: FlowPort,
    message: Message,
    rows: Sequence[EventRow],
    now: Clocks,
    *,
    full_number: bool = True,
) -> dict[str, Any]:
    """The object of a stored and folded message: as its owner knows it, when that is us.

    An end that is not committed yet is told by nobody.
    """
    if message.send_at is not None and message.send_at <= now.unix:
        come_due(message)  # no row tells of it: from its hour on it waits for a channel
    live = flow.live(message.id)
    is_fresher = live is not None and live.sequence >= message.sequence
    if live is not None and is_fresher and live.state not in FINAL_STATES:
        message = live
    name = flow.channel_name(message.channel)
    view = message_view(message, channel_name=name, full_number=full_number)
    add_codes(view, rows)
    awaited = None if live is None else standing_of(live, flow.channel_name, now)
    if awaited is not None:
        view["waiting"] = awaited["detail"]
    else:
        view["waiting"] = _held(flow, message) if message.state in _WAITS else None
    return view


def operator_view(
    flow: FlowPort, message: Message, rows: Sequence[EventRow], now: Clocks
) -> dict[str, Any]:
    """The same for an admin key: number masked, whose it is, what an uncertain one waits for."""
    view = view_of(flow, message, rows, now, full_number=False)
    view["tenant"] = to_text("ten", message.tenant)
    lost = next((row for row in reversed(rows) if row.path == Path.UNCERTAIN), None)
    if lost is None or view["status"] != State.UNCERTAIN.value:
        return view
    message.uncertain_at = lost.at
    prospect = flow.prospect(message)
    last = prospect.resend_until
    view["uncertain"] = {
        "since": rfc3339(lost.at),
        "policy": prospect.policy.value,
        "until": rfc3339(prospect.until),
        "resend_until": None if last is None else rfc3339(last),
    }
    return view


def _held(flow: FlowPort, message: Message) -> str | None:
    """Why a message waits that this process does not have in memory, where it can be told."""
    if flow.commands.is_held(message.id):
        return HELD
    channels = flow.snapshot.channels_for(
        message.tenant, message.message_class, message.carrier, message.country
    )
    return None if flow.is_taken(channels, message.message_class) else HELD_FOR_CHANNEL


class MessageRoutes:
    """What all routes that show messages have: the flow, clocks and a reader of bodies."""

    def __init__(
        self,
        flow: FlowPort,
        monotonic: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._flow = flow
        self._monotonic = monotonic
        self._unix = unix
        self._bodies = BodyReader(monotonic)

    def _clocks(self) -> Clocks:
        return Clocks(self._monotonic(), self._unix())

    async def _stored(self, message_id: int, tenant: int | None) -> tuple[Message, list[EventRow]]:
        """The message, folded, with its rows; of any tenant where None. Raises the 404."""
        stored = await self._flow.reader.message(message_id, tenant)
        if stored is None:
            raise not_found()
        message = stored.message
        fold(message, stored.rows)
        if message.send_at is not None and message.send_at <= self._unix():
            come_due(message)  # no row tells of it: from its hour on it waits for a channel
        return message, stored.rows


class Messages(MessageRoutes):
    """The routes under /v1/messages/{id}."""

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi.py`."""
        add_route(app, MESSAGE, self.read, name="readMessage")
        add_route(app, MESSAGE + "/timeline", self.steps, name="readTimeline")
        add_route(app, MESSAGE + ":cancel", self.cancel, name="cancelMessage", methods=["POST"])

    async def read(self, request: Request) -> Response:
        """The message as it stands now; the number masked for an admin key, the text never."""
        message, rows = await self._find(request, "read")
        key: ApiKey = request.state.key
        view = view_of if key.tenant else operator_view
        return private_response(view(self._flow, message, rows, self._clocks()))

    async def cancel(self, request: Request) -> Response:
        """200 only when it will certainly not be sent: its last row is committed."""
        message, rows = await self._find(request, "send", only_stops=True)
        await no_body(self._bodies, request)
        refuse_uncancelable(message)
        if message.state is not State.CANCELED:
            verdict = await answered(self._flow.commands.cancel(message.tenant, message.id))
            message, rows = await self._stored(message.id, message.tenant)
            refuse_uncancelable(message)
            if verdict is Verdict.BUSY:
                raise ProblemError(Problem("message.submitting", SUBMITTING))
            if message.state is not State.CANCELED:
                raise open_outcome()
        return json_response(view_of(self._flow, message, rows, self._clocks()))

    async def steps(self, request: Request) -> Response:
        """What happened to the message, in order, and what it waits for."""
        message, rows = await self._find(request, "read")
        steps = timeline(message, rows, self._flow.channel_name)
        webhooks = await self._webhooks(message.tenant, rows)
        if webhooks:
            steps = sorted(steps + webhooks, key=itemgetter("at"))
        live = self._flow.live(message.id)
        awaited = None
        if live is not None:
            awaited = standing_of(live, self._flow.channel_name, self._clocks())
        if awaited is not None and live is not None and live.sequence >= message.sequence:
            steps.append(awaited)
        return private_response({"data": steps})

    async def _webhooks(self, tenant: int, rows: Sequence[EventRow]) -> list[dict[str, Any]]:
        """What became of the webhooks of these rows, as far as it is certain."""
        endpoints = self._flow.snapshot.endpoints
        mine = {e.id: e for e in endpoints.values() if e.tenant == tenant}
        events = events_told(rows)
        if not mine or not events:
            return []
        reading = self._flow.reading
        told = await reading.tellings.of(sorted(mine)[:MAX_ENDPOINTS], sorted(events))
        return webhook_steps(events, mine, told, await reading.attempts.of_events(events))

    async def _find(
        self, request: Request, scope: str, *, only_stops: bool = False
    ) -> tuple[Message, list[EventRow]]:
        """The stored message, folded, with its rows; raises the 404.

        What may be read with the scope `read` an admin key reads of every tenant.
        """
        is_admin = not request.state.key.tenant and scope == "read"
        scope = "admin" if is_admin else scope
        key = caller(request, self._flow, scope, only_stops=only_stops)
        check_query(request)
        message_id = from_text("msg", request.path_params["id"])
        if message_id is None:
            raise not_found()
        return await self._stored(message_id, None if is_admin else key.tenant)


async def answered(work: Awaitable[T]) -> T:
    """The outcome of a command; raises the 503 when it stays open."""
    try:
        return await work
    except OutcomeUnknown as error:
        raise open_outcome() from error


def open_outcome() -> ProblemError:
    """Who has the messages did not answer in time: it may be done yet."""
    detail = "Not every process answered within 2 s: it may have been done, or be done yet."
    return ProblemError(retry_after("outcome_unknown", detail, RETRY_S))


def refuse_uncancelable(message: Message) -> None:
    """Raise the 409 for what a carrier may have, or what has ended otherwise."""
    if message.state in FINAL_STATES and message.state is not State.CANCELED:
        detail = f"The message is {message.state.value}, and that is final."
        raise ProblemError(Problem("message.final", detail))
    if message.state in (State.UNCERTAIN, State.SUBMITTED) or message.duplicate_risk:
        raise ProblemError(Problem("message.submitting", SUBMITTING))
