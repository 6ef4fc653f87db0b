"""What is counted and what it is judged to be, on simulated time."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from failover.health import Answers, Baseline, Health, HealthPolicy, Ring, Signal

POLICY = HealthPolicy()
GOOD = Answers(total=1, taken=1, is_heard=True)
FAILED = Answers(total=1, failed=2, is_heard=True)
UNKNOWN = Answers(total=1, failed=1, is_heard=True)
GIVEN_UP = Answers(total=1, failed=2, slow=1)
REFUSED_NUMBER = Answers(total=1, is_heard=True)
THROTTLED = Answers(is_heard=True)


@given(
    span=st.integers(1, 12),
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), st.integers(0, 15))),
    window=st.tuples(st.integers(0, 12), st.integers(0, 14)),
)
def test_a_ring_sums_what_was_counted_in_the_seconds_asked_for(span, steps, window):
    ring, now = Ring(span, 1, 100.0), 100
    counted: dict[int, int] = {}
    for wait, number, age in steps:
        now += wait
        ring.turn(now + 0.5)
        ring.add(0, number, age)
        if age < span + 2:
            counted[now - age] = counted.get(now - age, 0) + number
    low, high = window[0], min(window[1], span + 2)
    known = {second: number for second, number in counted.items() if now - second < span + 2}
    assert ring.total(0, low, high) == sum(
        number for second, number in known.items() if low <= now - second < high
    )


def test_a_baseline_forgets_what_is_older_than_its_span():
    baseline = Baseline(24.0, 0.0)
    baseline.add(100, 10, 0.5)
    assert baseline.sums() == (100, 10)
    baseline.add(100, 90, 23.5)
    assert baseline.sums() == (200, 100)
    baseline.add(100, 90, 24.5)
    assert baseline.sums() == (200, 180)


def feed(health, now, answers, times):
    for _ in range(times):
        health.answered(answers, now)


def judged(health, now, waiting=(), whole=()):
    fault = health.judge(waiting, whole, now)
    return None if fault is None else fault.signal


def test_submits_that_were_lost_long_ago_are_no_sign_of_silence_now():
    """A carrier came back after it had swallowed some; slow answers are no missing ones."""
    health = Health(POLICY, 0.0)
    lost = [1.0] * 9
    assert health.no_answer(lost, 10.9) is None
    assert health.no_answer(lost, 11.1) is not None
    health.heard(GOOD, 30.0)  # these had been overdue by then
    assert health.no_answer(lost, 45.0) is None
    few, many = [1.0] * 3, [36.0] * 60
    fresh = Health(POLICY, 0.0)
    assert fresh.no_answer(few + many, 36.1) is None
    assert fresh.no_answer(few + many, 40.9) is None
    assert fresh.no_answer(few + many, 41.1) is not None


def test_a_hang_is_seen_from_its_first_submit_also_where_few_are_sent():
    health = Health(POLICY, 0.0)
    health.heard(GOOD, 100.0)
    sent = [100.0 + n for n in range(14)]  # one a second
    seen = [at for at in sent if health.no_answer([one for one in sent if one <= at], at)]
    assert seen[0] == pytest.approx(112.0, abs=1.01)


@pytest.mark.parametrize(
    ("failed", "good", "is_left"),
    [(10, 10, True), (9, 11, False), (10, 9, False), (19, 0, False), (20, 0, True)],
)
def test_half_of_twenty_in_ten_seconds(failed, good, is_left):
    health = Health(POLICY, 0.0)
    feed(health, 5.0, FAILED, failed)
    feed(health, 9.0, GOOD, good)
    assert (judged(health, 9.5) is Signal.FAILURES) is is_left


@pytest.mark.parametrize(
    ("failed", "good", "is_left"), [(20, 80, True), (19, 81, False), (20, 79, False)]
)
def test_a_fifth_of_a_hundred_in_a_minute(failed, good, is_left):
    health = Health(POLICY, 0.0)
    feed(health, 5.0, FAILED, failed)
    feed(health, 50.0, GOOD, good)
    assert (judged(health, 59.5) is Signal.FAILURES) is is_left
    assert judged(health, 65.5) is None  # the failures are older than a minute


def test_an_unknown_code_counts_half():
    health = Health(POLICY, 0.0)
    feed(health, 5.0, UNKNOWN, 39)
    feed(health, 5.0, GOOD, 1)
    assert judged(health, 6.0) is None  # 49 % of 40
    feed(health, 5.0, FAILED, 1)
    assert judged(health, 6.0) is Signal.FAILURES


@given(st.lists(st.sampled_from([GOOD, REFUSED_NUMBER, THROTTLED]), max_size=300))
def test_numbers_contents_and_throttling_are_no_fault_of_the_channel(history):
    health = Health(POLICY, 0.0)
    for index, answers in enumerate(history):
        now = index / 10
        health.answered(answers, now)
        assert health.judge([now] * 20, (), now) is None
        assert health.alarms() == []


def test_nothing_heard_for_ten_seconds_while_eight_wait():
    health = Health(POLICY, 0.0)
    feed(health, 100.0, GOOD, 3)
    waiting = [101.0 + index / 10 for index in range(8)]
    assert judged(health, 110.9, waiting) is None
    assert judged(health, 111.0, waiting) is Signal.NO_ANSWER
    assert judged(health, 111.0, waiting[:7]) is None
    feed(health, 111.0, THROTTLED, 1)  # it says at least something
    assert judged(health, 112.0, waiting) is None


def test_a_burst_after_a_quiet_hour_is_not_silence():
    health = Health(POLICY, 0.0)
    waiting = [3600.0] * 100
    assert judged(health, 3609.0, waiting) is None
    assert judged(health, 3610.0, waiting) is Signal.NO_ANSWER


def test_what_was_sent_before_the_channel_was_left_says_nothing_any_more():
    health = Health(POLICY, 0.0)
    feed(health, 5.0, FAILED, 100)
    health.forget(6.0)
    assert judged(health, 60.0, [5.0] * 50) is None


def test_slow_answers_must_last():
    health = Health(POLICY, 0.0)
    for second in range(29):
        feed(health, second, Answers(total=20, taken=20, slow=2, is_heard=True), 1)
        assert judged(health, second + 0.5) is None
    feed(health, 29.0, GOOD, 400)  # a short moment below 5 %
    assert judged(health, 29.5) is None
    for second in range(40, 71):
        feed(health, second, Answers(total=20, taken=20, slow=2, is_heard=True), 1)
        assert (judged(health, second + 0.5) is Signal.SLOW) is (second == 70)


def test_what_waits_counts_as_slow_by_its_age():
    health = Health(POLICY, 0.0)
    for second in range(45):
        now = float(second)
        feed(health, now, Answers(total=30, taken=30, is_heard=True), 1)
        waiting = [max(0.0, now - 60.0 + one) for one in range(60) for _ in range(3)]
        is_left = judged(health, now, waiting) is Signal.SLOW
        assert is_left is (second >= 41)  # late from 11 on, for 30 s


def test_what_was_lost_a_while_ago_says_nothing_of_those_that_are_answered():
    health = Health(POLICY, 0.0)
    for second in range(130):
        feed(health, float(second), Answers(total=3, taken=3, is_heard=True), 1)
        assert judged(health, float(second), [0.0] * 10 + [float(second)] * 3) is None


class Slots:
    """Sessions of a channel whose carrier answers each submit after the same time, in order."""

    def __init__(self, slots, rate, answer_s, carriers):
        self.health = [Health(POLICY, 0.0) for _ in range(carriers)]
        self.slots, self.rate, self.answer_s = slots, rate, answer_s
        self.waiting: list[list[float]] = [[] for _ in range(carriers)]
        self.due = self.sent = 0.0

    def left_at(self, seconds, signals):
        """When one of the faults is found, within so many seconds."""
        for second in range(seconds):
            now = float(second)
            for one, waiting in zip(self.health, self.waiting, strict=True):
                answered = [at for at in waiting if now - at >= self.answer_s]
                waiting[:] = [at for at in waiting if now - at < self.answer_s]
                slow = sum(now - at > POLICY.slow_answer_s for at in answered)
                count = len(answered)
                if count:
                    one.answered(Answers(total=count, slow=slow, taken=count, is_heard=True), now)
            self.send(now)
            for one, waiting in zip(self.health, self.waiting, strict=True):
                fault = one.judge(waiting, self.health, now)
                if fault is not None and fault.signal in signals:
                    return now
        return None

    def send(self, now):
        """What is due, into the free slots; the rest waits in a queue."""
        self.due += self.rate
        while self.due >= 1 and sum(map(len, self.waiting)) < self.slots:
            self.due -= 1
            self.sent += 1
            self.waiting[int(self.sent) % len(self.waiting)].append(now)


SLOTS = st.builds(lambda window, sessions: window * sessions, st.integers(1, 64), st.integers(1, 4))
RATES = st.sampled_from([0.02, 0.1, 0.5, 1.0, 3.0, 20.0, 500.0])


@given(SLOTS, RATES, st.floats(0.0, 10.0), st.sampled_from([1, 4]))
def test_quick_answers_are_never_slow_whatever_waits(slots, rate, answer_s, carriers):
    assert Slots(slots, rate, answer_s, carriers).left_at(200, {Signal.SLOW}) is None


@given(SLOTS, RATES, st.floats(11.0, 59.0), st.sampled_from([1, 4]))
@example(slots=32, rate=500.0, answer_s=11.0, carriers=4)  # two windows, half of them young
def test_slow_answers_are_always_left_for(slots, rate, answer_s, carriers):
    """Also where they come in bursts, or one in a minute; within 60 s if there are enough."""
    channel = Slots(slots, rate, answer_s, carriers)
    busy = min(rate * 10, slots) >= 4 * carriers
    # Where all that went out at once is silent for 10 s, it hangs until it answers.
    assert channel.left_at(60 if busy else 2000, {Signal.SLOW, Signal.NO_ANSWER}) is not None


def sent(health, now, share, lag_s=5.0):
    """Twenty a second, of which a share gets its receipt."""
    health.answered(Answers(total=20, taken=20, is_heard=True), now)
    health.receipted(int(20 * share), 0, lag_s, now)


def test_silent_receipts_are_noticed_within_six_minutes():
    health = Health(POLICY, 0.0)
    for second in range(1000):
        sent(health, float(second), 0.9)
        assert judged(health, second + 0.5) is None
    for second in range(1000, 1360):
        sent(health, float(second), 0.0)
        if judged(health, second + 0.5) is Signal.RECEIPTS:
            break
    assert 1310 <= second < 1360


def test_a_channel_without_receipts_is_not_missed_for_them():
    health = Health(POLICY, 0.0)
    for second in range(2000):
        sent(health, float(second), 0.0)
        assert judged(health, second + 0.5) is None


def test_receipts_that_get_rarer_without_halving_are_no_silence():
    health = Health(POLICY, 0.0)
    for second in range(2500):
        sent(health, float(second), 0.9 if second < 1000 else 0.5)
        assert judged(health, second + 0.5) is None


def test_few_of_its_own_are_judged_with_the_others_if_they_point_the_same_way():
    bad, well = whole = [Health(POLICY, 0.0) for _ in range(2)]
    feed(bad, 5.0, FAILED, 11)
    feed(well, 5.0, GOOD, 10)
    assert judged(bad, 6.0) is None
    assert judged(bad, 6.0, whole=whole) is Signal.FAILURES
    assert judged(well, 6.0, whole=whole) is None


def test_the_account_refused_in_a_row_and_nothing_taken_in_between():
    health = Health(POLICY, 0.0)
    refused = Answers(total=1, failed=2, config=1, is_heard=True)
    feed(health, 1.0, refused, 2)
    feed(health, 1.0, GOOD, 1)  # one message's sender, not the account
    feed(health, 1.0, refused, 2)
    assert health.misconfigured() is None
    feed(health, 1.0, refused, 1)
    fault = health.misconfigured()
    assert fault is not None
    assert fault.signal is Signal.CONFIG


def test_alarms_say_what_a_person_should_look_at():
    health = Health(POLICY, 0.0)
    feed(health, 5.0, GOOD, 189)
    feed(health, 5.0, FAILED, 10)
    assert health.alarms() == []
    feed(health, 5.0, FAILED, 1)
    assert [fault.signal for fault in health.alarms()] == [Signal.FAILURES]
    health.receipted(189, 11, 1.0, 5.0)
    assert [fault.signal for fault in health.alarms()] == [Signal.FAILURES, Signal.DELIVERY]
    health.receipted(100, 0, 1.0, 5.0)
    assert [fault.signal for fault in health.alarms()] == [Signal.FAILURES]


def test_one_answer_that_names_the_account_as_a_whole_is_enough() -> None:
    health = Health(HealthPolicy(), 0.0)
    account = Answers(total=1, failed=2, config=1, is_account=True, is_heard=True)
    health.heard(account, 1.0)
    fault = health.misconfigured()
    assert fault is not None
    assert fault.signal is Signal.CONFIG
    health.heard(Answers(total=1, taken=1, is_heard=True), 2.0)  # it takes messages all the same
    assert health.misconfigured() is None
    health.heard(account, 3.0)
    health.forget(4.0)
    assert health.misconfigured() is None


def test_slow_answers_of_several_carriers_are_judged_together():
    """Each has few under way: a small window is shared by four networks."""
    whole = [Health(POLICY, 0.0) for _ in range(4)]
    found = []
    for second in range(60):
        for one in whole:
            feed(one, float(second), Answers(total=1, taken=1, slow=1, is_heard=True), second % 2)
            found.append(judged(one, second + 0.5, [float(second)] * 3, whole=whole))
    assert Signal.SLOW in found
    alone = [Health(POLICY, 0.0) for _ in range(4)]
    for second in range(60):
        for one in alone:
            slow = one is alone[0]
            feed(one, float(second), Answers(total=1, taken=1, slow=slow, is_heard=True), 4)
            if not slow:
                assert judged(one, second + 0.5, whole=alone) is None


def test_receipts_are_counted_once_their_time_is_over() -> None:
    health = Health(HealthPolicy(), 1000.0)
    taken = (0, 0)
    for second in range(400):
        now = 1000.0 + second
        if 5 <= second < 15:
            sent(health, now, 0.5, lag_s=0.0)
        health.judge((), [health], now)
        expected, in_time = health.take_receipts()
        taken = taken[0] + expected, taken[1] + in_time
        if second == 300:
            assert taken == (0, 0)
    assert taken == (200, 100)
    assert health.take_receipts() == (0, 0)
