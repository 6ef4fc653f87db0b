"""A text travels the whole way over CMPP 2.0 and 3.0, and survives a killed worker there."""

import itertools
import json
import time
from collections.abc import Iterator

import pytest

from tests.support.gateway_process import GatewayProcess, Json, eventually
from tests.support.more_carriers import LOGIN, SECRET, MoreCarrier, more_carriers

pytestmark = pytest.mark.flow

PROTOCOLS = ("cmpp2", "cmpp3")
DUPLICATE_SEQUENCE = 3
CLASSES = {"cmpp2": "otp", "cmpp3": "transactional"}  # which of the routes a text takes
_numbers = itertools.count(30_000_000)


def all_are_up(gateway: GatewayProcess) -> bool:
    """The sandbox's channels and ours."""
    return gateway.metric("channel_state", state="up") == len(gateway.carriers) + len(PROTOCOLS)


def a_number() -> str:
    return f"+86138{next(_numbers)}"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[tuple[GatewayProcess, dict[str, MoreCarrier]]]:
    login = {"source_addr": LOGIN, "shared_secret": SECRET, "active_test_s": 5}
    with (
        GatewayProcess() as gateway,
        more_carriers(
            gateway, tmp_path_factory.mktemp("cmpp"), dict.fromkeys(PROTOCOLS, login)
        ) as carriers,
    ):
        everything = {"tenant": "*", "carrier": "*"}
        gateway.apply(
            json.dumps(
                {
                    "channels": [carrier.channel for carrier in carriers.values()],
                    "routes": [
                        {**everything, "class": "otp", "channels": ["cmpp2", "cmpp3"]},
                        {**everything, "class": "transactional", "channels": ["cmpp3", "cmpp2"]},
                    ],
                }
            )
        )
        eventually(lambda: all_are_up(gateway), "all links are up")
        yield gateway, carriers


@pytest.fixture(params=PROTOCOLS)
def way(request, world) -> tuple[GatewayProcess, MoreCarrier, str]:
    """The gateway, the carrier that a text of this class goes to first, and the class."""
    gateway, carriers = world
    for carrier in carriers.values():
        carrier.calm(DUPLICATE_SEQUENCE)
    eventually(lambda: all_are_up(gateway), "all links are up")
    return gateway, carriers[request.param], CLASSES[request.param]


def send(gateway: GatewayProcess, message_class: str, to: str, text: str) -> str:
    return gateway.accept(to=to, text=text, **{"class": message_class})


def test_a_text_is_delivered(way):
    gateway, carrier, message_class = way
    to = a_number()
    message = gateway.wait_for_status(send(gateway, message_class, to, "您好"), "delivered")
    assert message["channel"] == carrier.name
    [row] = carrier.of(to)
    [receipt] = [step for step in gateway.timeline(message["id"]) if step["step"] == "receipt"]
    assert receipt["code"] == "DELIVRD"
    assert receipt["carrier_id"] == row["carrier_id"]
    assert row["to"] == to.removeprefix("+86")
    assert row["text"] == "【沙箱】您好"
    assert carrier.counts()["sessions"] == 2


def test_a_long_text_arrives_whole_and_in_one_piece_of_news(way):
    gateway, carrier, message_class = way
    to = a_number()
    text = "长短信内容" * 40
    message = gateway.wait_for_status(send(gateway, message_class, to, text), "delivered")
    rows = sorted(carrier.of(to), key=lambda row: row["index"])
    assert message["segments"] == len(rows) == 4
    assert "".join(row["text"] for row in rows) == f"【沙箱】{text}"
    assert len({row["segment_ref"] for row in rows}) == 1
    assert {row["total"] for row in rows} == {4}


def test_undelivered_says_the_carrier_s_word(way):
    gateway, carrier, message_class = way
    carrier.behave(undelivered_share=1.0)
    message_id = send(gateway, message_class, a_number(), "关机")
    message = gateway.wait_for_status(message_id, "undelivered")
    assert message["carrier_code"].startswith("UNDELIV")


