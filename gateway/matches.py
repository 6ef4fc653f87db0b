"""From a carrier's id back to the segments it stands for: a bounded cache before the store.

One id stands for one segment; of a text that left whole, and with carriers that give all segments
of a text one id, for several: a report with it is about all of them.

Only a cache: what it forgot is looked up in `events` (DESIGN decision 6).
"""

from __future__ import annotations

from collections import OrderedDict

from receipts.state import MAX_SEGMENTS
from sms.model import Message

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
