"""Keys at the store: whoever brings one first has it, and a key always points to a message."""

import asyncio
import contextlib
import time

import asyncpg
import pytest

from sms.errors import KeyBusy, KeyTaken, OutcomeUnknown, RefsTaken, StoreUnavailable
from sms.model import MessageClass
from store import database
from store import intake as intake_module
from store.accept import Acceptor
from store.intake import FORGET_SQL, LOOK_SQL, Intake
from tests.support.cutter import Cutter
from tests.support.postgres import World, text

pytestmark = pytest.mark.integration


@pytest.fixture
async def other(world):
    """A second process on the same database."""
    other = await World.make(world.dsn, slot=1)
    yield other
    await other.close()


@pytest.fixture
async def conn(dsn):
    """A connection of nobody: the fence refuses it every key."""
    conn = await database.connect(dsn)
    yield conn
    await database.close(conn)


@pytest.fixture
async def stranger(other):
    """Another process's connection, to hold a key open by hand."""
    conn = await other.opener()()
    yield conn
    await database.close(conn)


def intake(world):
    return Intake(world.pool, world.keyring.intake_key)


def key(world, name=b"a", digest=b"d" * 16, path="/v1/messages", tenant=1):
    return intake_hasher(world).request(tenant, path, name, digest)


def intake_hasher(world):
    return intake(world).hasher


def refs(world, messages):
    return intake_hasher(world).refs(messages)


async def rows(conn):
    return await conn.fetch(
        "SELECT kind, tenant, key, digest, first_id, expires_at - now() AS left FROM intake_keys"
        " ORDER BY kind, first_id"
    )


async def hold(conn, world, *keys, first_id=1):
    """Insert keys in a transaction that stays open."""
    await conn.execute("BEGIN")
    for one in keys:
        await conn.execute(
            "INSERT INTO intake_keys VALUES ($1,$2,$3,$4,$5,now() + interval '1 hour')",
            *one.slot,
            one.digest,
            first_id,
        )


async def test_a_key_is_stored_with_its_message_and_found_again(world, conn):
    acceptor = await world.acceptor()
    message = text()
    await acceptor.accept([message], keys=[key(world)])
    [row] = await rows(conn)
    assert (row["kind"], row["tenant"], row["first_id"]) == (0, 1, message.id)
    assert 23.9 * 3600 < row["left"].total_seconds() <= 24 * 3600
    found = await intake(world).find(key(world))
    assert found == (b"d" * 16, message.id)
    assert await intake(world).find(key(world, b"b")) is None
    assert world.heard.committed == [message]


async def test_the_second_with_a_key_is_not_stored_and_learns_of_the_first(world):
    acceptor = await world.acceptor()
    first, second = text(), text()
    await acceptor.accept([first], keys=[key(world)])
    with pytest.raises(KeyTaken) as caught:
        await acceptor.accept([second], keys=[key(world, digest=b"e" * 16)])
    assert (caught.value.digest, caught.value.first_id) == (b"d" * 16, first.id)
    assert world.heard.refused == [second]
    assert acceptor.live == {first.id: first}
    assert await world.reader.recount() == {1: 1}
    assert await world.reader.deltas() == {1: (1, 0, 0)}


async def test_a_key_belongs_to_tenant_and_path(world):
    acceptor = await world.acceptor()
    await acceptor.accept([text()], keys=[key(world)])
    await acceptor.accept([text(tenant=2)], keys=[key(world, tenant=2)])
    await acceptor.accept([text()], keys=[key(world, path="/v1/batches")])
    assert await world.reader.recount() == {1: 2, 2: 1}


async def test_of_many_units_in_one_flush_only_the_losers_leave(world, conn):
    acceptor = await world.acceptor()
    await acceptor.accept([text()], keys=[key(world, b"3")])
    futures = [
        acceptor.accept(
            [text(client_ref=f"r{n}")],
            keys=[key(world, b"%d" % n), *refs(world, [text(client_ref=f"r{n}")])],
        )
        for n in range(8)
    ]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [n for n, result in enumerate(results) if result is not None] == [3]
    assert isinstance(results[3], KeyTaken)
    # The loser had won its client_ref in the same statement: it is free again.
    assert await world.reader.recount() == {1: 8}
    assert len(await rows(conn)) == 8 + 7
    await acceptor.accept([text()], keys=refs(world, [text(client_ref="r3")]))


