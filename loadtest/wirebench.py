"""What one session costs per submit and its answer: `python -m loadtest.wirebench [--protocol P]`.

One channel over one TCP connection in this process, with nothing of the gateway round it; the
carrier is the same codec's other side in a child. It prints one JSON object: per protocol and
window the submits per second and the CPU microseconds of this process for one submit and its
answer, medians over the rounds, under `floors_us` what DESIGN measured of a bare session.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog
import uvloop

from adapters.base import Channel, ChannelSink
from adapters.cmpp.channel import CmppChannel
from adapters.session import SessionPolicy
from adapters.smpp.channel import SmppChannel
from loadtest.carrier import die_with_parent
from loadtest.cmpp_server import CmppSide
from loadtest.server import LoginAsked, Side, Submits
from loadtest.smpp_server import SmppSide
from sms import config
from sms.model import Carrier, Encoding, Inbound, Message, MessageClass, Report, Submit
from sms.outcomes import Outcome

WINDOWS = (16, 100)
FLOORS_US = {"16": 4.0, "100": 1.7}  # DESIGN decision 10, of a bare session
WARM_S = 0.3
ROUND_S = 1.0
ROUNDS = 3
START_S = 10.0


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
                        (submit[0], 0, self._side.carrier_id(number).encode())
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
    "smpp": Bench(SmppChannel, {"system_id": "bench", "password": "secret08"}, SmppSide),
}


class _Sink:
    """The door's other side: journals nothing, submits again what was answered."""

    def __init__(self, submits: Sequence[Submit]) -> None:
        self.answered = 0
        self.channel: Channel  # set before it starts
        self._submits = submits
        self._next = 0

    def may_submit(self) -> bool:
        return True

    def journal_writes(self, channel: int, submits: Sequence[Submit]) -> bool:
        return True

    def outcomes(self, channel: int, results: Sequence[tuple[Submit, Outcome]]) -> None:
        self.answered += len(results)

    def reports(self, channel: int, reports: Sequence[Report]) -> None:
        pass

    def inbound(self, channel: int, texts: Sequence[Inbound]) -> None:
        pass

    def window_open(self, channel: int) -> None:
        """Fill the window from a ring far longer than any window."""
        free = self.channel.free()
        if self._next + free > len(self._submits):
            self._next = 0
        self.channel.submit(self._submits[self._next : self._next + free])
        self._next += free

    def link_changed(self, channel: int, is_up: bool, reason: str) -> None:
        pass


def _ring() -> list[Submit]:
    submits = []
    text = "【测试】您的验证码是123456"
    for number in range(4096):
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


async def _measure(name: str, port: int, window: int) -> dict[str, float]:
    bench = BENCHES[name]
    sink = _Sink(_ring())
    settings = {"host": "127.0.0.1", "port": port, **bench.settings}
    account = config.Channel(1, name, name, settings, window=window)
    channel = sink.channel = bench.channel(account, sink, SessionPolicy())
    channel.start()
    async with asyncio.timeout(START_S):
        while not sink.answered:  # noqa: ASYNC110 – a bench may look again
            await asyncio.sleep(0.01)
    await asyncio.sleep(WARM_S)
    rates, costs = [], []
    for _ in range(ROUNDS):
        before, cpu_s, at = sink.answered, time.process_time(), time.perf_counter()
        await asyncio.sleep(ROUND_S)
        count = sink.answered - before
        rates.append(count / (time.perf_counter() - at))
        costs.append((time.process_time() - cpu_s) * 1e6 / count)
    await channel.stop(0.5)
    return {
        "submits_per_s": round(statistics.median(rates)),
        "cpu_us": round(statistics.median(costs), 2),
    }


async def run(names: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Measure these protocols at every window, one after another."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest.wirebench", "--serve", name),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            port = int(await cast("asyncio.StreamReader", child.stdout).readline())
            found[name] = {str(window): await _measure(name, port, window) for window in WINDOWS}
        finally:
            child.terminate()
            await child.wait()
    return found


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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.wirebench", description=__doc__)
    parser.add_argument("--protocol", choices=sorted(BENCHES), action="append")
    parser.add_argument("--serve", choices=sorted(BENCHES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
        return
    # standard output is the result's
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = uvloop.run(run(options.protocol or sorted(BENCHES)))
    sys.stdout.write(json.dumps({"floors_us": FLOORS_US, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
