"""`smsgw up`: the parent of everything on this node.

    supervisor ─┬─ postgres, valkey     unless SMSGW_DATABASE_URL / SMSGW_REDIS_URL name others
                ├─ worker 0 … N-1       python -m gateway worker, on the sockets opened here
                └─ sandbox              simulated carriers and a webhook sink

It opens the listening sockets and passes the descriptors, starts again what dies, serves the
node's /healthz, /readyz and /metrics, and ends everything in order. It carries no message: a
kill -9 of it costs what a kill -9 of a worker costs, since its children die with it and the next
start finds everything on the same data directory.

It forks, so it has no threads, and everything here runs on the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from gateway import listen, servers
from gateway.children import Child, backoff_s, ended_how, tail
from gateway.counts import Counts
from gateway.node_http import Node, WorkerView, make_server
from gateway.settings import Settings, child_environment, node_name
from gateway.terminal import Terminal
from sms.errors import ConfigError
from store.database import migrate
from store.embedded import EmbeddedServers, make_private, open_log, run_directory
from store.seal import load_or_create_master_key
from telemetry import logs

WORKER: Final = ("-P", "-m", "gateway", "worker")  # -P: the directory we stand in is no package
TICK_S: Final = 0.5
LOOK_S: Final = {True: 1.0, False: 5.0}  # how often workers are asked: with a live line, without
UNREADY_LOOK_S: Final = 0.2  # and while the node is not ready
SETTLED_S: Final = 2.0  # a new cause of being unready that lasts so long is told
KILLED: Final = 1  # exit code after a second signal
WRONG: Final = 2  # exit code of a ConfigError, ours and a worker's

log = logs.get_logger("supervisor")


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory; a second supervisor on it is refused with the first one's pid."""
    path = data_dir / "supervisor.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 20).decode("utf-8", "replace").strip() or "unknown"
            raise ConfigError(
                f"smsgw up already runs on {data_dir} (pid {pid}): stop that one "
                f"(kill {pid}), or set SMSGW_DATA_DIR and the ports to others"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Cpu:
    """CPU seconds of one name over the lives of its processes: the sum must never go back."""

    pid: int = 0
    seen: float = 0.0
    earlier: float = 0.0

    def total(self, pid: int, seconds: float) -> float:
        if pid != self.pid or seconds < self.seen:
            self.earlier += self.seen
            self.pid = pid
        self.seen = seconds
        return self.earlier + self.seen


def cpu_seconds(pid: int, *, has_children: bool = False) -> float:
    """User and system time of a process, its ended children and, when told, its running ones.

    Finding the running ones reads the whole process list: only PostgreSQL has any.
    """
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in process.children() if has_children else ():
            with contextlib.suppress(psutil.Error):
                times = child.cpu_times()
                total += times.user + times.system
    except psutil.Error:
        return 0.0
    return float(total)


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
class Supervisor:
    """The running node; built by `up`, everything is started already but the workers."""

    settings: Settings
    embedded: EmbeddedServers | None
    workers: list[Child]
    others: list[Child]  # the sandbox's
    terminal: Terminal
    node: Node
    counts: Counts = field(default_factory=Counts)
    readiness: Readiness = field(default_factory=Readiness)
    signals: int = 0
    exit_code: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _mending: _Mending = field(default_factory=_Mending)
    _cpu: dict[str, _Cpu] = field(default_factory=dict)

    async def run(self, sockets: list[socket.socket]) -> int:
        """Run until a signal, then end everything in order; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop_asked)
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        server = make_server(self.node)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=sockets))
            looking = group.create_task(self._look())
            try:
                await self._watch()
            finally:
                looking.cancel()
                await self._end_all()
                server.should_exit = True
                await serving
        return self.exit_code

    def _stop_asked(self) -> None:
        self.signals += 1
        self._wake.set()

    # -- watching --------------------------------------------------------------------------

    async def _watch(self) -> None:
        while not self.signals:
            now = time.monotonic()
            self._mend_servers(now)
            for child in (*self.workers, *self.others):
                if not self._mend(child, now):
                    self.exit_code = WRONG
                    return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK_S)
            self._wake.clear()

    def _mend(self, child: Child, now: float) -> bool:
        """Start what is due; False when a worker says that its settings are wrong."""
        code = child.reap(now)
        if code is not None:
            words = child.last_words()
            how = ended_how(code)
            log.warning("child ended", child=child.name, how=how, log=words)
            self.terminal.say(
                f"{child.name} ended ({how}); its last words in {child.log}:"
                + "".join(f"\n    {line}" for line in words),
                "ended",
                child=child.name,
                how=how,
                log=words,
            )
            if child in self.workers:
                view = self.node.views[self.workers.index(child)]
                view.forget()
                if code == WRONG and not view.has_ever_answered:
                    return False
        if child.process is None and now >= child.due_at:
            child.start(now)
            log.info("child started", child=child.name, child_pid=child.pid, starts=child.starts)
            if child.starts > 1:
                self.node.metrics.process_restarts_total.inc((child.name,))
        elif child.process is None and code is not None:
            self.terminal.step(f"{child.name} starts again in {child.due_at - now:.1f} s")
        return True

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
        for name in self.embedded.launch_dead():
            words = tail(self.settings.log_dir / f"{name}.log")
            log.warning("server ended and was started again", server=name, log=words)
            self.terminal.say(f"{name} ended and was started again", "restarted", server=name)
            self.node.metrics.process_restarts_total.inc((name,))

    def missing_servers(self) -> list[str]:
        """Embedded servers that do not run."""
        if self.embedded is None or self.embedded.is_alive():
            return []
        alive = self.embedded.pids()
        return [name for name in ("postgres", "valkey") if name not in alive]

    def pids(self) -> dict[str, int]:
        """Every running process of the node by name."""
        found = {"supervisor": os.getpid()}
        if self.embedded is not None:
            found.update(self.embedded.pids())
        found.update({c.name: c.pid for c in (*self.workers, *self.others) if c.pid is not None})
        return found

    def set_process_metrics(self) -> None:
        """Before a scrape: CPU seconds and liveness of each process."""
        metrics = self.node.metrics
        running = self.pids()
        names = {child.name for child in (*self.workers, *self.others)} | running.keys()
        for name in names:
            metrics.process_up.set((name,), 1.0 if name in running else 0.0)
        for name, pid in running.items():
            if name == "supervisor":
                times = os.times()
                seconds = times.user + times.system
            else:
                seconds = cpu_seconds(pid, has_children=name == "postgres")
            held = self._cpu.setdefault(name, _Cpu())
            metrics.process_cpu_seconds_total.set_total((name,), held.total(pid, seconds))

    async def _look(self) -> None:
        shows = self.terminal.is_live or self.settings.is_sandbox or self.terminal.is_json
        shown_at = time.monotonic()
        while True:
            await self.node.refresh()
            now, missing = time.monotonic(), self.node.missing()
            if self.readiness.is_news(missing, now):
                log.info("readiness changed", is_ready=not missing, missing=missing)
                line = f"not ready: {', '.join(missing)}" if missing else "ready"
                self.terminal.say(line, "unready" if missing else "ready", missing=missing)
            if shows and now >= shown_at + LOOK_S[shows] * 0.9:  # the counts move on when unready
                shown_at = now
                fields = self.counts.take(self.node.traffic(), now)
                self.terminal.live(self.counts.line(fields, missing), **fields, missing=missing)
            await asyncio.sleep(UNREADY_LOOK_S if missing else LOOK_S[shows])

    # -- ending ----------------------------------------------------------------------------

    async def _end_all(self) -> None:
        """Workers drain, then what they talked to, then the servers they wrote to."""
        self.node.is_stopping = True
        before = self.signals
        self.terminal.close()
        if before:
            self.terminal.step("stopping: waiting for what is under way (again to stop now)")
        log.info("stopping")
        for worker in self.workers:
            worker.send(signal.SIGTERM)
        end = time.monotonic() + self.settings.reliability.drain_total_s + 1
        while self._running(self.workers) and time.monotonic() < end and self.signals <= before:
            self._mend_servers(time.monotonic())  # a drain writes
            await asyncio.sleep(0.02)
        for worker in self.workers:
            if worker.pid is not None:
                self.exit_code = self.exit_code or KILLED
                log.warning("worker killed: it did not end in time", child=worker.name)
            worker.end(0)
        for other in self.others:
            other.send(signal.SIGTERM)
        for other in self.others:
            other.end(2.0)
        await self._end_servers(is_fast=self.signals > max(before, 1))
        log.info("stopped", exit_code=self.exit_code)
        self.terminal.say("stopped", "stopped", exit_code=self.exit_code)

    def _running(self, children: list[Child]) -> bool:
        return any(child.pid is not None for child in children)

    async def _end_servers(self, *, is_fast: bool) -> None:
        if self.embedded is None:
            return
        before = self.signals
        self.embedded.begin_stop(is_fast=is_fast)
        end = time.monotonic() + 20
        while not self.embedded.has_stopped() and time.monotonic() < end:
            if self.signals > before:
                before = self.signals
                self.embedded.begin_stop(is_fast=True)
            await asyncio.sleep(0.02)
        self.embedded.stop(is_fast=True)


# -- building --------------------------------------------------------------------------------


def up(settings: Settings, terminal: Terminal) -> int:
    """Run the whole gateway on this machine until a signal; returns the exit code.

    0 = ended in order, 1 = something had to be killed, 2 = a setting is wrong. Raises ConfigError.
    """
    make_private(settings.data_dir)
    with only_one(settings.data_dir), contextlib.ExitStack() as stack:
        make_private(settings.log_dir)
        stream = os.fdopen(open_log(settings.log_dir / "supervisor.log"), "a", buffering=1)
        stack.enter_context(stream)
        logs.configure(settings.log_level, stream)
        return _up(settings, terminal, stack)


def _up(settings: Settings, terminal: Terminal, stack: contextlib.ExitStack) -> int:
    run_dir = run_directory(settings.data_dir)
    public = _listen(stack, listen.open_port(settings.host, settings.port, "SMSGW_PORT"))
    admin = _listen(stack, listen.open_port(settings.host, settings.admin_port, "SMSGW_ADMIN_PORT"))
    admin += _listen(stack, [listen.open_unix(run_dir / "supervisor.sock")])
    settings = settings.model_copy(
        update={
            "port": public[0].getsockname()[1],
            "admin_port": admin[0].getsockname()[1],
            "node": node_name(settings),
            "run_dir": run_dir,
            "listen_fds": tuple(listener.fileno() for listener in public),
        }
    )
    load_or_create_master_key(settings.master_key_file)
    embedded = servers.embedded_for(settings, terminal.step)
    if embedded is not None:
        stack.callback(embedded.stop)
    settings = servers.start(settings, embedded, terminal.step)
    applied = asyncio.run(migrate(settings.database_url or "", _tell_migration(terminal)))
    log.info("schema is up to date", applied=applied)
    others: list[Child] = []
    if settings.is_sandbox:
        from gateway import sandbox  # here: a node in production never loads it

        settings, others = sandbox.prepare(settings, terminal, stack)
    supervisor = _build(settings, embedded, others, terminal)
    url = _greet(settings, terminal)
    if settings.is_sandbox:
        sandbox.greet(settings, terminal, url)
    return asyncio.run(supervisor.run(admin))


def _listen(stack: contextlib.ExitStack, sockets: list[socket.socket]) -> list[socket.socket]:
    for listener in sockets:
        stack.callback(listener.close)
    return sockets


def _tell_migration(terminal: Terminal) -> Callable[[str], None]:
    return lambda name: terminal.step(f"database: {name}")


def _build(
    settings: Settings, embedded: EmbeddedServers | None, others: list[Child], terminal: Terminal
) -> Supervisor:
    run_dir = settings.run_dir or run_directory(settings.data_dir)
    workers, views = [], []
    for slot in range(settings.workers):
        theirs = settings.model_copy(update={"worker_slot": slot})
        path = run_dir / f"worker-{slot}.sock"
        path.unlink(missing_ok=True)
        views.append(WorkerView(path))
        workers.append(
            Child(
                f"worker-{slot}",
                [sys.executable, *WORKER],
                child_environment(theirs),
                settings.log_dir / f"worker-{slot}.log",
                pass_fds=settings.listen_fds,
                longest_wait_s=settings.reliability.restart_max_s,
            )
        )
    node = Node(views)
    supervisor = Supervisor(settings, embedded, workers, others, terminal, node)
    node.metrics.before_scrape.append(supervisor.set_process_metrics)
    node.missing_servers = supervisor.missing_servers
    return supervisor


def address(settings: Settings, port: int, *, has_tls: bool = False) -> str:
    """An address of this node that a client on this machine can use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{'https' if has_tls else 'http'}://{host}:{port}"


def _greet(settings: Settings, terminal: Terminal) -> str:
    url = address(settings, settings.port, has_tls=settings.tls_cert_file is not None)
    admin_url = address(settings, settings.admin_port)
    terminal.say(
        f"gateway  {url}\nhealth   {admin_url}/readyz   {admin_url}/metrics\n"
        f"data     {settings.data_dir}   (logs in log/)",
        "listening",
        url=url,
        admin_url=admin_url,
        data_dir=str(settings.data_dir),
        pid=os.getpid(),
    )
    return url
