"""No measuring run looks like an attack to the guard: its numbers follow one another."""

import pytest
import yaml

from gateway import sandbox_config
from loadtest import backlog, fairness, load, many

SINK = "http://127.0.0.1:9900/hooks"
CROWD = many.Crowd(2, 4, 1, SINK, b"s" * 32)
TENANTS = {
    "sandbox": yaml.safe_load(sandbox_config._TENANT.format(limit=1))["tenants"],
    "backlog": yaml.safe_load(backlog._TENANT.format(name="some")),
    "fairness": yaml.safe_load(fairness._BLASTER % (1, 1)),
    "load": yaml.safe_load(load.configuration(["carrier-a"], SINK))["tenants"],
    "growth": [upserts[0].spec for _, upserts in many.tenants(CROWD, b"p" * 32)],
}


@pytest.mark.parametrize("name", TENANTS)
def test_the_tenants_of_a_run_have_no_cap_for_neighbours(name):
    caps = [tenant["otp_caps"]["prefix_burst"] for tenant in TENANTS[name]]
    assert caps
    assert set(caps) == {0}
