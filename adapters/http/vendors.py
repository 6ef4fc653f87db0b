"""The vendors by the protocol name that a channel gives: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from adapters.http import aliyun, huawei, infobip, recipe, tencent, twilio
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
    # The setting that names the account, of which there may be one channel: its pushes go to one
    # address. "" where a vendor is told one with each request, or the name is a secret.
    login: str
    # What the words in its reports mean: code → class of receipts.normalise.
    reports: Mapping[str, str] = field(default_factory=dict)
    # The requests that faultless settings make for sample messages of a sender, line by line,
    # secrets hidden.
    rehearse: Callable[[Mapping[str, object], str], list[str]] | None = None


VENDORS: Final[Mapping[str, VendorKind]] = {
    "aliyun": VendorKind(aliyun.validate, aliyun.make, "access_key_id", aliyun.REPORTS),
    "http": VendorKind(recipe.validate, recipe.make, recipe.LOGIN, rehearse=recipe.rehearse),
    "huawei": VendorKind(huawei.validate, huawei.make, "app_key", huawei.REPORT_CLASSES),
    "infobip": VendorKind(infobip.validate, infobip.make, "", infobip.REPORT_CLASSES),
    "tencent": VendorKind(tencent.validate, tencent.make, "sdk_app_id", tencent.REPORTS),
    "twilio": VendorKind(twilio.validate, twilio.make, "", twilio.REPORT_CLASSES),
}
