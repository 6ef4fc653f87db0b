"""SMPP against other implementations: PyPI smpplib 2.2.4 and aiosmpplib 0.7.4.

Both are clients: they try our simulated carrier, over one connection, over a pair and within TLS,
and what our own client submits is read by smpplib's parser on the far side of a socket. smpp34's
server has a file of its own; what npm smpp writes stands in the recorded vectors (tests/wire).
"""

import asyncio
import json
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import smpplib.client
import smpplib.consts
import smpplib.exceptions
import smpplib.gsm
import smpplib.smpp

from adapters.session import SessionPolicy
from adapters.smpp import pdu
from adapters.smpp.channel import SmppChannel
from gateway.cutting import joined
from sms import config
from sms.outcomes import Submitted
from tests.support.certificates import Authority
from tests.support.gateway_process import ROOT
from tests.support.smpp import FakeSink, a_message, submits_of

pytestmark = pytest.mark.integration

LONG = "长短信内容" * 30
LOGIN, PASSWORD = "esme01", "secret08"
TO, SENDER = "8613800138000", "10690001"


def test_these_are_the_implementations_named():
    assert (version("smpplib"), version("aiosmpplib")) == ("2.2.4", "0.7.4")


# -- their clients at our carrier ----------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module", params=["plain", "TLS"])
def carrier(request, tmp_path_factory, authority) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("smsc")
    pem = authority.issue("127.0.0.1").file(folder / "carrier.pem")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "loadtest.carrier", "--json", "--name", "smsc"),
            *("--port", "0", "--control-port", "0", "--record", str(folder / "smsc.jsonl")),
            *("--system-id", LOGIN, "--password", PASSWORD),
            *("--latency-ms", "1", "--receipt-delay-ms", "5"),
            *(("--tls-cert", str(pem)) if request.param == "TLS" else ()),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    yield {**json.loads(process.stdout.readline()), "has_tls": request.param == "TLS"}
    process.terminate()
    process.wait(10)
    process.stdout.close()


def recorded(carrier, after: int) -> list[dict[str, Any]]:
    url = f"{carrier['control_url']}/submits?after={after}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        rows: list[dict[str, Any]] = json.loads(answer.read())["data"]
    return rows


class SmpplibClient:
    """smpplib's client and what it was told."""

    def __init__(self, carrier, authority) -> None:
        context = ssl.create_default_context(cadata=authority.cert)
        context.check_hostname = False  # it names no server
        self.ids: list[str] = []
        self.delivered: list[Any] = []
        self.client = smpplib.client.Client(
            "127.0.0.1",
            carrier["port"],
            timeout=5,
            ssl_context=context if carrier["has_tls"] else None,
            allow_unknown_opt_params=True,
        )
        self.client.set_message_sent_handler(self._sent)
        self.client.set_message_received_handler(self._received)
        self.client.connect()

    def _sent(self, pdu: Any, **_: object) -> None:
        self.ids.append(pdu.message_id.decode())

    def _received(self, pdu: Any, **_: object) -> int:
        self.delivered.append(pdu)
        return 0

    def send(self, text: str) -> int:
        parts, coding, esm_class = smpplib.gsm.make_parts(text)
        for part in parts:
            self.client.send_message(
                source_addr_ton=3,
                source_addr=SENDER,
                dest_addr_ton=1,
                dest_addr_npi=1,
                destination_addr=TO,
                short_message=part,
                data_coding=coding,
                esm_class=esm_class,
                registered_delivery=True,
            )
        return len(parts)

    def close(self) -> None:
        self.client.unbind()
        self.client.disconnect()


def test_smpplib_submits_and_is_told_what_became_of_it(carrier, authority):
    before = len(recorded(carrier, 0))
    peer = SmpplibClient(carrier, authority)
    peer.client.bind_transceiver(system_id=LOGIN, password=PASSWORD)
    count = peer.send("您好") + peer.send(LONG)
    while len(peer.delivered) < count or len(peer.ids) < count:
        peer.client.read_once()
    peer.close()
    rows = recorded(carrier, before)
    assert [row["carrier_id"] for row in rows] == peer.ids
    assert "".join(row["text"] for row in rows) == "您好" + LONG
    told = [message.receipted_message_id.decode() for message in peer.delivered]
    assert sorted(told) == sorted(peer.ids)
    assert all(b"stat:DELIVRD" in message.short_message for message in peer.delivered)


def test_smpplib_sends_over_one_connection_and_hears_over_another(carrier, authority):
    sender, receiver = SmpplibClient(carrier, authority), SmpplibClient(carrier, authority)
    sender.client.bind_transmitter(system_id=LOGIN, password=PASSWORD)
    receiver.client.bind_receiver(system_id=LOGIN, password=PASSWORD)
    sender.send("您好")
    sender.client.read_once()
    receiver.client.read_once()
    sender.close()
    receiver.close()
    assert sender.delivered == []
    [report] = receiver.delivered
    assert [report.receipted_message_id.decode()] == sender.ids


