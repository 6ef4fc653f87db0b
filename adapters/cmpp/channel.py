"""One account at one ISMG: the shared shell round sessions of CMPP."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from adapters.base import ChannelSink
from adapters.cmpp.session import Session
from adapters.cmpp.settings import parse
from adapters.session import SessionPolicy
from adapters.shell import WireChannel
from sms import config


class CmppChannel(WireChannel):
    """`config.sessions` long connections (adapters.base.Channel)."""

    def __init__(
        self,
        channel: config.Channel,
        sink: ChannelSink,
        policy: SessionPolicy,
        *,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """Raises ConfigError when the settings are wrong (`settings.validate_…` says all)."""
        self._settings = parse(channel.protocol, channel.settings)
        super().__init__(
            channel,
            sink,
            policy,
            response_timeout_s=self._settings.response_timeout_s,
            dice=dice,
        )

    def address(self, number: int) -> tuple[str, int]:
        """The ISMG's; every session has the same."""
        return self._settings.host, self._settings.port

    def make_session(self, number: int) -> Session:
        """A new session, its login stamped with the time of now."""
        window = self._config.window
        return Session(self.id, self._settings, self._policy, window, login_at=time.time())
