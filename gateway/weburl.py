"""Whether a webhook's URL may be called at all (RELIABILITY section 10)."""

from __future__ import annotations

from urllib.parse import urlsplit

from webhooks.address import AllowList, refusal
from webhooks.target import parse_target

_NO_URL = "is not a URL; write it as https://host/path"
_EXCEPTION = "or let the operator name the origin in SMSGW_WEBHOOK_ALLOW"
_SANDBOX = "or, in this sandbox, http://127.0.0.1:PORT (no name; from 1024 on, none of its own)"
_ANY_PUBLIC = "1.1.1.1"


def url_refusal(url: str, allow: AllowList) -> str | None:
    """What is wrong with a webhook's URL and what to do, or None (RELIABILITY section 10)."""
    try:
        parts = urlsplit(url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return _NO_URL
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or not url.isascii():
        return _NO_URL
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must not hold a user name, a password or a #fragment; remove it"
    wrong = None
    if not allow.allows(parts.scheme, host, port):
        if parts.scheme != "https":
            is_sandbox = allow.loopback_except is not None
            return f"must begin with https://; use TLS, {_SANDBOX if is_sandbox else _EXCEPTION}"
        wrong = _address_refusal(host, port)
    if wrong is None:  # the last word has the room that will call it
        target = parse_target(url, allow)
        wrong = f"is refused: {target}; correct it" if isinstance(target, str) else None
    return wrong


def _address_refusal(host: str, port: int) -> str | None:
    # A name is judged by the address it has when it is called; here only by its port.
    is_address = host.replace(".", "").isdigit() or ":" in host
    why = refusal(host if is_address else _ANY_PUBLIC, port)
    if why == "port":
        return f"has the port {port}; use 443 or 8443, {_EXCEPTION}"
    if why is not None:
        return f"is not an address of the public Internet; use one, {_EXCEPTION}"
    return None
