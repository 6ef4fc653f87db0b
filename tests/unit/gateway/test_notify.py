from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.endpoint_queue import NotifyPolicy
from gateway.notify import PUT_OFF_S
from sms.errors import StoreUnavailable
from sms.ids import to_text
from sms.model import EventRow
from tests.support.notify_world import TENANT, UNIX, World, endpoint
from webhooks.deliver import Delivered, Failed, Fault, Gone
from webhooks.schedule import DEAD, MAX_TRIES, RETRY_AFTER_S

OK = Delivered(200)
BROKEN = Failed(Fault.STATUS, 500)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.notifier.recover(until=0)
    yield made
    made.gate = None
    made.notifier.start()
    await made.notifier.stop(0.1)


async def test_an_event_reaches_its_endpoint_once_with_its_id(world: World):
    world.configure(endpoint())
    (row,) = await world.commit_rows()
    (request,) = world.requests
    assert request.webhook_id == to_text("evt", row.event_id)
    (event,) = request.events
    assert event["id"] == request.webhook_id
    assert event["type"] == "message.delivered"
    assert event["data"]["sequence"] == 3
    assert event["data"]["previous_status"] == "submitted"
    assert event["data"]["client_ref"] == "order-1"
    assert event["data"]["metadata"] == {"shop": "9"}
    assert "13800138000" not in request.body.decode()
    assert "验证码" not in request.body.decode()
    assert world.notifier.cursor() == row.event_id
    await world.tick(60)
    assert len(world.requests) == 1


async def test_the_whole_number_goes_only_to_an_endpoint_that_opted_in(world: World):
    world.configure(endpoint(1), endpoint(2, full_number=True))
    await world.commit_rows()
    by_url = {request.url: request.events[0]["data"]["to"] for request in world.requests}
    assert by_url["https://hooks1.example/sms"] == "+86138****8000"
    assert by_url["https://hooks2.example/sms"] == "+8613800138000"


async def test_filters_and_other_tenants_are_respected(world: World):
    world.configure(
        endpoint(1, events=("message.failed",)),
        endpoint(2, events=("message.delivered",)),
        endpoint(3, tenant=TENANT + 1),
    )
    assert world.notifier.wants(TENANT)
    assert world.notifier.wants(TENANT, "message.delivered")
    assert not world.notifier.wants(TENANT, "message.expired")
    assert not world.notifier.wants(99)
    await world.commit_rows()
    assert [request.url for request in world.requests] == ["https://hooks2.example/sms"]


async def test_a_batch_endpoint_gets_a_hundred_events_in_one_request(world: World):
    world.configure(endpoint(batch=True))
    rows = await world.commit_rows(250)
    assert [len(request.events) for request in world.requests] == [100, 100]
    world.now += 1.0
    await world.tick()
    assert [len(request.events) for request in world.requests] == [100, 100, 50]
    sent = [event["id"] for request in world.requests for event in request.events]
    assert sorted(sent) == sorted(to_text("evt", row.event_id) for row in rows)
    assert len({request.webhook_id for request in world.requests}) == 3
    assert all(len(request.body) <= 262_144 for request in world.requests)


async def test_a_batch_that_is_not_full_leaves_after_the_linger_time():
    world = World(policy=NotifyPolicy(linger_s=0.0))
    world.configure(endpoint(batch=True))
    await world.commit_rows(3)
    assert [len(request.events) for request in world.requests] == [3]


async def test_never_more_requests_in_flight_than_allowed(world: World):
    world.configure(endpoint())
    world.gate = asyncio.Event()
    await world.commit_rows(100)
    assert world.open_requests == 32
    world.gate.set()
    await world.settle()
    assert len(world.requests) == 100
    assert world.most_open == 32


async def test_the_cursor_waits_for_the_slowest_event(world: World):
    world.configure(endpoint())
    world.gate = asyncio.Event()
    rows = await world.commit_rows(5)
    assert world.notifier.cursor() == rows[0].event_id - 1
    world.gate.set()
    await world.settle()
    assert world.notifier.cursor() == rows[-1].event_id


async def test_the_cursor_moves_past_rows_that_nobody_wants(world: World):
    (row,) = await world.commit_rows()
    assert world.notifier.cursor() == row.event_id
    world.store.floor = row.event_id - 4
    assert world.notifier.cursor() == row.event_id - 5


