"""What the API needs from the flow, and nothing else: the seam that its tests fill with a fake."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sms.config import Snapshot
from sms.model import EventRow, Message, MessageClass
from telemetry.metrics import Metrics

if TYPE_CHECKING:
    from compliance.policy import SendingPolicy
    from gateway.api.access import Access
    from gateway.calls import Calls
    from gateway.commands import BatchLook
    from gateway.lostanswer import CopyVerdict, Prospect
    from gateway.pumping import Pumping
    from gateway.vendors import Vendors
    from gateway.webhook_desk import WebhookDesk
    from gateway.withdraw import Verdict
    from sms.portability import Portability
    from store.commands import BatchState
    from store.intake import Hasher, IntakeKey
    from store.ported import PortedStore
    from store.reading import Reading
    from store.suppressions import SuppressionStore


class PolicyPort(Protocol):
    """One more limit as the `RateLimit` headers tell it; segments and whole seconds."""

    @property
    def name(self) -> str:
        """A class, day or month."""
        ...

    @property
    def quota(self) -> int:
        """What the limit holds at most."""
        ...

    @property
    def window_s(self) -> int:
        """The time it counts for, or fills in."""
        ...

    @property
    def left(self) -> int:
        """What is left now."""
        ...

    @property
    def reset_s(self) -> int:
        """Until everything is there again."""
        ...


class TakenPort(Protocol):
    """What a tenant's limits said."""

    @property
    def retry_after_s(self) -> float:
        """0.0 = taken; else seconds until it would be; infinity = never."""
        ...

    @property
    def scope(self) -> str:
        """The limit that refused: tenant, a class, day or month."""
        ...

    @property
    def most(self) -> int:
        """Segments that this limit can ever hold."""
        ...

    @property
    def resets(self) -> str:
        """When a quota begins anew, RFC 3339; empty for the others."""
        ...

    @property
    def charged_at(self) -> float:
        """When the quotas were charged, Unix seconds: for `put_back`."""
        ...

    @property
    def others(self) -> Sequence[PolicyPort]:
        """Limits beside the tenant's bucket, for the headers."""
        ...

    @property
    def left(self) -> float:
        """Segments left now."""
        ...

    @property
    def depth(self) -> float:
        """Segments the full bucket holds."""
        ...

    @property
    def rate(self) -> float:
        """Segments per second."""
        ...


class LimiterPort(Protocol):
    """The limits of the tenants, in segments. `now` is monotonic."""

    def take(
        self, tenant_id: int, message_class: MessageClass, segments: int, now: float
    ) -> TakenPort | None:
        """Take all or nothing without waiting; None = nothing was taken, `ask` must be asked."""
        ...

    def expects(self, tenant_id: int, segments: int, now: float) -> bool:
        """Whether `ask` most likely gives them, after a call to Valkey at most."""
        ...

    async def ask(
        self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float
    ) -> TakenPort:
        """Take all or nothing; raises StoreUnavailable when a quota cannot be known."""
        ...

    def look(self, tenant_id: int, now: float) -> TakenPort:
        """How it stands; takes nothing."""
        ...

    def put_back(
        self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float, charged_at: float
    ) -> None:
        """Give back what was taken for messages that certainly were not accepted.

        `charged_at` is that of the answer of `take` or `ask`.
        """
        ...


class KeyringPort(Protocol):
    """The keys derived from the master key."""

    @property
    def pepper(self) -> bytes:
        """Key of the HMAC over API secrets."""
        ...

    @property
    def cursor_key(self) -> bytes:
        """Key of the cursors that lists give."""
        ...

    def number_index(self, tenant: int, number: str) -> int:
        """The blind index that a number of the tenant is found by."""
        ...


class StoredPort(Protocol):
    """A message as stored, and its event rows in order."""

    @property
    def message(self) -> Message:
        """Number and texts opened, live fields at their defaults."""
        ...

    @property
    def rows(self) -> list[EventRow]:
        """The rows to fold over it."""
        ...


class BatchPort(Protocol):
    """A batch as stored: its messages are first_id … last_id without a gap."""

    @property
    def first_id(self) -> int:
        """Of its first message, and the batch's own id."""
        ...

    @property
    def last_id(self) -> int:
        """Of its last message."""
        ...

    @property
    def verdicts(self) -> bytes | None:
        """What was told of the entries that were not accepted."""
        ...


class KeyedPort(Protocol):
    """What is stored under a key."""

    @property
    def digest(self) -> bytes:
        """Of the body that came with it."""
        ...

    @property
    def first_id(self) -> int:
        """The first message it brought."""
        ...


class IntakePort(Protocol):
    """Keys that a request is known by, and what is stored under them."""

    @property
    def hasher(self) -> Hasher:
        """Makes keys and digests."""
        ...

    async def find(self, key: IntakeKey) -> KeyedPort | None:
        """What is committed under a key; raises StoreUnavailable."""
        ...


class ReaderPort(Protocol):
    """Reads back from the store; raises StoreUnavailable."""

    async def message(self, message_id: int, tenant: int | None = None) -> StoredPort | None:
        """None when there is none, or when it belongs to another tenant."""
        ...

    async def batch(self, first_id: int, tenant: int) -> BatchPort | None:
        """None when there is none, or when it belongs to another tenant."""
        ...

    async def segments(self, first_id: int, last_id: int) -> list[int]:
        """How many segments each of these messages takes, in order of id."""
        ...


