from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import forbidden_addresses
from webhooks.address import AllowList, is_global_unicast, refusal

FORBIDDEN_BY_RELIABILITY = [
    "::/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2002::/16",
    "2001::/32",
    "fec0::/10",
    "5f00::/16",
    "3fff::/20",
    "192.88.99.0/24",
    "100.64.0.0/10",
    "ff00::/8",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "0.0.0.0/8",
    "fe80::/10",
    "fc00::/7",
    "100::/64",
    "2001:db8::/32",
]


@pytest.mark.parametrize("text", FORBIDDEN_BY_RELIABILITY)
def test_every_named_range_is_refused_from_its_first_to_its_last_address(text: str):
    network = ipaddress.ip_network(text)
    for address in (network[0], network[network.num_addresses // 2], network[-1]):
        assert not is_global_unicast(str(address)), address
        if address.version == 4:
            assert not is_global_unicast(f"::ffff:{address}")


def test_every_address_of_the_matrix_is_refused_and_its_neighbours_are_not():
    for address in forbidden_addresses.addresses():
        assert refusal(address, 443) == "address", address
    for address in ("9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.32.0.0"):
        assert refusal(address, 443) is None, address
    for address in ("192.88.98.255", "192.88.100.0", "223.255.255.255", "2003::", "3ffe:ffff::"):
        assert refusal(address, 443) is None, address


@pytest.mark.parametrize(
    "host", ["1.1.1.1", "8.8.8.8", "223.5.5.5", "2606:4700:4700::1111", "2400:3200::1"]
)
def test_public_addresses_are_allowed_on_the_two_ports(host: str):
    assert refusal(host, 443) is None
    assert refusal(host, 8443) is None
    assert refusal(host, 80) == "port"
    assert refusal(host, 22) == "port"


@given(st.integers(0, 2**32 - 1))
def test_a_mapped_address_is_judged_as_the_v4_address_inside(value: int):
    address = ipaddress.IPv4Address(value)
    assert is_global_unicast(str(address)) == is_global_unicast(f"::ffff:{address}")


@given(st.integers(0, 2**32 - 1))
def test_what_is_allowed_is_global_by_the_standard_library_too_v4(value: int):
    address = ipaddress.IPv4Address(value)
    if is_global_unicast(str(address)):
        assert address.is_global
        assert not address.is_multicast


@given(st.integers(0, 2**128 - 1) | st.integers(2**125, 2**126 - 1))
def test_what_is_allowed_is_global_by_the_standard_library_too_v6(value: int):
    address = ipaddress.IPv6Address(value)
    if is_global_unicast(str(address)):
        assert address.is_global
        assert not address.is_multicast
        assert address.sixtofour is None
        assert address.teredo is None


@given(st.text(max_size=40))
def test_what_is_no_address_is_refused(text: str):
    try:
        ipaddress.ip_address(text)
    except ValueError:
        assert refusal(text, 443) == "address"


def test_a_zone_is_never_global():
    assert not is_global_unicast("2606:4700:4700::1111%eth0")
    assert not is_global_unicast("fe80::1%eth0")


def test_only_the_named_origins_are_exempt():
    allow = AllowList.of(["http://127.0.0.1:9900", "https://Hooks.Internal/", "http://[::1]:9"])
    assert allow.allows("http", "127.0.0.1", 9900)
    assert allow.allows("https", "hooks.internal", 443)
    assert allow.allows("http", "::1", 9)
    assert not allow.allows("https", "127.0.0.1", 9900)
    assert not allow.allows("http", "127.0.0.1", 9901)
    assert not allow.allows("http", "127.0.0.2", 9900)
    assert not AllowList().allows("http", "127.0.0.1", 9900)


@pytest.mark.parametrize(
    "text",
    ["", "127.0.0.1:80", "ftp://host", "http://", "http://h:0", "http://h:x", "http://h/path"],
)
def test_an_origin_that_makes_no_sense_is_refused(text: str):
    with pytest.raises(ValueError, match=r"origin|port"):
        AllowList.of([text])


def test_the_sandbox_allows_high_loopback_ports_except_those_in_use():
    allow = AllowList.of([], loopback_except=[8080, 8081])
    assert allow.allows("http", "127.0.0.1", 9900)
    assert not allow.allows("http", "127.0.0.1", 8080)
    assert not allow.allows("http", "127.0.0.1", 1023)
    assert not allow.allows("http", "127.0.0.2", 9900)
    assert not allow.allows("https", "127.0.0.1", 9900)
    assert not AllowList.of([]).allows("http", "127.0.0.1", 9900)


def test_only_what_the_operator_named_is_listed() -> None:
    allow = AllowList.of(["http://10.0.0.7:9000", "https://[fd00::1]"], loopback_except=[])
    for url in ("http://10.0.0.7:9000/h?x=1", "HTTP://10.0.0.7:9000", "https://[FD00::1]:443/h"):
        assert allow.lists(url), url
    for url in ("http://10.0.0.7/h", "https://10.0.0.7:9000/h", "http://127.0.0.1:9000/h"):
        assert not allow.lists(url), url
    assert not AllowList.of([]).lists("http://10.0.0.7:9000/h")
