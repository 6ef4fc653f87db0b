"""Attempts, tests, replays, dead letters and endpoints that are disabled, over a real store."""

from __future__ import annotations

import asyncio
import json
import math
import time

import pytest

from sms.errors import OutcomeUnknown, StoreUnavailable
from sms.ids import id_at, to_text
from store.attempts import AttemptStore, Noted
from store.fragments import ParkedWebhook, park_webhooks_sql
from store.replays import PAGE, Replay
from tests.support.webhook_world import PATH, STAR, URL, open_rig
from webhooks.deliver import Delivered, Failed, Fault, Gone

pytestmark = pytest.mark.integration

BROKEN = Failed(Fault.STATUS, 500, answer=b"<h1>oops</h1>\n\x07")
DAY = 86_400.0


@pytest.fixture
async def rig(world):
    async with open_rig(world) as made:
        yield made


def told(rig):
    """The ids of the events that were sent, in order."""
    found = []
    for request in rig.requests:
        body = json.loads(request.body)
        found += [one["id"] for one in (body["data"] if body["type"] == "batch" else [body])]
    return found


async def parked(rig):
    rows = await rig.world.pool.fetch(
        "SELECT event_id, tries, due = 'infinity' AS dead FROM webhook_parked ORDER BY event_id"
    )
    return [tuple(row) for row in rows]


async def test_a_test_event_goes_the_way_of_all_events_and_is_in_the_list(rig):
    made = await rig.make()
    answer = await rig.call("POST", f"{PATH}/{made['id']}:test")
    assert answer.status_code == 202, answer.text
    await rig.settle()
    [request] = rig.requests
    body = json.loads(request.body)
    event = answer.json()["event_id"]
    assert (body["id"], body["type"], request.webhook_id) == (event, "webhook.test", event)
    assert body["data"]["id"] == made["id"]
    [attempt] = await rig.attempts(made["id"])
    assert attempt["event_ids"] == [event]
    assert (attempt["outcome"], attempt["status"], attempt["test"]) == ("delivered", 200, True)
    assert (attempt["answer"], attempt["next_try_at"]) == ("thank you", None)


async def test_tests_that_fail_say_nothing_of_an_endpoint_s_health(rig):
    made = await rig.make()
    rig.answer = lambda _: BROKEN
    for _ in range(8):
        await rig.call("POST", f"{PATH}/{made['id']}:test")
        await rig.settle()
    assert {one["outcome"] for one in await rig.attempts(made["id"])} == {"failed"}
    assert (await rig.read(made["id"]))["failing_since"] is None
    rig.answer = lambda _: Delivered(200)
    rig.requests.clear()
    await rig.delivered()
    assert len(rig.requests) == 2  # no breaker stands open


async def test_no_more_than_a_few_tests_at_once(rig):
    made = await rig.make()
    gate = asyncio.Event()

    async def hang(*_):
        await gate.wait()
        return Delivered(200)

    rig.notifier._courier._deliver = hang
    answers = [await rig.call("POST", f"{PATH}/{made['id']}:test") for _ in range(5)]
    assert [one.status_code for one in answers] == [202] * 4 + [429]
    assert answers[-1].json()["code"] == "webhook_endpoint.busy"
    gate.set()
    await rig.settle()
    assert (await rig.call("POST", f"{PATH}/{made['id']}:test")).status_code == 202


async def test_each_request_is_a_row_and_a_step_of_the_message(rig):
    made = await rig.make(events=["message.delivered"])
    rig.answer = lambda _: BROKEN
    [submitted, delivered] = await rig.delivered()
    [attempt] = await rig.attempts(made["id"])
    assert attempt["event_id"] == to_text("evt", delivered.event_id)
    assert (attempt["outcome"], attempt["code"], attempt["status"]) == (
        "failed", "webhook.status", 500,
    )  # fmt: skip
    assert attempt["answer"] == "<h1>oops</h1>  "
    assert attempt["next_try_at"] > attempt["at"]
    assert (await rig.read(made["id"]))["failing_since"] == attempt["at"]
    rig.answer = lambda _: Delivered(204)
    await rig.tick(6)
    [second, first] = await rig.attempts(made["id"])
    assert (second["outcome"], second["try"], first["try"]) == ("delivered", 2, 1)
    assert (await rig.read(made["id"]))["failing_since"] is None
    assert (await rig.read(made["id"]))["last_delivered_at"] == second["at"]
    story = await rig.call("GET", f"/v1/messages/{to_text('msg', submitted.message_id)}/timeline")
    steps = [one for one in story.json()["data"] if one["step"] == "webhook"]
    assert [(one["code"], one["at"]) for one in steps] == [
        ("webhook.status", first["at"]), ("webhook.delivered", second["at"]),
    ]  # fmt: skip
    assert all(isinstance(one["ms"], int) for one in steps)
    page = await rig.call("GET", f"{PATH}/{made['id']}/attempts?limit=1")
    following = await rig.call(
        "GET", f"{PATH}/{made['id']}/attempts?limit=1&cursor={page.json()['next_cursor']}"
    )
    assert [page.json()["data"], following.json()["data"]] == [[second], [first]]


