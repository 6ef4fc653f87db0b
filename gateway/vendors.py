"""The HTTP vendors of the configured channels, also of those that another process runs.

Made when first asked for and again when their channel changed: any worker takes a vendor's call,
and whoever looks after a lost answer must know whether its vendor can be asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from adapters.http import settings
from adapters.http.settings import HttpSettings
from adapters.http.vendor import Vendor
from adapters.http.vendors import VENDORS, VendorKind
from sms import config
from sms.errors import ConfigError
from telemetry.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """One HTTP channel as the gateway sees it."""

    channel: config.Channel
    vendor: Vendor
    settings: HttpSettings
    sources: tuple[IPv4Network | IPv6Network, ...]  # who may call; empty = whoever proves itself


class Vendors:
    """Looks them up by channel."""

    def __init__(self, kinds: Mapping[str, VendorKind] = VENDORS) -> None:
        self._kinds = kinds
        self._channels: dict[int, config.Channel] = {}
        self._made: dict[int, Account | None] = {}

    def use(self, channels: Iterable[config.Channel]) -> None:
        """These are configured now."""
        before, self._channels = self._channels, {one.id: one for one in channels}
        self._made = {
            number: made
            for number, made in self._made.items()
            if number in self._channels and before[number] == self._channels[number]
        }

    def is_vendor(self, channel: int) -> bool:
        """Whether it is an HTTP channel."""
        known = self._channels.get(channel)
        return known is not None and known.protocol in self._kinds

    def asks(self, channel: int) -> bool:
        """Whether its vendor can be asked what became of a submit."""
        account = self.account(channel)
        return account is not None and account.vendor.traits.asks

    def account(self, channel: int) -> Account | None:
        """None when there is no such channel, or when it is none over HTTP."""
        if not self.is_vendor(channel):
            return None
        if channel not in self._made:
            self._made[channel] = self._make(self._channels[channel])
        return self._made[channel]

    def _make(self, channel: config.Channel) -> Account | None:
        try:
            vendor = self._kinds[channel.protocol].make(channel)
            own = settings.parse(channel.settings)
        except ConfigError as error:  # an older version's channel; the running one says it too
            log.error("vendor left out", channel=channel.name, error=str(error))  # noqa: TRY400 (the text is the remedy)
            return None
        sources = tuple(ip_network(text, strict=False) for text in own.callback_sources)
        return Account(channel, vendor, own, sources)
