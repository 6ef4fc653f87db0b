"""The carriers' protocols by the name a channel gives: one line each.

Vendors over HTTP have their lines in adapters.http.vendors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adapters.base import Channel, ChannelSink
from adapters.cmpp.channel import CmppChannel
from adapters.cmpp.settings import validate_2, validate_3
from adapters.http.settings import parse as parse_http
from adapters.http.vendor import Traits
from adapters.http.vendors import VENDORS, VendorKind
from adapters.session import SessionPolicy
from adapters.sgip.channel import SgipChannel
from adapters.sgip.settings import is_same_guest
from adapters.sgip.settings import validate as validate_sgip
from adapters.smgp.channel import SmgpChannel
from adapters.smgp.settings import validate as validate_smgp
from adapters.smpp.channel import SmppChannel
from adapters.smpp.settings import validate as validate_smpp
from adapters.tls import find_wrong as find_wrong_tls
from adapters.tls import trusting
from sms import config
from sms.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CarrierProtocol:
    """What the gateway asks of a protocol."""

    # Everything wrong with a channel's own settings: (JSON pointer, what to do).
    validate: Callable[[Mapping[str, object]], list[tuple[str, str]]]
    # Raises ConfigError when the settings are wrong.
    build: Callable[[config.Channel, ChannelSink, SessionPolicy], Channel]
    # The setting that names the account; with host and port, or with a vendor's url, it is one
    # account. "" = accounts may have several channels.
    login: str
    # Where the carrier connects to us: whether its login could be either channel's.
    is_same_guest: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] | None = None
    # Of a vendor over HTTP, from settings that are right: what it can do and what it demands.
    traits: Callable[[Mapping[str, Any]], Traits] | None = None

    def account(self, name: str, settings: Mapping[str, Any]) -> tuple[object, ...] | None:
        """What two channels of this protocol `name` may not both have; None = anything goes."""
        if self.traits is None:
            place = (settings.get("host"), settings.get("port"))
        else:
            place = (name, settings.get("url", ""))
        account = (*place, settings.get(self.login))
        return None if None in account else account


def over_http(name: str, kind: VendorKind) -> CarrierProtocol:
    """A vendor as a protocol of channels."""

    def validate(raw: Mapping[str, object]) -> list[tuple[str, str]]:
        wrong = kind.validate(raw)
        if not wrong and (ca := parse_http(raw).ca):
            try:
                trusting(ca)
            except ConfigError as error:
                setting, _, detail = str(error).partition(": ")
                wrong = [(f"/{setting}", detail)]
        return wrong

    def build(channel: config.Channel, sink: ChannelSink, policy: SessionPolicy) -> Channel:
        # here: who only checks a configuration does without the HTTP client, a quarter of its start
        from adapters.http.channel import HttpChannel

        return HttpChannel(channel, sink, policy, kind.make(channel))

    def traits(settings: Mapping[str, Any]) -> Traits:
        return kind.make(config.Channel(0, name, name, settings)).traits

    return CarrierProtocol(validate, build, kind.login, traits=traits)


Validate = Callable[[Mapping[str, object]], list[tuple[str, str]]]


def _on_wire(validate: Validate) -> Validate:
    """A wire protocol's check, and whether the certificates can be read."""
    return lambda raw: validate(raw) or find_wrong_tls(raw)


WIRE: Final[Mapping[str, CarrierProtocol]] = {
    "cmpp2": CarrierProtocol(_on_wire(validate_2), CmppChannel, "source_addr"),
    "cmpp3": CarrierProtocol(_on_wire(validate_3), CmppChannel, "source_addr"),
    "sgip": CarrierProtocol(_on_wire(validate_sgip), SgipChannel, "login_name", is_same_guest),
    "smgp": CarrierProtocol(_on_wire(validate_smgp), SmgpChannel, "client_id"),
    "smpp": CarrierProtocol(_on_wire(validate_smpp), SmppChannel, "system_id"),
}
PROTOCOLS: Final[Mapping[str, CarrierProtocol]] = {
    **WIRE,
    **{name: over_http(name, kind) for name, kind in VENDORS.items()},
}
