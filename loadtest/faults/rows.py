"""The rows of the table: what is done to the primary, and which numbers must hold.

Each is a story in three parts – before, the fault, after – whose lengths a short run scales. What
takes minutes in real life runs on scaled numbers, and `scaled` says so in the report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from loadtest.faults import judging
from loadtest.faults.judging import Check, Seen
from loadtest.faults.stage import REFUSALS, Stage
from loadtest.linkfault import LinkFault

# Waits that a run would only sit through: 120, 60, 120, 30 and 60 s in real life.
WAITS: Final[Mapping[str, object]] = {
    "uncertain_wait_transactional_s": 8,
    "submit_timeout_s": 12,
    "uncertain_slot_s": 12,
    "health_open_s": 6,
    "health_ramp_step_s": 3,
    "reconnect_max_s": 4,
}
WAITS_SCALED: Final = (
    "waits for evidence 8 s (120), time-out 12 s (60), open 6 s (30), ramp 3 s (60)"
)
RAMP: Final = (0.01, 0.1, 0.5, 1.0)
FAULT: Final = "fault"
HEALED: Final = "healed"
OTP_LIMIT_S: Final = 15.0
ALL_LIMIT_S: Final = 60.0
SUCCESS_LIMIT_S: Final = 1.0
BEHIND_LIMIT_S: Final = 3.0


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
    numbers: Mapping[str, object] = field(default_factory=lambda: dict(WAITS))
    scaled: str = WAITS_SCALED
    channel: Mapping[str, Any] = field(default_factory=dict)  # more fields of every channel
    is_shed: bool = False  # refusing at the door is right
    are_receipts_lost: bool = False  # what the carrier took may stay open

    @property
    def seconds(self) -> float:
        """Of traffic."""
        return self.before_s + self.fault_s + self.after_s

    def shortened(self, rate: float, before_s: float, fault_s: float, after_s: float) -> Row:
        """The same story on small numbers."""
        return replace(self, rate=rate, before_s=before_s, fault_s=fault_s, after_s=after_s)


# -- reset and refused ---------------------------------------------------------------------


async def _act_reset(row: Row, stage: Stage) -> None:
    await stage.at(row.before_s)
    stage.mark(FAULT)
    await stage.primary.proxy.set(LinkFault(door="refused"))
    stage.primary.proxy.reset()
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await stage.primary.proxy.heal()


def _judge_reset(_: Row, seen: Seen) -> list[Check]:
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    trace = seen.trace
    return [
        judging.at_most(
            "first success on a backup after", trace.first_success_s(fault), SUCCESS_LIMIT_S, " s"
        ),
        *judging.waits(seen, fault - BEHIND_LIMIT_S, healed, BEHIND_LIMIT_S),
        judging.all_delivered(seen),
        judging.follow_policy(seen),
    ]


# -- a hang --------------------------------------------------------------------------------


async def _act_hang(row: Row, stage: Stage) -> None:
    await stage.at(row.before_s)
    stage.mark(FAULT)
    await stage.behave(stage.primary, silent=True)
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await stage.behave(stage.primary, silent=False)


def _judge_hang(_: Row, seen: Seen) -> list[Check]:
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    trace = seen.trace
    otp = trace.left_after_s(fault, healed, "otp")
    late = [
        life
        for life in trace.between(fault + OTP_LIMIT_S, healed, "otp")
        if life.copies and life.copies[0].place == 0
    ]
    return [
        judging.at_most("otp goes over a backup after", otp, OTP_LIMIT_S, " s"),
        judging.at_most(
            "all goes over a backup after", trace.left_after_s(fault, healed), 60, " s"
        ),
        judging.none("otp submitted to the primary later than 15 s into the hang", len(late)),
        judging.all_delivered(seen),
        judging.follow_policy(seen),
        judging.switches(seen),
    ]


# -- receipts stop -------------------------------------------------------------------------

RECEIPTS: Final[Mapping[str, object]] = {
    **WAITS,
    "health_receipts_from_s": 10,
    "health_receipts_until_s": 12,
}


async def _act_receipts(row: Row, stage: Stage) -> None:
    await stage.at(row.before_s)
    stage.mark(FAULT)
    await stage.behave(stage.primary, receipts=False)
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await stage.behave(stage.primary, receipts=True)


def _judge_receipts(_: Row, seen: Seen) -> list[Check]:
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    return [
        judging.at_most(
            "switched after (300–360 s scaled to 10–12)",
            seen.trace.left_after_s(fault, healed),
            13,
            " s",
        ),
        judging.all_delivered(seen),
        judging.switches(seen),
    ]


# -- slow, failing, flapping ---------------------------------------------------------------

SLOW: Final[Mapping[str, object]] = {
    **WAITS,
    "health_slow_answer_s": 2,
    "health_slow_s": 6,
}


async def _act_slow(row: Row, stage: Stage) -> None:
    await stage.at(row.before_s)
    stage.mark(FAULT)
    await stage.behave(stage.primary, latency_ms=3000)
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await stage.behave(stage.primary, latency_ms=20)


def _judge_slow(_: Row, seen: Seen) -> list[Check]:
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    return [
        judging.at_most(
            "switched after (60 s scaled to 12)", seen.trace.left_after_s(fault, healed), 12, " s"
        ),
        *judging.ramp(seen, RAMP),
        judging.all_delivered(seen),
        judging.switches(seen),
    ]


async def _act_errors(row: Row, stage: Stage) -> None:
    await stage.at(row.before_s)
    stage.mark(FAULT)
    await stage.behave(stage.primary, failure_share=0.3)
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await stage.behave(stage.primary, failure_share=0.0)


def _judge_errors(_: Row, seen: Seen) -> list[Check]:
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    return [
        judging.at_most("switched after", seen.trace.left_after_s(fault, healed), 60, " s"),
        *judging.ramp(seen, RAMP),
        judging.all_delivered(seen),
        judging.switches(seen),
    ]


FLAP_S: Final = 6.0


async def _act_flap(row: Row, stage: Stage) -> None:
    await stage.at(row.before_s)
    stage.mark(FAULT)
    at, is_bad = row.before_s, False
    while at < row.before_s + row.fault_s:
        is_bad = not is_bad
        await stage.behave(stage.primary, failure_share=float(is_bad))
        at += FLAP_S
        await stage.at(at)
    stage.mark(HEALED)
    await stage.behave(stage.primary, failure_share=0.0)


def _judge_flap(_: Row, seen: Seen) -> list[Check]:
    is_paged = any("stays on the backup" in move.why for move in seen.trace.moves)
    return [
        judging.switches(seen),
        judging.told("it stays on the backup and pages", "yes" if is_paged else "not needed"),
        judging.all_delivered(seen),
    ]


# -- throttling ----------------------------------------------------------------------------

SETTLE_S: Final = 10.0
USED_SHARE: Final = 0.8
THROTTLED_SHARE: Final = 0.1


async def _act_throttle(row: Row, stage: Stage) -> None:
    await stage.at(row.before_s)
    stage.mark(FAULT)
    await stage.behave(stage.primary, takes_per_s=int(row.rate / 2))
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await stage.behave(stage.primary, takes_per_s=0)


def _judge_throttle(row: Row, seen: Seen) -> list[Check]:
    since, until = seen.when(FAULT) + SETTLE_S, seen.when(HEALED)
    taken = throttled = 0
    for _, copy in seen.trace.copies():
        if copy.place == 0 and since <= copy.at < until:
            taken += not copy.status
            throttled += bool(copy.status)
    limit = int(row.rate / 2)
    moved = [
        life for life in seen.trace.lives.values() if len({copy.place for copy in life.copies}) > 2
    ]
    return [
        judging.at_least(
            "used of the carrier's limit after 10 s", taken / (limit * (until - since)), USED_SHARE
        ),
        judging.at_most(
            "throttled share after 10 s",
            throttled / max(1, taken + throttled),
            THROTTLED_SHARE,
        ),
        judging.none("breakers that left the primary", seen.trace.switches(seen.primary)),
        judging.none("messages tried at more than one backup", len(moved)),
        judging.all_delivered(seen),
    ]


# -- the number's or the text's own fault --------------------------------------------------

REFUSED_SHARE: Final = 0.3  # more than what opens a breaker by failures


async def _act_refused(row: Row, stage: Stage) -> None:
    codes = REFUSALS[stage.protocol]
    stage.mark(FAULT)
    for step, code in enumerate(codes):
        await stage.at(row.before_s + step * row.fault_s / len(codes))
        stage.mark(f"code {code:#x}")
        await stage.behave(stage.primary, failure_share=REFUSED_SHARE, failure_status=code)
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await stage.behave(stage.primary, failure_share=0.0)


def _judge_refused(_: Row, seen: Seen) -> list[Check]:
    found: list[Check] = []
    codes = REFUSALS[seen.protocol]
    words = ("number that does not exist", "number on a blacklist", "text that is refused")
    reasons = ("recipient.invalid", "recipient.blocked", "content.blocked")
    for code, word, reason in zip(codes, words, reasons, strict=True):
        refused = [
            life
            for life in seen.trace.lives.values()
            if any(copy.status == code for copy in life.copies)
        ]
        again = [life for life in refused if len(life.copies) > 1]
        other = [life for life in refused if (life.final, life.reason) != ("failed", reason)]
        found += [
            judging.at_least(f"{word}: messages", len(refused), 20),
            judging.none(f"{word}: sent to a second channel", len(again)),
            judging.none(f"{word}: ended otherwise than failed, {reason}", len(other)),
        ]
    found.append(judging.none("breakers that left the primary", seen.trace.switches(seen.primary)))
    return found


# -- everything down -----------------------------------------------------------------------


async def _act_dark(row: Row, stage: Stage) -> None:
    await stage.at(row.before_s)
    stage.mark(FAULT)
    for link in stage.links:
        await link.proxy.set(LinkFault(door="refused"))
        link.proxy.reset()
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await asyncio.gather(*(link.proxy.heal() for link in stage.links))


FIRST_SHARE: Final = 0.9  # of the held ones of a class that leave before half of the next class's
ORDER_SHARE: Final = 0.9  # of pairs of a class that leave in the order in which they were accepted
RAMPED_SHARE: Final = 0.5  # of what was held may leave in the first second at most


def _judge_dark(_: Row, seen: Seen) -> list[Check]:
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    held = {
        name: sorted(
            (life.sent_at, life.copies[0].at)
            for life in seen.trace.between(fault, healed - 0.5, name)
            if life.copies and not life.uncertain_at and life.copies[0].at >= healed
        )
        for name in ("otp", "transactional", "marketing")
    }
    leaving = {name: sorted(at for _, at in pairs) for name, pairs in held.items()}
    everything = sorted(at for times in leaving.values() for at in times)
    first_second = [at for at in everything if at < everything[0] + 1] if everything else []
    return [
        judging.all_delivered(seen),
        judging.told(
            "held, by class", ", ".join(f"{len(pairs):,} {name}" for name, pairs in held.items())
        ),
        *(
            _before(leaving, first, second)
            for first, second in (("otp", "transactional"), ("transactional", "marketing"))
        ),
        *(
            judging.at_least(f"{name}: leave in the order of their age", _in_order(pairs), 0.9)
            for name, pairs in held.items()
            if len(pairs) > 1
        ),
        judging.at_most(
            "of the held ones, left in the first second",
            len(first_second) / max(1, len(everything)),
            RAMPED_SHARE,
        ),
        judging.told(
            "the held ones are gone after",
            f"{everything[-1] - healed:.1f} s" if everything else "nothing was held",
        ),
    ]


def _before(leaving: Mapping[str, list[float]], first: str, second: str) -> Check:
    """What part of a class left before half of the next one had."""
    name = f"{first} leaves before {second}"
    if not leaving[first] or not leaving[second]:
        return judging.told(name, "nothing was held")
    middle = leaving[second][len(leaving[second]) // 2]
    early = sum(at <= middle for at in leaving[first])
    return judging.at_least(name, early / len(leaving[first]), FIRST_SHARE)


def _in_order(pairs: list[tuple[float, float]]) -> float:
    """Of pairs some way apart, the share that left in their order."""
    step = max(1, len(pairs) // 10)
    left = [at for _, at in pairs]
    compared = list(zip(left, left[step:], strict=False))
    return sum(a <= b for a, b in compared) / max(1, len(compared))


ROWS: Final[Mapping[str, Row]] = {
    row.name: row
    for row in (
        Row(
            "reset",
            "primary reset and refused",
            "first success on a backup ≤ 1 s, 0 lost, 0 unmarked duplicates, nothing waits behind"
            " the dead link",
            _act_reset,
            _judge_reset,
        ),
        Row(
            "hang",
            "primary hangs with the link up",
            "traffic on the backup ≤ 15 s for otp, ≤ 60 s for all; in-flight ones follow their"
            " policy; 0 lost",
            _act_hang,
            _judge_hang,
            fault_s=30,
            after_s=25,
        ),
        Row(
            "receipts",
            "primary answers, receipts stop",
            "switched ≤ 360 s",
            _act_receipts,
            _judge_receipts,
            before_s=20,
            fault_s=18,
            after_s=8,
            numbers=RECEIPTS,
            are_receipts_lost=True,
            scaled=f"receipts of 10–12 s ago (300–360); {WAITS_SCALED}",
        ),
        Row(
            "slow",
            "primary slow (p95 above its bound)",
            "switched as the numbers say, failback ramped, ≤ 4 switches in 10 min",
            _act_slow,
            _judge_slow,
            fault_s=20,
            after_s=35,
            numbers=SLOW,
            scaled=f"p95 > 2 s for 6 s (10 s for 30 s); {WAITS_SCALED}",
        ),
        Row(
            "errors",
            "30 % errors of the primary",
            "switched as the numbers say, failback ramped, ≤ 4 switches in 10 min",
            _act_errors,
            _judge_errors,
            fault_s=35,
            after_s=35,
        ),
        Row(
            "flap",
            "primary fails and recovers every 6 s",
            "≤ 4 switches in 10 min",
            _act_flap,
            _judge_flap,
            fault_s=60,
            after_s=10,
        ),
        Row(
            "throttle",
            "throttling at half our rate",
            "none lost, no failover storm, ≥ 0.8 of the carrier's limit used, throttled share"
            " < 10 % after 10 s",
            _act_throttle,
            _judge_throttle,
            fault_s=35,
            after_s=10,
            scaled="nothing",
            numbers={},
            channel={"segments_per_second": 500},
        ),
        Row(
            "refused",
            "bad numbers, blacklisted, refused content",
            "never sent to a second channel",
            _act_refused,
            _judge_refused,
            before_s=3,
            fault_s=15,
            after_s=4,
            scaled="nothing",
            numbers={},
        ),
        Row(
            "dark",
            "all four down, then back",
            "nothing fails before its validity; held ones go out by class, then age, ramped",
            _act_dark,
            _judge_dark,
            after_s=25,
            is_shed=True,
        ),
    )
}
