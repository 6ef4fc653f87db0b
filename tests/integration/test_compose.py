"""What the compose file runs in PostgreSQL's container, run at a real PostgreSQL."""

import os
import subprocess
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from gateway import ownership
from gateway.settings import Settings
from store import database, roles
from store.binaries import find_postgres

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).parents[2] / "deploy" / "compose" / "runtime-role.sh"
PASSWORD = 'it\'s $HOME \\ "x"'


@pytest.fixture
async def made(dsn):
    """The address of the role that the script made."""
    parts = urlsplit(dsn)
    env = {
        **os.environ,
        "PATH": f"{find_postgres().bin_dir}:{os.environ['PATH']}",
        "PGHOST": parse_qs(parts.query)["host"][0],
        "POSTGRES_USER": parts.username or "",
        "POSTGRES_DB": parts.path.lstrip("/"),
        "RUNTIME_PASSWORD": PASSWORD,
    }
    subprocess.run(["sh", str(SCRIPT)], env=env, check=True, capture_output=True, timeout=30)  # noqa: ASYNC221
    yield dsn.replace("smsgw@", f"{roles.RUNTIME_ROLE}:{quote(PASSWORD, safe='')}@")
    conn = await database.connect(dsn)
    await conn.execute(f"DROP OWNED BY {roles.RUNTIME_ROLE}; DROP ROLE {roles.RUNTIME_ROLE}")
    await conn.close()


async def test_the_role_of_the_compose_file_runs_the_gateway_and_owns_nothing(dsn, made):
    given = {"SMSGW_DATABASE_URL": made, "SMSGW_MIGRATE_DATABASE_URL": dsn}
    settings = Settings.load(given)
    assert ownership.runtime_role(settings) == roles.RUNTIME_ROLE
    await roles.grant(ownership.owner_url(settings), roles.RUNTIME_ROLE)
    assert await roles.look(made) == (roles.RUNTIME_ROLE, None)
    conn = await database.connect(dsn)
    kept = await conn.fetchval(
        "SELECT rolpassword FROM pg_authid WHERE rolname = $1", roles.RUNTIME_ROLE
    )
    await conn.close()
    assert kept.startswith("SCRAM-SHA-256$")
