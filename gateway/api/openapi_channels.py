"""The part of the OpenAPI document on channels and routes, with the examples that the tests run."""

from __future__ import annotations

from failover.health import Signal
from gateway.api.openapi_parts import ID, NULLABLE_TEXT, TIME, Json, object_of, ref
from gateway.configfields import CHANNEL, MAX_BACKUPS, MAX_RATE, MAX_WEIGHT
from gateway.protocols import PROTOCOLS
from sms.config import AdminState
from sms.model import Carrier, Encoding, MessageClass

CHANNEL_EXAMPLES: dict[str, dict[str, Json]] = {
    "ChannelNew": {
        "smpp": {
            "summary": "An SMPP account; `host` and what follows are the protocol's own settings",
            "value": {
                "name": "unicom-b",
                "protocol": "smpp",
                "host": "127.0.0.1",
                "port": 2775,
                "system_id": "shop",
                "password": "s3cr3tpw",
                "sessions": 2,
                "window": 64,
                "segments_per_second": 1000,
                "classes": ["otp", "transactional"],
                "price_per_segment": "0.035",
            },
        },
    },
    "ChannelChange": {
        "slower": {"summary": "Another rate", "value": {"segments_per_second": 500}},
        "free": {"summary": "No price any more", "value": {"price_per_segment": None}},
    },
    "RouteNew": {
        "marketing": {
            "summary": "Every tenant's marketing",
            "value": {"tenant": "*", "class": "marketing", "channels": ["mobile-a"]},
        },
    },
    "RouteChange": {
        "primary": {"summary": "Another primary", "value": {"channels": ["mobile-a"]}},
        "ordered": {"summary": "No weights: the first takes all", "value": {"weights": None}},
    },
}


def _words(words: list[str], least: int = 1) -> Json:
    return {"type": "array", "minItems": least, "uniqueItems": True, "items": {"enum": words}}


_CLASSES = [str(word) for word in MessageClass]
_CARRIERS = [str(word) for word in Carrier]
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 64}
# Of every channel, by the names of `gateway.configfields.CHANNEL`.
_EVERY: Json = {
    "name": {**_NAME, "description": "Printable, without space, /, \\ and *; never changes."},
    "protocol": {"enum": list(PROTOCOLS)},
    "sessions": {
        "type": "integer",
        "minimum": 1,
        "maximum": 64,
        "description": "Links on each node; default 1.",
    },
    "window": {
        "type": "integer",
        "minimum": 1,
        "maximum": 10_000,
        "description": "Submits without an answer on one session; default 16.",
    },
    "segments_per_second": {
        "type": "number",
        "minimum": 0.01,
        "maximum": MAX_RATE,
        "description": "Of the account, over all sessions and nodes; default 100.",
    },
    "classes": {**_words(_CLASSES), "description": "What it takes; default all."},
    "sender": {"type": "string", "maxLength": 20, "description": "Access code or name."},
    "submit_timeout_s": {
        "type": "number",
        "minimum": 1,
        "maximum": 3600,
        "description": "Without an answer so long a submit is uncertain; default by class.",
    },
    "price_per_segment": {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?$"},
    "opt_out_line": {"type": "string", "description": "Behind marketing; default by country."},
    "encodings": _words([str(word) for word in Encoding], 0),
    "signature_by": {
        "enum": ["gateway", "carrier"],
        "description": "Who puts 【…】 in front of a text; default gateway.",
    },
    "carriers": {**_words(_CARRIERS), "description": "Networks it reaches; default all."},
    "countries": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"type": "integer", "minimum": 1, "maximum": 999},
        "description": "Calling codes it reaches; default all.",
    },
    "report_classes": {
        "type": "object",
        "description": "What words and codes of its reports mean, before the common tables.",
    },
    "reference_bits": {"enum": [8, 16]},
    "admin_state": {
        "enum": [str(word) for word in AdminState],
        "description": "paused: nothing new is submitted over it, its sessions stay and receipts "
        "come. draining: paused, and its sessions log out once nothing has been open for a while.",
    },
}
_OWN = (
    "Beside these the protocol's own settings stand by their standard names, as in a file "
    "(`host`, `port`, `system_id` …). Secrets (`password` …) are kept sealed and never shown."
)
_BACK = " null puts a field back to its default; a secret that is not named stays."
_ROUTE_CHANNELS: Json = {
    "type": "array",
    "minItems": 1,
    "maxItems": 1 + MAX_BACKUPS,
    "uniqueItems": True,
    "items": _NAME,
    "description": "By name or id: the primary, then up to three backups in order.",
}
_WEIGHTS: Json = {
    "type": ["array", "null"],
    "minItems": 1,
    "maxItems": 1 + MAX_BACKUPS,
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT},
    "description": "Beside `channels`, not more than they are, one of them above 0: in what "
    "proportion they are a message's first channel, always the same one for the same number. 0, or "
    "none, is a backup only. null: the first of `channels` is everybody's.",
}
_WHOSE: Json = {
    "class": {"enum": ["*", *_CLASSES]},
    "carrier": {"enum": ["*", *_CARRIERS]},
    "country": {
        "oneOf": [{"const": "*"}, {"type": "integer", "minimum": 1, "maximum": 999}],
        "description": "Calling code.",
    },
}
_HEALTH: Json = {
    **object_of(
        {
            "state": {"enum": ["ok", "degraded"]},
            "left": {
                "type": "array",
                "items": object_of(
                    {
                        "carrier": {
                            "enum": [*_CARRIERS, None],
                            "description": "null: the whole channel.",
                        },
                        "cause": {"enum": [str(signal) for signal in Signal]},
                        "since": TIME,
                        "processes": {"type": "integer", "minimum": 1},
                    }
                ),
            },
        }
    ),
    "description": "Whether processes have left it for its health, and for which carrier's "
    "messages; until it takes everything again. No part of its version.",
}
_VERSION: Json = {"type": "integer", "description": "Its ETag is this in double quotes."}


