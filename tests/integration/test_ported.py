"""Ported numbers on a real PostgreSQL: kept, audited, in force here and elsewhere."""

from __future__ import annotations

import time

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from gateway.api.app import build_doors
from gateway.api.openapi_ported import PORTED_EXAMPLES
from gateway.porting import Porting
from sms.model import CARRIERS, Carrier
from sms.numbers import Number
from sms.portability import NETWORKS
from store import database
from store.audit import Author
from store.ported import MOST, PortedStore
from store.seal import Keyring
from telemetry.metrics import Metrics
from tests.support.admin_world import World
from tests.support.postgres import MASTER

pytestmark = pytest.mark.integration

PATH = "/v1/ported-numbers"
NUMBER = "+8613800138000"
US = Author("command", "test", os_user="tester")


def porting_on(pool: database.Pool) -> Porting:
    """One process's view of the store."""
    store = PortedStore(pool, Keyring(MASTER))
    return Porting(store=store, metrics=Metrics(), monotonic=time.monotonic)


def carrier_in(porting: Porting, text: str = NUMBER) -> Carrier:
    number = porting.known.parse(text)
    assert isinstance(number, Number)
    return number.carrier


@pytest.fixture
async def pool(dsn):
    pool = await database.open_pool(dsn, size=4)
    yield pool
    pool.terminate()


@pytest.fixture
async def world(pool):
    """Two processes; the overrides of each are its own."""
    world = await World.make(pool)
    for process in (world.one, world.two):
        process.flow.porting = porting_on(pool)  # type: ignore[assignment]  # the real one
        process.app, process.quick = build_doors(process.flow)
        await process.flow.porting.refresh()
    return world


async def test_an_override_holds_here_at_once_and_elsewhere_after_a_look_and_ends(world):
    one, two = world.one.flow.porting, world.two.flow.porting
    body = {"numbers": [{"to": "13800138000", "carrier": "CU"}]}
    made = await world.admin("POST", PATH, body)
    assert made.status_code == 200, made.text
    assert made.json() == {"put": 1, "removed": 0, "unchanged": 0}
    assert (carrier_in(one), carrier_in(two)) == (Carrier.CU, Carrier.CM)
    await two.refresh()
    assert carrier_in(two) is Carrier.CU
    assert (await world.admin("POST", PATH, body)).json()["unchanged"] == 1
    [listed] = (await world.admin("GET", PATH)).json()["data"]
    assert (listed["to"], listed["carrier"]) == (NUMBER, "CU")
    gone = {"numbers": [{"to": NUMBER, "carrier": None}, {"to": "13900139000", "carrier": None}]}
    ended = (await world.admin("POST", PATH, gone)).json()
    assert ended == {"put": 0, "removed": 1, "unchanged": 1}
    assert (await world.admin("GET", PATH)).json()["data"] == []
    await two.refresh()
    assert (carrier_in(one), carrier_in(two)) == (Carrier.CM, Carrier.CM)
    again = await world.admin("POST", PATH, body)
    assert again.json() == {"put": 1, "removed": 0, "unchanged": 0}
    await two.refresh()
    assert carrier_in(two) is Carrier.CU


async def test_a_process_that_starts_has_all_of_them_and_then_what_changes(pool):
    store = PortedStore(pool, Keyring(MASTER))
    numbers = {f"86138{n:08}": NETWORKS[n % 4] for n in range(3000)}
    for start in range(0, 3000, 1500):
        part = dict(list(numbers.items())[start : start + 1500])
        assert (await store.put(US, part)).put == 1500
    first = dict.fromkeys(list(numbers)[:10])
    assert (await store.put(US, first)).removed == 10
    late = porting_on(pool)
    await late.refresh()
    assert late.known.size == 2990
    for number, carrier in numbers.items():
        wanted = Carrier.CM if number in first else carrier  # 138 is China Mobile's
        assert carrier_in(late, "+" + number) is wanted
    await store.put(US, {"8613800000000": Carrier.CB, "8613800002999": None})
    await late.refresh()
    assert late.known.size == 2990
    assert carrier_in(late, "+8613800000000") is Carrier.CB
    assert carrier_in(late, "+8613800002999") is Carrier.CM


