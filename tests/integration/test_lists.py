"""Lists and search: exactly what matches, page by page, whatever the sizes; nobody else's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

import gateway.api.lists as lists_module
from gateway.api.openapi_reads import SEARCH_EXAMPLES
from gateway.views import rfc3339
from receipts.state import Path, fold
from sms.ids import to_text
from sms.model import Carrier, EventRow, Message, MessageClass, State
from store.events import EventLane
from store.fragments import Why, park_sql
from store.intake import Stored as StoredKey
from tests.support.described import checker
from tests.support.fake_flow import OTHER, SHOP
from tests.support.postgres import World, text
from tests.support.reading_world import MOBILE, UNICOM, Door, now_ms

pytestmark = pytest.mark.integration

NUMBERS = [f"861380013800{n}" for n in range(8)]


@pytest.fixture
async def door(world: World) -> AsyncIterator[Door]:
    door = await Door.open(world)
    yield door
    await door.close()


async def accept(world: World, messages: list[Message]) -> list[Message]:
    acceptor = next((lane for lane in world.lanes if hasattr(lane, "accept")), None)
    acceptor = acceptor or await world.acceptor()
    by_tenant: dict[int, list[Message]] = {}
    for message in messages:
        by_tenant.setdefault(message.tenant, []).append(message)
    for some in by_tenant.values():
        for start in range(0, len(some), 500):
            await acceptor.accept(some[start : start + 500])
    return messages


async def write(world: World, rows: list[EventRow], sql: str = "") -> None:
    lane = next((lane for lane in world.lanes if isinstance(lane, EventLane)), None)
    lane = lane or await world.event_lane()
    lane.add(rows, urgent=True, sql=sql)
    assert await lane.drain(60)


def life(world: World, message: Message, dice: random.Random) -> list[EventRow]:
    """Rows of one of the lives a message may have."""
    channel = dice.choice([MOBILE, UNICOM])
    of = {"tenant": message.tenant, "channel": channel}
    sent = world.event(message.id, 2, segment=0, **of)
    kind = dice.randrange(6)
    if kind == 0:
        return []
    if kind == 1:
        return [sent]
    if kind == 2:
        end = {"path": Path.DELIVERED, "status": State.DELIVERED, "carrier_id": None}
        return [sent, world.event(message.id, 3, segment=0, **of, **end)]
    if kind == 3:
        end = {"path": Path.UNDELIVERED, "status": State.UNDELIVERED, "carrier_id": None}
        note = {"path": Path.NOTE, "status": State.DELIVERED, "carrier_id": None}
        return [
            sent,
            world.event(message.id, 3, segment=0, **of, **end),
            world.event(message.id, 4, segment=0, **of, **note),
        ]
    if kind == 4:
        path = {"path": Path.UNCERTAIN, "status": State.UNCERTAIN, "carrier_id": None}
        return [world.event(message.id, 2, **of, **path)]
    path = {"path": Path.REQUEUED, "status": State.QUEUED, "carrier_id": None}
    again = world.event(message.id, 3, segment=0, **{**of, "channel": MOBILE})
    return [world.event(message.id, 2, **of, **path), again]


class Model:
    """What the lists must say, folded in memory."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def ids(self, tenant: int | None, **filters: Any) -> list[str]:
        found = [m for m in self.messages if tenant in (None, m.tenant)]
        for name, wanted in filters.items():
            found = [m for m in found if _value(m, name) == wanted]
        return [f"msg_{m.id:016x}" for m in sorted(found, key=lambda m: -m.id)]


def _value(message: Message, name: str) -> Any:
    if name == "channel":
        return {MOBILE: "mobile-a", UNICOM: "unicom-b", 0: None}[message.channel]
    return {
        "status": message.state.value,
        "class": message.message_class.value,
        "client_ref": message.client_ref,
        "to": "+" + message.number,
    }[name]


