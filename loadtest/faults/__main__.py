"""`make faults`: the table of faults, row by row, over SMPP and CMPP; passes or fails.

    python -m loadtest.faults [--protocol smpp|cmpp|both] [--row NAME …] [--json]

Exit 0 = every number holds, 1 = some do not, or a row could not be run. docs/failover.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.bench import machine
from loadtest.command import Found, add_report_options, measured, print_found, print_problems
from loadtest.faults import report
from loadtest.faults.row import QUICK_RATE, Row
from loadtest.faults.rows import ROWS
from loadtest.faults.stage import PROTOCOLS
from loadtest.faults.story import Verdict, tell
from loadtest.progress import Bar


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make faults", description="The table of faults.")
    parser.add_argument("--protocol", choices=(*PROTOCOLS, "both"), default="both")
    parser.add_argument("--row", action="append", choices=tuple(ROWS), help="may be repeated")
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second")
    parser.add_argument("--quick", action="store_true", help="4 s a row at 60 messages/s")
    parser.add_argument("--seed", type=int, default=7, help="of the proxies")
    parser.add_argument("--out", type=Path, default=Path("faults-report"), help="folder")
    add_report_options(parser, "a table")
    return parser


async def run(options: argparse.Namespace, bar: Bar, verdicts: list[Verdict]) -> None:
    """Every row that was asked for, over every protocol; adds to `verdicts`."""
    protocols = list(PROTOCOLS) if options.protocol == "both" else [options.protocol]
    for name in options.row or ROWS:
        for protocol in protocols:
            verdicts.append(await tell(_sized(ROWS[name], options), protocol, options, bar))


def _sized(row: Row, options: argparse.Namespace) -> Row:
    return row.quick() if options.quick else row.at_rate(options.rate)


def _found(options: argparse.Namespace, verdicts: list[Verdict]) -> Found:
    found: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "rate": options.rate,
        "seed": options.seed,
        "rows": [verdict.as_json() for verdict in verdicts],
        "problems": [line for verdict in verdicts for line in verdict.problems],
    }
    return found


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    if options.quick:
        options.rate = QUICK_RATE
    console = Console(stderr=True)
    verdicts: list[Verdict] = []

    def measure(bar: Bar) -> Found:
        try:
            asyncio.run(run(options, bar, verdicts))
        finally:  # what was run before a row that could not be is told
            if verdicts:
                path = report.write(verdicts, _found(options, verdicts), options.out)
                console.print(f"report  {path}", markup=False, highlight=False)
        return _found(options, verdicts)

    found = measured("faults", measure, console)
    print_found(found, options, lambda _: report.show(verdicts, Console()))
    print_problems(found["problems"], console)
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
