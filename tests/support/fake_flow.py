"""A small flow in memory, for tests of the HTTP face: it keeps what `gateway.api.port` promises."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compliance.policy import SendingPolicy
from gateway.api.access import Access
from gateway.api.auth import new_key
from gateway.api.port import PolicyPort, SuppressionsPort
from gateway.calls import Calls
from gateway.commands import BatchLook
from gateway.lostanswer import CopyVerdict, Prospect
from gateway.pumping import Pumping
from gateway.vendors import Vendors
from gateway.webhook_desk import WebhookDesk
from gateway.withdraw import Verdict
from sms.config import ApiKey, Channel, Route, Snapshot, Tenant
from sms.errors import KeyTaken, RefsTaken
from sms.ids import IdClock
from sms.model import EventRow, Inbound, Message, MessageClass, Report, State, UncertainPolicy
from sms.portability import Portability
from store.commands import BatchState
from store.intake import Hasher, IntakeKey, Kind, Slot
from store.intake import Stored as StoredKey
from store.ported import PortedStore
from store.reading import Reading
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
    charged_at: float = 0.0


class FakeLimiter:
    def __init__(self, depth: int = 1000, rate: float = 100.0) -> None:
        self.depth, self.rate, self.left = depth, rate, float(depth)
        self.refusal: Taken | None = None  # what `ask` says when it must be asked
        self.error: Exception | None = None
        self.is_hopeful = False  # True: `ask` must be asked, and will most likely have it

    def expects(self, tenant_id: int, segments: int, now: float) -> bool:
        return self.is_hopeful

    def take(
        self, tenant_id: int, message_class: MessageClass, segments: int, now: float
    ) -> Taken | None:
        if self.is_hopeful:
            return None
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

    def put_back(
        self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float, charged_at: float
    ) -> None:
        self.left += sum(wanted.values())


@dataclass
class FakeKeyring:
    pepper: bytes = PEPPER
    cursor_key: bytes = b"c" * 32

    def number_index(self, tenant: int, number: str) -> int:
        return hash((tenant, number))


@dataclass
class Stored:
    message: Message
    rows: list[EventRow] = field(default_factory=list)


@dataclass
class Batch:
    first_id: int
    last_id: int
    tenant: int
    verdicts: bytes | None


class FakeIntake:
    """Keys in memory; `held` is what a test says that a request under way holds."""

    def __init__(self) -> None:
        self.hasher = Hasher(b"i" * 32)
        self.stored: dict[Slot, StoredKey] = {}
        self.held: dict[Slot, asyncio.Future[None]] = {}
        self.looks = 0
        self.error: Exception | None = None

    def holder(self, keys: Iterable[IntakeKey]) -> asyncio.Future[None] | None:
        futures = [self.held[key.slot] for key in keys if key.slot in self.held]
        return futures[0] if futures else None

    async def find(self, key: IntakeKey) -> StoredKey | None:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self.stored.get(key.slot)

    def refusal(self, keys: Sequence[IntakeKey]) -> Exception | None:
        refs: dict[int, int] = {}
        for key in keys:
            stored = self.stored.get(key.slot)
            if stored is not None and key.kind == Kind.REQUEST:
                return KeyTaken(stored.digest, stored.first_id)
            if stored is not None:
                refs[key.place] = stored.first_id
        return RefsTaken(refs) if refs else None


class FakeReader:
    def __init__(self) -> None:
        self.stored: dict[int, Stored] = {}
        self.batches: dict[int, Batch] = {}
        self.error: Exception | None = None

    async def message(self, message_id: int, tenant: int | None = None) -> Stored | None:
        if self.error is not None:
            raise self.error
        found = self.stored.get(message_id)
        is_foreign = found is not None and tenant not in (None, found.message.tenant)
        return None if is_foreign else found

    async def batch(self, first_id: int, tenant: int) -> Batch | None:
        found = self.batches.get(first_id)
        return None if found is None or found.tenant != tenant else found

    async def segments(self, first_id: int, last_id: int) -> list[int]:
        return [self.stored[n].message.segments for n in range(first_id, last_id + 1)]


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


class FakeCommands:
    """Answers what a test says; `asked`: what was asked, in order."""

    def __init__(self, reader: FakeReader) -> None:
        self._reader = reader
        self.asked: list[tuple[object, ...]] = []
        self.error: Exception | None = None
        self.verdict = Verdict.ENDED
        self.copy_verdict = CopyVerdict.MADE
        self.batches: dict[tuple[int, int], BatchLook] = {}
        self.canceled: set[int] = set()
        self.held: set[int] = set()

    async def cancel(self, tenant: int, message_id: int) -> Verdict:
        self.asked.append(("cancel", tenant, message_id))
        if self.error is not None:
            raise self.error
        if self.verdict is Verdict.ENDED:
            self._reader.stored[message_id].message.state = State.CANCELED
        return self.verdict

    async def resend(self, tenant: int, message_id: int) -> CopyVerdict:
        self.asked.append(("resend", tenant, message_id))
        if self.error is not None:
            raise self.error
        if self.copy_verdict is CopyVerdict.MADE:
            message = self._reader.stored[message_id].message
            message.state, message.copy, message.duplicate_risk = State.QUEUED, 1, True
        return self.copy_verdict

    async def switch(self, tenant: int, first_id: int, state: BatchState) -> BatchState | None:
        self.asked.append((state, tenant, first_id))
        if self.error is not None:
            raise self.error
        if (tenant, first_id) not in self.batches:
            return None
        return BatchState.CANCELED if first_id in self.canceled else state

    async def look(self, tenant: int, first_id: int) -> BatchLook | None:
        return self.batches.get((tenant, first_id))

    def is_held(self, message_id: int) -> bool:
        return message_id in self.held


class FakePorting:
    """Overrides that a test sets in `known`; `index` is all that is made of a number."""

    def __init__(self) -> None:
        self.known = Portability(int)
        self.store: PortedStore  # not here

    async def refresh(self) -> None:
        """Nothing changes behind a fake."""


class FakeFlow:
    def __init__(self) -> None:
        self.snapshot, self.keys = make_snapshot()
        self.keyring = FakeKeyring()
        self.metrics = Metrics()
        self.reader = FakeReader()
        self.commands = FakeCommands(self.reader)
        self.limiter = FakeLimiter()
        self.intake = FakeIntake()
        self.policy = SendingPolicy()
        self.suppressions: SuppressionsPort | None = None
        self.pumping: Pumping | None = None  # otp messages are not counted
        self.webhooks: WebhookDesk | None = None
        self.porting = FakePorting()
        self.vendors, self.calls = Vendors(), Calls(self)
        self.reported: list[Report] = []
        self.brought: list[Inbound] = []
        self.access = Access()
        self.reading: Reading  # a test that reads lists gives it
        self.supervisor_socket: Path | None = None
        self.public_metrics = True
        self.free = dict.fromkeys(MessageClass, 10_000)
        self.closed: tuple[str, str, int] | None = None
        self.crowded: tuple[str, str, int] | None = None
        self.missing: list[str] = []
        self.error: Exception | None = None
        self.accepted: list[list[Message]] = []
        self.verdicts: list[bytes | None] = []
        self.live_messages: dict[int, Message] = {}
        self.is_all_down = False
        self._ids = IdClock(1, 0, lambda: NOW)

    def reports(self, channel: int, reports: Sequence[Report]) -> None:
        self.reported += reports

    def inbound(self, channel: int, texts: Sequence[Inbound]) -> None:
        self.brought += texts

    def room(self, message_class: MessageClass, n: int) -> bool:
        if self.free[message_class] < n:
            return False
        self.free[message_class] -= n
        return True

    def give_back(self, message_class: MessageClass, n: int) -> None:
        self.free[message_class] += n

    def shed(self, message_class: MessageClass) -> tuple[str, str, int] | None:
        return self.closed

    def route_full(self, message: Message) -> tuple[str, str, int] | None:
        return self.crowded

    def accept(
        self,
        messages: list[Message],
        batch_verdicts: Callable[[], bytes] | None = None,
        keys: Sequence[IntakeKey] = (),
    ) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first = self._ids.next(len(messages))
        for offset, message in enumerate(messages):
            message.id = first + offset
        verdicts = None if batch_verdicts is None else batch_verdicts()
        error = self.error or self.intake.refusal(keys)
        if error is not None:
            for message in messages:
                self.free[message.message_class] += 1
            future.set_exception(error)
            return future
        for key in keys:
            self.intake.stored[key.slot] = StoredKey(key.digest, first + key.place)
        for message in messages:
            self.reader.stored[message.id] = Stored(message)
        if verdicts is not None:
            last, tenant = messages[-1].id, messages[0].tenant
            self.reader.batches[first] = Batch(first, last, tenant, verdicts)
        self.accepted.append(list(messages))
        self.verdicts.append(verdicts)
        future.set_result(None)
        return future

    def holder(self, keys: Iterable[IntakeKey]) -> asyncio.Future[None] | None:
        return self.intake.holder(keys)

    def live(self, message_id: int) -> Message | None:
        return self.live_messages.get(message_id)

    def is_taken(self, channels: Sequence[int], message_class: MessageClass) -> bool:
        return not self.is_all_down

    def would_take(self, channels: Sequence[int], message_class: MessageClass) -> int | None:
        return channels[0] if channels else None

    def prospect(self, message: Message) -> Prospect:
        deadline = message.uncertain_at + 259_200.0
        return Prospect(UncertainPolicy.ASK, deadline, min(message.valid_until, deadline))

    def channel_name(self, channel_id: int) -> str | None:
        channel = self.snapshot.channels.get(channel_id)
        return None if channel is None else channel.name

    @property
    def channel_names(self) -> Mapping[int, str]:
        return {channel.id: channel.name for channel in self.snapshot.channels.values()}

    def channel_ids(self, name: str) -> tuple[int, ...]:
        return tuple(cid for cid, known in self.channel_names.items() if known == name)

    def is_ready(self) -> list[str]:
        return self.missing
