"""The webhooks in a message's timeline: which of its events were told, and which wait.

A webhook that was delivered leaves no row, so its step stands at the moment of its event and knows
no milliseconds; where it cannot be told for certain, there is no step (`store/told.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.notices import type_of_path
from gateway.timeline import blank_step
from gateway.views import rfc3339
from sms.config import WebhookEndpoint, wants_event
from sms.ids import to_text
from sms.model import EventRow

if TYPE_CHECKING:
    from store.told import Told

MAX_ENDPOINTS: Final = 20  # of a tenant, told in one timeline
# A process looks for a new configuration each second: until then it may not know the endpoint.
IN_FORCE_S: Final = 2.0


def events_told(rows: Sequence[EventRow]) -> dict[int, EventRow]:
    """The rows that webhooks tell of, by event id."""
    return {row.event_id: row for row in rows if type_of_path(row.path) is not None}


def webhook_steps(
    events: Mapping[int, EventRow], endpoints: Mapping[int, WebhookEndpoint], told: Sequence[Told]
) -> list[dict[str, Any]]:
    """A step for each event and endpoint of which something is certain."""
    steps = []
    for one in told:
        row = events[one.event_id]
        kind = type_of_path(row.path)
        if kind is None or not wants_event(endpoints[one.endpoint].events, kind):
            continue
        known = _standing(one, row)
        if known is None:
            continue
        code, detail = known
        words = f"{kind} to {to_text('whe', one.endpoint)}: {detail}"
        step = blank_step(row.at, "webhook", row.status)
        steps.append({**step, "code": code, "detail": words})
    return steps


def _standing(one: Told, row: EventRow) -> tuple[str, str] | None:
    """Code and words; None where nothing is certain."""
    if one.tries is not None and one.due == math.inf:
        return "webhook.given_up", f"given up after {_tries(one.tries)}"
    if one.tries is not None and one.due is not None:
        due = rfc3339(one.due)
        return "webhook.waiting", f"not delivered by {_tries(one.tries)}, the next one at {due}"
    if row.at < one.since + IN_FORCE_S:
        return None  # the endpoint was made or changed later
    if not one.is_settled:
        return "webhook.waiting", "on its way, or its delivery not noted yet"
    if one.sure_below is not None and one.event_id >= one.sure_below:
        return None  # it may have been left alone after a 410
    return "webhook.delivered", "delivered"


def _tries(count: int) -> str:
    return "one try" if count == 1 else f"{count} tries"
