"""The OpenAPI 3.1 document, generated from the code at start.

The bodies of the send routes come from the msgspec types that decode them, the codes from the
table of problems; the rest is described here, with the examples that the tests run.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.routing import APIRoute

from gateway.api.models import MAX_BATCH, SendRequest
from gateway.api.problems import KINDS
from sms.model import FINAL_STATES, Encoding, MessageClass, State
from sms.reasons import REASONS

Json = dict[str, Any]

SIGNATURE = "某商城"
SEND_EXAMPLES: dict[str, Json] = {
    "code": {
        "summary": "A one-time code to the mainland",
        "value": {"to": "+8613800138000", "text": "验证码 123456，5 分钟内有效。", "class": "otp"},
    },
    "everything": {
        "summary": "All fields of this version (the signature must be one filed for you)",
        "value": {
            "to": "13800138000",
            "text": "Your parcel is ready.",
            "class": "transactional",
            "signature": SIGNATURE,
            "sender_ext": "01",
            "metadata": {"order": "4711"},
            "valid_for_s": 3600,
            "encoding": "auto",
            "smart_encoding": True,
            "max_segments": 3,
            "on_uncertain": "hold",
        },
    },
}
BATCH_EXAMPLES: dict[str, Json] = {
    "two": {
        "summary": "Two numbers, one text",
        "value": {
            "defaults": {"class": "marketing", "text": "Open until nine today."},
            "messages": [
                {"to": "+8613800138000"},
                {"to": "+8613900139000", "text": "Open until ten today."},
            ],
        },
    },
}

_ID = {"type": "string", "maxLength": 40}
_TIME = {"type": "string", "format": "date-time"}
_NULLABLE_TIME = {"type": ["string", "null"], "format": "date-time"}
_NULLABLE_TEXT = {"type": ["string", "null"]}


_STATUSES: dict[State, str] = {
    State.ACCEPTED: "committed to disk",
    State.SCHEDULED: "waits for its hour",
    State.QUEUED: "waits for a channel",
    State.SUBMITTING: "handed to a carrier, no answer yet",
    State.UNCERTAIN: "the carrier's answer was lost: nobody knows yet whether it took the text",
    State.SUBMITTED: "the carrier took it; its report is awaited",
    State.DELIVERED: "the phone has it",
    State.PARTIALLY_DELIVERED: "the phone has some of its segments",
    State.UNDELIVERED: "the carrier could not deliver it",
    State.EXPIRED: "its time was over first",
    State.REJECTED: "refused by a carrier or by policy",
    State.FAILED: "it could not be handed to any carrier",
    State.CANCELED: "canceled before it was sent",
    State.UNKNOWN: "no evidence of its end came before the deadline",
}


def _status_text() -> str:
    lines = [
        f"- `{state}`{' (final)' if state in FINAL_STATES else ''}: {text}."
        for state, text in _STATUSES.items()
    ]
    return "\n".join(["Where a message stands; a final status never changes again.", *lines])


def _reason_text() -> str:
    rows = [
        f"- `{reason.code}`{' (retryable)' if reason.is_retryable else ''}: {reason.text}"
        for reason in REASONS
    ]
    head = (
        "Why it ended or waits, as a stable code; null when nothing is to be told. Later versions "
        "may add codes. `retryable`: the same text to the same number may succeed later."
    )
    return "\n".join([head, *rows])


_ABOUT = (
    "Send texts, read what became of them. A 202 says that the message is committed to disk. Every "
    "refusal is a problem document whose `code` is stable and whose `action` says what to do; a "
    "503 with the code `outcome_unknown` says that the message may exist, every other 4xx and 503 "
    "guarantees that it does not."
)


def build_document(app: FastAPI) -> bytes:
    """The document as JSON; `app` names the routes that FastAPI answers."""
    paths: Json = {
        "/v1/messages": {"post": _send_operation()},
        "/v1/batches": {"post": _batch_operation()},
    }
    for route in app.routes:
        if isinstance(route, APIRoute) and route.name in _READ_OPERATIONS:
            paths[route.path] = {"get": _read_operation(route)}
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "smsgw",
            "version": version("smsgw"),
            "description": _ABOUT,
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    return msgspec.json.encode(document)


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Json, *optional: str) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _schemas() -> Json:
    _, found = msgspec.json.schema_components(
        [SendRequest], ref_template="#/components/schemas/{name}"
    )
    schemas: Json = dict(found)
    schemas["SendRequest"] |= {"required": ["to", "text"]}
    told = schemas["SendRequest"]["properties"]["on_uncertain"]["description"]
    schemas["OnUncertain"]["description"] = told
    partial = {k: v for k, v in schemas["SendRequest"].items() if k != "required"}
    schemas["Defaults"] = {
        **partial,
        "title": "Defaults",
        "description": "Fields that entries of `messages` may leave out.",
    }
    schemas["BatchEntry"] = {
        **partial,
        "title": "BatchEntry",
        "description": "A message; what it leaves out stands in `defaults`.",
    }
    schemas["BatchRequest"] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["messages"],
        "properties": {
            "defaults": _ref("Defaults"),
            "messages": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_BATCH,
                "items": _ref("BatchEntry"),
            },
        },
    }
    return schemas | _answer_schemas()


def _answer_schemas() -> Json:
    classes = {"enum": [str(word) for word in MessageClass]}
    encodings = {"enum": [str(word) for word in Encoding]}
    states = {"enum": [str(word) for word in State], "description": _status_text()}
    own_state = {"enum": states["enum"]}  # of a segment, or of a step: the same words
    error = _object(
        {"pointer": {"type": "string"}, "code": {"type": "string"}, "detail": {"type": "string"}}
    )
    return {
        "Accepted": _object(
            {
                "id": _ID,
                "status": {"const": "accepted"},
                "class": classes,
                "to": {"type": "string"},
                "segments": {"type": "integer", "minimum": 1},
                "encoding": encodings,
                "client_ref": _NULLABLE_TEXT,
                "created_at": _TIME,
            }
        ),
        "BatchAccepted": _object(
            {
                "id": _ID,
                "accepted": {
                    "type": "array",
                    "items": _object(
                        {
                            "index": {"type": "integer"},
                            "id": _ID,
                            "segments": {"type": "integer", "minimum": 1},
                        }
                    ),
                },
                "rejected": {
                    "type": "array",
                    "items": _object(
                        {
                            "index": {"type": "integer"},
                            "code": {"type": "string"},
                            "detail": {"type": "string"},
                            "errors": {"type": "array", "items": error},
                        }
                    ),
                },
            }
        ),
        "Message": _object(
            {
                "id": _ID,
                "to": {"type": "string"},
                "class": classes,
                "status": states,
                "reason": {**_NULLABLE_TEXT, "description": _reason_text()},
                "carrier_code": _NULLABLE_TEXT,
                "retryable": {"type": "boolean"},
                "channel": _NULLABLE_TEXT,
                "segments": {"type": "integer", "minimum": 1},
                "segment_states": {
                    "type": "array",
                    "items": _object(
                        {
                            "index": {"type": "integer"},
                            "status": own_state,
                            "carrier_code": _NULLABLE_TEXT,
                        }
                    ),
                },
                "encoding": encodings,
                "client_ref": _NULLABLE_TEXT,
                "metadata": {
                    "type": ["object", "null"],
                    "additionalProperties": {"type": "string"},
                },
                "duplicate_risk": {"type": "boolean"},
                "sequence": {"type": "integer"},
                "created_at": _TIME,
                "valid_until": _TIME,
                "submitted_at": _NULLABLE_TIME,
                "final_at": _NULLABLE_TIME,
                "waiting": {
                    **_NULLABLE_TEXT,
                    "description": "What it waits for just now, in words: a held message, or an "
                    "attempt without answer. Null otherwise, and in events.",
                },
            },
            "waiting",
        ),
        "Timeline": _object({"data": {"type": "array", "items": _ref("Step")}}),
        "Step": _object(
            {
                "at": _TIME,
                "step": {
                    "type": "string",
                    "description": "accepted, queued (the wait in a lane is over, `ms` = how "
                    "long), attempt (`ms` = until the answer), receipt (`ms` = since the attempt), "
                    "held or waiting (now, last in the list), or the status that it brought.",
                },
                "status": own_state,
                "channel": _NULLABLE_TEXT,
                "segment": {"type": ["integer", "null"]},
                "carrier_id": _NULLABLE_TEXT,
                "code": _NULLABLE_TEXT,
                "ms": {"type": ["integer", "null"]},
                "detail": {
                    "type": "string",
                    "description": "Only on a step that is not over: what is awaited.",
                },
            },
            "detail",
        ),
        "Problem": _object(
            {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "instance": {"type": "string"},
                "code": {"type": "string", "examples": sorted(KINDS)},
                "action": {"type": "string"},
                "request_id": {"type": "string"},
                "errors": {"type": "array", "items": error},
            }
        ),
    }


def _problems(*statuses: int) -> Json:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {
        str(status): {"description": _refused(status), "content": content} for status in statuses
    }


_MAIN_CASE = {
    400: "The request cannot be read: mostly a body that is not JSON.",
    401: "No API key, or one that is not accepted.",
    403: "The key may not do this, or its tenant is suspended.",
    404: "No such message, or it belongs to somebody else.",
    405: "The route has other methods; `Allow` names them.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not declared as application/json in UTF-8.",
    422: "Understood and refused: a field is missing, wrong or not allowed; see `errors`.",
    429: "More segments than the tenant's limits allow; wait for `Retry-After`.",
    500: "A fault of the gateway; tell the operator the `request_id`. On a send the message may "
    "exist.",
    503: "Too busy or the store is away; wait for `Retry-After`. With the code `outcome_unknown` "
    "the message may exist, otherwise it does not.",
}


def _refused(status: int) -> str:
    codes = ", ".join(f"`{code}`" for code, kind in KINDS.items() if kind.status == status)
    return f"{_MAIN_CASE[status]} Codes: {codes}."


def _answered(description: str, name: str) -> Json:
    headers = {
        name: {"schema": {"type": "string"}}
        for name in ("X-Request-Id", "RateLimit", "RateLimit-Policy")
    }
    return {
        "description": description,
        "headers": headers,
        "content": {"application/json": {"schema": _ref(name)}},
    }


def _send_operation() -> Json:
    return {
        "operationId": "sendMessage",
        "summary": "Send one message",
        "security": [{"key": []}],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("SendRequest"), "examples": SEND_EXAMPLES}
            },
        },
        "responses": {
            "202": _answered("Accepted: the message is durable.", "Accepted"),
            **_problems(400, 401, 403, 405, 408, 413, 415, 422, 429, 500, 503),
        },
    }


def _batch_operation() -> Json:
    return {
        "operationId": "sendBatch",
        "summary": "Send up to 1000 messages, each with its own verdict",
        "security": [{"key": []}],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("BatchRequest"), "examples": BATCH_EXAMPLES}
            },
        },
        "responses": {
            "202": _answered("A verdict for each message.", "BatchAccepted"),
            **_problems(400, 401, 403, 405, 408, 413, 415, 422, 429, 500, 503),
        },
    }


_READ_OPERATIONS: dict[str, tuple[str, str, str]] = {
    "readMessage": ("Read a message", "Message", "key"),
    "readTimeline": ("Read what happened to a message", "Timeline", "key"),
    "readHealth": ("Whether the process lives", "", ""),
    "readReadiness": ("Whether traffic may come", "", ""),
    "readMetrics": ("Metrics as Prometheus text", "", ""),
}


def _read_operation(route: APIRoute) -> Json:
    summary, schema, security = _READ_OPERATIONS[route.name]
    operation: Json = {"operationId": route.name, "summary": summary}
    if not schema:
        operation["responses"] = {"200": {"description": "OK"}} | (
            {"503": {"description": "Not ready; names what is missing"}}
            if route.name == "readReadiness"
            else {}
        )
        return operation
    parameter = {"name": "id", "in": "path", "required": True, "schema": _ID}
    return operation | {
        "security": [{security: []}],
        "parameters": [parameter],
        "responses": {
            "200": {
                "description": "OK",
                "content": {"application/json": {"schema": _ref(schema)}},
            },
            **_problems(400, 401, 403, 404, 405, 422, 500, 503),
        },
    }