@pytest.fixture
async def filled(world: World) -> Model:
    """700 messages of two tenants in all stages."""
    dice = random.Random(4)
    messages = [
        text(
            tenant=SHOP if number % 10 else OTHER,
            message_class=dice.choice(list(MessageClass)),
            number=dice.choice(NUMBERS),
            carrier=Carrier.CM,
            client_ref=f"ref-{number}" if number % 3 == 0 else None,
            metadata={"n": str(number)} if number % 5 == 0 else None,
            created_at=now_ms(),
        )
        for number in range(700)
    ]
    await accept(world, messages)
    rows: list[EventRow] = []
    model = Model()
    parked = []
    for message in messages:
        own = life(world, message, dice)
        rows += own
        if own and own[-1].path == Path.UNCERTAIN:
            parked.append((message.id, 2e9, Why.UNCERTAIN, message.message_class, message.tenant))
        known = replace(message, carrier_ids=[], segment_states=[])
        assert fold(known, own) == 0
        model.messages.append(known)
    await write(world, rows, park_sql(world.lease.process, parked))
    return model


def ids(objects: list[dict[str, Any]]) -> list[str]:
    return [one["id"] for one in objects]


async def test_pages_follow_one_another_without_a_gap_or_a_repetition(door, filled):
    for limit in (1000, 630, 50, 7):
        assert ids(await door.all(limit=limit)) == filled.ids(SHOP)
    page = await door.page()
    assert len(page["data"]) == 50
    assert ids(await door.all("other")) == filled.ids(OTHER)
    exact = await door.page(limit=630)
    assert (len(exact["data"]), exact["next_cursor"]) == (630, None)


async def test_a_reference_of_the_last_days_is_found_by_its_key(door, filled, monkeypatch):
    opened: list[int] = []
    bodies = door.reading.reader.bodies

    async def spy(ids_: list[int]) -> Any:
        opened.extend(ids_)
        return await bodies(ids_)

    monkeypatch.setattr(door.reading.reader, "bodies", spy)
    [wanted] = filled.ids(SHOP, client_ref="ref-333")
    number = int(wanted[4:], 16)
    intake = door.flow.intake
    intake.stored[intake.hasher.ref(SHOP, "ref-333").slot] = StoredKey(b"", number)
    page = await door.page(client_ref="ref-333")
    assert (ids(page["data"]), page["next_cursor"], opened) == ([wanted], None, [number])
    status = page["data"][0]["status"]
    for other in State:
        page = await door.page(client_ref="ref-333", status=other.value)
        assert ids(page["data"]) == ([wanted] if other.value == status else [])
    assert (await door.page(client_ref="ref-333", created_after="2098-01-01T00:00:00Z"))[
        "data"
    ] == []
    assert (await door.page("other", client_ref="ref-333"))["data"] == []


async def test_an_older_message_with_the_same_reference_is_listed_too(door, world, monkeypatch):
    old = await accept(world, [text(client_ref="twin", created_at=now_ms())])
    await asyncio.sleep(0.01)
    new = await accept(world, [text(client_ref="twin", created_at=now_ms())])
    intake = door.flow.intake
    intake.stored[intake.hasher.ref(SHOP, "twin").slot] = StoredKey(b"", new[0].id)
    monkeypatch.setattr(lists_module, "_REF_ALONE_S", 0)  # in place of a week
    both = [f"msg_{one.id:016x}" for one in (new[0], old[0])]
    assert ids((await door.page(client_ref="twin"))["data"]) == both
    for limit in (1, 2, 3):
        assert ids(await door.all(client_ref="twin", limit=limit)) == both


async def test_an_item_is_the_object_of_its_own_route(door, filled):
    for shown in (await door.page(limit=40))["data"]:
        stored = await door.reading.reader.message(int(shown["id"][4:], 16), SHOP)
        door.flow.reader.stored[stored.message.id] = stored
        alone = (await door.call("GET", f"/v1/messages/{shown['id']}")).json()
        assert alone == shown
    assert (await door.page(limit=1))["data"][0]["to"].startswith("+8613800138")


