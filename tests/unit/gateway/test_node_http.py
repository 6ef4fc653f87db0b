"""The admin port: no query, and no connection that only stays."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from uvicorn.server import ServerState

from gateway import node_http
from gateway.node_http import HEAD_TIMEOUT_S, Node, WorkerView, excess, make_server
from gateway.readiness import NO_SESSION, fold
from gateway.watchdog import Silence
from telemetry.metrics import Metrics


async def get(target):
    app: Any = Node([]).app
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as http:
        return await http.get(target)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/elsewhere"])
async def test_no_query_is_taken(path):
    assert (await get(path + "?x=1")).status_code == 422
    answer = await get(path + "?api%5Fkey=smsgw_1_secret")
    assert (answer.status_code, answer.json()["code"]) == (400, "auth.secret_in_query")
    assert "smsgw_1" not in answer.text


class Loop:
    """The running loop, whose timers a test lets run out."""

    def __init__(self):
        self.timers = []

    def call_later(self, delay_s, callback, *args):
        self.timers.append(asyncio.TimerHandle(0, callback, args, asyncio.get_running_loop()))
        assert delay_s in (HEAD_TIMEOUT_S, 5)  # uvicorn's own, between two requests
        return self.timers[-1]

    def create_task(self, work, **kwargs):
        return asyncio.get_running_loop().create_task(work, **kwargs)

    def run_out(self):
        for timer in self.timers:
            if not timer.cancelled():
                timer._run()


class Wire(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.sent = b""
        self.is_closed = False

    def write(self, data):
        self.sent += data

    def close(self):
        self.is_closed = True

    def is_closing(self):
        return self.is_closed


@pytest.fixture
async def connection():
    config = make_server(Node([])).config
    config.load()
    loop, wire = Loop(), Wire()
    protocol: Any = config.http_protocol_class
    protocol = protocol(config, ServerState(), {}, loop)
    protocol.connection_made(wire)
    return protocol, loop, wire


@pytest.mark.parametrize("part", [b"", b"GET /healthz HTTP/1.1\r\nHo"])
async def test_a_connection_that_does_not_ask_is_closed(connection, part):
    protocol, loop, wire = connection
    if part:
        protocol.data_received(part)
    loop.run_out()
    assert wire.is_closed


@pytest.mark.parametrize("part", [b"", b"GET /healthz HTTP/1.1\r\nHo"])
async def test_and_so_is_one_that_asks_no_more(connection, part):
    protocol, loop, wire = connection
    protocol.data_received(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0)
    assert not any(not timer.cancelled() for timer in loop.timers[:1])  # the head was there
    assert wire.sent.startswith(b"HTTP/1.1 200")
    if part:
        protocol.data_received(part)
    assert not wire.is_closed
    loop.run_out()
    assert wire.is_closed


async def test_a_lost_connection_waits_for_nothing(connection):
    protocol, loop, _ = connection
    protocol.connection_lost(None)
    assert all(timer.cancelled() for timer in loop.timers)


# -- several workers ---------------------------------------------------------------------------


class Workers:
    """Workers behind their sockets: what each says, or an error; a clock by hand."""

    def __init__(self, count, monkeypatch):
        self.now = 0.0
        self.views = [WorkerView(Path(f"w{n}"), Silence(15.0)) for n in range(count)]
        self.node = Node(self.views, lambda: self.now)
        self.metrics = [Metrics() for _ in range(count)]
        self.says: list[Any] = [
            {"ready": True, "serving": True, "missing": [], "counts": {}} for _ in self.views
        ]
        self.asked = []
        self.before_answer = lambda: None
        monkeypatch.setattr(node_http, "ask", self.ask)

    async def ask(self, path, target, timeout_s=1.0):
        number = int(path.name[1:])
        self.asked.append((number, target))
        if self.says[number] is None:
            raise TimeoutError
        told = {**self.says[number], "metrics": self.metrics[number].snapshot()}
        self.before_answer()
        return 200, json.dumps(told).encode()

    def sample(self, name, *labels):
        return {tuple(key): numbers[0] for key, numbers in self.node.merged()[name]}[labels]


async def test_the_numbers_of_several_workers_become_the_node_s(monkeypatch):
    node = Workers(2, monkeypatch)
    for number, metrics in enumerate(node.metrics):
        metrics.accepted_total.inc(("shop", "otp"), 10 * (number + 1))
        metrics.queue_messages.set(("otp", "a"), number + 1)
        metrics.queue_oldest_age_seconds.set(("otp", "a"), number + 1)
        metrics.webhook_oldest_age_seconds.set((), 5 - number)
        metrics.config_version.set((), 7 + number)
        for channel, state in (("a", number == 0), ("b", False), ("c", True)):
            metrics.channel_state.set((channel, "up"), float(state))
            metrics.channel_state.set((channel, "down"), float(not state))
    await node.node.refresh()
    assert node.sample("accepted_total", "shop", "otp") == 30
    assert node.sample("queue_messages", "otp", "a") == 3
    assert node.sample("queue_oldest_age_seconds", "otp", "a") == 2
    assert node.sample("webhook_oldest_age_seconds") == 5
    assert node.sample("config_version") == 7  # the oldest: a change is in force when all have it
    states = {
        channel: [node.sample("channel_state", channel, state) for state in ("up", "down")]
        for channel in "abc"
    }
    assert states == {"a": [1, 0], "b": [0, 1], "c": [1, 0]}  # up = any, down = none


async def test_a_node_is_ready_while_one_worker_is(monkeypatch):
    node = Workers(2, monkeypatch)
    node.says[0] = {"ready": False, "serving": False, "missing": ["draining"], "counts": {}}
    await node.node.refresh()
    assert node.node.missing() == []
    node.says[1] = None
    await node.node.refresh()
    assert node.node.missing() == ["draining", "w1: does not answer"]


async def test_readyz_waits_half_a_second_and_names_who_is_silent(monkeypatch):
    node = Workers(2, monkeypatch)
    patience = []

    async def ask(path, target, timeout_s=1.0):
        patience.append(timeout_s)
        return await node.ask(path, target, timeout_s)

    await node.node.refresh()
    monkeypatch.setattr(node_http, "ask", ask)
    node.says[1] = None
    status, _, body = await node.node.answer("/readyz")
    assert (status, json.loads(body)) == (
        200,
        {"status": "ready", "missing": [], "degraded": ["w1: does not answer"]},
    )
    assert patience == [0.5, 0.5]
    node.says[0] = None
    status, _, body = await node.node.answer("/readyz")
    assert (status, json.loads(body)["missing"]) == (
        503,
        ["w0: does not answer", "w1: does not answer"],
    )


def test_one_route_is_told_once():
    head = "route ten_0000000000000001/otp/*/*: none of its channels has a session"
    nobody, refused = f"{head} (a: {NO_SESSION})", f"{head} (a: the connection is refused)"
    assert fold([nobody, refused, "lease", "lease"]) == [refused, "lease"]
    assert fold([nobody, nobody]) == [nobody]
    assert fold([refused, f"{head} (a: still connecting)"]) == [
        f"{head} (a: the connection is refused; a: still connecting)"
    ]


async def test_what_an_ended_worker_had_counted_stays_and_counts_once(monkeypatch):
    node = Workers(1, monkeypatch)
    node.metrics[0].refused_total.inc(("x",), 3)
    node.metrics[0].queue_messages.set(("otp", "a"), 9)
    await node.node.refresh()
    node.views[0].forget()
    assert node.sample("refused_total", "x") == 3
    assert "queue_messages" not in node.node.traffic()
    node.metrics[0] = Metrics()
    node.metrics[0].refused_total.inc(("x",), 1)
    await node.node.refresh()
    assert node.sample("refused_total", "x") == 4


async def test_an_answer_that_comes_after_the_end_of_its_worker_is_dropped(monkeypatch):
    node = Workers(1, monkeypatch)
    node.metrics[0].refused_total.inc(("x",), 3)
    await node.node.refresh()
    node.before_answer = node.views[0].forget  # it is reaped while its answer is on the way
    await node.node.refresh()
    assert node.sample("refused_total", "x") == 3
    assert not node.views[0].is_ready


async def test_silence_is_counted_from_the_question(monkeypatch):
    node = Workers(1, monkeypatch)
    await node.node.refresh()
    node.says[0] = None
    for node.now in (10.0, 15.0, 20.0, 25.0):
        await node.node.refresh()
    assert not node.views[0].is_ready
    assert node.views[0].missing == ("w0: does not answer",)
    assert not node.views[0].silence.is_over(25.0)
    assert node.views[0].silence.is_over(25.1)
    node.says[0] = {"ready": "yes"}  # no snapshot: as good as silent
    await node.node.refresh()
    assert node.views[0].silence.is_over(25.1)


def test_who_holds_far_more_than_its_share_lets_the_rest_go():
    assert excess([64, 0]) == [32, 0]
    assert excess([0, 300, 0]) == [0, 200, 0]
    assert excess([40, 30]) == [0, 0]
    assert excess([3, 0]) == [0, 0]
    assert excess([64, None]) == [0, 0]  # nobody else could take them
    assert excess([64, None, 0]) == [32, 0, 0]
    assert excess([]) == []


@pytest.mark.parametrize(("cpu_s", "orders"), [(0.9, [(0, "/spread?connections=32")]), (0.1, [])])
async def test_connections_are_spread_when_their_worker_is_at_work(cpu_s, orders, monkeypatch):
    node = Workers(2, monkeypatch)
    node.says[0]["counts"] = {"connections": 64, "cpu_s": 5.0}
    await node.node.refresh()
    node.now = 1.0
    node.says[0]["counts"] = {"connections": 64, "cpu_s": 5.0 + cpu_s}
    await node.node.refresh()
    node.asked.clear()
    await node.node.spread()
    assert node.asked == orders


async def test_how_a_restart_stands_is_told_on_the_unix_socket_only():
    node = Node([])
    node.restart_state = lambda: {"asked": 3}
    assert (await node.answer("/restart"))[0] == 404
    status, _, body = await node.answer("/restart", is_ours=True)
    assert (status, json.loads(body)) == (200, {"asked": 3})
    assert (await get("/restart")).status_code == 404


async def test_what_ails_the_node_is_told_beside_what_is_missing(monkeypatch):
    node = Workers(1, monkeypatch)
    node.node.remarks = lambda: ["storage: full"]
    status, _, body = await node.node.answer("/readyz")
    assert status == 200
    assert json.loads(body)["degraded"] == ["storage: full"]
    node.says[0] = None
    status, _, body = await node.node.answer("/readyz")
    assert status == 503
    assert json.loads(body)["missing"] == ["w0: does not answer", "storage: full"]
