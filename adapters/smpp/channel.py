"""One account at one SMSC: the shared shell round sessions of SMPP.

With `bind: tx+rx` each session of the channel is two connections: a transmitter and a receiver. The
channel is up while a transmitter is bound; an SMSC keeps the receipts while no receiver is.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from adapters.base import ChannelSink
from adapters.session import SessionPolicy
from adapters.shell import WireChannel
from adapters.smpp import pdu, settings
from adapters.smpp.asking import Book
from adapters.smpp.references import LostSubmits
from adapters.smpp.session import Session
from adapters.tls import Tls, TlsSettings, make_context
from sms import config
from sms.errors import ConfigError


def _tls_of(raw: Mapping[str, Any]) -> TlsSettings | None:
    if not raw.get("tls"):
        return None
    own = {name: raw.get(name, "") for name in settings.TLS_NAMES}
    return TlsSettings(
        own["tls_server_name"] or raw["host"], own["tls_ca"], own["tls_cert"], own["tls_key"]
    )


def _context_of(tls: TlsSettings | None) -> ssl.SSLContext | None:
    return None if tls is None else make_context(tls)


def validate(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`settings.validate`, and whether the certificates can be read."""
    wrong = settings.validate(raw)
    if not wrong:
        try:
            _context_of(_tls_of(raw))
        except ConfigError as error:
            name, _, detail = str(error).partition(": ")
            wrong.append((f"/{name}", detail))
    return wrong


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
        self._tls = _tls_of(channel.settings)
        self._context = _context_of(self._tls)
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

    def make_tls(self) -> Tls | None:
        """A new connection's, where the channel has TLS."""
        if self._tls is None or self._context is None:
            return None
        return Tls(self._context, self._tls.server_name)

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
