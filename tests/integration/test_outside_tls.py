"""Webhooks and vendors: whom SSL_CERT_FILE adds is trusted, and nobody who is not right."""

import asyncio

import pytest

from tests.support.certificates import Authority
from tests.support.http_rig import HttpRig
from tests.support.tls_front import server_context, unusable_contexts
from webhooks.address import AllowList
from webhooks.deliver import (
    Delivered,
    Deliverer,
    DeliveryPolicy,
    Failed,
    Fault,
    Target,
    parse_target,
)
from webhooks.sign import new_secret

pytestmark = pytest.mark.integration
AUTHORITY = Authority("of the house")
SECRET, KEY = new_secret()
WRONG = ["another authority", "another name", "expired", "TLS 1.1"]


@pytest.fixture(autouse=True)
def private(tmp_path, monkeypatch):
    """Our process is told of the house's authority, as an operator tells it."""
    file = tmp_path / "house.pem"
    file.write_text(AUTHORITY.cert, "ascii")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


class Endpoint:
    """A tenant's, that says yes."""

    def __init__(self):
        self.requests = 0

    async def start(self, context):
        self.server = await asyncio.start_server(self._serve, "localhost", 0, ssl=context)
        return self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


async def deliver(context):
    endpoint = Endpoint()
    origin = f"https://localhost:{await endpoint.start(context)}"
    deliverer = Deliverer(DeliveryPolicy(connect_s=5, total_s=10))
    try:
        target = parse_target(f"{origin}/hook", AllowList.of([origin]))
        assert isinstance(target, Target)
        return await deliverer.deliver(target, [KEY], "evt_1", b"{}"), endpoint.requests
    finally:
        await deliverer.close()
        endpoint.server.close()


async def test_a_webhook_of_the_house_is_delivered(tmp_path):
    context = server_context(AUTHORITY.issue("localhost"), tmp_path)
    assert await deliver(context) == (Delivered(204), 1)


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_webhook_endpoint_that_is_not_right_gets_nothing(tmp_path, wrong):
    told, requests = await deliver(unusable_contexts(AUTHORITY, tmp_path)[wrong])
    assert isinstance(told, Failed)
    # one of TLS 1.1 may hang up without a word
    assert told.fault is Fault.TLS or (wrong == "TLS 1.1" and told.fault is Fault.CONNECT)
    assert requests == 0


@pytest.fixture
async def rig_for():
    rigs = []

    async def start(context):
        rig = HttpRig(tls=context)
        rigs.append(rig)
        await rig.listen()
        rig.make().start()
        async with asyncio.timeout(20):
            while rig.channel.why_down() == "still connecting":  # noqa: ASYNC110 – at the door's outside
                await asyncio.sleep(0.01)
        return rig

    yield start
    for rig in rigs:
        await rig.stop()


async def test_a_vendor_of_the_house_is_reached(tmp_path, rig_for):
    rig = await rig_for(server_context(AUTHORITY.issue("localhost"), tmp_path))
    assert rig.channel.is_up()


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_vendor_that_is_not_right_is_away_in_words(tmp_path, rig_for, wrong):
    rig = await rig_for(unusable_contexts(AUTHORITY, tmp_path)[wrong])
    assert not rig.channel.is_up()
    assert ("TLS" in rig.channel.why_down()) or wrong == "TLS 1.1"
    assert rig.requests == []
