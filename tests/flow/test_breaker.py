"""A carrier that keeps its link and says nothing: its messages go another way, and come back.
And one that is tried by a canary: taken back when it delivers less, else the route's.

The numbers of RELIABILITY sections 7 and 8 are scaled down; how they scale up is simulated
(tests/unit/failover).
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.gateway_process import GatewayProcess, eventually

pytestmark = pytest.mark.flow

PRIMARY = "mobile-a"
_numbers = itertools.count(30_000_000)


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    with GatewayProcess(
        submit_timeout_s="3",
        submit_timeout_otp_s="3",
        uncertain_slot_s="1",
        retry_least="100",  # what hung is more than the budget of a minute
        health_no_answer_s="2",
        health_open_s="1",
        health_ramp="0.5,1",
        health_ramp_step_s="2",
        canary_check_s="0.3",
        canary_flush_s="0.1",
        canary_step_s="1",
        canary_step_finals="100",
        canary_delivery_lower="0.05",
        canary_answer_floor_s="10",  # what the machine takes says nothing of a carrier
    ) as gateway:
        yield gateway


def send(gateway: GatewayProcess, message_class: str, count: int) -> dict[str, str]:
    """Messages to China Mobile; their ids by number."""
    numbers = [f"+86138{next(_numbers)}" for _ in range(count)]
    messages = [{"to": number, "text": "您好"} for number in numbers]
    told = gateway.batch(messages, **{"class": message_class})
    assert told.status_code == 202, told.text
    return {numbers[one["index"]]: one["id"] for one in told.json()["accepted"]}


def state(gateway: GatewayProcess, name: str) -> bool:
    return gateway.metric("channel_state", channel=PRIMARY, state=name) == 1


def test_a_carrier_that_hangs_is_left_and_come_back_to_on_a_ramp(gateway: GatewayProcess) -> None:
    primary = gateway.carriers[PRIMARY]
    primary.behave(silent=True)
    sent = send(gateway, "otp", 20) | send(gateway, "transactional", 60)
    eventually(lambda: not state(gateway, "up") or state(gateway, "open"), "it is left", 10)
    assert state(gateway, "up")  # its link is
    before = {row["to"] for row in primary.submits(taken=False)}
    later = send(gateway, "otp", 10)
    for message_id in later.values():
        told = gateway.wait_for_status(message_id, "delivered", timeout_s=10)
        assert (told["channel"] != PRIMARY, told["duplicate_risk"]) == (True, False)
        [turned] = [step for step in gateway.timeline(message_id) if step["step"] == "failover"]
        assert (turned["code"], turned["channel"]) == ("no_answer", told["channel"])
    for message_id in sent.values():
        gateway.wait_for_status(message_id, "delivered")
    assert gateway.metric("failover_total", cause="no_answer", **{"from": PRIMARY}) >= 10
    assert gateway.log_lines("worker-0", "channel degraded")

    # Once each but those that it took and did not answer: a marked copy of them went elsewhere.
    copies = Counter(row["to"] for row in gateway.submits_of(*sent, *later, taken=False))
    assert set(copies) == {number.lstrip("+") for number in sent | later}
    for number, message_id in (sent | later).items():
        is_twice = copies[number.lstrip("+")] == 2
        assert copies[number.lstrip("+")] <= 2
        assert gateway.status(message_id)["duplicate_risk"] is is_twice
        assert is_twice is (number.lstrip("+") in before)

    primary.behave(silent=False)
    back: dict[str, str] = {}
    end = time.monotonic() + 30
    while not (back and state(gateway, "ramp")):
        assert time.monotonic() < end, "it did not come back"
        back |= send(gateway, "transactional", 2)
        time.sleep(0.1)
    climbing = send(gateway, "transactional", 40)
    eventually(
        lambda: not any(state(gateway, name) for name in ("open", "half_open", "ramp")),
        "it takes everything again",
        15,
    )
    whole = send(gateway, "transactional", 20)
    for message_id in (back | climbing | whole).values():
        gateway.wait_for_status(message_id, "delivered")
    assert any(
        "it takes 50%" in line for line in gateway.log_lines("worker-0", "channel comes back")
    )
    assert PRIMARY in {gateway.status(one)["channel"] for one in climbing.values()}
    assert {gateway.status(one)["channel"] for one in whole.values()} == {PRIMARY}
    again = Counter(row["to"] for row in gateway.submits_of(*back, *climbing, *whole, taken=False))
    assert set(again.values()) == {1}

    # Its tenant was told, once each: what its own process found out, and that it is over.
    def kinds() -> list[str]:
        found = gateway.request("GET", "/v1/events?limit=1000").json()["data"]
        news = [one for one in found if one["type"].startswith("channel.")]
        about = [one for one in news if one["data"]["name"] == PRIMARY]
        assert {one["data"]["cause"] for one in about if not one["data"]["carrier"]} <= {
            "no_answer"
        }
        return [one["type"] for one in about if not one["data"]["carrier"]]

    eventually(lambda: len(kinds()) == 2, "its tenant knows", 10)
    assert kinds() == ["channel.degraded", "channel.recovered"]


def test_with_every_carrier_away_all_is_held_and_goes_out_by_class(
    gateway: GatewayProcess,
) -> None:
    for carrier in gateway.carriers.values():
        carrier.behave(link="down")
    eventually(
        lambda: (
            not any(
                gateway.metric("channel_state", channel=name, state="up")
                for name in gateway.carriers
            )
        ),
        "all links are down",
    )
    classes = ("marketing", "transactional", "otp")
    sent = {name: send(gateway, name, 30) for name in classes}
    held = [status(gateway, sent[name]) for name in classes]
    assert held == [{"queued"}] * 3
    for carrier in gateway.carriers.values():
        carrier.behave(link="up")
    for messages in sent.values():
        for message_id in messages.values():
            gateway.wait_for_status(message_id, "delivered")
    rank = {
        number.lstrip("+"): classes[::-1].index(name)
        for name, messages in sent.items()
        for number in messages
    }
    rows = gateway.submits_of(*rank, taken=False)
    assert Counter(row["to"] for row in rows) == dict.fromkeys(rank, 1)
    for name in gateway.carriers:
        order = [rank[row["to"]] for row in rows if row["carrier"] == name]
        assert order == sorted(order)


def status(gateway: GatewayProcess, sent: dict[str, str]) -> set[str]:
    return {gateway.status(one)["status"] for one in sent.values()}


CANDIDATE = "telecom-a"


def begin_canary(gateway: GatewayProcess, name: str) -> str:
    """The candidate for half of China Mobile's numbers; where it stands."""
    wanted = {"name": name, "route": "*/*/*/*", "channel": CANDIDATE, "steps": [50, 100]}
    told = gateway.request("POST", "/v1/canaries", wanted, key=gateway.sandbox["admin_key"])
    assert told.status_code == 201, told.text
    return str(told.headers["location"])


