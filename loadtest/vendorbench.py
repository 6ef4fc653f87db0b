"""`make bench-vendors`: what an HTTP channel costs per message, alone and in batches.

One channel in this process, with nothing of the gateway round it; the simulated vendor is a child.
Beside each stands its floor: a bare aiohttp client that posts requests of the same size, made
beforehand, reads the answers and looks at nothing. Told are, as medians over the rounds, requests
and messages per second and the CPU microseconds of this process for one message; and what the
vendor's own process used for it, so that nobody takes its limit for ours.

Exit 0 = measured, 1 = it could not be. Figures are compared with those that --record kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import structlog
import uvloop
from rich.console import Console
from rich.table import Table
from yarl import URL

from adapters.http import aliyun, huawei, infobip, tencent, twilio
from adapters.http.channel import HttpChannel
from adapters.http.vendor import Request, Vendor
from adapters.session import SessionPolicy
from loadtest.bench import machine
from loadtest.command import Found, measured, print_found
from loadtest.progress import Bar
from loadtest.wirebench import Ring, ring
from sms import config
from sms.model import Filled, Submit
from sms.outcomes import Outcome, Submitted

RECORD: Final = Path(__file__).with_name("records") / "vendorbench.json"
FORMS: Final = ("single", "batched")
REQUESTS: Final = 16  # under way
RING: Final = 16384  # messages that go round; more than are under way in batches of 500
WARM_S = 0.3
ROUND_S = 1.0
ROUNDS = 5
START_S: Final = 10.0
WIDTH: Final = 100  # of the table; cut off figures say nothing
TWILIO: Final = "AC" + "0" * 32
_FILLED: Final = Filled("SMS_1", (("code", "123456"),))


@dataclass(frozen=True, slots=True)
class Bench:
    """One vendor: our side, and its settings but for the address."""

    make: Callable[[config.Channel], Vendor]
    settings: Mapping[str, Any]
    filled: Filled | None = None


BENCHES: Final[Mapping[str, Bench]] = {
    "aliyun": Bench(
        aliyun.make,
        {"access_key_id": "bench", "access_key_secret": "secret"},
        _FILLED,
    ),
    "huawei": Bench(huawei.make, {"app_key": "bench", "app_secret": "secret"}, _FILLED),
    "infobip": Bench(infobip.make, {"api_key": "secret"}),
    "tencent": Bench(
        tencent.make,
        {
            "secret_id": "bench",
            "secret_key": "secret",
            "sdk_app_id": "1400006666",
        },
        _FILLED,
    ),
    "twilio": Bench(twilio.make, {"account_sid": TWILIO, "auth_token": "5" * 32}),
}


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one thing."""

    messages_per_s: float
    cpu_us: float  # of this process, per message
    vendor_us: float  # of the vendor's, per message


class _Sink(Ring):
    """It counts what was not taken too: the bench is of good answers."""

    refused = 0

    def outcomes(self, channel: int, results: Sequence[tuple[Submit, Outcome]]) -> None:
        super().outcomes(channel, results)
        for _, outcome in results:
            if not isinstance(outcome, Submitted):
                self.refused += 1


class _Child:
    """A simulated vendor's process."""

    def __init__(self, told: Mapping[str, Any], http: aiohttp.ClientSession) -> None:
        self.url = f"http://127.0.0.1:{told['port']}"
        self._control = told["control_url"]
        self._http = http

    async def counts(self) -> tuple[int, float]:
        """Messages it has seen, and its CPU seconds."""
        async with self._http.get(f"{self._control}/counts") as answer:
            told = await answer.json()
        return told["submits"], told["cpu_s"]


