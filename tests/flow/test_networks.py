"""Texts travel the whole way over SGIP and SMGP: reports come back, faults come and go.

The carriers are our own simulators. PyPI and npm have no other implementation of SGIP or SMGP to
install as a peer; Go modules exist (go_sgip, go_smgp), for which the tests would need a Go tool
chain. Their bytes and those of Java implementations stand in the recorded vectors (tests/wire).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from telemetry.failpoints import WATCH, armed_file, fired_file
from tests.support.gateway_process import GatewayProcess, Json, eventually, free_ports
from tests.support.second_node import narrow

pytestmark = pytest.mark.flow

# network → (a prefix of its numbers, how the simulator says "unknown subscriber" in a report)
NETWORKS = {"unicom-a": ("+86186", "UNDELIV 29"), "telecom-a": ("+86189", "UNDELIV 003")}
CARRIERS = {"unicom-a": "CU", "telecom-a": "CT"}
TO = "10690001"
TRANSACTIONAL = {"class": "transactional"}
_numbers = itertools.count(10_000_000)


def configuration(gateway: GatewayProcess) -> str:
    """One session each; China Telecom's is two connections, one for each direction.

    Only one-time passwords have another channel to go to. A worker without the session learns a
    little later than the carrier that its neighbour has it; until then the others wait for it,
    instead of being sent, and reported, by a carrier that no test here looks at.
    """
    told = json.loads(narrow(gateway, sessions=1, window=16, names=NETWORKS))
    for channel in told["channels"]:
        if channel["protocol"] == "smgp":
            channel["directions"] = "separate"
    told["routes"] = [
        {"tenant": "*", "class": message_class, "carrier": carrier, "channels": [name]}
        for name, carrier in CARRIERS.items()
        for message_class in ("transactional", "marketing")
    ]
    return json.dumps(told)


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    """A gateway of two workers; one holds the session, the SMG may come to either."""
    gateway = GatewayProcess(workers=2)
    [port] = free_ports(1)
    gateway.env |= {"SMSGW_SMG_PORT": str(port), "SMSGW_FAILPOINT": WATCH}
    gateway.env["SMSGW_ALLOW_FAILPOINTS"] = "1"  # `apply` and `restart` are told nothing of it
    with gateway:
        gateway.apply(configuration(gateway))
        yield gateway


def has_its_sessions(gateway: GatewayProcess) -> bool:
    # our session and the SMG's own; one connection to send and one to receive
    unicom, telecom = (gateway.carriers[name].counts() for name in NETWORKS)
    return (unicom["sessions"], unicom["calls"], telecom["sessions"]) == (1, 1, 2)


@pytest.fixture
def gateway(running: GatewayProcess) -> GatewayProcess:
    """All carriers friendly and bound, whatever the test before did."""
    running.calm()
    for carrier in running.carriers.values():
        carrier.behave(latency_ms=2, receipt_delay_ms=50)
    eventually(running.all_links_up, "every channel has its sessions", 20)
    eventually(lambda: has_its_sessions(running), "and no others", 20)
    assert running.metric("smg_sessions", channel="unicom-a") == 1
    return running


@pytest.fixture(params=sorted(NETWORKS))
def network(request) -> str:
    return str(request.param)


def a_number(network: str) -> str:
    return f"{NETWORKS[network][0]}{next(_numbers)}"


def test_a_text_is_delivered(gateway, network):
    to = a_number(network)
    message_id = gateway.accept(to=to, text="您的验证码是 482915", **TRANSACTIONAL)
    message = gateway.wait_for_status(message_id, "delivered")
    assert message["channel"] == network
    (submit,) = [row for row in gateway.carriers[network].submits() if row["to"].endswith(to[3:])]
    assert submit["text"] == "【沙箱】您的验证码是 482915"
    assert submit["from"] == "10690001"
    steps = gateway.timeline(message_id)
    attempt, receipt = [step for step in steps if step["step"] in ("attempt", "receipt")]
    assert attempt["carrier_id"] == receipt["carrier_id"] == submit["carrier_id"]


def test_a_long_text_is_delivered_in_segments_with_one_report_each(gateway, network):
    to = a_number(network)
    message_id = gateway.accept(to=to, text="长" * 150, **TRANSACTIONAL)
    message = gateway.wait_for_status(message_id, "delivered")
    assert message["segments"] == 3
    rows = [row for row in gateway.carriers[network].submits() if row["to"].endswith(to[3:])]
    rows.sort(key=lambda row: row["index"])
    assert [(row["index"], row["total"]) for row in rows] == [(1, 3), (2, 3), (3, 3)]
    assert "".join(row["text"] for row in rows) == "【沙箱】" + "长" * 150
    assert len({row["carrier_id"] for row in rows}) == 3


def test_many_at_once_all_come_to_their_end(gateway, network):
    texts = [{"to": a_number(network), "text": f"第 {n} 条"} for n in range(200)]
    answer = gateway.batch(texts, **TRANSACTIONAL)
    assert answer.status_code == 202, answer.text
    ids = [told["id"] for told in answer.json()["accepted"]]
    for message_id in ids:
        gateway.wait_for_status(message_id, "delivered", timeout_s=20)
    wanted = {text["to"][3:] for text in texts}
    rows = [
        row for row in gateway.carriers[network].submits(taken=False) if row["to"][-11:] in wanted
    ]
    assert len(rows) == 200  # each once


def test_a_report_that_says_no_is_read_by_the_protocols_own_table(gateway, network):
    gateway.carriers[network].behave(undelivered_share=1)
    message_id = gateway.accept(to=a_number(network), text="你好", **TRANSACTIONAL)
    message = gateway.wait_for_status(message_id, "undelivered")
    assert message["reason"] == "recipient.invalid"
    assert message["carrier_code"] == NETWORKS[network][1]


def test_a_system_that_fails_is_left_for_the_next_channel(gateway, network):
    gateway.carriers[network].behave(failure_share=1)
    message_id = gateway.accept(to=a_number(network), text="你好", **{"class": "otp"})
    message = gateway.wait_for_status(message_id, "delivered", timeout_s=20)
    assert message["channel"] == "mobile-a"


def test_what_is_throttled_goes_when_there_is_room(gateway, network):
    gateway.carriers[network].behave(throttle_share=1)
    text = {"to": a_number(network), "text": "你好", "class": "transactional"}
    message_id = gateway.accept(**text)
    eventually(lambda: gateway.carriers[network].counts()["throttled"], "it was refused", 10)
    gateway.carriers[network].behave(throttle_share=0)
    gateway.wait_for_status(message_id, "delivered", timeout_s=20)


def test_a_link_that_breaks_comes_back_and_so_do_its_reports(gateway, network):
    carrier = gateway.carriers[network]
    carrier.behave(receipt_delay_ms=1000)
    text = {"to": a_number(network), "text": "你好", "class": "transactional"}
    message_id = gateway.accept(**text)
    gateway.wait_for_status(message_id, "submitted")
    carrier.behave(link="down")
    eventually(lambda: carrier.counts()["sessions"] == 0, "the links are down", 10)
    carrier.behave(link="up")
    gateway.wait_for_status(message_id, "delivered", timeout_s=30)


def workers(gateway: GatewayProcess) -> dict[str, int]:
    return {name: pid for name, pid in gateway.pids().items() if name.startswith("worker-")}


def until_others(gateway: GatewayProcess, before: dict[str, int], count: int) -> None:
    """Until so many of the workers are others, and both are ready."""

    def are_new() -> bool:
        now = workers(gateway)
        return len(now) == 2 and sum(now[name] != before[name] for name in now) >= count

    eventually(are_new, "new workers", 20)
    gateway.wait_ready()


def kill_both(gateway: GatewayProcess) -> None:
    """Both workers; returns when others are ready."""
    before = workers(gateway)
    for name in before:
        gateway.kill(name)
    until_others(gateway, before, 2)


def test_a_report_finds_its_text_after_the_worker_that_sent_it_was_killed(gateway, network):
    carrier = gateway.carriers[network]
    carrier.behave(receipt_delay_ms=2500)
    text = {"to": a_number(network), "text": "你好", "class": "transactional"}
    message_id = gateway.accept(**text)
    gateway.wait_for_status(message_id, "submitted")
    kill_both(gateway)
    gateway.wait_for_status(message_id, "delivered", timeout_s=30)
    rows = [row for row in carrier.submits(taken=False) if row["to"][-11:] == text["to"][3:]]
    assert len(rows) == 1


@contextlib.contextmanager
def struck(gateway: GatewayProcess, point: str) -> Iterator[None]:
    """One kill there, of whichever worker comes by first; afterwards both are ready again."""
    folder = gateway.data_dir / "failpoints"
    before = workers(gateway)
    spec = f"{point}=kill#flow-{next(_numbers)}"
    (folder / "armed.new").write_text(spec, "utf-8")
    (folder / "armed.new").replace(armed_file(folder))
    time.sleep(0.3)  # both workers have looked
    try:
        yield
        eventually(lambda: fired_file(folder, spec).exists(), "a worker is killed", 15)
    finally:
        armed_file(folder).unlink()
    until_others(gateway, before, 1)


def test_a_report_that_was_read_and_not_kept_comes_again(gateway, network):
    """Killed before the COMMIT: nobody answered it, so the carrier still has it."""
    carrier = gateway.carriers[network]
    carrier.behave(receipt_delay_ms=4000)
    message_id = gateway.accept(to=a_number(network), text="你好", **TRANSACTIONAL)
    gateway.wait_for_status(message_id, "submitted")
    answered = carrier.counts()["reports_answered"]
    with struck(gateway, "settle.before_commit"):
        pass  # the report is on its way
    message = gateway.wait_for_status(message_id, "delivered", timeout_s=30)
    assert message["channel"] == network
    eventually(lambda: carrier.counts()["reports_answered"] > answered, "it is answered", 10)


def test_a_rolling_restart_hands_the_port_over_and_loses_nothing(gateway):
    """The SMG's connection ends and comes back to the next worker."""
    carrier = gateway.carriers["unicom-a"]
    carrier.behave(receipt_delay_ms=1000)
    before = workers(gateway)
    ids = [gateway.accept(to=a_number("unicom-a"), text="你好") for _ in range(20)]
    restarted = gateway.command("restart")
    assert restarted.returncode == 0, restarted.stdout + restarted.stderr
    assert set(workers(gateway).values()).isdisjoint(before.values())
    ids += [gateway.accept(to=a_number("unicom-a"), text="你好") for _ in range(20)]
    for message_id in ids:
        assert (
            gateway.wait_for_status(message_id, "delivered", timeout_s=30)["duplicate_risk"]
            is False
        )


