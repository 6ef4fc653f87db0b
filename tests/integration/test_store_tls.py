"""PostgreSQL and Valkey within TLS: what is taken, what is refused in words, never in clear."""

import asyncio
import contextlib
from urllib.parse import quote

import pytest

from gateway.settings import Settings
from ratelimit.limiter import Valkey
from sms.errors import ClusterUnavailable, ConfigError, StoreUnavailable
from store import database, probe
from tests.support.certificates import Authority
from tests.support.tls_front import TlsFront, server_context, unusable_contexts
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.integration
AUTHORITY = Authority("of the servers")
CLIENTS = Authority("of clients")
WORDS = {
    "another authority": ("signed by nobody we trust", "sslrootcert", "ssl_ca_certs"),
    "another name": ("not for the host", "SMSGW_DATABASE_URL", "SMSGW_REDIS_URL"),
    "expired": ("has expired", "renew", "renew"),
    "TLS 1.1": ("TLS 1.2", "TLS", "TLS"),
}


@pytest.fixture
def ca(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text(AUTHORITY.cert, "ascii")
    return path


@pytest.fixture
async def front(postgres_server):
    async with TlsFront(postgres_server.run_dir / ".s.PGSQL.5432", is_postgres=True) as one:
        yield one


@pytest.fixture
def address(durable, front, ca):
    """The test's database through the front."""
    name = durable.partition("?")[0].rpartition("/")[2]

    def of(mode="verify-full", **more):
        query = {"sslmode": mode, "sslrootcert": str(ca), **more}
        words = "&".join(f"{key}={quote(str(text))}" for key, text in query.items() if text)
        return f"postgresql://smsgw@localhost:{front.port}/{name}?{words}"

    return of


async def asked(dsn):
    conn = await database.connect(dsn)
    try:
        return await conn.fetchval("SELECT 1")
    finally:
        await database.close(conn)


async def test_postgresql_verified_in_full_for_one_connection_and_for_a_pool(
    front, address, tmp_path
):
    front.context = server_context(AUTHORITY.issue("localhost"), tmp_path)
    assert await asked(address()) == 1
    pool = await database.open_pool(address(), size=2)
    async with database.acquire(pool) as conn:
        assert await conn.fetchval("SELECT 2") == 2
    await pool.close()
    major, warnings = await probe.check_postgres(address())
    assert major >= 14
    assert not any("clear" in warning for warning in warnings)
    assert front.sealed >= 3
    assert front.in_clear == 0


async def test_postgresql_that_asks_for_our_certificate_gets_it(front, address, tmp_path):
    front.context = server_context(AUTHORITY.issue("localhost"), tmp_path, CLIENTS.cert)
    mine = CLIENTS.issue("smsgw")
    cert, key = tmp_path / "own.crt", tmp_path / "own.key"
    cert.write_text(mine.cert, "ascii")
    key.write_text(mine.key, "ascii")
    assert await asked(address(sslcert=cert, sslkey=key)) == 1
    with pytest.raises(StoreUnavailable):
        await asked(address())
    # a renewed one is read at the next connection, without a restart
    other = CLIENTS.issue("smsgw")
    cert.write_text(other.cert, "ascii")
    key.write_text(other.key, "ascii")
    assert await asked(address(sslcert=cert, sslkey=key)) == 1


@pytest.mark.parametrize("trouble", WORDS)
async def test_a_postgresql_that_is_not_right_is_as_good_as_away(front, address, tmp_path, trouble):
    front.context = unusable_contexts(AUTHORITY, tmp_path)[trouble]
    what, remedy, _ = WORDS[trouble]
    with pytest.raises(StoreUnavailable, match=what) as caught:
        await asked(address())
    assert remedy in str(caught.value)
    with pytest.raises(ConfigError, match=what):
        await probe.check_postgres(address())
    assert front.in_clear == 0
    # it comes back as a server does that was away
    front.context = server_context(AUTHORITY.issue("localhost"), tmp_path)
    assert await asked(address()) == 1


async def test_a_pool_whose_server_was_exchanged_recovers_by_itself(front, address, tmp_path):
    good = server_context(AUTHORITY.issue("localhost"), tmp_path)
    front.context = good
    pool = await database.open_pool(address(), size=1)
    front.context = unusable_contexts(AUTHORITY, tmp_path)["another authority"]
    await pool.expire_connections()
    with pytest.raises(StoreUnavailable):
        async with database.acquire(pool):
            pass
    front.context = good
    async with database.acquire(pool) as conn:
        assert await conn.fetchval("SELECT 3") == 3
    await pool.close()


async def test_a_postgresql_without_tls_gets_not_an_octet_in_clear(front, address):
    front.context = None
    for mode in ("require", "verify-ca", "verify-full"):
        with pytest.raises(StoreUnavailable, match="ssl=on"):
            await asked(address(mode))
    assert front.in_clear == 0


async def test_files_that_are_not_there_are_named(front, address, tmp_path):
    front.context = server_context(AUTHORITY.issue("localhost"), tmp_path)
    for name in ("sslrootcert", "sslcert"):
        with pytest.raises(ConfigError, match=f"SMSGW_DATABASE_URL: {name}=.*cannot be read"):
            await probe.check_postgres(address(**{name: str(tmp_path / "none.pem")}))
    with pytest.raises(ConfigError, match="name files that are there in sslrootcert"):
        await probe.check_postgres(address(sslrootcert=""))


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("db.example/d", "may go in clear"),
        ("db.example/d?sslmode=prefer", "may go in clear"),
        ("db.example/d?sslmode=require", "is not verified"),
        ("db.example/d?sslmode=verify-full", ""),
        ("localhost/d", ""),
        ("/d?host=/run/postgresql", ""),
    ],
)
def test_an_address_that_others_could_read_is_warned_of(place, what):
    told = probe.exposed(f"postgresql://smsgw@{place}")
    assert (what in told[0]) if what else told == []


