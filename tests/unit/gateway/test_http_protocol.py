"""Both ways of POST /v1/messages give the same answers, in order, whatever the packets."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.api.app import build_doors
from gateway.http_protocol import HEAD_TIMEOUT_S, Connections, GatewayHttp
from sms.errors import OutcomeUnknown, StoreUnavailable
from tests.support.fake_flow import SHOP, FakeFlow

GOOD = {"to": "+8613800138000", "text": "您的验证码是 482913", "class": "otp"}
VOLATILE = {"id", "created_at", "request_id", "instance"}


class Wire:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.sent = b""
        self.is_closed = False
        self.is_paused = False

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
        return default


class Client:
    """One connection to the doors over a fake flow."""

    def __init__(self, flow: FakeFlow | None = None, limit: int = 100) -> None:
        self.shared = Connections(limit)
        self.flow = flow or FakeFlow()
        app, self.door = build_doors(self.flow)
        protocol: Any = partial(GatewayHttp, door=self.door, shared=self.shared)
        config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"now")]
        self.protocol = GatewayHttp(config, state, {}, door=self.door, shared=self.shared)
        self.wire = Wire()
        transport: Any = self.wire
        self.protocol.connection_made(transport)

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


def long_way(client: Client) -> None:
    """Take the short way out of service."""

    def nothing(*_: object) -> None:
        return None

    client.door.take = nothing  # type: ignore[method-assign,assignment]


def stable(answer: tuple[int, dict[str, str], Any]) -> tuple[int, list[str], Any]:
    status, headers, body = answer
    kept = {name: value for name, value in body.items() if name not in VOLATILE}
    limits = [headers.get(name, "") for name in ("ratelimit", "ratelimit-policy", "retry-after")]
    return status, [headers["content-type"], *limits], kept


CASES: dict[str, tuple[object, str, dict[str, str]]] = {
    "good": (GOOD, "both", {}),
    "english": ({"to": "13800138000", "text": "Hello"}, "send", {}),
    "wrong number": ({**GOOD, "to": "110"}, "both", {}),
    "two wrong fields": ({"to": "x", "text": "", "class": "loud"}, "both", {}),
    "unknown field": ({**GOOD, "txt": "x"}, "both", {}),
    "null": ({**GOOD, "signature": None}, "both", {}),
    "later field": ({**GOOD, "client_ref": "a"}, "both", {}),
    "not json": (b"{", "both", {}),
    "duplicate key": (b'{"to":"+8613800138000","text":"a","text":"b"}', "both", {}),
    "no key": (GOOD, "nobody", {}),
    "wrong scope": (GOOD, "read", {}),
    "admin": (GOOD, "admin", {}),
    "suspended": (GOOD, "suspended", {}),
    "no signature": ({"to": "13800138000", "text": "x"}, "bare", {}),
    "idempotency": (GOOD, "both", {"Idempotency-Key": "a"}),
    "charset": (GOOD, "both", {"Content-Type": "application/json; charset=utf-8"}),
    "wrong type": (GOOD, "both", {"Content-Type": "text/plain"}),
    "no host": (GOOD, "both", {"Host": ""}),
    "encoded": (GOOD, "both", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("name", CASES)
async def test_both_ways_answer_the_same(name: str) -> None:
    body, key, extra = CASES[name]
    told = []
    for way in ("short", "long"):
        client = Client()
        if way == "long":
            long_way(client)
        told.append([stable(a) for a in await client.send(request(client.flow, body, key, extra))])
        told[-1].append(len(client.flow.accepted))  # type: ignore[arg-type]
        client.end()
    assert told[0] == told[1]
    assert len(told[0]) == 2


@pytest.mark.parametrize("error", [StoreUnavailable("away"), OutcomeUnknown("cut")])
@pytest.mark.parametrize("way", ["short", "long"])
async def test_a_failed_commit_is_told_and_only_certain_ones_give_tokens_back(
    error: Exception, way: str
) -> None:
    client = Client()
    client.flow.error = error
    if way == "long":
        long_way(client)
    [(status, headers, body)] = await client.send(request(client.flow, GOOD))
    is_certain = isinstance(error, StoreUnavailable)
    assert status == 503
    assert body["code"] == ("store.unavailable" if is_certain else "outcome_unknown")
    assert ("retry-after" in headers) == is_certain
    assert client.flow.limiter.left == (1000.0 if is_certain else 999.0)
    client.end()


@pytest.mark.parametrize("way", ["full", "closed", "spent"])
async def test_refused_by_load_is_answered_by_the_long_way_and_takes_nothing(way: str) -> None:
    client = Client()
    flow = client.flow
    if way == "full":
        flow.free = dict.fromkeys(flow.free, 0)
    elif way == "closed":
        flow.closed = ("shed.overloaded", "busy", 3)
    else:
        flow.limiter.left = 0.0
    left = flow.limiter.left
    [(status, headers, _)] = await client.send(request(flow, GOOD))
    assert status == (429 if way == "spent" else 503)
    assert "retry-after" in headers
    assert flow.limiter.left == left
    client.end()


async def test_a_request_cut_at_every_byte_is_answered_once() -> None:
    whole = request(FakeFlow(), GOOD)
    for cut in range(1, len(whole)):
        client = Client()
        data = request(client.flow, GOOD)
        at = min(cut, len(data) - 1)
        found = await client.send(data[:at], data[at:])
        assert [status for status, _, _ in found] == [202], cut
        assert len(client.flow.accepted) == 1
        client.end()


async def test_pipelined_requests_are_answered_in_order() -> None:
    client = Client()
    flow = client.flow
    texts = ["one", "two", "three", "four"]
    data = b"".join(request(flow, {"to": "13800138000", "text": text}) for text in texts)
    found = await client.send(data)
    ids = [body["id"] for _, _, body in found]
    assert [status for status, _, _ in found] == [202] * 4
    assert ids == sorted(ids)
    sent = ["".join(messages[0].texts) for messages in flow.accepted]
    assert [text.removeprefix("【某商城】") for text in sent] == texts
    client.end()


async def test_short_and_long_requests_share_a_connection() -> None:
    client = Client()
    flow = client.flow
    ready = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    found = await client.send(
        request(flow, GOOD) + ready, request(flow, {"to": "1"}), request(flow, GOOD)
    )
    assert [status for status, _, _ in found] == [202, 200, 422, 202]
    client.end()


async def test_no_second_answer_before_the_first_commit() -> None:
    client = Client()
    flow = client.flow
    held: list[asyncio.Future[None]] = []
    accept = flow.accept

    def hold(messages: Any, verdicts: bytes | None = None) -> asyncio.Future[None]:
        accept(messages, verdicts)
        held.append(asyncio.get_running_loop().create_future())
        return held[-1]

    flow.accept = hold  # type: ignore[method-assign,assignment]
    assert await client.send(request(flow, GOOD) + request(flow, GOOD)) == []
    assert len(held) == 1
    held[0].set_result(None)
    assert len(await client.send()) == 1
    held[1].set_result(None)
    assert len(await client.send()) == 2
    client.end()


async def test_a_client_that_leaves_before_the_commit_gets_nothing_written() -> None:
    client = Client()
    flow = client.flow
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hold(*_: object) -> asyncio.Future[None]:
        return future

    flow.accept = hold  # type: ignore[method-assign,assignment]
    await client.send(request(flow, GOOD))
    client.wire.is_closed = True
    client.protocol.connection_lost(None)
    future.set_result(None)
    assert await client.send() == []


async def test_connection_close_is_obeyed() -> None:
    client = Client()
    [(status, headers, _)] = await client.send(
        request(client.flow, GOOD, extra={"Connection": "close"})
    )
    assert (status, headers["connection"]) == (202, "close")
    assert client.wire.is_closed


async def test_a_revoked_key_is_refused_with_the_next_configuration() -> None:
    client = Client()
    flow = client.flow
    await client.send(request(flow, GOOD))
    snapshot = flow.snapshot
    keys = {key: value for key, value in snapshot.api_keys.items() if value.tenant != SHOP}
    flow.snapshot = type(snapshot)(2, snapshot.tenants, keys, snapshot.channels, snapshot.routes)
    found = await client.send(request(flow, GOOD))
    assert [status for status, _, _ in found] == [202, 401]
    client.end()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 17_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n",
    ],
)
async def test_a_head_over_the_limit_is_431_and_closes(head: bytes) -> None:
    client = Client()
    [(status, _, body)] = await client.send(head)
    assert (status, body["code"]) == (431, "header.too_large")
    assert client.wire.is_closed


async def test_one_endless_header_is_cut_off() -> None:
    client = Client()
    parts = [b"GET /healthz HTTP/1.1\r\nX: "] + [b"z" * 4000] * 8
    client_sent = 0
    for part in parts:
        if client.wire.is_closed:
            break
        await client.send(part)
        client_sent += len(part)
    assert client.wire.is_closed
    assert client_sent < 24_000
    assert answers(client.wire.sent)[0][0] == 431


async def test_what_is_not_http_gets_a_problem_document() -> None:
    client = Client()
    [(status, headers, body)] = await client.send(b"HELLO there\r\n\r\n")
    assert (status, body["code"]) == (400, "request.malformed")
    assert headers["content-type"] == "application/problem+json"
    assert client.wire.is_closed


async def test_a_trailer_is_no_header() -> None:
    client = Client()
    flow = client.flow
    raw = json.dumps(GOOD).encode()
    data = (
        b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\n0\r\nAuthorization: Bearer %b\r\n\r\n"
        % (len(raw), raw, flow.keys["both"].encode())
    )
    found = await client.send(data)
    assert [status for status, _, _ in found] == [401]
    assert flow.accepted == []
    client.end()


@pytest.mark.parametrize(
    "start", [b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"]
)
async def test_a_head_that_does_not_come_is_closed(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    if start:
        await client.send(start)
    later = time.monotonic() + HEAD_TIMEOUT_S + 1
    monkeypatch.setattr("gateway.http_protocol.time.monotonic", lambda: later)
    client.shared._sweep()
    assert client.wire.is_closed
    assert answers(client.wire.sent)[0][0] == 408


async def test_an_open_request_is_not_closed_by_the_head_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client()
    flow = client.flow
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    accept = flow.accept

    def hold(messages: Any, verdicts: bytes | None = None) -> asyncio.Future[None]:
        accept(messages, verdicts)
        return future

    flow.accept = hold  # type: ignore[method-assign,assignment]
    await client.send(request(flow, GOOD))
    later = time.monotonic() + HEAD_TIMEOUT_S + 1
    monkeypatch.setattr("gateway.http_protocol.time.monotonic", lambda: later)
    client.shared._sweep()
    assert not client.wire.is_closed
    future.set_result(None)
    assert [status for status, _, _ in await client.send()] == [202]
    client.end()


async def test_too_many_connections_are_told_so() -> None:
    client = Client(limit=0)
    assert client.wire.is_closed
    [(status, _, body)] = answers(client.wire.sent)
    assert (status, body["code"]) == (503, "shed.connections")
