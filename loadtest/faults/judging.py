"""What is asked of every row, and the questions that several rows ask. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from loadtest.faults.senders import CLASSES, Sent
from loadtest.faults.stage import CHANNELS, Moment
from loadtest.faults.trace import Life, Trace

MUST_STAY_ZERO: Final = ("illegal_transition_total", "quarantined_total", "process_restarts_total")
LINK_LIMIT_S: Final = 7.0  # `reconnect_link_max_s` with its jitter, and the login
RAMP_TOLERANCE: Final = 0.1  # the measured share may be so much above the step's


@dataclass(frozen=True, slots=True)
class Check:
    """One number of a row; `is_good` None = told, not judged."""

    name: str
    value: str
    limit: str = ""
    is_good: bool | None = None


@dataclass(slots=True)
class Seen:
    """What one row left behind."""

    protocol: str
    rate: float  # planned, messages a second
    seconds: float  # of traffic
    started_at: float
    sent: Sent
    trace: Trace
    moments: list[Moment]
    metrics: Mapping[str, float]  # what counters grew by
    numbers: Mapping[str, float] = field(default_factory=dict)  # settings that judge

    def when(self, text: str) -> float:
        """When that was done (Unix); raises KeyError."""
        for moment in self.moments:
            if moment.text == text:
                return moment.at
        raise KeyError(text)

    @property
    def primary(self) -> str:
        """The primary's name."""
        return f"{self.protocol}-1"

    @property
    def ended_at(self) -> float:
        """When the last message was sent."""
        return self.started_at + self.seconds


def at_most(name: str, value: float | None, limit: float, unit: str = "") -> Check:
    """A number that must not be above its limit; None = it never happened."""
    shown = "never" if value is None else f"{value:,.2f}".rstrip("0").rstrip(".") + unit
    return Check(name, shown, f"≤ {limit:g}{unit}", value is not None and value <= limit)


def at_least(name: str, value: float, limit: float) -> Check:
    """A number that must not be below its limit."""
    return Check(name, f"{value:,.2f}".rstrip("0").rstrip("."), f"≥ {limit:g}", value >= limit)


def none(name: str, count: int) -> Check:
    """Something that must not happen."""
    return Check(name, f"{count:,}", "0", count == 0)


def told(name: str, value: str) -> Check:
    """For information."""
    return Check(name, value)


def common(seen: Seen, *, is_shed: bool = False, are_receipts_lost: bool = False) -> list[Check]:
    """What holds in every row: accepted is kept, and sent once but for marked copies.

    `is_shed`: refusing is right here. `are_receipts_lost`: what a carrier took may stay open.
    """
    lives = list(seen.trace.lives.values())
    open_ = [life for life in lives if not life.final and not life.uncertain_at]
    if are_receipts_lost:
        open_ = [life for life in open_ if not life.taken]
    held = [life for life in lives if not life.final and life.uncertain_at]
    unmarked = [life for life in lives if len(life.taken) > 1 and not life.is_marked]
    thrice = [life for life in lives if len(life.taken) > 2]
    rate = len(lives) / seen.seconds
    refused = ", ".join(f"{count:,} {code}" for code, count in seen.sent.refused.items())
    return [
        told("accepted a second", f"{rate:,.0f}")
        if is_shed
        else at_least("accepted a second", rate, seen.rate),
        none("lost: accepted, and nobody knows what became of it", len(open_)),
        none("unmarked duplicates", len(unmarked)),
        none("more than one second copy", len(thrice)),
        none(
            "illegal transitions, quarantined rows, restarts",
            int(sum(seen.metrics.get(name, 0.0) for name in MUST_STAY_ZERO)),
        ),
        told("marked duplicates", f"{sum(len(life.taken) > 1 for life in lives):,}"),
        told("held as uncertain, by their class's policy", _by_class(held)),
        *([told("refused at the door", refused)] if refused else []),
    ]


def all_delivered(seen: Seen) -> Check:
    """Nothing ended otherwise than delivered."""
    ends = Counter(
        f"{life.final} {life.reason}".strip()
        for life in seen.trace.lives.values()
        if life.final not in ("", "delivered")
    )
    shown = ", ".join(f"{count:,} {end}" for end, count in ends.most_common()) or "0"
    return Check("ended otherwise than delivered", shown, "0", not ends)


