"""Does every template have a twin wherever its messages may go? Asked when a configuration is
checked, so that a backup which lacks one is found then, and not on the night it is needed.

    template ─▶ routes that its messages take, by who, what, network and country
                    └▶ channels of theirs that send registered templates only ─▶ a twin for each
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from compliance.signature import MAINLAND
from sms.model import Carrier
from sms.templates import MAX_TEMPLATES

_ANY = "*"
_RouteKey = tuple[str, str, str, int]  # tenant, class, carrier, country; "*" and 0 = any
Spec = Mapping[str, Any]
Specs = Mapping[str, Spec]  # by name, as they are stored


class Lack(NamedTuple):
    """A channel that would be chosen for a template's messages and could not say them."""

    template: str
    route: str
    channel: str

    @property
    def detail(self) -> str:
        """What is wrong, and what to do."""
        return (
            f"template {self.template} has no twin for channel {self.channel}, which sends "
            f"registered templates only and stands in route {self.route}; add the vendor's code "
            "and order to its `twins`, or take the channel out of the route"
        )


def lacks(channels: Specs, routes: Specs, templates: Specs) -> list[Lack]:
    """Every twin that is missing."""
    fit = _Fit(channels, routes)
    found = {
        Lack(name, route, channel): None
        for name, template in templates.items()
        for route, able in fit.reached(template)
        for channel in able
        if channel in fit.demanding and channel not in template.get("twins", {})
    }
    return list(found)


def needed_by(channels: Specs, routes: Specs, templates: Specs, name: str) -> str | None:
    """A route that takes nothing any more without this template; None when there is none."""
    fit = _Fit(channels, routes)
    gone = templates[name]
    has_other = any(
        other != name
        and spec["class"] == gone["class"]
        and spec["tenant"] in (_ANY, gone["tenant"])
        for other, spec in templates.items()
    )
    if has_other:
        return None
    for route, able in fit.reached(gone):
        if able and fit.demanding.issuperset(able):
            return route
    return None


def crowded(templates: Specs) -> list[str]:
    """Tenants, or "*", that have more templates than one text can be compared with in time."""
    counts = Counter(spec["tenant"] for spec in templates.values())
    return [tenant for tenant, count in counts.items() if count > MAX_TEMPLATES]


class _Fit:
    """The routes and channels, looked up as a message looks them up."""

    def __init__(self, channels: Specs, routes: Specs) -> None:
        self._channels = channels
        self._by_key: dict[_RouteKey, str] = {
            (spec["tenant"], spec["class"], spec["carrier"], spec["country"]): name
            for name, spec in routes.items()
        }
        self.demanding = {name for name, spec in channels.items() if spec.get("demands_template")}
        self._of: dict[str, list[tuple[str, Spec]]] = {}  # tenant → its routes that matter
        for name, spec in routes.items():
            if not self.demanding.isdisjoint(spec["channels"]):
                self._of.setdefault(spec["tenant"], []).append((name, spec))
        named = {spec["country"] for spec in routes.values()}
        for spec in channels.values():
            named.update(spec.get("countries", ()))
        self._countries = sorted({*named, 0, MAINLAND})  # 0: one that nobody names

    def reached(self, template: Spec) -> Iterator[tuple[str, list[str]]]:
        """Routes with such channels, and for each kind of number those that take the message."""
        tenant, message_class = template["tenant"], template["class"]
        owners = list(self._of) if tenant == _ANY else [tenant, _ANY]
        for owner in owners:
            for name, route in self._of.get(owner, ()):
                if route["class"] not in (_ANY, message_class):
                    continue
                whose = owner if tenant == _ANY else tenant
                for carrier, country in self._places(route):
                    if self._chosen(whose, message_class, carrier, country) == name:
                        able = [
                            channel
                            for channel in route["channels"]
                            if self._serves(channel, message_class, carrier, country)
                        ]
                        yield name, able

    def _places(self, route: Spec) -> Iterator[tuple[str, int]]:
        for country in [route["country"]] if route["country"] else self._countries:
            networks = tuple(Carrier) if country == MAINLAND else (Carrier.OTHER,)
            for carrier in networks:
                if route["carrier"] in (_ANY, str(carrier)):
                    yield str(carrier), country

    def _chosen(self, tenant: str, message_class: str, carrier: str, country: int) -> str | None:
        for key in product((tenant, _ANY), (message_class, _ANY), (carrier, _ANY), (country, 0)):
            if key in self._by_key:
                return self._by_key[key]
        return None

    def _serves(self, channel: str, message_class: str, carrier: str, country: int) -> bool:
        spec = self._channels.get(channel, {})
        return (
            message_class in spec.get("classes", (message_class,))
            and carrier in spec.get("carriers", (carrier,))
            and country in spec.get("countries", (country,))
        )
