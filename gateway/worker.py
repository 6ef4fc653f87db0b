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
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvloop

from cluster.nonces import Nonces
from gateway.api.access import Access
from gateway.api.address import Addresses
from gateway.canary_judge import LOOKS
from gateway.certificate_dates import LOOK_S, ExpiryGauge
from gateway.channel_news import NEWS_S
from gateway.descriptors import forbid_cores
from gateway.garbage import Garbage
from gateway.guard import LeaseGuard
from gateway.http_server import HttpServer, build_server
from gateway.idreserve import AHEAD_S
from gateway.internal_http import Internal, serve_internal
from gateway.ledger import low_water
from gateway.outage import forget_lost_connections
from gateway.recover import recover
from gateway.server_tls import ServerTls, files_of
from gateway.settings import Settings, node_name
from gateway.wiring import Worker, build, sync_channels
from sms.errors import ConfigError, LeaseLost, Unavailable
from sms.ids import TIME_SHIFT
from store import partitions, retention
from store.config import ConfigStore
from store.conservation import opened_by
from store.database import Pool, check_durability, connect, open_pool
from store.database import close as close_connection
from store.journal import Journal, Replay
from store.journal_lock import OwnJournal
from store.processes import NO_MORE_EVENTS, ProcessLease, raise_event_floor
from store.read import Reader
from store.reading import open_reading
from store.restored import Seen, must_not_be_older
from store.schema import must_fit_code
from store.seal import Keyring, must_fit, read_master_key
from store.usage import Usage
from telemetry.access import AccessLog, Keep
from telemetry.failpoints import failpoints
from telemetry.logs import configure, get_logger
from telemetry.metrics import Metrics

log = get_logger(__name__)

TICK_S = 0.1
LAG_STEP_S = 0.05
CLAIMS_S = 0.5  # until a claim that ended is deleted where nothing else is written
PARKED_POLL_S = 0.5
SCHEDULE_POLL_S = 0.5  # a scheduled message is taken up so long after its moment at most
SWEEP_S = 1.0  # between two looks at the validity of what is spilled
MARK_SLICE = 10_000  # messages looked at in one turn of the loop, some 1 ms
MAINTENANCE_S = 3600.0
DELTAS_S = 60.0
KEYS_S = 60.0  # between two looks for intake keys whose time is over
KEYS_MOST = 200_000  # deleted at one look, some 2 s of one connection
QUOTAS_KEPT_DAYS = 400
USAGE_S = 5.0  # until what flushes counted is added to the days; reading adds it up meanwhile
EVENT_FLOOR_S = 1.0  # between two words about which events may still come
EVENT_MARGIN_MS = 2000  # a row may be made so long before it is handed to its lane
RETENTION_S = 60.0  # between two looks at how old what is kept is
GIVE_BACK_S = 1.0  # what is held of the limits, at the end
RENEW_AGAIN_S = 0.5  # after a renewal that failed: others must not think that we are dead
FAILPOINT_LOOK_S = 0.05  # of a test run that arms places as it goes
EXIT_UNAVAILABLE = 1
EXIT_LEASE_LOST = 3
EXIT_CONFIG = 2
FLUSH_S = 3.0  # of the drain's time kept for writing down what became of the answers
RELEASE_S = 1.0  # at least, for a renewal that runs at the end
LAST_S = 3.0  # of the whole time to end: the supervisor's, and its servers'


def run(settings: Settings) -> int:
    """Run one worker until SIGTERM; returns the exit code."""
    configure(settings.log_level, sys.stderr)
    if not settings.core_dumps:
        forbid_cores()
    if settings.failpoint is not None:
        failpoints.arm(settings.failpoint, settings.failpoint_dir)
    gc.set_threshold(50_000, 20, 100)  # while it recovers; then `Garbage` looks
    try:
        return uvloop.run(_main(settings))
    except ConfigError as error:
        log.error("worker cannot start", error=str(error))  # noqa: TRY400 (no traceback: the text is the remedy)
        return EXIT_CONFIG
    except Unavailable as error:
        log.error("worker ended", error=str(error))  # noqa: TRY400 (the text says what is away)
        return EXIT_UNAVAILABLE


