"""Lists, search, the pull of events and usage in the OpenAPI document, with runnable examples."""

from __future__ import annotations

from gateway.api.filters import DEFAULT_LIMIT, MAX_CLIENT_REF, MAX_LIMIT
from gateway.api.openapi_parts import (
    ID,
    NULLABLE_TEXT,
    SECURITY,
    TIME,
    Json,
    object_of,
    problems,
    ref,
)
from sms.model import Carrier, MessageClass, State

SEARCH_EXAMPLES: dict[str, Json] = {
    "number": {"summary": "What was sent to a number", "value": {"to": "+8613800138000"}},
    "everything": {
        "summary": "All fields but `cursor`",
        "value": {
            "to": "13800138000",
            "status": "delivered",
            "class": "otp",
            "client_ref": "order-4711",
            "channel": "mobile-a",
            "created_after": "2026-11-21T00:00:00+08:00",
            "created_before": "2026-11-22T00:00:00+08:00",
            "limit": 100,
        },
    },
}

_LIMIT: Json = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_LIMIT,
    "default": DEFAULT_LIMIT,
    "description": "How many at most; it may change from page to page.",
}
_CURSOR: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": 200,
    "description": "`next_cursor` of the page before, with the same filters.",
}
_FILTERS: Json = {
    "status": {
        "enum": [str(word) for word in State],
        "description": "As the message stands now. What a process of its own is about to send may "
        "be `accepted` for the others where its owner says `queued` or `submitting`.",
    },
    "class": {"enum": [str(word) for word in MessageClass]},
    "client_ref": {"type": "string", "minLength": 1, "maxLength": MAX_CLIENT_REF},
    "channel": {
        "type": "string",
        "minLength": 1,
        "maxLength": 64,
        "description": "Name of the channel of the newest attempt; an unknown one finds nothing.",
    },
    "created_after": {**TIME, "description": "From this moment on, itself included."},
    "created_before": {**TIME, "description": "Before this moment, itself excluded."},
}
_PAGE_TEXT = (
    "Newest first. A page looks at no more than 20,000 messages: it may hold fewer than `limit`, "
    "even none, and still have a `next_cursor`; only null says that there is nothing more."
)
_DAY: Json = {"type": "string", "format": "date"}


def read_schemas() -> Json:
    """The schemas of these routes."""
    cursor = {**NULLABLE_TEXT, "description": "For the next page; null at the end."}
    listed = {**ref("Message")}
    return {
        "MessageList": object_of(
            {"data": {"type": "array", "items": listed}, "next_cursor": cursor}
        ),
        "SearchRequest": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "to": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 40,
                    "description": "The whole number, spelled as for sending.",
                },
                **_FILTERS,
                "limit": _LIMIT,
                "cursor": _CURSOR,
            },
        },
        "Event": object_of(
            {
                "id": {**ID, "description": "Equals the `webhook-id` of the same event."},
                "type": {
                    "type": "string",
                    "pattern": "^(message\\.|inbound\\.received$|recipient\\.opted_out$"
                    "|channel\\.(degraded|recovered)$)",
                },
                "timestamp": TIME,
                "data": {
                    "type": "object",
                    "description": "Of `message.…`: the message as it stood then, its number "
                    "masked, with `status` and `previous_status`. Of `inbound.received`: an "
                    "InboundMessage. Of `recipient.opted_out`: `to` (masked) and the `classes` "
                    "that are suppressed for it now. Of `channel.…`: `name`, `carrier` (null: the "
                    "whole channel), `cause` and `since` of a channel in the tenant's routes; its "
                    "`sequence` only grows.",
                    "required": ["id", "sequence"],
                },
            }
        ),
        "EventList": object_of(
            {
                "data": {"type": "array", "items": ref("Event")},
                "next_cursor": {
                    "type": "string",
                    "description": "For the next call, also when nothing was new.",
                },
            }
        ),
        "InboundMessage": object_of(
            {
                "id": {**ID, "description": "inb_…"},
                "from": {"type": "string", "description": "The phone's number, whole for `read`."},
                "to": {"type": "string", "description": "The number it was sent to."},
                "text": {"type": "string", "description": "[…] stands for missing segments."},
                "channel": NULLABLE_TEXT,
                "segments": {"type": "integer", "minimum": 1},
                "incomplete": {
                    "type": "boolean",
                    "description": "Not all segments came before the wait ended.",
                },
                "missing_segments": {"type": "integer", "minimum": 0},
                "opted_out": {
                    "type": "boolean",
                    "description": "It was an opt-out word and brought a suppression.",
                },
                "probable_parent": {
                    **NULLABLE_TEXT,
                    "description": "The message that it probably answers: the newest that went "
                    "to that phone from that number within 72 h.",
                },
                "received_at": TIME,
            }
        ),
        "InboundMessageList": object_of(
            {"data": {"type": "array", "items": ref("InboundMessage")}, "next_cursor": cursor}
        ),
        "UsageCell": object_of(_CELL),
        "PricedUsageCell": object_of({**_CELL, "cost": _COST}),
        "TenantUsageList": object_of(
            {"data": {"type": "array", "items": ref("PricedUsageCell")}, "next_cursor": cursor}
        ),
        "UsageList": object_of(
            {"data": {"type": "array", "items": ref("UsageCell")}, "next_cursor": cursor}
        ),
    }


