"""What carriers answer becomes rows, committed in batches.

    answers ─▶ journal line ─▶ all segments answered? ─▶ one decision ─▶ row(s) ═COMMIT═▶

One submit ends as exactly one of the five outcomes; what follows from each is RELIABILITY
sections 5 and 6. All methods are synchronous and take a burst at a time. Reports are settled in
`reports.py`, lost answers in `evidence.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from gateway.carrier_words import CarrierWords
from gateway.channel import OTP_PATIENCE_S, PATIENCE_S
from gateway.cutting import segments_of
from gateway.dispatch import REPAIR_S
from gateway.evidence import Evidence
from gateway.holds import taken_holds
from gateway.ledger import Ledger
from gateway.matches import Matches, place_of
from receipts.state import Path, path_to, settled, undo_attempt
from sms.model import EventRow, Message, MessageClass, State, Submit
from sms.outcomes import Cause, NotSent, Outcome, Rejected, Submitted, Throttled, Uncertain
from store.fragments import unpark_sql
from telemetry.failpoints import failpoints
from telemetry.metrics import Metrics

# Another channel may do better.
_CHANNEL_CAUSES = frozenset({Cause.CHANNEL, Cause.CONFIG, Cause.NETWORK, Cause.UNKNOWN})
LATE_S = 5.0  # what waited so long for its ids has receipts that wait for their third look
NOT_CONNECTED = "channel.not_connected"  # no connection for a request: nothing of it left
THROTTLE_MIN_S, THROTTLE_MAX_S = 1.0, 5.0  # RELIABILITY section 6

AnswerLine = tuple[int, int, int, int, int, str, str]

# As globals for the path: `State.X` is a function call in Python 3.11.
_SUBMITTING, _SUBMITTED = State.SUBMITTING, State.SUBMITTED
_PATH_NOTE, _PATH_SUBMITTED = Path.NOTE, Path.SUBMITTED
_OTP = MessageClass.OTP


@dataclass(frozen=True, slots=True)
class SettlePolicy:
    """The numbers of RELIABILITY that settling needs."""

    max_attempts: int = 4
    backoff_cap_s: float = 60.0


class AnswerJournal(Protocol):
    """The attempt journal, as far as settling needs it."""

    def answer_lines(self, entries: Sequence[AnswerLine]) -> bool:
        """One write() for a burst of answers."""
        ...


class LaneKeeper(Protocol):
    """The dispatcher, as far as settling needs it."""

    not_sent: Callable[[int, Sequence[Submit], str], None] | None
    lost: Callable[[int, Sequence[Submit], str], None] | None

    def put(self, messages: Iterable[Message], *, first: bool = False) -> None:
        """Back into their lanes."""
        ...

    def answered(self, channel: int, taken: int, throttled: int, answer_s: float) -> None:
        """Segments of one burst that the carrier took or refused, and that it throttled."""
        ...

    def has_other(self, message: Message, channel: int) -> bool:
        """Whether the route has a channel that was not tried yet, besides this one."""
        ...

    def spare(self, message: Message, channel: int) -> int:
        """Another channel that takes the message now, 0 without any."""
        ...

    def spill(self, message: Message, channel: int, cause: str) -> None:
        """Put it into the lane of that one."""
        ...

    def repair(self, channel: int, submits: Sequence[Submit], due: float, until: float) -> None:
        """Try missing segments again on the same channel."""
        ...


@dataclass(slots=True)
class Burst:
    """What one burst of answers of one channel amounts to; mutable, one per burst."""

    channel: int
    unix: float
    now: float
    rows: list[EventRow] = field(default_factory=list)
    sql: list[str] = field(default_factory=list)
    unparked: list[int] = field(default_factory=list)  # in one statement, after `sql`
    again: list[Message] = field(default_factory=list)  # back into their lanes now
    # Into these backups' lanes, for these causes.
    spilled: list[tuple[Message, int, str]] = field(default_factory=list)
    # back into their lanes after the commit, if that row is stored then
    after: list[tuple[Message, EventRow]] = field(default_factory=list)
    is_urgent: bool = False


class Settler:
    """Turns outcomes into rows."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        ledger: Ledger,
        dispatcher: LaneKeeper,
        evidence: Evidence,
        matches: Matches,
        journal: AnswerJournal,
        words: CarrierWords,
        metrics: Metrics,
        policy: SettlePolicy,
        unix: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._evidence = evidence
        self._matches = matches
        self._journal = journal
        self.words = words  # what the codes say beyond one message
        self._metrics = metrics
        self._policy = policy
        self._unix = unix
        self._monotonic = monotonic
        self.prices: Mapping[int, float] = {}  # of a segment, by channel; set with each snapshot
        dispatcher.not_sent = self._segments_not_sent
        dispatcher.lost = self._segments_lost

    def outcomes(self, channel: int, results: Sequence[tuple[Submit, Outcome]]) -> None:
        """Answers, time-outs and losses of one burst."""
        if any(submit.parts for submit, _ in results):
            results = [(one, outcome) for whole, outcome in results for one in segments_of(whole)]
        # What never left has no write line, so it gets no answer line: lines are counted in pairs.
        lines = [_line(s, o) for s, o in results if s.sent_at or type(o) is not NotSent]
        if lines:
            self._journal.answer_lines(lines)
        if failpoints.is_armed:
            failpoints.hit("settle.journaled")
        burst = Burst(channel, self._unix(), self._monotonic())
        counts: dict[type, int] = {}
        answer_s = 0.0
        for submit, outcome in results:
            kind = type(outcome)
            counts[kind] = counts.get(kind, 0) + 1
            if submit.sent_at:  # not after a restart: nobody knows when it left
                answer_s += burst.now - submit.sent_at
            self._settle(burst, submit, outcome)
        self._count(channel, counts, answer_s, len(results))
        if Rejected in counts:
            self._count_unmapped(channel, results)
        self._finish(burst)

    def _count(self, channel: int, counts: dict[type, int], answer_s: float, size: int) -> None:
        taken, throttled = (
            counts.get(Submitted, 0) + counts.get(Rejected, 0),
            counts.get(Throttled, 0),
        )
        if taken or throttled:
            self._dispatcher.answered(channel, taken, throttled, answer_s / size)
        name = self._ledger.channel_names.get(channel, "")
        for kind, number in counts.items():
            self._metrics.submits_total.inc((name, _LABELS[kind]), number)
        if Submitted in counts:
            self._metrics.submit_seconds.observe((name,), answer_s / size, size)
            self.words.taken(name, counts[Submitted])
            price = self.prices.get(channel)
            if price:
                self._metrics.submitted_cost_total.inc((name,), price * counts[Submitted])

    def _count_unmapped(self, channel: int, results: Sequence[tuple[Submit, Outcome]]) -> None:
        name = self._ledger.channel_names.get(channel, "")
        for _, outcome in results:
            if isinstance(outcome, Rejected) and outcome.cause is Cause.UNKNOWN:
                self.words.unmapped(name, outcome.code)

    def _finish(self, burst: Burst) -> None:
        after = burst.after

        def done() -> None:
            if after:  # committed before anything is sent again
                stored = [message for message, row in after if row.is_stored]
                self._dispatcher.put(stored, first=True)

        sql = "".join(burst.sql) + unpark_sql(burst.unparked)
        if burst.rows or sql or after:
            self._ledger.commit(
                burst.rows,
                urgent=burst.is_urgent or bool(after),
                sql=sql,
                done=done if after else None,
            )
        if burst.again:
            self._dispatcher.put(burst.again, first=True)
        for message, channel, cause in burst.spilled:
            self._dispatcher.spill(message, channel, cause)
        self._evidence.ask()

    def _settle(self, burst: Burst, submit: Submit, outcome: Outcome) -> None:
        message = submit.message
        answers = message.answers
        segment = submit.segment
        if (
            message.state is not _SUBMITTING
            or submit.copy != message.copy
            or submit.attempt != message.attempt
            or answers[segment] is not None
        ):
            self._late(burst, submit, outcome)
            return
        answers[segment] = outcome
        message.open_segments -= 1
        # some carriers give no id, some let us know it without their answer
        if (type(outcome) is Submitted or type(outcome) is Uncertain) and outcome.carrier_id:
            self._matches.put(burst.channel, outcome.carrier_id, message, segment, submit.copy)
        if message.open_segments:
            return
        if submit.total > 1:
            self._decide_long(burst, message)
        elif type(outcome) is Submitted:
            self._submitted(burst, message, 0, outcome, _PATH_SUBMITTED)
            self._left(burst, message)
        else:
            self._decide(burst, message, outcome)

    # -- taken -----------------------------------------------------------------------------

    def _submitted(
        self, burst: Burst, message: Message, segment: int, outcome: Submitted, path: Path
    ) -> None:
        row = self._ledger.row(
            message,
            path,
            _SUBMITTED,
            burst.unix,
            segment=segment,
            copy=message.copy,
            channel=burst.channel,
            carrier_id=outcome.carrier_id or None,
            times=() if path is _PATH_NOTE else self._times(burst, message),
        )
        if row is not None:
            burst.rows.append(row)

    def _left(self, burst: Burst, message: Message) -> None:
        """The carrier has it: nothing is parked, no text is kept in memory."""
        if message.is_parked:
            message.is_parked = False
            burst.unparked.append(message.id)
        if message.parts:
            message.parts = []
        forget_text(message)
        is_single = len(message.texts) == 1 and not message.copy
        if not is_single and message.state is _SUBMITTED:
            self._resettle(burst, message)

    def _resettle(self, burst: Burst, message: Message) -> bool:
        """All may have ended already: the first copy, or segments while the last was repaired.

        RELIABILITY 15: with two copies out any delivered one counts. True when that ended it.
        """
        end = settled(message)
        path = None if end is None else path_to(message, end)
        if end is None or path is None:
            return False
        row = self._ledger.row(message, path, end, burst.unix, copy=message.copy)
        if row is None:
            return False
        burst.rows.append(row)
        burst.is_urgent = True
        if message.is_parked:
            message.is_parked = False
            burst.unparked.append(message.id)
        self._evidence.found(message)
        return True

    def _come_back(self, burst: Burst, message: Message, wait_s: float = 0.0) -> None:
        """Not an attempt: into its lane again, unless its first copy ended it meanwhile."""
        if not undo_attempt(message) or (message.copy and self._resettle(burst, message)):
            return
        message.not_before = burst.now + wait_s if wait_s else 0.0
        burst.again.append(message)

    def _times(self, burst: Burst, message: Message) -> tuple[int, ...]:
        """Milliseconds: waited in the lane, for the answer; () when nobody knows; its detour."""
        if not message.sent_at:
            return ()
        waited_s = message.sent_at - message.queued_at if message.queued_at else 0.0
        times = int(waited_s * 1000), int((burst.now - message.sent_at) * 1000)
        if message.holds or message.throttled_at:
            return times + message.detour + taken_holds(message)
        return times + message.detour if message.detour else times

    # -- long messages ---------------------------------------------------------------------

    def _decide_long(self, burst: Burst, message: Message) -> None:
        """Several segments, all answered: all taken, none taken, or some of each."""
        answers = _outcomes(message)
        taken = sum(type(outcome) is Submitted for outcome in answers)
        if not taken:
            self._decide(burst, message, max(answers, key=_gravity))
            return
        if any(type(outcome) is Uncertain for outcome in answers):
            for segment, outcome in enumerate(answers):
                if type(outcome) is Submitted:
                    self._submitted(burst, message, segment, outcome, Path.NOTE)
            self._uncertain(burst, message, "segment.uncertain")
            return
        missing = [index for index, outcome in enumerate(answers) if is_repairable(outcome)]
        if missing and self._repair(burst, message, missing):
            return
        if any(type(answers[index]) is not Rejected for index in missing):
            self._uncertain(burst, message, "channel.link_lost")
            return
        self._submitted_long(burst, message, answers)

    def _repair(self, burst: Burst, message: Message, missing: Sequence[int]) -> bool:
        """Missing segments go to the same channel with the same reference (RELIABILITY 2)."""
        until = message.sent_at + REPAIR_S
        if burst.now >= until:
            return False
        for index in missing:
            message.answers[index] = None
        message.open_segments = len(missing)
        submits = [message.parts[index] for index in missing]
        self._dispatcher.repair(burst.channel, submits, burst.now + 1.0, until)
        return True

    def _submitted_long(self, burst: Burst, message: Message, answers: Sequence[Outcome]) -> None:
        """k rows for k segments; the path rides on the last taken one (DESIGN decision 2)."""
        last = max(i for i, outcome in enumerate(answers) if type(outcome) is Submitted)
        for segment, outcome in enumerate(answers):
            if segment == last:
                continue
            if isinstance(outcome, Submitted):
                self._submitted(burst, message, segment, outcome, Path.NOTE)
            elif isinstance(outcome, Rejected):
                self._segment_refused(burst, message, segment, outcome)
        final = answers[last]
        if isinstance(final, Submitted):
            self._submitted(burst, message, last, final, Path.SUBMITTED)
        if burst.now - message.sent_at > LATE_S:  # also after a restart, when nobody knows
            self._evidence.known_late(burst.channel)
        self._left(burst, message)

    def _segment_refused(
        self, burst: Burst, message: Message, segment: int, outcome: Rejected
    ) -> None:
        row = self._ledger.row(
            message,
            Path.NOTE,
            State.UNDELIVERED,
            burst.unix,
            segment=segment,
            copy=message.copy,
            channel=burst.channel,
            code=outcome.code,
            reason=outcome.reason,
        )
        if row is not None:
            burst.rows.append(row)

    # -- not taken -------------------------------------------------------------------------

    def _decide(self, burst: Burst, message: Message, outcome: Outcome) -> None:
        """No segment was taken: the gravest outcome decides for the message."""
        match outcome:
            case Uncertain(reason=reason):
                self._uncertain(burst, message, reason)
            case Rejected():
                self._rejected(burst, message, outcome)
            case Throttled(retry_after_s):
                self._throttled(burst, message, retry_after_s)
            case NotSent(reason=reason):
                self._not_sent(burst, message, reason)
            case Submitted():
                raise AssertionError("a taken segment is decided elsewhere")
            case _:
                assert_never(outcome)

    def _throttled(self, burst: Burst, message: Message, retry_after_s: float) -> None:
        """Again at the same channel, or at a backup when that would take too long.

        A second copy stays: where it goes was decided when it was made.
        """
        wait_s = min(max(retry_after_s, THROTTLE_MIN_S), THROTTLE_MAX_S)
        message.throttled_at = message.throttled_at or burst.now
        patience_s = OTP_PATIENCE_S if message.message_class is _OTP else PATIENCE_S
        if burst.now + wait_s - message.throttled_at > patience_s and not message.copy:
            spare = self._dispatcher.spare(message, burst.channel)
            if spare and undo_attempt(message):
                burst.spilled.append((message, spare, "throttled"))
                return
        self._come_back(burst, message, _jitter(wait_s))

    def _not_sent(self, burst: Burst, message: Message, reason: str) -> None:
        """Not written. A vendor that could not be reached is left by it at once: its link, which
        takes some failures to fall, would keep it waiting for a connection each time."""
        is_link = reason == NOT_CONNECTED and not message.copy
        spare = self._dispatcher.spare(message, burst.channel) if is_link else 0
        if spare and undo_attempt(message):
            burst.spilled.append((message, spare, "link"))
            return
        self._come_back(burst, message)

    def _rejected(self, burst: Burst, message: Message, outcome: Rejected) -> None:
        goes_on = self._may_try_next(burst.channel, message, outcome)
        is_first_open = message.duplicate_risk and not goes_on  # it may yet turn out delivered
        row = self._ledger.row(
            message,
            Path.REQUEUED if goes_on or is_first_open else Path.SUBMIT_FAILED,
            State.QUEUED if goes_on or is_first_open else State.FAILED,
            burst.unix,
            copy=message.copy,
            channel=burst.channel,
            code=outcome.code,
            reason=outcome.reason,
            times=self._times(burst, message),
        )
        if row is None:
            return
        burst.rows.append(row)
        if is_first_open and not self._resettle(burst, message):
            self._end_unknown(burst, message)
        if not goes_on:
            name = self._ledger.channel_names.get(burst.channel, "")
            if outcome.cause is Cause.NUMBER:
                self.words.bad_number(name, message, outcome.reason)
            elif outcome.reason.startswith("content."):
                self.words.content_refused(name, message, outcome.code)
            self._left(burst, message)
            return
        message.throttled_at = 0.0
        if outcome.cause is Cause.CHANNEL:
            wait_s = min(_jitter(2.0 ** (message.attempt - 1)), self._policy.backoff_cap_s)
            message.not_before = burst.now + wait_s
        burst.after.append((message, row))

    def _end_unknown(self, burst: Burst, message: Message) -> None:
        """The copy was refused for good while nobody knows of the first one."""
        row = self._ledger.row(
            message,
            Path.UNKNOWN,
            State.UNKNOWN,
            burst.unix,
            copy=message.copy,
            reason="evidence.none",
        )
        if row is not None:
            burst.rows.append(row)

    def _may_try_next(self, channel: int, message: Message, outcome: Rejected) -> bool:
        if outcome.cause not in _CHANNEL_CAUSES or message.attempt >= self._policy.max_attempts:
            return False
        if outcome.cause is Cause.UNKNOWN and message.reason == outcome.reason:
            return False  # an unknown code gets one other channel, then it is final
        return self._dispatcher.has_other(message, channel)

    def _uncertain(self, burst: Burst, message: Message, reason: str) -> None:
        """Each segment whose id is known has a row with it, so that its report is found later, in
        any process; the path rides on the last one."""
        known = [
            (segment, answer.carrier_id)
            for segment, answer in enumerate(message.answers)
            if isinstance(answer, Uncertain) and answer.carrier_id
        ]
        for segment, carrier_id in known[:-1]:
            note = self._ledger.row(
                message,
                Path.NOTE,
                State.UNCERTAIN,
                burst.unix,
                segment=segment,
                copy=message.copy,
                channel=burst.channel,
                carrier_id=carrier_id,
                reason=reason,
            )
            if note is not None:
                burst.rows.append(note)
        named = known[-1] if known else None
        row = self._ledger.row(
            message,
            Path.UNCERTAIN,
            State.UNCERTAIN,
            burst.unix,
            segment=None if named is None else named[0],
            copy=message.copy,
            channel=burst.channel,
            carrier_id=None if named is None else named[1],
            reason=reason,
            times=self._times(burst, message),
        )
        if row is None:
            return
        burst.rows.append(row)
        burst.is_urgent = True
        if message.copy and self._resettle(burst, message):
            return
        # After a restart nobody knows when it left.
        message.left_at = burst.unix - (burst.now - message.sent_at) if message.sent_at else 0.0
        burst.sql.append(self._evidence.park(message, burst.unix))
        name = self._ledger.channel_names.get(burst.channel, "")
        self._metrics.uncertain_total.inc((name, reason))

    # -- late ------------------------------------------------------------------------------

    def _late(self, burst: Burst, submit: Submit, outcome: Outcome) -> None:
        """An answer after its submit was given up: transition 13, 14a, or one more id to match."""
        if isinstance(outcome, NotSent):
            self._denied(submit, outcome)
        if not isinstance(outcome, Submitted):
            return
        message, segment, copy = submit.message, submit.segment, submit.copy
        is_newest = copy == message.copy and submit.attempt == message.attempt
        is_replaced = copy == message.copy and not is_newest
        place = segment
        if outcome.carrier_id:
            if is_newest and len(message.texts) > 1:
                place = place_of(message, segment, outcome.carrier_id, message.answers)
            self._matches.put(burst.channel, outcome.carrier_id, message, place, copy)
        if is_newest and segment < len(message.answers):
            message.answers[segment] = outcome
        is_whole = is_newest and all(type(answer) is Submitted for answer in message.answers)
        is_end = message.state is State.UNCERTAIN and is_whole
        row = self._ledger.row(
            message,
            Path.SUBMITTED_LATE if is_end else Path.NOTE,
            State.SUBMITTED,
            burst.unix,
            # Of an attempt that 14a replaced the id is kept to be found by; nothing else is moved.
            segment=None if is_replaced else place,
            copy=copy,
            channel=burst.channel,
            carrier_id=outcome.carrier_id or None,
        )
        if row is None:
            return
        burst.rows.append(row)
        self._evidence.known_late(burst.channel)
        if is_end:
            self._evidence.found(message)
            self._left(burst, message)

    def _denied(self, submit: Submit, outcome: NotSent) -> None:
        """A vendor that was asked never accepted it: 14a once that is known of all segments."""
        message, segment = submit.message, submit.segment
        if submit.copy == message.copy and submit.attempt == message.attempt:
            if message.state is State.UNCERTAIN and segment < len(message.answers):
                message.answers[segment] = outcome
                if all(type(answer) is NotSent for answer in message.answers):
                    self._evidence.denied(message)
        elif submit.copy < message.copy and submit.attempt == message.attempt - 1:
            self._evidence.first_denied(message, segment)

    # -- segments that did not leave -------------------------------------------------------

    def _segments_not_sent(self, channel: int, submits: Sequence[Submit], reason: str) -> None:
        if submits:
            self.outcomes(channel, [(submit, NotSent(reason)) for submit in submits])

    def _segments_lost(self, channel: int, submits: Sequence[Submit], reason: str) -> None:
        """Missing segments whose channel stayed away: the message is uncertain."""
        self.outcomes(channel, [(submit, Uncertain(reason)) for submit in submits])


