"""Receipts that carry our own word for an attempt: which attempt of which message they are about.

Vendors that echo `sms.attempts.reference` let a receipt find its message also when the answer to
the submit, and with it the carrier's id, was lost (RELIABILITY section 5). Whoever can push to us
can write any word, so it counts only where the stored rows say that this very attempt went to the
channel which brings it, and that the carrier may have it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.matches import Match
from receipts.state import ATTEMPTS, Path
from sms.attempts import parse_reference
from sms.model import EventRow, Message, Report, State

_OUT = frozenset({Path.SUBMITTED, Path.UNCERTAIN})  # attempts that a carrier may report about


def message_of(report: Report) -> int | None:
    """The message that a report names by our own word; None when it names none."""
    named = parse_reference(report.reference) if report.reference else None
    return None if named is None else named[0]


def match_waiting(report: Report, message: Message | None) -> Match | None:
    """The match of a report about the newest attempt of an uncertain message in memory."""
    named = parse_reference(report.reference)
    if named is None or message is None or message.state is not State.UNCERTAIN:
        return None
    if named != (message.id, message.attempt) or message.channel != report.channel:
        return None
    return message, tuple(range(message.segments)), message.copy, message.attempt


def match_stored(report: Report, message: Message, rows: Sequence[EventRow]) -> Match | None:
    """The match by the stored rows of the message; None when they do not bear the word out.

    So it is with an attempt whose answer is still open: its row comes, the report waits.
    """
    named = parse_reference(report.reference)
    if named is None or named[0] != message.id:
        return None
    attempt = named[1]
    ends = [row for row in rows if row.path in ATTEMPTS]
    if attempt > len(ends):
        return None
    end = ends[attempt - 1]
    if end.path not in _OUT or end.channel != report.channel:
        return None
    return message, tuple(range(message.segments)), end.copy, attempt


def segments_of(report: Report, match: Match, *, is_delivered: bool) -> tuple[int, ...]:
    """The segments that the report is about; () while others of the carrier's own are awaited.

    A carrier that reports each segment of a text under one id says which. Where it cut the text
    into another number of segments than we did, the first that failed, or the last delivered one,
    speaks for the text.
    """
    message, segments, _, _ = match
    if report.part is None:
        return segments
    place, total = report.part
    if total == len(message.texts):
        return (place - 1,) if place - 1 in segments else ()
    return () if is_delivered and place < total else segments
