"""After `smsgw apply`: wait until the workers of this node work by the new version.

A key that was just made would be refused by a worker that has not looked yet, so the command
ends only when its next line may be a request.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable

from gateway.settings import Settings
from store.embedded import endpoints_of, existing_run_directory

WAIT_S = 5.0
_LOOK_S = 0.1
# The merged series is the oldest version of all the node's workers.
_VERSION = re.compile(rb"^smsgw_config_version(?:\{\})? ([0-9.e+]+)$", re.MULTILINE)


def wait(settings: Settings, version: int, tell: Callable[[str], None]) -> str:
    """Wait at most `WAIT_S` for the version; returns the sentence that says where it stands."""
    return asyncio.run(_wait(settings, version, tell))


async def _wait(settings: Settings, version: int, tell: Callable[[str], None]) -> str:
    end = time.monotonic() + WAIT_S
    has_told = False
    while True:
        metrics = await _metrics(settings)
        if metrics is None:
            return _nobody(settings, version)
        found = _VERSION.search(metrics)
        if found is not None and float(found[1]) >= version:
            return f"version {version} is in force"
        if time.monotonic() >= end:
            return (
                f"version {version} is stored, but the workers have not taken it up within "
                f"{WAIT_S:g} s: ask /readyz, and look into {settings.log_dir}"
            )
        if not has_told:
            has_told = True
            tell(f"version {version} is stored; waiting for the workers to take it up …")
        await asyncio.sleep(_LOOK_S)


async def _metrics(settings: Settings) -> bytes | None:
    """The node's metrics; None when no supervisor runs on the data directory."""
    from gateway.node_http import ask

    run_dir = existing_run_directory(settings.data_dir)
    if run_dir is None:
        return None
    try:
        _, body = await ask(run_dir / "supervisor.sock", "/metrics", 2.0)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
        return b""  # it is there and busy
    return body


def _nobody(settings: Settings, version: int) -> str:
    run_dir = existing_run_directory(settings.data_dir)
    if run_dir is None or settings.database_url != endpoints_of(run_dir).database_url:
        return (
            f"version {version} is stored in the database; gateways that run on it take it up "
            f"within 5 s (none runs on {settings.data_dir})"
        )
    return (
        f"version {version} is stored in {settings.data_dir}; no gateway runs on it now: start "
        "one with `smsgw up`"
    )
