"""`make load`: 100,000 messages a minute from locust, a carrier switched off in the middle.

    locust (.venv-load) ─202─▶ gateway ─▶ five simulated carriers ─receipts─▶ gateway ─▶ sink
                                           └─ one is switched off and on again

Starts the whole gateway in a fresh directory with tenants and routes of its own (`smsgw apply`),
lets locust send (loadtest/locustfile.py), waits until all has arrived, traces every message
through the carriers' and the sink's records, and judges. Exit 0 = every row passed, 1 = one
failed or nothing could be measured. The report is a folder: report.html, locust.html, load.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console

from loadtest.bench import machine
from loadtest.command import Found, add_report_options, measured, print_found, started
from loadtest.loadcheck import Row, Run, Switch, Trace, judge, series
from loadtest.loadreport import TOOLS, show, write_report
from loadtest.measure import Group, Usage, machine_s, usage
from loadtest.progress import Bar
from loadtest.stock_gateway import (
    FINAL_TYPES,
    NotStock,
    StockGateway,
    environment,
)
from loadtest.traffic import SHAPES, TENANTS

ROOT: Final = Path(__file__).resolve().parents[1]
LIMIT: Final = 1_000_000
SAMPLE_S: Final = 2.0
START_S: Final = 30.0  # locust's first request
STALL_S: Final = 20.0  # nothing more comes
EVIDENCE_S: Final = 140.0  # after the switch: a lost answer is waited for 120 s, then sent again
TAIL_S: Final = 30.0  # of the plots, after the last request
KEYS: Final = "load-keys.json"
RECORD: Final = "load-sent.jsonl"


def configuration(carriers: Sequence[str], sink_url: str) -> str:
    """The scenario as YAML: tenants, a route for each network, webhooks with whole numbers."""
    quoted = json.dumps
    tenants = [
        {
            "name": tenant.name,
            "signatures": [tenant.signature],
            "countries": [86, 1],
            "limits": {"segments_per_second": LIMIT, "burst_segments": LIMIT},
            "otp_caps": {"prefix_burst": 0},  # numbers follow one another
            "api_keys": [
                {"name": "load", "scopes": ["send", "read"], "secret_file": f"{tenant.name}.key"}
            ],
        }
        for tenant in TENANTS
    ]
    routes = []
    for place, network in enumerate(("CM", "CU", "CT", "CB", "other")):
        first = min(place, len(carriers) - 1)
        ring = [*carriers[first:], *carriers[:first]]
        routes.append({"tenant": "*", "class": "*", "carrier": network, "channels": ring[:4]})
    endpoints = [
        {
            "tenant": tenant.name,
            "url": sink_url,
            "events": [*FINAL_TYPES, "message.uncertain"],
            "batch": True,
            "full_number": True,  # the run is checked number by number
            "secret_file": "sandbox/webhook.secret",
        }
        for tenant in TENANTS
    ]
    parts: dict[str, list[dict[str, Any]]] = {
        "tenants": tenants,
        "routes": routes,
        "webhook_endpoints": endpoints,
    }
    return "".join(  # JSON is YAML too; a line for each object keeps complaints readable
        f"{name}:\n" + "".join(f"  - {quoted(one, ensure_ascii=False)}\n" for one in objects)
        for name, objects in parts.items()
    )


class Load:
    """One run against a gateway that is ready."""

    def __init__(self, gateway: StockGateway, options: argparse.Namespace, bar: Bar) -> None:
        self._gateway = gateway
        self._options = options
        self._bar = bar
        self._record = gateway.data_dir / RECORD
        self._samples: list[tuple[float, Usage, float]] = []  # (Unix, gateway, locust's CPU s)
        self.switch = Switch()
        self.started_at = 0.0
        self.ended_at = 0.0

    async def prepare(self) -> None:
        """Tenants, routes and endpoints through `smsgw apply`."""
        gateway = self._gateway
        file = gateway.data_dir / "load.yaml"
        file.write_text(configuration(list(gateway.carriers), gateway.sink_url), "utf-8")
        await gateway.apply(file)
        keys = {
            tenant.name: (gateway.data_dir / f"{tenant.name}.key").read_text("utf-8").strip()
            for tenant in TENANTS
        }
        with open(  # noqa: ASYNC230 - a small local file, 0600 from its first byte
            os.open(gateway.data_dir / KEYS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
        ) as handle:
            json.dump(keys, handle)
        await gateway.wait_ready()

    async def run(self) -> Trace:
        """Send, switch, wait until all has arrived; returns what the records say."""
        gateway, options = self._gateway, self._options
        before = await gateway.metrics()
        self._machine = machine_s()
        locust = await self._start_locust()
        try:
            await self._watch_start(locust)
            async with asyncio.TaskGroup() as group:
                sampling = group.create_task(self._sample(locust))
                if options.off_at:
                    group.create_task(self._switch())
                code = await locust.wait()
                sampling.cancel()
        finally:
            if locust.returncode is None:
                locust.kill()
                await locust.wait()
        if code:
            words = (gateway.data_dir / "locust.log").read_text("utf-8", "replace")[-1500:]
            raise NotStock(f"locust ended with code {code}\n{words}")
        self.ended_at = time.time()
        self._machine_after = machine_s()
        trace = Trace()
        with self._record.open("rb") as lines:
            trace.read_sent(lines)
        await self._drain(trace.accepted)
        self._read(trace)
        later = await gateway.metrics()
        self.metrics = {name: value - before.get(name, 0.0) for name, value in later.items()}
        return trace

    # -- locust ----------------------------------------------------------------------------

    async def _start_locust(self) -> asyncio.subprocess.Process:
        options, data_dir = self._options, self._gateway.data_dir
        host, port = self._gateway.address
        own = {
            "--api-keys": data_dir / KEYS,
            "--record": self._record,
            "--shape": options.shape,
            "--per-minute": options.per_minute,
            "--shape-seconds": options.seconds,
            "--most-users": options.users,
            "--batch": options.batch,
            "--single-share": options.single_share,
        }
        self._bar.step("locust starts")
        with (data_dir / "locust.log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *(str(TOOLS), "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py")),
                *("--headless", "--host", f"http://{host}:{port}", "--only-summary"),
                *("--html", str(options.out / "locust.html"), "--exit-code-on-error", "0"),
                *("--stop-timeout", "35", "--loglevel", "WARNING"),
                *(str(word) for pair in own.items() for word in pair),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(data_dir),
                cwd=data_dir,  # no locust.conf of the folder we stand in
            )

    async def _watch_start(self, locust: asyncio.subprocess.Process) -> None:
        until = time.monotonic() + START_S
        while locust.returncode is None and time.monotonic() < until:
            if self._record.exists() and self._record.stat().st_size:
                self.started_at = time.time()
                return
            await asyncio.sleep(0.05)
        words = (self._gateway.data_dir / "locust.log").read_text("utf-8", "replace")
        raise NotStock(f"locust sent nothing within {START_S:g} s\n{words[-1500:]}")

    async def _switch(self) -> None:
        """The carrier goes at `off_at` and, when told, comes back."""
        options = self._options
        await asyncio.sleep(options.off_at)
        self.switch = Switch(options.carrier, list(self._gateway.carriers).index(options.carrier))
        self.switch.off_at = time.time()
        await self._gateway.behave(options.carrier, link="down")
        if options.off_for:
            await asyncio.sleep(options.off_for)
            await self._gateway.behave(options.carrier, link="up")
            self.switch.on_at = time.time()

    async def _sample(self, locust: asyncio.subprocess.Process) -> None:
        client = psutil.Process(locust.pid)
        self._bar.step("sending", self._options.seconds)
        while True:
            with contextlib.suppress(psutil.Error):
                times = client.cpu_times()
                now = time.time()
                self._samples.append((now, usage(self._gateway.pid), times.user + times.system))
            finals = await self._gateway.sink_finals()
            where = f"{finals:,} final" + (f", {self.switch.carrier} off" if self._is_off() else "")
            self._bar.tell(time.time() - self.started_at, where)
            await asyncio.sleep(SAMPLE_S)

    def _is_off(self) -> bool:
        return bool(self.switch.off_at) and not self.switch.on_at

    # -- afterwards ------------------------------------------------------------------------

    async def _drain(self, wanted: int) -> None:
        """Until all that was accepted is final at the sink, or nothing more comes."""
        if self._is_off():  # its reports of what it took before are due all the same
            await self._gateway.behave(self.switch.carrier, link="up")
            self.switch.on_at = time.time()
        self._bar.step("until everything has arrived")
        changed, last = time.monotonic(), -1
        evidence_until = self.switch.off_at + EVIDENCE_S
        while True:
            count = await self._gateway.sink_finals()
            if count != last:
                changed, last = time.monotonic(), count
            self._bar.tell(0.0, f"{wanted - count:,} under way")
            is_still = time.monotonic() - changed > STALL_S and time.time() > evidence_until
            if count >= wanted or is_still:
                return
            await asyncio.sleep(0.5)

    def _read(self, trace: Trace) -> None:
        carriers = self._gateway.data_dir / "carriers"
        for place, name in enumerate(self._gateway.carriers):
            self._bar.step(f"reading what {name} got")
            with (carriers / f"{name}.jsonl").open("rb") as lines:
                trace.read_submits(name, place, lines, self.switch)
        self._bar.step("reading what the sink got")
        with (carriers / "sink.jsonl").open("rb") as lines:
            trace.read_events(lines)

    def others_share(self) -> float:
        """What of the machine was used by processes that have nothing to do with the run."""
        if len(self._samples) < 2:
            return 0.0
        (_, first, client), (_, last, client_last) = self._samples[0], self._samples[-1]
        ours = sum(last.cpu_s.values()) - sum(first.cpu_s.values()) + client_last - client
        busy, every = (b - a for a, b in zip(self._machine, self._machine_after, strict=True))
        return max(0.0, busy - ours) / every if every else 0.0

    def cores(self) -> dict[str, Any]:
        """Cores used over time, by part; from one sample to the next."""
        pairs = list(zip(self._samples, self._samples[1:], strict=False))
        names: tuple[Group, ...] = (
            "worker",
            "postgres",
            "carriers",
            "sink",
            "valkey",
            "supervisor",
        )
        found: dict[str, Any] = {"seconds": [round(b[0] - self.started_at, 1) for _, b in pairs]}
        for name in names:
            found[name] = [
                round(max(0.0, (b[1].cpu_s[name] - a[1].cpu_s[name]) / (b[0] - a[0])), 3)
                for a, b in pairs
            ]
        found["locust"] = [round((b[2] - a[2]) / (b[0] - a[0]), 3) for a, b in pairs]
        return found


async def load(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Start, send, check, stop; everything as JSON-able data. Raises NotStock."""
    extra = ["--workers", str(options.workers)] if options.workers > 1 else []
    async with started(options, bar, extra=extra) as gateway:
        run = Load(gateway, options, bar)
        await run.prepare()
        trace = await run.run()
        settings = await gateway.configuration()
    return _found(options, run, trace, settings)