def _lease_lost() -> None:
    """Another process owns our messages: every socket closes with the process, at once."""
    os.write(2, b'{"event": "lease lost, leaving", "level": "error"}\n')
    os._exit(EXIT_LEASE_LOST)


async def _main(settings: Settings) -> int:
    dsn = settings.database_url
    if not dsn:
        raise ConfigError("SMSGW_DATABASE_URL: a worker needs it; start it with `smsgw up`")
    asyncio.get_running_loop().set_exception_handler(forget_lost_connections)
    numbers = settings.reliability
    metrics = Metrics()
    files = files_of(settings)
    # Before a number is taken: without a good pair nothing is owned.
    is_sealed = settings.listen_fds or (settings.smg_fds and settings.smg_tls)
    tls = ServerTls(files, metrics) if files and is_sealed else None
    keyring = Keyring(read_master_key(settings.master_key_file))
    await must_fit_code(dsn)
    await check_durability(dsn)
    await must_fit(dsn, keyring)  # before a number is taken: its debts would look like a death's
    seen_dir = settings.data_dir / "seen"
    origin = await must_not_be_older(dsn, seen_dir)
    own = OwnJournal(settings.data_dir / "journal", slot=settings.worker_slot)  # till we end
    lease = await ProcessLease.take(
        dsn,
        node=node_name(settings),
        slot=settings.worker_slot,
        lease_s=numbers.lease_s,
        role=settings.role,
        hold=own.hold,
    )
    await must_fit_code(dsn)  # a contraction that began meanwhile saw us, or we see it
    pool = await open_pool(dsn, process=lease.process, epoch=lease.epoch)
    life = _Life(settings, lease, pool, keyring, metrics)
    life.tls = tls
    life.seen = Seen(seen_dir, lease.process, origin)
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
    if tls is not None and settings.smg_tls:
        life.worker.flow.smg_port.tls = tls.context
    reading = life.worker.flow.reading = await open_reading(dsn, keyring)
    nonces = Nonces(settings.redis_url)
    life.worker.flow.access = Access(
        addresses=Addresses(settings.trusted_proxies),
        nonces=nonces,
        config=life.store,
        refresh=life.reload_if_changed,
        log=AccessLog(
            settings.log_dir,
            f"worker-{settings.worker_slot}",
            Keep(settings.access_log_days, settings.access_log_mb * 1_000_000),
            has_sends=settings.access_log_sends,
        ),
        has_client_ca=settings.tls_client_ca_file is not None,
    )
    try:
        return await life.run()
    finally:
        await nonces.close()
        await reading.pool.close()
        await life.worker.deliverer.close()  # a start that fails does not come to the drain
        await pool.close()


