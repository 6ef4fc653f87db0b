"""What happened in each quarter of a second round a fault. No I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

from loadtest.campaign.judge import Fault, Seen

STEP_S: Final = 0.25
BEFORE_S: Final = 3.0
AFTER_S: Final = 4.0
LONGEST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Timeline:
    """Counts per step; `fault_s` and `recovered_s` count from its begin."""

    fault_s: float
    recovered_s: float
    step_s: float
    accepted: tuple[int, ...]  # texts by the moment of their 202
    submitted: tuple[int, ...]  # segments by the carriers' own clocks
    delivered: tuple[int, ...]  # messages by the moment their end was decided

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def timelines(seen: Seen) -> list[Timeline]:
    """One for each fault of a round."""
    accepted = sorted(text.answered_at for text in seen.texts if text.message_id)
    submitted = sorted(submit.at for submit in seen.submits if submit.is_taken)
    ends = {event.message_id: event.final_at for event in seen.events if event.final_at}
    delivered = sorted(ends.values())
    return [_timeline(fault, accepted, submitted, delivered) for fault in seen.faults]


def _timeline(fault: Fault, *moments: Sequence[float]) -> Timeline:
    begin = fault.at - BEFORE_S
    until = min(max(fault.recovered_at, fault.at) + AFTER_S, begin + LONGEST_S)
    steps = int((until - begin) / STEP_S)
    edges = [begin + step * STEP_S for step in range(steps + 1)]
    counts = [tuple(_between(sorted_moments, edges)) for sorted_moments in moments]
    recovered_s = round(fault.recovered_at - begin, 3)
    return Timeline(BEFORE_S, recovered_s, STEP_S, counts[0], counts[1], counts[2])


def _between(moments: Sequence[float], edges: Iterable[float]) -> list[int]:
    """How many lie between each two edges."""
    places = [bisect_left(moments, edge) for edge in edges]
    return [high - low for low, high in pairwise(places)]
