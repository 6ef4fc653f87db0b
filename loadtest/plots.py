"""Draws the plots of a report; runs in .venv-load, which alone has matplotlib.

    python -m loadtest.plots FOLDER < plots.json     one FOLDER/<name>.svg for each plot

A plot is data: {"name", "title", "y", "lines": [{"label", "x", "y", "is_area"?}], "marks":
[{"at", "text"}], "limit"?: {"at", "text"}, "is_stacked"?, "is_log"?}; x in seconds from the start.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: smaller, and can be searched
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "figure.figsize": (10.0, 3.4),
    }
)

from matplotlib import pyplot  # noqa: E402 - the back end is chosen first

# Okabe and Ito's colours: told apart by the colour-blind too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#000000")


def draw(plot: Mapping[str, Any], folder: Path) -> Path:
    """Draw one plot and return its file."""
    figure, axes = pyplot.subplots(layout="constrained")
    lines: Sequence[Mapping[str, Any]] = plot["lines"]
    if plot.get("is_stacked"):
        axes.stackplot(
            lines[0]["x"] if lines else [],
            *(line["y"] for line in lines),
            labels=[line["label"] for line in lines],
            colors=_COLOURS,
            alpha=0.85,
            linewidth=0,
        )
    else:
        for line, colour in zip(lines, _COLOURS * 4, strict=False):
            axes.plot(line["x"], line["y"], label=line["label"], color=colour, linewidth=1.4)
    if plot.get("is_log"):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.margins(x=0)
    for mark in plot.get("marks", ()):
        axes.axvline(mark["at"], color="#D55E00", linestyle="--", linewidth=1.2)
        axes.annotate(
            mark["text"],
            (mark["at"], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -10),
            textcoords="offset points",
            color="#D55E00",
            fontsize="small",
        )
    limit = plot.get("limit")
    if limit:
        axes.axhline(limit["at"], color="#000000", linestyle=":", linewidth=1.2)
        axes.annotate(
            limit["text"],
            (1.0, limit["at"]),
            xycoords=("axes fraction", "data"),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            fontsize="small",
        )
    axes.set_title(plot["title"], loc="left", fontsize="medium")
    axes.set_xlabel("seconds")
    axes.set_ylabel(plot["y"])
    if lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    path = folder / f"{plot['name']}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def main() -> int:
    """Draw everything that comes on stdin."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for plot in json.load(sys.stdin):
        draw(plot, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
