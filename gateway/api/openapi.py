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
from sms.model import Encoding, MessageClass, State

Json = dict[str, Any]

SEND_EXAMPLES: dict[str, Json] = {
    "code": {
        "summary": "A one-time code to the mainland",
        "value": {"to": "+8613800138000", "text": "验证码 123456，5 分钟内有效。", "class": "otp"},
    },
    "everything": {
        "summary": "All fields of this version",
        "value": {
            "to": "13800138000",
            "text": "Your parcel is ready.",
            "class": "transactional",
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
            "description": "Send texts, read what became of them.",
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
    states = {"enum": [str(word) for word in State]}
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
                "reason": _NULLABLE_TEXT,
                "carrier_code": _NULLABLE_TEXT,
                "retryable": {"type": "boolean"},
                "channel": _NULLABLE_TEXT,
                "segments": {"type": "integer", "minimum": 1},
                "segment_states": {
                    "type": "array",
                    "items": _object(
                        {
                            "index": {"type": "integer"},
                            "status": states,
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
            }
        ),
        "Timeline": _object({"data": {"type": "array", "items": _ref("Step")}}),
        "Step": _object(
            {
                "at": _TIME,
                "step": {"type": "string"},
                "status": states,
                "channel": _NULLABLE_TEXT,
                "segment": {"type": ["integer", "null"]},
                "carrier_id": _NULLABLE_TEXT,
                "code": _NULLABLE_TEXT,
                "ms": {"type": ["integer", "null"]},
            }
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
    titles = {kind.status: kind.title for kind in reversed(KINDS.values())}
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {str(status): {"description": titles[status], "content": content} for status in statuses}


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
            **_problems(400, 401, 403, 405, 408, 413, 415, 422, 429, 503),
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
            **_problems(400, 401, 403, 405, 408, 413, 415, 422, 429, 503),
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
            **_problems(400, 401, 403, 404, 405, 422, 503),
        },
    }