_CELL: Json = {
    "day": {**_DAY, "description": "Day of the accept, in China's time (UTC+8)."},
    "class": _FILTERS["class"],
    "channel": {**NULLABLE_TEXT, "description": "Of the newest attempt; null before."},
    "carrier": {"enum": [str(word) for word in Carrier]},
    "status": {"enum": [str(word) for word in State]},
    "count": {"type": "integer", "description": "Messages that stand there now."},
    "segments": {"type": "integer", "description": "Their segments."},
}
_USAGE_PARAMETERS: Json = {
    "from": {**_DAY, "description": "First day; default 30 days before `to`."},
    "to": {**_DAY, "description": "Last day, itself included; default today."},
    "limit": _LIMIT,
    "cursor": _CURSOR,
}
_COST: Json = {
    **NULLABLE_TEXT,
    "description": "An estimate: what the channel takes for these segments at the "
    "`price_per_segment` now in force, as a decimal; null when the channel has no price, 0 for "
    "what it never took. Second copies are not in it; `smsgw_submitted_cost_total` counts exactly.",
}


def read_paths() -> Json:
    """The operations by path; the list of messages is joined to the send route's path."""
    return {
        "/v1/messages:search": {
            "post": _operation(
                "searchMessages",
                "Search messages, also by number",
                "MessageList",
                f"{_PAGE_TEXT} A number does not belong in a URL: it stands in the body.",
            )
            | {
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": ref("SearchRequest"),
                            "examples": SEARCH_EXAMPLES,
                        }
                    },
                },
                "responses": _answer("MessageList")
                | problems(400, 401, 403, 405, 408, 413, 415, 422, 500, 503),
            }
        },
        "/v1/events": {
            "get": _operation(
                "listEvents",
                "Fetch events, oldest first",
                "EventList",
                "The events that webhooks bring, with the same bodies and ids, for 7 days. Reading "
                "consumes nothing. An event appears some 3 s after it happened, and none is ever "
                "added before a cursor.",
                {
                    "after": {
                        **_CURSOR,
                        "description": "`next_cursor` of the call before; "
                        "without it, the oldest event that is kept comes first.",
                    },
                    "limit": _LIMIT,
                },
            )
        },
        "/v1/inbound-messages": {
            "get": _operation(
                "listInboundMessages",
                "List texts from phones",
                "InboundMessageList",
                "The newest first. With an admin key: of all tenants, and those that are nobody's "
                "(`tenant` null), numbers masked.",
                {"limit": _LIMIT, "cursor": _CURSOR},
            )
        },
        "/v1/usage": {
            "get": _operation(
                "readUsage",
                "Count messages and segments",
                "UsageList",
                "By day, class, channel, carrier and status, newest day first: where the messages "
                "of each day stand now. Every accepted message is in exactly one cell, counted in "
                "the commit that moves it.",
                _USAGE_PARAMETERS,
            )
        },
        "/v1/tenants/{id}/usage": {
            "get": _operation(
                "readTenantUsage",
                "Count a tenant's messages and segments, with what they cost",
                "TenantUsageList",
                "For admin keys: the usage of one tenant, as it reads it itself, and beside each "
                "cell what the channel takes for it.",
                _USAGE_PARAMETERS,
                of_one=True,
            )
        },
    }


def list_operation() -> Json:
    """GET /v1/messages."""
    return _operation(
        "listMessages",
        "List messages",
        "MessageList",
        f"{_PAGE_TEXT} With an admin key: of all tenants, numbers masked, each with its `tenant`.",
        {**_FILTERS, "limit": _LIMIT, "cursor": _CURSOR},
    )


def _operation(
    name: str,
    summary: str,
    schema: str,
    description: str,
    parameters: Json | None = None,
    *,
    of_one: bool = False,
) -> Json:
    operation: Json = {
        "operationId": name,
        "summary": summary,
        "description": description,
        "security": SECURITY,
        "responses": _answer(schema) | problems(400, 401, 403, 405, 422, 500, 503),
    }
    if of_one:
        operation["responses"] |= problems(404)
    path = [{"name": "id", "in": "path", "required": True, "schema": ID}] if of_one else []
    if parameters:
        operation["parameters"] = path + [
            {"name": key, "in": "query", "required": False, "schema": value}
            for key, value in parameters.items()
        ]
    return operation


def _answer(schema: str) -> Json:
    content = {"application/json": {"schema": ref(schema)}}
    return {"200": {"description": "OK", "content": content}}
