"""Which channels fit a route and each other, and what goes to a carrier that signs itself."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.opt_out import line_for
from gateway.routefit import clashes, misfits, on_air
from sms.config import Channel, Route, Snapshot
from sms.model import Carrier, Encoding, MessageClass

CLASSES = [str(word) for word in MessageClass]


def route(*channels, of="*", carrier="*", country=0):
    return {"class": of, "carrier": carrier, "country": country, "channels": list(channels)}


def channel(**fields):
    return {"classes": CLASSES, **fields}


@pytest.mark.parametrize(
    ("fields", "asked", "field"),
    [
        ({"classes": ["otp"]}, {"of": "marketing"}, "classes"),
        ({"carriers": ["CM", "CB"]}, {"carrier": "CU"}, "carriers"),
        ({"countries": [86]}, {"country": 1}, "countries"),
    ],
)
def test_a_channel_that_cannot_take_what_a_route_is_for(fields, asked, field):
    channels = {"a": channel(), "b": channel(**fields)}
    [wrong] = misfits(channels, {"r": route("a", "b", **asked)})
    assert (wrong.route, wrong.channels, wrong.field, wrong.place) == ("r", ("b",), field, 1)
    assert f"add it to its `{field}`" in wrong.detail
    assert not list(misfits(channels, {"r": route("a", "b")}))  # for all: each takes its own


def test_a_channel_without_a_word_on_it_takes_everything():
    channels = {"a": channel()}
    for carrier, country in itertools.product(("*", "CM", "other"), (0, 86, 1)):
        assert not list(misfits(channels, {"r": route("a", carrier=carrier, country=country)}))


@pytest.mark.parametrize(
    ("first", "second", "asked", "field"),
    [
        ({"opt_out_line": "退订回T"}, {}, {}, "opt_out_line"),
        ({"opt_out_line": "退订回T"}, {}, {"of": "otp"}, None),
        ({"opt_out_line": "退订回T", "carriers": ["CM"]}, {"carriers": ["CU", "CT"]}, {}, None),
        (
            {"opt_out_line": "退订回T", "carriers": ["CM"]}, {"carriers": ["CM", "CT"]}, {},
            "opt_out_line",
        ),
        ({"opt_out_line": "x", "countries": [86]}, {"countries": [1]}, {}, None),
        ({"opt_out_line": ""}, {}, {"country": 1}, None),
        ({"encodings": ["ucs2"]}, {}, {}, "encodings"),
        ({"encodings": ["ucs2"]}, {}, {"country": 86}, None),  # the mainland is always UCS-2
        ({"encodings": ["ucs2"]}, {}, {"carrier": "CM"}, None),
        ({"encodings": ["ucs2"]}, {}, {"country": 1}, "encodings"),
        ({"encodings": ["ucs2"]}, {"encodings": ["ucs2"]}, {}, None),
        ({"encodings": ["ucs2"]}, {"protocol": "cmpp3"}, {}, None),
        ({}, {"protocol": "smgp"}, {}, None),  # the text is UCS-2 then
        ({"encodings": ["ucs2", "gsm7"]}, {}, {}, None),
        ({"encodings": ["ucs2"], "carriers": ["CM"]}, {}, {}, None),
        ({"encodings": ["ucs2"], "countries": [86]}, {}, {}, None),
        ({"signature_by": "carrier"}, {}, {}, None),
    ],
)  # fmt: skip
def test_the_channels_of_a_route_share_their_text_profile(first, second, asked, field):
    channels = {"a": channel(**first), "b": channel(**second)}
    found = list(clashes(channels, {"r": route("a", "b", **asked)}))
    assert [wrong.field for wrong in found] == ([field] if field else [])


def test_a_clash_of_the_second_and_the_third_is_found_too():
    channels = {
        "a": channel(carriers=["CM"]),
        "b": channel(carriers=["CU"], opt_out_line="x"),
        "c": channel(carriers=["CU"]),
    }
    [wrong] = clashes(channels, {"r": route("a", "b", "c")})
    assert set(wrong.channels) == {"b", "c"}


SPECS = st.fixed_dictionaries(
    {"classes": st.just(CLASSES)},
    optional={
        "opt_out_line": st.sampled_from(["", "退订回T", "拒收请回复R"]),
        "encodings": st.sampled_from([["ucs2"], ["gsm7", "ucs2"]]),
        "carriers": st.lists(st.sampled_from([str(c) for c in Carrier]), min_size=1, unique=True),
        "countries": st.lists(st.sampled_from([86, 1, 44]), min_size=1, unique=True),
    },
)


@given(
    st.lists(SPECS, min_size=1, max_size=4),
    st.sampled_from(["*", "CM", "other"]),
    st.sampled_from([0, 86, 1]),
)
def test_what_passes_gives_every_message_one_text(specs, carrier, country):
    """The promise itself, on the objects that run: any two channels a message may take agree."""
    names = [f"c{index}" for index in range(len(specs))]
    channels = dict(zip(names, specs, strict=True))
    asked = route(*names, carrier=carrier, country=country)
    if list(clashes(channels, {"r": asked})) or list(misfits(channels, {"r": asked})):
        return
    running = {number: run(number, spec) for number, spec in enumerate(specs, 1)}
    network = None if carrier == "*" else Carrier(carrier)
    snapshot = Snapshot(
        channels=running, routes=(Route(1, 0, None, network, country, tuple(running)),)
    )
    # A mainland number has its network, every other one is `other`.
    for of, where in ((Carrier.CM, 86), (Carrier.OTHER, 1), (Carrier.OTHER, 44)):
        able = snapshot.channels_for(1, MessageClass.MARKETING, of, where)
        if country == 0 and where != 86:
            lines = {line_for(running[n].opt_out_line, 86) for n in able}
        else:
            lines = {line_for(running[n].opt_out_line, where) for n in able}
        assert len(lines) <= 1
        if where != 86:
            assert len({running[n].encodings for n in able}) <= 1


def run(number, spec):
    return Channel(
        number,
        f"c{number}",
        "smpp",
        {},
        opt_out_line=spec.get("opt_out_line"),
        encodings=frozenset(Encoding(w) for w in spec.get("encodings", Encoding)),
        carriers=frozenset(map(Carrier, spec["carriers"])) if "carriers" in spec else None,
        countries=frozenset(spec["countries"]) if "countries" in spec else None,
    )


def test_a_message_goes_to_those_that_can_take_it_in_the_routes_order():
    channels = {
        1: run(1, {"carriers": ["CM"]}),
        2: run(2, {"carriers": ["CU", "CT"]}),
        3: run(3, {"countries": [1]}),
        4: run(4, {}),
    }
    snapshot = Snapshot(channels=channels, routes=(Route(1, 0, None, None, 0, (3, 2, 1, 4)),))
    otp = MessageClass.OTP
    assert snapshot.channels_for(1, otp, Carrier.CM, 86) == (1, 4)
    assert snapshot.channels_for(1, otp, Carrier.CT, 86) == (2, 4)
    assert snapshot.channels_for(1, otp, Carrier.OTHER, 1) == (3, 4)
    assert Snapshot(channels=channels).channels_for(1, otp, Carrier.CM, 86) == ()


def test_what_is_in_force_without_a_new_session_makes_no_other_channel():
    plain = run(1, {})
    assert plain == run(1, {"carriers": ["CM"], "countries": [86]})
    assert plain != run(1, {"encodings": ["ucs2"]})


@pytest.mark.parametrize(
    ("texts", "sent"),
    [
        (("【某商城】你好",), ("你好",)),
        (("【某商城】第一段", "第二段【x】"), ("第一段", "第二段【x】")),
        (("hello",), ("hello",)),
        (("【某商城】",), ("【某商城】",)),  # nothing else: an empty segment is none
        (("【某商城", "】x"), ("【某商城", "】x")),
    ],
)
def test_a_carrier_that_signs_itself_gets_the_text_without(texts, sent):
    assert on_air(texts) == sent
