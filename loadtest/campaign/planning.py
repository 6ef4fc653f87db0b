"""Which faults come, in which order and in which round. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from random import Random
from typing import Final

from loadtest.campaign.faults import CATALOGUE, Fault

OTHERS_EVERY: Final = 60  # kills: then each fault that kills nothing comes once more


def choose(only: str | None, workers: Sequence[int] = (1,)) -> list[Fault]:
    """The faults whose names fit one of the patterns (comma between them), all without any.

    Those that need more workers than there will be are left out.
    """
    patterns = [part.strip() for part in (only or "*").split(",")]
    return [
        fault
        for fault in CATALOGUE
        if fault.workers <= max(workers) and any(fnmatch(fault.name, p) for p in patterns)
    ]


def schedule(faults: list[Fault], kills: int, rng: Random) -> list[Fault]:
    """In which order they come: each once in any order, then by the dice until the kills are full.

    With fewer kills than kinds of them the dice choose which.
    """
    killing = [fault for fault in faults if fault.kills]
    others = [fault for fault in faults if not fault.kills]
    chosen = rng.sample(killing, min(kills, len(killing)))
    if killing and kills > len(chosen):
        weights = [fault.weight for fault in killing]
        chosen += rng.choices(killing, weights, k=kills - len(chosen))
    times = max(1, round(kills / OTHERS_EVERY))
    for fault in others * times:
        chosen.insert(rng.randint(0, len(chosen)), fault)
    return chosen


@dataclass(frozen=True, slots=True)
class Round:
    """Faults between two judgements, and how many workers there are meanwhile."""

    workers: int
    faults: list[Fault]


def rounds(scheduled: Sequence[Fault], workers: Sequence[int], size: int) -> list[Round]:
    """Share them out, in their order where the number of workers allows it."""
    waiting = list(scheduled)
    made: list[Round] = []
    while waiting:
        count = workers[len(made) % len(workers)]
        fitting = [fault for fault in waiting if fault.workers <= count][:size]
        if not fitting and all(fault.workers > max(workers) for fault in waiting):
            raise ValueError(f"{waiting[0].name} needs {waiting[0].workers} workers")
        for fault in fitting:
            waiting.remove(fault)
        made.append(Round(count, fitting))
    return [one for one in made if one.faults]
