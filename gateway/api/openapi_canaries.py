"""The part of the OpenAPI document on canaries, with the examples that the tests run."""

from __future__ import annotations

from gateway.api.openapi_parts import ID, NULLABLE_TEXT, TIME, Json, object_of, ref
from gateway.canaryspec import FULL, GATES, MAX_STEPS, STEPS
from gateway.configfields import MAX_BACKUPS
from sms.config import CanaryState

CANARY_EXAMPLES: dict[str, dict[str, Json]] = {
    "CanaryNew": {
        "one": {
            "summary": "Another first channel of a route; the route's own stay as its backups",
            "value": {"name": "try-unicom-b", "route": "*/*/*/*", "channel": "unicom-b"},
        },
        "list": {
            "summary": "A whole list, slower steps, and a stricter limit",
            "value": {
                "name": "try-both",
                "route": "*/*/*/*",
                "channels": ["unicom-b", "mobile-a"],
                "steps": [1, 5, 20, 50, 100],
                "gates": {"step_s": 3600, "failure_share": 0.01},
            },
        },
    },
    "CanaryChange": {
        "steps": {"summary": "One step more", "value": {"steps": [5, 15, 30, 100]}},
        "gates": {"summary": "The usual limits again", "value": {"gates": {}}},
    },
}

_WORDS = {
    "step_s": "A step lasts so many seconds at least",
    "step_finals": "and has so many segments with a final receipt",
    "delivery_lower": "The delivered share may be so much below the baseline's",
    "failure_share": "Of the submits, failed",
    "answer_factor": "p95 of the answers, as a multiple of the baseline's",
    "complaint_share": "Opt-outs, of what the carrier took",
}
_UPWARDS = ("step_s", "step_finals")
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 64}
_STEPS: Json = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_STEPS,
    "uniqueItems": True,
    "items": {"type": "integer", "minimum": 1, "maximum": FULL},
    "description": f"Percent of the numbers, growing, the last {FULL}; default {list(STEPS)}.",
}
_GATES: Json = {
    "type": "object",
    "properties": {
        name: {
            "type": "integer" if name == "step_finals" else "number",
            "minimum": low,
            "maximum": high,
            "description": f"{_WORDS[name]}; usually {low if name in _UPWARDS else high}.",
        }
        for name, (low, high) in GATES.items()
    },
    "additionalProperties": False,
    "description": "Limits that are stricter than usual; what is not named is as usual.",
}
_CHECK: Json = {
    "enum": ["good", "unclear", "bad"],
    "description": "unclear: too little data to say; the canary stays where it is.",
}
_FIGURE: Json = {"type": ["number", "null"]}


def canary_schemas() -> Json:
    """What the routes of canaries read and answer."""
    closed: Json = {"type": "object", "additionalProperties": False}
    word: Json = {"type": "string", "minLength": 1, "maxLength": 128}
    finding = {
        "signal": {
            "enum": ["delivery", "failure", "answers", "complaints", "health"],
            "description": "health: whether the candidate takes messages now; without figures.",
        },
        "verdict": _CHECK,
        "candidate": {**_FIGURE, "description": "A share, or seconds (p95); null without data."},
        "baseline": {**_FIGURE, "description": "null where the limit is a number of its own."},
        "segments": {"type": "integer", "description": "That it rests on."},
    }
    gate = {
        "checked_at": TIME,
        "verdict": _CHECK,
        "bad_in_a_row": {"type": "integer", "description": "Two take the canary back."},
        "why": {"type": "string", "description": "What speaks against it."},
        "findings": {"type": "array", "items": object_of(finding)},
    }
    canary = {
        "id": ID,
        "name": _NAME,
        "route": {"type": "string", "description": "By name: tenant/class/carrier/country."},
        "route_id": NULLABLE_TEXT,
        "channels": {
            "type": "array",
            "items": _NAME,
            "description": "The candidate first; all of them are the route's when it is promoted.",
        },
        "channel_ids": {"type": "array", "items": NULLABLE_TEXT},
        "baseline": {**_NAME, "description": "What the candidate is measured against."},
        "steps": _STEPS,
        "share": {"type": "integer", "description": "Percent of the route's numbers on it now."},
        "state": {"enum": [str(state) for state in CanaryState]},
        "since": {**TIME, "description": "When this step began, or the canary ended."},
        "reason": {**NULLABLE_TEXT, "description": "Why it ended, where no operator asked for it."},
        "gates": _GATES,
        "last_gate": {
            "oneOf": [object_of(gate), {"type": "null"}],
            "description": "The figures of the last check; null before the first.",
        },
        "created_at": TIME,
        "version": {"type": "integer", "description": "Its ETag is this in double quotes."},
    }
    return {
        "CanaryNew": {
            **closed,
            "properties": {
                "name": {**_NAME, "description": "Printable, without space, /, \\ and *."},
                "route": {**word, "description": "By name or id."},
                "channel": {
                    **word,
                    "description": "By name or id: the candidate, in front of the route's own.",
                },
                "channels": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1 + MAX_BACKUPS,
                    "uniqueItems": True,
                    "items": word,
                    "description": "In place of `channel`: the route's whole list once promoted, "
                    "the candidate first. Until then the route's first channel is the candidate's "
                    "first backup, whatever stands here.",
                },
                "steps": _STEPS,
                "gates": _GATES,
            },
            "required": ["name", "route"],
            "oneOf": [{"required": ["channel"]}, {"required": ["channels"]}],
        },
        "CanaryChange": {
            **closed,
            "properties": {
                "steps": {**_STEPS, "description": "Growing to 100; with the share it has now."},
                "gates": _GATES,
            },
            "description": "Of a live one. `gates` replaces all of them.",
        },
        "Canary": object_of(canary),
        "CanaryList": object_of(
            {"data": {"type": "array", "items": ref("Canary")}, "next_cursor": NULLABLE_TEXT}
        ),
    }
