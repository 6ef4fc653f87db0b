"""The whole stock gateway in a fresh data directory, for a measurement: start, ask, stop.

    python -m gateway up --sandbox ─┬─ postgres, valkey, worker
                                    └─ five simulated carriers, webhook sink ─▶ /counts

Every `SMSGW_` variable of the caller is left out, so what runs is what a newcomer gets. The data
directory must lie on a real disk: in memory an fsync costs nothing and the figures would lie.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from gateway.settings import RELIABILITY_PREFIX
from sms.model import FINAL_STATES
from store import database
from store.embedded import endpoints_of, run_directory

START_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 60.0
ASK_TIMEOUT_S: Final = 10.0
SAMPLES: Final = "samples"  # in the data directory
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
FINAL_TYPES: Final = tuple(sorted(f"message.{state.value}" for state in FINAL_STATES))
_LINE: Final = re.compile(rb'^\{"at":"([^"]+)Z","to":"(\d+)"')


class NotStock(Exception):
    """The gateway does not run as it is meant to be measured, or does not run."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What has arrived outside the gateway since its start."""

    submits: int  # taken by the carriers
    finals: int  # messages whose final event is at the sink, each once
    events: int  # at the sink, repeats included
    requests: int  # at the sink
    duplicates: int  # events that came twice
    refused: int  # requests the sink did not take: bad signature, bad body
    by_type: Mapping[str, int]


def file_system(path: Path) -> str:
    """The type of the file system under a directory, as the kernel names it."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for parent in (path.resolve(), *path.resolve().parents):
        if str(parent) in mounts:
            return mounts[str(parent)]
    return "unknown"


@contextlib.contextmanager
def fresh_directory(parent: Path | None) -> Iterator[Path]:
    """A new directory, removed afterwards; without a parent the first temporary one on a disk."""
    parents = [Path(tempfile.gettempdir()), Path("/var/tmp")] if parent is None else [parent]  # noqa: S108 - mkdtemp
    for place in parents:
        if place.is_dir() and file_system(place) not in IN_MEMORY:
            made = Path(tempfile.mkdtemp(prefix="smsgw-bench-", dir=place))
            try:
                yield made
            finally:
                shutil.rmtree(made, ignore_errors=True)
            return
    raise NotStock("there fsync would cost nothing: name a directory on a disk with --data-parent")


AROUND_THE_CLOCK: Final[Mapping[str, object]] = {"marketing_opens_h": 0, "marketing_closes_h": 24}


def environment(
    data_dir: Path, *, is_sampled: bool = False, numbers: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Ours without any setting of a gateway, with a data directory and free ports.

    `is_sampled`: the worker notes where its CPU goes (loadtest/sampler) in `samples` there.
    `numbers`: settings of `Reliability` that are not stock. Marketing always goes: what is measured
    must not depend on the hour.
    """
    env = {name: text for name, text in os.environ.items() if not name.startswith("SMSGW_")}
    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    env.pop("LOADTEST_SAMPLES", None)
    if is_sampled:
        env["LOADTEST_SAMPLES"] = str(data_dir / SAMPLES)
        paths.append(str(Path(__file__).with_name("sampler")))
    env["PYTHONPATH"] = os.pathsep.join([root, *paths])
    changed = {**AROUND_THE_CLOCK, **(numbers or {})}
    env |= {RELIABILITY_PREFIX + name.upper(): str(n) for name, n in changed.items()}
    return env | {"SMSGW_DATA_DIR": str(data_dir), "SMSGW_PORT": "0", "SMSGW_ADMIN_PORT": "0"}


