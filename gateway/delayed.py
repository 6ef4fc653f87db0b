"""Messages put off for seconds: throttled, or on their way to a channel after a fault.

They stand in no lane, and wait for their channel like what does: counted by class and channel.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice

from sms.model import Message, MessageClass

Place = tuple[MessageClass, int]  # class and channel

LOOKED_AT = 20_000  # of those, for the oldest age: a scrape must not hold the loop


class Delayed:
    """By when their wait is over. All methods are synchronous."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Message, Place]] = []
        self._order = count()
        self._counts: Counter[Place] = Counter()

    def put(self, message: Message) -> None:
        """Keep it until its `not_before`."""
        place = message.message_class, message.channel
        self._counts[place] += 1
        heapq.heappush(self._heap, (message.not_before, next(self._order), message, place))

    def due(self, now: float) -> list[Message]:
        """Those whose wait is over; they are not here any more."""
        found: list[Message] = []
        while self._heap and self._heap[0][0] <= now:
            _, _, message, place = heapq.heappop(self._heap)
            self._counts[place] -= 1
            found.append(message)
        return found

    def remove_expired(self, unix: float) -> list[Message]:
        """Take out what is past its validity."""
        if not any(entry[2].valid_until <= unix for entry in self._heap):
            return []
        gone = [entry for entry in self._heap if entry[2].valid_until <= unix]
        self._counts.subtract(entry[3] for entry in gone)
        self._heap = [entry for entry in self._heap if entry[2].valid_until > unix]
        heapq.heapify(self._heap)
        return [entry[2] for entry in gone]

    def waiting(self) -> dict[Place, tuple[int, float]]:
        """By class and channel: how many, and since when the oldest waits (monotonic)."""
        self._counts += Counter()  # drops the zeros
        oldest: dict[Place, float] = {}
        for _, _, message, place in islice(self._heap, LOOKED_AT):
            at = oldest.get(place)
            if at is None or message.queued_at < at:
                oldest[place] = message.queued_at
        return {place: (number, oldest.get(place, 0.0)) for place, number in self._counts.items()}

    def __iter__(self) -> Iterator[Message]:
        return (entry[2] for entry in self._heap)

    def __len__(self) -> int:
        return len(self._heap)
