"""The figures of `make bench` as tables for a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.steps import FLOORS, REST

Run = Mapping[str, Any]
_SHOWN_PROCESSES = (
    ("worker", "worker"),
    ("supervisor", "supervisor"),
    ("postgres", "PostgreSQL"),
    ("valkey", "Valkey"),
    ("carriers", "carriers (simulated)"),
    ("sink", "webhook sink"),
    ("client", "load client"),
)


def show(found: Run, then: Run, console: Console) -> None:
    """Configuration, figures, CPU by process and by step."""
    console.print(configuration_line(found), markup=False)
    console.print(figures_table(found["runs"]))
    console.print(cpu_table(found["runs"]))
    console.print(steps_table(found["runs"]))
    if not then["runs"]:
        console.print("No earlier figures are recorded (--record keeps these).")
    else:
        at, cores = then.get("at", "?"), then.get("machine", {}).get("cores", "?")
        console.print(f"× = compared with the record of {at} on {cores} cores.", markup=False)


def configuration_line(found: Run) -> str:
    """What ran, in two lines."""
    had, machine = found["configuration"], found["machine"]
    events = ", ".join(kind.removeprefix("message.") for kind in had["webhook_events"])
    return (
        f"PostgreSQL {had['server_version'].split()[0]} on {had['file_system']}: fsync "
        f"{had['fsync']}, synchronous_commit {had['synchronous_commit']}, full_page_writes "
        f"{had['full_page_writes']}; numbers and texts sealed; receipts on\n"
        f"one batched webhook endpoint: {events}\n"
        f"{machine['cores']} cores, Python {machine['python']}; load, carriers and sink on the "
        "same machine"
    )


def figures_table(runs: Sequence[Run]) -> Table:
    """Rates, latencies and counts, a column for each run."""
    table = _table("", runs)

    def row(name: str, cell: Callable[[Run], str]) -> None:
        table.add_row(name, *(cell(run) for run in runs))

    row("connections", lambda run: str(run["connections"]))
    row("accepted/s", lambda run: _number(run, "accepted_per_second"))
    row("end to end/s", lambda run: _number(run, "end_to_end_per_second"))
    row("202, ms p50 · p99", lambda run: _spread(run, "answer_ms"))
    row("to the carrier, ms p50 · p99", lambda run: _spread(run, "submit_ms"))
    row("to the final webhook, ms p50 · p99", lambda run: _spread(run, "webhook_ms"))
    row("accepted", lambda run: f"{run['accepted']:,}")
    row("= submitted at the carriers", lambda run: f"{run['submitted']:,}")
    row("= final at the sink", lambda run: f"{run['received']:,}")
    row("refused · unknown", lambda run: f"{_refused(run)} · {run['unknown']:,}")
    row("rows per flush", lambda run: _lanes(run["rows_per_flush"]))
    row("ms per flush", lambda run: _lanes(run["flush_ms"]))
    row("events per webhook request", lambda run: f"{run['events_per_webhook']:g}")
    row("of the machine used by others", lambda run: f"{run['others_share']:.0%}")
    return table


def cpu_table(runs: Sequence[Run]) -> Table:
    """CPU per message by process, and the sum that is ours."""
    table = _table("CPU µs per message", runs)
    for key, name in _SHOWN_PROCESSES:
        table.add_row(name, *(f"{run['cpu_us'].get(key, 0.0):.1f}" for run in runs))
    table.add_section()
    table.add_row(
        "gateway + PostgreSQL + Valkey", *(_number(run, "gateway_us") for run in runs), style="bold"
    )
    table.add_row("DESIGN's floor", *(f"{run['floor_us']:g}" for run in runs))
    return table


def steps_table(runs: Sequence[Run]) -> Table:
    """DESIGN's steps, what they cost here (where it was sampled) and their floors."""
    table = Table("CPU µs per message, by step")
    for run in runs:
        table.add_column(run["name"], justify="right")
        table.add_column("floor", justify="right", style="dim")
    for step in (*FLOORS, REST):
        cells = []
        for run in runs:
            is_single = run["batch"] == 1
            floor = FLOORS[step][0 if is_single else 1] if step in FLOORS else None
            cost = run["steps_us"].get(step)
            cells += ["–" if cost is None else f"{cost:.1f}", "" if floor is None else f"{floor:g}"]
        table.add_row(step, *cells)
    return table


def _table(name: str, runs: Sequence[Run]) -> Table:
    table = Table(name)
    for run in runs:
        table.add_column(run["name"], justify="right")
    return table


def _number(run: Run, key: str) -> str:
    ratio = run["ratio_to_record"].get(key)
    return f"{run[key]:,.0f}" + (f" (× {ratio:g})" if ratio else "")


def _spread(run: Run, key: str) -> str:
    return f"{run[key]['p50']:,.1f} · {run[key]['p99']:,.1f}" if run[key]["count"] else "–"


def _refused(run: Run) -> str:
    return ", ".join(f"{count:,} {code}" for code, count in run["refused"].items()) or "0"


def _lanes(values: Mapping[str, float]) -> str:
    return ", ".join(f"{lane} {value:g}" for lane, value in sorted(values.items())) or "–"
