import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio

from sms.errors import ConfigError
from store import binaries, spawn
from store.embedded import EmbeddedServers, run_directory

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0
ORDINARY = 65534


@pytest.fixture
def data_dir():
    # short, and passable for another uid (pytest's own directory is 0700)
    top = Path(tempfile.mkdtemp(prefix="smsgw-test-"))
    top.chmod(0o755)
    yield top / "data"
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def servers(data_dir):
    made = EmbeddedServers(data_dir)
    yield made
    made.stop(is_fast=True)


class Child:
    """Embedded servers in another process, which the test may kill."""

    def __init__(self, data_dir: Path, uid: int, *words: str):
        if uid != os.geteuid():
            data_dir.mkdir(mode=0o700, exist_ok=True)
            os.chown(data_dir, uid, uid)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.servers_child", str(data_dir), str(uid), *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.told = json.loads(self.process.stdout.readline())
        self.pids = self.told["pids"]

    def kill(self):
        self.process.kill()
        self.close()

    def close(self):
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


async def put(database_url: str, value: int) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("create table if not exists kept (value int)")
    await connection.execute("insert into kept values ($1)", value)
    await connection.close()


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)  # owners stay


async def kept(database_url: str) -> list[int]:
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch("select value from kept order by 1")
    await connection.close()
    return [row[0] for row in rows]


async def test_both_answer_and_durability_is_at_its_default(servers):
    endpoints = servers.start()
    assert servers.is_alive()
    connection = await asyncpg.connect(endpoints.database_url)
    shown = {
        name: await connection.fetchval(f"show {name}")
        for name in ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "jit")
    }
    await connection.close()
    assert shown == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "",
        "jit": "off",
    }
    client = redis.asyncio.from_url(endpoints.redis_url)
    assert await client.incr("x") == 1
    assert (await client.config_get("appendonly"))["appendonly"] == "yes"
    await client.aclose()
    assert servers.run_dir.stat().st_mode & 0o777 == 0o700


async def test_kill_9_of_the_servers_loses_nothing(servers):
    endpoints = servers.start()
    await put(endpoints.database_url, 1)
    for pid in servers.pids().values():
        os.kill(pid, signal.SIGKILL)
        assert spawn.wait_gone(pid, 5)
    assert set(servers.restart_dead()) == {"postgres", "valkey"}
    assert await kept(endpoints.database_url) == [1]
    assert servers.restart_dead() == []


async def test_what_is_put_back_answers_when_it_can_be_written_to(servers, data_dir):
    """PostgreSQL's own default pauses at the target, and answers read-only meanwhile."""
    endpoints = servers.start()
    await put(endpoints.database_url, 1)
    old, new = data_dir / "postgres", data_dir.with_name("new") / "postgres"
    new.parent.mkdir(mode=0o700)
    conn = await asyncpg.connect(endpoints.database_url)
    await conn.execute("SELECT pg_backup_start('here', true)")
    copy(old, new)
    label = await conn.fetchval("SELECT labelfile FROM pg_backup_stop(false)")
    await conn.close()
    await put(endpoints.database_url, 2)  # behind the target
    shutil.rmtree(new / "pg_wal")
    copy(old / "pg_wal", new / "pg_wal")
    (new / "postmaster.pid").unlink()
    (new / "backup_label").write_text(label)
    with (new / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = 'false'\nrecovery_target = 'immediate'\n")
    (new / "recovery.signal").touch()
    again = EmbeddedServers(new.parent)
    try:
        found = again.start().database_url
        await put(found, 3)
        assert await kept(found) == [1, 3]
    finally:
        again.stop(is_fast=True)


@pytest.mark.parametrize("uid", [0, ORDINARY] if IS_ROOT else [os.geteuid()])
async def test_kill_9_of_the_parent_ends_them_and_a_start_finds_the_data(data_dir, uid):
    child = Child(data_dir, uid)
    await put(child.told["db"], 1)
    child.kill()
    again = Child(data_dir, uid)  # at once: the old ones may still be on their way out
    assert again.pids["postgres"] != child.pids["postgres"]
    assert all(spawn.wait_gone(pid, 5) for pid in child.pids.values())
    await put(again.told["db"], 2)
    for pid in (*again.pids.values(), again.process.pid):  # everything at the same moment
        os.kill(pid, signal.SIGKILL)
    again.close()
    third = Child(data_dir, uid)
    assert await kept(third.told["db"]) == [1, 2]
    third.close()
    assert all(spawn.wait_gone(pid, 5) for pid in third.pids.values())


async def test_orphans_are_ended_and_replaced(data_dir):
    child = Child(data_dir, os.geteuid(), "orphans")
    await put(child.told["db"], 1)
    child.kill()
    assert all(spawn.started_at(pid) for pid in child.pids.values())
    told: list[str] = []
    servers = EmbeddedServers(data_dir, on_progress=told.append)
    endpoints = servers.start()
    try:
        assert any(str(child.pids["postgres"]) in line for line in told)
        assert not any(spawn.started_at(pid) for pid in child.pids.values())
        assert await kept(endpoints.database_url) == [1]
    finally:
        servers.stop(is_fast=True)


async def test_servers_of_a_living_parent_are_adopted_and_left_running(data_dir):
    child = Child(data_dir, os.geteuid())
    servers = EmbeddedServers(data_dir)
    endpoints = servers.start()
    assert servers.pids() == child.pids
    await put(endpoints.database_url, 1)
    servers.stop()
    assert await kept(child.told["db"]) == [1]
    child.close()


async def test_two_first_starts_at_once_make_one_cluster_and_an_heir_takes_over(data_dir):
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: Child(data_dir, os.geteuid()), range(2))
    assert first.pids == second.pids
    await put(first.told["db"], 1)
    parent = psutil.Process(first.pids["postgres"]).ppid()
    owner, other = (first, second) if first.process.pid == parent else (second, first)
    owner.close()
    heir = Child(data_dir, os.geteuid())
    assert heir.pids != first.pids
    assert await kept(heir.told["db"]) == [1]
    heir.close()
    other.close()