@pytest.mark.parametrize(
    "filters",
    [
        {"status": "delivered"},
        {"status": "accepted"},
        {"status": "uncertain"},
        {"status": "submitted"},
        {"status": "canceled"},
        {"class": "otp"},
        {"channel": "unicom-b"},
        {"channel": "mobile-a", "status": "submitted"},
        {"client_ref": "ref-333"},
        {"client_ref": "ref-334"},
        {"class": "marketing", "status": "undelivered", "channel": "mobile-a"},
    ],
)
async def test_filters_find_what_matches_and_nothing_else(door, filled, filters):
    for limit in (1000, 9):
        assert ids(await door.all(limit=limit, **filters)) == filled.ids(SHOP, **filters)


async def test_search_finds_a_number_of_the_tenant_alone(door, filled):
    for to in ("+8613800138003", "13800138003"):
        asked = {"to": to, "limit": 1000}
        answer = await door.call("POST", "/v1/messages:search", json=asked)
        assert ids(answer.json()["data"]) == filled.ids(SHOP, to="+8613800138003")
    both = {"to": "+8613800138003", "status": "delivered"}
    found: list[str] = []
    body: dict[str, Any] = {**both, "limit": 5}
    while True:
        page = (await door.call("POST", "/v1/messages:search", json=body)).json()
        found += ids(page["data"])
        if page["next_cursor"] is None:
            break
        body["cursor"] = page["next_cursor"]
    assert found == filled.ids(SHOP, **both)
    other = await door.call("POST", "/v1/messages:search", key="other", json={"to": "13800138003"})
    assert ids(other.json()["data"]) == filled.ids(OTHER, to="+8613800138003")


async def test_an_operator_sees_what_is_uncertain_of_all_tenants(door, filled):
    for filters in ({"status": "uncertain"}, {"status": "undelivered"}, {}):
        found = await door.all("admin", limit=1000, **filters)
        assert ids(found) == filled.ids(None, **filters)
        assert {one["tenant"] for one in found} == {f"ten_{SHOP:016x}", f"ten_{OTHER:016x}"}
        assert all("****" in one["to"] for one in found)
        assert all(("uncertain" in one) is (one["status"] == "uncertain") for one in found)
    refused = await door.call("POST", "/v1/messages:search", key="admin", json={})
    assert refused.status_code == 403


async def test_times_bound_the_list_as_they_are_shown(world, door):
    base = now_ms()
    messages = [text(created_at=base + n / 1000) for n in range(20)]
    for message in messages:  # apart from one another, as ids go by the clock of the process
        await accept(world, [message])
    shown = ids(await door.all())
    for after, before in ((5, 12), (0, 20), (7, 7), (19, 25)):
        span = {
            "created_after": rfc3339(base + after / 1000),
            "created_before": rfc3339(base + before / 1000),
        }
        want = [f"msg_{m.id:016x}" for m in messages[after:before]][::-1]
        assert ids(await door.all(**span)) == want
    assert ids(await door.all(created_after="2026-01-01T00:00:00+08:00")) == shown
    assert await door.all(created_before="2026-01-01T00:00:00Z") == []
    assert await door.all(created_after="2030-01-01T00:00:00Z") == []


async def test_what_the_owner_knows_better_is_shown_and_filtered(world, door):
    message = (await accept(world, [text()]))[0]
    door.flow.live_messages[message.id] = replace(message, state=State.SUBMITTING, channel=MOBILE)
    assert [one["status"] for one in await door.all(status="submitting")] == ["submitting"]
    assert await door.all(status="accepted") == []
    assert await door.all(status="queued") == []
    door.flow.live_messages.clear()
    assert [one["status"] for one in await door.all(status="accepted")] == ["accepted"]


async def test_a_page_that_finds_nothing_is_short_and_goes_on(door, filled, monkeypatch):
    monkeypatch.setattr(lists_module, "MAX_EXAMINED", 100)
    monkeypatch.setattr(lists_module, "_LEAST_LOOK", 40)
    first = await door.page(status="canceled")
    assert first["data"] == []
    assert first["next_cursor"] is not None
    pages, cursor = 1, first["next_cursor"]
    while cursor is not None:
        cursor = (await door.page(status="canceled", cursor=cursor))["next_cursor"]
        pages += 1
    assert pages == 7  # 630 messages, 100 a page
    assert ids(await door.all(status="delivered")) == filled.ids(SHOP, status="delivered")


