"""The webhooks in a message's timeline: each request that told of it, and what still waits.

A request is a row of `webhook_attempts`, written soon after it. Of one that has no row, yet or for
good, cursor and parked rows tell what became of it (`store/told.py`): its step stands at the moment
of its event and knows no milliseconds; where nothing is certain, there is none.
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
    from store.attempts import Attempt
    from store.told import Told

DELIVERED: Final = "webhook.delivered"
MAX_ENDPOINTS: Final = 20  # of a tenant, told in one timeline
# A process looks for a new configuration each second: until then it may not know the endpoint.
IN_FORCE_S: Final = 2.0


def events_told(rows: Sequence[EventRow]) -> dict[int, EventRow]:
    """The rows that webhooks tell of, by event id."""
    return {row.event_id: row for row in rows if type_of_path(row.path) is not None}


def webhook_steps(
    events: Mapping[int, EventRow],
    endpoints: Mapping[int, WebhookEndpoint],
    told: Sequence[Told],
    attempts: Sequence[Attempt] = (),
) -> list[dict[str, Any]]:
    """A step for each request, and for each event and endpoint of which more is certain."""
    steps = []
    arrived: set[tuple[int, int]] = set()
    for attempt in attempts:
        for event_id in attempt.event_ids if attempt.endpoint in endpoints else ():
            if event_id in events:
                steps.append(_request(attempt, events[event_id]))
                if attempt.code == DELIVERED:
                    arrived.add((attempt.endpoint, event_id))
    for one in told:
        if one.tries is None and (one.endpoint, one.event_id) in arrived:
            continue
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


def _request(attempt: Attempt, row: EventRow) -> dict[str, Any]:
    status = "" if attempt.status is None else f"{attempt.status}, "
    kind = type_of_path(row.path)
    return {
        **blank_step(attempt.at, "webhook", row.status),
        "code": attempt.code,
        "ms": attempt.ms,
        "detail": f"{kind} to {to_text('whe', attempt.endpoint)}: {status}try {attempt.tries}",
    }


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
    return DELIVERED, "delivered"


def _tries(count: int) -> str:
    return "one try" if count == 1 else f"{count} tries"