_LABELS: dict[type, str] = {
    Submitted: "answered_ok",
    Rejected: "rejected",
    Throttled: "throttled",
    NotSent: "not_sent",
    Uncertain: "uncertain",
}
_KINDS: dict[type, int] = {Submitted: 0, Rejected: 1, Throttled: 2, NotSent: 3, Uncertain: 4}
_GRAVITY: dict[type, int] = {Submitted: 0, NotSent: 1, Throttled: 2, Rejected: 3, Uncertain: 4}


def _gravity(outcome: Outcome) -> int:
    return _GRAVITY[type(outcome)]


def _outcomes(message: Message) -> list[Outcome]:
    return [
        outcome
        for outcome in message.answers
        if isinstance(outcome, Submitted | Rejected | Throttled | NotSent | Uncertain)
    ]


def is_repairable(outcome: Outcome) -> bool:
    """Whether a segment that ended so goes again when others of its message were taken."""
    if isinstance(outcome, Rejected):
        return outcome.cause is Cause.CHANNEL
    return isinstance(outcome, NotSent | Throttled)


def _line(submit: Submit, outcome: Outcome) -> AnswerLine:
    """The journal's line of one answer."""
    carrier_id = code = ""
    if isinstance(outcome, Submitted | Uncertain):
        carrier_id = outcome.carrier_id
    elif isinstance(outcome, Rejected):
        code = f"{outcome.cause}|{outcome.reason}|{outcome.code}"
    kind = _KINDS[type(outcome)]
    return submit.message.id, submit.segment, submit.attempt, submit.copy, kind, carrier_id, code


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 (spreads retries, no secret)


_EMPTY_TEXTS: dict[int, tuple[str, ...]] = {}


def forget_text(message: Message) -> None:
    """Drop the text of what a carrier took: the store has it, memory needs only the count."""
    size = len(message.texts)
    texts = _EMPTY_TEXTS.get(size)
    if texts is None:
        texts = _EMPTY_TEXTS[size] = ("",) * size
    message.texts = texts
