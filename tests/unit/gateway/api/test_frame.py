"""What a URL and a head may hold."""

from __future__ import annotations

import pytest

from gateway.api.app import build
from gateway.api.frame import check_host, refuse_secret_in_query
from gateway.api.problems import ProblemError
from tests.support.fake_flow import FakeFlow


@pytest.mark.parametrize(
    "query",
    [
        "api_key=1",
        "api%5Fkey=1",
        "%61pi_key=1",
        "x=%73msgw_1",
        "x=Bearer%20smsgw_1",
        "x=bearer+abc",
        "x=WHSEC_1",
        "smsgw_1_secret",
        "client_secret=1",
        "pass=1",
        "sig=1",
        "bearer=1",
        "jwt=1",
        "X-Smsgw-Signature=1",
        "limit=1;token=2",
        "limit=1%26token=2",
        "Authorization=1",
    ],
)
def test_a_secret_in_the_query_is_refused(query):
    with pytest.raises(ProblemError) as refusal:
        refuse_secret_in_query(query.encode())
    assert refusal.value.problem.code == "auth.secret_in_query"


@pytest.mark.parametrize("query", ["limit=10&cursor=abc", "x=%ff%zz", "design=1"])
def test_other_queries_pass(query):
    refuse_secret_in_query(query.encode())


async def ask(scope, key="both"):
    flow = FakeFlow()
    sent = []
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "query_string": b"",
        "root_path": "",
        **scope,
    }
    scope["headers"] = [
        *scope.get("headers", [(b"host", b"x")]),
        (b"authorization", f"Bearer {flow.keys[key]}".encode()),
        (b"content-type", b"application/json"),
    ]

    async def receive():
        return {"type": "http.request", "body": b'{"to":"+8613800138000","text":"x"}'}

    async def send(event):
        sent.append(event)

    await build(flow)(scope, receive, send)
    return sent[0]["status"], flow


@pytest.mark.parametrize("raw", [b"/v1%2fmessages", b"/v1/%6dessages", b"/v1/message%73"])
async def test_another_spelling_of_the_path_does_not_reach_the_send_door(raw):
    status, flow = await ask({"path": "/v1/messages", "raw_path": raw})
    assert status in (404, 405)
    assert not flow.accepted


async def test_the_plain_path_does():
    status, flow = await ask({"path": "/v1/messages", "raw_path": b"/v1/messages"})
    assert status == 202
    assert flow.accepted


@pytest.mark.parametrize("hosts", [[], [b"a", b"b"], [b"a", b"a"]])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/batches", "/healthz", "/v1/messages/x"])
async def test_http_1_1_names_one_host(hosts, path):
    headers = [(b"host", host) for host in hosts]
    status, flow = await ask({"path": path, "raw_path": path.encode(), "headers": headers})
    assert status == 400
    assert not flow.accepted


def test_http_1_0_need_not_name_a_host():
    check_host({"http_version": "1.0", "headers": []})
