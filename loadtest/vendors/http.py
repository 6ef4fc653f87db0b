"""A vendor's HTTP/1.1 side: requests parsed by httptools, answered in the order they came.

A framework would cost more than the answer: the vendor must not be what a bench measures.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Final, NamedTuple, cast

from httptools import HttpParserError, HttpRequestParser

PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}


class Asked(NamedTuple):
    """A whole request."""

    method: str
    target: str  # path and query as they came
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        """Without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What stands behind the question mark, as it came."""
        return self.target.partition("?")[2]


class Answer(NamedTuple):
    """What is answered."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Take = Callable[[Asked, Callable[[Answer], None]], None]


class Connection(asyncio.Protocol):
    """One client's socket; `take` gets each request and the way to answer it, once."""

    def __init__(self, take: Take, connections: set[Connection]) -> None:
        self.transport: asyncio.Transport | None = None
        self._take = take
        self._connections = connections
        self._parser = HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        # Answers in the order of their requests; None = not known yet.
        self._answers: deque[list[bytes | None]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: a client is there."""
        # a cast, because uvloop's transports are no subclass of asyncio's
        self.transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is gone; what is answered now goes nowhere."""
        self.transport = None
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes of a request."""
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            if self.transport is not None:
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                self.transport.close()

    # -- httptools -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        """httptools: a part of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: one header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """httptools: a part of its body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """httptools: it is whole."""
        method = self._parser.get_method().decode()
        target = self._url.decode("latin-1")
        place: list[bytes | None] = [None]
        self._answers.append(place)
        asked = Asked(method, target, self._headers, b"".join(self._body))
        self._take(asked, partial(self._answer, place))

    def _answer(self, place: list[bytes | None], answer: Answer) -> None:
        place[0] = written(answer)
        ready = []
        while self._answers and (known := self._answers[0][0]) is not None:
            ready.append(known)
            self._answers.popleft()
        if ready and self.transport is not None:
            self.transport.write(b"".join(ready))


def written(answer: Answer) -> bytes:
    """An answer on the wire."""
    more = "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
    head = (
        f"HTTP/1.1 {answer.status} {PHRASES.get(answer.status, 'Other')}\r\n"
        f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n{more}\r\n"
    )
    return head.encode("latin-1") + answer.body