@contextlib.asynccontextmanager
async def _vendor(name: str, folder: Path) -> AsyncIterator[_Child]:
    """The vendor in a child: it answers at once, takes any secret, and pushes nothing."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.carrier", "--name", name, "--protocol", name, "--json"),
        *("--port", "0", "--control-port", "0", "--record", str(folder / f"{name}.jsonl")),
        *("--latency-ms", "0", "--receipt-delay-ms", "0", "--system-id", TWILIO),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        line = await cast("asyncio.StreamReader", child.stdout).readline()
        async with aiohttp.ClientSession() as http:
            yield _Child(json.loads(line), http)
    finally:
        child.terminate()
        await child.wait()


def _account(name: str, url: str, form: str, batch: int) -> config.Channel:
    settings = {**BENCHES[name].settings, "url": url, "callbacks": False}
    if form == "single":
        settings["max_batch"] = batch = 1
    sender = ring(1)[0].sender
    return config.Channel(
        1, name, name, settings, sender=sender, sessions=1, window=REQUESTS * batch
    )


async def _timed(child: _Child) -> Round:
    """What happens while nobody looks."""
    await asyncio.sleep(WARM_S)
    before, vendor_s = await child.counts()
    cpu_s, at = time.process_time(), time.perf_counter()
    await asyncio.sleep(ROUND_S)
    took, used = time.perf_counter() - at, time.process_time() - cpu_s
    after, vendor_after_s = await child.counts()
    count = max(1, after - before)
    return Round(count / took, used * 1e6 / count, (vendor_after_s - vendor_s) * 1e6 / count)


async def _ours(name: str, form: str, child: _Child, submits: Sequence[Submit]) -> Round:
    bench = BENCHES[name]
    batch = _batch_of(name, form, child.url)
    account = _account(name, child.url, form, batch)
    sink = _Sink(submits)
    channel = sink.channel = HttpChannel(account, sink, SessionPolicy(), bench.make(account))
    channel.start()
    try:
        async with asyncio.timeout(START_S):
            while not sink.answered:  # noqa: ASYNC110 – a bench may look again
                await asyncio.sleep(0.01)
        found = await _timed(child)
    finally:
        await channel.stop(0.5)
    if sink.refused:
        raise RuntimeError(f"{name} did not take {sink.refused} messages")
    return found


def _forms(name: str) -> tuple[str, ...]:
    """Not every vendor takes several messages in one request."""
    return FORMS if _batch_of(name, "batched", "http://127.0.0.1:1") > 1 else FORMS[:1]


def _batch_of(name: str, form: str, url: str) -> int:
    traits = BENCHES[name].make(_account(name, url, form, 1)).traits
    return 1 if form == "single" else traits.batch


async def _floor(name: str, form: str, child: _Child, submits: Sequence[Submit]) -> Round:
    """The same requests from a client that does nothing else."""
    batch = _batch_of(name, form, child.url)
    vendor = BENCHES[name].make(_account(name, child.url, form, batch))
    requests = [
        vendor.send(submits[first : first + batch], time.time(), f"{first:032x}")
        for first in range(0, REQUESTS * batch, batch)
    ]
    connector = aiohttp.TCPConnector(limit=REQUESTS)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
        posts: list[Awaitable[None]] = [_post(http, request) for request in requests]
        tasks = [asyncio.ensure_future(one) for one in posts]
        try:
            return await _timed(child)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _post(http: aiohttp.ClientSession, request: Request) -> None:
    url, headers = URL(request.url, encoded=True), dict(request.headers)
    while True:
        async with http.request(request.method, url, headers=headers, data=request.body) as answer:
            await answer.read()


async def run(names: Sequence[str], bar: Bar) -> Found:
    """Measure these vendors in both forms; the report as JSON-able data."""
    seen: dict[tuple[str, str, str], list[Round]] = {}
    with tempfile.TemporaryDirectory(prefix="smsgw-bench-") as folder:
        bar.step("measuring", ROUNDS * sum(len(_forms(name)) for name in names))
        done = 0
        for name in names:
            submits = [replace(one, filled=BENCHES[name].filled) for one in ring(RING)]
            async with _vendor(name, Path(folder)) as child:
                for _ in range(ROUNDS):
                    for form in _forms(name):
                        bar.tell(done, f"{name}, {form}")
                        for kind, measure in (("ours", _ours), ("floor", _floor)):
                            found = await measure(name, form, child, submits)
                            seen.setdefault((name, form, kind), []).append(found)
                        done += 1
    vendors: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    for name in names:
        for form in _forms(name):
            batch = _batch_of(name, form, "http://127.0.0.1:1")
            vendors[name][form] = _told(seen[name, form, "ours"], seen[name, form, "floor"], batch)
    return {"machine": machine(), "vendors": vendors}


def _told(ours: Sequence[Round], floor: Sequence[Round], batch: int) -> dict[str, float]:
    def middle(rounds: Sequence[Round], name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in rounds))

    rate = middle(ours, "messages_per_s")
    cost, least = middle(ours, "cpu_us"), middle(floor, "cpu_us")
    return {
        "batch": batch,
        "requests_per_s": round(rate / batch),
        "messages_per_s": round(rate),
        "cpu_us": round(cost, 2),
        "floor_messages_per_s": round(middle(floor, "messages_per_s")),
        "floor_cpu_us": round(least, 2),
        "of_floor": round(cost / least, 2),
        "vendor_cpu_us": round(middle(ours, "vendor_us"), 2),
    }


def compare(found: Found, then: Found) -> None:
    """Write `of_record` beside each cost that was recorded: now / then."""
    for name, forms in found["vendors"].items():
        for form, told in forms.items():
            before = then.get("vendors", {}).get(name, {}).get(form)
            if before:
                told["of_record"] = round(told["cpu_us"] / before["cpu_us"], 2)


def show(found: Found, console: Console) -> None:
    """A line for each vendor and form."""
    table = Table(
        *("vendor", "form", "in one"),
        caption="CPU µs per message of this process, of a bare client, of the vendor's process",
    )
    for name in ("requests/s", "messages/s", "µs", "floor µs", "× floor", "vendor µs", "× record"):
        table.add_column(name, justify="right")
    for vendor, forms in found["vendors"].items():
        for form, told in forms.items():
            table.add_row(
                *(vendor, form, str(told["batch"])),
                *(f"{told['requests_per_s']:,}", f"{told['messages_per_s']:,}"),
                *(f"{told['cpu_us']:.1f}", f"{told['floor_cpu_us']:.1f}"),
                *(f"{told['of_floor']:.2f}", f"{told['vendor_cpu_us']:.1f}"),
                f"{told['of_record']:.2f}" if "of_record" in told else "–",
            )
    console.print(table)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench-vendors", description="HTTP channels.")
    parser.add_argument(
        "--vendor", choices=sorted(BENCHES), action="append", help="instead of all; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    parser.add_argument("--record", action="store_true", help="keep the figures for comparisons")
    return parser


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    # standard output is the result's
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    names = options.vendor or sorted(BENCHES)
    console = Console(stderr=True)
    found = measured("bench-vendors", lambda bar: uvloop.run(run(names, bar)), console)
    then = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
    compare(found, then)
    print_found(found, options, lambda found: show(found, Console(width=WIDTH)))
    if options.record:
        RECORD.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
