"""What of a request stands in the access log: its route and our ids, never the path as written."""

import json

import httpx
import pytest

from gateway.api.access import Access
from gateway.api.app import build_doors
from telemetry.access import AccessLog
from tests.support.fake_flow import FakeFlow

BODY = {"to": "+8613800138000", "text": "您好", "class": "transactional"}


async def ask(folder, method, path, key=None, *, has_sends=False, body=None):
    flow = FakeFlow()
    flow.access = Access(log=AccessLog(folder, "worker-0", has_sends=has_sends))
    app, quick = build_doors(flow)
    assert quick._is_off is has_sends
    transport = httpx.ASGITransport(app=app, client=("10.0.0.7", 1))
    heads = {"authorization": f"Bearer {key or flow.keys['both']}", "x-request-id": "id-1"}
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        await client.request(method, path, headers=heads, json=body)
    paths = list(folder.glob("access-*"))
    return [json.loads(line) for one in paths for line in one.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("path", ["/v1/8613800138000/您好", "/v1/hello you", "/8613800138000"])
async def test_an_address_that_is_none_of_ours_is_not_told(path, tmp_path):
    [line] = await ask(tmp_path, "GET", path)
    assert (line["route"], line["ids"], line["status"]) == ("other", [], 404)
    assert (line["address"], line["request_id"], line["method"]) == ("10.0.0.7", "id-1", "GET")
    assert "8613800138000" not in str(line)
    assert "hello" not in str(line)


async def test_ids_of_ours_are(tmp_path):
    [line] = await ask(tmp_path, "GET", "/v1/messages/msg_0123456789abcdef/timeline")
    assert line["ids"] == ["msg_0123456789abcdef"]
    assert line["key"].startswith("key_")
    assert line["tenant"].startswith("ten_")


async def test_probes_stand_in_no_line(tmp_path):
    assert await ask(tmp_path, "GET", "/healthz") == []


async def test_sends_do_when_asked_for_and_when_nobody_proved_a_key(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    assert await ask(tmp_path / "a", "POST", "/v1/messages", body=BODY) == []
    [line] = await ask(tmp_path / "b", "POST", "/v1/messages", body=BODY, has_sends=True)
    assert (line["route"], line["status"]) == ("/v1/messages", 202)
    assert line["key"].startswith("key_")
    assert "13800138000" not in str(line)
    [line] = await ask(tmp_path / "c", "POST", "/v1/messages", "smsgw_1_wrong", body=BODY)
    assert (line["status"], line["key"], line["tenant"]) == (401, None, None)
