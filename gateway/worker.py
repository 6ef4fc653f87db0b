"""The life of one worker process: own, recover, serve, drain.

    lease ─▶ journal replay ─▶ recover ═COMMIT═▶ new journal ─▶ channels, HTTP ─▶ … ─▶ drain

`run` is what `smsgw worker` calls. A worker that loses its lease ends at once, sockets first: the
supervisor starts another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from gateway.api.app import build_doors
from gateway.dispatch import low_water
from gateway.http_protocol import Connections, GatewayHttp, connection_limit
from gateway.internal_http import serve_internal
from gateway.recover import recover
from gateway.reports import fold_stored
from gateway.settings import Settings, node_name
from gateway.wiring import Worker, build, sync_channels
from sms.errors import ConfigError, LeaseLost, Unavailable
from sms.ids import unix_of
from sms.model import Message, State
from store import partitions
from store.config import ConfigStore
from store.database import check_durability, connect, open_pool
from store.database import close as close_connection
from store.fragments import Why, park_sql
from store.journal import Journal
from store.processes import ProcessLease
from store.read import Reader
from store.seal import Keyring, read_master_key
from telemetry.logs import configure, get_logger
from telemetry.metrics import Metrics

log = get_logger(__name__)

TICK_S = 0.1
LAG_STEP_S = 0.05
PARKED_POLL_S = 0.5
PARKED_LIMIT = 500
REPARK_S = 600.0
STANDING_CHECK_S = 30.0
MAINTENANCE_S = 3600.0
DELTAS_S = 60.0
LIVING_S = 2.0  # how many processes share the limits
GIVE_BACK_S = 1.0
ID_AHEAD_S = 15.0  # ids reserved beyond now at each renewal; three renewals may be late
EXIT_LEASE_LOST = 3
_STANDING = frozenset({State.ACCEPTED, State.QUEUED, State.SUBMITTING})
EXIT_CONFIG = 2
BACKLOG = 2048


class _Http(uvicorn.Server):
    """uvicorn without its own signal handlers: the worker drains in its own order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the worker."""
        yield


def run(settings: Settings) -> int:
    """Run one worker until SIGTERM; returns the exit code."""
    configure(settings.log_level, sys.stderr)
    gc.set_threshold(50_000, 20, 100)  # messages are acyclic: frequent young collections find none
    try:
        return uvloop.run(_main(settings))
    except ConfigError as error:
        log.error("worker cannot start", error=str(error))  # noqa: TRY400 (no traceback: the text is the remedy)
        return EXIT_CONFIG


def _lease_lost() -> None:
    """Another process owns our messages: every socket closes with the process, at once."""
    os.write(2, b'{"event": "lease lost, leaving", "level": "error"}\n')
    os._exit(EXIT_LEASE_LOST)


async def _main(settings: Settings) -> int:
    dsn = settings.database_url
    if not dsn:
        raise ConfigError("SMSGW_DATABASE_URL: a worker needs it; start it with `smsgw up`")
    numbers = settings.reliability
    metrics = Metrics()
    keyring = Keyring(read_master_key(settings.master_key_file))
    await check_durability(dsn)
    lease = await ProcessLease.take(
        dsn, node=node_name(settings), slot=settings.worker_slot, lease_s=numbers.lease_s
    )
    pool = await open_pool(dsn, process=lease.process, epoch=lease.epoch)
    life = _Life(settings, lease, ConfigStore(pool, keyring), keyring, metrics)
    held = await Reader(pool, keyring).claims(lease.process)
    life.worker = build(
        settings,
        lease=lease,
        pool=pool,
        keyring=keyring,
        metrics=metrics,
        first_block=max(held, default=0) + 1,
        lease_lost=_lease_lost,
    )
    try:
        return await life.run()
    finally:
        await pool.close()


class _Life:
    """The worker's long-lived loops and the order of its start and end."""

    def __init__(
        self,
        settings: Settings,
        lease: ProcessLease,
        store: ConfigStore,
        keyring: Keyring,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.numbers = settings.reliability
        self.lease = lease
        self.store = store
        self.keyring = keyring
        self.metrics = metrics
        self.worker: Worker
        self.stop = asyncio.Event()
        self._journal_dir = settings.data_dir / "journal"
        self._is_recovered = False  # until then the marks of the former owner stand

    async def run(self) -> int:
        """Recover, serve until SIGTERM, drain."""
        worker, flow = self.worker, self.worker.flow
        await self._maintain()
        await worker.acceptor.start()
        await worker.events.start()
        await self._renew()  # the first id is given after its range is reserved: we may die soon
        renewing = asyncio.create_task(self._renew_forever(), name="lease")
        try:
            await self._recover()
            await self._reload()
            flow.metrics.before_scrape.append(flow.set_gauges)
            gc.freeze()  # what is there now stays: later collections need not look at it
            return await self._serve(renewing)
        finally:
            renewing.cancel()

    async def _recover(self) -> None:
        flow = self.worker.flow
        began = time.monotonic()
        replay = Journal.replay(self._journal_dir, self.lease.process)
        snapshot = await self.store.load()
        flow.reconfigure(snapshot)  # routes are known, no channel is up yet: everything is held
        notifier = self.worker.notifier  # first: it must hear of what recovery commits
        notifier.reconfigure(snapshot)
        # Nothing of this life is committed yet, so our own clock bounds the earlier one: its last
        # rows may lie above the high-water mark when the database was away for a while.
        events = await notifier.recover(self.worker.ids.next())
        found = await recover(flow, self.worker.claims, replay)
        flow.journal.journal = Journal(self._journal_dir, self.lease.process, self.lease.epoch)
        self._is_recovered = True
        log.info(
            "recovered",
            process=self.lease.process,
            epoch=self.lease.epoch,
            is_journal_present=replay.is_present,
            queued=found.queued,
            answered=found.answered,
            uncertain=found.uncertain,
            events=events,
            seconds=round(time.monotonic() - began, 3),
        )

    async def _serve(self, renewing: asyncio.Task[None]) -> int:
        loop = asyncio.get_running_loop()
        signals = _Signals(self.stop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals)
        http = _Http(self._http_config())
        sockets = [socket.socket(fileno=os.dup(fd)) for fd in self.settings.listen_fds]
        self.worker.notifier.start()
        internal = await serve_internal(self._internal_path(), self._snapshot)
        loops = [asyncio.create_task(coroutine) for coroutine in self._loops()]
        serving = asyncio.create_task(http.serve(sockets), name="http")
        stopping = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait(
                {serving, stopping, renewing, *loops}, return_when=asyncio.FIRST_COMPLETED
            )
            _raise_first([renewing, serving, *loops])
            await self._drain(http, serving, renewing)
        finally:
            internal.close()
            for task in (*loops, stopping):
                task.cancel()
            await asyncio.gather(*loops, stopping, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_BACK_S):
                    await self.worker.flow.limiter.close()
        return 0

    def _http_config(self) -> uvicorn.Config:
        settings = self.settings
        app, door = build_doors(self.worker.flow)
        return uvicorn.Config(
            app,
            http=partial(GatewayHttp, door=door, shared=Connections(connection_limit())),  # type: ignore[arg-type]  # called like a class
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
            ssl_certfile=settings.tls_cert_file,
            ssl_keyfile=settings.tls_key_file,
        )

    def _internal_path(self) -> Path:
        run_dir = self.settings.run_dir or self.settings.data_dir
        return run_dir / f"worker-{self.settings.worker_slot}.sock"

    def _snapshot(self) -> dict[str, object]:
        missing = self.worker.flow.is_ready()
        return {
            "metrics": self.metrics.snapshot(),
            "ready": not missing,
            "missing": missing,
            "counts": {"live": len(self.worker.flow.ledger.live)},
        }

    # -- long-lived loops ------------------------------------------------------------------

    def _loops(self) -> list[Coroutine[None, None, None]]:
        return [
            self._tick_forever(),
            self._watch_lag(),
            self.worker.reports.run(),
            self.worker.conflicts.run(),
            self._every(PARKED_POLL_S, "parked", self._parked_round),
            self._every(STANDING_CHECK_S, "standing", self._park_standing),
            self._every(self.numbers.config_poll_s, "config", self._reload_if_changed),
            self._every(MAINTENANCE_S, "maintenance", self._maintain),
            self.worker.flow.limiter.run(),
            self._every(LIVING_S, "living", self.worker.living.look),
            self._every(DELTAS_S, "deltas", self._fold_deltas),
        ]

    async def _every(self, seconds: float, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step again and again; while the store is away it is simply tried later."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await step()
            except LeaseLost:
                _lease_lost()
            except (Unavailable, ConfigError) as error:
                log.warning("step put off", step=name, error=str(error))

    async def _tick_forever(self) -> None:
        dispatcher = self.worker.flow.dispatcher
        while True:
            await asyncio.sleep(TICK_S)
            dispatcher.tick()

    async def _watch_lag(self) -> None:
        flow = self.worker.flow
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_STEP_S)
            late = time.monotonic() - before - LAG_STEP_S
            flow.loop_lag_s = max(late, flow.loop_lag_s * 0.8)
            flow.refresh_shed()

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self.numbers.lease_renew_s)
            try:
                await self._renew()
            except LeaseLost:
                _lease_lost()
            except Unavailable as error:
                log.warning("lease not renewed", error=str(error))

    async def _renew(self) -> None:
        worker = self.worker
        high_water, mark, cursor = self._marks(ID_AHEAD_S)
        await self.lease.renew(id_high_water=high_water, low_water=mark, event_cursor=cursor)
        worker.acceptor.id_limit = high_water
        journal = worker.flow.journal.journal
        if journal is not None:
            floor = worker.claims.floor()
            journal.note_low_water(mark if floor is None else min(mark, floor))

    def _marks(self, ahead_s: float) -> tuple[int, int, int]:
        """(id high water, low-water mark, event cursor) from what is committed now."""
        worker = self.worker
        high_water = worker.ids.high_water(ahead_s)
        if not self._is_recovered:  # what we owe is not in memory yet, so memory cannot tell
            return high_water, self.lease.low_water, self.lease.event_cursor
        floors = [worker.acceptor.pending_floor(), worker.events.pending_message_floor()]
        known = [floor for floor in floors if floor is not None]
        newest = worker.ids.next()
        mark = low_water(worker.flow.ledger.live, min(known, default=None), newest)
        notifier = worker.notifier
        return high_water, mark, newest if notifier.is_idle() else notifier.cursor()

    async def _parked_round(self) -> None:
        """Messages whose wait is over; acts on a page and waits for its commit."""
        flow = self.worker.flow
        due = await flow.reader.due_parked(self.lease.process, time.time(), PARKED_LIMIT)
        if not due:
            return
        away = [row.message_id for row in due if self._at_hand(row.message_id) is None]
        stored = await flow.reader.messages(away)
        push_out: list[Message] = []
        for row in due:
            message = self._at_hand(row.message_id)
            if message is None and row.message_id in stored:
                message = fold_stored(stored[row.message_id])
                message.is_parked = True
            if message is None:
                continue
            if row.why == Why.QUEUED and message.state in _STANDING:
                push_out.append(message)
            else:
                flow.evidence.due(message)
        self._push_out(push_out)
        await self._committed()

    def _at_hand(self, message_id: int) -> Message | None:
        flow = self.worker.flow
        return flow.ledger.live.get(message_id) or flow.evidence.waiting.get(message_id)

    def _push_out(self, messages: list[Message]) -> None:
        """They still stand in a lane, or return to one: their parked row stays."""
        if not messages:
            return
        flow = self.worker.flow
        later = time.time() + REPARK_S
        rows = [
            (message.id, later, Why.QUEUED, message.message_class, message.tenant)
            for message in messages
        ]

        def done() -> None:
            for message in messages:
                message.is_parked = True  # only now may the low-water mark pass it

        flow.ledger.commit([], sql=park_sql(self.lease.process, rows), done=done)
        for message in messages:
            is_waiting = message.state in (State.ACCEPTED, State.QUEUED)
            if is_waiting and message.id not in flow.ledger.live:
                flow.dispatcher.resend(message)

    async def _park_standing(self) -> None:
        """What stands in a lane longer than 10 minutes keeps a parked row: the mark moves on."""
        before = time.time() - self.numbers.parked_after_s
        standing: list[Message] = []
        for message in self.worker.flow.ledger.live.values():
            if unix_of(message.id) > before:
                break
            if not message.is_parked:
                standing.append(message)
        for start in range(0, len(standing), PARKED_LIMIT):
            self._push_out(standing[start : start + PARKED_LIMIT])
            await asyncio.sleep(0)

    async def _committed(self) -> None:
        done = asyncio.Event()
        self.worker.flow.ledger.commit([], done=done.set)
        await done.wait()

    async def _fold_deltas(self) -> None:
        await self.worker.flow.reader.fold_deltas(self.lease.process)

    async def _reload_if_changed(self) -> None:
        if await self.store.version() != self.worker.flow.snapshot.version:
            await self._reload()

    async def _reload(self) -> None:
        snapshot = await self.store.load()
        worker = self.worker
        sync_channels(worker, snapshot, self.numbers)
        worker.flow.reconfigure(snapshot)
        worker.notifier.reconfigure(snapshot)
        log.info("configuration in force", version=snapshot.version)

    async def _maintain(self) -> None:
        """Partitions and data keys, made ahead."""
        conn = await connect(self.settings.database_url or "", statement_timeout_s=30)
        try:
            await partitions.ensure(
                conn,
                self.keyring,
                days_ahead=self.numbers.partitions_ahead_days,
                now=time.time(),
            )
        finally:
            await close_connection(conn)

    # -- the end ---------------------------------------------------------------------------

    async def _drain(
        self, http: _Http, serving: asyncio.Task[None], renewing: asyncio.Task[None]
    ) -> None:
        """RELIABILITY section 9: not ready, no intake, answers, unbind, flush, release."""
        worker, flow = self.worker, self.worker.flow
        numbers = self.numbers
        deadline = time.monotonic() + numbers.drain_total_s - 2.0
        flow.is_draining = True
        log.info("draining")
        await asyncio.sleep(numbers.drain_before_s)
        flow.is_intake_closed = True
        flow.dispatcher.is_stopped = True
        http.should_exit = True
        await asyncio.wait({serving}, timeout=max(0.1, min(6.0, deadline - time.monotonic())))
        await worker.acceptor.stop(max(0.1, min(5.0, deadline - time.monotonic())))
        answers_s = max(0.1, min(numbers.drain_answers_s, deadline - time.monotonic() - 3.0))
        stops = [r.adapter.stop(answers_s) for r in flow.dispatcher.channels.values()]
        await asyncio.gather(*stops, *worker.stopping, return_exceptions=True)
        await worker.events.drain(max(0.1, deadline - time.monotonic() - 1.0))
        await worker.notifier.stop(max(0.1, min(2.0, deadline - time.monotonic())))
        await worker.deliverer.close()
        await worker.events.drain(max(0.1, deadline - time.monotonic()))
        high_water, mark, cursor = self._marks(0.0)
        renewing.cancel()  # it speaks over the same connection, and would take the lease again
        with contextlib.suppress(Unavailable, LeaseLost):
            await self.lease.release(id_high_water=high_water, low_water=mark, event_cursor=cursor)
        await worker.events.stop()
        if flow.journal.journal is not None:
            flow.journal.journal.close()
        log.info("drained")


class _Signals:
    """First signal: drain. Second: leave now."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def __call__(self) -> None:
        if self._stop.is_set():
            os._exit(128 + signal.SIGTERM)
        self._stop.set()


def _raise_first(tasks: list[asyncio.Task[None]]) -> None:
    """A long-lived loop that ended by itself is a bug: let it end the process, visibly."""
    for task in tasks:
        if task.done() and not task.cancelled():
            error = task.exception()
            if error is not None:
                raise error
