"""A webhook receiver as a process: verifies, counts, records, and misbehaves when told to.

    python -m loadtest.sink --port 9900 --control-port 9901 --secret-file hook.secret \\
        --record sink.jsonl

The secret file holds one `whsec_…` per line; it may be written after the start, and is read again
when it changes. Control port (HTTP, JSON): GET /counts, GET /events?message_id=msg_…, GET and
POST /behaviour {fail_share, status, delay_ms, hang, close_mid_body}; fields left out keep their
value. Only what is answered 2xx is counted and recorded. It ends on SIGTERM and when its parent
dies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import random
from typing import Any, cast

import httptools
import msgspec
import uvloop

from loadtest.carrier import die_with_parent
from loadtest.tally import Tally, events_of, is_signed, single_bodies
from loadtest.web import Answer, Door, Request, Routes, answer
from webhooks.sign import parse_secret

BODY_MAXIMUM = 1 << 20
DELAY_MAXIMUM_MS = 600_000
_REASONS = {200: b"OK", 401: b"Unauthorized", 400: b"Bad Request"}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the receiver does with a request."""

    fail_share: float = 0.0  # of requests, answered with `status` and not counted
    status: int = 500
    delay_ms: int = 0  # before each answer
    hang: bool = False  # takes requests and never answers
    close_mid_body: bool = False  # answers 200, cuts the connection inside the answer's body


def change(now: Behaviour, raw: object) -> Behaviour | str:
    """The behaviour after a change, or what is wrong with it."""
    if not isinstance(raw, Mapping):
        return "give a JSON object"
    for name, value in raw.items():
        is_good = _GOOD.get(name)
        if is_good is None:
            return f"/{name} is unknown; known: {', '.join(_GOOD)}"
        if not is_good(value):
            return f"/{name}: this value does not fit"
    return replace(now, **raw)


_GOOD: dict[str, Callable[[Any], bool]] = {
    "fail_share": lambda v: type(v) in (int, float) and 0 <= v <= 1,
    "status": lambda v: type(v) is int and 200 <= v <= 599,
    "delay_ms": lambda v: type(v) is int and 0 <= v <= DELAY_MAXIMUM_MS,
    "hang": lambda v: type(v) is bool,
    "close_mid_body": lambda v: type(v) is bool,
}


class Secrets:
    """The keys in a file that may come late or change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.keys: tuple[bytes, ...] = ()

    def refresh(self) -> bool:
        """Read the file again when it changed; returns whether it did."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp == self._stamp:
                return False
            self.keys = tuple(parse_secret(line) for line in self._path.read_text().split())
        except (OSError, ValueError):
            return False
        self._stamp = stamp
        return True


class Sink:
    """What all connections share."""

    def __init__(self, secrets: Secrets, record: Path | None) -> None:
        self.secrets = secrets
        self.behaviour = Behaviour()
        self.tally = Tally(is_keeping=record is None)
        self._record_path = record
        self._record = -1
        if record is not None:
            record.parent.mkdir(parents=True, exist_ok=True)
            self._record = os.open(
                record, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )

    def status_for(self, headers: dict[bytes, bytes], body: bytes) -> int:
        """Judge and count one request."""
        tally = self.tally
        tally.requests += 1
        now = time.time()
        if not is_signed(self.secrets.keys, headers, body, now) and not (
            self.secrets.refresh() and is_signed(self.secrets.keys, headers, body, now)
        ):
            tally.bad_signatures += 1
            return 401
        behaviour = self.behaviour
        if behaviour.fail_share and random() < behaviour.fail_share:
            tally.failed += 1
            return behaviour.status
        try:
            tally.take(body)
        except (msgspec.DecodeError, ValueError):
            tally.bad_bodies += 1
            return 400
        if self._record >= 0:  # before the answer: what was answered is in the file
            lines = b"\n".join([*single_bodies(body), b""])
            while lines:
                lines = lines[os.write(self._record, lines) :]
        return 200

    def events_of(self, message_id: str) -> list[Any]:
        """Everything recorded (or still kept) about a message."""
        if self._record_path is None:
            return self.tally.events_of(message_id)
        return list(events_of(self._lines(self._record_path), message_id))

    @staticmethod
    def _lines(path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            yield from file

    def close(self) -> None:
        """Close the record."""
        if self._record >= 0:
            os.close(self._record)


class _Receiver(asyncio.Protocol):
    """One connection, kept alive; requests one after another."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._close()

    # httptools calls these.

    def on_message_begin(self) -> None:
        self._headers = {}
        self._body = []
        self._size = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > BODY_MAXIMUM:
            self._close()
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        sink = self._sink
        behaviour = sink.behaviour
        if behaviour.hang:
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        status = sink.status_for(self._headers, body)
        if behaviour.delay_ms:
            loop = asyncio.get_running_loop()
            loop.call_later(behaviour.delay_ms / 1000, self._answer, status)
        else:
            self._answer(status)

    def _answer(self, status: int) -> None:
        if self._transport is None:
            return
        reason = _REASONS.get(status, b"Told So")
        if status == 200 and self._sink.behaviour.close_mid_body:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n{")
            self._close()
            return
        self._transport.write(b"HTTP/1.1 %d %b\r\ncontent-length: 0\r\n\r\n" % (status, reason))
        if not self._parser.should_keep_alive():
            self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def routes(sink: Sink) -> Routes:
    """Who answers on the control port."""

    async def counts(_: Request) -> Answer:
        return answer({**sink.tally.counts(), "cpu_s": time.process_time()})

    async def events(request: Request) -> Answer:
        message_id = request.query.get("message_id")
        if not message_id:
            return answer({"detail": "give ?message_id=msg_…"}, status=422)
        found = await asyncio.to_thread(sink.events_of, message_id)
        return answer({"data": found})

    async def get_behaviour(_: Request) -> Answer:
        return answer(asdict(sink.behaviour))

    async def post_behaviour(request: Request) -> Answer:
        try:
            raw = json.loads(request.body)
        except ValueError:
            return answer({"detail": "give a JSON object"}, status=400)
        changed = change(sink.behaviour, raw)
        if isinstance(changed, str):
            return answer({"detail": changed}, status=422)
        sink.behaviour = changed
        return answer(asdict(changed))

    return {
        ("GET", "/counts"): counts,
        ("GET", "/events"): events,
        ("GET", "/behaviour"): get_behaviour,
        ("POST", "/behaviour"): post_behaviour,
    }


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    secrets = Secrets(options.secret_file)
    secrets.refresh()
    sink = Sink(secrets, options.record)
    server = await loop.create_server(lambda: _Receiver(sink), options.host, options.port)
    door = Door(routes(sink))
    control_port = await door.listen(options.host, options.control_port)
    told = {
        "event": "listening",
        "name": "sink",
        "host": options.host,
        "port": server.sockets[0].getsockname()[1],
        "control_url": f"http://{options.host}:{control_port}",
        "pid": os.getpid(),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    await stop.wait()
    server.close()
    await door.close()
    sink.close()


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="loadtest.sink", description="A webhook receiver.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes any free one")
    parser.add_argument("--control-port", type=int, required=True, help="0 takes any free one")
    parser.add_argument("--secret-file", type=Path, required=True, help="whsec_…, one per line")
    parser.add_argument("--record", type=Path, help="JSONL file, continued: one event per line")
    return parser


def main() -> None:
    """The process."""
    die_with_parent()
    uvloop.run(run(arguments().parse_args()))


if __name__ == "__main__":
    main()
