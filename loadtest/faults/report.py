"""The report: a table for a terminal, a folder with a page and a plot for each row."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtest import page
from loadtest.faults.story import Verdict
from loadtest.loadreport import TOOLS
from loadtest.stock_gateway import environment

CHANNELS: Final = ("primary", "backup 1", "backup 2", "backup 3", "refused")
_MARKS: Final = {True: "[green]passed", False: "[red]FAILED", None: ""}


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """The table for a person."""
    table = Table("row", "", "measured", "limit", "")
    for verdict in verdicts:
        name = f"{verdict.row}/{verdict.protocol}"
        for check in verdict.checks:
            table.add_row(name, check.name, check.value, check.limit, _MARKS[check.is_good])
            name = ""
        table.add_section()
    console.print(table)


def plot_of(verdict: Verdict) -> dict[str, Any]:
    """A row's plot as data for loadtest/plots.py."""
    seen = verdict.series
    lines = [{"label": "accepted", "x": seen["seconds"], "y": seen["accepted"]}]
    lines += [
        {"label": name, "x": seen["seconds"], "y": seen[name]}
        for name in CHANNELS
        if any(seen[name])
    ]
    return {
        "name": f"{verdict.row}-{verdict.protocol}",
        "title": f"{verdict.title}, {verdict.protocol}: submits by channel",
        "y": "per second",
        "lines": lines,
        "marks": list(_marks(verdict)),
    }


def _marks(verdict: Verdict) -> Iterator[dict[str, Any]]:
    """What was done, and the first carrier's moves of the primary's breaker."""
    told: set[str] = set()
    last = verdict.series["seconds"][-1]
    for at, text in verdict.moments:
        if at > last:
            return
        state = text.partition(" ")[2]
        if state in ("open", "half_open", "ramp", "closed"):
            if state in told:
                continue
            told.add(state)
            yield {"at": at, "text": state}
        else:
            yield {"at": at, "text": text}


def write(verdicts: Sequence[Verdict], found: dict[str, Any], out: Path) -> Path:
    """The folder's files; returns report.html."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "faults.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), "utf-8")
    drawn = [plot_of(verdict) for verdict in verdicts]
    with contextlib.suppress(OSError):
        subprocess.run(  # noqa: S603 - our own interpreter and module
            [str(TOOLS), "-m", "loadtest.plots", str(out)],
            input=json.dumps(drawn).encode(),
            env=environment(out),
            check=False,
        )
    parts = [
        f"<p>{found['rate']:g} messages a second, seed {found['seed']}; {found['at']}; "
        f"{found['machine']['cores']} cores for gateway, carriers, sink and senders together.</p>",
        page.table(
            ("row", "must hold", ""),
            (
                (f"{one.row}/{one.protocol}", one.must, page.verdict(one.is_good))
                for one in verdicts
            ),
        ),
    ]
    for number, (verdict, plot) in enumerate(zip(verdicts, drawn, strict=True)):
        parts += _part(verdict, out / f"{plot['name']}.svg", number)
    has_passed = all(verdict.is_good for verdict in verdicts)
    report = out / "report.html"
    title = f"Faults: {'passed' if has_passed else 'FAILED'}"
    report.write_text(page.page(title, parts), "utf-8")
    return report


def _part(verdict: Verdict, drawing: Path, number: int) -> Iterator[str]:
    yield f"<h2>{verdict.title}, over {verdict.protocol}</h2>"
    yield f"<p>Scaled: {verdict.scaled}.</p>"
    if drawing.is_file():
        yield page.drawing(drawing, number)
    yield page.table(
        ("", "measured", "limit", ""),
        (
            (check.name, check.value, check.limit, page.verdict(check.is_good))
            for check in verdict.checks
        ),
    )
