"""How a message ends of which nothing more is heard (RELIABILITY section 2, row 18).

What each segment is known to have come to counts, and a silent one counts as `unknown`:

    nothing known, or some undelivered and the others silent ─▶ unknown
    some delivered, the others silent ─────────────────────────▶ partially_delivered

The row that says so is about the whole message and leaves its segments as they are: a receipt
that comes later still finds them open, so that the one correction (19) waits until it is whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from receipts.state import derive, derive_copies
from sms.model import FINAL_STATES, Message, State

NO_EVIDENCE = "evidence.none"  # the reason of such an end


def end_at_deadline(message: Message) -> State:
    """`unknown` or `partially_delivered`; `delivered` where a copy of two has arrived whole."""
    newest = _closed(message.segment_states, message.segments)
    if message.copy:
        end = derive_copies(_closed(message.first_states, message.segments), newest)
    else:
        end = derive(newest)
    return State.UNKNOWN if end is None else end


def _closed(states: Sequence[State], size: int) -> list[State]:
    """The states of one copy, with `unknown` for what has no end."""
    known = [one if one in FINAL_STATES else State.UNKNOWN for one in states]
    return known + [State.UNKNOWN] * (size - len(known))
