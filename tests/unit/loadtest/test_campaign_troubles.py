"""Which troubles carriers are in at which fault, and what leads to their links."""

import json
from collections.abc import Mapping
from random import Random
from typing import cast

import pytest

from loadtest.campaign import __main__ as command
from loadtest.campaign.node import Node
from loadtest.campaign.troubles import (
    CALM,
    LINKS,
    TROUBLES,
    VENDOR,
    Bench,
    by_turns,
    choose,
    configuration,
)
from loadtest.linkfault import LinkFault


def test_they_are_chosen_by_patterns():
    assert [one.name for one in choose("link.*")] == ["link.refused", "link.hangs", "link.stalls"]
    assert choose("*") == list(TROUBLES)
    assert choose("nothing") == []


def test_each_comes_as_often_as_the_others():
    found = by_turns(TROUBLES, 3 * len(TROUBLES), Random(1))
    assert {one.name: found.count(one) for one in found} == dict.fromkeys(
        (one.name for one in TROUBLES), 3
    )
    assert len(by_turns(TROUBLES, 4, Random(1))) == 4
    assert by_turns([], 4, Random(1)) == []


def test_both_links_are_primaries_and_a_vendor_has_traffic_of_its_own():
    told = json.loads(configuration({"cmpp-link": 1, "smpp-link": 2}))
    assert {one["name"]: one["port"] for one in told["channels"]} == {
        "cmpp-link": 1,
        "smpp-link": 2,
    }
    first = {route["channels"][0] for route in told["routes"]}
    assert first == {*LINKS, VENDOR}
    assert all(len(route["channels"]) > 1 for route in told["routes"])


def test_under_troubles_processes_are_killed_at_random_moments():
    options = command.arguments().parse_args(["--under", "silent", "--kills", "30"])
    plan = command.plan_of(options, 1)
    assert [one.name for one in plan.under] == ["silent"]
    names = {fault.name for one in plan.rounds for fault in one.faults}
    assert {"kill.worker", "kill.supervisor", "kill.postgres", "power.cut"} <= names
    assert not any(name.startswith("failpoint.") for name in names)


def test_an_unknown_trouble_is_refused():
    options = command.arguments().parse_args(["--under", "rain"])
    with pytest.raises(ValueError, match="--under"):
        command.plan_of(options, 1)


class Listening(Bench):
    """A bench without a node: what carriers are told."""

    def __init__(self) -> None:
        self.told: dict[str, object] = {}
        self.node = cast("Node", self)

    async def behave(self, *changes: Mapping[str, object], **named: object) -> None:
        for told in (*changes, named):
            self.told |= told

    async def spoil(self, fault: LinkFault, *, is_reset: bool = False) -> None:
        """That is healed, not told."""


async def test_what_a_trouble_says_to_a_carrier_is_taken_back():
    for trouble in TROUBLES:
        bench = Listening()
        await trouble.begin(bench)
        assert bench.told.keys() <= CALM.keys(), trouble.name
