"""One simulated carrier as a process: its protocol on a real socket, a control port beside it.

    python -m loadtest.carrier --name mobile-a --port 2775 --control-port 9775 \\
        --record carriers/mobile-a.jsonl --system-id shop --password secret08

Vendors (`--protocol infobip` …) are carriers too: `loadtest.vendors`. The control port is
`loadtest.control`'s. It ends on SIGTERM and when its parent dies.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, cast

import uvloop

from loadtest.behaviour import Behaviour
from loadtest.cmpp_server import CmppSide
from loadtest.control import Controlled
from loadtest.phone import PhoneText
from loadtest.record import Record
from loadtest.server import ServerSession, Side
from loadtest.sgip_server import SgipCaller, SgipSide
from loadtest.smgp_server import SmgpSide
from loadtest.smpp_server import SmppSide
from loadtest.smsc import Smsc
from loadtest.vendors import NAMES
from loadtest.web import Door
from loadtest.wheel import Wheel

PR_SET_PDEATHSIG = 1
REPEAT_LINES = 50_000  # of the record are looked at after a restart
CALL_AGAIN_S = 0.2  # between two tries of an SMG to reach the SP
REPEAT = "LOADTEST_REPEAT_S"  # the default of --repeat-s, for carriers that a sandbox starts

SIDES: Mapping[str, Callable[[argparse.Namespace], Side]] = {
    "cmpp2": lambda options: CmppSide("cmpp2", options.password),
    "cmpp3": lambda options: CmppSide("cmpp3", options.password),
    "sgip": lambda _: SgipSide(),
    "smgp": lambda _: SmgpSide(),
    "smpp": lambda _: SmppSide(),
}


class _Connection(asyncio.Protocol):
    """One client's socket."""

    def __init__(self, carrier: Carrier) -> None:
        self.session: ServerSession = carrier.smsc.side.session()
        self.transport: asyncio.Transport | None = None
        self._carrier = carrier

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports are no subclass of asyncio's
        self.transport = cast("asyncio.Transport", transport)
        self._carrier.connections[self.session] = self

    def data_received(self, data: bytes) -> None:
        reason = self._carrier.smsc.receive(self.session, data, time.monotonic())
        self._carrier.flush()
        if reason and self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._carrier.connections.pop(self.session, None)
        self._carrier.smsc.lost(self.session)
        self._carrier.flush()


class _Caller(_Connection):
    """A connection that the carrier opened itself."""

    def __init__(self, carrier: Carrier, session: SgipCaller) -> None:
        super().__init__(carrier)
        self.ended = asyncio.Event()
        self.session = self._caller = session
        self._has_joined = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._caller.connected()
        self._carrier.smsc.dirty.add(self._caller)
        self._carrier.flush()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._caller.system_id and not self._has_joined:
            self._has_joined = True
            self._carrier.smsc.joined(self._caller)
            self._carrier.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.ended.set()


class Carrier(Controlled):
    """The sockets round one Smsc."""

    def __init__(self, options: argparse.Namespace) -> None:
        loop = asyncio.get_running_loop()
        self.connections: dict[ServerSession, _Connection] = {}
        self._host: str = options.host
        self._options = options
        self._server: asyncio.Server | None = None
        self._tls = tls_of(options)
        side = SIDES[options.protocol](options)
        self.smsc = Smsc(
            name=options.name,
            side=side,
            system_id=options.system_id,
            password=options.password,
            window=options.window,
            record=Record(options.record),
            wheel=Wheel(loop, self.flush),
            behaviour=behaviour_of(options, side.failure),
        )
        super().__init__(self.smsc, options.port)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """The clock; and the connection of our own, where the protocol has one."""
        options = self._options
        if options.call_back is None:
            return [self.tick()]
        login = options.system_id, options.password
        return [self.tick(), self.call_back(*options.call_back, login=login)]

    def phone(self, text: PhoneText) -> int:
        """A text from a phone, in line for the account's sessions; its segments."""
        segments = self.smsc.phone(text)
        self.flush()
        return segments

    def changed(self, before: Behaviour) -> None:
        """The behaviour was changed: what was held may leave."""
        self.smsc.changed(before)
        self.flush()

    def counts(self) -> Mapping[str, Any]:
        """Counters since the start, and how the reports fare that leave at a rate."""
        names = (
            *("binds", "binds_refused", "submits", "accepted", "throttled", "silent"),
            *("reports_sent", "reports_answered", "reports_again", "inbound"),
        )
        counts: dict[str, Any] = {name: self.smsc.counts[name] for name in names}
        counts["sessions"] = self.smsc.sessions()
        counts["calls"] = self.smsc.sessions(calls=True)
        counts["reports_waiting"] = self.smsc.waiting()
        offering = self.smsc.offering
        if offering is not None:
            offered = offering.offered(time.monotonic())
            counts["offered"] = {"reports": offered, "answered": offering.answered}
            counts["offered"]["wait_ms"] = offering.waits_ms()
        return counts

    async def call_back(self, host: str, port: int, *, login: tuple[str, str]) -> None:
        """Keep a connection to the SP for reports, as an SMG does, until cancelled."""
        while True:
            if self.smsc.behaviour.link == "up":
                with contextlib.suppress(OSError):
                    await self._call(host, port, login)
            await asyncio.sleep(CALL_AGAIN_S)

    async def _call(self, host: str, port: int, login: tuple[str, str]) -> None:
        caller = _Caller(self, SgipCaller(*login))
        await asyncio.get_running_loop().create_connection(lambda: caller, host, port)
        await caller.ended.wait()

    def flush(self) -> None:
        """Write what the sessions have queued, one call each."""
        dirty = self.smsc.dirty
        while dirty:
            session = dirty.pop()
            data = session.to_send()
            connection = self.connections.get(session)
            if data and connection is not None and connection.transport is not None:
                connection.transport.write(data)

    async def listen(self) -> int:
        """Open the port; returns it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), self._host, self.port, backlog=128, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    def remember(self, repeat_s: float) -> None:
        """Owe the reports of the last so many seconds before this start once more."""
        if repeat_s:
            record = self.smsc.record
            chunks = record.read(max(0, record.count - REPEAT_LINES))
            lines = (line for chunk in chunks for line in chunk.splitlines())
            self.smsc.remember(lines, time.time() - repeat_s)

    async def set_link(self, link: str) -> None:
        """Go up or down; down refuses connections and drops those there are."""
        if link == "up" and self._server is None:
            await self.listen()
        elif link == "down" and self._server is not None:
            self._server.close()
            self._server = None
            for connection in list(self.connections.values()):
                if connection.transport is not None:
                    connection.transport.abort()

    async def tick(self) -> None:
        """Once a second, until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            self.smsc.tick(time.monotonic())
            self.flush()


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies (Linux; prctl(2))."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    carrier = open_carrier(options)
    port = await carrier.listen()
    door = Door(carrier.routes())
    control_port = await door.listen(options.host, options.control_port)
    carrier.remember(options.repeat_s)
    _say(options, port, control_port)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one) for one in carrier.work()]
        await stop.wait()
        for task in running:
            task.cancel()
    await carrier.set_link("down")
    await door.close()
    carrier.close()


