"""A simulated vendor's sockets: the HTTP port its client sends to, and the pushes back."""

from __future__ import annotations

import argparse
import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from loadtest.behaviour import Behaviour
from loadtest.control import Controlled
from loadtest.phone import PhoneText
from loadtest.record import Record
from loadtest.vendors.aliyun import Aliyun
from loadtest.vendors.desk import VendorDesk
from loadtest.vendors.generic import Generic
from loadtest.vendors.http import Connection
from loadtest.vendors.huawei import Huawei
from loadtest.vendors.infobip import Infobip
from loadtest.vendors.pusher import Pusher
from loadtest.vendors.shape import Shape
from loadtest.vendors.tencent import Tencent
from loadtest.vendors.twilio import Twilio
from loadtest.wheel import Wheel

REPEAT_LINES: Final = 50_000  # of the record are looked at after a restart
# By the protocol's name: made of the account (--system-id) and its secret (--password).
SHAPES: Final[Mapping[str, Callable[[str, str], Shape]]] = {
    "aliyun": Aliyun,
    "http": Generic,
    "huawei": Huawei,
    "infobip": Infobip,
    "tencent": Tencent,
    "twilio": Twilio,
}


class VendorCarrier(Controlled):
    """The sockets round one VendorDesk."""

    def __init__(
        self,
        options: argparse.Namespace,
        behaviour: Behaviour,
        record: Record,
        tls: ssl.SSLContext | None,
    ) -> None:
        shape = SHAPES[options.protocol](options.system_id, options.password)
        self._host: str = options.host
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._pusher = Pusher(shape, options.callback_file)
        self._vendor = VendorDesk(
            shape=shape,
            record=record,
            wheel=Wheel(asyncio.get_running_loop(), lambda: None),
            behaviour=behaviour,
            pusher=self._pusher,
        )
        super().__init__(self._vendor, options.port)

    async def listen(self) -> int:
        """Open the port; returns it. Raises OSError."""
        make = partial(Connection, self._vendor.take, self._connections)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            make, self._host, self.port, backlog=128, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def set_link(self, link: str) -> None:
        """Down refuses connections, drops those there are and pushes nothing."""
        if link == "up" and self._server is None:
            await self.listen()
        elif link == "down" and self._server is not None:
            self._server.close()
            self._server = None
            for connection in list(self._connections):
                if connection.transport is not None:
                    connection.transport.abort()
        self._pusher.set_up(is_up=link == "up")

    def phone(self, text: PhoneText) -> int:
        """A phone's text; 1, because vendors put long ones together."""
        return self._vendor.phone(text)

    def changed(self, before: Behaviour) -> None:
        """Nothing follows at once: vendors bring reports as they come."""

    def counts(self) -> Mapping[str, int]:
        """Counters since the start; `sessions` are open connections."""
        names = (
            *("requests", "binds_refused", "submits", "accepted", "throttled", "silent"),
            *("reports_sent", "reports_answered", "reports_again", "inbound"),
        )
        counts = {name: self._pusher.counts[name] for name in names}
        counts["sessions"] = len(self._connections)
        counts["reports_waiting"] = self._pusher.waiting()
        return counts

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """The pushes."""
        return [self._pusher.run()]

    def remember(self, repeat_s: float) -> None:
        """Owe the receipts of the last so many seconds once more."""
        if repeat_s:
            record = self._vendor.record
            chunks = record.read(max(0, record.count - REPEAT_LINES))
            lines = (line for chunk in chunks for line in chunk.splitlines())
            self._vendor.remember(lines, time.time() - repeat_s)
