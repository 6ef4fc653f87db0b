"""The bodies of the two send routes, as msgspec decodes them.

A field that is absent is `UNSET`; null is refused by type. The decoder checks names and types
only: ranges and meanings are `gateway.admit`'s, with a code for each. What stands in `doc()`
is for OpenAPI and for readers; a test holds both to the same behaviour.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from sms.model import MessageClass, OnUncertain
from sms.templates import MAX_VALUE

__all__ = [
    "UNSET",
    "BatchRequest",
    "SendRequest",
    "batch_decoder",
    "entries_decoder",
    "metadata_size",
    "send_decoder",
]

MAX_BATCH = 1000
MAX_METADATA_BYTES = 4096
MAX_CLIENT_REF = 256
MIN_VALIDITY_S = 5
MAX_VALIDITY_S = 259_200
MAX_SEGMENTS = 255
DEFAULT_SEGMENTS = 10


def _doc(description: str, **schema: Any) -> Meta:  # noqa: ANN401 - JSON Schema keywords
    return Meta(description=description, extra_json_schema=schema or None)


class SendRequest(Struct, forbid_unknown_fields=True, rename={"message_class": "class"}):
    """One text to one number: the body of POST /v1/messages, and each entry of a batch."""

    to: (
        Annotated[
            str,
            _doc(
                "E.164 with +; a bare mainland number of 11 digits means +86.",
                examples=["+8613800138000"],
            ),
        ]
        | UnsetType
    ) = UNSET
    text: (
        Annotated[
            str,
            _doc(
                "The body, without signature and opt-out line; this or `template_id`.", minLength=1
            ),
        ]
        | UnsetType
    ) = UNSET
    template_id: (
        Annotated[
            str,
            _doc(
                "A registered template, which gives the body and, unless `class` says the same, "
                "the class.",
                examples=["tpl_0000000000000001"],
            ),
        ]
        | UnsetType
    ) = UNSET
    variables: (
        Annotated[
            dict[str, str],
            _doc(f"A value of 1 to {MAX_VALUE} characters for each variable of the template."),
        ]
        | UnsetType
    ) = UNSET
    message_class: (
        Annotated[MessageClass, _doc("Decides lane, validity and policy.", default="transactional")]
        | UnsetType
    ) = UNSET
    signature: (
        Annotated[
            str,
            _doc(
                "The brand, filed for the tenant. For +86 it is required, by default the "
                "tenant's first, and stands in front as 【…】; elsewhere only when given, as […]."
            ),
        ]
        | UnsetType
    ) = UNSET
    sender_ext: (
        Annotated[str, _doc("Extension after the access code.", pattern="^[0-9]{1,12}$")]
        | UnsetType
    ) = UNSET
    client_ref: (
        Annotated[
            str,
            _doc(
                "Your own id of this message, echoed in events. Given twice within 7 days the "
                "second message is refused (`client_ref.duplicate`, naming the first).",
                minLength=1,
                maxLength=MAX_CLIENT_REF,
            ),
        ]
        | UnsetType
    ) = UNSET
    metadata: (
        Annotated[dict[str, str], _doc("Echoed in events; at most 4096 bytes as JSON.")] | UnsetType
    ) = UNSET
    send_at: (
        Annotated[
            str,
            _doc(
                "When to send it: RFC 3339 with zone, up to 35 days ahead; up to 60 s past means "
                "at once. Until then its status is `scheduled`.",
                format="date-time",
                examples=["2026-12-24T10:00:00+08:00"],
            ),
        ]
        | UnsetType
    ) = UNSET
    valid_for_s: (
        Annotated[
            int,
            _doc(
                "Seconds after which it expires rather than being sent late, counted from "
                "`send_at` when given; default otp 300, transactional 36000, marketing 86400.",
                minimum=MIN_VALIDITY_S,
                maximum=MAX_VALIDITY_S,
            ),
        ]
        | UnsetType
    ) = UNSET
    encoding: (
        Annotated[
            Literal["auto", "gsm7", "ucs2"],
            _doc("auto: GSM-7 when every character fits, else UCS-2.", default="auto"),
        ]
        | UnsetType
    ) = UNSET
    smart_encoding: (
        Annotated[
            bool,
            _doc("Replace typographic look-alikes if then everything is GSM-7.", default=False),
        ]
        | UnsetType
    ) = UNSET
    max_segments: (
        Annotated[
            int,
            _doc(
                "Refuse rather than split further.",
                minimum=1,
                maximum=MAX_SEGMENTS,
                default=DEFAULT_SEGMENTS,
            ),
        ]
        | UnsetType
    ) = UNSET
    on_uncertain: (
        Annotated[
            OnUncertain,
            _doc(
                "What to do when a carrier's answer is lost, so that nobody knows whether it took "
                "the text. `resend`: after a wait for evidence, one second copy. "
                "`probe_then_resend`: the same, once the carrier was asked where it can be asked. "
                "`hold`: no second copy; it ends as `unknown` without evidence. Default: otp "
                "`resend`, transactional `probe_then_resend`, marketing `hold`."
            ),
        ]
        | UnsetType
    ) = UNSET

    def given(self) -> Iterator[tuple[str, object]]:
        """Attribute names and values of what is not absent."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not UNSET:
                yield name, value


class BatchRequest(Struct, forbid_unknown_fields=True):
    """The outer object of POST /v1/batches; the parts are decoded one by one."""

    messages: Raw  # a list, for `entries_decoder`
    defaults: Raw | UnsetType = UNSET


FIELD_NAMES: dict[str, str] = dict(
    zip(SendRequest.__struct_encode_fields__, SendRequest.__struct_fields__, strict=True)
)
POINTERS: dict[str, str] = {name: f"/{wire}" for wire, name in FIELD_NAMES.items()}

send_decoder = msgspec.json.Decoder(SendRequest)
batch_decoder = msgspec.json.Decoder(BatchRequest)
# A list is decoded whole, millions of entries and all, before its length can be looked at. This is
# a struct written as a list: it ends at the first entry that is one too many.
entries_decoder = msgspec.json.Decoder(
    msgspec.defstruct(
        "Entries",
        [(f"entry{index}", Raw | UnsetType, UNSET) for index in range(MAX_BATCH)],
        array_like=True,
        forbid_unknown_fields=True,
    )
)


def metadata_size(metadata: dict[str, str]) -> int:
    """Bytes of `metadata` as compact JSON: what its limit counts."""
    return len(msgspec.json.encode(metadata))
