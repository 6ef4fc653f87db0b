"""uvicorn's HTTP protocol with a short way for the ordinary POST /v1/messages (DESIGN decision 8).

    whole request in one read? ──yes──▶ QuickDoor.take ──▶ answer written when its commit is done
          │ no                              │ None: out of the ordinary
          └─────────────────────────────────┴──▶ uvicorn's cycle and the ASGI app, from the start

A request takes the short way only when nothing else is under way on its connection, it is
HTTP/1.1 and all of it arrived in one read: slow and large bodies stay with the door that has time
limits for them. While an answer is open, uvicorn's own pipelining queues what comes after it.

uvicorn has no limits before the headers are whole; they are here (RELIABILITY section 11): 16 KiB
and 100 headers, 10 s from the first silence to the end of the head, a cap on connections, and
trailers are dropped instead of becoming headers.

An `Upgrade` is ignored, as RFC 9110 section 7.8 allows: Java's client asks for h2c with every first
request over plain HTTP. httptools takes what follows such a head for another protocol and drops the
body, so the head is parsed again without that header.

A worker that leaves, or holds more than its share of the node's connections, says `Connection:
close` with an answer behind which no other request stands: the client then opens another
connection before it asks again, so nothing it sends is cut off (`gateway.http_server`).
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import http
import struct
import termios
import time
from collections.abc import Iterable
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.api.access import CERTIFICATE
from gateway.api.frame import CLOSE, PROBLEM_TYPE, Receive, Scope, Send, request_id_of
from gateway.api.problems import Problem, build_body
from gateway.api.quick import Quick, QuickDoor
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger

log = get_logger(__name__)

MAX_HEAD_BYTES = 16_384
MAX_HEADERS = 100
MAX_FRAMING = 65_536  # octets around a chunked body, and half of the body's
HEAD_TIMEOUT_S = 10.0
ALL_OF_THEM = 1 << 60  # connections to end: more than there can ever be
_SWEEP_S = 1.0

_PATH = b"/v1/messages"
_VERSIONS = ("1.0", "1.1")
_NO_VERSION_YET = "0.0"  # the parser's, before it has read one
_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in http.HTTPStatus}


class _QuickCycle:
    """What uvicorn's protocol asks of the request that is under way."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "quick", "response_complete")

    def __init__(self, quick: Quick, *, keep_alive: bool) -> None:
        self.quick = quick
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.message_event = _Deaf


class _Deaf:
    """An event nobody waits for."""

    @staticmethod
    def set() -> None:
        """Nothing to do."""


