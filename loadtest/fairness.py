"""`python -m loadtest.fairness`: what one tenant's blast does to another tenant's login codes.

    quiet: otp at a steady rate, measured ─▶ the same beside 200,000 marketing messages of another
        tenant, as fast as its limit lets it ─▶ until all has left ─▶ again, `rounds` times

Judged is accept to submit: from the moment in the message's id, before it is written to disk, to
the write of its submit, as the store has them. The whole way, from before the request to the
carrier's record, is told beside it: there the clients, carriers and PostgreSQL wait for the same
two cores. A stock gateway in a fresh directory. Exit 0 = the median over the rounds of how far the
p99 moved is under max(20 %, 5 ms) (RELIABILITY promise 6) and nothing was lost, 1 = not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtest.command import Found, add_report_options
from loadtest.experiment import Experiment, carry_out
from loadtest.measure import Spread, spread
from loadtest.progress import Bar
from loadtest.sender import Plan, Result, index_of, sent_times
from loadtest.stock_gateway import NotStock, StockGateway
from loadtest.submitwait import accept_to_submit
from sms.model import MessageClass

SHARE: Final = 0.20  # of the quiet p99
LEAST_MS: Final = 5.0
BLAST_FIRST: Final = 0  # indexes of the blast's messages, and of the otp's
OTP_FIRST: Final = 80_000_000
BATCH: Final = 100
BLAST_CONNECTIONS: Final = 8
OTP_CONNECTIONS: Final = 32
NO_LIMIT: Final = 500_000
PACE: Final = 0.99  # of the limit: refusals would cost the client's place in the row
LOOK_S: Final = 0.2
STALL_S: Final = 30.0
SETTLE_S: Final = 1.0
_BLASTER: Final = """\
  - name: blaster
    signatures: [沙箱]
    countries: [86, 1]
    limits: {segments_per_second: %d, burst_segments: %d}
    otp_caps: {prefix_burst: 0} # numbers follow one another
    api_keys: [{name: blaster, scopes: [send, read], secret_file: sandbox/blaster.key}]
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One measured part; milliseconds of otp messages."""

    otp: Spread  # accept to submit
    whole: Spread  # from before the request to the carrier's record
    answer: Spread  # until the 202
    blast_per_second: float = 0.0  # accepted, while it was accepted
    blast_s: float = 0.0  # until all of it had left


@dataclass(slots=True)
class Report:
    """All rounds, and what they come to."""

    rounds: list[dict[str, Turn]] = field(default_factory=list)
    moved_ms: list[float] = field(default_factory=list)  # the p99, round by round
    allowed_ms: list[float] = field(default_factory=list)
    whole_moved_ms: list[float] = field(default_factory=list)
    median_moved_ms: float = 0.0
    median_allowed_ms: float = 0.0
    problems: list[str] = field(default_factory=list)


class Run(Experiment):
    """Rounds on one gateway."""

    def __init__(self, gateway: StockGateway, bar: Bar, options: argparse.Namespace) -> None:
        super().__init__(gateway, bar, options)
        self._blaster = ""
        self._blast_next = BLAST_FIRST
        self._otp_next = OTP_FIRST
        self.report = Report()

    async def run(self) -> Report:
        """Everything; raises NotStock when it could not be measured."""
        await self._add_blaster()
        await self._blast(self._options.messages // 10)  # caches, partitions, plans
        await self._quiet(self._options.warm_up)
        for turn in range(self._options.rounds):
            self._bar.step(f"round {turn + 1}: otp alone", self._options.seconds)
            quiet = await self._quiet(self._options.seconds)
            self._bar.step(f"round {turn + 1}: beside the blast")
            loud = await self._loud()
            self._judge({"quiet": quiet, "blast": loud})
        report = self.report
        report.median_moved_ms = round(statistics.median(report.moved_ms), 3)
        report.median_allowed_ms = round(statistics.median(report.allowed_ms), 3)
        if report.median_moved_ms >= report.median_allowed_ms:
            report.problems.append(
                f"the p99 of otp moved by {report.median_moved_ms} ms "
                f"(allowed {report.median_allowed_ms})"
            )
        return report

    async def _add_blaster(self) -> None:
        gateway = self._gateway
        text = (gateway.data_dir / "sandbox.yaml").read_text("utf-8")
        limit = self._options.limit or NO_LIMIT
        entry = _BLASTER % (limit, 2 * limit)
        await gateway.apply_text(text.replace("admin_keys:", entry + "admin_keys:", 1))
        key = gateway.data_dir / "sandbox" / "blaster.key"
        self._blaster = key.read_text("utf-8").strip()

    def _judge(self, turns: dict[str, Turn]) -> None:
        report = self.report
        report.rounds.append(turns)
        quiet, loud = turns["quiet"].otp.p99, turns["blast"].otp.p99
        report.moved_ms.append(round(loud - quiet, 3))
        report.allowed_ms.append(round(max(SHARE * quiet, LEAST_MS), 3))
        whole_ms = turns["blast"].whole.p99 - turns["quiet"].whole.p99
        report.whole_moved_ms.append(round(whole_ms, 3))

    # -- the two kinds of load ---------------------------------------------------------------

    def _sent_file(self, name: str) -> str:
        return str(self._gateway.data_dir / f"{name}.bin")

    async def _quiet(self, seconds: float) -> Turn:
        places = self._gateway.record_places()
        first, result = await self._otp(seconds, 0)
        return await self._measured(places, first, result)

    async def _otp(self, seconds: float, messages: int) -> tuple[int, Result]:
        host, port = self._gateway.address
        plan = Plan(
            host=host,
            port=port,
            sent_file=self._sent_file("otp"),
            api_key=self._gateway.api_key,
            connections=OTP_CONNECTIONS,
            batch=1,
            seconds=seconds,
            messages=messages,
            first=self._otp_next,
            message_class="otp",
            rate=self._options.rate,
        )
        result = await self._bench.run_plan(plan)
        self._otp_next += result.used
        return plan.first, result

    async def _loud(self) -> Turn:
        """Otp from a second before the blast; only what was sent while it went out counts."""
        options = self._options
        places = self._gateway.record_places()
        stopping = asyncio.create_task(self._otp(options.longest, 0))
        await asyncio.sleep(SETTLE_S)
        began = time.time()
        rate = await self._blast(options.messages)
        ended = time.time()
        # The otp client runs for a time, not until a word: what comes later is left out below.
        first, result = await stopping
        return await self._measured(places, first, result, (began, ended), rate)

    async def _blast(self, messages: int) -> float:
        """Send it and wait until it has left; messages a second while it was accepted."""
        before = (await self._gateway.counts()).submits
        host, port = self._gateway.address
        plan = Plan(
            host=host,
            port=port,
            sent_file=self._sent_file("blast"),
            api_key=self._blaster,
            connections=BLAST_CONNECTIONS,
            batch=BATCH,
            seconds=self._options.longest,
            messages=messages,
            first=self._blast_next,
            message_class="marketing",
            rate=PACE * self._options.limit,
        )
        result = await self._bench.run_plan(plan)
        self._blast_next += result.used
        if result.accepted < 0.99 * messages or result.unknown:
            raise NotStock(
                f"{result.accepted:,} of {messages:,} of the blast were accepted: "
                f"{result.first_refusal}"
            )
        await self._left(before + result.accepted)
        return result.accepted / (result.last_answer_at - result.first_sent_at)

    async def _left(self, wanted: int) -> None:
        changed, last = time.monotonic(), -1
        while (count := (await self._gateway.counts()).submits) < wanted:
            if count != last:
                changed, last = time.monotonic(), count
            elif time.monotonic() - changed > STALL_S:
                raise NotStock(f"{wanted - count:,} messages of the blast never left")
            await asyncio.sleep(LOOK_S)

    async def _measured(
        self,
        places: dict[Path, int],
        first: int,
        result: Result,
        window: tuple[float, float] | None = None,
        rate: float = 0.0,
    ) -> Turn:
        await asyncio.sleep(SETTLE_S)
        sent = sent_times(Path(self._sent_file("otp")))
        left = {
            index_of(str(number)): at
            for number, at in self._gateway.submits_since(places)
            if int(str(number)[-8:]) >= OTP_FIRST
        }
        low, high = window or (0.0, float("inf"))
        accepted = {first + place: at for place, at in enumerate(sent) if at}
        if missing := len(accepted.keys() - left.keys()):
            self.report.problems.append(f"{missing} otp messages were accepted and never left")
        if result.refused or result.unknown:
            self.report.problems.append(
                f"otp was refused: {result.refused}, {result.unknown} without an answer"
            )
        found = [
            1000 * (left[index] - at)
            for index, at in accepted.items()
            if index in left and low <= at <= high
        ]
        took = 0.0 if window is None else high - low
        waited = await accept_to_submit(
            self._gateway.data_dir,
            MessageClass.OTP,
            max(low, result.first_sent_at),
            min(high, result.last_answer_at),
        )
        return Turn(spread(waited), spread(found), result.answer_ms, round(rate, 1), round(took, 2))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.fairness", description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=200_000, help="of the blast")
    parser.add_argument(
        "--limit",
        type=int,
        default=2000,
        help="segments a second of the tenant that blasts (0 = none: then it has all of the CPU)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=100.0, help="otp messages a second")
    parser.add_argument("--seconds", type=float, default=15.0, help="of otp alone, each round")
    parser.add_argument("--longest", type=float, default=150.0, help="a blast takes less, seconds")
    parser.add_argument("--warm-up", type=float, default=4.0, metavar="S")
    add_report_options(parser)
    return parser


def show(found: Found) -> None:
    """A line for each turn, then how far the p99 moved."""
    for number, turns in enumerate(found["rounds"], 1):
        for name, turn in turns.items():
            sys.stdout.write(f"{number} {name:6} otp ms {turn['otp']}, whole {turn['whole']}\n")
    sys.stdout.write(f"moved by {found['moved_ms']}, allowed {found['allowed_ms']} ms\n")


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    return carry_out("fairness", Run, arguments().parse_args(), show)


if __name__ == "__main__":
    sys.exit(main())