async def test_a_batch_is_one_row_with_all_its_events(rig):
    made = await rig.make(batch=True)
    rows = await rig.delivered(30)
    await asyncio.sleep(0.06)  # a batch lingers for more
    await rig.settle()
    [attempt] = await rig.attempts(made["id"])
    assert attempt["event_id"] is None
    assert attempt["event_ids"] == [to_text("evt", row.event_id) for row in rows]
    story = await rig.call("GET", f"/v1/messages/{to_text('msg', rows[-1].message_id)}/timeline")
    steps = [one for one in story.json()["data"] if one["step"] == "webhook"]
    assert [one["code"] for one in steps] == ["webhook.delivered"] * 2


async def test_what_an_endpoint_answered_is_sealed(rig):
    await rig.make()
    rig.answer = lambda _: Failed(Fault.STATUS, 400, answer=b"secret words")
    await rig.delivered()
    stored = await rig.world.pool.fetchval("SELECT answer FROM webhook_attempts LIMIT 1")
    assert stored
    assert b"secret words" not in stored


async def test_what_an_exempt_origin_answered_is_not_kept(rig):
    made = await rig.make(url="http://127.0.0.1:9900/internal")
    rig.answer = lambda _: Failed(Fault.STATUS, 400, answer=b"secret words")
    await rig.delivered()
    [newest, *_] = await rig.attempts(made["id"])
    assert (newest["status"], newest["answer"]) == (400, None)
    assert await rig.world.pool.fetchval("SELECT count(answer) FROM webhook_attempts") == 0


async def test_one_event_is_sent_again(rig):
    made = await rig.make(events=["message.delivered"])
    [submitted, delivered] = await rig.delivered()
    assert told(rig) == [to_text("evt", delivered.event_id)]
    path = f"{PATH}/{made['id']}:replay"
    for row in (delivered, submitted):  # also one that its filter keeps back
        event = to_text("evt", row.event_id)
        answer = await rig.call("POST", path, {"event_id": event})
        assert (answer.status_code, answer.json()) == (202, {"event_id": event})
        await rig.tick()
        assert told(rig)[-1] == event
    assert await parked(rig) == []
    strange = {"event_id": to_text("evt", rig.world.event_ids.next())}
    nothing = await rig.call("POST", path, strange)
    assert [e["pointer"] for e in nothing.json()["errors"]] == ["/event_id"]
    foreign = await rig.call("POST", PATH, {"url": URL}, key="other")
    other = f"{PATH}/{foreign.json()['id']}:replay"
    theirs = await rig.call("POST", other, {"event_id": event}, key="other")
    assert theirs.status_code == 422


async def test_the_events_of_a_time_are_sent_again_by_the_filter(rig, monkeypatch):
    before = await rig.delivered(2)
    made = await rig.make(events=["message.delivered"])
    assert rig.requests == []
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    path = f"{PATH}/{made['id']}:replay"
    answer = await rig.call("POST", path, {"created_after": stamp, "created_before": until})
    assert answer.status_code == 202, answer.text
    assert answer.json()["created_before"] < until  # no further than now
    monkeypatch.setattr("store.replays.HORIZON_SQL", "SELECT 1::bigint")
    await rig.desk.round()
    await rig.tick()
    assert rig.requests == []  # what lies above may still be committed in another order
    monkeypatch.setattr("store.replays.HORIZON_SQL", "SELECT 1::bigint << 62")
    await rig.desk.round()
    await rig.tick()
    assert told(rig) == [to_text("evt", row.event_id) for row in before[1::2]]
    assert await rig.world.pool.fetchval("SELECT count(*) FROM webhook_replays") == 0


