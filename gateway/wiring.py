"""The only place that builds objects and joins rooms.

`build` makes one worker's flow from its settings and lease; `sync_channels` brings the carriers'
channels in line with the configuration. A new protocol is one line in `gateway.protocols`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from adapters.session import SessionPolicy, is_linked
from cluster.wake import Wakes
from compliance.hours import Hours
from compliance.policy import SendingPolicy
from compliance.suppressions import Suppressions
from failover.budget import BudgetPolicy, RetryBudget
from gateway.allowlist import allow_list
from gateway.backlog import Backlog, BacklogPolicy
from gateway.canaries import Canaries
from gateway.canary_judge import CanaryJudge
from gateway.carrier_words import CarrierWords
from gateway.channel import ChannelRuntime
from gateway.channel_news import ChannelNews
from gateway.channel_rates import bucket_name, bucket_of, set_rate, share_rates
from gateway.commands import CommandDesk
from gateway.conflicts import Conflicts
from gateway.conservation import Conservation
from gateway.copies import Copies
from gateway.descriptors import descriptors, webhook_limit
from gateway.dispatch import Dispatcher
from gateway.endpoint_queue import NotifyPolicy
from gateway.evidence import Evidence, EvidencePolicy
from gateway.flow import Flow, JournalGate, Parts
from gateway.handover import HandoverDesk
from gateway.idreserve import IdReserve
from gateway.inbound import InboundDesk
from gateway.inbound_commit import InboundPolicy
from gateway.lanes import Lanes
from gateway.ledger import Ledger, tally
from gateway.lostanswer import Policies
from gateway.matches import Matches
from gateway.notice_store import LaneNoticeStore
from gateway.notify import Notifier
from gateway.orphans import Orphans
from gateway.owners import Owners
from gateway.peers import Peers
from gateway.porting import Porting
from gateway.protocols import PROTOCOLS
from gateway.pumping import Pumping
from gateway.remote import RemoteChannels
from gateway.reports import Reports
from gateway.retries import Retries
from gateway.schedule import Schedule
from gateway.sessions import Place, Sessions
from gateway.settings import Reliability, Settings, node_name
from gateway.settle import SettlePolicy, Settler
from gateway.silence import Silence, open_silence
from gateway.smg_port import SmgPort
from gateway.standing import Standing
from gateway.suppressing import Suppressing
from gateway.takeover import Aside, Takeover, Taker
from gateway.usage import usage_moves
from gateway.watching import Watches, health_policy
from gateway.webhook_desk import open_desk
from gateway.withdraw import Withdrawals
from ratelimit.leases import Leases
from ratelimit.limiter import Valkey
from ratelimit.otp_guard import OtpGuard, OtpScript
from ratelimit.quota_book import QuotaBook
from ratelimit.tenants import TenantLimits
from sms import config
from sms.errors import ConfigError
from sms.ids import IdClock
from sms.model import EventRow, MessageClass
from store.accept import AcceptHooks, Acceptor
from store.canaries import CanaryStore
from store.channel_news import ChannelNewsStore
from store.claims import ClaimBook
from store.commands import CommandTable
from store.config import ConfigStore
from store.database import OpenConnection, Pool, connector
from store.events import EventHooks, EventLane
from store.handovers import Handovers
from store.inbound import InboundStore
from store.inbound_read import InboundReader
from store.intake import Intake
from store.orphans import OrphanStore
from store.parked_reports import ParkedReportStore
from store.ported import PortedStore
from store.processes import ProcessLease
from store.quotas import Quotas
from store.read import Reader
from store.scheduled import Scheduled
from store.seal import Keyring
from store.suppressions import SuppressionStore
from telemetry.logs import get_logger
from telemetry.metrics import Metrics
from webhooks.deliver import Deliverer, DeliveryPolicy

log = get_logger(__name__)

STOP_CHANNEL_S = 5.0  # a changed or removed channel may finish its answers so long


@dataclass(slots=True)
class Worker:
    """The joined parts that the worker's life needs by name."""

    flow: Flow
    ids: IdClock
    reserve: IdReserve
    claims: ClaimBook
    acceptor: Acceptor
    events: EventLane
    conflicts: Conflicts
    reports: Reports
    notifier: Notifier
    conservation: Conservation
    deliverer: Deliverer
    peers: Peers
    stopping: set[asyncio.Task[None]]  # channels on their way out, awaited at the end
    leases: Leases
    quotas: Quotas
    suppressing: Suppressing
    inbound: InboundDesk
    news: ChannelNews
    watches: Watches
    canaries: Canaries
    canary_judge: CanaryJudge
    standing: Standing
    silence: Silence


