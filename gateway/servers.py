"""Give a command the servers it works on: those of the settings, else embedded ones.

A running `smsgw up` on the same data directory is used as it is; where none runs, the servers
are started for the length of the command.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from gateway.settings import Settings
from sms.errors import ConfigError
from store import probe
from store.embedded import EmbeddedServers


def embedded_for(settings: Settings, on_progress: Callable[[str], None]) -> EmbeddedServers | None:
    """The embedded servers that these settings ask for; None when both addresses are given."""
    wanted = []
    if settings.database_url is None:
        wanted.append("postgres")
    if settings.redis_url is None:
        wanted.append("valkey")
    if not wanted:
        return None
    return EmbeddedServers(settings.data_dir, wanted=tuple(wanted), on_progress=on_progress)


def start(
    settings: Settings, servers: EmbeddedServers | None, on_warning: Callable[[str], None]
) -> Settings:
    """Start what is embedded, check what promises stand on; settings with both addresses.

    Raises ConfigError when a server is missing, refuses us, or could lose what it confirmed.
    """
    given = settings.redis_url
    if servers is not None:
        found = servers.start()
        settings = settings.model_copy(
            update={
                "database_url": settings.database_url or found.database_url,
                "redis_url": settings.redis_url or found.redis_url,
                "run_dir": servers.run_dir,
            }
        )
    if settings.database_url is None or settings.redis_url is None:
        raise ConfigError("set SMSGW_DATABASE_URL and SMSGW_REDIS_URL, or neither")

    async def check(database_url: str) -> None:
        _, warnings = await probe.check_postgres(database_url)
        for warning in warnings:
            on_warning(warning)
        if given is not None:  # an embedded one has answered already
            await probe.check_redis(given)

    asyncio.run(check(settings.database_url))
    return settings


def describe_place(settings: Settings) -> str:
    """Which gateway a command works on. Raises ConfigError when there is none at that place.

    A mistyped directory must not become a new and empty database beside the real one.
    """
    if settings.database_url is not None:
        return f"database: that of SMSGW_DATABASE_URL; data directory {settings.data_dir}"
    if not (settings.data_dir / "postgres").is_dir():
        raise ConfigError(
            f"there is no gateway in {settings.data_dir}: set SMSGW_DATA_DIR to the directory of "
            "yours, or start it there once with `smsgw up`"
        )
    return f"data directory {settings.data_dir}"


@contextlib.contextmanager
def reachable(settings: Settings, on_progress: Callable[[str], None]) -> Iterator[Settings]:
    """Settings with addresses that answer, for the length of one command."""
    servers = embedded_for(settings, on_progress)
    try:
        yield start(settings, servers, on_progress)
    finally:
        if servers is not None:
            servers.stop()