def _found(
    options: argparse.Namespace, run: Load, trace: Trace, settings: dict[str, Any]
) -> dict[str, Any]:
    stages = SHAPES[options.shape](options.seconds)
    begins = [0.0, *(stage.until_s for stage in stages)]
    planned = sum(
        options.per_minute / 60 * stage.share * (stage.until_s - since)
        for stage, since in zip(stages, begins, strict=False)
    )
    facts = Run(round(planned), options.seconds, run.switch, run.metrics, run.others_share())
    rows = judge(trace, facts)
    last = max((second for counts in trace.delivered.values() for second in counts), default=0)
    until = min(max(run.ended_at, last), run.ended_at + TAIL_S)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "configuration": settings,
        "options": {
            name: getattr(options, name)
            for name in ("shape", "per_minute", "seconds", "batch", "single_share", "users")
        }
        | {"workers": options.workers},
        "has_passed": all(row.is_good is not False for row in rows),
        "rows": [asdict(row) for row in rows],
        "accepted": trace.accepted,
        "due": trace.due,
        "refused": dict(trace.refused),
        "finals": dict(trace.finals),
        "by_tenant": dict(trace.by_tenant),
        "switch": {
            "carrier": run.switch.carrier,
            "off_s": _after(run.switch.off_at, run.started_at),
            "on_s": _after(run.switch.on_at, run.started_at),
        },
        "series": series(trace, run.started_at, until),
        "cores": run.cores(),
    }


