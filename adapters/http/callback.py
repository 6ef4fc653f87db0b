"""What proves that a call is the vendor's: the channel's secret, in its address or as a login.

    https://sms.example.com/v1/carrier-callbacks/chn_…/receipts?secret=…

Where the address itself comes from: `adapters.http.callbacks`. A vendor whose console takes a login
beside an address may send the secret as the password of HTTP Basic instead.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final
from urllib.parse import quote, urlsplit

from adapters.http import callbacks
from adapters.http.reading import form_of
from adapters.http.settings import HttpSettings
from adapters.http.vendor import Call, CallKind
from sms.errors import CallRefused

SECRET: Final = "secret"  # the name in the query  # noqa: S105 – a name, not a secret


def address_of(own: HttpSettings, channel: int, kind: CallKind) -> str:
    """What a vendor is told, with the secret; "" without `public_url` or with callbacks off."""
    plain = callbacks.address_of(own, channel, kind)
    if not plain or not own.callback_secret:
        return plain
    return f"{plain}?{SECRET}={quote(own.callback_secret, safe='')}"


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