class Connections:
    """What the connections of one worker share: how many there may be, who is too slow."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.to_end = 0  # so many end with their next answer; ALL_OF_THEM when the worker leaves
        self.heads: dict[GatewayHttp, float] = {}  # whose head is not whole, and since when
        self._is_sweeping = False

    def end_some(self, count: int) -> None:
        """Let so many connections end with their next answer, instead of those asked before."""
        if self.to_end < ALL_OF_THEM // 2:
            self.to_end = count

    def begin(self, connection: GatewayHttp) -> None:
        """A head is awaited; a sweep a second costs less than a timer a request."""
        self.heads[connection] = time.monotonic()
        if not self._is_sweeping:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def end(self, connection: GatewayHttp) -> None:
        """The head is whole, or the connection is gone."""
        self.heads.pop(connection, None)

    def _sweep(self) -> None:
        before = time.monotonic() - HEAD_TIMEOUT_S
        for connection in [who for who, since in self.heads.items() if since < before]:
            del self.heads[connection]
            connection.close_slow()
        self._is_sweeping = bool(self.heads)
        if self._is_sweeping:
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)


class _HeadTooLargeError(Exception):
    """Ends the parsing of a request whose head is over the limit."""


class _BadHeadError(Exception):
    """Ends the parsing of a request whose first line is none of HTTP/1.0 or HTTP/1.1."""


def _shown(transport: asyncio.BaseTransport) -> str | None:
    """The SHA-256 of the certificate that the client showed and TLS has verified."""
    sealed = transport.get_extra_info("ssl_object")
    shown = None if sealed is None else sealed.getpeercert(binary_form=True)
    return None if shown is None else hashlib.sha256(shown).hexdigest()


class GatewayHttp(HttpToolsProtocol):
    """uvicorn's protocol; `door` is the short way."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        door: QuickDoor,
        shared: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._door = door
        self._shared = shared
        self._waiting: list[bytes] | None = None  # the body of a request that may go the short way
        self._head_bytes = 0
        self._head_read = 0  # octets read while the head was not whole
        self._body_octets = 0  # of the body under way
        self._framing = 0  # octets read for it that were none of it
        self._refusal: tuple[str, str] | None = None  # said after the answers that are owed
        self._is_head = True  # headers after it are trailers
        self._is_whole = True  # the newest request has arrived to its end
        self._plain_head: bytes | None = None  # the head that asked for an upgrade, without that
        self._certificate: str | None = None  # the SHA-256 of what the client showed
        self._app = self.app
        self.app = self._run_app

    def connection_made(  # type: ignore[override]  # uvicorn's own annotation
        self, transport: asyncio.Transport
    ) -> None:
        """Take the connection, unless there are too many."""
        super().connection_made(transport)
        self._certificate = _shown(transport)
        if len(self.connections) > self._shared.limit:
            self._refuse("shed.connections", "The gateway holds as many connections as it can.")
        else:
            self._shared.begin(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._shared.end(self)
        super().connection_lost(exc)

    def close_slow(self) -> None:
        """Its head, or the rest of a body that was answered early, did not come in time."""
        if not self.transport.is_closing():
            self._refuse("request.slow", "The head of the request did not arrive within 10 s.")

    # -- leaving ---------------------------------------------------------------------------

    def is_busy(self) -> bool:
        """Whether a request, or a part of one, is here that has no answer yet."""
        cycle = self.cycle
        is_owed = cycle is not None and not cycle.response_complete
        return is_owed or not self._is_whole or bool(self.pipeline) or bool(self._unread())

    def _unread(self) -> int:
        """Octets that have arrived and that we have not read yet."""
        wire = self.transport.get_extra_info("socket")
        if wire is None or self.transport.is_closing():
            return 0
        try:
            told = fcntl.ioctl(wire.fileno(), termios.FIONREAD, bytes(4))
        except OSError:
            return 0
        return int(struct.unpack("i", told)[0])

    def give_up(self) -> None:
        """End a connection whose request has not arrived in time; nothing of it was done."""
        cycle = self.cycle
        has_answer = cycle is not None and not isinstance(cycle, _QuickCycle)
        if has_answer and cycle.response_started and not cycle.response_complete:
            return
        if not self._is_whole and not self.transport.is_closing():
            self._refuse("shed.draining", "This process is shutting down; another one takes over.")

    def _ends_here(self) -> bool:
        """Whether the answer that goes out now is this connection's last.

        Not while more of a request is here: RFC 9112 section 9.6 has us drop what follows.
        """
        shared = self._shared
        if shared.to_end <= 0 or self.pipeline or not self._is_whole or self._unread():
            return False
        shared.to_end -= 1
        return True

    # -- parser callbacks ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Keep only what the short way needs; the rest is made when it is needed."""
        self._waiting = None
        self._head_bytes = 0
        self._is_head = True
        self._is_whole = False
        self._framing = self._body_octets = 0
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_url(self, url: bytes) -> None:
        """Count the request line."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; what comes after the body is a trailer and no header (RFC 9110 6.5.1)."""
        self._count_head(len(name) + len(value) + 4)
        if self._is_head:
            super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            raise _HeadTooLargeError

    def on_headers_complete(self) -> None:
        """Decide which way this request may go."""
        # The parser takes HTTP/0.9 and HTTP/2.0 too, and a fragment, which no request has.
        if self.parser.get_http_version() not in _VERSIONS or b"#" in self.url:
            raise _BadHeadError
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._plain_head = self._without_upgrade()
            return
        self._is_head = False
        self._head_read = 0
        self._shared.end(self)
        cycle = self.cycle
        if (
            self.url == _PATH
            and (cycle is None or cycle.response_complete)
            and not self.pipeline
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
        ):
            self._waiting = []
            return
        self._go_the_long_way()

    def on_body(self, body: bytes) -> None:
        """Collect a body that may go the short way."""
        self._body_octets += len(body)
        self._framing -= len(body)
        if self._waiting is None:
            super().on_body(body)
        else:
            self._waiting.append(body)

    def on_message_complete(self) -> None:
        """The request is whole: try the short way."""
        if self._plain_head is not None:
            return
        self._is_whole = True
        parts = self._waiting
        if parts is None:
            super().on_message_complete()
            return
        quick = self._take(parts[0] if len(parts) == 1 else b"".join(parts))
        if quick is None:
            self._long_way_after_all()
            super().on_message_complete()
            return
        self._waiting = None
        cycle = _QuickCycle(quick, keep_alive=self.parser.should_keep_alive())
        self.cycle = cycle  # type: ignore[assignment]  # it has what the protocol looks at
        quick.stored.add_done_callback(lambda _: self._answer(cycle))

    def on_response_complete(self) -> None:
        """An answer is out; a body that still drips in has only the time of a head left."""
        is_last = not self.pipeline  # else the next one has begun now
        super().on_response_complete()
        if self._refusal is not None:
            if is_last:
                self._say_and_close(*self._refusal)
        elif not self._is_whole and not self.transport.is_closing():
            self._shared.begin(self)

    def data_received(self, data: bytes) -> None:
        """Parse; what is not whole by the end of this read goes to the door with time limits."""
        if self._refusal is not None:
            return
        shared = self._shared
        if self._is_whole and self not in shared.heads:
            shared.begin(self)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self.transport.is_closing() or self._refusal is not None:
            return
        if self in shared.heads:  # the head goes on: one endless header has no callback of its own
            self._head_read += len(data)
            if self._head_read > MAX_HEAD_BYTES:
                self._head_bytes = self._head_read
                self.send_400_response("")
            return
        if not self._is_whole:
            self._count_framing(len(data))
        if self._waiting is not None and not self.transport.is_closing():
            self._long_way_after_all()

    def _count_framing(self, octets: int) -> None:
        """Chunk sizes, extensions and trailers: the parser keeps an endless one without a word."""
        self._framing += octets
        if self._framing > MAX_FRAMING + self._body_octets // 2:
            self.send_400_response("")

    def _parse(self, data: bytes) -> None:
        """Feed the parser, with a request that asks for an upgrade as if it had not."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                head, self._plain_head = self._plain_head, None
                if head is not None:
                    data = head + data[upgrade.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    continue
            except httptools.HttpParserError:
                self.send_400_response("")
            return

    def _without_upgrade(self) -> bytes:
        """The head that was just read, as it would be without its `Upgrade`."""
        parser = self.parser
        version = parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def send_400_response(self, msg: str) -> None:
        """uvicorn's word for a request it cannot parse: ours is a problem document."""
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers or ()) >= MAX_HEADERS:
            self._refuse("header.too_large", "The head is over 16 KiB or has over 100 headers.")
        elif self.parser.get_http_version() not in (_NO_VERSION_YET, *_VERSIONS):
            self._refuse("request.version", "The request says another version than HTTP/1.1.")
        else:
            self._refuse("request.malformed", "The request is not HTTP/1.1 as RFC 9112 has it.")

    def _refuse(self, code: str, detail: str) -> None:
        """Answer outside of any request, and close; after the answers to what came before it."""
        self._shared.end(self)
        if not self._is_owed():
            self._say_and_close(code, detail)
        elif self._refusal is None:
            self._refusal = code, detail
            if self.pipeline and not self._is_whole and not self._is_head:
                self.pipeline.popleft()  # the wrong request itself

    def _is_owed(self) -> bool:
        """Whether a request before the one that is being read has no answer yet."""
        if self.pipeline:
            return True
        is_own = not self._is_whole and not self._is_head and self._waiting is None
        return self.cycle is not None and not self.cycle.response_complete and not is_own

    def _say_and_close(self, code: str, detail: str) -> None:
        problem = Problem(code, detail)
        request_id = request_id_of({})
        body = build_body(problem, request_id)
        headers = [PROBLEM_TYPE, (b"x-request-id", request_id.encode()), CLOSE]
        self._door.refused(code)
        if not self.transport.is_closing():
            self.transport.write(_build(problem.status, headers, body))
            self.transport.close()

    # -- the short way ---------------------------------------------------------------------

    def _take(self, body: bytes) -> Quick | None:
        try:
            return self._door.take(self.headers, body, self.client)
        except Exception:  # whatever it is, the long way meets it again and answers 500
            log.exception("short way failed")
            self._door.crashed()
            return None

    def _answer(self, cycle: _QuickCycle) -> None:
        """The commit is done, or refused: write the answer in one piece."""
        if cycle.quick.stored.cancelled():
            self.transport.close()
            return
        status, headers, body = cycle.quick.answer()
        cycle.response_complete = True
        if cycle.disconnected:
            return
        is_last = not cycle.keep_alive or self._ends_here()
        if is_last:
            headers.append(CLOSE)
        self.transport.write(_build(status, (*self.server_state.default_headers, *headers), body))
        if status == 202 and failpoints.is_armed:
            failpoints.hit_soon("door.answered")
        if is_last:
            self.transport.close()
        self.on_response_complete()

    # -- the long way ----------------------------------------------------------------------

    async def _run_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app; its answer may be told to be the connection's last."""

        async def last_or_not(event: Scope) -> None:
            if event["type"] == "http.response.start" and self._ends_here():
                event["headers"] = [*event.get("headers", ()), CLOSE]
            await send(event)

        if self._certificate is not None:
            scope[CERTIFICATE] = self._certificate
        await self._app(scope, receive, last_or_not)

    def _go_the_long_way(self) -> None:
        headers = self.headers
        url, expects = self.url, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)  # the list that stands in the scope
        super().on_headers_complete()

    def _long_way_after_all(self) -> None:
        parts, self._waiting = self._waiting or [], None
        self._go_the_long_way()
        for part in parts:
            super().on_body(part)


def _build(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """One whole answer as bytes."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (
        _LINES[status],
        b"".join(lines),
        len(body),
        body,
    )
