"""Bodies made to cost: what is refused, and that the loop stays free meanwhile."""

from __future__ import annotations

import asyncio
import gc
import json
import time

import httpx
import pytest

from gateway.api import bodies, strict
from gateway.api.app import build
from gateway.api.explain import MAX_ERRORS, explain, unknown_names
from gateway.api.problems import ProblemError
from gateway.api.strict import MAX_MEMBERS, parse_strict
from tests.support.fake_flow import FakeFlow

ONE = {"to": "+8613800138000", "text": "hello"}
TOO_MANY = "json.too_many_values"


@pytest.fixture
def flow():
    return FakeFlow()


async def post(flow, body, path="/v1/messages"):
    headers = {
        "authorization": f"Bearer {flow.keys['both']}",
        "content-type": "application/json",
    }
    transport = httpx.ASGITransport(build(flow))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await http.post(path, content=content, headers=headers)


def names(count):
    return b"{" + b",".join(b'"a%d":1' % n for n in range(count)) + b"}"


async def test_no_more_than_a_hundred_errors_are_collected(flow):
    answer = await post(flow, {f"a{n}": 1 for n in range(500)})
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == MAX_ERRORS + 2  # and what admit misses: to, text
    assert len(unknown_names({f"a{n}": 1 for n in range(500)}, ())) == MAX_ERRORS


def test_a_right_field_behind_many_wrong_ones_is_still_read():
    request, errors = explain({**{f"a{n}": 1 for n in range(500)}, **ONE})
    assert (request.to, request.text) == (ONE["to"], ONE["text"])
    assert len(errors) == MAX_ERRORS


def test_what_cannot_be_told_apart_is_told_once():
    _, errors = explain({"名": 1, "another name": 2, "": 3, "oops": 4}, "/messages/3")
    assert [error.pointer for error in errors] == ["/messages/3", "/messages/3/oops"]
    assert len(unknown_names({"名": 1, "a b": 2}, ())) == 1


@pytest.mark.parametrize("name", ["a1234567", "n13800138000", "tel_138-0013-8000", "_1234567x"])
def test_a_name_that_may_hold_a_number_is_not_repeated(name):
    _, [error] = explain({name: 1})
    assert (error.pointer, error.code) == ("", "field.unknown")
    assert name not in error.detail
    _, [error] = explain({"metadata": {name: 1}})
    assert error.pointer == "/metadata"
    with pytest.raises(ProblemError) as refusal:
        parse_strict(b'{"%b":1,"%b":1}' % (name.encode(), name.encode()))
    assert name not in refusal.value.problem.detail


async def test_the_hundred_are_the_request_s_and_each_entry_keeps_one(flow):
    wrong = {f"a{n}": 1 for n in range(30)} | ONE
    answer = await post(flow, {"messages": [ONE, *[wrong] * 9]}, "/v1/batches")
    assert answer.status_code == 202
    assert [len(one["errors"]) for one in answer.json()["rejected"]] == [30] * 3 + [10] + [1] * 5


@pytest.mark.parametrize(
    "value",
    [
        names(MAX_MEMBERS + 1),
        b"[" + b"1," * MAX_MEMBERS + b"1]",
        b"[" + b",".join([b"[" + b"1," * 900 + b"1]"] * 150) + b"]",
        b'"' + b"\\n" * 60_000 + b'"',
        b'"" ' * 200_000,
        b"1." + b"1" * 1000,
    ],
)
def test_a_document_with_too_many_values_is_not_parsed(value):
    with pytest.raises(ProblemError) as refusal:
        parse_strict(b'{"x":' + value + b"}")
    assert refusal.value.problem.code == TOO_MANY
    assert refusal.value.problem.status == 400


def test_a_whole_batch_is_not_too_many_values():
    entry = {**ONE, "class": "otp", "metadata": {f"k{n}": "v" for n in range(8)}}
    parse_strict(json.dumps({"messages": [entry] * 1000}).encode())
    parse_strict(json.dumps({"metadata": {f"k{n}": "" for n in range(680)}}).encode())


@pytest.mark.parametrize("run", [b" ", b"x", b":"])
def test_a_run_of_what_is_no_value_costs_no_more_than_a_string(run):
    def cost(body):
        best = 1e9
        for _ in range(3):
            began = time.thread_time()
            try:
                parse_strict(body)
            except ProblemError as refusal:
                assert refusal.problem.code == "json.syntax"  # noqa: PT017 (or none at all)
            best = min(best, time.thread_time() - began)
        return best

    size = 2 << 20
    assert cost(b'{"x"' + run * size + b"}") < 4 * cost(b'{"x":"' + b"y" * size + b'"}')


async def test_wrong_entries_of_a_batch_share_what_may_be_read_exactly(flow):
    wrong = {**ONE, "oops": [[0] * 600] * 2}
    answer = await post(flow, {"messages": [ONE, *[wrong] * 90]}, "/v1/batches")
    assert (answer.status_code, len(answer.json()["rejected"])) == (202, 90)
    answer = await post(flow, {"messages": [ONE, *[wrong] * 120]}, "/v1/batches")
    assert (answer.status_code, answer.json()["code"]) == (400, TOO_MANY)
    assert len(flow.accepted) == 1


