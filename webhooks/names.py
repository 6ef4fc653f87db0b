"""Addresses of endpoints' names, so that names nobody answers for do not stop everybody else's.

    asked before, answered ─▶ known threads ─┐
    never asked            ─▶ new threads   ─┼─▶ getaddrinfo
    did not answer in time ─▶ slow threads  ─┘   one question per name at a time

getaddrinfo cannot be ended: a name server that is silent holds a thread for up to half a minute.
One name therefore holds at most one thread, and of a kind of its own once it was late. A name that
has answered lately is served from memory when its new answer takes too long; that is safe, for
what may be called is decided on the final socket address.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

KNOWN_THREADS: Final = 16
NEW_THREADS: Final = 32
SLOW_THREADS: Final = 8
OLD_AFTER_S: Final = 0.5  # then a name's last addresses are used …
OLD_UNTIL_S: Final = 600.0  # … unless they are older than this
MOST_NAMES: Final = 10_000  # kept; more only cost a new look-up

Address = tuple[socket.AddressFamily, int, str]  # family, protocol, numeric address
Ask = Callable[[str, int, socket.AddressFamily, socket.SocketKind], list[Any]]
Question = Callable[[], list[Any]]


class _Threads:
    """At most so many threads, made when needed, that the end of the process does not wait for.

    It does for those of a ThreadPoolExecutor, for as long as their name server is silent.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._count = 0
        self._idle = threading.Semaphore(0)
        self._work: queue.SimpleQueue[tuple[Future[list[Any]], Question] | None] = (
            queue.SimpleQueue()
        )

    def ask(self, question: Question) -> Future[list[Any]]:
        """Its answer, once a thread is free for it."""
        future: Future[list[Any]] = Future()
        self._work.put((future, question))
        if not self._idle.acquire(blocking=False) and self._count < self._most:
            self._count += 1
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    def _run(self) -> None:
        while (one := self._work.get()) is not None:
            future, question = one
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(question())
                except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
                    future.set_exception(error)
            self._idle.release()

    def close(self) -> None:
        """Ask no more; idle threads end."""
        with contextlib.suppress(queue.Empty):
            while True:
                if (one := self._work.get_nowait()) is not None:
                    one[0].cancel()
        for _ in range(self._count):
            self._work.put(None)


class _Name:
    """What is known of one name."""

    __slots__ = ("addresses", "asking", "found_at", "is_slow")

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.found_at = 0.0  # monotonic
        self.asking: asyncio.Future[list[Any]] | None = None
        self.is_slow = False  # the last question was not answered in time


class Names(AbstractResolver):
    """aiohttp's resolver; its connectors keep each answer for half a minute above this."""

    def __init__(
        self,
        timeout_s: float,
        ask: Ask | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s = timeout_s
        self._ask: Ask = ask or _ask_system
        self._monotonic = monotonic
        self._names: dict[str, _Name] = {}
        self._known = _Threads(KNOWN_THREADS, "webhook-names")
        self._new = _Threads(NEW_THREADS, "webhook-new-names")
        self._slow = _Threads(SLOW_THREADS, "webhook-slow-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name; raises OSError, TimeoutError among them."""
        addresses = await self._look_up(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, protocol, address in addresses
            if family in (socket.AF_UNSPEC, kind)
        ]

    async def _look_up(self, host: str) -> list[Address]:
        name = self._names.get(host)
        if name is None:
            self._forget_old()
            name = self._names[host] = _Name()
        if name.asking is None:
            self._begin(host, name)
        asking = name.asking
        assert asking is not None  # noqa: S101 - begun above
        has_old = bool(name.addresses) and self._monotonic() < name.found_at + OLD_UNTIL_S
        try:
            async with asyncio.timeout(OLD_AFTER_S if has_old else self._timeout_s):
                await asyncio.shield(asking)
        except TimeoutError:
            name.is_slow = True
            if not has_old:
                raise
        except socket.gaierror as error:
            if not has_old or error.errno != socket.EAI_AGAIN:
                raise
        return name.addresses

    def _begin(self, host: str, name: _Name) -> None:
        """Ask, in a thread of the kind that the name has earned."""
        pool = self._new
        if name.is_slow:
            pool = self._slow
        elif name.addresses:
            pool = self._known
        question = partial(self._ask, host, 0, socket.AF_UNSPEC, socket.SOCK_STREAM)
        name.asking = asyncio.wrap_future(pool.ask(question))

        def answered(future: asyncio.Future[list[Any]]) -> None:
            name.asking = None
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                name.is_slow = False
                name.found_at = self._monotonic()
                name.addresses = [
                    (kind, protocol, str(address[0]))
                    for kind, _, protocol, _, address in future.result()
                ]
            elif not isinstance(error, socket.gaierror) or error.errno != socket.EAI_AGAIN:
                name.addresses = []  # it is gone, not only away

        name.asking.add_done_callback(answered)

    def _forget_old(self) -> None:
        if len(self._names) < MOST_NAMES:
            return
        before = self._monotonic() - OLD_UNTIL_S
        self._names = {
            host: name
            for host, name in self._names.items()
            if name.asking is not None or name.found_at > before
        }

    async def close(self) -> None:
        """End; threads that wait for an answer end with the process."""
        for pool in (self._known, self._new, self._slow):
            pool.close()


def _ask_system(
    host: str, port: int, family: socket.AddressFamily, kind: socket.SocketKind
) -> list[Any]:
    return socket.getaddrinfo(host, port, family, kind)
