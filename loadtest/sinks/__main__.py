"""`make sinks`: webhook receivers that misbehave, kill -9 meanwhile, and whether all is told.

    python -m loadtest.sinks [--seconds S] [--kills N] [--workers N] [--seed N] [--quick] [--json]

Exit 0 = every promise was kept, 1 = not, or the gateway did not come back. docs/webhooks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from loadtest.campaign.node import Broken
from loadtest.campaign.traffic import Rates
from loadtest.command import add_report_options, end_on_sigterm, print_problems
from loadtest.progress import Bar, progress_bar
from loadtest.sinks import report
from loadtest.sinks.course import Outcome, Plan, run
from sms.errors import GatewayError

TABLE_WIDTH: Final = 140  # where nobody looks
QUICK: Final = Plan(seconds=30.0, kills=2)  # long enough for an answer after 14 s


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make sinks", description="Sinks that misbehave.")
    parser.add_argument("--seconds", type=float, default=150.0, help="of traffic (default 150)")
    parser.add_argument("--kills", type=int, default=10, help="of processes (default 10)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--seed", type=int, default=7, help="of faults and dice")
    parser.add_argument("--rate", type=float, default=1.0, help="times 34 texts a second")
    parser.add_argument("--quick", action="store_true", help="30 s and two kills")
    parser.add_argument("--report", type=Path, default=Path("sinks.html"), help="HTML file")
    add_report_options(parser, "a table")
    return parser


def plan_of(options: argparse.Namespace) -> Plan:
    """What the options ask for; raises ValueError."""
    if options.seconds < QUICK.seconds or options.kills < 0 or options.workers < 1:
        raise ValueError(f"--seconds is at least {QUICK.seconds:g}, --workers at least 1")
    return Plan(
        QUICK.seconds if options.quick else options.seconds,
        QUICK.kills if options.quick else options.kills,
        options.workers,
        options.seed,
        Rates().scaled(0.15 * options.rate),
        options.data_parent,
    )


async def _run(plan: Plan, bar: Bar, console: Console) -> Outcome:
    end_on_sigterm()
    said = ""

    def tell(seconds: float, text: str) -> None:
        nonlocal said
        bar.tell(seconds, text)
        if text and text != said and not console.is_terminal:
            said = text
            console.print(f"{seconds:.0f} s: {text}", highlight=False)

    bar.step("sinks", plan.seconds)
    return await run(plan, tell)


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    console = Console(stderr=True)
    try:
        plan = plan_of(options)
        with progress_bar(console) as bar:
            outcome = asyncio.run(_run(plan, bar, console))
    except (Broken, GatewayError, ValueError, OSError) as error:
        console.print(f"sinks: {error}", markup=False, highlight=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    options.report.write_text(report.html(outcome), "utf-8")
    if options.json:
        told = json.dumps(report.as_json(outcome), indent=1, ensure_ascii=False)
        sys.stdout.write(told + "\n")
    else:
        is_seen = sys.stdout.isatty()
        Console(width=None if is_seen else TABLE_WIDTH).print(report.table(outcome))
    print_problems(outcome.problems, console)
    console.print(report.sentence(outcome), markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {options.report}", markup=False, highlight=False)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
