"""The only place that builds objects and joins rooms.

`build` makes one worker's flow from its settings and lease; `sync_channels` brings the carriers'
channels in line with the configuration. A new protocol is one line in `PROTOCOLS`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from adapters.base import Channel, ChannelSink
from adapters.smpp.channel import SmppChannel
from adapters.smpp.session import SmppPolicy
from gateway.apply import allow_list
from gateway.conflicts import Conflicts
from gateway.dispatch import MIN_DEPTH_SEGMENTS, OTP_SHARE, ChannelRuntime, Dispatcher
from gateway.endpoint_queue import NotifyPolicy
from gateway.evidence import Evidence, EvidencePolicy
from gateway.flow import Flow, JournalGate, Parts
from gateway.lanes import Lanes
from gateway.ledger import Ledger
from gateway.matches import Matches
from gateway.notice_store import LaneNoticeStore
from gateway.notify import Notifier
from gateway.reports import Reports
from gateway.settings import Reliability, Settings
from gateway.settle import SettlePolicy, Settler
from ratelimit.limiter import ChannelBucket, Leases, Valkey
from ratelimit.quota_book import QuotaBook
from ratelimit.tenants import TenantLimits
from sms import config
from sms.ids import IdClock
from sms.model import EventRow, MessageClass
from store.accept import AcceptHooks, Acceptor
from store.claims import ClaimBook
from store.database import OpenConnection, Pool, connector
from store.events import EventHooks, EventLane
from store.processes import ProcessLease, live_processes
from store.quotas import Quotas
from store.read import Reader
from store.seal import Keyring
from telemetry.logs import get_logger
from telemetry.metrics import Metrics
from webhooks.deliver import Deliverer, DeliveryPolicy

log = get_logger(__name__)

STOP_CHANNEL_S = 5.0  # a changed or removed channel may finish its answers so long
# The longest message must fit beside what is kept for otp.
_CHANNEL_DEPTH = math.ceil(MIN_DEPTH_SEGMENTS * OTP_SHARE / (OTP_SHARE - 1))

BuildChannel = Callable[[config.Channel, ChannelSink, Reliability], Channel]


def _smpp(channel: config.Channel, sink: ChannelSink, numbers: Reliability) -> Channel:
    policy = SmppPolicy(
        response_timeout_s=numbers.response_timeout_s,
        enquire_link_s=numbers.enquire_link_s,
        submit_timeout_otp_s=numbers.submit_timeout_otp_s,
        submit_timeout_s=numbers.submit_timeout_s,
        uncertain_slot_s=numbers.uncertain_slot_s,
        reconnect_min_s=numbers.reconnect_min_s,
        reconnect_max_s=numbers.reconnect_max_s,
    )
    return SmppChannel(channel, sink, policy)


PROTOCOLS: dict[str, BuildChannel] = {"smpp": _smpp}


class Living:
    """How many processes there are, ourselves among them; as last seen while the store is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._count = 1

    async def look(self) -> None:
        """Count anew; raises StoreUnavailable."""
        self._count = max(1, len(await live_processes(self._pool)))

    def count(self) -> int:
        """The last count."""
        return self._count


