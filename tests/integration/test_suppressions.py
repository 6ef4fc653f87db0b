"""The suppression list on a real PostgreSQL: kept, audited, in force here and elsewhere."""

from __future__ import annotations

import time

import pytest

from compliance.policy import SendingPolicy
from compliance.suppressions import Suppressions
from gateway.api.openapi_policy import SUPPRESSION_EXAMPLES
from gateway.carrier_words import CarrierWords
from gateway.suppressing import Suppressing
from sms.model import MessageClass, State
from store import database
from store.seal import Keyring
from store.suppressions import SuppressionStore
from telemetry.metrics import Metrics
from tests.support.admin_world import World
from tests.support.described import checker
from tests.support.flow_kit import Kit
from tests.support.inside import inside
from tests.support.postgres import MASTER

pytestmark = pytest.mark.integration

OTP, TRANSACTIONAL, MARKETING = MessageClass
PATH = "/v1/suppressions"
NUMBER = "+8613800138000"


class List:
    """One process's list and policy over the store."""

    def __init__(self, pool: database.Pool) -> None:
        keyring = Keyring(MASTER)
        self.policy = SendingPolicy(None, Suppressions(keyring.number_index))
        metrics = Metrics()
        self.rejected: list[object] = []
        self.words = CarrierWords(metrics)
        self.part = Suppressing(
            store=SuppressionStore(pool, keyring),
            policy=self.policy,
            ledger=_Live(),  # type: ignore[arg-type]  # what waits is all that is asked of it
            words=self.words,
            reject=self.rejected.extend,
            metrics=metrics,
            monotonic=time.monotonic,
        )

    def refusal(self, tenant: int, cls: MessageClass = MARKETING) -> str | None:
        return self.policy.refusal(tenant, cls, NUMBER[1:])


class _Live:
    def __init__(self) -> None:
        self.live: dict[int, object] = {}


@pytest.fixture
async def pool(dsn):
    pool = await database.open_pool(dsn, size=4)
    yield pool
    pool.terminate()


@pytest.fixture
async def world(pool):
    return await World.make(pool)


@pytest.fixture
def lists(world, pool):
    """The lists of the world's two processes."""
    both = List(pool), List(pool)
    for process, own in zip((world.one, world.two), both, strict=True):
        process.flow.suppressions = own.part
        process.flow.policy = own.policy
    return both


@pytest.fixture
async def tenant(world, lists):
    """A tenant's id as a number, its id as text, and a key that may send and read."""
    public = await world.tenant()
    key = await world.key(public)
    await world.two.poll()
    return int(public.removeprefix("ten_"), 16), public, key["key"]


async def test_a_tenant_s_entry_holds_for_the_tenant_and_ends(world, lists, tenant):
    one, two = lists
    number, public, key = tenant
    made = await world.one.call("POST", PATH, key, {"to": "13800138000"})
    assert made.status_code == 201, made.text
    told = made.json()
    assert made.headers["location"] == f"{PATH}/{told['id']}"
    assert (told["to"], told["classes"], told["tenant"]) == (NUMBER, ["marketing"], public)
    assert one.refusal(number) == "policy.opted_out"
    assert one.refusal(number, TRANSACTIONAL) is None
    assert one.refusal(number + 1) is None
    again = await world.one.call("POST", PATH, key, {"to": NUMBER, "classes": ["otp"]})
    assert again.status_code == 200
    assert (again.json()["id"], again.json()["classes"]) == (told["id"], ["otp", "marketing"])
    await two.part.refresh()
    assert two.refusal(number, OTP) == "policy.opted_out"
    listed = (await world.two.call("GET", PATH, key)).json()
    assert [entry["id"] for entry in listed["data"]] == [told["id"]]
    read = await world.two.call("GET", f"{PATH}/{told['id']}", key)
    assert read.json()["to"] == NUMBER
    assert (await world.one.call("DELETE", f"{PATH}/{told['id']}", key)).status_code == 204
    assert (await world.one.call("DELETE", f"{PATH}/{told['id']}", key)).status_code == 404
    assert one.refusal(number) is None
    await two.part.refresh()
    assert two.refusal(number, OTP) is None
    assert two.policy.watched == {MARKETING}
    new = await world.one.call("POST", PATH, key, {"to": NUMBER})
    assert (new.status_code, new.json()["classes"]) == (201, ["marketing"])


