"""The settings that every HTTP channel has beside its vendor's own: names, bounds, defaults.

A vendor's `validate` calls `find_wrong` with its own table; names, bounds and remedies of the
common ones stand here once. Secrets of a vendor are checked like any other text and never echoed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from adapters import checks
from adapters.checks import Check, flag, integer, networks, seconds, string

MAX_BATCH: Final = 1000
CONNECT_TIMEOUT_S: Final = 3.0
_DAY_S: Final = 86_400
_URL = re.compile(r"https?://[A-Za-z0-9._~:\[\]-]+(/[!-~]*)?", re.ASCII)
_PROXY = re.compile(r"https?://[A-Za-z0-9._~\[\]:-]+:[0-9]{1,5}/?", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9._~-]{16,128}", re.ASCII)


def url(value: object) -> str | None:
    """An address that begins with http:// or https:// and holds no login, query or fragment."""
    is_good = isinstance(value, str) and _URL.fullmatch(value) and len(value) <= 2048
    is_plain = isinstance(value, str) and not set("?#@") & set(value)
    remedy = "give an address such as https://api.example.com, without login, query or fragment"
    return None if is_good and is_plain else remedy


def is_exposed(address: object) -> bool:
    """Whether it is http:// to a host that is not surely ours: key and texts would go in clear.

    Ours are loopback, private and link-local addresses, names of one label and those of RFC 6761
    and RFC 9476 that no public name server knows.
    """
    if not isinstance(address, str) or not address.lower().startswith("http://"):
        return False
    try:
        host = (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:  # what is no address is told as that
        return False
    try:
        return ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith(_OUR_NAMES)


def _proxy(value: object) -> str | None:
    is_good = isinstance(value, str) and _PROXY.fullmatch(value)
    remedy = "give the proxy's scheme, host and port, such as http://proxy.example.com:3128;"
    return None if is_good else f"{remedy} its login goes into proxy_user and proxy_password"


def _pem(value: object) -> str | None:
    is_good = isinstance(value, str) and "-----BEGIN CERTIFICATE" in value
    return None if is_good else "give certificates as PEM text, or their file as ca_file"


def _word(value: object) -> str | None:
    is_good = isinstance(value, str) and _WORD.fullmatch(value)
    return None if is_good else "give 16 to 128 letters, digits, '-', '.', '_' or '~'"


_OUR_NAMES: Final = (".localhost", ".local", ".internal", ".test", ".home.arpa")
EXPOSED: Final = (
    "is http:// to a public host: the key and every text would cross the network in clear. "
    "Write https://, or say `plain_http: true` where the way there is protected otherwise"
)
_LOGIN = string(1, 255, "RFC 7617")
# name → check; defaults stand in HttpSettings
COMMON: Final[Mapping[str, Check]] = {
    "url": url,
    "plain_http": flag,
    "proxy": _proxy,
    "proxy_user": _LOGIN,
    "proxy_password": _LOGIN,
    "ca": _pem,
    "connect_timeout_s": seconds(0.5, 30),
    "max_batch": integer(1, MAX_BATCH),
    "callbacks": flag,
    "callback_sources": networks,
    "callback_secret": _word,
    "public_url": url,
    "ask_after_s": seconds(1, 3 * _DAY_S),
    "absent_after_s": seconds(1, 3 * _DAY_S),
    "pull_every_s": seconds(1, 3600),
}
# What is kept sealed and never shown, of every vendor; `x_file` names a file that holds x.
SECRETS: Final = (
    *("access_key_secret", "api_key", "api_secret", "app_secret", "auth_token", "secret_key"),
    *("ca", "callback_secret", "proxy_password"),
)


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What the shell and the gateway read of a channel's settings, checked."""

    url: str = ""  # "" = the vendor's public one
    plain_http: bool = False  # http:// to a public host is meant
    proxy: str = ""
    proxy_user: str = ""
    proxy_password: str = field(default="", repr=False)
    ca: str = ""  # PEM; "" = whom this system trusts
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    max_batch: int = MAX_BATCH  # the vendor's own bound is Traits.batch
    callbacks: bool = True  # the vendor may call us
    callback_sources: tuple[str, ...] = ()  # networks that may call; () = any
    callback_secret: str = field(default="", repr=False)
    public_url: str = ""  # our own address as vendors reach it
    ask_after_s: float | None = None  # without a receipt; None = nothing is asked of its own
    absent_after_s: float | None = None  # over Traits.absent_after_s
    pull_every_s: float = 5.0


def find_wrong(
    raw: Mapping[str, object],
    own: Mapping[str, Check],
    required: Collection[str],
    protocol: str,
    *,
    is_signed: bool = False,
) -> list[tuple[str, str]]:
    """Everything wrong with an HTTP channel's settings: (JSON pointer, what to do).

    `own` is the vendor's table, over the common one; `protocol` is how it is named to a reader,
    "an Infobip channel". `is_signed`: the vendor signs its pushes and `pushed` checks that.
    """
    wrong = checks.find_wrong(raw, {**COMMON, **own}, required, protocol)
    for name, other in (("proxy_user", "proxy"), ("proxy_password", "proxy_user")):
        if name in raw and other not in raw:
            wrong.append((f"/{name}", f"means nothing without {other}; add that, or remove this"))
    if is_exposed(raw.get("url")) and raw.get("plain_http") is not True:
        wrong.append(("/url", EXPOSED))
    is_guarded = is_signed or "callback_sources" in raw or "callback_secret" in raw
    if not is_guarded and raw.get("callbacks") is not False:
        wrong.append(
            (
                "/callback_secret",
                "is missing, and so are callback_sources: anybody could send us receipts. Give a "
                "callback_secret, or the vendor's networks as callback_sources, or say "
                "`callbacks: false` where the vendor never calls",
            )
        )
    return wrong


def parse(raw: Mapping[str, Any]) -> HttpSettings:
    """The common settings of a channel whose vendor's `validate` found nothing wrong."""
    known = {name: raw[name] for name in COMMON if name in raw}
    if "callback_sources" in known:
        known["callback_sources"] = tuple(known["callback_sources"])
    return HttpSettings(**known)