async def test_a_failed_event_is_parked_and_the_cursor_passes_at_its_commit(world: World):
    world.configure(endpoint())
    world.answer = lambda _: BROKEN
    (row,) = await world.commit_rows()
    assert world.notifier.cursor() == row.event_id - 1
    world.store.commit()
    assert world.notifier.cursor() == row.event_id
    ((key, parked),) = world.store.parked.items()
    assert key == (1, row.event_id)
    assert (parked.message_id, parked.sequence, parked.tries) == (row.message_id, 3, 1)
    assert parked.due == UNIX + world.now + RETRY_AFTER_S[0]


async def test_a_parked_event_is_rebuilt_and_sent_with_the_same_id_and_body(world: World):
    world.configure(endpoint())
    world.answer = lambda _: BROKEN
    await world.commit_rows()
    world.answer = lambda _: OK
    await world.tick(1)
    assert len(world.requests) == 1
    await world.tick(5)
    first, second = world.requests
    assert second.webhook_id == first.webhook_id
    assert second.body == first.body
    assert world.store.parked == {}
    await world.tick(60)
    assert len(world.requests) == 2


async def test_an_event_is_tried_on_schedule_and_then_stays_as_dead_letter(world: World):
    world.configure(endpoint())
    world.answer = lambda _: BROKEN
    await world.commit_rows()
    for wait_s in RETRY_AFTER_S:
        count = len(world.requests)
        await world.tick(wait_s - 2)
        assert len(world.requests) == count
        for _ in range(12):  # looks are at most 30 s apart, the breaker's probes 300
            if len(world.requests) == count:
                await world.tick(30)
        assert len(world.requests) == count + 1
    assert len(world.requests) == MAX_TRIES
    (parked,) = world.store.parked.values()
    assert parked.due == DEAD
    assert parked.tries == MAX_TRIES
    assert world.metrics.webhook_attempts_total.values["dead",] == 1
    await world.tick(10 * 86400)
    assert len(world.requests) == MAX_TRIES


async def test_parked_events_of_a_batch_endpoint_are_sent_in_batches(world: World):
    world.configure(endpoint(batch=True))
    world.answer = lambda _: BROKEN
    await world.commit_rows(200)
    assert len(world.requests) == 2
    world.answer = lambda _: OK
    await world.tick(6)
    assert [len(request.events) for request in world.requests[2:]] == [100, 100]
    assert world.store.parked == {}


async def test_a_full_queue_parks_and_loses_nothing():
    world = World(policy=NotifyPolicy(queue_events=10))
    await world.notifier.recover(until=0)
    world.configure(endpoint())
    world.gate = asyncio.Event()
    await world.commit_rows(60)
    assert len(world.store.waiting) == 1
    world.store.commit()
    assert len(world.store.parked) == 50
    world.gate.set()
    world.gate = None
    await world.settle()
    for _ in range(10):
        await world.tick(1)
    assert len({request.webhook_id for request in world.requests}) == 60
    assert world.store.parked == {}


async def test_all_endpoints_together_stay_within_the_memory_bound():
    world = World(policy=NotifyPolicy(memory_events=20))
    world.configure(*[endpoint(number) for number in range(1, 6)])
    world.gate = asyncio.Event()
    world.notifier.rows_committed(world.rows(20))
    world.store.commit()
    parked = Counter(endpoint_id for endpoint_id, _ in world.store.parked)
    assert sum(parked.values()) >= 80
    assert max(parked.values()) - min(parked.values()) <= 1
    world.gate.set()


async def test_slow_endpoints_do_not_take_the_memory_of_the_others():
    world = World(policy=NotifyPolicy(memory_events=400, queue_events=100))
    slow = [endpoint(number) for number in range(1, 21)]
    world.configure(*slow, endpoint(99, tenant=TENANT + 1))
    world.gate = asyncio.Event()
    world.notifier.rows_committed(world.rows(200))  # 4,000 events for the slow ones
    mine = [replace(row, tenant=TENANT + 1) for row in world.rows(10)]
    world.notifier.rows_committed(mine)
    world.store.commit()
    assert [key for key in world.store.parked if key[0] == 99] == []
    world.gate.set()


