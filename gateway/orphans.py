"""Orphan matching: a receipt with an id that nobody knows, as evidence for a lost answer.

    unknown id, kept in `parked_reports` ─▶ what is open to its number, in every process
        exactly one, uncertain, on this channel, left within 120 s before ─▶ it is that one's
        none, or more than one, or one whose answer may yet come ─▶ looked at again (parked.py)

RELIABILITY section 5. A wrong guess would call a text delivered that is not, so whatever leaves a
doubt leaves the receipt an orphan. With its row the id is known, so that a repeat is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from gateway.matches import Match
from receipts.state import ATTEMPTS, Path
from sms.model import FINAL_STATES, EventRow, Message, Report, State
from sms.numbers import phone_of
from store.orphans import Candidate
from store.read import Stored

LOOK_S = 900.0  # receipts that came longer ago are not looked at for this any more
_CLOCKS_S = 2.0  # a carrier is not quicker than we are; two processes' clocks may differ so much
_CLOSED = FINAL_STATES | {State.SUBMITTED}


class CandidateStore(Protocol):
    """The store, as far as orphans need it."""

    async def candidates(self, numbers: Sequence[str]) -> list[Candidate]:
        """The open messages to these numbers."""
        ...


class Orphans:
    """Finds the message of a receipt by channel, number and time."""

    def __init__(
        self,
        store: CandidateStore,
        sends_whole: Callable[[int], bool],
        window_s: float = 120.0,
    ) -> None:
        """`sends_whole` says of a channel that its receipts are about whole texts."""
        self._store = store
        self._sends_whole = sends_whole
        self._window_s = window_s

    async def candidates(self, reports: Sequence[Report]) -> dict[str, list[int]]:
        """Ids of the open messages by number. Raises StoreUnavailable."""
        numbers = sorted({number for one in reports for number in numbers_of(one)})
        found: dict[str, list[int]] = {}
        for candidate in await self._store.candidates(numbers) if numbers else ():
            found.setdefault(candidate.number, []).append(candidate.id)
        return found

    def match(
        self,
        report: Report,
        heard_at: float,
        candidates: Mapping[str, Sequence[int]],
        messages: Mapping[int, tuple[Message, Stored]],
    ) -> Match | None:
        """The one message that it can be about; None while there is a doubt.

        `messages` are the candidates as they stand now, with their stored rows.
        """
        open_ones = _open_ones(report, candidates, messages)
        if any(message.state is not State.UNCERTAIN for message, _ in open_ones):
            return None  # its answer may yet come, and bring the id
        matches = self._matches(report, heard_at, open_ones)
        return matches[0] if len(matches) == 1 else None

    def is_near_one(
        self,
        report: Report,
        heard_at: float,
        candidates: Mapping[str, Sequence[int]],
        messages: Mapping[int, tuple[Message, Stored]],
    ) -> bool:
        """Whether it might be about a lost answer, however much in doubt: no stranger for sure."""
        open_ones = _open_ones(report, candidates, messages)
        return bool(self._matches(report, heard_at, open_ones))

    def _matches(
        self, report: Report, heard_at: float, open_ones: Iterable[tuple[Message, Stored]]
    ) -> list[Match]:
        return [
            match
            for message, record in open_ones
            if message.state is State.UNCERTAIN
            and (match := self._match_one(report, heard_at, message, record.rows)) is not None
        ]

    def _match_one(
        self, report: Report, heard_at: float, message: Message, rows: Sequence[EventRow]
    ) -> Match | None:
        known = {row.carrier_id for row in rows if row.channel == report.channel}
        if message.channel == report.channel:  # also what is not committed yet
            known.update(message.carrier_ids)
        if report.carrier_id in known:
            return None  # kept twice: it settled a segment already, and is not about the next one
        attempts = [row for row in rows if row.path in ATTEMPTS]
        lost = [
            (number, row)
            for number, row in enumerate(attempts, start=1)
            if row.path == Path.UNCERTAIN
            and row.channel == report.channel
            and row.carrier_id is None
            and self._is_near(message, row, heard_at)
        ]
        if len(lost) != 1:
            return None
        attempt, row = lost[0]
        segments = open_segments(message, row.copy)
        if not segments:
            return None
        if not self._sends_whole(report.channel):
            segments = segments[:1]
        return message, segments, row.copy, attempt

    def _is_near(self, message: Message, row: EventRow, heard_at: float) -> bool:
        """Whether the attempt left at most the window before.

        After a kill only that it left between accept and recovery is known.
        """
        first, last = message.created_at, row.at
        if len(row.times) >= 2:  # over a backup its detour stands behind them
            first = last = row.at - row.times[1] / 1000
        return first - _CLOCKS_S <= heard_at <= last + self._window_s


def _open_ones(
    report: Report,
    candidates: Mapping[str, Sequence[int]],
    messages: Mapping[int, tuple[Message, Stored]],
) -> list[tuple[Message, Stored]]:
    ids = {one for number in numbers_of(report) for one in candidates.get(number, ())}
    found = [messages[one] for one in sorted(ids) if one in messages]
    return [one for one in found if one[0].state not in _CLOSED]


def numbers_of(report: Report) -> tuple[str, ...]:
    """The number of a receipt as E.164 digits: carriers leave out the country's code, or not."""
    digits = report.number.lstrip("+")
    if not (digits.isascii() and digits.isdigit()):
        return ()
    return tuple({digits, phone_of(digits, is_mainland=True).lstrip("+")})


def open_segments(message: Message, copy: int) -> tuple[int, ...]:
    """The segments of a copy of whose end, and id, nothing is known."""
    size = message.segments
    if copy < message.copy:
        states = message.first_states
        return tuple(n for n in range(size) if n >= len(states) or states[n] not in _CLOSED)
    states, ids = message.segment_states, message.carrier_ids
    return tuple(
        n
        for n in range(size)
        if (n >= len(states) or states[n] not in _CLOSED) and (n >= len(ids) or ids[n] is None)
    )
