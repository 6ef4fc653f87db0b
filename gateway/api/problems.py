"""Problem documents (RFC 9457): the one form of every answer that is not a success.

A code is stable and dotted; the table below fixes its HTTP status, its title and what the caller
can do about it. A document never repeats what the caller sent, and never holds a stack or SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from sms.ids import to_text

# What a name must look like to be repeated in an answer: not like anybody's number either.
NAME_LIKE = re.compile(r"(?!.{0,39}?(?:[0-9][_-]{0,2}){7})[A-Za-z_][A-Za-z0-9_-]{0,39}")


class FieldError(NamedTuple):
    """One field that is wrong: an RFC 6901 pointer, a dotted code, and a sentence."""

    pointer: str
    code: str
    detail: str


class Kind(NamedTuple):
    """What is fixed for a code."""

    status: int
    title: str
    action: str


_FIX = "Correct the fields named in `errors` and send the request again."
_JSON = "Send one JSON object, encoded as UTF-8, as RFC 8259 describes it."
_LATER = "Leave the field out: this version does not offer it yet."
_WAIT = "Wait for the seconds in Retry-After, then send the same request again."

KINDS: dict[str, Kind] = {
    "auth.secret_in_query": Kind(
        400,
        "Secret in the URL",
        "Send the key in the Authorization header, and replace it: URLs are written to logs.",
    ),
    "request.header_repeated": Kind(400, "Header given twice", "Send the header once."),
    "request.malformed": Kind(400, "Not HTTP", "Send a well-formed HTTP/1.1 request."),
    "request.version": Kind(505, "HTTP version not supported", "Send the request as HTTP/1.1."),
    "header.too_large": Kind(431, "Head too large", "Send fewer and shorter headers."),
    "shed.connections": Kind(
        503, "Too many connections", "Close idle connections, and use one for many requests."
    ),
    "request.disconnected": Kind(400, "Request cut off", "Send the whole body."),
    "json.syntax": Kind(400, "Not JSON", _JSON),
    "json.not_utf8": Kind(400, "Not UTF-8", _JSON),
    "json.duplicate_key": Kind(400, "A name stands twice", "Give each name of an object once."),
    "json.too_deep": Kind(400, "Nested too deeply", "Nest at most 20 levels."),
    "json.too_many_values": Kind(
        400, "Too many values", "Send only the fields that this interface names."
    ),
    "json.nul": Kind(400, "NUL in a string", "Remove U+0000 from names and values."),
    "json.surrogate": Kind(
        400, "Half a character", "Send characters beyond U+FFFF as a whole surrogate pair."
    ),
    "auth.missing": Kind(401, "No key", "Send `Authorization: Bearer <api key>`."),
    "auth.invalid": Kind(401, "Key not accepted", "Check the key, or ask for a new one."),
    "auth.ambiguous": Kind(
        401, "Two ways to say who asks", "Send either the Authorization header or a signature."
    ),
    "auth.signature_malformed": Kind(
        401,
        "Signature headers not right",
        "Send X-Smsgw-Key, -Timestamp, -Nonce and -Signature as the documentation has them.",
    ),
    "auth.timestamp": Kind(
        401, "Timestamp too far off", "Set the clock right (the Date header tells ours), sign anew."
    ),
    "auth.signature": Kind(
        401, "Signature not accepted", "Compare what you sign with the published test vectors."
    ),
    "auth.nonce_used": Kind(401, "Nonce used before", "Sign again with a new nonce."),
    "auth.nonce_unsure": Kind(
        503, "Nonces cannot be told apart now", "Sign anew after the seconds in Retry-After."
    ),
    "auth.address_not_allowed": Kind(
        403, "Address not allowed", "Call from an allowed address, or ask the operator."
    ),
    "auth.certificate": Kind(
        403,
        "Client certificate missing or another one",
        "Connect with a certificate that is registered for the tenant, or ask the operator.",
    ),
    "auth.scope": Kind(403, "Not allowed with this key", "Use a key that has the scope."),
    "tenant.suspended": Kind(403, "Tenant suspended", "Ask the operator of this gateway."),
    "resource.not_found": Kind(404, "Not found", "Check the address and the id."),
    "callback.unreadable": Kind(
        400, "Call not readable", "Send what the vendor's documentation says, to the right address."
    ),
    "callback.unproven": Kind(
        401, "Call not proven", "Give the channel's secret, or sign as the vendor does."
    ),
    "callback.not_allowed": Kind(
        403, "Call not allowed", "Add the vendor's networks to the channel's callback_sources."
    ),
    "callback.later": Kind(503, "Call again", "Wait for the seconds in Retry-After; call again."),
    "name.taken": Kind(
        409, "Name taken", "Give what `errors` names another value, or change the one that has it."
    ),
    "message.final": Kind(409, "At its end", "Nothing is to be done; read the message."),
    "message.submitting": Kind(
        409, "With a carrier", "It cannot be taken back; read the message for its end."
    ),
    "message.not_uncertain": Kind(409, "Not uncertain", "Nothing is to be done; read the message."),
    "message.copy_made": Kind(409, "Sent again already", "Nothing is to be done."),
    "message.copy_refused": Kind(
        409, "No second copy", "Read the message; send it anew if it is still wanted."
    ),
    "batch.canceled": Kind(409, "Batch canceled", "Send what is still wanted as a new batch."),
    "key.own": Kind(409, "The key that asks", "Use another admin key, or `smsgw apply`."),
    "key.rotated_out": Kind(409, "Rotated out already", "Rotate the key that took its place."),
    "if_match.malformed": Kind(400, "If-Match not right", 'Send the ETag as it came: "12".'),
    "if_match.mismatch": Kind(
        412, "Changed meanwhile", "Read the object again, then repeat your change on what it is."
    ),
    "if_match.required": Kind(428, "If-Match missing", "Read the object; send its ETag back."),
    "version.unknown": Kind(422, "Version not known", "Take a version from /v1/audit-events."),
    "method.not_allowed": Kind(405, "Method not allowed", "Use a method that Allow names."),
    "request.slow": Kind(408, "Too slow", "Send the whole body within 30 seconds."),
    "body.too_large": Kind(413, "Body too large", "Send less in one request."),
    "body.media_type": Kind(415, "Not application/json", "Send `Content-Type: application/json`."),
    "body.charset": Kind(415, "Charset not supported", "Encode the body as UTF-8."),
    "body.encoding": Kind(
        415, "Content-Encoding not supported", "Send the body as it is, without Content-Encoding."
    ),
    "query.unknown": Kind(422, "Unknown query parameter", "Remove it, or correct its name."),
    "query.repeated": Kind(422, "Query parameter given twice", "Give each parameter once."),
    "query.value": Kind(422, "Query parameter out of range", "Correct its value."),
    "idempotency.malformed": Kind(
        400,
        "Idempotency-Key not right",
        "Send 1 to 255 visible ASCII characters, bare or in double quotes.",
    ),
    "idempotency.mismatch": Kind(
        422,
        "Key used for another request",
        "Send the body that came with the key first, or a new key for a new request.",
    ),
    "idempotency.in_progress": Kind(409, "First request still running", _WAIT),
    "client_ref.duplicate": Kind(
        409,
        "client_ref used before",
        "Read the message that `detail` names; for a new one send a new client_ref.",
    ),
    "client_ref.in_progress": Kind(409, "client_ref just in use", _WAIT),
    "field.unknown": Kind(422, "Unknown field", _FIX),
    "field.missing": Kind(422, "Field missing", _FIX),
    "field.type": Kind(422, "Wrong type", _FIX),
    "field.null": Kind(
        422, "Null is not absent", "Give a value, or leave an optional field out; null is neither."
    ),
    "field.value": Kind(422, "Value not allowed", _FIX),
    "field.unavailable": Kind(422, "Field not available", _LATER),
    "metadata.too_large": Kind(422, "Metadata too large", "Send at most 4096 bytes of metadata."),
    "batch.empty": Kind(422, "Empty batch", "Send 1 to 1000 messages."),
    "batch.too_many": Kind(422, "Too many messages", "Send 1 to 1000 messages in a batch."),
    "recipient.invalid": Kind(
        422, "Number not valid", "Send E.164 (+8613800138000) or a mainland number of 11 digits."
    ),
    "recipient.country_not_allowed": Kind(
        422, "Country not allowed", "Ask the operator to add the country to the tenant."
    ),
    "policy.opted_out": Kind(
        422, "Recipient opted out", "Do not send to this number; see /v1/suppressions."
    ),
    "recipient.blocked": Kind(422, "Recipient blocked", "Do not send to this number."),
    "policy.frequency_cap": Kind(429, "Too many codes to this number", _WAIT),
    "content.empty": Kind(422, "Empty text", "Send a text."),
    "content.too_long": Kind(422, "Text too long", "Do what `detail` says."),
    "content.not_gsm7": Kind(422, "Not GSM-7", "Leave `encoding` out, or replace the characters."),
    "content.signature_in_text": Kind(
        422,
        "Signature inside the text",
        "Remove 【】 from the text; name the brand in `signature`.",
    ),
    "content.no_template": Kind(
        422,
        "No template for this text",
        "Send a `template_id` with its `variables`, or a text that is a registered template.",
    ),
    "template.unknown": Kind(422, "Template not known", "Ask the operator for the template's id."),
    "template.beside_text": Kind(422, "Text and template", "Send one of the two."),
    "template.class": Kind(
        422, "Class is not the template's", "Leave `class` out: the template has one."
    ),
    "template.variable_missing": Kind(422, "Variable missing", _FIX),
    "template.variable_unknown": Kind(422, "Variable not of the template", _FIX),
    "template.variable_value": Kind(422, "Value of a variable not allowed", _FIX),
    "template.in_use": Kind(
        409, "A route needs it", "Change the route first, as `detail` says; then try again."
    ),
    "template.twin_missing": Kind(
        422, "A route would lack a twin", "Give the channels that `errors` name a twin."
    ),
    "template.too_many": Kind(
        422, "Too many templates", "Delete templates that nobody sends any more."
    ),
    "webhook_endpoint.too_many": Kind(
        422, "Too many webhook endpoints", "Delete endpoints that nobody needs any more."
    ),
    "webhook_endpoint.disabled": Kind(
        409, "Endpoint disabled", "Repair the receiver; then PATCH `enabled` to true, try again."
    ),
    "webhook_endpoint.replaying": Kind(
        409,
        "A replay is under way",
        "Wait until it is done; /attempts shows what it sends. Single events can be sent again.",
    ),
    "webhook_endpoint.too_fast": Kind(429, "Too many changes", _WAIT),
    "webhook_endpoint.busy": Kind(429, "Tests under way", _WAIT),
    "channel.in_use": Kind(
        409, "Something names it", "Change first what `detail` names; then try again."
    ),
    "route.in_use": Kind(
        409, "Something needs it", "Change first what `detail` names; then try again."
    ),
    "channel.paused": Kind(
        422, "Channel paused", "Resume the channel, or name another; then try again."
    ),
    "canary.live": Kind(
        409, "A canary is live", "Wait for its end, promote it or abort it; then try again."
    ),
    "canary.over": Kind(
        409, "The canary is over", "Make a new one; for the route itself see /v1/routes."
    ),
    "route.misfit": Kind(
        422, "A route would not fit", "Change the route or the channel, as `errors` says."
    ),
    "signature.required": Kind(
        422, "Signature required", "Ask the operator to file a signature for the tenant."
    ),
    "signature.unknown": Kind(
        422, "Signature not filed", "Use a signature that is filed for the tenant."
    ),
    "route.missing": Kind(
        422, "No route", "Ask the operator to add a route for this class, carrier and country."
    ),
    "quota.message_too_large": Kind(
        422, "More segments than the limit can hold", "Send fewer segments in one request."
    ),
    "quota.segments_per_second": Kind(429, "Too fast", _WAIT),
    "quota.segments_per_day": Kind(
        429, "Daily quota used up", "Send again after the time in `detail`, or ask the operator."
    ),
    "quota.segments_per_month": Kind(
        429, "Monthly quota used up", "Send again after the time in `detail`, or ask the operator."
    ),
    "internal.error": Kind(
        500, "Internal error", "Tell the operator the request_id; on a send the message may exist."
    ),
    "store.unavailable": Kind(503, "Store not available", _WAIT),
    "shed.queue_full": Kind(503, "Queue full", _WAIT),
    "shed.no_channel": Kind(
        503,
        "All channels of the route are away",
        "Send again after Retry-After, the urgent first: otp is held longest, marketing refused"
        " first. If it lasts, ask the operator which channels are away.",
    ),
    "outcome_unknown": Kind(
        503,
        "Outcome unknown",
        "It may have been done. With an Idempotency-Key: send the same again. Else look first.",
    ),
}
_CHALLENGE = (b"www-authenticate", b'Bearer realm="smsgw"')
_SHED = Kind(503, "Too busy", _WAIT)
_UNKNOWN_KIND = Kind(422, "Refused", _FIX)

Header = tuple[bytes, bytes]


@dataclass(slots=True)
class Problem:
    """An answer that says no. `headers` go out beside the usual ones."""

    code: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: list[Header] = field(default_factory=list)
    own_status: int = 0  # where the code alone does not say it

    @property
    def status(self) -> int:
        """The HTTP status of the code, unless it has one of its own."""
        return self.own_status or kind_of(self.code).status


class ProblemError(Exception):
    """Carries a `Problem` out of a handler."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def kind_of(code: str) -> Kind:
    """The fixed part of a code; codes that another room coined get a general one."""
    kind = KINDS.get(code)
    if kind is not None:
        return kind
    return _SHED if code.startswith("shed.") else _UNKNOWN_KIND