async def test_endpoints_that_hang_do_not_take_the_slots_of_the_others():
    world = World(policy=NotifyPolicy(total_in_flight=256))
    world.configure(*[endpoint(number) for number in range(1, 41)], endpoint(99, tenant=TENANT + 1))
    world.gate = asyncio.Event()
    await world.commit_rows(50)  # to forty endpoints that do not answer
    hanging = world.open_requests
    assert 40 <= hanging < 256
    mine = [replace(row, tenant=TENANT + 1) for row in world.rows(3)]
    world.notifier.rows_committed(mine)
    await world.settle()
    assert world.open_requests > hanging  # it has begun at once
    world.gate.set()
    await world.settle()
    await world.settle()
    assert len({request.webhook_id for request in world.requests}) == 53
    assert len(world.requests) == 40 * 50 + 3  # and those that stood in the line had their turn
    assert world.most_open <= 256


async def test_after_five_failures_fresh_events_are_parked_untried_until_a_probe_succeeds(
    world: World,
):
    world.configure(endpoint())
    world.answer = lambda _: BROKEN
    for _ in range(5):
        await world.commit_rows()
    assert len(world.requests) == 5
    await world.commit_rows(20)
    assert len(world.requests) == 5
    world.store.commit()
    assert sorted(row.tries for row in world.store.parked.values()) == [0] * 20 + [1] * 5
    await world.tick(5)
    assert len(world.requests) == 6  # one probe
    assert world.most_open <= 1
    world.answer = lambda _: OK
    for _ in range(8):
        await world.tick(3)
    assert [row.tries for row in world.store.parked.values()] == [2]  # the failed probe waits
    assert len({request.webhook_id for request in world.requests}) == 25
    await world.commit_rows()
    assert len({request.webhook_id for request in world.requests}) == 26


async def test_a_fresh_event_is_the_probe_when_nothing_parked_is_due(world: World):
    world.configure(endpoint())
    world.answer = lambda _: BROKEN
    for _ in range(5):
        await world.commit_rows()
    world.store.commit()
    world.store.parked = {
        key: replace(row, due=UNIX + 1e6) for key, row in world.store.parked.items()
    }
    world.answer = lambda _: OK
    world.now += 6
    await world.commit_rows(3)
    assert len(world.requests) == 6
    await world.tick(3)
    assert len(world.requests) == 8


async def test_one_dead_endpoint_does_not_touch_another(world: World):
    world.configure(endpoint(1), endpoint(2))
    world.answer = lambda request: BROKEN if "hooks1" in request.url else OK
    for _ in range(30):
        await world.commit_rows()
    good = [request for request in world.requests if "hooks2" in request.url]
    bad = [request for request in world.requests if "hooks1" in request.url]
    assert len(good) == 30
    assert len(bad) == 5


async def test_retry_after_pauses_the_endpoint(world: World):
    world.configure(endpoint())
    world.answer = lambda _: Failed(Fault.STATUS, 429, 60.0)
    await world.commit_rows()
    await world.commit_rows()
    assert len(world.requests) == 1
    world.answer = lambda _: OK
    await world.tick(59)
    assert len(world.requests) == 1
    for _ in range(4):
        await world.tick(3)
    assert len(world.requests) == 3
    assert world.store.parked == {}


async def test_502_and_timeouts_slow_an_endpoint_down_and_success_speeds_it_up(world: World):
    world.configure(endpoint())
    answers = [Failed(Fault.TIMEOUT), Failed(Fault.STATUS, 504), Failed(Fault.STATUS, 502)]
    world.answer = lambda _: answers.pop() if answers else OK
    for _ in range(3):
        await world.commit_rows()
    world.gate = asyncio.Event()
    await world.commit_rows(50)
    assert world.open_requests == 4
    world.gate.set()
    await world.settle()
    assert len(world.requests) == 53
    world.gate = asyncio.Event()
    await world.commit_rows(50)
    assert world.open_requests == 32