def test_smpplib_with_a_wrong_password_is_refused(carrier, authority):
    peer = SmpplibClient(carrier, authority)
    with pytest.raises(smpplib.exceptions.PDUError) as caught:
        peer.client.bind_transceiver(system_id=LOGIN, password="wrong")
    assert caught.value.args[1] == pdu.ESME_RINVPASWD
    peer.client.state = smpplib.consts.SMPP_CLIENT_STATE_OPEN
    peer.client.disconnect()


@pytest.mark.parametrize("carrier", ["plain"], indirect=True)  # it has no TLS
def test_aiosmpplib_submits_and_is_told_what_became_of_it(carrier):
    before = len(recorded(carrier, 0))
    texts = ["hello", "您好"]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "tests.support.aiosmpplib_client", str(carrier["port"])),
            *(LOGIN, PASSWORD, SENDER, TO, *texts),
        ],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    told = json.loads(ended.stdout.splitlines()[-1])
    rows = recorded(carrier, before)
    assert [row["text"] for row in rows] == texts
    assert told["taken"] == [row["carrier_id"] for row in rows]
    assert sorted(told["receipts"]) == sorted([taken, "DELIVRD"] for taken in told["taken"])


# -- our client, read by smpplib -----------------------------------------------------------


class ReadBySmpplib(asyncio.Protocol):
    """A carrier that reads what comes with smpplib and answers by the book."""

    def __init__(self, seen: list[Any]) -> None:
        self._seen = seen
        self._rest = b""
        self._transport: Any = None
        self._parser = smpplib.client.Client("127.0.0.1", 0, allow_unknown_opt_params=True)

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._rest += data
        while len(self._rest) >= 4 and len(self._rest) >= int.from_bytes(self._rest[:4], "big"):
            size = int.from_bytes(self._rest[:4], "big")
            frame, self._rest = self._rest[:size], self._rest[size:]
            self._answer(frame)

    def _answer(self, frame: bytes) -> None:
        read = smpplib.smpp.parse_pdu(frame, client=self._parser, allow_unknown_opt_params=True)
        _, command_id, _, sequence = pdu.parse_header(frame)
        self._seen.append(read)
        fields: dict[str, str | int | bytes] = {}
        if read.command in ("submit_sm", "data_sm"):
            fields = {"message_id": f"id{sequence}"}
        self._transport.write(pdu.build_pdu(command_id | pdu.RESPONSE, sequence, fields))


@pytest.mark.parametrize("submit_pdu", ["submit_sm", "data_sm"])
@pytest.mark.parametrize("long_messages", ["udh", "sar", "payload"])
async def test_what_we_submit_is_read_by_smpplib(submit_pdu, long_messages):
    seen: list[Any] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: ReadBySmpplib(seen), "127.0.0.1", 0
    )
    settings = {
        "host": "127.0.0.1",
        "port": server.sockets[0].getsockname()[1],
        "system_id": LOGIN,
        "password": PASSWORD,
        "submit_pdu": submit_pdu,
        "long_messages": long_messages,
    }
    sink = FakeSink()
    own = config.Channel(7, "peer", "smpp", settings, window=16)
    channel = SmppChannel(own, sink, SessionPolicy())
    channel.start()
    submits = submits_of(a_message(segments=3))
    if channel.sends_whole:
        submits = [joined(submits, own)]
    async with asyncio.timeout(5):
        while not channel.is_up():  # noqa: ASYNC110 – the door's outside
            await asyncio.sleep(0.005)
        assert channel.submit(submits) == []
        while len(sink.results) < len(submits):  # noqa: ASYNC110 – the door's outside
            await asyncio.sleep(0.005)
    await channel.stop(1.0)
    server.close()
    assert {type(outcome) for _, outcome in sink.results} == {Submitted}
    bind, *read, _ = seen
    assert (bind.command, bind.system_id) == ("bind_transceiver", LOGIN.encode())
    assert {one.command for one in read} == {submit_pdu}
    assert {(one.source_addr, one.destination_addr) for one in read} == {
        (SENDER.encode(), TO.encode())
    }
    in_tlv = submit_pdu == "data_sm" or channel.sends_whole
    texts = [one.message_payload if in_tlv else one.short_message for one in read]
    headers = [bytes((5, 0, 3, 7, 3, index)) for index in (1, 2, 3)]
    body = "你好".encode("utf-16-be")
    match long_messages:
        case "udh":
            assert texts == [header + body for header in headers]
            assert {one.esm_class for one in read} == {0x40}
        case "sar":
            assert texts == [body] * 3
            places = [(one.sar_msg_ref_num, one.sar_segment_seqnum) for one in read]
            assert places == [(7, 1), (7, 2), (7, 3)]
        case _:
            assert texts == [body * 3]
