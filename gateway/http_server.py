"""The HTTP server of one worker, and how it leaves without cutting off a request.

    begin_drain      each answer is its connection's last ("Connection: close"); new ones are taken
    stop_accepting   new ones wait in the socket's queue for another worker, or for the next one
    answer_busy      who has a request under way gets its answer
    close_idle       who has none is closed, last of all

What remains is one moment: a client that sends on an idle connection while our FIN is on its way.
HTTP/1.1 knows no remedy for it, so idle connections are kept as long as the drain lasts, what came
in on them is answered, and a connection with unread octets is never closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import uvicorn

from gateway.api.app import build_doors
from gateway.api.port import FlowPort
from gateway.descriptors import connection_limit, descriptors
from gateway.http_protocol import ALL_OF_THEM, Connections, GatewayHttp
from gateway.listener import Listener
from gateway.server_tls import ServerTls
from gateway.settings import Settings
from telemetry.logs import get_logger

log = get_logger(__name__)

BACKLOG = 2048
KEEP_ALIVE_S = 75
_LOOK_S = 0.02
_LAST_WORDS_S = 1  # after the drain: whoever is still there is cancelled


def build_server(settings: Settings, flow: FlowPort, tls: ServerTls | None) -> HttpServer:
    """The server of one worker on the sockets it inherited; not started. `tls` None: plain HTTP."""
    app, door = build_doors(flow)
    shared = Connections(connection_limit(descriptors()))
    config = uvicorn.Config(
        app,
        http=partial(GatewayHttp, door=door, shared=shared),  # type: ignore[arg-type]  # called like a class
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_WORDS_S,
    )
    return HttpServer(config, shared, settings.listen_fds, tls)


class HttpServer(uvicorn.Server):
    """uvicorn that leaves in steps; without its signal handlers, the worker has its own."""

    def __init__(
        self,
        config: uvicorn.Config,
        shared: Connections,
        fds: Sequence[int],
        tls: ServerTls | None = None,
    ) -> None:
        super().__init__(config)
        self._context = None if tls is None else tls.context
        self.servers: list[Listener] = []  # type: ignore[assignment]  # all that it asks of them
        self._shared = shared
        # Taken over, not copied: when they are closed nothing of this process listens any more.
        self._sockets = [socket.socket(fileno=fd) for fd in fds]
        self._ended: list[asyncio.Task[None]] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the worker."""
        yield

    async def serve_inherited(self) -> None:
        """Serve until `should_exit`."""
        await self.serve(self._sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, with listeners of ours."""
        await super().startup([])
        self.servers = [
            Listener(listening, self._protocol, self._context) for listening in sockets or []
        ]

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def connections(self) -> int:
        """Connections that are open now."""
        return len(self.server_state.connections)

    def spread(self, count: int) -> None:
        """End so many connections with their next answer: another worker has room for them."""
        self._shared.end_some(count)

    # -- leaving ---------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """From here on each answer is the last one on its connection."""
        self._shared.to_end = ALL_OF_THEM

    async def stop_accepting(self) -> None:
        """Leave new connections in the socket's queue; the open ones go on."""
        for server in self.servers:
            server.close()
        self._ended = [asyncio.create_task(server.wait_closed()) for server in self.servers]
        await asyncio.sleep(0)
        for listener in self._sockets:
            listener.close()

    async def answer_busy(self, timeout_s: float) -> bool:
        """Wait until no request is under way; False when the time was too short."""
        return await self._until(lambda: not self._busy(), timeout_s)

    async def let_stay(self, timeout_s: float) -> None:
        """Wait while connections are open: most clients close an idle one before we must."""
        await self._until(lambda: not self.connections(), timeout_s)

    async def close_idle(self, timeout_s: float) -> bool:
        """Answer what still comes, close who asks nothing; False when somebody is left."""

        def close_them() -> bool:
            for connection in self._open():
                if not connection.is_busy():
                    connection.transport.close()
            return not self._open() and all(task.done() for task in self._ended)

        return await self._until(close_them, timeout_s)

    def give_up(self) -> None:
        """Refuse those whose request has not arrived to its end."""
        for connection in self._busy():
            connection.give_up()

    async def end(self) -> None:
        """The end of all that is left: `serve_inherited` returns within two seconds."""
        left = len(self._busy())
        if left:
            log.warning("requests cut off: they did not end within the drain", connections=left)
        self.should_exit = True
        for task in self._ended:
            task.cancel()
        await asyncio.gather(*self._ended, return_exceptions=True)

    def _open(self) -> list[GatewayHttp]:
        # all of uvicorn's connections are ours: the config names the class
        return [c for c in self.server_state.connections if isinstance(c, GatewayHttp)]

    def _busy(self) -> list[GatewayHttp]:
        return [connection for connection in self._open() if connection.is_busy()]

    async def _until(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(_LOOK_S)
        return True