async def test_410_disables_the_endpoint_and_keeps_its_open_events_as_dead_letters(world: World):
    world.configure(endpoint())
    world.gate = asyncio.Event()
    world.answer = lambda _: Gone()
    rows = await world.commit_rows(40)
    world.gate.set()
    await world.settle()
    world.store.commit()
    assert len(world.requests) == 32
    assert not world.notifier.wants(TENANT)
    assert {row.due for row in world.store.parked.values()} == {DEAD}
    assert len(world.store.parked) == 40
    assert world.notifier.cursor() == rows[-1].event_id
    await world.commit_rows()
    await world.tick(100)
    assert len(world.requests) == 32
    world.configure(endpoint(events=("message.delivered",)))  # changed: tried again
    world.answer = lambda _: OK
    await world.commit_rows()
    assert len(world.requests) == 33


async def test_what_waits_too_long_in_memory_is_parked(world: World):
    world.configure(endpoint())
    world.gate = asyncio.Event()
    rows = await world.commit_rows(40)
    await world.tick(31)
    assert len(world.store.parked) == 8
    assert world.notifier.cursor() == rows[0].event_id - 1  # 32 are still in flight
    world.gate.set()
    await world.settle()
    assert world.notifier.cursor() == rows[-1].event_id


async def test_a_restart_reads_on_from_the_cursor():
    world = World()
    rows = world.rows(30)
    again = World(cursor=rows[9].event_id)
    again.store.entries = world.store.entries
    again.configure(endpoint())
    assert again.notifier.cursor() == rows[9].event_id
    taken = await again.notifier.recover(until=rows[24].event_id)
    await again.settle()
    # Of each message two rows are events: submitted and delivered.
    wanted = {row.event_id for entry in world.store.entries.values() for row in entry.rows}
    wanted = {i for i in wanted if rows[9].event_id < i <= rows[24].event_id}
    assert taken == len(wanted)
    assert {request.webhook_id for request in again.requests} == {
        to_text("evt", event_id) for event_id in wanted
    }
    assert again.notifier.cursor() == rows[24].event_id


async def test_a_recovery_that_finds_the_store_away_holds_the_cursor_and_can_be_repeated():
    world = World(cursor=5)
    world.configure(endpoint())
    reads = world.store.events_after

    async def away(cursor: int, limit: int) -> list[EventRow]:
        raise StoreUnavailable("away")

    world.store.events_after = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await world.notifier.recover(until=1 << 62)
    (row,) = await world.commit_rows()
    assert world.notifier.cursor() == 5
    world.store.events_after = reads  # type: ignore[method-assign]
    await world.notifier.recover(until=row.event_id)
    await world.settle()
    assert world.notifier.cursor() == row.event_id


async def test_a_row_without_its_message_is_sent_all_the_same(world: World):
    world.configure(endpoint())
    (row,) = world.rows()
    row.message = None
    world.notifier.rows_committed([row])
    assert world.notifier.cursor() == row.event_id - 1
    await world.tick(1)
    assert [request.webhook_id for request in world.requests] == [to_text("evt", row.event_id)]
    assert world.store.parked == {}
    assert world.notifier.cursor() == row.event_id


async def test_a_parked_event_whose_message_is_gone_is_forgotten(world: World):
    world.configure(endpoint())
    world.answer = lambda _: BROKEN
    await world.commit_rows()
    world.store.entries.clear()
    await world.tick(6)
    assert world.store.parked == {}
    assert len(world.requests) == 1


async def test_stop_sends_what_waits_and_parks_what_hangs(world: World):
    world.configure(endpoint(1, batch=True), endpoint(2))
    hanging = asyncio.Event()
    plain = world._deliver

    async def deliver(target, keys, webhook_id, body):
        if "hooks2" in str(target.url):
            await hanging.wait()
        return await plain(target, keys, webhook_id, body)

    world.notifier._courier._deliver = deliver
    rows = world.rows(40)
    world.notifier.rows_committed(rows)
    world.notifier.start()
    await world.notifier.stop(0.05)
    world.store.commit()
    assert sum(len(request.events) for request in world.requests) == 40
    assert len(world.store.parked) == 40
    assert {endpoint_id for endpoint_id, _ in world.store.parked} == {2}
    assert world.notifier.cursor() == rows[-1].event_id