def follow_policy(seen: Seen) -> Check:
    """Lost answers: otp and transactional get one marked copy, marketing waits for evidence."""
    wrong = 0
    count = 0
    for life in seen.trace.lives.values():
        if not life.uncertain_at:
            continue
        count += 1
        if life.message_class == "marketing":
            wrong += len(life.taken) > 1 or life.is_marked
        else:
            wrong += not life.final
    return Check(
        "in flight and not by their class's policy", f"{wrong:,} of {count:,}", "0", not wrong
    )


def waits(seen: Seen, since: float, until: float, limit_s: float) -> list[Check]:
    """How long messages sent in that time waited for their first submit, those in flight aside."""
    found = sorted(
        life.copies[0].at - life.sent_at
        for life in seen.trace.between(since, until)
        if life.copies and not life.uncertain_at
    )
    if not found:
        return [at_most("longest wait for a submit", None, limit_s, " s")]
    p99 = found[int(0.99 * (len(found) - 1))]
    return [
        at_most("longest wait for a submit, what was in flight aside", found[-1], limit_s, " s"),
        told("the same, p99", f"{p99:.2f} s"),
    ]


def waits_by_class(seen: Seen) -> Check:
    """The longest wait for a first submit, for information."""
    longest = dict.fromkeys(CLASSES, 0.0)
    for life in seen.trace.lives.values():
        if life.copies:
            name = life.message_class
            longest[name] = max(longest[name], life.copies[0].at - life.sent_at)
    shown = ", ".join(f"{name} {wait:.1f} s" for name, wait in longest.items())
    return told("longest wait for a first submit", shown)


def reconnected(seen: Seen, since: float) -> Check:
    """A link that is up again since then is used soon, however long it was down."""
    after_s = seen.trace.came_after_s(since, seen.primary)
    return at_most("a session after the link is up again", after_s, LINK_LIMIT_S, " s")


def switches(seen: Seen) -> Check:
    """Away and back, of the unluckiest carrier."""
    return at_most("switches in 10 minutes", seen.trace.switches(seen.primary), 4)


def ramp(seen: Seen, shares: tuple[float, ...]) -> list[Check]:
    """The primary's share at each step of its way back, carrier by carrier."""
    steps: dict[float, list[tuple[str, float, float]]] = {}
    begun: dict[str, tuple[float, float]] = {}
    for move in [*seen.trace.moves]:
        if move.channel != seen.primary:
            continue
        before = begun.pop(move.carrier, None)
        if before is not None:
            steps.setdefault(before[0], []).append((move.carrier, before[1], move.at))
        if move.state == "ramp":
            share = next((s for s in shares if f"takes {s:.0%}" in move.why), 0.0)
            begun[move.carrier] = share, move.at
    found = []
    for share in shares[:-1]:
        spans = steps.get(share, [])
        measured = _share(seen, spans)
        is_good = measured is not None and measured <= share + RAMP_TOLERANCE
        shown = "never seen" if measured is None else f"{measured:.1%}"
        found.append(
            Check(
                f"back by steps: share of the primary at {share:.0%}",
                shown,
                f"≤ {share + RAMP_TOLERANCE:.0%}",
                is_good,
            )
        )
    return found


_NETWORKS: Final = {"CM": 0, "CU": 1, "CT": 2, "other": 3}  # the order of the sender's numbers


def _share(seen: Seen, spans: list[tuple[str, float, float]]) -> float | None:
    primary = total = 0
    for carrier, since, until in spans:
        network = _NETWORKS.get(carrier)
        for life in seen.trace.between(since + 0.3, until - 0.1):
            if life.copies and (network is None or life.network == network):
                total += 1
                primary += life.copies[0].place == 0
    return primary / total if total else None


def switched(seen: Seen) -> Check:
    """What the breakers of the primary did, first of each kind."""
    found: dict[str, str] = {}
    for move in seen.trace.moves:
        if move.channel == seen.primary:
            word = f"{move.state} {move.cause}".strip()
            found.setdefault(word, f"{word} at {move.at - seen.started_at:.1f} s")
    return told("the primary's breakers", ", ".join(found.values()) or "stayed closed")


def by_channel(seen: Seen) -> Check:
    """How many submits each channel took."""
    counts = Counter(copy.place for _, copy in seen.trace.copies() if not copy.status)
    shown = ", ".join(f"{counts[place]:,}" for place in range(CHANNELS))
    return told("taken by the primary and its backups", shown)


def _by_class(lives: list[Life]) -> str:
    counts = Counter(life.message_class for life in lives)
    return ", ".join(f"{counts[name]} {name}" for name in CLASSES if counts[name]) or "0"
