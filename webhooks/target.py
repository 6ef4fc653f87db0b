"""What may be called: a webhook's URL, judged by what stands in it.

Without the HTTP client, so that who only checks a configuration need not load it.
"""

from __future__ import annotations

from dataclasses import dataclass

from yarl import URL

from webhooks.address import PORTS, AllowList, is_global_unicast

MAX_URL = 2048  # characters


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be called."""

    url: URL
    is_exempt: bool  # an origin of the operator's allow-list


def parse_target(text: str, allow: AllowList) -> Target | str:
    """The target behind a URL, or a sentence that says why it is refused.

    The text is checked for what can be seen in it (scheme, port, user, numeric addresses); names
    are decided when they are called.
    """
    if len(text) > MAX_URL or any(char <= " " or char == "\x7f" for char in text):
        return f"a webhook URL has at most {MAX_URL} characters and no spaces"
    try:
        url = URL(text)
        host, port = url.host, url.port
    except ValueError:
        return "this is not a URL"
    if url.scheme not in ("https", "http") or not host or port is None:
        return "a webhook URL begins with https:// and names a host"
    is_exempt = allow.allows(url.scheme, host.lower(), port)
    refused = _visible_refusal(url, host, port, is_exempt=is_exempt)
    return refused or Target(url.with_fragment(None), is_exempt)


def _visible_refusal(url: URL, host: str, port: int, *, is_exempt: bool) -> str | None:
    """What can be said against the URL before its name is resolved."""
    if url.user is not None or url.password is not None:
        return "a webhook URL carries no user name or password"
    if is_exempt:
        return None
    if url.scheme != "https":
        return "a webhook URL begins with https://"
    if port not in PORTS:
        return "a webhook URL uses port 443 or 8443"
    if _is_numeric(host) and not is_global_unicast(host):
        return "this address is not one of the public Internet"
    return None


def _is_numeric(host: str) -> bool:
    """Whether the host is an address in any spelling that getaddrinfo understands."""
    if ":" in host or "%" in host:  # escapes may hide one, and belong into no name
        return True
    last = host.rstrip(".").rpartition(".")[2].lower()
    return last.isdigit() or last.startswith("0x")
