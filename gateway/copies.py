"""The second copy that an operator wants (`ask`): judged and made by the message's owner.

    :resend ─▶ audit row ─▶ whose is it? ─▶ its owner: judged, row ═COMMIT═▶ its lane

RELIABILITY section 5. What a kill cuts off, the command that stands makes good: asked again, the
owner or whoever took it over finds the row, or makes it.
"""

from __future__ import annotations

import asyncio

from gateway.evidence import Evidence
from gateway.ledger import Ledger
from gateway.lostanswer import CopyVerdict
from gateway.reports import fold_stored
from sms.model import Message, State
from store.read import Reader


class Copies:
    """Makes the second copies that operators want of what this process looks after."""

    def __init__(self, ledger: Ledger, evidence: Evidence, reader: Reader) -> None:
        self._ledger = ledger
        self._evidence = evidence
        self._reader = reader

    async def make(self, message_id: int) -> CopyVerdict:
        """The second copy, committed when this returns, or why there is none.

        Raises StoreUnavailable. Asked again it makes no other one.
        """
        message = self._at_hand(message_id)
        if message is None:
            record = (await self._reader.messages([message_id])).get(message_id)
            message = self._at_hand(message_id)  # it came meanwhile
            if message is None and record is not None:
                message = fold_stored(record)
                message.is_parked = message.state is State.UNCERTAIN
        if message is None:
            return CopyVerdict.ELSEWHERE
        committed = asyncio.Event()
        found = self._evidence.order(message, committed.set)
        if isinstance(found, CopyVerdict):
            return found
        await committed.wait()
        return CopyVerdict.MADE if found.is_stored else CopyVerdict.LOST

    def _at_hand(self, message_id: int) -> Message | None:
        return self._ledger.live.get(message_id) or self._evidence.waiting.get(message_id)
