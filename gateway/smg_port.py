"""The port that carriers connect to: SMGs bring reports and texts over SGIP's second direction.

The supervisor opens it and passes the descriptor to every worker, as with the tenants' port; a
worker takes connections for all channels, also for those whose sessions another worker holds.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

from adapters.base import ChannelSink
from adapters.session import SessionPolicy
from adapters.sgip.door import Door
from gateway.listener import Listener
from sms import config


class SmgPort:
    """One worker's part of the port; without inherited sockets it does nothing."""

    def __init__(self, fds: Sequence[int], sink: ChannelSink, policy: SessionPolicy) -> None:
        self._fds = fds
        self._door = Door(sink, policy) if fds else None
        self._listeners: list[Listener] = []

    def set_channels(self, channels: Iterable[config.Channel]) -> None:
        """Take the logins of these channels from now on; the first call opens the port.

        To be called once what connections bring can be kept.
        """
        if self._door is None:
            return
        self._door.set_channels(channels)
        if not self._listeners:
            self._open(self._door)

    def _open(self, door: Door) -> None:
        for fd in self._fds:
            listening = socket.socket(fileno=fd)
            listening.setblocking(False)
            self._listeners.append(Listener(listening, door.make_protocol, None))

    def answer(self, tokens: Sequence[object], *, accepted: bool) -> Sequence[object]:
        """Answer what came through this port; returns the tokens that did not."""
        if self._door is None:
            return tokens
        return self._door.answer(tokens, accepted=accepted)

    def sessions(self) -> dict[int, int]:
        """How many logins of SMGs there are, by channel, 0 included; empty without a port."""
        return {} if self._door is None else self._door.sessions()

    async def stop(self, timeout_s: float) -> None:
        """Take no more, log out of everybody and close."""
        for listener in self._listeners:
            listener.close()
        if self._door is not None:
            await self._door.stop(timeout_s)
