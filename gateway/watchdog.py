"""When a worker has been silent for too long: frozen, or spinning in a loop of its own.

Such a process holds its sessions and its connections and does nothing with them, and it does not
end by itself. The supervisor kills it, and only when it is reaped starts the next one. This file
only decides; it knows no process and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_FAILURES = 3  # one question may be lost when the machine itself was stopped
START_PATIENCE_S = 60.0  # importing, the lease of a predecessor: nobody answers yet


@dataclass(slots=True)
class Silence:
    """How long one worker has left our questions unanswered. Times are monotonic seconds."""

    patience_s: float
    has_answered: bool = False  # in this life
    failures: int = 0  # in a row
    since: float = 0.0  # when the first of them was asked

    def begin(self) -> None:
        """A new life: nothing was asked yet."""
        self.has_answered = False
        self.failures = 0

    def answered(self) -> None:
        """It lives."""
        self.has_answered = True
        self.failures = 0

    def failed(self, asked_at: float) -> None:
        """A question asked at that moment got no answer in time."""
        if not self.failures:
            self.since = asked_at
        self.failures += 1

    def lasted_s(self, now: float) -> float:
        """Seconds since the first question of those that it left unanswered."""
        return now - self.since if self.failures else 0.0

    def is_over(self, now: float) -> bool:
        """Whether it must be killed.

        Several questions must have failed: after a pause of the whole machine the clock has run
        on, and the first question is answered again.
        """
        patience_s = self.patience_s
        if not self.has_answered:
            patience_s = max(patience_s, START_PATIENCE_S)
        return self.failures >= LEAST_FAILURES and self.lasted_s(now) > patience_s
