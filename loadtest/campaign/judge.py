"""What the API promised against what carriers, sink and database say. No I/O.

    202 ─▶ one row ─▶ at its end, or held by policy ─▶ at the carriers as often as it may be
                                                   └─▶ every event at the sink

A text belongs to the fault in whose window it was sent: from the recovery of the fault before to
the recovery of its own. A second copy belongs to the fault whose moment its answer was lost at.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from loadtest.campaign.books import Law, Life
from loadtest.campaign.records import Event, Submit
from loadtest.campaign.traffic import CANCELED, UNKNOWN, Text
from sms.ids import unix_of
from sms.model import FINAL_STATES, State

SHOWN: Final = 10  # findings of a fault in a report
CLOCK_S: Final = 0.002  # moments are written down in milliseconds


class Kind(StrEnum):
    """What may be wrong."""

    LOST = "got a 202 and is not stored"
    UNFINISHED = "is neither at its end nor held by policy"
    ENDED_OTHERWISE = "did not end delivered, though these carriers deliver everything"
    NOT_SENT = "is delivered, but a segment is in no carrier's record"
    UNTOLD = "has an event that the sink never got"
    UNMARKED = "is at the carriers twice and is not marked"
    THIRD_COPY = "is at the carriers three times or more"
    NO_LOST_ANSWER = "is marked, but no answer of it was ever lost"
    REFUSED = "was refused for certain, yet it is stored or sent"
    TWO_ROWS = "is stored twice"
    TWO_ANSWERS = "got another id when it was sent again with its key"
    STRANGER = "is stored, but nobody sent it"
    HELD_COPIED = "is to be held when its answer is lost, and has a second copy or a mark"
    SENT_LATE = "was sent again after it had come to its end"
    NOT_CANCELED = "was canceled, says a 200, and did not end so"
    SENT_CANCELED = "ended canceled, and carriers have it"
    TOO_EARLY = "was at a carrier before its hour"


MISSING: Final = frozenset(
    {
        Kind.LOST,
        Kind.UNFINISHED,
        Kind.ENDED_OTHERWISE,
        Kind.NOT_SENT,
        Kind.UNTOLD,
        Kind.NOT_CANCELED,
    }
)
DUPLICATED: Final = frozenset(
    {
        Kind.UNMARKED,
        Kind.THIRD_COPY,
        Kind.HELD_COPIED,
        Kind.TWO_ROWS,
        Kind.TWO_ANSWERS,
        Kind.SENT_LATE,
        Kind.SENT_CANCELED,
        Kind.TOO_EARLY,
    }
)


@dataclass(slots=True)
class Fault:
    """One fault and what was seen at its time; moments are Unix seconds."""

    number: int
    name: str
    at: float
    recovered_at: float
    kills: int = 0  # strikes with SIGKILL
    began_at: float = 0.0  # when its preparations began, which may cost answers too; 0 = none
    law: Law | None = None  # in a snapshot after its recovery
    quarantined: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # it could not be done, or did not end


@dataclass(slots=True)
class Lost:
    """Messages of one policy whose answer was lost."""

    answers: int = 0
    held: int = 0  # still, with nothing known
    marked: int = 0  # a second copy may be out
    twice: int = 0  # of these the ones that carriers have twice, marked or not

    def add(self, other: Lost) -> None:
        """Count another fault's too."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def told(self) -> str:
        """For a person."""
        return (
            f"{self.answers} lost answers, {self.held} held, {self.marked} marked, "
            f"{self.twice} at the carriers twice"
        )


@dataclass(slots=True)
class Verdict:
    """What one fault came to; counts are of messages."""

    fault: Fault
    sent: int = 0
    accepted: int = 0
    refused: int = 0
    unknown: int = 0  # no answer: it may be stored or not
    retried: int = 0  # sent again with the same key, for nobody knew
    replayed: int = 0  # of these the ones that had been stored the first time
    scheduled: int = 0  # accepted for an hour to come
    canceled: int = 0  # at the tenant's wish
    uncertain: int = 0  # an answer of it was lost
    held: int = 0  # uncertain, and by policy it stays so
    marked: int = 0  # a second copy may be out
    fresh: int = 0  # of these the ones first submitted after the fault, not open before it
    twice: int = 0  # of these the ones that carriers have twice
    open_ms: int = 0  # how long before the fault the oldest of those had been submitted
    illegal: int = 0
    with_hold: Lost = field(default_factory=Lost)
    with_resend: Lost = field(default_factory=Lost)
    findings: Counter[Kind] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)  # stored messages of which something is said

    @property
    def missing(self) -> int:
        """Promised and not kept."""
        return sum(self.findings[kind] for kind in MISSING)

    @property
    def unmarked(self) -> int:
        """Sent more often than may be."""
        return sum(self.findings[kind] for kind in DUPLICATED)

    @property
    def recovered_s(self) -> float:
        """From the fault to the first 202 of a request that left after it."""
        return self.fault.recovered_at - self.fault.at

    @property
    def is_good(self) -> bool:
        """Nothing at all is wrong."""
        law = self.fault.law
        return not (
            self.findings.total()
            or self.illegal
            or self.fault.quarantined
            or self.fault.problems
            or (law is not None and law.residual)
        )

    def add(self, kind: Kind, who: str, message_id: int = 0) -> None:
        """Note a finding, of a stored message where it has an id."""
        self.findings[kind] += 1
        if message_id:
            self.wrong.append(message_id)
        if len(self.examples) < SHOWN:
            self.examples.append(f"{who} {kind}")

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        law = self.fault.law
        return {
            **asdict(self.fault),
            "law": None if law is None else {**asdict(law), "residual": law.residual},
            **{
                name: getattr(self, name)
                for name in (
                    *("sent", "accepted", "refused", "unknown", "missing", "unmarked", "marked"),
                    *(
                        "retried",
                        "replayed",
                        "scheduled",
                        "canceled",
                        "fresh",
                        "twice",
                        "open_ms",
                        "uncertain",
                        "held",
                        "illegal",
                        "is_good",
                    ),
                )
            },
            "with_hold": asdict(self.with_hold),
            "with_resend": asdict(self.with_resend),
            "recovered_s": round(self.recovered_s, 2),
            "findings": {kind.name.lower(): n for kind, n in self.findings.items()},
            "examples": self.examples,
        }


