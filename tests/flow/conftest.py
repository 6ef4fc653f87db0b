"""One real gateway for the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.support.gateway_process import GatewayProcess, eventually


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    with GatewayProcess(channel_drain_s="1") as gateway:
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess) -> GatewayProcess:
    """The module's gateway, all carriers friendly and bound, whatever the test before did."""
    running.calm()
    eventually(running.all_links_up, "every channel has its sessions")
    return running
