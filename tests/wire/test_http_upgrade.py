"""A request that asks for another protocol is answered in this one, with its body and whole.

Java's HttpClient asks for h2c with each first request over plain HTTP; a server may ignore it
(RFC 9110 section 7.8).
"""

from __future__ import annotations

import pytest

from tests.support.http_client import GOOD, READY, Client, request

H2C = {
    "Connection": "Upgrade, HTTP2-Settings",
    "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    "Upgrade": "h2c",
}
ASKS = {
    "Java": H2C,
    "websocket": {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket"},
    "several": {"Connection": "upgrade", "Upgrade": "h2c, TLS/1.0"},
    "long way": {**H2C, "Content-Type": "application/json; charset=utf-8"},
    "expects": {**H2C, "Expect": "nothing-we-know"},
}


@pytest.mark.parametrize("ask", ASKS)
async def test_an_upgrade_is_ignored_and_the_body_is_kept(ask: str) -> None:
    client = Client()
    raw = request(client.flow, GOOD, extra=ASKS[ask])
    found = await client.send(raw)
    assert [status for status, _, _ in found] == [202]
    assert "connection" not in found[0][1]
    again = await client.send(raw, READY)  # the connection goes on
    assert [status for status, _, _ in again] == [202, 202, 200]
    numbers = [message.number for batch in client.flow.accepted for message in batch]
    assert numbers == [GOOD["to"].removeprefix("+")] * 2
    assert not client.wire.is_closed
    client.end()


@pytest.mark.parametrize("size", [1, 7, 100, 300])
async def test_it_may_come_in_pieces(size: int) -> None:
    client = Client()
    raw = request(client.flow, GOOD, extra=H2C)
    found = await client.send(*[raw[at : at + size] for at in range(0, len(raw), size)])
    assert [status for status, _, _ in found] == [202]
    assert len(client.flow.accepted) == 1
    client.end()


async def test_what_follows_in_the_same_read_is_answered_too() -> None:
    client = Client()
    raw = request(client.flow, GOOD, extra=H2C)
    get = READY.replace(b"Host: x\r\n", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n")
    found = await client.send(raw + get + raw + READY)
    assert [status for status, _, _ in found] == [202, 200, 202, 200]
    client.end()


async def test_a_body_in_chunks_is_kept() -> None:
    client = Client()
    head, _, body = request(client.flow, GOOD, extra=H2C).partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    head = b"\r\n".join([*lines, b"Transfer-Encoding: chunked"])
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    found = await client.send(head + b"\r\n\r\n" + chunks + READY)
    assert [status for status, _, _ in found] == [202, 200]
    client.end()


async def test_the_last_request_of_a_connection_is_still_the_last() -> None:
    client = Client()
    raw = request(client.flow, GOOD, extra={**H2C, "Connection": "close, Upgrade"})
    found = await client.send(raw)
    assert [status for status, _, _ in found] == [202]
    assert client.wire.is_closed
    client.end()


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ({**H2C, "Transfer-Encoding": "chunked"}, 400),  # two lengths
        ({**H2C, "X-Large": "x" * 17_000}, 431),
        ({**H2C, **{f"X-{n}": "x" for n in range(100)}}, 431),
    ],
)
async def test_what_is_refused_without_an_upgrade_is_refused_with_it(
    extra: dict[str, str], status: int
) -> None:
    client = Client()
    found = await client.send(request(client.flow, GOOD, extra=extra))
    assert [told for told, _, _ in found] == [status]
    assert client.wire.is_closed
    assert client.flow.accepted == []
    client.end()


async def test_connect_is_no_way_to_anywhere() -> None:
    client = Client()
    found = await client.send(b"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\nanything")
    assert [status for status, _, _ in found] in ([400], [404], [405])
    client.end()
