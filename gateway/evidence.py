"""Lost answers: how long evidence is awaited, and what happens when none comes.

RELIABILITY section 5. A message whose answer was lost stands in `parked` with a due time; when
it is due, its policy decides: one marked second copy, committed before it is sent, or waiting on
to the receipt deadline and then `unknown`.

    uncertain ─▶ its channel can ask? ─▶ asked at once, and again by whoever takes it up later
                     ├─ "I have it" ─▶ 13 (settle.py)        ├─ a receipt ─▶ 13, 15 (reports.py)
                     └─ "I never accepted it" ─▶ 14a: another channel, unmarked, or failed
        due ─▶ asked for 5 s in this life? ─▶ 14, or on

All of these may come in any order and in several processes. Each is one row after the one that it
was decided upon, so the store lets one of them through; who lost reads again (conflicts.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from adapters.base import Lost
from gateway.dispatch import Dispatcher
from gateway.ledger import Ledger
from gateway.lostanswer import CopyVerdict, Policies, Prospect
from gateway.vendors import Vendors
from receipts.deadline import NO_EVIDENCE, end_at_deadline
from receipts.state import NOT_ACCEPTED, Path, derive, path_to, report_path
from sms.model import (
    FINAL_STATES,
    EventRow,
    Message,
    MessageClass,
    State,
    Submit,
    UncertainPolicy,
)
from sms.outcomes import NotSent, Uncertain
from store.fragments import Why, hasten_reports_sql, park_sql, unpark_sql
from telemetry.metrics import Metrics

MAX_WAITING = 20_000  # live objects of uncertain messages
REPARK_S = 600.0  # what came back keeps its parked row, pushed out this far, until it has left
BUDGET_WAIT_S = 2.0  # until the retry budget is asked for a second copy again
ASK_WAIT_S = 5.0  # a decision waits so long for a vendor that was not asked yet in this life
MAX_ASKED = 100_000  # messages that were asked about; beyond, the oldest counts as not asked
# Between two looks at what only its vendor can clear up: as old as it is, within these.
LOOK_MIN_S, LOOK_MAX_S = 60.0, 3600.0
_DAY_S = 86_400.0
_ZONES_S = (0.0, 28_800.0)  # days by which vendors file what they sent: UTC, UTC+8


@dataclass(frozen=True, slots=True)
class EvidencePolicy:
    """The numbers of RELIABILITY section 5, seconds."""

    wait_otp_s: float = 8.0
    wait_transactional_s: float = 120.0
    otp_min_validity_s: float = 60.0  # a second copy of an otp needs this much left
    receipt_deadline_s: float = 259_200.0
    max_attempts: int = 4


class Evidence:
    """Keeps the messages whose answer was lost."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        dispatcher: Dispatcher,
        metrics: Metrics,
        policy: EvidencePolicy,
        unix: Callable[[], float],
        vendors: Vendors | None = None,
    ) -> None:
        self.policies = Policies()  # wiring gives the platform's
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._policy = policy
        self._unix = unix
        self.waiting: dict[int, Message] = {}  # live objects; a restart reads them back
        # What an earlier life left in the store, for the gauges: how many, and since when.
        self._away: dict[MessageClass, int] = {}
        self._away_since: dict[MessageClass, float] = {}
        self._unasked: list[Message] = []  # uncertain just now
        self._lately: set[int] = set()  # channels on which an answer was lost just now
        self._asked: dict[int, float] = {}  # since when, Unix seconds, in this life
        # By the configuration, also where another process runs the channel.
        self.vendors = Vendors() if vendors is None else vendors
        self.is_vendor: Callable[[int], bool] = self.vendors.is_vendor
        self.asks: Callable[[int], bool] = self.vendors.asks

    def park(self, message: Message, unix: float) -> str:
        """SQL that parks an uncertain message; to ride with its `uncertain` row."""
        message.is_parked = True
        message.uncertain_at = unix
        self._keep(message)
        self._lately.add(message.channel)
        if self._asks(message.channel):
            self._unasked.append(message)
        sql = self._park(message, unix + self._wait_s(message), Why.UNCERTAIN)
        if self.is_vendor(message.channel):  # its receipt may have been quicker than its answer
            sql += hasten_reports_sql(message.id, message.attempt)
        return sql

    def known_late(self, channel: int) -> None:
        """Ids of this channel are stored long after their text left: receipts may wait for them."""
        self._lately.add(channel)

    def lately_lost(self) -> set[int]:
        """Channels on which answers were lost, or came late, since this was asked last."""
        channels, self._lately = self._lately, set()
        return channels

    def set_gauges(self) -> None:
        """Before a scrape: how many wait, and since when. At most `MAX_WAITING` are looked at."""
        counts = dict.fromkeys(MessageClass, 0) | self._away
        oldest = dict(self._away_since)
        for message in self.waiting.values():
            message_class = message.message_class
            counts[message_class] += 1
            if message.uncertain_at < oldest.get(message_class, math.inf):
                oldest[message_class] = message.uncertain_at
        now = self._unix()
        for message_class, count in counts.items():
            labels = (message_class.value,)
            age_s = max(0.0, now - oldest.get(message_class, now))
            self._metrics.uncertain_messages.set(labels, count)
            self._metrics.uncertain_oldest_age_seconds.set(labels, age_s)

    def counted(
        self, stored: Mapping[MessageClass, int], since: Mapping[MessageClass, float]
    ) -> None:
        """How many have a row; `since` when the oldest that is not in memory is uncertain."""
        here = Counter(message.message_class for message in self.waiting.values())
        self._away = {of: more for of, n in stored.items() if (more := n - here[of]) > 0}
        self._away_since = {of: since[of] for of in self._away if of in since}

    def unheard(self, unix: float, most: int) -> list[Message]:
        """Some whose vendor was asked and has said nothing for a while; by turns.

        Another process may have heard what this one waits for: receipts come to any.
        """
        late = (
            one
            for one in self.waiting.values()
            if unix - one.uncertain_at >= LOOK_MIN_S and self._asks(one.channel)
        )
        some = list(islice(late, most))
        for message in some:
            self.waiting[message.id] = self.waiting.pop(message.id)
        return some

    def found(self, message: Message) -> None:
        """Evidence came: the caller unparks it with the row that says so."""
        self.waiting.pop(message.id, None)
        self._asked.pop(message.id, None)
        self._dispatcher.retries.forget(message)

    def _keep(self, message: Message) -> None:
        self.waiting[message.id] = message
        if len(self.waiting) > MAX_WAITING:  # its parked row suffices: it is read back when due
            del self.waiting[next(iter(self.waiting))]

    def _wait_s(self, message: Message) -> float:
        if message.copy or not self.policies.of(message).is_resending:
            deadline_s = self._policy.receipt_deadline_s
            return min(LOOK_MIN_S, deadline_s) if self._asks(message.channel) else deadline_s
        if message.message_class is MessageClass.OTP:
            return self._policy.wait_otp_s
        return self._policy.wait_transactional_s

    def _park(self, message: Message, due: float, why: Why) -> str:
        row = (message.id, due, why, message.message_class, message.tenant)
        return park_sql(self._ledger.process, [row])

    def due(self, message: Message) -> None:
        """Its time in `parked` is over and no evidence came."""
        unix = self._unix()
        if message.state is not State.UNCERTAIN:
            self.found(message)
            if message.id not in self._ledger.live:
                message.is_parked = False
                self._ledger.commit([], sql=unpark_sql([message.id]))
            return
        deadline = message.uncertain_at + self._policy.receipt_deadline_s
        if unix >= deadline:
            self._give_up(message, unix)
        elif wait_s := self._ask_first(message, unix):
            self._ledger.commit([], sql=self._park(message, unix + wait_s, Why.UNCERTAIN))
        elif self._refusal(message, unix) is None:
            if self._dispatcher.retries.take(message):
                self._resend(message, unix, "uncertain.resend")
            else:
                later = unix + BUDGET_WAIT_S
                self._ledger.commit([], sql=self._park(message, later, Why.UNCERTAIN))
        else:
            self._dispatcher.retries.forget(message)
            look = min(deadline, unix + self._look_s(message, unix))
            self._ledger.commit([], sql=self._park(message, look, Why.UNCERTAIN))
            if look < deadline:
                self._ask([message])

    # -- asking ----------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask about what became uncertain; for who has handed those rows on just now."""
        unasked, self._unasked = self._unasked, []
        self._ask(unasked)

    def channel_up(self, channel: int) -> None:
        """Its channel can be used (again): what waits for its word is asked about."""
        runtime = self._dispatcher.channels.get(channel)
        if runtime is not None and runtime.adapter.can_ask:
            self._ask(one for one in list(self.waiting.values()) if one.channel == channel)

    def _asks(self, channel: int) -> bool:
        """Whether its vendor can be asked, from here or from where the channel runs."""
        runtime = self._dispatcher.channels.get(channel)
        return self.asks(channel) if runtime is None else runtime.adapter.can_ask

    def _ask(self, messages: Iterable[Message]) -> None:
        lost: dict[int, list[Lost]] = {}
        unix = self._unix()
        for message in messages:
            if message.state is State.UNCERTAIN:
                lost.setdefault(message.channel, []).append(_lost(message))
        for channel, submits in lost.items():
            runtime = self._dispatcher.channels.get(channel)
            if runtime is None or not runtime.adapter.can_ask:
                continue  # `channel_up` and `due` come back to it
            for one in submits:
                self._note_asked(one.submit.message.id, unix)
            runtime.adapter.ask(submits)

    def _note_asked(self, message_id: int, unix: float) -> float:
        since = self._asked.setdefault(message_id, unix)
        if len(self._asked) > MAX_ASKED:  # the oldest may have been cleared up by another process
            del self._asked[next(iter(self._asked))]
        return since

    def _ask_first(self, message: Message, unix: float) -> float:
        """Ask before deciding; how long that waits for the answer, 0.0 = it has waited enough."""
        if not self._asks(message.channel):
            return 0.0
        is_new = message.id not in self._asked
        wait_s = self._note_asked(message.id, unix) + ASK_WAIT_S - unix
        if wait_s <= 0.0:
            return 0.0
        self._keep(message)
        if is_new:
            self._ask([message])
        return wait_s

    def _look_s(self, message: Message, unix: float) -> float:
        if not self._asks(message.channel):
            return self._policy.receipt_deadline_s
        return min(max(unix - message.uncertain_at, LOOK_MIN_S), LOOK_MAX_S)

    def denied(self, message: Message) -> None:
        """Transition 14a: asked, the vendor says that it never accepted the newest attempt.

        It goes on as one that was not sent: to another channel, unmarked, and no second copy. A
        copy that has no channel left waits on while the first one may yet turn out delivered.
        """
        unix = self._unix()
        if not _is_dated(message):
            return
        goes_on = (
            message.valid_until > unix
            and message.attempt < self._policy.max_attempts
            and self._dispatcher.has_other(message, message.channel)
        )
        if message.copy and not goes_on:
            if derive(message.first_states) is not None:
                for segment in range(message.segments):
                    self._end_denied(message, segment, message.copy)
            return
        row = self._ledger.row(
            message,
            Path.QUEUED if goes_on else Path.FAILED,
            State.QUEUED if goes_on else State.FAILED,
            unix,
            copy=message.copy,
            channel=message.channel,
            reason=NOT_ACCEPTED,
        )
        if row is None:
            return
        self.found(message)
        self._dispatcher.retries.free(message)  # as what was not sent
        if not goes_on:
            message.is_parked = False
            self._ledger.commit([row], sql=unpark_sql([message.id]))
            return
        self._ledger.commit(
            [row],
            sql=self._park(message, unix + REPARK_S, Why.QUEUED),
            done=lambda: self._dispatcher.resend(message) if row.is_stored else None,
        )

    def first_denied(self, message: Message, segment: int) -> None:
        """The same of the first copy, while the second is out: only that one decides now."""
        if not _is_dated(message):
            return
        self._end_denied(message, segment, 0)
        is_denied = all(type(answer) is NotSent for answer in message.answers)
        if message.state is State.UNCERTAIN and is_denied:  # the copy was before, and waited
            self.denied(message)

    def _end_denied(self, message: Message, segment: int, copy: int) -> None:
        """A segment of a copy that was never accepted is at its end."""
        path = report_path(message, segment, copy, State.UNDELIVERED)
        if path is None:
            return
        row = self._ledger.row(
            message,
            path,
            State.UNDELIVERED,
            self._unix(),
            segment=segment,
            copy=copy,
            reason=NOT_ACCEPTED,
        )
        if row is None:
            return
        sql = ""
        if message.state in FINAL_STATES:
            self.found(message)
            if message.is_parked:
                message.is_parked = False
                sql = unpark_sql([message.id])
        self._ledger.commit([row], sql=sql)

    # -- deciding --------------------------------------------------------------------------

    def _refusal(
        self, message: Message, unix: float, *, is_asked: bool = False
    ) -> CopyVerdict | None:
        """Why there may be no second copy; None = there may. `is_asked`: an operator wants it."""
        if message.copy:
            return CopyVerdict.DONE
        if message.state is not State.UNCERTAIN:
            return CopyVerdict.KNOWN
        if not (self._is_for_operator(message, unix) if is_asked else self._is_resending(message)):
            return CopyVerdict.POLICY
        if message.attempt >= self._policy.max_attempts:
            return CopyVerdict.ATTEMPTS
        return None if unix <= self._copy_until(message) else CopyVerdict.LATE

    def _copy_until(self, message: Message) -> float:
        """Unix seconds: a copy that leaves later would come too late."""
        is_otp = message.message_class is MessageClass.OTP
        return message.valid_until - (self._policy.otp_min_validity_s if is_otp else 1.0)

    def prospect(self, message: Message) -> Prospect:
        """What an uncertain message waits for, as its stored rows say; for the operator's list."""
        unix = self._unix()
        deadline = message.uncertain_at + self._policy.receipt_deadline_s
        may_resend = self._refusal(message, unix, is_asked=True) is None
        until = deadline
        if self._refusal(message, unix) is None:  # at once, where it is late for its budget
            until = max(unix, message.uncertain_at + self._wait_s(message))
        return Prospect(
            self.policies.of(message),
            min(until, deadline),
            min(self._copy_until(message), deadline) if may_resend else None,
        )

    def _is_resending(self, message: Message) -> bool:
        return self.policies.of(message).is_resending

    def _is_for_operator(self, message: Message, unix: float) -> bool:
        """Whether `ask` holds, or did when the answer was lost and its copy is wanted now.

        One that waited for an operator then is not sent by itself, whatever its tenant has
        become; so where copies are made the operator may, once it would have been its time.
        """
        if self.policies.of(message) is UncertainPolicy.ASK:
            return True
        wait_s = self._wait_s(message)
        return self._is_resending(message) and unix >= message.uncertain_at + wait_s

    def order(self, message: Message, done: Callable[[], None]) -> CopyVerdict | EventRow:
        """An operator wants the second copy: its row, or why there is none.

        `done` is called after the commit of the row; `is_stored` then says whether it stands.
        """
        unix = self._unix()
        refusal = self._refusal(message, unix, is_asked=True)
        if refusal is not None:
            return refusal
        self._dispatcher.retries.free(message)
        row = self._resend(message, unix, "uncertain.operator")
        self._ledger.commit([], done=done)
        return CopyVerdict.KNOWN if row is None else row

    def _resend(self, message: Message, unix: float, reason: str) -> EventRow | None:
        """Transition 14: the one marked copy, committed before it is dispatched."""
        row = self._ledger.row(
            message,
            Path.QUEUED,
            State.QUEUED,
            unix,
            copy=1,
            channel=message.channel,
            reason=reason,
        )
        if row is None:
            return None
        self.found(message)
        self._metrics.duplicate_copies_total.inc()
        self._ledger.commit(
            [row],
            sql=self._park(message, unix + REPARK_S, Why.QUEUED),
            done=lambda: self._dispatcher.resend(message) if row.is_stored else None,
        )
        return row

    def _give_up(self, message: Message, unix: float) -> None:
        """Transition 18: the receipt deadline passed without evidence; what is known counts."""
        end = end_at_deadline(message)
        row = self._ledger.row(
            message,
            path_to(message, end) or Path.UNKNOWN,
            end,
            unix,
            copy=message.copy,
            channel=message.channel,
            reason=None if end is State.DELIVERED else NO_EVIDENCE,
        )
        self.found(message)
        message.is_parked = False
        self._ledger.commit([row] if row else [], sql=unpark_sql([message.id]))


