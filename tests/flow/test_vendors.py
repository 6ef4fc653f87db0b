"""Texts travel the whole way over HTTP: receipts by callback, kills, hangs, empty answers.

The vendor is the sandbox's (Infobip's forms); it calls any of two workers, of which one holds the
channel. What it recorded is the judge: one text, one line.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway_process import GatewayProcess, eventually

pytestmark = pytest.mark.flow

VENDOR, BACKUP = "vendor-a", "global-a"
_numbers = itertools.count(10_000_000)


def configuration(gateway: GatewayProcess) -> str:
    """China Broadnet's texts go over the vendor, then over SMPP; answers are given up after 2 s."""
    [port] = [one["port"] for one in gateway.sandbox["carriers"] if one["name"] == VENDOR]
    private = gateway.data_dir / "sandbox"
    channel = {
        "name": VENDOR,
        "protocol": "infobip",
        "url": f"http://127.0.0.1:{port}",
        "api_key_file": str(private / "carrier.pw"),
        "callback_secret_file": str(private / "callback.secret"),
        "sender": "10690001",
        "window": 64,
        "segments_per_second": 1_000_000,
        "classes": ["otp", "transactional", "marketing"],
        "submit_timeout_s": 2,
        "absent_after_s": 2,
    }
    route = {"tenant": "*", "class": "*", "carrier": "CB", "channels": [VENDOR, BACKUP]}
    return json.dumps({"channels": [channel], "routes": [route]})


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    # What is asked about must be cleared up by the answer, not by the copy of its class.
    with GatewayProcess(
        workers=2, uncertain_wait_transactional_s="60", overdue_after_s="2"
    ) as gateway:
        gateway.apply(configuration(gateway))
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess) -> GatewayProcess:
    """Both friendly and up, whatever the test before did."""
    running.calm()
    for name in (VENDOR, BACKUP):
        running.carriers[name].behave(latency_ms=2, receipt_delay_ms=50)
    eventually(running.all_links_up, "every channel has its sessions", 20)
    return running


def send(gateway: GatewayProcess, count: int = 1, **fields: Any) -> dict[str, str]:
    """Accept texts to numbers of their own; message id by number."""
    numbers = [f"+86192{next(_numbers)}" for _ in range(count)]
    return {
        number: gateway.accept(to=number, text=f"第{number[-8:]}号", **fields) for number in numbers
    }


def at(gateway: GatewayProcess, name: str, *numbers: str) -> int:
    """How many texts to these numbers the carrier took."""
    wanted = {number.lstrip("+") for number in numbers}
    return sum(row["to"] in wanted for row in gateway.carriers[name].submits())


def test_receipts_come_back_by_callbacks_to_any_worker(gateway: GatewayProcess) -> None:
    sent = send(gateway, 20, **{"class": "otp"})
    for message_id in sent.values():
        gateway.wait_for_status(message_id, "delivered")
    assert at(gateway, VENDOR, *sent) == 20
    assert gateway.metric("carrier_calls_total", kind="receipts", result="kept") > 0
    long = gateway.accept(to=f"+86192{next(_numbers)}", text="长" * 200)
    told = gateway.wait_for_status(long, "delivered")
    assert [one["status"] for one in told["segment_states"]] == ["delivered"] * told["segments"]


def test_a_kill_with_requests_under_way_costs_nothing_and_doubles_nothing(
    gateway: GatewayProcess,
) -> None:
    gateway.carriers[VENDOR].behave(latency_ms=1500, receipt_delay_ms=4000)
    sent = send(gateway, 24, **{"class": "otp"})
    sent |= send(gateway, 8, **{"class": "marketing"})
    eventually(lambda: at(gateway, VENDOR, *sent) == len(sent), "all requests at the vendor", 10)
    for name in [name for name in gateway.pids() if name.startswith("worker")]:
        gateway.kill(name)
    gateway.wait_ready()
    told = [gateway.wait_for_status(message_id, "delivered") for message_id in sent.values()]
    assert at(gateway, VENDOR, *sent) == len(sent)
    assert at(gateway, BACKUP, *sent) == 0
    assert not any(one["duplicate_risk"] for one in told)
    steps = [step for message_id in sent.values() for step in gateway.timeline(message_id)]
    assert any(step["status"] == "uncertain" for step in steps)  # it hit what was under way


def test_a_vendor_that_hangs_is_asked_when_it_is_back(gateway: GatewayProcess) -> None:
    gateway.carriers[VENDOR].behave(silent=True)
    sent = send(gateway, 4, **{"class": "transactional"})
    for message_id in sent.values():
        gateway.wait_for_status(message_id, "uncertain")
    gateway.carriers[VENDOR].behave(silent=False, link="down")  # what it was asked is cut off
    gateway.carriers[VENDOR].behave(link="up")
    for message_id in sent.values():
        told = gateway.wait_for_status(message_id, "submitted", "delivered", "undelivered")
        assert not told["duplicate_risk"]
    assert (at(gateway, VENDOR, *sent), at(gateway, BACKUP, *sent)) == (4, 0)


def test_a_5xx_that_says_nothing_is_asked_about_and_goes_on_unmarked(
    gateway: GatewayProcess,
) -> None:
    """The vendor took nothing and says so when asked: the next channel has it, as the first."""
    gateway.carriers[VENDOR].behave(failure_share=1, failure_status=500, says_not_accepted=False)
    [(number, message_id)] = send(gateway, 1, **{"class": "transactional"}).items()
    told = gateway.wait_for_status(message_id, "delivered")
    assert not told["duplicate_risk"]
    assert (at(gateway, VENDOR, number), at(gateway, BACKUP, number)) == (0, 1)
    codes = [step["code"] for step in gateway.timeline(message_id)]
    assert "evidence.not_accepted" in codes


def test_a_receipt_that_stays_away_is_asked_for_although_who_sent_it_was_killed(
    gateway: GatewayProcess,
) -> None:
    gateway.carriers[VENDOR].behave(receipts=False)  # it knows their end, and tells nobody
    sent = send(gateway, 6, **{"class": "transactional"})
    for message_id in sent.values():
        gateway.wait_for_status(message_id, "submitted")
    for name in [name for name in gateway.pids() if name.startswith("worker")]:
        gateway.kill(name)
    gateway.wait_ready()
    for message_id in sent.values():
        assert not gateway.wait_for_status(message_id, "delivered")["duplicate_risk"]
    assert (at(gateway, VENDOR, *sent), at(gateway, BACKUP, *sent)) == (6, 0)
