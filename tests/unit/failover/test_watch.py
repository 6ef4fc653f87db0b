"""A channel under watch, against simulated carriers: how soon it is left, and come back to."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.breaker import BreakerState
from failover.health import Answers, HealthPolicy, Signal
from failover.watch import Glance, Watch
from sms.model import Carrier

POLICY = HealthPolicy()
SCALE = 10.0
_SECONDS = [one.name for one in fields(HealthPolicy) if one.name.endswith("_s")]
QUICK = replace(POLICY, **{name: getattr(POLICY, name) / SCALE for name in _SECONDS})
SLOT_S = 120.0
AWAY = {BreakerState.OPEN, BreakerState.HALF_OPEN}


@dataclass
class Does:
    """What a simulated carrier does for a while; a number below 1 is a chance."""

    answer_s: float = 0.1
    hangs: bool = False
    lost_until: float = 0.0  # what left before that moment is never answered
    fails: float = 0.0
    unknown: float = 0.0
    refuses: float = 0.0  # numbers and contents
    throttles: float = 0.0
    config: float = 0.0
    receipts: float = 1.0
    is_up: bool = True
    head_age_s: float = 0.0
    link_test_s: float | None = 0.05  # None: link tests are not answered
    only: Carrier | None = None  # of whose messages; those of the others are taken and answered


GOOD = Does()


@dataclass
class World:
    """One channel, `rate` messages a second that would go over it, a carrier."""

    policy: HealthPolicy = POLICY
    rate: int = 20
    otp_share: float = 0.0
    submit_timeout_s: float = 60.0
    carriers: tuple[Carrier, ...] = (Carrier.CM,)
    seed: int = 1
    now: float = 1000.0
    waiting: list[Any] = field(default_factory=list)  # [sent_at, carrier, given up]
    receipts: list[Any] = field(default_factory=list)  # (at, taken_at, carrier)
    moves: list[Any] = field(default_factory=list)  # (now, state, signal)
    sent: int = 0
    offered: int = 0

    def __post_init__(self):
        self.dice = random.Random(self.seed)
        self.watch = Watch(self.policy, self.now, self.dice.random)
        self.scale = self.policy.open_s / POLICY.open_s

    def word(self, does):
        dice = self.dice.random()
        for word in ("fails", "unknown", "refuses", "throttles", "config"):
            dice -= getattr(does, word)
            if dice < 0:
                return word
        return "taken"

    def run(self, seconds, does=GOOD):
        """Live on for so long; returns itself."""
        for _ in range(round(seconds)):
            self.now += 1.0
            if does.is_up:
                self.offer(does)
            else:
                self.watch.link_failed()
                self.waiting.clear()
            self.answer(does)
            self.test_link(does)
            self.look(does)
        return self

    def test_link(self, does):
        """An idle link is tested; here every few seconds."""
        if not does.is_up or self.rate or round(self.now) % 2:
            return
        if does.link_test_s is None:
            self.watch.link_failed()
        else:
            self.watch.link_tested(does.link_test_s, self.now)

    def offer(self, does):
        self.sent = self.offered = 0
        for _ in range(self.rate):
            is_otp = self.dice.random() < self.otp_share
            self.offered += 1
            carrier = self.carriers[self.dice.randrange(len(self.carriers))]
            if not self.watch.takes(carrier, self.dice.randrange(10**6), is_otp=is_otp):
                continue
            self.watch.bound(carrier)
            self.sent += 1
            at = self.now - self.dice.random()
            self.waiting.append([at, carrier, False])

    def answer(self, does):
        keep = []
        for one in self.waiting:
            at, carrier, is_given_up = one
            now_does = does if does.only in (None, carrier) else GOOD
            since = self.watch.since(carrier)
            age = self.now - at
            is_answering = not now_does.hangs and at >= now_does.lost_until
            if is_answering and age >= now_does.answer_s * self.scale:
                self.hear(one, age, since, now_does)
                continue
            if age >= self.submit_timeout_s * self.scale and not is_given_up:
                one[2] = True
                if at >= since:
                    self.watch.answered(carrier, Answers(total=1, failed=2, slow=1), self.now)
            if age < (self.submit_timeout_s + SLOT_S) * self.scale:
                keep.append(one)
        self.waiting = keep
        due = [one for one in self.receipts if one[0] <= self.now]
        self.receipts = [one for one in self.receipts if one[0] > self.now]
        for _, taken_at, carrier in due:
            self.watch.receipted(carrier, 1, 0, self.now - taken_at, self.now)

    def hear(self, one, age, since, does):
        at, carrier, is_given_up = one
        word = self.word(does)
        if at < since:
            self.watch.answered(carrier, Answers(is_heard=True), self.now)
            return
        failed = {"fails": 2, "config": 2, "unknown": 1}.get(word, 0)
        answers = Answers(
            total=int(word != "throttles" and not is_given_up),
            failed=0 if is_given_up else failed,
            slow=int(age > self.policy.slow_answer_s),
            taken=int(word == "taken"),
            config=int(word == "config"),
            is_heard=True,
        )
        self.watch.answered(carrier, answers, self.now)
        if word == "taken" and self.dice.random() < does.receipts:
            self.receipts.append((self.now + 5.0 * self.scale, self.now, carrier))

    def look(self, does):
        glance = Glance(
            is_up=does.is_up,
            has_room=len(self.waiting) < 100_000,
            waiting=self.waiting_by_carrier(),
            head_age_s=does.head_age_s,
        )
        for move in self.watch.tick(glance, self.now):
            self.moves.append((self.now, move.change.state, move.change.signal, move))

    def waiting_by_carrier(self):
        found: dict[Carrier, list[float]] = {}
        for at, carrier, _ in self.waiting:
            found.setdefault(carrier, []).append(at)
        return found

    def first(self, state, after=0.0):
        return next((at for at, new, *_ in self.moves if new is state and at >= after), None)

    def switches(self):
        """When the messages were taken away from the channel, and brought back."""
        found: list[float] = []
        states: dict[Any, BreakerState] = {}
        for at, state, _, move in self.moves:
            was_away = not AWAY.isdisjoint(states.values())
            states[move.carrier] = state
            if was_away is AWAY.isdisjoint(states.values()):
                found.append(at)
        return found


def left_after(does, *, before_s=100.0, within_s=400.0, **kwargs):
    """Seconds from the fault until the channel was left, and the signal."""
    world = World(**kwargs).run(before_s)
    assert world.moves == []
    began = world.now
    world.run(within_s, does)
    at = world.first(BreakerState.OPEN)
    return (None, None) if at is None else (at - began, world.moves[0][2])


@pytest.mark.parametrize("rate", [1, 5, 100])
def test_a_carrier_that_hangs_is_left_within_15_s_for_otp(rate):
    took_s, signal = left_after(
        Does(hangs=True), rate=rate, otp_share=1.0, submit_timeout_s=10.0, within_s=20.0
    )
    assert took_s <= 15.0
    assert signal is Signal.NO_ANSWER


@pytest.mark.parametrize("rate", [1, 20, 100])
def test_a_carrier_that_hangs_is_left_within_60_s(rate):
    took_s, signal = left_after(Does(hangs=True), rate=rate)
    assert took_s <= 60.0
    assert signal is Signal.NO_ANSWER


@pytest.mark.parametrize("answer_s", [11.0, 15.0, 40.0])
@pytest.mark.parametrize("rate", [5, 50])
def test_a_slow_carrier_is_left_within_60_s(rate, answer_s):
    took_s, _ = left_after(Does(answer_s=answer_s), rate=rate)
    assert took_s <= 60.0


def test_a_carrier_at_eight_seconds_is_not_left():
    assert left_after(Does(answer_s=8.0))[0] is None


def test_errors_are_left_for_as_the_numbers_say():
    assert left_after(Does(fails=0.6), rate=20)[0] <= 10.0
    took_s, signal = left_after(Does(fails=0.3), rate=20)
    assert took_s <= 60.0
    assert signal is Signal.FAILURES
    assert left_after(Does(fails=0.15), rate=20)[0] is None
    assert left_after(Does(unknown=0.3), rate=20)[0] is None  # 15 %


def test_silent_receipts_are_left_for_within_six_minutes():
    took_s, signal = left_after(Does(receipts=0.0), before_s=1000.0, within_s=400.0, rate=10)
    assert took_s <= 360.0
    assert signal is Signal.RECEIPTS


def test_silent_receipts_keep_it_on_the_first_step_until_they_come_again():
    """Its answers are good all the time, so ten messages that try it prove nothing."""
    world = World(rate=200).run(1000)
    world.run(360, Does(receipts=0.0))
    assert world.watch.cause(Carrier.CM) is Signal.RECEIPTS
    sent = offered = 0
    for _ in range(3600):
        world.run(1, Does(receipts=0.0))
        sent, offered = sent + world.sent, offered + world.offered
    assert sent < 0.02 * offered
    assert world.watch.cause(Carrier.CM) is Signal.RECEIPTS
    world.run(RECOVERY_S)
    assert world.watch.is_closed


def test_receipts_that_come_again_do_not_slow_its_coming_back():
    world = World(rate=200).run(1000).run(360, Does(receipts=0.0))
    began = world.now
    world.run(600)
    at = world.first(BreakerState.CLOSED, after=began)
    assert at is not None
    assert at - began <= POLICY.open_s * 1.2 + 2 + 240 + 10


def test_a_queue_that_stands_is_left():
    took_s, signal = left_after(Does(head_age_s=301.0))
    assert took_s <= 1.0
    assert signal is Signal.HEAD_AGE


@pytest.mark.parametrize("seed", range(5))
def test_what_it_swallowed_while_it_was_tried_says_nothing_once_it_answers(seed):
    """At 1 % of few messages it may be asked nothing for ten seconds: that is no silence."""
    world = World(seed=seed).run(100).run(85, Does(hangs=True))
    assert [move[1] for move in world.moves].count(BreakerState.HALF_OPEN) == 1
    began = world.now
    world.run(600, Does(lost_until=began))
    assert {move[2] for move in world.moves if move[0] > began} <= {None, Signal.PROBES}
    assert world.watch.is_closed


def test_what_one_carrier_s_probes_wait_for_is_no_silence_of_the_channel():
    watch = Watch(POLICY, 0.0, lambda: 0.5)
    for now in range(1, 12):
        watch.answered(Carrier.CM, Answers(total=5, failed=10, is_heard=True), float(now))
        watch.tick(Glance(is_up=True, has_room=True), float(now))
    assert watch.cause(Carrier.CM) is Signal.FAILURES
    before = [3.0] * 8  # sent into it before it was left, and never answered
    moves = [
        move
        for now in range(12, 40)
        for move in watch.tick(Glance(True, True, {Carrier.CM: before}), float(now))
    ]
    assert all(move.carrier is Carrier.CM for move in moves)


def test_what_stays_on_the_backup_is_tried_at_once_when_somebody_has_looked():
    world = World()
    for _ in range(40):  # good for a while, bad for a while
        world.run(60, Does(fails=1.0)).run(60)
        if any("stays on the backup" in move[3].change.words for move in world.moves):
            break
    world.run(1)
    assert world.watch.state() is BreakerState.OPEN
    world.watch.try_soon(world.now)
    world.run(1)
    assert world.watch.state() is BreakerState.HALF_OPEN
    world.run(300)
    assert world.watch.is_closed


def test_five_link_errors_in_a_row():
    took_s, signal = left_after(Does(is_up=False))
    assert took_s == 5.0
    assert signal is Signal.LINK


def test_an_idle_channel_whose_link_came_back_is_used_again():
    world = World(rate=0).run(1000, Does(is_up=False))
    assert world.moves[0][2] is Signal.LINK
    world.run(60 + 240 + 1)
    assert world.watch.is_closed
    assert len(world.switches()) == 2


def test_a_link_lost_while_messages_try_it_leaves_it_again():
    world = World(rate=1).run(20, Does(is_up=False))
    while world.watch.state() is not BreakerState.HALF_OPEN:
        world.run(1)
    world.run(1, Does(is_up=False))
    assert world.moves[-1][1:3] == (BreakerState.OPEN, Signal.LINK)


def test_a_refused_account_is_left_at_once_and_pages():
    world = World().run(50).run(2, Does(config=1.0))
    assert world.moves[0][2] is Signal.CONFIG
    assert world.moves[0][3].change.is_page


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.builds(
            Does,
            refuses=st.sampled_from([0.0, 0.5, 1.0]),
            throttles=st.sampled_from([0.0, 0.5, 1.0]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 30),
)
def test_bad_numbers_refused_contents_and_throttling_never_open(history, rate):
    world = World(rate=rate)
    for does in history:
        world.run(60, does)
    assert world.moves == []


def test_failback_is_ramped():
    world = World(rate=200).run(50).run(30, Does(fails=1.0))
    world.run(200)
    at = world.first(BreakerState.RAMP)
    assert at is not None
    shares = []
    while not world.watch.is_closed:
        world.run(1)
        shares.append(world.sent / world.offered)
    minutes = [sum(shares[i : i + 50]) / 50 for i in range(0, len(shares), 60)]
    assert shares[-1] == 1.0
    assert world.now - at == pytest.approx(240, abs=2)
    assert world.first(BreakerState.CLOSED) - at == pytest.approx(240, abs=2)
    assert len(minutes) <= 4


def test_no_otp_tries_a_channel_that_was_left():
    world = World(rate=5, otp_share=1.0).run(20).run(20, Does(fails=1.0))
    while world.watch.state() is not BreakerState.HALF_OPEN:
        world.run(1)
    for _ in range(59):
        world.run(1)
        assert world.sent == 0
    world.run(2)  # no ordinary message came, so it begins its ramp without any
    assert world.watch.state() is BreakerState.RAMP


DOES = st.builds(
    Does,
    answer_s=st.sampled_from([0.1, 0.1, 5.0, 12.0, 40.0]),
    hangs=st.sampled_from([False, False, True]),
    fails=st.sampled_from([0.0, 0.0, 0.1, 0.3, 1.0]),
    throttles=st.sampled_from([0.0, 0.3]),
    config=st.sampled_from([0.0, 0.0, 0.3]),
    receipts=st.sampled_from([1.0, 1.0, 0.0]),
    is_up=st.sampled_from([True, True, True, False]),
    head_age_s=st.sampled_from([0.0, 0.0, 1000.0]),
    link_test_s=st.sampled_from([0.05, 0.05, 8.0, None]),
    only=st.sampled_from([None, None, Carrier.CM, Carrier.CT]),
)
HISTORY = st.lists(st.tuples(DOES, st.integers(1, 80)), max_size=6)
# What was sent in bad times is judged no longer than receipts are waited for; then the longest
# time open, or the switches that must be forgotten; then probes that do not come, and the ramp.
# The whole and one carrier's breaker may come back one after the other; of silent receipts the
# first step lasts until they come, or are judged again.
_AGAIN_S = POLICY.half_open_s + POLICY.ramp_step_s * len(POLICY.ramp)
RECOVERY_S = (
    2 * POLICY.receipts_until_s
    + max(POLICY.open_cap_s * (1 + POLICY.jitter), POLICY.switches_s)
    + 2 * _AGAIN_S
)


@settings(max_examples=40, deadline=None)
@given(
    HISTORY,
    st.sampled_from([0, 1, 3, 15]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([(Carrier.CM,), (Carrier.CM, Carrier.CU, Carrier.CT)]),
    st.integers(0, 9),
)
def test_no_history_keeps_a_healthy_channel_closed_out(history, rate, otp_share, carriers, seed):
    """Of no carrier's messages: within a time that the settings bound it takes all of them."""
    world = World(policy=QUICK, rate=rate, otp_share=otp_share, carriers=carriers, seed=seed)
    for does, seconds in history:
        world.run(seconds, does)
    world.run(RECOVERY_S / SCALE + 20)
    assert world.watch.is_closed
    world.run(60)
    assert world.watch.is_closed
    assert world.sent == world.offered


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(DOES, st.integers(1, 60)), min_size=2, max_size=12), st.integers(0, 9))
def test_at_most_four_switches_in_ten_minutes(history, seed):
    world = World(policy=QUICK, rate=15, seed=seed)
    for does, seconds in history:
        world.run(seconds, does)
        world.run(30)
    at = world.switches()
    for first in at:
        assert sum(first <= one < first + QUICK.switches_s for one in at) <= 4


