"""The port that carriers connect to: SMGs bring reports and texts over SGIP's second direction.

The supervisor opens it and passes the descriptor to every worker, as with the tenants' port; a
worker takes connections for all channels, also for those whose sessions another worker holds.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Sequence

from adapters.base import ChannelSink
from adapters.session import SessionPolicy
from adapters.sgip.door import PROTOCOL, Door
from gateway.listener import Listener
from sms import config
from telemetry.logs import get_logger

log = get_logger(__name__)


class SmgPort:
    """One worker's part of the port; without inherited sockets it does nothing."""

    def __init__(
        self, fds: Sequence[int], sink: ChannelSink, policy: SessionPolicy, *, warns: bool
    ) -> None:
        """`warns`: say in the log which channels miss the port; one worker of a node does."""
        self._fds = fds
        self.tls: Callable[[], ssl.SSLContext] | None = None  # of each connection; None = in clear
        self._door = Door(sink, policy) if fds else None
        self._listeners: list[Listener] = []
        self._warns = warns
        self._missing: list[str] = []  # the channels that the log was told of last

    def set_channels(self, channels: Iterable[config.Channel]) -> None:
        """Take the logins of these channels from now on; the first call opens the port.

        To be called once what connections bring can be kept.
        """
        if self._door is None:
            self._warn(channels)
            return
        self._door.set_channels(channels)
        if not self._listeners:
            self._open(self._door)

    def _warn(self, channels: Iterable[config.Channel]) -> None:
        """Once for each set of channels: this is called whenever a session changes hands."""
        missing = sorted(channel.name for channel in channels if channel.protocol == PROTOCOL)
        if self._warns and missing and missing != self._missing:
            log.warning(
                "reports of SGIP channels cannot come to this node: set SMSGW_SMG_PORT, "
                "and tell the carrier where its SMG finds it",
                channels=missing,
            )
        self._missing = missing

    def _open(self, door: Door) -> None:
        for fd in self._fds:
            listening = socket.socket(fileno=fd)
            listening.setblocking(False)
            self._listeners.append(Listener(listening, door.make_protocol, self.tls))

    def answer(self, tokens: Sequence[object], *, accepted: bool) -> Sequence[object]:
        """Answer what came through this port; returns the tokens that did not."""
        if self._door is None:
            return tokens
        return self._door.answer(tokens, accepted=accepted)

    def sessions(self, channels: Iterable[config.Channel]) -> dict[int, int]:
        """How many logins of SMGs there are, by channel; 0 for each of `channels` that has none,
        also without a port: what is not told cannot raise an alarm."""
        found = {channel.id: 0 for channel in channels if channel.protocol == PROTOCOL}
        if self._door is not None:
            found |= self._door.sessions()
        return found

    async def stop(self, timeout_s: float) -> None:
        """Take no more, log out of everybody and close."""
        for listener in self._listeners:
            listener.close()
        if self._door is not None:
            await self._door.stop(timeout_s)
