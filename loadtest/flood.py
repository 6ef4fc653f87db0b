"""`make bench-receipts`: 20,000 reports a second for a minute, half of them at a process that did
not submit, while sends go on.

    submit N, the carrier keeps its reports ─▶ some sends alone, measured ─▶ the reports, at the
        rate, beside the same sends ─▶ until all are answered, stored, told ─▶ counted in the store

A stock gateway of two workers in a fresh directory; everything goes over its SMPP channel, of which
each worker has one session. The carrier spreads its reports over both sessions, whoever submitted.
Exit 0 = no report was lost or counted twice, every send left in time, and everything is accounted
for; 1 = not, or it could not be measured. What rate was reached is told, and not judged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from loadtest.command import (
    Found,
    add_report_options,
    measured,
    print_found,
    print_problems,
)
from loadtest.experiment import Experiment, conduct
from loadtest.floodjudge import Seen, Sends, Stored, problems
from loadtest.measure import Usage, cpu_between, machine_s, spread, usage
from loadtest.progress import Bar
from loadtest.sender import Plan, Result
from loadtest.stock_gateway import FINAL_TYPES, NotStock, StockGateway
from loadtest.submitwait import accept_to_submit
from receipts.state import Path as StatePath
from sms.model import MessageClass
from store import database
from store.embedded import endpoints_of, run_directory

RECORD: Final = Path(__file__).with_name("records") / "flood.json"
CARRIER: Final = "global-a"  # SMPP; a session for each worker
CLASSES: Final = {"otp": 80_000_000, "transactional": 90_000_000}  # their first indexes
BATCH: Final = 100
CONNECTIONS: Final = 32  # spread over the workers by the kernel
SEND_CONNECTIONS: Final = 16
LOOK_S: Final = 0.5
STALL_S: Final = 30.0
SETTLE_S: Final = 1.0
READINGS: Final = 3  # of conservation, after the end
CONSERVATION_S: Final = 2.0
_ROUTE: Final = re.compile(r"(- \{tenant: .*channels: )\[[^]]*\]")
_STORED: Final = """
SELECT (SELECT count(*) FROM messages) AS messages,
  (SELECT count(*) FROM parked_reports) AS parked_reports,
  count(DISTINCT message_id) FILTER (WHERE path = $1) AS submitted,
  count(DISTINCT message_id) FILTER (WHERE path = $2) AS delivered,
  count(*) FILTER (WHERE path = $2) AS delivered_rows,
  count(*) FILTER (WHERE path = $2
    AND (event_id >> 12) & 1023 <> (message_id >> 12) & 1023) AS elsewhere