@dataclass(slots=True)
class Worker:
    """The joined parts that the worker's life needs by name."""

    flow: Flow
    ids: IdClock
    claims: ClaimBook
    acceptor: Acceptor
    events: EventLane
    conflicts: Conflicts
    reports: Reports
    notifier: Notifier
    deliverer: Deliverer
    stopping: set[asyncio.Task[None]]  # channels on their way out, awaited at the end
    leases: Leases
    living: Living


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
    claims = ClaimBook(lease.process, first_block)
    reader = Reader(pool, keyring)
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
    evidence = Evidence(
        ledger=ledger,
        dispatcher=dispatcher,
        metrics=metrics,
        policy=EvidencePolicy(
            numbers.uncertain_wait_otp_s,
            numbers.uncertain_wait_transactional_s,
            numbers.otp_min_validity_s,
            numbers.receipt_deadline_s,
        ),
        unix=time.time,
    )
    matches = Matches(numbers.match_cache)
    journal = JournalGate(metrics)
    settler = Settler(
        ledger=ledger,
        dispatcher=dispatcher,
        evidence=evidence,
        matches=matches,
        journal=journal,
        metrics=metrics,
        policy=SettlePolicy(max_attempts=numbers.max_attempts),
        unix=time.time,
        monotonic=time.monotonic,
    )
    flow: Flow

    def answer(channel: int, tokens: Sequence[object], *, accepted: bool) -> None:
        flow.answer(channel, tokens, accepted=accepted)

    reports = Reports(
        ledger=ledger,
        dispatcher=dispatcher,
        evidence=evidence,
        matches=matches,
        reader=reader,
        keyring=keyring,
        ids=ids,
        metrics=metrics,
        answer=answer,
        unix=time.time,
        max_attempts=numbers.max_attempts,
    )
    run_dir = settings.run_dir
    living = Living(pool)
    valkey = Valkey(settings.redis_url) if settings.redis_url else None
    leases = Leases(valkey, metrics=metrics, live=living.count)
    book = QuotaBook(Quotas(pool).reserve, metrics=metrics, live=living.count)
    flow = Flow(
        Parts(
            reliability=numbers,
            keyring=keyring,
            metrics=metrics,
            reader=reader,
            limiter=TenantLimits(leases, book),
            lease=lease,
            lanes=lanes,
            ledger=ledger,
            dispatcher=dispatcher,
            evidence=evidence,
            settler=settler,
            reports=reports,
            journal=journal,
            data_dir=settings.data_dir,
            supervisor_socket=run_dir / "supervisor.sock" if run_dir else None,
            public_metrics=settings.public_metrics,
            monotonic=time.monotonic,
        )
    )
    conflicts = Conflicts(
        ledger=ledger, reader=reader, ids=ids, metrics=metrics, resend=dispatcher.resend
    )
    open_conn = connector(
        settings.database_url or "",
        process=lease.process,
        epoch=lease.epoch,
        statement_timeout_s=numbers.statement_timeout_s,
    )
    flow.acceptor = _acceptor(open_conn, flow, ids, claims, numbers, lease_lost)
    flow.events = _events(open_conn, flow, conflicts, claims, numbers, lease_lost)
    flow.conflicts = conflicts
    ledger.live = flow.acceptor.live
    ledger.events = flow.events
    deliverer = Deliverer(DeliveryPolicy(numbers.webhook_connect_s, numbers.webhook_total_s))
    notifier = Notifier(
        store=LaneNoticeStore(flow.events, reader, lease.process),
        deliver=deliverer.deliver,
        metrics=metrics,
        allow=allow_list(settings),
        cursor=lease.event_cursor,
        policy=NotifyPolicy(numbers.webhook_in_flight, numbers.webhook_linger_ms / 1000),
    )
    ledger.told = notifier
    return Worker(
        flow,
        ids,
        claims,
        flow.acceptor,
        flow.events,
        conflicts,
        reports,
        notifier,
        deliverer,
        set(),
        leases,
        living,
    )


def _flush_metrics(metrics: Metrics) -> Callable[[str, int, float], None]:
    def on_flush(lane: str, rows: int, seconds: float) -> None:
        metrics.flush_rows.observe((lane,), rows)
        metrics.flush_seconds.observe((lane,), seconds)

    return on_flush


def sync_channels(worker: Worker, snapshot: config.Snapshot, numbers: Reliability) -> None:
    """Start what is new, replace what changed, let go what was removed."""
    flow = worker.flow
    running = flow.dispatcher.channels
    for channel_id, runtime in list(running.items()):
        if snapshot.channels.get(channel_id) != runtime.config:
            removed = flow.dispatcher.remove_channel(channel_id)
            if removed is not None:
                _let_go(worker, removed)
            if channel_id not in snapshot.channels:
                worker.leases.forget(_bucket_name(channel_id))
    for channel in snapshot.channels.values():
        flow.ledger.channel_names[channel.id] = channel.name
        if channel.id in running:
            continue
        build_channel = PROTOCOLS.get(channel.protocol)
        if build_channel is None:
            log.error("channel left out: unknown protocol", channel=channel.name)
            continue
        adapter = build_channel(channel, flow, numbers)
        flow.dispatcher.add_channel(ChannelRuntime(channel, adapter, _bucket(worker, channel)))
        adapter.start()


def _bucket_name(channel: int) -> str:
    return f"c{channel}"


def _bucket(worker: Worker, channel: config.Channel) -> ChannelBucket:
    """The channel's bucket, shared with all processes: its rate is the account's."""
    name = _bucket_name(channel.id)
    rate = channel.segments_per_second
    depth = max(math.ceil(rate), _CHANNEL_DEPTH)
    lease = worker.leases.lease(name, rate, depth, reserve=depth // OTP_SHARE, is_eager=True)
    worker.leases.listen(name, partial(worker.flow.dispatcher.pump, channel.id))
    return ChannelBucket(worker.leases, lease)


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
        tally=flow.tally,
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