@dataclass(slots=True)
class Seen:
    """Everything about one round."""

    faults: list[Fault]
    texts: list[Text]
    lives: list[Life]
    submits: list[Submit]
    events: list[Event]


class _Round:
    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.verdicts = [Verdict(fault) for fault in seen.faults]
        self._ends = [fault.recovered_at for fault in seen.faults[:-1]]
        self._moments = [fault.began_at or fault.at for fault in seen.faults]
        self.texts = {text.number: text for text in seen.texts}
        self.copies: dict[str, dict[int, list[float]]] = {}
        self.seen_numbers: set[str] = set()
        segments = {life.number: life.segments for life in seen.lives}
        for submit in seen.submits:
            self.seen_numbers.add(submit.number)
            if submit.is_taken:
                of = self.copies.setdefault(submit.number, {})
                all_of_it = range(segments.get(submit.number, 1)) if submit.is_whole else ()
                for segment in all_of_it or (submit.segment,):
                    of.setdefault(segment, []).append(submit.at)
        self.told = {(event.message_id, event.sequence) for event in seen.events}

    def of_moment(self, sent_at: float) -> Verdict:
        """The verdict of the window in which something was sent."""
        return self.verdicts[bisect_left(self._ends, sent_at)]

    def opened_by(self, at: float) -> Verdict:
        """The verdict of the newest fault before a moment; the first one's before all of them."""
        return self.verdicts[max(0, bisect_right(self._moments, at) - 1)]


def judge(seen: Seen) -> list[Verdict]:
    """One verdict for each fault, in their order; at least one fault is needed."""
    about = _Round(seen)
    lives: dict[str, Life] = {}
    for life in seen.lives:
        text = about.texts.get(life.number)
        if text is None:
            verdict = about.opened_by(unix_of(life.message_id))
            verdict.add(Kind.STRANGER, f"message {life.message_id:016x}")
        elif life.number in lives:
            about.of_moment(text.sent_at).add(Kind.TWO_ROWS, _who(text))
        else:
            lives[life.number] = life
    for text in seen.texts:
        _promised(about, text, lives.get(text.number))
    for number, life in lives.items():
        _kept(about, about.texts[number], life)
    for submit in seen.submits:
        if submit.number not in about.texts:
            about.opened_by(submit.at).add(Kind.SENT_LATE, f"number …{submit.number[-8:]}")
    return about.verdicts


def _who(text: Text) -> str:
    return f"text {text.n} ({text.message_class}, {text.segments} segments)"


def _promised(about: _Round, text: Text, life: Life | None) -> None:
    """What was said to the tenant about one text, and whether a row stands behind it."""
    verdict = about.of_moment(text.sent_at)
    verdict.sent += 1
    verdict.retried += text.tries > 0 and bool(text.key)
    verdict.replayed += text.is_replayed
    if text.other_id:
        verdict.add(Kind.TWO_ANSWERS, _who(text))
    if text.message_id:
        verdict.accepted += 1
        if life is None or life.message_id != text.message_id:
            verdict.add(Kind.LOST, _who(text))
    elif text.is_refused:
        verdict.refused += 1
        if life is not None or text.number in about.seen_numbers:
            verdict.add(Kind.REFUSED, f"{_who(text)}: {text.refusal},")
    elif text.refusal == UNKNOWN:
        verdict.unknown += 1


