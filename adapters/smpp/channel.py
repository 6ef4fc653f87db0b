"""One account at one SMSC: the shared shell round transceiver sessions of SMPP."""

from __future__ import annotations

import random
from collections.abc import Callable

from adapters.base import ChannelSink
from adapters.session import SessionPolicy
from adapters.shell import WireChannel
from adapters.smpp.session import Session
from adapters.smpp.settings import parse
from sms import config


class SmppChannel(WireChannel):
    """`config.sessions` transceiver sessions (adapters.base.Channel)."""

    def __init__(
        self,
        channel: config.Channel,
        sink: ChannelSink,
        policy: SessionPolicy,
        *,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """Raises ConfigError when the settings are wrong (`settings.validate` says all)."""
        self._settings = parse(channel.settings)
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

    def make_session(self, number: int) -> Session:
        """A new transceiver session."""
        return Session(self.id, self._settings, self._policy, self._config.window)