async def test_a_long_replay_goes_page_by_page_and_leaves_nothing_out(rig):
    made = await rig.make()
    config = next(iter((await rig.config.load()).endpoints.values()))
    ids = [rig.world.event_ids.next() for _ in range(2 * PAGE + 7)]
    for start in range(0, len(ids), 500):
        dead = [ParkedWebhook(config.id, i, 7, 2, 10, math.inf) for i in ids[start : start + 500]]
        sql = park_webhooks_sql(rig.world.lease.process, dead)
        done = asyncio.get_running_loop().create_future()
        rig.lane.add([], urgent=True, sql=sql, done=lambda done=done: done.set_result(None))
        await done
    answer = await rig.call("POST", f"{PATH}/{made['id']}:replay", {"failed": True})
    assert (answer.status_code, answer.json()) == (202, {"failed": True})
    known, sizes = [config.id], []
    while (step := await rig.desk._replays.step(known, lambda _e, _p: True)) is not None:
        sizes.append(step[1])
    assert sizes == [PAGE, PAGE, 7]
    assert await parked(rig) == [(event_id, 0, False) for event_id in ids]


async def test_a_replay_waits_for_what_is_due_and_for_other_processes(rig):
    await rig.make()
    config = next(iter((await rig.config.load()).endpoints.values()))
    replay = Replay(1, config.id, config.tenant, True, 0, id_at(time.time()))
    await rig.desk._replays.add(replay)
    async with rig.world.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM webhook_replays FOR UPDATE")
        assert await rig.desk._replays.step([config.id], lambda _e, _p: True) is None
    assert await rig.desk._replays.step([config.id + 1], lambda _e, _p: True) is None
    assert await rig.desk._replays.step([config.id], lambda _e, _p: True) == (
        config.id, 0, False,
    )  # fmt: skip


async def test_one_replay_at_a_time_and_none_waits_for_an_endpoint_that_has_enough(
    rig, monkeypatch
):
    slow, quick = await rig.make(), await rig.make(url=f"{URL}/2")
    rig.answer = lambda _: BROKEN
    await rig.delivered()
    monkeypatch.setattr("store.replays.MOST_WAITING", 0)  # one that is due is enough
    number = {one.url: one.id for one in rig.flow.snapshot.endpoints.values()}
    await rig.world.pool.execute(
        "UPDATE webhook_parked SET due = CASE endpoint WHEN $1 THEN now() ELSE 'infinity' END",
        number[URL],
    )
    ask = {"failed": True}
    answers = await asyncio.gather(
        *(rig.call("POST", f"{PATH}/{slow['id']}:replay", ask) for _ in range(8))
    )
    assert sorted(one.status_code for one in answers) == [202] + [409] * 7
    refused = [one for one in answers if one.status_code == 409]
    assert {one.json()["code"] for one in refused} == {"webhook_endpoint.replaying"}
    taken = await rig.call("POST", f"{PATH}/{quick['id']}:replay", ask)
    assert taken.status_code == 202
    hurried: list[int] = []
    rig.desk.hurry = hurried.append
    await rig.desk.round()
    assert hurried == [number[f"{URL}/2"]]
    left = await rig.world.pool.fetch("SELECT endpoint FROM webhook_replays")
    assert [row["endpoint"] for row in left] == [number[URL]]
    again = await rig.call("POST", f"{PATH}/{quick['id']}:replay", ask)
    assert again.status_code == 202


async def test_what_a_replay_may_not_be_asked(rig):
    made = await rig.make()
    path = f"{PATH}/{made['id']}:replay"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    old = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 31 * DAY))
    for body, pointer in [
        ({}, ""),
        ({"failed": False}, ""),
        ({"failed": True, "event_id": "evt_0000000000000001"}, ""),
        ({"created_after": now}, ""),
        ({"created_after": old, "created_before": now}, "/created_after"),
        ({"created_after": now, "created_before": old}, "/created_after"),
        ({"created_after": "yesterday", "created_before": now}, "/created_after"),
        ({"event_id": "msg_1"}, "/event_id"),
        ({"all": True}, "/all"),
    ]:
        refused = await rig.call("POST", path, body)
        assert refused.status_code == 422, body
        assert [e["pointer"] for e in refused.json()["errors"]] == [pointer], refused.text


