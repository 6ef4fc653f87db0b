"""`make bench-wire`: what one session of each protocol costs per submit and its answer.

One channel over one TCP connection in this process, with nothing of the gateway round it; the
carrier is the same codec's other side in a child. Protocols and windows take turns in every round,
so that whatever else the machine does meets all of them. Told are, as medians over the rounds, the
submits per second and the CPU microseconds of this process for one submit and its answer.

Exit 0 = no protocol costs more than twice SMPP's, 1 = one does, or it could not be measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog
import uvloop
from rich.console import Console
from rich.table import Table

from adapters.base import Channel, ChannelSink
from adapters.cmpp.channel import CmppChannel
from adapters.session import SessionPolicy
from adapters.sgip.channel import SgipChannel
from adapters.smgp.channel import SmgpChannel
from adapters.smpp.channel import SmppChannel
from loadtest.bench import machine
from loadtest.carrier import die_with_parent
from loadtest.cmpp_server import CmppSide
from loadtest.command import Found, measured, print_found, print_problems
from loadtest.progress import Bar
from loadtest.server import LoginAsked, Side, Submits
from loadtest.sgip_server import SgipSide
from loadtest.smgp_server import SmgpSide
from loadtest.smpp_server import SmppSide
from sms import config
from sms.model import Carrier, Encoding, Inbound, Message, MessageClass, Report, Submit
from sms.outcomes import Outcome

WINDOWS = (16, 100)
FLOORS_US = {"16": 4.0, "100": 1.7}  # DESIGN decision 10, of a bare session
WARM_S = 0.3
ROUND_S = 1.0
ROUNDS = 5
START_S = 10.0
MOST_OF_SMPP = 2.0  # times what SMPP costs at the same window


class _Peer:
    """A carrier's side that takes every login and every submit."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._session = side.session()
        self._number = 0

    def answered(self, data: bytes) -> bytes:
        """Bytes from the client in, bytes for it out."""
        session = self._session
        for event in session.receive(data, 0.0):
            if isinstance(event, LoginAsked):
                session.answer_login(event, 0, "BENCH")
            elif isinstance(event, Submits):
                first, self._number = self._number, self._number + len(event.submits)
                session.answer_submits(
                    [
                        (submit[0], 0, self._side.carrier_id(number, submit[0]).encode())
                        for number, submit in enumerate(event.submits, first)
                    ]
                )
        return session.to_send()


@dataclass(frozen=True, slots=True)
class Bench:
    """One protocol: our side, its settings but for host and port, and the other side."""

    channel: Callable[[config.Channel, ChannelSink, SessionPolicy], Channel]
    settings: Mapping[str, Any]
    side: Callable[[], Side]


_CMPP = {"source_addr": "900001", "shared_secret": "888888"}
BENCHES: Mapping[str, Bench] = {
    "cmpp2": Bench(CmppChannel, _CMPP, lambda: CmppSide("cmpp2")),
    "cmpp3": Bench(CmppChannel, _CMPP, lambda: CmppSide("cmpp3")),
    "sgip": Bench(
        SgipChannel,
        {"login_name": "bench", "password": "secret08", "node_id": 3010012345},
        SgipSide,
    ),
    "smgp": Bench(SmgpChannel, {"client_id": "bench", "shared_secret": "secret08"}, SmgpSide),
    "smpp": Bench(SmppChannel, {"system_id": "bench", "password": "secret08"}, SmppSide),
}


class Ring:
    """The door's other side: journals nothing, submits again what was answered."""

    def __init__(self, submits: Sequence[Submit]) -> None:
        self.answered = 0
        self.channel: Channel  # set before it starts
        self._submits = submits
        self._next = 0

    def may_submit(self) -> bool:
        """Always."""
        return True

    def journal_writes(self, channel: int, submits: Sequence[Submit]) -> bool:
        """Nothing is written."""
        return True

    def outcomes(self, channel: int, results: Sequence[tuple[Submit, Outcome]]) -> None:
        """Count them."""
        self.answered += len(results)

    def reports(self, channel: int, reports: Sequence[Report]) -> None:
        """Nobody looks at it."""

    def inbound(self, channel: int, texts: Sequence[Inbound]) -> None:
        """Nobody looks at it."""

    def window_open(self, channel: int) -> None:
        """Fill the window from a ring far longer than any window."""
        free = self.channel.free()
        if self._next + free > len(self._submits):
            self._next = 0
        self.channel.submit(self._submits[self._next : self._next + free])
        self._next += free

    def link_changed(self, channel: int, is_up: bool, reason: str) -> None:
        """Nobody looks at it."""


def ring(count: int = 4096) -> list[Submit]:
    """Submits of one short text to as many numbers."""
    submits = []
    text = "【测试】您的验证码是123456"
    for number in range(count):
        message = Message(
            *(number, 1, MessageClass.TRANSACTIONAL, f"86138{number:08}", Carrier.CM, 86),
            *(Encoding.UCS2, (text,)),
            valid_until=1e12,
            created_at=0.0,
        )
        payload = text.encode("utf-16-be")
        submits.append(
            Submit(message, 0, 1, message.number, "10690001", Encoding.UCS2, payload, False, 300)
        )
    return submits


