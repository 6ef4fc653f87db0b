"""`make bench-growth`: does a message cost more when much is stored, or when many are configured?

    one PostgreSQL ─┬─ empty: 4 channels, 1 tenant ◀─ gateway ─┐  one after the other, in turns:
                    ├─ full:  15 million old messages ◀─ gateway  noise hits all of them alike
                    ├─ many:  10,000 tenants, 200 channels ◀─ gateway
                    └─ workers: --workers N, when asked for ◀─ gateway

Every figure is a ratio to `empty` in the same run. `empty` holds one old day, the one that late
receipts are looked up in, as large as in `full`; all else is missing. Exit 0 = every judged ratio
is within the limit, 1 = one is not, something was lost, or it could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from loadtest.bench import Load, machine
from loadtest.command import (
    Found,
    add_report_options,
    end_on_sigterm,
    measured,
    print_found,
    print_problems,
)
from loadtest.fill import Day
from loadtest.growthreport import LIMIT, Figure, compare, costs_of, show
from loadtest.measure import spread
from loadtest.place import Place, interleave, open_place
from loadtest.progress import Bar
from loadtest.stock_gateway import (
    FINAL_TYPES,
    NotStock,
    environment,
    file_system,
    fresh_directory,
)
from sms.ids import DAY_MS, EPOCH_MS
from store import database
from store.embedded import EmbeddedServers
from store.partitions import today

OLD_DAYS: Final = 40
OLD_MESSAGES: Final = 10_000_000  # in those days together
TODAY_MESSAGES: Final = 5_000_000
RECEIPT_DAYS: Final = 3  # how late a receipt is looked up
TENANTS: Final = 10_000
CHANNELS: Final = 200
BYTES_EACH: Final = 1100  # of an old message, with its events, indexes and WAL on the way
SPARE_BYTES: Final = 8 << 30
FRESH_MS: Final = 600_000  # today's old messages end so long before now
DAY_MARGIN_S: Final = 1800.0  # after midnight UTC; before the next one it takes an hour
READS: Final = 400
# The first touch of a page after a checkpoint writes it whole into the WAL: with 5 million messages
# in today's partition +12 µs for each of the first 20,000 messages, of the half a million that come
# between two checkpoints at 100,000 a minute. A run of seconds must begin behind that.
TOUCH_MESSAGES: Final = 60_000
SETTLE_S: Final = 3.0


def days_of(now: float, scale: float) -> list[Day]:
    """What the full store holds: forty days behind us, and today up to ten minutes ago."""
    this = today(now)
    old = [
        Day(this - back, round(OLD_MESSAGES * scale / OLD_DAYS)) for back in range(1, OLD_DAYS + 1)
    ]
    until_ms = int(now * 1000) - EPOCH_MS - this * DAY_MS - FRESH_MS
    return [*old, Day(this, round(TODAY_MESSAGES * scale), until_ms)]


def check_disk(directory: Path, scale: float) -> None:
    """Raise NotStock when the disk is too small for what would be stored."""
    need = round((OLD_MESSAGES + TODAY_MESSAGES) * scale * BYTES_EACH) + SPARE_BYTES
    free = shutil.disk_usage(directory).free
    if free < need:
        raise NotStock(
            f"{need / 2**30:.0f} GiB are needed under {directory} and {free / 2**30:.0f} are free: "
            "name another disk with --data-parent, or load less with --scale 0.1"
        )


def check_hour(now: float) -> None:
    """Raise NotStock near midnight UTC, when today's partition is new or about to end."""
    second = now % 86_400
    if second < DAY_MARGIN_S or second > 86_400 - 2 * DAY_MARGIN_S:
        raise NotStock("a UTC day begins or ends: run it between 00:30 and 23:00 UTC")


