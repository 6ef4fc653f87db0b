"""A rolling restart: the workers of a node one after another, the next when the new one is ready.

    asked ─▶ worker-0: draining ─▶ starting ─▶ ready ─▶ worker-1: … ─▶ round finished
                          │            └ not ready in time: stop here, the others stay as they are
                          └ not gone in time: killed

This file only decides: it is told how the workers stand and says whom to end. Starting again what
ended is the supervisor's everyday work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

KEPT_ROUNDS = 8


class Phase(StrEnum):
    """What is being waited for."""

    WAITING = "waiting"  # for another worker that is ready: the only one never goes
    DRAINING = "draining"
    STARTING = "starting"


class Order(StrEnum):
    """What the supervisor has to do to the worker now."""

    DRAIN = "drain"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Seen:
    """How one worker stands."""

    starts: int  # how often it was started: more than before means another process
    is_running: bool
    is_serving: bool  # it answers and its door is open
    is_ready: bool
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One worker's part of a round, as it ended."""

    worker: str
    drain_s: float
    start_s: float
    is_killed: bool
    missing: tuple[str, ...]  # what it lacked when the round went on, as the node did before

    def told(self) -> dict[str, object]:
        """For JSON."""
        return {
            "worker": self.worker,
            "drain_s": round(self.drain_s, 2),
            "start_s": round(self.start_s, 2),
            "killed": self.is_killed,
            "missing": list(self.missing),
        }


@dataclass(slots=True)
class Round:
    """One pass over all workers."""

    number: int
    began_at: float
    slot: int = 0
    phase: Phase = Phase.WAITING
    phase_at: float = 0.0
    drain_s: float = 0.0
    starts: int = 0  # of the worker before it was drained
    is_killed: bool = False
    was_ready: bool = False  # some worker was: then the next must be, before another one goes
    steps: list[Step] = field(default_factory=list)
    seconds: float = 0.0
    error: str = ""


@dataclass(slots=True)
class Rolling:
    """All rounds of one supervisor; times are monotonic seconds."""

    names: Sequence[str]
    drain_s: float  # SIGTERM to exit; after it a worker is killed
    ready_s: float  # start to ready; after it the round is given up
    asked: int = 0
    finished: int = 0
    now_at: Round | None = None
    kept: deque[Round] = field(default_factory=lambda: deque(maxlen=KEPT_ROUNDS))

    def ask(self) -> int:
        """Ask for a round and get its number.

        While one runs another one is asked for, for its first workers may have started before
        what this caller changed; a third caller shares the second round.
        """
        running = self.finished + (self.now_at is not None)
        self.asked = running + 1
        return self.asked

    @property
    def is_running(self) -> bool:
        """Whether there is something to do."""
        return self.asked > self.finished

    def step(self, now: float, seen: Sequence[Seen]) -> list[tuple[int, Order]]:
        """Look at the workers; returns what to do to which of them."""
        if not self.is_running:
            return []
        if self.now_at is None:
            self.now_at = Round(self.finished + 1, now, phase_at=now)
        running = self.now_at
        worker = seen[running.slot]
        match running.phase:
            case Phase.WAITING:
                return self._drain(running, now, seen)
            case Phase.DRAINING:
                return self._await_end(running, now, worker)
            case Phase.STARTING:
                self._await_ready(running, now, worker)
                return []

    def _drain(self, running: Round, now: float, seen: Sequence[Seen]) -> list[tuple[int, Order]]:
        worker = seen[running.slot]
        others = [other for slot, other in enumerate(seen) if slot != running.slot]
        if worker.is_ready and others and not any(other.is_ready for other in others):
            if now - running.phase_at > self.ready_s:
                name = self.names[running.slot]
                self._finish(running, now, f"{name} was left as it is: no other worker is ready")
            return []
        running.phase, running.phase_at = Phase.DRAINING, now
        running.starts, running.is_killed, running.drain_s = worker.starts, False, 0.0
        running.was_ready = any(other.is_ready for other in seen)
        if worker.is_running:
            return [(running.slot, Order.DRAIN)]
        return []  # it is down, and its next start is what was asked for

    def _await_end(self, running: Round, now: float, worker: Seen) -> list[tuple[int, Order]]:
        if not worker.is_running or worker.starts > running.starts:
            running.drain_s = now - running.phase_at
            running.phase, running.phase_at = Phase.STARTING, now
        elif now - running.phase_at > self.drain_s and not running.is_killed:
            running.is_killed = True
            return [(running.slot, Order.KILL)]
        return []

    def _await_ready(self, running: Round, now: float, worker: Seen) -> None:
        is_new = worker.starts > running.starts
        if is_new and (worker.is_ready or (worker.is_serving and not running.was_ready)):
            missing = () if worker.is_ready else worker.missing
            running.steps.append(
                Step(
                    self.names[running.slot],
                    running.drain_s,
                    now - running.phase_at,
                    running.is_killed,
                    missing,
                )
            )
            running.slot += 1
            running.phase, running.phase_at = Phase.WAITING, now
            if running.slot == len(self.names):
                self._finish(running, now, "")
        elif now - running.phase_at > self.ready_s:
            why = "; ".join(worker.missing) or "it does not answer"
            self._finish(
                running,
                now,
                f"{self.names[running.slot]} was not ready within {self.ready_s:g} s ({why}); "
                "the workers after it were left as they are",
            )

    def _finish(self, running: Round, now: float, error: str) -> None:
        running.error = error
        running.seconds = now - running.began_at
        self.finished = running.number
        self.kept.append(running)
        self.now_at = None

    def told(self, now: float) -> dict[str, object]:
        """How it stands, for JSON."""
        running = self.now_at
        return {
            "asked": self.asked,
            "finished": self.finished,
            "running": None
            if running is None
            else {
                "number": running.number,
                "worker": self.names[min(running.slot, len(self.names) - 1)],
                "phase": running.phase,
                "seconds": round(now - running.phase_at, 2),
                "steps": [step.told() for step in running.steps],
            },
            "rounds": [
                {
                    "number": ended.number,
                    "error": ended.error,
                    "seconds": round(ended.seconds, 2),
                    "steps": [step.told() for step in ended.steps],
                }
                for ended in self.kept
            ],
        }
