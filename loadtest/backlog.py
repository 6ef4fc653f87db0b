"""`python -m loadtest.backlog`: a million messages accepted while no carrier is there.

    empty queue: send, measure ─▶ carriers down ─▶ accept N of three tenants ─▶ (kill -9 a worker)
        ─▶ some otp ─▶ carriers up ─▶ who comes out when, how fast, in how much memory

A stock gateway with its own simulated carriers in a fresh directory. Exit 0 = every message was
submitted once, otp first, tenants in turns, memory within its bound, and draining at least as fast
as asked; 1 = not. What the rates are worth: both are of this run, on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from gateway.backlog import BATCH as BATCH_BACK
from gateway.backlog import HELD_PART
from gateway.settings import Reliability
from gateway.spill import BYTES_PER_ID
from loadtest.bench import Load
from loadtest.command import Found, add_report_options
from loadtest.experiment import Experiment, carry_out
from loadtest.measure import cpu_between, group_of, usage
from loadtest.progress import Bar
from loadtest.sender import Plan, index_of, sent_times
from loadtest.stock_gateway import FINAL_TYPES, NotStock, StockGateway
from loadtest.turns import turns
from sms.model import MessageClass

BATCH: Final = 100
CONNECTIONS: Final = 8
TENANTS: Final = (("first", 0.7), ("second", 0.2), ("third", 0.1))  # in this order, one by one
OTP: Final = 200
OTP_FIRST: Final = 99_000_000  # indexes of the otp messages
LOOK_S: Final = 1.0
STALL_S: Final = 30.0  # nothing more comes out: what is missing is lost
LINKS_S: Final = 20.0
PER_MESSAGE: Final = 2_500  # bytes of a message in memory, measured below 2,000
SLACK: Final = 100 << 20  # flushes under way, buffers, what the allocator keeps
_TENANT: Final = """\
  - name: {name}
    signatures: [沙箱]
    countries: [86, 1]
    limits: {{segments_per_second: 1000000, burst_segments: 1000000}}
    otp_caps: {{prefix_burst: 0}} # numbers follow one another
    api_keys: [{{name: {name}, scopes: [send, read], secret_file: sandbox/{name}.key}}]
"""
_ENDPOINT: Final = """\
  - {{tenant: {name}, url: "{sink}", events: {events}, batch: true,
     secret_file: sandbox/webhook.secret}}
