"""CMPP against other implementations: pycmpp 2.0.2 (CMPP 2.1) and cmppy 0.3 (CMPP 3.0).

Both are clients: our simulated carrier is tried by them, and what our own client submits is read
by pycmpp's parser on the far side of a socket.
"""

import asyncio
import json
import socket
import struct
import sys
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from subprocess import PIPE, Popen
from typing import Any

import pytest
from cmppy import Cmppy
from cmppy.request import ConnectReq, SubmitReq
from pycmpp.cmpp import Cmpp
from pycmpp.request import SubmitRequestInstance
from pycmpp.response import ConnectResponseInstance, SubmitResponseInstance
from pycmpp.utils import get_md5_digest

from adapters.cmpp.channel import CmppChannel
from adapters.session import SessionPolicy
from sms import config
from sms.outcomes import Submitted
from tests.support.gateway_process import ROOT
from tests.support.smpp import FakeSink, a_message, submits_of

pytestmark = pytest.mark.integration

LONG = "长短信内容" * 30
LOGIN, SECRET = "900001", "888888"
CONNECT, TERMINATE, SUBMIT = 1, 2, 4
RESPONSE = 0x80000000


def test_these_are_the_implementations_named():
    assert (version("pycmpp"), version("cmppy")) == ("2.0.2", "0.3")


# -- their clients at our carrier ----------------------------------------------------------


@pytest.fixture(params=["cmpp2", "cmpp3"])
def carrier(request, tmp_path) -> Iterator[dict[str, Any]]:
    process = Popen(
        [
            *(sys.executable, "-m", "loadtest.carrier", "--json", "--name", "ismg"),
            *("--protocol", request.param, "--port", "0", "--control-port", "0"),
            *("--system-id", LOGIN, "--password", SECRET, "--latency-ms", "1"),
            *("--record", str(tmp_path / "ismg.jsonl")),
        ],
        cwd=ROOT,
        stdout=PIPE,
    )
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())
    process.terminate()
    process.wait(10)
    process.stdout.close()


def recorded(carrier):
    with urllib.request.urlopen(f"{carrier['control_url']}/submits", timeout=5) as answer:
        return json.loads(answer.read())["data"]


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, "closed by the carrier"
        data += piece
    return data


def read_frame(sock: socket.socket) -> bytes:
    head = read_exactly(sock, 4)
    return head + read_exactly(sock, int.from_bytes(head, "big") - 4)


@pytest.fixture
def pycmpp(carrier) -> Iterator[Cmpp]:
    client = Cmpp("127.0.0.1", carrier["port"], LOGIN, SECRET, "10690001", delivery=0)
    client.so.settimeout(5)
    client.connect()
    yield client
    client.close()


def test_pycmpp_logs_in_and_submits_short_and_long_texts(carrier, pycmpp):
    """It names 2.1: a carrier of 3.0 speaks 2.0 with it."""
    pycmpp.auth()
    answer = ConnectResponseInstance()
    answer.resolve(read_frame(pycmpp.so))
    assert answer.status == 0
    assert answer.version == 0x21
    pycmpp.submit("您好", ["13800138000"])
    pycmpp.submit(LONG, ["13800138001"])
    ids = set()
    for _ in range(4):  # one, and three segments of 64
        taken = SubmitResponseInstance()
        taken.resolve(read_frame(pycmpp.so))
        assert taken.status == 0
        ids.add(taken.msg_id)
    assert len(ids) == 4
    pycmpp.terminate()
    assert read_frame(pycmpp.so)[4:8].hex() == "80000002"
    first, *segments = recorded(carrier)
    assert (first["to"], first["text"]) == ("13800138000", "您好")
    assert "".join(row["text"] for row in segments) == LONG
    assert [(row["index"], row["total"]) for row in segments] == [(1, 3), (2, 3), (3, 3)]
    assert {f"{one:016x}" for one in ids} == {row["carrier_id"] for row in recorded(carrier)}


def test_pycmpp_with_a_wrong_secret_is_refused(carrier):
    client = Cmpp("127.0.0.1", carrier["port"], LOGIN, "wrong", "10690001")
    client.so.settimeout(5)
    client.connect()
    client.auth()
    answer = ConnectResponseInstance()
    answer.resolve(read_frame(client.so))
    client.close()
    assert answer.status == 3


@pytest.fixture
def cmppy(carrier) -> Iterator[Cmppy]:
    client = Cmppy("127.0.0.1", carrier["port"], LOGIN, SECRET)
    client._so.settimeout(5)
    yield client
    client._so.close()  # it leaves its socket open where it gives up


