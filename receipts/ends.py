"""What becomes of a carrier's report: every one that came ends in exactly one of these ways.

    came ─▶ whose? ──known──▶ news? ──yes──▶ matched, early, adopted, resent, corrected, late
             │                  └─no──▶ intermediate, duplicate, contradictory, superseded
             │ nobody's yet: kept and looked up again for 72 h
             └────────────▶ orphan, foreign            (docs/receipts.md says what each asks of you)

A message's state is moved by the first line only, and after its end by `corrected` alone, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sms.model import FINAL_STATES, Message, State

# The report made a row, or said that none is due yet.
MATCHED: Final = "matched"  # the end of a segment of a message that was open
EARLY: Final = "early"  # the same, but it came before the answer to its submit was known
ADOPTED: Final = "adopted"  # an unknown id that can only be about one lost answer (row 13)
RESENT: Final = "resent"  # a temporary fault: the message goes out once more (row 17)
CORRECTED: Final = "corrected"  # after `unknown`: the one correction (row 19)
LATE: Final = "late"  # a segment's first word, after the message had its end: nothing moves
INTERMEDIATE: Final = "intermediate"  # no end: the carrier will report again
# The report says nothing new, or nothing that may still change anything.
DUPLICATE: Final = "duplicate"  # the segment has ended so already
CONTRADICTORY: Final = "contradictory"  # the segment has ended otherwise: the first word stands
SUPERSEDED: Final = "superseded"  # about an attempt that a newer one has replaced
ILLEGAL: Final = "illegal"  # the table of states refuses it: a fault of ours, paged elsewhere
# Nobody's.
GONE: Final = "gone"  # its message was ours, and its day has been dropped
ORPHAN: Final = "orphan"  # unknown for 72 h, and might have been about a lost answer of ours
FOREIGN: Final = "foreign"  # unknown for 72 h: never ours
UNREADABLE: Final = "unreadable"  # nobody could say what it is about: no id, no word of ours
# Not kept: the carrier was told to bring it again, and that one is counted anew.
REFUSED: Final = "refused"
GIVEN_UP: Final = "given_up"  # it crashed its handler five times

ENDS: Final = (
    *(MATCHED, EARLY, ADOPTED, RESENT, CORRECTED, LATE, INTERMEDIATE),
    *(DUPLICATE, CONTRADICTORY, SUPERSEDED, ILLEGAL),
    *(GONE, ORPHAN, FOREIGN, UNREADABLE, REFUSED, GIVEN_UP),
)
_CARRIERS: Final = frozenset({State.DELIVERED, State.UNDELIVERED, State.EXPIRED})  # their ends
# A report about several segments ends as the most that it did to one of them.
RANK: Final = {
    end: rank
    for rank, end in enumerate(
        (
            *(INTERMEDIATE, SUPERSEDED, DUPLICATE, CONTRADICTORY, ILLEGAL),
            *(LATE, MATCHED, CORRECTED, RESENT),
        )
    )
}


def end_of_row(before: State, path: int) -> str:
    """The end of a report whose row was applied to a message that stood in `before`."""
    if before not in FINAL_STATES:
        return MATCHED
    return CORRECTED if path else LATE


def end_without_row(message: Message, segment: int, copy: int, state: State) -> str:
    """The end of a report for which `receipts.state.report_path` found no row to write."""
    states: Sequence[State] = message.segment_states
    if copy < message.copy:
        states = message.first_states
    known = states[segment] if segment < len(states) else None
    if known is state:
        return DUPLICATE
    if known not in FINAL_STATES or known is State.UNKNOWN:
        return SUPERSEDED  # not yet at an end: so it was about an older attempt
    return CONTRADICTORY if known in _CARRIERS else LATE
