"""An SMPP 5.0 carrier tells its load in its answers: the channel slows down, and recovers.

From the carrier's octets to what dispatch may send, on a clock of the test's own.
"""

import math

from adapters.session import SessionPolicy
from adapters.shell import Link
from adapters.smpp.channel import SmppChannel
from gateway.channel import ChannelRuntime
from loadtest.server import LoginAsked, Submits
from loadtest.smpp_server import ServerSession, SmppSide
from ratelimit.bucket import Bucket
from sms import config
from tests.support.smpp import SETTINGS, FakeSink, some_submits
from tests.unit.adapters.smpp.test_channel import FakeTransport

RATE = 100.0


class World:
    """A channel and the carrier's end of its session; octets are carried by hand."""

    def __init__(self) -> None:
        settings = {**SETTINGS, "interface_version": 0x50}
        own = config.Channel(7, "x", "smpp", settings, window=64, segments_per_second=RATE)
        self.sink = FakeSink()
        self.channel = SmppChannel(own, self.sink, SessionPolicy())
        self.runtime = ChannelRuntime(own, self.channel, Bucket(RATE, 5.0, 0.0))
        self.now = 0.0
        self.carrier: ServerSession = SmppSide().session()
        self.link = Link(self.channel, self.channel.make_session(0))
        self.transport = FakeTransport()
        self.link.connection_made(self.transport)
        [asked] = self.carrier.receive(self.transport.written, 0.0)
        assert isinstance(asked, LoginAsked)
        self.carrier.answer_login(asked, 0, "SMSC")
        self.link.data_received(self.carrier.to_send())
        assert self.channel.is_up()

    def second(self, load: int | None) -> int:
        """A second in which as much is sent as may be; every answer tells the load."""
        sent = 0
        self.carrier.congestion = load
        for _ in range(20):
            self.now += 0.05
            while not self.runtime.take(1, self.now, is_otp=False):
                self.transport.written = b""
                self.channel.submit(some_submits(1))
                [submits] = self.carrier.receive(self.transport.written, self.now)
                assert isinstance(submits, Submits)
                [(sequence, _, _)] = submits.submits
                self.carrier.answer_submits([(sequence, 0, b"id")])
                self.link.data_received(self.carrier.to_send())
                self.runtime.throttle.answered(1, 0, 0.01, self.now)  # as settle does
                sent += 1
            self.runtime.tick(self.now)
        return sent


async def test_it_is_eased_before_it_throttles_left_alone_when_full_and_recovers() -> None:
    world = World()
    free = [world.second(load) for load in (None, 0, 46, 85)]
    assert min(free) >= RATE - 1
    assert world.runtime.throttle.pace == math.inf
    eased = [world.second(95) for _ in range(4)]
    assert RATE > eased[-1] > RATE / 2
    assert eased == sorted(eased, reverse=True)
    full = [world.second(100) for _ in range(6)]
    assert sum(full) < 3 * eased[-1]  # a second's pause after each word, and a cut
    back = [world.second(10) for _ in range(40)]
    assert back[0] < RATE / 2
    assert back[-1] >= RATE - 1
    assert world.runtime.throttle.pace == math.inf
    assert len(world.sink.results) == sum(map(sum, (free, eased, full, back)))
