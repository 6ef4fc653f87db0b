"""Where vendors call us: one address for each channel and kind.

    https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts
    public_url ───────────┘                      the channel's id             └ or inbound

What proves a call stands in the query or a header (`Vendor.pushed` checks it), never in the path.
"""

from __future__ import annotations

from typing import Final

from adapters.http.settings import HttpSettings
from adapters.http.vendor import CallKind
from sms.ids import to_text

CALLBACKS: Final = "/v1/carrier-callbacks"
CHANNEL_PREFIX: Final = "chn"


def path_of(channel_id: int, kind: CallKind) -> str:
    """The path on our public port."""
    return f"{CALLBACKS}/{to_text(CHANNEL_PREFIX, channel_id)}/{kind.value}"


def address_of(own: HttpSettings, channel_id: int, kind: CallKind) -> str:
    """What the vendor is told, without a secret; "" without `public_url` or with callbacks off."""
    if not own.public_url or not own.callbacks:
        return ""
    return own.public_url.rstrip("/") + path_of(channel_id, kind)
