"""Where a request comes from: the peer of the connection, or what a trusted proxy says of it.

    X-Forwarded-For: <whatever the client wrote>, <client>, <proxy>      peer: <proxy>
                                                  ▲ the right-most address that is no proxy of ours

Each proxy appends the peer it saw, so only what stands right of the first stranger is true, and
only when the peer itself is one of ours. What cannot be read makes the address unknown: an
allow-list then says no.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
MAX_HOPS = 32  # proxies of ours in a row; nobody has so many
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?|([0-9.]{7,15}):[0-9]{1,5}")


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """The address in `text`, a v4 one in v6 clothing as v4; None when it is none."""
    match = _WITH_PORT.fullmatch(text)
    if match is not None:
        text = match[1] or match[2]
    found: Address | None = None
    with contextlib.suppress(ValueError):
        found = ip_address(text.partition("%")[0])  # a zone means something to its own host only
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def is_in(address: Address | None, networks: Iterable[Network]) -> bool:
    """Whether the address is known and in one of the networks."""
    return address is not None and any(address in network for network in networks)


class Addresses:
    """Knows our proxies; `trusted` are networks as the settings have them."""

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self._trusted = tuple(ip_network(text) for text in trusted)

    def of(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> Address | None:
        """The client's address; None when it cannot be known."""
        address = None if peer is None else parse_address(peer)
        if not self._trusted or not is_in(address, self._trusted):
            return address
        said = [value for name, value in headers if name == b"x-forwarded-for"]
        hops = [hop.strip() for hop in b",".join(said).decode("latin-1").split(",")] if said else []
        for hop in reversed(hops[-MAX_HOPS:]):
            address = parse_address(hop) if len(hop) <= 64 else None
            if not is_in(address, self._trusted):
                return address
        return address if len(hops) <= MAX_HOPS else None
