"""A webhook receiver inside this process: treats requests by a manner, and notes each of them.

    async with receiving(Receiver(Manner(hangs=True))) as sink:
        ... sink.url ...
        sink.manner = Manner()          # it is well again, also for requests that hang
        ... sink.requests, sink.times ...

What was answered 2xx while the sender was still there counts as taken; nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, cast

import httptools

from loadtest.sinks.manners import Act, Cut, Manner

BODY_MAXIMUM: Final = 1 << 20
PATH: Final = "/hooks"

Headers = Mapping[str, str]
Event = dict[str, Any]
Check = Callable[[Headers, bytes], str]  # what is to be noted of a request's signature
See = Callable[[Headers, Event], None]


@dataclass(slots=True)
class Request:
    """One request; times are Unix seconds."""

    at: float
    events: int
    signed: str  # by the word of the receiver's check
    status: int | None = None  # what was answered; None = nothing
    is_taken: bool = False


@dataclass(slots=True)
class Receiver:
    """What all connections of one sink share."""

    manner: Manner = field(default_factory=Manner)
    dice: Random = field(default_factory=Random)
    check: Check = lambda _headers, _body: ""
    see: See = lambda _headers, _event: None  # hears of every event, taken or not
    url: str = ""
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)  # how often each event was taken
    taken: dict[str, Event] = field(default_factory=dict)  # each event as it was taken first
    taken_at: float = 0.0  # when an event was taken that was not known, the last time
    bad: int = 0  # requests that are no event

    def arrived(self, headers: Headers, body: bytes) -> tuple[Act, Request, list[Event]]:
        """Judge a request; what is to be done with it."""
        request = Request(time.time(), 0, self.check(headers, body))
        self.requests.append(request)
        try:
            told = json.loads(body)
            events: list[Event] = told["data"] if told["type"] == "batch" else [told]
            for event in events:
                self.see(headers, event)
        except (ValueError, KeyError, TypeError):
            self.bad += 1
            return Act(400), request, []
        request.events = len(events)
        return self.manner.act(self._taken_requests(), self.dice), request, events

    def _taken_requests(self) -> int:
        return 0 if self.manner.gone_after is None else sum(r.is_taken for r in self.requests)

    def answered(self, act: Act, request: Request, events: list[Event]) -> None:
        """The answer has left while the sender was there."""
        request.status = act.status
        if not act.is_taken:
            return
        request.is_taken = True
        for event in events:
            if event["id"] not in self.taken:
                self.taken[event["id"]] = event
                self.taken_at = time.time()
            self.times[event["id"]] += 1


class _Connection(asyncio.Protocol):
    """One connection, kept alive; requests one after another."""

    def __init__(self, receiver: Receiver, all_open: set[_Connection]) -> None:
        self._receiver = receiver
        self._all_open = all_open
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._receiver.connections += 1
        self._all_open.add(self)
        # Not checked: uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all_open.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    # httptools calls these.

    def on_message_begin(self) -> None:
        self._headers = {}
        self._body = bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > BODY_MAXIMUM:
            self.close()

    def on_message_complete(self) -> None:
        act, request, events = self._receiver.arrived(self._headers, bytes(self._body))
        if act.status is None:
            return
        if act.delay_s:
            loop = asyncio.get_running_loop()
            loop.call_later(act.delay_s, self._answer, act, request, events)
        else:
            self._answer(act, request, events)

    def _answer(self, act: Act, request: Request, events: list[Event]) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if act.cut is Cut.ASKED:
            self.close()
            return
        self._receiver.answered(act, request, events)
        if act.cut is Cut.ANSWERING:
            transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n{")
            self.close()
            return
        location = f"location: {act.location}\r\n" if act.location else ""
        head = f"HTTP/1.1 {act.status} Told So\r\n{location}content-length: 0\r\n\r\n"
        transport.write(head.encode("ascii"))
        if not self._parser.should_keep_alive():
            self.close()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()


@contextlib.asynccontextmanager
async def receiving(
    receiver: Receiver, port: int = 0, host: str = "127.0.0.1"
) -> AsyncIterator[Receiver]:
    """The receiver behind a port, any free one unless given; connections end with it."""
    all_open: set[_Connection] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(receiver, all_open), host, port
    )
    receiver.url = f"http://{host}:{server.sockets[0].getsockname()[1]}{PATH}"
    try:
        yield receiver
    finally:
        server.close()
        for one in list(all_open):
            one.close()
