"""Every range of RELIABILITY section 10 in every spelling: what no webhook may be sent to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

V4_RANGES = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
V6_RANGES = (
    "::/96",
    "::1/128",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
)


def addresses() -> Iterator[str]:
    """First, middle and last address of each range, as getaddrinfo writes them; v4 mapped too."""
    for text in (*V4_RANGES, *V6_RANGES):
        network = ipaddress.ip_network(text)
        for place in {0, network.num_addresses // 2, network.num_addresses - 1}:
            address = network[place]
            yield str(address)
            if address.version == 4:
                yield f"::ffff:{address}"


def hosts() -> Iterator[str]:
    """An address inside each range in every spelling, as the host of a URL."""
    for text in V4_RANGES:
        network = ipaddress.IPv4Network(text)
        yield from _spellings(network[network.num_addresses // 2 + 1])
    yield from _spellings(ipaddress.IPv4Address("169.254.169.254"))
    for text in V6_RANGES:
        network6 = ipaddress.IPv6Network(text)
        address = network6[network6.num_addresses // 2]
        yield f"[{address}]"
        yield f"[{address.exploded}]"
        yield f"[{address.exploded.upper()}]"


def _spellings(address: ipaddress.IPv4Address) -> Iterator[str]:
    number = int(address)
    a, b, c, d = address.packed
    high, low = number >> 16, number & 0xFFFF
    yield f"{a}.{b}.{c}.{d}"
    yield f"{a}.{b}.{c}.{d}."  # trailing dot
    yield f"{number}"  # decimal
    yield f"0x{number:08x}"  # hex
    yield f"0X{number:08X}"
    yield f"0{number:o}"  # octal
    yield f"0{a:o}.0{b:o}.0{c:o}.0{d:o}"
    yield f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"
    yield f"0x{a:x}.{b}.0{c:o}.{d}"  # mixed
    yield f"{a}.{number & 0xFFFFFF}"  # short
    yield f"{a}.{b}.{low}"
    yield f"0x{a:x}.{number & 0xFFFFFF}."
    yield "".join(chr(0xFEE0 + ord(char)) if char.isdigit() else char for char in str(address))
    yield f"{a}。{b}。{c}。{d}"  # full-width digits and dots become ASCII in IDNA
    yield f"{a}%2e{b}%2e{c}%2e{d}"
    yield f"[::ffff:{address}]"  # v4 mapped
    yield f"[::ffff:{high:x}:{low:x}]"
    yield f"[0:0:0:0:0:FFFF:{high:X}:{low:X}]"
    yield f"[::{address}]"  # v4 compatible
    yield f"[2002:{high:x}:{low:x}::1]"  # 6to4
    yield f"[64:ff9b::{high:x}:{low:x}]"  # NAT64
    yield f"[64:ff9b::{address}]"
    yield f"[64:ff9b:1::{high:x}:{low:x}]"
    yield f"[2001:0:{high:x}:{low:x}::]"  # Teredo


def urls() -> Iterator[str]:
    """Every host in a URL, and with somebody's name before it."""
    for host in hosts():
        yield f"https://{host}/hooks"
        yield f"https://{host}:8443/hooks?x=1"
        yield f"https://backend.example@{host}/hooks"
        yield f"https://backend.example:443@{host}:443/"