FROM events
"""


@dataclass(slots=True)
class Report:
    """All figures, and what is wrong."""

    reports: int = 0
    asked_per_second: int = 0
    seconds: float = 0.0  # in which they were offered
    answered_in_time: int = 0  # until the last one was offered
    answered_per_second: float = 0.0  # in that time
    backlog: int = 0  # offered and not answered, then
    drain_s: float = 0.0  # until all were
    drained_per_second: float = 0.0  # from the first to the last
    wait_ms: dict[str, float] = field(default_factory=dict)  # offered to answered
    elsewhere_share: float = 0.0  # at a process that did not submit
    cpu_us: dict[str, float] = field(default_factory=dict)  # per report, beyond that of the sends
    postgres_us: dict[str, float] = field(default_factory=dict)
    cores_busy: float = 0.0  # while they were offered
    told_s: float = 0.0  # from the last answer until the tenant had heard of all
    loop_lag_max_ms: float = 0.0
    ends: dict[str, float] = field(default_factory=dict)  # what became of the reports
    quiet: dict[str, Sends] = field(default_factory=dict)
    flood: dict[str, Sends] = field(default_factory=dict)
    submit_per_second: float = 0.0  # of the preparation
    problems: list[str] = field(default_factory=list)


class Run(Experiment):
    """One flood on one gateway."""

    def __init__(self, gateway: StockGateway, bar: Bar, options: argparse.Namespace) -> None:
        super().__init__(gateway, bar, options)
        self._next = dict(CLASSES)
        self._accepted = 0
        self.report = Report(asked_per_second=options.rate)

    async def run(self) -> Report:
        """The whole story; raises NotStock when it cannot be told."""
        options, report = self._options, self.report
        await self._one_channel()
        await self._gateway.behave(CARRIER, reports_held=True)
        await self._prepare(round(options.rate * options.seconds))
        self._bar.step("sends alone", options.quiet)
        quiet_before = usage(self._gateway.pid)
        began = time.monotonic()
        report.quiet = await self._sends(options.quiet)
        quiet_s = time.monotonic() - began
        quiet_cpu = cpu_between(quiet_before, usage(self._gateway.pid))
        quiet_per_s = {group: seconds / quiet_s for group, seconds in quiet_cpu.items()}
        await self._flood(quiet_per_s)
        await self._finish()
        return report

    # -- before ----------------------------------------------------------------------------

    async def _one_channel(self) -> None:
        text = (self._gateway.data_dir / "sandbox.yaml").read_text("utf-8")
        text, count = _ROUTE.subn(rf"\1[{CARRIER}]", text)
        if not count:
            raise NotStock("sandbox.yaml no longer has routes with their channels")
        events = f"events: {json.dumps(FINAL_TYPES)}"
        await self._gateway.apply_text(re.sub(r"events: \[[^]]*\]", events, text))
        await self._gateway.wait_ready()

    async def _prepare(self, messages: int) -> None:
        """Submit what will be reported about."""
        self._bar.step(f"submitting {messages:,} messages", messages)
        host, port = self._gateway.address
        began = time.monotonic()
        result = await self._bench.run_plan(
            Plan(
                host=host,
                port=port,
                api_key=self._gateway.api_key,
                connections=CONNECTIONS,
                batch=BATCH,
                seconds=3600.0,
                messages=messages,
                first=0,
                sent_file=str(self._gateway.data_dir / "sent.bin"),
            )
        )
        if result.accepted < messages * 0.9 or result.unknown:
            raise NotStock(f"{result.accepted:,} accepted: {result.first_refusal}")
        self._accepted += result.accepted
        await self._at_carrier(result.accepted)
        self.report.submit_per_second = round(result.accepted / (time.monotonic() - began), 1)
        self.report.reports = result.accepted
        await asyncio.sleep(SETTLE_S)

    async def _at_carrier(self, wanted: int) -> None:
        """Until so many submits have been taken, and their reports wait."""
        changed, last = time.monotonic(), -1
        while (count := (await self._carrier())["reports_waiting"]) < wanted:
            if count != last:
                changed, last = time.monotonic(), count
            elif time.monotonic() - changed > STALL_S:
                raise NotStock(f"{wanted - count:,} messages were accepted and never submitted")
            await asyncio.sleep(LOOK_S)

    async def _carrier(self) -> dict[str, Any]:
        return await self._gateway.carrier_counts(CARRIER)

    # -- sends -----------------------------------------------------------------------------

    async def _sends(self, seconds: float) -> dict[str, Sends]:
        """Some messages a second of each class for so long; how late they left."""
        places = self._gateway.record_places()
        results = await asyncio.gather(*(self._send(name, seconds) for name in CLASSES))
        await asyncio.sleep(SETTLE_S)
        left = [int(str(number)[-8:]) for number, _ in self._gateway.submits_since(places)]
        return {
            name: await self._judged(name, result, left)
            for name, result in zip(CLASSES, results, strict=True)
        }

    async def _send(self, name: str, seconds: float) -> Result:
        host, port = self._gateway.address
        plan = Plan(
            host=host,
            port=port,
            sent_file=str(self._gateway.data_dir / f"{name}.bin"),
            api_key=self._gateway.api_key,
            connections=SEND_CONNECTIONS,
            batch=1,
            seconds=seconds,
            messages=0,
            first=self._next[name],
            message_class=name,
            rate=self._options.sends,
        )
        result = await self._bench.run_plan(plan)
        self._next[name] += result.used
        self._accepted += result.accepted
        return result

    async def _judged(self, name: str, result: Result, left: list[int]) -> Sends:
        low, high = CLASSES[name], CLASSES[name] + 10_000_000
        waits = await accept_to_submit(
            self._gateway.data_dir,
            MessageClass(name),
            result.first_sent_at,
            result.last_answer_at,
        )
        return Sends(
            accepted=result.accepted,
            refused=sum(result.refused.values()) + result.unknown,
            left=sum(1 for index in left if low <= index < high),
            answer=result.answer_ms,
            wait=spread(waits),
        )

    # -- the flood -------------------------------------------------------------------------

    async def _flood(self, quiet_per_s: dict[Any, float]) -> None:
        options, report = self._options, self.report
        seconds = report.reports / options.rate
        self._bar.step(f"{options.rate:,} reports a second", report.reports)
        metrics = await self._gateway.metrics_by("reports_total", "end")
        before, machine_before = usage(self._gateway.pid), machine_s()
        sending = asyncio.create_task(self._sends(seconds))
        began = time.monotonic()
        await self._gateway.behave(CARRIER, reports_held=False, reports_per_s=options.rate)
        await self._watch(began + seconds)
        told = await self._carrier()
        report.seconds = round(time.monotonic() - began, 2)
        report.answered_in_time = min(told["offered"]["answered"], report.reports)
        report.answered_per_second = round(report.answered_in_time / report.seconds, 1)
        report.backlog = report.reports - report.answered_in_time
        busy, every = (now - then for then, now in zip(machine_before, machine_s(), strict=True))
        report.cores_busy = round(busy / every, 3)
        told = await self._until_answered()
        took = time.monotonic() - began
        self._cpu(before, usage(self._gateway.pid), took, quiet_per_s)
        report.drain_s = round(took - report.seconds, 2)
        report.drained_per_second = round(report.reports / took, 1)
        report.wait_ms = told["offered"]["wait_ms"]
        report.flood = await sending
        ends = await self._gateway.metrics_by("reports_total", "end")
        report.ends = {
            end: count - metrics.get(end, 0.0)
            for end, count in ends.items()
            if count > metrics.get(end, 0.0)
        }

    async def _watch(self, until: float) -> None:
        lag_s = 0.0
        while (now := time.monotonic()) < until:
            await asyncio.sleep(min(2 * LOOK_S, until - now))
            told = (await self._carrier())["offered"]
            lag_s = max(lag_s, (await self._gateway.metrics())["loop_lag_seconds"])
            self._bar.tell(told["answered"], f"{told['reports'] - told['answered']:,} behind")
        self.report.loop_lag_max_ms = round(1000 * lag_s, 1)

    async def _until_answered(self) -> dict[str, Any]:
        """Until the flood's reports are answered, or nothing more is."""
        changed, last = time.monotonic(), -1
        while True:
            told = await self._carrier()
            answered = told["offered"]["answered"]
            if answered >= self.report.reports or time.monotonic() - changed > STALL_S:
                return told
            if answered != last:
                changed, last = time.monotonic(), answered
            await asyncio.sleep(LOOK_S / 5)

    def _cpu(
        self, before: Usage, after: Usage, took_s: float, quiet_per_s: dict[Any, float]
    ) -> None:
        report = self.report
        report.cpu_us = {
            group: round(1e6 * (used - quiet_per_s[group] * took_s) / report.reports, 2)
            for group, used in cpu_between(before, after).items()
            if group in ("worker", "postgres", "carriers", "sink")
        }
        report.postgres_us = {
            kind: round(1e6 * (spent - before.postgres.get(kind, 0.0)) / report.reports, 2)
            for kind, spent in after.postgres.items()
        }

    # -- after -----------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Let the reports of the sends come, wait for the tenant's events, count."""
        report, gateway = self.report, self._gateway
        began = time.monotonic()
        await gateway.behave(CARRIER, reports_per_s=0)
        self._bar.step("until the tenant has heard of all")
        changed, last = began, -1
        while (count := await gateway.sink_finals()) < self._accepted:
            if count != last:
                changed, last = time.monotonic(), count
            elif time.monotonic() - changed > STALL_S:
                break
            await asyncio.sleep(LOOK_S)
        report.told_s = round(time.monotonic() - began, 2)
        metrics = await self._after_readings()
        stored = await self._stored()
        counts = await gateway.counts()
        carrier = await self._carrier()
        report.elsewhere_share = round(stored.elsewhere / max(1, stored.delivered_rows), 3)
        report.problems += problems(
            Seen(
                accepted=self._accepted,
                stored=stored,
                at_sink=counts.finals,
                told_twice=counts.duplicates,
                offered=carrier["submits"],
                answered=carrier["reports_answered"],
                quiet=report.quiet,
                flood=report.flood,
                metrics=metrics,
            )
        )

    async def _after_readings(self) -> dict[str, float]:
        """The metrics after conservation was judged anew."""
        name = "conservation_readings_total"
        metrics = await self._gateway.metrics()
        wanted = metrics.get(name, 0.0) + READINGS
        end = time.monotonic() + STALL_S
        while metrics.get(name, 0.0) < wanted:
            if time.monotonic() > end:
                self.report.problems.append("conservation was not judged after the flood")
                break
            await asyncio.sleep(LOOK_S)
            metrics = await self._gateway.metrics()
        return metrics

    async def _stored(self) -> Stored:
        dsn = endpoints_of(run_directory(self._gateway.data_dir)).database_url
        conn = await database.connect(dsn, statement_timeout_s=120.0)
        try:
            row = await conn.fetchrow(_STORED, int(StatePath.SUBMITTED), int(StatePath.DELIVERED))
        finally:
            await database.close(conn)
        if row is None:
            raise NotStock("the store did not answer")
        return Stored(**dict(row))