def _nullable(schema: Json) -> Json:
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def channel_schemas() -> Json:
    """What the routes of channels and routes read and answer."""
    change = {
        name: schema if CHANNEL[name].is_required else _nullable(schema)
        for name, schema in _EVERY.items()
        if name != "name"
    }
    shown = {
        **{name: _nullable(schema) for name, schema in _EVERY.items()},
        "id": ID,
        "demands_template": {
            "type": "boolean",
            "description": "It sends registered templates only.",
        },
        "settings": {"type": "object", "description": "The protocol's own, without secrets."},
        "secrets": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The names of those it has.",
        },
        "health": _HEALTH,
        "created_at": TIME,
        "version": _VERSION,
    }
    optional = {*_EVERY, "demands_template"} - {"name", "protocol", "admin_state"}
    route = {
        "id": ID,
        "tenant": {"type": "string", "description": 'By name; "*" = all.'},
        "tenant_id": NULLABLE_TEXT,
        **_WHOSE,
        "channels": {"type": "array", "items": _NAME, "description": "By name."},
        "channel_ids": {"type": "array", "items": NULLABLE_TEXT},
        "weights": {**_WEIGHTS, "description": "As many as `channels`; null: none are given."},
        "created_at": TIME,
        "version": _VERSION,
    }
    closed: Json = {"type": "object", "additionalProperties": False}
    tenant = {"type": "string", "minLength": 1, "description": 'By name or id; "*" = all.'}
    return {
        "ChannelNew": {
            "type": "object",
            "properties": _EVERY,
            "required": ["name", "protocol"],
            "additionalProperties": True,
            "description": _OWN,
        },
        "ChannelChange": {
            "type": "object",
            "properties": change,
            "additionalProperties": True,
            "description": _OWN + _BACK,
        },
        "Channel": object_of(shown, *optional),
        "ChannelList": _list_of("Channel"),
        "RouteNew": {
            **closed,
            "properties": {
                "tenant": tenant,
                **_WHOSE,
                "channels": _ROUTE_CHANNELS,
                "weights": _WEIGHTS,
            },
            "required": ["channels"],
            "description": 'What is left out of whose messages it takes is "*".',
        },
        "RouteChange": {
            **closed,
            "properties": {"channels": _ROUTE_CHANNELS, "weights": _WEIGHTS},
            "description": "`weights` that are not given stay, each at its place in `channels`.",
        },
        "Route": object_of(route),
        "RouteList": _list_of("Route"),
    }


def _list_of(name: str) -> Json:
    return object_of({"data": {"type": "array", "items": ref(name)}, "next_cursor": NULLABLE_TEXT})
