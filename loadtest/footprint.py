"""What a message leaves behind: bytes on disk and in the WAL, memory, connections, descriptors.

    python -m loadtest.footprint [--seconds S] [--record]

A stock gateway (as `make bench` has it) is loaded with single sends, then with batches; before
and after each load PostgreSQL is asked how large its tables with their indexes are and how much
WAL it has written. Both are counted once all that was accepted is final, a checkpoint and a
VACUUM are through, so what follows a message is in its figures. The record is what docs/scaling.md
and docs/operations.md take their numbers from (`python -m docs.sizing`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console

from loadtest.bench import Bench, Load, machine
from loadtest.command import add_report_options, measured, print_found, print_problems, started
from loadtest.progress import Bar
from loadtest.stock_gateway import FINAL_TYPES, NotStock, StockGateway
from store import database
from store.embedded import endpoints_of, run_directory

RECORD: Final = Path(__file__).with_name("records") / "footprint.json"
SETTLE_S: Final = 3.0
_TABLES_SQL: Final = (
    "SELECT CASE WHEN c.relname LIKE 'messages%' THEN 'messages'"
    " WHEN c.relname LIKE 'events%' THEN 'events' ELSE 'the rest' END AS what,"
    " sum(pg_total_relation_size(c.oid))::bigint AS bytes FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = 'public' AND c.relkind = 'r' GROUP BY 1"
)
_WAL_SQL: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
_CONNECTIONS_SQL: Final = (
    "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    " AND application_name LIKE 'smsgw%' AND pid <> pg_backend_pid()"
)


async def stored(data_dir: Path) -> dict[str, int]:
    """Bytes of the tables with their indexes, and of all WAL so far; after a checkpoint."""
    dsn = endpoints_of(run_directory(data_dir)).database_url
    conn = await database.connect(dsn, statement_timeout_s=120.0)
    try:
        await conn.execute("CHECKPOINT")
        found = {row["what"]: int(row["bytes"]) for row in await conn.fetch(_TABLES_SQL)}
        found["wal"] = int(await conn.fetchval(_WAL_SQL))
        found["connections"] = int(await conn.fetchval(_CONNECTIONS_SQL))
        return found
    finally:
        await database.close(conn)


def processes(supervisor: int) -> dict[str, dict[str, float]]:
    """Memory (MiB; PostgreSQL's shared pages once) and descriptors of each kind of process."""
    found: dict[str, dict[str, float]] = {}
    top = psutil.Process(supervisor)
    for process in [top, *top.children(recursive=True)]:
        words = " ".join(process.cmdline())
        kind = "supervisor" if process.pid == supervisor else _kind(words)
        if not kind:
            continue
        memory = process.memory_full_info()
        one = found.setdefault(kind, {"processes": 0, "memory_mib": 0.0, "descriptors": 0})
        one["processes"] += 1
        one["memory_mib"] = round(one["memory_mib"] + memory.pss / 2**20, 1)
        one["descriptors"] = max(one["descriptors"], process.num_fds())
    return found


def _kind(words: str) -> str:
    if "gateway worker" in words:
        return "worker"
    names = ("loadtest", "valkey", "postgres")
    name = next((name for name in names if name in words), "")
    return "" if name == "loadtest" else name


async def footprint(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Start, load, look, stop; the report as JSON-able data. Raises NotStock."""
    loads = [Load("single", 64, 1), Load("batches of 100", 8, 100)]
    runs: list[dict[str, Any]] = []
    async with started(options, bar) as gateway:
        await gateway.subscribe(list(FINAL_TYPES))
        await gateway.wait_ready()
        worker = Bench(gateway, bar)
        idle = processes(gateway.pid)
        await worker.warm_up(loads[0], 1.0)
        for load in loads:
            runs.append(await _run(gateway, worker, load, options.seconds, bar))
        configuration = await gateway.configuration()
        loaded = processes(gateway.pid)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "configuration": {"server_version": configuration["server_version"]},
        "runs": runs,
        "idle": idle,
        "loaded": loaded,
    }


async def _run(
    gateway: StockGateway, worker: Bench, load: Load, seconds: float, bar: Bar
) -> dict[str, Any]:
    before = await stored(gateway.data_dir)
    figures = await worker.run(load, seconds, 0)
    bar.step("what is written behind them", SETTLE_S)
    await asyncio.sleep(SETTLE_S)
    after = await stored(gateway.data_dir)
    accepted = figures.accepted
    if figures.problems or not accepted:
        raise NotStock(f"{load.name}: {'; '.join(figures.problems) or 'nothing was accepted'}")
    names = ("messages", "events", "the rest", "wal")
    return {
        "name": load.name,
        "accepted": accepted,
        "bytes_per_message": {
            name: round((after[name] - before[name]) / accepted, 1) for name in names
        },
        "connections": after["connections"],
    }


def show(found: dict[str, Any], console: Console) -> None:
    """The figures as lines."""
    for run in found["runs"]:
        told = "  ".join(f"{name} {size:g}" for name, size in run["bytes_per_message"].items())
        console.print(f"{run['name']}: {run['accepted']:,} messages; bytes of each: {told}")
        console.print(f"  connections to PostgreSQL: {run['connections']}")
    for kind, one in found["loaded"].items():
        console.print(
            f"{kind}: {one['memory_mib']:g} MiB in {one['processes']:g}"
            f" process(es), at most {one['descriptors']:g} descriptors"
        )


def main() -> int:
    """The command: 0 = measured, 1 = could not."""
    parser = argparse.ArgumentParser(prog="loadtest.footprint", description="Measure what stays.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--record", action="store_true", help="keep the figures")
    add_report_options(parser)
    options = parser.parse_args()
    console = Console(stderr=True)
    found = measured("footprint", lambda bar: asyncio.run(footprint(options, bar)), console)
    print_found(found, options, lambda told: show(told, Console()))
    print_problems([], console)
    if options.record:
        RECORD.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
