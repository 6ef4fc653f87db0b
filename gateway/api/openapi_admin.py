"""The administrative part of the OpenAPI document, with the examples that the tests run."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.api.openapi_canaries import CANARY_EXAMPLES, canary_schemas
from gateway.api.openapi_channels import CHANNEL_EXAMPLES, channel_schemas
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
from gateway.api.openapi_templates import TEMPLATE_EXAMPLES, template_schemas
from gateway.configfields import (
    MAX_BURSTS,
    MAX_CAPS,
    MAX_CERTIFICATES,
    MAX_NETWORKS,
    MAX_OVERLAP_S,
    MAX_QUOTA,
    MAX_RATE,
    TENANT_SCOPES,
)
from sms.config import OtpCaps
from sms.model import MessageClass, UncertainPolicy

EXAMPLES: dict[str, dict[str, Json]] = {
    "TenantNew": {
        "plain": {"summary": "With all defaults", "value": {"name": "shop"}},
        "everything": {
            "summary": "All fields",
            "value": {
                "name": "bank",
                "signatures": ["某银行"],
                "countries": [86, 852],
                "allowed_ips": ["203.0.113.0/24", "2001:db8::7"],
                "inbound_numbers": ["1069000123"],
                "otp_caps": {"per_minute": 2, "prefix_burst": 0},
                "limits": {
                    "segments_per_second": 2000,
                    "burst_segments": 4000,
                    "segments_per_day": 1_000_000,
                    "segments_per_month": 20_000_000,
                    "classes": {
                        "marketing": {"segments_per_second": 50, "burst_segments": 1000},
                    },
                    "bursts": [
                        {
                            "from": "2026-11-11T00:00:00+08:00",
                            "until": "2026-11-12T00:00:00+08:00",
                            "segments_per_second": 5000,
                            "burst_segments": 10_000,
                        }
                    ],
                },
            },
        },
    },
    "TenantChange": {
        "faster": {
            "summary": "Another rate, and no daily quota",
            "value": {"limits": {"segments_per_second": 3000, "segments_per_day": None}},
        },
        "burst": {
            "summary": "Ten times as much for a day, and no limit for a class alone",
            "value": {
                "limits": {
                    "classes": {},
                    "bursts": [{"until": "2026-12-13T00:00:00Z", "segments_per_second": 1000}],
                }
            },
        },
        "anywhere": {"summary": "Keys work from everywhere", "value": {"allowed_ips": []}},
    },
    "Rollback": {"first": {"summary": "As it was at version 2", "value": {"version": 2}}},
    "KeyNew": {
        "plain": {"summary": "May send and read", "value": {"name": "backend"}},
        "signing": {
            "summary": "May send, and sign its requests",
            "value": {"name": "signer", "scopes": ["send"], "signing": True},
        },
    },
    "AdminKeyNew": {"second": {"summary": "Another operator", "value": {"name": "night-shift"}}},
    "Rotation": {"day": {"summary": "Both keys work for a day", "value": {"overlap_s": 86_400}}},
    **TEMPLATE_EXAMPLES,
    **CHANNEL_EXAMPLES,
    **CANARY_EXAMPLES,
}

_NAME: Json = {
    "type": "string",
    "minLength": 1,
    "maxLength": 64,
    "description": "Printable, without space, /, \\ and *. It stands in metrics and files, and "
    "never changes.",
}


def _bucket(whose: str, default: str = "") -> Json:
    return {
        "segments_per_second": {
            "type": "number",
            "minimum": 0.01,
            "maximum": MAX_RATE,
            "description": f"Rate of {whose} token bucket{default}.",
        },
        "burst_segments": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_RATE,
            "description": "Its depth; default twice the rate.",
        },
    }


def _body(properties: Json, *required: str) -> Json:
    made: Json = {"type": "object", "additionalProperties": False, "properties": properties}
    return made | ({"required": list(required)} if required else {})


_CLASS_BUCKET = _body(_bucket("the class's own"), "segments_per_second")
_MOMENT: Json = {**TIME, "description": "With its zone, from 2000 to 9998; shown in UTC."}
_LIMITS: Json = {
    **_bucket("the tenant's", "; default 100"),
    **{
        f"segments_per_{time}": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": MAX_QUOTA,
            "description": f"Quota of a {time} in UTC+8; null = none.",
        }
        for time in ("day", "month")
    },
    "classes": {
        **_body({str(word): _CLASS_BUCKET for word in MessageClass}),
        "description": "Buckets for single classes, beside the tenant's; a change replaces all.",
    },
    "bursts": {
        "type": "array",
        "maxItems": MAX_BURSTS,
        "items": _body(
            {"from": _MOMENT, "until": _MOMENT, **_bucket("the tenant's")},
            "until",
            "segments_per_second",
        ),
        "description": "More for a while: from `from` (or now) to `until` the larger of these and "
        "the ordinary numbers holds. A change replaces all.",
    },
}
_CAPS = OtpCaps()
_TENANT: Json = {
    "signatures": {
        "type": "array",
        "maxItems": 1000,
        "uniqueItems": True,
        "items": {"type": "string", "minLength": 1, "maxLength": 20},
        "description": "Brands it may sign with; the first is the default.",
    },
    "countries": {
        "type": "array",
        "minItems": 1,
        "maxItems": 1000,
        "uniqueItems": True,
        "items": {"type": "integer", "minimum": 1, "maximum": 999},
        "description": "Calling codes it may send to; default [86].",
    },
    "allowed_ips": {
        "type": "array",
        "maxItems": MAX_NETWORKS,
        "uniqueItems": True,
        "items": {"type": "string"},
        "description": "Networks its keys work from; empty = from everywhere.",
    },
    "client_certificates": {
        "type": "array",
        "maxItems": MAX_CERTIFICATES,
        "uniqueItems": True,
        "items": {"type": "string", "pattern": "^([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}$"},
        "description": "SHA-256 fingerprints: its keys work only over TLS with one of these "
        "certificates; empty = none is asked for.",
    },
    "inbound_numbers": {
        "type": "array",
        "maxItems": 1000,
        "uniqueItems": True,
        "items": {"type": "string", "pattern": "^[0-9]{3,20}$"},
        "description": "Texts from phones to a number that begins with one of these are the "
        "tenant's; the longest wins, and no two tenants may have the same.",
    },
    "otp_caps": {
        **_body(
            {
                name: {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": MAX_CAPS[name],
                    "description": f"{told}; default {default}.",
                }
                for name, told, default in (
                    ("per_minute", "To one number in any 60 s", _CAPS.per_minute),
                    ("per_hour", "To one number in any hour", _CAPS.per_hour),
                    ("per_day", "To one number in any 24 h", _CAPS.per_day),
                    (
                        "prefix_burst",
                        "At once to the 10,000 numbers around it, refilled in 60 s",
                        _CAPS.prefix_burst,
                    ),
                )
            }
        ),
        "description": "How many otp messages are accepted; more are 429 `policy.frequency_cap`. "
        "0 = no such cap. A change replaces the named ones.",
    },
    "on_uncertain": {
        "enum": [*(str(word) for word in UncertainPolicy), None],
        "description": "What follows when a carrier's answer is lost, for messages that do not "
        "say themselves, nor their template; null = the platform's, by class. `ask`: hold, until "
        "an operator calls `:resend` of the message.",
    },
}
_VERSION: Json = {
    "type": "integer",
    "description": "Of the configuration, when the object was last written; its ETag is this in "
    "double quotes.",
}


def _key_body(scopes: list[str]) -> Json:
    return _body(
        {
            "name": _NAME,
            "scopes": {
                "type": "array",
                "minItems": 1,
                "uniqueItems": True,
                "items": {"enum": scopes},
                "description": f"Default {scopes}.",
            },
            "signing": {
                "type": "boolean",
                "default": False,
                "description": "Whether it may sign requests; it then has a signing secret too.",
            },
        },
        "name",
    )


def _list_of(name: str) -> Json:
    return object_of({"data": {"type": "array", "items": ref(name)}, "next_cursor": NULLABLE_TEXT})


def admin_schemas() -> Json:
    """What administration reads and answers."""
    limits = {"limits": _body(_LIMITS)}
    kept = {"type": ["object", "null"], "description": "Without secrets; null = not there."}
    return {
        "TenantNew": _body({"name": _NAME, **_TENANT, **limits}, "name"),
        "TenantChange": _body({**_TENANT, **limits}),
        "Rollback": _body(
            {"version": {"type": "integer", "minimum": 1, "maximum": 2_147_483_647}}, "version"
        ),
        "KeyNew": _key_body(list(TENANT_SCOPES)),
        "AdminKeyNew": _key_body(["admin"]),
        "Rotation": _body(
            {
                "overlap_s": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": MAX_OVERLAP_S,
                    "description": "Seconds for which the key still works beside its successor.",
                }
            },
            "overlap_s",
        ),
        "Created": object_of({"id": ID}),
        "Tenant": object_of(
            {
                "id": ID,
                "name": _NAME,
                "suspended": {"type": "boolean", "description": "It may read, and not send."},
                **_TENANT,
                "limits": object_of(_LIMITS),
                "created_at": TIME,
                "version": _VERSION,
            }
        ),
        "TenantList": _list_of("Tenant"),
        "ShownKey": object_of(
            {
                "id": ID,
                "key": {"type": "string", "description": "The bearer key, shown this once."},
                "signing_secret": {"type": "string", "description": "Shown this once."},
            },
            "signing_secret",
        ),
        "Key": object_of(
            {
                "id": ID,
                "name": _NAME,
                "scopes": {"type": "array", "items": {"enum": ["send", "read", "admin"]}},
                "signing": {"type": "boolean"},
                "status": {
                    "enum": ["active", "retiring", "expired"],
                    "description": "retiring: rotated out, and good until `valid_until`.",
                },
                "valid_until": NULLABLE_TIME,
                "created_at": TIME,
                "version": _VERSION,
            }
        ),
        "KeyList": _list_of("Key"),
        "AuditEvent": object_of(
            {
                "id": ID,
                "at": TIME,
                "action": {"type": "string", "examples": ["tenant.updated", "api_key.revoked"]},
                "actor": object_of(
                    {
                        "kind": {"enum": ["key", "command", "gateway"]},
                        "id": NULLABLE_TEXT,
                        "name": {"type": "string"},
                        "os_user": NULLABLE_TEXT,
                    }
                ),
                "address": {
                    **NULLABLE_TEXT,
                    "description": "Where the request came from; null for a command.",
                },
                "request_id": NULLABLE_TEXT,
                "object": object_of(
                    {"kind": {"type": "string"}, "id": ID, "name": {"type": "string"}}
                ),
                "version": {"type": "integer"},
                "before": kept,
                "after": kept,
                "secrets_changed": {"type": "array", "items": {"type": "string"}},
                "hash": {
                    "type": "string",
                    "description": "Hex HMAC-SHA256 over the hash of the row before and this one.",
                },
            }
        ),
        "AuditList": _list_of("AuditEvent"),
        **template_schemas(),
        **channel_schemas(),
        **canary_schemas(),
    }


class _Operation(NamedTuple):
    """One line of the table below."""

    path: str
    method: str
    name: str
    summary: str
    body: str  # "" = none
    status: int
    answer: str  # "" = none
    extra: tuple[int, ...] = ()
    is_change: bool = False  # If-Match is taken; with 428 among `extra` it has to be there


_T, _K, _A = "/v1/tenants", "/v1/tenants/{id}/api-keys", "/v1/admin-keys"
_L, _C, _R = "/v1/templates", "/v1/channels", "/v1/routes"
_Y = "/v1/canaries"
_CHANGE = (412,)
_OPERATIONS: tuple[_Operation, ...] = (
    _Operation(_T, "post", "createTenant", "Make a tenant", "TenantNew", 201, "Created", (409,)),
    _Operation(_T, "get", "listTenants", "List the tenants", "", 200, "TenantList"),
    _Operation(_T + "/{id}", "get", "readTenant", "Read a tenant", "", 200, "Tenant", (404,)),
    _Operation(
        _T + "/{id}",
        "patch",
        "changeTenant",
        "Replace the named fields; of limits the named ones",
        "TenantChange",
        200,
        "Tenant",
        (404, 412, 428),
        True,
    ),
    *(
        _Operation(
            f"{_T}/{{id}}:{action}", "post", f"{action}Tenant", summary, body, 200, "Tenant",
            (404, 412), True,
        )
        for action, summary, body in (
            ("suspend", "Let it send no more; it may still read", ""),
            ("resume", "Let it send again", ""),
            ("rollback", "Put every field back as it was; a suspension stays", "Rollback"),
        )
    ),
    *(
        operation
        for path, whose, named, body in (
            (_K, "a tenant", "", "KeyNew"),
            (_A, "the platform", "Admin", "AdminKeyNew"),
        )
        for operation in (
            _Operation(
                path, "post", f"create{named}Key", f"Make a key of {whose}; it is shown once",
                body, 201, "ShownKey", (404, 409) if path == _K else (409,),
            ),
            _Operation(
                path, "get", f"list{named}Keys", f"List the keys of {whose}", "", 200, "KeyList",
                (404,) if path == _K else (),
            ),
            _Operation(
                path + "/{key_id}", "get", f"read{named}Key", f"Read a key of {whose}", "", 200,
                "Key", (404,),
            ),
            _Operation(
                path + "/{key_id}", "delete", f"revoke{named}Key",
                f"Revoke a key of {whose}, for good", "", 204, "", (404, 409, 412), True,
            ),
            _Operation(
                path + "/{key_id}:rotate", "post", f"rotate{named}Key",
                "Make its successor, shown once; the key itself ends after the overlap",
                "Rotation", 201, "ShownKey", (404, 409, 412), True,
            ),
        )
    ),
    _Operation(
        _L, "post", "createTemplate", "Register a text with variables", "TemplateNew", 201,
        "Created", (409,),
    ),
    _Operation(_L, "get", "listTemplates", "List the templates", "", 200, "TemplateList"),
    _Operation(
        _L + "/{id}", "get", "readTemplate", "Read a template", "", 200, "Template", (404,),
    ),
    _Operation(
        _L + "/{id}", "patch", "changeTemplate", "Replace its text, or all its twins",
        "TemplateChange", 200, "Template", (404, 412, 428), True,
    ),
    _Operation(
        _L + "/{id}", "delete", "removeTemplate", "Remove it; refused while a route needs it", "",
        204, "", (404, 409, 412), True,
    ),
    _Operation(
        _L + "/{id}:rollback", "post", "rollbackTemplate", "Put text and twins back as they were",
        "Rollback", 200, "Template", (404, 412), True,
    ),
    *(
        operation
        for path, named, made, ends in (
            (_C, "Channel", "Make a channel", "Remove it; refused while a route or twin names it"),
            (_R, "Route", "Make a route", "Remove it; refused while a template needs it"),
        )
        for operation in (
            _Operation(
                path, "post", f"create{named}", made, f"{named}New", 201, "Created", (409,),
            ),
            _Operation(
                path, "get", f"list{named}s", f"List the {named.lower()}s", "", 200,
                f"{named}List",
            ),
            _Operation(
                path + "/{id}", "get", f"read{named}", f"Read a {named.lower()}", "", 200, named,
                (404,),
            ),
            _Operation(
                path + "/{id}", "patch", f"change{named}", "Replace the named fields",
                f"{named}Change", 200, named, (404, 412, 428), True,
            ),
            _Operation(
                path + "/{id}", "delete", f"remove{named}", ends, "", 204, "", (404, 409, 412),
                True,
            ),
            _Operation(
                path + "/{id}:rollback", "post", f"rollback{named}",
                "Put every field back as it was; paused it stays", "Rollback", 200, named,
                (404, 412), True,
            ),
        )
    ),
    *(
        _Operation(
            f"{_C}/{{id}}:{action}", "post", f"{action}Channel", summary, "", 200, "Channel",
            (404, 412), True,
        )
        for action, summary in (
            ("pause", "Submit nothing new over it; its sessions stay, receipts come"),
            ("resume", "Let it take messages again"),
            ("drain", "Pause it, and log out once nothing has been open for a while"),
        )
    ),
    _Operation(
        _Y, "post", "createCanary", "Try another channel with a part of a route's numbers",
        "CanaryNew", 201, "Created", (409,),
    ),
    _Operation(_Y, "get", "listCanaries", "List the canaries", "", 200, "CanaryList"),
    _Operation(
        _Y + "/{id}", "get", "readCanary", "Read a canary, with the figures of its last gate", "",
        200, "Canary", (404,),
    ),
    _Operation(
        _Y + "/{id}", "patch", "changeCanary", "Give a live one other steps or limits",
        "CanaryChange", 200, "Canary", (404, 409, 412, 428), True,
    ),
    _Operation(
        _Y + "/{id}", "delete", "removeCanary", "Remove one that is over", "", 204, "",
        (404, 409, 412), True,
    ),
    *(
        _Operation(
            f"{_Y}/{{id}}:{action}", "post", f"{action}Canary", summary, body, 200, "Canary",
            (404, 409, 412), True,
        )
        for action, summary, body in (
            ("pause", "Keep its share; no gate takes it further, or back", ""),
            ("resume", "Go on; its step begins anew", ""),
            ("abort", "End it: all numbers are the route's again", ""),
            ("promote", "End it: its channels are the route's, whatever the gates say", ""),
            ("rollback", "Share, steps and limits as they were; for a live one", "Rollback"),
        )
    ),
    _Operation(
        "/v1/audit-events", "get", "listAuditEvents", "Read what was changed, and by whom", "", 200,
        "AuditList",
    ),
)  # fmt: skip
_BODY_STATUSES = (400, 401, 403, 405, 408, 413, 415, 422, 500, 503)
_PLAIN_STATUSES = (400, 401, 403, 405, 422, 500, 503)


def admin_paths() -> Json:
    """Every administrative route by path and method."""
    paths: Json = {}
    for operation in _OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return paths


def _described(one: _Operation) -> Json:
    statuses = _BODY_STATUSES if one.method != "get" else _PLAIN_STATUSES
    told: Json = {
        "operationId": one.name,
        "summary": one.summary,
        "tags": ["administration"],
        "security": SECURITY,
        "parameters": _parameters(one),
        "responses": {
            str(one.status): _answer(one),
            **problems(*sorted({*statuses, *one.extra})),
        },
    }
    if one.body:
        content = {"schema": ref(one.body), "examples": EXAMPLES[one.body]}
        told["requestBody"] = {"required": True, "content": {"application/json": content}}
    return told


def _answer(one: _Operation) -> Json:
    if not one.answer:
        return {"description": "Done; nothing more is to be said."}
    headers = {"X-Request-Id": {"schema": {"type": "string"}}}
    if not one.answer.endswith("List"):
        headers["ETag"] = {"schema": {"type": "string"}}
    if one.status == 201:
        headers["Location"] = {"schema": {"type": "string"}}
    content = {"application/json": {"schema": ref(one.answer)}}
    return {"description": "OK", "headers": headers, "content": content}


def _parameters(one: _Operation) -> list[Any]:
    found: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": ID}
        for name in ("id", "key_id")
        if f"{{{name}}}" in one.path
    ]
    if one.answer.endswith("List"):
        limit = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
        found.append({"name": "limit", "in": "query", "schema": limit})
        found.append({"name": "cursor", "in": "query", "schema": {"type": "string"}})
    if one.answer == "AuditList":
        told = "Only what was done to this object: a tenant's id, a key's …"
        found.append(
            {"name": "object", "in": "query", "schema": {"type": "string"}, "description": told}
        )
    if one.is_change:
        found.append(
            {
                "name": "If-Match",
                "in": "header",
                "required": 428 in one.extra,
                "schema": {"type": "string"},
                "description": "The ETag of what is changed, or *.",
            }
        )
    return found