# -- texts from phones -------------------------------------------------------------------------


def inbound(gateway: GatewayProcess, number: str) -> list[Json]:
    try:
        answer = gateway.request("GET", "/v1/inbound-messages?limit=1000")
    except httpx.TransportError:  # the worker that had the connection was killed
        return []
    assert answer.status_code == 200, answer.text
    return [one for one in answer.json()["data"] if one["from"] == number]


def received(gateway: GatewayProcess, number: str, timeout_s: float = 10.0) -> Json:
    found = eventually(lambda: inbound(gateway, number), f"a text of {number}", timeout_s)
    assert len(found) == 1
    return found[0]


def test_a_phones_answer_is_told_and_an_opt_out_obeyed(gateway, network):
    number = a_number(network)
    sent = gateway.accept(to=number, text="促销", **{"class": "marketing"})
    gateway.wait_for_status(sent, "delivered")
    gateway.carriers[network].phone(sender=number, to=TO, text="回复ＴＤ")
    text = received(gateway, number)
    assert (text["channel"], text["to"], text["text"]) == (network, TO, "回复ＴＤ")
    assert (text["probable_parent"], text["opted_out"]) == (sent, True)
    told = functools.partial(gateway.sink.events, text["id"])
    eventually(lambda: len(told()) >= 2, "its webhooks")
    assert {event["type"] for event in told()} == {"inbound.received", "recipient.opted_out"}