@pytest.mark.parametrize("carrier", ["cmpp3"], indirect=True)
def test_cmppy_submits_over_3_0(carrier, cmppy):
    answer = cmppy.request(
        SubmitReq(LOGIN, "您好", src_id="10690001", dest_terminal_id=["13800138000"])
    )
    assert answer.result == 0
    [row] = recorded(carrier)
    assert (row["to"], row["from"], row["text"]) == ("13800138000", "10690001", "您好")
    assert row["carrier_id"] == f"{answer.msg_id:016x}"


@pytest.mark.parametrize("carrier", ["cmpp2"], indirect=True)
def test_cmppy_s_login_is_told_that_its_version_is_too_high_at_2_0(carrier, cmppy):
    """In the layout of 2.0, which its own parser does not know."""
    cmppy._connect()
    cmppy._write(ConnectReq(LOGIN, SECRET).message)
    answer = read_frame(cmppy._so)
    assert (len(answer), answer[12], answer[-1]) == (30, 4, 0x20)
    assert recorded(carrier) == []


# -- our client, read by pycmpp ------------------------------------------------------------


class ReadByPycmpp(asyncio.Protocol):
    """A carrier of 2.0 that reads what comes with pycmpp and answers by the book."""

    def __init__(self, seen: list[dict[str, Any]]) -> None:
        self._seen = seen
        self._rest = b""
        self._transport: Any = None

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._rest += data
        while len(self._rest) >= 4 and len(self._rest) >= int.from_bytes(self._rest[:4], "big"):
            size = int.from_bytes(self._rest[:4], "big")
            frame, self._rest = self._rest[:size], self._rest[size:]
            self._answer(frame)

    def _answer(self, frame: bytes) -> None:
        _, command, sequence = struct.unpack_from("!III", frame)
        body = b""
        if command == CONNECT:
            proof, stamp = frame[18:34], int.from_bytes(frame[35:39], "big")
            secret = f"{SECRET}{stamp:010}".encode()
            wanted = get_md5_digest(LOGIN.encode() + bytes(9) + secret)
            body = bytes((0 if proof == wanted else 3,)) + bytes(16) + b"\x20"
        elif command == SUBMIT:
            read = SubmitRequestInstance().resolve(frame)
            self._seen.append(read)
            body = struct.pack("!QB", len(self._seen), 0)
        elif command != TERMINATE:
            return
        self._transport.write(
            struct.pack("!III", 12 + len(body), command | RESPONSE, sequence) + body
        )


async def test_what_we_submit_is_read_by_pycmpp():
    seen: list[dict[str, Any]] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: ReadByPycmpp(seen), "127.0.0.1", 0
    )
    settings = {
        "host": "127.0.0.1",
        "port": server.sockets[0].getsockname()[1],
        "source_addr": LOGIN,
        "shared_secret": SECRET,
        "service_id": "SVC",
    }
    sink = FakeSink()
    channel = CmppChannel(
        config.Channel(7, "peer", "cmpp2", settings, window=16), sink, SessionPolicy()
    )
    channel.start()
    async with asyncio.timeout(5):
        while not channel.is_up():  # noqa: ASYNC110 – the door's outside
            await asyncio.sleep(0.005)
        assert channel.submit([*submits_of(a_message()), *submits_of(a_message(segments=3))]) == []
        while len(sink.results) < 4:  # noqa: ASYNC110 – the door's outside
            await asyncio.sleep(0.005)
    await channel.stop(1.0)
    server.close()
    assert [outcome for _, outcome in sink.results] == [
        Submitted(f"{number:016x}") for number in (1, 2, 3, 4)
    ]
    one, *three = seen
    assert one["msg_content"] == "你好"
    assert one["dest_terminal_id"].rstrip("\0") == "13800138000"
    assert one["src_id"].rstrip("\0") == "10690001"
    assert one["service_id"].rstrip("\0") == "SVC"
    assert (one["msg_src"], one["fee_code"], one["register_delivery"]) == (LOGIN, "000000", 1)
    assert (one["pk_total"], one["pk_number"], one["tp_udhi"], one["msg_fmt"]) == (1, 1, 0, 8)
    assert [(read["pk_total"], read["pk_number"]) for read in three] == [(3, 1), (3, 2), (3, 3)]
    assert [read["msg_head"].encode("latin-1") for read in three] == [
        bytes((5, 0, 3, 7, 3, index)) for index in (1, 2, 3)
    ]
    assert [read["msg_content"] for read in three] == ["你好"] * 3
