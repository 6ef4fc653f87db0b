"""A real gateway for tests: `smsgw up --sandbox` on a data directory of its own.

    with GatewayProcess() as gateway:
        answer = gateway.send(to="+8613800138000", text="你好")
        gateway.wait_for_status(answer.json()["id"], "delivered")

Nothing is shared with another run: ports are free ones, the data directory is new. However the
test ends, every process that stood on that directory is gone afterwards.
"""

import contextlib
import fcntl
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from store.embedded import run_directory
from tests.support import cluster

ROOT = Path(__file__).parents[2]
# How long a test waits for what must come: nothing when it is there, and a machine with other work
# to do may take long. A test that judges a time says so with a number of its own.
PATIENCE_S = 90.0
DRAIN_S = 30.0  # RELIABILITY section 9: what SIGTERM may take
SERVERS = ("postgres", "valkey")
DATABASE_END_S = 5.0  # at most, without a checkpoint
LOG_LINES = 15
_BLOCK = 250
SANDBOX_PORTS = 12  # five carriers and the sink, each with a control port

# Short times where a test would wait for them; what is judged is not changed.
RELIABILITY = {
    "uncertain_wait_otp_s": "2",
    "uncertain_wait_transactional_s": "2",
    "reconnect_min_s": "0.2",
    "reconnect_max_s": "1",
    # Tried so often, a link that is down for seconds says nothing about a channel.
    "health_link_errors": "1000",
    "restart_max_s": "0.5",
    "drain_before_s": "0.2",
    "drain_idle_s": "0.2",
    "valkey_timeout_s": "5",  # many gateways on one machine: limits are judged, not its load
    "retry_least": "1000",  # extra attempts in a minute: a kill leaves hundreds of answers open
    "marketing_opens_h": "0",  # tests run at night too
    "marketing_closes_h": "24",
}

Json = dict[str, Any]
T = TypeVar("T")


def eventually(
    ask: Callable[[], T], what: str, timeout_s: float = PATIENCE_S, step_s: float = 0.05
) -> T:
    """The first answer that is true; an assertion that names `what` when the time is over."""
    end = time.monotonic() + timeout_s
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {what} (last: {answer!r})"
        time.sleep(step_s)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, away from those that sandboxes choose and clients are given.

    Those that were given longest ago come first, so that one that is down for a while keeps its.
    """
    found: list[int] = []
    while len(found) < count:
        port = next(_ports())
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


@functools.cache
def _ports() -> Iterator[int]:
    """A block of ports that no other run of tests on this machine uses while we live."""
    folder = Path(tempfile.gettempdir()) / f"smsgw-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for first in range(20_000, 28_000, _BLOCK):
        handle = os.open(folder / str(first), os.O_RDWR | os.O_CREAT, 0o600)  # open till we end
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
        else:
            return itertools.cycle(range(first, first + _BLOCK))
    raise AssertionError(f"more runs of tests than blocks of ports: {folder}")


def keep_ports(data_dir: Path, ports: list[int]) -> None:
    """Have a sandbox there use these: another one must not take a port while a carrier is down."""
    (data_dir / "sandbox").mkdir(mode=0o700, parents=True)
    data_dir.chmod(0o700)
    (data_dir / "sandbox" / "ports.json").write_text(json.dumps(ports), "utf-8")


class CarrierControl:
    """One simulated carrier through its control port."""

    def __init__(self, name: str, url: str, client: httpx.Client) -> None:
        self.name = name
        self._url = url
        self._client = client
        # What a failing submit is answered with: each protocol has a code of its own.
        self.failure_status: int = client.get(f"{url}/behaviour").json()["failure_status"]

    def behave(self, **changes: object) -> None:
        """Change what is named (API section 6)."""
        answer = self._client.post(f"{self._url}/behaviour", json=changes)
        assert answer.status_code == 200, answer.text

    def phone(self, **text: object) -> int:
        """A phone sends a text (`loadtest.phone`); how many segments it took."""
        body = {("from" if name == "sender" else name): value for name, value in text.items()}
        answer = self._client.post(f"{self._url}/inbound", json=body)
        assert answer.status_code == 202, answer.text
        segments: int = answer.json()["segments"]
        return segments

    def submits(self, *, taken: bool = True) -> list[Json]:
        """Its record of submits; `taken`: only those it answered with an id."""
        told = self._client.get(f"{self._url}/submits", timeout=30)
        rows: list[Json] = told.json()["data"]
        return [row for row in rows if row["carrier_id"]] if taken else rows

    def counts(self) -> Json:
        """Counters since its start."""
        counts: Json = self._client.get(f"{self._url}/counts").json()
        return counts


class SinkControl:
    """The sandbox's webhook sink through its control port."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self._url = url
        self._client = client

    def events(self, message_id: str) -> list[Json]:
        """What was received about a message, as it came (repeats too)."""
        told = self._client.get(f"{self._url}/events", params={"message_id": message_id})
        events: list[Json] = told.json()["data"]
        return events

    def counts(self) -> Json:
        """Counters since its start."""
        counts: Json = self._client.get(f"{self._url}/counts").json()
        return counts

    def behave(self, **changes: object) -> None:
        """Change what is named."""
        answer = self._client.post(f"{self._url}/behaviour", json=changes)
        assert answer.status_code == 200, answer.text