"""


@dataclass(frozen=True, slots=True)
class Part:
    """What one tenant sent: indexes from `first` to below `end`, of which some were accepted."""

    tenant: str
    first: int
    end: int
    accepted: frozenset[int]


@dataclass(slots=True)
class Report:
    """What was seen; MB are 2**20 bytes, rates messages a second."""

    messages: int = 0
    empty_rate: float = 0.0  # at the carriers, queue empty, while sending as fast as possible
    accept_rate: float = 0.0  # while all carriers are down
    drain_rate: float = 0.0  # at the carriers, over the middle 80 % of the drain
    drain_share: float = 0.0  # of the empty-queue rate
    cpu_us: dict[str, dict[str, float]] = field(default_factory=dict)  # per message, by process
    spilled: int = 0
    memory_mb: dict[str, tuple[float, float]] = field(default_factory=dict)  # before, after
    worker_growth_mb: float = 0.0
    worker_bound_mb: float = 0.0  # what it may grow by
    recovered_s: float | None = None  # after kill -9, as the new worker says
    recovered_mb: float | None = None  # the new worker's memory with the whole backlog
    otp_last_place: int = 0  # of the last otp among all submits
    turns: dict[str, dict[str, float]] = field(default_factory=dict)  # by channel, see turns.py
    fairness: float = 0.0  # of the least even channel: the slowest tenant's part of the fastest's
    loop_lag_max_s: float = 0.0
    submitted: int = 0
    twice: int = 0
    problems: list[str] = field(default_factory=list)


class Run(Experiment):
    """One run on one gateway."""

    def __init__(self, gateway: StockGateway, bar: Bar, options: argparse.Namespace) -> None:
        super().__init__(gateway, bar, options)
        self._keys: dict[str, str] = {}
        self._used = 0
        self._lag_s = 0.0
        self.report = Report(messages=options.messages)

    async def run(self) -> Report:
        """The whole story; raises NotStock when it cannot be told."""
        await self._add_tenants()
        await self._empty_queue()
        await self._gateway.behave_all(link="down")
        await self._links(0)
        parts = await self._fill()
        if self._options.kill:
            await self._kill()
        otp = await self._send_otp()
        places = self._gateway.record_places()
        await self._gateway.behave_all(link="up")
        await self._drain(self.report.messages + len(otp))
        self._judge_submits(parts, otp, sorted(self._moments(places)))
        self._judge_turns(parts, places)
        await self._judge_metrics()
        return self.report

    # -- tenants ---------------------------------------------------------------------------

    async def _add_tenants(self) -> None:
        gateway = self._gateway
        text = (gateway.data_dir / "sandbox.yaml").read_text("utf-8")
        events = json.dumps(list(FINAL_TYPES))
        text = re.sub(r"events: \[[^]]*\]", f"events: {events}", text)
        for name, _ in TENANTS[1:]:
            entry = _TENANT.format(name=name)
            text = text.replace("admin_keys:", entry + "admin_keys:", 1)
            text += _ENDPOINT.format(name=name, sink=gateway.sink_url, events=events)
        await gateway.apply_text(text)
        self._keys[TENANTS[0][0]] = gateway.api_key
        for name, _ in TENANTS[1:]:
            key = (gateway.data_dir / "sandbox" / f"{name}.key").read_text("utf-8")
            self._keys[name] = key.strip()

    # -- the empty queue -------------------------------------------------------------------

    async def _empty_queue(self) -> None:
        load = Load("empty queue", CONNECTIONS, BATCH)
        await self._bench.warm_up(load, self._options.warm_up)
        places = self._gateway.record_places()
        figures = await self._bench.run(load, self._options.seconds, 0)
        self.report.problems += figures.problems
        self.report.cpu_us["empty queue"] = dict(figures.cpu_us)
        self.report.empty_rate = middle_rate(sorted(at for at, _ in self._moments(places)))
        self._used = self._bench.used

    def _moments(self, places: Mapping[Path, int]) -> list[tuple[float, int]]:
        """(Unix time, index) of every submit since."""
        found = self._gateway.submits_since(places)
        return [(at, index_of(str(number))) for number, at in found]

    # -- filling ---------------------------------------------------------------------------

    async def _fill(self) -> list[Part]:
        before = memory(self._gateway.pid)
        began = time.monotonic()
        parts = [
            await self._send(name, round(self._options.messages * share / BATCH) * BATCH)
            for name, share in TENANTS
        ]
        self.report.messages = sum(len(part.accepted) for part in parts)
        self.report.accept_rate = round(self.report.messages / (time.monotonic() - began), 1)
        await asyncio.sleep(2.0)
        after = memory(self._gateway.pid)
        metrics = await self._metrics()
        report = self.report
        report.spilled = int(metrics["spilled_messages"])
        report.memory_mb = {
            name: (_mb(before.get(name, 0)), _mb(after.get(name, 0)))
            for name in sorted({*before, *after})
        }
        report.worker_growth_mb = _mb(after["worker"] - before["worker"])
        report.worker_bound_mb = _mb(bound(self._options.numbers, report.messages))
        if report.worker_growth_mb > report.worker_bound_mb:
            report.problems.append(f"the worker grew by {report.worker_growth_mb} MB")
        if not report.spilled:
            report.problems.append("nothing was spilled: this run shows nothing")
        return parts

    async def _send(self, tenant: str, count: int) -> Part:
        host, port = self._gateway.address
        self._bar.step(f"accepting for {tenant}, no carrier is there")
        plan = Plan(
            host=host,
            port=port,
            api_key=self._keys[tenant],
            connections=CONNECTIONS,
            batch=BATCH,
            seconds=3600.0,
            messages=count,
            first=self._used,
            sent_file=str(self._gateway.data_dir / "sent.bin"),
        )
        result = await self._bench.run_plan(plan)
        if result.accepted < count * 0.9 or result.unknown:
            raise NotStock(f"{result.accepted} of {count} accepted: {result.first_refusal}")
        first, self._used = self._used, self._used + result.used
        sent = enumerate(sent_times(Path(plan.sent_file)), first)
        return Part(tenant, first, self._used, frozenset(index for index, at in sent if at))

    async def _kill(self) -> None:
        """kill -9 the worker with everything in it, and look at the next one."""
        self._bar.step("killing the worker")
        [pid] = usage(self._gateway.pid).pids["worker"]
        log = self._gateway.data_dir / "log" / "worker-0.log"
        seen = log.stat().st_size
        psutil.Process(pid).send_signal(signal.SIGKILL)
        end = time.monotonic() + 120.0
        while time.monotonic() < end:
            await asyncio.sleep(LOOK_S)
            with log.open("rb") as lines:
                lines.seek(seen)
                told = [line for line in lines if b'"event": "recovered"' in line]
            if told:
                self.report.recovered_s = float(json.loads(told[0])["seconds"])
                await asyncio.sleep(1.0)
                self.report.recovered_mb = _mb(memory(self._gateway.pid)["worker"])
                return
        raise NotStock("no worker recovered within two minutes")

    async def _send_otp(self) -> range:
        """They come last and must leave first."""
        self._bar.step("sending otp")
        names = [name for name, _ in TENANTS]
        numbers = range(OTP_FIRST, OTP_FIRST + OTP)
        for index in numbers:
            message = {"to": f"+86138{index:08d}", "text": "您的验证码是 482915", "class": "otp"}
            await self._gateway.send(message, self._keys[names[index % len(names)]])
        return numbers

    # -- draining --------------------------------------------------------------------------

    async def _links(self, wanted: int) -> None:
        """Until no channel is up (0), or any is."""
        end = time.monotonic() + LINKS_S
        while (await self._metrics())["channel_state{up}"] != wanted:
            if time.monotonic() > end:
                raise NotStock("the carriers' links did not change")
            await asyncio.sleep(LOOK_S)

    async def _drain(self, wanted: int) -> None:
        self._bar.step("draining", float(wanted))
        used, before = usage(self._gateway.pid), (await self._gateway.counts()).submits
        changed, last = time.monotonic(), -1
        while time.monotonic() - changed < STALL_S:
            count = (await self._gateway.counts()).submits - before
            if count != last:
                changed, last = time.monotonic(), count
            self._bar.tell(float(count), f"{wanted - count:,} left")
            self._lag_s = max(self._lag_s, (await self._metrics())["loop_lag_seconds"])
            if count >= wanted:
                break
            await asyncio.sleep(LOOK_S)
        self.report.loop_lag_max_s = round(self._lag_s, 3)
        await asyncio.sleep(2.0)
        cpu_s = cpu_between(used, usage(self._gateway.pid))
        self.report.cpu_us["drain"] = {
            group: round(1e6 * seconds / wanted, 2) for group, seconds in cpu_s.items() if seconds
        }

    async def _metrics(self) -> dict[str, float]:
        return await self._gateway.metrics()

    # -- judging ---------------------------------------------------------------------------

    def _judge_submits(
        self, parts: Sequence[Part], otp: range, submits: Sequence[tuple[float, int]]
    ) -> None:
        report, problems = self.report, self.report.problems
        indexes = [index for _, index in submits]
        counts = Counter(indexes)
        wanted = set(otp).union(*(part.accepted for part in parts))
        report.submitted = len(counts)
        report.twice = sum(1 for count in counts.values() if count > 1)
        if missing := len(wanted - counts.keys()):
            problems.append(f"{missing} accepted and never submitted")
        if strange := len(counts.keys() - wanted):
            problems.append(f"{strange} submitted and never accepted")
        if report.twice:
            problems.append(f"{report.twice} submitted twice")
        report.otp_last_place = max(
            (place for place, index in enumerate(indexes) if index in otp), default=len(indexes)
        )
        if report.otp_last_place > 4 * OTP:
            problems.append(f"the last otp left as number {report.otp_last_place}")
        report.drain_rate = middle_rate([at for at, _ in submits])
        report.drain_share = round(report.drain_rate / report.empty_rate, 2)
        if report.drain_share < self._options.share:
            problems.append(f"drained at {report.drain_share} of the empty-queue rate")

    def _judge_turns(self, parts: Sequence[Part], places: Mapping[Path, int]) -> None:
        """Each channel by itself; left out is what was held and went to whoever came first."""
        report = self.report
        limits = Reliability.model_validate(dict(self._options.numbers))
        held = limits.lane_transactional // HELD_PART[MessageClass.TRANSACTIONAL]
        for name, numbers in self._gateway.orders_since(places).items():
            indexes = (index_of(str(number)) for number in numbers)
            order = [p.tenant for index in indexes for p in parts if p.first <= index < p.end]
            found = turns(order[held:], BATCH_BACK // len(parts))
            if found is not None:
                report.turns[name] = {**found.submits, "fairness": found.fairness}
        report.fairness = min((each["fairness"] for each in report.turns.values()), default=0.0)
        if report.fairness < self._options.fairness:
            report.problems.append(f"tenants did not take turns: {report.turns}")

    async def _judge_metrics(self) -> None:
        metrics = await self._metrics()
        for name in ("illegal_transition_total", "duplicate_copies_total", "stray_messages"):
            if metrics.get(name):
                self.report.problems.append(f"{metrics[name]:.0f} in {name}")
        quarantined = sum(n for key, n in metrics.items() if key.startswith("quarantined_total"))
        if quarantined:
            self.report.problems.append(f"{quarantined:.0f} in quarantined_total")
        if metrics["spilled_messages"]:
            self.report.problems.append(f"{metrics['spilled_messages']:.0f} are spilled still")


def middle_rate(moments: Sequence[float]) -> float:
    """Events a second between the first and the last tenth of sorted moments."""
    if len(moments) < 100:
        return 0.0
    low, high = len(moments) // 10, len(moments) * 9 // 10
    return round((high - low) / max(1e-6, moments[high] - moments[low]), 1)


def bound(numbers: Mapping[str, object], ids: int) -> float:
    """Bytes a worker may grow by with so many messages waiting (docs/decisions/0011)."""
    limits = Reliability.model_validate(dict(numbers))
    lanes = limits.lane_otp + limits.lane_transactional + limits.lane_marketing
    return lanes * PER_MESSAGE + ids * BYTES_PER_ID * 1.15 + SLACK


def memory(root: int) -> dict[str, int]:
    """Bytes by part of the tree: what each process has alone and its part of what is shared."""
    found: Counter[str] = Counter()
    top = psutil.Process(root)
    for process in (top, *top.children(recursive=True)):
        try:
            name = group_of(process.name(), process.cmdline())
            found[name] += process.memory_full_info().pss
        except psutil.Error:
            continue
    return dict(found)


def _mb(size: float) -> float:
    return round(size / (1 << 20), 1)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.backlog", description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000, help="accepted without carriers")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the empty-queue rate")
    parser.add_argument("--warm-up", type=float, default=4.0, metavar="S")
    parser.add_argument("--lanes", type=int, help="messages in memory per class; default: stock")
    parser.add_argument("--kill", action="store_true", help="kill -9 the worker with all of it")
    parser.add_argument("--share", type=float, default=0.8, help="asked of the empty-queue rate")
    parser.add_argument("--fairness", type=float, default=0.8, help="asked of the slowest tenant")
    add_report_options(parser)
    return parser


def numbers_of(options: argparse.Namespace) -> dict[str, object]:
    """Settings that are not stock: links come back soon; lanes when asked for."""
    numbers: dict[str, object] = {"reconnect_min_s": 0.5, "reconnect_max_s": 1}
    numbers["health_link_errors"] = 1_000_000  # the whole rate at once: no ramp is measured
    if options.lanes:
        for name in ("lane_otp", "lane_transactional", "lane_marketing"):
            numbers[name] = options.lanes
    return numbers


def show(found: Found) -> None:
    """A line for each figure."""
    for name, value in found.items():
        sys.stdout.write(f"{name:18} {value}\n")


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    options.numbers = numbers_of(options)
    return carry_out("backlog", Run, options, show, numbers=options.numbers)


if __name__ == "__main__":
    sys.exit(main())