async def test_an_endpoint_that_is_gone_is_disabled_for_everybody(rig):
    made = await rig.make()
    rig.answer = lambda _: Gone(b"closed for good")
    rows = await rig.delivered()
    [newest, *_] = await rig.attempts(made["id"])
    assert (newest["outcome"], newest["status"], newest["answer"]) == (
        "gone",
        410,
        "closed for good",
    )
    assert [dead for _, _, dead in await parked(rig)] == [True, True]
    [config] = (await rig.config.load()).endpoints.values()  # as any other process reads it
    assert config.is_disabled
    await rig.poll()
    shown = await rig.read(made["id"])
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "gone")
    log = (await rig.call("GET", "/v1/audit-events", key="ops")).json()["data"]
    assert log[0]["action"] == "webhook_endpoint.disabled"
    assert (log[0]["actor"]["kind"], log[0]["actor"]["name"]) == ("gateway", "webhooks")
    assert rig.metrics.webhook_notices_total.samples()[0][0] == ["gone"]

    rig.requests.clear()
    rig.answer = lambda _: Delivered(200)
    await rig.delivered()
    assert rig.requests == []
    one = f"{PATH}/{made['id']}"
    for verb, body in ((":replay", {"failed": True}), (":test", None)):
        refused = await rig.call("POST", one + verb, body)
        assert (refused.status_code, refused.json()["code"]) == (409, "webhook_endpoint.disabled")
    assert rig.requests == []
    back = await rig.call("PATCH", one, {"enabled": True}, headers=STAR)
    assert (back.json()["enabled"], back.json()["disabled_reason"]) == (True, None)
    assert (await rig.call("POST", f"{one}:replay", {"failed": True})).status_code == 202
    await rig.desk.round()
    await rig.tick()
    assert sorted(told(rig)) == sorted(to_text("evt", row.event_id) for row in rows)
    assert await parked(rig) == []


async def test_one_that_cannot_be_disabled_ends_the_round_for_nobody(rig, monkeypatch):
    made = [await rig.make(url=f"{URL}/{n}") for n in range(3)]
    number = {one.url: one.id for one in rig.flow.snapshot.endpoints.values()}
    disable, rounds = rig.desk._disable, []

    async def in_doubt(config, why):
        if config.url == f"{URL}/0":
            raise OutcomeUnknown("the connection was lost in COMMIT")
        await disable(config, why)

    async def replay():
        rounds.append(rig.now())

    monkeypatch.setattr(rig.desk, "_disable", in_doubt)
    monkeypatch.setattr(rig.desk, "_replay", replay)
    rig.desk._to_disable = {
        number[f"{URL}/{n}"]: (rig.flow.snapshot.endpoints[number[f"{URL}/{n}"]], "gone")
        for n in range(3)
    }
    await rig.desk.round()
    assert len(rounds) == 1
    rig.ahead_s += 6
    await rig.desk.round()
    assert [(await rig.read(one["id"]))["enabled"] for one in made] == [True, False, False]
    monkeypatch.setattr(rig.desk, "_disable", disable)
    rig.ahead_s += 6
    await rig.desk.round()
    assert (await rig.read(made[0]["id"]))["disabled_reason"] == "gone"


async def test_a_replay_whose_page_takes_too_long_lets_the_others_go_first(rig, monkeypatch):
    slow, quick = await rig.make(), await rig.make(url=f"{URL}/2")
    for one in (slow, quick):
        asked = await rig.call("POST", f"{PATH}/{one['id']}:replay", {"failed": True})
        assert asked.status_code == 202
    number = {one.url: one.id for one in rig.flow.snapshot.endpoints.values()}
    replays = rig.desk._replays
    revived = replays._revived

    async def late(conn, row, wants):
        if row["endpoint"] == number[URL]:
            raise StoreUnavailable("the statement took too long")
        return await revived(conn, row, wants)

    monkeypatch.setattr(replays, "_revived", late)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await rig.desk.round()
    left = await rig.world.pool.fetch("SELECT endpoint FROM webhook_replays")
    assert [row["endpoint"] for row in left] == [number[URL]]


