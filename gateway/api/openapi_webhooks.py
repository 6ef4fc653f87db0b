"""The part of the OpenAPI document on webhook endpoints, with the examples that the tests run."""

from __future__ import annotations

from gateway.api.openapi_parts import (
    ID,
    NULLABLE_TEXT,
    NULLABLE_TIME,
    SECURITY,
    TIME,
    Json,
    object_of,
    problems,
    ref,
)
from gateway.api.replaying import REPLAY
from gateway.configfields import EVENTS, MAX_OVERLAP_S
from sms.ids import to_text

ENDPOINT_EXAMPLES: dict[str, dict[str, Json]] = {
    "EndpointNew": {
        "plain": {"summary": "Every status", "value": {"url": "https://backend.example/hooks/sms"}},
        "batch": {
            "summary": "Up to 100 events in one request, and texts from phones",
            "value": {
                "url": "https://backend.example/hooks/many",
                "events": ["message.*", "inbound.received"],
                "batch": True,
                "full_number": True,
            },
        },
    },
    "EndpointChange": {
        "filter": {"summary": "Fewer events", "value": {"events": ["message.delivered"]}},
        "off": {"summary": "Send nothing for now", "value": {"enabled": False}},
        "on": {"summary": "Send again", "value": {"enabled": True}},
    },
    "SecretRotation": {
        "day": {"summary": "Both sign for a day", "value": {"overlap_s": 86_400}},
        "leaked": {"summary": "The old one at once no more", "value": {"overlap_s": 0}},
    },
    "ReplayRequest": {
        "failed": {"summary": "Every dead letter", "value": {"failed": True}},
        "range": {
            "summary": "Everything of an hour",
            "value": {
                "created_after": "2026-11-22T08:00:00Z",
                "created_before": "2026-11-22T09:00:00Z",
            },
        },
        "one": {"summary": "One event", "value": {"event_id": to_text("evt", 1 << 50)}},
    },
}
_BASE = "/v1/webhook-endpoints"
_WITH_BODY = (400, 401, 403, 405, 408, 413, 415, 422, 500, 503)
_PLAIN = (400, 401, 403, 405, 422, 500, 503)
_URL: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": 2048,
    "description": "https:// on port 443 or 8443, to the public Internet; no user name, no "
    "#fragment. One endpoint of a tenant for each URL.",
}
_ABOUT: Json = {
    "url": _URL,
    "events": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"enum": list(EVENTS)},
        "description": 'Default ["message.*"].',
    },
    "batch": {
        "type": "boolean",
        "description": "Up to 100 events in one request under one signature; default false.",
    },
    "full_number": {
        "type": "boolean",
        "description": "Numbers whole instead of masked; default false.",
    },
    "enabled": {
        "type": "boolean",
        "description": "false: nothing is sent, and what waits becomes dead letters. The gateway "
        "itself disables one that answers 410, or that took nothing for 5 days.",
    },
}
_SECRET: Json = {
    "type": "string",
    "pattern": "^whsec_",
    "description": "whsec_ and 24 to 64 bytes in base64; made when it is left out.",
}
_TENANT: Json = {
    "type": "string",
    "description": "By name or id; with an admin key only, and then it must be there.",
}


def endpoint_schemas() -> Json:
    """What the routes read and answer."""
    closed: Json = {"type": "object", "additionalProperties": False}
    shown: Json = {
        "id": ID,
        "tenant": ID,
        **{name: {**schema} for name, schema in _ABOUT.items()},
        "disabled_reason": {
            "enum": [None, "request", "gone", "failing"],
            "description": "gone: it answered 410. failing: nothing arrived for 5 days.",
        },
        "failing_since": {
            **NULLABLE_TIME,
            "description": "Nothing that was sent since then arrived; null: it does not fail.",
        },
        "last_delivered_at": NULLABLE_TIME,
        "previous_secret_until": {
            **NULLABLE_TIME,
            "description": "Until then an earlier secret signs as well.",
        },
        "created_at": TIME,
        "version": {"type": "integer", "description": "Its ETag is this in double quotes."},
    }
    attempt: Json = {
        "id": ID,
        "event_id": {**NULLABLE_TEXT, "description": "null of a batch."},
        "event_ids": {"type": "array", "items": ID},
        "at": TIME,
        "outcome": {
            "enum": ["delivered", "failed", "given_up", "gone"],
            "description": "failed: it is tried again. given_up: it was the last try. gone: 410.",
        },
        "code": {
            "type": "string",
            "description": "webhook.delivered or what stood against it: webhook.status, "
            "webhook.timeout, webhook.address_refused, webhook.redirect_refused …",
        },
        "status": {"type": ["integer", "null"], "description": "Of HTTP, when one was read."},
        "ms": {"type": "integer"},
        "try": {"type": "integer", "description": "1 = the first one, of at most 10."},
        "test": {"type": "boolean"},
        "answer": {
            **NULLABLE_TEXT,
            "description": "The beginning of the answer's body; null for "
            "origins that the operator exempts.",
        },
        "next_try_at": NULLABLE_TIME,
    }
    return {
        "EndpointNew": {
            **closed,
            "properties": {"tenant": _TENANT, **_ABOUT, "secret": _SECRET},
            "required": ["url"],
        },
        "EndpointChange": {**closed, "properties": _ABOUT},
        "Endpoint": object_of(shown),
        "EndpointList": _list_of("Endpoint"),
        "EndpointWithSecret": object_of(
            {**shown, "secret": {"type": "string", "description": "Shown this once."}}
        ),
        "SecretRotation": {
            **closed,
            "properties": {
                "overlap_s": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": MAX_OVERLAP_S,
                    "description": "Seconds for which the secret of before signs too; default a "
                    "day.",
                }
            },
        },
        "TestSent": object_of({"event_id": ID}),
        "Attempt": object_of(attempt),
        "AttemptList": _list_of("Attempt"),
        "ReplayRequest": {
            "oneOf": [
                {**closed, "properties": {"event_id": ID}, "required": ["event_id"]},
                {
                    **closed,
                    "properties": {"created_after": TIME, "created_before": TIME},
                    "required": ["created_after", "created_before"],
                    "description": "Of the events; at most 30 days ago.",
                },
                {**closed, "properties": {"failed": {"const": True}}, "required": ["failed"]},
            ],
        },
        "ReplayTaken": {"type": "object", "properties": {name: {} for name in REPLAY}},
    }


