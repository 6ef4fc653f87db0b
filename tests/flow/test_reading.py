"""Reading over the whole path: two workers, a kill, and everything still adds up."""

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

_numbers = itertools.count(60_000_000)
OPEN = {"accepted", "scheduled", "queued", "submitting", "submitted", "uncertain"}


@pytest.fixture(scope="module")
def running() -> Iterator[GatewayProcess]:
    with GatewayProcess(workers=2, submit_timeout_s="5") as gateway:
        yield gateway


def get(gateway: GatewayProcess, path: str, **params: Any) -> Any:
    """Over a connection of its own: either worker may get it."""
    headers = {"Authorization": f"Bearer {gateway.sandbox['api_key']}"}
    with httpx.Client(trust_env=False, timeout=15) as client:
        answer = client.get(f"{gateway.url}{path}", params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed(gateway: GatewayProcess, path: str = "/v1/messages", **params: Any) -> list[Any]:
    found: list[Any] = []
    while True:
        page = get(gateway, path, **params)
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]


def pulled(gateway: GatewayProcess, after: str | None = None) -> tuple[list[Any], str]:
    found: list[Any] = []
    while True:
        page = get(gateway, "/v1/events", limit=200, **({} if after is None else {"after": after}))
        found += page["data"]
        after = page["next_cursor"]
        assert after is not None
        if not page["data"]:
            return found, after


def send_many(gateway: GatewayProcess, count: int) -> list[str]:
    ids: list[str] = []
    classes = itertools.cycle(["otp", "transactional"])
    for _ in range(count // 10):
        messages = [
            {"to": f"+86137{next(_numbers)}", "text": "读" * 80, "class": next(classes)}
            for _ in range(10)
        ]
        with httpx.Client(trust_env=False, timeout=15) as client:
            answer = client.post(
                f"{gateway.url}/v1/batches",
                json={"messages": messages},
                headers={"Authorization": f"Bearer {gateway.sandbox['api_key']}"},
            )
        assert answer.status_code == 202, answer.text
        ids += [one["id"] for one in answer.json()["accepted"]]
    return ids


def used(gateway: GatewayProcess, name: str = "count") -> Counter[tuple[str, str | None, str]]:
    sums: Counter[tuple[str, str | None, str]] = Counter()
    for cell in listed(gateway, "/v1/usage", limit=500):
        sums[cell["class"], cell["channel"], cell["status"]] += cell[name]
    return +sums


def standing(messages: list[Any], name: str = "count") -> Counter[tuple[str, str | None, str]]:
    sums: Counter[tuple[str, str | None, str]] = Counter()
    for one in messages:
        sums[one["class"], one["channel"], one["status"]] += (
            1 if name == "count" else one["segments"]
        )
    return sums


def all_final(gateway: GatewayProcess, count: int) -> list[Any]:
    messages = listed(gateway, limit=500)
    is_over = len(messages) == count and not any(one["status"] in OPEN for one in messages)
    return messages if is_over else []


def has_all_sessions(gateway: GatewayProcess) -> bool:
    """One of each worker at each carrier, which gives its receipts to both by turns."""
    wires = [carrier for name, carrier in gateway.carriers.items() if name != "vendor-a"]
    return all(carrier.counts()["sessions"] == 2 for carrier in wires)


def by_message(events: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for one in events:
        found.setdefault(one["data"]["id"], []).append(one)
    return found


def pulled_to_the_end(gateway: GatewayProcess, messages: list[Any]) -> list[Any]:
    """All events once each message's newest one says what the list says; else the difference."""
    wanted = {one["id"]: one["status"] for one in messages}
    end = time.monotonic() + 120
    while True:
        events, _ = pulled(gateway)
        told = by_message(events)
        newest = {
            message_id: max(of_it, key=lambda one: one["data"]["sequence"])["data"]["status"]
            for message_id, of_it in told.items()
        }
        if newest == wanted:
            return events
        missing = {
            message_id: (status, told.get(message_id), gateway.timeline(message_id))
            for message_id, status in wanted.items()
            if newest.get(message_id) != status
        }
        assert time.monotonic() < end, f"the pull lacks {len(missing)} ends: {missing}"
        time.sleep(0.5)


def test_lists_events_and_usage_say_the_same_also_after_a_kill(gateway):
    """The new worker's ids are ahead of the other's clock, and each gets the other's receipts."""
    ids = send_many(gateway, 60)
    gateway.kill("worker-0")
    eventually(lambda: len(gateway.log_lines("worker-0", "recovered")) > 1, "a new life")
    eventually(lambda: has_all_sessions(gateway), "two sessions a channel")
    ids += send_many(gateway, 60)
    messages = eventually(lambda: all_final(gateway, 120), "every message is final", 120, 0.5)
    assert [one["id"] for one in messages] == sorted(ids, reverse=True)
    assert listed(gateway, limit=50) == messages
    alone = get(gateway, f"/v1/messages/{ids[0]}")
    assert alone in messages

    for name in ("count", "segments"):
        assert used(gateway, name) == standing(messages, name)

    events = pulled_to_the_end(gateway, messages)
    assert len({one["id"] for one in events}) == len(events)
    assert [one["id"] for one in events] == sorted(one["id"] for one in events)
    for of_one in by_message(events).values():
        assert of_one == sorted(of_one, key=lambda one: one["data"]["sequence"])
    for message_id in ids[::10]:
        told = {one["id"]: one for one in gateway.sink.events(message_id)}
        mine = {one["id"]: one for one in events if one["data"]["id"] == message_id}
        assert told.keys() == mine.keys()

    by_status = Counter(one["status"] for one in messages)
    for status, count in by_status.items():
        assert len(listed(gateway, status=status, limit=500)) == count


def test_new_events_come_to_who_keeps_the_cursor(gateway):
    _, cursor = pulled(gateway)
    (message_id,) = send_many(gateway, 10)[:1]
    gateway.wait_for_status(message_id, "delivered")

    def fresh() -> list[Any]:
        found, _ = pulled(gateway, cursor)
        mine = [one for one in found if one["data"]["id"] == message_id]
        return mine if mine and mine[-1]["type"] == "message.delivered" else []

    mine = eventually(fresh, "its events are pulled", step_s=0.5)
    assert [one["data"]["sequence"] for one in mine] == sorted(
        one["data"]["sequence"] for one in mine
    )


def test_the_operator_lists_what_is_uncertain(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(silent=True)
    message_id = gateway.accept(to=f"+86137{next(_numbers)}", text="读", on_uncertain="hold")
    eventually(lambda: gateway.status(message_id)["status"] == "uncertain", "uncertain", step_s=0.5)
    headers = {"Authorization": f"Bearer {gateway.sandbox['admin_key']}"}
    with httpx.Client(trust_env=False, timeout=15) as client:
        answer = client.get(
            f"{gateway.url}/v1/messages", params={"status": "uncertain"}, headers=headers
        )
    assert [one["id"] for one in answer.json()["data"]] == [message_id]
    assert "****" in answer.json()["data"][0]["to"]
    number = get(gateway, f"/v1/messages/{message_id}")["to"]
    found = gateway.request("POST", "/v1/messages:search", {"to": number}).json()
    assert [one["id"] for one in found["data"]][:1] == [message_id]
