"""POST /v1/messages/{id}:resend: an operator sends an uncertain message a second time (`ask`).

    admin key ─▶ the message as it stands ─▶ audit row ═COMMIT═▶ its owner ─▶ the copy ═COMMIT═▶ 200

What nobody could answer for in 2 s is 503 and may be done yet: the wish stands until the owner,
or whoever takes it over, has carried it out. Never more than one copy, however often it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.desk import Desk, id_in, private_response
from gateway.api.messages import MESSAGE, MessageRoutes, answered, operator_view
from gateway.api.problems import Problem, ProblemError
from gateway.api.routing import add_route
from gateway.lostanswer import CopyVerdict
from sms.ids import to_text
from sms.model import Message, State
from store.audit import Entry

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

_REFUSALS: Final[Mapping[CopyVerdict, tuple[str, str]]] = {
    CopyVerdict.DONE: ("message.copy_made", "The message has had its second copy."),
    CopyVerdict.KNOWN: (
        "message.not_uncertain",
        "The message is not uncertain: nothing is to be sent again.",
    ),
    CopyVerdict.POLICY: (
        "message.copy_refused",
        "What follows a lost answer of this message is not `ask` but `hold`, or its own copy may "
        "yet be made: look at its state again in two minutes.",
    ),
    CopyVerdict.LATE: (
        "message.copy_refused",
        "Too little of its validity is left: it would come too late.",
    ),
    CopyVerdict.ATTEMPTS: ("message.copy_refused", "All its attempts are used up."),
}


class Resends(MessageRoutes):
    """The route; for the platform's keys alone."""

    def __init__(self, flow: FlowPort) -> None:
        super().__init__(flow)
        self._desk = Desk(flow)

    def register(self, app: FastAPI) -> None:
        """Add the route; what it answers is described in `openapi.py`."""
        add_route(app, MESSAGE + ":resend", self.resend, name="resendMessage", methods=["POST"])

    async def resend(self, request: Request) -> Response:
        """200 with the message when its one marked copy is committed."""
        desk = self._desk
        key = desk.enter(request)
        await desk.no_body(request)
        message_id = id_in(request, "id", "msg")
        message, _ = await self._stored(message_id, None)
        _refuse(message)
        shown = to_text("msg", message_id)
        told = {"tenant": to_text("ten", message.tenant)}
        entry = Entry("message.resend", "message", shown, shown, 0, None, told)
        await desk.store.note(desk.author(request, key), entry)
        verdict = await answered(self._flow.commands.resend(message.tenant, message_id))
        if verdict in _REFUSALS:
            raise ProblemError(Problem(*_REFUSALS[verdict]))
        message, rows = await self._stored(message_id, None)
        return private_response(operator_view(self._flow, message, rows, self._clocks()))


def _refuse(message: Message) -> None:
    """Raise the 409 for what the stored rows alone say no to; its owner judges the rest."""
    if message.duplicate_risk:
        raise ProblemError(Problem(*_REFUSALS[CopyVerdict.DONE]))
    if message.state is not State.UNCERTAIN:
        raise ProblemError(Problem(*_REFUSALS[CopyVerdict.KNOWN]))