def endpoint_paths() -> Json:
    """The routes by path and method."""
    listed = [
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50},
        },
        {"name": "cursor", "in": "query", "schema": {"type": "string"}},
    ]
    whose = {
        "name": "tenant",
        "in": "query",
        "schema": {"type": "string"},
        "description": "Only with an admin key: by name or id.",
    }
    one = _BASE + "/{id}"
    return {
        _BASE: {
            "post": {
                **_told("createEndpoint", "Make an endpoint; its secret is shown once"),
                "requestBody": _body("EndpointNew"),
                "responses": {
                    "201": _ok("EndpointWithSecret", "ETag", "Location"),
                    **problems(*_WITH_BODY, 409, 429),
                },
            },
            "get": {
                **_told("listEndpoints", "List the endpoints, the newest first"),
                "parameters": [*listed, whose],
                "responses": {"200": _ok("EndpointList"), **problems(*_PLAIN)},
            },
        },
        one: {
            "get": {
                **_told("readEndpoint", "Read an endpoint"),
                "parameters": [_OF_ONE],
                "responses": {"200": _ok("Endpoint", "ETag"), **problems(*_PLAIN, 404)},
            },
            "patch": {
                **_told("changeEndpoint", "Replace the named fields"),
                "parameters": [_OF_ONE, _if_match(is_required=True)],
                "requestBody": _body("EndpointChange"),
                "responses": {
                    "200": _ok("Endpoint", "ETag"),
                    **problems(*_WITH_BODY, 404, 409, 412, 428, 429),
                },
            },
            "delete": {
                **_told("removeEndpoint", "Send nothing to it any more, and forget what waits"),
                "parameters": [_OF_ONE, _if_match()],
                "responses": {
                    "204": {"description": "Done; nothing more is to be said."},
                    **problems(*_WITH_BODY, 404, 412, 429),
                },
            },
        },
        f"{one}:rollback": {
            "post": {
                **_told("rollbackEndpoint", "Put its fields back; its secret stays"),
                "parameters": [_OF_ONE, _if_match()],
                "requestBody": _body("Rollback", {"first": {"value": {"version": 1}}}),
                "responses": {
                    "200": _ok("Endpoint", "ETag"),
                    **problems(*_WITH_BODY, 404, 409, 412, 429),
                },
            }
        },
        f"{one}:rotate-secret": {
            "post": {
                **_told("rotateSecret", "Another secret, shown once; both sign for a while"),
                "parameters": [_OF_ONE, _if_match()],
                "requestBody": {**_body("SecretRotation"), "required": False},
                "responses": {
                    "200": _ok("EndpointWithSecret", "ETag"),
                    **problems(*_WITH_BODY, 404, 412, 429),
                },
            }
        },
        f"{one}:test": {
            "post": {
                **_told("testEndpoint", "Send one webhook.test event, signed like any other"),
                "description": "It is tried once, says nothing of the endpoint's health, and its "
                "attempt is in the list. A disabled endpoint gets none: 409 "
                "`webhook_endpoint.disabled`.",
                "parameters": [_OF_ONE],
                "responses": {"202": _ok("TestSent"), **problems(*_WITH_BODY, 404, 409, 429)},
            }
        },
        f"{one}/attempts": {
            "get": {
                **_told("listAttempts", "Requests made in the last 30 days, the newest first"),
                "parameters": [_OF_ONE, *listed],
                "responses": {"200": _ok("AttemptList"), **problems(*_PLAIN, 404)},
            }
        },
        f"{one}:replay": {
            "post": {
                **_told("replayEvents", "Send one event, those of a time, or dead letters again"),
                "parameters": [_OF_ONE],
                "requestBody": _body("ReplayRequest"),
                "responses": {"202": _ok("ReplayTaken"), **problems(*_WITH_BODY, 404, 409)},
            }
        },
    }


_OF_ONE: Json = {"name": "id", "in": "path", "required": True, "schema": ID}


def _told(name: str, summary: str) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["webhooks"],
        "security": SECURITY,
    }


def _if_match(*, is_required: bool = False) -> Json:
    return {
        "name": "If-Match",
        "in": "header",
        "required": is_required,
        "schema": {"type": "string"},
        "description": "The ETag of what is changed, or *.",
    }


def _body(name: str, examples: Json | None = None) -> Json:
    content = {"schema": ref(name), "examples": examples or ENDPOINT_EXAMPLES[name]}
    return {"required": True, "content": {"application/json": content}}


def _ok(name: str, *headers: str) -> Json:
    shown = {one: {"schema": {"type": "string"}} for one in ("X-Request-Id", *headers)}
    content = {"application/json": {"schema": ref(name)}}
    return {"description": "OK", "headers": shown, "content": content}


def _list_of(name: str) -> Json:
    return object_of({"data": {"type": "array", "items": ref(name)}, "next_cursor": NULLABLE_TEXT})