def test_a_phones_long_text_is_joined_over_a_kill(gateway, network):
    """In any order, one segment twice, two of them before and one after the workers died."""
    number, words = a_number(network), "长短信😀" * 38
    carrier = gateway.carriers[network]
    text = {"sender": number, "to": TO, "text": words, "reference": 9}
    joins = gateway.metric("inbound_joins")
    carrier.phone(**text, only=[3, 1, 3])
    eventually(lambda: gateway.metric("inbound_joins") > joins, "the first segments wait", 10)
    eventually(lambda: carrier.counts()["reports_waiting"] == 0, "they are answered", 10)
    kill_both(gateway)
    carrier.phone(**text, only=[2])
    found = received(gateway, number, 30)
    assert (found["text"], found["segments"], found["incomplete"]) == (words, 3, False)


@pytest.mark.parametrize("point", ["inbound.before_commit", "inbound.committed"])
def test_a_phones_text_is_kept_once_whenever_the_worker_dies(gateway, network, point):
    number = a_number(network)
    carrier = gateway.carriers[network]
    answered = carrier.counts()["reports_answered"]
    with struck(gateway, point):
        carrier.phone(sender=number, to=TO, text="收到")
    received(gateway, number, 30)
    eventually(lambda: carrier.counts()["reports_answered"] > answered, "it is answered", 30)
    assert len(inbound(gateway, number)) == 1


def test_strangers_on_the_smgs_port_disturb_nobody(gateway):
    port = int(gateway.env["SMSGW_SMG_PORT"])
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x14", b"\xff" * 400, b""):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(100) == b""
    message_id = gateway.accept(to=a_number("unicom-a"), text="你好", **TRANSACTIONAL)
    gateway.wait_for_status(message_id, "delivered")


def test_nothing_illegal_happened_in_all_of_this(gateway):
    assert gateway.metric("illegal_transition_total") == 0
    assert gateway.metric("quarantined_total") == 0
