"""What a message waits for just now: the part of its story that no row tells yet.

Rows are written when something has ended (an answer, a report), so a message that is held or
whose attempt is under way would look as if nothing happened. The owner's live object knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.views import rfc3339
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
) -> dict[str, Any] | None:
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
    if pause_s > 0:
        detail = f"waits to be tried again in {pause_s:.0f} s"
    return _step("waiting", live, now.at(waits_since), detail) | {"channel": name}


def _attempt(
    live: Message, channel_name: Callable[[int], str | None], now: Clocks
) -> dict[str, Any]:
    name = channel_name(live.channel)
    sent_at = live.sent_at or now.monotonic
    detail = f"attempt on {name}, no answer yet"
    total = len(live.texts)
    if total > 1:
        detail = f"attempt on {name}, {live.open_segments} of {total} segments not answered yet"
    step = _step("attempt", live, now.at(sent_at), detail)
    step["channel"] = name
    step["ms"] = max(0, round((now.monotonic - sent_at) * 1000))
    return step


def _step(step: str, live: Message, at: float, detail: str) -> dict[str, Any]:
    return {
        "at": rfc3339(at),
        "step": step,
        "status": live.state.value,
        "channel": None,
        "segment": None,
        "carrier_id": None,
        "code": None,
        "ms": None,
        "detail": detail,
    }
