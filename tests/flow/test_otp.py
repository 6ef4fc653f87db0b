"""The guard against pumping in a whole gateway: killed behind its count, and without Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator

import httpx
import pytest
import redis.asyncio

from gateway.worker import FAILPOINT_LOOK_S
from ratelimit.otp_guard import PREFIX
from store.embedded import endpoints_of, existing_run_directory
from telemetry.failpoints import WATCH, armed_file, fired_file
from tests.support.gateway_process import GatewayProcess, eventually

pytestmark = pytest.mark.flow

CAP = (429, "policy.frequency_cap")
_numbers = itertools.count(71_000_000)


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(workers=2, valkey_timeout_s="0.1")
    gateway.env["SMSGW_FAILPOINT"] = WATCH
    with gateway:
        eventually(gateway.all_links_up, "the links")
        yield gateway


def number() -> str:
    return f"+86138{next(_numbers)}"


def code(
    gateway: GatewayProcess, to: str, key: str | None = None, path: str = "/v1/messages"
) -> httpx.Response:
    """Ask for a code, over a connection of its own: either worker may get it."""
    body: dict[str, object] = {"to": to, "text": "您的验证码是 482915", "class": "otp"}
    if path == "/v1/batches":
        body = {"messages": [body]}
    headers = dict(gateway._headers) | ({"Idempotency-Key": f'"{key}"'} if key else {})
    with httpx.Client(trust_env=False, timeout=15) as client:
        return client.post(gateway.url + path, json=body, headers=headers)


def said(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


def waits(gateway: GatewayProcess, to: str) -> list[str]:
    """What preview would refuse it for."""
    body = {"to": to, "text": "您的验证码是 482915", "class": "otp"}
    with httpx.Client(trust_env=False, timeout=15, headers=dict(gateway._headers)) as client:
        told = client.post(f"{gateway.url}/v1/messages:preview", json=body).json()
    return [one["code"] for one in told["refusals"]]


def kill_at_the_count(gateway: GatewayProcess, to: str, key: str | None, path: str) -> None:
    """Ask once; the worker that got it dies behind the count."""
    spec = f"otp.counted=kill#{next(_numbers)}"
    folder = gateway.data_dir / "failpoints"
    (folder / "armed.new").write_text(spec, "utf-8")
    (folder / "armed.new").replace(armed_file(folder))
    time.sleep(4 * FAILPOINT_LOOK_S)  # both workers have looked
    with pytest.raises(httpx.TransportError):
        code(gateway, to, key, path)
    eventually(fired_file(folder, spec).exists, "it was that place")
    armed_file(folder).unlink()


def answered(gateway: GatewayProcess, to: str, key: str | None, path: str) -> httpx.Response:
    """The first answer; a worker that is not there yet gives none."""

    def ask() -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            return code(gateway, to, key, path)
        return None

    found = eventually(ask, "an answer")
    assert found is not None
    return found


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/batches"])
def test_killed_behind_the_count_the_retry_is_sent_once(gateway, path):
    to, key = number(), f"killed{path}"
    kill_at_the_count(gateway, to, key, path)
    first = answered(gateway, to, key, path)
    assert first.status_code == 202  # the same request: it is counted already
    assert "idempotent-replayed" not in first.headers  # of which nothing was stored
    again = answered(gateway, to, key, path)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert said(code(gateway, to)) == CAP
    told = first.json()
    message_id = told["id"] if path == "/v1/messages" else told["accepted"][0]["id"]
    gateway.wait_for_status(message_id, "delivered")
    assert len(gateway.submits_of(to)) == 1
    gateway.wait_ready()


def test_killed_behind_the_count_without_a_key_it_ends_by_itself(gateway):
    to = number()
    began = time.monotonic()
    kill_at_the_count(gateway, to, None, "/v1/messages")
    refused = answered(gateway, to, None, "/v1/messages")
    assert said(refused) == CAP
    past_s = time.monotonic() - began
    assert 59 - past_s <= int(refused.headers["retry-after"]) <= 60  # not the hour's, nor the day's
    assert gateway.submits_of(to) == []
    assert said(answered(gateway, number(), None, "/v1/messages")) == (202, None)
    gateway.wait_ready()

    async def lives_ms() -> list[int]:
        run_dir = existing_run_directory(gateway.data_dir)
        assert run_dir is not None
        client = redis.asyncio.Redis.from_url(endpoints_of(run_dir).redis_url)
        keys = await client.keys(PREFIX.replace("{", "\\{") + "*")
        lives = [await client.pttl(key) for key in keys]
        await client.aclose()
        return lives

    found = asyncio.run(lives_ms())
    assert found
    assert all(0 < life_ms <= 86_400_000 for life_ms in found)


def test_without_valkey_codes_go_out_and_each_worker_counts_for_itself(gateway):
    before = number()
    assert said(code(gateway, before)) == (202, None)
    failed = gateway.metric("limit_calls_total", outcome="failed")
    valkey = gateway.pids()["valkey"]
    os.kill(valkey, signal.SIGSTOP)  # killed, it would be back before anybody noticed
    try:
        found, longest_s = [], 0.0
        for _ in range(12):
            began = time.monotonic()
            answer = code(gateway, number())
            longest_s = max(longest_s, time.monotonic() - began)
            found.append(said(answer))
        once_more = [said(code(gateway, before)) for _ in range(12)]
        assert gateway.metric("limit_calls_total", outcome="failed") > failed
    finally:
        os.kill(valkey, signal.SIGCONT)
    assert (202, None) in found
    # a tenant's limit has Valkey too; what this guard refuses would say so
    assert CAP not in found
    assert longest_s < 10  # some 0.1 s for each question, and what a busy machine adds
    assert [one for one in once_more if one[0] == 202] in ([], [(202, None)])
    assert CAP in once_more

    def is_known_to_both() -> bool:
        """Whoever answers: it was counted by one of them only."""
        fresh = number()
        return code(gateway, fresh).status_code == 202 and all(
            waits(gateway, fresh) == ["policy.frequency_cap"] for _ in range(8)
        )

    eventually(is_known_to_both, "counted together")


def test_the_sandbox_sends_one_code_a_minute_to_a_number(gateway):
    """What the README says of its own example."""
    to = number()
    assert said(code(gateway, to)) == (202, None)
    refused = code(gateway, to)
    assert said(refused) == CAP
    assert " s." in refused.json()["detail"]
    assert gateway.send(to=to, text="您的包裹已到").status_code == 202
