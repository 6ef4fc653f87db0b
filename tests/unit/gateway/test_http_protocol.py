"""Both ways of POST /v1/messages give the same answers, in order, whatever the packets."""

from __future__ import annotations

import asyncio
import json
import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.http_protocol import ALL_OF_THEM, HEAD_TIMEOUT_S, MAX_FRAMING, Connections
from sms.errors import OutcomeUnknown, StoreUnavailable
from telemetry.metrics import render
from tests.support.fake_flow import SHOP, Taken
from tests.support.http_client import GOOD, READY, Client, answers, held_back, request

VOLATILE = {"id", "created_at", "request_id", "instance"}


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
    "text and template": ({**GOOD, "template_id": "a"}, "both", {}),
    "not json": (b"{", "both", {}),
    "duplicate key": (b'{"to":"+8613800138000","text":"a","text":"b"}', "both", {}),
    "no key": (GOOD, "nobody", {}),
    "wrong scope": (GOOD, "read", {}),
    "admin": (GOOD, "admin", {}),
    "suspended": (GOOD, "suspended", {}),
    "no signature": ({"to": "13800138000", "text": "x"}, "bare", {}),
    "idempotency": (GOOD, "both", {"Idempotency-Key": "a"}),
    "client_ref": ({**GOOD, "client_ref": "a"}, "both", {}),
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


@pytest.mark.parametrize("version", ["2.0", "0.9", "1.2", "3.0", "9.9"])
@pytest.mark.parametrize("path", ["/v1/messages", "/healthz"])
async def test_another_version_of_http_is_505(version: str, path: str) -> None:
    client = Client()
    whole = request(client.flow, GOOD).replace(b"/v1/messages", path.encode(), 1)
    wrong = whole.replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1)
    [(status, headers, told)] = await client.send(wrong)
    assert (status, told["code"]) == (505, "request.version")
    assert headers["content-type"] == "application/problem+json"
    assert client.wire.is_closed
    assert client.flow.accepted == []


async def test_the_first_line_of_http2_is_505() -> None:
    client = Client()
    [(status, _, told)] = await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (status, told["code"]) == (505, "request.version")


async def test_http_1_0_is_answered() -> None:
    client = Client()
    whole = request(client.flow, GOOD).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    [(status, _, _)] = await client.send(whole)
    assert status == 202


@pytest.mark.parametrize("tail", [b"#x", b"?a=1#x", b"#", b"/msg_1#/timeline"])
async def test_a_fragment_is_no_part_of_a_request(tail: bytes) -> None:
    client = Client()
    [(status, _, told)] = await client.send(
        request(client.flow, GOOD).replace(b"/v1/messages", b"/v1/messages" + tail, 1)
    )
    assert (status, told["code"]) == (400, "request.malformed")
    assert client.flow.accepted == []
    client.end()


@pytest.mark.parametrize("path", ["/openapi.json", "/healthz", "/nothing", "/v1/messages/msg_1"])
async def test_head_has_the_head_of_get_and_no_body(path: str) -> None:
    client = Client()
    key = client.flow.keys["both"]
    line = f"%s {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
    [(status, headers, _)] = await client.send((line % "GET").encode())
    client.wire.sent = b""
    client.protocol.data_received((line % "HEAD").encode() + (line % "HEAD").encode())
    for _ in range(50):
        await asyncio.sleep(0)
    head, second, rest = client.wire.sent.split(b"\r\n\r\n")
    assert rest == b""
    for one in (head, second):
        assert one.startswith(b"HTTP/1.1 %d " % status)
        if status == 200:  # a problem document names the request
            assert b"content-length: %b" % headers["content-length"].encode() in one
    client.end()


KEYED = {"Idempotency-Key": '"k-1"'}


