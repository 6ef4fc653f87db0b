"""The suppression list against what waits in memory: one pass a poll, only whom it may be about."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

from compliance.policy import SendingPolicy
from compliance.suppressions import PLATFORM, unkeyed_index
from gateway.following import SLICE
from gateway.suppressing import Suppressing
from sms.model import Message, MessageClass
from store.suppressions import Changed, SuppressionStore
from telemetry.metrics import Metrics
from tests.support.flow_kit import Kit

OTP, TRANSACTIONAL, MARKETING = MessageClass


@dataclass
class FakeStore:
    """The list of changes."""

    changes: list[Changed] = field(default_factory=list)

    async def changed(self, after: int, limit: int) -> list[Changed]:
        return [change for change in self.changes if change.change > after][:limit]

    def put(self, tenant: int, *classes: MessageClass, number: str = "8613800138000") -> None:
        index = unkeyed_index(tenant, number)
        self.changes.append(Changed(tenant, index, frozenset(classes), len(self.changes) + 1))


class SuppressingKit:
    """Messages in memory, and who of them was asked."""

    def __init__(self) -> None:
        self.kit = Kit()
        self.store = FakeStore()
        self.asked: list[list[Message]] = []
        self.part = Suppressing(
            store=cast("SuppressionStore", self.store),
            policy=SendingPolicy(),
            ledger=self.kit.ledger,
            words=self.kit.words,
            reject=lambda messages: self.asked.append(list(messages)),
            metrics=Metrics(),
            monotonic=lambda: 0.0,
        )

    def wait(self, count: int, cls: MessageClass, tenant: int = 1) -> list[Message]:
        some = [self.kit.message(cls, tenant=tenant) for _ in range(count)]
        self.kit.ledger.live |= {message.id: message for message in some}
        return some


async def test_entries_of_a_second_are_one_pass_and_an_api_call_makes_none() -> None:
    suppressing = SuppressingKit()
    [waiting] = suppressing.wait(1, MARKETING)
    for number in range(100):
        suppressing.store.put(1, MARKETING, number=f"86138000{number:05}")
        await suppressing.part.refresh()  # what each POST does
    assert suppressing.asked == []
    await suppressing.part.round()
    assert suppressing.asked == [[waiting]]
    await suppressing.part.round()
    assert len(suppressing.asked) == 1


async def test_only_texts_that_an_entry_may_be_about_are_asked() -> None:
    suppressing = SuppressingKit()
    mine = suppressing.wait(3, MARKETING)
    suppressing.wait(3, TRANSACTIONAL)
    suppressing.wait(3, MARKETING, tenant=2)
    suppressing.store.put(1, MARKETING)
    await suppressing.part.round()
    assert suppressing.asked == [mine]
    codes = suppressing.wait(2, OTP, tenant=3)
    suppressing.store.put(PLATFORM, OTP)
    suppressing.store.put(1, TRANSACTIONAL)
    suppressing.asked.clear()
    await suppressing.part.round()
    [asked] = suppressing.asked
    assert {message.id for message in codes} <= {message.id for message in asked}
    assert {(m.tenant, m.message_class) for m in asked} == {(1, TRANSACTIONAL), (3, OTP)}


async def test_what_is_released_asks_nobody() -> None:
    suppressing = SuppressingKit()
    suppressing.wait(1, MARKETING)
    suppressing.store.put(1)
    await suppressing.part.round()
    assert suppressing.asked == []


async def test_a_long_queue_is_looked_at_in_slices() -> None:
    suppressing = SuppressingKit()
    suppressing.wait(3 * SLICE, MARKETING)
    suppressing.store.put(1, MARKETING)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await suppressing.part.round()
    counting.cancel()
    assert [len(some) for some in suppressing.asked] == [SLICE] * 3
    assert turns >= 3
