"""The parent of everything on this node, while it runs (`gateway.up` builds it).

    supervisor ─┬─ postgres, valkey     unless SMSGW_DATABASE_URL / SMSGW_REDIS_URL name others
                ├─ worker-0 … N-1       python -m gateway worker, all on the sockets opened by `up`
                ├─ upkeep               each hour, for the length of one round
                └─ sandbox              simulated carriers and a webhook sink

It starts again what dies and kills what is silent for too long, restarts the workers one after
another when it is asked to (SIGUSR1), has them look for a new certificate (SIGHUP), serves the
node's /healthz, /readyz and /metrics, and ends everything in order. It carries no message: a kill
-9 of it costs what a kill -9 of the workers costs, since its children die with it and the next
start finds everything on the same data directory.

It forks, so it has no threads, and everything here runs on the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Final

from gateway.children import Child, CpuTotal, backoff_s, cpu_seconds, ended_how, tail
from gateway.counts import COUNTED, Counts
from gateway.node_http import Node, WorkerView, make_server
from gateway.rolling import Order, Rolling, Round, Seen
from gateway.server_tls import Files, ServerTls, files_of
from gateway.settings import Settings
from gateway.storage import Storage
from gateway.terminal import Terminal
from store import logfiles
from store.embedded import EmbeddedServers
from telemetry import logs

TICK_S: Final = 0.5
BUSY_TICK_S: Final = 0.1  # while a rolling restart runs
LOOK_S: Final = {True: 1.0, False: 5.0}  # how often workers are asked: with a live line, without
UNREADY_LOOK_S: Final = 0.2  # and while the node is not ready, or restarts
SETTLED_S: Final = 2.0  # a new cause of being unready that lasts so long is told
UPKEEP_S: Final = 3600.0  # between two rounds of it …
UPKEEP_FIRST_S: Final = 20.0  # … the first so long after the start …
UPKEEP_AGAIN_S: Final = 300.0  # … and after one that failed
LOGS_S: Final = 5.0  # between two looks at how long the logs are
SERVERS_S: Final = 2.0  # of the time to end, kept for the embedded servers
TERMINAL_S: Final = 0.5  # after SIGHUP: a shell sends it just before its terminal goes
KILLED: Final = 1  # exit code after a second signal
_FULL: Final = 0.99  # of the disk, where no smaller share closes intake
WRONG: Final = 2  # exit code of a ConfigError, ours and a worker's

log = logs.get_logger("supervisor")


def has_terminal() -> bool:
    """Whether there is a terminal whose end would be ours; none under a service manager."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@dataclass(slots=True)
class _Mending:
    """When the embedded servers may be started again."""

    deaths: int = 0
    due_at: float = 0.0
    since: float = 0.0  # monotonic; when the last start was
    is_waiting: bool = False


@dataclass(slots=True)
class Readiness:
    """What was told of readiness, so that each change is told once."""

    told: list[str] | None = None  # None = nothing yet
    seen: list[str] = field(default_factory=list)
    since: float = 0.0  # monotonic, when `seen` became what it is

    def is_news(self, missing: list[str], now: float) -> bool:
        """Whether to tell: an end of readiness at once, another cause once it has lasted."""
        if missing != self.seen:
            self.seen, self.since = missing, now
        if missing == self.told:
            return False
        was_ready = self.told == []
        if missing and not was_ready and now - self.since < SETTLED_S:
            return False
        self.told = missing
        return True


@dataclass(slots=True)
class Parts:
    """What `up` made: everything runs already but the workers."""

    settings: Settings
    terminal: Terminal
    workers: list[Child]
    views: list[WorkerView]  # one for each worker, in the same order
    embedded: EmbeddedServers | None
    others: list[Child]  # the sandbox's
    public: list[socket.socket]  # the workers' listening sockets, the carriers' port too
    upkeep: Child | None = None  # comes and goes: one round an hour


