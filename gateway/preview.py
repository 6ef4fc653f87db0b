"""What a send would come to, and why: `admit` asked without the will to send.

Nothing is taken, stored or counted. What would be refused is told as `refusals`; what would be
changed or delayed – the hours of marketing, the opt-out line – as `notes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from compliance.opt_out import with_line
from compliance.policy import QUIET_HOURS
from compliance.signature import choose_brand, sign
from gateway.admit import MAX_CHARS, Cut, Refused, Rules, admit
from gateway.api.models import MAX_SEGMENTS, UNSET, SendRequest
from gateway.api.problems import FieldError
from gateway.api.templated import is_templated, resolve
from gateway.routes import in_turn
from gateway.views import rfc3339
from sms import gsm
from sms.config import Tenant
from sms.model import Encoding, Message, MessageClass
from sms.numbers import Number
from sms.segmentation import Segmentation, segment


@dataclass(slots=True)
class Preview:
    """What would become of one message; empty where nothing can be said."""

    encoding: Encoding | None = None
    texts: tuple[str, ...] = ()
    final_text: str | None = None
    forcing: tuple[str, ...] = ()  # the characters that keep it from being GSM-7
    channels: tuple[int, ...] = ()  # of its route
    message_class: MessageClass = MessageClass.TRANSACTIONAL
    send_at: float | None = None  # Unix seconds; None = at once
    refusals: list[FieldError] = field(default_factory=list)
    notes: list[FieldError] = field(default_factory=list)


def preview(entry: SendRequest, tenant: Tenant, rules: Rules, now: float) -> Preview:
    """Look at one message as `admit` does; `now` is Unix seconds."""
    asked = entry
    if is_templated(entry):
        entry = resolve(asked, tenant.id, rules.snapshot, [])
    found = Preview()
    if entry.message_class is not UNSET:
        found.message_class = entry.message_class
    number = None if entry.to is UNSET else rules.parse(entry.to)
    place = number if isinstance(number, Number) else None
    line, cut = "", Cut()
    if place is not None:
        where = (tenant.id, found.message_class, place.carrier, place.country)
        found.channels = rules.snapshot.channels_for(*where)
        line = rules.opt_out_line(*where)
        cut = rules.cut(*where)
    verdict = admit(asked, tenant, rules, now)
    if isinstance(verdict, Refused):
        found.refusals = verdict.errors
        country = 0 if place is None else place.country
        _compose(found, entry, tenant, country, line, cut)
    else:
        found.encoding, found.texts = verdict.encoding, verdict.texts
        found.final_text = "".join(verdict.texts)
        found.send_at = verdict.send_at
        found.notes += _notes_of(verdict)
    if found.final_text is not None and found.encoding is Encoding.UCS2:
        found.forcing = gsm.outside(found.final_text)
    if place is not None and found.final_text is not None:
        found.channels = in_turn(rules.snapshot, where, place.digits, found.final_text)
    if line and found.final_text is not None:
        detail = "The opt-out line of the channel stands behind the text and is counted."
        found.notes.append(FieldError("/text", "content.opt_out_line", detail))
    return found


def _compose(
    found: Preview,
    entry: SendRequest,
    tenant: Tenant,
    country: int,
    line: str,
    cut: Cut,
) -> None:
    """The text of a refused message as far as it can be told; `country` 0 = not known."""
    text = entry.text
    if text is UNSET or not text.strip():
        return
    given = None if entry.signature is UNSET else entry.signature
    brand, _ = choose_brand(given, tenant.signatures, country)
    final = sign(with_line(text, line), brand, country)
    if len(final) > MAX_CHARS:
        return
    wanted = "ucs2" if cut.ucs2_only or entry.encoding == "ucs2" else "auto"
    parts = segment(
        final,
        wanted,
        smart=entry.smart_encoding is True,
        max_segments=MAX_SEGMENTS,
        is_wide=cut.has_wide_reference,
    )
    if isinstance(parts, Segmentation):
        found.encoding, found.texts = parts.encoding, parts.texts
        final = "".join(parts.texts)
    found.final_text = final


def _notes_of(message: Message) -> Sequence[FieldError]:
    """Why it would wait, and whether that is too long."""
    send_at = message.send_at
    if send_at is None or message.reason != QUIET_HOURS:
        return []
    detail = (
        f"Outside the hours of class {message.message_class} in this country: it would be "
        f"scheduled until {rfc3339(send_at)}."
    )
    notes = [FieldError("/class", QUIET_HOURS, detail)]
    if send_at >= message.valid_until:
        detail = (
            f"Its validity ends at {rfc3339(message.valid_until)}, before its hours begin: it "
            "would be scheduled and then expire; raise `valid_for_s`."
        )
        notes.append(FieldError("/valid_for_s", "validity.expired", detail))
    return notes
