"""The door of a whole gateway with two workers: keys, signatures, addresses, the audit log."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from store import database
from store.config import ConfigStore
from store.seal import Keyring, read_master_key
from tests.support import sign_vectors
from tests.support.gateway_process import GatewayProcess, eventually

pytestmark = pytest.mark.flow

IN_FORCE_S = 5.0  # RELIABILITY section 11
_numbers = itertools.count(31_000_000)
_names = itertools.count(1)


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    made = GatewayProcess(workers=2)
    made.env["SMSGW_TRUSTED_PROXIES"] = "127.0.0.0/8"
    with made:
        yield made


def body() -> bytes:
    message = {"to": f"+86138{next(_numbers)}", "text": "您的验证码是 482913", "class": "otp"}
    return json.dumps(message).encode()


def call(
    gateway: GatewayProcess, method: str, path: str, key: str | None, value: Any = None, **more: str
) -> httpx.Response:
    """One request over a connection of its own: whichever worker takes it."""
    headers = {"content-type": "application/json", **more}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    content = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    with httpx.Client(trust_env=False, timeout=15, verify=False) as client:
        return client.request(method, gateway.url + path, content=content, headers=headers)


def admin(gateway: GatewayProcess, method: str, path: str, value: Any = None, **more: str) -> Any:
    answer = call(gateway, method, path, gateway.sandbox["admin_key"], value, **more)
    assert answer.status_code < 300, answer.text
    return answer.json() if answer.content else None


def statuses(gateway: GatewayProcess, key: str, count: int = 24, **more: str) -> Counter[int]:
    return Counter(
        call(gateway, "POST", "/v1/messages", key, body(), **more).status_code for _ in range(count)
    )


def new_tenant(gateway: GatewayProcess, **fields: Any) -> str:
    caps = {"prefix_burst": 0}  # numbers follow one another
    name = f"door-{next(_names)}"
    fields = {"name": name, "signatures": ["某商城"], "otp_caps": caps, **fields}
    return str(admin(gateway, "POST", "/v1/tenants", fields)["id"])


def new_key(gateway: GatewayProcess, tenant: str, **fields: Any) -> dict[str, str]:
    fields = {"name": f"key-{next(_names)}", **fields}
    told: dict[str, str] = admin(gateway, "POST", f"/v1/tenants/{tenant}/api-keys", fields)
    return told


def wait_for(gateway: GatewayProcess, key: str, status: int, **more: str) -> float:
    """Seconds until every worker answers like this; the asking itself is not counted."""
    began = asked_at = time.monotonic()

    def look() -> bool:
        nonlocal asked_at
        asked_at = time.monotonic()
        return statuses(gateway, key, 24, **more) == Counter({status: 24})

    eventually(look, f"{status} everywhere")
    return asked_at - began


def newest(gateway: GatewayProcess) -> int:
    """The version of the configuration, by the last change."""
    return int(admin(gateway, "GET", "/v1/audit-events?limit=1")["data"][0]["version"])


def test_a_new_key_works_and_a_revoked_one_does_not_on_every_worker(gateway):
    assert {"worker-0", "worker-1"} <= gateway.pids().keys()
    tenant = new_tenant(gateway)
    told = new_key(gateway, tenant)
    assert wait_for(gateway, told["key"], 202) < IN_FORCE_S
    with httpx.Client(
        trust_env=False, verify=False
    ) as kept:  # a connection that stays open is no way around
        headers = {"authorization": f"Bearer {told['key']}", "content-type": "application/json"}
        url = f"{gateway.url}/v1/messages"
        assert kept.post(url, content=body(), headers=headers).status_code == 202
        admin(gateway, "DELETE", f"/v1/tenants/{tenant}/api-keys/{told['id']}")
        assert wait_for(gateway, told["key"], 401) < IN_FORCE_S
        assert kept.post(url, content=body(), headers=headers).status_code == 401
    assert statuses(gateway, gateway.sandbox["api_key"], 4) == {202: 4}


@pytest.fixture
def rotated(gateway):
    """A key and its successor, when both had been good and the overlap is over."""
    tenant = new_tenant(gateway)
    for overlap_s in (5, 15, 60):  # longer where the machine is too slow for it
        old = new_key(gateway, tenant)
        path = f"/v1/tenants/{tenant}/api-keys/{old['id']}:rotate"
        began = time.monotonic()
        new = admin(gateway, "POST", path, {"overlap_s": overlap_s})
        version = newest(gateway)
        wait_for(gateway, new["key"], 202)
        found = statuses(gateway, old["key"], 8)
        if time.monotonic() - began < overlap_s:
            assert found == {202: 8}
            time.sleep(max(0.0, began + overlap_s + 1 - time.monotonic()))
            return old, new, version
    pytest.fail("the machine is too slow for any overlap")


def test_a_rotated_key_ends_by_itself_on_every_worker(gateway, rotated):
    old, new, version = rotated
    assert statuses(gateway, old["key"]) == {401: 24}
    assert statuses(gateway, new["key"]) == {202: 24}
    assert newest(gateway) == version


def of_class(gateway: GatewayProcess, key: str, message_class: str, count: int) -> Counter[int]:
    messages = [json.loads(body()) | {"class": message_class} for _ in range(count)]
    return Counter(
        call(gateway, "POST", "/v1/messages", key, message).status_code for message in messages
    )


def test_limits_given_over_the_api_hold_on_every_worker_together(gateway):
    marketing = {"segments_per_second": 0.01, "burst_segments": 3}
    tenant = new_tenant(gateway, limits={"classes": {"marketing": marketing}})
    key = new_key(gateway, tenant)["key"]
    wait_for(gateway, key, 202)
    assert of_class(gateway, key, "marketing", 8) == {202: 3, 429: 5}
    path, star = f"/v1/tenants/{tenant}", {"if-match": "*"}
    limits = {"classes": {}, "segments_per_day": 60}
    admin(gateway, "PATCH", path, {"limits": limits}, **star)
    eventually(lambda: of_class(gateway, key, "marketing", 8) == {202: 8}, "no class limit")
    eventually(lambda: statuses(gateway, key, 8) == {429: 8}, "the day's quota is used up")
    admin(gateway, "PATCH", path, {"limits": {"segments_per_day": None}}, **star)
    assert wait_for(gateway, key, 202) < IN_FORCE_S


def signed(key_id: str, secret: str, content: bytes) -> dict[str, str]:
    stamp, nonce = int(time.time()), f"n-{next(_numbers)}-{os.getpid()}"
    _, signature = sign_vectors.sign(secret, "POST", "/v1/messages", "", content, stamp, nonce)
    return {
        "x-smsgw-key": key_id,
        "x-smsgw-timestamp": str(stamp),
        "x-smsgw-nonce": nonce,
        "x-smsgw-signature": signature,
    }


def test_a_signed_request_is_good_once_whichever_worker_gets_it(gateway):
    told = new_key(gateway, new_tenant(gateway), signing=True)
    wait_for(gateway, told["key"], 202)
    for _ in range(3):
        content = body()
        headers = signed(told["id"], told["signing_secret"], content)
        answers = [
            call(gateway, "POST", "/v1/messages", None, content, **headers) for _ in range(24)
        ]
        assert Counter(answer.status_code for answer in answers) == {202: 1, 401: 23}
        assert {a.json()["code"] for a in answers if a.status_code == 401} == {"auth.nonce_used"}


def test_without_valkey_a_replay_passes_at_most_once_in_each_worker(gateway):
    told = new_key(gateway, new_tenant(gateway), signing=True)
    wait_for(gateway, told["key"], 202)
    valkey = gateway.pids()["valkey"]
    os.kill(valkey, signal.SIGSTOP)
    try:
        # Cut off, a worker saves up its share of the tenant's rate from nothing: 429 until then.
        wait_for(gateway, told["key"], 202)
        content = body()
        headers = signed(told["id"], told["signing_secret"], content)
        answers = Counter(
            call(gateway, "POST", "/v1/messages", None, content, **headers).status_code
            for _ in range(24)
        )
    finally:
        os.kill(valkey, signal.SIGCONT)
    assert answers[401] >= 22
    assert answers[202] in (1, 2)
    assert gateway.metric("signed_requests_total", nonce="new_here") >= 1


def test_the_address_behind_a_trusted_proxy_counts(gateway):
    tenant = new_tenant(gateway, allowed_ips=["203.0.113.0/24"])
    key = new_key(gateway, tenant)["key"]
    inside = {"x-forwarded-for": "203.0.113.9"}
    wait_for(gateway, key, 202, **inside)
    for said in ("192.0.2.1", "203.0.113.9, 192.0.2.1", "203.0.113.9, unknown"):
        assert statuses(gateway, key, 6, **{"x-forwarded-for": said}) == {403: 6}, said
    assert statuses(gateway, key, 6) == {403: 6}  # the proxy itself is not on the list
    two = {"x-forwarded-for": "203.0.113.9", "x-request-id": "seen-by-the-audit"}
    admin(gateway, "POST", f"/v1/tenants/{tenant}:suspend", **two)
    row = admin(gateway, "GET", f"/v1/audit-events?object={tenant}&limit=1")["data"][0]
    assert (row["action"], row["address"], row["request_id"]) == (
        "tenant.suspended",
        "203.0.113.9",
        "seen-by-the-audit",
    )


FILE = """
tenants:
  - name: filed
    signatures: [某商城]
    api_keys: [{name: k, secret_file: filed.key%s}]
