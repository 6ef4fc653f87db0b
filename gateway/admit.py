"""Whether a message may be taken: fields, number, content, signature, route, tokens.

    entry ─▶ admit ─▶ Message (not yet accepted) ─▶ charge ─▶ the acceptor
                   └▶ Refused: every wrong field, each with pointer, code and remedy

Pure of I/O: it reads the configuration snapshot and the clock value it is given. `admit` looks at
one message and takes nothing; `charge` takes the tokens of a whole request, so that a batch fits
as a whole or not at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import phonenumbers

from compliance.opt_out import line_for, with_line
from compliance.policy import QUIET_HOURS, SendingPolicy
from compliance.signature import MAINLAND, choose_brand, has_brackets, sign
from compliance.suppressions import BLOCKED, INVALID, OPTED_OUT
from gateway.api.models import (
    DEFAULT_SEGMENTS,
    MAX_CLIENT_REF,
    MAX_METADATA_BYTES,
    MAX_SEGMENTS,
    MAX_VALIDITY_S,
    MIN_VALIDITY_S,
    UNSET,
    SendRequest,
    metadata_size,
)
from gateway.api.problems import FieldError, Problem, of_fields, retry_after
from gateway.api.templated import find, moved, resolve
from gateway.twins import takers
from sms.config import Snapshot, Tenant
from sms.model import Carrier, Encoding, Message, MessageClass, State
from sms.numbers import BadNumber, Number, parse_number
from sms.portability import Portability
from sms.segmentation import NotGsm7, Segmentation, TooLong, segment
from telemetry.failpoints import failpoints

if TYPE_CHECKING:
    from gateway.api.port import LimiterPort, TakenPort

DEFAULT_VALIDITY_S = {
    MessageClass.OTP: 300,
    MessageClass.TRANSACTIONAL: 36_000,
    MessageClass.MARKETING: 86_400,
}
_ENCODINGS: dict[str, Encoding | str] = {
    "auto": "auto",
    "gsm7": Encoding.GSM7,
    "ucs2": Encoding.UCS2,
}
_SENDER_EXT = re.compile(r"[0-9]{1,12}")
MAX_AHEAD_S = 35 * 86_400
MAX_PAST_S = 60
# RFC 3339; what is no day or hour `fromisoformat` finds out.
MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_MARKETING = MessageClass.MARKETING
_NO_SUCH_NUMBER = (
    "`to`: no number of that country looks like this; check its digits and how many they are."
)
# A toll-free or landline number may take texts; these never do, and premium ones cost the sender.
_KINDS_WITHOUT_TEXTS = {
    phonenumbers.PhoneNumberType.PREMIUM_RATE: "a premium-rate number",
    phonenumbers.PhoneNumberType.SHARED_COST: "a shared-cost number",
    phonenumbers.PhoneNumberType.VOICEMAIL: "a voicemail access",
    phonenumbers.PhoneNumberType.PAGER: "a pager",
}
_NO_TEXTS = {
    kind: f"`to`: this is {what} of that country; send to a mobile number."
    for kind, what in _KINDS_WITHOUT_TEXTS.items()
}
_NEVER_GSM7 = FieldError(
    "/encoding",
    "content.not_gsm7",
    "`encoding` gsm7 cannot go to +86: a mainland text carries its signature 【…】, which is not "
    "in GSM-7; leave `encoding` out.",
)
_NO_GSM7 = FieldError(
    "/encoding",
    "content.not_gsm7",
    "`encoding` gsm7 cannot go to this number: a channel on the way carries UCS-2 only; leave "
    "`encoding` out.",
)
NO_TEXT = FieldError(
    "/text", "field.missing", "`text` is missing; give the body, or a `template_id`."
)
_NO_TEMPLATE = FieldError(
    "/text",
    "content.no_template",
    "Every channel on the way sends registered templates only, and the text is none of the "
    "tenant's templates of this class; send a `template_id`, or ask the operator to register it.",
)
_LIMITS = {
    "tenant": "The tenant's limit",
    "day": "The tenant's quota of segments per day",
    "month": "The tenant's quota of segments per month",
}
MAX_CHARS = MAX_SEGMENTS * 153  # nothing longer fits, whatever the encoding


@dataclass(slots=True)
class Refused:
    """All that is wrong with one message; never empty."""

    errors: list[FieldError]


class Cut(NamedTuple):
    """How the channels of a route want a text cut; the same for each that may take it."""

    ucs2_only: bool = False  # one carries no GSM-7
    has_wide_reference: bool = False  # each segment has room for a 16-bit reference


_USUAL_CUT = Cut()


class Way(IntEnum):
    """What the channels of a route take, all together."""

    NONE = 0
    ANY_TEXT = 1
    TEMPLATES = 2  # each sends registered templates only


class Rules:
    """What `admit` asks of one configuration snapshot, with its look-ups remembered."""

    __slots__ = ("_cuts", "_lines", "_ways", "parse", "policy", "snapshot")

    def __init__(
        self,
        snapshot: Snapshot,
        policy: SendingPolicy | None = None,
        ported: Portability | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.policy = SendingPolicy() if policy is None else policy
        self.parse = parse_number if ported is None else ported.parse
        self._ways: dict[tuple[int, MessageClass, Carrier, int], Way] = {}
        self._lines: dict[tuple[int, MessageClass, Carrier, int], str] = {}
        self._cuts: dict[tuple[int, MessageClass, Carrier, int], Cut] = {}

    def no_way(
        self, tenant: int, message_class: MessageClass, number: Number, texts: tuple[str, ...]
    ) -> FieldError | None:
        """Why no channel can take such a message; remembered by classes and networks."""
        key = (tenant, message_class, number.carrier, number.country)
        way = self._ways.get(key)
        if way is None:
            way = self._ways[key] = self._way(*key)
        if way is Way.ANY_TEXT or (way is Way.TEMPLATES and self.takers(*key, "".join(texts))):
            return None
        return _no_route(message_class, number) if way is Way.NONE else _NO_TEMPLATE

    def _way(self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int) -> Way:
        channels = self.snapshot.channels_for(tenant, message_class, carrier, country)
        if not channels:
            return Way.NONE
        return Way.TEMPLATES if self.snapshot.demanding.issuperset(channels) else Way.ANY_TEXT

    def cut(self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int) -> Cut:
        """How such a text is cut, whichever channel of its route takes it."""
        key = (tenant, message_class, carrier, country)
        known = self._cuts.get(key)
        if known is None:
            every = self.snapshot.channels
            able = [every[one] for one in self.snapshot.channels_for(*key) if one in every]
            known = self._cuts[key] = Cut(
                any(Encoding.GSM7 not in channel.encodings for channel in able),
                any(channel.reference_bits == 16 for channel in able),
            )
        return known

    def takers(
        self,
        tenant: int,
        message_class: MessageClass,
        carrier: Carrier,
        country: int,
        text: str,
    ) -> tuple[int, ...]:
        """The channels of such a message's route that take the final text, in order."""
        snapshot = self.snapshot
        channels = snapshot.channels_for(tenant, message_class, carrier, country)
        if snapshot.demanding.isdisjoint(channels):
            return channels
        return takers(snapshot, channels, tenant, message_class, country, text)

    def opt_out_line(
        self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int
    ) -> str:
        """What stands behind such a text, "" for nothing; the same on every channel of a route."""
        key = (tenant, message_class, carrier, country)
        known = self._lines.get(key)
        if known is None:
            known = self._lines[key] = self._line_of(*key)
        return known

    def _line_of(
        self, tenant: int, message_class: MessageClass, carrier: Carrier, country: int
    ) -> str:
        if message_class is not _MARKETING:
            return ""
        for number in self.snapshot.channels_for(tenant, message_class, carrier, country):
            channel = self.snapshot.channels.get(number)
            if channel is not None:
                return line_for(channel.opt_out_line, country)
        return ""


