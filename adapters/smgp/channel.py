"""One account at one SMGW: the shared shell round sessions of SMGP.

With `directions: separate` each session of the channel is two connections: one that logs in to
send (mode 0) and one to receive (mode 1).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from adapters.base import ChannelSink
from adapters.session import SessionPolicy
from adapters.shell import WireChannel
from adapters.smgp import pdu
from adapters.smgp.session import SmgpSession
from adapters.smgp.settings import Connections, parse
from sms import config


class SmgpChannel(WireChannel):
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
        self._settings = parse(channel.settings)
        super().__init__(
            channel,
            sink,
            policy,
            response_timeout_s=self._settings.response_timeout_s,
            dice=dice,
        )

    def places(self) -> int:
        """Twice the sessions where each direction has a connection of its own."""
        both = self._settings.directions is Connections.ONE
        return self._config.sessions if both else 2 * self._config.sessions

    def address(self, number: int) -> tuple[str, int]:
        """The SMGW's; every session has the same."""
        return self._settings.host, self._settings.port

    def make_session(self, number: int) -> SmgpSession:
        """A new session; even places send and odd ones receive where they are separate."""
        mode = pdu.MODE_BOTH
        if self._settings.directions is Connections.TWO:
            mode = pdu.MODE_RECEIVE if number % 2 else pdu.MODE_SEND
        return SmgpSession(
            self.id,
            self._settings,
            self._policy,
            self._config.window,
            unix_offset=time.time() - time.monotonic(),
            mode=mode,
        )
