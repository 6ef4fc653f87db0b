from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.endpoint_queue import POLL_LAST_S, EndpointQueue, Flush, Item, NotifyPolicy
from gateway.notices import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, Notice, batch_body
from tests.support.notify_world import endpoint

POLICY = NotifyPolicy(linger_s=0.05, in_flight=4)


def item(size: int = 500, queued_at: float = 0.0, *, is_fresh: bool = True) -> Item:
    notice = Notice(1, 7, "message.delivered", 2, 1, "8613800138000", b"{}")
    return Item(notice, b"x" * size, Flush(1) if is_fresh else None, 0, queued_at)


def queue(*, batch: bool = True) -> EndpointQueue:
    return EndpointQueue(endpoint(batch=batch), None, POLICY)


def test_a_batch_waits_for_a_hundred_events_or_the_linger_time():
    made = queue()
    made.fresh.extend(item() for _ in range(99))
    assert made.take(0.049) == []
    assert made.workers_wanted(0.049) == 0
    assert made.linger_until() == 0.05
    assert len(made.take(0.05)) == 99
    made.fresh.extend(item() for _ in range(100))
    assert len(made.take(0.0)) == 100


def test_while_draining_nothing_lingers():
    made = queue()
    made.fresh.append(item())
    assert made.workers_wanted(0.0, is_draining=True) == 1
    assert len(made.take(0.0, is_draining=True)) == 1


@given(st.lists(st.integers(100, 19_999), max_size=300))
def test_requests_keep_order_and_both_caps(sizes: list[int]):
    made = queue()
    items = [item(size) for size in sizes]
    made.fresh.extend(items)
    taken: list[Item] = []
    while request := made.take(1.0):
        made.in_flight -= 1
        assert len(request) <= MAX_BATCH_EVENTS
        assert len(batch_body([one.body for one in request], 1.8e9)) <= MAX_BATCH_BYTES
        taken += request
    assert taken == items


def test_a_single_event_endpoint_takes_one_event_at_a_time_up_to_the_limit():
    made = queue(batch=False)
    made.fresh.extend(item() for _ in range(10))
    assert made.workers_wanted(0.0) == 4
    assert [len(made.take(0.0)) for _ in range(6)] == [1, 1, 1, 1, 0, 0]


def test_fresh_and_parked_events_take_turns():
    made = queue(batch=False)
    made.fresh.extend(item() for _ in range(3))
    made.parked.extend(item(is_fresh=False) for _ in range(3))
    kinds = []
    while request := made.take(0.0):
        made.in_flight -= 1
        kinds.append(request[0].flush is None)
    assert kinds == [True, False, True, False, True, False]


def test_slowing_down_halves_and_a_success_adds_one():
    made = queue(batch=False)
    limits = []
    for _ in range(4):
        made.slow_down()
        limits.append(made.limit)
    assert limits == [2, 1, 1, 1]
    for _ in range(9):
        made.speed_up()
    assert made.limit == 4


def test_empty_looks_become_rarer_and_a_parked_event_brings_the_next_one_forward():
    made = queue()
    now = 0.0
    gaps = []
    for _ in range(8):
        made.fed(0, now)
        gaps.append(made.poll_at - now)
        now = made.poll_at
    assert gaps == [1, 2, 4, 8, 16, POLL_LAST_S, POLL_LAST_S, POLL_LAST_S]
    made.fed(0, now)
    made.due_in(5.0, now)
    assert made.poll_at == now + 5.0
    assert not made.may_feed(now + 4.9)
    assert made.may_feed(now + 5.0)


def test_no_second_page_before_the_first_is_settled():
    made = queue()
    made.feeding = 10
    assert not made.may_feed(100.0)
    made.settled(10)
    assert made.may_feed(100.0)