_RING = ring()


async def _measure(name: str, port: int, window: int) -> tuple[float, float]:
    """One round: (submits per second, CPU µs of each)."""
    bench = BENCHES[name]
    sink = Ring(_RING)
    settings = {"host": "127.0.0.1", "port": port, **bench.settings}
    account = config.Channel(1, name, name, settings, window=window)
    channel = sink.channel = bench.channel(account, sink, SessionPolicy())
    channel.start()
    async with asyncio.timeout(START_S):
        while not sink.answered:  # noqa: ASYNC110 – a bench may look again
            await asyncio.sleep(0.01)
    await asyncio.sleep(WARM_S)
    before, cpu_s, at = sink.answered, time.process_time(), time.perf_counter()
    await asyncio.sleep(ROUND_S)
    count = sink.answered - before
    rate = count / (time.perf_counter() - at)
    cost_us = (time.process_time() - cpu_s) * 1e6 / count
    await channel.stop(0.5)
    return rate, cost_us


@contextlib.asynccontextmanager
async def _carrier(name: str) -> AsyncIterator[int]:
    """The other side in a child; its port."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.wirebench", "--serve", name),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield int(await cast("asyncio.StreamReader", child.stdout).readline())
    finally:
        child.terminate()
        await child.wait()


async def run(names: Sequence[str], bar: Bar) -> Found:
    """Measure these protocols at every window; the report as JSON-able data."""
    seen: dict[tuple[str, int], list[tuple[float, float]]] = {}
    async with contextlib.AsyncExitStack() as stack:
        ports = {name: await stack.enter_async_context(_carrier(name)) for name in names}
        places = [(name, window) for name in names for window in WINDOWS]
        bar.step("measuring", ROUNDS * len(places))
        for done in range(ROUNDS * len(places)):
            name, window = places[done % len(places)]
            bar.tell(done, f"{name}, window {window}")
            found = await _measure(name, ports[name], window)
            seen.setdefault((name, window), []).append(found)
    protocols: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    for (name, window), rounds in seen.items():
        protocols[name][str(window)] = {
            "submits_per_s": round(statistics.median(rate for rate, _ in rounds)),
            "cpu_us": round(statistics.median(cost_us for _, cost_us in rounds), 2),
        }
    _compare(protocols)
    return {
        "machine": machine(),
        "floors_us": FLOORS_US,
        "protocols": protocols,
        "problems": _problems(protocols),
    }


def _compare(protocols: dict[str, dict[str, dict[str, float]]]) -> None:
    """Write `of_smpp` beside each cost, where SMPP was measured too."""
    for window, usual in list(protocols.get("smpp", {}).items()):
        for windows in protocols.values():
            windows[window]["of_smpp"] = round(windows[window]["cpu_us"] / usual["cpu_us"], 2)


def _problems(protocols: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    return [
        f"{name} at window {window} costs {told['of_smpp']:g} times what SMPP does"
        for name, windows in protocols.items()
        for window, told in windows.items()
        if told.get("of_smpp", 0.0) > MOST_OF_SMPP
    ]


def show(found: Found, console: Console) -> None:
    """A line for each protocol; costs in µs of CPU, × = of SMPP's."""
    table = Table(
        "one session", caption="per second; CPU µs per submit and its answer; times SMPP's"
    )
    for window in WINDOWS:
        for name in (f"window {window}", "µs", "× SMPP"):
            table.add_column(name, justify="right")
    for protocol, windows in found["protocols"].items():
        cells: list[str] = []
        for told in windows.values():
            ratio = f"{told['of_smpp']:.2f}" if "of_smpp" in told else "–"
            cells += [f"{told['submits_per_s']:,}", f"{told['cpu_us']:.1f}", ratio]
        table.add_row(protocol, *cells)
    table.add_section()
    floors = [("", f"{found['floors_us'][str(window)]:.1f}", "") for window in WINDOWS]
    table.add_row("floor", *(cell for cells in floors for cell in cells))
    console.print(table)


class _Connection(asyncio.Protocol):
    def __init__(self, peer: _Peer) -> None:
        self._peer = peer
        self._transport: asyncio.Transport  # from connection_made on

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._peer.answered(data))


async def serve(name: str) -> None:
    """Be the other side of a protocol until terminated; says the port on standard output."""
    die_with_parent()
    side = BENCHES[name].side()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(_Peer(side)), "127.0.0.1", 0
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench-wire", description="Bench of one session.")
    parser.add_argument(
        "--protocol", choices=sorted(BENCHES), action="append", help="instead of all; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    parser.add_argument("--serve", choices=sorted(BENCHES), help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """The command; see the head of the file for the exit codes."""
    options = arguments().parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
        return 0
    # standard output is the result's
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    names = options.protocol or sorted(BENCHES)
    console = Console(stderr=True)
    found = measured("bench-wire", lambda bar: uvloop.run(run(names, bar)), console)
    print_found(found, options, lambda found: show(found, Console()))
    print_problems(found["problems"], console)
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
