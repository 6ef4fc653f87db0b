"""What a balancer and its clients see of SIGTERM, on real sockets: not ready at once, nobody cut.

SIGTERM ─▶ /readyz 503 ── drain_before_s ──▶ door closed ── drain_idle_s ──▶ idle ones closed
           every answer says `Connection: close`, and the connection ends behind it
"""

from __future__ import annotations

import itertools
import json
import signal
import socket
from collections.abc import Iterator
from typing import ClassVar

import pytest

from tests.support.gateway_process import DRAIN_S, GatewayProcess, Json, eventually

pytestmark = pytest.mark.flow

KEPT = 12
BEFORE_S, IDLE_S = 3, 3  # a wide window: machines that test are busy
ANSWER_S = 20.0

_numbers = itertools.count(60_000_000)


@pytest.fixture
def gateway() -> Iterator[GatewayProcess]:
    with GatewayProcess(drain_before_s=str(BEFORE_S), drain_idle_s=str(IDLE_S)) as gateway:
        yield gateway
        while Kept.opened:
            Kept.opened.pop().close()


class Kept:
    """One connection of a client that keeps it open."""

    opened: ClassVar[list[Kept]] = []

    def __init__(self, gateway: GatewayProcess) -> None:
        self._key = gateway.sandbox["api_key"]
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=ANSWER_S)
        self._read = self.socket.makefile("rb")
        self.opened.append(self)

    def close(self) -> None:
        """Let it go."""
        self._read.close()
        self.socket.close()

    def request(self) -> bytes:
        """A send of its own number."""
        body = json.dumps({"to": f"+86138{next(_numbers)}", "text": "在"}).encode()
        head = (
            "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self._key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def answer(self) -> tuple[int, dict[str, str], Json]:
        """The next answer, whole."""
        status = int(self._read.readline().split()[1])
        headers = {}
        while line := self._read.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, json.loads(self._read.read(int(headers["content-length"])))

    def send(self) -> tuple[int, dict[str, str], Json]:
        """Ask and be answered."""
        self.socket.sendall(self.request())
        return self.answer()

    def ends(self) -> bool:
        """Whether the connection ends in order here: a reset would raise."""
        return self._read.read(1) == b""


def is_last(answered: tuple[int, dict[str, str], Json]) -> bool:
    status, headers, _ = answered
    return (status, headers.get("connection")) == (202, "close")


def test_nobody_is_cut_off_and_the_balancer_is_told_at_once(gateway: GatewayProcess) -> None:
    kept = [Kept(gateway) for _ in range(KEPT)]
    for one in kept:
        status, headers, _ = one.send()
        assert (status, "connection" in headers) == (202, False)
    at_once, later, silent = kept[:4], kept[4:8], kept[8:]
    half = Kept(gateway)
    request = half.request()
    half.socket.sendall(request[: len(request) // 2])

    process = gateway.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    eventually(lambda: _ready(gateway, gateway.admin_url) == (503, ["stopping"]), "not ready", 2)
    assert _ready(gateway, gateway.url) == (503, ["stopping"])
    # until the balancer has looked, requests come as before: each has its answer
    for one in (*at_once, Kept(gateway)):
        assert is_last(one.send())
        assert one.ends()
    half.socket.sendall(request[len(request) // 2 :])
    assert is_last(half.answer())
    assert half.ends()

    def is_closed() -> bool:
        try:
            socket.create_connection(("127.0.0.1", gateway.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    eventually(is_closed, "new connections are refused", BEFORE_S + 10)
    # who kept one open from before may use it once more
    for one in later:
        assert is_last(one.send())
        assert one.ends()
    for one in silent:
        assert one.ends()
    assert process.wait(DRAIN_S) == 0


def _ready(gateway: GatewayProcess, url: str) -> tuple[int, list[str]]:
    """What /readyz says, on a connection of its own."""
    answer = gateway.client.get(f"{url}/readyz", headers={"Connection": "close"})
    return answer.status_code, answer.json()["missing"]
