"""From a carrier's id back to the segments it stands for: a bounded cache before the store.

One id stands for one segment; of a text that left whole, and with carriers that give all segments
of a text one id, for several: a report with it is about all of them.

Only a cache: what it forgot is looked up in `events` (DESIGN decision 6).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from receipts.state import MAX_SEGMENTS
from sms.model import FINAL_STATES, EventRow, Message
from sms.outcomes import Submitted, Uncertain

# Message, segments, copy, attempt; attempt 0 = found by the id, which says it well enough.
Match = tuple[Message, tuple[int, ...], int, int]

_ALONE = tuple((segment,) for segment in range(MAX_SEGMENTS))


class Matches:
    """The newest carrier ids of this process, at most `size` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[tuple[int, str], Match] = OrderedDict()

    def put(self, channel: int, carrier_id: str, message: Message, segment: int, copy: int) -> None:
        """Remember whose id this is; the oldest is forgotten when the cache is full."""
        known = self._known
        segments: tuple[int, ...] = _ALONE[segment]
        if len(message.texts) > 1:
            before = known.get((channel, carrier_id))
            if before is not None and before[0] is message and before[2] == copy:
                segments = tuple(sorted({*before[1], segment}))
        known[channel, carrier_id] = (message, segments, copy, 0)
        if len(known) > self._size:
            known.popitem(last=False)

    def get(self, channel: int, carrier_id: str) -> Match | None:
        """The segments of a carrier's id, if it is still known here."""
        return self._known.get((channel, carrier_id))

    def forget(self, channel: int, carrier_id: str) -> None:
        """Nothing more is expected for this id."""
        self._known.pop((channel, carrier_id), None)

    def __len__(self) -> int:
        return len(self._known)


def place_of(message: Message, segment: int, carrier_id: str, answers: Sequence[object]) -> int:
    """The segment that a late answer's id stands for, `segment` being the one that was answered.

    A receipt with an unknown id was given to the first open segment (orphans.py), and may have been
    another one's. Each id keeps one segment: the one that its receipt was given, and where another
    id's receipt stands on our segment, the id takes the place that is left. `answers` are the
    outcomes of the newest attempt, by segment: a carrier that answers all segments with one id
    means all of them.
    """
    ids = message.carrier_ids
    own = ids[segment] if segment < len(ids) else None
    if own == carrier_id:
        return segment
    for place, known in enumerate(ids):
        if known == carrier_id and not is_answered(answers, place, carrier_id):
            return place
    if own is None or is_answered(answers, segment, own):
        return segment
    states = message.segment_states
    for place in range(message.segments):
        is_free = place >= len(ids) or ids[place] is None
        if is_free and (place >= len(states) or states[place] not in FINAL_STATES):
            return place
    return segment


def is_answered(answers: Sequence[object], segment: int, carrier_id: str) -> bool:
    """Whether the carrier itself gave the segment this id, in an answer."""
    answer = answers[segment] if segment < len(answers) else None
    return isinstance(answer, Submitted | Uncertain) and answer.carrier_id == carrier_id


def is_of_another(row: EventRow, rows: Sequence[EventRow]) -> bool:
    """Whether the id by which a report's `row` ends a segment is another segment's in these rows.

    It lost its key: the same report was kept twice, or its id has found its place meanwhile.
    """
    name = row.carrier_id or row.heard_as
    if name is None or row.segment is None or row.status not in FINAL_STATES:
        return False
    places = {
        (one.copy, one.segment or 0)
        for one in rows
        if one.carrier_id == name and one.channel == row.channel
    }
    return bool(places) and (row.copy, row.segment) not in places