def admit(entry: SendRequest, tenant: Tenant, rules: Rules, now: float) -> Message | Refused:
    """Check one message and build it; `now` is Unix seconds and becomes its `created_at`.

    The message has no id yet and no tokens were taken for it.
    """
    if entry.template_id is not UNSET or entry.variables is not UNSET:
        return _admit_templated(entry, tenant, rules, now)
    errors: list[FieldError] = []
    message_class = entry.message_class
    if message_class is UNSET:
        message_class = MessageClass.TRANSACTIONAL
    number = _recipient(entry, tenant, rules.parse, errors)
    _check_options(entry, errors)
    asked_for = now if entry.send_at is UNSET else _send_at(entry.send_at, now, errors)
    is_watched = message_class in rules.policy.watched
    line = ""
    cut, country = _USUAL_CUT, 0
    if number is not None:
        country = number.country
        cut = rules.cut(tenant.id, message_class, number.carrier, country)
    if is_watched and number is not None:
        refusal = _suppressed(number, tenant, message_class, rules.policy)
        if refusal is not None:
            errors.append(refusal)
        where = (tenant.id, message_class, number.carrier, number.country)
        line = rules.opt_out_line(*where)
    parts = _content(entry, tenant, country, errors, line, cut)
    if number is None or parts is None or errors:
        return Refused(errors)
    refusal = rules.no_way(tenant.id, message_class, number, parts.texts)
    if refusal is not None:
        return Refused([refusal])
    valid_for_s = entry.valid_for_s
    if valid_for_s is UNSET:
        valid_for_s = DEFAULT_VALIDITY_S[message_class]
    message = Message(
        0,
        tenant.id,
        message_class,
        number.digits,
        number.carrier,
        number.country,
        parts.encoding,
        parts.texts,
        asked_for + valid_for_s,
        now,
        None if entry.sender_ext is UNSET else entry.sender_ext,
        None if entry.client_ref is UNSET else entry.client_ref,
        None if entry.metadata is UNSET else entry.metadata,
        None if entry.on_uncertain is UNSET else entry.on_uncertain,
    )
    if asked_for > now or is_watched:
        _schedule(message, asked_for, now, rules.policy)
    return message


