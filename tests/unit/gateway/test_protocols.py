"""A protocol is more than its line in the registry: what stands beside it has one, too."""

from gateway.document import LATER_PROTOCOLS
from gateway.protocols import PROTOCOLS
from loadtest.carrier import SIDES
from loadtest.wirebench import BENCHES
from tests.support.wire_rig import SPOKEN


def test_every_protocol_has_a_simulated_carrier_a_bench_and_a_rig():
    assert set(SIDES) == set(BENCHES) == set(SPOKEN) == set(PROTOCOLS)


def test_what_is_there_is_not_told_to_come_later():
    assert not set(PROTOCOLS) & set(LATER_PROTOCOLS)


def test_each_checks_its_settings_and_names_the_login():
    for name, protocol in PROTOCOLS.items():
        pointers = {pointer for pointer, _ in protocol.validate({})}
        assert {"/host", "/port", f"/{protocol.login}"} <= pointers, name
