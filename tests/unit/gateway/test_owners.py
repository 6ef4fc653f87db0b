"""Whose a text from a phone is, and what it answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from gateway.owners import NOBODY, Owners, Sought, taken_numbers
from receipts.state import Path
from sms.config import Channel, Route, Snapshot, Tenant
from sms.errors import StoreUnavailable
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
                Route(1, BANK, MessageClass.OTP, None, 0, (MOBILE,)),
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


async def test_a_reply_to_anothers_extension_is_nobodys():
    store = Store()
    store.sent(11, BANK, channel=SHARED)  # plainly from 1067; 1067555 is somebody's habit
    assert await find(store, Sought(SHARED, PHONE, "1067555")) == [(NOBODY, None)]
    assert await find(store, Sought(SHARED, PHONE, "1067")) == [(BANK, 11)]
    store.sent(12, SHOP, channel=SHARED, ext="555")
    assert await find(store, Sought(SHARED, PHONE, "1067555")) == [(SHOP, 12)]
    assert await find(store, Sought(SHARED, PHONE, "106755")) == [(NOBODY, None)]


async def test_without_a_sender_only_what_went_out_without_extension_may_be_answered():
    store = Store()
    store.sent(1, SHOP, channel=SHARED)
    store.sent(2, BANK, channel=SHARED, ext="7")
    made = owners(store)
    plain = Channel(SHARED, "b", "smpp", {})
    made.reconfigure(replace(made._snapshot, channels={SHARED: plain}))
    found = await made.find([Sought(SHARED, PHONE, "95555"), Sought(SHARED, PHONE, "7")], NOW)
    assert [one.tenant for one in found] == [SHOP, BANK]


async def test_a_route_of_its_own_takes_a_tenant_out_of_everybodys_channel():
    store = Store()
    made = owners(store)
    shared = Route(2, 0, None, None, 0, (SHARED,))
    plain = {
        SHOP: Tenant(SHOP, "shop"),
        BANK: Tenant(BANK, "bank"),
    }
    for own, wanted in (
        ((Route(1, BANK, None, None, 0, (MOBILE,)),), SHOP),
        ((Route(1, BANK, MessageClass.OTP, None, 0, (MOBILE,)),), NOBODY),  # the rest is shared
        (
            tuple(Route(n, BANK, cls, None, 86, (MOBILE,)) for n, cls in enumerate(MessageClass)),
            SHOP,
        ),
        ((Route(1, BANK, None, None, 1, (MOBILE,)),), NOBODY),  # it may not send there
    ):
        made.reconfigure(replace(made._snapshot, tenants=plain, routes=(*own, shared)))
        [found] = await made.find([Sought(SHARED, PHONE, "1067")], NOW)
        assert found.tenant == wanted
        assert found.among == (() if wanted else (SHOP, BANK))


async def test_many_texts_cost_statements_of_bounded_size(monkeypatch):
    monkeypatch.setattr("gateway.owners.MOST_INDEXES", 3)
    store = Store()
    texts = [Sought(SHARED, f"86138001380{n}5", "1067") for n in range(4)]
    for n, text in enumerate(texts):
        store.sent(n + 1, BANK, channel=SHARED, number=text.number)
    store.number_index = lambda tenant, number: tenant * 1000 + int(number[-2:])  # type: ignore[method-assign]  # one each
    assert await find(store, *texts) == [(BANK, n + 1) for n in range(4)]
    assert store.asked == [3, 3, 2]


async def test_the_loop_is_let_go_of_while_many_tenants_are_asked_for():
    store = Store()
    made = owners(store)
    everybody = {n: Tenant(n, f"t{n}") for n in range(1, 1001)}
    made.reconfigure(replace(made._snapshot, tenants=everybody))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await made.find([Sought(SHARED, f"861380013800{n}", "1067") for n in range(8)], NOW)
    counting.cancel()
    assert turns >= 8000 / 200
    assert max(store.asked) <= 2000


async def test_a_known_owner_is_not_held_back_for_a_parent_that_cannot_be_read():
    store = Store()

    async def away(*_):
        raise StoreUnavailable("a statement took too long")

    store.recent = away  # type: ignore[method-assign]  # the store is slow
    known, shared = Sought(MOBILE, PHONE, "1068"), Sought(SHARED, PHONE, "1067")
    assert await find(store, known) == [(BANK, None)]
    for texts in ([shared], [known, known]):
        with pytest.raises(StoreUnavailable):
            await find(store, *texts)


def test_a_number_is_one_tenants():
    tenants = {"shop": {"inbound_numbers": ["1069", "10691"]}, "bank": {}}
    assert taken_numbers(["106911", "10691"], "bank", tenants) == {1: "shop"}
    assert taken_numbers(["10691"], "shop", tenants) == {}
