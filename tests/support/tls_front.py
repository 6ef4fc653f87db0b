"""TLS before a real server that has none built in: PostgreSQL's way of asking for it, or at once.

What is behind is the embedded server on its Unix socket; what is before it is OpenSSL. Everything
that came in clear is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import warnings
from pathlib import Path
from typing import Self

from tests.support.certificates import Authority, Made

SSL_REQUEST = struct.pack(">ii", 8, 80877103)  # PostgreSQL manual, 54.7


def server_context(made: Made, folder: Path, client_ca: str = "") -> ssl.SSLContext:
    """A server's, with this certificate; it asks for a client's where `client_ca` is given."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.file(folder / "server.pem"))
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca)
    return context


def old_context(made: Made, folder: Path) -> ssl.SSLContext:
    """One of a server that was last looked after in 2017: TLS 1.1 at most."""
    context = server_context(made, folder)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def unusable_contexts(authority: Authority, folder: Path) -> dict[str, ssl.SSLContext]:
    """What no client of ours may speak to as localhost, by what is wrong with it."""
    good = authority.issue("localhost")
    return {
        "another authority": server_context(Authority("another").issue("localhost"), folder),
        "another name": server_context(authority.issue("db.example"), folder),
        "expired": server_context(authority.issue("localhost", days=-1), folder),
        "TLS 1.1": old_context(good, folder),
    }


class TlsFront:
    """`async with`; `port` is where it listens, `context` None: it has no TLS."""

    def __init__(self, behind: Path, *, is_postgres: bool = False) -> None:
        self._behind, self._is_postgres = behind, is_postgres
        self.context: ssl.SSLContext | None = None
        self.sealed = 0  # connections whose handshake was done
        self.in_clear = 0  # connections that went on without one
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._take, "localhost", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, EOFError):
            try:
                await self._serve(reader, writer)
            finally:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = b""
        is_asked = not self._is_postgres
        if self._is_postgres:
            first = await reader.readexactly(8)
            if first == SSL_REQUEST:
                writer.write(b"N" if self.context is None else b"S")
                await writer.drain()
                first, is_asked = b"", True
        if is_asked and self.context is not None:
            if self.context.maximum_version == ssl.TLSVersion.TLSv1_1:
                await _refuse(self.context, reader, writer)
                return
            await writer.start_tls(self.context)
            self.sealed += 1
        elif first or await self._says_more(reader):
            self.in_clear += 1
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._behind))
        far_writer.write(first)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, far_writer))
                group.create_task(_carry(far_reader, writer))
        finally:
            far_writer.close()

    async def _says_more(self, reader: asyncio.StreamReader) -> bool:
        """Whether it goes on after our "N"."""
        return bool(await reader.read(1))


async def _refuse(
    context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Say no to a handshake as OpenSSL does; asyncio closes before its alert has left."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    own = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(await reader.read(65536))
    with contextlib.suppress(ssl.SSLError):
        own.do_handshake()
    writer.write(outgoing.read())
    await writer.drain()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
