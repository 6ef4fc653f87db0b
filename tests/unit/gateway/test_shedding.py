"""Intake closes by class and by route; on fakes with simulated time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backlog import Backlog
from gateway.settings import Reliability
from gateway.shedding import Refusal, Shedding
from sms import config
from sms.model import Carrier, Message, MessageClass
from tests.support.flow_kit import Kit

OTP, TRANSACTIONAL, MARKETING = MessageClass.OTP, MessageClass.TRANSACTIONAL, MessageClass.MARKETING
RATE = 10.0
ROUTES = ((1, 2), (3, 4))  # of the carriers CM and CU
LIMITS = Reliability(
    shed_held_marketing_s=1,
    shed_held_transactional_s=2,
    shed_held_otp_s=3,
    shed_queue_s=10,
    shed_storage_share=1,
)


class World:
    """Four channels of ten segments a second, two routes of a carrier each."""

    def __init__(self) -> None:
        self.kit = kit = Kit(channels=4, window=4)
        kit.lanes._limits = dict.fromkeys(MessageClass, 20)
        channels = {
            number: config.Channel(
                number,
                f"c{number}",
                "smpp",
                {},
                classes=frozenset(MessageClass),
                segments_per_second=RATE,
            )
            for number in kit.channels
        }
        routes = [
            config.Route(number, 0, None, carrier, 0, ROUTES[number - 1])
            for number, carrier in ((1, Carrier.CM), (2, Carrier.CU))
        ]
        snapshot = config.Snapshot(version=2, channels=channels, routes=tuple(routes))
        kit.dispatcher.reconfigure(snapshot)
        self.backlog = Backlog(
            lanes=kit.lanes,
            ledger=kit.ledger,
            dispatcher=kit.dispatcher,
            reader=None,  # type: ignore[arg-type]
            metrics=kit.metrics,
            policy=None,  # type: ignore[arg-type]
            unix=kit.clock.unix,
            monotonic=kit.clock.monotonic,
        )
        self.shedding = Shedding(
            limits=LIMITS,
            backlog=self.backlog,
            lanes=kit.lanes,
            dispatcher=kit.dispatcher,
            data_dir=Path("/"),
            monotonic=kit.clock.monotonic,
        )

    def links(self, *numbers: int, is_up: bool) -> None:
        for number in numbers:
            self.kit.dispatcher.link_changed(number, is_up=is_up)

    def message(self, cls: MessageClass, carrier: Carrier = Carrier.CM) -> Message:
        message = self.kit.message(cls)
        message.carrier = carrier
        return message

    def accept(self, count: int, cls: MessageClass, carrier: Carrier = Carrier.CM) -> None:
        """As after the commit: some stay in memory, the rest is spilled."""
        messages = [self.message(cls, carrier) for _ in range(count)]
        self.kit.lanes.reserve(cls, count)
        self.backlog.accepted(messages)
        self.kit.events.flush()

    def refused(
        self, carrier: Carrier = Carrier.CM, accepting: int = 1
    ) -> dict[MessageClass, Refusal]:
        self.kit.clock.now += 1.0
        self.shedding.refresh(
            is_writable=True,
            is_store_full=False,
            write_age_s=0.0,
            loop_lag_s=0.0,
            accepting=accepting,
        )
        assert not self.shedding.closed
        found = {}
        for cls in MessageClass:
            why = self.shedding.route_full(self.message(cls, carrier))
            if why is not None:
                found[cls] = why
        return found


def test_marketing_is_refused_first_and_otp_last_while_all_channels_are_down() -> None:
    world = World()
    world.links(1, 2, is_up=False)
    assert world.refused() == {}
    world.accept(10, MARKETING)
    assert world.refused() == {}
    world.accept(1, MARKETING)  # more than a second's
    assert world.refused().keys() == {MARKETING}
    world.accept(20, TRANSACTIONAL)
    assert world.refused().keys() == {MARKETING}
    world.accept(1, TRANSACTIONAL)  # more than two seconds', whatever marketing waits
    assert world.refused().keys() == {MARKETING, TRANSACTIONAL}
    world.accept(31, OTP)
    refused = world.refused()
    assert refused.keys() == set(MessageClass)
    assert world.backlog.spill.total > 0  # what is spilled counts
    assert {why[0] for why in refused.values()} == {"shed.no_channel"}
    assert [refused[cls][2] for cls in (OTP, TRANSACTIONAL, MARKETING)] == [5, 15, 60]


def test_who_has_another_route_is_not_refused() -> None:
    world = World()
    world.links(1, 2, is_up=False)
    world.accept(200, OTP)
    assert world.refused().keys() == set(MessageClass)
    assert world.refused(Carrier.CU) == {}
    world.links(3, 4, is_up=False)  # now both wait, each for its own channels
    world.accept(5, MARKETING, Carrier.CU)
    assert world.refused(Carrier.CU) == {}


def test_it_opens_again_with_a_channel_that_takes_messages() -> None:
    world = World()
    world.links(1, 2, is_up=False)
    world.accept(40, TRANSACTIONAL)
    assert world.refused().keys() == {MARKETING, TRANSACTIONAL}
    world.links(2, is_up=True)
    assert world.refused() == {}


def test_a_backup_that_is_too_slow_for_its_queue_is_said() -> None:
    """Ten seconds of its own rate, not of all four channels'."""
    world = World()
    world.links(1, is_up=False)
    world.accept(104, TRANSACTIONAL)  # four of them are under way
    assert world.refused() == {}
    world.accept(1, TRANSACTIONAL)
    refused = world.refused()
    assert refused.keys() == {MARKETING}
    assert refused[MARKETING][0] == "shed.queue_full"


