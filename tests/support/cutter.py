"""A Unix-socket proxy in front of PostgreSQL that cuts a connection at a chosen moment."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from urllib.parse import urlsplit


class Cutter:
    """`cut` says when the next flush loses its connection.

    "request": its bytes never reach the server. "answer": the server commits and answers, the
    answer is swallowed. "sent": its bytes reach the server and the client is cut at once, the
    server's side is kept open, as when a network path dies.

    `mark` is what the bytes of the flush hold, `answer_mark` what the server's answer to it does.
    """

    def __init__(self, dsn: str, mark: bytes = b"COPY ", answer_mark: bytes | None = None) -> None:
        self.mark = mark
        self.answer_mark = answer_mark or mark
        parts = urlsplit(dsn)
        self._real = parts.query.removeprefix("host=") + "/.s.PGSQL.5432"
        self._folder = tempfile.TemporaryDirectory(prefix="cut-")
        self.dsn = f"postgresql://smsgw@{parts.path}?host={self._folder.name}".replace(
            "@/", "@/", 1
        )
        self.cut: str | None = None
        self.cuts = 0
        self.is_open = True
        self._kept: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Cutter:
        path = Path(self._folder.name) / ".s.PGSQL.5432"
        self._server = await asyncio.start_unix_server(self._serve, path=path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._kept:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self._folder.cleanup()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.close()
            return
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._real)
        except OSError:
            writer.close()
            return
        self._kept += [writer, up_writer]
        for pump in (
            self._requests(reader, writer, up_writer),
            self._answers(up_reader, writer, up_writer),
        ):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _requests(
        self, reader: asyncio.StreamReader, down: asyncio.StreamWriter, up: asyncio.StreamWriter
    ) -> None:
        while data := await self._read(reader):
            is_flush = self.mark in data
            if is_flush and self.cut == "request":
                self._count()
                break
            up.write(data)
            if is_flush and self.cut == "sent":
                self._count()
                await asyncio.sleep(0.2)
                down.transport.abort()
                return  # the server's side stays open
        down.transport.abort()
        up.transport.abort()

    async def _answers(
        self, reader: asyncio.StreamReader, down: asyncio.StreamWriter, up: asyncio.StreamWriter
    ) -> None:
        while data := await self._read(reader):
            if self.answer_mark in data and self.cut == "answer":
                self._count()
                break
            if not down.is_closing():
                down.write(data)
        down.transport.abort()
        up.transport.abort()

    def _count(self) -> None:
        self.cut = None
        self.cuts += 1

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(1 << 20)
        except OSError:
            return b""
