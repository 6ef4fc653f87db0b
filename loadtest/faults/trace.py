"""What became of every message of a row: accepted, submitted where, told what. No I/O.

what was accepted ─┐
carriers' records ─┼─▶ Trace: one Life for each message
the sink's record ─┘
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec

from loadtest.faults.senders import class_of
from loadtest.sender import KINDS
from sms.model import FINAL_STATES

FINALS: Final = frozenset(state.value for state in FINAL_STATES)
SETTLED_S: Final = 2.0  # so many seconds in a row must agree that the primary is left
LEFT_SHARE: Final = 0.02  # of the messages may still go there: what tries it, 1 % of a ramp


@dataclass(frozen=True, slots=True)
class Copy:
    """One submit as a carrier recorded it; `status` 0 = taken."""

    at: float
    place: int  # of the channel in the route
    status: int


@dataclass(slots=True)
class Life:
    """One accepted message; times are Unix seconds, 0 = never."""

    index: int
    sent_at: float
    copies: list[Copy] = field(default_factory=list)  # by time
    final: str = ""
    final_at: float = 0.0
    reason: str = ""
    uncertain_at: float = 0.0
    is_marked: bool = False  # `duplicate_risk` in any of its events

    @property
    def message_class(self) -> str:
        """otp, transactional or marketing."""
        return class_of(self.index)

    @property
    def network(self) -> int:
        """A number for its carrier: health is judged by channel and carrier."""
        return self.index % len(KINDS)

    @property
    def taken(self) -> list[Copy]:
        """The copies that a carrier took."""
        return [copy for copy in self.copies if not copy.status]


@dataclass(frozen=True, slots=True)
class Move:
    """A breaker moved, as the gateway's log says it."""

    at: float
    channel: str
    carrier: str  # "all" = the channel as a whole
    state: str
    cause: str
    why: str


class _Submit(msgspec.Struct, gc=False):
    at: str
    to: str
    status: int = 0


class _Data(msgspec.Struct, gc=False):
    to: str = ""
    status: str = ""
    reason: str | None = None
    duplicate_risk: bool = False


class _Event(msgspec.Struct, gc=False):
    type: str
    timestamp: str = ""
    data: _Data = msgspec.field(default_factory=_Data)


_read_submit = msgspec.json.Decoder(_Submit).decode
_read_event = msgspec.json.Decoder(_Event).decode


class Trace:
    """All messages of a row."""

    def __init__(self, sent_at: Mapping[int, float]) -> None:
        self.lives = {index: Life(index, at) for index, at in sent_at.items()}
        self.strangers = 0  # submits of what nobody accepted
        self.moves: list[Move] = []
        self.came: list[tuple[float, str]] = []  # when a channel without a session got one
        self._moments: dict[str, float] = {}

    def read_carrier(self, place: int, lines: Iterable[bytes]) -> None:
        """The record of the route's channel at that place; then `sort`."""
        for line in lines:
            row = _read_submit(line)
            life = self.lives.get(int(row.to[-8:]))
            if life is None:
                self.strangers += 1
            else:
                life.copies.append(Copy(self._moment(row.at), place, row.status))

    def sort(self) -> None:
        """After all carriers: each message's copies by time."""
        for life in self.lives.values():
            life.copies.sort(key=lambda copy: copy.at)

    def read_sink(self, lines: Iterable[bytes]) -> None:
        """The sink's record."""
        for line in lines:
            event = _read_event(line)
            if not event.type.startswith("message."):
                continue
            life = self.lives.get(int(event.data.to[-8:]))
            if life is None:
                continue
            life.is_marked |= event.data.duplicate_risk
            if event.data.status in FINALS:
                life.final, life.reason = event.data.status, event.data.reason or ""
                life.final_at = self._moment(event.timestamp)
            elif event.data.status == "uncertain":
                life.uncertain_at = self._moment(event.timestamp)

    def read_log(self, lines: Iterable[str]) -> None:
        """A worker's log: what the breakers did, and when links came."""
        for line in lines:
            if '"event": "channel ' not in line and '"event": "link changed"' not in line:
                continue
            told = json.loads(line)
            if told.get("is_up") is True:
                self.came.append((self._moment(str(told["at"])), str(told["channel"])))
            if "state" in told and "carrier" in told:
                self.moves.append(
                    Move(
                        self._moment(str(told["at"])),
                        *(str(told.get(name, "")) for name in ("channel", "carrier", "state")),
                        *(str(told.get(name, "")) for name in ("cause", "why")),
                    )
                )

    def _moment(self, text: str) -> float:
        at = self._moments.get(text)
        if at is None:  # bursts share one
            at = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
            self._moments = {text: at}
        return at

    # -- questions -------------------------------------------------------------------------

    def between(self, since: float, until: float, message_class: str = "") -> Iterator[Life]:
        """Messages sent in that time, of one class or all."""
        for life in self.lives.values():
            if since <= life.sent_at < until and message_class in ("", life.message_class):
                yield life

    def copies(self) -> Iterator[tuple[Life, Copy]]:
        """Every submit of every message."""
        for life in self.lives.values():
            for copy in life.copies:
                yield life, copy

    def first_success_s(self, since: float, places: Sequence[int] = (1, 2, 3)) -> float | None:
        """From then to the first submit taken at one of these channels; None = never."""
        moments = [
            copy.at
            for _, copy in self.copies()
            if copy.place in places and not copy.status and copy.at >= since
        ]
        return min(moments) - since if moments else None

    def left_after_s(self, since: float, until: float, message_class: str = "") -> float | None:
        """From then until the primary gets next to none of the first submits; None = never."""
        seconds = int(until - since)
        counts = [[0, 0] for _ in range(seconds)]
        for life in self.lives.values():
            if not life.copies or message_class not in ("", life.message_class):
                continue
            first = life.copies[0]
            second = int(first.at - since)
            if first.at >= since and second < seconds:
                counts[second][first.place == 0] += 1
        is_left = [bool(sum(both)) and both[1] <= LEFT_SHARE * sum(both) for both in counts]
        for second in range(len(is_left)):
            if all(is_left[second : second + int(SETTLED_S)]):
                return float(second)
        return None

    def came_after_s(self, since: float, channel: str) -> float | None:
        """From then until that channel's link came; None = never."""
        return min(
            (at - since for at, name in self.came if name == channel and at >= since), default=None
        )

    def switches(self, channel: str) -> int:
        """How often messages of the unluckiest carrier changed away from that channel or back."""
        counts: dict[str, int] = {}
        states: dict[str, str] = {}
        for move in self.moves:
            if move.channel != channel:
                continue
            before = states.get(move.carrier, "closed")
            is_away = move.state == "open" and before in ("closed", "ramp")
            is_back = move.state == "ramp" and before == "half_open"
            counts[move.carrier] = counts.get(move.carrier, 0) + is_away + is_back
            states[move.carrier] = move.state
        whole = counts.pop("all", 0)
        return whole + max(counts.values(), default=0)
