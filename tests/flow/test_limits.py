"""Two workers, one limit: what a tenant may send does not depend on where it knocks."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml

from tests.support.gateway_process import GatewayProcess, eventually

pytestmark = pytest.mark.flow

TENANTS = """
tenants:
  - name: slow
    signatures: [慢]
    limits: {segments_per_second: 5, burst_segments: 20}
    api_keys: [{name: k, secret_file: slow.key}]
  - name: fast
    signatures: [快]
    limits: {segments_per_second: 2000, burst_segments: 2000}
    api_keys: [{name: k, secret_file: fast.key}]
  - name: careful
    signatures: [慎]
    limits:
      segments_per_second: 1000
      segments_per_day: 40
      classes: {marketing: {segments_per_second: 0.1, burst_segments: 3}}
    api_keys: [{name: k, secret_file: careful.key}]
"""
_numbers = itertools.count(50_000_000)


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    with GatewayProcess(workers=2, valkey_timeout_s="0.1") as gateway:
        gateway.apply(TENANTS)
        yield gateway


def key(gateway: GatewayProcess, tenant: str) -> str:
    return (gateway.folder / f"{tenant}.key").read_text("utf-8").strip()


def post(gateway: GatewayProcess, tenant: str, **fields: object) -> httpx.Response:
    """One message over a connection of its own: either worker may get it."""
    body = {"to": f"+86137{next(_numbers)}", "text": "限", **fields}
    headers = {"Authorization": f"Bearer {key(gateway, tenant)}"}
    with httpx.Client(trust_env=False, timeout=15) as client:
        return client.post(f"{gateway.url}/v1/messages", json=body, headers=headers)


def post_many(gateway: GatewayProcess, tenant: str, count: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: post(gateway, tenant), range(count)))


def codes(answers: list[httpx.Response]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


def left_of(answer: httpx.Response) -> int:
    found = re.match(r'"segments";r=(\d+);t=\d+', answer.headers["ratelimit"])
    assert found is not None, answer.headers
    return int(found[1])


def test_two_workers_keep_one_rate_together(gateway):
    began = time.monotonic()
    answers = post_many(gateway, "slow", 80)
    accepted = codes(answers).count(202)
    assert 20 <= accepted <= 20 + 5 * (time.monotonic() - began) + 1
    assert set(codes(answers)) == {202, 429}
    for answer in answers:
        assert answer.headers["ratelimit-policy"] == '"segments";q=20;w=4'
        if answer.status_code == 429:
            assert answer.json()["code"] == "quota.segments_per_second"
            assert answer.headers["retry-after"] == "1"
            assert left_of(answer) <= 1
    time.sleep(1.1)
    assert codes(post_many(gateway, "slow", 4)) == [202] * 4
    assert gateway.metric("throttled_total", tenant="slow", scope="tenant") == 80 - accepted


def test_a_whole_bucket_fits_into_one_batch_whoever_gets_it(gateway):
    time.sleep(4.5)  # full again
    headers = {"Authorization": f"Bearer {key(gateway, 'slow')}"}
    messages = [{"to": f"+86137{next(_numbers)}", "text": "限"} for _ in range(20)]
    with httpx.Client(trust_env=False, timeout=15, headers=headers) as client:
        url = f"{gateway.url}/v1/batches"
        assert client.post(url, json={"messages": messages}).status_code == 202
        refused = client.post(url, json={"messages": messages})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "4")
        too_large = client.post(url, json={"messages": [*messages, messages[0]]})
        assert (too_large.status_code, too_large.json()["code"]) == (
            422,
            "quota.message_too_large",
        )


def test_a_large_limit_costs_no_call_per_message(gateway):
    began, before = time.monotonic(), gateway.metric("limit_calls_total")
    answers = post_many(gateway, "fast", 400)
    assert codes(answers) == [202] * 400
    assert left_of(answers[-1]) >= 1600
    calls = gateway.metric("limit_calls_total") - before
    # by time, not by message: of two workers, for the tenant and the channels together
    assert calls < 2 * 12 * (time.monotonic() - began) + 20


def test_a_daily_quota_holds_over_both_workers_to_the_last_segment(gateway):
    answers = post_many(gateway, "careful", 60)
    assert codes(answers) == [202] * 40 + [429] * 20
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "quota.segments_per_day"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert '"day";q=40;w=86400' in refused.headers["ratelimit-policy"]
    assert '"day";r=0;t=' in refused.headers["ratelimit"]
    assert gateway.metric("throttled_total", tenant="careful", scope="day") == 20


def test_a_class_has_its_own_limit(gateway):
    gateway.apply(TENANTS.replace("segments_per_day: 40", "segments_per_day: 4000"))
    eventually(lambda: post(gateway, "careful").status_code == 202, "the new quota is in force")
    answers = [post(gateway, "careful", **{"class": "marketing"}) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429, 429]
    assert "class marketing" in answers[-1].json()["detail"]
    assert '"marketing";r=0;t=30' in answers[-1].headers["ratelimit"]
    assert post(gateway, "careful").status_code == 202


def test_a_channel_settles_near_what_its_carrier_takes_and_recovers(gateway):
    """Two processes, configured for 160 segments a second, over a carrier that takes 100."""
    name = list(gateway.carriers)[-1]
    carrier = gateway.carriers[name]
    applied = yaml.safe_load((gateway.data_dir / "sandbox.yaml").read_text("utf-8"))
    [channel] = [one for one in applied["channels"] if one["name"] == name]
    route = {"tenant": "fast", "class": "*", "carrier": "*", "channels": [name]}
    slower = {"channels": [channel | {"segments_per_second": 160}], "routes": [route]}
    file = gateway.data_dir / "slower.yaml"  # secrets stand beside the first one
    file.write_text(yaml.safe_dump(slower), "utf-8")
    done = gateway.command("apply", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    carrier.behave(takes_per_s=100)
    numbers = [f"+86137{next(_numbers)}" for _ in range(800)]

    def batch(start: int) -> httpx.Response:
        messages = [{"to": to, "text": "限"} for to in numbers[start : start + 100]]
        headers = {"Authorization": f"Bearer {key(gateway, 'fast')}"}
        with httpx.Client(trust_env=False, timeout=15, headers=headers) as client:
            return client.post(f"{gateway.url}/v1/batches", json={"messages": messages})

    assert {batch(start).status_code for start in range(0, 800, 100)} == {202}
    eventually(lambda: gateway.metric("channel_pace", channel=name) > 0, "it is throttled", 10)
    time.sleep(1.0)
    began, before = time.monotonic(), carrier.counts()
    time.sleep(3.0)
    took_s, after = time.monotonic() - began, carrier.counts()
    taken = (after["accepted"] - before["accepted"]) / took_s
    throttled = (after["throttled"] - before["throttled"]) / took_s
    print(f"taken {taken:.0f}/s, throttled {throttled:.0f}/s of 100/s")
    assert 60 <= taken <= 110
    assert throttled <= 60  # nothing of what is configured beyond it, and more would be a storm
    carrier.behave(takes_per_s=0)
    eventually(
        lambda: len(carrier.submits()) >= 800 and gateway.metric("channel_pace", channel=name) == 0,
        "all are taken, and the whole rate is back",
        30,
    )
    taken_numbers = sorted(row["to"] for row in carrier.submits())
    assert taken_numbers == sorted(number.lstrip("+") for number in numbers)
    eventually(
        lambda: gateway.metric("final_total", status="delivered", channel=name) == 800,
        "each is delivered",
        15,
    )


def test_a_code_does_not_wait_for_a_carrier_that_throttles_everything(gateway):
    """RELIABILITY 6: to a backup when it would wait longer than a second."""
    code = {"to": f"+86137{next(_numbers)}", "text": "您的验证码是 1234", "class": "otp"}
    primary = gateway.request("POST", "/v1/messages:preview", code).json()["channel"]
    gateway.carriers[primary].behave(throttle_share=1)
    try:
        told = gateway.wait_for_status(gateway.accept(**code), "delivered", timeout_s=10)
    finally:
        gateway.calm()
    assert told["channel"] != primary
    assert told["duplicate_risk"] is False
    assert len(gateway.submits_of(code["to"])) == 1
    assert gateway.metric("failover_total", cause="throttled", **{"from": primary}) == 1


def test_without_valkey_sending_goes_on_and_the_limits_come_back_with_it(gateway):
    assert gateway.metric("limits_local") == 0
    failed = gateway.metric("limit_calls_total", outcome="failed")
    valkey = gateway.pids()["valkey"]
    os.kill(valkey, signal.SIGSTOP)  # killed, it would be back before anybody noticed
    answers: list[httpx.Response] = []

    def is_missed() -> bool:  # a lease is good for a second: until then nobody asks
        answers.extend(post_many(gateway, "fast", 50))
        return bool(gateway.metric("limit_calls_total", outcome="failed") > failed)

    try:
        eventually(is_missed, "a question without an answer")
    finally:
        os.kill(valkey, signal.SIGCONT)
    assert set(codes(answers)) <= {202, 429}
    assert codes(answers).count(202) > 10
    eventually(lambda: gateway.metric("limits_local") == 0, "shared limits again")
    post_many(gateway, "slow", 60)
    began = time.monotonic()
    again = codes(post_many(gateway, "slow", 20)).count(202)
    assert again <= 8 + 5 * (time.monotonic() - began)