async def test_a_day_of_failures_is_warned_of_once_and_five_disable(rig):
    made = await rig.make()
    rig.answer = lambda _: BROKEN
    await rig.delivered()
    begun = (await rig.read(made["id"]))["failing_since"]

    def notices():
        return {labels[0]: count for labels, [count] in rig.metrics.webhook_notices_total.samples()}

    await rig.tick(DAY - 60)
    assert notices() == {}
    await rig.tick(120)
    await rig.delivered()
    await rig.tick(600)
    assert notices() == {"warned": 1}
    assert (await rig.read(made["id"]))["failing_since"] == begun
    assert (await rig.read(made["id"]))["enabled"]
    rig.answer = lambda _: Delivered(200)
    await rig.tick(DAY)
    assert (await rig.read(made["id"]))["failing_since"] is None

    rig.answer = lambda _: BROKEN
    await rig.delivered()
    await rig.tick(4 * DAY)
    assert notices() == {"warned": 2}
    await rig.delivered()
    await rig.tick(DAY)
    await rig.delivered()
    await rig.poll()
    shown = await rig.read(made["id"])
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "failing")
    assert notices() == {"warned": 2, "failing": 1}
    one = f"{PATH}/{made['id']}"
    back = await rig.call("PATCH", one, {"enabled": True}, headers=STAR)
    assert (back.json()["enabled"], back.json()["failing_since"]) == (True, None)


async def test_of_two_processes_one_that_delivers_is_enough(rig):
    await rig.make()
    other = AttemptStore(rig.world.pool, rig.world.keyring)
    rig.answer = lambda _: BROKEN
    await rig.delivered()
    [config] = rig.flow.snapshot.endpoints.values()
    for day in range(1, 8):
        now = time.time() + day * DAY
        await other.note([Noted(config.id, now, None)])
        rig.ahead_s = day * DAY + 60
        await rig.delivered()
    await rig.poll()
    assert not next(iter(rig.flow.snapshot.endpoints.values())).is_disabled


async def test_what_waits_at_a_disabled_endpoint_becomes_dead_letters(rig):
    made = await rig.make()
    rig.answer = lambda _: BROKEN
    await rig.delivered()
    assert [dead for _, _, dead in await parked(rig)] == [False, False]
    await rig.call("PATCH", f"{PATH}/{made['id']}", {"enabled": False}, headers=STAR)
    await rig.settle()
    assert [dead for _, _, dead in await parked(rig)] == [True, True]
    assert (await rig.read(made["id"]))["disabled_reason"] == "request"


async def test_old_dead_letters_and_those_of_removed_endpoints_end(rig):
    kept, gone = await rig.make(), await rig.make(url=f"{URL}/2")
    number = {one.url: one.id for one in (await rig.config.load()).endpoints.values()}
    now = time.time()
    rows = [
        ParkedWebhook(number[URL], id_at(now - 35 * DAY), 7, 2, 10, math.inf),
        ParkedWebhook(number[URL], id_at(now - 30 * DAY), 7, 2, 10, math.inf),
        ParkedWebhook(number[URL], id_at(now - 36 * DAY), 7, 2, 3, now + 60),
        ParkedWebhook(number[f"{URL}/2"], id_at(now - DAY), 7, 2, 3, now + 60),
    ]
    rig.lane.add([], urgent=True, sql=park_webhooks_sql(rig.world.lease.process, rows))
    await rig.flush()
    await rig.call("DELETE", f"{PATH}/{gone['id']}")
    assert await rig.desk._replays.clean(now) == 2
    assert [event_id for event_id, _, _ in await parked(rig)] == [
        rows[2].event_id,
        rows[1].event_id,
    ]
    assert (await rig.read(kept["id"]))["enabled"]


async def test_attempts_wait_for_a_store_that_is_away_and_their_number_is_bounded(rig, monkeypatch):
    made = await rig.make()
    monkeypatch.setattr("gateway.webhook_desk.MOST_WAITING", 3)

    async def away(_):
        raise StoreUnavailable("away")

    rig.desk._attempts.write, write = away, rig.desk._attempts.write
    await quiet(rig)
    with pytest.raises(StoreUnavailable):
        await rig.desk.round()
    rig.desk._attempts.write = write
    await rig.desk.round()
    assert len(await rig.attempts(made["id"])) == 3
    assert rig.metrics.webhook_attempts_unlogged_total.samples()[0][1] == [1.0]


async def quiet(rig):
    """Two messages delivered while the desk cannot write."""
    settle, rig.desk.round = rig.desk.round, _nothing
    try:
        return await rig.delivered(2)
    finally:
        rig.desk.round = settle


async def _nothing():
    pass