class Supervisor:
    """The running node."""

    def __init__(self, parts: Parts) -> None:
        self.settings = parts.settings
        self.terminal = parts.terminal
        self.workers = parts.workers
        self.embedded = parts.embedded
        self.others = parts.others
        self.node = Node(parts.views)
        self.node.metrics.before_scrape.append(self.set_process_metrics)
        self.node.missing_servers = self.missing_servers
        self.node.remarks = self.storage_words
        self.node.restart_state = self.restart_state
        numbers = parts.settings.reliability
        self.rolling = Rolling(
            [worker.name for worker in parts.workers],
            numbers.drain_total_s + 1,
            numbers.restart_ready_s,
        )
        self.signals = 0
        self.exit_code = 0
        self._public = parts.public
        self._upkeep = parts.upkeep  # ended anywhere: its next round goes on there
        self._beside = [*parts.others, *([parts.upkeep] if parts.upkeep is not None else ())]
        self._upkeep_at = time.monotonic() + UPKEEP_FIRST_S
        self._logs_at = 0.0  # monotonic
        self._counts = Counts()
        self._readiness = Readiness()
        self._wake = asyncio.Event()
        self._mending = _Mending()
        self._storage = Storage(parts.settings.data_dir, time.monotonic)
        self._cpu: dict[str, CpuTotal] = {}
        self._hung_up = asyncio.Event()
        self._had_terminal = has_terminal()
        self._reload_s = parts.settings.reliability.tls_reload_s
        files = files_of(parts.settings) if parts.settings.admin_tls else None
        files = None if files is None else Files(files.cert, files.key)  # of nobody a certificate
        self._tls = None if files is None else ServerTls(files, self.node.metrics, may_thread=False)

    async def run(self, sockets: list[socket.socket]) -> int:
        """Run until a signal, then end everything in order; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_asked)
        loop.add_signal_handler(signal.SIGHUP, self._reload_asked)
        loop.add_signal_handler(signal.SIGUSR1, self._restart_asked)
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        server = make_server(self.node, None if self._tls is None else self._tls.context)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=sockets))
            looking = group.create_task(self._look())
            reloading = group.create_task(self._reload())
            try:
                await self._watch()
            finally:
                looking.cancel()
                reloading.cancel()
                await self._end_all()
                server.should_exit = True
                await serving
        return self.exit_code

    def _stop_asked(self) -> None:
        self.signals += 1
        self._wake.set()

    def _reload_asked(self) -> None:
        """SIGHUP: the certificate's files; or the terminal that we stood on is gone."""
        self._hung_up.set()

    async def _reload(self) -> None:
        """On SIGHUP, and the admin port's own pair as often as a worker does."""
        looking = None if self._tls is None else asyncio.create_task(self._tls.run(self._reload_s))
        try:
            while True:
                await self._hung_up.wait()
                self._hung_up.clear()
                log.info("reload asked for")
                if self._tls is not None:
                    self._tls.ask()
                await self.node.reload()
                if self._had_terminal:
                    await asyncio.sleep(TERMINAL_S)
                    if not has_terminal():
                        self._stop_asked()
                        return
        finally:
            if looking is not None:
                looking.cancel()

    def _restart_asked(self) -> None:
        number = self.rolling.ask()
        log.info("restart asked for", round=number)
        self._wake.set()

    # -- watching --------------------------------------------------------------------------

    async def _watch(self) -> None:
        while not self.signals:
            now = time.monotonic()
            self._mend_servers(now)
            for child in (*self.workers, *self.others):
                self._mend(child, now)
            if self._cannot_start():
                self.exit_code = WRONG
                return
            self._kill_silent(now)
            self._keep_up(now)
            self._shorten_logs(now)
            self._roll(now)
            with contextlib.suppress(TimeoutError):
                tick_s = BUSY_TICK_S if self.rolling.is_running else TICK_S
                await asyncio.wait_for(self._wake.wait(), tick_s)
            self._wake.clear()

    def _mend(self, child: Child, now: float) -> None:
        """Take note of an end, and start what is due; what cannot be is tried again."""
        try:
            self._look_after(child, now)
        except OSError as error:  # a full disk takes no log, a full machine no process
            child.put_off(now)
            log.warning("child not started", child=child.name, error=str(error))

    def _look_after(self, child: Child, now: float) -> None:
        code = child.reap(now)
        view = self.node.views[self.workers.index(child)] if child in self.workers else None
        if code is not None:
            self._tell_end(child, code)
            if view is not None:
                view.forget()
        if child.process is None and now >= child.due_at:
            child.start(now)
            if view is not None:
                view.silence.begin()
            log.info("child started", child=child.name, child_pid=child.pid, starts=child.starts)
            if view is not None:
                self.node.metrics.watchdog_kills_total.inc((child.name,), 0)  # from 0: rates see it
            if child.starts > 1:
                self.node.metrics.process_restarts_total.inc((child.name,))
        elif child.process is None and code is not None:
            self.terminal.step(f"{child.name} starts again in {child.due_at - now:.1f} s")

    def _tell_end(self, child: Child, code: int) -> None:
        how = ended_how(code)
        if child.is_leaving and code == 0:
            log.info("child drained", child=child.name)
            self.terminal.say(f"{child.name} drained", "drained", child=child.name)
            return
        words = child.last_words()
        log.warning("child ended", child=child.name, how=how, log=words)
        self.terminal.say(
            f"{child.name} ended ({how}); its last words in {child.log}:"
            + "".join(f"\n    {line}" for line in words),
            "ended",
            child=child.name,
            how=how,
            log=words,
        )

    def _cannot_start(self) -> bool:
        """Whether every worker says that its settings are wrong, and none ever served.

        One bad worker among good ones is started ever later and harms nobody.
        """
        return all(worker.last_code == WRONG for worker in self.workers) and not any(
            view.has_ever_served for view in self.node.views
        )

    def _kill_silent(self, now: float) -> None:
        """End workers that hang; the next start is due when they are reaped."""
        for worker, view in zip(self.workers, self.node.views, strict=True):
            if worker.pid is None or not view.silence.is_over(now):
                continue
            silent_s = round(view.silence.lasted_s(now), 1)
            view.silence.begin()  # should it not die at once, it is told once in a while
            worker.send(signal.SIGKILL)
            self.node.metrics.watchdog_kills_total.inc((worker.name,))
            log.error("worker killed: it did not answer", child=worker.name, silent_s=silent_s)
            self.terminal.say(
                f"{worker.name} did not answer for {silent_s:g} s: killed",
                "killed",
                child=worker.name,
                silent_s=silent_s,
            )

    def _keep_up(self, now: float) -> None:
        """Let a round of upkeep run when it is due; how it went stands in its log and metrics."""
        child = self._upkeep
        if child is None:
            return
        code = child.reap(now)
        if code is not None:
            self._upkeep_at = now + (UPKEEP_AGAIN_S if code else UPKEEP_S)
            if code:
                log.warning("upkeep failed", how=ended_how(code), log=child.last_words())
        elif child.process is None and now >= self._upkeep_at:
            try:
                child.start(now)
            except OSError as error:  # a full disk takes no log, a full machine no process
                self._upkeep_at = now + UPKEEP_AGAIN_S
                log.warning("upkeep not started", error=str(error))

    def _shorten_logs(self, now: float) -> None:
        """Keep each log short whose writer lives; on a full disk later."""
        if now < self._logs_at:
            return
        self._logs_at = now + LOGS_S
        try:
            for name in logfiles.shorten(self.settings.log_dir):
                log.info("log set aside", name=name)
        except OSError as error:
            log.warning("log not set aside", error=error.strerror)

    def _mend_servers(self, now: float) -> None:
        if self.embedded is None:
            return
        state = self._mending
        if self.embedded.is_alive():
            state.is_waiting = False
            return
        if not state.is_waiting:
            state.deaths = 1 if now - state.since > 30 else state.deaths + 1
            longest_s = self.settings.reliability.restart_max_s
            state.due_at = now + backoff_s(state.deaths, longest_s)
            state.is_waiting = True
        if now < state.due_at:
            return
        state.since = now
        state.is_waiting = False
        try:
            launched = self.embedded.launch_dead()
        except OSError as error:  # what was started is known; the rest comes at the next look
            log.warning("servers not started", error=str(error))
            return
        for name in launched:
            words = tail(self.settings.log_dir / f"{name}.log")
            log.warning("server ended and was started again", server=name, log=words)
            self.terminal.say(f"{name} ended and was started again", "restarted", server=name)
            self.node.metrics.process_restarts_total.inc((name,))

    # -- the rolling restart ---------------------------------------------------------------

    def _roll(self, now: float) -> None:
        """One step of the restart that was asked for, if any."""
        finished = self.rolling.finished
        for slot, order in self.rolling.step(now, self._seen()):
            worker = self.workers[slot]
            if order is Order.DRAIN:
                self.terminal.step(f"restarting {worker.name}: waiting for what is under way")
                worker.ask_to_end()
            else:
                log.warning("worker killed: it did not drain in time", child=worker.name)
                worker.send(signal.SIGKILL)
        if self.rolling.finished > finished:
            self._tell_round(self.rolling.kept[-1])

    def _seen(self) -> list[Seen]:
        return [
            Seen(worker.starts, worker.pid is not None, v.is_serving, v.is_ready, v.missing)
            for worker, v in zip(self.workers, self.node.views, strict=True)
        ]

    def _tell_round(self, ended: Round) -> None:
        seconds = round(ended.seconds, 1)
        log.info("restart finished", round=ended.number, error=ended.error, seconds=seconds)
        count = len(ended.steps)
        line = f"{count} worker{'s' * (count != 1)} restarted in {seconds:g} s"
        if ended.error:
            line = f"restart stopped: {ended.error}"
        self.terminal.say(
            line, "workers_restarted", workers=count, seconds=seconds, error=ended.error or None
        )

    def restart_state(self) -> dict[str, object]:
        """How the rolling restart stands, for `smsgw restart`."""
        return {"pid": os.getpid(), **self.rolling.told(time.monotonic())}

    # -- what it shows ---------------------------------------------------------------------

    def missing_servers(self) -> list[str]:
        """Embedded servers that do not run."""
        if self.embedded is None or self.embedded.is_alive():
            return []
        alive = self.embedded.pids()
        return [name for name in ("postgres", "valkey") if name not in alive]

    def storage_words(self) -> list[str]:
        """That the disk is full, once sends are refused for it: the cause of all the rest."""
        share, most = self._storage.share(), self.settings.reliability.shed_storage_share
        if share < min(most, _FULL):
            return []
        return [f"storage: the disk of SMSGW_DATA_DIR is {share:.0%} full, sends are refused"]

    def pids(self) -> dict[str, int]:
        """Every running process of the node by name."""
        found = {"supervisor": os.getpid()}
        if self.embedded is not None:
            found.update(self.embedded.pids())
        found.update({c.name: c.pid for c in (*self.workers, *self.others) if c.pid is not None})
        return found

    def set_process_metrics(self) -> None:
        """Before a scrape: CPU seconds and liveness of each process, readiness of each worker."""
        metrics = self.node.metrics
        running = self.pids()
        names = {child.name for child in (*self.workers, *self.others)} | running.keys()
        for name in names:
            metrics.process_up.set((name,), 1.0 if name in running else 0.0)
        for worker, view in zip(self.workers, self.node.views, strict=True):
            metrics.worker_ready.set((worker.name,), float(view.is_ready))
            metrics.http_connections.set((worker.name,), view.connections)
        for name, pid in running.items():
            if name == "supervisor":
                times = os.times()
                seconds = times.user + times.system
            else:
                seconds = cpu_seconds(pid, has_children=name == "postgres")
            held = self._cpu.setdefault(name, CpuTotal())
            metrics.process_cpu_seconds_total.set_total((name,), held.add(pid, seconds))

    async def _look(self) -> None:
        shows = self.terminal.is_live or self.settings.is_sandbox or self.terminal.is_json
        shown_at = time.monotonic()
        while True:
            await self.node.refresh()
            if not self.rolling.is_running:
                await self.node.spread()
            now, missing = time.monotonic(), self.node.missing()
            if self._readiness.is_news(missing, now):
                log.info("readiness changed", is_ready=not missing, missing=missing)
                line = f"not ready: {', '.join(missing)}" if missing else "ready"
                self.terminal.say(line, "unready" if missing else "ready", missing=missing)
            if shows and now >= shown_at + LOOK_S[shows] * 0.9:  # the counts move on when unready
                shown_at = now
                fields = self._counts.take(self.node.traffic(COUNTED), now)
                self.terminal.live(self._counts.line(fields, missing), **fields, missing=missing)
            is_hurried = missing or self.rolling.is_running
            await asyncio.sleep(UNREADY_LOOK_S if is_hurried else LOOK_S[shows])

    # -- ending ----------------------------------------------------------------------------

    async def _end_all(self) -> None:
        """Workers drain, then what they talked to, then the servers they wrote to."""
        self.node.is_stopping = True
        asked = min(self.signals, 1)  # one more means now, even when both came at once
        self.terminal.close()
        if asked:
            self.terminal.step("stopping: waiting for what is under way (again to stop now)")
        log.info("stopping")
        began, numbers = time.monotonic(), self.settings.reliability
        end = began + numbers.drain_total_s
        for worker in self.workers:
            worker.ask_to_end()
        while (
            self._running(self.workers)
            and time.monotonic() < end - SERVERS_S
            and self.signals <= asked
        ):
            if time.monotonic() >= began + numbers.drain_before_s:
                self._close_door()
            self._mend_servers(time.monotonic())  # a drain writes
            await asyncio.sleep(0.02)
        self._close_door()
        for worker in self.workers:
            if worker.pid is not None:
                self.exit_code = self.exit_code or KILLED
                if self.signals > asked:
                    log.warning("worker killed: a second signal asked for it", child=worker.name)
                else:
                    log.warning("worker killed: it did not end in time", child=worker.name)
            worker.end(0)
        for other in self._beside:
            other.send(signal.SIGTERM)
        for other in self._beside:
            other.end(0.0 if self.signals > asked else 1.0)
        await self._end_servers(max(end, time.monotonic() + SERVERS_S), asked)
        log.info("stopped", exit_code=self.exit_code)
        self.terminal.say("stopped", "stopped", exit_code=self.exit_code)

    def _close_door(self) -> None:
        """Listen no more: who comes now is refused at once and can go to another node.

        The workers close theirs at the same moment; in a restart of workers ours stays open, so
        connections wait for the next one.
        """
        while self._public:
            self._public.pop().close()

    def _running(self, children: list[Child]) -> bool:
        return any(child.pid is not None for child in children)

    async def _end_servers(self, end: float, asked: int) -> None:
        """A checkpoint if the time allows; without it the next start reads the log."""
        if self.embedded is None:
            return
        seen = self.signals
        self.embedded.begin_stop(is_fast=seen > asked)
        while not self.embedded.has_stopped() and time.monotonic() < end:
            if self.signals > seen:
                seen = self.signals
                self.embedded.begin_stop(is_fast=True)
            await asyncio.sleep(0.02)
        self.embedded.stop(is_fast=True)
