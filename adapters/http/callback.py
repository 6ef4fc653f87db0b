"""Our callbacks as vendors are told them, and how a call shows that it is the vendor's.

    https://sms.example.com/v1/carrier-callbacks/chn_0000000000000007/receipts?secret=…
    public_url ───────────┘                      the channel's id             └ or inbound

The secret stands in the query of the address that the vendor was given. A vendor whose console
takes a login instead may send it as the password of HTTP Basic.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final
from urllib.parse import quote, urlsplit

from adapters.http.reading import form_of
from adapters.http.settings import HttpSettings
from adapters.http.vendor import Call, CallKind
from sms import config
from sms.errors import CallRefused
from sms.ids import to_text

PATH: Final = "/v1/carrier-callbacks"
CHANNEL_PREFIX: Final = "chn"
SECRET: Final = "secret"  # the name in the query  # noqa: S105 – a name, not a secret


def address_of(own: HttpSettings, channel: config.Channel, kind: CallKind) -> str:
    """Where a vendor reaches us for this kind; "" without `public_url` or with `callbacks` off."""
    if not own.public_url or not own.callbacks:
        return ""
    known = to_text(CHANNEL_PREFIX, channel.id)
    plain = f"{own.public_url.rstrip('/')}{PATH}/{known}/{kind.value}"
    secret = quote(own.callback_secret, safe="")
    return f"{plain}?{SECRET}={secret}" if secret else plain


def require_secret(own: HttpSettings, call: Call) -> None:
    """CallRefused (401) unless the call holds the channel's secret, where it has one."""
    if not own.callback_secret:
        return
    given = form_of(_query(call.url)).get(SECRET) or _password(call)
    if not hmac.compare_digest(given.encode(), own.callback_secret.encode()):
        raise CallRefused(401, "the callback secret is missing or wrong")


def _query(url: str) -> str:
    try:
        return urlsplit(url).query
    except ValueError:
        return ""


def _password(call: Call) -> str:
    scheme, _, rest = call.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        login = base64.b64decode(rest.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return login.partition(":")[2]