async def test_what_changes_while_a_process_reads_the_whole_is_not_missed(pool):
    store = PortedStore(pool, Keyring(MASTER))
    await store.put(US, {f"86138{n:08}": Carrier.CU for n in range(100)})
    late = porting_on(pool)
    read, parts = late.store.part, []

    async def part_and_change(place):
        found = await read(place)
        if place == 31:
            await store.put(US, {f"86138{n:08}": Carrier.CT for n in range(50)})
            await store.put(US, {f"86138{n:08}": None for n in range(25)})
        parts.append(place)
        return found

    late.store.part = part_and_change  # type: ignore[method-assign]
    await late.refresh()
    assert parts == list(range(64))
    found = [carrier_in(late, f"+86138{n:08}") for n in range(100)]
    assert found == [Carrier.CM] * 25 + [Carrier.CT] * 25 + [Carrier.CU] * 50


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "/numbers", "field.missing"),
        ({"numbers": []}, "/numbers", "field.value"),
        ({"numbers": [7]}, "/numbers/0", "field.type"),
        ({"numbers": [{"to": NUMBER}]}, "/numbers/0/carrier", "field.missing"),
        ({"numbers": [{"to": NUMBER, "carrier": "cu"}]}, "/numbers/0/carrier", "field.value"),
        ({"numbers": [{"to": NUMBER, "carrier": "other"}]}, "/numbers/0/carrier", "field.value"),
        ({"numbers": [{"to": "12", "carrier": "CU"}]}, "/numbers/0/to", "recipient.invalid"),
        (
            {"numbers": [{"to": "+15551234567", "carrier": "CU"}]},
            "/numbers/0/to",
            "recipient.invalid",
        ),
        (
            {
                "numbers": [
                    {"to": NUMBER, "carrier": "CU"},
                    {"to": "13800138000", "carrier": "CT"},
                ]
            },
            "/numbers/1/to",
            "field.value",
        ),
    ],
)
async def test_a_refusal_names_the_entry_and_changes_nothing(world, body, pointer, code):
    good = {"to": "13900139000", "carrier": "CT"}
    if body.get("numbers"):
        body = {"numbers": [*body["numbers"], good]}
    answer = await world.admin("POST", PATH, body)
    assert answer.status_code == 422
    errors = answer.json()["errors"]
    assert (pointer, code) in [(error["pointer"], error["code"]) for error in errors]
    assert (await world.admin("GET", PATH)).json()["data"] == []


async def test_only_the_platform_s_keys_may(world):
    key = (await world.key(await world.tenant()))["key"]
    body = {"numbers": [{"to": NUMBER, "carrier": "CU"}]}
    assert (await world.one.call("POST", PATH, key, body)).status_code == 403
    assert (await world.one.call("GET", PATH, key)).status_code == 403
    assert (await world.one.call("GET", PATH)).status_code == 401


async def test_every_change_is_audited_and_no_number_is_readable(world, pool):
    body = {"numbers": [{"to": NUMBER, "carrier": "CU"}, {"to": "13900139000", "carrier": "CT"}]}
    await world.admin("POST", PATH, body)
    await world.admin("POST", PATH, body)  # no change, no row
    await world.admin("POST", PATH, {"numbers": [{"to": NUMBER, "carrier": None}]})
    told = (await world.admin("GET", "/v1/audit-events?object=ported_numbers")).json()["data"]
    assert [entry["after"] for entry in told] == [
        {"put": {}, "removed": 1},
        {"put": {"CU": 1, "CT": 1}, "removed": 0},
    ]
    assert {entry["actor"]["name"] for entry in told} == {"ops"}
    assert (await world.one.store.audit.verify()).broken_at is None
    async with pool.acquire() as conn:
        rows = await conn.fetch("SELECT * FROM ported_numbers")
        suppressed = Keyring(MASTER).number_index(0, NUMBER[1:])
    assert len(rows) == 2
    for row in rows:
        assert b"138001380" not in row["number"]
        assert b"139001390" not in row["number"]
        assert row["number_index"] != suppressed  # tables cannot be joined by it


async def test_every_answer_is_as_described(world):
    document = (await world.one.call("GET", "/openapi.json")).json()
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    registry = Registry().with_resource("urn:api", resource)

    def check(name, value):
        schema = {"$ref": f"urn:api#/components/schemas/{name}"}
        Draft202012Validator(schema, registry=registry).validate(value)

    for example in PORTED_EXAMPLES.values():
        check("PortedNumbersChange", example["value"])
        made = await world.admin("POST", PATH, example["value"])
        assert made.status_code == 200, made.text
        check("PortedNumbersChanged", made.json())
    check("PortedNumberList", (await world.admin("GET", PATH)).json())


async def test_pages_follow_one_another_the_last_changed_first(world):
    numbers = [f"+861380013{n:04}" for n in range(7)]
    for number in numbers:
        await world.admin("POST", PATH, {"numbers": [{"to": number, "carrier": "CB"}]})
    found, cursor = [], ""
    while True:
        told = (await world.admin("GET", f"{PATH}?limit=3{cursor}")).json()
        found += [entry["to"] for entry in told["data"]]
        if told["next_cursor"] is None:
            break
        cursor = f"&cursor={told['next_cursor']}"
    assert found == numbers[::-1]


async def test_preview_and_accept_go_by_the_override(world):
    public = await world.tenant()
    key = (await world.key(public))["key"]
    await world.one.poll()
    await world.admin("POST", PATH, {"numbers": [{"to": NUMBER, "carrier": "CT"}]})
    for _ in range(2):  # by the long way and by the short one
        sent = await world.one.call("POST", "/v1/messages", key, {"to": NUMBER, "text": "hi"})
        assert sent.status_code == 202, sent.text
    accepted = [message.carrier for [message] in world.one.flow.accepted]
    assert accepted == [Carrier.CT, Carrier.CT]


async def test_a_block_that_is_too_large_is_refused_before_anything_is_asked(pool):
    store = PortedStore(pool, Keyring(MASTER))
    with pytest.raises(ValueError, match="more than"):
        await store.put(US, {f"86138{n:08}": CARRIERS[0] for n in range(MOST + 1)})