def _kept(about: _Round, text: Text, life: Life) -> None:
    """What became of one stored message, whether its tenant heard of it or not."""
    verdict = about.of_moment(text.sent_at)
    who = _who(text)
    verdict.illegal += life.illegal
    if life.rows and len(verdict.examples) < SHOWN:
        verdict.examples.append(f"{who} {life.message_id:016x} has an illegal row: {life.rows}")
    copies = about.copies.get(life.number, {})
    if not life.is_at_rest:
        verdict.add(Kind.UNFINISHED, f"{who}: {life.state}", life.message_id)
    elif life.state is State.DELIVERED:
        if any(segment not in copies for segment in range(life.segments)):
            verdict.add(Kind.NOT_SENT, who, life.message_id)
    elif life.state in FINAL_STATES and not _is_canceled(text, life):
        verdict.add(Kind.ENDED_OTHERWISE, f"{who}: {life.state}", life.message_id)
    _wished(verdict, text, life, copies)
    if any((life.message_id, sequence) not in about.told for sequence in life.owed):
        verdict.add(Kind.UNTOLD, who, life.message_id)
    _copied(about, life, copies, who)


def _is_canceled(text: Text, life: Life) -> bool:
    return life.state is State.CANCELED and bool(text.cancel)


def _wished(
    verdict: Verdict, text: Text, life: Life, copies: Mapping[int, Sequence[float]]
) -> None:
    """When the tenant wanted it sent, and whether at all."""
    first = min((min(times) for times in copies.values()), default=0.0)
    if text.send_at:
        verdict.scheduled += 1
        if first and first < text.send_at - CLOCK_S:
            verdict.add(
                Kind.TOO_EARLY, f"{_who(text)}: {text.send_at - first:.3f} s,", life.message_id
            )
    if _is_canceled(text, life):
        verdict.canceled += 1
        if first:
            verdict.add(Kind.SENT_CANCELED, _who(text), life.message_id)
    elif text.cancel == CANCELED:
        verdict.add(Kind.NOT_CANCELED, f"{_who(text)}: {life.state},", life.message_id)


def _copied(about: _Round, life: Life, copies: Mapping[int, Sequence[float]], who: str) -> None:
    most = max(map(len, copies.values()), default=0)
    lost_at = life.uncertain_at[0] if life.uncertain_at else 0.0
    verdict = about.opened_by(lost_at) if lost_at else None
    if verdict is not None:
        verdict.uncertain += 1
        verdict.held += life.state is State.UNCERTAIN
        lost = verdict.with_hold if life.is_to_hold else verdict.with_resend
        lost.answers += 1
        lost.held += life.state is State.UNCERTAIN
        lost.marked += life.is_marked
        lost.twice += most > 1
    text_verdict = about.of_moment(about.texts[life.number].sent_at)
    if life.is_to_hold and (most > 1 or life.is_marked):
        text_verdict.add(Kind.HELD_COPIED, who, life.message_id)
    if most > 2:
        text_verdict.add(Kind.THIRD_COPY, f"{who}: {most} times,", life.message_id)
    elif most == 2 and not life.is_marked:
        text_verdict.add(Kind.UNMARKED, who, life.message_id)
    if not life.is_marked:
        return
    if verdict is None:
        text_verdict.add(Kind.NO_LOST_ANSWER, who, life.message_id)
        return
    verdict.marked += 1
    first = min((min(times) for times in copies.values()), default=0.0)
    verdict.fresh += first >= verdict.fault.at
    if most == 2:
        verdict.twice += 1
        verdict.open_ms = max(verdict.open_ms, round((verdict.fault.at - first) * 1000))


@dataclass(slots=True)
class Total:
    """The sum over a campaign."""

    faults: int = 0
    kills: int = 0
    bad: int = 0
    sent: int = 0
    accepted: int = 0
    retried: int = 0
    replayed: int = 0
    scheduled: int = 0
    canceled: int = 0
    missing: int = 0
    unmarked: int = 0
    marked: int = 0
    twice: int = 0
    held: int = 0
    illegal: int = 0
    quarantined: int = 0
    residual: int = 0
    slowest_s: float = 0.0
    with_hold: Lost = field(default_factory=Lost)
    with_resend: Lost = field(default_factory=Lost)
    problems: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Count one verdict."""
        fault = verdict.fault
        self.faults += 1
        self.kills += fault.kills > 0
        self.bad += not verdict.is_good
        summed = ("sent", "accepted", "retried", "replayed", "missing", "unmarked", "marked")
        for name in (*summed, "scheduled", "canceled", "twice", "held"):
            setattr(self, name, getattr(self, name) + getattr(verdict, name))
        self.with_hold.add(verdict.with_hold)
        self.with_resend.add(verdict.with_resend)
        self.illegal += verdict.illegal
        self.quarantined += len(fault.quarantined)
        self.residual += fault.law.residual if fault.law is not None else 0
        self.slowest_s = max(self.slowest_s, round(verdict.recovered_s, 2))
        self.problems += [f"{fault.number} {fault.name}: {text}" for text in fault.problems]
        self.problems += [f"{fault.number} {fault.name}: {text}" for text in verdict.examples]

    @property
    def is_good(self) -> bool:
        """Whether nothing at all was wrong."""
        return not (self.bad or self.problems)
