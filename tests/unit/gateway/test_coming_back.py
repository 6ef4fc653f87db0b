"""Nothing takes messages: they are held, and go out by class, then age, by steps; on fakes."""

from __future__ import annotations

import itertools
from collections import Counter
from statistics import median

import pytest

from failover.breaker import BreakerState
from sms.model import FINAL_STATES, Message, MessageClass, State
from sms.outcomes import Cause, Outcome, Rejected, Submitted
from tests.support.flow_kit import Kit

OTP, TRANSACTIONAL, MARKETING = MessageClass.OTP, MessageClass.TRANSACTIONAL, MessageClass.MARKETING
SYSTEM = Rejected("8", Cause.CHANNEL, "carrier.system_error")
ids = itertools.count(1)


class FakeRemote:
    """Other processes have these channels, and take nothing yet."""

    def __init__(self, up: set[int]) -> None:
        self.up = up

    def is_up(self, channel: int) -> bool:
        return channel in self.up

    takes = is_up

    def pump(self, channel: int) -> None:
        return None


class World:
    """Channels whose links go and come, and carriers that answer ten times a second."""

    def __init__(self, channels: int = 4, window: int = 64) -> None:
        self.kit = Kit(channels=channels, window=window)
        self.by_second: Counter[int] = Counter()
        self.answers: Outcome | None = None  # None = taken
        self.tries: dict[int, float] = {}  # next connect of a channel that is down

    def many(self, count: int, cls: MessageClass, valid_s: float = 3600.0) -> list[Message]:
        made = [self.kit.message(cls, valid_s=valid_s) for _ in range(count)]
        for message in made:
            message.number = f"86138{next(ids):08d}"
        self.kit.accept(*made)
        return made

    def links(self, *, is_up: bool) -> None:
        for number in self.kit.channels:
            self.kit.dispatcher.link_changed(number, is_up=is_up)
        self.kit.events.flush()

    def live(self, seconds: float) -> None:
        kit = self.kit
        for _ in range(round(seconds * 10)):
            kit.clock.now += 0.1
            for number, adapter in kit.channels.items():
                runtime = kit.dispatcher.channels[number]
                if not runtime.is_up and kit.clock.now >= self.tries.get(number, 0.0):
                    adapter.failures += 1
                    self.tries[number] = kit.clock.now + 2.0
                waiting, adapter.open = adapter.open, []
                results: list[tuple[object, Outcome]] = [
                    (one, self.answers or Submitted(f"id{next(ids)}")) for one in waiting
                ]
                self.by_second[int(kit.clock.now)] += len(results)
                if results:
                    kit.dispatcher.heard(number, results)  # type: ignore[arg-type]
                    kit.settler.outcomes(number, results)  # type: ignore[arg-type]
                    kit.events.flush()
                    kit.dispatcher.pump(number)
                    kit.events.flush()
            kit.dispatcher.tick()
            kit.events.flush()
            while kit.timers:
                kit.timers.pop(0)[1]()
            kit.events.flush()

    def sent(self) -> list[Message]:
        """Whatever the carriers got, in order; all of one channel."""
        return [one.message for adapter in self.kit.channels.values() for one in adapter.seen]

    def states(self) -> set[BreakerState]:
        return {runtime.watch.state() for runtime in self.kit.dispatcher.channels.values()}


@pytest.mark.parametrize("channels", [1, 4])
def test_held_messages_outlive_the_outage_and_go_out_by_class_then_age(channels: int) -> None:
    world = World(channels)
    world.links(is_up=False)
    marketing = world.many(100, MARKETING)
    transactional = world.many(100, TRANSACTIONAL)
    otp = world.many(50, OTP)
    short = world.many(5, OTP, valid_s=30.0)
    world.live(100.0)
    assert world.states() == {BreakerState.OPEN}
    assert world.sent() == []
    assert {message.state for message in short} == {State.EXPIRED}  # by their own validity
    late = world.many(20, TRANSACTIONAL)
    assert not any(m.state in FINAL_STATES for m in marketing + transactional + otp + late)
    up_at = world.kit.clock.now
    world.links(is_up=True)
    world.live(400.0)
    assert world.states() == {BreakerState.CLOSED}
    waited = otp + transactional + late + marketing
    places = {message.id: place for place, message in enumerate(waited)}
    if channels == 1:  # several, each with its own part, go on side by side
        assert [places[message.id] for message in world.sent()] == list(range(len(waited)))
    assert sorted(message.id for message in world.sent()) == sorted(places)
    left_at = {
        submit.message.id: submit.sent_at
        for adapter in world.kit.channels.values()
        for submit in adapter.seen
    }
    middles = [median(left_at[m.id] for m in some) for some in (otp, transactional, marketing)]
    assert middles == sorted(middles)
    assert all(len(adapter.seen) > 20 for adapter in world.kit.channels.values())
    otp_gone_at = max(left_at[m.id] for m in otp)
    assert otp_gone_at <= up_at + 10.0  # also where they wait for one of four that all climb
    assert otp_gone_at < max(left_at[m.id] for m in transactional + marketing)


