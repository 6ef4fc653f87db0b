"""Texts travel the whole way over SGIP and SMGP: reports come back, faults come and go.

The carriers are our own simulators. PyPI and npm have no other implementation of SGIP or SMGP to
install as a peer; Go modules exist (go_sgip, go_smgp), for which the tests would need a Go tool
chain. Their bytes and those of Java implementations stand in the recorded vectors (tests/wire).
"""

import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.gateway_process import (
    ROOT,
    CarrierControl,
    GatewayProcess,
    Json,
    eventually,
    free_ports,
)

pytestmark = pytest.mark.flow

# network → (a prefix of its numbers, how the simulator says "unknown subscriber" in a report)
NETWORKS = {"unicom-a": ("+86186", "UNDELIV 29"), "telecom-a": ("+86189", "UNDELIV 003")}
_numbers = itertools.count(10_000_000)

CONFIG = """\
channels:
  - name: unicom-a
    protocol: sgip
    host: 127.0.0.1
    port: {unicom}
    login_name: shop
    password: secret08
    node_id: 3010012345
    corp_id: "12345"
    smg_allow: [127.0.0.1]
    sender: "10690001"
    sessions: 1
    window: 16
    segments_per_second: 1000
  - name: telecom-a
    protocol: smgp
    host: 127.0.0.1
    port: {telecom}
    client_id: shop
    shared_secret: secret08
    directions: separate
    sender: "10690001"
    sessions: 1
    window: 16
    segments_per_second: 1000
routes:
  - {{tenant: "*", class: "*", carrier: CU, channels: [unicom-a, carrier-a]}}
  - {{tenant: "*", class: "*", carrier: CT, channels: [telecom-a, carrier-a]}}
"""


def start_carrier(
    folder, name: str, protocol: str, *more: str
) -> tuple[subprocess.Popen[bytes], Json]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "loadtest.carrier", "--name", name, "--protocol", protocol),
            *("--port", "0", "--control-port", "0", "--record", str(folder / f"{name}.jsonl")),
            *("--system-id", "shop", "--password", "secret08", "--json"),
            *("--receipt-delay-ms", "50", *more),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[GatewayProcess]:
    """A gateway of two workers; one holds the session, the SMG may come to either."""
    gateway = GatewayProcess(workers=2)
    folder = tmp_path_factory.mktemp("carriers")
    [smg_port] = free_ports(1)
    gateway.env["SMSGW_SMG_PORT"] = str(smg_port)
    carriers = [
        start_carrier(folder, "unicom-a", "sgip", "--call-back", f"127.0.0.1:{smg_port}"),
        start_carrier(folder, "telecom-a", "smgp"),
    ]
    try:
        with gateway:
            (_, unicom), (_, telecom) = carriers
            gateway.apply(CONFIG.format(unicom=unicom["port"], telecom=telecom["port"]))
            for _, told in carriers:
                control = CarrierControl(told["name"], told["control_url"], gateway.client)
                gateway.carriers[told["name"]] = control
            yield gateway
    finally:
        for process, _ in carriers:
            process.terminate()
            process.communicate(timeout=10)


@pytest.fixture
def gateway(running: GatewayProcess) -> GatewayProcess:
    """All carriers friendly and bound, whatever the test before did."""
    for carrier in running.carriers.values():
        carrier.behave(
            latency_ms=2,
            receipt_delay_ms=50,
            failure_share=0,
            throttle_share=0,
            undelivered_share=0,
            silent=False,
            receipts=True,
            link="up",
        )
    running.carriers["unicom-a"].behave(failure_status=32)
    running.carriers["telecom-a"].behave(failure_status=2)

    def is_up() -> bool:
        up = running.metric("channel_state", state="up")
        # our session and the SMG's own; one connection to send and one to receive
        both = [running.carriers[name].counts()["sessions"] for name in NETWORKS]
        return up == len(running.carriers) and both == [2, 2]

    eventually(is_up, "every channel has its sessions", 20)
    return running


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def a_number(network: str) -> str:
    return f"{NETWORKS[network][0]}{next(_numbers)}"


def test_a_text_is_delivered(gateway, network):
    to = a_number(network)
    message_id = gateway.accept(to=to, text="您的验证码是 482915", **{"class": "otp"})
    message = gateway.wait_for_status(message_id, "delivered")
    assert message["channel"] == network
    (submit,) = [row for row in gateway.carriers[network].submits() if row["to"].endswith(to[3:])]
    assert submit["text"] == "【沙箱】您的验证码是 482915"
    assert submit["from"] == "10690001"
    attempt, receipt = gateway.timeline(message_id)[2:]
    assert attempt["carrier_id"] == receipt["carrier_id"] == submit["carrier_id"]


def test_a_long_text_is_delivered_in_segments_with_one_report_each(gateway, network):
    to = a_number(network)
    message_id = gateway.accept(to=to, text="长" * 150, **{"class": "transactional"})
    message = gateway.wait_for_status(message_id, "delivered")
    assert message["segments"] == 3
    rows = [row for row in gateway.carriers[network].submits() if row["to"].endswith(to[3:])]
    rows.sort(key=lambda row: row["index"])
    assert [(row["index"], row["total"]) for row in rows] == [(1, 3), (2, 3), (3, 3)]
    assert "".join(row["text"] for row in rows) == "【沙箱】" + "长" * 150
    assert len({row["carrier_id"] for row in rows}) == 3


def test_many_at_once_all_come_to_their_end(gateway, network):
    texts = [{"to": a_number(network), "text": f"第 {n} 条"} for n in range(200)]
    answer = gateway.batch(texts, **{"class": "transactional"})
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
    message_id = gateway.accept(to=a_number(network), text="你好", **{"class": "otp"})
    message = gateway.wait_for_status(message_id, "undelivered")
    assert message["reason"] == "recipient.invalid"
    assert message["carrier_code"] == NETWORKS[network][1]


def test_a_system_that_fails_is_left_for_the_next_channel(gateway, network):
    gateway.carriers[network].behave(failure_share=1)
    message_id = gateway.accept(to=a_number(network), text="你好", **{"class": "otp"})
    message = gateway.wait_for_status(message_id, "delivered", timeout_s=20)
    assert message["channel"] == "carrier-a"


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


def test_a_report_finds_its_text_after_the_worker_that_sent_it_was_killed(gateway, network):
    carrier = gateway.carriers[network]
    carrier.behave(receipt_delay_ms=2500)
    text = {"to": a_number(network), "text": "你好", "class": "transactional"}
    message_id = gateway.accept(**text)
    gateway.wait_for_status(message_id, "submitted")
    killed = {name: gateway.kill(name) for name in ("worker-0", "worker-1")}

    def are_new() -> bool:
        now = gateway.pids()
        return all(now.get(name) not in (None, pid) for name, pid in killed.items())

    eventually(are_new, "two new workers", 20)
    gateway.wait_ready()
    gateway.wait_for_status(message_id, "delivered", timeout_s=30)
    rows = [row for row in carrier.submits(taken=False) if row["to"][-11:] == text["to"][3:]]
    assert len(rows) == 1


def test_strangers_on_the_smgs_port_disturb_nobody(gateway):
    port = int(gateway.env["SMSGW_SMG_PORT"])
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x14", b"\xff" * 400, b""):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(100) == b""
    message_id = gateway.accept(to=a_number("unicom-a"), text="你好", **{"class": "otp"})
    gateway.wait_for_status(message_id, "delivered")


def test_nothing_illegal_happened_in_all_of_this(gateway):
    assert gateway.metric("illegal_transition_total") == 0
    assert gateway.metric("quarantined_total") == 0
