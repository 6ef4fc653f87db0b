"""A proxy on PostgreSQL's own socket that loses one COMMIT (DESIGN decision 4: adopt or forget).

    worker ─▶ .s.PGSQL.5432 (ours) ─▶ .s.PGSQL.5432.real (moved aside) ─▶ PostgreSQL

It is put in place while everything runs: the socket is renamed, the gateway's connections are
ended, and those that come instead pass through here. It reads the messages of the protocol just
far enough to know which table a COPY fills and when its commit is confirmed (PostgreSQL manual
54.7).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

SOCKET: Final = ".s.PGSQL.5432"
REAL: Final = ".s.PGSQL.5432.real"
READ: Final = 1 << 16
_HEAD: Final = struct.Struct(">cI")
_LENGTH: Final = struct.Struct(">I")
_ENCRYPTION: Final = (struct.pack(">I", 80877103), struct.pack(">I", 80877104))  # TLS, GSSAPI


class Cut(StrEnum):
    """Where the connection breaks."""

    ANSWER = "answer"  # it commits, and nobody hears of it
    REQUEST = "request"  # the end of the COPY never arrives
    SENT = "sent"  # everything arrived; we are gone before the answer, the server's side stays


class Messages:
    """Cuts a stream into the protocol's messages, of type and length; bytes in, messages out."""

    def __init__(self, *, has_startup: bool) -> None:
        self._data = b""
        self._has_startup = has_startup  # the first packet of a client has no type

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """(type, whole message) of everything complete by now; the startup packet's type is empty.

        All bytes come out again, in order; an incomplete message waits.
        """
        self._data += data
        found: list[tuple[bytes, bytes]] = []
        while True:
            kind, size = self._next()
            if not size or len(self._data) < size:
                return found
            found.append((kind, self._data[:size]))
            self._data = self._data[size:]

    def _next(self) -> tuple[bytes, int]:
        if self._has_startup:
            if len(self._data) < _LENGTH.size:
                return b"", 0
            (size,) = _LENGTH.unpack_from(self._data)
            if len(self._data) >= size:
                self._has_startup = False
            return b"", size
        if len(self._data) < _HEAD.size:
            return b"", 0
        kind, length = _HEAD.unpack_from(self._data)
        return kind, 1 + length


class Cutter:
    """One proxy; `cut` once it is in place."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / SOCKET
        self._real = run_dir / REAL
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: tuple[str, Cut] | None = None
        self._done: asyncio.Future[float] | None = None
        self._connections = 0
        self._came = asyncio.Condition()

    async def __aenter__(self) -> Cutter:
        self._path.rename(self._real)
        before = os.umask(0o077)
        try:
            self._server = await asyncio.start_unix_server(self._serve, path=self._path)
        finally:
            os.umask(before)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the socket back; connections that are there pass on until they end."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(FileNotFoundError):  # PostgreSQL may have started anew since
            self._real.rename(self._path)

    async def close(self) -> None:
        """End the connections that still pass through."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    async def has_connections(self, count: int, timeout_s: float) -> None:
        """Until so many pass through; raises TimeoutError."""
        async with asyncio.timeout(timeout_s), self._came:
            await self._came.wait_for(lambda: self._connections >= count)

    async def cut(self, table: str, how: Cut, timeout_s: float) -> float:
        """Break the next COPY into that table; when it happened (Unix). Raises TimeoutError."""
        self._done = asyncio.get_running_loop().create_future()
        self._wanted = table, how
        try:
            async with asyncio.timeout(timeout_s):
                return await self._done
        finally:
            self._wanted = None

    def _take(self, table: str, *hows: Cut) -> bool:
        if self._wanted is None or self._wanted[0] != table or self._wanted[1] not in hows:
            return False
        self._wanted = None
        if self._done is not None and not self._done.done():
            self._done.set_result(time.time())
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._real)
        except OSError:
            writer.close()
            return
        async with self._came:
            self._connections += 1
            self._came.notify_all()
        one = _Connection(self._take, writer, up_writer)
        for pump in (one.pump(reader, one.asked), one.pump(up_reader, one.told)):
            task = asyncio.get_running_loop().create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


class _Connection:
    """One client's connection and its other half."""

    def __init__(
        self,
        take: Callable[..., bool],
        client: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
    ) -> None:
        self._take = take
        self._client = client
        self._server = server
        self._asked = Messages(has_startup=True)
        self._told = Messages(has_startup=False)
        self._table = ""
        self._is_deaf = False  # the client is gone, the server does not know
        self._is_raw = False  # it began with a question about encryption: one byte answers that

    async def pump(
        self, reader: asyncio.StreamReader, act: Callable[[bytes], Awaitable[bool]]
    ) -> None:
        """Carry one direction until it ends or `act` says so."""
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(READ):
                    if not await act(data):
                        break
        except asyncio.CancelledError:
            self._is_deaf = False  # the end of the proxy itself
            raise
        finally:
            if not self._is_deaf:
                self._client.transport.abort()
                self._server.transport.abort()

    async def asked(self, data: bytes) -> bool:
        """From the client: note the table of a COPY; lose its end when that is wanted."""
        for kind, message in [(b"", data)] if self._is_raw else self._asked.feed(data):
            if not kind and message[4:8] in _ENCRYPTION:
                self._is_raw = True
            if kind == b"Q":
                _, is_copy, rest = message.rpartition(b"COPY ")
                self._table = rest.split(None, 1)[0].decode() if is_copy else ""
            if kind == b"c" and self._take(self._table, Cut.REQUEST):
                return False
            self._server.write(message)
            if kind == b"c" and self._take(self._table, Cut.SENT):
                self._is_deaf = True
                await self._server.drain()
                self._client.transport.abort()
                return False
        await self._server.drain()
        return True

    async def told(self, data: bytes) -> bool:
        """From the server: swallow the confirmation of a COPY when that is wanted."""
        for kind, message in [(b"", data)] if self._is_raw else self._told.feed(data):
            is_end = kind == b"C" and message[_HEAD.size :].startswith(b"COPY ")
            if is_end and self._take(self._table, Cut.ANSWER):
                return False
            if not self._is_deaf:
                self._client.write(message)
        if not self._is_deaf:
            await self._client.drain()
        return True