def test_a_crowd_comes_back_by_steps_and_not_at_once() -> None:
    """All were down for long: their breakers let probes through, then a ramp of the window."""
    world = World(window=64)
    world.links(is_up=False)
    for _ in range(5):
        world.many(1000, TRANSACTIONAL)
        world.live(20.0)
    world.links(is_up=True)
    up_at = int(world.kit.clock.now)
    world.live(600.0)
    assert len(world.sent()) == 5000
    first = [world.by_second[up_at + n] for n in range(60)]
    assert max(first) <= 80  # of 2,560 that their windows would take in a second


def test_a_process_that_was_started_in_the_outage_does_not_storm_either() -> None:
    """It knows of no link errors: its breakers are closed, and a crowd was read back."""
    world = World(channels=1, window=64)
    world.links(is_up=False)
    world.many(4000, TRANSACTIONAL)
    world.live(1.0)
    assert world.states() == {BreakerState.CLOSED}
    world.links(is_up=True)
    assert len(world.kit.channels[1].open) == 4
    rates = []
    for _ in range(6):
        before = len(world.sent())
        world.live(1.0)
        rates.append(len(world.sent()) - before)
    assert rates[0] < rates[1] < rates[2] < rates[3] < rates[4]
    assert rates[0] <= 50
    assert rates[5] >= 500


def test_login_codes_do_not_wait_for_a_start() -> None:
    world = World(channels=1, window=64)
    world.links(is_up=False)
    world.many(4000, TRANSACTIONAL)
    otp = world.many(50, OTP)
    world.links(is_up=True)
    assert {submit.message.id for submit in world.kit.channels[1].open} >= {m.id for m in otp}
    assert len(world.kit.channels[1].open) <= 54


def test_few_that_waited_start_nothing() -> None:
    world = World(channels=1, window=64)
    world.links(is_up=False)
    world.many(50, TRANSACTIONAL)
    world.links(is_up=True)
    assert len(world.kit.channels[1].open) == 50


def test_all_left_one_at_a_time_tries_the_least_bad_and_nothing_fails() -> None:
    world = World(channels=2, window=64)
    world.kit.dispatcher.link_changed(2, is_up=False)
    world.answers = Rejected("8", Cause.UNKNOWN, "carrier.unknown")
    hung = world.kit.channels[1]
    world.many(200, TRANSACTIONAL)
    assert len(hung.open) == 56
    stuck, hung.open = hung.open, []
    hung.size = 0  # nothing is answered and no slot is free
    world.kit.channels[1].waiting = lambda: stuck  # type: ignore[method-assign]
    for _ in range(120):
        world.kit.clock.now += 0.1
        world.kit.dispatcher.tick()
    assert world.kit.dispatcher.channels[1].watch.state() is BreakerState.OPEN
    hung.size = 64
    before = len(hung.seen)
    world.kit.dispatcher.pump(1)
    world.kit.events.flush()
    assert len(hung.seen) == before + 1  # of all that wait, with all slots free


def test_after_a_short_outage_too_what_waited_goes_by_class() -> None:
    """No breaker opened. What comes later takes turns again, so that nobody starves."""
    world = World(channels=1, window=8)
    world.links(is_up=False)
    marketing, transactional = world.many(30, MARKETING), world.many(30, TRANSACTIONAL)
    world.live(0.5)
    world.links(is_up=True)
    world.live(0.5)
    later = world.many(30, TRANSACTIONAL)
    world.live(60.0)
    sent = world.sent()
    assert sent[:30] == transactional
    assert sent[30:] != later + marketing
    assert len(sent) == 90


