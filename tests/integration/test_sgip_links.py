"""Our connections to the SMG: idle ones that it closes, and logins that do not last."""

import asyncio

import pytest

from adapters.session import SessionPolicy
from adapters.sgip import pdu, session
from adapters.sgip.channel import SgipChannel
from sms import config
from tests.support.sgip import SETTINGS
from tests.support.smpp import FakeSink, some_submits

pytestmark = pytest.mark.integration


async def until(is_true):
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 – any condition, at the door's outside
            await asyncio.sleep(0.005)


class Smg:
    """It takes every login and closes so many seconds later; None = never."""

    def __init__(self, close_s: float | None) -> None:
        self.close_s = close_s
        self.logins = 0
        self.submits = 0
        self.sink = FakeSink()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        own = config.Channel(7, "unicom", "sgip", {**SETTINGS, "port": port}, window=4)
        policy = SessionPolicy(reconnect_min_s=0.02, reconnect_max_s=0.1)
        self.channel = SgipChannel(own, self.sink, policy)
        self.channel.start()
        return self

    async def __aexit__(self, *_):
        await self.channel.stop(0.05)
        self.server.close()

    async def _serve(self, reader, writer):
        header = await reader.readexactly(61)
        assert pdu.parse_header(header)[1] == pdu.BIND
        self.logins += 1
        writer.write(pdu.build_answer(header, pdu.OK))
        try:
            async with asyncio.timeout(self.close_s):
                while data := await reader.read(65536):
                    self.submits += pdu.parse_header(data)[1] == pdu.SUBMIT
        except TimeoutError:
            pass
        writer.close()


async def test_an_idle_connection_that_is_closed_is_no_fault(monkeypatch):
    monkeypatch.setattr(session, "PROBATION_S", 0.02)
    monkeypatch.setattr("adapters.session.PROBATION_S", 0.02)
    monkeypatch.setattr(session, "IDLE_S", 0.05)
    async with Smg(close_s=0.1) as smg:
        await until(lambda: smg.logins >= 4)
        assert smg.channel.failures == 0
        assert [is_up for is_up, _ in smg.sink.links[:5]] == [True, False, True, False, True]


async def test_a_login_that_does_not_last_counts_as_refused_and_gets_nothing_to_send():
    """go_sgip's server answers a wrong password with 0 and closes."""
    async with Smg(close_s=0.05) as smg:
        await until(lambda: smg.logins >= 4)
        assert smg.channel.failures >= 3
        # only the first one counted as up; the others had to hold for a second
        assert [is_up for is_up, _ in smg.sink.links] == [True, False]
        assert smg.channel.submit(some_submits(1)) != []
        assert smg.submits == 0
        smg.close_s = None  # the password was mended
        await until(smg.channel.is_up)
        await until(lambda: smg.channel.submit(some_submits(1)) == [])
        await until(lambda: smg.submits == 1)