class Growth:
    """The settings of one run and what was measured in each."""

    def __init__(self, options: argparse.Namespace, bar: Bar) -> None:
        self._options = options
        self._bar = bar
        self.places: list[Place] = []
        self.runs: dict[str, dict[str, list[dict[str, Any]]]] = {}  # place, load, rounds
        self.figures: dict[str, list[Figure]] = {}
        self.facts: dict[str, Any] = {}
        self.problems: list[str] = []
        self._keys_file = ""

    async def prepare(self, server: _Server, stack: contextlib.AsyncExitStack) -> None:
        """Databases, gateways, old messages, the many tenants."""
        options, bar = self._options, self._bar
        wanted = ["empty"]
        wanted += ["full"] if options.stored else []
        wanted += ["many"] if options.tenants else []
        wanted += ["workers"] if options.workers > 1 else []
        for name in wanted:
            await server.create(name)
            extra = ["--workers", str(options.workers)] if name == "workers" else []
            place = await stack.enter_async_context(
                open_place(
                    name, server.folder(name), server.dsn(name), server.pid, bar, options=extra
                )
            )
            await place.gateway.subscribe(list(FINAL_TYPES))
            self.places.append(place)
        now = time.time()
        for place in self.places:
            days = days_of(now, options.scale)
            old = next(day for day in days if day.day == today(now) - RECEIPT_DAYS)
            place.old_day = old
            if place.name != "full":
                days = [old]  # the day looked at is the same everywhere, else nothing is stored
            await place.make_days(days, now)
            began = time.monotonic()
            await place.fill(days, bar)
            seconds = time.monotonic() - began
            bar.step(f"{place.name}: vacuum and checkpoint")
            size = await place.tidy()
            if place.name == "full":
                self.facts["full"] = {
                    "messages": sum(day.count for day in days),
                    "partitions": len(days),
                    "gib": round(size / 2**30, 2),
                    "loaded_per_second": round(sum(day.count for day in days) / seconds),
                }
        if options.tenants:
            await self._crowd(server, stack)

    async def _crowd(self, server: _Server, stack: contextlib.AsyncExitStack) -> None:
        place = next(place for place in self.places if place.name == "many")
        self._bar.step(f"{TENANTS:,} tenants and {CHANNELS} channels")
        port = await server.carrier(stack)
        began = time.monotonic()
        keys = await place.crowd(TENANTS, CHANNELS - 4, port)
        self._keys_file = str(server.keys_file)
        server.keys_file.write_text("\n".join(keys), "ascii")
        self.facts["many"] = {
            "tenants": TENANTS,
            "channels": CHANNELS,
            "configured_s": round(time.monotonic() - began, 1),
        }

    # -- measuring -------------------------------------------------------------------------

    async def measure(self) -> None:
        """Rounds of load in turns, then reads, then idling."""
        options = self._options
        loads = [Load("single", 64, 1), Load("batches of 100", 8, 100)]
        await asyncio.sleep(SETTLE_S)
        for place in self.places:
            await place.bench.warm_up(loads[0], options.warm_up)
            await place.bench.warm_up(loads[1], 20 * options.warm_up, TOUCH_MESSAGES)
        for turn in range(options.rounds):
            # The first of a round is another one each time: what a checkpoint costs is shared.
            first = turn % len(self.places)
            for place in self.places[first:] + self.places[:first]:
                for load in loads:
                    await self._run(place, load, load.name)
        await self._spread_traffic()
        await self._read()
        await self._idle()
        await self._change()

    async def _run(self, place: Place, load: Load, name: str) -> None:
        found = await place.bench.run(load, self._options.seconds, 0)
        self.runs.setdefault(place.name, {}).setdefault(name, []).append(
            {**found.as_json(), "postgres_s": place.bench.postgres_s}
        )
        self.problems += [f"{place.name}, {name}: {line}" for line in found.problems]

    async def _spread_traffic(self) -> None:
        """The many tenants all send, over all the channels."""
        place = next((place for place in self.places if place.name == "many"), None)
        if place is None:
            return
        place.bench.keys_file = self._keys_file
        place.gateway.more_records.append(Path(self._keys_file).with_name("crowd.jsonl"))
        for load in (Load("single", 64, 1), Load("batches of 100", 8, 100)):
            await place.bench.warm_up(load, self._options.warm_up)
            for _ in range(self._options.rounds):
                await self._run(place, load, f"{load.name}, of all tenants")
        place.bench.keys_file = ""

    async def _read(self) -> None:
        pair = [place for place in self.places if place.name in ("empty", "full")]
        if len(pair) < 2:
            return
        for name, (base, other) in (await interleave(pair, READS, self._bar)).items():
            limit = 0.0 if name.endswith("of nobody") else LIMIT
            figure = compare(f"{name}, ms p50", "ms", base, other, limit)
            figure.span = f"p99 {spread(base).p99:.1f} · {spread(other).p99:.1f}"
            self.figures.setdefault("full", []).append(figure)

    async def _idle(self) -> None:
        seconds = self._options.idle
        self._bar.step("idling", seconds * len(self.places))
        found = {place.name: await place.idle_ms_per_s(seconds) for place in self.places}
        scrapes = {place.name: await _timed(place.scrape, 20) for place in self.places}
        for place in self.places[1:]:
            figures = self.figures.setdefault(place.name, [])
            idle = compare("idle, CPU ms/s", "ms/s", [found["empty"]], [found[place.name]])
            scrape = compare("one scrape, ms p50", "ms", scrapes["empty"], scrapes[place.name])
            figures += [idle, scrape]

    async def _change(self) -> None:
        """Answers while the configuration changes once a second."""
        longest: dict[str, float] = {}
        for place in self.places:
            if place.name not in ("empty", "many"):
                continue
            changing = asyncio.create_task(_keep_touching(place))
            try:
                found = await place.bench.run(Load("single", 4, 1), 6.0, 0)
            finally:
                changing.cancel()
                await asyncio.wait([changing])
            longest[place.name] = found.answer_ms.maximum
            self.problems += [f"{place.name}, changing: {line}" for line in found.problems]
            if found.refused:
                self.problems.append(f"{place.name}: refused while configured: {found.refused}")
        if "many" in longest:
            figure = compare(
                "longest answer, configuration changing",
                "ms",
                [longest["empty"]],
                [longest["many"]],
            )
            self.figures.setdefault("many", []).append(figure)

    # -- what it came to -------------------------------------------------------------------

    def costs(self) -> None:
        """The ratios of the rounds, before the reads."""
        base = self.runs["empty"]
        for name, loads in self.runs.items():
            if name == "empty":
                continue
            rows: list[Figure] = []
            for load, rounds in loads.items():
                same = base[load.removesuffix(", of all tenants")]
                is_judged = name != "workers" and load in base
                rows += costs_of(load, same, rounds, LIMIT if is_judged else 0.0)
            self.figures[name] = rows + self.figures.get(name, [])


