"""Which channels can say a text whose vendor sends registered templates only, and how.

The text is looked at as it is: final, with the signature in front and the opt-out line behind,
which a vendor's template has not, or has as words of its own. Nothing of it is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from compliance.opt_out import line_for, without_line
from compliance.signature import unsigned
from sms.config import Channel, Snapshot
from sms.ids import to_text
from sms.model import Filled, Message, MessageClass
from sms.templates import Book, Look, Places


def takers(
    snapshot: Snapshot,
    channels: tuple[int, ...],
    tenant: int,
    message_class: MessageClass,
    country: int,
    text: str,
) -> tuple[int, ...]:
    """Those of the channels that can say the final text: any text, or as a template of theirs."""
    look = Look(snapshot.book, tenant, message_class)
    return tuple(
        number
        for number in channels
        if number not in snapshot.demanding
        or _twin(look, snapshot.channels[number], message_class, country, text)
    )


def filled_for(message: Message, channel: Channel, book: Book) -> Filled | None:
    """The message as a template of the channel; None where its text is none of them."""
    text = "".join(message.texts)
    look = Look(book, message.tenant, message.message_class)
    return _twin(look, channel, message.message_class, message.country, text)


def template_of(snapshot: Snapshot, message: Message) -> str | None:
    """The id of the template that a text is of, with or without twins; None where it is of none.

    A look through all that the tenant may use, up to 5 ms: for alarms, not for the path.
    """
    line = ""
    if message.message_class is MessageClass.MARKETING:
        line = line_for(None, message.country)
    places = Places()
    for body in _bodies("".join(message.texts), message.country, line):
        for one in snapshot.templates.values():
            is_for_it = one.tenant in (0, message.tenant)
            is_for_it = is_for_it and one.message_class is message.message_class
            if is_for_it and one.match(body, places) is not None:
                return to_text("tpl", one.id)
    return None


def _twin(
    look: Look, channel: Channel, message_class: MessageClass, country: int, text: str
) -> Filled | None:
    line = ""
    if message_class is MessageClass.MARKETING:
        line = line_for(channel.opt_out_line, country)
    for body in _bodies(text, country, line):
        found = look.twin(channel.id, body)
        if found is not None:
            return found
    return None


def _bodies(text: str, country: int, line: str) -> Iterator[str]:
    """What the text may be without what was put round it, each once.

    Without the line first: a template that ends with it is found by the whole text.
    """
    yield from dict.fromkeys(
        without_line(body, ending)
        for body in (unsigned(text, country), text)
        for ending in (line, "")
    )
