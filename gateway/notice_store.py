"""What notifying needs of the store, and how the event lane and the reader give it.

Writes ride with the event lane's flushes: one commit holds the rows of many messages and the
webhooks that came of earlier ones. The lane keeps them and tries again when the store is away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sms.model import EventRow, InboundMessage, Message
from store.channel_news import ChannelNewsStore
from store.events import EventLane
from store.fragments import ParkedWebhook, delete_webhooks_sql, park_webhooks_sql
from store.inbound_read import InboundReader
from store.read import Reader

ROWS_PER_ENTRY = 500  # of one SQL text


class StoredMessage(Protocol):
    """A message as the store gives it: not folded, its rows in order."""

    @property
    def message(self) -> Message:
        """As accepted."""
        ...

    @property
    def rows(self) -> Sequence[EventRow]:
        """By sequence."""
        ...


class StoredText(Protocol):
    """A text from a phone as the store gives it."""

    @property
    def message(self) -> InboundMessage:
        """As it was kept."""
        ...

    @property
    def rows(self) -> Sequence[EventRow]:
        """By sequence."""
        ...


class NoticeStore(Protocol):
    """The store as notifying sees it. Reads raise `Unavailable` when it is away."""

    def park(self, rows: Sequence[ParkedWebhook], done: Callable[[], None]) -> None:
        """Insert or move rows with the next flush, never dropped; `done` after its commit."""
        ...

    def forget(self, keys: Sequence[tuple[int, int]], done: Callable[[], None]) -> None:
        """Delete (endpoint, event_id) rows with the next flush; `done` after its commit."""
        ...

    async def due(self, endpoints: Sequence[int], now: float, limit: int) -> list[ParkedWebhook]:
        """Rows due by `now` (Unix), at most `limit` per endpoint, each endpoint's by due."""
        ...

    async def with_due(self, endpoints: Sequence[int], now: float) -> set[int]:
        """Those of the endpoints that have a row due by `now` (Unix)."""
        ...

    async def oldest_parked(self) -> int | None:
        """The lowest event id that is parked and not a dead letter."""
        ...

    async def messages(self, ids: Sequence[int]) -> Mapping[int, StoredMessage]:
        """Messages with their rows; unknown ids are absent."""
        ...

    async def inbound(self, ids: Sequence[int]) -> Mapping[int, StoredText]:
        """Texts from phones with their rows; unknown ids are absent."""
        ...

    async def channel_events(self, ids: Sequence[int]) -> Mapping[int, EventRow]:
        """Rows about channels by event id; other ids are absent."""
        ...

    async def events_after(self, cursor: int, limit: int) -> list[EventRow]:
        """This process's events with an id above the cursor, by event id."""
        ...

    def pending_floor(self) -> int | None:
        """The lowest event id that may still commit; None when nothing waits."""
        ...


class LaneNoticeStore:
    """`NoticeStore` over the event lane (writes) and the reader of one process."""

    def __init__(
        self,
        lane: EventLane,
        reader: Reader,
        process: int,
        inbound: InboundReader,
        news: ChannelNewsStore,
        floors: Sequence[Callable[[], int | None]] = (),
    ) -> None:
        """`floors`, beside the lane's: each the lowest id of an event that is not committed yet,
        or of a message whose event commits with it.
        """
        self._lane = lane
        self._inbound = inbound
        self._news = news
        self._floors = floors
        self._reader = reader
        self._process = process

    def park(self, rows: Sequence[ParkedWebhook], done: Callable[[], None]) -> None:
        """See `NoticeStore`."""
        texts = [
            park_webhooks_sql(self._process, rows[start : start + ROWS_PER_ENTRY])
            for start in range(0, len(rows), ROWS_PER_ENTRY)
        ]
        self._add(texts, done)

    def forget(self, keys: Sequence[tuple[int, int]], done: Callable[[], None]) -> None:
        """See `NoticeStore`."""
        texts = [
            delete_webhooks_sql(keys[start : start + ROWS_PER_ENTRY])
            for start in range(0, len(keys), ROWS_PER_ENTRY)
        ]
        self._add(texts, done)

    def _add(self, texts: Sequence[str], done: Callable[[], None]) -> None:
        # Entries commit in the order they were added, so the last one's commit is everybody's.
        for text in texts[:-1]:
            self._lane.add([], urgent=False, sql=text)
        self._lane.add([], urgent=False, sql=texts[-1], done=done)

    async def due(self, endpoints: Sequence[int], now: float, limit: int) -> list[ParkedWebhook]:
        """See `NoticeStore`."""
        return await self._reader.due_webhooks(self._process, now, limit, endpoints=endpoints)

    async def with_due(self, endpoints: Sequence[int], now: float) -> set[int]:
        """See `NoticeStore`."""
        return await self._reader.endpoints_with_due(self._process, now, endpoints)

    async def oldest_parked(self) -> int | None:
        """See `NoticeStore`."""
        return await self._reader.oldest_webhook(self._process)

    async def messages(self, ids: Sequence[int]) -> Mapping[int, StoredMessage]:
        """See `NoticeStore`."""
        return await self._reader.messages(ids)

    async def inbound(self, ids: Sequence[int]) -> Mapping[int, StoredText]:
        """See `NoticeStore`."""
        return await self._inbound.messages(ids)

    async def channel_events(self, ids: Sequence[int]) -> Mapping[int, EventRow]:
        """See `NoticeStore`."""
        return await self._news.events(ids)

    async def events_after(self, cursor: int, limit: int) -> list[EventRow]:
        """See `NoticeStore`."""
        return await self._reader.events_after(self._process, cursor, limit)

    def pending_floor(self) -> int | None:
        """See `NoticeStore`. The event of a scheduled message commits with it and has its id."""
        floors = [self._lane.pending_floor(), *(floor() for floor in self._floors)]
        return min([floor for floor in floors if floor is not None], default=None)
