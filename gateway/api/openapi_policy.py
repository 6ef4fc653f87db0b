"""Preview and suppressions in the OpenAPI document, with the examples that the tests run."""

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
from sms.model import Encoding, Held, MessageClass

_CLASSES: Json = {
    "type": "array",
    "minItems": 1,
    "uniqueItems": True,
    "items": {"enum": [str(word) for word in MessageClass]},
}
SUPPRESSION_EXAMPLES: dict[str, Json] = {
    "marketing": {"summary": "No marketing any more", "value": {"to": "+8613800138000"}},
    "all": {
        "summary": "Nothing at all",
        "value": {"to": "13900139000", "classes": ["marketing", "transactional", "otp"]},
    },
}


def policy_schemas() -> Json:
    """What the routes read and answer."""
    explained = {
        "type": "array",
        "items": object_of(
            {
                "pointer": {"type": "string"},
                "code": {"type": "string"},
                "detail": {"type": "string"},
            }
        ),
    }
    return {
        "Preview": object_of(
            {
                "encoding": {"enum": [*(str(word) for word in Encoding), None]},
                "segments": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "0 while it cannot be told.",
                },
                "segment_texts": {"type": "array", "items": {"type": "string"}},
                "final_text": {
                    **NULLABLE_TEXT,
                    "description": "As the phone shows it: signature, text, opt-out line.",
                },
                "forcing_characters": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "What keeps the text from being GSM-7, each once.",
                },
                "channel": {
                    **NULLABLE_TEXT,
                    "description": "Which one would take it now; the route's primary while none "
                    "has a session.",
                },
                "send_at": {
                    **NULLABLE_TIME,
                    "description": "Until when it would be `scheduled`; null = at once.",
                },
                "refusals": {**explained, "description": "Why a send would be refused; mostly []."},
                "notes": {
                    **explained,
                    "description": "What is no refusal: `policy.quiet_hours` (it waits for its "
                    "hours), `validity.expired` (and expires before), `content.opt_out_line`.",
                },
            }
        ),
        "SuppressionNew": {
            "type": "object",
            "additionalProperties": False,
            "required": ["to"],
            "properties": {
                "to": {"type": "string", "minLength": 1, "maxLength": 40},
                "classes": {**_CLASSES, "description": 'Default ["marketing"].'},
                "tenant": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 40,
                    "description": "Only with an admin key: whose list; left out, the platform's, "
                    "which holds for every tenant.",
                },
            },
        },
        "Suppression": object_of(
            {
                "id": ID,
                "to": {"type": "string"},
                "classes": _CLASSES,
                "reason": {
                    "enum": [why.name.lower() for why in Held],
                    "description": "`asked`: by recipient, tenant or operator; `invalid`, "
                    "`blocked`: a carrier said so of the number.",
                },
                "tenant": {**NULLABLE_TEXT, "description": "Whose list; null = the platform's."},
                "created_at": TIME,
            }
        ),
        "SuppressionList": object_of(
            {
                "data": {"type": "array", "items": ref("Suppression")},
                "next_cursor": NULLABLE_TEXT,
            }
        ),
    }


def policy_paths(send_examples: Json) -> Json:
    """The routes by path and method."""
    one = {"name": "id", "in": "path", "required": True, "schema": ID}
    listed = [
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50},
        },
        {"name": "cursor", "in": "query", "schema": {"type": "string"}},
        {
            "name": "tenant",
            "in": "query",
            "schema": {"type": "string"},
            "description": "Only with an admin key.",
        },
    ]
    with_body = (400, 401, 403, 405, 408, 413, 415, 422, 500, 503)
    plain = (400, 401, 403, 405, 422, 500, 503)
    return {
        "/v1/messages:preview": {
            "post": {
                "operationId": "previewMessage",
                "summary": "See what a message would come to, without sending it",
                "description": "Spends no limit, key or client_ref. 200 also when the send would "
                "be refused: `refusals` then says why.",
                "security": SECURITY,
                "requestBody": _body("SendRequest", send_examples),
                "responses": {"200": _ok("Preview"), **problems(*with_body)},
            }
        },
        "/v1/suppressions": {
            "post": {
                "operationId": "createSuppression",
                "summary": "Let a number get no more of some classes",
                "description": "In force everywhere within 5 s: new messages are refused, accepted "
                "ones that did not leave yet end as `rejected`. For a number that stands there "
                "already classes are added, and the answer is 200.",
                "security": SECURITY,
                "requestBody": _body("SuppressionNew", SUPPRESSION_EXAMPLES),
                "responses": {
                    "200": _ok("Suppression"),
                    "201": _ok("Suppression")
                    | {"headers": {"Location": {"schema": {"type": "string"}}}},
                    **problems(*with_body),
                },
            },
            "get": {
                "operationId": "listSuppressions",
                "summary": "List the suppressed numbers, the newest first",
                "security": SECURITY,
                "parameters": listed,
                "responses": {"200": _ok("SuppressionList"), **problems(*plain)},
            },
        },
        "/v1/suppressions/{id}": {
            "get": {
                "operationId": "readSuppression",
                "summary": "Read one entry of the suppression list",
                "security": SECURITY,
                "parameters": [one],
                "responses": {"200": _ok("Suppression"), **problems(*plain, 404)},
            },
            "delete": {
                "operationId": "deleteSuppression",
                "summary": "Let a number get messages again",
                "security": SECURITY,
                "parameters": [one],
                "responses": {
                    "204": {"description": "Done; nothing more is to be said."},
                    **problems(*plain, 404),
                },
            },
        },
    }


def _body(name: str, examples: Json) -> Json:
    content = {"schema": ref(name), "examples": examples}
    return {"required": True, "content": {"application/json": content}}


def _ok(name: str) -> Json:
    return {"description": "OK", "content": {"application/json": {"schema": ref(name)}}}
