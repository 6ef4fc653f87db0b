"""POST /v1/messages:preview: what a send would come to, without sending (API section 2)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.admit import Refused, Rules
from gateway.api.bodies import MAX_MESSAGE, check_media_type, parse_one_beside
from gateway.api.frame import BodyReader, headers_of
from gateway.api.problems import FieldError
from gateway.api.reply import caller, check_query, json_response
from gateway.api.routing import add_route
from gateway.api.send import merge, whole_ms
from gateway.api.turns import Turns
from gateway.preview import Preview, preview
from gateway.pumping import refusal as over_cap
from gateway.views import rfc3339
from sms.config import Tenant
from sms.numbers import Number, parse_number

if TYPE_CHECKING:
    from gateway.api.models import SendRequest
    from gateway.api.port import FlowPort

PREVIEW = "/v1/messages:preview"


class Previews:
    """The one route."""

    def __init__(
        self,
        flow: FlowPort,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flow = flow
        self._now = now
        self._monotonic = monotonic
        self._bodies = BodyReader(monotonic)
        self._rules = Rules(flow.snapshot, flow.policy, flow.porting.known)
        self._turns = Turns()

    def register(self, app: FastAPI) -> None:
        """Add the route; what it answers is described in `openapi_policy.py`."""
        add_route(app, PREVIEW, self.preview, methods=["POST"], name="previewMessage")

    async def preview(self, request: Request) -> Response:
        """200 also when the send would be refused; only what is no JSON is refused here."""
        flow = self._flow
        key = caller(request, flow, "send")
        check_query(request)
        check_media_type(headers_of(request.scope["headers"]))
        entry, errors = await parse_one_beside(
            await self._bodies.read(request.receive, MAX_MESSAGE)
        )
        if self._rules.snapshot is not flow.snapshot:
            self._rules = Rules(flow.snapshot, flow.policy, flow.porting.known)
        tenant = flow.snapshot.tenants[key.tenant]
        await self._turns.mine()  # a long text takes milliseconds, and nothing limits previews
        found = preview(entry, tenant, self._rules, whole_ms(self._now()))
        refusals = merge(errors, Refused(found.refusals))
        refusals = [*refusals, *self._too_large(tenant.id, found)]
        refusals += await self._over_cap(entry, tenant, found)
        return json_response(self._view(found, refusals))

    async def _over_cap(
        self, entry: SendRequest, tenant: Tenant, found: Preview
    ) -> list[FieldError]:
        pumping = self._flow.pumping
        number = parse_number(entry.to) if isinstance(entry.to, str) else None
        if pumping is None or not isinstance(number, Number):
            return []
        if not pumping.watches(tenant, found.message_class):
            return []
        wait_s = await pumping.look(tenant, number.digits)
        return [over_cap(wait_s)] if wait_s else []

    def _too_large(self, tenant: int, found: Preview) -> list[FieldError]:
        most = math.floor(self._flow.limiter.look(tenant, self._monotonic()).depth)
        if len(found.texts) <= most:
            return []
        detail = f"It has more segments than the tenant's limit ever holds: at most {most}."
        return [FieldError("/text", "quota.message_too_large", detail)]

    def _view(self, found: Preview, refusals: Sequence[FieldError]) -> dict[str, Any]:
        flow = self._flow
        channel = flow.would_take(found.channels, found.message_class)
        return {
            "encoding": found.encoding,
            "segments": len(found.texts),
            "segment_texts": found.texts,
            "final_text": found.final_text,
            "forcing_characters": found.forcing,
            "channel": None if channel is None else flow.channel_name(channel),
            "send_at": None if found.send_at is None else rfc3339(found.send_at),
            "refusals": [error._asdict() for error in refusals],
            "notes": [error._asdict() for error in found.notes],
        }
