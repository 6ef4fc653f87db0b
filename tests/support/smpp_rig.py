"""A loopback SMSC in the test's own loop, for the conformance suite of channels."""

import asyncio
import time
from typing import cast

from adapters.session import SessionPolicy
from adapters.smpp import pdu
from adapters.smpp.channel import SmppChannel
from loadtest.smpp_server import (
    BindAsked,
    Ended,
    ReportsAnswered,
    ServerSession,
    Submits,
    build_report,
)
from sms import config
from tests.support.smpp import FakeSink


class _Peer(asyncio.Protocol):
    def __init__(self, rig: "SmppRig") -> None:
        self.session = ServerSession()
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


class SmppRig:
    """One carrier and one channel to it. What a rig of another protocol must offer, too:

    `start stop sink channel`, the knobs `answers` (what each submit is answered with: an id, a
    status, or None for nothing), `refuses_login`, and `drop answer_held report taken again`.
    """

    def __init__(self, *, sessions: int = 1, window: int = 16, **policy: float) -> None:
        self.sink = FakeSink()
        self.peers: list[_Peer] = []
        self.refuses_login = False
        self.logins = 0
        self.logouts = 0
        self.holds = False
        self.throttles = False
        self.numbers: list[list[str]] = []  # of each session that was ever bound
        self.taken = 0  # reports the channel took
        self.again = 0  # reports it asked for again
        self.writes_at_first_byte = -1  # journal lines when the first submit arrived
        self._held: list[tuple[_Peer, int, bytes]] = []
        self._next_id = 0
        self._sessions, self._window = sessions, window
        self._policy = SessionPolicy(**{"reconnect_min_s": 0.02, **policy})
        self._by_peer: dict[int, list[str]] = {}

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: _Peer(self), "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        settings = {
            "host": "127.0.0.1",
            "port": self.port,
            "system_id": "esme01",
            "password": "secret08",
        }
        channel = config.Channel(
            7, "rig", "smpp", settings, sessions=self._sessions, window=self._window
        )
        self.channel = SmppChannel(channel, self.sink, self._policy)
        self.channel.start()

    async def stop(self) -> None:
        await self.channel.stop(0.1)
        self.server.close()
        for peer in list(self.peers):
            peer.transport.abort()
        await asyncio.sleep(0)

    # -- what the carrier does -------------------------------------------------------------

    def received(self, peer: _Peer, data: bytes) -> None:
        for event in peer.session.receive(data, time.monotonic()):
            match event:
                case BindAsked():
                    self.logins += 1
                    status = pdu.ESME_RINVPASWD if self.refuses_login else pdu.ESME_ROK
                    peer.session.answer_bind(event, status, "RIG")
                case Submits(submits):
                    self._submitted(peer, submits)
                case ReportsAnswered(taken, again):
                    self.taken += taken
                    self.again += len(again)
                case Ended():
                    self.logouts += 1
        peer.flush()

    def _submitted(self, peer: _Peer, submits: list[tuple[int, bytes, pdu.Short]]) -> None:
        if self.writes_at_first_byte < 0:
            self.writes_at_first_byte = len(self.sink.written)
        seen = self._by_peer.setdefault(id(peer), [])
        if not seen:
            self.numbers.append(seen)
        answers = []
        for sequence, _, short in submits:
            seen.append(short[5].hex())
            self._next_id += 1
            carrier_id = f"id{self._next_id}".encode()
            if self.holds:
                self._held.append((peer, sequence, carrier_id))
            else:
                answers.append((sequence, 0x58 if self.throttles else 0, carrier_id))
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

    def report(self, *carrier_ids: str) -> None:
        """Send reports over the first session."""
        peer = self.peers[0]
        bodies = [
            build_report(
                carrier_id.encode(),
                b"8613800138000",
                b"10690001",
                submitted=b"2611212028",
                done=b"2611212028",
                is_good=True,
            )
            for carrier_id in carrier_ids
        ]
        peer.session.deliver(bodies, time.monotonic())
        peer.flush()
