"""A report as one HTML file: tables and plots inside it, nothing fetched from anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em;
       color: #222; background: #fff }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .25em .8em; text-align: left;
       border-bottom: 1px solid #ddd } td.number { text-align: right; white-space: nowrap }
.passed { color: #00663f; font-weight: 600 } .failed { color: #b00020; font-weight: 600 }
svg { max-width: 100%; height: auto }
"""
_PROLOGUE: Final = re.compile(r"^.*?(?=<svg\b)", re.DOTALL)


def verdict(is_good: bool | None) -> str:
    """A cell that says passed, failed, or nothing where nothing is judged."""
    if is_good is None:
        return "<td></td>"
    return '<td class="passed">passed</td>' if is_good else '<td class="failed">FAILED</td>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are texts, those that are HTML already begin with `<td`."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        first, *rest = (cell if cell.startswith("<td") else escape(cell) for cell in row)
        others = "".join(
            cell if cell.startswith("<td") else f'<td class="number">{cell}</td>' for cell in rest
        )
        lines.append(f"<tr><td>{first}</td>{others}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def drawing(path: Path, number: int) -> str:
    """An SVG file as part of a page; its ids are made its own, so that several fit on one."""
    text = _PROLOGUE.sub("", path.read_text("utf-8"))
    text = re.sub(r'\bid="', f'id="d{number}-', text)
    return re.sub(r'(url\(|href=")#', rf"\1#d{number}-", text)


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
