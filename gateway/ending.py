"""The last row of messages that end without a carrier's word: expired, failed, rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.ledger import Ledger
from receipts.state import Path, path_to, settled
from sms.model import FINAL_STATES, EventRow, Message, State
from store.fragments import unpark_sql

# What a message that waits ends in, where what a carrier said before says more (RELIABILITY 6).
_NO_NEWS = frozenset({State.EXPIRED, State.FAILED})


class Ends:
    """Makes last rows; a message that has one already, or that was handed over, is left alone."""

    def __init__(self, ledger: Ledger, unix: Callable[[], float]) -> None:
        self._ledger = ledger
        self._unix = unix

    def reject(self, messages: Iterable[Message], reason: str) -> None:
        """Policy stopped them."""
        self.all(messages, Path.REJECTED, State.REJECTED, reason)

    def all(
        self, messages: Iterable[Message], path: Path, status: State, reason: str | None
    ) -> None:
        """End them in one commit."""
        rows: list[EventRow] = []
        parked: list[int] = []
        for message in messages:
            row = self._last_row(message, path, status, reason)
            if row is None:
                continue
            rows.append(row)
            if message.is_parked:
                message.is_parked = False
                parked.append(message.id)
        if rows:
            self._ledger.commit(rows, sql=unpark_sql(parked))

    def _last_row(
        self, message: Message, path: Path, status: State, reason: str | None
    ) -> EventRow | None:
        if message.state in FINAL_STATES or message.is_handed:
            return None
        code = None
        if message.attempt and message.reason and status in _NO_NEWS:
            reason, code = message.reason, message.carrier_code  # why it had to wait at all
        if message.duplicate_risk:  # a copy may be with a carrier: never expired, never failed
            end = settled(message)
            known = None if end is None else path_to(message, end)
            if end is not None and known is not None:  # the first copy has ended it
                path, status, reason = known, end, None
            else:
                path, status, reason = Path.UNKNOWN, State.UNKNOWN, "evidence.none"
            code = None
        return self._ledger.row(
            message, path, status, self._unix(), copy=message.copy, code=code, reason=reason
        )
