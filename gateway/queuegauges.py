"""The gauges of what waits to be submitted: in lanes, and put off for a few seconds."""

from __future__ import annotations

from collections.abc import Callable

from gateway.delayed import Delayed
from gateway.lanes import HELD, Lanes
from telemetry.metrics import Metrics


def set_queue_gauges(
    metrics: Metrics,
    lanes: Lanes,
    delayed: Delayed,
    name_of: Callable[[int], str | None],
    now: float,
) -> None:
    """Before a scrape; `now` is monotonic. What is on its way between lanes is in neither."""
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for channel, lane in lanes.items():
        for message_class, queue in lane.queues():
            oldest = queue.oldest_at()
            age_s = now - oldest if oldest else 0.0
            found[message_class.value, _name(channel, name_of)] = queue.size, age_s
    for (message_class, channel), (number, oldest) in delayed.waiting().items():
        labels = message_class.value, _name(channel, name_of)
        known, age_s = found.get(labels, (0, 0.0))
        found[labels] = known + number, max(age_s, now - oldest if oldest else 0.0)
    metrics.queue_messages.clear()
    metrics.queue_oldest_age_seconds.clear()
    for labels, (number, age_s) in found.items():
        metrics.queue_messages.set(labels, number)
        metrics.queue_oldest_age_seconds.set(labels, age_s)


def _name(channel: int, name_of: Callable[[int], str | None]) -> str:
    return "held" if channel == HELD else name_of(channel) or str(channel)