def test_who_has_an_idle_channel_is_not_refused_for_what_waits_at_its_backup() -> None:
    """2 is the first channel of CU's route, and the backup of CM's, whose own has nothing to do."""
    world = World()
    dispatcher = world.kit.dispatcher
    own, others = dispatcher.snapshot.routes
    shared = (own, replace(others, channels=(2, 3)))
    dispatcher.reconfigure(replace(dispatcher.snapshot, version=3, routes=shared))
    world.kit.lanes._limits = dict.fromkeys(MessageClass, 1000)
    world.accept(400, TRANSACTIONAL, Carrier.CU)
    waiting = world.kit.lanes.lane(2).size()
    assert min(waiting, world.backlog.spill.total) > 100  # in its lane, and spilled
    assert world.refused(Carrier.CU).keys() >= {MARKETING, TRANSACTIONAL}
    assert world.refused() == {}
    world.links(1, is_up=False)  # now it waits behind them
    assert world.refused().keys() >= {MARKETING, TRANSACTIONAL}


def test_a_carrier_that_throttles_takes_messages_all_the_same() -> None:
    world = World()
    world.links(2, is_up=False)
    world.kit.dispatcher.channels[1].crowded = frozenset(MessageClass)
    world.accept(60, TRANSACTIONAL)
    assert world.refused() == {}


def test_of_several_processes_each_has_its_part() -> None:
    world = World()
    world.links(1, 2, is_up=False)
    world.accept(8, MARKETING)
    assert world.refused() == {}
    assert world.refused(accepting=2).keys() == {MARKETING}


@given(
    otp=st.integers(0, 60), transactional=st.integers(0, 60), marketing=st.integers(0, 60),
    is_up=st.booleans(),
)  # fmt: skip
def test_no_class_is_refused_before_a_lesser_one(
    otp: int, transactional: int, marketing: int, is_up: bool
) -> None:
    world = World()
    world.links(1, 2, is_up=False)
    for count, cls in ((otp, OTP), (transactional, TRANSACTIONAL), (marketing, MARKETING)):
        world.accept(count, cls)
    world.links(2, is_up=is_up)
    refused = world.refused().keys()
    if OTP in refused:
        assert TRANSACTIONAL in refused
    if TRANSACTIONAL in refused:
        assert MARKETING in refused


def test_settings_say_the_order_of_classes() -> None:
    with pytest.raises(ValueError, match="shed_held"):
        Reliability(shed_held_otp_s=10)
