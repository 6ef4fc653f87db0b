"""`make bench`: how many messages a second, how late, and what each costs in CPU.

    load client ─202─▶ worker ─COMMIT─ postgres        asserted: fsync, sealed bodies, receipts,
        (64 connections)  └─▶ carrier ─receipt─▶ worker ─▶ sink       a batched webhook per final

Starts a stock gateway in a fresh directory and runs single sends, then batches: a warm-up, a
measured part, then until nothing is under way, so that every cost of these messages is in the
figures and nobody else's. Exit 0 = everything accepted was submitted once and is final at the
sink, 1 = not, or the gateway is not what it should be. Nothing is asserted about speed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console

from loadtest import report
from loadtest.command import add_report_options, measured, print_found, print_problems, started
from loadtest.figures import Figures, Seen, difference, ratios, work_out
from loadtest.measure import Spread, cpu_between, machine_s, usage
from loadtest.progress import Bar
from loadtest.sender import Plan, Result, sent_times
from loadtest.stock_gateway import (
    FINAL_TYPES,
    NotStock,
    StockGateway,
    environment,
)

RECORD: Final = Path(__file__).with_name("records") / "bench.json"
LOOK_S: Final = 0.1  # how often the sink is asked
STALL_S: Final = 20.0  # nothing more comes: what is missing is lost
SETTLE_S: Final = 1.0  # for what follows the last event: cursor, claims, a receipt's answer


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load."""

    name: str
    connections: int
    batch: int
    is_keyed: bool = False  # an Idempotency-Key with each request


class Bench:
    """Runs loads on one gateway, one after another."""

    def __init__(self, gateway: StockGateway, bar: Bar, *, more_roots: Sequence[int] = ()) -> None:
        """`more_roots`: processes that count as the gateway's too, such as a server of its own."""
        self._gateway = gateway
        self._roots = (gateway.pid, *more_roots)
        self._bar = bar
        self._first = 0  # index of the next message: no number is used twice
        self.postgres_s: dict[str, float] = {}  # of the last run, by kind of process
        self.keys_file = ""  # of many tenants, see loadtest.sender

    @property
    def used(self) -> int:
        """How many indexes are used up."""
        return self._first

    async def warm_up(self, load: Load, seconds: float, messages: int = 0) -> None:
        """The same load, thrown away; raises NotStock when it does not come through."""
        before = await self._gateway.sink_finals()
        result, _ = await self._send(load, seconds, messages, f"{load.name}: warm-up")
        finals = await self._drain(result, before)
        if finals[-1][1] < result.accepted:
            missing = result.accepted - finals[-1][1]
            raise NotStock(
                f"{load.name}: {missing:,} of {result.accepted:,} messages of the warm-up never "
                f"became final. {result.first_refusal}"
            )

    async def run(self, load: Load, seconds: float, messages: int) -> Figures:
        """A measured run; raises NotStock, ValueError, RuntimeError when it is worth nothing."""
        gateway = self._gateway
        first = self._first
        places = gateway.record_places()
        counts, metrics = await gateway.counts(), await gateway.metrics()
        before, machine_before = usage(*self._roots), machine_s()
        result, path = await self._send(load, seconds, messages, f"{load.name}: measuring")
        finals = await self._drain(result, counts.finals)
        await asyncio.sleep(SETTLE_S)
        after = usage(*self._roots)
        cpu_s = cpu_between(before, after)
        self.postgres_s = {
            kind: round(spent - before.postgres.get(kind, 0.0), 3)
            for kind, spent in after.postgres.items()
        }
        busy, every = (now - then for then, now in zip(machine_before, machine_s(), strict=True))
        later = await gateway.metrics()
        seen = Seen(
            result=result,
            sent_at=sent_times(path),
            first=first,
            submits=list(gateway.submits_since(places)),
            finals=finals,
            counts=difference(counts, await gateway.counts()),
            metrics={name: value - metrics.get(name, 0.0) for name, value in later.items()},
            cpu_s=cpu_s,
            others_share=max(0.0, busy - sum(cpu_s.values()) - result.cpu_s) / every,
            samples=gateway.samples(),
        )
        return work_out(load.name, seen, load.connections, load.batch)

    async def _send(
        self, load: Load, seconds: float, messages: int, text: str
    ) -> tuple[Result, Path]:
        host, port = self._gateway.address
        path = self._gateway.data_dir / "sent.bin"
        plan = Plan(
            host=host,
            port=port,
            api_key=self._gateway.api_key,
            connections=load.connections,
            batch=load.batch,
            seconds=seconds,
            messages=messages,
            first=self._first,
            sent_file=str(path),
            keys_file=self.keys_file,
            is_keyed=load.is_keyed,
        )
        self._bar.step(text, seconds)
        watching = asyncio.create_task(self._watch_finals())
        try:
            result = await self.run_plan(plan)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        self._first += result.used
        return result, path

    async def run_plan(self, plan: Plan) -> Result:
        """Send in a process of its own; raises NotStock when it could not work."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "loadtest.sender"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(self._gateway.data_dir),
        )
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101 - asked for above
        process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
        try:
            return await self._listen(process.stdout)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    async def _listen(self, lines: asyncio.StreamReader) -> Result:
        started = time.monotonic()
        async for line in lines:
            told = json.loads(line)
            event = told.pop("event")
            if event == "progress":
                self._bar.tell(time.monotonic() - started, f"{told['accepted']:,} accepted")
            elif event == "result":
                return Result(**{**told, "answer_ms": Spread(**told["answer_ms"])})
            else:
                raise NotStock(f"the load client could not work: {told['text']}")
        raise NotStock("the load client ended without a result")

    # -- the sink's count over time --------------------------------------------------------

    async def _watch_finals(self) -> None:
        self._finals: list[tuple[float, int]] = []
        while True:
            await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> int:
        count = await self._gateway.sink_finals()
        if not self._finals or count != self._finals[-1][1]:
            self._finals.append((time.time(), count))
        return count

    async def _drain(self, result: Result, before: int) -> list[tuple[float, int]]:
        """Wait until all that was accepted is final at the sink, or nothing more comes.

        Returns when how many of this run were final; `before` is the count before it.
        """
        wanted = before + result.accepted
        changed, last = time.monotonic(), -1
        self._bar.step("until everything has arrived", None)
        while time.monotonic() - changed < (STALL_S if last < wanted else SETTLE_S):
            count = await self._look()
            if count != last:
                changed, last = time.monotonic(), count
            self._bar.tell(0.0, f"{wanted - count:,} under way")
            if count >= wanted and not result.unknown:
                break
            await asyncio.sleep(LOOK_S)
        return [(at, count - before) for at, count in self._finals]


async def bench(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Start, run everything, stop; the whole report as JSON-able data. Raises NotStock."""
    loads = [
        Load("single", options.connections, 1),
        Load(f"batches of {options.batch}", options.batch_connections, options.batch),
    ]
    if options.keys:
        loads[1:1] = [Load("single, with keys", options.connections, 1, is_keyed=True)]
    runs: list[Figures] = []
    async with started(options, bar, is_sampled=options.steps) as gateway:
        if options.events == "finals":
            await gateway.subscribe(list(FINAL_TYPES))
        await gateway.wait_ready()
        await asyncio.sleep(options.settle)
        worker = Bench(gateway, bar)
        for load in loads:
            await worker.warm_up(load, options.warm_up)
            runs.append(await worker.run(load, options.seconds, options.messages))
        configuration = await gateway.configuration()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "configuration": configuration,
        "seconds": options.seconds,
        "runs": [figures.as_json() for figures in runs],
    }