def build(  # noqa: PLR0913 (keyword-only parts of one worker, called once)
    settings: Settings,
    *,
    lease: ProcessLease,
    pool: Pool,
    keyring: Keyring,
    metrics: Metrics,
    first_block: int,
    lease_lost: Callable[[], None],
) -> Worker:
    """Join one worker; nothing is started yet."""
    numbers = settings.reliability
    loop = asyncio.get_running_loop()
    ids = IdClock(lease.process, lease.id_floor, time.time)
    reserve = IdReserve(ids)
    claims = ClaimBook(lease.process, first_block, moment=ids.next)
    reader = Reader(pool, keyring, reserve.follow)
    lanes = Lanes(
        {
            MessageClass.OTP: numbers.lane_otp,
            MessageClass.TRANSACTIONAL: numbers.lane_transactional,
            MessageClass.MARKETING: numbers.lane_marketing,
        }
    )
    ledger = Ledger(ids=ids, lanes=lanes, claims=claims, metrics=metrics)
    dispatcher = Dispatcher(
        lanes=lanes,
        ledger=ledger,
        claims=claims,
        metrics=metrics,
        monotonic=time.monotonic,
        unix=time.time,
        call_later=loop.call_later,
    )
    backlog = Backlog(
        lanes=lanes,
        ledger=ledger,
        dispatcher=dispatcher,
        reader=reader,
        metrics=metrics,
        policy=BacklogPolicy(numbers.spill_ids, numbers.parked_after_s),
        unix=time.time,
        monotonic=time.monotonic,
    )
    evidence = Evidence(
        ledger=ledger,
        dispatcher=dispatcher,
        metrics=metrics,
        policy=EvidencePolicy(
            numbers.uncertain_wait_otp_s,
            numbers.uncertain_wait_transactional_s,
            numbers.otp_min_validity_s,
            numbers.receipt_deadline_s,
            numbers.max_attempts,
        ),
        unix=time.time,
    )
    policy, schedule = _policy(
        numbers, pool, keyring, dispatcher, evidence, ledger, backlog, reader, metrics
    )
    matches = Matches(numbers.match_cache)
    journal = JournalGate(metrics)
    settler = Settler(
        ledger=ledger,
        dispatcher=dispatcher,
        evidence=evidence,
        matches=matches,
        journal=journal,
        words=CarrierWords(metrics, suppresses=numbers.suppress_bad_numbers),
        metrics=metrics,
        policy=SettlePolicy(max_attempts=numbers.max_attempts),
        unix=time.time,
        monotonic=time.monotonic,
    )
    flow: Flow
    peers: Peers

    reports = Reports(
        ledger=ledger,
        dispatcher=dispatcher,
        evidence=evidence,
        matches=matches,
        reader=reader,
        keyring=keyring,
        ids=ids,
        words=settler.words,
        metrics=metrics,
        answer=lambda channel, tokens, *, accepted: flow.answer(channel, tokens, accepted=accepted),
        parked=ParkedReportStore(pool, keyring),
        unix=time.time,
        max_attempts=numbers.max_attempts,
    )

    reports.parked.orphans = _orphans(pool, keyring, dispatcher, numbers)

    def live() -> int:
        return len(peers.sessions.live)

    quotas = Quotas(pool)
    leases, limiter = _limits(settings, quotas, metrics, live)
    flow = Flow(
        Parts(
            reliability=numbers,
            keyring=keyring,
            metrics=metrics,
            reader=reader,
            intake=Intake(pool, keyring.intake_key),
            limiter=limiter,
            lease=lease,
            lanes=lanes,
            backlog=backlog,
            ledger=ledger,
            dispatcher=dispatcher,
            evidence=evidence,
            schedule=schedule,
            policy=policy,
            porting=Porting(
                store=PortedStore(pool, keyring), metrics=metrics, monotonic=time.monotonic
            ),
            settler=settler,
            matches=matches,
            reports=reports,
            journal=journal,
            data_dir=settings.data_dir,
            supervisor_socket=settings.run_dir and settings.run_dir / "supervisor.sock",
            public_metrics=settings.public_metrics,
            monotonic=time.monotonic,
        )
    )
    flow.pumping = _pumping(settings, keyring, metrics)
    conflicts = Conflicts(
        ledger=ledger, reader=reader, ids=ids, metrics=metrics, resend=dispatcher.resend
    )
    open_conn = connector(
        settings.database_url or "",
        process=lease.process,
        epoch=lease.epoch,
        statement_timeout_s=numbers.statement_timeout_s,
    )
    acceptor = flow.acceptor = _acceptor(open_conn, flow, ids, claims, numbers, lease_lost)
    events = flow.events = _events(open_conn, flow, conflicts, claims, numbers, lease_lost)
    _join_lanes(flow, acceptor, events, conflicts)
    sockets = webhook_limit(descriptors())  # under way, and as many open for later
    deliverer = Deliverer(
        DeliveryPolicy(numbers.webhook_connect_s, numbers.webhook_total_s, kept=sockets)
    )
    notifier = Notifier(
        store=LaneNoticeStore(
            flow.events,
            reader,
            lease.process,
            InboundReader(pool, keyring),
            ChannelNewsStore(pool),
            floors=(flow.acceptor.pending_floor, flow.receiving_floor),
        ),
        deliver=deliverer.deliver,
        metrics=metrics,
        allow=allow_list(settings),
        cursor=lease.event_cursor,
        policy=NotifyPolicy(
            numbers.webhook_in_flight,
            numbers.webhook_linger_ms / 1000,
            total_in_flight=sockets,
        ),
    )
    flow.webhooks = notifier.join(open_desk(settings, lease, pool, keyring, metrics, ids.next))
    ledger.told = notifier
    news = flow.news = ChannelNews(
        process=lease.process,
        store=ChannelNewsStore(pool),
        dispatcher=dispatcher,
        names=ledger.channel_names,
        ids=ids,
        reserve=reserve,
        told=notifier,
        unix=time.time,
        monotonic=time.monotonic,
    )
    peers = _peers(settings, flow, pool, ids, claims, notifier)
    flow.smg_port = SmgPort(
        settings.smg_fds,
        flow,
        _session_policy(numbers, lease),
        warns=settings.role != "api" and settings.worker_slot == 0,
    )
    worker = Worker(
        flow,
        ids,
        reserve,
        claims,
        flow.acceptor,
        flow.events,
        conflicts,
        reports,
        notifier,
        _conservation(flow, pool, flow.events),
        deliverer,
        peers,
        set(),
        leases,
        quotas,
        _suppressing(flow, pool),
        _inbound(flow, pool, ids, notifier),
        news,
        Watches(health_policy(numbers), time.monotonic),
        *_canaries(flow, pool, lease),
        Standing(flow, claims, peers, lease.process, numbers.parked_after_s),
        open_silence(flow, pool),
    )
    _join_sessions(worker, numbers)
    return worker


