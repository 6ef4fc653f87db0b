"""The node's own answers: /healthz, /readyz and /metrics of all its processes in one.

    GET :8081/metrics ─▶ supervisor ─▶ run/worker-0.sock GET /snapshot ─▶ merge ─▶ render
                                    └▶ run/worker-1.sock …

The supervisor serves them on the admin port and on `run/supervisor.sock`, where a worker asks
when the public port is asked. A worker that does not answer in time counts with what it said last.
The socket alone, which only our own user reaches, also has /restart: how a rolling restart stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import ssl
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api.frame import refuse_secret_in_query
from gateway.api.problems import ProblemError, kind_of
from gateway.listener import Listener
from gateway.readiness import fold
from gateway.watchdog import Silence
from telemetry.metrics import CONTENT_TYPE, Metrics, Snapshot, lasting, merge, render

ASK_TIMEOUT_S = 1.0
HEAD_TIMEOUT_S = 10.0  # from the first silence to the end of a request's head
LONGEST_ANSWER = 16 * 1024 * 1024  # bytes
NO_ANSWER = (OSError, EOFError, asyncio.LimitOverrunError, ValueError)  # what `ask` may raise
EXCESS = 1.25  # times its share: what a worker holds beyond is spread
LEAST_EXCESS = 2  # connections; so few more do not matter
LEAST_LOAD = 0.3  # of a core: of two idle workers the same one would take them again
LOAD_OVER_S = 0.5  # a load is measured over so long at least
READY_TIMEOUT_S = 0.5  # for /readyz: a load balancer waits for a second or two
STARTING, SILENT = "is starting", "does not answer"
Scope = Mapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Mapping[str, Any]], Any]


@dataclass(slots=True)
class WorkerView:
    """What a worker said last, and what its predecessors in the slot had counted."""

    socket: Path
    silence: Silence
    metrics: Snapshot = field(default_factory=dict)
    earlier: Snapshot = field(default_factory=dict)
    is_ready: bool = False
    is_serving: bool = False  # its door is open
    connections: int = 0  # at its door
    load: float = 0.0  # of one core, since the look before
    cpu: tuple[float, float] | None = None  # (monotonic, CPU seconds) at that look
    missing: tuple[str, ...] = ()
    has_ever_served: bool = False
    life: int = 0  # how many processes have ended here

    def __post_init__(self) -> None:
        """Nothing was heard of it yet."""
        self._is_away(STARTING)

    @property
    def name(self) -> str:
        """`worker-0`."""
        return self.socket.stem

    def forget(self) -> None:
        """The process ended: its totals stay, its gauges go."""
        self.earlier = merge([self.earlier, lasting(self.metrics)])
        self.metrics = {}
        self.life += 1
        self.load, self.cpu = 0.0, None
        self.silence.begin()
        self._is_away(STARTING)

    def take(self, told: Mapping[str, Any], now: float) -> None:
        """Take over the answer to GET /snapshot, whole or not at all; `now` is monotonic."""
        metrics, is_ready = told["metrics"], bool(told["ready"])
        missing = tuple(str(name) for name in told["missing"])
        counts = told.get("counts", {})
        connections, cpu_s = int(counts.get("connections", 0)), float(counts.get("cpu_s", 0.0))
        self.metrics, self.is_ready, self.missing = metrics, is_ready, missing
        self.connections = connections
        self.is_serving = bool(told.get("serving", True))
        self.has_ever_served = self.has_ever_served or self.is_serving
        self.silence.answered()
        if self.cpu is None:
            self.cpu = now, cpu_s
        elif now - self.cpu[0] >= LOAD_OVER_S:
            self.load = (cpu_s - self.cpu[1]) / (now - self.cpu[0])
            self.cpu = now, cpu_s

    def is_silent(self, asked_at: float) -> None:
        """It did not answer in time what was asked at that moment (monotonic)."""
        self.silence.failed(asked_at)
        self._is_away(SILENT if self.silence.has_answered else STARTING)

    def _is_away(self, why: str) -> None:
        self.is_ready = self.is_serving = False
        self.connections = 0
        self.missing = (f"{self.name}: {why}",)


def excess(held: Sequence[int | None]) -> list[int]:
    """How many connections each worker should let go, so that all have about the same.

    None = it is not ready: it takes no part.
    """
    known = [count for count in held if count is not None]
    if len(known) < 2:
        return [0] * len(held)
    share = math.ceil(sum(known) / len(known))
    bound = share * EXCESS + LEAST_EXCESS
    return [count - share if count is not None and count > bound else 0 for count in held]


async def ask(path: Path, target: str, timeout_s: float = ASK_TIMEOUT_S) -> tuple[int, bytes]:
    """GET `target` over a Unix socket: status and body; raises OSError when nobody answers.

    HTTP/1.0, so the answer ends with the connection.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_unix_connection(str(path), limit=LONGEST_ANSWER)
        try:
            writer.write(f"GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            body = bytearray()
            while chunk := await reader.read(65536):
                body += chunk
                if len(body) > LONGEST_ANSWER:
                    raise OSError("the answer does not end")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    words = head.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        raise OSError("this is no HTTP")
    return int(words[1]), bytes(body)


class Node:
    """The workers of this node, seen together."""

    def __init__(
        self, views: Sequence[WorkerView], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.views = views
        self.metrics = Metrics()  # the supervisor's own
        self.missing_servers: Callable[[], list[str]] = list
        self.remarks: Callable[[], list[str]] = list  # what ails the node, ready or not
        self.restart_state: Callable[[], Mapping[str, object]] = dict
        self.is_stopping = False
        self._monotonic = monotonic

    async def refresh(self, timeout_s: float = ASK_TIMEOUT_S) -> None:
        """Ask all workers at once; who does not answer in time is not ready."""
        await asyncio.gather(*(self._refresh(view, timeout_s) for view in self.views))

    async def _refresh(self, view: WorkerView, timeout_s: float) -> None:
        life, asked_at = view.life, self._monotonic()
        try:
            status, body = await ask(view.socket, "/snapshot", timeout_s)
            told = json.loads(body) if status == 200 else None
        except NO_ANSWER:
            told = None
        if view.life != life:
            return  # it ended meanwhile: what it said is counted, and its successor is another
        try:
            if told is not None:
                view.take(told, self._monotonic())
                return
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # it speaks another language: as good as silent
        view.is_silent(asked_at)

    async def reload(self) -> None:
        """Have every worker look at its certificate's files; one that starts reads them anyway."""
        for view in self.views:
            with contextlib.suppress(*NO_ANSWER):
                await ask(view.socket, "/reload")

    async def spread(self) -> None:
        """Have workers that hold far more connections than the others let some of them go.

        Clients keep their connections for hours, and after a rolling restart the worker that was
        restarted first would hold them all.
        """
        held = [view.connections if view.is_ready else None for view in self.views]
        for view, count in zip(self.views, excess(held), strict=True):
            if count and view.load > LEAST_LOAD:
                with contextlib.suppress(*NO_ANSWER):
                    await ask(view.socket, f"/spread?connections={count}")

    def traffic(self, names: Container[str] | None = None) -> Snapshot:
        """The workers' numbers as one snapshot; only these series where they are named."""
        parts = [part for view in self.views for part in (view.earlier, view.metrics)]
        if names is not None:
            parts = [{name: some[name] for name in some if name in names} for some in parts]
        return merge(parts)

    def merged(self) -> Snapshot:
        """All processes' numbers as one snapshot."""
        return merge([self.metrics.snapshot(), self.traffic()])

    def missing(self) -> list[str]:
        """What keeps this node from being ready, empty when one worker can do everything."""
        if self.is_stopping:
            return ["stopping"]
        missing = self.missing_servers()
        if not any(view.is_ready for view in self.views):
            missing += [name for view in self.views for name in view.missing]
        return fold(missing) + self.remarks() if missing else []

    def degraded(self) -> list[str]:
        """Workers that take no part while others do, and what ails the node."""
        away = (name for view in self.views if not view.is_ready for name in view.missing)
        return fold(away) + self.remarks()

    async def answer(self, path: str, *, is_ours: bool = False) -> tuple[int, str, bytes]:
        """Status, content type and body for one path; `is_ours`: asked over the Unix socket."""
        if path == "/healthz":
            return 200, "application/json", b'{"status":"ok"}'
        if path == "/restart" and is_ours:
            return 200, "application/json", json.dumps(self.restart_state()).encode()
        if path not in ("/readyz", "/metrics"):
            return _problem(404, "not_found", "Here are /healthz, /readyz and /metrics.")
        if path == "/metrics":
            await self.refresh()
            return 200, CONTENT_TYPE, render(self.merged())
        await self.refresh(READY_TIMEOUT_S)
        missing = self.missing()
        told: dict[str, object] = {"status": "unready" if missing else "ready", "missing": missing}
        if not missing and (degraded := self.degraded()):
            told["degraded"] = degraded
        return 503 if missing else 200, "application/json", json.dumps(told).encode()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The raw ASGI application."""
        if scope["type"] != "http":
            return
        refused = _refuse_query(scope.get("query_string", b""))
        if refused is not None:
            status, kind, body = refused
        elif scope["method"] in ("GET", "HEAD"):
            server = scope.get("server")  # a Unix socket has no port, and no address at its end
            is_ours = server is not None and server[1] is None and scope.get("client") is None
            status, kind, body = await self.answer(scope["path"], is_ours=is_ours)
        else:
            status, kind, body = _problem(405, "method_not_allowed", "Use GET.")
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )


def _refuse_query(query: bytes) -> tuple[int, str, bytes] | None:
    """The answer to a URL with a query: no parameter is known here, and a secret is told as one."""
    if not query:
        return None
    try:
        refuse_secret_in_query(query)
    except ProblemError as error:
        code = error.problem.code
        return _problem(error.problem.status, code, kind_of(code).action)
    return _problem(422, "query.unknown", "No parameter is known here; remove it from the URL.")


def _problem(status: int, code: str, action: str) -> tuple[int, str, bytes]:
    problem = {"type": "about:blank", "title": code, "status": status, "code": code}
    return status, "application/problem+json", json.dumps({**problem, "action": action}).encode()


class _NodeHttp(HttpToolsProtocol):
    """uvicorn's protocol, which ends a connection that does not ask: there are few of them."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]  # uvicorn's own annotation
        self, transport: asyncio.Transport
    ) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._end_wait()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """The head is here."""
        self._end_wait()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next head; a body that still drips in does not make it wait longer."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._await_head()

    def _await_head(self) -> None:
        self._end_wait()
        self._patience = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _end_wait(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class NodeServer(uvicorn.Server):
    """uvicorn without its signal handlers: the supervisor has its own."""

    def __init__(
        self, config: uvicorn.Config, context: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        super().__init__(config)
        self._context = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's; with TLS a listener of ours takes what comes from outside."""
        sealed = [one for one in sockets or () if self._context and one.family != socket.AF_UNIX]
        await super().startup([one for one in sockets or () if one not in sealed])
        for one in sealed:
            one.setblocking(False)
            self.servers.append(Listener(one, self._protocol, self._context))  # type: ignore[arg-type]  # all that it asks of them

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def make_server(node: Node, context: Callable[[], ssl.SSLContext] | None = None) -> NodeServer:
    """A server for the node's answers; `await serve(sockets=…)`, end by `should_exit`.

    `context`: of TLS, asked at each connection that comes over a network.
    """
    config = uvicorn.Config(
        node.app,
        interface="asgi3",
        loop="asyncio",
        proxy_headers=False,
        http=_NodeHttp,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        limit_concurrency=100,
    )
    return NodeServer(config, context)
