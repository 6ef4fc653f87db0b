"""Ported numbers in the OpenAPI document, with the example that the tests run."""

from __future__ import annotations

from gateway.api.openapi_parts import (
    NULLABLE_TEXT,
    SECURITY,
    TIME,
    Json,
    object_of,
    problems,
    ref,
)
from sms.portability import NETWORKS

MAX_NUMBERS = 1000
_CARRIERS = [str(word) for word in NETWORKS]
PORTED_EXAMPLES: dict[str, Json] = {
    "changes": {
        "summary": "One number has gone to China Unicom, one is back with its prefix's carrier",
        "value": {
            "numbers": [
                {"to": "+8613800138000", "carrier": "CU"},
                {"to": "13900139000", "carrier": None},
            ]
        },
    }
}


def ported_schemas() -> Json:
    """What the routes read and answer."""
    count = {"type": "integer", "minimum": 0}
    return {
        "PortedNumbersChange": {
            "type": "object",
            "additionalProperties": False,
            "required": ["numbers"],
            "properties": {
                "numbers": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_NUMBERS,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["to", "carrier"],
                        "properties": {
                            "to": {
                                "type": "string",
                                "minLength": 1,
                                "maxLength": 40,
                                "description": "A mainland number; each once.",
                            },
                            "carrier": {
                                "enum": [*_CARRIERS, None],
                                "description": "Where it lives; null = with its prefix's again.",
                            },
                        },
                    },
                }
            },
        },
        "PortedNumbersChanged": object_of(
            {
                "put": {**count, "description": "New, or with another carrier than before."},
                "removed": {**count, "description": "Back with the carrier of the prefix."},
                "unchanged": {**count, "description": "They stood so already."},
            }
        ),
        "PortedNumber": object_of(
            {"to": {"type": "string"}, "carrier": {"enum": _CARRIERS}, "changed_at": TIME}
        ),
        "PortedNumberList": object_of(
            {
                "data": {"type": "array", "items": ref("PortedNumber")},
                "next_cursor": NULLABLE_TEXT,
            }
        ),
    }


def ported_paths() -> Json:
    """The routes by path and method."""
    limit = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
    return {
        "/v1/ported-numbers": {
            "post": {
                "operationId": "changePortedNumbers",
                "summary": "Say with which carrier numbers live, whatever their prefix",
                "description": "All of them or none; a repeated request changes nothing. In force "
                "everywhere within 5 s, for what is accepted from then on.",
                "tags": ["administration"],
                "security": SECURITY,
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": ref("PortedNumbersChange"),
                            "examples": PORTED_EXAMPLES,
                        }
                    },
                },
                "responses": {
                    "200": _ok("PortedNumbersChanged"),
                    **problems(400, 401, 403, 405, 408, 413, 415, 422, 500, 503),
                },
            },
            "get": {
                "operationId": "listPortedNumbers",
                "summary": "List the numbers with a carrier of their own, the last changed first",
                "tags": ["administration"],
                "security": SECURITY,
                "parameters": [
                    {"name": "limit", "in": "query", "schema": limit},
                    {"name": "cursor", "in": "query", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": _ok("PortedNumberList"),
                    **problems(400, 401, 403, 405, 422, 500, 503),
                },
            },
        }
    }


def _ok(name: str) -> Json:
    return {"description": "OK", "content": {"application/json": {"schema": ref(name)}}}
