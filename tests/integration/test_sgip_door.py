"""SGIP's second direction over real sockets: who may come in, what it brings, how it leaves.

Neither PyPI nor npm has another implementation of SGIP to install as a peer; what Go and Java ones
really send is in the recorded vectors (tests/wire).
"""

import asyncio
import contextlib
import socket
import ssl
import time
from typing import NamedTuple

import pytest

from adapters.session import SessionPolicy
from adapters.sgip import door, pdu
from adapters.sgip.channel import SgipChannel
from adapters.sgip.door import Door
from gateway.listener import Listener
from loadtest.server import LoginAsked, OwedReport, Submits
from loadtest.sgip_server import SgipCaller, SgipServer, SgipSide
from sms import config
from sms.outcomes import Submitted
from tests.support.certificates import Authority
from tests.support.sgip import SETTINGS, bind_asked, deliver
from tests.support.smpp import FakeSink, some_submits
from tests.support.tls_front import server_context

pytestmark = pytest.mark.integration


async def until(is_true):
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 – any condition, at the door's outside
            await asyncio.sleep(0.005)


def a_channel(number: int = 7, **settings: object) -> config.Channel:
    own = {**SETTINGS, "smg_allow": ["127.0.0.1"], **settings}
    return config.Channel(number, "unicom", "sgip", own)


class Tls(NamedTuple):
    """Both ends'."""

    server: ssl.SSLContext
    client: ssl.SSLContext