async def test_a_removed_endpoint_frees_the_cursor_and_a_new_url_gets_the_rest(world: World):
    world.configure(endpoint(1), endpoint(2))
    world.gate = asyncio.Event()
    rows = world.rows(50)
    world.notifier.rows_committed(rows)
    world.configure(endpoint(2, url="https://other.example/sms"))
    world.gate.set()
    world.gate = None
    await world.settle()
    for _ in range(4):
        await world.tick(2)
    assert world.notifier.cursor() == rows[-1].event_id
    second = {r.webhook_id for r in world.requests if "hooks1" not in r.url}
    assert len(second) == 50
    assert world.store.parked == {}


async def test_an_event_that_cannot_be_read_back_keeps_no_other_endpoint_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.configure(endpoint(1), endpoint(2))
    world.answer = lambda _: BROKEN
    await world.commit_rows()
    world.answer = lambda _: OK
    messages, asked = world.store.messages, []

    async def spoiled(ids: Sequence[int]) -> dict[int, Any]:
        asked.append(ids)
        if len(asked) == 1:
            raise ValueError("a sealed column does not open")
        return await messages(ids)

    monkeypatch.setattr(world.store, "messages", spoiled)
    before = len(world.requests)
    await world.tick(6)
    assert len(world.requests) == before + 1
    await world.tick(PUT_OFF_S)
    assert len(world.requests) == before + 2
    assert world.store.parked == {}


async def test_a_bug_in_one_request_does_not_end_the_worker(world: World):
    world.configure(endpoint())

    def answer(request: object) -> Delivered:
        if len(world.requests) == 1:
            raise ZeroDivisionError
        return OK

    world.answer = answer
    await world.commit_rows(2)
    assert len(world.requests) == 2
    world.store.commit()
    assert [row.tries for row in world.store.parked.values()] == [1]


async def test_the_oldest_age_is_shown_until_the_event_is_delivered(world: World):
    world.configure(endpoint())
    world.answer = lambda _: BROKEN
    await world.commit_rows()
    await world.tick(2)
    age = world.metrics.snapshot()["webhook_oldest_age_seconds"][0][1][0]
    assert age == pytest.approx(2, abs=0.1)
    world.answer = lambda _: OK
    await world.tick(4)
    await world.tick(31)
    assert world.metrics.snapshot()["webhook_oldest_age_seconds"][0][1][0] == 0


async def test_an_idle_endpoint_costs_few_looks_into_the_store(world: World):
    world.configure(endpoint())
    for _ in range(600):
        await world.tick(0.25)
    assert len(world.store.due_calls) <= 12


async def test_a_thousand_quiet_endpoints_are_asked_about_together(world: World):
    world.configure(*(endpoint(number, tenant=1000 + number) for number in range(1, 1001)))
    await world.tick(1)
    assert world.store.probes == [1000]
    assert world.store.due_calls == []
    await world.tick(0.25)
    assert world.store.probes == [1000]


async def test_the_parked_event_of_one_endpoint_among_many_is_sent(world: World):
    world.configure(
        endpoint(), *(endpoint(number, tenant=1000 + number) for number in range(2, 1001))
    )
    world.answer = lambda _: BROKEN
    await world.commit_rows()
    await world.tick(1)
    world.answer = lambda _: OK
    before = len(world.requests)
    for _ in range(40):
        await world.tick(1)
    assert len(world.requests) == before + 1
    assert world.store.parked == {}
    assert all(len(looked) <= 20 for looked in world.store.due_calls)


async def test_a_tick_looks_at_busy_endpoints_only(world: World):
    world.configure(
        *(endpoint(number, tenant=1000 + number) for number in range(1, 101)), endpoint(101)
    )
    looked: list[int] = []
    for number, queue in world.notifier._endpoints.items():
        overdue = queue.overdue

        def watched(now: float, number=number, overdue=overdue):
            looked.append(number)
            return overdue(now)

        queue.overdue = watched  # type: ignore[method-assign]  # to see who is looked at
    await world.tick(0.25)
    assert looked == []
    await world.commit_rows()
    await world.tick(0.25)
    assert set(looked) == {101}
    await world.tick(60)  # its worker has been idle for long, and is let go
    await world.tick(0.25)  # nothing is left of it
    looked.clear()
    await world.tick(0.25)
    assert looked == []
