"""One account at one SMG: the shared shell round our own sessions of SGIP.

There is no link test, so the SMG may close what is idle: that is no fault, and the session logs in
again at once. A login that is taken and closed at once is one that was refused.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import cache

from adapters.base import ChannelSink
from adapters.session import SessionPolicy, WireSession
from adapters.sgip.session import Common, SgipSession
from adapters.sgip.settings import parse
from adapters.shell import Close, WireChannel
from sms import config


@cache
def common_of(process: int, life: int) -> Common:
    """What all SGIP sessions of this process share; there is one in each of its lives."""
    return Common(process, life)


class SgipChannel(WireChannel):
    """`config.sessions` connections to the SMG (adapters.base.Channel)."""

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
        self._common = common_of(policy.process, policy.life)
        self._doubtful: set[int] = set()  # places whose last login did not last
        super().__init__(
            channel,
            sink,
            policy,
            response_timeout_s=self._settings.response_timeout_s,
            dice=dice,
        )

    def address(self, number: int) -> tuple[str, int]:
        """The SMG's; every session has the same."""
        return self._settings.host, self._settings.port

    def make_session(self, number: int) -> SgipSession:
        """A new session of login type 1."""
        return SgipSession(
            self.id,
            self._settings,
            self._policy,
            self._config.window,
            common=self._common,
            unix_offset=time.time() - time.monotonic(),
            is_doubtful=number in self._doubtful,
        )

    def closed(self, number: int, session: WireSession, now: float) -> Close:
        """Refused when the login did not last, idle when nothing was under way."""
        self._doubtful.discard(number)
        if not isinstance(session, SgipSession):
            return Close.LOST
        if session.was_refused(now):
            self._doubtful.add(number)
            return Close.REFUSED
        return Close.IDLE if session.was_idle(now) else Close.LOST