def _after(at: float, start: float) -> float | None:
    return round(at - start, 2) if at else None


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make load", description="Load a stock gateway.")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--per-minute", type=float, default=100_000, help="messages at full rate")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="steady")
    parser.add_argument("--users", type=int, default=50, help="connections at full rate")
    parser.add_argument("--batch", type=int, default=50, help="messages of a batch")
    parser.add_argument("--single-share", type=float, default=0.3, help="of messages sent alone")
    parser.add_argument("--carrier", default="unicom-a", help="which one is switched off")
    parser.add_argument("--off-at", type=float, help="seconds; default the middle, 0 = never")
    parser.add_argument("--off-for", type=float, help="seconds; default a fifth, 0 = to the end")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("load-report"), help="the report's folder")
    add_report_options(parser, "a table")
    return parser


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    options.off_at = options.seconds / 2 if options.off_at is None else options.off_at
    options.off_for = options.seconds / 5 if options.off_for is None else options.off_for
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)

    def measure(bar: Bar) -> Found:
        if not TOOLS.exists():
            raise NotStock("locust is not installed: `make load` makes .venv-load")
        return asyncio.run(load(options, bar))

    found = measured("load", measure, console)
    report = write_report(found, options.out)
    rows = [Row(**row) for row in found["rows"]]
    print_found(found, options, lambda _: show(rows, Console()), indent=None)
    console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)
    return 0 if found["has_passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
