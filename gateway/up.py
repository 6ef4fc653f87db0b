"""`smsgw up`: everything that is made once before the supervisor begins to watch.

lock ─▶ ports ─▶ master key ─▶ servers ─▶ schema ─▶ (sandbox) ─▶ Supervisor.run
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, TextIO

from gateway import listen, ownership, server_tls, servers
from gateway.children import Child
from gateway.descriptors import forbid_cores
from gateway.node_http import WorkerView
from gateway.settings import Settings, child_environment, node_name
from gateway.supervisor import Parts, Supervisor, has_terminal
from gateway.terminal import Terminal
from gateway.watchdog import Silence
from sms.errors import ConfigError
from store.embedded import make_private, run_directory
from store.logfiles import open_log
from store.schema import must_fit_code
from store.seal import Keyring, load_or_create_master_key, must_fit
from telemetry import logs

WORKER: Final = ("-P", "-m", "gateway", "worker")  # -P: the directory we stand in is no package
UPKEEP: Final = ("-P", "-m", "gateway", "upkeep", "--json")

log = logs.get_logger("supervisor")


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the data directory; a second supervisor on it is refused with the first one's pid."""
    fd = os.open(settings.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 20).decode("utf-8", "replace").strip() or "unknown"
            raise ConfigError(
                f"smsgw up already runs on {settings.data_dir} (pid {pid}). For a second gateway "
                "set SMSGW_DATA_DIR and the ports to others; to stop the one that runs, which then "
                f"takes no more messages: kill {pid}"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def up(settings: Settings, terminal: Terminal) -> int:
    """Run the whole gateway on this machine until a signal; returns the exit code.

    0 = ended in order, 1 = something had to be killed, 2 = a setting is wrong. Raises ConfigError.
    """
    if settings.is_sandbox and settings.role == "carrier":
        raise ConfigError("--sandbox needs a public port: leave out --role carrier")
    # `smsgw restart` during the start must not end us; not SIG_IGN, which children would inherit
    signal.signal(signal.SIGUSR1, lambda *_: None)
    if not has_terminal():
        signal.signal(signal.SIGHUP, lambda *_: None)  # a reload during the start: all is read yet
    make_private(settings.data_dir)
    with only_one(settings), contextlib.ExitStack() as stack:
        make_private(settings.log_dir)
        stream = os.fdopen(open_log(settings.log_dir / "supervisor.log"), "a", buffering=1)
        stack.callback(_close, stream)
        logs.configure(settings.log_level, stream)
        if not settings.core_dumps:
            forbid_cores()  # the servers and the workers inherit it
        return _up(settings, terminal, stack)


def _close(stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # a full disk does not take its last lines
        stream.close()


def _up(settings: Settings, terminal: Terminal, stack: contextlib.ExitStack) -> int:
    run_dir = run_directory(settings.data_dir)
    public = _listen(stack, _open_public(settings))
    smg = _listen(stack, _open_smg(settings))
    sandbox_smg = _listen(stack, _open_sandbox_smg(settings))
    admin = _listen(stack, listen.open_port(settings.host, settings.admin_port, "SMSGW_ADMIN_PORT"))
    admin += _listen(stack, [listen.open_unix(run_dir / "supervisor.sock")])
    settings = settings.model_copy(
        update={
            "port": public[0].getsockname()[1] if public else settings.port,
            "admin_port": admin[0].getsockname()[1],
            "node": node_name(settings),
            "run_dir": run_dir,
            "listen_fds": tuple(listener.fileno() for listener in public),
            "smg_port": smg[0].getsockname()[1] if smg else None,
            "smg_fds": tuple(listener.fileno() for listener in smg + sandbox_smg),
        }
    )
    if (files := server_tls.files_of(settings)) is not None:
        shown = server_tls.make(server_tls.read(files))  # here, not in every worker's log
        if trouble := server_tls.out_of_time(files, shown, datetime.now(UTC)):
            terminal.step(f"clients will refuse the certificate: {trouble}")
    keyring = Keyring(load_or_create_master_key(settings.master_key_file))
    embedded = servers.embedded_for(settings, terminal.step)
    if embedded is not None:
        stack.callback(embedded.stop)
    given, settings = settings, servers.start(settings, embedded, terminal.step)
    asyncio.run(must_fit_code(ownership.owner_url(settings), is_expanded=False))
    applied = ownership.prepare(settings, _tell_migration(terminal))
    log.info("schema is up to date", applied=applied)
    if given.database_url is None:
        settings = ownership.split(settings)
    upkeep = _upkeep(settings)
    settings = ownership.for_workers(settings)
    asyncio.run(must_fit(settings.database_url or "", keyring))
    others: list[Child] = []
    if settings.is_sandbox:
        from gateway import sandbox  # here: a node in production never loads it

        own_port = sandbox_smg[0].getsockname()[1] if sandbox_smg else None
        settings, others = sandbox.prepare(settings, terminal, stack, own_port)
    listening = public + smg + sandbox_smg
    parts = Parts(settings, terminal, *_workers(settings), embedded, others, listening, upkeep)
    supervisor = Supervisor(parts)
    url = _greet(settings, terminal)
    if settings.is_sandbox:
        sandbox.greet(settings, terminal, url)
    return asyncio.run(supervisor.run(admin))


def _open_public(settings: Settings) -> list[socket.socket]:
    """The tenants' port; a node that only talks to carriers has none."""
    if settings.role == "carrier":
        return []
    return listen.open_port(settings.host, settings.port, "SMSGW_PORT")


def _open_smg(settings: Settings) -> list[socket.socket]:
    """The port that carriers connect to; a node without carrier sessions has none."""
    if settings.smg_port is None or settings.role == "api":
        return []
    return listen.open_port(
        settings.smg_host or settings.host,
        settings.smg_port,
        "SMSGW_SMG_PORT",
        host_variable="SMSGW_SMG_HOST" if settings.smg_host else "SMSGW_HOST",
    )


def _open_sandbox_smg(settings: Settings) -> list[socket.socket]:
    """Any free port, for the simulated SMG of this machine alone."""
    if not settings.is_sandbox or settings.role == "api":
        return []
    return listen.open_port("127.0.0.1", 0, "SMSGW_SMG_PORT")


def _listen(stack: contextlib.ExitStack, sockets: list[socket.socket]) -> list[socket.socket]:
    for listener in sockets:
        stack.callback(listener.close)
    return sockets


def _tell_migration(terminal: Terminal) -> Callable[[str], None]:
    return lambda name: terminal.step(f"database: {name}")


def _workers(settings: Settings) -> tuple[list[Child], list[WorkerView]]:
    run_dir = settings.run_dir or run_directory(settings.data_dir)
    workers, views = [], []
    for slot in range(settings.workers):
        theirs = settings.model_copy(update={"worker_slot": slot})
        path = run_dir / f"worker-{slot}.sock"
        path.unlink(missing_ok=True)
        views.append(WorkerView(path, Silence(settings.reliability.watchdog_s)))
        workers.append(
            Child(
                f"worker-{slot}",
                [sys.executable, *WORKER],
                child_environment(theirs),
                settings.log_dir / f"worker-{slot}.log",
                pass_fds=(*settings.listen_fds, *settings.smg_fds),
                longest_wait_s=settings.reliability.restart_max_s,
            )
        )
    return workers, views


def _upkeep(settings: Settings) -> Child:
    """What ends old data, each hour; the only child with the owner's address."""
    return Child(
        "upkeep",
        [sys.executable, *UPKEEP],
        child_environment(settings),
        settings.log_dir / "upkeep.log",
    )


def address(settings: Settings, port: int, *, has_tls: bool = False) -> str:
    """An address of this node that a client on this machine can use."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{'https' if has_tls else 'http'}://{host}:{port}"


def _greet(settings: Settings, terminal: Terminal) -> str:
    url = address(settings, settings.port, has_tls=settings.tls_cert_file is not None)
    admin_url = address(settings, settings.admin_port, has_tls=settings.admin_tls)
    has_door = settings.role != "carrier"
    count = f"{settings.workers} worker{'s' * (settings.workers > 1)}"
    terminal.say(
        f"gateway  {url if has_door else 'no public port in the role carrier'}   ({count})\n"
        f"health   {admin_url}/readyz   {admin_url}/metrics\n"
        f"data     {settings.data_dir}   (logs in log/)",
        "listening",
        url=url if has_door else None,
        admin_url=admin_url,
        data_dir=str(settings.data_dir),
        workers=settings.workers,
        role=settings.role,
        pid=os.getpid(),
    )
    return url
