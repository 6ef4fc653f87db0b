"""The unit tier really is sealed off: a test that could not fail would be no test."""

import asyncio
import socket
import time

import pytest
from _pytest.outcomes import Failed
from hypothesis import settings


def test_no_socket_connects_binds_or_resolves():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for use in (
            lambda: sock.connect(("127.0.0.1", 9)),
            lambda: sock.bind(("127.0.0.1", 0)),
            lambda: sock.sendto(b"", ("127.0.0.1", 9)),
            lambda: socket.getaddrinfo("localhost", 80),
        ):
            with pytest.raises(Failed, match="unit test"):
                use()


async def test_no_coroutine_opens_a_connection():
    with pytest.raises(Failed, match="unit test"):
        await asyncio.open_connection("127.0.0.1", 9)


def test_nothing_sleeps():
    with pytest.raises(Failed, match="sleep"):
        time.sleep(0.001)


def test_property_tests_have_no_deadline_and_a_seed(pytestconfig):
    assert settings().deadline is None
    assert int(pytestconfig.getoption("hypothesis_seed")) >= 0