class CommandsPort(Protocol):
    """What can be done to messages and batches after their 202."""

    async def cancel(self, tenant: int, message_id: int) -> Verdict:
        """ENDED or BUSY; raises OutcomeUnknown after 2 s without an answer."""
        ...

    async def resend(self, tenant: int, message_id: int) -> CopyVerdict:
        """What became of an operator's wish for a second copy; raises the same."""
        ...

    async def switch(self, tenant: int, first_id: int, state: BatchState) -> BatchState | None:
        """Change a batch's state; what it is now, None when there is none. Raises the same."""
        ...

    async def look(self, tenant: int, first_id: int) -> BatchLook | None:
        """A batch and its counts; None when there is none. Raises StoreUnavailable."""
        ...

    def is_held(self, message_id: int) -> bool:
        """Whether the message's batch is paused."""
        ...


class SuppressionsPort(Protocol):
    """The suppression list; every method raises StoreUnavailable."""

    @property
    def store(self) -> SuppressionStore:
        """Where it is kept."""
        ...

    async def refresh(self) -> None:
        """Put what changed in force in this process now."""
        ...


class PortingPort(Protocol):
    """The ported numbers; `store` and `refresh` raise StoreUnavailable."""

    @property
    def known(self) -> Portability:
        """What is in force in this process."""
        ...

    @property
    def store(self) -> PortedStore:
        """Where they are kept."""
        ...

    async def refresh(self) -> None:
        """Put what changed in force in this process now."""
        ...


class FlowPort(Protocol):
    """The door from the API into the flow. All but `accept` is synchronous and quick."""

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force; another object once it changed."""
        ...

    @property
    def keyring(self) -> KeyringPort:
        """For the pepper."""
        ...

    @property
    def metrics(self) -> Metrics:
        """The process's metrics."""
        ...

    @property
    def reader(self) -> ReaderPort:
        """The store, for reading."""
        ...

    @property
    def policy(self) -> SendingPolicy:
        """Hours and suppressions, as this process knows them."""
        ...

    @property
    def suppressions(self) -> SuppressionsPort | None:
        """The suppression list, None where it is not offered."""
        ...

    @property
    def pumping(self) -> Pumping | None:
        """The guard of otp messages, None where they are not counted."""
        ...

    @property
    def webhooks(self) -> WebhookDesk | None:
        """What tenants see and do of their endpoints, None where it is not offered."""
        ...

    @property
    def porting(self) -> PortingPort:
        """Which numbers left the carrier of their prefix."""
        ...

    @property
    def limiter(self) -> LimiterPort:
        """The tenants' limits."""
        ...

    @property
    def access(self) -> Access:
        """Proxies, nonces, and the configuration store for administration."""
        ...

    @property
    def vendors(self) -> Vendors:
        """The HTTP vendors of the configured channels."""
        ...

    @property
    def calls(self) -> Calls:
        """Keeps what vendors' calls bring."""
        ...

    @property
    def commands(self) -> CommandsPort:
        """Cancel, pause, resume."""
        ...

    @property
    def reading(self) -> Reading:
        """The store, for lists and reports: on connections of its own."""
        ...

    @property
    def channel_names(self) -> Mapping[int, str]:
        """By id, also of channels that were removed since this process began."""
        ...

    @property
    def supervisor_socket(self) -> Path | None:
        """Unix socket that answers for the whole node, None when there is no supervisor."""
        ...

    @property
    def public_metrics(self) -> bool:
        """Whether /metrics is served on the public port."""
        ...

    def room(self, message_class: MessageClass, n: int) -> bool:
        """Reserve room for `n` messages in a lane; False = full."""
        ...

    def give_back(self, message_class: MessageClass, n: int) -> None:
        """Undo `room`, for messages that `accept` was never called with."""
        ...

    def shed(self, message_class: MessageClass) -> tuple[str, str, int] | None:
        """(code, detail, Retry-After in seconds) when intake of the class is closed for now."""
        ...

    def route_full(self, message: Message) -> tuple[str, str, int] | None:
        """The same where only too much waits for the channels that the message would take."""
        ...

    @property
    def intake(self) -> IntakePort:
        """Keys that a request is known by."""
        ...

    def holder(self, keys: Iterable[IntakeKey]) -> Future[None] | None:
        """Done when the accept of this process that has one of the keys is over; None = none has.

        `accept` may not be called with keys that have a holder.
        """
        ...

    def accept(
        self,
        messages: list[Message],
        batch_verdicts: Callable[[], bytes] | None = None,
        keys: Sequence[IntakeKey] = (),
    ) -> Future[None]:
        """Give ids at once; done after COMMIT, when the flow owns the messages.

        `batch_verdicts` is called before this returns, once the messages have their ids. Fails
        with StoreUnavailable (certainly not stored), OutcomeUnknown, or NotFirst (not stored: one
        of the keys is another request's); the flow itself gives the room back when it is certain.
        """
        ...

    def live(self, message_id: int) -> Message | None:
        """The owner's object, fresher than the store; None when this process does not own it."""
        ...

    def is_taken(self, channels: Sequence[int], message_class: MessageClass) -> bool:
        """Whether a channel of a route takes messages now."""
        ...

    def would_take(self, channels: Sequence[int], message_class: MessageClass) -> int | None:
        """The channel of a route that a message would go to now; its primary while all are down."""
        ...

    def prospect(self, message: Message) -> Prospect:
        """What an uncertain message waits for, and until when an operator may send it again."""
        ...

    def channel_name(self, channel_id: int) -> str | None:
        """The name of a channel, also of one that was removed since, None when never known."""
        ...

    def channel_ids(self, name: str) -> tuple[int, ...]:
        """The channels that have, or had, this name."""
        ...

    def is_ready(self) -> list[str]:
        """What is missing before this process may take traffic; empty = ready."""
        ...
