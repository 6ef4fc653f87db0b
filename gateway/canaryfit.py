"""Does what a live canary puts beside its route still fit? Asked when a configuration is checked.

A canary may be promoted at any moment, and its messages may go over the route's own channels as
well: so all of them together must stand the checks of a route (`gateway/routefit.py`,
`gateway/templatefit.py`) for as long as it lives. Its route stays as it is for so long. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from gateway.canaryspec import is_live
from gateway.routefit import Wrong, clashes, misfits, never_gsm7
from gateway.templatefit import Lack, lacks

Spec = Mapping[str, Any]
Specs = Mapping[str, Spec]  # by name, as they are stored
LIVE_REMEDY: Final = "wait for its end, or promote or abort it first"


def live_ones(canaries: Specs) -> dict[str, Spec]:
    """The canaries that destinations are on."""
    return {name: spec for name, spec in canaries.items() if is_live(spec)}


def measured(spec: Spec) -> tuple[str, str]:
    """The two channels whose figures its gates compare; no other live canary may have either."""
    return spec["channels"][0], spec["baseline"]


def together(own: Iterable[str], more: Iterable[str]) -> list[str]:
    """A route's channels, and behind them what a canary adds."""
    return list(dict.fromkeys(chain(own, more)))


def canary_misfits(channels: Specs, routes: Specs, canaries: Specs) -> Iterator[Wrong]:
    """What is wrong with the channels of each canary and its route together; `route` is its name.

    Beside a route's checks: which channels a text is cut for. It is cut by the route's own, before
    anybody knows whose number it is, so a canary may not bring a channel that has it cut smaller.
    """
    for name, spec in canaries.items():
        route = routes.get(spec["route"])
        if route is None:
            continue
        whole = {name: {**route, "channels": together(route["channels"], spec["channels"])}}
        yield from misfits(channels, whole)
        yield from clashes(channels, whole)
        if never_gsm7(channels, route):
            continue
        for channel in never_gsm7(channels, {**route, "channels": spec["channels"]}):
            detail = (
                f"{channel} never carries GSM-7 and the route's own channels do, so texts to "
                "numbers abroad are cut too long for it; take another channel, or one that has "
                "`countries: [86]`"
            )
            place = whole[name]["channels"].index(channel)
            yield Wrong(name, (channel,), "countries", detail, place)


def canary_lacks(channels: Specs, routes: Specs, canaries: Specs, templates: Specs) -> list[Lack]:
    """Twins that only the canaries' channels lack."""
    if not canaries:
        return []
    whole = dict(routes)
    for spec in canaries.values():
        route = whole.get(spec["route"])
        if route is not None:
            every = together(route["channels"], spec["channels"])
            whole[spec["route"]] = {**route, "channels": every}
    known = set(lacks(channels, routes, templates))
    return [lack for lack in lacks(channels, whole, templates) if lack not in known]


def lack_detail(lack: Lack) -> str:
    """What is wrong, and what to do."""
    return (
        f"template {lack.template} has no twin for channel {lack.channel}, which sends registered "
        f"templates only and is in a canary of route {lack.route}; add the vendor's code and order "
        "to its `twins`, or abort the canary first"
    )
