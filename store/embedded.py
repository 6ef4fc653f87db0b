"""Real PostgreSQL and Valkey under our own hand, for a machine that has neither running.

    data_dir/postgres   the cluster     data_dir/valkey   its append-only file
    data_dir/run        Unix sockets    data_dir/log      what the servers say

They listen on Unix sockets only, in a directory of mode 0700. They die with their parent
(PostgreSQL by its fast shutdown) and start again on the same data after any kill; nothing has to
be cleaned by hand. Everything that concerns durability stays at its safe default.

This file never changes the mode or owner of a directory that is not its own, makes no users and
opens no port. It blocks while it waits; call it from the main thread (see `store.spawn`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

from sms.errors import ConfigError
from store import binaries, spawn
from store.durable import sync_directory
from store.logfiles import open_log
from store.spawn import AS_WE_ARE, Identity

LONGEST_RUN_DIR = 90  # bytes; a Unix socket's address has room for 107 with its name
START_TIMEOUT_S = 120.0  # recovery after a crash replays at most max_wal_size
STOP_TIMEOUT_S = 20.0

POSTGRES_OPTIONS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": "5432",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",  # checkpoints by time, not by volume, at 10,000 messages/s
    "min_wal_size": "1GB",  # segments are used again instead of made anew
    "max_locks_per_transaction": "1024",  # one unpruned join over a year of partitions: 1,800
    "jit": "off",
    # What is put back from a backup (recovery.signal) answers when it can be written to, no sooner:
    # who comes before that could only fail, and one that pauses at its target would never go on.
    "hot_standby": "off",
    "recovery_target_action": "promote",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # What a statement held does not belong into a log: neither itself nor its values, nor the row
    # that DETAIL and CONTEXT quote. Who sent it logs the error, masked.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers are; empty text for one that was not asked for."""

    database_url: str
    redis_url: str


@dataclass(slots=True)
class _Server:
    """A running server: our child, or one adopted from a living supervisor."""

    name: str
    pid: int
    started: float
    child: subprocess.Popen[bytes] | None

    def is_alive(self) -> bool:
        if self.child is not None:
            return self.child.poll() is None
        return spawn.is_same(self.pid, self.started)


def _silent(_: str) -> None:
    """Report progress to nobody."""