def ended(gateway: GatewayProcess, canary: str, *, kills: bool = False) -> dict[str, Any]:
    """Send until it is over; `kills`: after the first batch the worker, its judge with it."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            for message_id in list(send(gateway, "transactional", 100).values())[-1:]:
                gateway.wait_for_status(message_id, "delivered", "undelivered")
            found = gateway.request("GET", canary, key=gateway.sandbox["admin_key"]).json()
        except httpx.TransportError:  # it is just killed
            gateway.wait_ready()
            continue
        if found["state"] != "running":
            return dict(found)
        if kills:
            gateway.kill("worker-0")
            gateway.wait_ready()
            kills = False
    pytest.fail("the canary did not end")


def test_a_canary_that_delivers_less_is_taken_back_and_a_good_one_is_the_route(
    gateway: GatewayProcess,
) -> None:
    gateway.carriers[CANDIDATE].behave(undelivered_share=0.3)
    worse = ended(gateway, begin_canary(gateway, "worse"))
    assert (worse["state"], worse["share"]) == ("rolled_back", 0)
    assert worse["last_gate"]["bad_in_a_row"] == 2
    assert "delivered" in worse["reason"]
    assert gateway.metric("canary_rollbacks_total") == 1
    assert gateway.log_lines("worker-0", "canary rolled back")
    eventually(lambda: not gateway.metric("canary_share"), "its share is gone", 10)
    after = send(gateway, "transactional", 50)
    for message_id in after.values():
        assert gateway.wait_for_status(message_id, "delivered")["channel"] == PRIMARY

    gateway.carriers[CANDIDATE].behave(undelivered_share=0)
    good = ended(gateway, begin_canary(gateway, "good"), kills=True)
    assert (good["state"], good["share"]) == ("promoted", 100)
    assert len(gateway.log_lines("worker-0", "recovered")) == 2
    routes = gateway.request("GET", "/v1/routes", key=gateway.sandbox["admin_key"]).json()["data"]
    [route] = [one for one in routes if one["id"] == good["route_id"]]
    assert route["channels"] == good["channels"]
    assert (good["channels"][:2], good["baseline"]) == ([CANDIDATE, PRIMARY], PRIMARY)
    eventually(lambda: not gateway.metric("canary_share"), "it is over everywhere", 10)
    later = send(gateway, "transactional", 50)
    assert {gateway.wait_for_status(one, "delivered")["channel"] for one in later.values()} == {
        CANDIDATE
    }
