"""A loopback carrier in the test's own loop, for the conformance suite of channels."""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from adapters.session import SessionPolicy
from gateway.protocols import PROTOCOLS
from loadtest.cmpp_server import CmppSide
from loadtest.server import Ended, LoginAsked, OwedReport, ReportsAnswered, Side, Submits
from loadtest.sgip_server import SgipSide
from loadtest.smgp_server import SmgpSide
from loadtest.smpp_server import SmppSide
from sms import config
from tests.support.smpp import FakeSink


@dataclass(frozen=True)
class Spoken:
    """A protocol as a rig needs it: the other side, and our login."""

    side: Callable[[], Side]
    login: Mapping[str, object]


_CMPP = {"source_addr": "900001", "shared_secret": "888888"}
SPOKEN: Mapping[str, Spoken] = {
    "cmpp2": Spoken(lambda: CmppSide("cmpp2"), _CMPP),
    "cmpp3": Spoken(lambda: CmppSide("cmpp3"), _CMPP),
    "sgip": Spoken(
        lambda: SgipSide(pushes_here=True),  # as some platforms do
        {"login_name": "fakename", "password": "1234", "node_id": 3010012345},
    ),
    "smgp": Spoken(SmgpSide, {"client_id": "10690001", "shared_secret": "888888"}),
    "smpp": Spoken(SmppSide, {"system_id": "esme01", "password": "secret08"}),
}
CONTENT = 5  # where a submit's content stands in what the other side parsed of it


class _Peer(asyncio.Protocol):
    def __init__(self, rig: "WireRig") -> None:
        self.session = rig.side.session()
        self.rig = rig
        self.transport: asyncio.Transport  # from connection_made on

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # TCP gives no other
        self.rig.peers.append(self)

    def data_received(self, data: bytes) -> None:
        self.rig.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.session.lost()
        if self in self.rig.peers:
            self.rig.peers.remove(self)

    def flush(self) -> None:
        self.transport.write(self.session.to_send())


class WireRig:
    """One carrier and one channel to it."""

    def __init__(
        self,
        protocol: str,
        *,
        sessions: int = 1,
        window: int = 16,
        settings: Mapping[str, object] | None = None,
        tls: ssl.SSLContext | None = None,
        **policy: Any,
    ) -> None:
        """`settings` go before the protocol's login; with `tls` the carrier speaks it."""
        self.protocol = protocol
        self.spoken = SPOKEN[protocol]
        self.side = self.spoken.side()
        self.sink = FakeSink()
        self.peers: list[_Peer] = []
        self.refuses_login = False
        self.logins = 0
        self.logouts = 0
        self.holds = False
        self.throttles = False
        self.is_deaf = False  # reads, and answers nothing any more
        self.bursts = 0  # that came from the channel
        self.numbers: list[list[str]] = []  # of each session that was ever bound
        self.taken = 0  # reports the channel took
        self.again = 0  # reports it asked for again
        self.writes_at_first_byte = -1  # journal lines when the first submit arrived
        self._held: list[tuple[_Peer, int, bytes]] = []
        self._next_id = 0
        self._sessions, self._window = sessions, window
        self._own, self._tls = settings or {}, tls
        self._policy = SessionPolicy(**{"reconnect_min_s": 0.02, **policy})
        self._by_peer: dict[int, list[str]] = {}

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: _Peer(self), "127.0.0.1", 0, ssl=self._tls)
        self.port = self.server.sockets[0].getsockname()[1]
        settings = {"host": "127.0.0.1", "port": self.port, **self.spoken.login, **self._own}
        channel = config.Channel(
            7, "rig", self.protocol, settings, sessions=self._sessions, window=self._window
        )
        self.channel = PROTOCOLS[self.protocol].build(channel, self.sink, self._policy)
        self.channel.start()

    async def stop(self) -> None:
        await self.channel.stop(0.1)
        self.server.close()
        for peer in list(self.peers):
            peer.transport.abort()
        await asyncio.sleep(0)

    # -- what the carrier does -------------------------------------------------------------

    def received(self, peer: _Peer, data: bytes) -> None:
        self.bursts += 1
        if self.is_deaf:
            return
        for event in peer.session.receive(data, time.monotonic()):
            match event:
                case LoginAsked():
                    self.logins += 1
                    status = self.side.wrong_password if self.refuses_login else 0
                    peer.session.answer_login(event, status, "RIG")
                case Submits(submits):
                    self._submitted(peer, submits)
                case ReportsAnswered(taken, again):
                    self.taken += taken
                    self.again += len(again)
                case Ended():
                    self.logouts += 1
        peer.flush()

    def _submitted(self, peer: _Peer, submits: list[tuple[int, bytes, Any]]) -> None:
        if self.writes_at_first_byte < 0:
            self.writes_at_first_byte = len(self.sink.written)
        seen = self._by_peer.setdefault(id(peer), [])
        if not seen:
            self.numbers.append(seen)
        answers = []
        for sequence, _, parsed in submits:
            seen.append(parsed[CONTENT].hex())
            self._next_id += 1
            carrier_id = self.side.carrier_id(self._next_id, sequence).encode()
            if self.holds:
                self._held.append((peer, sequence, carrier_id))
            else:
                answers.append((sequence, self.side.throttled if self.throttles else 0, carrier_id))
        peer.session.answer_submits(answers)

    def answer_held(self) -> None:
        """Answer, last first, what was held."""
        for peer, sequence, carrier_id in reversed(self._held):
            peer.session.answer_submits([(sequence, 0, carrier_id)])
            peer.flush()
        self._held.clear()

    def drop(self) -> None:
        for peer in list(self.peers):
            peer.transport.abort()

    def receivers(self) -> list[_Peer]:
        """The connections that take reports."""
        return [peer for peer in self.peers if peer.session.may_deliver]

    def report(self, *numbers: int) -> None:
        """Send reports about submits with these numbers over the first session that takes them."""
        self._report(
            self.receivers()[0], [self.side.carrier_id(number, number) for number in numbers]
        )

    def report_held(self) -> list[str]:
        """Send a report about each submit that is held, over the session that it did not come
        over; the ids, newest first."""
        ids = [carrier_id.decode() for _, _, carrier_id in reversed(self._held)]
        others = [peer for peer in self.receivers() if peer is not self._held[0][0]]
        self._report(others[-1], ids)
        return ids

    def _report(self, peer: _Peer, ids: list[str]) -> None:
        to, at = b"8613800138000", b"2611212028"
        reports = [OwedReport(one.encode(), to, b"10690001", at, at, is_good=True) for one in ids]
        peer.session.deliver(reports, time.monotonic())
        peer.flush()

    def enquire(self) -> None:
        """Ask whether the channel is still there, over the first session."""
        peer = self.peers[0]
        peer.session.enquire()
        peer.flush()