@pytest.mark.parametrize("way", ["short", "long"])
@pytest.mark.parametrize(
    ("change", "status", "code"),
    [({}, 202, None), ({"text": "other"}, 422, "idempotency.mismatch")],
)
async def test_a_key_that_is_taken_is_answered_on_the_connection_it_came(
    way: str, change: dict[str, object], status: int, code: str | None
) -> None:
    client = Client()
    flow = client.flow
    if way == "long":
        long_way(client)
    first, again, last = await client.send(
        request(flow, GOOD, extra=KEYED)
        + request(flow, {**GOOD, **change}, extra=KEYED)
        + request(flow, GOOD)
    )
    assert (first[0], again[0], last[0]) == (202, status, 202)
    assert again[2].get("code") == code
    if code is None:
        assert again[2] == first[2]
        assert again[1]["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first[1]
    assert again[1]["ratelimit"] == first[1]["ratelimit"]
    assert len(flow.accepted) == 2
    assert flow.limiter.left == flow.limiter.depth - 2
    client.end()


@pytest.mark.parametrize("way", ["short", "long"])
async def test_a_client_ref_that_is_taken_is_a_conflict(way: str) -> None:
    client = Client()
    flow = client.flow
    if way == "long":
        long_way(client)
    body = {**GOOD, "client_ref": "r"}
    (_, _, first), (status, _, told) = await client.send(request(flow, body) * 2)
    assert (status, told["code"]) == (409, "client_ref.duplicate")
    assert first["id"] in told["detail"]
    assert flow.limiter.left == flow.limiter.depth - 1
    client.end()


async def test_a_broken_replay_is_answered_too() -> None:
    client = Client()
    flow = client.flow
    await client.send(request(flow, GOOD, extra=KEYED))
    flow.reader.stored.clear()  # a key without its message: a bug of ours
    _, (status, headers, told) = await client.send(request(flow, GOOD, extra=KEYED))
    assert (status, told["code"]) == (500, "internal.error")
    assert headers["x-request-id"] == told["request_id"]
    assert len(flow.accepted) == 1
    counted = render(flow.metrics.snapshot()).decode()
    assert 'smsgw_refused_total{code="internal.error"} 1' in counted
    client.end()


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


@pytest.mark.parametrize("wait_s", [0.0, 2.0])
async def test_what_the_limiter_must_ask_for_goes_the_long_way(wait_s: float) -> None:
    client = Client()
    flow = client.flow
    flow.limiter.refusal = Taken(wait_s, 3, 1000, 100.0)
    [(status, headers, _)] = await client.send(request(flow, GOOD))
    assert status == (429 if wait_s else 202)
    assert headers["ratelimit"].startswith('"segments";r=3;')
    assert len(flow.accepted) == (not wait_s)
    client.end()


async def test_what_valkey_most_likely_has_is_waited_for_on_the_short_way() -> None:
    client = Client()
    flow = client.flow
    flow.limiter.is_hopeful = True
    door, served = client.door.take, []

    def noting(*told: Any) -> Any:
        served.append(door(*told))
        return served[-1]

    client.door.take = noting  # type: ignore[method-assign,assignment]
    await client.send(request(flow, GOOD, extra=KEYED))
    first, second = await client.send(request(flow, GOOD))
    assert (first[0], second[0]) == (202, 202)
    assert len(served) == 2
    assert None not in served
    assert [answer[1]["ratelimit"] for answer in (first, second)] == [
        '"segments";r=999;t=1',
        '"segments";r=998;t=1',
    ]
    assert len(flow.accepted) == 2
    client.end()


@pytest.mark.parametrize(
    ("why", "status", "code"),
    [
        ("spent", 429, "quota.segments_per_second"),
        ("full", 503, "shed.queue_full"),
        ("unknown", 503, "store.unavailable"),
        ("broken", 500, "internal.error"),
    ],
)
async def test_what_was_waited_for_in_vain_takes_nothing_and_is_told_by_the_long_way(
    why: str, status: int, code: str
) -> None:
    client = Client()
    flow = client.flow
    flow.limiter.is_hopeful = True
    if why == "spent":
        flow.limiter.left = 0.0
    elif why == "full":
        flow.free = dict.fromkeys(flow.free, 0)
    else:
        flow.limiter.error = StoreUnavailable("away") if why == "unknown" else RuntimeError("bug")
    before, room = flow.limiter.left, dict(flow.free)
    [(told, _, body)] = await client.send(request(flow, GOOD, extra=KEYED))
    assert (told, body["code"]) == (status, code)
    assert flow.accepted == []
    assert (flow.limiter.left, flow.free) == (before, room)
    client.end()


@pytest.mark.parametrize("why", ["counted", "accepted"])
async def test_what_fails_after_it_was_waited_for_is_answered_and_not_asked_again(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    flow = client.flow
    flow.limiter.is_hopeful = True
    calls = []

    def failing(*told: Any) -> Any:
        calls.append(told)
        raise RuntimeError("bug")

    before, room = flow.limiter.left, dict(flow.free)
    if why == "counted":
        pumping = SimpleNamespace(watches=lambda *_: True, ask_one=failing)
        monkeypatch.setattr(flow, "pumping", pumping)
    else:
        monkeypatch.setattr(flow, "accept", failing)
    [(status, _, body)] = await client.send(request(flow, GOOD, extra=KEYED))
    assert (status, body["code"]) == (500, "internal.error")
    assert len(calls) == 1
    if why == "counted":
        assert (flow.limiter.left, flow.free) == (before, room)
    monkeypatch.undo()
    [_, (status, _, _)] = await client.send(request(flow, GOOD))
    assert status == 202  # the connection goes on
    client.end()


async def test_a_request_cut_at_every_byte_is_answered_once() -> None:
    client = Client()
    whole = request(client.flow, GOOD)
    for cut in range(1, len(whole)):
        found = await client.send(whole[:cut], whole[cut:])
        assert [status for status, _, _ in found] == [202], cut
        assert len(client.flow.accepted) == cut
        client.lose()
        client.connect()


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

    def hold(*args: Any) -> asyncio.Future[None]:
        accept(*args)
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


WRONG = {
    "line": b"garbage\r\n\r\n",
    "version": b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
    "chunk": b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("way", ["short", "long"])
@pytest.mark.parametrize("number", [1, 3])
async def test_what_is_wrong_is_answered_after_what_stands_before_it(
    wrong: str, way: str, number: int
) -> None:
    """Else who sent the good ones would take the refusal for their answer."""
    client = Client()
    held = held_back(client.flow)
    if way == "long":
        long_way(client)
    assert await client.send(request(client.flow, GOOD) * number + WRONG[wrong]) == []
    client.protocol.data_received(b"more")
    assert client.wire.sent == b""
    for place in range(number):
        held[place].set_result(None)
        told = await client.send()
    assert [status for status, _, _ in told[:-1]] == [202] * number
    assert told[-1][0] == (505 if wrong == "version" else 400)
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


@pytest.mark.parametrize("start", [b"5\r\nhello\r\n0\r\nX-A: ", b"5;x="])
async def test_an_endless_trailer_or_chunk_extension_ends_the_connection(start: bytes) -> None:
    client = Client()
    key = client.flow.keys["both"].encode()
    head = (
        b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nTransfer-Encoding: chunked\r\n\r\n" % key
    )
    found = await client.send(head + start)
    sent = 0
    while not client.wire.is_closed and sent < 4 * MAX_FRAMING:
        found += await client.send(b"a" * 8192)
        sent += 8192
    assert client.wire.is_closed
    assert sent <= 2 * MAX_FRAMING
    assert [status for status, _, _ in found] == [400]


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

    def hold(*args: Any) -> asyncio.Future[None]:
        accept(*args)
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


# -- leaving -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["short", "long", "get"])
async def test_the_answer_of_a_worker_that_leaves_is_the_connection_s_last(way: str) -> None:
    client = Client()
    if way == "long":
        long_way(client)
    asked = READY if way == "get" else request(client.flow, GOOD)
    [(status, headers, _)] = await client.send(asked)
    assert status in (200, 202)
    assert "connection" not in headers
    assert not client.wire.is_closed
    client.shared.to_end = ALL_OF_THEM
    assert not client.wire.is_closed  # who asks nothing is left alone
    _, (status, headers, _) = await client.send(asked)
    assert status in (200, 202)
    assert headers["connection"] == "close"
    assert client.wire.is_closed


@pytest.mark.parametrize("way", ["short", "long"])
async def test_a_request_under_way_when_the_drain_begins_is_answered_and_is_the_last(
    way: str,
) -> None:
    client = Client()
    if way == "long":
        long_way(client)
    held = held_back(client.flow)
    assert await client.send(request(client.flow, GOOD)) == []
    client.shared.to_end = ALL_OF_THEM
    assert client.protocol.is_busy()
    held[0].set_result(None)
    [(status, headers, _)] = await client.send()
    assert (status, headers["connection"]) == (202, "close")
    assert client.wire.is_closed


async def test_no_request_that_stands_behind_another_is_dropped() -> None:
    client = Client()
    client.shared.to_end = ALL_OF_THEM
    data = request(client.flow, GOOD) + READY + request(client.flow, GOOD)
    found = await client.send(data)
    assert [status for status, _, _ in found] == [202, 200, 202]
    assert [headers.get("connection") for _, headers, _ in found] == [None, None, "close"]
    assert len(client.flow.accepted) == 2
    assert client.wire.is_closed


async def test_nor_one_of_which_only_the_beginning_is_here() -> None:
    client = Client()
    client.shared.to_end = ALL_OF_THEM
    held = held_back(client.flow)
    second = request(client.flow, GOOD)
    await client.send(request(client.flow, GOOD) + second[:40])
    held[0].set_result(None)
    [(_, headers, _)] = await client.send()
    assert "connection" not in headers
    assert not client.wire.is_closed
    await client.send(second[40:])
    held[1].set_result(None)
    _, (status, headers, _) = await client.send()
    assert (status, headers["connection"]) == (202, "close")


class Pipe:
    """A socket in which so many octets wait."""

    def __init__(self, unread: int) -> None:
        self.ours, self.theirs = os.pipe()
        os.write(self.theirs, b"x" * unread)

    def fileno(self) -> int:
        return self.ours


async def test_nor_one_that_has_arrived_and_is_not_read_yet() -> None:
    client = Client()
    client.shared.to_end = ALL_OF_THEM
    client.wire.inside = pipe = Pipe(1)
    [(status, headers, _)] = await client.send(READY)
    assert status == 200
    assert "connection" not in headers
    assert client.protocol.is_busy()
    os.read(pipe.ours, 1)
    assert not client.protocol.is_busy()
    assert (await client.send(READY))[1][1]["connection"] == "close"
    os.close(pipe.ours)
    os.close(pipe.theirs)


async def test_only_as_many_connections_end_as_are_too_many() -> None:
    shared = Connections(100)
    clients = [Client(shared=shared) for _ in range(5)]
    shared.end_some(4)
    shared.end_some(2)  # a new order takes the place of the one before
    for client in clients:
        await client.send(request(client.flow, GOOD))
    assert sum(client.wire.is_closed for client in clients) == 2
    shared.to_end = ALL_OF_THEM
    shared.end_some(0)  # who leaves does not stop leaving
    for client in clients[2:]:
        await client.send(READY)
    assert all(client.wire.is_closed for client in clients)
    for client in clients:
        client.end()


@pytest.mark.parametrize(
    ("parts", "is_busy"),
    [
        ([], False),
        ([b"GET /heal"], True),
        ([READY], False),
        ([READY + b"GE"], True),
        ([READY, READY[:-2]], True),
    ],
)
async def test_who_is_busy(parts: list[bytes], is_busy: bool) -> None:
    client = Client()
    await client.send(*parts)
    assert client.protocol.is_busy() == is_busy
    client.end()


async def test_a_request_that_does_not_arrive_is_refused_when_the_time_is_over() -> None:
    client = Client()
    whole = request(client.flow, GOOD)
    await client.send(whole[:-5])
    client.protocol.give_up()
    [(status, headers, body)] = await client.send()
    assert (status, body["code"], headers["connection"]) == (503, "shed.draining", "close")
    assert client.wire.is_closed
    assert client.flow.accepted == []


async def test_a_request_that_is_whole_is_never_given_up() -> None:
    client = Client()
    held = held_back(client.flow)
    await client.send(request(client.flow, GOOD))
    client.protocol.give_up()
    assert not client.wire.is_closed
    held[0].set_result(None)
    assert [status for status, _, _ in await client.send()] == [202]
    client.end()
