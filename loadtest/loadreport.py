"""What `make load` found, for a person: a table on the terminal, a folder with plots."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtest import page
from loadtest.loadcheck import ANSWER_LIMIT_MS, Row
from loadtest.stock_gateway import environment

TOOLS: Final = Path(__file__).resolve().parents[1] / ".venv-load" / "bin" / "python"


def plots(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The plots of a run as data for loadtest/plots.py."""
    seen, cores, switch = found["series"], found["cores"], found["switch"]
    marks = [
        {"at": switch[key], "text": f"{switch['carrier']} {word}"}
        for key, word in (("off_s", "off"), ("on_s", "on"))
        if switch[key] is not None
    ]

    def lines(source: dict[str, Any], names: Sequence[str], x: Sequence[float]) -> list[Any]:
        return [{"label": name, "x": x, "y": source[name]} for name in names]

    seconds, answers = seen["seconds"], seen["answers"]
    channels = seen["delivered_by_channel"]
    flow = ("due", "accepted", "submitted", "delivered")
    parts = [name for name in cores if name != "seconds"]
    common = {"marks": marks}
    return [
        {
            "name": "delivered",
            "title": "Delivered by channel",
            "y": "messages/s",
            "lines": lines(channels, list(channels), seconds),
            **common,
        },
        {
            "name": "flow",
            "title": "The way of the messages (segments at the carriers)",
            "y": "per second",
            "lines": lines(seen, flow, seconds),
            **common,
        },
        {
            "name": "answers",
            "title": "Answer to a request, counted from when it was due, in windows of 5 s",
            "y": "ms",
            "is_log": True,
            "lines": lines(answers, ("p50", "p99", "maximum"), answers["seconds"]),
            "limit": {"at": ANSWER_LIMIT_MS, "text": f"p99 < {ANSWER_LIMIT_MS:g} ms"},
            **common,
        },
        {
            "name": "cores",
            "title": "CPU by process",
            "y": "cores",
            "is_stacked": True,
            "lines": lines(cores, parts, cores["seconds"]),
            **common,
        },
    ]


def write_report(found: dict[str, Any], out: Path) -> Path:
    """The folder's files; returns report.html."""
    drawn = plots(found)
    with contextlib.suppress(OSError):
        subprocess.run(  # noqa: S603 - our own interpreter and module
            [str(TOOLS), "-m", "loadtest.plots", str(out)],
            input=json.dumps(drawn).encode(),
            env=environment(out),
            check=False,
        )
    (out / "load.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), "utf-8")
    asked = found["options"]
    parts = [
        f"<p>{asked['per_minute']:,.0f} messages a minute, shape {asked['shape']}, "
        f"{asked['seconds']:g} s, {asked['single_share']:.0%} of them alone and the others in "
        f"batches of {asked['batch']}; {found['machine']['cores']} cores for gateway, carriers, "
        f"sink and locust together; {found['at']}. "
        '<a href="locust.html">locust\'s own report</a>.</p>',
        page.table(
            ("", "measured", "limit", ""),
            (
                (row["name"], row["value"], row["limit"], page.verdict(row["is_good"]))
                for row in found["rows"]
            ),
        ),
    ]
    for number, plot in enumerate(drawn):
        file = out / f"{plot['name']}.svg"
        if file.is_file():
            parts.append(page.drawing(file, number))
    verdict = "passed" if found["has_passed"] else "FAILED"
    report = out / "report.html"
    report.write_text(page.page(f"Load: {verdict}", parts), "utf-8")
    return report


def show(rows: Sequence[Row], console: Console) -> None:
    """The table for a person."""
    table = Table("", "measured", "limit", "")
    for name in ("measured", "limit"):
        next(column for column in table.columns if column.header == name).justify = "right"
    marks = {True: "[green]passed", False: "[red]FAILED", None: ""}
    for row in rows:
        table.add_row(row.name, row.value, row.limit, marks[row.is_good])
    console.print(table)