def submit_of(message: Message) -> Submit:
    """The newest attempt of an uncertain message, to be asked about: whole, without its text."""
    total = message.segments
    if len(message.answers) != total:  # read back: its answers were all given up
        message.answers = [Uncertain("process.lost")] * total
    parts = tuple(
        Submit(
            message,
            segment,
            total,
            message.number,
            "",
            message.encoding,
            b"",
            has_udh=False,
            validity_s=1,
            attempt=message.attempt,
            copy=message.copy,
        )
        for segment in range(total)
    )
    return parts[0] if total == 1 else replace(parts[0], parts=parts)


def _lost(message: Message) -> Lost:
    """What its vendor is asked, with the moments between which the newest attempt left.

    After a kill only that it left between accept and recovery is known.
    """
    submit = submit_of(message)
    if message.left_at:
        return Lost(submit, message.left_at, 0.0)
    latest = message.uncertain_at
    return Lost(submit, latest, max(0.0, latest - message.created_at))


def _is_dated(message: Message) -> bool:
    """Whether it is known on which day the attempt left: vendors are asked about one day.

    After a kill only that it left between accept and recovery is known; a question about the
    wrong day would be answered "never accepted", and the text would go out twice.
    """
    if message.left_at:
        return True
    first, last = message.created_at, message.uncertain_at
    return all((first + zone) // _DAY_S == (last + zone) // _DAY_S for zone in _ZONES_S)
