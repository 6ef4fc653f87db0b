"""A twin wherever a template's messages may go, found when it is configured."""

from typing import Any

import pytest

from gateway import templatefit
from gateway.templatefit import crowded, lacks, needed_by

ALI: dict[str, Any] = {"demands_template": True}
PLAIN: dict[str, Any] = {}


def route(*channels, tenant="*", of="*", carrier="*", country=0):
    return {
        "tenant": tenant, "class": of, "carrier": carrier, "country": country,
        "channels": list(channels),
    }  # fmt: skip


def template(*twins, tenant="*", of="otp"):
    return {"tenant": tenant, "class": of, "twins": {key: {"code": "1"} for key in twins}}


def missing(channels, routes, **templates):
    return [(one.template, one.route, one.channel) for one in lacks(channels, routes, templates)]


CHANNELS = {"ali": ALI, "ten": ALI, "smpp": PLAIN}


def test_a_backup_without_a_twin_is_named_with_template_route_and_remedy():
    routes = {"r": route("smpp", "ali", "ten")}
    [lack] = lacks(CHANNELS, routes, {"t": template("ali")})
    assert (lack.template, lack.route, lack.channel) == ("t", "r", "ten")
    assert "`twins`" in lack.detail
    assert not missing(CHANNELS, routes, t=template("ali", "ten"))
    assert not missing(CHANNELS, {"r": route("smpp")}, t=template())


@pytest.mark.parametrize(
    ("routed", "templated", "is_reached"),
    [
        ({"tenant": "shop"}, {"tenant": "shop"}, True),
        ({"tenant": "shop"}, {"tenant": "bank"}, False),
        ({"tenant": "shop"}, {"tenant": "*"}, True),
        ({"tenant": "*"}, {"tenant": "shop"}, True),
        ({"of": "otp"}, {}, True),
        ({"of": "marketing"}, {}, False),
        ({"country": 1}, {}, True),
        ({"carrier": "CM", "country": 86}, {}, True),
    ],
)
def test_only_routes_that_its_messages_take(routed, templated, is_reached):
    found = missing(CHANNELS, {"r": route("ali", **routed)}, t=template(**templated))
    assert bool(found) is is_reached


def test_a_more_exact_route_takes_its_messages_away():
    wide = {"wide": route("ali")}
    own = {"own": route("smpp", tenant="shop")}
    assert not missing(CHANNELS, wide | own, t=template(tenant="shop"))
    assert missing(CHANNELS, wide | own, t=template(tenant="*"))  # others go there
    assert missing(CHANNELS, wide | own, t=template(tenant="bank"))
    mainland = {"m": route("smpp", country=86)}
    assert missing(CHANNELS, wide | mainland, t=template())  # a number abroad
    abroad = {"a": route("ali", country=1), "o": route("smpp")}
    assert missing(CHANNELS, abroad | mainland, t=template()) == [("t", "a", "ali")]
    networks = {word: route("smpp", carrier=word) for word in ("CM", "CU", "CT", "CB", "other")}
    assert not missing(CHANNELS, wide | networks, t=template())


def test_a_channel_that_does_not_serve_the_message_needs_no_twin():
    for fields in ({"classes": ["marketing"]}, {"carriers": ["CM"]}, {"countries": [1]}):
        channels = {"ali": {**ALI, **fields}}
        at = {"r": route("ali", carrier="CU", country=86)}
        assert not missing(channels, at, t=template())
    assert missing({"ali": {**ALI, "countries": [1]}}, {"r": route("ali")}, t=template())


def test_the_last_template_of_a_route_that_sends_nothing_else_is_needed():
    routes = {"only": route("ali", "ten", of="otp"), "mixed": route("smpp", "ali")}
    both = {"a": template("ali", "ten"), "b": template("ali", "ten", tenant="shop")}
    assert needed_by(CHANNELS, routes, both, "a") == "only"  # others than shop have no other one
    assert needed_by(CHANNELS, routes, both, "b") is None
    more = both | {"c": template("ali", "ten")}
    assert needed_by(CHANNELS, routes, more, "a") is None
    assert needed_by(CHANNELS, {"mixed": routes["mixed"]}, both, "a") is None
    other = both | {"c": template("ali", "ten", of="marketing")}
    assert needed_by(CHANNELS, routes, other, "a") == "only"


def test_who_has_more_templates_than_a_text_is_compared_with_in_time(monkeypatch):
    monkeypatch.setattr(templatefit, "MAX_TEMPLATES", 2)
    known = {str(place): template(tenant="shop") for place in range(2)}
    assert crowded(known | {"x": template(), "y": template(tenant="bank")}) == []
    assert crowded(known | {"x": template(tenant="shop")}) == ["shop"]