def _join_lanes(flow: Flow, acceptor: Acceptor, events: EventLane, conflicts: Conflicts) -> None:
    """The commit lanes, where those that came before them look for them."""
    flow.conflicts = conflicts
    conflicts.settled = events.settled
    flow.dispatcher.claim_soon = acceptor.kick
    flow.ledger.live = acceptor.live
    flow.ledger.events = events


def _canaries(flow: Flow, pool: Pool, lease: ProcessLease) -> tuple[Canaries, CanaryJudge]:
    """What counts for canaries here, and the judge, of which one process at a time is."""
    store, numbers, metrics = CanaryStore(pool), flow.reliability, flow.metrics
    canaries = Canaries(
        store=store,
        process=lease.process,
        life=lease.epoch,
        step_s=numbers.canary_step_s,
        metrics=metrics,
        unix=time.time,
    )
    flow.dispatcher.meters = canaries.meters
    judge = CanaryJudge(
        config=ConfigStore(pool, flow.keyring),
        store=store,
        numbers=numbers,
        metrics=metrics,
        has_canaries=lambda: bool(flow.snapshot.canaries),
    )
    return canaries, judge


def _join_sessions(worker: Worker, numbers: Reliability) -> None:
    """What changes the channels of this process while it runs, and what hears of their texts."""
    dispatcher, sessions = worker.flow.dispatcher, worker.peers.sessions
    dispatcher.drain_after_s = numbers.channel_drain_s
    dispatcher.start_step_s = numbers.channel_start_step_s
    dispatcher.health_news = sessions.link_changed
    dispatcher.drained = partial(_drained, worker)
    worker.inbound.opted_out = worker.canaries.opted_out
    sessions.changed = lambda: _sessions_changed(worker, numbers)
    sessions.rates_changed = lambda: share_rates(worker)