def _admit_templated(
    entry: SendRequest, tenant: Tenant, rules: Rules, now: float
) -> Message | Refused:
    """As the text that its template makes; what is wrong with that is said of `variables`."""
    errors: list[FieldError] = []
    verdict = admit(resolve(entry, tenant.id, rules.snapshot, errors), tenant, rules, now)
    if isinstance(verdict, Refused):
        others = [error for error in verdict.errors if not errors or error is not NO_TEXT]
        return Refused(errors + moved(others))
    return Refused(errors) if errors else verdict


def _schedule(message: Message, asked_for: float, now: float, policy: SendingPolicy) -> None:
    """Let it begin `scheduled` when its moment, or its class's hours, are still to come."""
    soonest = max(asked_for, now)
    goes_at = policy.goes_at(message.message_class, message.country, soonest)
    if goes_at <= now:
        return
    message.send_at = goes_at
    message.state = State.SCHEDULED
    message.counted = State.SCHEDULED, 0  # in usage, from its accept on
    message.sequence = 2  # its row `scheduled` commits with it
    if goes_at > soonest:
        message.reason = QUIET_HOURS


def check_defaults(entry: SendRequest, tenant: Tenant, rules: Rules) -> list[FieldError]:
    """What is wrong with a batch's defaults whatever the messages say; pointers as in `admit`."""
    errors: list[FieldError] = []
    if entry.template_id is not UNSET:
        find(entry, tenant.id, rules.snapshot, errors)
    if entry.to is not UNSET:
        _recipient(entry, tenant, parse_number, errors)
    if entry.text is not UNSET and not entry.text.strip():
        errors.append(_empty(entry.text))
    if entry.signature is not UNSET and entry.signature not in tenant.signatures:
        errors.append(_signature_error("signature.unknown"))
    _check_options(entry, errors)
    if entry.send_at is not UNSET and parse_moment(entry.send_at) is None:
        errors.append(_NO_MOMENT)
    return errors


