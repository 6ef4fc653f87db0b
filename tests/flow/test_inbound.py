"""Texts from phones from a simulated carrier to the webhook, over kills; opt-outs that act."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from telemetry.failpoints import WATCH, armed_file, fired_file
from tests.support.gateway_process import GatewayProcess, Json, eventually

pytestmark = pytest.mark.flow

_numbers = itertools.count(50_000_000)
TO = "10690001"
JOIN_S = 12  # a restart is over by then
AROUND_THE_CLOCK = {"marketing_opens_h": "0", "marketing_closes_h": "24"}


def a_number() -> str:
    return f"+86138{next(_numbers)}"


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(workers=2, inbound_join_s=str(JOIN_S), **AROUND_THE_CLOCK)
    gateway.env["SMSGW_FAILPOINT"] = WATCH
    with gateway:
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess) -> GatewayProcess:
    running.calm()
    eventually(running.all_links_up, "every channel has its sessions", 20)
    return running


def inbound(gateway: GatewayProcess, number: str) -> list[Json]:
    """What is listed of a phone; a worker that was killed takes its connections with it."""
    try:
        answer = gateway.request("GET", "/v1/inbound-messages?limit=1000")
    except httpx.TransportError:
        return []
    assert answer.status_code == 200, answer.text
    return [one for one in answer.json()["data"] if one["from"] == number]


def received(gateway: GatewayProcess, number: str, timeout_s: float = 10.0) -> Json:
    found = eventually(lambda: inbound(gateway, number), f"a text of {number}", timeout_s)
    assert found is not None
    assert len(found) == 1
    return found[0]


def events_of(gateway: GatewayProcess, text: Json) -> list[Json]:
    return gateway.sink.events(str(text["id"]))


def kinds(gateway: GatewayProcess, text: Json) -> set[str]:
    return {str(event["type"]) for event in events_of(gateway, text)}


def carrier_of(gateway: GatewayProcess) -> str:
    return next(iter(gateway.carriers))


def phone(gateway: GatewayProcess, number: str, text: str, **more: object) -> int:
    # SMPP alone has fields for these forms
    name = "global-a" if more.get("long") in ("sar", "payload") else carrier_of(gateway)
    return gateway.carriers[name].phone(sender=number, to=TO, text=text, **more)


def accept_anywhere(gateway: GatewayProcess, number: str) -> str:
    """Marketing over a connection of its own: either process may take it."""
    body = {"to": number, "text": "促销", "class": "marketing"}
    headers = {"Authorization": f"Bearer {gateway.sandbox['api_key']}"}
    answer = httpx.post(f"{gateway.url}/v1/messages", json=body, headers=headers, trust_env=False)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_a_text_comes_by_webhook_and_by_pull(gateway: GatewayProcess) -> None:
    number = a_number()
    sent = gateway.accept(to=number, text="您好", client_ref=f"ref-{number}")
    gateway.wait_for_status(sent, "delivered")
    phone(gateway, number, "好的，谢谢 👍")
    text = received(gateway, number)
    assert (text["text"], text["to"], text["segments"]) == ("好的，谢谢 👍", TO, 1)
    assert text["probable_parent"] == sent
    eventually(lambda: events_of(gateway, text), "its webhook")
    [event] = events_of(gateway, text)
    assert event["type"] == "inbound.received"
    assert event["data"]["text"] == "好的，谢谢 👍"
    assert event["data"]["from"] == f"{number[:6]}****{number[-4:]}"
    assert gateway.sink.counts()["bad_signatures"] == 0

    def pulled() -> Json | None:
        cursor = ""
        found: Json | None = None
        while found is None:
            after = f"&after={cursor}" if cursor else ""
            page = gateway.request("GET", f"/v1/events?limit=1000{after}").json()
            found = next((e for e in page["data"] if e["id"] == event["id"]), None)
            if not page["data"]:
                return None
            cursor = page["next_cursor"]
        return found

    assert eventually(pulled, "its event in the pull", 15) == event


def test_what_an_endpoint_does_not_take_comes_again_from_the_store(gateway: GatewayProcess) -> None:
    """Whoever begins after the kill has no word of it in memory."""
    gateway.sink.behave(fail_share=1)
    number = a_number()
    phone(gateway, number, "退订")
    text = received(gateway, number)
    for name in ("worker-0", "worker-1"):
        gateway.kill(name)
    gateway.sink.behave(fail_share=0)
    eventually(lambda: len(kinds(gateway, text)) == 2, "both of its webhooks", 40)
    events = events_of(gateway, text)
    assert all(event["data"]["text"] == "退订" for event in events)
    assert kinds(gateway, text) == {"inbound.received", "recipient.opted_out"}


@pytest.mark.parametrize("form", ["udh8", "udh16", "sar", "payload"])
def test_a_long_text_is_one_whatever_the_carrier_makes_of_it(
    gateway: GatewayProcess, form: str
) -> None:
    number, words = a_number(), "长短信😀" * 38
    phone(gateway, number, words, long=form, reference=9, only=[3, 1, 3, 2])
    text = received(gateway, number)
    assert text["text"] == words
    assert text["incomplete"] is False
    assert text["segments"] == (1 if form == "payload" else 3)


def test_a_long_text_is_joined_over_carrier_sessions_and_a_restart(gateway: GatewayProcess) -> None:
    number, words = a_number(), "上行" * 60
    phone(gateway, number, words, reference=3, only=[1])
    eventually(lambda: gateway.metric("inbound_joins") >= 1, "the first segment waits", 10)
    for name in ("worker-0", "worker-1"):
        gateway.kill(name)
    phone(gateway, number, words, reference=3, only=[2])
    text = received(gateway, number, 30)
    assert (text["text"], text["incomplete"]) == (words, False)


def test_what_never_becomes_whole_is_told_after_its_time(gateway: GatewayProcess) -> None:
    number, words = a_number(), "上行" * 60
    phone(gateway, number, words, reference=4, only=[2])
    text = received(gateway, number, JOIN_S + 10)
    assert (text["incomplete"], text["missing_segments"], text["segments"]) == (True, 1, 2)
    assert text["text"] == "[…]" + words[67:]
    eventually(lambda: events_of(gateway, text), "its webhook")


@pytest.mark.parametrize("point", ["inbound.before_commit", "inbound.committed"])
def test_a_kill_before_the_answer_keeps_and_tells_it_once(
    gateway: GatewayProcess, point: str
) -> None:
    """The carrier sends it again over whatever session comes next."""
    number = a_number()
    folder = gateway.data_dir / "failpoints"
    spec = f"{point}=kill#flow-{next(_numbers)}"
    (folder / "armed.new").write_text(spec, "utf-8")
    (folder / "armed.new").replace(armed_file(folder))
    time.sleep(0.3)  # both workers have looked
    try:
        phone(gateway, number, "收到")
        eventually(lambda: fired_file(folder, spec).exists(), "a worker is killed", 15)
    finally:
        armed_file(folder).unlink()
    text = received(gateway, number, 30)
    eventually(lambda: events_of(gateway, text), "its webhook", 30)
    carrier = gateway.carriers[carrier_of(gateway)]
    eventually(
        lambda: carrier.counts()["reports_waiting"] == 0, "the carrier has all its answers", 40
    )
    time.sleep(1.0)
    assert len(inbound(gateway, number) or inbound(gateway, number)) == 1
    assert len({event["id"] for event in events_of(gateway, text)}) == 1


def test_an_opt_out_stops_what_is_queued_and_what_is_scheduled(gateway: GatewayProcess) -> None:
    number = a_number()
    for carrier in gateway.carriers.values():
        carrier.behave(throttle_share=1)  # links are up, and everything stays queued
    queued = [accept_anywhere(gateway, number) for _ in range(8)]  # in both processes
    later = (datetime.now(UTC) + timedelta(seconds=12)).isoformat()
    scheduled = gateway.accept(to=number, text="促销", send_at=later, **{"class": "marketing"})
    other = gateway.accept(to=a_number(), text="促销", **{"class": "marketing"})
    code = gateway.accept(to=number, text="您的验证码是 1234", **{"class": "otp"})
    waits = {"accepted", "queued", "submitting"}
    assert {gateway.status(one)["status"] for one in queued} <= waits
    phone(gateway, number, " ｔｄ ")
    text = received(gateway, number)
    began = time.monotonic()
    for one in queued:
        told = gateway.wait_for_status(one, "rejected", timeout_s=10)
        assert told["reason"] == "policy.opted_out"
    assert time.monotonic() - began < 5
    assert text["opted_out"] is True
    eventually(lambda: len(events_of(gateway, text)) >= 2, "both of its webhooks")
    [opted_out] = [e for e in events_of(gateway, text) if e["type"] == "recipient.opted_out"]
    assert opted_out["data"]["classes"] == ["marketing"]
    refused = gateway.send(to=number, text="促销", **{"class": "marketing"})
    assert (refused.status_code, refused.json()["code"]) == (422, "policy.opted_out")
    gateway.calm()
    ended = gateway.wait_for_status(scheduled, "rejected", timeout_s=30)
    assert ended["reason"] == "policy.opted_out"
    gateway.wait_for_status(other, "delivered", timeout_s=30)
    gateway.wait_for_status(code, "delivered", timeout_s=30)


# What each protocol answers where there is no such number.
NO_SUCH_NUMBER = {"smpp": 0x0B, "cmpp2": 13, "cmpp3": 13, "sgip": 29, "smgp": 47}


def test_a_number_that_does_not_exist_gets_no_more_texts_but_codes(gateway: GatewayProcess) -> None:
    """RELIABILITY 6: permanent ones to suppression."""
    number = a_number()
    preview = {"to": number, "text": "您好"}
    channel = gateway.request("POST", "/v1/messages:preview", preview).json()["channel"]
    protocols = {one["name"]: one["protocol"] for one in gateway.sandbox["carriers"]}
    status = NO_SUCH_NUMBER[protocols[channel]]
    gateway.carriers[channel].behave(failure_share=1, failure_status=status)
    told = gateway.wait_for_status(gateway.accept(**preview), "failed")
    assert (told["reason"], told["channel"]) == ("recipient.invalid", channel)
    gateway.calm()

    def refused() -> bool:
        answer = gateway.send(**preview)
        return answer.status_code == 422 and answer.json()["code"] == "recipient.invalid"

    eventually(refused, "the number is suppressed", 5)
    code = gateway.accept(to=number, text="您的验证码是 1234", **{"class": "otp"})
    gateway.wait_for_status(code, "delivered")
    [entry] = [
        one
        for one in gateway.request("GET", "/v1/suppressions?limit=1000").json()["data"]
        if one["to"] == number
    ]
    assert (entry["reason"], entry["classes"]) == ("invalid", ["transactional", "marketing"])
