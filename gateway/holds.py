"""What a message waited for beside its turn in a lane, as its row keeps it.

    no channel of its route, its retry budget ─▶ begin ─▶ end ─▶ Message.holds ┐
    its channel throttles it ─▶ Message.throttled_at ──────────────────────────┴▶ `times` of the row

Most messages wait for none of them: their rows keep the two times of an attempt (waited, answered)
and nothing costs them more than a look at two fields. Behind those two, and behind a detour where
there is one, stand three numbers otherwise. What is handed over or spilled meanwhile forgets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from sms.model import Message


class Hold(IntEnum):
    """What is waited for, by its place in the row. Append only: the places are stored."""

    THROTTLED = 0  # the carrier said "too fast"
    CHANNEL = 1  # every channel of its route is down or paused
    BUDGET = 2  # the retry budget of its tenant, or of the process


_WORDS = {
    Hold.THROTTLED: "the carrier throttled it",
    Hold.CHANNEL: "no channel of its route was there, all down or paused",
    Hold.BUDGET: "its retry budget was used up",
}
_KINDS = len(Hold)
_DETOUR = 2  # numbers of a detour (gateway.detours)
_TIMES = 2


def begin(message: Message, now: float) -> None:
    """From now on (monotonic) it waits for a channel or its budget, unless it does already."""
    message.held_at = message.held_at or now


def end(message: Message, hold: Hold, now: float) -> None:
    """It has waited long enough for this."""
    if message.held_at:
        message.holds = _added(message, hold, now - message.held_at)
        message.held_at = 0.0


def end_throttling(message: Message, now: float) -> None:
    """It goes elsewhere instead of waiting for the carrier that throttles it."""
    if message.throttled_at:
        message.holds = _added(message, Hold.THROTTLED, now - message.throttled_at)
        message.throttled_at = 0.0


def _added(message: Message, hold: Hold, seconds: float) -> tuple[int, ...]:
    holds = list(message.holds or (0,) * _KINDS)
    holds[hold] += max(0, int(seconds * 1000))
    return tuple(holds)


def taken_holds(message: Message) -> tuple[int, ...]:
    """Milliseconds by kind for the row of its attempt, () when it waited for nothing else.

    The message forgets them: its next wait is another row's.
    """
    holds = message.holds
    if message.throttled_at:  # goes on until a row of this attempt says otherwise
        holds = _added(message, Hold.THROTTLED, message.sent_at - message.throttled_at)
    message.holds = ()
    return holds if any(holds) else ()


def told_holds(times: Sequence[int]) -> list[tuple[Hold, int]]:
    """What a row's `times` say, in milliseconds."""
    if len(times) not in (_TIMES + _KINDS, _TIMES + _DETOUR + _KINDS):
        return []
    return [(hold, ms) for hold, ms in zip(Hold, times[-_KINDS:], strict=True) if ms > 0]


def in_words(holds: Sequence[tuple[Hold, int]]) -> str:
    """For a person; empty when there is nothing to say."""
    return "; ".join(f"{ms} ms of it because {_WORDS[hold]}" for hold, ms in holds)