"""


def test_a_file_is_shown_before_it_is_applied_and_revokes_by_name(gateway):
    file = gateway.folder / "filed.yaml"
    file.write_text(FILE % "", "utf-8")
    version = newest(gateway)
    dry = gateway.command("apply", "--dry-run", str(file))
    assert dry.returncode == 0, dry.stderr
    assert "+ API key filed/k" in dry.stdout
    assert "nothing was changed" in dry.stdout
    assert not (gateway.folder / "filed.key").exists()
    assert newest(gateway) == version
    told = gateway.command("apply", "--json", str(file))
    events = [json.loads(line) for line in told.stdout.splitlines()]
    assert [one["event"] for one in events] == ["change", "change", "wrote", "applied"]
    key = (gateway.folder / "filed.key").read_text().strip()
    assert key not in told.stdout
    assert statuses(gateway, key, 8) == {202: 8}
    assert "unchanged" in gateway.command("apply", str(file)).stdout
    file.write_text(FILE % ", revoked: true", "utf-8")
    assert "- API key filed/k" in gateway.command("apply", str(file)).stdout
    assert statuses(gateway, key, 8) == {401: 8}  # `apply` ends when the workers go by it
    row = admin(gateway, "GET", "/v1/audit-events?limit=1")["data"][0]
    assert (row["action"], row["actor"]["kind"]) == ("api_key.revoked", "command")
    assert row["actor"]["os_user"]
    wrong = gateway.folder / "wrong.yaml"
    wrong.write_text("tenants: [{name: 5}]", "utf-8")
    refused = gateway.command("apply", "--json", str(wrong))
    assert refused.returncode == 2
    first = json.loads(refused.stdout.splitlines()[0])
    assert (first["event"], first["pointer"]) == ("complaint", "/tenants/0/name")


def test_the_chain_of_all_of_this_holds(gateway):
    async def verify() -> tuple[int, int | None]:
        keyring = Keyring(read_master_key(gateway.data_dir / "master.key"))
        pool = await database.open_pool(gateway.dsn, size=1)
        try:
            found = await ConfigStore(pool, keyring).audit.verify()
        finally:
            await pool.close()
        return found.rows, found.broken_at

    rows, broken_at = asyncio.run(verify())
    assert broken_at is None
    assert rows > 20
    checked = gateway.command("check")
    assert "audit" in checked.stdout
    assert f"{rows} rows" in checked.stdout, checked.stdout


def test_no_secret_and_no_number_stands_in_the_logs(gateway):
    text = gateway.logs()
    assert gateway.sandbox["admin_key"] not in text
    assert "smsgw_signing_" not in text
