"""The HTTP door of control ports, on bytes and a transport of its own."""

import asyncio
import json
from typing import Any

import pytest

from loadtest.vendors import NAMES
from loadtest.vendors.carrier import SHAPES
from loadtest.web import BODY_MAXIMUM, Answer, Door, Request, _Connection, answer


class FakeTransport(asyncio.Transport):
    """Remembers what was written; takes nothing more from `stop` to `go`."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.is_closed = False
        self.stop_after = 1 << 30
        self.protocol: Any = None

    def write(self, data):
        assert not self.is_closed
        self.written += data
        if len(self.written) > self.stop_after:
            self.stop_after = 1 << 30
            self.protocol.pause_writing()

    def close(self):
        self.is_closed = True


class Client:
    """One connection to a door."""

    def __init__(self, door):
        self.transport = FakeTransport()
        self.connection = self.transport.protocol = _Connection(door)
        self.connection.connection_made(self.transport)

    async def say(self, data):
        """What comes back for these bytes."""
        before = len(self.transport.written)
        self.connection.data_received(data)
        for _ in range(10):
            await asyncio.sleep(0)
        return self.transport.written[before:]


async def echo(request: Request) -> Answer:
    return answer({"query": dict(request.query), "body": request.body.decode()}, 202)


async def pieces(_: Request) -> Answer:
    return Answer(200, (b"x" * n for n in (3, 0, 20)))


async def broken(_: Request) -> Answer:
    raise ZeroDivisionError


@pytest.fixture
def door():
    routes = {
        ("GET", "/echo"): echo,
        ("POST", "/echo"): echo,
        ("GET", "/pieces"): pieces,
        ("GET", "/broken"): broken,
    }
    return Door(routes)


def read(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_query_and_body_come_to_the_route_however_they_are_cut(door):
    client = Client(door)
    raw = b"POST /echo?after=2&name=%C3%A4&empty= HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
    told = {"query": {"after": "2", "name": "ä", "empty": ""}, "body": "body"}
    assert read(await client.say(raw)) == (202, told)
    for octet in raw[:-1]:
        assert await client.say(bytes([octet])) == b""
    assert read(await client.say(raw[-1:])) == (202, told)
    assert not client.transport.is_closed


async def test_requests_sent_ahead_are_answered_in_their_order(door):
    raw = b"".join(b"GET /echo?n=%d HTTP/1.1\r\n\r\n" % n for n in range(3))
    said = await Client(door).say(raw)
    assert [said.index(b'{"n": "%d"}' % n) for n in range(3)] == sorted(
        said.index(b'{"n": "%d"}' % n) for n in range(3)
    )
    assert said.count(b"HTTP/1.1 202 Accepted\r\n") == 3


@pytest.mark.parametrize(
    ("asked", "status"),
    [(b"GET /nothing", 404), (b"DELETE /echo", 405), (b"GET /broken", 500)],
)
async def test_a_wrong_request_is_told_and_the_connection_stays(door, asked, status, capsys):
    client = Client(door)
    assert read(await client.say(asked + b" HTTP/1.1\r\n\r\n"))[0] == status
    assert (status == 500) == ("ZeroDivisionError" in capsys.readouterr().err)
    assert read(await client.say(b"GET /echo HTTP/1.1\r\n\r\n"))[0] == 202


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (
            b"POST /echo HTTP/1.1\r\nContent-Length: 70000\r\n\r\n" + bytes(BODY_MAXIMUM + 1),
            b"413 Request Entity Too Large",
        ),
    ],
)
async def test_what_cannot_be_read_ends_the_connection(door, raw, status):
    client = Client(door)
    assert (await client.say(raw)).startswith(b"HTTP/1.1 " + status)
    assert client.transport.is_closed


async def test_the_last_request_of_a_connection_closes_it(door):
    client = Client(door)
    assert read(await client.say(b"GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n"))[0] == 202
    assert client.transport.is_closed


async def test_who_asks_before_it_sends_its_body_is_told_to(door):
    client = Client(door)
    head = b"POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert await client.say(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert read(await client.say(b"hi"))[1]["body"] == "hi"


async def test_a_body_in_pieces_waits_for_a_client_that_reads_slowly(door):
    client = Client(door)
    client.transport.stop_after = 1
    said = await client.say(b"GET /pieces HTTP/1.1\r\n\r\n")
    head = said.partition(b"\r\n\r\n")[0]
    assert b"Transfer-Encoding: chunked" in head
    assert said.endswith(b"\r\n\r\n")
    client.connection.resume_writing()
    assert await client.say(b"") == b"3\r\nxxx\r\n14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n"


async def test_a_client_that_goes_ends_its_answer(door):
    client = Client(door)
    client.transport.stop_after = 1
    await client.say(b"GET /pieces HTTP/1.1\r\n\r\n")
    client.connection.connection_lost(None)
    for _ in range(3):
        await asyncio.sleep(0)
    assert client.connection.work is None
    assert not door.connections


async def test_closing_lets_an_answer_end_and_takes_no_further_request(door):
    client, idle = Client(door), Client(door)
    client.transport.stop_after = 1
    await client.say(b"GET /pieces HTTP/1.1\r\n\r\nGET /echo HTTP/1.1\r\n\r\n")
    closing = asyncio.ensure_future(door.close())
    await asyncio.sleep(0)
    assert [one.transport.is_closed for one in (idle, client)] == [True, False]
    client.connection.resume_writing()
    await closing
    assert client.transport.is_closed
    assert client.transport.written.endswith(b"\r\n0\r\n\r\n")


def test_every_vendor_has_its_name():
    assert sorted(SHAPES) == sorted(NAMES)
