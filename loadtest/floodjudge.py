"""What a flood of reports must not do, by its figures: lose one, tell one twice, starve sends.

Speed is told, not judged: what rate a machine reaches is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from loadtest.measure import Spread

# A flood may take what is left of the machine, not the way of what is being sent. p99 from accept
# to submit; nothing may wait longer than the second bound, nor for its 202.
P99_MS: Final = {"otp": 250.0, "transactional": 500.0}
LONGEST_MS: Final = 2000.0
OTHERS: Final = (0.4, 0.6)  # share of the reports that come to a process that did not submit
FEW: Final = 1000  # reports below which a share says nothing
ZEROS: Final = (
    "illegal_transition_total",
    "duplicate_copies_total",
    "stray_messages",
    "conservation_residual",
    "quarantined_total",
)


@dataclass(frozen=True, slots=True)
class Stored:
    """What stands in the store at the end."""

    messages: int
    submitted: int  # messages with a row that says so
    delivered: int  # messages with a final row
    delivered_rows: int  # those rows: each report counted once
    elsewhere: int  # of them, committed by a process that did not accept the message
    parked_reports: int


@dataclass(frozen=True, slots=True)
class Sends:
    """What was sent of one class, beside the flood or before it; milliseconds."""

    accepted: int
    refused: int  # or without an answer
    left: int  # reached the carrier
    answer: Spread  # until the 202
    wait: Spread  # from accept to submit


@dataclass(slots=True)
class Seen:
    """All that is judged."""

    accepted: int  # messages with a 202, before the flood, beside it and of it
    stored: Stored
    at_sink: int  # messages whose final event the tenant got
    told_twice: int  # events that came more than once
    offered: int
    answered: int
    quiet: Mapping[str, Sends] = field(default_factory=dict)
    flood: Mapping[str, Sends] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def problems(seen: Seen) -> list[str]:
    """Everything that is wrong, a line each."""
    found = [f"{count:,} {what}" for count, what in _counts(seen) if count]
    found += _shares(seen)
    for when, sends in (("before", seen.quiet), ("beside", seen.flood)):
        for name, sent in sends.items():
            found += [f"{name} {when} the flood: {line}" for line in _sends(sent)]
    for name, sent in seen.flood.items():
        found += [f"{name} was starved: {line}" for line in _starved(name, sent)]
    for name in ZEROS:
        count = sum(v for k, v in seen.metrics.items() if k.partition("{")[0] == name)
        if count:
            found.append(f"{count:.0f} in {name}")
    return found


def _counts(seen: Seen) -> list[tuple[int, str]]:
    stored = seen.stored
    return [
        (seen.accepted - stored.messages, "messages accepted and not stored, or the other way"),
        (stored.messages - stored.submitted, "messages that were never submitted"),
        (stored.messages - stored.delivered, "reports lost: their messages are not final"),
        (stored.delivered_rows - stored.delivered, "reports that are stored more than once"),
        (stored.parked_reports, "reports that nobody found the message of"),
        (stored.messages - seen.at_sink, "messages whose end the tenant did not hear of"),
        (seen.told_twice, "events that the tenant got twice"),
        (seen.offered - seen.answered, "reports offered and not answered"),
    ]


def _shares(seen: Seen) -> list[str]:
    stored = seen.stored
    if stored.delivered_rows < FEW:
        return []
    share, (low, high) = stored.elsewhere / stored.delivered_rows, OTHERS
    if low <= share <= high:
        return []
    return [f"{share:.2f} of the reports came to a process that did not submit, not half of them"]


def _sends(sent: Sends) -> list[str]:
    found = []
    if sent.refused:
        found.append(f"{sent.refused:,} were refused or not answered")
    if sent.left < sent.accepted:
        found.append(f"{sent.accepted - sent.left:,} were accepted and never left")
    return found


def _starved(name: str, sent: Sends) -> list[str]:
    bounds = (
        ("p99 from accept to submit", sent.wait.p99, P99_MS[name]),
        ("longest from accept to submit", sent.wait.maximum, LONGEST_MS),
        ("longest until the 202", sent.answer.maximum, LONGEST_MS),
    )
    return [f"{what} {was} ms (allowed {most})" for what, was, most in bounds if was > most]
