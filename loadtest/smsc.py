"""A simulated carrier: what it decides about logins, submits and reports. No sockets, no HTTP.

    submit ─▶ record line ─▶ (latency) ─▶ answer ─▶ (receipt delay) ─▶ report ─▶ kept till answered

Reports belong to the account (its login), not to the connection: they wait while no session is
bound, go out over any session of the account, and go out again when the client answers with an
error, does not answer, or loses its link – as a real SMSC does.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import islice
from json.encoder import encode_basestring
from random import random
from typing import Any

from loadtest.behaviour import Behaviour
from loadtest.offering import Offering
from loadtest.phone import PhoneText, deliveries
from loadtest.record import Record
from loadtest.server import (
    Delivery,
    Ended,
    Event,
    Facts,
    LoginAsked,
    OwedReport,
    ReportsAnswered,
    ServerSession,
    Side,
    Submits,
)
from loadtest.wheel import Wheel

REPORT_AGAIN_S = 1.0  # after an error answer
REPORT_TIMEOUT_S = 30.0  # without an answer
ENQUIRE_S = 30.0  # of silence from a client
OFFER_S = 0.008  # between two looks at what is offered by now

UNTOLD = 100_000  # submits without a report whose end is remembered
DELIVERED, UNDELIVERABLE = 2, 5  # message_state of SMPP, the one protocol that asks

_TLV_FORMS = ("sar", "payload")  # SMPP's alone
# (carrier id, to, sender) of a submit that is owed a report
Owed = tuple[bytes, bytes, bytes]


@dataclass(slots=True)
class Account:
    """One account: its sessions and the reports that wait for one."""

    sessions: list[ServerSession] = field(default_factory=list)
    waiting: deque[Delivery] = field(default_factory=deque)


def _line(stamp: str, frame: bytes, facts: Facts, status: int, carrier_id: str) -> str:
    """One line of the record; put together by hand, a third of what json.dumps takes."""
    sender, to, reference, index, total, text, _ = facts
    shown_id = f'"{carrier_id}"' if carrier_id else "null"
    return (
        f'{{"at":"{stamp}","to":{encode_basestring(to.decode("latin-1"))}'
        f',"segment_ref":{"null" if reference is None else reference}'
        f',"index":{index},"total":{total},"carrier_id":{shown_id},"status":{status}'
        f',"from":{encode_basestring(sender.decode("latin-1"))}'
        f',"text":{encode_basestring(text)},"hex":"{frame.hex()}"}}\n'
    )


class Smsc:
    """One simulated carrier; `flush(session)` must write what a session has queued."""

    def __init__(  # noqa: PLR0913 – what a carrier is made of
        self,
        *,
        name: str,
        side: Side,
        system_id: str,
        password: str,
        window: int,
        record: Record,
        wheel: Wheel,
        behaviour: Behaviour,
    ) -> None:
        self.name = name
        self.side = side
        self.behaviour = behaviour
        self.counts: Counter[str] = Counter()
        self.dirty: set[ServerSession] = set()  # sessions with something to write
        self.record = record
        self.offering: Offering | None = None  # while reports leave at a rate
        self._system_id = system_id
        self._password = password
        self._window = window
        self._wheel = wheel
        self._accounts: dict[str, Account] = {}
        self._untold: dict[bytes, int] = {}  # how submits ended that got no report
        self._number = 0
        self._tokens = 0.0  # of `takes_per_s`
        self._tokens_at = time.monotonic()
        self._second = -1
        self._second_text = ""

    def receive(self, session: ServerSession, data: bytes, now: float) -> str | None:
        """Bytes from a client; a reason when its connection is to be closed."""
        reason: str | None = None
        for event in session.receive(data, now):
            reason = self._act(session, event) or reason
        self.dirty.add(session)
        return reason

    def _act(self, session: ServerSession, event: Event) -> str | None:
        match event:
            case Submits(submits):
                self._submitted(session, submits)
            case ReportsAnswered(taken, again):
                self.counts["reports_answered"] += taken
                if self.offering is not None:
                    self.offering.take(taken, time.monotonic())
                    self.offering.leave(-len(again))
                self._reports_answered(session, again)
            case LoginAsked():
                return self._login(session, event)
            case Ended(reason):
                return reason
        return None

    # -- logins ----------------------------------------------------------------------------

    def _login(self, session: ServerSession, asked: LoginAsked) -> str | None:
        status = 0
        if self._system_id and asked.system_id != self._system_id:
            status = self.side.unknown_account
        elif self._password and not asked.knows(self._password):
            status = self.side.wrong_password
        session.answer_login(asked, status, self.name)
        if not session.system_id:
            self.counts["binds_refused"] += 1
            return "login refused"
        self.counts["binds"] += 1
        self.joined(session)
        return None

    def joined(self, session: ServerSession) -> None:
        """A connection is logged in: what waits for its account may go over it."""
        session.states = self._untold
        self._account(session.system_id).sessions.append(session)
        self._deliver(session.system_id)
        self.dirty.add(session)

    def _account(self, system_id: str) -> Account:
        return self._accounts.setdefault(system_id, Account())

    def lost(self, session: ServerSession) -> None:
        """A connection is gone; the reports it had not answered go first to the next one."""
        self.dirty.discard(session)
        account = self._accounts.get(session.system_id)
        if account is None or session not in account.sessions:
            return
        account.sessions.remove(session)
        lost = session.lost()
        if self.offering is not None:
            self.offering.leave(-len(lost))
        account.waiting.extendleft(reversed(lost))
        self._deliver(session.system_id)

    def sessions(self, *, calls: bool = False) -> int:
        """Bound sessions of all accounts; or, of SGIP, our own logins at the clients."""
        return sum(
            session.is_call is calls
            for account in self._accounts.values()
            for session in account.sessions
        )

    def waiting(self) -> int:
        """Reports that wait for a session or for room."""
        return sum(len(account.waiting) for account in self._accounts.values())

    # -- submits ---------------------------------------------------------------------------

    def _submitted(self, session: ServerSession, submits: list[tuple[int, bytes, Any]]) -> None:
        behaviour = self.behaviour
        stamp = self._stamp()
        over = session.unanswered - self._window if self._window and not behaviour.silent else 0
        is_plain = not (
            behaviour.failure_share or behaviour.throttle_share or behaviour.takes_per_s or over > 0
        )
        lines: list[str] = []
        answers: list[tuple[int, int, bytes]] = []
        owed: list[Owed] = []
        for place, (sequence, frame, parsed) in enumerate(submits):
            status = 0 if is_plain else self._verdict(is_over=place >= len(submits) - over)
            carrier_id = ""
            if not status:
                self._number += 1
                carrier_id = self.side.carrier_id(self._number, sequence)
            facts = self.side.facts(parsed)
            lines.append(_line(stamp, frame, facts, status, carrier_id))
            answer_id = carrier_id.encode()
            answers.append((sequence, status, answer_id))
            if facts.wants_report and not status:
                owed.append((answer_id, facts.to, facts.sender))
        self.record.write(lines)
        self.counts["submits"] += len(submits)
        if behaviour.silent:
            # They hold no place in the window afterwards: silence is to end when it is told to.
            session.unanswered -= len(submits)
            self.counts["silent"] += len(submits)
            return
        if owed and behaviour.receipts and behaviour.report_quirk == "before_answer":
            self._report(session.system_id, owed, time.time())
            owed = []
        self._later(behaviour.latency_ms, partial(self._answer, session, answers, owed))

    def _stamp(self) -> str:
        at = time.time()
        second = int(at)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{int((at - second) * 1e6):06}Z"

    def _verdict(self, *, is_over: bool) -> int:
        if is_over or (self.behaviour.takes_per_s and self._is_too_fast()):
            return self.side.throttled
        dice = random()
        if dice < self.behaviour.throttle_share:
            return self.side.throttled
        if dice < self.behaviour.throttle_share + self.behaviour.failure_share:
            return self.behaviour.failure_status
        return 0

    def _is_too_fast(self) -> bool:
        """A bucket of a fifth of a second, at least one submit."""
        now, rate = time.monotonic(), self.behaviour.takes_per_s
        self._tokens = min(self._tokens + (now - self._tokens_at) * rate, max(rate / 5, 1.0))
        self._tokens_at = now
        if self._tokens < 1.0:
            return True
        self._tokens -= 1.0
        return False

    def _later(self, delay_ms: int, action: Callable[[], None]) -> None:
        if delay_ms:
            self._wheel.add(delay_ms / 1000, action)
        else:
            action()

    def _answer(
        self, session: ServerSession, answers: list[tuple[int, int, bytes]], owed: list[Owed]
    ) -> None:
        if not session.is_closed:
            session.congestion = self.behaviour.congestion
            session.answer_submits(answers)
            self.dirty.add(session)
        self.counts["accepted"] += sum(1 for answer in answers if not answer[1])
        self.counts["throttled"] += sum(1 for answer in answers if answer[1] == self.side.throttled)
        if not owed:
            return
        report = partial(self._report, session.system_id, owed, time.time())
        if not self.behaviour.receipts:
            report = partial(self._end_untold, owed)
        self._later(self.behaviour.receipt_delay_ms, report)

    def _end_untold(self, owed: list[Owed]) -> None:
        """Nobody is told of their end: who asks learns it."""
        for carrier_id, _, _ in owed:
            is_bad = random() < self.behaviour.undelivered_share
            self._untold[carrier_id] = UNDELIVERABLE if is_bad else DELIVERED
        for _ in range(len(self._untold) - UNTOLD):
            del self._untold[next(iter(self._untold))]

    # -- reports ---------------------------------------------------------------------------

    def _report(self, system_id: str, owed: list[Owed], submitted_at: float) -> None:
        submitted = time.strftime("%y%m%d%H%M", time.localtime(submitted_at)).encode()
        done = time.strftime("%y%m%d%H%M").encode()
        bad_share = self.behaviour.undelivered_share
        for carrier_id, to, sender in owed:
            report = OwedReport(
                *(carrier_id, to, sender, submitted, done),
                is_good=not bad_share or random() >= bad_share,
            )
            self._account(system_id).waiting.extend(self._with_quirk(report))
        self._deliver(system_id)

    def _with_quirk(self, report: OwedReport) -> tuple[OwedReport, ...]:
        """What is sent for one report."""
        match self.behaviour.report_quirk:
            case "twice":
                return (report, report)
            case "accepted_first":
                return (report._replace(is_waiting=True), report)
            case "decimal_id" if self.side.name == "smpp":
                return (report._replace(carrier_id=b"%d" % int(report.carrier_id, 16)),)
            case _:
                return (report,)

    def phone(self, text: PhoneText) -> int:
        """A phone's text, for the carrier's account, kept until it is answered; its segments."""
        system_id = self._system_id or next(iter(self._accounts), "")
        if self.side.name != "smpp" and text.long in _TLV_FORMS:
            text = replace(text, long="udh8")
        owed = deliveries(text)
        for one in owed:
            self._number += 1
            named = one._replace(carrier_id=self.side.text_id(self._number).encode())
            self._account(system_id).waiting.append(named)
        self.counts["inbound"] += len(owed)
        self._deliver(system_id)
        return len(owed)

    def remember(self, lines: Iterable[bytes], since: float) -> int:
        """Owe a report again for each submit taken since that moment (Unix); how many.

        After a restart: which reports were answered is written nowhere, so some come twice.
        """
        owed: list[Owed] = []
        for line in lines:
            submit = json.loads(line)
            if submit["carrier_id"] and datetime.fromisoformat(submit["at"]).timestamp() >= since:
                names = submit["carrier_id"], submit["to"], submit["from"]
                carrier_id, to, sender = (name.encode("latin-1") for name in names)
                owed.append((carrier_id, to, sender))
        if owed:
            report = partial(self._report, self._system_id, owed, time.time())
            self._later(self.behaviour.receipt_delay_ms, report)
        return len(owed)

    def _deliver(self, system_id: str) -> None:
        """Hand waiting reports to the account's sessions, an equal share to each."""
        if self.behaviour.reports_held:
            return
        account = self._accounts[system_id]
        able = [session for session in account.sessions if session.deliver_room() > 0]
        now = time.monotonic()
        offering = self.offering
        most = len(account.waiting)
        if offering is not None:
            most = min(most, offering.room(now))
        for left, session in zip(range(len(able), 0, -1), able, strict=True):
            count = min(-(-most // left), session.deliver_room())
            if count:
                most -= count
                if offering is not None:
                    offering.leave(count)
                session.deliver(list(islice(account.waiting, count)), now)
                for _ in range(count):
                    account.waiting.popleft()
                self.dirty.add(session)
                self.counts["reports_sent"] += count

    def changed(self, before: Behaviour) -> None:
        """The behaviour is another one now: what was held may leave, a new rate begins."""
        rate = self.behaviour.reports_per_s
        if rate != before.reports_per_s:
            self.offering = Offering(rate, time.monotonic()) if rate else None
            if self.offering is not None:
                self._offer(self.offering)
        self._deliver_all()

    def _offer(self, offering: Offering) -> None:
        if self.offering is offering:
            self._deliver_all()
            self._wheel.add(OFFER_S, partial(self._offer, offering))

    def _deliver_all(self) -> None:
        for system_id, account in self._accounts.items():
            if account.waiting:
                self._deliver(system_id)

    def _reports_answered(self, session: ServerSession, again: list[Delivery]) -> None:
        account = self._accounts.get(session.system_id)
        if account is None:
            return
        if again:
            self.counts["reports_again"] += len(again)
            self._wheel.add(REPORT_AGAIN_S, partial(self._again, session.system_id, again))
        if account.waiting:
            self._deliver(session.system_id)

    def _again(self, system_id: str, reports: Sequence[Delivery]) -> None:
        self._accounts[system_id].waiting.extendleft(reversed(reports))
        self._deliver(system_id)

    def tick(self, now: float) -> None:
        """Once a second: reports without an answer, clients without a word."""
        for system_id, account in self._accounts.items():
            for session in account.sessions:
                late = session.overdue(now, REPORT_TIMEOUT_S)
                if late:
                    self.counts["reports_again"] += len(late)
                    if self.offering is not None:
                        self.offering.leave(-len(late))
                    self._again(system_id, late)
                if now - session.heard_at >= ENQUIRE_S:
                    session.enquire()
                    self.dirty.add(session)