class GatewayProcess:
    """One `smsgw up --sandbox` and everything below it."""

    command_line: tuple[str, ...] = ("up", "--sandbox")
    launcher: tuple[str, ...] = ()  # a command that starts it, in front

    def __init__(self, *, workers: int = 1, **reliability: str) -> None:
        """`reliability`: further `SMSGW_RELIABILITY__` settings, lower-case names."""
        # short: the path of a Unix socket has at most 107 characters
        self.folder = Path(tempfile.mkdtemp(prefix="smsgw-"))
        self.data_dir = self.folder / "d"
        self.port, self.admin_port, *others = free_ports(2 + SANDBOX_PORTS)
        keep_ports(self.data_dir, others)
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        numbers = RELIABILITY | reliability
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SMSGW_")}
        self.env = kept | {f"SMSGW_RELIABILITY__{k.upper()}": v for k, v in numbers.items()}
        self.env |= {
            "SMSGW_DATA_DIR": str(self.data_dir),
            "SMSGW_PORT": str(self.port),
            "SMSGW_ADMIN_PORT": str(self.admin_port),
            "SMSGW_WORKERS": str(workers),
        }
        self.process: subprocess.Popen[bytes] | None = None
        # The admin port closes a connection that was idle for 5 s, httpx's own limit too: a request
        # at that very moment would be reset.
        limits = httpx.Limits(keepalive_expiry=2)
        self.client = httpx.Client(timeout=15, trust_env=False, limits=limits)
        self.sandbox: Json = {}
        self.carriers: dict[str, CarrierControl] = {}
        self.sink = SinkControl("", self.client)
        self._known: dict[int, psutil.Process] = {}  # everything ever seen below us

    # -- life --------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Start on the data directory, new or used, and wait until it is ready."""
        assert self.process is None
        if "--sandbox" in self.command_line and not (self.data_dir / "postgres").exists():
            cluster.lay(self.data_dir)
        with (self.folder / "up.out").open("ab") as out:
            self.process = subprocess.Popen(
                [*self.launcher, sys.executable, "-m", "gateway", *self.command_line],
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.wait_ready()
        self._read_sandbox()
        return self

    def wait_ready(self, timeout_s: float = PATIENCE_S) -> None:
        """Until /readyz says yes; fails with the ends of the logs."""
        end = time.monotonic() + timeout_s
        missing = "no answer on the admin port"
        while True:
            assert self.process is not None
            if self.process.poll() is not None:
                self._fail(f"`smsgw up` ended with exit code {self.process.returncode}")
            with contextlib.suppress(httpx.HTTPError, ValueError):
                answer = self.client.get(f"{self.admin_url}/readyz", timeout=5)
                if answer.status_code == 200:
                    self.pids()
                    return
                missing = str(answer.json()["missing"])
            if time.monotonic() > end:
                self._fail(f"not ready after {timeout_s:g} s: {missing}")
            time.sleep(0.05)

    def stop(self) -> tuple[int, float]:
        """SIGTERM; the exit code and how many seconds it took."""
        process, self.process = self.process, None
        assert process is not None
        self.pids()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(DRAIN_S + 15)
        except subprocess.TimeoutExpired:
            self.process = process
            self._fail("SIGTERM did not end it")
            raise AssertionError from None
        return code, time.monotonic() - began

    def kill(self, name: str) -> int:
        """SIGKILL one process by its name in `pids`; returns its pid."""
        pid = self.pids()[name]
        os.kill(pid, signal.SIGKILL)
        if name == "supervisor":
            assert self.process is not None
            self.process.wait()
            self.process = None
        return pid

    def close(self) -> None:
        """End everything and remove the data directory; never raises for what is gone.

        At once: an end in order is the subject of tests of its own (`stop`).
        """
        self.client.close()
        self._end_database()
        self._kill_all()
        if self.process is not None:
            self.process.wait()
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_database(self) -> None:
        """Killed, PostgreSQL would leave its shared memory to the machine: it is told to end now.

        Its supervisor goes first, which would start it again.
        """
        pids = self.pids()
        with contextlib.suppress(psutil.Error, KeyError):
            database = psutil.Process(pids["postgres"])
            psutil.Process(pids["supervisor"]).kill()
            database.send_signal(signal.SIGQUIT)
            end = time.monotonic() + DATABASE_END_S
            while database.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
                time.sleep(0.01)

    def _kill_all(self) -> None:
        """Everything seen below us, and whoever still has our data directory in its settings."""
        for process in [*self._below(), *self._known.values(), *self._on_our_data()]:
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil looks at the start time: a reused pid is left alone

    def _on_our_data(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SMSGW_DATA_DIR") == str(self.data_dir):
                    yield process

    def _below(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        found = []
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(self.process.pid)
            found = [top, *top.children(recursive=True)]
        self._known.update({process.pid: process for process in found})
        return found

    def pids(self) -> dict[str, int]:
        """Living processes: supervisor, worker-0 …, postgres, valkey, mobile-a …, sink."""
        named: dict[str, int] = {}
        for process in self._below():
            with contextlib.suppress(psutil.Error):
                is_child = process.ppid() == (self.process.pid if self.process else 0)
                if process.status() != psutil.STATUS_ZOMBIE:
                    name = self._name(process, is_child=is_child)
                    if name:
                        named[name] = process.pid
        return named

    def _name(self, process: psutil.Process, *, is_child: bool) -> str | None:
        if self.process is not None and process.pid == self.process.pid:
            return "supervisor"
        words = process.cmdline()
        if not is_child or not words:
            return None
        if "loadtest.carrier" in words:
            return words[words.index("--name") + 1]
        if "loadtest.sink" in words:
            return "sink"
        if words[-2:] == ["gateway", "worker"]:
            return f"worker-{process.environ()['SMSGW_WORKER_SLOT']}"
        return next((name for name in SERVERS if name in Path(words[0]).name), None)

    def family(self, name: str) -> list[int]:
        """The process of that name and all below it, children first."""
        top = psutil.Process(self.pids()[name])
        return [*(child.pid for child in top.children(recursive=True)), top.pid]

    # -- what it says ------------------------------------------------------------------------

    def logs(self) -> str:
        """The ends of everything it wrote."""
        parts = []
        for path in [self.folder / "up.out", *sorted((self.data_dir / "log").glob("*.log"))]:
            with contextlib.suppress(OSError):
                lines = path.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
                parts += [f"--- {path.name}", *(line[:600] for line in lines)]
        return "\n".join(parts)

    def log_lines(self, name: str, event: str) -> list[str]:
        """Lines of a log whose event is that one."""
        path = self.data_dir / "log" / f"{name}.log"
        lines = path.read_text("utf-8", "replace").splitlines()
        return [line for line in lines if f'"event": "{event}"' in line]

    def _fail(self, what: str) -> None:
        raise AssertionError(f"{what}\n{self.logs()}")

    def _read_sandbox(self) -> None:
        self.sandbox = json.loads((self.data_dir / "sandbox.json").read_text("utf-8"))
        self.carriers = {
            told["name"]: CarrierControl(told["name"], told["control_url"], self.client)
            for told in self.sandbox["carriers"]
        }
        self.sink = SinkControl(self.sandbox["sink"]["control_url"], self.client)
        self._headers = {"Authorization": f"Bearer {self.sandbox['api_key']}"}

    # -- its doors ---------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: object = None, *, key: str | None = None
    ) -> httpx.Response:
        """One API request, with the sandbox's key unless another one is given."""
        headers = self._headers if key is None else {"Authorization": f"Bearer {key}"}
        return self.client.request(method, self.url + path, json=body, headers=headers)

    def send(self, key: str | None = None, **fields: object) -> httpx.Response:
        """POST /v1/messages."""
        return self.request("POST", "/v1/messages", fields, key=key)

    def accept(self, key: str | None = None, **fields: object) -> str:
        """Send what must be accepted; the message's id."""
        answer = self.send(key, **fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def batch(self, messages: Sequence[object], **defaults: object) -> httpx.Response:
        """POST /v1/batches."""
        body = {"defaults": defaults, "messages": messages}
        return self.request("POST", "/v1/batches", body)

    def status(self, message_id: str) -> Json:
        """GET /v1/messages/{id}."""
        answer = self.request("GET", f"/v1/messages/{message_id}")
        assert answer.status_code == 200, answer.text
        told: Json = answer.json()
        return told

    def timeline(self, message_id: str) -> list[Json]:
        """GET /v1/messages/{id}/timeline."""
        answer = self.request("GET", f"/v1/messages/{message_id}/timeline")
        assert answer.status_code == 200, answer.text
        steps: list[Json] = answer.json()["data"]
        return steps

    def wait_for_status(self, message_id: str, *wanted: str, timeout_s: float = PATIENCE_S) -> Json:
        """The message once it has one of these states; fails when it ends otherwise."""

        def look() -> Json | None:
            told = self.status(message_id)
            if told["status"] in wanted:
                return told
            assert told["final_at"] is None, f"ended {told['status']} ({told['reason']}): {told}"
            return None

        found = eventually(look, f"{message_id} is {' or '.join(wanted)}", timeout_s)
        assert found is not None
        return found

    def submits_of(self, *numbers: str, taken: bool = True) -> list[Json]:
        """What all carriers recorded for these numbers, in order of arrival, with `carrier`."""
        wanted = {number.lstrip("+") for number in numbers}
        found = [
            {"carrier": name, **row}
            for name, carrier in self.carriers.items()
            for row in carrier.submits(taken=taken)
            if row["to"] in wanted
        ]
        return sorted(found, key=lambda row: (row["at"], row["index"]))

    def command(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a `smsgw` command on this gateway's data directory."""
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            cwd=ROOT,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def apply(self, yaml: str) -> str:
        """`smsgw apply`; what it printed."""
        file = self.folder / "applied.yaml"
        file.write_text(yaml, "utf-8")
        done = self.command("apply", str(file))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def metric(self, name: str, **labels: str) -> float:
        """The sum over a series' samples that have these labels; 0 without any."""
        text = self.client.get(f"{self.admin_url}/metrics", timeout=10).text
        return sum(_samples(text, f"smsgw_{name}", labels))

    def calm(self) -> None:
        """All carriers and the sink as they are at the start."""
        for carrier in self.carriers.values():
            carrier.behave(
                latency_ms=5,
                receipt_delay_ms=300,
                failure_share=0,
                throttle_share=0,
                takes_per_s=0,
                undelivered_share=0,
                report_quirk="none",
                failure_status=carrier.failure_status,
                silent=False,
                receipts=True,
                link="up",
            )
        self.sink.behave(fail_share=0, delay_ms=0, hang=False, close_mid_body=False)

    def all_links_up(self) -> bool:
        """Whether every carrier has its sessions and the worker knows it."""
        return self.metric("channel_state", state="up") == len(self.carriers)

    @property
    def dsn(self) -> str:
        """The embedded database, for looking into it."""
        folder = quote(str(run_directory(self.data_dir)), safe="")
        return f"postgresql://smsgw@/postgres?host={folder}"


def _samples(text: str, name: str, labels: Mapping[str, str]) -> Iterator[float]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                yield sample.value
