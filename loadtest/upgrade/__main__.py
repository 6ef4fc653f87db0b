"""`make upgrade`: from a version of before to this one under load, and back; did a client see it?

Exit 0 = no client saw an error, nothing was lost or doubled unmarked, and no migration kept a table
from its users for longer than 100 ms; 1 = not, or the old version cannot be had; 2 = an argument is
wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from rich.console import Console

from loadtest.campaign.node import Broken
from loadtest.campaign.traffic import Rates
from loadtest.command import add_report_options, end_on_sigterm, print_problems
from loadtest.progress import Bar, progress_bar
from loadtest.stock_gateway import NotStock, fresh_directory
from loadtest.upgrade import old
from loadtest.upgrade.place import LOCK_MS
from loadtest.upgrade.story import Outcome, Plan, run
from sms.errors import GatewayError

SHOWN = 10


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make upgrade", description=__doc__)
    parser.add_argument("--from", dest="commit", metavar="COMMIT", help="another old version")
    parser.add_argument("--rate", type=float, default=1.0, help="times 225 texts a second")
    parser.add_argument(
        "--calm", type=float, default=10.0, metavar="S", help="each state is kept so long (10)"
    )
    parser.add_argument("--kills", type=int, default=5, help="of `smsgw migrate` (default 5)")
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="one node: new code over the old one's files, then `smsgw restart`",
    )
    parser.add_argument("--seed", type=int, default=1)
    add_report_options(parser)
    return parser


def chosen(commit: str | None) -> old.OldVersion:
    """The recorded version, or one that is named."""
    recorded = old.known()
    if commit is None:
        return recorded[-1]
    return next(
        (one for one in recorded if one.commit.startswith(commit)),
        old.OldVersion(commit, "", "asked for"),
    )


async def _run(options: argparse.Namespace, folder: Path, bar: Bar) -> Outcome:
    end_on_sigterm()
    version = chosen(options.commit)
    bar.step(f"unpacking {version.commit[:12]}")
    root = old.unpack(version.commit, folder / "code")
    plan = Plan(
        version,
        root,
        Rates().scaled(options.rate),
        calm_s=options.calm,
        migration_kills=options.kills,
        is_in_place=options.in_place,
        seed=options.seed,
    )
    return await run(plan, folder / "place", bar.step)


def show(outcome: Outcome, console: Console) -> None:
    """For a person."""
    verdict = outcome.verdict
    lines = [
        f"from {outcome.commit[:12]}, {outcome.seconds:.0f} s: {outcome.asked} requests answered, "
        f"{outcome.read} reads, {len(outcome.errors)} errors",
        f"migrations: {outcome.migration_s:.1f} s, longest hold of a table in use "
        f"{outcome.held.longest_ms:.0f} ms (at most {LOCK_MS}; looked every "
        f"{outcome.held.widest_ms:.0f} ms at least)",
        f"SIGTERM to exit: {', '.join(f'{s:.1f}' for s in outcome.drains_s)} s",
    ]
    if verdict is not None:
        lines.append(
            f"texts: {verdict.accepted} accepted, {verdict.missing} missing, "
            f"{verdict.unmarked} twice without a mark, {verdict.marked} marked"
        )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def problems(outcome: Outcome) -> list[str]:
    """Everything that is wrong."""
    found = [*outcome.problems, *outcome.errors[:SHOWN]]
    if len(outcome.errors) > SHOWN:
        found.append(f"… and {len(outcome.errors) - SHOWN} errors more")
    verdict = outcome.verdict
    if verdict is None:
        found.append("nothing could be judged")
    elif not verdict.is_good:
        found += [*verdict.examples, *verdict.fault.quarantined, f"law: {verdict.fault.law}"]
    if outcome.held.longest_ms > LOCK_MS:
        found.append(f"a migration held a table too long: {outcome.held.by_table}")
    return found


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    console = Console(stderr=True)
    if options.rate <= 0 or options.calm <= 0 or options.kills < 0:
        console.print("upgrade: --rate and --calm must be above 0, --kills at least 0")
        return 2
    try:
        with fresh_directory(options.data_parent) as folder, progress_bar(console) as bar:
            outcome = asyncio.run(_run(options, folder, bar))
    except (old.NoHistory, NotStock, Broken, GatewayError, OSError) as error:
        console.print(f"upgrade: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    if options.json:
        sys.stdout.write(json.dumps(outcome.as_json(), indent=1, ensure_ascii=False) + "\n")
    else:
        show(outcome, Console())
    print_problems(problems(outcome), console)
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