def machine() -> dict[str, Any]:
    """What the figures depend on, and nothing that names the machine."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench", description="Measure a stock gateway.")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measured run")
    parser.add_argument("--messages", type=int, default=0, help="end a run after so many, too")
    parser.add_argument("--warm-up", type=float, default=4.0, metavar="S", help="before each run")
    parser.add_argument("--connections", type=int, default=64, help="for single sends")
    parser.add_argument("--batch-connections", type=int, default=8, help="for batches")
    parser.add_argument("--batch", type=int, default=100, help="messages per batch")
    parser.add_argument(
        "--keys", action="store_true", help="single sends with an Idempotency-Key each, too"
    )
    parser.add_argument(
        "--events",
        choices=("finals", "all"),
        default="finals",
        help="webhooks for finals (default), or also for `submitted` as the sandbox has it",
    )
    parser.add_argument(
        "--no-steps",
        dest="steps",
        action="store_false",
        help="without sampling where the worker's CPU goes (it costs 0.3 %%)",
    )
    parser.add_argument("--quick", action="store_true", help="3 s runs, 1 s warm-up")
    parser.add_argument("--record", action="store_true", help="keep the figures for comparisons")
    add_report_options(parser, "tables")
    parser.set_defaults(settle=3.0)
    return parser


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    if options.quick:
        options.seconds, options.warm_up, options.settle = 3.0, 1.0, 1.0
    console = Console(stderr=True)
    found = measured("bench", lambda bar: asyncio.run(bench(options, bar)), console)
    then = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {"runs": []}
    for run in found["runs"]:
        run["ratio_to_record"] = ratios(run, then["runs"])
    print_found(found, options, lambda found: report.show(found, then, Console()))
    problems = [f"{run['name']}: {line}" for run in found["runs"] for line in run["problems"]]
    print_problems(problems, console)
    if options.record and not problems:
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
