"""The same request again, over two workers and through kills: one message, one answer.

One copy at the carriers, too. Only a process that died while a submission was open leaves a
second one, and then the message says so (RELIABILITY, the one marked window).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import httpx
import pytest

from gateway.worker import FAILPOINT_LOOK_S
from store.database import connect
from telemetry.failpoints import WATCH, armed_file, fired_file
from tests.support.gateway_process import GatewayProcess, eventually

pytestmark = pytest.mark.flow

_numbers = itertools.count(41_000_000)


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(workers=2)
    gateway.env["SMSGW_FAILPOINT"] = WATCH
    with gateway:
        eventually(gateway.all_links_up, "the links")
        yield gateway


def number() -> str:
    return f"+86138{next(_numbers)}"


def ask(
    gateway: GatewayProcess, bodies: Sequence[tuple[str, object]], key: str | None
) -> list[httpx.Response]:
    """All at once, each over a connection of its own, so that both workers get some."""

    async def one(path: str, body: object) -> httpx.Response:
        headers = dict(gateway._headers)
        if key is not None:
            headers["Idempotency-Key"] = f'"{key}"'
        async with httpx.AsyncClient(trust_env=False, timeout=15) as client:
            return await client.post(gateway.url + path, json=body, headers=headers)

    async def every() -> list[httpx.Response]:
        return await asyncio.gather(*[one(path, body) for path, body in bodies])

    return asyncio.run(every())


def stored(gateway: GatewayProcess, tables: str = "messages") -> int:
    async def count() -> int:
        conn = await connect(gateway.dsn)
        try:
            return int(await conn.fetchval(f"SELECT count(*) FROM {tables}"))
        finally:
            await conn.close()

    return asyncio.run(count())


@pytest.mark.parametrize("burst", range(3))
def test_fifty_at_once_over_two_workers_are_one_message(gateway, burst):
    body = {"to": number(), "text": "五十次"}
    before = stored(gateway)
    answers = ask(gateway, [("/v1/messages", body)] * 50, f"fifty-{burst}")
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    replays = Counter(answer.headers.get("idempotent-replayed") for answer in answers)
    assert replays == {"true": 49, None: 1}
    assert stored(gateway) == before + 1
    message_id = answers[0].json()["id"]
    gateway.wait_for_status(message_id, "delivered")
    assert len(gateway.submits_of(body["to"])) == 1


def test_fifty_batches_at_once_are_one_batch(gateway):
    body = {"messages": [{"to": number(), "text": "批"} for _ in range(20)] + [{"to": "x"}]}
    before = stored(gateway)
    answers = ask(gateway, [("/v1/batches", body)] * 50, "fifty-batches")
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert stored(gateway) == before + 20


def test_client_refs_in_opposite_order_are_each_taken_once(gateway):
    before = stored(gateway)
    for turn in range(10):
        refs = [f"{turn}-{n}" for n in range(50)]
        entries = [{"to": number(), "text": "序", "client_ref": ref} for ref in refs]
        orders = [entries, entries[::-1]] * 2
        bodies = [("/v1/batches", {"messages": some}) for some in orders]
        answers = ask(gateway, bodies, None)
        taken = Counter(
            orders[place][entry["index"]]["client_ref"]
            for place, answer in enumerate(answers)
            if answer.status_code == 202
            for entry in answer.json()["accepted"]
        )
        assert taken == dict.fromkeys(refs, 1), [answer.text[:300] for answer in answers]
        for answer in answers:
            assert answer.status_code in {202, 422}, answer.text
    assert stored(gateway) == before + 10 * 50


@pytest.mark.parametrize(
    ("point", "is_stored"),
    [("accept.committed", True), ("accept.told", True), ("accept.keyed", False)],
)
def test_a_kill_between_commit_and_answer_is_resolved_by_the_retry(gateway, point, is_stored):
    body = {"to": number(), "text": "杀", "client_ref": f"ref {point}"}
    before = stored(gateway)
    spec = f"{point}=kill#{next(_numbers)}"
    folder = gateway.data_dir / "failpoints"
    (folder / "armed.new").write_text(spec, "utf-8")
    (folder / "armed.new").replace(armed_file(folder))

    time.sleep(4 * FAILPOINT_LOOK_S)  # both workers have looked
    with pytest.raises(httpx.TransportError):
        ask(gateway, [("/v1/messages", body)], point)
    eventually(fired_file(folder, spec).exists, "it was that place")
    armed_file(folder).unlink()
    assert stored(gateway) == before + is_stored

    def retry() -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            [answer] = ask(gateway, [("/v1/messages", body)], point)
            return answer if answer.status_code == 202 else None
        return None

    answer = eventually(retry, "a 202 for the retry")
    assert answer is not None
    assert answer.headers.get("idempotent-replayed") == ("true" if is_stored else None)
    assert answer.json()["client_ref"] == body["client_ref"]
    assert stored(gateway) == before + 1
    view = gateway.wait_for_status(answer.json()["id"], "delivered")
    copies = gateway.submits_of(body["to"])
    if point == "accept.told":  # who was told first is the dispatcher: its bytes may be out
        assert 1 <= len(copies) <= 1 + view["duplicate_risk"]
    else:
        assert (len(copies), view["duplicate_risk"]) == (1, False)
    [again] = ask(gateway, [("/v1/messages", body)], point)
    assert again.content == answer.content
    gateway.wait_ready()


def test_a_key_points_to_a_message_after_all_that(gateway):
    """Whatever was killed: no key without its message."""
    orphans = "intake_keys k WHERE NOT EXISTS (SELECT FROM messages m WHERE m.id = k.first_id)"
    assert stored(gateway, orphans) == 0
    assert stored(gateway, "intake_keys") > 0
    assert gateway.metric("illegal_transition_total") == 0
