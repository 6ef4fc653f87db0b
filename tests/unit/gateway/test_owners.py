"""Whose a text from a phone is, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.owners import NOBODY, Owners, Sought, taken_numbers
from receipts.state import Path
from sms.config import Channel, Route, Snapshot, Tenant
from sms.model import Carrier, Encoding, EventRow, Message, MessageClass, State
from store.read import Stored

SHOP, BANK = 3, 4
MOBILE, SHARED = 7, 8
PHONE, OTHER = "8613800138000", "8613800138001"
NOW = 1_800_000_000.0


@dataclass
class Store:
    """Messages by id; indexes are made so that another number may share one."""

    messages_: dict[int, Stored] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def sent(
        self,
        id: int,
        tenant: int,
        *,
        number: str = PHONE,
        channel: int = MOBILE,
        ext: str | None = None,
        is_tried: bool = True,
    ) -> None:
        message = Message(
            id, tenant, MessageClass.MARKETING, number, Carrier.CM, 86, Encoding.UCS2, ("x",),
            NOW, NOW, sender_ext=ext,
        )  # fmt: skip
        rows = []
        if is_tried:
            rows.append(
                EventRow(
                    id, 2, id + 1, tenant, Path.SUBMITTED, State.SUBMITTED, NOW,
                    channel=channel, carrier_id="x",
                )
            )  # fmt: skip
        self.messages_[id] = Stored(message, rows)

    def number_index(self, tenant: int, number: str) -> int:
        return tenant * 10 + int(number[-1]) // 5

    async def recent(self, indexes, since, most):
        self.asked.append(len(indexes))
        found: dict[int, list[int]] = {}
        for id, stored in sorted(self.messages_.items(), reverse=True):
            index = self.number_index(stored.message.tenant, stored.message.number)
            if index in indexes:
                found.setdefault(index, []).append(id)
        return {index: ids[:most] for index, ids in found.items()}

    async def messages(self, ids):
        return {id: self.messages_[id] for id in ids}


def owners(store: Store) -> Owners:
    made = Owners(store, store, store)
    made.reconfigure(
        Snapshot(
            tenants={
                SHOP: Tenant(SHOP, "shop", inbound_numbers=("10690", "106911")),
                BANK: Tenant(BANK, "bank", inbound_numbers=("1069011",)),
            },
            channels={
                MOBILE: Channel(MOBILE, "a", "smpp", {}, sender="1068"),
                SHARED: Channel(SHARED, "b", "smpp", {}, sender="1067"),
            },
            routes=(
                Route(1, BANK, None, None, 0, (MOBILE,)),
                Route(2, 0, None, None, 0, (SHARED,)),
                Route(3, 99, None, None, 0, (MOBILE,)),  # of a tenant that is gone
            ),
        )
    )
    return made


async def find(store: Store, *texts: Sought) -> list[tuple[int, int | None]]:
    found = await owners(store).find(texts, NOW)
    return [(one.tenant, one.parent.id if one.parent else None) for one in found]


async def test_the_longest_number_wins_then_the_only_route():
    store = Store()
    texts = [
        Sought(SHARED, PHONE, to)
        for to in ("10690", "106901", "1069011", "10690112", "106911", "1069")
    ]
    assert [tenant for tenant, _ in await find(store, *texts)] == [
        SHOP, SHOP, BANK, BANK, SHOP, NOBODY,
    ]  # fmt: skip
    assert await find(store, Sought(MOBILE, PHONE, "1068")) == [(BANK, None)]
    assert await find(store, Sought(55, PHONE, "1068")) == [(NOBODY, None)]


async def test_of_several_tenants_the_last_sender_over_that_channel_has_it():
    store = Store()
    store.sent(1, SHOP, channel=SHARED)
    store.sent(2, BANK, channel=SHARED)
    store.sent(3, SHOP, channel=MOBILE)  # newer, over another channel
    store.sent(4, SHOP, channel=SHARED, is_tried=False)  # it never left
    store.sent(5, SHOP, channel=SHARED, number=OTHER)  # its index is the same
    assert await find(store, Sought(SHARED, PHONE, "1067")) == [(BANK, 2)]
    assert await find(store, Sought(SHARED, "8613800138009", "1067")) == [(NOBODY, None)]


async def test_a_message_that_showed_the_very_number_is_the_better_parent():
    store = Store()
    store.sent(1, SHOP, channel=SHARED, ext="22")
    store.sent(2, BANK, channel=SHARED, ext="33")
    texts = [Sought(SHARED, PHONE, to) for to in ("106722", "106733", "1067")]
    assert await find(store, *texts) == [(SHOP, 1), (BANK, 2), (BANK, 2)]


async def test_many_texts_cost_two_reads():
    store = Store()
    await find(store, *(Sought(SHARED, f"86138001380{n:02}", "1067") for n in range(50)))
    assert len(store.asked) == 1


def test_a_number_is_one_tenants():
    tenants = {"shop": {"inbound_numbers": ["1069", "10691"]}, "bank": {}}
    assert taken_numbers(["106911", "10691"], "bank", tenants) == {1: "shop"}
    assert taken_numbers(["10691"], "shop", tenants) == {}
