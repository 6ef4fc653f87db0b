"""What holds for every tier: no sockets and no sleep in tests/unit, and a seed that is printed.

Property-based tests meet the same examples in every run of a commit, so that red means that the
commit did it. SMSGW_HYPOTHESIS=random looks for new ones, as `make fuzz` does.
"""

import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

from tests.support import scratch

UNIT = Path(__file__).parent / "unit"
FIXED_SEED = 1

# A slow machine is no failure; what is found is printed so that it can be replayed.
settings.register_profile("smsgw", deadline=None, print_blob=True)
settings.load_profile("smsgw")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose where files go, and the properties' seed here, so that it can be told at the end."""
    scratch.choose()
    if config.getoption("hypothesis_seed") is None:
        is_search = os.environ.get("SMSGW_HYPOTHESIS") == "random"
        config.option.hypothesis_seed = str(
            random.SystemRandom().randrange(2**32) if is_search else FIXED_SEED
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to run the same examples again."""
    seed = terminalreporter.config.getoption("hypothesis_seed")
    terminalreporter.write_line(f"hypothesis seed: --hypothesis-seed={seed}")


def _refuse(what: str) -> NoReturn:
    pytest.fail(f"a unit test must not {what}: give it bytes, a fake or a clock", pytrace=True)


@pytest.fixture(autouse=True)
def _is_sealed_off(request: pytest.FixtureRequest) -> Iterator[None]:
    """In tests/unit nothing connects, listens, resolves or sleeps.

    The event loop's own socket pair is left alone.
    """
    if not request.path.is_relative_to(UNIT):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "bind", "sendto"):
            patch.setattr(socket.socket, name, lambda *_: _refuse("use the network"), raising=False)
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: _refuse("resolve names"))
        patch.setattr(time, "sleep", lambda _: _refuse("sleep"))
        yield
