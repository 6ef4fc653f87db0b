"""A load balancer for connections: new ones go to nodes that are ready, open ones stay.

It looks at /readyz as a balancer does and does nothing for a client that goes wrong: a node that
refuses a connection while it calls itself ready, or cuts one, is the client's error.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import aiohttp

LOOK_S: Final = 0.2
READ: Final = 1 << 16


class Front:
    """One listening port in front of the same port of several nodes."""

    def __init__(self) -> None:
        self.ready: list[int] = []  # ports of nodes that take new connections
        self.port = 0
        self.taken: Counter[int] = Counter()  # connections by port
        self.fails_open = False  # while nobody is ready, whoever was so last gets them
        self.refused: list[int] = []  # ports that were ready and refused
        self.homeless = 0  # connections that came while no node was ready
        self._turn = itertools.count()
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._server = await asyncio.start_server(self._taken, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more, cut what is open."""
        if self._server is not None:
            self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def now_ready(self, ports: list[int]) -> None:
        """These take new connections from now on."""
        async with self._changed:
            self.ready = ports or (self.ready if self.fails_open else [])
            self._changed.notify_all()

    async def becomes_ready(self, port: int) -> None:
        """Wait until that one does."""
        async with self._changed:
            await self._changed.wait_for(lambda: port in self.ready)

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._links.add(task)
            task.add_done_callback(self._links.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await self._link(reader, writer)
        writer.close()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.ready:
            self.homeless += 1
            return
        port = self.ready[next(self._turn) % len(self.ready)]
        self.taken[port] += 1
        try:
            node_reader, node_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            self.refused.append(port)
            return
        ways = (_pump(reader, node_writer), _pump(node_reader, writer))
        try:
            # when one side has ended the other has nothing to wait for
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            node_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(READ):
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def watched(
    nodes: Callable[[], Sequence[tuple[str, Sequence[int]]]], fronts: Sequence[Front]
) -> AsyncIterator[None]:
    """Keep the fronts told of who is ready.

    `nodes`: admin URL and, for each front, the port of every node there is at this moment.
    """
    timeout = aiohttp.ClientTimeout(total=1.0)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http:

        async def look() -> None:
            while True:
                there = list(nodes())
                answers = await asyncio.gather(*(_is_ready(http, url) for url, _ in there))
                for place, front in enumerate(fronts):
                    await front.now_ready(
                        [
                            ports[place]
                            for (_, ports), is_ready in zip(there, answers, strict=True)
                            if is_ready
                        ]
                    )
                await asyncio.sleep(LOOK_S)

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _is_ready(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}/readyz") as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
