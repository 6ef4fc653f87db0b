"""`make campaign`: kills at every place of the path and at random, and whether anything was lost.

Exit 0 = everything promised was kept after every fault, 1 = not, or the gateway did not come
back; 2 = an argument is wrong. The seed is printed and can be given: it sets the faults, their
order and their moments, though not the scheduling of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from random import Random, SystemRandom

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.campaign import planning, report, troubles
from loadtest.campaign.course import Outcome, Plan, run
from loadtest.campaign.faults import CATALOGUE
from loadtest.campaign.node import Broken
from loadtest.campaign.traffic import Rates
from loadtest.command import end_on_sigterm, print_problems
from sms.errors import GatewayError

TABLE_WIDTH = 140  # where nobody looks
UNDER_ONLY = "kill.*,power.cut"  # an armed place might never be reached without a carrier


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="at least so many (default 300)")
    parser.add_argument("--only", metavar="PATTERNS", help="faults by name, as kill.*,power.cut")
    parser.add_argument(
        "--under",
        metavar="PATTERNS",
        help="carriers in trouble at each fault, one trouble at a time: link.*,silent or '*'; "
        f"faults are then {UNDER_ONLY} unless named",
    )
    parser.add_argument("--list", action="store_true", help="print the names of all faults")
    parser.add_argument("--seed", type=int, help="of an earlier run; random without")
    parser.add_argument("--per-round", type=int, default=10, help="faults between two judgements")
    parser.add_argument(
        "--workers",
        type=_counts,
        default=(1, 3),
        metavar="N,N",
        help="worker processes, by turns from round to round (default 1,3)",
    )
    parser.add_argument("--rate", type=float, default=1.0, help="times 225 texts a second")
    parser.add_argument(
        "--place",
        choices=("auto", "image", "plain"),
        default="auto",
        help="where the data lies: a small disk of its own (image) where mounting is allowed",
    )
    parser.add_argument("--data-parent", type=Path, help="directory on the disk to use")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="write there what is left of each text that something is wrong with",
    )
    parser.add_argument("--report", type=Path, default=Path("campaign.html"), help="HTML file")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    counts = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(counts) != text.count(",") + 1 or not all(1 <= count <= 64 for count in counts):
        raise argparse.ArgumentTypeError("numbers from 1 to 64, as 1,3")
    return tuple(counts)


def plan_of(options: argparse.Namespace, seed: int) -> Plan:
    """What the options ask for; raises ValueError."""
    under = troubles.choose(options.under) if options.under else []
    if options.under and not under:
        raise ValueError("--under: no trouble has such a name; --list prints them")
    kinds = planning.choose(options.only or (UNDER_ONLY if under else None), options.workers)
    if not kinds:
        raise ValueError("--only: no fault has such a name; --list prints them")
    if options.kills < 1 or options.per_round < 1 or options.rate <= 0:
        raise ValueError("--kills, --per-round and --rate must be above 0")
    scheduled = planning.schedule(kinds, options.kills, Random(seed))
    return Plan(
        rounds=planning.rounds(scheduled, options.workers, options.per_round),
        seed=seed,
        rates=Rates().scaled(options.rate),
        place=options.place,
        under=under,
        parent=options.data_parent,
        keep=options.keep,
    )


async def _run(plan: Plan, console: Console) -> Outcome:
    end_on_sigterm()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=plan.size)

        def tell(done: int, text: str) -> None:
            progress.update(bar, completed=done, description=text)
            if not console.is_terminal and text:
                console.print(f"{done}/{plan.size} {text}", highlight=False)

        return await run(plan, tell)


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    console = Console(stderr=True)
    if options.list:
        sys.stdout.write("".join(f"{fault.name}\n" for fault in CATALOGUE))
        sys.stdout.write("".join(f"--under {one.name}\n" for one in troubles.TROUBLES))
        return 0
    seed = SystemRandom().randrange(2**32) if options.seed is None else options.seed
    try:
        plan = plan_of(options, seed)
    except ValueError as error:
        console.print(f"campaign: {error}", markup=False)
        return 2
    console.print(f"{plan.size} faults, seed {seed}", highlight=False)
    try:
        outcome = asyncio.run(_run(plan, console))
    except (Broken, GatewayError, OSError) as error:
        console.print(f"campaign, seed {seed}: {error}", markup=False, highlight=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    options.report.write_text(report.html(outcome), "utf-8")
    if options.json:
        sys.stdout.write(json.dumps(outcome.as_json(), indent=1, ensure_ascii=False) + "\n")
    else:
        is_seen = sys.stdout.isatty()
        Console(width=None if is_seen else TABLE_WIDTH).print(report.table(outcome))
    print_problems(outcome.total.problems, console)
    console.print(report.sentence(outcome), markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {options.report}", markup=False, highlight=False)
    return 0 if outcome.total.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
