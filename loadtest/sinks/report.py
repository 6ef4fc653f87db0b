"""The report: a table for a terminal, one HTML file with a plot for each sink. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any, Final

from rich.table import Table

from loadtest import page
from loadtest.sinks.course import Outcome

WIDTH: Final = 900
HEIGHT: Final = 90
_MARKS: Final = {True: "[green]kept", False: "[red]BROKEN", None: ""}


def table(outcome: Outcome) -> Table:
    """A row per promise for a terminal."""
    made = Table("", "seen", "must be", "")
    for one in outcome.checks:
        made.add_row(one.name, one.value, one.limit, _MARKS[one.is_good])
    return made


def sentence(outcome: Outcome) -> str:
    """All of it in one line."""
    return (
        f"{outcome.messages:,} messages, {len(outcome.kills)} kills, seed {outcome.seed}: "
        f"{len(outcome.problems)} of {sum(c.is_good is not None for c in outcome.checks)} promises "
        f"broken; {outcome.seconds:.0f} s"
    )


def as_json(outcome: Outcome) -> dict[str, Any]:
    """For machines."""
    return {**asdict(outcome), "problems": outcome.problems}


def html(outcome: Outcome) -> str:
    """The whole report."""
    rows = ((one.name, one.value, one.limit, page.verdict(one.is_good)) for one in outcome.checks)
    parts = [
        f"<p>{escape(sentence(outcome))}</p>",
        "<p>Events taken a second, by the moment they were sent; red lines are kills.</p>",
        *(
            f"<h2>{escape(name)}</h2>{plot(counts, outcome.marks)}"
            for name, counts in outcome.arrivals.items()
        ),
        page.table(("", "seen", "must be", ""), rows),
    ]
    return page.page(f"Sinks: {'FAILED' if outcome.problems else 'passed'}", parts)


def plot(counts: Sequence[int], marks: Sequence[tuple[float, str]]) -> str:
    """One line of counts a second as SVG."""
    most = max(counts, default=0) or 1
    step = WIDTH / max(1, len(counts))
    points = " ".join(
        f"{(second + 0.5) * step:.1f},{HEIGHT - 4 - (HEIGHT - 16) * count / most:.1f}"
        for second, count in enumerate(counts)
    )
    lines = "".join(
        f"<line x1='{at * step:.1f}' x2='{at * step:.1f}' y1='12' y2='{HEIGHT}' "
        f"stroke='#d00' stroke-width='.6'><title>{escape(text)}</title></line>"
        for at, text in marks
    )
    return (
        f"<svg width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>"
        f"<text x='0' y='10' font-size='9'>{most:,}/s</text>{lines}"
        f"<polyline fill='none' stroke='#1f77b4' points='{points}'/></svg>"
    )
