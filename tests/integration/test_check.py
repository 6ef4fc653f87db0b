import asyncio
import io
import json
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from gateway import check
from gateway.servers import reachable
from gateway.settings import Settings
from gateway.terminal import Terminal
from store.database import connect
from store.embedded import EmbeddedServers
from store.schema import migrate
from store.seal import load_or_create_master_key
from tests.support.certificates import Authority
from tests.support.postgres import World

pytestmark = pytest.mark.integration


@pytest.fixture
def data_dir():
    top = Path(tempfile.mkdtemp(prefix="smsgw-test-"))
    yield top / "data"
    shutil.rmtree(top, ignore_errors=True)


def look(settings):
    stream = io.StringIO()
    code = check.run(settings, Terminal(is_json=True, stream=stream))
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    return code, {line["name"]: line for line in told}


def test_before_the_first_start_it_says_what_will_be_made(data_dir):
    code, told = look(Settings.load({}, data_dir=data_dir, port=0, admin_port=0))
    assert code == 0
    assert "will be made" in told["data"]["text"]
    assert "embedded PostgreSQL" in told["database"]["text"]
    assert not data_dir.exists()


def test_running_servers_are_asked(data_dir):
    servers = EmbeddedServers(data_dir)
    servers.start()
    load_or_create_master_key(data_dir / "master.key")
    try:
        code, told = look(Settings.load({}, data_dir=data_dir, port=0, admin_port=0))
    finally:
        servers.stop(is_fast=True)
    assert code == 0
    assert "durable; " in told["database"]["text"]
    assert "migrations will be run" in told["database"]["text"]
    assert told["redis"]["text"].startswith("version ")


def test_what_is_wrong_is_named_with_its_remedy(data_dir):
    data_dir.mkdir()
    (data_dir / "master.key").write_text("short")
    (data_dir / "master.key").chmod(0o600)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = Settings.load(
            {},
            data_dir=data_dir,
            port=other.getsockname()[1],
            admin_port=0,
            database_url="postgresql://x@127.0.0.1:1/x",
            redis_url="redis://127.0.0.1:1",
            tls_cert_file=data_dir / "none",
            tls_key_file=data_dir / "none",
        )
        code, told = look(settings)
    assert code == 1
    wrong = {name: line["text"] for name, line in told.items() if not line["ok"]}
    assert wrong.keys() == {"master key", "port", "tls", "database", "redis"}
    assert "SMSGW_PORT" in wrong["port"]
    assert "SMSGW_DATABASE_URL" in wrong["database"]
    assert "SMSGW_REDIS_URL" in wrong["redis"]
    assert "SMSGW_TLS_CERT_FILE" in wrong["tls"]


def test_a_master_key_that_cannot_be_made_is_wrong(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "key"  # a mode would not stop root
    _, told = look(Settings.load({}, data_dir=data_dir, master_key_file=path))
    assert not told["master key"]["ok"]
    assert "cannot be made" in told["master key"]["text"]


def test_a_missing_master_key_beside_a_database_is_wrong(data_dir):
    (data_dir / "postgres").mkdir(parents=True)
    _, told = look(Settings.load({}, data_dir=data_dir, port=0, admin_port=0))
    assert not told["master key"]["ok"]
    assert "put back" in told["master key"]["text"]


async def test_a_database_of_another_master_key_is_wrong(durable, data_dir):
    await (await World.make(durable)).close()
    data_dir.mkdir()
    settings = Settings.load({}, data_dir=data_dir, database_url=durable)
    _, missing = await asyncio.to_thread(look, settings)
    assert "another master key" in missing["database"]["text"]
    load_or_create_master_key(settings.master_key_file)
    _, other = await asyncio.to_thread(look, settings)
    assert (other["database"]["ok"], other["master key"]["ok"]) == (False, True)
    conn = await connect(durable)
    await conn.execute("DELETE FROM data_keys")
    await conn.close()
    _, fits = await asyncio.to_thread(look, settings)
    assert fits["database"]["ok"]


def test_unknown_variables_are_named(data_dir, monkeypatch):
    monkeypatch.setenv("SMSGW_NOSUCH", "1")
    _, told = look(Settings.load(data_dir=data_dir, port=0, admin_port=0))
    assert told["settings"]["ok"]  # Kubernetes sets such for a service named smsgw
    assert "SMSGW_NOSUCH" in told["settings"]["text"]


def test_an_open_address_without_tls_is_wrong(data_dir):
    settings = Settings.load({}, data_dir=data_dir, host="0.0.0.0", port=0, admin_port=0)
    _, told = look(settings)
    assert "keys would travel in the clear" in told["tls"]["text"]


@pytest.mark.parametrize(("days", "is_right"), [(30, True), (-1, False)])
def test_a_certificate_that_has_ended_is_wrong(data_dir, tmp_path, days, is_right):
    both = Authority().issue("localhost", days=days).file(tmp_path / "both.pem")
    _, told = look(
        Settings.load(
            {}, data_dir=data_dir, port=0, admin_port=0, tls_cert_file=both, tls_key_file=both
        )
    )
    assert told["tls"]["ok"] is is_right
    assert is_right or "put one there that is valid now" in told["tls"]["text"]


def test_a_command_has_servers_for_its_length(data_dir):
    with reachable(Settings.load({}, data_dir=data_dir), lambda _: None) as settings:
        assert settings.database_url is not None
        assert asyncio.run(migrate(settings.database_url))
        assert asyncio.run(migrate(settings.database_url)) == []
    assert not (data_dir / "postgres" / "postmaster.pid").exists()
