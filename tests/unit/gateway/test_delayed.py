"""What is put off for seconds is counted among what waits."""

from gateway.delayed import Delayed
from gateway.lanes import Lanes
from gateway.queuegauges import set_queue_gauges
from sms.model import MessageClass
from sms.outcomes import Throttled
from telemetry.metrics import Metrics
from tests.support.flow_kit import Kit


def put_off(delayed: Delayed, message_id: int, until: float, **fields: object):
    one = Kit().message()
    one.not_before, one.channel, one.queued_at = until, 1, 100.0 + message_id
    for name, value in fields.items():
        setattr(one, name, value)
    delayed.put(one)
    return one


def test_they_come_when_their_wait_is_over():
    delayed = Delayed()
    late, soon = put_off(delayed, 1, 20.0), put_off(delayed, 2, 10.0)
    assert delayed.due(9.0) == []
    assert delayed.due(15.0) == [soon]
    assert list(delayed) == [late]
    assert delayed.waiting() == {(MessageClass.TRANSACTIONAL, 1): (1, 101.0)}
    assert delayed.due(20.0) == [late]
    assert (len(delayed), delayed.waiting()) == (0, {})


def test_what_is_past_its_validity_goes():
    delayed = Delayed()
    gone = put_off(delayed, 1, 20.0, valid_until=5.0)
    kept = put_off(delayed, 2, 30.0, valid_until=50.0)
    assert delayed.remove_expired(4.0) == []
    assert delayed.remove_expired(5.0) == [gone]
    assert delayed.waiting() == {(MessageClass.TRANSACTIONAL, 1): (1, 102.0)}
    assert delayed.due(99.0) == [kept]


def test_the_gauges_count_them_with_their_lane():
    metrics, lanes, delayed = Metrics(), Lanes(dict.fromkeys(MessageClass, 100)), Delayed()
    one = Kit().message()
    one.queued_at = 190.0
    lanes.put(1, one)
    put_off(delayed, 1, 500.0)
    put_off(delayed, 2, 400.0)
    put_off(delayed, 3, 400.0, channel=2)
    set_queue_gauges(metrics, lanes, delayed, {1: "a", 2: "b"}.get, 200.0)
    seen = dict(snapshot(metrics, "queue_messages"))
    ages = dict(snapshot(metrics, "queue_oldest_age_seconds"))
    assert seen["transactional", "a"] == 3
    assert seen["transactional", "b"] == 1
    assert ages["transactional", "a"] == 200.0 - 101.0
    assert ages["transactional", "b"] == 200.0 - 103.0
    assert ages["otp", "a"] == 0.0


def snapshot(metrics: Metrics, name: str) -> list[tuple[tuple[str, ...], float]]:
    return [(tuple(labels), values[0]) for labels, values in metrics.snapshot()[name]]


def test_a_throttled_message_stands_in_the_gauges():
    kit = Kit(channels=1)
    kit.dispatcher.tick()
    kit.accept(kit.message())
    kit.answer(1, Throttled(1.0, "0x58"))
    kit.clock.now += 0.5
    delayed, now = kit.dispatcher.delayed, kit.clock.now
    set_queue_gauges(kit.metrics, kit.lanes, delayed, kit.ledger.channel_names.get, now)
    assert dict(snapshot(kit.metrics, "queue_messages"))["transactional", "c1"] == 1
    assert dict(snapshot(kit.metrics, "queue_oldest_age_seconds"))["transactional", "c1"] == 0.5