async def charge(
    limiter: LimiterPort,
    tenant: Tenant,
    wanted: Mapping[MessageClass, int],
    pointer: str,
    now: float,
) -> tuple[TakenPort, Problem | None]:
    """Take a request's tokens, all or none; `wanted` is segments by class, `now` monotonic.

    It may wait for one call to Valkey (50 ms at most) or PostgreSQL, shared with other requests.
    Raises StoreUnavailable when a quota cannot be known.
    """
    taken = await limiter.ask(tenant.id, wanted, now)
    if not taken.retry_after_s:
        if failpoints.is_armed:
            failpoints.hit("admit.charged")
        return taken, None
    whose = _LIMITS.get(taken.scope, f"The tenant's limit for class {taken.scope}")
    if taken.retry_after_s == math.inf:
        detail = (
            f"The request has more segments than this limit ever holds. {whose}: at most "
            f"{taken.most} in one request."
        )
        return taken, of_fields([FieldError(pointer, "quota.message_too_large", detail)])
    wait_s = max(1, math.ceil(taken.retry_after_s))
    if taken.resets:
        code = f"quota.segments_per_{taken.scope}"
        detail = f"{whose} ({taken.most}) is used up; it begins anew at {taken.resets}."
        return taken, retry_after(code, detail, wait_s)
    detail = f"{whose} of segments per second is used up; try again in {wait_s} s."
    return taken, retry_after("quota.segments_per_second", detail, wait_s)


def _recipient(
    entry: SendRequest,
    tenant: Tenant,
    parse: Callable[[str], Number | BadNumber],
    errors: list[FieldError],
) -> Number | None:
    if entry.to is UNSET:
        errors.append(FieldError("/to", "field.missing", "`to` is missing; give the number."))
        return None
    number = parse(entry.to)
    if isinstance(number, BadNumber):
        errors.append(FieldError("/to", number.code, f"`to`: {number.detail}."))
        return None
    refused = None if number.country == MAINLAND else _foreign_refusal(number.digits)
    if refused is not None:
        errors.append(FieldError("/to", "recipient.invalid", refused))
        return None
    if number.country not in tenant.countries:
        errors.append(
            FieldError(
                "/to",
                "recipient.country_not_allowed",
                f"The number is read as one of the country with the calling code "
                f"{number.country}, and the tenant may not send there; correct the number, or ask "
                f"the operator to add {number.country} to the tenant's `countries`.",
            )
        )
        return None
    return number


def _foreign_refusal(digits: str) -> str | None:
    """Why a number outside the mainland is refused, remembered by all but 4 last digits."""
    return _block_refusal(digits[:-4], len(digits))


@lru_cache(maxsize=65_536)
def _block_refusal(prefix: str, length: int) -> str | None:
    # The numbers of one block of 10,000 differ in nothing that numbering plans decide by, with
    # exceptions too few to spend 15 µs a message on. Whether the block is in service is the
    # carrier's to say: refusing by an old table would be worse than asking.
    try:
        parsed = phonenumbers.parse("+" + prefix.ljust(length, "1"))
    except phonenumbers.NumberParseException:
        return _NO_SUCH_NUMBER
    if not phonenumbers.is_possible_number(parsed) or not _is_in_plan(parsed):
        return _NO_SUCH_NUMBER
    return _NO_TEXTS.get(phonenumbers.number_type(parsed))