class _Life:
    """The worker's long-lived loops and the order of its start and end."""

    def __init__(
        self,
        settings: Settings,
        lease: ProcessLease,
        pool: Pool,
        keyring: Keyring,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.numbers = settings.reliability
        self.lease = lease
        self.pool = pool
        self.store = ConfigStore(pool, keyring)
        self.keyring = keyring
        self.metrics = metrics
        self.worker: Worker
        self.seen: Seen  # both set by `_main`
        self.http: HttpServer | None = None  # none in a role without a public door
        self.tls: ServerTls | None = None  # of that door; None = plain HTTP
        self.stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._journal_dir = settings.data_dir / "journal"
        self._is_recovered = False  # until then the marks of the former owner stand
        self._is_silent = False  # the event lane has ended: its floor is said for good
        self._renew_now = asyncio.Event()
        self._garbage = Garbage(lambda: not self.worker.flow.ledger.live)
        self._is_leaving = False  # the lease is not renewed any more

    async def run(self) -> int:
        """Recover, serve until SIGTERM, drain."""
        worker, flow = self.worker, self.worker.flow
        # From the first moment on: the supervisor replaces a worker that says nothing.
        internal = await serve_internal(
            self._internal_path(), Internal(self._snapshot, self._spread, self._look_at_files)
        )
        await self._maintain()
        await worker.acceptor.start()
        await worker.events.start()
        await self._renew()  # the first id is given after its range is reserved: we may die soon
        renewing = asyncio.create_task(self._renew_forever(), name="lease")
        floor = asyncio.create_task(
            self._every(EVENT_FLOOR_S, "event floor", self._raise_event_floor)
        )
        guard = LeaseGuard(
            self.lease.is_valid,
            lambda: [runtime.adapter for runtime in flow.dispatcher.channels.values()],
            self._stood_still,
        )
        worker.peers.takeover.renew = worker.reserve.ask = self._renew_now.set
        guard.start()
        try:
            await self._recover()
            await worker.peers.sessions.look()  # which channels are up elsewhere
            await self._reload()
            flow.metrics.before_scrape.append(flow.set_gauges)
            self._garbage.begin()
            return await self._serve(renewing)
        finally:
            guard.stop()
            renewing.cancel()
            floor.cancel()
            internal.close()

    async def _recover(self) -> None:
        flow = self.worker.flow
        began = time.monotonic()
        counted = await opened_by(self.pool, self.lease.process)
        flow.ledger.opened.update(counted)  # before the first flush of this life
        await self.worker.suppressing.refresh()  # before anything can be accepted or sent
        await flow.porting.refresh()  # likewise
        snapshot = await self.store.load()
        flow.reconfigure(snapshot)  # routes are known, no channel is up yet: everything is held
        notifier = self.worker.notifier  # first: it must hear of what recovery commits
        notifier.reconfigure(snapshot)
        # Nothing of this life is committed yet, so our own clock bounds the earlier one: its last
        # rows may lie above the high-water mark when the database was away for a while.
        events = await notifier.recover(self.worker.ids.next())
        await self.worker.peers.commands.load()  # first: nothing of a paused batch goes out
        found = await recover(flow, self.worker.claims, self._replay)
        if failpoints.is_armed:
            failpoints.hit("recover.committed")
        flow.journal.journal = Journal(
            self._journal_dir, self.lease.process, self.lease.epoch, moment=self.worker.ids.next
        )
        self._is_recovered = True
        if failpoints.is_armed:
            failpoints.hit("recover.done")
        log.info(
            "recovered",
            process=self.lease.process,
            epoch=self.lease.epoch,
            is_journal_present=found.is_journal_present,
            queued=found.queued,
            answered=found.answered,
            uncertain=found.uncertain,
            events=events,
            seconds=round(time.monotonic() - began, 3),
        )

    async def _replay(self, wanted: Collection[int]) -> Replay:
        """In a thread: the lease is renewed and the watchdog answered meanwhile."""
        return await asyncio.to_thread(
            Journal.replay, self._journal_dir, self.lease.process, frozenset(wanted)
        )

    async def _serve(self, renewing: asyncio.Task[None]) -> int:
        loop = asyncio.get_running_loop()
        signals = _Signals(self.stop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals)
        loop.add_signal_handler(signal.SIGHUP, self._look_at_files)
        self.worker.notifier.start()
        self.worker.peers.start()
        loops = [asyncio.create_task(coroutine) for coroutine in self._loops()]
        stopping = asyncio.create_task(self.stop.wait())
        serving = asyncio.create_task(self._serve_http(), name="http")
        try:
            await asyncio.wait(
                {serving, stopping, renewing, *loops}, return_when=asyncio.FIRST_COMPLETED
            )
            _raise_first([renewing, serving, *loops])
            await self._drain(serving, renewing)
        finally:
            for task in (*loops, stopping):
                task.cancel()
            await asyncio.gather(*loops, stopping, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_BACK_S):
                    await self.worker.flow.limiter.close()
                    if self.worker.flow.pumping is not None:
                        await self.worker.flow.pumping.guard.close()
        return 0

    async def _serve_http(self) -> None:
        """The public door; a worker that inherited no socket has none."""
        if not self.settings.listen_fds:
            await self.stop.wait()
            return
        self.http = build_server(self.settings, self.worker.flow, self.tls)
        await self.http.serve_inherited()

    def _internal_path(self) -> Path:
        run_dir = self.settings.run_dir or self.settings.data_dir
        return run_dir / f"worker-{self.settings.worker_slot}.sock"

    def _snapshot(self) -> dict[str, object]:
        http = self.http
        is_open = http.started if http is not None else not self.settings.listen_fds
        is_serving = self._is_recovered and is_open
        missing = self.worker.flow.is_ready() if is_serving else ["worker: starting"]
        return {
            "metrics": self.metrics.snapshot(),
            "ready": not missing,
            "serving": is_serving and not self.stop.is_set(),
            "missing": missing,
            "counts": {
                "live": len(self.worker.flow.ledger.live),
                "connections": 0 if http is None else http.connections(),
                "cpu_s": time.process_time(),
            },
        }

    def _spread(self, connections: int) -> None:
        if self.http is not None:
            self.http.spread(connections)

    def _look_at_files(self) -> None:
        """There may be another certificate."""
        if self.tls is not None:
            self.tls.ask()

    def _certificate_ends(self) -> datetime | None:
        return None if self.tls is None else self.tls.ends()

    def _stood_still(self) -> None:
        """We were frozen, perhaps with the whole machine: then others were too."""
        self.worker.peers.takeover.unsteady()
        self._renew_now.set()

    # -- long-lived loops ------------------------------------------------------------------

    def _loops(self) -> list[Coroutine[None, None, None]]:
        loops = [
            *(self._while_owned(loop) for loop in self.worker.peers.loops(self._every)),
            *self.worker.silence.loops(self._every),
            self._tick_forever(),
            self._watch_lag(),
            self._every(CLAIMS_S, "claims", self._flush_claims),
            self._while_owned(self.worker.reports.run()),
            self._while_owned(self.worker.inbound.run()),
            self._every(NEWS_S, "channel news", self.worker.news.round),
            self.worker.conflicts.run(),
            self._every(PARKED_POLL_S, "parked", self.worker.standing.round),
            self._every(SCHEDULE_POLL_S, "schedule", self.worker.flow.schedule.round),
            self._every(
                self.numbers.suppressions_poll_s, "suppressions", self.worker.suppressing.round
            ),
            self._every(
                self.numbers.portability_poll_s, "portability", self.worker.flow.porting.refresh
            ),
            self._every(self.worker.standing.every_s, "standing", self.worker.standing.park),
            self._every(self.numbers.conservation_s, "conservation", self._conserve),
            self._every(self.numbers.canary_flush_s, "canary counts", self.worker.canaries.flush),
            self._every(self._canaries_s(), "canaries", self.worker.canary_judge.round),
            self._every(SWEEP_S, "expiry", self.worker.flow.backlog.sweep),
            self.worker.flow.backlog.run(),
            self._every(self.numbers.config_poll_s, "config", self.reload_if_changed),
            self._every(MAINTENANCE_S, "maintenance", self._maintain),
            self.worker.flow.limiter.run(),
            self._every(DELTAS_S, "deltas", self._fold_deltas),
            self._every(KEYS_S, "intake keys", self._forget_keys),
            self._every(USAGE_S, "usage", self._fold_usage),
            self._every(RETENTION_S, "retention", self._look_at_retention, first_s=0.0),
        ]
        if self.worker.flow.pumping is not None:
            loops.append(self.worker.flow.pumping.guard.run())
        expiry = ExpiryGauge(self.settings, self.metrics, self._certificate_ends)
        loops.append(
            self._every(
                LOOK_S,
                "certificates",
                lambda: expiry.look(self.worker.flow.snapshot.channels.values()),
                first_s=0.0,
            )
        )
        if self.tls is not None:
            loops.append(self.tls.run(self.numbers.tls_reload_s))
        if failpoints.is_watching:
            loops.append(self._every(FAILPOINT_LOOK_S, "failpoint", self._look_for_failpoint))
        return loops

    async def _flush_claims(self) -> None:
        """A claim that ended goes soon, also where nothing else is written."""
        if self.worker.claims.has_pending():
            self.worker.events.kick()

    async def _look_for_failpoint(self) -> None:
        failpoints.look()

    async def _every(
        self,
        seconds: float,
        name: str,
        step: Callable[[], Awaitable[None]],
        *,
        first_s: float | None = None,
    ) -> None:
        """Run a step again and again; while the store is away it is simply tried later."""
        wait_s = seconds if first_s is None else first_s
        while True:
            await asyncio.sleep(wait_s)
            wait_s = seconds
            try:
                await step()
            except LeaseLost:
                _lease_lost()
            except (Unavailable, ConfigError) as error:
                log.warning("step put off", step=name, error=str(error))

    @staticmethod
    async def _while_owned(loop: Coroutine[None, None, None]) -> None:
        try:
            await loop
        except LeaseLost:
            _lease_lost()

    def _canaries_s(self) -> float:
        return max(TICK_S, self.numbers.canary_check_s / LOOKS)

    async def _conserve(self) -> None:
        await self.worker.conservation.round()

    async def _tick_forever(self) -> None:
        flow = self.worker.flow
        while True:
            await asyncio.sleep(TICK_S)
            flow.dispatcher.tick()
            self._garbage.round()
            if not flow.is_draining:  # a drain closes the store's connections by itself
                flow.outage.look(time.monotonic(), is_up=flow.is_writable())

    async def _watch_lag(self) -> None:
        flow = self.worker.flow
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_STEP_S)
            late = time.monotonic() - before - LAG_STEP_S
            flow.loop_lag_s = max(late, flow.loop_lag_s * 0.8)
            flow.refresh_shed()

    async def _renew_forever(self) -> None:
        peers = self.worker.peers
        wait_s = self.numbers.lease_renew_s
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._renew_now.wait(), wait_s)
            self._renew_now.clear()
            if self._is_leaving:
                return
            wait_s = self.numbers.lease_renew_s
            try:
                await self._renew()
                peers.sessions.renewed()
            except LeaseLost:
                _lease_lost()
            except Unavailable as error:
                log.warning("lease not renewed", error=str(error))
                peers.takeover.unsteady()
                wait_s = min(wait_s, RENEW_AGAIN_S)

    async def _renew(self) -> None:
        worker = self.worker
        high_water, mark, cursor = self._marks(AHEAD_S, await self._low_water())
        is_steady = await self.lease.renew(
            id_high_water=high_water, low_water=mark, event_cursor=cursor
        )
        if not is_steady:  # in the same turn: until now a step would be noticed by its clock
            log.warning("the clock of PostgreSQL went forward")
            worker.peers.takeover.unsteady()
        if failpoints.is_armed:
            failpoints.hit("marks.written")
        self.seen.note(high_water)
        worker.acceptor.id_limit = high_water
        worker.reserve.granted(high_water)
        journal = worker.flow.journal.journal
        if journal is not None:
            floor = worker.claims.floor()
            journal.note_low_water(mark if floor is None else min(mark, floor))

    def _marks(self, ahead_s: float, mark: int | None = None) -> tuple[int, int, int]:
        """(id high water, low-water mark, event cursor) from what is committed now."""
        worker = self.worker
        high_water = worker.ids.high_water(ahead_s)
        if not self._is_recovered:  # what we owe is not in memory yet, so memory cannot tell
            return high_water, self.lease.low_water, self.lease.event_cursor
        newest = worker.ids.next()
        if mark is None:
            mark = low_water(worker.flow.ledger.live, self._floor(), newest)
        notifier = worker.notifier
        return high_water, mark, newest if notifier.is_idle() else notifier.cursor()

    def _floor(self) -> int | None:
        """The lowest id that is spilled or not committed yet."""
        worker = self.worker
        floors = [
            worker.acceptor.pending_floor(),
            worker.events.pending_message_floor(),
            worker.flow.backlog.spill.floor(),
        ]
        return min([floor for floor in floors if floor is not None], default=None)

    async def _low_water(self) -> int:
        """The low-water mark of this moment, found in slices: what comes later lies above it."""
        if not self._is_recovered:
            return self.lease.low_water
        mark, floor = self.worker.ids.next(), self._floor()
        live = list(self.worker.flow.ledger.live.items())
        for start in range(0, len(live), MARK_SLICE):
            mark = low_water(dict(live[start : start + MARK_SLICE]), None, mark)
            await asyncio.sleep(0)
        return mark if floor is None else min(mark, floor)

    async def _forget_keys(self) -> None:
        await self.worker.flow.intake.forget(KEYS_MOST)
        await self.worker.inbound.forget()

    async def _fold_deltas(self) -> None:
        await self.worker.flow.reader.fold_deltas(self.lease.process)

    async def _fold_usage(self) -> None:
        await Usage(self.pool).fold()

    async def _raise_event_floor(self) -> None:
        """Tell below which event id nothing of ours will be committed any more."""
        if self._is_silent:
            return
        floor = self.worker.ids.next() - (EVENT_MARGIN_MS << TIME_SHIFT)
        floor = min(floor, self.worker.notifier.pending_floor() or floor)
        await raise_event_floor(self.pool, self.lease.process, floor)

    async def _look_at_retention(self) -> None:
        now, metrics = time.time(), self.metrics
        for one in await retention.standings(self.pool):
            table = (one.what,)
            if one.oldest_at is not None:
                metrics.retention_oldest_age_seconds.set(table, max(0.0, now - one.oldest_at))
            metrics.retention_dropped.set(table, one.dropped)
            metrics.retention_done_timestamp_seconds.set(table, one.done_at)
            metrics.retention_held.set(table, float(one.held is not None))

    async def reload_if_changed(self) -> None:
        """Take up a new configuration: each second, and when this process changed it itself."""
        flow = self.worker.flow
        async with self._reloading:  # what was read first must not be put in force last
            if await self.store.version() == flow.snapshot.version:
                return
            if flow.is_draining:  # a channel started now would outlive its drain
                flow.snapshot = await self.store.load()  # but a revoked key ends here too
            else:
                await self._reload()

    async def _reload(self) -> None:
        snapshot = await self.store.load()
        worker = self.worker
        await worker.peers.sessions.share(snapshot.channels)
        sync_channels(worker, snapshot, self.numbers)
        worker.flow.reconfigure(snapshot)
        worker.notifier.reconfigure(snapshot)
        worker.canaries.reconfigure(snapshot)
        log.info("configuration in force", version=snapshot.version)

    async def _maintain(self) -> None:
        """Partitions and data keys, made ahead; old sums of quotas dropped."""
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
        over = partitions.today(time.time()) - self.numbers.retention_messages_days
        self.keyring.forget_before(over - 1)
        kept_from = datetime.now(UTC).date() - timedelta(days=QUOTAS_KEPT_DAYS)
        await self.worker.quotas.forget(kept_from)
        await Usage(self.pool).forget(kept_from)

    # -- the end ---------------------------------------------------------------------------

    async def _drain(self, serving: asyncio.Task[None], renewing: asyncio.Task[None]) -> None:
        """RELIABILITY section 9: not ready, no intake, answers, unbind, flush, release.

        Until the last connection is closed every request gets its answer: what is accepted late
        is stored, and who comes after us sends it.
        """
        worker, flow = self.worker, self.worker.flow
        numbers = self.numbers
        deadline = time.monotonic() + numbers.drain_total_s - LAST_S
        flow.is_draining = True
        log.info("draining")
        idle_until = await self._leave_the_door(deadline)
        flow.dispatcher.stop()
        await worker.peers.leave()
        answers_until = min(time.monotonic() + numbers.drain_answers_s, deadline - FLUSH_S)
        while time.monotonic() < answers_until:  # the tick sends what they lack
            if not flow.dispatcher.is_mending():
                break
            await asyncio.sleep(TICK_S)
        answers_s = max(0.1, answers_until - time.monotonic())
        stops = flow.stop_connections(answers_s)
        await asyncio.gather(*stops, *worker.stopping, return_exceptions=True)
        await worker.inbound.stop(max(0.1, min(FLUSH_S, deadline - time.monotonic())))
        await worker.peers.left()
        await self._close_the_door(idle_until, deadline)
        await worker.acceptor.stop(max(0.1, min(5.0, deadline - time.monotonic())))
        worker.peers.hand_back()
        if self.http is not None:
            await self.http.end()
            await asyncio.wait({serving}, timeout=max(0.1, min(2.0, deadline - time.monotonic())))
        await worker.events.drain(max(0.1, deadline - time.monotonic() - 1.0))
        await worker.notifier.stop(max(0.1, min(2.0, deadline - time.monotonic())))
        await worker.deliverer.close()
        await worker.peers.close()
        await worker.events.drain(max(0.1, deadline - time.monotonic()))
        await self._release(renewing, max(RELEASE_S, deadline - time.monotonic()))
        await worker.events.stop()
        self._is_silent = True
        with contextlib.suppress(Unavailable, LeaseLost, TimeoutError):
            async with asyncio.timeout(RELEASE_S):
                await raise_event_floor(self.pool, self.lease.process, NO_MORE_EVENTS)
        if flow.journal.journal is not None:
            flow.journal.journal.close()
        log.info("drained")

    async def _release(self, renewing: asyncio.Task[None], timeout_s: float) -> None:
        """End the lease, so that nobody need wait for its end before it takes over.

        A renewal that runs speaks over the same connection, and cut off it would break it.
        """
        self._is_leaving = True
        self._renew_now.set()
        await asyncio.wait({renewing}, timeout=timeout_s)
        renewing.cancel()
        high_water, mark, cursor = self._marks(0.0)
        try:
            await self.lease.release(id_high_water=high_water, low_water=mark, event_cursor=cursor)
        except (Unavailable, LeaseLost) as error:
            log.warning("lease not released", error=str(error))

    async def _leave_the_door(self, deadline: float) -> float:
        """Send clients elsewhere; returns until when idle connections stay open (monotonic)."""
        http, numbers = self.http, self.numbers
        if http is None:
            return 0.0
        http.begin_drain()
        await asyncio.sleep(numbers.drain_before_s)
        await http.stop_accepting()
        idle_until = time.monotonic() + numbers.drain_idle_s
        await http.answer_busy(min(numbers.drain_requests_s, deadline - time.monotonic()))
        return idle_until

    async def _close_the_door(self, idle_until: float, deadline: float) -> None:
        """Close the connections that ask nothing; what asks too slowly is refused."""
        http = self.http
        if http is not None:
            await http.let_stay(min(idle_until, deadline - FLUSH_S) - time.monotonic())
            is_empty = await http.close_idle(max(0.1, min(1.0, deadline - time.monotonic())))
            if not is_empty:
                http.give_up()
        self.worker.flow.is_intake_closed = True


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
