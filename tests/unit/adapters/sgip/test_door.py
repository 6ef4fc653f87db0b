"""Who may connect to the SMGs' port, and stay, by address; the rest needs sockets
(tests/integration)."""

import asyncio

import pytest

from adapters.session import SessionPolicy
from adapters.sgip import pdu
from adapters.sgip.door import Door, _is_listed
from adapters.sgip.settings import parse
from sms import config
from tests.support.sgip import SETTINGS, SMG, bind_asked, frames
from tests.support.smpp import FakeSink

HOME, ELSEWHERE = "203.0.113.7", "198.51.100.9"


class FakeTransport(asyncio.Transport):
    """A socket of a peer with an address; what is written stays here."""

    def __init__(self, address):
        super().__init__()
        self.address = address
        self.written = b""
        self.is_open = True

    def get_extra_info(self, name, default=None):
        return (self.address, 40000) if name == "peername" else self

    def setsockopt(self, *_):
        pass

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return not self.is_open

    def write(self, data):
        self.written += data

    def close(self):
        self.is_open = False

    def abort(self):
        self.is_open = False


def a_channel(*allow, number=7, **settings):
    own = {**SETTINGS, "smg_allow": list(allow), **settings}
    return config.Channel(number, f"unicom-{number}", "sgip", own)


def a_door(*channels):
    door = Door(FakeSink(), SessionPolicy())
    door.set_channels(channels)
    return door


def connected(door, address, *, says=b""):
    """A connection to the door, what it wrote so far forgotten."""
    guest, transport = door.make_protocol(), FakeTransport(address)
    guest.connection_made(transport)
    if says:
        guest.data_received(says)
    transport.written = b""
    return guest, transport


@pytest.mark.parametrize(
    ("address", "allow", "is_listed"),
    [
        ("203.0.113.7", ["203.0.113.7"], True),
        ("203.0.113.8", ["203.0.113.7"], False),
        ("198.51.100.200", ["203.0.113.7", "198.51.100.0/24"], True),
        ("198.51.101.1", ["203.0.113.7", "198.51.100.0/24"], False),
        ("::ffff:203.0.113.7", ["203.0.113.7"], True),  # a socket of IPv6 shows IPv4 so
        ("::ffff:203.0.113.8", ["203.0.113.7"], False),
        ("2001:db8::7", ["2001:db8::/32"], True),
        ("2001:db9::7", ["2001:db8::/32"], False),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("", ["203.0.113.7"], False),
        ("no address", ["203.0.113.7"], False),
    ],
)
def test_an_address_is_on_the_list_or_not(address, allow, is_listed):
    assert _is_listed(address, parse({**SETTINGS, "smg_allow": allow})) is is_listed


async def test_who_is_connected_from_an_address_that_is_listed_no_more_is_logged_out():
    door = a_door(a_channel(HOME, ELSEWHERE))
    _, kept = connected(door, HOME, says=bind_asked())
    guest, narrowed = connected(door, ELSEWHERE, says=bind_asked())
    assert door.sessions() == {7: 2}
    door.set_channels([a_channel(HOME)])
    assert (kept.is_open, kept.written) == (True, b"")
    assert [one.command_id for one in frames(narrowed.written)] == [pdu.UNBIND]
    guest.data_received(pdu.pack_header(20, pdu.UNBIND_RESP, *SMG))
    assert not narrowed.is_open
    assert door.sessions() == {7: 1}
    await door.stop(0.0)


async def test_an_address_that_only_another_channel_lists_is_logged_out_too():
    other = a_channel(ELSEWHERE, number=8, login_name="other")
    door = a_door(a_channel(HOME, ELSEWHERE), other)
    _, transport = connected(door, ELSEWHERE, says=bind_asked())
    door.set_channels([a_channel(HOME), other])
    assert [one.command_id for one in frames(transport.written)] == [pdu.UNBIND]
    await door.stop(0.0)


async def test_a_stranger_from_an_address_that_is_listed_no_more_is_closed():
    door = a_door(a_channel(HOME, ELSEWHERE))
    _, kept = connected(door, HOME)
    _, narrowed = connected(door, ELSEWHERE)
    door.set_channels([a_channel(HOME)])
    assert (kept.is_open, narrowed.is_open) == (True, False)
    assert (kept.written, narrowed.written) == (b"", b"")
    await door.stop(0.0)


async def test_an_smg_that_does_not_answer_its_logout_is_closed():
    door = a_door(a_channel(HOME, ELSEWHERE))
    guest, transport = connected(door, ELSEWHERE, says=bind_asked())
    door.set_channels([a_channel(HOME)])
    door.act(guest, guest.session.tick(guest.session._since + 11.0))
    assert not transport.is_open
    assert door.connections() == 0
