"""What one row of the table is made of; `rows` has them all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from loadtest.faults.judging import Check, Seen
from loadtest.faults.stage import Stage

# Waits that a run would only sit through: 120, 60, 120, 30 and 60 s in real life.
WAITS: Final[Mapping[str, object]] = {
    "uncertain_wait_transactional_s": 8,
    "submit_timeout_s": 12,
    "uncertain_slot_s": 12,
    "health_open_s": 6,
    "health_ramp_step_s": 3,
}
WAITS_SCALED: Final = (
    "waits for evidence 8 s (120), time-out 12 s (60), open 6 s (30), ramp 3 s (60)"
)
QUICK_RATE: Final = 60.0
EVIDENCE: Final = ("uncertain_wait_otp_s", "uncertain_wait_transactional_s")
FAULT: Final = "fault"
HEALED: Final = "healed"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; times in seconds of traffic."""

    name: str
    title: str
    must: str  # what must hold, in the table's words
    act: Callable[[Row, Stage], Coroutine[Any, Any, None]]
    judge: Callable[[Row, Seen], list[Check]]
    before_s: float = 8.0
    fault_s: float = 15.0
    after_s: float = 20.0
    rate: float = 500.0
    stall_s: float = 6.0  # beyond the longest wait for evidence nothing more comes
    numbers: Mapping[str, object] = field(default_factory=lambda: dict(WAITS))
    scaled: str = WAITS_SCALED
    channel: Mapping[str, Any] = field(default_factory=dict)  # more fields of every channel
    is_shed: bool = False  # refusing at the door is right
    are_receipts_lost: bool = False  # what the carrier took may stay open

    @property
    def seconds(self) -> float:
        """Of traffic."""
        return self.before_s + self.fault_s + self.after_s

    @property
    def evidence_s(self) -> float:
        """How long a lost answer of otp or transactional is waited for at most."""
        waits = (self.numbers.get(name, 8) for name in EVIDENCE)
        return max(float(str(wait)) for wait in waits)

    def at_rate(self, rate: float) -> Row:
        """The same story with more or less traffic."""
        return replace(self, rate=rate)

    def quick(self) -> Row:
        """The same story on small numbers: a look at whether it works at all."""
        numbers = {**self.numbers, **dict.fromkeys(EVIDENCE, 1)}
        return replace(
            self,
            rate=QUICK_RATE,
            before_s=1.0,
            fault_s=2.0,
            after_s=1.0,
            numbers=numbers,
            stall_s=2.0,
        )