def _is_in_plan(parsed: phonenumbers.PhoneNumber) -> bool:
    national = phonenumbers.national_significant_number(parsed)
    regions = phonenumbers.region_codes_for_country_code(parsed.country_code or 0)
    for region in regions:
        plan = phonenumbers.PhoneMetadata.metadata_for_region(region, None)
        pattern = None
        if plan is not None and plan.general_desc is not None:
            pattern = plan.general_desc.national_number_pattern
        if pattern is None or re.fullmatch(pattern, national):
            return True
    return False


def _check_options(entry: SendRequest, errors: list[FieldError]) -> None:
    ext = entry.sender_ext
    if ext is not UNSET and _SENDER_EXT.fullmatch(ext) is None:
        errors.append(_value("sender_ext", "must be 1 to 12 digits"))
    ref = entry.client_ref
    if ref is not UNSET and not 1 <= len(ref) <= MAX_CLIENT_REF:
        errors.append(_value("client_ref", f"must be 1 to {MAX_CLIENT_REF} characters"))
    valid = entry.valid_for_s
    if valid is not UNSET and not MIN_VALIDITY_S <= valid <= MAX_VALIDITY_S:
        errors.append(_value("valid_for_s", f"must be {MIN_VALIDITY_S} to {MAX_VALIDITY_S}"))
    limit = entry.max_segments
    if limit is not UNSET and not 1 <= limit <= MAX_SEGMENTS:
        errors.append(_value("max_segments", f"must be 1 to {MAX_SEGMENTS}"))
    metadata = entry.metadata
    if metadata is not UNSET and metadata_size(metadata) > MAX_METADATA_BYTES:
        errors.append(
            FieldError(
                "/metadata",
                "metadata.too_large",
                f"`metadata` is longer than {MAX_METADATA_BYTES} bytes as JSON; send less.",
            )
        )


def parse_moment(text: str) -> float | None:
    """A time as RFC 3339 has it, as Unix seconds in whole milliseconds; None when it is none."""
    if MOMENT.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError):
        return None
    return int(moment * 1000 + 0.5) / 1000


def _send_at(text: str, now: float, errors: list[FieldError]) -> float:
    """When the tenant wants it sent; `now` with an error added for what cannot be."""
    moment = parse_moment(text)
    if moment is None:
        errors.append(_NO_MOMENT)
    elif moment < now - MAX_PAST_S:
        what = f"is more than {MAX_PAST_S} s past; leave it out to send at once"
        errors.append(_value("send_at", what))
    elif moment > now + MAX_AHEAD_S:
        what = f"is more than {MAX_AHEAD_S // 86_400} days ahead; choose an earlier time"
        errors.append(_value("send_at", what))
    else:
        return moment
    return now


# code of a refusal → whose word it is, and what to do
_HELD: Final = {
    OPTED_OUT: (
        "on the tenant's suppression list",
        "remove it from your list of recipients, or delete the entry if it is wrong",
    ),
    INVALID: (
        "on the tenant's suppression list, because a carrier says that it does not exist,",
        "remove it from your list of recipients, or delete the entry if it is wrong",
    ),
    BLOCKED: (
        "blocked by a carrier or for every tenant of this gateway",
        "remove it from your list of recipients, or delete the entry if it is on your list",
    ),
}


def _suppressed(
    number: Number, tenant: Tenant, message_class: MessageClass, policy: SendingPolicy
) -> FieldError | None:
    code = policy.refusal(tenant.id, message_class, number.digits)
    if code is None:
        return None
    whose, remedy = _HELD[code]
    detail = f"`to`: the number is {whose} for class {message_class}; {remedy}."
    return FieldError("/to", code, detail)


