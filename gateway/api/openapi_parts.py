"""The words that every operation of the OpenAPI document shares."""

from __future__ import annotations

from functools import cache
from typing import Any

from gateway.api.problems import KINDS

Json = dict[str, Any]

ID = {"type": "string", "maxLength": 40}
TIME = {"type": "string", "format": "date-time"}
NULLABLE_TIME = {"type": ["string", "null"], "format": "date-time"}
NULLABLE_TEXT = {"type": ["string", "null"]}
# A bearer key, or the four headers of a signed request.
SECURITY: list[Json] = [
    {"key": []},
    {name: [] for name in ("signedKey", "signedTimestamp", "signedNonce", "signature")},
]
SCHEMES: Json = {
    "key": {"type": "http", "scheme": "bearer"},
    **{
        name: {"type": "apiKey", "in": "header", "name": header, "description": told}
        for name, header, told in (
            ("signedKey", "X-Smsgw-Key", "The id of a key that was made with `signing: true`."),
            ("signedTimestamp", "X-Smsgw-Timestamp", "Unix seconds, at most 300 s off."),
            ("signedNonce", "X-Smsgw-Nonce", "1 to 128 visible ASCII characters, used once."),
            (
                "signature",
                "X-Smsgw-Signature",
                "Hex HMAC-SHA256(signing secret, METHOD LF PATH LF SORTED-QUERY LF hex "
                "SHA256(body) LF TIMESTAMP LF NONCE); PATH as sent, SORTED-QUERY the raw pairs in "
                "the order of their bytes, joined by &.",
            ),
        )
    },
}


def ref(name: str) -> Json:
    """A schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_of(properties: Json, *optional: str) -> Json:
    """An object whose properties are all there, the optional ones excepted."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def problems(*statuses: int) -> Json:
    """The refusals with these statuses."""
    content = {"application/problem+json": {"schema": ref("Problem")}}
    return {
        str(status): {"description": _refused(status), "content": content} for status in statuses
    }


_MAIN_CASE = {
    400: "The request cannot be read: mostly a body that is not JSON.",
    401: "No API key or signature, or one that is not accepted.",
    403: "The key may not do this, or not from this address, or its tenant is suspended.",
    404: "There is no such thing, or it belongs to somebody else.",
    405: "The route has other methods; `Allow` names them.",
    409: "What is there already stands against it.",
    412: "It was changed since it was read; `If-Match` names another version.",
    428: "`If-Match` is missing: it says which version is changed.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not declared as application/json in UTF-8.",
    422: "Understood and refused: a field is missing, wrong or not allowed; see `errors`.",
    429: "More than the tenant's limits allow; wait for `Retry-After`.",
    500: "A fault of the gateway; tell the operator the `request_id`. On a send the message may "
    "exist.",
    503: "Too busy or the store is away; wait for `Retry-After`. With the code `outcome_unknown` "
    "the message may exist, otherwise it does not.",
}


@cache
def _refused(status: int) -> str:
    codes = ", ".join(f"`{code}`" for code, kind in KINDS.items() if kind.status == status)
    return f"{_MAIN_CASE[status]} Codes: {codes}."
