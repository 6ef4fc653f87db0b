"""Look at the servers before the first promise: do they answer, may we in, is their data safe.

For start-up and `smsgw check`; everything that is wrong becomes a ConfigError with a remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from sms.errors import ConfigError, StoreUnavailable
from sms.tlswords import VALKEY, tls_trouble
from store import database, schema
from store.binaries import OLDEST_MAJOR

PING_TIMEOUT_S = 3.0


async def check_postgres(dsn: str) -> tuple[int, Sequence[str]]:
    """The server's major version and warnings; raises ConfigError naming what to do."""
    _check_files(dsn)
    try:
        major = await database.server_major(dsn)
        if major < OLDEST_MAJOR:
            raise ConfigError(
                f"PostgreSQL {major} is too old: version {OLDEST_MAJOR} or newer is needed"
            )
        return major, [*await database.check_durability(dsn), *exposed(dsn)]
    except StoreUnavailable as error:
        raise ConfigError(f"{error}; start it, or correct SMSGW_DATABASE_URL") from error
    except asyncpg.PostgresError as error:  # wrong password, no such database, …
        raise ConfigError(
            f"PostgreSQL refuses us ({type(error).__name__}); correct SMSGW_DATABASE_URL"
        ) from error
    except ValueError as error:
        raise ConfigError("SMSGW_DATABASE_URL is no address that asyncpg understands") from error


_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_VERIFIED, _SEALED = ("verify-full", "verify_full"), ("require", "verify-ca", "verify_ca")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def files_of(dsn: str) -> dict[str, str]:
    """The files of certificates that a PostgreSQL address names, by its own words for them."""
    return {name: path for name, path in parse_qsl(urlsplit(dsn).query) if name in _FILES}


def _check_files(dsn: str) -> None:
    """asyncpg's own error for a file that is not there is that of a server that is not."""
    for name, path in files_of(dsn).items():
        try:
            Path(path).expanduser().read_bytes()
        except OSError as error:
            raise ConfigError(
                f"SMSGW_DATABASE_URL: {name}={path} cannot be read ({error.strerror});"
                " put the file there, or correct the path"
            ) from None


def exposed(dsn: str) -> list[str]:
    """A warning where others on the network could read or play PostgreSQL."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    host, mode = query.get("host") or parts.hostname or "", query.get("sslmode", "")
    if not host or host.startswith("/") or host in _LOOPBACK or mode in _VERIFIED:
        return []
    what = "is not verified" if mode in _SEALED else "may go in clear"
    remedy = "add sslmode=verify-full&sslrootcert=FILE to SMSGW_DATABASE_URL"
    return [f"the connection to PostgreSQL {what}: {remedy}"]


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
    except (redis.exceptions.RedisError, OSError, ValueError, TypeError) as error:
        words = tls_trouble(error, VALKEY)
        raise ConfigError(
            f"TLS with Valkey: {words}"
            if words
            else f"Valkey does not answer ({type(error).__name__}); start it, or correct"
            " SMSGW_REDIS_URL"
        ) from error
    return str(told.get("valkey_version") or told.get("redis_version", ""))