@pytest.mark.skipif(not IS_ROOT, reason="only root has to become somebody else")
async def test_where_namespaces_are_forbidden_root_is_left_and_taken_again(data_dir):
    child = Child(data_dir, 0, "no-namespace")
    await put(child.told["db"], 1)
    assert os.stat(f"/proc/{child.pids['postgres']}").st_uid == ORDINARY
    child.close()
    again = Child(data_dir, 0)
    assert os.stat(f"/proc/{again.pids['postgres']}").st_uid == 0
    assert await kept(again.told["db"]) == [1]
    again.close()


@pytest.mark.skipif(not IS_ROOT, reason="only root has to become somebody else")
async def test_programs_out_of_reach_are_copied_beside_the_data(data_dir, monkeypatch):
    hidden = data_dir.parent / "hidden"
    found = binaries.find_postgres()
    package = found.bin_dir.parents[1]
    shutil.copytree(found.bin_dir.parent, hidden / package.name / "pginstall")
    libraries = package.with_name(package.name + ".libs")
    shutil.copytree(libraries, hidden / libraries.name)
    hidden.chmod(0o700)
    mine = binaries.Postgres(hidden / package.name / "pginstall" / "bin", found.major)
    monkeypatch.setattr(binaries, "find_postgres", lambda major=None: mine)
    servers = EmbeddedServers(data_dir, may_use_namespace=False)
    endpoints = servers.start()
    try:
        await put(endpoints.database_url, 1)
        assert list(data_dir.glob("programs/*/pginstall/bin/postgres"))
    finally:
        servers.stop(is_fast=True)


async def test_a_stale_pid_file_with_a_pid_in_use_does_not_stop_the_start(servers, data_dir):
    servers.start()
    servers.stop()
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{data_dir}\n1\n5432\n")
    assert servers.start()
    assert servers.is_alive()


async def test_lock_files_that_a_power_cut_left_empty_do_not_stop_the_start(servers, data_dir):
    servers.start()
    servers.stop()
    (data_dir / "postgres" / "postmaster.pid").write_bytes(b"")
    (run_directory(data_dir) / ".s.PGSQL.5432.lock").write_bytes(b"")
    await put(servers.start().database_url, 1)


async def test_a_long_path_gets_a_short_directory_that_is_kept(data_dir):
    deep = data_dir / ("d" * 100)
    servers = EmbeddedServers(deep)
    endpoints = servers.start()
    try:
        await put(endpoints.database_url, 1)
        assert len(str(servers.run_dir)) < 90
        assert servers.run_dir.stat().st_mode & 0o777 == 0o700
        assert run_directory(deep) == servers.run_dir
    finally:
        servers.stop(is_fast=True)
        shutil.rmtree(servers.run_dir)


def test_a_short_directory_that_another_took_is_not_used(data_dir, monkeypatch):
    deep = data_dir / ("d" * 100)
    deep.mkdir(parents=True)
    first = run_directory(deep)
    (deep / "run-dir").unlink()
    first.chmod(0o777)
    second = run_directory(deep)
    assert second != first
    assert run_directory(deep) == second
    first.rmdir()
    second.rmdir()


def test_another_major_version_is_refused_with_the_remedy(data_dir):
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "PG_VERSION").write_text("11\n")
    with pytest.raises(ConfigError, match=r"PostgreSQL 11.*install PostgreSQL 11.*SMSGW_DATABASE"):
        EmbeddedServers(data_dir).start()


def test_without_programs_both_remedies_are_named(data_dir, monkeypatch):
    monkeypatch.setattr(binaries, "_postgres_dirs", lambda: iter(()))
    with pytest.raises(ConfigError, match=r"smsgw\[embedded\].*SMSGW_DATABASE_URL"):
        EmbeddedServers(data_dir).start()


async def test_a_broken_cache_file_does_not_stop_the_start(servers, data_dir):
    servers.start()
    servers.stop()
    for path in (data_dir / "valkey" / "appendonlydir").iterdir():
        path.write_bytes(b"\0broken" * 100)
    servers.start()
    assert servers.is_alive()
    assert list(data_dir.glob("valkey.broken-*"))


def test_a_directory_of_another_user_is_refused(data_dir):
    if not IS_ROOT:
        pytest.skip("needs root to make one")
    data_dir.mkdir()
    os.chown(data_dir, 12345, 12345)
    with pytest.raises(ConfigError, match=r"belongs to uid 12345.*SMSGW_DATA_DIR"):
        EmbeddedServers(data_dir).start()