async def test_a_number_that_a_carrier_refuses_for_good_is_suppressed_but_for_otp(
    world, lists, tenant
):
    one, two = lists
    number, _, key = tenant
    message = Kit().message(tenant=number)
    message.number = NUMBER[1:]
    one.words.bad_number("mobile-a", message, "recipient.invalid")
    await one.part.round()
    assert one.words.waiting() == []
    await one.part.round()
    await two.part.round()
    for part in (one, two):
        assert part.refusal(number) == part.refusal(number, TRANSACTIONAL) == "recipient.invalid"
        assert part.refusal(number, OTP) is None
        assert part.refusal(number + 1) is None
    [entry] = (await world.one.call("GET", PATH, key)).json()["data"]
    assert (entry["to"], entry["reason"]) == (NUMBER, "invalid")
    one.words.bad_number("mobile-a", message, "recipient.blocked")  # nothing new
    await one.part.round()
    assert (await world.one.call("GET", PATH, key)).json()["data"] == [entry]
    asked = await world.one.call("POST", PATH, key, {"to": NUMBER})  # goes before a carrier's word
    assert (asked.json()["id"], asked.json()["reason"]) == (entry["id"], "asked")
    await two.part.refresh()
    assert two.refusal(number) == "policy.opted_out"


async def test_the_platform_s_and_a_tenant_s_list_are_two(world, lists, tenant):
    one, _ = lists
    number, public, key = tenant
    everywhere = await world.admin("POST", PATH, {"to": NUMBER})
    assert everywhere.json()["tenant"] is None
    assert one.refusal(number) == "recipient.blocked"
    own = await world.admin("POST", PATH, {"to": NUMBER, "tenant": public})
    assert own.json()["tenant"] == public
    assert one.refusal(number) == "policy.opted_out"
    ids = [entry["id"] for entry in (await world.admin("GET", PATH)).json()["data"]]
    assert ids == [everywhere.json()["id"]]
    listed = (await world.admin("GET", f"{PATH}?tenant={public}")).json()["data"]
    assert [entry["id"] for entry in listed] == [own.json()["id"]]
    foreign = f"{PATH}/{everywhere.json()['id']}"
    assert (await world.one.call("GET", foreign, key)).status_code == 404
    assert (await world.one.call("DELETE", foreign, key)).status_code == 404
    assert (await world.admin("DELETE", foreign)).status_code == 204


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "/to", "field.missing"),
        ({"to": "12"}, "/to", "recipient.invalid"),
        ({"to": NUMBER, "classes": []}, "/classes", "field.value"),
        ({"to": NUMBER, "classes": ["sms"]}, "/classes/0", "field.value"),
        ({"to": NUMBER, "number": "1"}, "/number", "field.unknown"),
        ({"to": NUMBER, "tenant": "ten_00000000000000ff"}, "/tenant", "field.value"),
    ],
)
async def test_a_refusal_names_the_field(world, lists, body, pointer, code):
    answer = await world.admin("POST", PATH, body)
    assert answer.status_code == 422
    errors = answer.json()["errors"]
    assert (pointer, code) in [(error["pointer"], error["code"]) for error in errors]


async def test_who_may_do_what(world, tenant):
    _, public, _ = tenant
    reader = (await world.key(public, "reader", scopes=["read"]))["key"]
    assert (await world.one.call("POST", PATH, reader, {"to": NUMBER})).status_code == 403
    assert (await world.one.call("GET", PATH, reader)).status_code == 200
    assert (await world.one.call("GET", PATH)).status_code == 401
    refused = await world.one.call("GET", f"{PATH}?tenant={public}", reader)
    assert refused.status_code == 422