def test_one_carrier_is_left_and_the_others_are_kept():
    watch, now = Watch(POLICY, 0.0, lambda: 0.5), 0.0
    for _ in range(20):
        now += 1.0
        watch.answered(Carrier.CM, Answers(total=5, taken=5, is_heard=True), now)
        watch.answered(Carrier.CT, Answers(total=5, failed=10, is_heard=True), now)
        watch.tick(Glance(is_up=True, has_room=True), now)
    assert not watch.takes(Carrier.CT, 0, is_otp=True)
    assert watch.takes(Carrier.CM, 0, is_otp=True)
    assert watch.takes(Carrier.CU, 0, is_otp=True)
    assert watch.cause(Carrier.CT) is Signal.FAILURES
    assert watch.cause(Carrier.CM) is None
    assert watch.rank(Carrier.CM) < watch.rank(Carrier.CT)
    assert watch.room(16, (), now) == 16  # the others' pace stays
    assert watch.room(16, (), now + 100) == 1  # nobody else is there


def test_the_first_submits_of_a_carrier_are_judged_too():
    watch = Watch(POLICY, 0.0, lambda: 0.5)
    for now in range(3600, 3611):
        moves = watch.tick(Glance(True, True, {Carrier.CB: [3600.0] * 8}), float(now))
    assert [move.change.signal for move in moves] == [Signal.NO_ANSWER]
    assert watch.since(Carrier.CT) == 3610.0


def test_a_channel_that_says_nothing_is_left_for_all_carriers():
    watch = Watch(POLICY, 0.0, lambda: 0.5)
    waiting = {Carrier.CM: [1.0] * 4, Carrier.CT: [1.0] * 4}
    for now in range(1, 12):
        moves = watch.tick(Glance(True, True, waiting), float(now))
    assert [(move.carrier, move.change.signal) for move in moves] == [(None, Signal.NO_ANSWER)]
    assert not any(watch.takes(carrier, 0, is_otp=False) for carrier in Carrier)


def test_alarms_are_told_once_and_again_when_they_come_back():
    watch, told = Watch(POLICY, 0.0, lambda: 0.5), []
    for now in range(400):
        failed = 2 if now < 100 or now > 300 else 0
        watch.answered(Carrier.CM, Answers(total=20, failed=2 * failed, is_heard=True), float(now))
        watch.tick(Glance(is_up=True, has_room=True), float(now))
        told += [(now, alarm.fault.signal) for alarm in watch.alarms]
    assert [signal for _, signal in told] == [Signal.FAILURES] * 2
