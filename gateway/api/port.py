"""What the API needs from the flow, and nothing else: the seam that its tests fill with a fake."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sms.config import Snapshot
from sms.model import EventRow, Message, MessageClass
from telemetry.metrics import Metrics

if TYPE_CHECKING:
    from compliance.policy import SendingPolicy
    from gateway.api.access import Access
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

    async def ask(
        self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float
    ) -> TakenPort:
        """Take all or nothing; raises StoreUnavailable when a quota cannot be known."""
        ...

    def look(self, tenant_id: int, now: float) -> TakenPort:
        """How it stands; takes nothing."""
        ...

    def put_back(self, tenant_id: int, wanted: Mapping[MessageClass, int], now: float) -> None:
        """Give back what was taken for messages that certainly were not accepted."""
        ...


class KeyringPort(Protocol):
    """The keys derived from the master key."""

    @property
    def pepper(self) -> bytes:
        """Key of the HMAC over API secrets."""
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


class ReaderPort(Protocol):
    """Reads back from the store; raises StoreUnavailable."""

    async def message(self, message_id: int, tenant: int | None = None) -> StoredPort | None:
        """None when there is none, or when it belongs to another tenant."""
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
    def limiter(self) -> LimiterPort:
        """The tenants' limits."""
        ...

    @property
    def access(self) -> Access:
        """Proxies, nonces, and the configuration store for administration."""
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

    def accept(self, messages: list[Message], batch_verdicts: bytes | None = None) -> Future[None]:
        """Give ids at once; done after COMMIT, when the flow owns the messages.

        Fails with StoreUnavailable (certainly not stored) or OutcomeUnknown; in both cases the
        flow itself gives the room back when it is certain.
        """
        ...

    def live(self, message_id: int) -> Message | None:
        """The owner's object, fresher than the store; None when this process does not own it."""
        ...

    def would_take(self, channels: Sequence[int], message_class: MessageClass) -> int | None:
        """The channel of a route that a message would go to now; its primary while all are down."""
        ...

    def channel_name(self, channel_id: int) -> str | None:
        """The name of a channel, also of one that was removed since, None when never known."""
        ...

    def is_ready(self) -> list[str]:
        """What is missing before this process may take traffic; empty = ready."""
        ...
