"""A TCP link that can be made bad while it is used: a proxy in user space, with a seed.

    gateway ──▶ our port ──up──▶ carrier        door: open, refused, silent
                        ◀─down──                ways: delay, throttle, stall, drop, garble, cut

As a part of a program:

    proxy = Proxy("127.0.0.1", 2775, seed=7)
    port = await proxy.listen()
    await proxy.set(replace(proxy.fault, door="refused")); proxy.reset()

and as a command, with a control port beside it:

    python -m loadtest.proxy --port 3775 --to 127.0.0.1:2775 --control-port 9776 --seed 7
    curl -sS localhost:9776/fault -d '{"down": {"drop": true}}'     the peer seems to hang
    curl -sS localhost:9776/reset -X POST                           RST on every connection

GET and POST /fault (`loadtest.linkfault`), POST /reset, POST /half-open {"side": "server"},
POST /heal, GET /counts. It ends on SIGTERM and when its parent dies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import struct
import sys
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any, Final, cast

import uvloop

from loadtest.carrier import die_with_parent
from loadtest.control import problem
from loadtest.linkfault import LinkFault, change
from loadtest.stream import Stream
from loadtest.web import Answer, Door, Request, Routes, answer

_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER for no time, socket(7)
SIDES: Final = ("client", "server")  # who connected to us; whom we connect to


class _End(asyncio.Protocol):
    """One of the two sockets of a connection."""

    def __init__(self, link: _Link, name: str) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_lost = False
        self.is_writable = True
        self.name = name
        self._is_read = True
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports are no subclass of asyncio's
        self.transport = cast("asyncio.Transport", transport)
        self._link.made(self)

    def data_received(self, data: bytes) -> None:
        self._link.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._link.lost(self, exc)

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        self._link.pump()

    def read(self, *, is_wanted: bool) -> None:
        """Go on or stop reading; either may be said twice."""
        if is_wanted == self._is_read or self.transport is None or self.transport.is_closing():
            return
        self._is_read = is_wanted
        (self.transport.resume_reading if is_wanted else self.transport.pause_reading)()

    def close(self) -> None:
        """After what is written: FIN."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """RST, and nothing more."""
        if self.transport is None or self.is_lost:
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self.transport.abort()


class _Link:
    """One connection: two sockets, two ways."""

    def __init__(self, proxy: Proxy) -> None:
        self.client = _End(self, "client")
        self.server = _End(self, "server")
        self.up = Stream(proxy.fault.up, proxy.rng)
        self.down = Stream(proxy.fault.down, proxy.rng)
        self.is_silent = proxy.fault.door == "silent"  # never led on
        self.is_half = False  # one of its sides is gone, and the other is not told
        self._proxy = proxy
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def is_torn(self) -> bool:
        """Whether it can never be a good connection again."""
        return self.is_silent or self.is_half or self.up.has_hole or self.down.has_hole

    def made(self, end: _End) -> None:
        """A socket stands."""
        if end is self.client:
            self._proxy.links.add(self)
            self._proxy.counts["connections"] += 1
            if not self.is_silent:
                self._connecting = self._loop.create_task(self._connect())
        else:
            self.pump()

    async def _connect(self) -> None:
        host, port = self._proxy.to
        try:
            await self._loop.create_connection(lambda: self.server, host, port)
        except OSError:
            self._proxy.counts["unreachable"] += 1
            self.client.reset()
            return
        if self.client.is_lost:
            self.server.reset()

    def received(self, end: _End, data: bytes) -> None:
        """Bytes of one side."""
        if self.is_half or self.is_silent:
            return
        stream = self.up if end is self.client else self.down
        stream.feed(data, self._loop.time())
        self.pump()

    def change(self, fault: LinkFault) -> None:
        """Another fault from now on."""
        was_dropping = self.up.has_hole and not fault.up.drop
        if was_dropping or (self.down.has_hole and not fault.down.drop):
            self.reset()
            return
        now = self._loop.time()
        self.up.change(fault.up, now)
        self.down.change(fault.down, now)
        self.pump()

    def pump(self) -> None:
        """Pass on what is due, and come again when more is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dues = (
            self._pass_on(self.up, self.client, self.server),
            self._pass_on(self.down, self.server, self.client),
        )
        due = min((one for one in dues if one is not None), default=None)
        if due is not None:
            self._timer = self._loop.call_at(due, self.pump)

    def _pass_on(self, stream: Stream, source: _End, target: _End) -> float | None:
        if target.transport is None or target.is_lost or not target.is_writable:
            source.read(is_wanted=not stream.is_full)
            return None
        data = stream.ready(self._loop.time())
        if data:
            target.transport.write(data)
            self._proxy.counts[f"bytes_to_{target.name}"] += len(data)
        due = stream.next_due
        if stream.is_over:
            self._proxy.counts["cuts"] += 1
            self._close()
        elif source.is_lost and not self.is_half and not stream.is_held:
            target.close()
        else:
            source.read(is_wanted=not stream.is_full)
        return due

    def lost(self, end: _End, exc: Exception | None) -> None:
        """A socket is gone: the other side hears of it, unless its news are lost or held too."""
        other, stream = (self.server, self.up) if end is self.client else (self.client, self.down)
        if end is self.client and self._connecting is not None and not self.server.transport:
            self._connecting.cancel()
        if other.transport is None or other.is_lost:
            self._end()
        elif self.is_half:
            return
        elif stream.is_dropping:
            stream.has_hole = True
        elif exc is not None and not stream.is_held:
            other.reset()
        else:
            self.pump()

    def half_open(self, side: str) -> None:
        """That side is reset; the other one stays and is never answered."""
        if not self.is_half and not self.is_silent:
            self.is_half = True
            (self.client if side == "client" else self.server).reset()

    def reset(self) -> None:
        """RST to both sides."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.client.reset()
        self.server.reset()

    def _close(self) -> None:
        self.client.close()
        self.server.close()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self in self._proxy.links:
            self._proxy.links.discard(self)
            for stream in (self.up, self.down):
                self._proxy.counts["dropped"] += stream.dropped
                self._proxy.counts["garbled"] += stream.garbled


class Proxy:
    """One link; every method is for the event loop that it listens on."""

    def __init__(
        self, host: str, port: int, *, seed: int = 0, fault: LinkFault | None = None
    ) -> None:
        """Leads to host and port; `seed` decides jitter and garbling."""
        self.to = host, port
        self.port = 0  # ours, once it listens
        self.rng = Random(seed)
        self.fault = fault or LinkFault()
        self.links: set[_Link] = set()
        self.counts: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._host = "127.0.0.1"

    async def listen(self, port: int = 0, host: str = "127.0.0.1") -> int:
        """Open the door, on any free port unless one is named; returns it. Raises OSError."""
        self._host, self.port = host, port
        await self._open_door()
        return self.port

    async def _open_door(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Link(self).client, self._host, self.port, backlog=128
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def set(self, fault: LinkFault) -> None:
        """This is wrong with it from now on, for connections that stand too. Raises OSError when
        a door that was refused cannot be opened again; then nothing is changed.

        A connection that lost bytes is reset when the loss ends: a TCP stream has no holes.
        """
        if fault.door == "refused":
            if self._server is not None:
                self._server.close()
                self._server = None
        elif self._server is None:
            await self._open_door()
        self.fault = fault
        for link in list(self.links):
            link.change(fault)

    def reset(self) -> int:
        """RST on every connection, both sides; how many there were."""
        for link in list(self.links):
            link.reset()
        self.counts["resets"] += len(self.links)
        return len(self.links)

    def half_open(self, side: str) -> int:
        """One side of every connection is reset, the other stays up and hears nothing more; how
        many there were. The side is "client" or "server"."""
        if side not in SIDES:
            raise ValueError(f"a side is one of {', '.join(SIDES)}")
        for link in list(self.links):
            link.half_open(side)
        return len(self.links)

    async def heal(self) -> None:
        """Nothing is wrong any more; connections that cannot be mended are reset."""
        torn = [link for link in self.links if link.is_torn]
        await self.set(LinkFault())
        for link in torn:
            link.reset()

    def shown(self) -> dict[str, int]:
        """Counters since the start, and how many connections there are."""
        counts = Counter(self.counts)
        for link in self.links:
            for stream in (link.up, link.down):
                counts["dropped"] += stream.dropped
                counts["garbled"] += stream.garbled
        return {**counts, "open": len(self.links)}

    async def close(self) -> None:
        """Close the door and reset what stands."""
        await self.set(replace(self.fault, door="refused"))
        self.reset()
        await asyncio.sleep(0)  # transports close in the next turn of the loop


class ControlPort:
    """HTTP and JSON beside a proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    async def get_fault(self, _request: Request) -> Answer:
        """What is wrong with it now."""
        return answer(self._proxy.fault.shown())

    async def post_fault(self, request: Request) -> Answer:
        """Change what is named; 422 names every wrong field, 409 says that the port is taken."""
        raw = _json(request)
        changed = [("", "give JSON")] if raw is None else change(self._proxy.fault, raw)
        if isinstance(changed, list):
            return problem(changed, code="fault.invalid")
        try:
            await self._proxy.set(changed)
        except OSError:
            detail = f"stays refused: somebody else has port {self._proxy.port}; free it, try again"
            return problem([("/door", detail)], status=409, code="fault.port_taken")
        return answer(changed.shown())

    async def post_reset(self, _request: Request) -> Answer:
        """RST on every connection."""
        return answer({"connections": self._proxy.reset()})

    async def post_half_open(self, request: Request) -> Answer:
        """Reset one side of every connection, keep the other."""
        raw = _json(request)
        if not isinstance(raw, dict) or raw.get("side") not in SIDES:
            return problem([("/side", f"give one of {', '.join(SIDES)}")], code="fault.invalid")
        return answer({"connections": self._proxy.half_open(raw["side"])})

    async def post_heal(self, _request: Request) -> Answer:
        """Nothing is wrong any more."""
        try:
            await self._proxy.heal()
        except OSError:
            detail = f"stays refused: somebody else has port {self._proxy.port}; free it, try again"
            return problem([("/door", detail)], status=409, code="fault.port_taken")
        return answer(self._proxy.fault.shown())

    async def get_counts(self, _request: Request) -> Answer:
        """Counters since the start."""
        return answer(self._proxy.shown())

    def routes(self) -> Routes:
        """Who answers on the control port."""
        return {
            ("GET", "/fault"): self.get_fault,
            ("POST", "/fault"): self.post_fault,
            ("POST", "/reset"): self.post_reset,
            ("POST", "/half-open"): self.post_half_open,
            ("POST", "/heal"): self.post_heal,
            ("GET", "/counts"): self.get_counts,
        }


def _json(request: Request) -> Any:  # noqa: ANN401 – whatever came
    try:
        return json.loads(request.body)
    except ValueError:
        return None


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError("an address is HOST:PORT")
    return host, int(port)


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    proxy = Proxy(*options.to, seed=options.seed)
    port = await proxy.listen(options.port, options.host)
    door = Door(ControlPort(proxy).routes())
    control_port = await door.listen("127.0.0.1", options.control_port)
    told = {"event": "listening", "port": port, "control_port": control_port}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    await stop.wait()
    await proxy.close()
    await door.close()


def main() -> None:
    """The process; it says on stdout where it listens, as JSON."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="loadtest.proxy", description="A TCP link to make bad.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--to", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--control-port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--seed", type=int, default=0, help="of jitter and garbling")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
