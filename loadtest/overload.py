"""`python -m loadtest.overload`: what is left of the gateway when three times too much is sent.

    best: single sends as fast as they are answered ─▶ capacity ─▶ then otp, transactional and
        marketing, each as many a second as the capacity, over many connections, in turns

A stock gateway in a fresh directory, all on one machine: the clients' own CPU is taken from the
gateway in both parts. Goodput is what was accepted and has left for a carrier. Exit 0 = the median
goodput is at least 90 % of the best, no class was refused more than a class below it, and nothing
accepted was lost; 1 = not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from loadtest.bench import Load
from loadtest.command import Found, add_report_options
from loadtest.experiment import Experiment, carry_out
from loadtest.measure import Spread
from loadtest.progress import Bar
from loadtest.sender import Plan, Result
from loadtest.stock_gateway import FINAL_TYPES, StockGateway

GOODPUT: Final = 0.9  # of the best, at three times the capacity
CLASSES: Final = ("otp", "transactional", "marketing")  # the last is shed first
TIMES: Final = 3.0
FIRST: Final = 40_000_000  # indexes of the overload's messages, so many apart
APART: Final = 20_000_000
SLACK: Final = 0.02  # of the requests: classes that are refused alike are no wrong order


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one class at too much load."""

    offered: int  # messages
    accepted: int
    refused: dict[str, int]
    unknown: int
    answer_ms: Spread

    @property
    def refused_share(self) -> float:
        """Of what was answered."""
        refused = sum(self.refused.values())
        return refused / max(1, refused + self.accepted)


@dataclass(slots=True)
class Report:
    """All rounds; rates are messages a second."""

    best: list[float] = field(default_factory=list)
    goodput: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    median_share: float = 0.0
    rounds: list[dict[str, Part]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Run(Experiment):
    """Rounds on one gateway."""

    def __init__(self, gateway: StockGateway, bar: Bar, options: argparse.Namespace) -> None:
        super().__init__(gateway, bar, options)
        self._next = dict.fromkeys(CLASSES, 0)
        self.report = Report()

    async def run(self) -> Report:
        """Everything; raises NotStock when it could not be measured."""
        await self._gateway.subscribe(list(FINAL_TYPES))
        await self._gateway.wait_ready()
        report, options = self.report, self._options
        load = Load("best", options.connections, 1)
        await self._bench.warm_up(load, options.warm_up)
        for _ in range(options.rounds):
            best = await self._bench.run(load, options.seconds, 0)
            report.problems += best.problems
            report.best.append(best.accepted_per_second)
            report.goodput.append(await self._overload(best.accepted_per_second))
            report.shares.append(round(report.goodput[-1] / report.best[-1], 3))
        report.median_share = round(statistics.median(report.shares), 3)
        if report.median_share < GOODPUT:
            report.problems.append(f"goodput was {report.median_share} of the best")
        return report

    async def _overload(self, capacity: float) -> float:
        before = await self._gateway.counts()
        rate = TIMES * capacity / len(CLASSES)
        results = await asyncio.gather(*(self._send(name, rate) for name in CLASSES))
        accepted = sum(result.accepted for result in results)
        await self._until_final(before.finals + accepted)
        parts = {
            name: Part(r.used, r.accepted, r.refused, r.unknown, r.answer_ms)
            for name, r in zip(CLASSES, results, strict=True)
        }
        self.report.rounds.append(parts)
        self._judge(parts)
        began = min(result.first_sent_at for result in results)
        ended = max(result.last_answer_at for result in results)
        return round(accepted / (ended - began), 1)

    async def _send(self, name: str, rate: float) -> Result:
        host, port = self._gateway.address
        place = CLASSES.index(name)
        plan = Plan(
            host=host,
            port=port,
            api_key=self._gateway.api_key,
            connections=self._options.flood,
            batch=1,
            seconds=self._options.seconds,
            messages=0,
            first=FIRST + place * APART + self._next[name],
            sent_file=str(self._gateway.data_dir / f"{name}.bin"),
            message_class=name,
            rate=rate,
        )
        result = await self._bench.run_plan(plan)
        self._next[name] += result.used
        return result

    def _judge(self, parts: dict[str, Part]) -> None:
        shares = [parts[name].refused_share for name in CLASSES]
        for first, (low, high) in enumerate(pairwise(shares)):
            if low > high + SLACK:
                self.report.problems.append(
                    f"{low:.1%} of {CLASSES[first]} were refused, and {high:.1%} of "
                    f"{CLASSES[first + 1]}"
                )

    async def _until_final(self, wanted: int) -> None:
        """Raises nothing: what is missing is a problem of the report."""
        last, still = -1, 0.0
        while (count := await self._gateway.sink_finals()) < wanted:
            still = still + 0.2 if count == last else 0.0
            last = count
            if still > self._options.stall:
                self.report.problems.append(
                    f"{wanted - count} accepted messages never became final"
                )
                return
            await asyncio.sleep(0.2)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.overload", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64, help="for the best")
    parser.add_argument("--flood", type=int, default=500, help="connections of each class")
    parser.add_argument("--stall", type=float, default=30.0, help="seconds without a final")
    parser.add_argument("--warm-up", type=float, default=3.0, metavar="S")
    add_report_options(parser)
    return parser


def show(found: Found) -> None:
    """The rates, then a line for each class and round."""
    for name in ("best", "goodput", "shares"):
        sys.stdout.write(f"{name:8} {found[name]}\n")
    for number, parts in enumerate(found["rounds"], 1):
        for name, part in parts.items():
            sys.stdout.write(
                f"{number} {name:13} {part['accepted']:,} of {part['offered']:,} accepted, "
                f"refused {part['refused']}, answer p99 {part['answer_ms']['p99']} ms\n"
            )


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    return carry_out("overload", Run, arguments().parse_args(), show)


if __name__ == "__main__":
    sys.exit(main())
