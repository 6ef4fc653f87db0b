"""Where a request comes from, whatever its headers claim."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from gateway.api.access import Access, Gate
from gateway.api.address import MAX_HOPS, Addresses, is_in, parse_address
from tests.support.fake_flow import SHOP, FakeFlow

PROXIES = Addresses(["10.0.0.0/8", "fd00::/8"])


def of(peer, *said, addresses=PROXIES):
    headers = [(b"host", b"x"), *[(b"x-forwarded-for", value) for value in said]]
    found = addresses.of(peer, headers)
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("10.0.0.1", [b"203.0.113.9"], "203.0.113.9"),
        # what the client itself wrote stands to the left and counts for nothing
        ("10.0.0.1", [b"198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", [b"198.51.100.1", b"203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", [b"10.9.9.9, 203.0.113.9, 10.2.2.2"], "203.0.113.9"),
        ("10.0.0.1", [b"203.0.113.9,10.2.2.2 , 10.3.3.3"], "203.0.113.9"),
        ("fd00::1", [b"2001:db8::9"], "2001:db8::9"),
        ("10.0.0.1", [b"[2001:db8::9]:4711"], "2001:db8::9"),
        ("10.0.0.1", [b"203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", [b"::ffff:203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.1", [b"203.0.113.9"], "203.0.113.9"),
        # a stranger's header is not looked at
        ("203.0.113.1", [b"198.51.100.1"], "203.0.113.1"),
        ("203.0.113.1", [], "203.0.113.1"),
        # the proxy itself asks, or one of its own network through it
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"10.5.5.5"], "10.5.5.5"),
        # what cannot be read makes it unknown, and what is left of it is not used
        ("10.0.0.1", [b"198.51.100.1, unknown"], None),
        ("10.0.0.1", [b"198.51.100.1,"], None),
        ("10.0.0.1", [b""], None),
        ("10.0.0.1", [b"_hidden"], None),
        ("10.0.0.1", [b"203.0.113.9 10.0.0.2"], None),
        ("10.0.0.1", [b"0x0a000001"], None),
        ("10.0.0.1", [b"010.0.0.1"], None),
        ("10.0.0.1", [b"1" * 9000], None),
        ("10.0.0.1", [b"\xd9\xa1.1.1.1"], None),
        (None, [b"203.0.113.9"], None),
        ("nonsense", [], None),
    ],
)
def test_the_right_most_address_that_is_no_proxy_of_ours(peer, said, client):
    assert of(peer, *said) == client


def test_without_trusted_proxies_only_the_peer_counts():
    assert of("10.0.0.1", b"203.0.113.9", addresses=Addresses()) == "10.0.0.1"


def test_more_proxies_than_anybody_has_are_nobody():
    hops = b",".join([b"203.0.113.9", *[b"10.0.0.2"] * MAX_HOPS])
    assert of("10.0.0.1", hops) is None
    assert of("10.0.0.1", hops.removesuffix(b",10.0.0.2")) == "203.0.113.9"


def test_addresses_are_compared_as_addresses():
    networks = [ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")]
    for text, is_inside in [
        ("203.0.113.255", True),
        ("203.0.114.0", False),
        ("::ffff:203.0.113.7", True),
        ("2001:DB8:0:0::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", False),
    ]:
        assert is_in(parse_address(text), networks) is is_inside
    assert not is_in(None, networks)
    assert parse_address("fe80::1%eth0") == ip_address("fe80::1")


def test_what_a_gate_remembers_of_headers_is_bounded():
    flow = FakeFlow()
    shop = replace(flow.snapshot.tenants[SHOP], allowed_ips=(ip_network("203.0.113.0/24"),))
    flow.snapshot = replace(flow.snapshot, tenants={SHOP: shop})
    flow.access = Access(addresses=PROXIES)
    gate = Gate(flow)
    for number in range(50):
        said = b"198.51.100.%d, " % number * 500 + b"203.0.113.9"
        assert gate.is_allowed(SHOP, "10.0.0.1", [(b"x-forwarded-for", said)])
        assert not gate.is_allowed(SHOP, "10.0.0.1", [(b"x-forwarded-for", b"10.0.0.9," * 900)])
    assert gate.is_allowed(SHOP, "10.0.0.1", [(b"x-forwarded-for", b"203.0.113.9")])
    assert sum(len(said) for _, _, said in gate._allowed) < 1000
    assert len(gate._allowed) == 1