async def test_every_change_is_audited_without_the_number(world, tenant, pool):
    _, _, key = tenant
    made = (await world.one.call("POST", PATH, key, {"to": NUMBER})).json()
    await world.one.call("POST", PATH, key, {"to": NUMBER})  # no change
    await world.one.call("POST", PATH, key, {"to": NUMBER, "classes": ["otp"]})
    await world.one.call("DELETE", f"{PATH}/{made['id']}", key)
    told = (await world.admin("GET", f"/v1/audit-events?object={made['id']}")).json()["data"]
    assert [entry["action"] for entry in reversed(told)] == [
        "suppression.created", "suppression.updated", "suppression.removed",
    ]  # fmt: skip
    assert told[0]["actor"]["name"] == "backend"
    assert NUMBER[1:] not in str(told)
    assert (await world.one.store.audit.verify()).broken_at is None
    async with pool.acquire() as conn:
        kept = await conn.fetchval("SELECT number FROM suppressions")
    assert NUMBER[1:].encode() not in kept


async def test_a_send_is_refused_and_every_answer_is_as_described(world, tenant):
    _, _, key = tenant
    check = checker((await world.one.call("GET", "/openapi.json")).json())
    for example in SUPPRESSION_EXAMPLES.values():
        check("SuppressionNew", example["value"])
        made = await world.one.call("POST", PATH, key, example["value"])
        assert made.status_code == 201, made.text
        check("Suppression", made.json())
    check("SuppressionList", (await world.one.call("GET", PATH, key)).json())
    text = {"to": NUMBER, "text": "hi", "class": "marketing"}
    sent = await world.one.call("POST", "/v1/messages", key, text)
    assert sent.status_code == 422
    assert sent.json()["code"] == "policy.opted_out"
    check("Problem", sent.json())
    other = {"to": "13900139000", "text": "hi"}
    assert (await world.one.call("POST", "/v1/messages", key, other)).status_code == 422


async def test_pages_follow_one_another(world, tenant):
    _, _, key = tenant
    ids = [
        (await world.one.call("POST", PATH, key, {"to": f"138001380{n:02}"})).json()["id"]
        for n in range(7)
    ]
    found, cursor = [], ""
    while True:
        answer = await world.one.call("GET", f"{PATH}?limit=3{cursor}", key)
        told = answer.json()
        found += [entry["id"] for entry in told["data"]]
        if told["next_cursor"] is None:
            break
        cursor = f"&cursor={told['next_cursor']}"
    assert found == ids[::-1]


async def test_the_whole_list_is_there_before_anything_is_sent(dsn, tmp_path):
    """After a restart too, and for what was accepted before the number was suppressed."""
    async with inside(dsn, tmp_path) as worker:
        refused = await worker.send(3, MARKETING)
        good = await worker.send(2, TRANSACTIONAL)
        store = worker.worker.suppressing.store
        index = worker.keyring.number_index(1, NUMBER[1:])
        await worker.ask(
            "INSERT INTO suppressions (tenant, number_index, number, classes, change, created_at)"
            " VALUES (1, $1, '', 4, 1, now()) RETURNING id",
            index,
        )
        assert len(await store.changed(0, 10)) == 1
        await worker.crash()
        await worker.start()
        assert worker.flow.policy.refusal(1, MARKETING, NUMBER[1:]) == "policy.opted_out"
        worker.run()
        worker.link(is_up=True)
        await worker.drained()
        assert sorted(worker.seen()) == good
        rows = await worker.ask(
            "SELECT message_id, status, reason FROM events WHERE message_id = ANY($1) ORDER BY 1",
            refused,
        )
        rejected = list(State).index(State.REJECTED)
        assert rows == [(one, rejected, 92) for one in refused]


async def test_what_waits_is_rejected_within_seconds_though_no_channel_is_up(dsn, tmp_path):
    async with inside(dsn, tmp_path) as worker:
        refused = await worker.send(3, MARKETING)
        await worker.send(2, TRANSACTIONAL)
        index = worker.keyring.number_index(1, NUMBER[1:])
        await worker.ask(
            "INSERT INTO suppressions (tenant, number_index, number, classes, change, created_at)"
            " VALUES (1, $1, '', 4, 1, now()) RETURNING id",
            index,
        )
        await worker.worker.suppressing.round()
        await worker.worker.standing.committed()
        rows = await worker.ask("SELECT message_id FROM events ORDER BY 1")
        assert rows == [(one,) for one in refused]
