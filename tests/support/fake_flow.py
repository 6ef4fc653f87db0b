"""A small flow in memory, for tests of the HTTP face: it keeps what `gateway.api.port` promises."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compliance.policy import SendingPolicy
from gateway.api.access import Access
from gateway.api.auth import new_key
from gateway.api.port import PolicyPort, SuppressionsPort
from sms.config import ApiKey, Channel, Route, Snapshot, Tenant
from sms.ids import IdClock
from sms.model import EventRow, Message, MessageClass
from telemetry.metrics import Metrics

PEPPER = b"p" * 32
NOW = 1_800_000_000.0
SHOP, OTHER = 1, 2


@dataclass
class Taken:
    retry_after_s: float
    left: float
    depth: float
    rate: float
    scope: str = "tenant"
    most: int = 0
    resets: str = ""
    others: tuple[PolicyPort, ...] = ()


class FakeLimiter:
    def __init__(self, depth: int = 1000, rate: float = 100.0) -> None:
        self.depth, self.rate, self.left = depth, rate, float(depth)
        self.refusal: Taken | None = None  # what `ask` says when it must be asked
        self.error: Exception | None = None

    def take(
        self, tenant_id: int, message_class: MessageClass, segments: int, now: float
    ) -> Taken | None:
        taken = self._take(segments)
        return taken if self.refusal is None else None

    async def ask(self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float) -> Taken:
        if self.error is not None:
            raise self.error
        return self.refusal or self._take(sum(wanted.values()))

    def look(self, tenant_id: int, now: float) -> Taken:
        return self._take(0)

    def _take(self, segments: int) -> Taken:
        taken = Taken(0.0, self.left, self.depth, self.rate, most=self.depth)
        if segments > self.depth:
            taken.retry_after_s = math.inf
        elif segments > self.left:
            taken.retry_after_s = (segments - self.left) / self.rate
        elif self.refusal is None:
            self.left -= segments
            taken.left = self.left
        return taken

    def put_back(self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float) -> None:
        self.left += sum(wanted.values())


@dataclass
class FakeKeyring:
    pepper: bytes = PEPPER


@dataclass
class Stored:
    message: Message
    rows: list[EventRow] = field(default_factory=list)


class FakeReader:
    def __init__(self) -> None:
        self.stored: dict[int, Stored] = {}
        self.error: Exception | None = None

    async def message(self, message_id: int, tenant: int | None = None) -> Stored | None:
        if self.error is not None:
            raise self.error
        found = self.stored.get(message_id)
        return None if found is None or found.message.tenant != tenant else found


def make_snapshot() -> tuple[Snapshot, dict[str, str]]:
    """A configuration, and the bearer keys by name."""
    texts: dict[str, str] = {}
    keys: dict[int, ApiKey] = {}
    for number, (name, tenant, scopes) in enumerate(
        [
            ("both", SHOP, {"send", "read"}),
            ("send", SHOP, {"send"}),
            ("read", SHOP, {"read"}),
            ("other", OTHER, {"send", "read"}),
            ("bare", 3, {"send"}),
            ("suspended", 4, {"send", "read"}),
            ("admin", 0, {"admin"}),
        ],
        start=101,
    ):
        text, digest = new_key(PEPPER, number)
        texts[name] = text
        keys[number] = ApiKey(number, name, tenant, frozenset(scopes), digest)
    snapshot = Snapshot(
        1,
        {
            SHOP: Tenant(SHOP, "shop", ("某商城", "Shop"), (86, 1)),
            OTHER: Tenant(OTHER, "other", ("别家",)),
            3: Tenant(3, "bare"),
            4: Tenant(4, "suspended", ("停",), is_suspended=True),
        },
        keys,
        {7: Channel(7, "mobile-a", "smpp", {})},
        (
            Route(1, 0, MessageClass.OTP, None, 0, (7,)),
            Route(2, 0, MessageClass.TRANSACTIONAL, None, 0, (7,)),
        ),
    )
    return snapshot, texts


class FakeFlow:
    def __init__(self) -> None:
        self.snapshot, self.keys = make_snapshot()
        self.keyring = FakeKeyring()
        self.metrics = Metrics()
        self.reader = FakeReader()
        self.limiter = FakeLimiter()
        self.policy = SendingPolicy()
        self.suppressions: SuppressionsPort | None = None
        self.access = Access()
        self.supervisor_socket: Path | None = None
        self.public_metrics = True
        self.free = dict.fromkeys(MessageClass, 10_000)
        self.closed: tuple[str, str, int] | None = None
        self.missing: list[str] = []
        self.error: Exception | None = None
        self.accepted: list[list[Message]] = []
        self.verdicts: list[bytes | None] = []
        self.live_messages: dict[int, Message] = {}
        self._ids = IdClock(1, 0, lambda: NOW)

    def room(self, message_class: MessageClass, n: int) -> bool:
        if self.free[message_class] < n:
            return False
        self.free[message_class] -= n
        return True

    def give_back(self, message_class: MessageClass, n: int) -> None:
        self.free[message_class] += n

    def shed(self, message_class: MessageClass) -> tuple[str, str, int] | None:
        return self.closed

    def accept(
        self, messages: list[Message], batch_verdicts: bytes | None = None
    ) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
            return future
        first = self._ids.next(len(messages))
        for offset, message in enumerate(messages):
            message.id = first + offset
            self.reader.stored[message.id] = Stored(message)
        self.accepted.append(messages)
        self.verdicts.append(batch_verdicts)
        future.set_result(None)
        return future

    def live(self, message_id: int) -> Message | None:
        return self.live_messages.get(message_id)

    def would_take(self, channels: Sequence[int], message_class: MessageClass) -> int | None:
        return channels[0] if channels else None

    def channel_name(self, channel_id: int) -> str | None:
        channel = self.snapshot.channels.get(channel_id)
        return None if channel is None else channel.name

    def is_ready(self) -> list[str]:
        return self.missing
