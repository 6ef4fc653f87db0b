"""The OpenAPI 3.1 document, generated from the code, once a process.

The bodies of the send routes come from the msgspec types that decode them, the codes from the
table of problems; the rest is described here, with the examples that the tests run.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

import msgspec
from fastapi import FastAPI

from gateway.api.models import MAX_BATCH, SendRequest
from gateway.api.openapi_admin import admin_paths, admin_schemas
from gateway.api.openapi_parts import (
    ID,
    NULLABLE_TEXT,
    NULLABLE_TIME,
    SCHEMES,
    SECURITY,
    TIME,
    Json,
    object_of,
    problems,
    ref,
)
from gateway.api.openapi_policy import policy_paths, policy_schemas
from gateway.api.openapi_ported import ported_paths, ported_schemas
from gateway.api.openapi_reads import list_operation, read_paths, read_schemas
from gateway.api.openapi_webhooks import endpoint_paths, endpoint_schemas
from gateway.api.problems import KINDS
from gateway.api.routing import PlainRoute
from sms.model import FINAL_STATES, Encoding, MessageClass, State, UncertainPolicy
from sms.reasons import REASONS

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
            "client_ref": "order-4711",
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


# What holds for a message once the defaults are under it.
_OF_A_WHOLE = ("required", "oneOf", "dependentRequired")


def build_document(app: FastAPI) -> bytes:
    """The document as JSON; `app` names the routes behind the doors of sends."""
    routes = (route for route in app.routes if isinstance(route, PlainRoute))
    return _document(tuple((route.name, route.path_format) for route in routes))


@cache
def _document(routes: tuple[tuple[str, str], ...]) -> bytes:
    paths: Json = {
        "/v1/messages": {"get": list_operation(), "post": _send_operation()},
        "/v1/batches": {"post": _batch_operation()},
    }
    for name, path in routes:
        if name in _READ_OPERATIONS:
            paths[path] = {"get": _read_operation(name)}
        elif name in _COMMANDS:
            paths[path] = {"post": _command_operation(name)}
    paths |= read_paths() | policy_paths(SEND_EXAMPLES) | ported_paths() | admin_paths()
    paths |= endpoint_paths()
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
            "securitySchemes": SCHEMES,
        },
    }
    return msgspec.json.encode(document)


def _schemas() -> Json:
    _, found = msgspec.json.schema_components(
        [SendRequest], ref_template="#/components/schemas/{name}"
    )
    schemas: Json = dict(found)
    schemas["SendRequest"] |= {
        "required": ["to"],
        "oneOf": [{"required": ["text"]}, {"required": ["template_id"]}],
        "dependentRequired": {"variables": ["template_id"]},
    }
    told = schemas["SendRequest"]["properties"]["on_uncertain"]["description"]
    schemas["OnUncertain"]["description"] = told
    partial = {k: v for k, v in schemas["SendRequest"].items() if k not in _OF_A_WHOLE}
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
            "defaults": ref("Defaults"),
            "messages": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_BATCH,
                "items": ref("BatchEntry"),
            },
        },
    }
    answers = _answer_schemas() | read_schemas() | policy_schemas() | ported_schemas()
    return schemas | answers | admin_schemas() | endpoint_schemas()


def _answer_schemas() -> Json:
    classes = {"enum": [str(word) for word in MessageClass]}
    encodings = {"enum": [str(word) for word in Encoding]}
    states = {"enum": [str(word) for word in State], "description": _status_text()}
    own_state = {"enum": states["enum"]}  # of a segment, or of a step: the same words
    error = object_of(
        {"pointer": {"type": "string"}, "code": {"type": "string"}, "detail": {"type": "string"}}
    )
    return {
        "Accepted": object_of(
            {
                "id": ID,
                "status": {
                    "enum": ["accepted", "scheduled"],
                    "description": "scheduled: it waits for `send_at` or the hours of its class.",
                },
                "class": classes,
                "to": {"type": "string"},
                "segments": {"type": "integer", "minimum": 1},
                "encoding": encodings,
                "client_ref": NULLABLE_TEXT,
                "created_at": TIME,
            }
        ),
        "BatchAccepted": object_of(
            {
                "id": ID,
                "accepted": {
                    "type": "array",
                    "items": object_of(
                        {
                            "index": {"type": "integer"},
                            "id": ID,
                            "segments": {"type": "integer", "minimum": 1},
                        }
                    ),
                },
                "rejected": {
                    "type": "array",
                    "items": object_of(
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
        "Message": object_of(
            {
                "id": ID,
                "to": {"type": "string"},
                "class": classes,
                "status": states,
                "reason": {**NULLABLE_TEXT, "description": _reason_text()},
                "carrier_code": NULLABLE_TEXT,
                "retryable": {"type": "boolean"},
                "channel": NULLABLE_TEXT,
                "segments": {"type": "integer", "minimum": 1},
                "segment_states": {
                    "type": "array",
                    "items": object_of(
                        {
                            "index": {"type": "integer"},
                            "status": own_state,
                            "carrier_code": NULLABLE_TEXT,
                        }
                    ),
                },
                "encoding": encodings,
                "client_ref": NULLABLE_TEXT,
                "metadata": {
                    "type": ["object", "null"],
                    "additionalProperties": {"type": "string"},
                },
                "duplicate_risk": {"type": "boolean"},
                "sequence": {"type": "integer"},
                "created_at": TIME,
                "send_at": {
                    **NULLABLE_TIME,
                    "description": "When it is or was to go: your `send_at`, or the opening of its "
                    "class's hours; null = at once.",
                },
                "valid_until": TIME,
                "submitted_at": NULLABLE_TIME,
                "final_at": NULLABLE_TIME,
                "waiting": {
                    **NULLABLE_TEXT,
                    "description": "What it waits for just now, in words: a held message, or an "
                    "attempt without answer. Null otherwise, and in events.",
                },
                "tenant": {**ID, "description": "Only where an admin key reads."},
                "uncertain": object_of(
                    {
                        "since": TIME,
                        "policy": {"enum": [policy.value for policy in UncertainPolicy]},
                        "until": {
                            **TIME,
                            "description": "Then its policy decides: its one marked copy, or "
                            "`unknown` at the receipt deadline.",
                        },
                        "resend_until": {
                            **NULLABLE_TIME,
                            "description": "Until then `:resend` is taken; null where it is not.",
                        },
                    }
                )
                | {"description": "Of an uncertain message, only where an admin key reads."},
            },
            "waiting",
            "tenant",
            "uncertain",
        ),
        "Batch": object_of(
            {
                "id": ID,
                "created_at": TIME,
                "paused": {
                    "type": "boolean",
                    "description": "What was not submitted yet waits until it is resumed, at most "
                    "for its validity.",
                },
                "counts": {
                    "type": "object",
                    "propertyNames": own_state,
                    "additionalProperties": {"type": "integer", "minimum": 1},
                    "description": "How many of its messages have which status; others are none.",
                },
            }
        ),
        "Timeline": object_of({"data": {"type": "array", "items": ref("Step")}}),
        "Step": object_of(
            {
                "at": TIME,
                "step": {
                    "type": "string",
                    "description": "accepted; policy (what allowed it, `detail`); queued (the wait "
                    "in the lane of `channel` is over, `ms` = how long; `code` throttled, channel "
                    "or budget when it waited for more than its turn); failover (it goes over "
                    "another channel than its first, `code` says why); attempt (`ms` = until the "
                    "answer); receipt (`ms` = since the attempt); webhook (each request, `ms` = "
                    "until its answer; what has none or waits stands at the moment of its event; "
                    "`code` as in the list of attempts, or webhook.waiting, webhook.given_up; "
                    "none where it is not certain); held or waiting (now, last in the list); or "
                    "the status that it brought, with policy's word in `code` "
                    "(policy.quiet_hours …); `ms` of an end without an attempt is the wait "
                    "before it.",
                },
                "status": own_state,
                "channel": NULLABLE_TEXT,
                "segment": {"type": ["integer", "null"]},
                "carrier_id": NULLABLE_TEXT,
                "code": NULLABLE_TEXT,
                "reason": {**NULLABLE_TEXT, "description": "Ours for `code`, a dotted word."},
                "ms": {"type": ["integer", "null"]},
                "attempt": {
                    "type": ["integer", "null"],
                    "description": "Which one it is of, from 1: of queued, failover, attempt and "
                    "receipt.",
                },
                "follows": {
                    "type": ["integer", "null"],
                    "description": "Of an attempt: the one that it was made after.",
                },
                "detail": {
                    "type": "string",
                    "description": "Of policy: what was looked at. Of queued: how long for what. "
                    "Of a failover: instead of which channel. Of a webhook: which "
                    "event, to which endpoint. Else only on a step that is not over: what is "
                    "awaited.",
                },
            },
            "detail",
        ),
        "Problem": object_of(
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


def _answered(description: str, name: str) -> Json:
    headers: Json = {
        name: {"schema": {"type": "string"}}
        for name in ("X-Request-Id", "RateLimit", "RateLimit-Policy")
    }
    headers["Idempotent-Replayed"] = {
        "description": "On the stored answer of an earlier request with the same Idempotency-Key: "
        "nothing was accepted now, and no segments were spent.",
        "schema": {"const": "true"},
    }
    return {
        "description": description,
        "headers": headers,
        "content": {"application/json": {"schema": ref(name)}},
    }


_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes it safe to send the same request again, as after a lost answer. 1 to 255 "
    "visible ASCII characters, bare or in double quotes, kept for 24 hours for this tenant and "
    "path. The same key and body get the stored 202 (`Idempotent-Replayed: true`); another body "
    "is 422 `idempotency.mismatch`; while the first request runs the second waits for it, 2 s at "
    "most, then it is 409 `idempotency.in_progress`. Bodies are compared after parsing. A request "
    "that was refused does not use up its key.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 512},
    "examples": {"uuid": {"value": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}},
}


def _send_operation() -> Json:
    return {
        "operationId": "sendMessage",
        "summary": "Send one message",
        "security": SECURITY,
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": ref("SendRequest"), "examples": SEND_EXAMPLES}
            },
        },
        "responses": {
            "202": _answered("Accepted: the message is durable.", "Accepted"),
            **problems(400, 401, 403, 405, 408, 409, 413, 415, 422, 429, 500, 503),
        },
    }


def _batch_operation() -> Json:
    return {
        "operationId": "sendBatch",
        "summary": "Send up to 1000 messages, each with its own verdict",
        "security": SECURITY,
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": ref("BatchRequest"), "examples": BATCH_EXAMPLES}
            },
        },
        "responses": {
            "202": _answered("A verdict for each message.", "BatchAccepted"),
            **problems(400, 401, 403, 405, 408, 409, 413, 415, 422, 429, 500, 503),
        },
    }


_READ_OPERATIONS: dict[str, tuple[str, str]] = {
    "readMessage": ("Read a message; with an admin key any tenant's, masked", "Message"),
    "readTimeline": (
        "Read what happened to a message; with an admin key any tenant's",
        "Timeline",
    ),
    "readBatch": ("Read where the messages of a batch stand", "Batch"),
    "readHealth": ("Whether the process lives", ""),
    "readReadiness": ("Whether traffic may come", ""),
    "readMetrics": ("Metrics as Prometheus text", ""),
}


def _told(description: str, properties: Json, *optional: str) -> Json:
    schema = object_of(properties, *optional)
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _names(description: str) -> Json:
    return {"type": "array", "items": {"type": "string"}, "description": description}


_HEALTH_ANSWERS: dict[str, Json] = {
    "readHealth": {"200": _told("It lives.", {"status": {"const": "ok"}})},
    "readReadiness": {
        "200": _told(
            "Traffic may come.",
            {
                "status": {"const": "ready"},
                "missing": _names("Nothing."),
                "degraded": _names(
                    "What single workers lack while others take the traffic; absent when nothing."
                ),
            },
            "degraded",
        ),
        "503": _told(
            "Not ready.",
            {"status": {"const": "unready"}, "missing": _names("What is missing, in words.")},
        ),
    },
    "readMetrics": {
        "200": {
            "description": "Prometheus text.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **problems(404),
    },
}
_COMMANDS: dict[str, tuple[str, str]] = {
    "cancelMessage": ("Cancel a message: 200 when it will certainly not be sent", "Message"),
    "resendMessage": (
        "Send an uncertain message once more, where its policy is `ask`; for admin keys",
        "Message",
    ),
    "pauseBatch": ("Let nothing more of a batch be submitted", "Batch"),
    "resumeBatch": ("Let a paused batch go on", "Batch"),
    "cancelBatch": ("Cancel what of a batch was not submitted yet; for good", "Batch"),
}


def _command_operation(name: str) -> Json:
    """No body; 503 with `outcome_unknown` when a process does not answer within 2 s."""
    summary, schema = _COMMANDS[name]
    return {
        "operationId": name,
        "summary": summary,
        "security": SECURITY,
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": ID}],
        "responses": {
            "200": {
                "description": "Done, and every process acts on it.",
                "content": {"application/json": {"schema": ref(schema)}},
            },
            **problems(400, 401, 403, 404, 405, 408, 409, 413, 422, 500, 503),
        },
    }


def _read_operation(name: str) -> Json:
    summary, schema = _READ_OPERATIONS[name]
    operation: Json = {"operationId": name, "summary": summary}
    if name in _HEALTH_ANSWERS:
        operation["responses"] = _HEALTH_ANSWERS[name]
        return operation
    parameter = {"name": "id", "in": "path", "required": True, "schema": ID}
    return operation | {
        "security": SECURITY,
        "parameters": [parameter],
        "responses": {
            "200": {
                "description": "OK",
                "content": {"application/json": {"schema": ref(schema)}},
            },
            **problems(400, 401, 403, 404, 405, 422, 500, 503),
        },
    }
