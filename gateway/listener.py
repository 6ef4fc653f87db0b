"""Takes new connections from a listening socket, several a turn of the event loop.

uvloop takes one a turn. Under load a turn lasts tens of milliseconds, and whoever connects then
waits for seconds while those who came before are served: 500 clients 8 s, seen at three times the
capacity. Some a turn, not all: the other workers listen on the same socket.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final

from telemetry.logs import get_logger

EACH: Final = 16  # connections a turn
_PAUSE_S: Final = 0.5  # when the process has no descriptor left
_HANDSHAKE_S: Final = 10.0  # of TLS, as long as a request's head may take
# Of TLS at a time. One too many ends the one that has waited longest: silent connections push each
# other out, and who speaks has it behind him in milliseconds.
HANDSHAKES: Final = 1024
_FULL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = get_logger(__name__)


class Listener:
    """One socket; what uvicorn and our drain ask of an `asyncio.Server`."""

    def __init__(
        self,
        listening: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        """`listening` is non-blocking and stays the caller's to close.

        `tls` is asked at each connection: a certificate may have been replaced meanwhile.
        """
        self._socket = listening
        self._make_protocol = make_protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        # Until their protocol has them; the oldest first.
        self._taking: dict[asyncio.Task[None], None] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._is_open = True
        self._look()

    def close(self) -> None:
        """Take no more; what was taken goes on."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._socket.fileno())
            if self._pause is not None:
                self._pause.cancel()

    def is_taking(self) -> bool:
        """Whether a connection was taken that has no protocol yet."""
        return bool(self._taking)

    async def wait_closed(self) -> None:
        """Until each connection that was taken has its protocol, handshakes of TLS included."""
        while self._taking:
            await asyncio.wait(self._taking)

    def _look(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._socket.fileno(), self._take_some)

    def _take_some(self) -> None:
        for _ in range(EACH):
            try:
                taken, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._failed(error)
                return
            taken.setblocking(False)
            task = self._loop.create_task(self._hand_over(taken))
            self._taking[task] = None
            task.add_done_callback(self._taken)
            if self._tls and len(self._taking) > HANDSHAKES:
                oldest = next(iter(self._taking))
                del self._taking[oldest]
                oldest.cancel()

    def _taken(self, task: asyncio.Task[None]) -> None:
        self._taking.pop(task, None)

    def _failed(self, error: OSError) -> None:
        """Without a free descriptor the socket stays readable: looking again at once would spin."""
        if error.errno in _FULL:
            log.error("no connection can be taken", error=error.strerror)
            self._loop.remove_reader(self._socket.fileno())
            self._pause = self._loop.call_later(_PAUSE_S, self._look)

    async def _hand_over(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                taken,
                ssl=self._tls() if self._tls else None,
                ssl_handshake_timeout=_HANDSHAKE_S if self._tls else None,
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            log.debug("a connection ended before its first request", error=type(error).__name__)
            taken.close()
