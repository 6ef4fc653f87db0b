"""What one burst of reports amounts to, and what each of them is answered by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gateway.matches import Match
from sms.model import Carrier, EventRow, Message, Report
from store.read import Stored

# The rows that a report's answer waits for, or whether it may be answered without one.
Settled = list[EventRow] | bool
Pending = tuple[object, Settled, str]  # with the report's token and its end (receipts.ends)


class Answerer(Protocol):
    """How reports are answered: through the channel that brought them."""

    def __call__(self, channel: int, tokens: Sequence[object], *, accepted: bool) -> None:
        """Tell the carrier that these reports are kept (or to send them again later)."""
        ...


class Owners(NamedTuple):
    """Which of some reports are whose."""

    found: list[tuple[Report, Match]]  # as the store has it
    early: list[tuple[Report, Match]]  # as memory has it by now: it came before its answer
    gone: list[Report]  # of messages whose day has been dropped
    missing: list[Report]  # nobody's yet


class Desk(Protocol):
    """Where reports are judged, as far as the parked ones need it."""

    async def owners(self, reports: Sequence[Report]) -> Owners:
        """Memory once more, then the store. Raises Unavailable."""
        ...

    async def standing(self, ids: Sequence[int]) -> dict[int, tuple[Message, Stored]]:
        """These messages as they stand now, with their stored rows. Raises Unavailable."""
        ...

    def settle(
        self,
        batch: Batch,
        report: Report,
        match: Match,
        *,
        has_waited: bool = False,
        is_orphan: bool = False,
    ) -> tuple[Settled, str]:
        """Judge one report: what its answer waits for, and its end."""
        ...

    def finish(self, channel: int, batch: Batch, tokens: list[Pending]) -> None:
        """Commit the batch, then answer and count its reports."""
        ...

    def count(self, channel: int, end: str, number: int = 1) -> None:
        """Reports of a channel came to this end."""
        ...


@dataclass(slots=True)
class Batch:
    """What one burst of reports amounts to; mutable, one per burst."""

    unix: float
    rows: list[EventRow] = field(default_factory=list)
    sql: list[str] = field(default_factory=list)
    # transition 17, after the commit, if that row is stored then
    back: list[tuple[Message, EventRow]] = field(default_factory=list)
    # ids of messages that end here: until the commit a repeat is known by them, then by its row
    over: list[tuple[int, str]] = field(default_factory=list)
    # what was submitted in one burst, Unix seconds, waited equally long for its reports
    sent: dict[tuple[Carrier, float], int] = field(default_factory=dict)
    undelivered: dict[Carrier, int] = field(default_factory=dict)  # of those in `sent`


def is_kept(settled: Settled) -> bool:
    """Whether what a report says is durable, or needs no row."""
    if isinstance(settled, bool):
        return settled
    return all(row.is_stored for row in settled)
