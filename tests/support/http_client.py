"""A client of a worker's HTTP doors without a socket: bytes in, answers out."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from gateway.api.app import build_doors
from gateway.http_protocol import Connections, GatewayHttp
from tests.support.fake_flow import FakeFlow

GOOD = {"to": "+8613800138000", "text": "您的验证码是 482913", "class": "otp"}
READY = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


class Wire:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.sent = b""
        self.is_closed = False
        self.is_paused = False
        self.inside: object = None  # its socket, where a test gives it one

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.sent += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self.inside if name == "socket" else default


class Client:
    """One connection to the doors over a fake flow."""

    def __init__(
        self,
        flow: FakeFlow | None = None,
        limit: int = 100,
        shared: Connections | None = None,
    ) -> None:
        self.shared = shared or Connections(limit)
        self.flow = flow or FakeFlow()
        app, self.door = build_doors(self.flow)
        protocol: Any = partial(GatewayHttp, door=self.door, shared=self.shared)
        config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
        config.load()
        self._config = config
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"now")]
        self.connect()

    def connect(self, state: ServerState | None = None) -> None:
        """Begin with a new connection, to the server that has this state or to the same one."""
        state = state or self.state
        self.protocol = GatewayHttp(self._config, state, {}, door=self.door, shared=self.shared)
        self.wire = Wire()
        transport: Any = self.wire
        self.protocol.connection_made(transport)

    def lose(self) -> None:
        """The connection is gone."""
        self.end()
        self.protocol.connection_lost(None)

    async def send(self, *parts: bytes) -> list[tuple[int, dict[str, str], Any]]:
        for part in parts:
            self.protocol.data_received(part)
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        return answers(self.wire.sent)

    def end(self) -> None:
        self.shared.end(self.protocol)
        if self.protocol.timeout_keep_alive_task is not None:
            self.protocol.timeout_keep_alive_task.cancel()


def answers(data: bytes) -> list[tuple[int, dict[str, str], Any]]:
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        headers = dict(text.split(": ", 1) for text in lines)
        size = int(headers["content-length"])
        found.append((int(line.split()[1]), headers, json.loads(rest[:size])))
        data = rest[size:]
    return found


def request(
    flow: FakeFlow, body: object, key: str = "both", extra: dict[str, str] | None = None
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {
        "Host": "x",
        "Authorization": f"Bearer {flow.keys[key]}" if key in flow.keys else key,
        "Content-Type": "application/json",
        "Content-Length": str(len(raw)),
        **(extra or {}),
    }
    kept = {name: value for name, value in headers.items() if value}
    head = "".join(f"{name}: {value}\r\n" for name, value in kept.items())
    return f"POST /v1/messages HTTP/1.1\r\n{head}\r\n".encode() + raw


def held_back(flow: FakeFlow) -> list[asyncio.Future[None]]:
    """Commits that wait for the test."""
    held: list[asyncio.Future[None]] = []
    accept = flow.accept

    def hold(*args: Any) -> asyncio.Future[None]:
        accept(*args)
        held.append(asyncio.get_running_loop().create_future())
        return held[-1]

    flow.accept = hold  # type: ignore[method-assign,assignment]
    return held