class Rig:
    """A door behind a listening socket, with a sink that remembers."""

    def __init__(self, tls: Tls | None = None, **policy: float) -> None:
        self.tls = tls
        self.sink = FakeSink()
        self.writers: list[asyncio.StreamWriter] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.policy = SessionPolicy(process=0, life=0, **policy)
        self.door = Door(self.sink, self.policy)
        self.door.set_channels([a_channel()])
        self.listener = Listener(
            self.socket, self.door.make_protocol, (lambda: tls.server) if tls else None
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = self.tls.client if self.tls else None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        self.writers.append(writer)
        return reader, writer

    async def caller(self, name: str = "fakename", password: str = "1234") -> "Caller":
        reader, writer = await self.connect()
        caller = Caller(SgipCaller(name, password), reader, writer)
        await caller.login()
        return caller

    async def close(self) -> None:
        self.listener.close()
        await self.door.stop(0.2)
        self.socket.close()
        for writer in self.writers:
            writer.close()
        await asyncio.sleep(0)


class Caller:
    """An SMG that is logged in at our door."""

    def __init__(self, side, reader, writer) -> None:
        self.side, self.reader, self.writer = side, reader, writer
        self.taken = 0
        self.again = 0

    async def login(self) -> None:
        self.side.connected()
        self.flush()
        await self.read()

    def flush(self) -> None:
        self.writer.write(self.side.to_send())

    async def read(self) -> bytes:
        async with asyncio.timeout(5):
            data: bytes = await self.reader.read(65536)
        for event in self.side.receive(data, time.monotonic()):
            self.taken += getattr(event, "taken", 0)
            self.again += len(getattr(event, "again", ()))
        return data

    def report(self, submit_id: str, *, is_good: bool = True) -> None:
        report = OwedReport(submit_id.encode(), b"8613800138000", b"", b"", b"", is_good)
        self.side.deliver([report], time.monotonic())
        self.flush()


@pytest.fixture(params=["in clear", "within TLS"])
async def rig(request, tmp_path):
    authority = Authority()
    tls = Tls(
        server_context(authority.issue("127.0.0.1"), tmp_path),
        ssl.create_default_context(cadata=authority.cert),
    )
    made = Rig(tls if request.param == "within TLS" else None)
    yield made
    await made.close()


ID = pdu.pack_sequence(3010012345, 1121203230, 5).hex()


async def test_reports_and_texts_come_in_and_are_answered_when_they_are_kept(rig):
    caller = await rig.caller()
    assert caller.side.may_deliver
    caller.report(ID)
    caller.report(ID, is_good=False)
    caller.writer.write(deliver(b"TD"))
    await until(lambda: len(rig.sink.received) == 2 and rig.sink.texts)
    assert [report.carrier_id for report in rig.sink.received] == [ID, ID]
    assert [report.error for report in rig.sink.received] == ["", "29"]
    assert rig.sink.texts[0].text == "TD"
    first, second = (report.token for report in rig.sink.received)
    foreign = object()
    assert list(rig.door.answer([first, foreign], accepted=True)) == [foreign]
    rig.door.answer([second, rig.sink.texts[0].token], accepted=False)
    async with asyncio.timeout(5):
        while caller.taken + caller.again < 2:
            await caller.read()
    assert (caller.taken, caller.again) == (1, 1)


async def test_a_report_on_the_smgs_connection_answers_the_submit_on_ours(rig):
    """It overtakes the answer: the submit is known to be taken, its slot is free."""
    submits: list[tuple[int, bytes]] = []

    async def smg(reader, writer):
        side = SgipServer()
        while data := await reader.read(65536):
            for event in side.receive(data, time.monotonic()):
                if isinstance(event, LoginAsked):
                    side.answer_login(event, 0, "SMG")
                elif isinstance(event, Submits):
                    submits.extend((sequence, frame) for sequence, frame, _ in event.submits)
            writer.write(side.to_send())
        writer.close()

    server = await asyncio.start_server(smg, "127.0.0.1", 0)
    own = config.Channel(
        7, "unicom", "sgip", {**SETTINGS, "port": server.sockets[0].getsockname()[1]}, window=4
    )
    channel = SgipChannel(own, rig.sink, rig.policy)
    channel.start()
    try:
        await until(channel.is_up)
        sent = some_submits(2)
        assert channel.submit(sent) == []
        await until(lambda: len(submits) == 2)
        assert channel.free() == 2
        caller = await rig.caller()
        submit_id = SgipSide().carrier_id(1, submits[1][0])
        caller.report(submit_id)
        await until(lambda: rig.sink.results)
        assert rig.sink.results == [(sent[1], Submitted(submit_id))]
        assert channel.free() == 3
        assert [report.carrier_id for report in rig.sink.received] == [submit_id]
    finally:
        await channel.stop(0.05)
        server.close()


@pytest.mark.parametrize(
    ("wrong", "result"),
    [({"login_type": 1}, 4), ({"name": "other"}, 1), ({"password": "wrong"}, 1)],
)
async def test_a_wrong_login_is_told_so_and_closed(rig, wrong, result):
    reader, writer = await rig.connect()
    writer.write(bind_asked(**wrong))
    async with asyncio.timeout(5):
        data = await reader.read()
    assert (len(data), data[20]) == (29, result)
    assert rig.door.sessions() == {7: 0}
    writer.close()
    await until(lambda: rig.door.connections() == 0)


@pytest.mark.parametrize("allow", [["203.0.113.7"], ["10.0.0.0/8", "::1"]])
async def test_an_address_on_nobodys_list_gets_no_word(rig, allow):
    rig.door.set_channels([a_channel(smg_allow=allow)])
    reader, writer = await rig.connect()
    with contextlib.suppress(ConnectionError):
        writer.write(bind_asked())
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    writer.close()
    assert rig.door.connections() == 0


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\0" * 40])
async def test_noise_ends_its_own_connection_only(rig, noise):
    good = await rig.caller()
    reader, writer = await rig.connect()
    writer.write(noise)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    # the same from one that is logged in
    bad = await rig.caller()
    bad.writer.write(noise)
    assert await bad.read() == b""
    good.report(ID)
    await until(lambda: rig.sink.received)


@pytest.mark.parametrize("words", [b"", bind_asked()[:-1]])
async def test_who_never_logs_in_is_sent_away(monkeypatch, words):
    """Silent or slow: each octet in time does not make the login in time."""
    monkeypatch.setattr(door, "TICK_S", 0.1)
    rig = Rig(response_timeout_s=0.5)

    async def trickle(writer: asyncio.StreamWriter) -> None:
        for octet in words:
            writer.write(bytes((octet,)))
            await asyncio.sleep(0.05)  # 3 s for all of them

    try:
        reader, writer = await rig.connect()
        trickling = asyncio.create_task(trickle(writer))
        async with asyncio.timeout(2.5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        await until(lambda: rig.door.connections() == 0)
        trickling.cancel()
        # one that is logged in may be silent as long as it likes
        caller = await rig.caller()
        await asyncio.sleep(0.8)
        caller.report(ID)
        await until(lambda: rig.sink.received)
    finally:
        await rig.close()


async def test_several_smgs_are_answered_each_over_its_own_connection(rig):
    """Two of one account, and one of another channel from the same address."""
    rig.door.set_channels([a_channel(), a_channel(8, login_name="other", password="5678")])
    callers = [await rig.caller(), await rig.caller(), await rig.caller("other", "5678")]
    for place, caller in enumerate(callers):
        caller.report(pdu.pack_sequence(3010012345, 1121203230, place).hex())
    await until(lambda: len(rig.sink.received) == 3)
    assert rig.door.sessions() == {7: 2, 8: 1}
    by_id = {report.carrier_id: report for report in rig.sink.received}
    reports = [by_id[key] for key in sorted(by_id)]
    assert [report.channel for report in reports] == [7, 7, 8]
    rig.door.answer([reports[1].token, reports[2].token], accepted=True)
    for caller in callers[1:]:
        await caller.read()
    assert [caller.taken for caller in callers] == [0, 1, 1]
    # the end of one is nothing to the others
    callers[1].writer.close()
    await until(lambda: rig.door.sessions() == {7: 1, 8: 1})
    rig.door.answer([reports[0].token], accepted=True)
    await callers[0].read()
    assert callers[0].taken == 1


async def test_beyond_the_bound_nobody_is_let_in_until_one_leaves(rig, monkeypatch):
    monkeypatch.setattr(door, "GUESTS_MAXIMUM", 2)
    first = await rig.caller()
    await rig.caller()
    reader, _ = await rig.connect()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    assert rig.door.connections() == 2
    first.writer.close()
    await until(lambda: rig.door.connections() == 1)
    await rig.caller()


async def test_a_changed_channel_sends_its_guests_away_and_an_unchanged_one_keeps_them(rig):
    caller = await rig.caller()
    rig.door.set_channels([a_channel(), a_channel(8, login_name="other")])
    assert rig.door.connections() == 1
    rig.door.set_channels([a_channel(password="changed")])
    assert await caller.read() == b""
    await until(lambda: rig.door.connections() == 0)


async def test_a_token_of_a_guest_that_left_is_ignored(rig):
    caller = await rig.caller()
    caller.report(ID)
    await until(lambda: rig.sink.received)
    caller.writer.close()
    await until(lambda: rig.door.connections() == 0)
    assert rig.door.answer([rig.sink.received[0].token], accepted=True) == []


async def test_the_stop_logs_out(rig):
    caller = await rig.caller()
    stopping = asyncio.create_task(rig.door.stop(2.0))
    data = await caller.read()
    [header] = [pdu.parse_header(data)]
    assert header[1] == pdu.UNBIND
    caller.writer.write(pdu.pack_header(20, pdu.UNBIND_RESP, *header[2:]))
    await asyncio.wait_for(stopping, 5)
    assert rig.door.connections() == 0


async def test_one_connection_more_than_a_login_may_have_closes_the_quietest(rig, monkeypatch):
    """An SMG that forgets its connections must not shut the port for everybody."""
    monkeypatch.setattr(door, "GUESTS_OF_ACCOUNT", 2)
    forgotten = await rig.caller()
    await rig.caller()
    await rig.caller()
    assert await forgotten.read() == b""
    await until(lambda: rig.door.connections() == 2)
    assert rig.door.sessions() == {7: 2}


async def test_few_of_one_address_may_wait_for_their_login(rig, monkeypatch):
    monkeypatch.setattr(door, "STRANGERS_OF_ADDRESS", 1)
    await rig.caller()
    await rig.connect()
    await until(lambda: rig.door.connections() == 2)
    reader, _ = await rig.connect()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    assert rig.door.connections() == 2


async def test_who_is_connected_must_know_the_password_of_now(rig):
    reader, writer = await rig.connect()
    await until(lambda: rig.door.connections() == 1)
    rig.door.set_channels([a_channel(smg_password="another")])
    writer.write(bind_asked())
    answer = await asyncio.wait_for(reader.read(29), 5)
    assert answer[20] == 1


async def test_the_stop_waits_for_what_is_being_kept_and_sends_strangers_away(rig):
    caller = await rig.caller()
    reader, _ = await rig.connect()
    await until(lambda: rig.door.connections() == 2)
    caller.report(ID)
    await until(lambda: rig.sink.received)
    stopping = asyncio.create_task(rig.door.stop(2.0))
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    rig.door.answer([rig.sink.received[0].token], accepted=True)
    await caller.read()
    assert caller.taken == 1
    caller.writer.close()
    await asyncio.wait_for(stopping, 5)
