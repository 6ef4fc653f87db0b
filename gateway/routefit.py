"""Do the channels of a route fit it, and each other? Asked when a configuration is checked.

A route may name only channels that can take its class, network and country (`misfits`). And those
that may take one and the same message must have the same text profile (`clashes`, DESIGN 14): the
text is composed, cut and counted before the 202, when nobody knows which channel of the route will
take it; a backup that added another line would send another text, and other segments. Who puts
the signature in front makes no difference: it is counted either way (`on_air`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from compliance.opt_out import line_for
from compliance.signature import MAINLAND
from sms.config import encodings_of
from sms.model import Carrier, Encoding, MessageClass

_MARKETING = str(MessageClass.MARKETING)
_ENCODINGS = [str(word) for word in Encoding]
_ANY = "*"
Spec = Mapping[str, Any]
Specs = Mapping[str, Spec]  # by name, as they are stored


class Wrong(NamedTuple):
    """What is wrong with a route: which channels by name, in which of their fields."""

    route: str
    channels: tuple[str, ...]
    field: str
    detail: str
    place: int | None = None  # of the channel in the route; None = of several together


def misfits(channels: Specs, routes: Specs) -> Iterator[Wrong]:
    """Every channel of a route that cannot take what the route is for."""
    for name, route in routes.items():
        for field, wanted, what in (
            ("classes", route["class"], "the class"),
            ("carriers", route["carrier"], "the network"),
            ("countries", route["country"] or _ANY, "the country"),
        ):
            if wanted == _ANY:
                continue
            for index, channel in enumerate(route["channels"]):
                able = channels.get(channel, {}).get(field)
                if able is not None and wanted not in able:
                    detail = f"{channel} does not take {what} {wanted}; add it to its `{field}`"
                    yield Wrong(name, (channel,), field, detail, index)


def clashes(channels: Specs, routes: Specs) -> Iterator[Wrong]:
    """One clash of each route and field that has any.

    A route for every country is looked at as one of the mainland for its opt-out line, where an
    unwritten line is the usual one. Encodings only matter abroad: a mainland text is UCS-2. And
    among channels that could carry GSM-7: one that never does makes the text UCS-2 for all.
    """
    for name, route in routes.items():
        country = route["country"] or MAINLAND
        if route["class"] in (_ANY, _MARKETING):

            def line(spec: Spec, country: int = country) -> object:
                return line_for(spec.get("opt_out_line"), country)

            able = _able(channels, route, _MARKETING)
            yield from _clash(name, able, "opt_out_line", line)
        abroad = {
            channel: spec
            for channel, spec in _abroad(channels, route).items()
            if Encoding.GSM7 in encodings_of(spec.get("protocol", ""))
        }
        yield from _clash(name, abroad, "encodings", _carried)
        yield from _clash(name, _able(channels, route, route["class"]), "reference_bits", _bits)


def never_gsm7(channels: Specs, route: Spec) -> list[str]:
    """The channels of a route whose protocol has every text to a number abroad cut as UCS-2."""
    return [
        channel
        for channel, spec in _abroad(channels, route).items()
        if Encoding.GSM7 not in encodings_of(spec.get("protocol", ""))
    ]


def _abroad(channels: Specs, route: Spec) -> dict[str, Spec]:
    """The route's channels that may take its messages to numbers outside the mainland."""
    if route["country"] == MAINLAND or route["carrier"] not in (_ANY, str(Carrier.OTHER)):
        return {}
    return {
        channel: spec
        for channel, spec in _able(channels, route, route["class"]).items()
        if str(Carrier.OTHER) in spec.get("carriers", (str(Carrier.OTHER),))
        and spec.get("countries") != [MAINLAND]
    }


def _bits(spec: Spec) -> object:
    return spec.get("reference_bits", 8)


def _carried(spec: Spec) -> object:
    return sorted(spec.get("encodings", _ENCODINGS))


def _able(channels: Specs, route: Spec, message_class: str) -> dict[str, Spec]:
    """The route's channels that take the class (any of theirs for `*`), in order."""
    return {
        name: channels[name]
        for name in route["channels"]
        if name in channels
        and (message_class == _ANY or message_class in channels[name].get("classes", ()))
    }


def _clash(route: str, able: Specs, field: str, look: Callable[[Spec], object]) -> Iterator[Wrong]:
    """The first two channels that may take one message and differ in how they look."""
    names = list(able)
    for place, first in enumerate(names):
        for other in names[place + 1 :]:
            if look(able[first]) != look(able[other]) and _meet(able[first], able[other]):
                detail = (
                    f"{first} and {other} have another `{field}`; give all channels of a route "
                    "the same, for the text is cut before one is chosen"
                )
                yield Wrong(route, (other, first), field, detail)
                return


def _meet(first: Spec, other: Spec) -> bool:
    """Whether there are messages that both can take."""
    return all(
        set(first[field]) & set(other[field])
        for field in ("carriers", "countries")
        if field in first and field in other
    )


def on_air(texts: tuple[str, ...]) -> tuple[str, ...]:
    """What goes to a channel whose carrier puts 【…】 in front itself.

    The count of segments stays: the carrier's signature takes the place of ours.
    """
    _, closing, rest = texts[0].partition("】")
    is_ours = texts[0].startswith("【") and closing and rest
    return (rest, *texts[1:]) if is_ours else texts