async def test_a_message_of_more_than_a_mebibyte_fails_its_batch(flow):
    for body in (
        {"messages": [ONE, {**ONE, "text": "x" * (1 << 20)}]},
        {"messages": [ONE], "defaults": {"text": "x" * (1 << 20)}},
    ):
        answer = await post(flow, body, "/v1/batches")
        assert (answer.status_code, answer.json()["code"]) == (413, "body.too_large")
    assert not flow.accepted


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[%b],"defaults":{},"messages":[%b]}',
        b'{"messages":[%b],"mess\\u0061ges":[%b]}',
        b' { "defaults":{}, "messages" : [%b] , "defaults" : %b } ',
        b'{"messages":"messages","messages":[%b,%b]}',
    ],
)
async def test_an_outer_name_given_twice_is_found_without_parsing(flow, body, monkeypatch):
    monkeypatch.setattr(bodies, "parse_strict", None)
    entry = json.dumps(ONE).encode()
    answer = await post(flow, body % (entry, entry), "/v1/batches")
    assert (answer.status_code, answer.json()["code"]) == (400, "json.duplicate_key")


@pytest.mark.parametrize(
    "body",
    [
        b' {\n "defaults":{"metadata":{"messages":"x","defaults":"y"}} ,"messages":[ %b , %b ] } ',
        b'{"mess\\u0061ges":[%b,%b],"\\u0064efaults":{"text":"\\u4e2d"}}',
    ],
)
async def test_the_outer_form_may_be_written_in_any_way(flow, body, monkeypatch):
    monkeypatch.setattr(bodies, "parse_strict", None)
    entry = json.dumps({**ONE, "metadata": {"messages": "defaults"}}).encode()
    answer = await post(flow, body % (entry, entry), "/v1/batches")
    assert answer.status_code == 202, answer.text
    assert len(flow.accepted[0]) == 2


async def test_large_messages_are_read_beside_the_loop(flow, monkeypatch):
    where = []
    real = strict.parse_strict

    def spy(*args):
        try:
            asyncio.get_running_loop()
            where.append("on the loop")
        except RuntimeError:
            where.append("beside it")
        return real(*args)

    monkeypatch.setattr(bodies, "parse_strict", spy)
    large = {**ONE, "oops": "x" * bodies.THREAD_BYTES}
    assert (await post(flow, large)).json()["code"] == "field.unknown"
    answer = await post(flow, {"messages": [ONE, large], "defaults": {}}, "/v1/batches")
    assert [one["code"] for one in answer.json()["rejected"]] == ["field.unknown"]
    answer = await post(flow, {"messages": [ONE], "defaults": large}, "/v1/batches")
    assert answer.json()["code"] == "field.unknown"
    assert where == ["beside it"] * 3


SIZE = 8 << 20
HEAVY = {
    "names": names(600_000),
    "a batch of names": b'{"messages":[' + names(600_000) + b"]}",
    "numbers": b'{"messages":[' + b"1," * (SIZE // 2 - 20) + b"1]}",
    "objects": b'{"messages":[' + b"{}," * (SIZE // 3 - 20) + b"{}]}",
    "not a list": b'{"messages":{"a":[' + b"1," * (SIZE // 2 - 20) + b"1]}}",
    "escapes": b'{"x":"' + b"\\n" * (SIZE // 2 - 20) + b'"}',
    "blanks": b'{"messages":[' + b" " * (SIZE - 30) + b"]}",
    "blanks in an object": b'{"messages":[{}]' + b" " * (SIZE - 30) + b',"x":1}',
    "letters": b"{" + b"x" * (SIZE - 30),
    "a number": b'{"x":1.' + b"1" * (SIZE - 30) + b"}",
    "strings": b'{"x":[' + b'"" ' * (SIZE // 3 - 20) + b"]}",
    "deep": b'{"messages":' + b"[" * (SIZE - 30),
    "256 wrong messages": b'{"messages":['
    + b",".join([b'{"x":[' + b"[]," * 1_400 + b'"' + b"x" * 27_000 + b'"]}'] * 256)
    + b"]}",
    "8 wrong messages": b'{"messages":['
    + b",".join([b'{"x":' + names(1900) + b',"y":"' + b"\\n" * 500_000 + b'"}'] * 8)
    + b"]}",
    "8 times the same name": b'{"messages":['
    + b",".join([b"{" + b'"to":"",' * 130_000 + b'"to":""}'] * 7)
    + b"]}",
    "metadata": b'{"messages":['
    + b",".join([b'{"metadata":{' + b'"":"",' * 170_000 + b'"":""}}'] * 7)
    + b"]}",
}


@pytest.mark.load
@pytest.mark.parametrize("kind", HEAVY)
async def test_no_step_holds_the_loop(flow, kind):
    """Milliseconds, so only on a quiet machine: the longest time the loop had no turn."""
    assert len(HEAVY[kind]) <= SIZE
    longest = 0.0
    await post(flow, ONE)  # what is made only once
    gc.collect()
    gc.freeze()  # the modules of the tests are not looked through in between

    async def watch():
        nonlocal longest
        last = time.thread_time()  # of this thread: a busy machine is not our doing
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    watching = asyncio.ensure_future(watch())
    answer = await post(flow, HEAVY[kind], "/v1/batches")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    watching.cancel()
    gc.unfreeze()
    print(kind, answer.status_code, len(answer.content), round(longest * 1000, 1), "ms")
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 1 << 20
    assert longest < 0.060
