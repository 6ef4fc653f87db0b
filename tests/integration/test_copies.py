"""Second copies, orphan receipts and the retry budget on a real PostgreSQL, with crashes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import UNSET

from gateway.api.models import SendRequest
from gateway.api.templated import resolve
from gateway.lostanswer import CopyVerdict
from sms.config import Tenant
from sms.errors import OutcomeUnknown
from sms.ids import to_text
from sms.model import MessageClass, OnUncertain, Report, State, UncertainPolicy
from sms.outcomes import Cause, Rejected, Submitted, Uncertain
from tests.integration.test_commands import start, status
from tests.support.admin_world import audit, code, open_world
from tests.support.fake_flow import Stored
from tests.support.inside import Inside, inside, text

pytestmark = pytest.mark.integration

NUMBER = "8613800138000"
SYSTEM = Rejected("0x00000008", Cause.CHANNEL, "carrier.system_error")


@contextlib.asynccontextmanager
async def asking(dsn: str, folder: Path, slot: int = 0) -> AsyncIterator[Inside]:
    """A worker whose tenant wants an operator to be asked."""
    async with inside(dsn, folder, channels=2, slot=slot) as gateway:
        ask_for(gateway)
        yield gateway


def ask_for(gateway: Inside) -> None:
    gateway.flow.evidence.policies.use([Tenant(1, "shop", on_uncertain=UncertainPolicy.ASK)])


async def lost(gateway: Inside, count: int = 1) -> list[int]:
    """Messages whose answers are lost on channel 1."""
    gateway.link(is_up=True)
    ids = await gateway.send(count)
    for message_id in ids:
        await gateway.until_seen(message_id)
    some, gateway.channels[1].open = gateway.channels[1].open, []
    gateway.flow.outcomes(1, [(submit, Uncertain("submit.timeout")) for submit in some])
    await gateway.worker.standing.committed()
    return ids


async def until(gateway: Inside, sql: str) -> None:
    """A query has rows."""
    async with asyncio.timeout(60):
        while not await gateway.ask(sql):
            await gateway.ask("SELECT pg_sleep(0.05)")


async def copies(gateway: Inside, message_id: int) -> int:
    [(count,)] = await gateway.ask(
        "SELECT count(*) FROM events WHERE message_id = $1 AND copy = 1 AND path = 6", message_id
    )
    assert isinstance(count, int)
    return count


async def test_whoever_is_asked_the_owner_makes_exactly_one_copy(dsn, tmp_path):
    async with asking(dsn, tmp_path / "0") as owner, inside(dsn, tmp_path / "1", slot=1) as other:
        start(owner)
        [message_id] = await lost(owner)
        owner.link(2, is_up=True)
        asked = other.flow.commands.resend
        first, second = await asyncio.gather(asked(1, message_id), asked(1, message_id))
        assert {first, second} == {CopyVerdict.MADE, CopyVerdict.DONE}
        await owner.until(lambda: owner.channels[2].seen)
        assert await owner.flow.commands.resend(1, message_id) is CopyVerdict.DONE
        assert await copies(owner, message_id) == 1
        assert [one.message.id for one in owner.channels[2].seen] == [message_id]


async def test_a_kill_behind_the_commit_makes_no_other_copy(dsn, tmp_path):
    async with inside(dsn, tmp_path / "1", slot=1) as other:
        async with asking(dsn, tmp_path / "0") as owner:
            [message_id] = await lost(owner)
            is_at_answer = asyncio.Event()

            async def answer(_: object) -> None:
                is_at_answer.set()
                await asyncio.sleep(3600)

            owner.flow.commands._table.answer = answer  # type: ignore[method-assign,assignment]
            start(owner)
            wish = asyncio.create_task(other.flow.commands.resend(1, message_id))
            await asyncio.wait_for(is_at_answer.wait(), 60)
            assert await copies(owner, message_id) == 1
        with pytest.raises(OutcomeUnknown):
            await wish
        async with asking(dsn, tmp_path / "0") as owner:
            start(owner)  # carries the command that still stands out again
            owner.link(2, is_up=True)
            await until(
                owner, "SELECT 1 WHERE NOT EXISTS (SELECT FROM commands WHERE answered_at IS NULL)"
            )
            await owner.until(lambda: owner.channels[2].seen)
            assert await copies(owner, message_id) == 1
            assert [one.message.id for one in owner.channels[2].seen] == [message_id]
            assert owner.channels[1].seen == []


async def test_a_kill_before_it_leaves_the_wish_to_the_next_life(dsn, tmp_path):
    async with inside(dsn, tmp_path / "1", slot=1) as other:
        async with asking(dsn, tmp_path / "0") as owner:
            [message_id] = await lost(owner)
            with pytest.raises(OutcomeUnknown):  # its loops do not run: frozen
                await other.flow.commands.resend(1, message_id)
            assert await status(other, message_id) is State.UNCERTAIN
        async with asking(dsn, tmp_path / "0") as owner:
            start(owner)
            owner.link(2, is_up=True)
            await owner.until(lambda: owner.channels[2].seen)
            assert await copies(owner, message_id) == 1
            assert await other.flow.commands.resend(1, message_id) is CopyVerdict.DONE


async def test_an_orphan_receipt_finds_the_one_lost_answer_from_any_process(dsn, tmp_path):
    async with asking(dsn, tmp_path / "0") as owner, inside(dsn, tmp_path / "1", slot=1) as other:
        other.go(other.worker.reports.run())
        [message_id] = await lost(owner)
        [open_one] = await owner.send(1)  # to the same number, its answer may yet come
        await owner.until_seen(open_one)
        other.flow.reports(1, [Report(1, "nobodys", "DELIVRD", "000", NUMBER[2:], "token")])
        await until(other, "SELECT FROM parked_reports WHERE tries > 0")
        assert await status(other, message_id) is State.UNCERTAIN
        [submit] = owner.channels[1].open
        owner.flow.outcomes(1, [(submit, Submitted("its-own"))])
        await until(other, f"SELECT FROM events WHERE message_id = {message_id} AND path = 9")
        assert await status(other, open_one) is State.SUBMITTED
        assert await other.ask("SELECT count(*) FROM parked") == [(0,)]


async def test_a_power_cut_during_a_repair_makes_no_orphans_of_the_other_segments(dsn, tmp_path):
    """Two segments were taken and told, the first one waits for its repair: it never left."""
    told = [Report(1, f"id{n}", "DELIVRD", "000", NUMBER[2:], n) for n in (1, 2)]
    async with inside(dsn, tmp_path) as worker:
        worker.link(is_up=True)
        message = text(MessageClass.MARKETING, 1, 3600.0)
        message.texts = tuple(part * 67 for part in "甲乙丙")
        assert worker.flow.room(MessageClass.MARKETING, 1)
        await worker.flow.accept([message], None)
        await worker.until_seen(message.id)
        some = worker.channels[1].open
        worker.channels[1].open = []
        assert [one.segment for one in some] == [0, 1, 2]
        first, *others = some
        taken = [(submit, Submitted(f"id{submit.segment}")) for submit in others]
        worker.flow.outcomes(1, [(first, SYSTEM), *taken])
        worker.flow.reports(1, told)
        await worker.worker.standing.committed()
        assert await worker.ask("SELECT segment FROM events ORDER BY sequence") == [(1,), (2,)]
        await worker.crash()
        shutil.rmtree(tmp_path / "journal")  # of another boot: worth nothing
        await worker.start()
        worker.go(worker.worker.reports.run())
        assert await status(worker, message.id) is State.UNCERTAIN
        worker.flow.reports(1, told)  # the carrier was started again as well
        answered = worker.channels[1].answered
        answered.clear()
        await worker.until(lambda: len(answered) == len(told))
        assert await worker.ask("SELECT FROM parked_reports") == []
        worker.flow.reports(1, [Report(1, "id3", "DELIVRD", "000", NUMBER[2:], 3)])
        await until(worker, f"SELECT FROM events WHERE message_id = {message.id} AND path = 9")
        ends = [labels[1] for labels, _ in worker.metrics.reports_total.samples()]
        assert sorted(ends) == ["adopted", "duplicate"]


async def test_a_crash_while_attempts_wait_for_their_budget_loses_and_doubles_nothing(
    dsn, tmp_path
):
    ten_a_second = 1.0
    async with inside(dsn, tmp_path, channels=2, retry_window_s=ten_a_second) as worker:
        for number in worker.channels:
            worker.link(number, is_up=True)
        ids = await worker.send(40)
        for message_id in ids:
            await worker.until_seen(message_id)
        some, worker.channels[1].open = worker.channels[1].open, []
        worker.flow.outcomes(1, [(submit, SYSTEM) for submit in some])
        await worker.worker.standing.committed()
        dispatcher = worker.flow.dispatcher
        async with asyncio.timeout(60):
            while not dispatcher.retries.size:  # some have left, others wait
                dispatcher.tick()
                await asyncio.sleep(0.02)
        before = [one.message.id for one in worker.channels[2].seen]
        assert 0 < len(before) < len(ids)
        worker.answer()
        await worker.crash()
        worker.channels[2].seen.clear()
        await worker.start()
        worker.link(2, is_up=True)
        worker.run()
        dispatcher = worker.flow.dispatcher
        async with asyncio.timeout(60):
            while worker.flow.ledger.live or worker.spill.total:
                dispatcher.tick()
                worker.answer()
                await asyncio.sleep(0.02)
        await worker.worker.standing.committed()
        after = [one.message.id for one in worker.channels[2].seen]
        assert len(set(after)) == len(after)
        [(taken,)] = await worker.ask("SELECT count(*) FROM events WHERE path = 1")
        [(refused,)] = await worker.ask("SELECT count(*) FROM events WHERE path = 2")
        assert (taken, refused) == (len(ids), len(ids))
        assert worker.seen().count(ids[0]) <= 1


# -- the operator's door -----------------------------------------------------------------------


async def test_an_operator_resends_and_the_audit_log_says_who(dsn):
    async with open_world(dsn) as world:
        flow = world.one.flow
        message = text(MessageClass.OTP, 5, 3600.0)
        message.id, message.state = 1 << 30, State.UNCERTAIN
        flow.reader.stored[message.id] = Stored(message)
        path = f"/v1/messages/{to_text('msg', message.id)}:resend"
        answer = await world.admin("POST", path)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["duplicate_risk"], told["to"]) == (True, "+86138****8000")
        [row] = [one for one in await audit(world) if one["action"] == "message.resend"]
        assert row["object"] == {"kind": "message", "id": told["id"], "name": told["id"]}
        assert row["actor"]["name"] == "ops"
        assert code(await world.admin("POST", path)) == (409, "message.copy_made")
        assert len([one for one in await audit(world) if one["action"] == "message.resend"]) == 1


@pytest.mark.parametrize(
    ("verdict", "refusal"),
    [
        (CopyVerdict.DONE, (409, "message.copy_made")),
        (CopyVerdict.KNOWN, (409, "message.not_uncertain")),
        (CopyVerdict.POLICY, (409, "message.copy_refused")),
        (CopyVerdict.LATE, (409, "message.copy_refused")),
        (CopyVerdict.ATTEMPTS, (409, "message.copy_refused")),
        (OutcomeUnknown("no answer"), (503, "outcome_unknown")),
    ],
)
async def test_what_the_owner_says_no_to_is_told(dsn, verdict, refusal):
    async with open_world(dsn) as world:
        flow = world.one.flow
        message = text(MessageClass.OTP, 5, 3600.0)
        message.id, message.state = 1 << 30, State.UNCERTAIN
        flow.reader.stored[message.id] = Stored(message)
        if isinstance(verdict, Exception):
            flow.commands.error = verdict
        else:
            flow.commands.copy_verdict = verdict
        path = f"/v1/messages/{to_text('msg', message.id)}:resend"
        assert code(await world.admin("POST", path)) == refusal


async def test_the_door_is_the_platforms_alone(dsn):
    async with open_world(dsn) as world:
        tenant = await world.tenant(on_uncertain="ask")
        key = (await world.key(tenant))["key"]
        known = text(MessageClass.OTP, 5, 3600.0)
        known.id, known.state = 1 << 30, State.DELIVERED
        world.one.flow.reader.stored[known.id] = Stored(known)
        path = f"/v1/messages/{to_text('msg', known.id)}:resend"
        assert code(await world.one.call("POST", path, key)) == (403, "auth.scope")
        assert code(await world.admin("POST", path)) == (409, "message.not_uncertain")
        nowhere = f"/v1/messages/{to_text('msg', 77)}:resend"
        assert code(await world.admin("POST", nowhere)) == (404, "resource.not_found")
        assert (await world.admin("GET", path)).status_code == 405
        shown = (await world.admin("GET", f"/v1/tenants/{tenant}")).json()
        assert shown["on_uncertain"] == "ask"
        [running] = world.one.flow.snapshot.tenants.values()
        assert running.on_uncertain is UncertainPolicy.ASK
        star = [("if-match", "*")]
        gone = await world.admin(
            "PATCH", f"/v1/tenants/{tenant}", {"on_uncertain": None}, headers=star
        )
        assert gone.json()["on_uncertain"] is None


async def test_a_templates_word_stands_on_its_messages(dsn):
    async with open_world(dsn) as world:
        given = {"name": "code", "class": "otp", "text": "{code}", "on_uncertain": "hold"}
        made = await world.admin("POST", "/v1/templates", given)
        assert made.status_code == 201, made.text
        path = f"/v1/templates/{made.json()['id']}"
        assert (await world.admin("GET", path)).json()["on_uncertain"] == "hold"
        [template] = world.one.flow.snapshot.templates.values()
        assert template.on_uncertain is OnUncertain.HOLD
        snapshot = world.one.flow.snapshot
        for own, wanted in ((UNSET, OnUncertain.HOLD), (OnUncertain.RESEND, OnUncertain.RESEND)):
            entry = SendRequest(
                to="+8613800138000",
                template_id=made.json()["id"],
                variables={"code": "1"},
                on_uncertain=own,
            )
            assert resolve(entry, 5, snapshot, []).on_uncertain is wanted
        refused = await world.admin("POST", "/v1/templates", {**given, "on_uncertain": "ask"})
        assert code(refused) == (422, "field.value")
        star = [("if-match", "*")]
        changed = await world.admin("PATCH", path, {"on_uncertain": None}, headers=star)
        assert changed.json()["on_uncertain"] is None
