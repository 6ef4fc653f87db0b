"""May a webhook be sent to this address? Pure (RELIABILITY section 10).

A tenant chooses the URL, and our network is not the tenant's to reach. The decision is made on
the final socket address, just before the connection is opened: a text has too many spellings
(`0x7f.1`, `2130706433`, `[::ffff:127.0.0.1]`) and a name may resolve to something else by then.
Only global unicast is allowed. The operator's allow-list names whole origins, for which nothing
is asked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PORTS = frozenset({443, 8443})

_DENIED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # carrier-grade NAT; some clouds' metadata (RFC 6598)
        "127.0.0.0/8",  # loopback (RFC 1122)
        "169.254.0.0/16",  # link local; clouds' metadata (RFC 3927)
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # protocol assignments (RFC 6890)
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved, and broadcast (RFC 1112)
    )
)
# Outside of it nothing is global unicast: this alone refuses ::/96, 64:ff9b::/96,
# 64:ff9b:1::/48, 5f00::/16, fc00::/7, fe80::/10, fec0::/10 and multicast.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_DENIED_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo 2001::/32 and ORCHID among them (RFC 2928)
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4: carries any v4 address (RFC 7526)
        "3fff::/20",  # documentation (RFC 9637)
    )
)


def is_global_unicast(host: str) -> bool:
    """Whether the numeric address (as getaddrinfo writes it) is one of the public Internet."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is None:
            return (
                address.scope_id is None  # a zone belongs to link-local addresses only
                and address in _GLOBAL_V6
                and not any(address in network for network in _DENIED_V6)
            )
        address = mapped
    return not any(address in network for network in _DENIED_V4)


def refusal(host: str, port: int) -> str | None:
    """Why this socket address must not be called, or None when it may."""
    if port not in PORTS:
        return "port"
    if not is_global_unicast(host):
        return "address"
    return None


@dataclass(frozen=True, slots=True)
class AllowList:
    """The origins an operator exempts from the rules on scheme, port and address.

    `loopback_except` is the sandbox's rule: when not None, `http://127.0.0.1:PORT` is allowed too
    for every port from 1024 on that is not in it (the gateway's own, its servers', the carriers').
    """

    origins: frozenset[str] = frozenset()
    loopback_except: frozenset[int] | None = field(default=None)

    @classmethod
    def of(
        cls, origins: Iterable[str], *, loopback_except: Collection[int] | None = None
    ) -> AllowList:
        """From settings; an origin is `scheme://host:port`, the port left out when standard."""
        return cls(
            frozenset(_canonical(text) for text in origins),
            None if loopback_except is None else frozenset(loopback_except),
        )

    def lists(self, url: str) -> bool:
        """Whether the operator named the origin of this URL; one that is right already."""
        if not self.origins:
            return False
        parts = urlsplit(url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
        return origin(parts.scheme, parts.hostname or "", port) in self.origins

    def allows(self, scheme: str, host: str, port: int) -> bool:
        """Whether the origin is exempt; `host` in lower case, a v6 address without brackets."""
        if origin(scheme, host, port) in self.origins:
            return True
        return (
            self.loopback_except is not None
            and scheme == "http"
            and host == "127.0.0.1"
            and port >= 1024
            and port not in self.loopback_except
        )


def origin(scheme: str, host: str, port: int) -> str:
    """`scheme://host:port` in the one spelling the allow-list compares."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _canonical(text: str) -> str:
    scheme, separator, rest = text.strip().lower().rstrip("/").partition("://")
    if not separator or scheme not in ("http", "https") or not rest or "/" in rest or "@" in rest:
        raise ValueError(f"{text!r} is not an origin such as http://127.0.0.1:9900")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        return f"{scheme}://{rest}:{443 if scheme == 'https' else 80}"
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} has no valid port")
    return f"{scheme}://{host}:{int(port)}"
