"""SMPP with all that a carrier may ask for: TLS, a pair of connections, long texts whole."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.certificates import Authority
from tests.support.gateway_process import ROOT, CarrierControl, GatewayProcess, eventually

pytestmark = pytest.mark.flow

_numbers = itertools.count(10_000_000)
TEXT = "长" * 150  # three segments

CONFIG = """\
channels:
  - name: vendor-d
    protocol: smpp
    host: 127.0.0.1
    port: {port}
    system_id: shop
    password: secret08
    bind: tx+rx
    interface_version: 0x50
    long_messages: payload
    query_after_s: 1
    tls: true
    tls_ca_file: {ca}
    sender: "10690001"
    sessions: 1
    window: 2
    segments_per_second: 1000
routes:
  - {{tenant: "*", class: "*", carrier: CB, channels: [vendor-d]}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("vendor-d")
    authority = Authority()
    pem = authority.issue("127.0.0.1").file(folder / "carrier.pem")
    (folder / "ca.pem").write_text(authority.cert, encoding="ascii")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "loadtest.carrier", "--name", "vendor-d", "--json"),
            *("--port", "0", "--control-port", "0", "--record", str(folder / "record.jsonl")),
            *("--system-id", "shop", "--password", "secret08", "--tls-cert", str(pem)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        with GatewayProcess() as gateway:
            gateway.apply(CONFIG.format(port=told["port"], ca=folder / "ca.pem"))
            control = CarrierControl("vendor-d", told["control_url"], gateway.client)
            gateway.carriers["vendor-d"] = control
            eventually(lambda: control.counts()["sessions"] == 2, "its pair is bound", 20)
            yield gateway
    finally:
        process.terminate()
        process.communicate(timeout=10)


def kill_the_worker(gateway: GatewayProcess) -> None:
    """And wait for the next one."""
    pid = gateway.kill("worker-0")
    eventually(lambda: gateway.pids().get("worker-0") not in (None, pid), "a new worker", 20)
    gateway.wait_ready()


def submitted(gateway: GatewayProcess, to: str) -> list[str]:
    rows = gateway.carriers["vendor-d"].submits(taken=False)
    return [row["text"] for row in rows if row["to"] == to[1:]]


def test_one_report_ends_all_segments_though_the_worker_that_sent_them_was_killed(gateway):
    gateway.carriers["vendor-d"].behave(receipt_delay_ms=2500)
    to = f"+86192{next(_numbers)}"
    message_id = gateway.accept(to=to, text=TEXT, **{"class": "transactional"})
    message = gateway.wait_for_status(message_id, "submitted")
    assert message["segments"] == 3  # more than its window
    kill_the_worker(gateway)
    message = gateway.wait_for_status(message_id, "delivered", timeout_s=30)
    assert [one["status"] for one in message["segment_states"]] == ["delivered"] * 3
    assert submitted(gateway, to) == ["【沙箱】" + TEXT]


def test_a_carrier_that_sends_no_receipts_is_asked(gateway):
    gateway.carriers["vendor-d"].behave(receipts=False, receipt_delay_ms=50)
    to = f"+86192{next(_numbers)}"
    message_id = gateway.accept(to=to, text=TEXT, **{"class": "transactional"})
    gateway.wait_for_status(message_id, "delivered", timeout_s=20)
    gateway.carriers["vendor-d"].behave(receipts=True)


def test_without_an_answer_all_of_it_is_uncertain_after_a_kill_and_nothing_is_sent_again(gateway):
    """Its one submit is journalled for each segment."""
    carrier = gateway.carriers["vendor-d"]
    carrier.behave(silent=True)
    to = f"+86192{next(_numbers)}"
    message_id = gateway.accept(to=to, text=TEXT, **{"class": "marketing"})
    eventually(lambda: carrier.counts()["silent"], "it has left", 10)
    kill_the_worker(gateway)
    assert gateway.wait_for_status(message_id, "uncertain", timeout_s=20)["segments"] == 3
    assert len(submitted(gateway, to)) == 1
    assert gateway.metric("illegal_transition_total") == 0
