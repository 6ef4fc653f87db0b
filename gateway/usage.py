"""What rows move between the cells of usage: out of the old status and channel, into the new."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.ledger import ENDS
from receipts.state import ATTEMPTS
from sms.model import STATE_CODES, EventRow, State
from store.usage import Kind, Moves, kind_of, move

_END_CODES = [None if end is None else STATE_CODES[end] for end in ENDS]
_ATTEMPTS = frozenset(int(path) for path in ATTEMPTS)


def usage_moves(rows: Sequence[EventRow]) -> Moves:
    """The moves of these rows together, for the commit that writes them.

    From the rows alone, not from where the live message stands: that may be further already. A
    row whose message is not at hand says nothing; every row of the flow has one.
    """
    # Alike rows first: a flush has hundreds of rows and a few kinds of them (0.5 µs a row).
    alike: dict[tuple[Kind, tuple[State, int], int, int], int] = {}
    for row in rows:
        message, before = row.message, row.counted_before
        if row.path and message is not None and before is not None:
            key = kind_of(message), before, row.path, row.channel
            alike[key] = alike.get(key, 0) + 1
    moves: Moves = {}
    for (kind, (state, channel), path, tried), count in alike.items():
        end = _END_CODES[path]
        now = (tried or channel) if path in _ATTEMPTS else (channel or tried)
        if end is not None:
            move(moves, kind, STATE_CODES[state], channel, -count)
            move(moves, kind, end, now, count)
    return moves
