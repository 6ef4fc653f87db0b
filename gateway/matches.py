"""From a carrier's id back to the segment it stands for: a bounded cache before the store.

Only a cache: what it forgot is looked up in `events` (DESIGN decision 6).
"""

from __future__ import annotations

from collections import OrderedDict

from sms.model import Message

Match = tuple[Message, int, int]  # message, segment, copy


class Matches:
    """The newest carrier ids of this process, at most `size` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[tuple[int, str], Match] = OrderedDict()

    def put(self, channel: int, carrier_id: str, message: Message, segment: int, copy: int) -> None:
        """Remember whose id this is; the oldest is forgotten when the cache is full."""
        known = self._known
        known[channel, carrier_id] = (message, segment, copy)
        if len(known) > self._size:
            known.popitem(last=False)

    def get(self, channel: int, carrier_id: str) -> Match | None:
        """The segment of a carrier's id, if it is still known here."""
        return self._known.get((channel, carrier_id))

    def forget(self, channel: int, carrier_id: str) -> None:
        """Nothing more is expected for this id."""
        self._known.pop((channel, carrier_id), None)

    def __len__(self) -> int:
        return len(self._known)
