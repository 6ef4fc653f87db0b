"""The gateway that is done harm to: one `smsgw up --sandbox` on a directory of its own.

    folder/d          its data directory, perhaps the mount point of an image (`place`)
    folder/carriers   what carriers and sink got: outside of it, so that no fault touches the judge

Times that a run would only wait for are short; what is judged is not changed by them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from loadtest.carrier import REPEAT
from loadtest.stock_gateway import environment
from store.embedded import endpoints_of, run_directory
from store.spawn import spawn
from telemetry.failpoints import WATCH, armed_file, fired_file

READY_S: Final = 60.0
STOP_S: Final = 45.0
LOOK_S: Final = 0.1
SANDBOX_PORTS: Final = 12  # five carriers and the sink, each with a control port
SERVERS: Final = ("postgres", "valkey")
REPEAT_S: Final = "120"  # carriers that come back owe the reports of so long once more
RELIABILITY: Final[Mapping[str, str]] = {
    "uncertain_wait_otp_s": "2",
    "uncertain_wait_transactional_s": "2",
    "reconnect_min_s": "0.2",
    "reconnect_max_s": "1",
    "health_link_errors": "1000",  # tried so often, five in a row are a matter of seconds
    "drain_before_s": "0.2",
    "retry_least": "1000",  # extra attempts in a minute: a kill leaves hundreds of answers open
    "marketing_opens_h": "0",  # campaigns run at night too
    "marketing_closes_h": "24",
    "lane_otp": "160",  # what is held beyond a sixteenth of it is kept as ids: seen in each run
    "lane_transactional": "160",
    "lane_marketing": "160",
    "restart_max_s": "0.1",  # a campaign kills what has just been started, again and again
}
# A long way to the carrier and back, so that something is open at every moment, and submits that
# the carrier says it did not take, so that some are tried again.
ROUGH: Final[Mapping[str, Any]] = {
    "latency_ms": 40,
    "receipt_delay_ms": 400,
    "failure_share": 0.01,
    "link": "up",
}

Json = dict[str, Any]


class Broken(Exception):
    """The gateway does not come up, or does not take texts any more: the campaign cannot go on."""


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, away from those of sandboxes, tests and clients."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(28_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


class Node:
    """Everything below one supervisor, and how it is asked, killed and started again."""

    def __init__(
        self,
        folder: Path,
        http: aiohttp.ClientSession,
        *,
        workers: int = 1,
        reliability: Mapping[str, str] | None = None,
    ) -> None:
        """`reliability`: further settings of that kind, lower-case names."""
        self.folder = folder
        self.data_dir = folder / "d"
        self.records = folder / "carriers"
        self.starts = 0
        self.sandbox: Json = {}
        self.workers = workers
        self.beside: list[Json] = []  # carriers that are not the sandbox's: name, control_url
        self._http = http
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[int, psutil.Process] = {}  # everything ever seen below us
        self._tags = 0
        self._texts = 0
        self.phoned: list[str] = []  # texts that carriers took from phones
        port, admin_port, *self._ports = free_ports(2 + SANDBOX_PORTS)
        self.url = f"http://127.0.0.1:{port}"
        self.admin_url = f"http://127.0.0.1:{admin_port}"
        self._env = environment(self.data_dir) | {
            "SMSGW_PORT": str(port),
            "SMSGW_ADMIN_PORT": str(admin_port),
            "SMSGW_FAILPOINT": WATCH,
            REPEAT: REPEAT_S,
        }
        numbers = {**RELIABILITY, **(reliability or {})}
        self._env |= {f"SMSGW_RELIABILITY__{k.upper()}": v for k, v in numbers.items()}

    # -- life ------------------------------------------------------------------------------

    def furnish(self) -> None:
        """Make the empty data directory what a first start needs; its ports, its judge outside."""
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        self.data_dir.chmod(0o700)
        self.records.mkdir(mode=0o700, exist_ok=True)
        (self.data_dir / "carriers").symlink_to(self.records)
        (self.data_dir / "failpoints").mkdir(mode=0o700)
        (self.data_dir / "sandbox").mkdir(mode=0o700)
        (self.data_dir / "sandbox" / "ports.json").write_text(json.dumps(self._ports), "utf-8")

    def launch(self) -> None:
        """Start the supervisor, on the main thread; it dies with us."""
        log = os.open(self.folder / "up.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = spawn(
                [sys.executable, "-P", "-m", "gateway", "up", "--sandbox"],
                death_signal=signal.SIGTERM,
                log=log,
                env=self._env | {"SMSGW_WORKERS": str(self.workers)},
            )
        finally:
            os.close(log)
        self.starts += 1

    async def start(self) -> None:
        """Start and wait until it is ready; a start that fails is tried again, as systemd does."""
        end = time.monotonic() + READY_S
        self.launch()
        while not await self.is_ready():
            if self._process is not None and self._process.poll() is not None:
                await asyncio.sleep(0.3)
                self.launch()
            if time.monotonic() > end:
                raise Broken(f"not ready after {READY_S:g} s\n{self.last_words()}")
            await asyncio.sleep(LOOK_S)
        self.sandbox = json.loads((self.data_dir / "sandbox.json").read_text("utf-8"))

    async def resize(self, workers: int) -> None:
        """Another number of workers: stopped in order and started again."""
        if workers != self.workers:
            await self.stop()
            self.workers = workers
            await self.start()

    async def is_ready(self) -> bool:
        """Whether /readyz says so now."""
        try:
            async with self._http.get(f"{self.admin_url}/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    def is_running(self) -> bool:
        """Whether the supervisor runs."""
        return self._process is not None and self._process.poll() is None

    async def stop(self) -> int:
        """SIGTERM and wait; the exit code, -9 when it had to be killed."""
        process = self._process
        if process is None:
            return 0
        self.pids()
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        self._process = None
        return process.wait()

    def kill_all(self) -> None:
        """SIGKILL everything that was ever seen below us or stands on our directory, and reap."""
        processes = {p.pid: p for p in (*self._below(), *self._known.values(), *self._on_data())}
        for process in processes.values():
            with contextlib.suppress(psutil.Error):
                process.kill()  # psutil looks at the start time: a reused pid is left alone
        psutil.wait_procs(list(processes.values()), timeout=10)
        if self._process is not None:
            self._process.wait()
            self._process = None
        self._known.clear()

    def _on_data(self) -> Iterator[psutil.Process]:
        """By their environment, or for PostgreSQL, which has none of ours, by where it works."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                is_ours = process.environ().get("SMSGW_DATA_DIR") == str(self.data_dir)
                if is_ours or Path(process.cwd()).is_relative_to(self.data_dir):
                    yield process

    # -- its processes ---------------------------------------------------------------------

    def _below(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        found = []
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(self._process.pid)
            found = [top, *top.children(recursive=True)]
        self._known = {pid: p for pid, p in self._known.items() if p.is_running()}
        self._known.update({process.pid: process for process in found})
        return found

    def everything(self) -> list[int]:
        """Every living process of the node, the supervisor first."""
        return [process.pid for process in self._below()]

    def pids(self) -> dict[str, int]:
        """By name: supervisor, worker-0 …, postgres, valkey, mobile-a …, sink."""
        named: dict[str, int] = {}
        for process in self._below():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    name = self._name(process)
                    if name:
                        named[name] = process.pid
        return named

    def _name(self, process: psutil.Process) -> str | None:
        top = self._process.pid if self._process is not None else 0
        words = process.cmdline()
        if process.pid == top:
            return "supervisor"
        if process.ppid() != top or not words:
            return None
        if "loadtest.carrier" in words:
            return words[words.index("--name") + 1]
        if "loadtest.sink" in words:
            return "sink"
        if words[-2:] == ["gateway", "worker"]:
            return f"worker-{process.environ().get('SMSGW_WORKER_SLOT', '0')}"
        return next((name for name in SERVERS if name in Path(words[0]).name), None)

    def below(self, name: str) -> list[psutil.Process]:
        """The children of a named process."""
        pid = self.pids().get(name)
        with contextlib.suppress(psutil.Error):
            if pid is not None:
                return psutil.Process(pid).children(recursive=True)
        return []

    def send(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """A signal to one of its processes; one that is gone is no error."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if self._process is not None and pid == self._process.pid and number == signal.SIGKILL:
            self._process.wait()

    # -- failpoints ------------------------------------------------------------------------

    def arm(self, text: str) -> str:
        """Arm a spec in every worker, now and in those that start; returns it with its tag."""
        self._tags += 1
        spec = f"{text}#{os.getpid()}-{self._tags}"
        directory = self.data_dir / "failpoints"
        fresh = directory / "armed.new"
        fresh.write_text(spec, "utf-8")
        fresh.replace(armed_file(directory))
        return spec

    def disarm(self) -> None:
        """Nothing is armed any more."""
        armed_file(self.data_dir / "failpoints").unlink(missing_ok=True)

    def fired(self, spec: str) -> tuple[float, int] | None:
        """When it acted (Unix) and in which process, None while it has not."""
        try:
            told = json.loads(fired_file(self.data_dir / "failpoints", spec).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return float(told["at"]), int(told["pid"])

    # -- what it is asked and told ---------------------------------------------------------

    @property
    def api_key(self) -> str:
        """The sandbox tenant's key."""
        return str(self.sandbox["api_key"])

    @property
    def dsn(self) -> str:
        """The embedded database, for looking into it."""
        return endpoints_of(run_directory(self.data_dir)).database_url

    @property
    def run_dir(self) -> Path:
        """Where the servers' sockets are."""
        return run_directory(self.data_dir)

    async def behave(self, changes: Mapping[str, Any], *names: str) -> None:
        """Tell carriers (all of them without names) how to behave; who is away is left out."""
        for carrier in [*self.sandbox["carriers"], *self.beside]:
            if not names or carrier["name"] in names:
                await self._post(carrier["control_url"], changes)

    async def phone(self, count: int) -> None:
        """Texts from phones over every carrier, each of its own, the last one long."""
        for carrier in self.sandbox["carriers"]:
            for number in range(count):
                self._texts += 1
                long = "。" * 150 if number == count - 1 else ""
                text = f"回复{self._texts}{long}"
                body = {
                    "from": f"+86139{self._texts:08d}",
                    "to": "10690001",
                    "text": text,
                    "reference": self._texts % 256,
                }
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    url = f"{carrier['control_url']}/inbound"
                    async with self._http.post(url, json=body) as answer:
                        if answer.status == 202:
                            self.phoned.append(text)

    async def inbound(self) -> Counter[str]:
        """The texts from phones that the API lists."""
        found: Counter[str] = Counter()
        headers = {"Authorization": f"Bearer {self.api_key}"}
        query = {"limit": "1000"}
        while True:
            url = f"{self.url}/v1/inbound-messages"
            async with self._http.get(url, params=query, headers=headers) as got:
                if got.status != 200:
                    raise Broken(f"{url}: {got.status} {(await got.text())[:300]}")
                page: Json = await got.json()
            found.update(one["text"] for one in page["data"])
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]

    async def behave_sink(self, **changes: object) -> None:
        """Tell the sink how to behave."""
        await self._post(self.sandbox["sink"]["control_url"], changes)

    async def _post(self, url: str, changes: Mapping[str, Any]) -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self._http.post(f"{url}/behaviour", json=dict(changes)) as answer:
                await answer.read()

    async def has_all(self) -> bool:
        """Whether every process of a whole node is there, and the node ready."""
        if not await self.is_ready():  # asked first: looking at all processes costs 20 ms
            return False
        pids = await asyncio.to_thread(self.pids)
        wanted = {"supervisor", "sink", *SERVERS, *(c["name"] for c in self.sandbox["carriers"])}
        wanted |= {f"worker-{slot}" for slot in range(self.workers)}
        return wanted <= pids.keys()

    async def view(self, message_id: str) -> Json:
        """GET /v1/messages/{id}; raises Broken unless it is answered 200."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        async with self._http.get(f"{self.url}/v1/messages/{message_id}", headers=headers) as got:
            if got.status != 200:
                raise Broken(f"{message_id}: {got.status} {(await got.text())[:300]}")
            view: Json = await got.json()
            return view

    async def apply(self, yaml: str) -> None:
        """`smsgw apply` of a file beside the sandbox's secrets; raises Broken with its words."""
        file = self.data_dir / "campaign.yaml"
        file.write_text(yaml, "utf-8")
        env = {name: value for name, value in self._env.items() if name != "SMSGW_FAILPOINT"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gateway", "apply", str(file)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
        )
        told, _ = await process.communicate()
        if process.returncode:
            raise Broken(f"smsgw apply: {told.decode('utf-8', 'replace')}")

    async def has_links(self, names: Iterable[str], timeout_s: float) -> None:
        """Wait until these channels have sessions; raises Broken."""
        end = time.monotonic() + timeout_s
        while not await self._are_up(names):
            if time.monotonic() > end:
                raise Broken(f"{', '.join(names)} do not come up\n{self.last_words()}")
            await asyncio.sleep(LOOK_S)

    async def _are_up(self, names: Iterable[str]) -> bool:
        text = await self._metrics()
        lines = [f'smsgw_channel_state{{channel="{name}",state="up"}} 1' for name in names]
        return all(line in text for line in lines)

    async def _metrics(self) -> str:
        try:
            async with self._http.get(f"{self.admin_url}/metrics") as answer:
                return await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return ""

    async def metric(self, name: str) -> float:
        """The sum of a series over its labels, without the sign; 0 without any."""
        text = await self._metrics()
        return sum(
            abs(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"smsgw_{name}"
        )

    def last_words(self, lines: int = 6) -> str:
        """The ends of everything it wrote."""
        parts = []
        for path in [self.folder / "up.out", *sorted((self.data_dir / "log").glob("*.log"))]:
            with contextlib.suppress(OSError):
                tail = path.read_text("utf-8", "replace").splitlines()[-lines:]
                parts += [f"--- {path.name}", *(line[:400] for line in tail)]
        return "\n".join(parts)
