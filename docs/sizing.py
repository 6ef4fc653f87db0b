"""The table of docs/scaling.md, from what `loadtest/` recorded: no number in it is typed.

make bench BENCH=--record          loadtest/records/bench.json
python -m loadtest.footprint --record              footprint.json
python -m docs.sizing              writes the table between the page's two marks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).with_name("scaling.md")
RECORDS: Final = PAGE.parents[1] / "loadtest" / "records"
BEGIN: Final = "<!-- made by python -m docs.sizing; do not edit -->\n"
END: Final = "<!-- end -->\n"
WORKER_SHARE: Final = 0.6  # of a core: a node takes the load of a dead neighbour
POSTGRES_SHARE: Final = 0.5  # of a core: vacuum, checkpoints and lists have the rest
RATES: Final = (100, 1000, 5000, 10_000, 50_000, 100_000)  # messages a second
DAY_SHARE: Final = 0.3  # of the busiest second, the mean one of a day
_WHERE: Final = {
    "worker": "`make bench`",
    "bytes": "`python -m loadtest.footprint`",
}
Json = dict[str, Any]


def read(name: str) -> Json:
    """One record of `loadtest/`."""
    found: Json = json.loads((RECORDS / f"{name}.json").read_text("utf-8"))
    return found


def costs() -> dict[str, dict[str, float]]:
    """What a message costs by kind of load: CPU µs of worker and PostgreSQL, bytes."""
    bench = {run["name"]: run for run in read("bench")["runs"]}
    left = {run["name"]: run for run in read("footprint")["runs"]}
    found = {}
    for name, run in bench.items():
        sizes = left[name]["bytes_per_message"]
        found[name] = {
            "worker": run["cpu_us"]["worker"],
            "postgres": run["cpu_us"]["postgres"],
            "valkey": run["cpu_us"]["valkey"],
            "stored": sizes["messages"] + sizes["events"] + sizes["the rest"],
            "wal": sizes["wal"],
        }
    return found


def measured() -> list[str]:
    """The lines of the first table."""
    by_load = costs()
    names = list(by_load)
    footprint = read("footprint")
    loaded = footprint["loaded"]

    def row(what: str, key: str, unit: str, command: str) -> str:
        cells = " | ".join(f"{by_load[name][key]:,.0f} {unit}" for name in names)
        return f"| {what} | {cells} | {command} |"

    def per_core(what: str, key: str) -> str:
        cells = " | ".join(f"{1e6 / by_load[name][key]:,.0f}/s" for name in names)
        return f"| {what} | {cells} | 10⁶ / the row above |"

    whole = " | ".join("" for _ in names[1:])
    connections = footprint["runs"][0]["connections"]
    worker, valkey, postgres = (loaded[kind] for kind in ("worker", "valkey", "postgres"))
    by = _WHERE["bytes"]
    return [
        f"| of one message | {' | '.join(names)} | by |",
        f"|---|{'---|' * (len(names) + 1)}",
        row("worker's CPU", "worker", "µs", _WHERE["worker"]),
        per_core("messages a second a core of workers does", "worker"),
        row("PostgreSQL's CPU", "postgres", "µs", _WHERE["worker"]),
        per_core("messages a second a core of PostgreSQL does", "postgres"),
        row("tables and indexes", "stored", "bytes", by),
        row("WAL", "wal", "bytes", by),
        f"| connections to PostgreSQL of a worker | {connections} |{whole} | {by} |",
        f"| memory of a worker | {worker['memory_mib']:,.0f} MiB |{whole} | {by} |",
        f"| memory of Valkey | {valkey['memory_mib']:,.0f} MiB |{whole} | {by} |",
        f"| memory of PostgreSQL | {postgres['memory_mib']:,.0f} MiB |{whole} | {by} |",
        f"| descriptors of a worker; one a client | {worker['descriptors']:,.0f} |{whole} | {by} |",
    ]


def needed(rate: float, cost: dict[str, float]) -> dict[str, float]:
    """Cores, MB/s and GB a day for so many messages a second at the busiest."""
    day = rate * DAY_SHARE * 86_400
    return {
        "workers": rate * cost["worker"] / 1e6 / WORKER_SHARE,
        "postgres": rate * cost["postgres"] / 1e6 / POSTGRES_SHARE,
        "wal_mb": rate * cost["wal"] / 1e6,
        "day_gb": day * cost["stored"] / 1e9,
        "day_m": day / 1e6,
    }


def planned() -> list[str]:
    """The lines of the second table: single sends, the dearer load."""
    cost = costs()["single"]
    lines = [
        "| at the busiest | a day | cores of workers | cores of PostgreSQL | WAL | disk a day |",
        "|---|---|---|---|---|---|",
    ]
    for rate in RATES:
        of = needed(rate, cost)
        lines.append(
            f"| {rate:,}/s | {of['day_m']:,.1f} M | {of['workers']:,.1f} | {of['postgres']:,.1f}"
            f" | {of['wal_mb']:,.1f} MB/s | {of['day_gb']:,.0f} GB |"
        )
    return lines


def block() -> str:
    """What stands between the marks."""
    machine = read("bench")["machine"]
    told = (
        f"Recorded on {machine['cores']} cores ({machine['architecture']}, "
        f"Python {machine['python']}), "
        "which the clients, carriers and the sink shared with the gateway.\n"
    )
    shares = (
        f"Single sends; workers at {WORKER_SHARE:.0%}, PostgreSQL at {POSTGRES_SHARE:.0%} of a "
        f"core; a day's mean is {DAY_SHARE:.0%} of its busiest second.\n"
    )
    lines = [told, *measured(), "", shares, *planned()]
    return BEGIN + "\n".join(lines) + "\n" + END


def page(text: str) -> str:
    """The page with its tables made anew. Raises ValueError without the marks."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{PAGE.name} lacks its marks")
    return before + block() + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
