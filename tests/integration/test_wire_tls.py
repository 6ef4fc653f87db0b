"""Wire protocols within TLS over real sockets; the carrier's end is Python's.

What else a channel does is asked of it over TLS by tests/conformance.
"""

import asyncio
import ssl
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from sms.outcomes import Submitted
from tests.support.certificates import Authority
from tests.support.smpp import some_submits
from tests.support.wire_rig import WireRig

pytestmark = pytest.mark.integration


async def until(is_true):
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 – any condition, at the door's outside
            await asyncio.sleep(0.002)


@dataclass(frozen=True)
class Ours:
    """What the carrier has, and who signs."""

    authority: Authority
    folder: Path

    def context(self, name: str, client_ca: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.authority.issue(name).file(self.folder / "carrier.pem"))
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=client_ca)
        return context


@pytest.fixture
def ours(tmp_path):
    return Ours(Authority("the carrier's"), tmp_path)


@pytest.fixture
async def start():
    """Start a carrier and a channel to it; stopped at the end."""
    rigs = []

    async def start(context, protocol="smpp", **settings):
        settings = {"tls": True, **settings}
        rig = WireRig(protocol, tls=context, settings=settings, response_timeout_s=1.0)
        rigs.append(rig)
        await rig.start()
        return rig

    yield start
    for rig in rigs:
        await rig.stop()


async def sends(rig):
    await until(rig.channel.is_up)
    assert rig.channel.submit(some_submits(3)) == []
    await until(lambda: len(rig.sink.results) == 3)
    assert all(isinstance(outcome, Submitted) for _, outcome in rig.sink.results)


async def why(rig):
    await until(lambda: rig.channel.failures)
    assert rig.logins == 0
    assert not rig.channel.is_up()
    return rig.channel.why_down()


async def test_an_address_or_a_name_that_the_certificate_is_for_is_good(ours, start):
    await sends(await start(ours.context("127.0.0.1"), tls_ca=ours.authority.cert))
    named = {"tls_ca": ours.authority.cert, "tls_server_name": "smsc.example"}
    await sends(await start(ours.context("smsc.example"), **named))


@pytest.mark.parametrize("protocol", ["cmpp2", "cmpp3", "sgip", "smgp"])
async def test_every_wire_protocol_has_it(ours, start, protocol):
    clients = Authority("of clients")
    mine = clients.issue("us")
    context = ours.context("ismg.example", clients.cert)
    named = {"tls_ca": ours.authority.cert, "tls_server_name": "ismg.example"}
    await sends(await start(context, protocol, **named, tls_cert=mine.cert, tls_key=mine.key))
    assert "tls_cert_file" in await why(await start(context, protocol, **named))
    assert "tls_ca_file" in await why(await start(context, protocol))
    assert "port is the TLS one" in await why(await start(None, protocol))


async def test_another_name_gets_no_login_and_the_setting_is_named(ours, start):
    rig = await start(ours.context("smsc.example"), tls_ca=ours.authority.cert)
    assert "tls_server_name" in await why(rig)


async def test_an_unknown_authority_gets_no_login_and_the_setting_is_named(ours, start):
    rig = await start(ours.context("127.0.0.1"))
    assert "tls_ca_file" in await why(rig)


async def test_a_carrier_that_asks_for_our_certificate_gets_it(ours, start):
    clients = Authority("of clients")
    mine = clients.issue("esme01")
    context = ours.context("127.0.0.1", clients.cert)
    known = {"tls_ca": ours.authority.cert}
    await sends(await start(context, **known, tls_cert=mine.cert, tls_key=mine.key))
    assert "tls_cert_file" in await why(await start(context, **known))


async def test_a_port_without_tls_is_told_by_its_setting(start):
    """It takes the handshake for a PDU of an impossible length."""
    assert "tls to false" in await why(await start(None))


@pytest.mark.parametrize("protocol", ["smpp", "cmpp3"])
async def test_a_carrier_of_tls_1_1_gets_no_login_and_an_expired_one_none(ours, start, protocol):
    context = ours.context("127.0.0.1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    told = await why(await start(context, protocol, tls_ca=ours.authority.cert))
    assert "has TLS 1.2" in told or "has none of 1.2 or newer" in told  # whether it says so or not
    old = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    old.load_cert_chain(ours.authority.issue("127.0.0.1", days=-1).file(ours.folder / "old.pem"))
    assert "expired" in await why(await start(old, protocol, tls_ca=ours.authority.cert))


async def test_a_carrier_that_says_nothing_is_given_up_after_the_response_time():
    heard = []

    class Silent(asyncio.Protocol):
        def connection_made(self, transport):
            heard.append(transport)

    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    own = {"port": server.sockets[0].getsockname()[1], "tls": True}
    rig = WireRig("smpp", settings=own, response_timeout_s=0.2)
    await rig.start()
    await until(lambda: "no handshake in 0.2 s" in rig.channel.why_down())
    await rig.stop()
    server.close()
    for transport in heard:
        transport.abort()
    await asyncio.sleep(0)
