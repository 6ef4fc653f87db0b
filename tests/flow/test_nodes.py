"""Two nodes, one PostgreSQL and one Valkey: one gateway, also when one of them dies or freezes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import psutil
import pytest

from gateway.remote import OPEN_BLOCKS, SMALL_BLOCK
from gateway.sandbox_config import ROUTES
from store.database import connect
from tests.support.gateway_process import PATIENCE_S, GatewayProcess, Json, eventually
from tests.support.second_node import LEASE_S, RENEW_S, SecondNode, narrow, route

pytestmark = pytest.mark.flow

_numbers = itertools.count(40_000_000)
WINDOW = 8
MANY = 3 * OPEN_BLOCKS * SMALL_BLOCK
GRACE_S = 2


@pytest.fixture(scope="module")
def first() -> Iterator[GatewayProcess]:
    with GatewayProcess(lease_s=str(LEASE_S), lease_renew_s=str(RENEW_S)) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _is_calm(first: GatewayProcess) -> None:
    first.calm()
    eventually(first.all_links_up, "every channel has its sessions")


def send_batch(node: GatewayProcess, count: int, **fields: object) -> dict[str, str]:
    numbers = [f"+86138{next(_numbers)}" for _ in range(count)]
    answer = node.batch([{"to": number, "text": "两个节点", **fields} for number in numbers])
    assert answer.status_code == 202, answer.text
    accepted = answer.json()["accepted"]
    assert len(accepted) == count
    return {entry["id"]: numbers[entry["index"]] for entry in accepted}


def send_singles(node: GatewayProcess, count: int, **fields: object) -> dict[str, str]:
    """Over connections of their own, so that all workers of the node get some."""
    sent: dict[str, str] = {}
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(trust_env=False, limits=limits, timeout=15) as client:
        for _ in range(count):
            number = f"+86138{next(_numbers)}"
            body = {"to": number, "text": "两个节点", **fields}
            answer = client.post(f"{node.url}/v1/messages", json=body, headers=node._headers)
            assert answer.status_code == 202, answer.text
            sent[answer.json()["id"]] = number
    return sent


def all_end_well(
    node: GatewayProcess, sent: dict[str, str], timeout_s: float = PATIENCE_S
) -> set[str]:
    """Every message is delivered, copies are marked, none is missing; the marked numbers."""
    marked = set()
    for message_id, number in sent.items():
        message = node.wait_for_status(message_id, "delivered", timeout_s=timeout_s)
        if message["duplicate_risk"]:
            marked.add(number.lstrip("+"))
    found = Counter({number.lstrip("+"): 0 for number in sent.values()})
    found.update(row["to"] for row in node.submits_of(*sent.values()))
    assert min(found.values()) >= 1
    assert max(found.values()) <= 2
    assert {number for number, count in found.items() if count > 1} <= marked
    return marked


def query(node: GatewayProcess, sql: str) -> list[tuple[object, ...]]:
    async def ask() -> list[tuple[object, ...]]:
        conn = await connect(node.dsn)
        try:
            return [tuple(row) for row in await conn.fetch(sql)]
        finally:
            await conn.close()

    return asyncio.run(ask())


def nothing_is_left_over(node: GatewayProcess) -> None:
    left = "SELECT (SELECT count(*) FROM handovers), (SELECT count(*) FROM quarantine)"
    eventually(lambda: query(node, left) == [(0, 0)], "no handover, nothing quarantined")
    eventually(
        lambda: query(node, "SELECT FROM processes WHERE owed_to IS NOT NULL") == [], "no debt"
    )
    assert node.metric("illegal_transition_total") == 0


def every_end_is_told(node: GatewayProcess, sent: dict[str, str]) -> None:
    for message_id in sent:

        def is_told(message_id: str = message_id) -> bool:
            told = {event["type"] for event in node.sink.events(message_id)}
            return "message.delivered" in told

        eventually(is_told, f"the end of {message_id} is told")


def end_hard(node: GatewayProcess) -> float:
    """kill -9 of everything of a node at once; when."""
    processes = node._below()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP)  # nobody sees the others die
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    assert node.process is not None
    node.process.wait()
    node.process = None
    return time.time()


def taken_over(node: GatewayProcess) -> list[Json]:
    return [
        json.loads(line)
        for worker in ("worker-0", "worker-1")
        if (node.data_dir / "log" / f"{worker}.log").exists()
        for line in node.log_lines(worker, "takeover settled")
    ]


def test_both_nodes_accept_and_each_message_is_submitted_once(first):
    with SecondNode(first) as second:
        before = {node: node.metric("submits_total") for node in (first, second)}
        sent = send_batch(first, 150) | send_batch(second, 150, **{"class": "otp"})
        assert all_end_well(first, sent) == set()
        assert len(first.submits_of(*sent.values(), taken=False)) == 300
        for node in (first, second):
            assert node.metric("submits_total") - before[node] >= 100
        for message_id in list(sent)[::50]:  # what one accepted the other one shows
            assert second.status(message_id) == first.status(message_id)
        every_end_is_told(first, dict(list(sent.items())[::10]))
        code, _ = second.stop()
        assert code == 0
    nothing_is_left_over(first)


def test_a_node_in_role_api_sends_through_the_other_one(first):
    with SecondNode(first, role="api") as second:
        sent = send_singles(second, 100)
        assert all_end_well(first, sent) == set()
        assert second.metric("submits_total") == 0
        assert second.metric("handovers_total", end="given") == 100
        assert first.metric("handovers_total", end="taken") >= 100
    nothing_is_left_over(first)


def test_what_an_api_node_gave_comes_back_when_the_carriers_are_gone_and_goes_when_they_are(first):
    with SecondNode(first, role="api") as second:
        for carrier in first.carriers.values():
            carrier.behave(latency_ms=2000)
        first.apply(narrow(first, sessions=1, window=WINDOW, names=first.carriers))
        second.wait_configured()  # by the wide windows all would go over in one block, at once
        eventually(first.all_links_up, "the narrow channels are up")
        sent = send_batch(second, 400)
        waiting = "SELECT count(*) FROM handovers WHERE channel <> 0"
        eventually(lambda: query(first, waiting) == [(OPEN_BLOCKS,)], "blocks wait")
        for carrier in first.carriers.values():
            carrier.behave(link="down")
        eventually(lambda: second.metric("handovers_total", end="taken_back") > 0, "back")
        for carrier in first.carriers.values():
            carrier.behave(link="up", latency_ms=5)
        marked = all_end_well(first, sent)
        assert len(marked) <= WINDOW * len(first.carriers)
    nothing_is_left_over(first)


@pytest.fixture
def narrowed(first: GatewayProcess) -> Iterator[GatewayProcess]:
    """One session of a small window per node, and everything over one slow carrier."""
    first.apply(narrow(first, sessions=1, window=WINDOW, names=first.carriers))
    first.apply(route("mobile-a"))
    eventually(first.all_links_up, "the narrow channels are up")
    first.carriers["mobile-a"].behave(latency_ms=1200, receipt_delay_ms=100)
    yield first
    first.apply(route(*ROUTES["*"]))


CLAIMED_BY_SECOND = (
    "SELECT coalesce(sum(cardinality(ids)), 0) FROM claims JOIN processes USING (process)"
    " WHERE node = 'second'"
)


def test_a_node_that_dies_is_taken_over_with_all_that_it_held(narrowed):
    """kill -9 of a node with accepted, claimed, handed-over and parked messages."""
    first = narrowed
    with SecondNode(first, workers=2) as second:
        # more than may be handed over at once, whichever worker gets the batch
        sent = send_singles(second, 60) | send_batch(second, MANY) | send_batch(first, 40)
        eventually(lambda: query(first, CLAIMED_BY_SECOND) > [(WINDOW,)], "it has claimed")

        def hands_over() -> bool:  # once the worker without the session has got a connection
            sent.update(send_singles(second, 5))
            return second.metric("handovers_total", end="given") > 0

        eventually(hands_over, "it hands over")
        before = len(taken_over(first))
        died_at = end_hard(second)
        eventually(lambda: len(taken_over(first)) >= before + 2, "both are taken over")
        took_s = time.time() - died_at
        first.carriers["mobile-a"].behave(latency_ms=5)
        marked = all_end_well(first, sent)
        assert took_s > LEASE_S - RENEW_S
        told = taken_over(first)[before:]
        assert {one["is_journal_present"] for one in told} == {False}
        print(told, len(marked), "marked")
        assert sum(one.get("unfinished", 0) for one in told) > 20
        # without its journal what was claimed is uncertain: the windows, and what was taken
        assert 0 < len(marked) <= 60 + 4 * WINDOW + 256
        every_end_is_told(first, sent)
    nothing_is_left_over(first)
    eventually(lambda: query(first, "SELECT count(*) FROM claims") == [(0,)], "no claim is left")


def written_by(node: GatewayProcess, process: object) -> list[tuple[object, ...]]:
    """How many rows of each table of promises come from a process."""
    by_id = {"messages": "id", "events": "event_id", "parked_reports": "id"}
    counts = [
        f"(SELECT count(*) FROM {table} WHERE ({column} >> 12) & 1023 = {process})"
        for table, column in by_id.items()
    ]
    counts += [
        f"(SELECT count(*) FROM {table} WHERE process = {process})"
        for table in ("claims", "parked", "webhook_parked", "holdings")
    ]
    counts.append(f"(SELECT sum(accepted) FROM deltas WHERE process = {process})")
    counts.append(f"(SELECT epoch FROM processes WHERE process = {process})")
    return query(node, f"SELECT {','.join(counts)}")


def test_a_frozen_node_writes_nothing_when_it_wakes_up_and_ends(narrowed):
    """SIGSTOP past its lease, SIGCONT: neither PostgreSQL nor a carrier hears of it again."""
    first = narrowed
    with SecondNode(first) as second:
        before = len(taken_over(first))
        sent = send_batch(second, 200)
        eventually(lambda: len(first.submits_of(*sent.values(), taken=False)) > 4, "it sends")
        [[process]] = query(first, "SELECT process FROM processes WHERE node = 'second'")
        worker, top = second.pids()["worker-0"], second.pids()["supervisor"]
        for pid in (top, worker):  # as a paused machine: nobody there sees it
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: len(taken_over(first)) > before, "it is taken over")
        first.carriers["mobile-a"].behave(latency_ms=5)
        for message_id in sent:  # reports may come to the frozen one's session
            first.wait_for_status(message_id, "submitted", "delivered")
        submits = len(first.submits_of(*sent.values(), taken=False))
        rows = written_by(first, process)
        woken_at = time.monotonic()
        os.kill(worker, signal.SIGCONT)
        eventually(lambda: is_gone(worker), "it ends")
        assert time.monotonic() - woken_at < 15  # at once; a drain would take 30
        time.sleep(1.0)
        assert len(first.submits_of(*sent.values(), taken=False)) == submits
        assert written_by(first, process) == rows
        all_end_well(first, sent)
        os.kill(top, signal.SIGCONT)
        second.wait_ready()  # the supervisor starts another one, which owes nothing
        more = send_batch(second, 20)
        assert all_end_well(first, more) == set()
    nothing_is_left_over(first)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_worker_that_dies_while_it_takes_over_goes_on_after_its_restart(narrowed):
    first = narrowed
    with SecondNode(first) as second:
        before = len(taken_over(first))
        sent = send_batch(second, 400) | send_batch(second, 400)
        eventually(lambda: len(first.submits_of(*sent.values(), taken=False)) > 4, "it sends")
        end_hard(second)
        eventually(lambda: first.log_lines("worker-0", "process taken over")[before:], "taken over")
        killed = first.kill("worker-0")
        eventually(lambda: first.pids().get("worker-0") not in (None, killed), "a new one")
        first.carriers["mobile-a"].behave(latency_ms=5)
        all_end_well(first, sent)
        every_end_is_told(first, dict(list(sent.items())[::20]))
    nothing_is_left_over(first)
