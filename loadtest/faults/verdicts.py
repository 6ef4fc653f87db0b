"""Which numbers must hold in each row. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from loadtest.faults import judging
from loadtest.faults.judging import Check, Seen
from loadtest.faults.row import FAULT, HEALED, Row
from loadtest.faults.senders import CLASSES
from loadtest.faults.stage import REFUSALS
from loadtest.faults.trace import Life

RAMP: Final = (0.01, 0.1, 0.5, 1.0)
SUCCESS_LIMIT_S: Final = 1.0
BEHIND_LIMIT_S: Final = 3.0  # for what waited when the link died
OTP_LIMIT_S: Final = 15.0
ALL_LIMIT_S: Final = 60.0


def reset(_: Row, seen: Seen) -> list[Check]:
    """A backup at once; nothing waits behind the dead link."""
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    trace = seen.trace
    return [
        judging.at_most(
            "first success on a backup after", trace.first_success_s(fault), SUCCESS_LIMIT_S, " s"
        ),
        *judging.waits(seen, fault - BEHIND_LIMIT_S, healed, BEHIND_LIMIT_S),
        judging.reconnected(seen, healed),
        judging.all_delivered(seen),
        judging.follow_policy(seen),
    ]


def hang(_: Row, seen: Seen) -> list[Check]:
    """otp first, then all; what was in flight by its class."""
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
            "all goes over a backup after", trace.left_after_s(fault, healed), ALL_LIMIT_S, " s"
        ),
        judging.none("otp submitted to the primary later than 15 s into the hang", len(late)),
        judging.all_delivered(seen),
        judging.follow_policy(seen),
        judging.switches(seen),
    ]


def receipts(_: Row, seen: Seen) -> list[Check]:
    """Left in the scaled time."""
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


def slow(_: Row, seen: Seen) -> list[Check]:
    """Left in time and come back to by steps."""
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    return [
        judging.at_most(
            "switched after (60 s scaled to 12)", seen.trace.left_after_s(fault, healed), 12, " s"
        ),
        *judging.ramp(seen, RAMP),
        judging.all_delivered(seen),
        judging.switches(seen),
    ]


def errors(_: Row, seen: Seen) -> list[Check]:
    """The same, on the real numbers."""
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    return [
        judging.at_most(
            "switched after", seen.trace.left_after_s(fault, healed), ALL_LIMIT_S, " s"
        ),
        *judging.ramp(seen, RAMP),
        judging.all_delivered(seen),
        judging.switches(seen),
    ]


def flap(_: Row, seen: Seen) -> list[Check]:
    """No more than four switches."""
    is_paged = any("stays on the backup" in move.why for move in seen.trace.moves)
    return [
        judging.switches(seen),
        judging.told("it stays on the backup and pages", "yes" if is_paged else "not needed"),
        judging.all_delivered(seen),
    ]


SETTLE_S: Final = 10.0
USED_SHARE: Final = 0.8
THROTTLED_SHARE: Final = 0.1


def throttle(row: Row, seen: Seen) -> list[Check]:
    """The limit is used and nothing storms to the backups."""
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


def refused(_: Row, seen: Seen) -> list[Check]:
    """Never sent to a second channel, and ended with the carrier's reason."""
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


FIRST_SHARE: Final = 0.9  # of the held ones of a class that leave before half of the next class's
ORDER_SHARE: Final = 0.9  # of pairs of a class that leave in the order in which they were accepted
RAMPED_SHARE: Final = 0.5  # of what was held may leave in the first second at most


def dark(_: Row, seen: Seen) -> list[Check]:
    """Nothing fails; what was held leaves by class, then age, ramped."""
    fault, healed = seen.when(FAULT), seen.when(HEALED)
    held = [
        life
        for life in seen.trace.between(fault, healed - 0.5)
        if life.copies and not life.uncertain_at and life.copies[0].at >= healed
    ]
    places = Counter(life.copies[0].place for life in held)
    busiest = places.most_common(1)[0][0] if places else 0
    whole = _pairs(held)
    there = _pairs([life for life in held if life.copies[0].place == busiest])
    everything = sorted(life.copies[0].at for life in held)
    first_second = [at for at in everything if at < everything[0] + 1]
    return [
        judging.reconnected(seen, healed),
        judging.all_delivered(seen),
        judging.told(
            "held, by class", ", ".join(f"{len(pairs):,} {name}" for name, pairs in whole.items())
        ),
        *(
            _before(there, first, second)
            for first, second in (("otp", "transactional"), ("transactional", "marketing"))
        ),
        *(
            judging.at_least(
                f"{name}: leave in the order of their age, busiest channel",
                _in_order(pairs),
                ORDER_SHARE,
            )
            for name, pairs in there.items()
            if len(pairs) > 1
        ),
        judging.told(
            "the same, all channels",
            ", ".join(f"{name} {_in_order(pairs):.2f}" for name, pairs in whole.items()),
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


Pairs = Mapping[str, list[tuple[float, float]]]  # by class: (accepted, left), by age


def _pairs(lives: list[Life]) -> Pairs:
    return {
        name: sorted(
            (life.sent_at, life.copies[0].at) for life in lives if life.message_class == name
        )
        for name in CLASSES
    }


def _before(pairs: Pairs, first: str, second: str) -> Check:
    """What part of a class left before half of the next one had."""
    name = f"{first} leaves before {second}, busiest channel"
    if not pairs[first] or not pairs[second]:
        return judging.told(name, "nothing was held")
    leaving = sorted(at for _, at in pairs[second])
    middle = leaving[len(leaving) // 2]
    early = sum(at <= middle for _, at in pairs[first])
    return judging.at_least(name, early / len(pairs[first]), FIRST_SHARE)


def _in_order(pairs: list[tuple[float, float]]) -> float:
    """Of pairs some way apart, the share that left in their order."""
    step = max(1, len(pairs) // 10)
    left = [at for _, at in pairs]
    compared = list(zip(left, left[step:], strict=False))
    return sum(a <= b for a, b in compared) / max(1, len(compared))


GATE_S: Final = 30.0
BACK_S: Final = 10.0  # from the second bad gate to the last message (RELIABILITY section 8)
CANARY_SHARE: Final = 0.05  # of its first step
CANARY_TOLERANCE: Final = 0.02
IN_FORCE_S: Final = 6.0


def canary(_: Row, seen: Seen) -> list[Check]:
    """Back to nothing within two gates, and no more than the first step's share until then."""
    began, ended = seen.when(FAULT), seen.when(HEALED)
    tried = [
        life.copies[0].at
        for life in seen.trace.lives.values()
        if life.copies and life.copies[0].place == 1 and life.copies[0].at >= began
    ]
    last = max(tried, default=ended)
    during = list(seen.trace.between(began + IN_FORCE_S, last))
    share = sum(bool(one.copies) and one.copies[0].place == 1 for one in during) / max(
        1, len(during)
    )
    shown = f"{share:.1%}"
    low, high = CANARY_SHARE - CANARY_TOLERANCE, CANARY_SHARE + CANARY_TOLERANCE
    limit = 2 * GATE_S + BACK_S
    return [
        Check(
            "share of the candidate until then",
            shown,
            f"{low:.0%}–{high:.0%}",
            low <= share <= high,
        ),
        judging.at_most(
            "the last message went to the candidate after",
            last - began if tried else None,
            limit,
            " s",
        ),
    ]
