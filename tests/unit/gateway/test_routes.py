"""A message's channels in its own order: the weights of its route, what serves it, its text."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routes import Routes, in_turn
from sms.config import Canary, CanaryState, Channel, Route, Snapshot
from sms.model import Carrier, MessageClass
from sms.outcomes import Submitted
from sms.templates import Template, Twin
from tests.support.flow_kit import Kit

OTP = MessageClass.OTP
NUMBERS = [f"86138{number:08d}" for number in range(2000)]
LIMITED = st.builds(
    lambda number, carriers, demands: Channel(
        number, str(number), "smpp", {}, carriers=carriers, demands_template=demands
    ),
    st.integers(1, 4),
    st.none() | st.frozensets(st.sampled_from([Carrier.CM, Carrier.CU]), min_size=1),
    st.booleans(),
)


def snapshot(*weights, channels=(1, 2, 3), limits=(), **more):
    known = {number: Channel(number, f"c{number}", "smpp", {}) for number in channels}
    known |= {one.id: one for one in limits}
    route = Route(1, 0, None, None, 0, channels, weights)
    return Snapshot(1, channels=known, routes=(route,), **more)


def messages(kit, count=2000, **fields):
    return [replace(kit.message(**fields), number=number) for number in NUMBERS[:count]]


def firsts(routes, some):
    found = [routes.of(message)[0] for message in some]
    return {one: found.count(one) / len(found) for one in set(found)}


def test_without_weights_the_first_is_everybody_s_and_found_in_one_look_up():
    kit, routes = Kit(), Routes()
    routes.use(snapshot())
    assert {routes.of(message) for message in messages(kit, 50)} == {(1, 2, 3)}
    assert list(routes._known.values()) == [(1, 2, 3)]


def test_weights_share_the_numbers_and_a_number_stays():
    kit, routes = Kit(), Routes()
    routes.use(snapshot(70, 30))
    some = messages(kit)
    assert firsts(routes, some) == pytest.approx({1: 0.7, 2: 0.3}, abs=0.03)
    before = [routes.of(message) for message in some]
    assert {*before} == {(1, 2, 3), (2, 1, 3)}
    routes.use(snapshot(70, 30))  # the same after a restart, and in another process
    assert [routes.of(message) for message in messages(kit)] == before
    known = some[0]
    key = (known.tenant, known.message_class, known.carrier, known.country)
    assert routes.channels_for(*key) == (1, 2, 3)  # of a number that is not known


def test_the_share_of_a_channel_that_cannot_take_a_message_is_the_others():
    kit, routes = Kit(), Routes()
    routes.use(snapshot(50, 30, 20, limits=[Channel(1, "c1", "smpp", {}, carriers=frozenset())]))
    assert firsts(routes, messages(kit)) == pytest.approx({2: 0.6, 3: 0.4}, abs=0.04)
    routes.use(snapshot(100, limits=[Channel(1, "c1", "smpp", {}, carriers=frozenset())]))
    assert firsts(routes, messages(kit, 50)) == {2: 1.0}


def test_a_text_without_a_twin_is_shared_by_those_that_can_say_it():
    kit, routes = Kit(), Routes()
    code = Template(1, "code", 0, OTP, "code {x}", {1: Twin("S1", ("x",))})
    vendor = Channel(1, "c1", "aliyun", {}, demands_template=True)
    routes.use(snapshot(50, 30, 20, limits=[vendor], templates={1: code}))
    plain = messages(kit, cls=OTP, texts=("hello",))
    assert firsts(routes, plain) == pytest.approx({2: 0.6, 3: 0.4}, abs=0.04)
    templated = messages(kit, cls=OTP, texts=("code 1",))
    assert firsts(routes, templated) == pytest.approx({1: 0.5, 2: 0.3, 3: 0.2}, abs=0.04)
    before = [routes.of(message) for message in templated]
    for message in templated:
        message.texts = ("",)  # taken by a carrier, and dropped
    assert [routes.of(message) for message in templated] == before


@given(
    st.lists(LIMITED, max_size=4),
    st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True).map(tuple),
    st.lists(st.integers(0, 9), max_size=4).map(tuple),
    st.sampled_from(NUMBERS),
)
def test_every_order_is_told_to_what_waits_and_seen_the_same_from_outside(
    limits, channels, weights, number
):
    found = snapshot(*weights, channels=channels, limits=limits)
    routes, message = Routes(), replace(Kit(0).message(), number=number)
    routes.use(found)
    own = routes.of(message)
    assert own == () or own in found.choices(message.message_class)
    key = (message.tenant, message.message_class, message.carrier, message.country)
    assert in_turn(found, key, number, "".join(message.texts)) == own


def test_a_message_s_own_first_channel_is_its_primary():
    kit = Kit(3)
    kit.dispatcher.reconfigure(replace(kit.dispatcher.snapshot, routes=snapshot(70, 30).routes))
    some = messages(kit, 300)
    by_first = {
        first: [one for one in some if kit.dispatcher.routes.of(one)[0] == first]
        for first in (1, 2)
    }
    kit.accept(*by_first[2][:5])
    assert [len(kit.channels[number].seen) for number in (1, 2, 3)] == [0, 5, 0]
    assert not kit.metrics.failover_total.values  # the second of the route is theirs
    kit.dispatcher.link_changed(2, is_up=False)
    kit.accept(*by_first[1][:3], *by_first[2][5:9])
    assert len(kit.channels[1].seen) == 7
    assert kit.metrics.failover_total.values == {("c2", "c1", "link"): 4}


def canary(*channels, share=30, state=CanaryState.RUNNING, number=7, route=1):
    return Canary(number, "trial", route, channels, share, state, 0.0)


def test_a_share_of_the_numbers_is_on_the_canary_and_falls_back_on_the_primary():
    kit, routes = Kit(), Routes()
    routes.use(snapshot(channels=(1, 2, 3), canaries=(canary(3, 1, 2),)))
    some = messages(kit)
    assert firsts(routes, some) == pytest.approx({1: 0.7, 3: 0.3}, abs=0.04)
    assert {routes.of(message) for message in some} == {(1, 2, 3), (3, 1, 2)}
    key = (some[0].tenant, some[0].message_class, some[0].carrier, some[0].country)
    assert routes.channels_for(*key) == (1, 2, 3)  # of a number that is not known


def test_a_list_without_the_primary_has_it_as_the_first_backup_while_the_canary_lives():
    kit, routes = Kit(), Routes()
    known = [Channel(number, f"c{number}", "smpp", {}) for number in (3, 4, 5, 6)]
    routes.use(snapshot(channels=(1, 2), limits=known, canaries=(canary(3, 4, share=100),)))
    assert routes.of(kit.message()) == (3, 1, 4)
    crowded = canary(3, 4, 5, 6, share=100)
    routes.use(snapshot(channels=(1, 2), limits=known, canaries=(crowded,)))
    assert routes.of(kit.message()) == (3, 1, 4, 5)


def test_a_paused_canary_keeps_its_numbers_and_an_ended_one_has_none():
    kit, routes = Kit(), Routes()
    running = snapshot(canaries=(canary(3, 1, 2),))
    routes.use(running)
    before = [routes.of(message) for message in messages(kit)]
    routes.use(replace(running, canaries=(canary(3, 1, 2, state=CanaryState.PAUSED),)))
    assert [routes.of(message) for message in messages(kit)] == before
    routes.use(replace(running, canaries=()))
    assert {routes.of(message) for message in messages(kit, 200)} == {(1, 2, 3)}


def test_who_the_candidate_cannot_take_stays_with_the_route():
    kit, routes = Kit(), Routes()
    away = Channel(3, "c3", "smpp", {}, carriers=frozenset())
    routes.use(snapshot(channels=(1, 2), limits=[away], canaries=(canary(3, 1, share=100),)))
    assert routes.of(kit.message()) == (1, 2)
    code = Template(1, "code", 0, OTP, "code {x}", {3: Twin("S1", ("x",))})
    vendor = Channel(3, "c3", "aliyun", {}, demands_template=True)
    trial = canary(3, 2, share=100)
    routes.use(snapshot(channels=(1, 2), limits=[vendor], templates={1: code}, canaries=(trial,)))
    assert routes.of(kit.message(cls=OTP, texts=("hello",))) == (1, 2)
    said = kit.message(cls=OTP, texts=("code 1",))
    assert routes.of(said) == (3, 1, 2)
    said.texts = ("",)  # taken by a carrier, and dropped
    assert routes.of(said) == (3, 1, 2)


def test_a_canary_on_another_route_is_nobody_s_business_here():
    kit, routes = Kit(), Routes()
    routes.use(snapshot(canaries=(canary(3, 1, share=100, route=2),)))
    assert routes.of(kit.message()) == (1, 2, 3)
    assert list(routes._known.values()) == [(1, 2, 3)]  # and costs nothing


@given(
    st.lists(LIMITED, max_size=4),
    st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True).map(tuple),
    st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True).map(tuple),
    st.integers(0, 100),
    st.integers(0, 100),
    st.sampled_from(NUMBERS),
)
def test_a_canary_has_a_number_or_leaves_it_as_it_was(limits, channels, trial, share, more, number):
    plain = snapshot(channels=channels, limits=limits)
    routes, message = Routes(), replace(Kit(0).message(), number=number)
    routes.use(plain)
    own = routes.of(message)
    low, high = sorted((share, more))
    key = (message.tenant, message.message_class, message.carrier, message.country)
    on = []
    for version, percent in enumerate((low, high), start=2):
        found = replace(plain, version=version, canaries=(canary(*trial, share=percent),))
        routes.use(found)
        order = routes.of(message)
        assert order == () or order in found.choices(message.message_class)
        assert in_turn(found, key, number, "".join(message.texts)) == order
        on.append(order != own)
        if order != own:
            primary = routes.channels_for(*key)[:1]
            assert order[0] == trial[0]
            assert len(order) <= 4
            if primary and primary != trial[:1] and primary[0] in own:
                assert order[1:2] == primary
    assert not on[0] or on[1]  # who is on it stays on it as it grows


def test_the_candidate_is_the_primary_of_its_numbers_and_the_route_s_first_their_backup():
    kit = Kit(3)
    trial = replace(
        kit.dispatcher.snapshot,
        routes=snapshot(channels=(1, 2)).routes,
        canaries=(canary(3, 1, 2, share=100),),
    )
    kit.dispatcher.reconfigure(trial)
    some = messages(kit, 9)
    kit.accept(*some[:5])
    assert [len(kit.channels[number].seen) for number in (1, 2, 3)] == [0, 0, 5]
    assert not kit.metrics.failover_total.values
    kit.dispatcher.link_changed(3, is_up=False)
    kit.accept(*some[5:])
    assert len(kit.channels[1].seen) == 4
    assert kit.metrics.failover_total.values == {("c3", "c1", "link"): 4}


def on_three_of_three(**changes):
    """Twenty messages whose first channel is 3, which has room for four of them."""
    kit = Kit(3, window=4)
    known = replace(kit.dispatcher.snapshot, version=2, routes=snapshot(channels=(1, 2)).routes)
    kit.dispatcher.reconfigure(replace(known, **changes))
    kit.accept(*messages(kit, 20))
    assert [len(kit.channels[number].seen) for number in (1, 2, 3)] == [0, 0, 4]
    return kit, known


@pytest.mark.parametrize("end", [{}, {"canaries": (canary(3, 1, share=0),)}])
def test_what_waits_for_the_candidate_leaves_over_the_route_s_own_once_the_canary_ends(end):
    kit, known = on_three_of_three(canaries=(canary(3, 1, 2, share=100),))
    kit.dispatcher.reconfigure(replace(known, version=3, **end))
    kit.events.flush()
    assert kit.lanes.lane(3).size() == 0
    for _ in range(20):
        for number in (1, 3):
            if kit.channels[number].open:
                kit.answer(number, Submitted("x"))
    assert [len(kit.channels[number].seen) for number in (1, 2, 3)] == [16, 0, 4]
    assert not kit.metrics.failover_total.values  # nothing was wrong with a channel


@pytest.mark.parametrize("channels", [(1, 2), (1, 3)])
def test_what_waits_follows_its_route_s_change(channels):
    kit, known = on_three_of_three(routes=snapshot(channels=(3, 1)).routes)
    changed = snapshot(channels=channels).routes
    kit.dispatcher.reconfigure(replace(known, version=3, routes=changed))
    kit.events.flush()
    assert (kit.lanes.lane(1).size(), kit.lanes.lane(3).size()) == (12, 0)


def test_what_waits_stays_where_it_is_when_no_route_changed():
    kit, known = on_three_of_three(canaries=(canary(3, 1, share=100),))
    lane = kit.lanes.lane(3)
    paused = canary(3, 1, share=100, state=CanaryState.PAUSED)
    kit.dispatcher.reconfigure(replace(known, version=3, canaries=(paused,)))
    assert kit.lanes.lane(3) is lane
    assert lane.size() == 16


@given(st.lists(st.sampled_from(["none", "small", "whole"]), min_size=2, max_size=6))
def test_a_message_never_goes_to_a_channel_again_whatever_becomes_of_the_canary(history):
    shares = {"none": (), "small": (canary(3, 1, share=5),), "whole": (canary(3, 1, share=100),)}
    kit = Kit(3)
    message = kit.message()
    for version, stage in enumerate(history, start=2):
        found = replace(
            kit.dispatcher.snapshot,
            version=version,
            routes=snapshot(channels=(1, 2)).routes,
            canaries=shares[stage],
        )
        kit.dispatcher.reconfigure(found)
        channel = kit.dispatcher.choose(message)
        if channel is None:
            break
        assert channel not in message.tried
        message.tried = (*message.tried, channel)
    assert len(set(message.tried)) == len(message.tried)