def of_fields(errors: Sequence[FieldError]) -> Problem:
    """All field errors in one document; the first one's code is the document's."""
    return Problem(errors[0].code, errors[0].detail, errors)


def unauthorized(code: str, detail: str) -> Problem:
    """A 401, with the challenge that RFC 9110 section 15.5.2 wants with every one."""
    return Problem(code, detail, headers=[_CHALLENGE])


def not_allowed(methods: Iterable[str]) -> Problem:
    """A 405: `methods` are those that the route has; where GET is answered, HEAD is too."""
    known = set(methods)
    if "GET" in known:
        known.add("HEAD")
    allowed = ", ".join(sorted(known))
    detail = f"Only {allowed} is answered here."
    return Problem("method.not_allowed", detail, headers=[(b"allow", allowed.encode())])


def duplicate_ref(first_id: int) -> FieldError:
    """What is said of a client_ref that another message has."""
    detail = (
        f"`client_ref` is that of the message {to_text('msg', first_id)} already; it is unique "
        "for 7 days."
    )
    return FieldError("/client_ref", "client_ref.duplicate", detail)


def retry_after(code: str, detail: str, seconds: int) -> Problem:
    """A refusal that ends by itself after whole `seconds`."""
    return Problem(code, detail, headers=[(b"retry-after", b"%d" % max(1, seconds))])


def document(problem: Problem, request_id: str) -> dict[str, object]:
    """The JSON object of RFC 9457 section 3, with our members beside it."""
    kind = kind_of(problem.code)
    return {
        "type": f"urn:smsgw:problem:{problem.code}",
        "title": kind.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": f"urn:smsgw:request:{request_id}",
        "code": problem.code,
        "action": kind.action,
        "request_id": request_id,
        "errors": [error._asdict() for error in problem.errors],
    }


def build_body(problem: Problem, request_id: str) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document(problem, request_id))
