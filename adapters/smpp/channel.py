"""One account at one SMSC: the shared shell round sessions of SMPP.

With `bind: tx+rx` each session of the channel is two connections: a transmitter and a receiver. The
channel is up while a transmitter is bound; an SMSC keeps the receipts while no receiver is.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from adapters.base import ChannelSink
from adapters.session import SessionPolicy
from adapters.shell import WireChannel
from adapters.smpp import pdu, settings
from adapters.smpp.asking import Book
from adapters.smpp.references import LostSubmits
from adapters.smpp.session import Session
from sms import config


class SmppChannel(WireChannel):
    """`config.sessions` sessions (adapters.base.Channel)."""

    def __init__(
        self,
        channel: config.Channel,
        sink: ChannelSink,
        policy: SessionPolicy,
        *,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """Raises ConfigError when the settings are wrong (`settings.validate` says all)."""
        self._settings = settings.parse(channel.settings)
        after_s = self._settings.query_after_s
        self._book = None if after_s is None else Book(after_s)
        self._lost = LostSubmits() if self._settings.look.has_reference else None
        self.sends_whole = self._settings.look.is_payload
        super().__init__(
            channel,
            sink,
            policy,
            response_timeout_s=self._settings.response_timeout_s,
            dice=dice,
        )

    def address(self, number: int) -> tuple[str, int]:
        """The SMSC's; every session has the same."""
        return self._settings.host, self._settings.port

    def places(self) -> int:
        """Twice the sessions where each direction has a connection of its own."""
        both = self._settings.bind is settings.Bind.TRX
        return self._config.sessions if both else 2 * self._config.sessions

    def make_session(self, number: int) -> Session:
        """A new session; even places send and odd ones receive where they are separate."""
        bind = pdu.BIND_TRANSCEIVER
        if self._settings.bind is settings.Bind.TX_RX:
            bind = pdu.BIND_RECEIVER if number % 2 else pdu.BIND_TRANSMITTER
        session = Session(
            self.id, self._settings, self._policy, self._config.window, bind=bind, book=self._book
        )
        session.lost_submits = self._lost
        return session
