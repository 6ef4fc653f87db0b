"""The vendors by the protocol name that a channel gives: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from adapters.http.vendor import Vendor
from sms import config


@dataclass(frozen=True, slots=True)
class VendorKind:
    """What the gateway asks of a vendor's module."""

    # Everything wrong with a channel's own settings, the common ones too
    # (adapters.http.settings.find_wrong): (JSON pointer, what to do).
    validate: Callable[[Mapping[str, object]], list[tuple[str, str]]]
    # Raises ConfigError when the settings are wrong.
    make: Callable[[config.Channel], Vendor]
    login: str  # the setting that names the account: two channels with one value are one account


VENDORS: Final[Mapping[str, VendorKind]] = {}