def make_private(path: Path) -> Path:
    """Make a directory of mode 0700 when it is missing; raise ConfigError when we may not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        owner = path.stat().st_uid
    except OSError as error:
        raise ConfigError(
            f"the data directory {path} cannot be used ({error.strerror}); "
            "set SMSGW_DATA_DIR to a directory you may write"
        ) from None
    if owner != os.geteuid() and not (os.geteuid() == 0 and owner == spawn.foreign_uid()):
        raise ConfigError(
            f"the data directory {path} belongs to uid {owner}, but this is uid {os.geteuid()}; "
            "run as the same user, or set SMSGW_DATA_DIR to another directory"
        )
    return path


def run_directory(data_dir: Path) -> Path:
    """The directory of this node's sockets, made when missing (0700).

    `data_dir/run`, or, when that is too long for a socket address, a short one in the system's
    temporary directory whose name is derived from the data path and kept in `data_dir/run-dir`.
    """
    direct = data_dir / "run"
    if len(os.fsencode(direct)) <= LONGEST_RUN_DIR:
        return make_private(direct)
    note = data_dir / "run-dir"
    name = hashlib.blake2b(os.fsencode(data_dir), digest_size=6).hexdigest()
    root = Path(tempfile.gettempdir())
    if len(os.fsencode(root)) > LONGEST_RUN_DIR - 30:
        root = Path("/tmp")  # noqa: S108 - only with mode 0700 and our own uid, checked below
    kept = note.read_text("utf-8").strip() if note.is_file() else ""
    wanted = Path(kept) if kept else root / f"smsgw-{os.geteuid()}-{name}"
    if not _is_ours(wanted, is_known=bool(kept)):  # somebody else took the name
        wanted = Path(tempfile.mkdtemp(prefix=f"smsgw-{os.geteuid()}-", dir=root))
    if str(wanted) != kept:
        note.write_text(f"{wanted}\n", "utf-8")
    return wanted


def existing_run_directory(data_dir: Path) -> Path | None:
    """The directory of the sockets when there is one; makes nothing."""
    direct = data_dir / "run"
    if len(os.fsencode(direct)) > LONGEST_RUN_DIR:
        try:
            direct = Path((data_dir / "run-dir").read_text("utf-8").strip())
        except OSError:
            return None
    return direct if direct.is_dir() else None


def _is_ours(path: Path, *, is_known: bool) -> bool:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    owners = {os.geteuid()}
    if is_known and os.geteuid() == 0:
        owners.add(spawn.foreign_uid())  # given away by `_leave_root`
    is_private = found.st_mode & 0o170077 == 0o040000  # a directory, closed to others
    return is_private and found.st_uid in owners


def endpoints_of(run_dir: Path) -> Endpoints:
    """The addresses of embedded servers whose sockets are in `run_dir`."""
    return Endpoints(
        f"postgresql://smsgw@/postgres?host={quote(str(run_dir), safe='')}",
        f"unix://{quote(str(run_dir / 'valkey.sock'))}?db=0",
    )


class EmbeddedServers:
    """PostgreSQL and Valkey as children of this process, on the data in `data_dir`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        wanted: tuple[str, ...] = ("postgres", "valkey"),
        on_progress: Callable[[str], None] = _silent,
        may_use_namespace: bool = True,
    ) -> None:
        self._data = data_dir.absolute()
        self._wanted = wanted
        self._progress = on_progress
        self._may_use_namespace = may_use_namespace
        self._servers: dict[str, _Server] = {}
        self._identity = AS_WE_ARE
        self._programs: dict[str, Path] = {}
        self._run = Path()
        self._lock: int | None = None  # held by the owner of the servers as long as it lives

    @property
    def run_dir(self) -> Path:
        """Where the sockets are; known after `start`."""
        return self._run

    def start(self) -> Endpoints:
        """Start what is wanted and wait until it answers.

        The first start makes the cluster (about 1.3 s), later ones take 0.05 s. A server of a
        living supervisor on the same data is adopted, an orphaned one is ended first. Raises
        ConfigError with the remedy when a server cannot be started.
        """
        make_private(self._data)
        make_private(self._data / "log")
        self._run = run_directory(self._data)
        self._find_programs()
        if not self._take_lock():
            self._adopt()
        if self._lock is not None:
            for name in self._wanted:
                self._clear_way(name)
            self.launch_dead()
            self._wait_ready()
        found = endpoints_of(self._run)
        return Endpoints(
            found.database_url if "postgres" in self._wanted else "",
            found.redis_url if "valkey" in self._wanted else "",
        )

    def is_alive(self) -> bool:
        """Whether every wanted server's process runs."""
        return all(
            name in self._servers and self._servers[name].is_alive() for name in self._wanted
        )

    def pids(self) -> dict[str, int]:
        """The main process of each running server."""
        return {name: server.pid for name, server in self._servers.items() if server.is_alive()}

    def is_ready(self, name: str) -> bool:
        """Whether that server answers on its socket."""
        server = self._servers.get(name)
        if server is None or not server.is_alive():
            return False
        if name == "valkey":
            return _asks(self._run / "valkey.sock", b"PING\r\n", b"+PONG")
        return _postmaster(self._data / "postgres") == (server.pid, True) and _asks(
            self._run / ".s.PGSQL.5432", struct.pack(">ii", 8, 80877103), b""
        )  # SSLRequest (PostgreSQL manual 54.2): any answer means that it takes connections

    def launch_dead(self) -> list[str]:
        """Start again what has ended, without waiting; returns the names.

        While another process owns the servers it is the one to do that: nothing happens here.
        """
        launched: list[str] = []
        if self.is_alive():
            return launched
        if not self._take_lock():
            self._find_adopted()
            return launched
        for name in self._wanted:
            known = self._servers.get(name)
            if known is not None and known.is_alive():
                continue
            if known is not None:
                self._clear_way(name)
            self._servers[name] = self._launch(name)
            launched.append(name)
        if launched:
            with contextlib.suppress(OSError):  # a full disk: they die with us without it, too
                self._record()
        return launched

    def restart_dead(self) -> list[str]:
        """Start again what has ended and wait until it answers; returns the names."""
        launched = self.launch_dead()
        if launched:
            self._wait_ready()
        return launched

    def begin_stop(self, *, is_fast: bool = False) -> None:
        """Ask our children to end, PostgreSQL with a checkpoint unless `is_fast`.

        After a fast stop the next start recovers from the log; nothing committed is lost.
        Adopted servers are left to their owner.
        """
        for name in reversed(self._wanted):
            server = self._servers.get(name)
            if server is not None and server.child is not None and server.is_alive():
                server.child.send_signal(_stop_signal(name, is_fast=is_fast))

    def has_stopped(self) -> bool:
        """Whether none of our children runs any more."""
        return not any(s.child is not None and s.is_alive() for s in self._servers.values())

    def stop(self, *, is_fast: bool = False) -> None:
        """`begin_stop`, then wait; what does not end is ended harder."""
        self.begin_stop(is_fast=is_fast)
        for server in self._servers.values():
            if server.child is not None:
                _wait_or_kill(server.child, 5.0 if is_fast else STOP_TIMEOUT_S)
        self._servers.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- finding out -----------------------------------------------------------------------

    def _find_programs(self) -> None:
        if "valkey" in self._wanted:
            self._programs["valkey"] = binaries.find_valkey()
        if "postgres" not in self._wanted:
            return
        cluster = self._data / "postgres"
        version = cluster / "PG_VERSION"
        major = int(version.read_text("utf-8")) if version.is_file() else None
        try:
            found = binaries.find_postgres(major)
        except ConfigError as error:
            if major is None:
                raise
            raise ConfigError(
                f"{error}; install PostgreSQL {major}, or move {cluster} away to start empty "
                "(pg_dumpall with the old version first, to keep the data), "
                "or set SMSGW_DATABASE_URL"
            ) from None
        self._identity, found = self._choose_identity(found)
        self._programs["initdb"], self._programs["postgres"] = found.initdb, found.server

    def _choose_identity(self, found: binaries.Postgres) -> tuple[Identity, binaries.Postgres]:
        """Who PostgreSQL runs as; it refuses root, and initdb refuses a uid without a name."""
        uid = os.geteuid()
        if uid != 0 and spawn.has_name(uid):
            return AS_WE_ARE, found
        identity = Identity(seen_as=spawn.foreign_uid())
        try:
            if not self._may_use_namespace:
                raise OSError("not wanted")
            self._give_to(uid)  # an earlier run may have had to leave root
            lost = spawn.first_out_of_reach(identity, [found.server, self._data, self._run])
        except OSError:
            if uid != 0:
                raise ConfigError(
                    f"PostgreSQL cannot run as uid {uid}, which the user list does not know; add "
                    "it to /etc/passwd, allow user namespaces, or set SMSGW_DATABASE_URL"
                ) from None
            return self._leave_root(found)
        if lost == found.server:
            found = binaries.copy_postgres(found, self._data / "programs")
        elif lost is not None:
            raise ConfigError(_out_of_reach(lost))
        return identity, found

    def _leave_root(self, found: binaries.Postgres) -> tuple[Identity, binaries.Postgres]:
        """Where namespaces are forbidden: another uid, which gets our own directories only."""
        uid = spawn.foreign_uid()
        identity = Identity(real=uid)
        self._data.chmod(0o711)  # ours; it must be passed through, not read
        self._give_to(uid)
        if spawn.first_out_of_reach(identity, [found.server, found.initdb]) is not None:
            found = binaries.copy_postgres(found, self._data / "programs")
        lost = spawn.first_out_of_reach(identity, [found.server, self._run])
        if lost is not None:
            raise ConfigError(_out_of_reach(lost))
        return identity, found

    def _give_to(self, uid: int) -> None:
        """Make the cluster and the sockets' directory belong to `uid`, where they do not."""
        for top in (self._data / "postgres", self._run):
            if not top.is_dir() or top.stat().st_uid == uid:
                continue
            for path in (*top.rglob("*"), top):  # the top last: a kill in between is repeated
                os.chown(path, uid, -1, follow_symlinks=False)

    def _take_lock(self) -> bool:
        """Become the owner of the servers on this data; False while somebody else is."""
        if self._lock is not None:
            return True
        fd = os.open(self._data / "servers.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock = fd
        return True

    def _adopt(self) -> None:
        """Use the servers of a living owner, once they answer; become the owner when it goes."""
        end = time.monotonic() + START_TIMEOUT_S
        while not self._take_lock():
            self._find_adopted()
            if all(self.is_ready(name) for name in self._wanted):
                return
            if time.monotonic() > end:
                raise ConfigError(
                    f"another smsgw on {self._data} is starting its servers, and they do not "
                    f"answer; see {self._data / 'log'}"
                )
            time.sleep(0.02)
        self._servers.clear()

    def _find_adopted(self) -> None:
        found = {name: self._left_over(name) for name in self._wanted}
        self._servers = {name: server for name, server in found.items() if server is not None}

    def _record(self) -> None:
        kept = {name: (server.pid, server.started) for name, server in self._servers.items()}
        fresh = self._data / "servers.json.new"
        fresh.write_text(json.dumps(kept), "utf-8")
        fresh.replace(self._data / "servers.json")

    # -- what an earlier life left ---------------------------------------------------------

    def _clear_way(self, name: str) -> None:
        """End an orphan and forget what is stale; we own the servers, so nobody else uses them."""
        found = self._left_over(name)
        if found is not None and found.is_alive():
            self._progress(f"ending the {name} that an earlier run left (pid {found.pid})")
            _end(found, STOP_TIMEOUT_S)
        if name == "postgres":
            _kill_backends(self._data / "postgres")
            # Their pid may belong to another program by now, or a power cut has left them empty:
            # both would stop the start. The shared memory check still guards against a second
            # server.
            (self._data / "postgres" / "postmaster.pid").unlink(missing_ok=True)
            (self._run / ".s.PGSQL.5432.lock").unlink(missing_ok=True)

    def _left_over(self, name: str) -> _Server | None:
        if name == "postgres":
            pid, _ = _postmaster(self._data / "postgres")
            if not pid or not _works_in(pid, self._data / "postgres", "postgres"):
                return None
        else:
            try:
                kept = json.loads((self._data / "servers.json").read_text("utf-8"))
                pid, started = int(kept[name][0]), float(kept[name][1])
            except (OSError, ValueError, KeyError, TypeError, IndexError):
                return None
            if not spawn.is_same(pid, started):
                return None
        return _Server(name, pid, spawn.started_at(pid) or 0.0, None)

    # -- starting --------------------------------------------------------------------------

    def _launch(self, name: str) -> _Server:
        args = self._valkey_args() if name == "valkey" else self._postgres_args()
        identity = self._identity if name == "postgres" else AS_WE_ARE
        dies_by = signal.SIGINT if name == "postgres" else signal.SIGTERM  # fast shutdown; save
        with self._log(name) as log:
            child = spawn.spawn(args, death_signal=dies_by, log=log, env=_ENV, identity=identity)
        return _Server(name, child.pid, spawn.started_at(child.pid) or time.time(), child)

    @contextlib.contextmanager
    def _log(self, name: str) -> Iterator[int]:
        fd = open_log(self._data / "log" / f"{name}.log")
        try:
            yield fd
        finally:
            os.close(fd)

    def _valkey_args(self) -> list[str]:
        directory = make_private(self._data / "valkey")
        wanted = {
            "port": "0",
            "unixsocket": str(self._run / "valkey.sock"),
            "unixsocketperm": "700",
            "dir": str(directory),
            "appendonly": "yes",
            "daemonize": "no",
            "logfile": "",
        }
        args = [str(self._programs["valkey"])]
        for key, value in wanted.items():
            args += [f"--{key}", value]
        return args

    def _postgres_args(self) -> list[str]:
        cluster = self._data / "postgres"
        if not (cluster / "PG_VERSION").is_file():
            self._make_cluster(cluster)
        args = [str(self._programs["postgres"]), "-D", str(cluster)]
        for key, value in {**POSTGRES_OPTIONS, "unix_socket_directories": str(self._run)}.items():
            args += ["-c", f"{key}={value}"]
        return args

    def _make_cluster(self, cluster: Path) -> None:
        """initdb beside, then rename: a kill in between leaves nothing half made."""
        self._progress("first start: making the database …")
        fresh = cluster.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._identity.real is not None:
            os.chown(fresh, self._identity.real, self._identity.real)
        args = [str(self._programs["initdb"]), "-D", str(fresh), "-U", "smsgw", "-A", "trust"]
        args += ["-E", "UTF8", "--no-locale"]  # trust: the socket's directory is 0700
        with self._log("postgres") as log:
            child = spawn.spawn(
                args,
                death_signal=signal.SIGKILL,
                log=log,
                env=_ENV,
                identity=self._identity,
            )
            if child.wait(timeout=START_TIMEOUT_S) != 0:
                raise ConfigError(f"initdb failed: {self._last_words('postgres')}")
        fresh.rename(cluster)
        sync_directory(cluster.parent)  # a name lost with the power would be an empty start

    def _wait_ready(self) -> None:
        begun = time.monotonic()
        told = False
        retried: set[str] = set()
        waiting = list(self._wanted)
        while waiting:
            name = waiting[0]
            if self.is_ready(name):
                waiting.pop(0)
                continue
            if not self._servers[name].is_alive():
                self._retry(name, retried, time.monotonic() - begun)
            is_put_back = (self._data / "postgres" / "recovery.signal").exists()
            if time.monotonic() - begun > START_TIMEOUT_S and not is_put_back:
                raise ConfigError(f"{name} does not answer: {self._last_words(name)}")
            if not told and time.monotonic() - begun > 3:
                told = True
                self._progress(
                    "postgres replays the archive, as long as there is some …"
                    if is_put_back and name == "postgres"
                    else f"{name} is recovering what the last run left …"
                )
            time.sleep(0.01)

    def _retry(self, name: str, retried: set[str], waited_s: float) -> None:
        """Decide what a server that ended at start deserves: another try, or an error."""
        words = self._last_words(name)
        is_memory_held = "shared memory block" in words or "lock file" in words
        if name == "postgres" and is_memory_held and waited_s < 30:
            time.sleep(0.1)  # backends of a killed postmaster are on their way out
        elif name == "valkey" and name not in retried:
            # a cache may be wiped at any moment (RELIABILITY promise 7); a broken file may not
            # keep the gateway from starting
            kept = self._data / f"valkey.broken-{int(time.time())}"
            (self._data / "valkey").replace(kept)
            self._progress(f"valkey could not read its data; starting empty (kept in {kept.name})")
        elif name != "postgres" or name in retried:
            raise ConfigError(
                f"{name} does not start: {words} (all of it in {self._data / 'log'}/{name}.log)"
            )
        if not is_memory_held:
            retried.add(name)
        self.launch_dead()

    def _last_words(self, name: str) -> str:
        path = self._data / "log" / f"{name}.log"
        try:
            lines = path.read_bytes()[-2000:].decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return "it left no word"
        fatal = [line for line in lines[-8:] if "FATAL" in line or "rror" in line]
        return (fatal or lines or ["it left no word"])[-1].strip()


# not our environment: PGOPTIONS, PGPORT and the like would change what the server does
_ENV = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _out_of_reach(path: Path) -> str:
    return (
        f"PostgreSQL must not run as root, and without root's rights {path} cannot be reached; "
        "set SMSGW_DATA_DIR to a directory that others may pass through (/var/lib/smsgw), "
        "or run as an ordinary user"
    )


def _stop_signal(name: str, *, is_fast: bool) -> signal.Signals:
    if name == "postgres":  # immediate, fast (PostgreSQL manual 18.5)
        return signal.SIGQUIT if is_fast else signal.SIGINT
    return signal.SIGKILL if is_fast else signal.SIGTERM


def _wait_or_kill(child: subprocess.Popen[bytes], timeout_s: float) -> None:
    for harder in (signal.SIGQUIT, signal.SIGKILL):
        try:
            child.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.send_signal(harder)
            timeout_s = 5.0
        else:
            return
    child.wait()


def _end(server: _Server, timeout_s: float) -> None:
    """End a server that is not our child, ever harder."""
    for number, wait_s in (
        (_stop_signal(server.name, is_fast=False), timeout_s),
        (signal.SIGQUIT, 5.0),
        (signal.SIGKILL, 5.0),
    ):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, number)
        if spawn.wait_gone(server.pid, wait_s):
            return


def _postmaster(cluster: Path) -> tuple[int, bool]:
    """Pid and readiness in postmaster.pid (line 1 and line 8, as pg_ctl reads them)."""
    try:
        lines = (cluster / "postmaster.pid").read_text("utf-8", "replace").splitlines()
        return abs(int(lines[0])), len(lines) >= 8 and lines[7].strip() == "ready"
    except (OSError, ValueError, IndexError):
        return 0, False


def _works_in(pid: int, directory: Path, program: str) -> bool:
    """Whether that process is `program` working in that directory, as every backend does."""
    try:
        process = psutil.Process(pid)
        return process.name().startswith(program) and Path(process.cwd()) == directory.resolve()
    except (psutil.Error, OSError):
        return False


def _kill_backends(cluster: Path) -> None:
    """End backends that outlived their postmaster: they hold the shared memory."""
    doomed = [p.pid for p in psutil.process_iter() if _works_in(p.pid, cluster, "postgres")]
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in doomed:
        spawn.wait_gone(pid, 5.0)


def _asks(path: Path, question: bytes, answer: bytes) -> bool:
    """Whether the server behind the socket answers with something that begins with `answer`."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(question)
            told = client.recv(16)
        except OSError:
            return False
    return bool(told) and told.startswith(answer)
