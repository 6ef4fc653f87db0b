"""uvicorn's HTTP protocol with head and body of an answer in one write.

uvicorn writes the head of an answer when it starts and the body when it comes: two system calls
and two packets for every 202, measured as a seventh of a worker's time at single sends. Here the
head waits for the body that the same turn of the loop brings.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    _Transport = asyncio.Transport
else:
    _Transport = object  # a plain stand-in: what it does not change goes to the real transport

_HEAD = b"HTTP/1."


class _Corked(_Transport):
    """A transport that keeps an answer's head until the next write or the next loop turn."""

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: Any) -> None:  # noqa: ANN401 (as asyncio's own)
        """Join a waiting head and this body; keep a head that comes alone."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data[:7] == _HEAD:
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            if not self._transport.is_closing():
                self._transport.write(data)

    def close(self) -> None:
        """Close after what waits was written."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the transport has)
        return getattr(self._transport, name)


class CorkedHttp(HttpToolsProtocol):
    """uvicorn's protocol over a corked transport."""

    def connection_made(  # type: ignore[override]  # uvicorn's own annotation
        self, transport: asyncio.Transport
    ) -> None:
        """Take the connection as uvicorn does, with our transport round it."""
        super().connection_made(_Corked(transport, asyncio.get_running_loop()))