def _conservation(flow: Flow, pool: Pool, events: EventLane) -> Conservation:
    """The gauge that says whether a message was lost or is there twice."""
    return Conservation(
        pool=pool,
        ledger=flow.ledger,
        dispatcher=flow.dispatcher,
        spill=flow.backlog.spill,
        metrics=flow.metrics,
        oldest_row_s=events.oldest_age_s,
        tenant_name=lambda tenant: flow.tenant_names.get(tenant, ""),
    )


def _policy(  # noqa: PLR0913, PLR0917 (parts of one worker, called once)
    numbers: Reliability,
    pool: Pool,
    keyring: Keyring,
    dispatcher: Dispatcher,
    evidence: Evidence,
    ledger: Ledger,
    backlog: Backlog,
    reader: Reader,
    metrics: Metrics,
) -> tuple[SendingPolicy, Schedule]:
    """What dispatch asks before something leaves – hours, suppressions, the retry budget – and
    where what must wait is put. `evidence` gets what follows a lost answer.
    """
    evidence.policies = Policies(
        {
            MessageClass.OTP: numbers.on_uncertain_otp,
            MessageClass.TRANSACTIONAL: numbers.on_uncertain_transactional,
            MessageClass.MARKETING: numbers.on_uncertain_marketing,
        }
    )
    budget = BudgetPolicy(numbers.retry_share, numbers.retry_window_s, numbers.retry_least)
    dispatcher.retries = Retries(RetryBudget(budget, time.monotonic()), metrics, time.monotonic)
    policy = dispatcher.last_look.policy = SendingPolicy(
        Hours(numbers.marketing_opens_h, numbers.marketing_closes_h),
        Suppressions(keyring.number_index),
    )
    schedule = Schedule(
        ledger=ledger,
        backlog=backlog,
        rows=Scheduled(pool, ledger.process),
        reader=reader,
        metrics=metrics,
        unix=time.time,
        monotonic=time.monotonic,
    )
    dispatcher.last_look.put_off = schedule.put_off
    return policy, schedule


def _orphans(pool: Pool, keyring: Keyring, dispatcher: Dispatcher, numbers: Reliability) -> Orphans:
    """Whose a receipt with an unknown id may be."""

    def sends_whole(channel: int) -> bool:
        runtime = dispatcher.channels.get(channel)
        return runtime is not None and runtime.adapter.sends_whole

    return Orphans(OrphanStore(pool, keyring), sends_whole, numbers.orphan_window_s)


