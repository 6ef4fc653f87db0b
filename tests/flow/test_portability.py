"""A ported number goes to its new carrier's channel: two workers, a file, a kill."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.gateway_process import GatewayProcess, eventually

pytestmark = pytest.mark.flow

PATH = "/v1/ported-numbers"
_numbers = itertools.count(50_000_000)
# 138 is China Mobile's: mobile-a; China Unicom has unicom-a, all else telecom-a.
ROUTES = """\
routes:
  - {tenant: "*", class: "*", carrier: CM, channels: [mobile-a]}
  - {tenant: "*", class: "*", carrier: CU, channels: [unicom-a]}
  - {tenant: "*", class: "*", carrier: CT, channels: [telecom-a]}
"""


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    with GatewayProcess(workers=2) as gateway:
        gateway.apply(ROUTES)
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess) -> GatewayProcess:
    running.calm()
    eventually(running.all_links_up, "every channel has its sessions")
    return running


def a_number() -> str:
    return f"+86138{next(_numbers)}"


def send(gateway: GatewayProcess, number: str) -> str:
    """Over a connection of its own, so that any worker may take it; its channel."""
    with httpx.Client(trust_env=False, timeout=15) as client:
        answer = client.post(
            f"{gateway.url}/v1/messages",
            json={"to": number, "text": "携号转网"},
            headers=gateway._headers,
        )
    assert answer.status_code == 202, answer.text
    return str(gateway.wait_for_status(answer.json()["id"], "delivered")["channel"])


def change(gateway: GatewayProcess, number: str, carrier: str | None) -> None:
    key = (gateway.data_dir / "sandbox" / "admin.key").read_text("utf-8").strip()
    answer = httpx.post(
        f"{gateway.url}{PATH}",
        json={"numbers": [{"to": number, "carrier": carrier}]},
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text


def channels_of(gateway: GatewayProcess, number: str, count: int = 8) -> set[str]:
    return {send(gateway, number) for _ in range(count)}


def test_an_override_chooses_the_channel_on_both_workers_within_five_seconds(gateway):
    number = a_number()
    assert channels_of(gateway, number) == {"mobile-a"}
    changed = time.monotonic()
    change(gateway, number, "CU")
    time.sleep(max(0.0, changed + 4.5 - time.monotonic()))  # 5 s are promised
    assert channels_of(gateway, number) == {"unicom-a"}
    preview = gateway.request("POST", "/v1/messages:preview", {"to": number, "text": "携号转网"})
    assert preview.json()["channel"] == "unicom-a"
    assert gateway.metric("ported_numbers") >= 1
    change(gateway, number, None)
    time.sleep(4.5)
    assert channels_of(gateway, number) == {"mobile-a"}


def test_a_worker_that_was_killed_knows_it_before_it_accepts_again(gateway):
    number = a_number()
    change(gateway, number, "CT")
    for name in ("worker-0", "worker-1"):
        gateway.kill(name)
    gateway.wait_ready()
    eventually(gateway.all_links_up, "every channel has its sessions")
    assert channels_of(gateway, number) == {"telecom-a"}


def test_a_file_is_loaded_checked_and_in_force(gateway, tmp_path: Path):
    number, other = a_number(), a_number()
    change(gateway, other, "CT")
    path = tmp_path / "ported.csv"
    many = "".join(f"137{n:08},CT\n" for n in range(25_000))
    path.write_text(f"number,carrier\n{number},CU\n{other},\nno number,CU\n{many}", "utf-8")
    refused = gateway.command("portability", "load", str(path))
    assert refused.returncode == 2
    assert f"{path}:4: " in refused.stderr
    assert "nothing was loaded" in refused.stderr
    loaded = gateway.command("portability", "load", str(path), "--skip-bad")
    assert loaded.returncode == 0, loaded.stderr
    assert "25,001 numbers have a new carrier, 1 have their prefix's again" in loaded.stdout
    again = gateway.command("portability", "load", str(path), "--skip-bad")
    assert "0 numbers have a new carrier" in again.stdout
    eventually(lambda: gateway.metric("ported_numbers") >= 25_001, "it is in force", 5)
    assert channels_of(gateway, number) == {"unicom-a"}
    assert channels_of(gateway, other) == {"mobile-a"}
