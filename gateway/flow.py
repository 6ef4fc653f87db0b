"""The hub of one worker: what the API asks, what channels tell, what the store commits.

Nothing is decided here. Each callback goes to the part that decides, so that the path can be
read in those: `admit` → `accept` → `lanes` → `dispatch` → `settle` / `reports` → `notify`.
"""

from __future__ import annotations

import math
import time
from asyncio import Future
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath
from typing import Final

from compliance.policy import SendingPolicy
from failover.breaker import BreakerState
from gateway.api.access import Access
from gateway.backlog import Backlog
from gateway.calls import Calls
from gateway.channel_news import ChannelNews
from gateway.commands import CommandDesk
from gateway.conflicts import Conflicts
from gateway.dispatch import Dispatcher
from gateway.evidence import Evidence
from gateway.inbound import InboundDesk
from gateway.lanes import Lanes
from gateway.ledger import Ledger
from gateway.lostanswer import Prospect
from gateway.matches import Matches
from gateway.outage import Outage
from gateway.porting import Porting
from gateway.pumping import Pumping
from gateway.queuegauges import set_queue_gauges
from gateway.readiness import NO_SESSION, lacking
from gateway.reports import Reports
from gateway.schedule import Schedule
from gateway.settings import Reliability
from gateway.settle import AnswerLine, Settler
from gateway.shedding import Shedding
from gateway.slices import Slices
from gateway.smg_port import SmgPort
from gateway.suppressing import Suppressing
from gateway.twins import template_of
from gateway.webhook_desk import WebhookDesk
from ratelimit.tenants import TenantLimits
from sms.config import Snapshot
from sms.model import EventRow, Inbound, Message, MessageClass, Report, State, Submit
from sms.outcomes import Outcome
from store.accept import Acceptor
from store.events import EventLane
from store.intake import Intake, IntakeKey
from store.journal import Journal
from store.processes import ProcessLease
from store.read import Reader
from store.reading import Reading
from store.seal import Keyring
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

log = get_logger(__name__)

# After PostgreSQL said that its disk is full: so long nobody is accepted, then some are, to see …
STORE_PROBE_S: Final = 1.0
STORE_FULL_S: Final = 5.0  # … and so long the process is not ready, unless more is refused


class JournalGate:
    """The journal, once recovery has been committed; before that nothing is written to it."""

    def __init__(self, metrics: Metrics) -> None:
        self.journal: Journal | None = None
        self._metrics = metrics

    def write_lines(self, channel: int, submits: Sequence[Submit]) -> bool:
        """One write() before the burst's first byte; False = nothing may leave."""
        if self.journal is None:
            return False
        is_written = self.journal.write_lines(
            [
                (s.message.id, s.segment, s.attempt, s.copy, channel)
                for submit in submits
                for s in submit.parts or (submit,)
            ]
        )
        if not is_written:
            self._metrics.journal_failures_total.inc()
        return is_written

    def answer_lines(self, entries: Sequence[AnswerLine]) -> bool:
        """One write() for a burst of answers; a failure only widens what recovery must ask."""
        if self.journal is None:
            return True
        is_written = self.journal.answer_lines(entries)
        if not is_written:
            self._metrics.journal_failures_total.inc()
        return is_written


@dataclass(slots=True)
class Parts:
    """What wiring joins; every field is one object of the worker."""

    reliability: Reliability
    keyring: Keyring
    metrics: Metrics
    reader: Reader
    intake: Intake
    limiter: TenantLimits
    lease: ProcessLease
    lanes: Lanes
    backlog: Backlog
    ledger: Ledger
    dispatcher: Dispatcher
    evidence: Evidence
    schedule: Schedule
    policy: SendingPolicy
    porting: Porting
    settler: Settler
    matches: Matches
    reports: Reports
    journal: JournalGate
    data_dir: FilePath
    supervisor_socket: FilePath | None
    public_metrics: bool
    monotonic: Callable[[], float]


