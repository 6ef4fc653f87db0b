"""Many webhook endpoints in one process, cheap enough to leave the cores to what is measured.

    python -m loadtest.hooksink --endpoints 1000 --secret-file hook.secret
        stdout, first line: {"ports": […]}; then one answer per line of stdin:
        {"do": "behave", "ports": […], "how": "well" | "hang" | "slow"} ─▶ {}
        {"do": "count"} ─▶ {"events": n}           {"do": "dump", "file": path} ─▶ {"events": n}

Every endpoint is a port of its own, as hosts are in life. Each request is verified, its event ids
are noted with the moment it was whole, and 200 is the answer: at once, never (`hang`), or ten
seconds later (`slow`). What hangs is not noted. A dump is the notes since the last one. It ends
with its standard input and with its parent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import ssl
import sys
import time
from array import array
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, cast

import uvloop

from loadtest.carrier import die_with_parent
from loadtest.tally import is_signed
from webhooks.sign import parse_secret

How = Literal["well", "hang", "slow"]
SLOW_S: Final = 10.0
BACKLOG: Final = 128
NOTE: Final = "QdH"  # event id, Unix time, port: one array each
_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_EVENT: Final = re.compile(rb'"id":"evt_([0-9a-f]{16})"')
_OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_REFUSED: Final = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"


class Notes:
    """What all endpoints got since the last dump, and how each behaves."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.how: dict[int, How] = {}  # by port; `well` when missing
        self._columns = self._fresh()

    @staticmethod
    def _fresh() -> tuple[array[int], array[float], array[int]]:
        return array("Q"), array("d"), array("H")

    def __len__(self) -> int:
        return len(self._columns[0])

    def take(self, port: int, body: bytes) -> None:
        """Note the events of one request."""
        now = time.time()
        ids, times, ports = self._columns
        for digits in _EVENT.findall(body):
            ids.append(int(digits, 16))
            times.append(now)
            ports.append(port)

    def dump(self, file: Path) -> int:
        """Write the notes there and forget them; returns how many there were."""
        columns, self._columns = self._columns, self._fresh()
        with file.open("wb") as out:
            for column in columns:
                out.write(column.tobytes())
        return len(columns[0])


def read_dump(file: Path) -> list[tuple[int, float, int]]:
    """(event id, Unix time, port) of each note, in order of arrival."""
    data = file.read_bytes()
    columns: list[array[Any]] = [array(code) for code in NOTE]
    count = len(data) // sum(column.itemsize for column in columns)
    start = 0
    for column in columns:
        end = start + count * column.itemsize
        column.frombytes(data[start:end])
        start = end
    return list(zip(*columns, strict=True))


class _Receiver(asyncio.Protocol):
    """One connection; requests one after another."""

    def __init__(self, notes: Notes, port: int) -> None:
        self._notes = notes
        self._port = port
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(buffer, 0, end)
            start = end + 4
            stop = start + (int(length[1]) if length else 0)
            if len(buffer) < stop:
                break
            self._whole(buffer[:end], buffer[start:stop])
            buffer = buffer[stop:]
        self._buffer = buffer

    def _whole(self, head: bytes, body: bytes) -> None:
        how = self._notes.how.get(self._port, "well")
        if how == "hang":
            return
        pairs = (line.partition(b": ") for line in head.split(b"\r\n"))
        headers = {name.lower(): value for name, _, value in pairs}
        if not is_signed((self._notes.key,), headers, body, time.time()):
            self._answer(_REFUSED)
            return
        self._notes.take(self._port, body)
        if how == "slow":
            asyncio.get_running_loop().call_later(SLOW_S, self._answer, _OK)
        else:
            self._answer(_OK)

    def _answer(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def obey(notes: Notes, told: Mapping[str, Any]) -> dict[str, int]:
    """Do what one line of standard input says; returns the answer."""
    match told["do"]:
        case "behave":
            notes.how.update(dict.fromkeys(told["ports"], told["how"]))
            return {}
        case "dump":
            return {"events": notes.dump(Path(told["file"]))}
        case "count":
            return {"events": len(notes)}
        case other:
            raise ValueError(f"nobody knows how to {other}")


async def run(options: argparse.Namespace) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    notes = Notes(parse_secret(options.secret_file.read_text("ascii").strip()))
    tls = None
    if options.certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate)
    ports = []
    for _ in range(options.endpoints):
        listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        port = listener.getsockname()[1]
        await loop.create_server(partial(_Receiver, notes, port), sock=listener, ssl=tls)
        ports.append(port)
    sys.stdout.write(json.dumps({"ports": ports}) + "\n")
    sys.stdout.flush()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        sys.stdout.write(json.dumps(obey(notes, json.loads(line))) + "\n")
        sys.stdout.flush()


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.hooksink", description=__doc__.split("\n")[0])
    parser.add_argument("--endpoints", type=int, default=1)
    parser.add_argument("--secret-file", type=Path, required=True, help="one whsec_… for all")
    parser.add_argument("--certificate", type=Path, help="PEM with its key: TLS instead of http")
    return parser


def main() -> None:
    """The process."""
    die_with_parent()
    uvloop.run(run(arguments().parse_args()))


if __name__ == "__main__":
    main()
