"""Who may connect to the SMGs' port, by address; the rest needs sockets (tests/integration)."""

import pytest

from adapters.sgip.door import _is_listed
from adapters.sgip.settings import parse
from tests.support.sgip import SETTINGS


@pytest.mark.parametrize(
    ("address", "allow", "is_listed"),
    [
        ("203.0.113.7", ["203.0.113.7"], True),
        ("203.0.113.8", ["203.0.113.7"], False),
        ("198.51.100.200", ["203.0.113.7", "198.51.100.0/24"], True),
        ("198.51.101.1", ["203.0.113.7", "198.51.100.0/24"], False),
        ("::ffff:203.0.113.7", ["203.0.113.7"], True),  # a socket of IPv6 shows IPv4 so
        ("::ffff:203.0.113.8", ["203.0.113.7"], False),
        ("2001:db8::7", ["2001:db8::/32"], True),
        ("2001:db9::7", ["2001:db8::/32"], False),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("", ["203.0.113.7"], False),
        ("no address", ["203.0.113.7"], False),
    ],
)
def test_an_address_is_on_the_list_or_not(address, allow, is_listed):
    assert _is_listed(address, parse({**SETTINGS, "smg_allow": allow})) is is_listed
