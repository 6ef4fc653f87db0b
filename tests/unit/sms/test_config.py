from hypothesis import given
from hypothesis import strategies as st

from sms.config import Burst, Channel, ClassLimit, Route, Snapshot, Tenant
from sms.model import Carrier, MessageClass

TENANTS = st.sampled_from([0, 1, 2])
CLASSES = st.sampled_from([None, MessageClass.OTP, MessageClass.MARKETING])
CARRIERS = st.sampled_from([None, Carrier.CM, Carrier.OTHER])
COUNTRIES = st.sampled_from([0, 1, 86])
ROUTES = st.lists(st.tuples(TENANTS, CLASSES, CARRIERS, COUNTRIES), max_size=12)


def slowly(routes, tenant, message_class, carrier, country):
    """The rule as it is written: of all that match, the most exact, the first of equals."""
    best, best_rank = None, -1
    for route in routes:
        wanted = (route.tenant, route.message_class, route.carrier, route.country)
        given_ = (tenant, message_class, carrier, country)
        if any(w not in (0, None) and w != g for w, g in zip(wanted, given_, strict=True)):
            continue
        exact = [w not in (0, None) for w in wanted]
        rank = 8 * exact[0] + 4 * exact[1] + 2 * exact[2] + exact[3]
        if rank > best_rank:
            best, best_rank = route, rank
    return best


@given(
    ROUTES,
    st.sampled_from([1, 2, 3]),
    st.sampled_from(list(MessageClass)),
    st.sampled_from(list(Carrier)),
    st.sampled_from([1, 44, 86]),
)
def test_the_index_finds_what_the_rule_says(keys, tenant, message_class, carrier, country):
    routes = tuple(
        Route(place, of, cls, network, land, (place,))
        for place, (of, cls, network, land) in enumerate(keys, 1)
    )
    found = Snapshot(routes=routes).route_for(tenant, message_class, carrier, country)
    assert found == slowly(routes, tenant, message_class, carrier, country)


def test_a_snapshot_equals_another_of_the_same_parts():
    assert Snapshot(version=1) == Snapshot(version=1)


def test_routes_over_the_same_channels_are_one_way():
    routes = (
        Route(1, 0, None, None, 0, (7, 8)),
        Route(2, 5, None, None, 0, (7, 8)),
        Route(3, 6, None, None, 0, (8, 7)),
    )
    ways = Snapshot(routes=routes).ways
    assert {channels: route.id for channels, route in ways.items()} == {(7, 8): 1, (8, 7): 3}


LIMITED = st.builds(
    lambda number, carriers, countries, classes: Channel(
        number, str(number), "smpp", {}, classes=classes, carriers=carriers, countries=countries
    ),
    st.integers(1, 4),
    st.none() | st.frozensets(st.sampled_from([Carrier.CM, Carrier.OTHER]), min_size=1),
    st.none() | st.frozensets(st.sampled_from([1, 86]), min_size=1),
    st.frozensets(st.sampled_from(list(MessageClass)), min_size=1),
)


@given(
    ROUTES,
    st.lists(LIMITED, max_size=4),
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True), min_size=12),
    st.sampled_from(list(MessageClass)),
    st.sampled_from(list(Carrier)),
    st.sampled_from([1, 44, 86]),
)
def test_every_choice_of_channels_is_among_those_told(
    keys, channels, lists, message_class, carrier, country
):
    routes = tuple(
        Route(place, of, cls, network, land, tuple(lists[place - 1]))
        for place, (of, cls, network, land) in enumerate(keys, 1)
    )
    snapshot = Snapshot(routes=routes, channels={channel.id: channel for channel in channels})
    found = snapshot.channels_for(1, message_class, carrier, country)
    assert found == () or found in snapshot.choices(message_class)


def test_a_burst_and_a_class_limit_from_what_is_stored():
    burst = Burst.of({"until": "2026-11-12T00:00:00+08:00", "segments_per_second": 5})
    assert burst == Burst(0.0, 1_794_412_800.0, 5.0, 10)
    full = {"from": "2026-11-11T00:00:00Z", "until": "2026-11-12T00:00:00Z"}
    burst = Burst.of({**full, "segments_per_second": 0.1, "burst_segments": 7})
    assert (burst.until - burst.since, burst.burst_segments) == (86_400.0, 7)
    limit = ClassLimit.of("otp", {"segments_per_second": 1_000_000})
    assert limit == ClassLimit(MessageClass.OTP, 1_000_000.0, 1_000_000)


def test_of_all_bursts_in_force_the_largest_counts_and_none_makes_a_limit_smaller():
    bursts = (Burst(10.0, 20.0, 50.0, 900), Burst(15.0, 30.0, 500.0, 60))
    tenant = Tenant(1, "a", segments_per_second=100.0, burst_segments=200, bursts=bursts)
    found = [tenant.limit_at(at) for at in (9.9, 10.0, 15.0, 20.0, 30.0)]
    assert found == [(100.0, 200), (100.0, 900), (500.0, 900), (500.0, 200), (100.0, 200)]
