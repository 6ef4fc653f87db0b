"""Messages on their way from one lane into others: their channels are chosen again, in slices.

    lane of a channel that is left ─detach─▶ moving, otp first ─put─▶ other lanes, or held

What arrives meanwhile joins the end, so that nobody overtakes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.lanes import Lane, Lanes
from sms.model import Message
from telemetry.failpoints import failpoints

SLICE = 1000  # messages rechosen in one turn of the loop, some 3 ms


class Put(Protocol):
    """The dispatcher, as far as what moves needs it."""

    def __call__(self, messages: Iterable[Message], *, first: bool = False) -> None:
        """Into their lanes; `first`: before all that waits there."""
        ...


class Moves:
    """The lanes that were taken away from their channels and are not empty yet."""

    def __init__(
        self,
        lanes: Lanes,
        put: Put,
        put_moved: Callable[[Iterable[Message]], None],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        """Both bind messages to the channels that take them now; `put_moved` queues by age."""
        self._lanes = lanes
        self._put = put
        self._put_moved = put_moved
        self._call_later = call_later
        self.lanes: deque[Lane] = deque()

    def rechoose(self, channel: int) -> None:
        """Bind what waits in a lane to the channels of its routes anew, otp first."""
        lane = self._lanes.detach(channel)
        if not lane.size():
            return
        self.lanes.append(lane)
        if len(self.lanes) == 1:
            self._move_some()

    def join(self, message: Message) -> None:
        """Queue behind all that moves; only while something does."""
        self.lanes[-1].queue(message.message_class).put(message)

    def _move_some(self) -> None:
        """A long lane moves in slices and in its own order, so that nobody waits for all of it."""
        if failpoints.is_armed:
            failpoints.hit("choose.again")
        lane = next((lane for lane in self.lanes if lane.otp.size), self.lanes[0])
        some: list[Message] = []
        while len(some) < SLICE and (message := lane.take()) is not None:
            some.append(message)
        if not lane.size():
            self.lanes.remove(lane)
        tried = [message for message in some if message.attempt]
        if tried:  # a carrier failed them: they go first (RELIABILITY 6), the oldest before all
            self._put(sorted(tried, key=lambda message: message.id), first=True)
            some = [message for message in some if not message.attempt]
        self._put_moved(some)
        if self.lanes:
            self._call_later(0.0, self._move_some)