async def test_taken_client_refs_are_all_named_by_their_place(world):
    acceptor = await world.acceptor()
    stored = [text(client_ref="a"), text(client_ref="b")]
    await acceptor.accept(stored, keys=refs(world, stored))
    batch = [text(client_ref=ref) for ref in ("x", "b", "y", "a")]
    with pytest.raises(RefsTaken) as caught:
        await acceptor.accept(batch, keys=refs(world, batch))
    assert caught.value.taken == {1: stored[1].id, 3: stored[0].id}
    assert await world.reader.recount() == {1: 2}
    fresh = [batch[0], batch[2]]
    await acceptor.accept(fresh, keys=refs(world, fresh))
    assert await world.reader.recount() == {1: 4}


async def test_the_requests_own_key_is_asked_before_its_client_refs(world):
    acceptor = await world.acceptor()
    message = text(client_ref="a")
    keys = [key(world), *refs(world, [message])]
    await acceptor.accept([message], keys=keys)
    with pytest.raises(KeyTaken):
        await acceptor.accept([text(client_ref="a")], keys=keys)


async def test_a_key_whose_time_is_over_is_overtaken(world, conn):
    acceptor = await world.acceptor()
    await acceptor.accept([text()], keys=[key(world)])
    await backdate(world)
    assert await intake(world).find(key(world)) is None
    again = text()
    await acceptor.accept([again], keys=[key(world, digest=b"e" * 16)])
    [row] = await rows(conn)
    assert (row["first_id"], row["digest"]) == (again.id, b"e" * 16)


async def backdate(world):
    conn = await world.opener()()
    await conn.execute("UPDATE intake_keys SET expires_at = now() - interval '1 s'")
    await database.close(conn)


async def test_what_is_over_is_deleted_and_nothing_else(world, conn):
    acceptor = await world.acceptor()
    await asyncio.gather(
        *[acceptor.accept([text()], keys=[key(world, b"%d" % n)]) for n in range(50)]
    )
    await backdate(world)
    await acceptor.accept([text()], keys=[key(world, b"young")])
    assert await intake(world).forget(10_000) == 50
    assert len(await rows(conn)) == 1
    assert await intake(world).forget(10_000) == 0


