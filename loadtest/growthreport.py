"""Ratios of two settings measured in turns, and their table. No I/O but the console's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

LIMIT: Final = 1.15


@dataclass(slots=True)
class Figure:
    """One thing measured in two settings; `limit` 0 = told, not judged."""

    name: str
    unit: str
    base: float
    other: float
    ratio: float
    limit: float = 0.0
    span: str = ""  # lowest and highest ratio of the rounds

    @property
    def is_good(self) -> bool | None:
        """Whether it is within its limit."""
        return self.ratio <= self.limit if self.limit else None


def compare(
    name: str, unit: str, base: Sequence[float], other: Sequence[float], limit: float = 0.0
) -> Figure:
    """Two series of rounds, taken in turns: their medians, and how the pairs scatter."""
    before, after = median(base), median(other)
    pairs = [b / a for a, b in zip(base, other, strict=False) if a]
    span = f"{min(pairs):.2f}…{max(pairs):.2f}" if len(pairs) > 1 else ""
    ratio = after / before if before else float("inf")
    return Figure(name, unit, round(before, 3), round(after, 3), round(ratio, 3), limit, span)


def costs_of(
    load: str, base: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], limit: float
) -> list[Figure]:
    """What a message cost under one load, in the rounds of two settings."""

    def column(
        runs: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], float]
    ) -> list[float]:
        return [read(run) for run in runs]

    wanted: list[tuple[str, str, Callable[[dict[str, Any]], float], float]] = [
        ("CPU a message", "µs", lambda run: run["gateway_us"], limit),
        ("  of it the workers", "µs", lambda run: run["cpu_us"]["worker"], 0.0),
        ("  of it PostgreSQL", "µs", lambda run: run["cpu_us"]["postgres"], 0.0),
        ("accepted/s", "/s", lambda run: run["accepted_per_second"], 0.0),
        ("answer p99", "ms", lambda run: run["answer_ms"]["p99"], 0.0),
    ]
    return [
        compare(f"{load}: {what}", unit, column(base, read), column(other, read), bound)
        for what, unit, read, bound in wanted
    ]


TITLES: Final = {
    "full": "against a store of {messages:,} messages in {partitions} partitions, {gib} GiB",
    "many": "against {tenants:,} tenants and {channels} channels, configured in {configured_s} s",
    "workers": "against several workers",
}


def show(found: dict[str, Any], console: Console) -> None:
    """A table for each setting."""
    for name, figures in found["figures"].items():
        title = TITLES[name].format(**found["facts"].get(name, {}))
        table = Table("", title=title, title_justify="left")
        for head in ("empty", name, "ratio", "rounds", "limit", ""):
            table.add_column(head, justify="right")
        marks = {True: "[green]passed", False: "[red]FAILED", None: ""}
        for figure in figures:
            limit = f"≤ {figure['limit']:g}" if figure["limit"] else ""
            table.add_row(
                figure["name"],
                *(f"{figure[key]:,.4g} {figure['unit']}" for key in ("base", "other")),
                *(f"{figure['ratio']:.2f}", figure["span"], limit, marks[figure["is_good"]]),
            )
        console.print(table)
