"""SmppChannel against an SMSC that is not ours: PyPI smpp34's server (a Rust core).

The package is pinned among the development tools; without it this file fails, on purpose.
"""

import asyncio
import socket
from importlib.metadata import version

import pytest
import smpp34

from adapters.session import SessionPolicy
from adapters.smpp.channel import SmppChannel
from sms import config
from sms.outcomes import Cause, Rejected, Submitted, Throttled
from tests.support.smpp import FakeSink, a_message, some_submits, submits_of

pytestmark = pytest.mark.integration


def a_free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


async def until(is_true):
    async with asyncio.timeout(60):
        while not is_true():  # noqa: ASYNC110 – any condition, at the door's outside
            await asyncio.sleep(0.005)


@pytest.fixture
async def peer():
    """A started server, our bound channel, its sink and the server's handle of the session."""
    port = a_free_port()
    server = smpp34.Server("127.0.0.1", port, system_id="RUSTSMSC")
    await server.start()
    sink = FakeSink()
    settings = {"host": "127.0.0.1", "port": port, "system_id": "esme01", "password": "secret08"}
    channel = SmppChannel(
        config.Channel(7, "peer", "smpp", settings, window=32), sink, SessionPolicy()
    )
    channel.start()
    esme = await asyncio.wait_for(server.next(), 60)
    await until(channel.is_up)
    yield server, channel, sink, esme
    await channel.stop(1.0)
    await server.stop()


async def events(server, count):
    return [await asyncio.wait_for(server.next(), 60) for _ in range(count)]


def test_the_peer_is_the_pinned_one():
    assert version("smpp34") == "1.5.0"


async def test_it_binds_as_a_transceiver(peer):
    _, channel, sink, esme = peer
    assert esme.system_id == "esme01"
    assert esme.can_receive
    assert channel.window() == 32
    assert [is_up for is_up, _ in sink.links] == [True]


async def test_submits_arrive_as_they_were_and_answers_come_in_any_order(peer):
    server, channel, sink, _ = peer
    submits = some_submits(20)
    assert channel.submit(submits) == []
    taken = await events(server, 20)
    first = taken[0]
    assert (first.destination_addr, first.source_addr) == ("8613800138000", "10690001")
    assert (first.source_addr_ton, first.dest_addr_ton, first.dest_addr_npi) == (3, 1, 1)
    assert first.data_coding == 8
    assert bytes(first.short_message).decode("utf-16-be") == "你好"
    assert first.registered_delivery == 1
    for number, event in reversed(list(enumerate(taken))):
        event.accept(f"m{number}")
    await until(lambda: len(sink.results) == 20)
    assert {id(submit) for submit, _ in sink.results} == {id(submit) for submit in submits}
    assert {outcome.carrier_id for _, outcome in sink.results} == {f"m{n}" for n in range(20)}


async def test_segments_arrive_with_their_header(peer):
    server, channel, _, _ = peer
    channel.submit(submits_of(a_message(segments=3)))
    headers = set()
    for event in await events(server, 3):  # the server hands them out in any order
        assert event.esm_class == 0x40
        headers.add(bytes(event.short_message)[:6])
        event.accept(f"s{len(headers)}")
    assert headers == {bytes((5, 0, 3, 7, 3, index)) for index in (1, 2, 3)}


async def test_its_refusals_become_our_outcomes(peer):
    server, channel, sink, _ = peer
    channel.submit(some_submits(3))
    names = ("ESME_RTHROTTLED", "ESME_RINVDSTADR", "ESME_RSYSERR")  # its stubs lack them
    statuses = [vars(smpp34)[name] for name in names]
    for event, status in zip(await events(server, 3), statuses, strict=True):
        event.reject(status)
    await until(lambda: len(sink.results) == 3)
    outcomes = [outcome for _, outcome in sink.results]
    assert sum(isinstance(outcome, Throttled) for outcome in outcomes) == 1
    causes = {outcome.cause for outcome in outcomes if isinstance(outcome, Rejected)}
    assert causes == {Cause.NUMBER, Cause.CHANNEL}


async def test_a_receipt_comes_back_and_is_answered_when_told(peer):
    server, channel, sink, esme = peer
    channel.submit(some_submits(1))
    [event] = await events(server, 1)
    event.accept("1a2b3c00")
    await until(lambda: sink.results)
    assert sink.results[0][1] == Submitted("1a2b3c00")
    text = (
        b"id:1a2b3c00 sub:001 dlvrd:001 submit date:2611212028 done date:2611212028"
        b" stat:DELIVRD err:000 text:"
    )
    sending = asyncio.ensure_future(
        esme.deliver_sm("10690001", text, source_addr="8613800138000", esm_class=4)
    )
    await until(lambda: sink.received)
    [report] = sink.received
    assert (report.carrier_id, report.state, report.error) == ("1a2b3c00", "DELIVRD", "000")
    assert report.number == "8613800138000"
    assert not sending.done()
    channel.answer([report.token], accepted=True)
    await asyncio.wait_for(sending, 60)


async def test_a_text_from_a_phone_comes_through(peer):
    _, channel, sink, esme = peer
    body = "退订".encode("utf-16-be")
    sending = asyncio.ensure_future(
        esme.deliver_sm("10690001", body, source_addr="8613800138000", data_coding=8)
    )
    await until(lambda: sink.texts)
    assert sink.texts[0].text == "退订"
    channel.answer([sink.texts[0].token], accepted=True)
    await asyncio.wait_for(sending, 60)


async def test_its_logout_takes_the_channel_down_and_up_again(peer):
    _, channel, sink, esme = peer
    await esme.unbind()
    await until(lambda: len(sink.links) == 2)
    assert not channel.is_up()
    await until(channel.is_up)
    assert [is_up for is_up, _ in sink.links] == [True, False, True]
