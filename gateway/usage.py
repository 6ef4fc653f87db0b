"""What rows move between the cells of usage: out of the old status and channel, into the new."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.ledger import ENDS
from receipts.state import ATTEMPTS
from sms.model import STATE_CODES, EventRow
from store.usage import Moves, move

_END_CODES = [None if end is None else STATE_CODES[end] for end in ENDS]
_ATTEMPTS = frozenset(int(path) for path in ATTEMPTS)


def usage_moves(rows: Sequence[EventRow]) -> Moves:
    """The moves of these rows together, for the commit that writes them.

    From the rows alone, not from where the live message stands: that may be further already. A
    row whose message is not at hand says nothing; every row of the flow has one.
    """
    moves: Moves = {}
    for row in rows:
        end, message, before = _END_CODES[row.path], row.message, row.counted_before
        if end is None or message is None or before is None:
            continue
        status, channel = STATE_CODES[before[0]], before[1]
        now = (row.channel or channel) if row.path in _ATTEMPTS else (channel or row.channel)
        if (status, channel) != (end, now):
            move(moves, message, status, channel, -1)
            move(moves, message, end, now, 1)
    return moves
