"""What one submit came to: exactly one of five (HOUSE section 5).

An expected result is a value, never an exception. Every `match` over `Outcome` ends in
`assert_never`. Which carrier code is which says `sms.codes`, as data (RELIABILITY section 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why a carrier said no, in classes that decide what happens next."""

    NUMBER = "number"  # final: invalid, blocked or absent number
    CONTENT = "content"  # final: text, signature or template refused
    CHANNEL = "channel"  # system error: next channel after a backoff
    CONFIG = "config"  # account, sender, balance: next channel now, page
    NETWORK = "network"  # the number lives with another carrier: next channel now, nobody's fault
    UNKNOWN = "unknown"  # code nobody mapped: next channel once, then failed


@dataclass(slots=True)  # the outcomes are made per submit on the hot path, so not frozen
class Submitted:
    """The carrier took the segment and gave it an id."""

    carrier_id: str


@dataclass(slots=True)
class Rejected:
    """The carrier said no; `code` is its own word, `reason` our dotted one."""

    code: str
    cause: Cause
    reason: str


@dataclass(slots=True)
class Throttled:
    """Too fast, or its queue is full: not an attempt, put back first in line."""

    retry_after_s: float
    code: str


@dataclass(slots=True)
class NotSent:
    """Nothing left us: another channel may take it at once."""

    reason: str


@dataclass(slots=True)
class Uncertain:
    """Bytes left and no answer came: never resend at once.

    `carrier_id` is the id its report will name, where that is known without the answer (SGIP: our
    own sequence); then a report is the evidence.
    """

    reason: str
    carrier_id: str = ""


Outcome = Submitted | Rejected | Throttled | NotSent | Uncertain
