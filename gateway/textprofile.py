"""The text profile of a route: what its channels add to a text must be the same (DESIGN 14).

The text is composed, cut and counted before the 202, when nobody knows which channel of the route
will take it; a backup that added another line would send another text, and other segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from compliance.opt_out import line_for
from compliance.signature import MAINLAND
from sms.model import MessageClass

_MARKETING = str(MessageClass.MARKETING)


class Clash(NamedTuple):
    """Two channels of a route that need different texts: another opt-out line behind marketing,
    or other cuts.
    """

    route: str
    first: str
    other: str
    field: str


def clashes(
    channels: Mapping[str, Mapping[str, Any]], routes: Mapping[str, Mapping[str, Any]]
) -> Iterator[Clash]:
    """One clash of each route that has any; both maps are specs by name, as they are stored.

    A route for every country is looked at as one of the mainland, where an unwritten line is the
    usual one.
    """
    for name, route in routes.items():
        bits = {
            channel: channels[channel].get("reference_bits", 8)
            for channel in route["channels"]
            if channel in channels
        }
        yield from _first_clash(name, bits, "reference_bits")
        if route["class"] not in ("*", _MARKETING):
            continue
        country = route["country"] or MAINLAND
        lines = {
            channel: line_for(channels[channel].get("opt_out_line"), country)
            for channel in route["channels"]
            if _MARKETING in channels.get(channel, {}).get("classes", ())
        }
        yield from _first_clash(name, lines, "opt_out_line")


def _first_clash(route: str, values: Mapping[str, object], field: str) -> Iterator[Clash]:
    first = next(iter(values), "")
    for channel, value in values.items():
        if value != values[first]:
            yield Clash(route, first, channel, field)
            return