async def _timed(ask: Callable[[], Any], times: int) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        await ask()
        found.append(1000 * (time.perf_counter() - began))
    return found


async def _keep_touching(place: Place) -> None:
    while True:
        await place.touch()
        await asyncio.sleep(1.0)


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()


class _Server:
    """The PostgreSQL that all settings share, and the carrier of the many channels."""

    def __init__(self, directory: Path, servers: EmbeddedServers, url: str) -> None:
        self.pid = servers.pids()["postgres"]
        self.keys_file = directory / "many.keys"
        self._directory = directory
        self._url = url

    def folder(self, name: str) -> Path:
        """Where the gateway of a setting lives, made."""
        path = self._directory / name
        path.mkdir(mode=0o700)
        return path

    def dsn(self, name: str) -> str:
        """The address of a setting's database."""
        return self._url.replace("/postgres?", f"/growth_{name}?", 1)

    async def create(self, name: str) -> None:
        """Make that database."""
        conn = await database.connect(self._url, statement_timeout_s=60.0)
        try:
            await conn.execute(f"CREATE DATABASE growth_{name}")
        finally:
            await database.close(conn)

    async def carrier(self, stack: contextlib.AsyncExitStack) -> int:
        """Start a carrier that takes any account; returns its port."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "loadtest.carrier", "--name", "crowd", "--json"),
            *("--port", "0", "--control-port", "0"),
            *("--record", str(self._directory / "crowd.jsonl")),
            stdout=asyncio.subprocess.PIPE,
            env=environment(self._directory),
        )
        stack.callback(_end, process)
        assert process.stdout is not None  # noqa: S101 - asked for above
        return int(json.loads(await process.stdout.readline())["port"])


async def grow(
    options: argparse.Namespace, directory: Path, servers: EmbeddedServers, url: str, bar: Bar
) -> dict[str, Any]:
    """Everything; the report as JSON-able data. Raises NotStock."""
    end_on_sigterm()
    growth = Growth(options, bar)
    server = _Server(directory, servers, url)
    async with contextlib.AsyncExitStack() as stack:
        await growth.prepare(server, stack)
        await growth.measure()
        bar.step("stopping the gateways")
    growth.costs()
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"file_system": file_system(directory)},
        "scale": options.scale,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "facts": growth.facts,
        "figures": {
            name: [asdict(figure) | {"is_good": figure.is_good} for figure in figures]
            for name, figures in growth.figures.items()
        },
        "runs": growth.runs,
        "problems": growth.problems,
    }


def run(options: argparse.Namespace, bar: Bar) -> dict[str, Any]:
    """Start the shared server, measure, stop it again."""
    check_hour(time.time())
    with fresh_directory(options.data_parent) as directory:
        if options.stored:
            check_disk(directory, options.scale)
        bar.step("starting PostgreSQL")
        servers = EmbeddedServers(directory / "server", wanted=("postgres",))
        url = servers.start().database_url
        try:
            return asyncio.run(grow(options, directory, servers, url, bar))
        finally:
            servers.stop(is_fast=True)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="make bench-growth", description="Measure what stored data and configuration cost."
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of 15 million old messages")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measured run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=float, default=3.0, metavar="S")
    parser.add_argument("--idle", type=float, default=10.0, metavar="S", help="of each setting")
    parser.add_argument("--no-stored", dest="stored", action="store_false")
    parser.add_argument("--no-tenants", dest="tenants", action="store_false")
    parser.add_argument("--workers", type=int, default=1, help="also measure so many workers")
    add_report_options(parser, "tables")
    return parser


def _show(found: Found) -> None:
    show(found, Console() if sys.stdout.isatty() else Console(width=118))


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    console = Console(stderr=True)
    found = measured("growth", lambda bar: run(options, bar), console)
    print_found(found, options, _show, indent=None)
    print_problems(found["problems"], console)
    figures = [figure for some in found["figures"].values() for figure in some]
    has_failed = any(figure["is_good"] is False for figure in figures)
    return 1 if has_failed or found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
