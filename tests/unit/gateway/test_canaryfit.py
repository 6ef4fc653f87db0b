"""What a live canary holds still, and what its channels and its route's must stand together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.canaryfit import canary_lacks, canary_misfits, lack_detail
from gateway.canaryspec import aborted, new_canary
from gateway.document import Surroundings, check_value
from gateway.protocols import PROTOCOLS
from sms.model import MessageClass
from webhooks.address import AllowList

CLASSES = sorted(str(word) for word in MessageClass)
NOW = 1_800_000_000.0
ROUTE: dict[str, Any] = {
    "tenant": "*", "class": "*", "carrier": "*", "country": 0, "channels": ["old"],
}  # fmt: skip
NAME = "*/*/*/*"
TRIAL = new_canary(NAME, ["new", "old"], "old", NOW)


def channel(name: str = "", **fields: Any) -> dict[str, Any]:
    settings = {"host": "h", "port": 2775, "system_id": name}
    return {"protocol": "smpp", "settings": settings, "classes": CLASSES, **fields}


def entry(name: str, **fields: Any) -> dict[str, Any]:
    own = {"host": "h", "port": 2775, "system_id": name, "password": "p"}
    return {"name": name, "protocol": "smpp", **own, **fields}


@pytest.mark.parametrize(
    ("candidate", "asked", "field"),
    [
        ({}, {}, None),
        ({"classes": ["otp"]}, {"class": "marketing"}, "classes"),
        ({"carriers": ["CM"]}, {"carrier": "CU"}, "carriers"),
        ({"carriers": ["CM"]}, {}, None),  # the others stay with the route
        ({"opt_out_line": "退订回T"}, {}, "opt_out_line"),
        ({"reference_bits": 16}, {}, "reference_bits"),
        ({"protocol": "cmpp3"}, {}, "countries"),
        ({"protocol": "cmpp3", "countries": [86]}, {}, None),
        ({"protocol": "cmpp3"}, {"country": 86}, None),  # always UCS-2 there
    ],
)
def test_a_candidate_is_checked_with_the_route_s_own(candidate, asked, field) -> None:
    channels = {"old": channel("old"), "new": channel("new", **candidate)}
    found = list(canary_misfits(channels, {NAME: {**ROUTE, **asked}}, {"trial": TRIAL}))
    assert [one.field for one in found] == ([field] if field else [])
    assert all("new" in one.channels and one.route == "trial" for one in found)


def test_a_route_whose_texts_are_cut_for_ucs2_already_may_try_another_such_channel() -> None:
    channels = {"old": channel(protocol="cmpp3"), "new": channel(protocol="smgp")}
    assert not list(canary_misfits(channels, {NAME: ROUTE}, {"trial": TRIAL}))


def test_a_twin_that_only_the_candidate_lacks_is_named() -> None:
    channels = {"old": channel(), "new": channel(demands_template=True)}
    templates = {"*/code": {"tenant": "*", "class": "otp", "twins": {}}}
    [lack] = canary_lacks(channels, {NAME: ROUTE}, {"trial": TRIAL}, templates)
    assert (lack.template, lack.channel) == ("*/code", "new")
    assert "abort the canary" in lack_detail(lack)
    whole = {NAME: {**ROUTE, "channels": ["old", "new"]}}
    assert not canary_lacks(channels, whole, {"trial": TRIAL}, templates)  # the route's own lack


def complaints(known: dict[str, Any], **sections: Any) -> list[tuple[str, str]]:
    standing = {
        ("channel", "old"): channel("old"),
        ("channel", "new"): channel("new"),
        ("channel", "third"): channel("third"),
        ("route", NAME): ROUTE,
        ("canary", "trial"): known,
    }
    around = Surroundings(Path(), standing, PROTOCOLS, AllowList())
    _, found = check_value(sections, around)
    return [(one.pointer, one.code) for one in found]


def test_a_file_does_not_change_a_route_that_a_canary_is_live_on() -> None:
    changed, same = {"channels": ["old", "third"]}, {"channels": ["old"]}
    refused = [("/routes/0/channels", "canary.live")]
    assert complaints(TRIAL, routes=[changed]) == refused
    assert complaints(TRIAL, routes=[{**same, "weights": [1]}]) == refused
    assert complaints(TRIAL, routes=[same]) == []
    assert complaints(TRIAL, routes=[{**changed, "class": "otp"}]) == []  # another route
    assert complaints(aborted(TRIAL, NOW), routes=[changed]) == []


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_file_does_not_make_a_channel_of_a_live_canary_unfit(name: str) -> None:
    wide = entry(name, reference_bits=16)
    assert ("/channels/0/reference_bits", "route.misfit") in complaints(TRIAL, channels=[wide])
    # alone in its route it may
    assert complaints(aborted(TRIAL, NOW), channels=[wide]) == []


def test_a_file_says_no_canaries_and_is_told_where_they_are_made() -> None:
    _, found = check_value({"canaries": []}, Surroundings(Path(), {}, PROTOCOLS, AllowList()))
    assert [one.pointer for one in found] == ["/canaries"]
    assert "POST /v1/canaries" in found[0].detail
