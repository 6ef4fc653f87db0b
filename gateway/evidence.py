"""Lost answers: how long evidence is awaited, and what happens when none comes.

RELIABILITY section 5. A message whose answer was lost stands in `parked` with a due time; when
it is due, its policy decides: one marked second copy, committed before it is sent, or waiting on
to the receipt deadline and then `unknown`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.dispatch import Dispatcher
from gateway.ledger import Ledger
from receipts.state import Path
from sms.model import Message, MessageClass, OnUncertain, State
from store.fragments import Why, park_sql, unpark_sql
from telemetry.metrics import Metrics

MAX_WAITING = 20_000  # live objects of uncertain messages
REPARK_S = 600.0  # what came back keeps its parked row, pushed out this far, until it has left


@dataclass(frozen=True, slots=True)
class EvidencePolicy:
    """The numbers of RELIABILITY section 5, seconds."""

    wait_otp_s: float = 8.0
    wait_transactional_s: float = 120.0
    otp_min_validity_s: float = 60.0  # a second copy of an otp needs this much left
    receipt_deadline_s: float = 259_200.0


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
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._policy = policy
        self._unix = unix
        self.waiting: dict[int, Message] = {}  # live objects; a restart reads them back

    def park(self, message: Message, unix: float) -> str:
        """SQL that parks an uncertain message; to ride with its `uncertain` row."""
        message.is_parked = True
        message.uncertain_at = unix
        self.waiting[message.id] = message
        if len(self.waiting) > MAX_WAITING:  # its parked row suffices: it is read back when due
            del self.waiting[next(iter(self.waiting))]
        return self._park(message, unix + self._wait_s(message), Why.UNCERTAIN)

    def found(self, message: Message) -> None:
        """Evidence came: the caller unparks it with the row that says so."""
        self.waiting.pop(message.id, None)

    def _wait_s(self, message: Message) -> float:
        policy = effective_policy(message)
        if message.copy or policy is OnUncertain.HOLD:
            return self._policy.receipt_deadline_s
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
            self.waiting.pop(message.id, None)
            if message.id not in self._ledger.live:
                message.is_parked = False
                self._ledger.commit([], sql=unpark_sql([message.id]))
            return
        deadline = message.uncertain_at + self._policy.receipt_deadline_s
        if unix >= deadline:
            self._give_up(message, unix)
        elif self._may_resend(message, unix):
            self._resend(message, unix)
        else:
            self._ledger.commit([], sql=self._park(message, deadline, Why.UNCERTAIN))

    def _may_resend(self, message: Message, unix: float) -> bool:
        if message.copy or effective_policy(message) is OnUncertain.HOLD:
            return False
        is_otp = message.message_class is MessageClass.OTP
        needed_s = self._policy.otp_min_validity_s if is_otp else 1.0
        return message.valid_until - unix >= needed_s

    def _resend(self, message: Message, unix: float) -> None:
        """Transition 14: the one marked copy, committed before it is dispatched."""
        row = self._ledger.row(
            message,
            Path.QUEUED,
            State.QUEUED,
            unix,
            copy=1,
            channel=message.channel,
            reason="uncertain.resend",
        )
        if row is None:
            return
        self.waiting.pop(message.id, None)
        self._metrics.duplicate_copies_total.inc()
        self._ledger.commit(
            [row],
            sql=self._park(message, unix + REPARK_S, Why.QUEUED),
            done=lambda: self._dispatcher.resend(message) if row.is_stored else None,
        )

    def _give_up(self, message: Message, unix: float) -> None:
        """Transition 18: the receipt deadline passed without evidence."""
        row = self._ledger.row(
            message,
            Path.UNKNOWN,
            State.UNKNOWN,
            unix,
            copy=message.copy,
            channel=message.channel,
            reason="evidence.none",
        )
        self.waiting.pop(message.id, None)
        message.is_parked = False
        self._ledger.commit([row] if row else [], sql=unpark_sql([message.id]))


def effective_policy(message: Message) -> OnUncertain:
    """The message's own policy, else its class's (RELIABILITY section 5)."""
    if message.on_uncertain is not None:
        return message.on_uncertain
    if message.message_class is MessageClass.OTP:
        return OnUncertain.RESEND
    if message.message_class is MessageClass.TRANSACTIONAL:
        return OnUncertain.PROBE_THEN_RESEND
    return OnUncertain.HOLD
