"""What stands for long: who gets a row in `parked`, and whose claim is made anew."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path

import pytest

import gateway.standing as standing_module
from gateway.remote import ANY
from gateway.worker import CLAIMS_S
from sms.model import Message
from sms.outcomes import NotSent
from tests.support.inside import Inside, inside

pytestmark = pytest.mark.integration

STANDS_S = 0.3
ELSEWHERE = 900  # a process that nobody is


async def held(worker: Inside, count: int) -> list[Message]:
    """Own messages that wait in a lane; no channel is up."""
    return [worker.flow.ledger.live[number] for number in await worker.send(count)]


async def adopted(worker: Inside, count: int) -> list[int]:
    """Messages that are ours by a claim only: handed over, to ourselves, and taken."""
    peers = worker.worker.peers
    messages = await held(worker, count)
    peers.remote.give(messages, worker.life.lease.process, ANY)
    await worker.worker.standing.committed()
    worker.link(is_up=True)
    await peers.desk.round()
    return [message.id for message in messages]


async def not_sent(worker: Inside) -> None:
    """The link is lost before the carrier had anything: all comes back, under its claim."""
    channel = worker.channels[1]
    some, channel.open = channel.open, []
    worker.link(is_up=False)
    worker.flow.outcomes(1, [(one, NotSent("link.lost")) for one in some])
    await worker.worker.standing.committed()


async def parked(worker: Inside) -> set[int]:
    rows = await worker.ask("SELECT message_id FROM parked")
    return {number for (number,) in rows if isinstance(number, int)}


async def test_what_is_anothers_or_came_from_one_is_not_parked(dsn: str, tmp_path: Path) -> None:
    """Their handover, or their claim, points to them; two pointers could be followed by two."""
    async with inside(dsn, tmp_path, parked_after_s=STANDS_S) as worker:
        taken = await adopted(worker, 3)
        await not_sent(worker)
        assert all(worker.flow.ledger.live[number].is_adopted for number in taken)
        own = await held(worker, 3)
        given = await held(worker, 2)
        await asyncio.sleep(STANDS_S + 0.1)
        worker.worker.peers.remote.give(given, ELSEWHERE, 7)  # its commit is on its way
        await worker.worker.standing.park()
        assert await parked(worker) == {message.id for message in own}


async def test_what_is_given_while_others_are_parked_is_left_out(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inside(dsn, tmp_path, parked_after_s=STANDS_S) as worker:
        monkeypatch.setattr(standing_module, "PARKED_LIMIT", 2)
        first, second, leaving, last = await held(worker, 4)
        await asyncio.sleep(STANDS_S + 0.1)
        committed = worker.worker.standing.committed

        async def give_meanwhile() -> None:
            if not leaving.is_handed:
                worker.worker.peers.remote.give([leaving], ELSEWHERE, 7)
            await committed()

        push_out = worker.worker.standing.push_out
        pushed: list[list[Message]] = []

        def note(messages: list[Message]) -> None:
            pushed.append(messages)
            push_out(messages)

        monkeypatch.setattr(worker.worker.standing, "committed", give_meanwhile)
        monkeypatch.setattr(worker.worker.standing, "push_out", note)
        await worker.worker.standing.park()
        assert pushed == [[first, second], [last]]
        assert await parked(worker) == {first.id, second.id, last.id}


async def test_what_waits_for_long_under_a_claim_gets_a_new_one(dsn: str, tmp_path: Path) -> None:
    """The journal keeps all since the oldest claim; a link may be down for days."""
    async with inside(dsn, tmp_path, parked_after_s=STANDS_S) as worker:
        ids = await adopted(worker, 5)
        ids += await worker.send(5)
        live, claims = worker.flow.ledger.live, worker.worker.claims
        await not_sent(worker)
        before = {number: live[number].claim for number in ids}
        assert all(before.values())
        await asyncio.sleep(STANDS_S + 0.1)
        now = worker.worker.ids.next()
        assert (claims.floor() or now) < now
        await worker.worker.standing.park()
        after = {number: live[number].claim for number in ids}
        assert not set(before.values()) & set(after.values())
        await worker.life._flush_claims()
        await worker.until(lambda: (claims.floor() or now) > now)
        desk = worker.worker.peers.desk
        assert sum(map(claims.open_in, desk._held[ANY])) == 5  # they count as taken all the same
        rows = await worker.ask("SELECT unnest(ids) FROM claims")
        assert sorted(rows) == sorted((number,) for number in ids)
        await worker.crash()
        await worker.start()
        worker.run()
        worker.link(is_up=True)
        await worker.drained()
        assert sorted(worker.seen()) == sorted(ids)


@pytest.mark.parametrize("turns", [1, 2], ids=["looked for", "on its way"])
async def test_what_leaves_while_its_claim_is_made_anew_leaves_no_claim_behind(
    dsn: str, tmp_path: Path, turns: int
) -> None:
    async with inside(dsn, tmp_path, parked_after_s=STANDS_S) as worker:
        ids = await adopted(worker, 5)
        await not_sent(worker)
        await asyncio.sleep(STANDS_S + 0.1)
        claims = worker.worker.claims
        moving = asyncio.create_task(worker.worker.standing.claim_anew(worker.worker.ids.next()))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert claims.open_blocks() == turns  # the new one is not made yet, or not committed
        worker.link(is_up=True)
        await moving
        await worker.drained()
        await worker.life._flush_claims()
        await worker.until(lambda: not claims.open_blocks())
        assert sorted({*worker.seen()}) == sorted(ids)
        assert await worker.ask("SELECT block FROM claims") == []


async def test_a_claim_that_ended_goes_though_nothing_else_is_written(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with inside(dsn, tmp_path) as worker:
        claims = worker.worker.claims
        claimed = asyncio.Event()
        number = claims.block([7], claimed.set)
        await worker.life._flush_claims()
        await worker.until(claimed.is_set)
        assert await worker.ask("SELECT block FROM claims") == [(number,)]
        claims.settled(number)
        await worker.life._flush_claims()
        await worker.until(lambda: not claims.open_blocks())
        assert await worker.ask("SELECT block FROM claims") == []
        made: dict[str, float] = {}

        async def every(seconds: float, name: str, step: object) -> None:
            """Never run: what it would have run is noted."""

        def note(
            seconds: float, name: str, step: object, **_: object
        ) -> Coroutine[None, None, None]:
            made[name] = seconds
            return every(seconds, name, step)

        monkeypatch.setattr(worker.life, "_every", note)
        monkeypatch.setattr(worker.life, "_while_owned", lambda loop: loop)  # closed below as it is
        for loop in worker.life._loops():
            loop.close()
        assert made["claims"] == CLAIMS_S == 0.5
