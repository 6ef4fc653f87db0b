"""The submits of one attempt: a text's segments, or the whole text where the carrier cuts it.

Whatever leaves, a message is counted, journalled, answered and settled by its segments: what one
submit carried whole ends for all of them as that submit does.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.references import References
from gateway.routefit import on_air
from gateway.twins import filled_for
from sms import config
from sms.model import Message, Submit
from sms.segmentation import payload, usable_bits
from sms.templates import Book


def cut(
    message: Message, channel: config.Channel, references: References, unix: float, book: Book
) -> list[Submit]:
    """A submit for each segment, all with one reference; `book` has the registered texts."""
    texts = on_air(message.texts) if channel.adds_signature else message.texts
    total = len(texts)
    sender = channel.sender + (message.sender_ext or "")
    validity_s = max(1, int(message.valid_until - unix))
    reference = bits = 0
    if total > 1:
        reference = references.following(sender, message.number)
        bits = usable_bits(texts, message.encoding, channel.reference_bits)
    submits = []
    for index in range(total):
        data, has_udh = payload(texts, index, message.encoding, reference, bits)
        submits.append(
            Submit(
                message,
                index,
                total,
                message.number,
                sender,
                message.encoding,
                data,
                has_udh,
                validity_s,
                message.attempt,
                message.copy,
            )
        )
    if channel.demands_template:
        filled = filled_for(message, channel, book)
        for submit in submits:
            submit.filled = filled
    return submits


def joined(parts: Sequence[Submit], channel: config.Channel) -> Submit:
    """One submit for all segments of a text."""
    first = parts[0]
    message = first.message
    texts = on_air(message.texts) if channel.adds_signature else message.texts
    data, _ = payload(("".join(texts),), 0, message.encoding, 0)
    return Submit(
        message,
        0,
        first.total,
        first.number,
        first.sender,
        first.encoding,
        data,
        has_udh=False,
        validity_s=first.validity_s,
        attempt=first.attempt,
        copy=first.copy,
        parts=tuple(parts),
        filled=first.filled,
    )


def segments_of(submit: Submit) -> Sequence[Submit]:
    """Its segments, each with the moment at which it left; itself where it is one."""
    for part in submit.parts:
        part.sent_at = submit.sent_at
    return submit.parts or (submit,)
