"""What a message waits for just now: the part of its story that no row tells yet.

Rows are written when something has ended (an answer, a report), so a message that is held or
whose attempt is under way would look as if nothing happened. The owner's live object knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gateway.detours import in_words, told_detour
from gateway.timeline import Step, blank_step
from sms.model import Message, State

HELD = "held: no channel of its route has a session"


class Clocks(NamedTuple):
    """Now, in both clocks that live messages carry; seconds."""

    monotonic: float
    unix: float

    def at(self, moment: float) -> float:
        """Unix seconds of a monotonic moment."""
        return self.unix - max(0.0, self.monotonic - moment)


def standing_of(
    live: Message, channel_name: Callable[[int], str | None], now: Clocks
) -> Step | None:
    """A step as in the timeline, with `detail` in words; None when nothing is awaited here."""
    if live.state is State.SUBMITTING:
        return _attempt(live, channel_name, now)
    if live.state not in (State.ACCEPTED, State.QUEUED):
        return None
    waits_since = live.queued_at or now.monotonic
    if not live.channel:
        return _step("held", live, now.at(waits_since), HELD)
    name = channel_name(live.channel)
    pause_s = live.not_before - now.monotonic
    detail = f"waits in the queue of {name}"
    if live.held_at:
        held_s = max(0.0, now.monotonic - live.held_at)
        detail = f"waits for its retry budget since {held_s:.0f} s, then over {name}"
    elif pause_s > 0 and live.throttled_at:
        detail = f"throttled by {name}, waits to be tried again in {pause_s:.0f} s"
    elif pause_s > 0:
        detail = f"waits to be tried again in {pause_s:.0f} s"
    detail += _detour(live, channel_name)
    return _step("waiting", live, now.at(waits_since), detail) | {"channel": name}


def _attempt(live: Message, channel_name: Callable[[int], str | None], now: Clocks) -> Step:
    name = channel_name(live.channel)
    sent_at = live.sent_at or now.monotonic
    detail = f"attempt on {name}, no answer yet"
    total = len(live.texts)
    if total > 1:
        detail = f"attempt on {name}, {live.open_segments} of {total} segments not answered yet"
    detail += _detour(live, channel_name)
    step = _step("attempt", live, now.at(sent_at), detail)
    step["channel"], step["attempt"] = name, live.attempt
    step["follows"] = live.attempt - 1 or None
    step["ms"] = max(0, round((now.monotonic - sent_at) * 1000))
    return step


def _detour(live: Message, channel_name: Callable[[int], str | None]) -> str:
    """Why it is not the first channel of its route, where it is another."""
    detour = told_detour((0, 0, *live.detour))
    return "" if detour is None else f", {in_words(detour[0], channel_name(detour[1]))}"


def _step(step: str, live: Message, at: float, detail: str) -> Step:
    return {**blank_step(at, step, live.state), "detail": detail}