def open_carrier(options: argparse.Namespace) -> Controlled:
    """The carrier or vendor that the command line asks for; not listening yet."""
    if options.protocol in NAMES:
        # here: the HTTP client that pushes takes longer to load than a whole carrier to start
        from loadtest.vendors.carrier import VendorCarrier
        from loadtest.vendors.desk import SAID_PER_NUMBER

        return VendorCarrier(
            options, behaviour_of(options, SAID_PER_NUMBER), Record(options.record), tls_of(options)
        )
    return Carrier(options)


def behaviour_of(options: argparse.Namespace, failure_status: int) -> Behaviour:
    """How it behaves at the start."""
    return Behaviour(
        latency_ms=options.latency_ms,
        receipt_delay_ms=options.receipt_delay_ms,
        failure_share=options.failure_share,
        throttle_share=options.throttle_share,
        failure_status=failure_status,
    )


def tls_of(options: argparse.Namespace) -> ssl.SSLContext | None:
    """TLS with a certificate of its own; with `--tls-client-ca` it asks clients for one."""
    if options.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.tls_cert, options.tls_key)
    if options.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(options.tls_client_ca)
    return context


def _say(options: argparse.Namespace, port: int, control_port: int) -> None:
    control_url = f"http://{options.host}:{control_port}"
    if options.json:
        told = {
            "event": "listening",
            "name": options.name,
            "protocol": options.protocol,
            "host": options.host,
            "port": port,
            "control_url": control_url,
            "pid": os.getpid(),
        }
        line = json.dumps(told)
    else:
        line = (
            f"{options.name}: {options.protocol} on {options.host}:{port}, control on {control_url}"
        )
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("a share is a number from 0 to 1")
    return value


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError("an address is HOST:PORT")
    return host, int(port)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.carrier", description="A simulated carrier.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--protocol", choices=sorted([*SIDES, *NAMES]), default="smpp")
    parser.add_argument(
        "--call-back",
        type=_address,
        metavar="HOST:PORT",
        help="sgip: where the SP listens for reports",
    )
    parser.add_argument(
        "--callback-file",
        type=Path,
        help="vendors: holds the URL of our callbacks, with {kind} for receipts or inbound; read"
        " at every push",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes any free one")
    parser.add_argument("--control-port", type=int, required=True, help="0 takes any free one")
    parser.add_argument("--record", type=Path, required=True, help="JSONL file, continued")
    parser.add_argument("--latency-ms", type=int, default=Behaviour().latency_ms)
    parser.add_argument("--receipt-delay-ms", type=int, default=Behaviour().receipt_delay_ms)
    parser.add_argument("--failure-share", type=_share, default=0.0)
    parser.add_argument("--throttle-share", type=_share, default=0.0)
    parser.add_argument("--system-id", default="", help="empty takes any")
    parser.add_argument("--password", default="", help="empty takes any")
    parser.add_argument("--password-file", type=Path, help="instead of --password")
    parser.add_argument("--tls-cert", type=Path, help="PEM: speak TLS with this certificate")
    parser.add_argument("--tls-key", type=Path, help="its key (default: in the same file)")
    parser.add_argument("--tls-client-ca", type=Path, help="clients must show one it signed")
    parser.add_argument(
        "--window", type=int, default=0, help="unanswered submits per session, 0 = no limit"
    )
    parser.add_argument(
        "--repeat-s",
        type=float,
        default=float(os.environ.get(REPEAT, "0")),
        help="at start, owe the reports of submits recorded in the last so many seconds again, as"
        " an SMSC does that keeps them on disk (default: they end with the process)",
    )
    parser.add_argument("--json", action="store_true", help="say so in JSON when listening")
    return parser


def main() -> None:
    """The process."""
    die_with_parent()
    options = arguments().parse_args()
    if options.password_file is not None:
        options.password = options.password_file.read_text(encoding="utf-8").strip()
    uvloop.run(run(options))


if __name__ == "__main__":
    main()