def ratios(now: Found, then: Found) -> dict[str, float]:
    """How the figures compare with those recorded before: now / then."""
    pairs = {
        "drained_per_second": (now, then),
        "answered_per_second": (now, then),
        **{group: (now["cpu_us"], then.get("cpu_us", {})) for group in now["cpu_us"]},
    }
    return {
        name: round(new[name] / old[name], 2) for name, (new, old) in pairs.items() if old.get(name)
    }


def show(found: Found) -> None:
    """A line for each figure."""
    for name, value in found.items():
        if isinstance(value, dict) and name in ("quiet", "flood"):
            for kind, sends in value.items():
                sys.stdout.write(f"{name:20} {kind}: {sends}\n")
        else:
            sys.stdout.write(f"{name:20} {value}\n")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench-receipts", description="A flood of reports.")
    parser.add_argument("--rate", type=int, default=20_000, help="reports offered in a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="for so long")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sends", type=float, default=100.0, help="a second, of each class")
    parser.add_argument("--quiet", type=float, default=10.0, metavar="S", help="of sends alone")
    parser.add_argument(
        "--match-cache",
        type=int,
        default=1_500_000,
        help="carrier ids that a worker keeps in memory; stock: 200,000",
    )
    parser.add_argument("--quick", action="store_true", help="4,000 a second for 3 s")
    parser.add_argument("--record", action="store_true", help="keep the figures for comparisons")
    add_report_options(parser)
    return parser


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    if options.quick:
        options.rate, options.seconds, options.quiet = 4000, 3.0, 2.0
    numbers = {"match_cache": options.match_cache, "conservation_s": CONSERVATION_S}
    extra = ("--workers", str(options.workers))
    console = Console(stderr=True)
    found = measured(
        "bench-receipts",
        lambda bar: asyncio.run(conduct(Run, options, bar, numbers, extra)),
        console,
    )
    then = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
    found["of_record"] = ratios(found, then)
    print_found(found, options, show)
    print_problems(found["problems"], console)
    if options.record and not found["problems"]:
        RECORD.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
