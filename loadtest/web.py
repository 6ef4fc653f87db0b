"""The HTTP door of control ports: a few routes, JSON in and out.

    door = Door({("GET", "/counts"): counts})      async def counts(request): return answer({…})
    port = await door.listen("127.0.0.1", 0)

A process with a control port starts in a third of the time that it takes to load a framework, and
a sandbox starts six of them. Requests of a connection are answered one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple, cast
from urllib.parse import parse_qsl

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

BODY_MAXIMUM: Final = 64 * 1024
END_S: Final = 1.0  # what is being answered when the door closes may still take so long


class Request(NamedTuple):
    """A whole request to a path that is known."""

    query: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """What is answered; a body in pieces goes out as the client takes it."""

    status: int
    body: bytes | Iterable[bytes]
    content_type: str = "application/json"


Handler = Callable[[Request], Awaitable[Answer]]
Routes = Mapping[tuple[str, str], Handler]


def answer(told: object, status: int = 200, content_type: str = "application/json") -> Answer:
    """An answer of JSON."""
    return Answer(status, json.dumps(told).encode(), content_type)


class Door:
    """One listening port."""

    def __init__(self, routes: Routes) -> None:
        """`routes`: who answers, by method and path."""
        self.routes = routes
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Open the port, 0 = any free one; returns it. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        """Take nobody any more; what is being answered has a moment to end."""
        if self._server is not None:
            self._server.close()
        for connection in self.connections:
            connection.leave()
        busy = [one.work for one in self.connections if one.work is not None]
        if busy:
            await asyncio.wait(busy, timeout=END_S)


class _Asked(NamedTuple):
    method: str
    target: bytes
    body: bytes
    is_last: bool  # of its connection


class _Connection(asyncio.Protocol):
    """One client's socket."""

    def __init__(self, door: Door) -> None:
        self.work: asyncio.Task[None] | None = None
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._parser = HttpRequestParser(self)
        self._target = b""
        self._body: list[bytes] = []
        self._waiting: deque[_Asked] = deque()
        self._is_writable = asyncio.Event()
        self._is_writable.set()
        self._is_leaving = False

    def leave(self) -> None:
        """Close, once what is being answered is."""
        self._is_leaving = True
        if self.work is None and self._transport is not None:
            self._transport.close()

    # -- asyncio ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports are no subclass of asyncio's
        self._transport = cast("asyncio.Transport", transport)
        self._door.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._is_writable.set()
        self._door.connections.discard(self)

    def pause_writing(self) -> None:
        self._is_writable.clear()

    def resume_writing(self) -> None:
        self._is_writable.set()

    def data_received(self, data: bytes) -> None:
        with contextlib.suppress(HttpParserUpgrade):  # answered as if it had asked for nothing
            try:
                self._parser.feed_data(data)
            except HttpParserError:
                self._refuse(HTTPStatus.BAD_REQUEST)

    # -- httptools -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target, self._body = b"", []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        is_asking = name.lower() == b"expect" and value.lower() == b"100-continue"
        if is_asking and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        if sum(map(len, self._body)) > BODY_MAXIMUM:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        is_last = not self._parser.should_keep_alive()
        self._waiting.append(_Asked(method, self._target, b"".join(self._body), is_last))
        if self.work is None and not self._is_leaving:
            self.work = asyncio.ensure_future(self._answer_all())

    # -- answering -------------------------------------------------------------------------

    def _refuse(self, status: HTTPStatus) -> None:
        self._write(_head(status, b"Content-Length: 0\r\nConnection: close\r\n"))
        self._is_leaving = True
        if self._transport is not None:
            self._transport.close()

    async def _answer_all(self) -> None:
        while self._waiting and not self._is_leaving:
            asked = self._waiting.popleft()
            self._is_leaving |= asked.is_last
            await self._send(await self._answer(asked))
        self.work = None
        if self._is_leaving and self._transport is not None:
            self._transport.close()

    async def _answer(self, asked: _Asked) -> Answer:
        path, _, query = asked.target.decode("latin-1").partition("?")
        handler = self._door.routes.get((asked.method, path))
        if handler is None:
            is_known = any(path == known for _, known in self._door.routes)
            return answer({"detail": "no such route"}, 405 if is_known else 404)
        try:
            known = dict(parse_qsl(query, keep_blank_values=True))
            return await handler(Request(known, asked.body))
        except Exception:  # noqa: BLE001 - whatever is wrong with one route, the door stays open
            traceback.print_exc(file=sys.stderr)
            return answer({"detail": "a defect; see the process's stderr"}, 500)

    async def _send(self, told: Answer) -> None:
        status = HTTPStatus(told.status)
        kind = b"Content-Type: %b\r\n" % told.content_type.encode()
        if isinstance(told.body, bytes):
            head = _head(status, b"%bContent-Length: %d\r\n" % (kind, len(told.body)))
            self._write(head + told.body)
            return
        self._write(_head(status, kind + b"Transfer-Encoding: chunked\r\n"))
        for piece in told.body:
            await self._is_writable.wait()
            if self._transport is None:
                return
            if piece:
                self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _head(status: HTTPStatus, fields: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, status.phrase.encode(), fields)
