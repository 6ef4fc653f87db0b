"""`smsgw check`: settings and connections, one line each, with the remedy for what is wrong.

It changes nothing. Embedded servers are asked when they run; otherwise it looks whether their
programs are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from gateway import server_tls
from gateway.settings import Settings, unknown_variables
from gateway.terminal import Terminal
from sms.config import AdminState
from sms.errors import ConfigError, GatewayError, StoreUnavailable, Unavailable
from store import binaries, probe
from store.audit import AuditLog
from store.config import ConfigStore
from store.database import Pool, open_pool
from store.embedded import endpoints_of, existing_run_directory
from store.seal import KEY_BYTES, Keyring, must_fit, read_master_key

LEAST_FREE_SHARE = 0.05
_NOT_READ = "not looked at: the database is away or has no schema, or the master key is away"
Found = TypeVar("Found")
Look = Callable[[Settings], str]


def run(settings: Settings, terminal: Terminal) -> int:
    """Look at everything; 0 = all is well, 1 = something is wrong."""
    wrong = 0
    for name, is_ok, text in results(settings):
        wrong += not is_ok
        mark = "ok   " if is_ok else "wrong"
        terminal.say(f"{mark}  {name:<12} {text}", "check", name=name, ok=is_ok, text=text)
    return 1 if wrong else 0


def results(settings: Settings) -> Iterator[tuple[str, bool, str]]:
    """Name, verdict and what to say for each thing looked at."""
    looks: dict[str, Look] = {
        "settings": _settings,
        "data": _data,
        "master key": _master_key,
        "port": _public_port,
        "admin port": lambda s: _port(s, s.admin_port, "SMSGW_ADMIN_PORT"),
        "tls": _tls,
        "authorities": _authorities,
        "database": _database,
        "redis": _redis,
        "channels": _channels,
        "audit": _audit,
    }
    for name, look in looks.items():
        try:
            yield name, True, look(settings)
        except GatewayError as error:
            yield name, False, str(error)


def _settings(_: Settings) -> str:
    unknown = unknown_variables()
    if unknown:  # not refused by `up`: an orchestrator adds its own for a service named smsgw
        return f"no setting of ours, left aside: {', '.join(unknown)}"
    return "every SMSGW_ variable can be read"


def _data(settings: Settings) -> str:
    path = settings.data_dir
    if not path.exists():
        parent = next(p for p in path.parents if p.exists())
        if not os.access(parent, os.W_OK):
            raise ConfigError(f"{path} cannot be made in {parent}; set SMSGW_DATA_DIR")
        return f"{path} will be made"
    if path.stat().st_uid != os.geteuid() or not os.access(path, os.W_OK):
        raise ConfigError(f"{path} is not ours; run as its owner, or set SMSGW_DATA_DIR")
    usage = shutil.disk_usage(path)
    if usage.free < usage.total * LEAST_FREE_SHARE:
        raise ConfigError(f"the disk under {path} is full: the gateway would refuse everything")
    return f"{path}, {usage.free / 1e9:.1f} GB free"


def _master_key(settings: Settings) -> str:
    path = settings.master_key_file
    if not path.exists():
        parent = next(p for p in path.parents if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ConfigError(
                f"SMSGW_MASTER_KEY_FILE: {path} is not there and cannot be made in {parent}; name "
                "the key file this database was made with, or a place where it can be made"
            )
        if (settings.data_dir / "postgres").is_dir():
            raise ConfigError(
                f"SMSGW_MASTER_KEY_FILE: {path} is not there, but the database is; put back the "
                "key file it was made with"
            )
        return f"{path} will be made by `smsgw up`"
    read_master_key(path)
    return f"{path} (keep a copy apart from the database)"


def _public_port(settings: Settings) -> str:
    if settings.role == "carrier":
        return "none is opened in the role carrier"
    return _port(settings, settings.port, "SMSGW_PORT")


def _port(settings: Settings, port: int, variable: str) -> str:
    run_dir = existing_run_directory(settings.data_dir)
    if run_dir is not None and _answers(run_dir / "supervisor.sock"):
        return "in use by the gateway that runs on this data directory"
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
        except OSError as error:
            raise ConfigError(
                f"{settings.host}:{port} cannot be opened ({error.strerror}); set {variable}"
            ) from None
    return f"{settings.host}:{port} is free"


def _tls(settings: Settings) -> str:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        if settings.host in ("127.0.0.1", "::1", "localhost"):
            return "off, loopback only"
        raise ConfigError(
            f"off, but {settings.host} is no loopback address: keys would travel in the clear; set "
            "SMSGW_TLS_CERT_FILE and SMSGW_TLS_KEY_FILE, or SMSGW_HOST=127.0.0.1 behind a proxy"
        )
    if (files := server_tls.files_of(settings)) is not None:
        shown = server_tls.make(server_tls.read(files))
        if trouble := server_tls.out_of_time(files, shown, datetime.now(UTC)):
            raise ConfigError(trouble)
    return f"{settings.tls_cert_file}"


def _authorities(_: Settings) -> str:
    """Whom webhooks, vendors and carriers without a file of their own are trusted by.

    OpenSSL says nothing of a file that is not there: every one of them would then fail.
    """
    named = [os.environ.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")]
    if not any(named):
        return "those of this system sign webhooks' and vendors' certificates"
    path = named[0]
    if path:
        try:
            ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError):
            raise ConfigError(
                f"SSL_CERT_FILE: {path} holds no certificate that can be read; name a PEM file, or "
                "unset it for the system's"
            ) from None
    return f"SSL_CERT_FILE={named[0]} SSL_CERT_DIR={named[1]}"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _database(settings: Settings) -> str:
    url = settings.database_url
    if url is None:
        run_dir = existing_run_directory(settings.data_dir)
        if run_dir is None or not _answers(run_dir / ".s.PGSQL.5432"):
            found = binaries.find_postgres()
            return f"embedded PostgreSQL {found.major} will be started ({found.bin_dir})"
        url = endpoints_of(run_dir).database_url

    async def look(dsn: str) -> str:
        major, warnings = await probe.check_postgres(dsn)
        pending = await probe.pending_migrations(dsn)
        words = [f"PostgreSQL {major}, durable", *warnings]
        if pending:
            words.append(f"{len(pending)} migrations will be run by `smsgw up` or `smsgw migrate`")
        with contextlib.suppress(StoreUnavailable):
            await _must_fit(settings, dsn)
        return "; ".join(words)

    return asyncio.run(look(url))


async def _must_fit(settings: Settings, dsn: str) -> None:
    key = secrets.token_bytes(KEY_BYTES)  # `up` would make one: it fits no database that has keys
    if settings.master_key_file.exists():
        try:
            key = read_master_key(settings.master_key_file)
        except ConfigError:
            return  # told in its own line
    await must_fit(dsn, Keyring(key))


def _redis(settings: Settings) -> str:
    url = settings.redis_url
    if url is None:
        run_dir = existing_run_directory(settings.data_dir)
        if run_dir is None or not _answers(run_dir / "valkey.sock"):
            return f"embedded Valkey will be started ({binaries.find_valkey()})"
        url = endpoints_of(run_dir).redis_url
    return f"version {asyncio.run(probe.check_redis(url))}"


def database_address(settings: Settings) -> str | None:
    """Where the database is; None when it is an embedded one that does not run."""
    if settings.database_url is not None:
        return settings.database_url
    run_dir = existing_run_directory(settings.data_dir)
    if run_dir is None or not _answers(run_dir / ".s.PGSQL.5432"):
        return None
    return endpoints_of(run_dir).database_url


def in_store(settings: Settings, read: Callable[[Pool, Keyring], Awaitable[Found]]) -> Found | None:
    """What `read` finds in the database; None when it could not be looked at."""
    url = database_address(settings)
    if url is None:
        return None
    try:
        keyring = Keyring(read_master_key(settings.master_key_file))
    except ConfigError:
        return None  # told beside "master key"

    async def look(dsn: str) -> Found | None:
        if await probe.pending_migrations(dsn):
            return None
        pool = await open_pool(dsn, size=1)
        try:
            return await read(pool, keyring)
        finally:
            await pool.close()

    try:
        return asyncio.run(look(url))
    except Unavailable:
        return None  # told beside "database"


def _in_store(settings: Settings, read: Callable[[Pool, Keyring], Awaitable[str]]) -> str:
    return in_store(settings, read) or _NOT_READ


def _channels(settings: Settings) -> str:
    """How many there are, and which of them an operator has paused."""

    async def read(pool: Pool, keyring: Keyring) -> str:
        found = (await ConfigStore(pool, keyring).load()).channels.values()
        paused = [
            f"{one.name} is {one.admin_state}, by an operator"
            for one in found
            if one.admin_state is not AdminState.ACTIVE
        ]
        return "; ".join([f"{len(found)} configured", *paused])

    return _in_store(settings, read)


def _audit(settings: Settings) -> str:
    """Whether every row of the audit log is as it was written."""

    async def read(pool: Pool, keyring: Keyring) -> str:
        found = await AuditLog(pool, keyring.audit_key).verify()
        if found.broken_at is not None:
            raise ConfigError(
                f"row {found.broken_at} of the audit log is not as it was written (or another "
                "master key wrote it): keep the database as it is, and find out who changed it"
            )
        return f"{found.rows} rows, the chain holds; its head is {found.head.hex()[:16]}"

    return _in_store(settings, read)
