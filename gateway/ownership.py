"""Who owns the schema and who runs on it: migrations, grants, and the settings of each.

SMSGW_DATABASE_URL alone           one role does both; a trigger keeps the audit log
… and SMSGW_MIGRATE_DATABASE_URL   the first is the runtime role, the second the owner
neither (embedded)                 `up` makes the role smsgw_run, and its workers are that
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from gateway.settings import Settings
from sms.errors import ConfigError
from store import roles, schema
from store.embedded import endpoints_of
from store.probe import pending_migrations


def owner_url(settings: Settings) -> str:
    """The address for whoever makes and ends tables."""
    return settings.migrate_database_url or settings.database_url or ""


Tell = Callable[[str], None]
Run = Callable[[str, Tell], Awaitable[list[str]]]


def prepare(settings: Settings, on_progress: Tell, run: Run = schema.migrate) -> list[str]:
    """Migrate (or `run`) as the owner, renew the runtime role's grants; the names applied now.

    A node that has the runtime role alone needs a schema that is up to date. Raises ConfigError
    when it is not, or when the roles are not as they must be.
    """
    return asyncio.run(_prepare(settings, on_progress, run))


async def _prepare(settings: Settings, on_progress: Tell, run: Run) -> list[str]:
    owner = owner_url(settings)
    if not await roles.may_migrate(owner):
        if await pending_migrations(owner):
            raise ConfigError(
                "the database waits for migrations, which its owner runs: "
                "`smsgw migrate` with SMSGW_MIGRATE_DATABASE_URL"
            )
        return []
    applied = await run(owner, on_progress)
    granted = set(await roles.runtime_roles(owner))  # the owner's address may be all we have
    role = runtime_role(settings)
    if role is not None:
        granted.add(role)
    elif await roles.exists(owner, roles.RUNTIME_ROLE):
        granted.add(roles.RUNTIME_ROLE)  # a command beside an embedded gateway
    for name in sorted(granted):
        await roles.grant(owner, name)
    return applied


def runtime_role(settings: Settings) -> str | None:
    """The role that only runs; None where the owner does that too."""
    if settings.migrate_database_url is None:
        return None
    role = roles.role_of(settings.database_url or "")
    if role is None:
        raise ConfigError("SMSGW_DATABASE_URL: name its role, as postgresql://smsgw_run@host/db")
    if role == roles.role_of(settings.migrate_database_url):
        return None
    return role


def split(settings: Settings) -> Settings:
    """Settings of a node with an embedded PostgreSQL: its workers get a role that owns nothing.

    After `prepare`. The role is made when it is missing; it has no password, for the socket's
    directory is closed to everybody else (0700).
    """
    if settings.run_dir is None:
        return settings
    owner = endpoints_of(settings.run_dir).database_url
    asyncio.run(roles.grant(owner, roles.RUNTIME_ROLE, make=True))
    return settings.model_copy(
        update={
            "database_url": owner.replace("//smsgw@", f"//{quote(roles.RUNTIME_ROLE)}@", 1),
            "migrate_database_url": owner,
        }
    )


def for_workers(settings: Settings) -> Settings:
    """The same without the owner's address: who serves requests does not have it."""
    return settings.model_copy(update={"migrate_database_url": None})
