"""A carrier that throttles at half our rate is used in full, left by nobody; on fakes."""

from __future__ import annotations

import itertools

from failover.breaker import BreakerState
from sms.model import FINAL_STATES, MessageClass, State
from sms.outcomes import Outcome, Submitted, Throttled
from tests.support.flow_kit import Kit

RATE = 100.0  # configured
LIMIT = 50.0  # what the carrier takes
OFFERED = 80.0
STEP_S = 0.05


def test_throttling_at_half_our_rate_makes_no_failover_storm() -> None:
    kit = Kit(channels=2, window=64, rate=RATE)
    kit.lanes._limits = dict.fromkeys(MessageClass, 100_000)
    ids, carrier, tokens, sent, last = itertools.count(1), kit.channels[1], LIMIT, 0, 0
    taken = throttled = 0
    messages = []
    for step in range(round(50 / STEP_S)):
        kit.clock.now += STEP_S
        tokens = min(LIMIT, tokens + LIMIT * STEP_S)
        while sent < OFFERED * (step + 1) * STEP_S:
            cls = MessageClass.OTP if sent % 10 == 0 else MessageClass.TRANSACTIONAL
            messages.append(kit.message(cls, valid_s=3600.0))
            kit.accept(messages[-1])
            sent += 1
        results: list[tuple[object, Outcome]] = []
        for submit in carrier.open:
            is_taken = tokens >= 1.0
            tokens -= is_taken
            results.append(
                (submit, Submitted(f"id{next(ids)}") if is_taken else Throttled(0.0, "88"))
            )
            if step * STEP_S >= 10:
                taken += is_taken
                throttled += not is_taken
        carrier.open = []
        kit.dispatcher.heard(1, results)  # type: ignore[arg-type]
        if results:
            kit.settler.outcomes(1, results)  # type: ignore[arg-type]
        while kit.channels[2].open:
            kit.answer(2, Submitted(f"id{next(ids)}"))
        kit.events.flush()
        if step % 2:
            kit.dispatcher.tick()
        kit.dispatcher.pump(1)
        kit.events.flush()
        last = step
    assert kit.dispatcher.channels[1].watch.state() is BreakerState.CLOSED
    seconds = (last + 1) * STEP_S - 10
    assert taken >= 0.8 * LIMIT * seconds
    assert throttled < 0.1 * (taken + throttled)
    moved = dict(kit.metrics.failover_total.values)
    assert moved.keys() == {("c1", "c2", "throttled")}
    beyond = len(messages) - LIMIT * (last + 1) * STEP_S
    assert sum(moved.values()) <= 1.1 * beyond  # nothing that the carrier would have taken in time
    waits_s = kit.clock.now - min(message.queued_at for message in kit.lanes.lane(1).transactional)
    assert waits_s <= 15.0  # 10 s at the pace of the moment it came
    states = {message.state for message in messages}
    assert states & FINAL_STATES == set()
    assert State.UNCERTAIN not in states