class Flow:
    """The door between the API, the channels and the store of one worker."""

    smg_port: SmgPort  # joined by wiring: it calls back into this object
    inbound_desk: InboundDesk | None = None  # joined by wiring: it calls back into this object
    news: ChannelNews | None = None  # joined by wiring, of what it tells the webhooks
    pumping: Pumping | None = None  # joined by wiring
    webhooks: WebhookDesk | None = None  # as well

    def __init__(self, parts: Parts) -> None:
        self.reliability = parts.reliability
        self.keyring = parts.keyring
        self.metrics = parts.metrics
        self.reader = parts.reader
        self.intake = parts.intake
        self.limiter = parts.limiter
        self.lease = parts.lease
        self.lanes = parts.lanes
        self.backlog = parts.backlog
        self.ledger = parts.ledger
        self.dispatcher = parts.dispatcher
        self.evidence, self.vendors = parts.evidence, parts.evidence.vendors
        self.schedule = parts.schedule
        self.policy, self.porting = parts.policy, parts.porting
        self.settler = parts.settler
        self.matches = parts.matches
        self.reports_desk = parts.reports
        self._slices = Slices(parts.reports.receive)
        self.journal = parts.journal
        self.supervisor_socket = parts.supervisor_socket
        self.public_metrics = parts.public_metrics
        self._monotonic = parts.monotonic
        self.snapshot, self.calls = Snapshot(), Calls(self)
        self.access = Access()  # filled by wiring
        self.reading: Reading  # as well, before the first request
        self.suppressions: Suppressing | None = None  # joined by wiring
        self.acceptor: Acceptor | None = None  # joined by wiring: both call back into this object
        self.events: EventLane | None = None
        self.conflicts: Conflicts | None = None
        self.commands: CommandDesk  # joined by wiring too
        self.link_news: Callable[[], None] = lambda: None  # the other processes are told
        self.loop_lag_s = 0.0
        self.is_draining = False
        self.outage = Outage()
        self.is_intake_closed = False
        self.accepting = 1  # living processes that take messages; each has its part of the queue
        self.shedding = Shedding(
            limits=parts.reliability,
            backlog=parts.backlog,
            lanes=parts.lanes,
            dispatcher=parts.dispatcher,
            data_dir=parts.data_dir,
            monotonic=parts.monotonic,
        )
        self.tenant_names: dict[int, str] = {}

    # -- for the API -----------------------------------------------------------------------

    def room(self, message_class: MessageClass, n: int) -> bool:
        """Count `n` messages as coming; False = what may wait here is full."""
        if not self.backlog.has_room(message_class, n):
            return False
        self.lanes.reserve(message_class, n)
        return True

    def give_back(self, message_class: MessageClass, n: int) -> None:
        """Undo `room` for messages that `accept` was never called with."""
        self.lanes.cancel(message_class, n)

    def accept(
        self,
        messages: list[Message],
        batch_verdicts: Callable[[], bytes] | None = None,
        keys: Sequence[IntakeKey] = (),
    ) -> Future[None]:
        """Done after COMMIT: the promise of the gateway is made when this future resolves."""
        if self.acceptor is None:
            raise RuntimeError("the flow is not joined to an acceptor")
        return self.acceptor.accept(messages, batch_verdicts=batch_verdicts, keys=keys)

    def holder(self, keys: Iterable[IntakeKey]) -> Future[None] | None:
        """When an accept of this process that has one of the keys will be over; None = none has."""
        return None if self.acceptor is None else self.acceptor.holder(keys)

    def prospect(self, message: Message) -> Prospect:
        """What an uncertain message waits for (`Evidence.prospect`)."""
        return self.evidence.prospect(message)

    def live(self, message_id: int) -> Message | None:
        """The owner's object as the API may show it, None when this process has none."""
        message = self.ledger.live.get(message_id)
        if message is None:
            return None
        if message.state is State.ACCEPTED:
            return replace(message, state=State.QUEUED)
        return message

    def is_taken(self, channels: Sequence[int], message_class: MessageClass) -> bool:
        """Whether a channel of a route takes messages now."""
        return self.dispatcher.first_fit(channels, message_class) is not None

    def would_take(self, channels: Sequence[int], message_class: MessageClass) -> int | None:
        """The channel of a route that a message would go to now; its primary while all are down."""
        fit = self.dispatcher.first_fit(channels, message_class)
        return fit or (channels[0] if channels else None)

    def channel_name(self, channel_id: int) -> str | None:
        """The name of a channel, also of one that was removed since."""
        return self.ledger.channel_names.get(channel_id)

    @property
    def channel_names(self) -> Mapping[int, str]:
        """By id, also of channels that were removed since this process began."""
        return self.ledger.channel_names

    def channel_ids(self, name: str) -> tuple[int, ...]:
        """The channels that have, or had, this name."""
        return tuple(cid for cid, known in self.ledger.channel_names.items() if known == name)

    def shed(self, message_class: MessageClass) -> tuple[str, str, int] | None:
        """(code, detail, Retry-After s) while intake of the class is closed."""
        if self.is_intake_closed:
            return "shed.draining", "This process is shutting down; another one takes over.", 5
        return self.shedding.closed.get(message_class)

    def route_full(self, message: Message) -> tuple[str, str, int] | None:
        """The same of an open class, while too much waits for the channels of its route."""
        return self.shedding.route_full(message)

    def is_writable(self) -> bool:
        """Whether PostgreSQL takes what is accepted: connected, and the lease renewed in time."""
        return self.acceptor is not None and self.acceptor.is_up() and self.lease.is_valid()

    def _store_full_s(self) -> float:
        """How long ago PostgreSQL said last that its disk is full; its own, or ours."""
        lanes = (self.acceptor, self.events)
        return self._monotonic() - max((one.full_at() for one in lanes if one), default=-math.inf)

    def refresh_shed(self) -> None:
        """Look at database, event loop, queues and disk, some twenty times a second."""
        acceptor = self.acceptor
        self.shedding.refresh(
            is_writable=self.is_writable(),
            is_store_full=self._store_full_s() < STORE_PROBE_S,
            write_age_s=0.0 if acceptor is None else acceptor.oldest_write_age_s(),
            loop_lag_s=self.loop_lag_s,
            accepting=self.accepting,
        )

    def is_ready(self) -> list[str]:
        """What is missing before this process may take traffic; empty = ready."""
        missing: list[str] = []
        if self.is_draining:
            missing.append("draining: this process is shutting down")
        if not self.lease.is_valid():
            missing.append("lease: the process could not renew its lease in PostgreSQL")
        if self.acceptor is None or not self.acceptor.is_up():
            missing.append("store: PostgreSQL is not writable")
        elif self._store_full_s() < STORE_FULL_S:
            missing.append("store: the disk of PostgreSQL is full")
        return missing + lacking(self.snapshot, self.dispatcher.is_reachable, self._why_down)

    def _why_down(self, channel: int) -> str:
        runtime = self.dispatcher.channels.get(channel)
        return NO_SESSION if runtime is None else runtime.adapter.why_down()

    # -- adapters.base.ChannelSink ---------------------------------------------------------

    def may_submit(self) -> bool:
        """Whether our lease still holds."""
        return self.lease.is_valid()

    def journal_writes(self, channel: int, submits: Sequence[Submit]) -> bool:
        """The write lines of one burst."""
        return self.journal.write_lines(channel, submits)

    def outcomes(self, channel: int, results: Sequence[tuple[Submit, Outcome]]) -> None:
        """Answers, time-outs and losses of one burst."""
        if results:
            self.dispatcher.heard(channel, results)
            self.settler.outcomes(channel, results)

    def reports(self, channel: int, reports: Sequence[Report]) -> None:
        """Status reports of one burst."""
        self._slices.put(channel, reports)

    def inbound(self, channel: int, texts: Sequence[Inbound]) -> None:
        """Texts from phones of one burst."""
        if self.inbound_desk is None:
            raise RuntimeError("the flow is not joined to an inbound desk")
        self.inbound_desk.receive(channel, texts)

    def receiving_floor(self) -> int | None:
        """The lowest event id, of a text from a phone or about a channel, not committed yet."""
        desks = (self.inbound_desk, self.news)
        floors = [floor for desk in desks if desk and (floor := desk.pending_floor())]
        return min(floors, default=None)

    def window_open(self, channel: int) -> None:
        """Slots are free again."""
        self.dispatcher.pump(channel)

    def link_changed(self, channel: int, is_up: bool, reason: str) -> None:
        """The first session was bound or the last one lost."""
        name = self.channel_name(channel) or ""
        log.info("link changed", channel=name, is_up=is_up, reason=reason)
        self.dispatcher.link_changed(channel, is_up=is_up)
        if is_up:
            self.evidence.channel_up(channel)
        self.link_news()

    def answer(self, channel: int, tokens: Sequence[object], *, accepted: bool) -> None:
        """Answer reports through the connection that brought them, if it is still there."""
        others = self.calls.answer(tokens, accepted=accepted)
        others = self.smg_port.answer(others, accepted=accepted)
        runtime = self.dispatcher.channels.get(channel)
        if runtime is not None and others:
            runtime.adapter.answer(others, accepted=accepted)

    def stop_connections(self, timeout_s: float) -> list[Coroutine[None, None, None]]:
        """To be awaited together: answers are waited for, carriers are logged out of."""
        adapters = [runtime.adapter for runtime in self.dispatcher.channels.values()]
        return [*(one.stop(timeout_s) for one in adapters), self.smg_port.stop(timeout_s)]

    # -- store callbacks -------------------------------------------------------------------

    def accepted(self, messages: list[Message]) -> None:
        """After the accept's COMMIT: from here on the messages are ours."""
        counts: dict[tuple[int, MessageClass], list[int]] = {}
        scheduled: list[Message] = []
        for message in messages:
            if message.send_at is not None:
                scheduled.append(message)
            count = counts.setdefault((message.tenant, message.message_class), [0, 0])
            count[0] += 1
            count[1] += len(message.texts)
        for (tenant, message_class), (number, segments) in counts.items():
            labels = (self.tenant_names.get(tenant, ""), message_class.value)
            self.metrics.accepted_total.inc(labels, number)
            self.metrics.accepted_segments_total.inc(labels, segments)
            self.ledger.opened[tenant] = self.ledger.opened.get(tenant, 0) + number
        if scheduled:
            self.schedule.accepted(scheduled)
            messages = [message for message in messages if message.send_at is None]
        self.backlog.accepted(messages)

    def refused(self, messages: list[Message]) -> None:
        """An accept failed: its room is free again."""
        for message in messages:
            self.lanes.cancel(message.message_class)

    def quarantined(self, rows: list[EventRow], reason: str) -> None:
        """A row the database would not take; the others went on."""
        self.metrics.quarantined_total.inc(("events",), len(rows))
        log.error("event row quarantined", reason=reason, rows=len(rows))

    # -- configuration ---------------------------------------------------------------------

    def reconfigure(self, snapshot: Snapshot) -> None:
        """Use a new configuration; channels were added and removed before."""
        self.snapshot = snapshot
        self.tenant_names = {tenant.id: tenant.name for tenant in snapshot.tenants.values()}
        for channel in snapshot.channels.values():
            self.ledger.channel_names[channel.id] = channel.name
        self.limiter.configure(snapshot)
        self.reports_desk.use(snapshot.channels.values())
        self.vendors.use(snapshot.channels.values())
        self.settler.words.template_of = partial(template_of, snapshot)
        self.evidence.policies.use(snapshot.tenants.values())
        self.settler.prices = {
            channel.id: float(channel.price_per_segment)
            for channel in snapshot.channels.values()
            if channel.price_per_segment is not None
        }
        if self.inbound_desk is not None:
            self.inbound_desk.reconfigure(snapshot)
        self.dispatcher.reconfigure(snapshot)
        self.metrics.config_version.set((), snapshot.version)

    def set_gauges(self) -> None:
        """Before a scrape: queues, ages, channel states."""
        now = self._monotonic()
        metrics = self.metrics
        set_queue_gauges(metrics, self.lanes, self.dispatcher.delayed, self.channel_name, now)
        metrics.channel_state.clear()  # a channel may be another process's now
        metrics.channel_receiving.clear()
        metrics.channel_pace.clear()
        metrics.channel_heard_age_seconds.clear()
        for runtime in self.dispatcher.channels.values():
            if runtime.throttle.pace < math.inf:
                metrics.channel_pace.set((runtime.config.name,), runtime.throttle.told())
            expected, in_time = runtime.watch.take_receipts()
            metrics.receipts_expected_total.inc((runtime.config.name,), expected)
            metrics.receipts_in_time_total.inc((runtime.config.name,), in_time)
            heard_s = max(0.0, now - runtime.watch.heard_at())
            metrics.channel_heard_age_seconds.set((runtime.config.name,), heard_s)
            is_receiving = float(runtime.adapter.is_receiving())
            metrics.channel_receiving.set((runtime.config.name,), is_receiving)
            for state in ("up", "down"):
                is_now = (state == "up") == runtime.is_up
                metrics.channel_state.set((runtime.config.name, state), float(is_now))
            worst = runtime.watch.state()
            for breaker in (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.RAMP):
                labels = (runtime.config.name, breaker.value)
                metrics.channel_state.set(labels, float(worst is breaker))
        for known in self.snapshot.channels.values():
            is_paused = float(known.id in self.snapshot.paused)
            metrics.channel_state.set((known.name, "paused"), is_paused)
        metrics.smg_sessions.clear()
        for channel, count in self.smg_port.sessions(self.snapshot.channels.values()).items():
            metrics.smg_sessions.set((self.channel_name(channel) or str(channel),), count)
        self.backlog.set_gauges()
        self.dispatcher.retries.set_gauges(time.time())
        metrics.loop_lag_seconds.set((), self.loop_lag_s)
        write_age_s = 0.0 if self.acceptor is None else self.acceptor.oldest_write_age_s()
        # While it is away nothing is tried, and no write is old.
        metrics.store_write_age_seconds.set((), max(write_age_s, self.outage.age_s(now)))
        metrics.disk_used_ratio.set((), self.shedding.storage_share())
        self.evidence.set_gauges()
        self.reports_desk.parked.set_gauges()