def _suppressing(flow: Flow, pool: Pool) -> Suppressing:
    """The suppression list of the process, offered by the API too."""
    suppressing = flow.suppressions = Suppressing(
        store=SuppressionStore(pool, flow.keyring),
        policy=flow.policy,
        ledger=flow.ledger,
        words=flow.settler.words,
        reject=lambda messages: flow.dispatcher.last_look.reject_refused(messages, time.time()),
        metrics=flow.metrics,
        monotonic=time.monotonic,
    )
    return suppressing


def _inbound(flow: Flow, pool: Pool, ids: IdClock, notifier: Notifier) -> InboundDesk:
    """What phones send: kept, told, answered through the flow; after the suppression list."""
    if flow.suppressions is None:
        raise RuntimeError("the flow has no suppression list yet")
    numbers = flow.reliability
    store = InboundStore(pool, flow.keyring)
    desk = flow.inbound_desk = InboundDesk(
        store=store,
        reader=InboundReader(pool, flow.keyring),
        owners=Owners(store, flow.reader, flow.keyring),
        ids=ids,
        metrics=flow.metrics,
        answer=flow.answer,
        told=notifier,
        suppressed=flow.suppressions.refresh,
        is_linked=is_linked,
        policy=InboundPolicy(numbers.inbound_join_s, numbers.inbound_repeat_s),
    )
    return desk


def _limits(
    settings: Settings, quotas: Quotas, metrics: Metrics, live: Callable[[], int]
) -> tuple[Leases, TenantLimits]:
    """Buckets shared with the `live` processes, and the tenants' limits made of them."""
    timeout_s = settings.reliability.valkey_timeout_s
    valkey = Valkey(settings.redis_url, timeout_s) if settings.redis_url else None
    leases = Leases(valkey, metrics=metrics, live=live)
    return leases, TenantLimits(leases, QuotaBook(quotas.reserve, metrics=metrics, live=live))


def _pumping(settings: Settings, keyring: Keyring, metrics: Metrics) -> Pumping:
    """The guard of otp messages, on a connection of its own: a batch must not delay limits."""
    timeout_s = settings.reliability.valkey_timeout_s
    script = OtpScript(settings.redis_url, timeout_s) if settings.redis_url else None
    return Pumping(OtpGuard(script, metrics=metrics), keyring.number_index)


def _peers(
    settings: Settings,
    flow: Flow,
    pool: Pool,
    ids: IdClock,
    claims: ClaimBook,
    notifier: Notifier,
) -> Peers:
    """Join this process to the others."""
    numbers, lease, metrics = settings.reliability, flow.lease, flow.metrics
    process, dispatcher = lease.process, flow.dispatcher
    handovers = Handovers(pool, process)
    remote = RemoteChannels(
        ids=ids, lanes=flow.lanes, ledger=flow.ledger, metrics=metrics, unix=time.time
    )
    node = node_name(settings)
    place = Place(node, settings.worker_slot, settings.workers, process, lease.epoch, settings.role)
    sessions = Sessions(
        pool,
        place,
        dispatcher=dispatcher,
        remote=remote,
        is_valid=lease.is_valid,
        monotonic=time.monotonic,
    )
    desk = HandoverDesk(
        handovers=handovers,
        claims=claims,
        reader=flow.reader,
        ledger=flow.ledger,
        dispatcher=dispatcher,
        remote=remote,
        metrics=metrics,
        unix=time.time,
    )
    aside = Aside(dispatcher)
    settler = Settler(
        ledger=flow.ledger,
        dispatcher=aside,
        evidence=flow.evidence,
        matches=flow.matches,
        journal=JournalGate(metrics),  # never opened: the answers stand in the dead one's journal
        words=flow.settler.words,
        metrics=metrics,
        policy=SettlePolicy(max_attempts=numbers.max_attempts),
        unix=time.time,
        monotonic=time.monotonic,
    )
    takeover = Takeover(
        Taker(
            settings.database_url or "",
            node,
            process,
            lease.epoch,
            settings.data_dir / "journal",
            numbers.lease_s,
            numbers.takeover_grace_s,
            lease.is_valid,
            lambda: lease.database_clock,
        ),
        pool,
        handovers=handovers,
        reader=flow.reader,
        ledger=flow.ledger,
        notifier=notifier,
        aside=aside,
        settler=settler,
        ids=ids,
        metrics=metrics,
    )
    wakes = Wakes(settings.redis_url, process) if settings.redis_url else None
    commands = _commands(flow, pool, ids, claims, desk)
    peers = Peers(flow, process, remote, sessions, desk, takeover, commands, wakes)
    dispatcher.remote, dispatcher.hungry = remote, desk.hungry
    remote.go_on = dispatcher.pump
    remote.may_try = dispatcher.retries.may_leave
    remote.expired, takeover.kick, sessions.lived = dispatcher.expire, desk.kick, peers.lived
    takeover.inherited = peers.inherited
    if wakes is not None:
        remote.wake = sessions.wake_other = commands.wake = wakes.wake
    flow.link_news = sessions.link_changed
    metrics.before_scrape.append(
        lambda: metrics.handover_oldest_age_seconds.set((), remote.oldest_age_s())
    )
    return peers


