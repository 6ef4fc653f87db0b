"""Messages on their way from one lane into others: their channels are chosen again, in slices.

    lane of a channel that is left ─detach─▶ moving, otp first ─put─▶ other lanes, or held

What a carrier has failed goes before all, what arrives meanwhile joins the end: nobody overtakes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from gateway.lanes import Lane, Lanes
from sms.model import Message
from telemetry.failpoints import failpoints

SLICE = 1000  # messages rechosen in one turn of the loop, some 3 ms


class Moves:
    """The lanes that were taken away from their channels and are not empty yet."""

    def __init__(
        self,
        lanes: Lanes,
        put_moved: Callable[[Iterable[Message]], None],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        """`put_moved` binds messages to the channels that take them now, and queues by age."""
        self._lanes = lanes
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
        self._put_moved(some)
        if self.lanes:
            self._call_later(0.0, self._move_some)