# -- Valkey ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def sealed(valkey):
    async with TlsFront(valkey.path) as one:
        yield one


def place(front, **query):
    words = "&".join(f"{key}={quote(str(text))}" for key, text in query.items())
    url = f"rediss://localhost:{front.port}/0?{words}"
    assert Settings.load({"SMSGW_REDIS_URL": url}).redis_url == url
    return url


async def limits(url):
    """One call of the limiter: what the path does."""
    call = Valkey(url, 5.0)
    try:
        return await call(["{t}:a"], [1, 1, 0, 0, 0, 0, 1, 1])
    finally:
        with contextlib.suppress(ClusterUnavailable):
            await call.close()


async def test_valkey_verified_and_with_a_certificate_of_ours(sealed, ca, tmp_path):
    mine = CLIENTS.issue("smsgw").file(tmp_path / "own.pem")
    sealed.context = server_context(AUTHORITY.issue("localhost"), tmp_path, CLIENTS.cert)
    url = place(sealed, ssl_ca_certs=ca, ssl_certfile=mine, ssl_keyfile=mine)
    assert await probe.check_redis(url)
    assert await limits(url)
    assert sealed.sealed >= 2
    with pytest.raises(ConfigError, match="Valkey"):
        await probe.check_redis(place(sealed, ssl_ca_certs=ca))


@pytest.mark.parametrize("trouble", WORDS)
async def test_a_valkey_that_is_not_right_is_as_good_as_away(sealed, ca, tmp_path, trouble):
    sealed.context = unusable_contexts(AUTHORITY, tmp_path)[trouble]
    what, _, remedy = WORDS[trouble]
    url = place(sealed, ssl_ca_certs=ca)
    with pytest.raises(ConfigError, match=what) as caught:
        await probe.check_redis(url)
    assert remedy in str(caught.value)
    with pytest.raises(ClusterUnavailable, match=what):
        await limits(url)
    sealed.context = server_context(AUTHORITY.issue("localhost"), tmp_path)
    assert await limits(url)


async def test_a_valkey_without_tls_is_told(valkey, ca):
    async def carry(reader, writer):
        writer.write(b"-ERR unknown command\r\n")  # what it says to a handshake
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(carry, "localhost", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConfigError, match="does not speak TLS; correct the port"):
        await probe.check_redis(f"rediss://localhost:{port}/0?ssl_ca_certs={ca}")
    server.close()