@pytest.mark.parametrize(("status", "tries"), [(DUPLICATE_SEQUENCE, 2), (9, 1), (1, 1)])
def test_a_channel_that_cannot_is_left_for_the_next_one(way, status, tries):
    """Result 3, a duplicate sequence, is tried once more: the number was refused, not the text."""
    gateway, carrier, message_class = way
    carrier.behave(failure_share=1.0, failure_status=status)
    to = a_number()
    message = gateway.wait_for_status(send(gateway, message_class, to, "换一个"), "delivered")
    assert message["channel"] != carrier.name
    assert len(carrier.of(to, taken=False)) == tries


def test_a_number_the_carrier_refuses_is_final_at_once(way):
    gateway, carrier, message_class = way
    carrier.behave(failure_share=1.0, failure_status=13)
    message_id = send(gateway, message_class, a_number(), "空号")
    message = gateway.wait_for_status(message_id, "failed")
    assert (message["reason"], message["carrier_code"]) == ("recipient.invalid", "13")


def test_flow_control_is_waited_for_and_nothing_goes_twice(way):
    gateway, carrier, message_class = way
    carrier.behave(throttle_share=0.5)
    numbers = [a_number() for _ in range(20)]
    answer = gateway.batch(
        [{"to": to, "text": "慢一点"} for to in numbers], **{"class": message_class}
    )
    for entry in answer.json()["accepted"]:
        gateway.wait_for_status(entry["id"], "delivered", timeout_s=30)
    assert carrier.counts()["throttled"] > 0


def test_reports_that_came_while_the_link_was_down_come_again(way):
    gateway, carrier, message_class = way
    carrier.behave(receipt_delay_ms=1500)
    to = a_number()
    message_id = send(gateway, message_class, to, "断线")
    gateway.wait_for_status(message_id, "submitted")
    carrier.behave(link="down")
    time.sleep(2)
    assert gateway.status(message_id)["status"] == "submitted"
    carrier.behave(link="up")
    gateway.wait_for_status(message_id, "delivered", timeout_s=20)
    assert len(carrier.of(to)) == 1


def test_a_killed_worker_loses_nothing_and_no_copy_is_unmarked(way, world):
    gateway, carrier, message_class = way
    _, carriers = world
    for one in carriers.values():
        one.behave(latency_ms=300, receipt_delay_ms=1500)
    numbers = [a_number() for _ in range(40)]
    answer = gateway.batch(
        [{"to": to, "text": "重启前后"} for to in numbers], **{"class": message_class}
    )
    sent: dict[str, str] = {
        entry["id"]: numbers[entry["index"]] for entry in answer.json()["accepted"]
    }
    assert len(sent) == 40
    eventually(lambda: carrier.of(*numbers, taken=False), "some are with the carrier")
    before = gateway.kill("worker-0")
    eventually(lambda: gateway.pids().get("worker-0") not in (None, before), "a new worker", 20)
    gateway.wait_ready()
    for one in carriers.values():
        one.behave(latency_ms=5, receipt_delay_ms=100)
    marked: dict[str, bool] = {}
    for message_id, number in sent.items():
        message: Json = gateway.wait_for_status(message_id, "delivered", timeout_s=30)
        marked[number[-11:]] = message["duplicate_risk"]
    copies = dict.fromkeys(marked, 0)
    for one in carriers.values():
        for row in one.of(*numbers):
            copies[row["to"]] += 1
    assert set(copies.values()) <= {1, 2}
    assert [number for number, count in copies.items() if count == 2 and not marked[number]] == []


def test_nothing_illegal_happened_in_all_of_this(world):
    gateway, _ = world
    assert gateway.metric("illegal_transition_total") == 0
    assert gateway.metric("quarantined_total") == 0
