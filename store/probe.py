"""Look at the servers before the first promise: do they answer, may we in, is their data safe.

For start-up and `smsgw check`; everything that is wrong becomes a ConfigError with a remedy.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from sms.errors import ConfigError, StoreUnavailable
from store import database, schema
from store.binaries import OLDEST_MAJOR

PING_TIMEOUT_S = 3.0


async def check_postgres(dsn: str) -> tuple[int, Sequence[str]]:
    """The server's major version and warnings; raises ConfigError naming what to do."""
    try:
        major = await database.server_major(dsn)
        if major < OLDEST_MAJOR:
            raise ConfigError(
                f"PostgreSQL {major} is too old: version {OLDEST_MAJOR} or newer is needed"
            )
        return major, await database.check_durability(dsn)
    except StoreUnavailable as error:
        raise ConfigError(f"{error}; start it, or correct SMSGW_DATABASE_URL") from error
    except asyncpg.PostgresError as error:  # wrong password, no such database, …
        raise ConfigError(
            f"PostgreSQL refuses us ({type(error).__name__}); correct SMSGW_DATABASE_URL"
        ) from error
    except ValueError as error:
        raise ConfigError("SMSGW_DATABASE_URL is no address that asyncpg understands") from error


async def pending_migrations(dsn: str) -> list[str]:
    """Names of the migrations that `smsgw migrate` would run now."""
    return list((await _standing(dsn)).pending)


async def contracting_migrations(dsn: str) -> list[str]:
    """Names of those that `smsgw migrate --contract` would run."""
    return list((await _standing(dsn)).contracting)


async def _standing(dsn: str) -> schema.Standing:
    conn = await database.connect(dsn)
    try:
        return await schema.standing(conn)
    finally:
        await database.close(conn)


async def check_redis(url: str) -> str:
    """The version of Valkey or Redis; raises ConfigError naming what to do."""
    import redis.asyncio  # here: 0.2 s that a start with embedded servers does not need
    import redis.exceptions

    try:
        client = redis.asyncio.from_url(
            url, socket_timeout=PING_TIMEOUT_S, socket_connect_timeout=PING_TIMEOUT_S
        )
        try:
            told = await client.info("server")
        finally:
            await client.aclose()
    except (redis.exceptions.RedisError, OSError, ValueError) as error:
        raise ConfigError(
            f"Valkey does not answer ({type(error).__name__}); start it, or correct SMSGW_REDIS_URL"
        ) from error
    return str(told.get("valkey_version") or told.get("redis_version", ""))
