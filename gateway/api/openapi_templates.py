"""The templates' part of the OpenAPI document, with the examples that the tests run."""

from __future__ import annotations

from gateway.api.openapi_parts import (
    ID,
    NULLABLE_TEXT,
    TIME,
    Json,
    object_of,
    ref,
)
from gateway.configfields import MAX_TWINS
from sms.model import MessageClass, OnUncertain
from sms.templates import MAX_TEXT, MAX_VARIABLES

TEMPLATE_EXAMPLES: dict[str, dict[str, Json]] = {
    "TemplateNew": {
        "plain": {
            "summary": "For every tenant, without a vendor",
            "value": {
                "name": "otp-code",
                "class": "otp",
                "text": "您的验证码是{code}，{minutes}分钟内有效。",
            },
        },
    },
    "TemplateChange": {
        "text": {"summary": "Another text, no vendor", "value": {"text": "{code}", "twins": {}}},
    },
}
_TWINS: Json = {
    "type": "object",
    "maxProperties": MAX_TWINS,
    "description": "By channel: the vendor's template with the same text. Every channel that "
    "sends registered templates only, and stands in a route of the template's messages, needs one.",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": False,
        "required": ["code"],
        "properties": {
            "code": {
                "type": "string",
                "minLength": 1,
                "maxLength": 100,
                "description": "The vendor's own code or number of it.",
            },
            "order": {
                "type": "array",
                "maxItems": MAX_VARIABLES,
                "uniqueItems": True,
                "items": {"type": "string"},
                "description": "The variables as this vendor counts them; default: as they stand "
                "in the text.",
            },
        },
    },
}
_ON_UNCERTAIN: Json = {
    "enum": [*(str(word) for word in OnUncertain), None],
    "description": "What follows when a carrier's answer to one of its messages is lost, unless "
    "the message says so itself; null = the tenant's choice.",
}
_CHANGE: Json = {
    "text": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_TEXT,
        "description": "Without signature and opt-out line; variables as {name}, each once, never "
        f"two side by side, at most {MAX_VARIABLES}.",
    },
    "twins": _TWINS,
    "on_uncertain": _ON_UNCERTAIN,
}
_CLASS: Json = {"enum": [str(word) for word in MessageClass]}
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 64}


def template_schemas() -> Json:
    """What the routes of templates read and answer."""
    new: Json = {
        "tenant": {"type": "string", "description": "Whose (ten_…); left out = every tenant's."},
        "name": {**_NAME, "description": "Printable, without space, /, \\ and *; never changes."},
        "class": {**_CLASS, "description": "Of every message that is made of it; never changes."},
        **_CHANGE,
    }
    shape: Json = {"type": "object", "additionalProperties": False}
    one = {
        "id": ID,
        "tenant": {**NULLABLE_TEXT, "description": "null = every tenant's."},
        "name": _NAME,
        "class": _CLASS,
        "text": {"type": "string"},
        "variables": {"type": "array", "items": {"type": "string"}},
        "twins": _TWINS,
        "on_uncertain": _ON_UNCERTAIN,
        "created_at": TIME,
        "version": {"type": "integer", "description": "Its ETag is this in double quotes."},
    }
    return {
        "TemplateNew": {**shape, "properties": new, "required": ["name", "class", "text"]},
        "TemplateChange": {**shape, "properties": _CHANGE},
        "Template": object_of(one),
        "TemplateList": object_of(
            {"data": {"type": "array", "items": ref("Template")}, "next_cursor": NULLABLE_TEXT}
        ),
    }