async def test_another_process_waits_for_the_commit_and_learns_of_it(world, other):
    mine, theirs = await world.acceptor(), await other.acceptor()
    messages = [text() for _ in range(20)]
    futures = [
        (mine, theirs)[n % 2].accept([message], keys=[key(world, b"%d" % (n // 2))])
        for n, message in enumerate(messages)
    ]
    results = await asyncio.gather(*futures, return_exceptions=True)
    for first, second in zip(results[::2], results[1::2], strict=True):
        assert (first is None) != (second is None)
        assert isinstance(first or second, KeyTaken)
    assert await world.reader.recount() == {1: 10}


async def test_keys_in_opposite_order_never_wait_in_a_circle(world, other):
    """Two processes, each with batches that bring the same client_refs the other way round."""
    mine, theirs = await world.acceptor(), await other.acceptor()
    for n in range(30):
        names = [f"{n}-{i}" for i in range(40)]
        one = [text(client_ref=ref) for ref in names]
        two = [text(client_ref=ref) for ref in reversed(names)]
        results = await asyncio.gather(
            mine.accept(one, keys=refs(world, one)),
            theirs.accept(two, keys=refs(world, two)),
            return_exceptions=True,
        )
        [loser] = [result for result in results if result is not None]
        assert isinstance(loser, RefsTaken), loser
        assert len(loser.taken) == 40
    assert await world.reader.recount() == {1: 30 * 40}


async def test_one_key_that_is_not_let_go_holds_up_nobody_else_for_long(world, stranger):
    acceptor = await world.acceptor()
    await hold(stranger, world, key(world, b"7"))
    futures = [acceptor.accept([text()], keys=[key(world, b"%d" % n)]) for n in range(40)]
    began = time.monotonic()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert time.monotonic() - began < 10  # 20 s, if each of the others waited as long
    assert [n for n, result in enumerate(results) if result is not None] == [7]
    assert isinstance(results[7], KeyBusy)
    await stranger.execute("ROLLBACK")
    await acceptor.accept([text()], keys=[key(world, b"7")])


@pytest.fixture
def patient(monkeypatch):
    """Who waits for another's key waits so long that it cannot be the machine that was slow."""
    monkeypatch.setattr(Acceptor._flush, "__defaults__", (20_000,))


@pytest.mark.usefixtures("patient")
async def test_who_has_no_key_does_not_wait_for_them(world, stranger):
    acceptor = await world.acceptor()
    await hold(stranger, world, key(world))
    busy = acceptor.accept([text()], keys=[key(world)])
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await asyncio.gather(*[acceptor.accept([text()]) for _ in range(100)])
    assert time.monotonic() - began < 10
    await stranger.execute("ROLLBACK")
    await busy


async def test_a_key_is_held_until_its_accept_is_over(world):
    acceptor = await world.acceptor()
    assert acceptor.holder([key(world)]) is None
    future = acceptor.accept([text()], keys=[key(world)])
    holder = acceptor.holder([key(world, b"other"), key(world)])
    assert holder is not None
    assert not holder.done()
    with pytest.raises(ValueError, match="held"):
        acceptor.accept([text()], keys=[key(world)])
    await future
    assert holder.done()
    assert acceptor.holder([key(world)]) is None


async def test_a_bad_row_beside_keys_is_refused_alone_and_its_key_is_free(world, conn):
    acceptor = await world.acceptor()
    bad = text()
    bad.created_at = -1e15  # before every timestamp
    futures = [acceptor.accept([text()], keys=[key(world, b"%d" % n)]) for n in range(5)]
    futures.insert(2, acceptor.accept([bad], keys=[key(world, b"bad")]))
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [n for n, result in enumerate(results) if result is not None] == [2]
    assert isinstance(results[2], StoreUnavailable)
    assert len(await rows(conn)) == 5
    await acceptor.accept([text()], keys=[key(world, b"bad")])


@pytest.mark.parametrize("cut", ["answer", "request"])
async def test_a_connection_lost_in_commit_leaves_key_and_message_or_neither(world, conn, cut):
    async with Cutter(world.dsn) as cutter:
        acceptor = await world.acceptor(cutter.dsn)
        message = text()
        cutter.cut = cut
        with contextlib.suppress(StoreUnavailable):
            await acceptor.accept([message], keys=[key(world)])
        assert cutter.cuts == 1
        stored = await world.reader.message(message.id) is not None
        assert stored == (cut == "answer")
        assert [row["first_id"] for row in await rows(conn)] == [message.id] * stored
        retry = acceptor.accept([text()], keys=[key(world)])
        if stored:
            with pytest.raises(KeyTaken):
                await retry
        else:
            await retry
        assert await world.reader.recount() == {1: 1}


async def test_in_doubt_the_key_stays_held_and_the_retry_finds_the_truth(world):
    async with Cutter(world.dsn) as cutter:
        acceptor = await world.acceptor(cutter.dsn, timeout_s=0.3)
        message = text()
        cutter.cut, cutter.is_open = "answer", False
        with pytest.raises(OutcomeUnknown):
            await acceptor.accept([message], keys=[key(world)])
        holder = acceptor.holder([key(world)])
        assert holder is not None
        cutter.is_open = True
        await asyncio.wait_for(holder, 60)
        with pytest.raises(KeyTaken) as caught:
            await acceptor.accept([text()], keys=[key(world)])
        assert caught.value.first_id == message.id
        assert world.heard.committed == [message]


async def test_an_owner_that_was_overtaken_inserts_no_key(world, conn):
    acceptor = await world.acceptor()
    await conn.execute("UPDATE processes SET epoch = epoch + 1")
    with pytest.raises(StoreUnavailable):
        await acceptor.accept([text()], keys=[key(world)])
    assert world.heard.leases_lost == 1
    assert await rows(conn) == []


async def test_many_look_ups_are_one_statement(world):
    acceptor = await world.acceptor()
    messages = [text() for _ in range(30)]
    for n, message in enumerate(messages):
        await acceptor.accept([message], keys=[key(world, b"%d" % n)])
    found = intake(world)
    looks = [found.find(key(world, b"%d" % n)) for n in range(60)]
    results = await asyncio.gather(*looks)
    assert [r and r.first_id for r in results] == [m.id for m in messages] + [None] * 30


async def test_a_look_up_without_a_store_says_so_to_everybody(world):
    found = intake(world)
    world.pool.terminate()
    looks = [found.find(key(world, b"%d" % n)) for n in range(3)]
    results = await asyncio.gather(*looks, return_exceptions=True)
    assert {type(result) for result in results} == {StoreUnavailable}


async def test_looks_and_deletions_never_read_the_whole_table(world):
    conn = await world.opener()()
    await conn.execute(
        "INSERT INTO intake_keys SELECT n % 2, n % 50, sha256(n::text::bytea), '', n,"
        " now() + make_interval(secs => n) FROM generate_series(1, 30000) n"
    )
    for is_analysed in (False, True):
        if is_analysed:
            await conn.execute("ANALYZE intake_keys")
        look = await conn.fetch(f"EXPLAIN {LOOK_SQL}", [0] * 50, [1] * 50, [b"k"] * 50)
        forget = await conn.fetch(f"EXPLAIN {FORGET_SQL}", 5000)
        plans = "\n".join(row[0] for row in (*look, *forget))
        assert "intake_keys_pkey" in plans
        assert "Seq Scan on intake_keys" not in plans
        assert not is_analysed or "intake_keys_expires" in plans, plans
    await database.close(conn)


async def test_no_number_and_no_word_of_a_request_stands_in_the_table(world, conn):
    acceptor = await world.acceptor()
    message = text(client_ref="8613800138000", number="8613800138000")
    digest = intake_hasher(world).body()
    digest.update(b'{"to":"+8613800138000"}')
    keys = [key(world, b"8613800138000", digest.digest()), *refs(world, [message])]
    await acceptor.accept([message], keys=keys)
    for row in await rows(conn):
        assert len(row["key"]) == 16
        assert b"138" not in row["key"] + row["digest"]


async def test_a_key_that_was_seen_taken_stands_until_the_verdict(world, stranger, monkeypatch):
    """Nobody can remove it between the INSERT that ran into it and the look at it."""
    acceptor = await world.acceptor()
    first = text()
    await acceptor.accept([first], keys=[key(world)])
    gone = []

    async def meddle(conn, slots):
        await stranger.execute("SET lock_timeout = 100")
        with contextlib.suppress(asyncpg.LockNotAvailableError):
            gone.append(await stranger.execute("DELETE FROM intake_keys"))
        return await look_up(conn, slots)

    look_up = intake_module.look_up
    monkeypatch.setattr(intake_module, "look_up", meddle)
    with pytest.raises(KeyTaken) as caught:
        await acceptor.accept([text()], keys=[key(world)])
    assert (caught.value.first_id, gone) == (first.id, [])


async def test_a_key_that_belongs_to_nobody_is_asked_for_again(world, monkeypatch):
    acceptor = await world.acceptor()
    first = text()
    await acceptor.accept([first], keys=[key(world)])
    look_up, looks = intake_module.look_up, []

    async def blind_once(conn, slots):
        looks.append(slots)
        return await look_up(conn, slots if len(looks) > 1 else [])

    monkeypatch.setattr(intake_module, "look_up", blind_once)
    with pytest.raises(KeyTaken) as caught:
        await acceptor.accept([text()], keys=[key(world)])
    assert (caught.value.digest, caught.value.first_id) == (b"d" * 16, first.id)
    assert len(looks) == 2
    await acceptor.accept([text()], keys=[key(world, b"b")])


def code(**fields):
    """A login code; they have a line of their own, with and without keys."""
    return text(message_class=MessageClass.OTP, **fields)


@pytest.mark.usefixtures("patient")
async def test_a_login_code_without_a_key_neither_waits_nor_fails_for_anothers_key(world, stranger):
    acceptor = await world.acceptor()
    await hold(stranger, world, key(world, b"busy"))
    first = acceptor.accept([code()])  # the others gather behind it
    await asyncio.sleep(0)
    began = time.monotonic()
    plain = [acceptor.accept([code()]) for _ in range(3)]
    keyed = [acceptor.accept([code()], keys=[key(world, name)]) for name in (b"busy", b"free")]
    await asyncio.gather(first, *plain)
    assert time.monotonic() - began < 10
    results = await asyncio.gather(*keyed, return_exceptions=True)
    assert isinstance(results[0], KeyBusy)
    assert results[1] is None
    began = time.monotonic()
    busy = acceptor.accept([code()], keys=[key(world, b"busy")])
    await asyncio.sleep(0.02)
    await acceptor.accept([code()])  # behind a flush that waits
    assert time.monotonic() - began < 10
    with pytest.raises(KeyBusy):
        await busy
    await stranger.execute("ROLLBACK")


async def test_login_codes_behind_one_in_doubt_are_refused_while_the_store_is_away(world):
    async with Cutter(world.dsn) as cutter:
        acceptor = await world.acceptor(cutter.dsn, timeout_s=0.3)
        cutter.cut, cutter.is_open = "answer", False
        lost = acceptor.accept([code()])
        await asyncio.sleep(0)
        behind = acceptor.accept([code()])
        with pytest.raises(OutcomeUnknown):
            await lost
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(behind, 60)
        cutter.is_open = True
        await acceptor.stop(0.1)  # its way to the store ends here


async def test_login_codes_take_another_line_while_theirs_connects_anew(world):
    acceptor = await world.acceptor()
    acceptor._otp.links[0].abandon()
    await acceptor.accept([code()])
    await acceptor.accept([code()], keys=[key(world)])
    assert await world.reader.recount() == {1: 2}
