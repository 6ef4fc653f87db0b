"""How many webhook requests may be under way in this process, and who may begin the next. No I/O.

    in flight ────────────▶ most        the more is taken, the less one endpoint may hold:
    ███████████░░░░░░░░░░░░             a 64th of what is free, of 2,048; and one there is
                                        always, as long as any is free

Each request under way is a socket. Endpoints that hang hold theirs for 15 s; by this rule a hundred
of them, all they can take, leave 400 of 2,048 to the others, and those that hold none go first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

LEAST_PARTS: Final = 16  # of few slots, an endpoint may hold a 16th of what is free
LOOKS: Final = 8  # at those in the line for whom there may be no room, when a request ends


class Holder:
    """Who holds slots: an endpoint's queue."""

    def __init__(self) -> None:
        self.in_flight = 0  # requests
        self.is_removed = False
        self.is_called = False  # out of the line, and may begin one
        self.is_in_line = False


H = TypeVar("H", bound=Holder)


class Slots(Generic[H]):
    """The requests under way of all endpoints of a process; those refused stand in a line."""

    def __init__(self, most: int, each: int) -> None:
        """`each`: what an endpoint that is alone may have, where `most` is large enough."""
        self._most = most
        self._parts = max(most // each, LEAST_PARTS)
        self.taken = 0
        self._promised = 0  # to those who are called and have not begun yet
        self._line: deque[H] = deque()

    def may_begin(self, queue: H) -> bool:
        """Whether this endpoint may begin a request now; if not, it is called when it may."""
        self._answer(queue)
        if self._has_room(queue):
            return True
        if not queue.is_in_line:
            queue.is_in_line = True
            self._line.append(queue)
        return False

    def _answer(self, queue: H) -> None:
        if queue.is_called:
            queue.is_called = False
            self._promised -= 1

    def _has_room(self, queue: H) -> bool:
        return queue.in_flight * self._parts < self._free()

    def _free(self) -> int:
        return self._most - self.taken - self._promised

    def begun(self) -> None:
        """A request is under way."""
        self.taken += 1

    def ended(self, call: Callable[[H], bool]) -> None:
        """A request is over: `call` those for whom there is room now, in their turn.

        `call` says whether one comes.
        """
        self.taken -= 1
        self._call_up(call)

    def waive(self, queue: H, call: Callable[[H], bool]) -> None:
        """One that was called has nothing to begin after all."""
        self._answer(queue)
        self._call_up(call)

    def _call_up(self, call: Callable[[H], bool]) -> None:
        line, looks = self._line, LOOKS
        while line and looks and self._free() > 0:
            queue = line.popleft()
            queue.is_in_line = False
            if queue.is_removed:
                continue
            if not self._has_room(queue):
                queue.is_in_line = True
                line.append(queue)
                looks -= 1
                continue
            queue.is_called = True
            self._promised += 1
            if not call(queue):
                self._answer(queue)