def _commands(
    flow: Flow, pool: Pool, ids: IdClock, claims: ClaimBook, desk: HandoverDesk
) -> CommandDesk:
    """What tenants do to messages afterwards, here and in other processes."""
    process = flow.lease.process
    table = CommandTable(pool, process)
    withdrawals = Withdrawals(
        ledger=flow.ledger,
        dispatcher=flow.dispatcher,
        backlog=flow.backlog,
        reader=flow.reader,
        table=table,
        handovers=Handovers(pool, process),
        reserve=claims.reserve,
        unix=time.time,
    )
    withdrawals.adopt = desk.adopt_later
    flow.commands = CommandDesk(
        table=table,
        withdrawals=withdrawals,
        reader=flow.reader,
        ledger=flow.ledger,
        ids=ids,
        metrics=flow.metrics,
    )
    flow.commands.copies = Copies(flow.ledger, flow.evidence, flow.reader)
    return flow.commands


def _flush_metrics(metrics: Metrics) -> Callable[[str, int, float], None]:
    def on_flush(lane: str, rows: int, seconds: float) -> None:
        metrics.flush_rows.observe((lane,), rows)
        metrics.flush_seconds.observe((lane,), seconds)

    return on_flush


def sync_channels(worker: Worker, snapshot: config.Snapshot, numbers: Reliability) -> None:
    """Start what is new, replace what changed, let go what was removed.

    Of each channel this process runs the sessions it holds; of which it holds none is another
    process's. What drains goes on where it runs and is not started again.
    """
    flow = worker.flow
    running = flow.dispatcher.channels
    held = worker.peers.sessions.held
    ours = {
        channel.id: replace(channel, sessions=held[channel.id])
        for channel in snapshot.channels.values()
        if held.get(channel.id)
        and (channel.admin_state is not config.AdminState.DRAINING or channel.id in running)
    }
    for channel_id, runtime in list(running.items()):
        if ours.get(channel_id) != runtime.config:
            removed = flow.dispatcher.remove_channel(channel_id)
            if removed is not None:
                _let_go(worker, removed)
            if channel_id not in snapshot.channels:
                worker.leases.forget(bucket_name(channel_id))
                worker.watches.forget(channel_id)
    for channel in snapshot.channels.values():
        flow.ledger.channel_names[channel.id] = channel.name
    flow.smg_port.set_channels(snapshot.channels.values())
    for channel in ours.values():
        if channel.id in running:
            set_rate(worker, snapshot, running[channel.id])
            continue
        protocol = PROTOCOLS.get(channel.protocol)
        if protocol is None:
            log.error("channel left out: unknown protocol", channel=channel.name)
            continue
        try:
            adapter = protocol.build(channel, flow, _session_policy(numbers, flow.lease))
        except ConfigError as error:  # an older version's channel: it must not stop the others
            log.error("channel left out", channel=channel.name, error=str(error))  # noqa: TRY400 (the text is the remedy)
            continue
        runtime = ChannelRuntime(
            channel,
            adapter,
            bucket_of(worker, snapshot, channel.id),
            watch=worker.watches.of(snapshot.channels[channel.id]),
        )
        runtime.throttle.share = worker.peers.sessions.rate_share(channel)
        flow.dispatcher.add_channel(runtime)
        adapter.start()