def test_what_goes_back_first_keeps_its_order() -> None:
    kit = Kit(channels=1, window=4)
    kit.dispatcher.link_changed(1, is_up=False)
    messages = [kit.message() for _ in range(20)]
    kit.accept(*messages)
    again = [kit.message() for _ in range(5)]
    for message in again:
        kit.lanes.reserve(message.message_class, 1)
    kit.ledger.took(again)
    kit.dispatcher.put(again, first=True)
    kit.dispatcher.link_changed(1, is_up=True)
    kit.events.flush()
    while kit.channels[1].open:
        kit.answer(1, Submitted("x"))
        kit.clock.now += 1.0
    assert [one.message for one in kit.channels[1].seen] == again + messages


def test_what_a_carrier_failed_goes_first_by_age_when_what_waits_is_chosen_again() -> None:
    """More than is moved in one turn; its timers run as the loop would run them."""
    kit = Kit(channels=2, window=8)
    kit.dispatcher.link_changed(2, is_up=False)
    kit.channels[1].size = 0
    messages = [kit.message() for _ in range(2500)]
    failed = messages[100:1400]
    for message in failed:
        message.attempt, message.tried = 1, (9,)
    kit.accept(*(message for message in messages if not message.attempt))
    for message in failed:
        kit.lanes.reserve(message.message_class, 1)
    kit.ledger.took(failed)
    kit.clock.now += 1.0
    for start in (0, 500, 1000):  # they came back in another order
        kit.dispatcher.put(failed[start : start + 500], first=True)
    kit.dispatcher.link_changed(2, is_up=True)
    kit.channels[2].size = 0
    kit.dispatcher.link_changed(1, is_up=False)
    while kit.timers:
        kit.timers.pop(0)[1]()
    waiting = kit.lanes.lane(2).queue(TRANSACTIONAL)
    assert list(waiting) == failed + [message for message in messages if not message.attempt]


def left(world: World, number: int) -> None:
    """The channel hangs until its breaker opens; what it has stays unanswered."""
    adapter = world.kit.channels[number]
    runtime = world.kit.dispatcher.channels[number]
    world.many(20, TRANSACTIONAL)
    for _ in range(130):
        world.kit.clock.now += 0.1
        world.kit.dispatcher.tick()
        world.kit.events.flush()
    assert runtime.watch.state() is BreakerState.OPEN
    adapter.open = []


@pytest.mark.parametrize("is_remote", [False, True])
def test_what_waits_for_the_least_bad_goes_to_any_other_that_comes_up(is_remote: bool) -> None:
    """Nothing waits behind a channel that is left once there is a better one."""
    world = World(channels=2, window=64)
    kit = world.kit
    kit.dispatcher.link_changed(2, is_up=False)
    left(world, 1)
    waiting = world.many(30, TRANSACTIONAL)
    assert kit.lanes.lane(1).size() == 29  # one tries it
    if is_remote:
        kit.dispatcher.channels[2].was_up = False
        kit.dispatcher.remote = FakeRemote({2})  # type: ignore[assignment]
        kit.dispatcher.remote_changed([2], [])
        assert kit.lanes.lane(2).size() == 29
        return
    kit.dispatcher.link_changed(2, is_up=True)
    kit.events.flush()
    assert [one.message for one in kit.channels[2].seen] == waiting[1:]


def test_what_waits_before_a_half_open_channel_does_not_stay_when_another_is_well() -> None:
    world = World(channels=2, window=64)
    kit = world.kit
    kit.dispatcher.link_changed(2, is_up=False)
    left(world, 1)
    waiting = world.many(60, TRANSACTIONAL)
    kit.channels[1].open = []
    while kit.dispatcher.channels[1].watch.state() is not BreakerState.HALF_OPEN:
        kit.clock.now += 0.1
        kit.dispatcher.tick()
        kit.events.flush()
    kit.dispatcher.link_changed(2, is_up=True)
    kit.events.flush()
    gone = len(kit.channels[1].open) + kit.lanes.lane(1).size()
    assert gone <= 25  # what tries it, and as many that wait to
    assert len(kit.channels[2].seen) + gone >= len(waiting) - 1  # one was tried before
