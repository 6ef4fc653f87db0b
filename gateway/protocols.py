"""The carriers' protocols by the name a channel gives: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from adapters.base import Channel, ChannelSink
from adapters.cmpp.channel import CmppChannel
from adapters.cmpp.settings import validate_2, validate_3
from adapters.session import SessionPolicy
from adapters.sgip.channel import SgipChannel
from adapters.sgip.settings import is_same_guest
from adapters.sgip.settings import validate as validate_sgip
from adapters.smgp.channel import SmgpChannel
from adapters.smgp.settings import validate as validate_smgp
from adapters.smpp.channel import SmppChannel
from adapters.smpp.channel import validate as validate_smpp
from sms import config


@dataclass(frozen=True, slots=True)
class CarrierProtocol:
    """What the gateway asks of a protocol."""

    # Everything wrong with a channel's own settings: (JSON pointer, what to do).
    validate: Callable[[Mapping[str, object]], list[tuple[str, str]]]
    # Raises ConfigError when the settings are wrong.
    build: Callable[[config.Channel, ChannelSink, SessionPolicy], Channel]
    login: str  # the setting that names the account; with host and port it is one account
    # Where the carrier connects to us: whether its login could be either channel's.
    is_same_guest: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] | None = None


PROTOCOLS: Final[Mapping[str, CarrierProtocol]] = {
    "cmpp2": CarrierProtocol(validate_2, CmppChannel, "source_addr"),
    "cmpp3": CarrierProtocol(validate_3, CmppChannel, "source_addr"),
    "sgip": CarrierProtocol(validate_sgip, SgipChannel, "login_name", is_same_guest),
    "smgp": CarrierProtocol(validate_smgp, SmgpChannel, "client_id"),
    "smpp": CarrierProtocol(validate_smpp, SmppChannel, "system_id"),
}
