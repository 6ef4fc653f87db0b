"""A real Valkey for tests, on a Unix socket, that can be stopped, wiped and started again."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.binaries import find_valkey

START_TIMEOUT_S = 10.0


class ValkeyServer:
    """One server without a memory: what it held is gone when it ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "v.sock"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> Path:
        """Its socket."""
        return self._path

    @property
    def url(self) -> str:
        return f"unix://{self._path}?db=0"

    def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._child = subprocess.Popen(
            [
                *(str(find_valkey()), "--port", "0", "--unixsocket", str(self._path)),
                *("--dir", str(self._directory), "--save", "", "--appendonly", "no"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.ask(b"PING\r\n") != b"+PONG\r\n":
            assert time.monotonic() < deadline, "Valkey does not start"
            time.sleep(0.01)

    def ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5.0)
            try:
                client.connect(str(self._path))
                client.sendall(command)
                return client.recv(4096)
            except OSError:
                return b""

    def wipe(self) -> None:
        assert self.ask(b"FLUSHALL\r\n") == b"+OK\r\n"

    def signal(self, number: int) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path)
    server.start()
    yield server
    server.kill()