class StockGateway:
    """A running gateway; make it with `running`."""

    def __init__(
        self,
        data_dir: Path,
        process: asyncio.subprocess.Process,
        http: aiohttp.ClientSession,
        settings: Mapping[str, str],
    ) -> None:
        self.data_dir = data_dir
        self._settings = settings
        self.pid = process.pid
        self._process = process
        self._http = http
        self._told: dict[str, Any] = {}
        self.more_records: list[Path] = []  # of carriers that are not the sandbox's

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the public door."""
        parts = urlsplit(self._told["url"])
        return parts.hostname or "127.0.0.1", parts.port or 80

    @property
    def sink_url(self) -> str:
        """Where the sandbox's webhooks go."""
        return str(self._told["sink"]["url"])

    @property
    def url(self) -> str:
        """The public door."""
        return str(self._told["url"])

    @property
    def api_key(self) -> str:
        """The sandbox tenant's key."""
        return str(self._told["api_key"])

    @property
    def admin_key(self) -> str:
        """The sandbox's admin key."""
        return str(self._told["admin_key"])

    # -- starting and stopping -------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Until it says that it is; raises NotStock when it ends or takes too long."""
        sandbox = self.data_dir / "sandbox.json"
        missing = "it has not come so far as to write sandbox.json"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                while self._process.returncode is None:
                    if sandbox.is_file():
                        self._told = json.loads(sandbox.read_text("utf-8"))
                        missing = await self._missing()
                        if not missing:
                            return
                    await asyncio.sleep(0.1)
        raise NotStock(f"the gateway did not become ready ({missing})\n{self._last_words()}")

    async def _missing(self) -> str:
        try:
            async with self._http.get(self._told["admin_url"] + "/readyz") as answer:
                return "" if answer.status == 200 else (await answer.text())[:300]
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__

    def _last_words(self) -> str:
        words = []
        for name in ("up.log", "log/worker-0.log", "log/sink.log", "log/mobile-a.log"):
            with contextlib.suppress(OSError):
                lines = (self.data_dir / name).read_text("utf-8", "replace").splitlines()[-2:]
                words += [f"{name}: {line[-500:]}" for line in lines]
        return "\n".join(words)

    async def stop(self) -> int:
        """SIGTERM and wait; SIGKILL when it takes too long. Returns the exit code."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    # -- asking ----------------------------------------------------------------------------

    async def _json(self, url: str) -> dict[str, Any]:
        async with self._http.get(url) as answer:
            answer.raise_for_status()
            told: dict[str, Any] = await answer.json()
            return told

    async def sink_finals(self) -> int:
        """How many messages have their final event at the sink."""
        told = await self._json(self._told["sink"]["control_url"] + "/counts")
        return int(told["distinct_messages_final"])

    async def counts(self) -> Counts:
        """What the carriers and the sink have got so far."""
        carriers = [
            await self._json(carrier["control_url"] + "/counts")
            for carrier in self._told["carriers"]
        ]
        sink = await self._json(self._told["sink"]["control_url"] + "/counts")
        return Counts(
            submits=sum(told["accepted"] for told in carriers),
            finals=sink["distinct_messages_final"],
            events=sink["events"],
            requests=sink["requests"],
            duplicates=sink["duplicates"],
            refused=sink["bad_signatures"] + sink["bad_bodies"] + sink["failed"],
            by_type=sink["by_type"],
        )

    async def carrier_counts(self, carrier: str) -> dict[str, Any]:
        """What one simulated carrier has counted."""
        return await self._json(self.carriers[carrier] + "/counts")

    async def metrics_by(self, name: str, label: str) -> dict[str, float]:
        """One of the node's metrics, summed by one of its labels."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(await self.scrape()):
            for sample in family.samples:
                if sample.name == f"smsgw_{name}":
                    key = sample.labels.get(label, "")
                    found[key] = found.get(key, 0.0) + sample.value
        return found

    async def scrape(self) -> str:
        """The node's metrics as text."""
        async with self._http.get(self._told["admin_url"] + "/metrics") as answer:
            answer.raise_for_status()
            return await answer.text()

    async def metrics(self) -> dict[str, float]:
        """The node's metrics, summed over labels, but for `lane` and `code`: `name{lane}`."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(await self.scrape()):
            for sample in family.samples:
                if "le" not in sample.labels:
                    labels = (sample.labels.get(name, "") for name in ("lane", "code", "state"))
                    label = "".join(labels)
                    name = sample.name.removeprefix("smsgw_") + (f"{{{label}}}" if label else "")
                    found[name] = found.get(name, 0.0) + sample.value
        return found

    async def behave_all(self, **fields: object) -> None:
        """Change how every simulated carrier behaves."""
        for carrier in self.carriers:
            await self.behave(carrier, **fields)

    async def send(self, message: Mapping[str, object], api_key: str) -> None:
        """One message; raises NotStock unless it is accepted."""
        headers = {"Authorization": f"Bearer {api_key}"}
        url = self._told["url"] + "/v1/messages"
        async with self._http.post(url, json=message, headers=headers) as answer:
            if answer.status != 202:
                raise NotStock(f"a message was refused: {(await answer.text())[:300]}")

    # -- the carriers' records -------------------------------------------------------------

    def _records(self) -> list[Path]:
        names = [carrier["name"] for carrier in self._told["carriers"]]
        own = [self.data_dir / "carriers" / f"{name}.jsonl" for name in names]
        return own + self.more_records

    def record_places(self) -> dict[Path, int]:
        """How long each carrier's record is now, in bytes."""
        return {file: file.stat().st_size for file in self._records()}

    def submits_since(self, places: Mapping[Path, int]) -> Iterator[tuple[int, float]]:
        """(number's digits, Unix time) of every submit recorded behind these places."""
        moments: dict[bytes, float] = {}
        for file in self._records():
            for stamp, number in _submits(file, places.get(file, 0)):
                if stamp not in moments:
                    at = datetime.fromisoformat(stamp.decode() + "+00:00")
                    moments = {stamp: at.timestamp()}  # bursts share one
                yield number, moments[stamp]

    def orders_since(self, places: Mapping[Path, int]) -> dict[str, list[int]]:
        """By carrier, the numbers' digits of its own submits behind these places, in order."""
        return {
            file.stem: [number for _, number in _submits(file, places.get(file, 0))]
            for file in self._records()
        }

    def samples(self) -> list[str]:
        """What the worker's sampler has written so far; nothing when it was not asked to."""
        with contextlib.suppress(FileNotFoundError):
            return (self.data_dir / SAMPLES).read_text("utf-8").splitlines()
        return []

    # -- the configuration -----------------------------------------------------------------

    async def subscribe(self, events: list[str]) -> None:
        """Have the sink's endpoint get these event types, through `smsgw apply`."""
        text = (self.data_dir / "sandbox.yaml").read_text("utf-8")
        changed, count = re.subn(r"events: \[[^]]*\]", f"events: {json.dumps(events)}", text)
        if count != 1:
            raise NotStock("sandbox.yaml no longer has one webhook endpoint with its events")
        await self.apply_text(changed)

    async def apply_text(self, text: str) -> None:
        """Put a YAML text in force; raises NotStock when it is refused."""
        file = self.data_dir / "bench.yaml"
        file.write_text(text, "utf-8")
        await self.apply(file)

    async def apply(self, file: Path) -> None:
        """`smsgw apply` of a file that lies in the data directory; raises NotStock when refused."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gateway", "apply", str(file)),
            env={**environment(self.data_dir), **self._settings},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        if process.returncode:
            raise NotStock(f"smsgw apply refused {file.name}: {out.decode('utf-8', 'replace')}")

    @property
    def carriers(self) -> dict[str, str]:
        """The simulated carriers: name to control URL."""
        return {carrier["name"]: carrier["control_url"] for carrier in self._told["carriers"]}

    async def behave(self, carrier: str, **fields: object) -> None:
        """Change how a simulated carrier behaves (loadtest/behaviour.py)."""
        url = self.carriers[carrier] + "/behaviour"
        async with self._http.post(url, json=fields) as answer:
            if answer.status != 200:
                raise NotStock(f"{carrier} refused {fields}: {await answer.text()}")

    async def configuration(self) -> dict[str, Any]:
        """How it really runs, asked of PostgreSQL; raises NotStock unless it keeps its promises."""
        dsn = endpoints_of(run_directory(self.data_dir)).database_url
        conn = await database.connect(dsn, statement_timeout_s=30.0)
        try:
            shown = {
                name: str(await conn.fetchval(f"SHOW {name}"))
                for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes")
            }
            rows = await conn.fetch("SELECT number, body FROM messages LIMIT 500")
            keys = await conn.fetchval("SELECT count(*) FROM data_keys")
            specs = await conn.fetch(
                "SELECT spec FROM objects WHERE kind = 'webhook_endpoint' AND deleted_at IS NULL"
            )
        finally:
            await database.close(conn)
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            if shown[name] != "on":
                raise NotStock(f"PostgreSQL runs with {name}={shown[name]}")
        if not keys or not rows or any(is_readable(value) for row in rows for value in row):
            raise NotStock("numbers or texts are not sealed in the messages table")
        endpoints = [json.loads(row["spec"]) for row in specs]
        if not all(endpoint.get("batch") for endpoint in endpoints):
            raise NotStock("a webhook endpoint is not batched")
        return {
            **shown,
            "file_system": file_system(self.data_dir),
            "sealed": True,
            "receipts": True,  # a run without them never becomes final
            "webhook_events": sorted({kind for spec in endpoints for kind in spec["events"]}),
            "webhook_batch": True,
        }


def _submits(file: Path, place: int) -> Iterator[tuple[bytes, int]]:
    """(time as it is written, number's digits) of each submit in a carrier's record."""
    with file.open("rb") as lines:
        lines.seek(place)
        for line in lines:
            found = _LINE.match(line)
            if found is None:
                raise NotStock(f"{file.name} has a line that is no submit: {line[:80]!r}")
            stamp, number = found.groups()
            yield stamp, int(number)


_PLAIN: Final = tuple(
    word.encode(code)
    for word in ("订单", "维修", "沙箱", "验证码", "客户", "parcel", "customer")
    for code in ("utf-8", "utf-16-be", "utf-16-le")
)


def is_readable(value: bytes) -> bool:
    """Whether a stored number or text of this load is there for everyone to read."""
    return bool(re.search(rb"\d{8}", value)) or any(word in value for word in _PLAIN)


@contextlib.asynccontextmanager
async def running(
    data_dir: Path,
    *,
    is_sampled: bool = False,
    options: Sequence[str] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
    numbers: Mapping[str, object] | None = None,
) -> AsyncIterator[StockGateway]:
    """A ready gateway in `data_dir`; ended in order afterwards. Raises NotStock.

    `options` of `smsgw up`, `settings` (variables) and `numbers` (of Reliability) beyond the
    stock ones.
    """
    own = environment(data_dir, is_sampled=is_sampled, numbers=numbers)
    with (data_dir / "up.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gateway", "up", "--sandbox", "--json", *options),
            env={**own, **settings},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http:
        gateway = StockGateway(data_dir, process, http, settings)
        try:
            await gateway.wait_ready()
            yield gateway
        finally:
            await gateway.stop()