def _content(
    entry: SendRequest,
    tenant: Tenant,
    country: int,
    errors: list[FieldError],
    line: str,
    cut: Cut,
) -> Segmentation | None:
    """The segments, signature and opt-out line included; None with errors added.

    `country` 0 = not known.
    """
    text = entry.text
    if text is UNSET:
        errors.append(NO_TEXT)
        return None
    given = None if entry.signature is UNSET else entry.signature
    brand, code = choose_brand(given, tenant.signatures, country)
    if code is not None:
        errors.append(_signature_error(code))
    if not text or text.isspace():
        errors.append(_empty(text))
        return None
    if country == MAINLAND and entry.encoding == "gsm7":
        errors.append(_NEVER_GSM7)
        return None
    if country == MAINLAND and has_brackets(text):
        errors.append(
            FieldError(
                "/text",
                "content.signature_in_text",
                "`text` holds 【 or 】; remove them and name the brand in `signature`: we put it "
                "in front.",
            )
        )
        return None
    if line:
        text = with_line(text, line)
    if cut.ucs2_only and entry.encoding == "gsm7":
        errors.append(_NO_GSM7)
        return None
    return _segments(entry, sign(text, brand, country), errors, cut)


def _segments(
    entry: SendRequest, final_text: str, errors: list[FieldError], cut: Cut
) -> Segmentation | None:
    limit = entry.max_segments
    if limit is UNSET or not 1 <= limit <= MAX_SEGMENTS:
        limit = DEFAULT_SEGMENTS
    if len(final_text) > MAX_CHARS:
        errors.append(_too_long(f"more than {MAX_SEGMENTS}", limit))
        return None
    encoding = "auto" if entry.encoding is UNSET else _ENCODINGS[entry.encoding]
    if cut.ucs2_only:
        encoding = "ucs2"
    parts = segment(
        final_text,
        encoding,
        smart=entry.smart_encoding is True,
        max_segments=limit,
        is_wide=cut.has_wide_reference,
    )
    if failpoints.is_armed:
        failpoints.hit("segment.done")
    if isinstance(parts, TooLong):
        errors.append(_too_long(str(parts.segments), limit))
        return None
    if isinstance(parts, NotGsm7):
        errors.append(_not_gsm7(final_text, parts))
        return None
    return parts


def _value(name: str, what: str) -> FieldError:
    return FieldError(f"/{name}", "field.value", f"`{name}` {what}.")


_NO_MOMENT = _value(
    "send_at", "must be a time with its zone as RFC 3339 has it, such as 2026-11-11T10:00:00+08:00"
)


def _empty(text: str) -> FieldError:
    what = "holds only white space" if text else "is empty"
    detail = f"`text` {what}; send at least one character that can be seen."
    return FieldError("/text", "content.empty", detail)


def _too_long(count: str, limit: int) -> FieldError:
    remedy = "shorten it"
    if count.isdigit() and int(count) <= MAX_SEGMENTS:
        remedy = f"shorten it, or raise max_segments to {count}"
    return FieldError(
        "/text",
        "content.too_long",
        f"The text takes {count} segments and max_segments is {limit}; {remedy}.",
    )


def _not_gsm7(final_text: str, found: NotGsm7) -> FieldError:
    # The place and not the character: an answer never repeats what it was sent.
    place = min(final_text.index(char) for char in found.characters) + 1
    count = len(found.characters)
    what = "One character is" if count == 1 else f"{count} different characters are"
    which = "it stands" if count == 1 else "the first stands"
    return FieldError(
        "/text",
        "content.not_gsm7",
        f"{what} not in GSM-7, {which} at position {place} of the text with its signature; "
        f"replace {'it' if count == 1 else 'them'}, or use encoding auto or ucs2.",
    )


def _signature_error(code: str) -> FieldError:
    if code == "signature.required":
        detail = (
            "A text to +86 needs a signature and none is filed for the tenant; ask the operator "
            "to add one to `signatures`."
        )
    else:
        detail = (
            "`signature` is not filed for the tenant; use one that is, or ask the operator to "
            "add it to `signatures`."
        )
    return FieldError("/signature", code, detail)


def _no_route(message_class: MessageClass, number: Number) -> FieldError:
    return FieldError(
        "/to",
        "route.missing",
        f"No route leads to carrier {number.carrier} in country {number.country} for class "
        f"{message_class}; ask the operator to add one.",
    )