def _session_policy(numbers: Reliability, lease: ProcessLease) -> SessionPolicy:
    return SessionPolicy(
        process=lease.process,
        life=lease.epoch,
        response_timeout_s=numbers.response_timeout_s,
        link_test_s=numbers.enquire_link_s,
        probe_s=numbers.probe_s,
        submit_timeout_otp_s=numbers.submit_timeout_otp_s,
        submit_timeout_s=numbers.submit_timeout_s,
        uncertain_slot_s=numbers.uncertain_slot_s,
        reconnect_min_s=numbers.reconnect_min_s,
        reconnect_max_s=numbers.reconnect_max_s,
        reconnect_link_max_s=numbers.reconnect_link_max_s,
    )


def _sessions_changed(worker: Worker, numbers: Reliability) -> None:
    """This process holds more or fewer sessions than before."""
    sync_channels(worker, worker.flow.snapshot, numbers)
    worker.flow.dispatcher.reconfigure(worker.flow.snapshot)
    worker.peers.sessions.link_changed()
    share_rates(worker)


def _drained(worker: Worker, channel: int) -> None:
    """Nothing is open on a draining channel: its sessions log out."""
    removed = worker.flow.dispatcher.remove_channel(channel)
    if removed is not None:
        log.info("channel drained", channel=removed.config.name)
        _let_go(worker, removed)
        worker.peers.sessions.link_changed()


def _let_go(worker: Worker, runtime: ChannelRuntime) -> None:
    task = asyncio.get_running_loop().create_task(runtime.adapter.stop(STOP_CHANNEL_S))
    worker.stopping.add(task)
    task.add_done_callback(worker.stopping.discard)


def _acceptor(
    open_conn: OpenConnection,
    flow: Flow,
    ids: IdClock,
    claims: ClaimBook,
    numbers: Reliability,
    lease_lost: Callable[[], None],
) -> Acceptor:
    hooks = AcceptHooks(
        choose_claims=flow.dispatcher.choose_claims,
        on_committed=flow.accepted,
        on_refused=flow.refused,
        on_lease_lost=lease_lost,
        on_flush=_flush_metrics(flow.metrics),
    )
    return Acceptor(
        open_conn,
        process=flow.lease.process,
        ids=ids,
        keyring=flow.keyring,
        claims=claims,
        hooks=hooks,
        max_rows=numbers.flush_rows,
    )


def _events(
    open_conn: OpenConnection,
    flow: Flow,
    conflicts: Conflicts,
    claims: ClaimBook,
    numbers: Reliability,
    lease_lost: Callable[[], None],
) -> EventLane:
    def on_committed(rows: list[EventRow]) -> None:
        flow.ledger.committed(rows)

    hooks = EventHooks(
        on_committed=on_committed,
        on_conflict=conflicts.lost,
        on_quarantined=flow.quarantined,
        on_lease_lost=lease_lost,
        tally=tally,
        usage=usage_moves,
        on_flush=_flush_metrics(flow.metrics),
    )
    return EventLane(
        open_conn,
        process=flow.lease.process,
        claims=claims,
        hooks=hooks,
        max_rows=numbers.flush_rows,
        delay_s=numbers.submitted_delay_ms / 1000,
    )
