"""A backlog joined over fakes: a store in a dictionary, a clock, lanes of a few messages."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import cast

from gateway.backlog import Backlog, BacklogPolicy
from gateway.lanes import Lanes
from sms.errors import StoreUnavailable
from sms.ids import id_at
from sms.model import Message, MessageClass
from store.read import Head, Reader, Stored
from tests.support.flow_kit import Kit

ALL = tuple(MessageClass)


class FakeBodies:
    def __init__(self, messages: dict[int, Message]) -> None:
        self._messages = messages

    def message(self, message_id: int) -> Message | None:
        found = self._messages.get(message_id)
        return None if found is None else copy.copy(found)


class FakeReader:
    """What was accepted, as it was accepted; `is_away`: PostgreSQL does not answer."""

    def __init__(self) -> None:
        self.stored: dict[int, Message] = {}
        self.folded: dict[int, Message] = {}  # those with rows, as they stand now
        self.others: set[int] = set()  # at rest, or another process's
        self.reads: list[int] = []  # how many ids each read asked for
        self.is_away = False

    def _ask(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")

    async def bodies(self, ids: Sequence[int]) -> FakeBodies:
        self._ask()
        self.reads.append(len(ids))
        return FakeBodies({one: self.stored[one] for one in ids if one in self.stored})

    async def messages(self, ids: Sequence[int]) -> dict[int, Stored]:
        self._ask()
        return {one: Stored(copy.copy(self.folded[one])) for one in ids if one in self.folded}

    async def heads(self, ids: Iterable[int]) -> list[Head]:
        self._ask()
        return [self.head(one) for one in sorted(ids) if one in self.stored]

    async def still_mine(self, process: int, ids: Iterable[int]) -> list[int]:
        self._ask()
        return [one for one in ids if one not in self.others]

    def head(self, message_id: int) -> Head:
        message = self.stored[message_id]
        return Head(
            message_id,
            message.tenant,
            message.message_class,
            message.valid_until,
            message.carrier,
            message.country,
            message_id in self.folded,
        )


class BacklogKit(Kit):
    """The flow's kit with a backlog; lanes hold `memory` messages of each class."""

    def __init__(
        self,
        *,
        memory: int = 80,
        channels: int = 1,
        window: int = 4,
        is_up: bool = False,
        max_ids: int = 10_000,
    ) -> None:
        super().__init__(channels=channels, window=window)
        self.lanes._limits = dict.fromkeys(MessageClass, memory)
        self.store = FakeReader()
        self.backlog = Backlog(
            lanes=self.lanes,
            ledger=self.ledger,
            dispatcher=self.dispatcher,
            reader=cast("Reader", self.store),
            metrics=self.metrics,
            policy=BacklogPolicy(max_ids=max_ids, parked_after_s=600.0),
            unix=self.clock.unix,
            monotonic=self.clock.monotonic,
        )
        self.spill = self.backlog.spill
        for number in self.channels:
            self.dispatcher.link_changed(number, is_up=is_up)

    def commit(self, *messages: Message) -> None:
        """What the acceptor does after its commit."""
        for message in messages:
            self.lanes.reserve(message.message_class, 1)
            self.store.stored[message.id] = copy.copy(message)
            self.ledger.live[message.id] = message
            key = message.tenant
            self.ledger.opened[key] = self.ledger.opened.get(key, 0) + 1
        self.backlog.accepted(list(messages))
        self.events.flush()

    def send(
        self,
        count: int,
        cls: MessageClass = MessageClass.TRANSACTIONAL,
        tenant: int = 1,
        valid_s: float = 36_000.0,
    ) -> list[int]:
        """Accept messages, ten a commit; their ids."""
        ids: list[int] = []
        for start in range(0, count, 10):
            some = [
                self.message(cls, tenant=tenant, valid_s=valid_s)
                for _ in range(min(10, count - start))
            ]
            self.commit(*some)
            ids += [message.id for message in some]
        return ids

    def turn_timers(self) -> None:
        """Run what `call_later` was asked for, and what that asks for."""
        while self.timers:
            timers, self.timers = self.timers, []
            for _, call in timers:
                call()
        self.events.flush()

    async def refill_all(self) -> int:
        """Refill until no lane misses anything; how many batches that were."""
        batches = 0
        while await self.backlog.refill():
            batches += 1
            self.events.flush()
        self.events.flush()
        return batches

    def standing(self, cls: MessageClass | None = None) -> list[int]:
        """Ids of what waits in any lane."""
        return [
            message.id
            for place in self.dispatcher.places()
            for message in place
            if cls in (None, message.message_class)
        ]

    def seen(self) -> list[Message]:
        """What the carriers got, in order."""
        return [submit.message for number in self.channels for submit in self.channels[number].seen]

    def older(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds

    def id_before(self, seconds: float) -> int:
        """An id of that long ago."""
        return id_at(self.clock.unix() - seconds)


__all__ = ["ALL", "BacklogKit", "FakeReader", "Lanes"]