async def test_a_slow_page_ends_by_the_clock(door, filled, monkeypatch):
    monkeypatch.setattr(lists_module, "BUDGET_S", -1.0)
    monkeypatch.setattr(lists_module, "_LEAST_LOOK", 10)
    assert (await door.page(status="canceled"))["next_cursor"] is not None
    assert ids(await door.all(status="delivered")) == filled.ids(SHOP, status="delivered")


@pytest.mark.parametrize(
    ("filters", "pointer"),
    [
        ({"status": "sent"}, "/status"),
        ({"class": "OTP"}, "/class"),
        ({"limit": "0"}, "/limit"),
        ({"limit": "1001"}, "/limit"),
        ({"limit": "ten"}, "/limit"),
        ({"cursor": "x"}, "/cursor"),
        ({"cursor": "AAAAAAAAAAAAAAAAAAAAAAAAAAA"}, "/cursor"),
        ({"created_after": "2026-11-22"}, "/created_after"),
        ({"created_before": "yesterday"}, "/created_before"),
        ({"client_ref": ""}, "/client_ref"),
    ],
)
async def test_a_wrong_parameter_is_named_with_its_remedy(door, filters, pointer):
    answer = await door.call("GET", "/v1/messages", params=filters)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert answer.json()["code"] == "query.value"


async def test_a_cursor_is_good_for_its_list_alone(door, filled):
    cursor = (await door.page(limit=1))["next_cursor"]
    for key, filters in (
        ("other", {}),
        ("both", {"status": "delivered"}),
        ("admin", {}),
        ("both", {"channel": "mobile-a"}),
    ):
        answer = await door.call(
            "GET", "/v1/messages", key=key, params={**filters, "cursor": cursor}
        )
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/cursor"
        assert "begin without it" in answer.json()["detail"]
    assert (await door.page(limit=9, cursor=cursor))["data"]  # the size may change


async def test_the_frame_holds(door):
    assert (await door.call("GET", "/v1/messages?state=x")).json()["code"] == "query.unknown"
    repeated = await door.call("GET", "/v1/messages?limit=1&limit=2")
    assert repeated.json()["code"] == "query.repeated"
    assert (await door.call("GET", "/v1/messages", key="send")).status_code == 403
    refused = await door.call("PUT", "/v1/messages", json={})
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")
    search = "/v1/messages:search"
    assert (await door.call("GET", search)).status_code == 405
    assert (await door.call("POST", search, json={"status": None})).status_code == 422
    assert (await door.call("POST", search, json={"to": "12"})).json()["code"] == (
        "recipient.invalid"
    )
    assert (await door.call("POST", search + "?limit=1", json={})).status_code == 422
    assert (await door.call("POST", search, content=b"{}")).status_code == 415
    all_wrong = await door.call("POST", search, json={"to": "12", "limit": 0, "nope": 1})
    assert {error["pointer"] for error in all_wrong.json()["errors"]} == {
        "/to",
        "/limit",
        "/nope",
    }


async def test_every_answer_is_as_openapi_describes_it(door, filled):
    check = checker((await door.call("GET", "/openapi.json")).json())
    for example in SEARCH_EXAMPLES.values():
        check("SearchRequest", example["value"])
        answer = await door.call("POST", "/v1/messages:search", json=example["value"])
        assert answer.status_code == 200, answer.text
        check("MessageList", answer.json())
    check("MessageList", await door.page())
    check("MessageList", await door.page("admin"))
    check("UsageList", (await door.call("GET", "/v1/usage")).json())
    priced = await door.call("GET", f"/v1/tenants/{to_text('ten', SHOP)}/usage", key="admin")
    check("TenantUsageList", priced.json())
    check("EventList", (await door.call("GET", "/v1/events")).json())
    check("Problem", (await door.call("GET", "/v1/events?after=x")).json())
