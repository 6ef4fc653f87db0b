"""The report as one HTML file with a plot per fault, and the table for a terminal. No I/O.

Plots are plain SVG: three hundred of them take a second and a megabyte, need no package, and can
be looked at anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from rich.table import Table

from loadtest.campaign.course import Outcome
from loadtest.campaign.judge import Verdict
from loadtest.campaign.timeline import Timeline

WIDTH: Final = 420
HEIGHT: Final = 120
LEFT: Final = 34
BOTTOM: Final = 16
COLOURS: Final = {"accepted": "#1f77b4", "submitted": "#ff7f0e", "delivered": "#2ca02c"}
COLUMNS: Final = (
    *("#", "fault", "accepted", "missing", "unmarked", "marked", "twice", "open ms"),
    *("lost answers", "held", "illegal", "quarantined", "law", "back s"),
)

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 1320px; color: #222 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
td, th { padding: 2px 8px; text-align: right; border-bottom: 1px solid #ddd }
td:nth-child(2), th:nth-child(2) { text-align: left }
tr.bad td { background: #fdd } .bad { color: #b00 } .good { color: #070 }
.plots { display: flex; flex-wrap: wrap; gap: 12px }
figure { margin: 0; border: 1px solid #ddd; padding: 6px } figure.bad { border-color: #b00 }
figcaption { font-size: 12px } svg text { font-size: 9px; fill: #666 }
li { margin: 2px 0 }
"""


def cells(verdict: Verdict) -> tuple[str, ...]:
    """One fault as a row of `COLUMNS`."""
    fault, law = verdict.fault, verdict.fault.law
    return (
        str(fault.number),
        fault.name,
        f"{verdict.accepted:,}",
        str(verdict.missing),
        str(verdict.unmarked),
        str(verdict.marked),
        str(verdict.twice),
        str(verdict.open_ms) if verdict.twice else "–",
        str(verdict.uncertain),
        str(verdict.held),
        str(verdict.illegal),
        str(len(fault.quarantined)),
        "?" if law is None else str(law.residual),
        f"{verdict.recovered_s:.1f}",
    )


def sentence(outcome: Outcome) -> str:
    """All of it in one line."""
    total = outcome.total
    taken = ", ".join(f"{name} {count:,}" for name, count in sorted(outcome.taken.items()))
    return (
        f"{total.kills} kills in {total.faults} faults, seed {outcome.seed}, on {outcome.place}: "
        f"{total.accepted:,} accepted ({total.retried} asked again with their key, "
        f"{total.replayed} of them stored before; {total.scheduled} scheduled, "
        f"{total.canceled} canceled), {total.missing} missing, "
        f"{total.unmarked} unmarked copies, {total.marked} marked ({total.twice} at the carriers "
        f"twice), {total.held} held (with hold: {total.with_hold.told()}; "
        f"with resend: {total.with_resend.told()}), "
        f"{total.illegal} illegal transitions, {total.quarantined} quarantined, residual of the "
        f"law {total.residual}; taken by {taken}; slowest recovery {total.slowest_s:.1f} s; "
        f"{outcome.seconds / 60:.1f} minutes"
    )


def table(outcome: Outcome) -> Table:
    """A row per fault for a terminal."""
    made = Table(title=None)
    for name in COLUMNS:
        is_name = name == "fault"
        made.add_column(name, justify="left" if is_name else "right", no_wrap=is_name)
    for verdict in outcome.verdicts:
        made.add_row(*cells(verdict), style=None if verdict.is_good else "red")
    return made


def html(outcome: Outcome) -> str:
    """The whole report."""
    total = outcome.total
    verdict = "nothing lost" if total.is_good else "something is wrong"
    problems = "".join(f"<li class='bad'>{escape(text)}</li>" for text in total.problems)
    rows = "".join(_row(verdict) for verdict in outcome.verdicts)
    heads = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    plots = "".join(map(_figure, outcome.verdicts, outcome.timelines))
    legend = " ".join(f"<b style='color:{colour}'>{name}</b>" for name, colour in COLOURS.items())
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Campaign</title>"
        f"<style>{_STYLE}</style><h1>Campaign: <span class='"
        f"{'good' if total.is_good else 'bad'}'>{verdict}</span></h1>"
        f"<p>{escape(sentence(outcome))}</p><ul>{problems}</ul>"
        f"<h2>Faults</h2><table><tr>{heads}</tr>{rows}</table>"
        f"<h2>Time lines</h2><p>A second: {legend}. The red line is the fault, the green one the "
        f"first 202 after it.</p><div class='plots'>{plots}</div></html>\n"
    )


def _row(verdict: Verdict) -> str:
    kind = "" if verdict.is_good else " class='bad'"
    return f"<tr{kind}>" + "".join(f"<td>{escape(text)}</td>" for text in cells(verdict)) + "</tr>"


def _figure(verdict: Verdict, timeline: Timeline) -> str:
    fault = verdict.fault
    kind = "" if verdict.is_good else " class='bad'"
    notes = ", ".join(f"{name} {value}" for name, value in fault.notes.items())
    caption = f"{fault.number} {fault.name} · {verdict.recovered_s:.1f} s · {notes}"
    return f"<figure{kind}>{plot(timeline)}<figcaption>{escape(caption)}</figcaption></figure>"


def plot(timeline: Timeline) -> str:
    """One time line as SVG."""
    series = {name: getattr(timeline, name) for name in COLOURS}
    most = max((max(counts, default=0) for counts in series.values()), default=0) or 1
    steps = max(1, len(timeline.accepted))
    seconds = steps * timeline.step_s

    def x(at_s: float) -> float:
        return LEFT + (WIDTH - LEFT) * at_s / seconds

    def y(count: float) -> float:
        return 8 + (HEIGHT - BOTTOM - 8) * (1 - count / most)

    lines = "".join(
        f"<polyline fill='none' stroke='{COLOURS[name]}' stroke-width='1.3' points='"
        + _points(counts, timeline.step_s, x, y)
        + "'/>"
        for name, counts in series.items()
    )
    marks = _mark(x(timeline.fault_s), "#d00") + _mark(x(timeline.recovered_s), "#0a0")
    top = f"{most / timeline.step_s:,.0f}/s"
    floor = HEIGHT - BOTTOM
    ticks = "".join(
        f"<text x='{x(second):.0f}' y='{HEIGHT - 4}'>{second - timeline.fault_s:+.0f} s</text>"
        for second in range(0, int(seconds) + 1, max(1, int(seconds) // 6))
    )
    return (
        f"<svg width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>"
        f"<line x1='{LEFT}' x2='{WIDTH}' y1='{floor}' y2='{floor}' stroke='#bbb'/>"
        f"<text x='0' y='12'>{top}</text><text x='0' y='{floor}'>0</text>"
        f"{ticks}{lines}{marks}</svg>"
    )


def _points(
    counts: Sequence[int], step_s: float, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    return " ".join(
        f"{x((place + 0.5) * step_s):.1f},{y(count):.1f}" for place, count in enumerate(counts)
    )


def _mark(x: float, colour: str) -> str:
    return f"<line x1='{x:.1f}' x2='{x:.1f}' y1='4' y2='{HEIGHT - BOTTOM}' stroke='{colour}'/>"
