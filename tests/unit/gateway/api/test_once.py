"""Exactly once at the door: replay, mismatch, waiting, and what a refused request leaves behind."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api import once
from gateway.api.app import build
from gateway.api.bodies import Batch, canonical
from gateway.api.models import SendRequest
from gateway.api.once import digest_batch, digest_one, parse_key
from gateway.api.problems import ProblemError
from sms.errors import KeyBusy, OutcomeUnknown, StoreUnavailable
from sms.model import MessageClass
from store.intake import Hasher
from tests.support.fake_flow import SHOP, FakeFlow

ONE = {"to": "+8613800138000", "text": "hello"}
KEY = {"idempotency-key": '"k-1"'}


@pytest.fixture
def flow():
    return FakeFlow()


async def post(flow, body, path="/v1/messages", key="both", headers=KEY):
    told = {
        "content-type": "application/json",
        "authorization": f"Bearer {flow.keys[key]}",
        **headers,
    }
    transport = httpx.ASGITransport(build(flow))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await http.post(path, content=content, headers=told)


def code_of(answer):
    return answer.status_code, answer.json().get("code")


def is_replay(answer):
    return answer.status_code == 202 and answer.headers.get("idempotent-replayed") == "true"


async def request_key(flow, name=b"k-1", body=ONE):
    hasher = flow.intake.hasher
    digest = await digest_one(hasher, json.dumps(body).encode())
    return hasher.request(SHOP, "/v1/messages", name, digest)


# -- the header ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"abc", b"abc"),
        (b'"abc"', b"abc"),
        (b' \t"abc" ', b"abc"),
        (rb'"a\"b\\c"', rb'a"b\c'),
        (b"8e03978e-40d5-43dd-bc93-6894a57f9324", b"8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b"a,b;c=d\\e\"f'", b"a,b;c=d\\e\"f'"),
        (b"x" * 255, b"x" * 255),
        (b'"' + b"x" * 255 + b'"', b"x" * 255),
        (b'"' + b'\\"' * 255 + b'"', b'"' * 255),
    ],
)
def test_a_key_is_read_quoted_or_bare(value, name):
    assert parse_key(value) == name


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b" ",
            b'""',
            b'"abc',
            b'"',
            b'"a"b"',
            b'"a";p=1',
            b"a b",
            b'"a b"',
            b"a\tb",
            b"\x7f",
        ),
        *("é".encode(), b'"\xff"', b"x" * 256, b'"' + b"x" * 256 + b'"', rb'"a\b"', b'"a\\"'),
    ],
)
def test_what_is_no_key_is_malformed(value):
    with pytest.raises(ProblemError) as caught:
        parse_key(value)
    assert (caught.value.problem.code, caught.value.problem.status) == (
        "idempotency.malformed",
        400,
    )


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
def test_every_key_can_be_sent_quoted(name):
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_key(f'"{quoted}"'.encode()) == name.encode()


async def test_a_malformed_key_is_400_and_a_repeated_one_too(flow):
    answer = await post(flow, ONE, headers={"idempotency-key": "a b"})
    assert code_of(answer) == (400, "idempotency.malformed")
    twice = [("idempotency-key", "a"), ("idempotency-key", "a")]
    transport = httpx.ASGITransport(build(flow))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        headers = [
            ("content-type", "application/json"),
            ("authorization", f"Bearer {flow.keys['both']}"),
            *twice,
        ]
        answer = await http.post("/v1/messages", json=ONE, headers=headers)
    assert code_of(answer) == (400, "request.header_repeated")
    assert flow.accepted == []


# -- the body --------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_JSON)
def test_a_body_is_the_same_however_it_is_written(value):
    plain = json.dumps(value).encode()
    other = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False).encode()
    assert canonical(other) == canonical(plain)
    assert json.loads(canonical(plain)) == value


@given(_JSON, _JSON)
def test_bodies_that_say_something_else_differ(one, two):
    texts = [canonical(json.dumps(value).encode()) for value in (one, two)]
    assert (texts[0] == texts[1]) == (
        json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    )


def test_what_cannot_be_read_is_compared_byte_by_byte():
    assert canonical(b"{") == b"{"
    assert canonical(b"[1e999]") == b"[1e999]"


async def test_a_large_body_has_the_same_digest_as_on_the_loop(monkeypatch):
    hasher = Hasher(b"x" * 32)
    body = json.dumps({"a": "b" * 50_000}).encode()
    beside = await digest_one(hasher, body)
    monkeypatch.setattr(once, "THREAD_BYTES", 1 << 20)
    assert await digest_one(hasher, body) == beside


async def test_the_digest_of_a_batch_knows_where_an_entry_ends():
    def parts_of(defaults, *entries):
        return Batch(list(entries), SendRequest(), [], defaults)

    hasher = Hasher(b"x" * 32)
    parts = [
        parts_of(b"", b'{"a":1}', b'{"b":2}'),
        parts_of(b'{"a":1}', b'{"b":2}'),
        parts_of(b"", b'{"b":2}', b'{"a":1}'),
        parts_of(b"", b'{"a":1}{"b":2}'),
        parts_of(b"{}", b'{"a":1}', b'{"b":2}'),
    ]
    digests = [await digest_batch(hasher, part) for part in parts]
    assert len(set(digests)) == len(parts)
    assert await digest_batch(hasher, parts_of(b"", b'{ "a" : 1 }', b'{"b":2}')) == digests[0]


# -- the same request again ------------------------------------------------------------------------


async def test_the_same_request_gets_the_same_answer_and_spends_nothing(flow):
    body = {**ONE, "class": "otp", "client_ref": 'order "7" 汉', "metadata": {"a": "b"}}
    first = await post(flow, body)
    left = flow.limiter.left
    again = await post(flow, json.dumps(body, indent=1, sort_keys=True).encode())
    assert first.status_code == 202
    assert first.json()["client_ref"] == 'order "7" 汉'
    assert "idempotent-replayed" not in first.headers
    assert is_replay(again)
    assert again.content == first.content
    assert again.headers["ratelimit"] == first.headers["ratelimit"]
    assert flow.limiter.left == left
    assert len(flow.accepted) == 1
    assert flow.free[MessageClass.OTP] == 10_000 - 1


async def test_a_key_quoted_and_bare_is_one_key(flow):
    first = await post(flow, ONE)
    assert (await post(flow, ONE, headers={"idempotency-key": "k-1"})).content == first.content
    assert len(flow.accepted) == 1


async def test_another_body_is_a_mismatch_and_nothing_is_sent(flow):
    await post(flow, ONE)
    answer = await post(flow, {**ONE, "text": "other"})
    assert code_of(answer) == (422, "idempotency.mismatch")
    assert "hello" not in answer.text
    assert len(flow.accepted) == 1
    assert flow.limiter.left == flow.limiter.depth - 1
    answer = await post(flow, {**ONE, "text": ""})  # wrong in itself, too: the key is asked first
    assert code_of(answer) == (422, "idempotency.mismatch")


async def test_a_key_is_the_tenants_and_the_paths(flow):
    assert (await post(flow, ONE)).status_code == 202
    assert not is_replay(await post(flow, ONE, key="other"))
    assert not is_replay(await post(flow, {"messages": [ONE]}, "/v1/batches"))
    assert len(flow.accepted) == 3


def _no_tokens(flow):
    flow.limiter.left = 0.0


def _shed(flow):
    flow.closed = ("shed.overloaded", "Too much.", 1)


def _no_room(flow):
    flow.free = dict.fromkeys(MessageClass, 0)


def _no_quota(flow):
    flow.limiter.error = StoreUnavailable("away")


def _brand_removed(flow):
    flow.snapshot.tenants[SHOP] = replace(flow.snapshot.tenants[SHOP], signatures=())


@pytest.mark.parametrize("close", [_no_tokens, _shed, _no_room, _no_quota, _brand_removed])
async def test_a_stored_answer_is_given_whatever_would_refuse_the_request_now(flow, close):
    first = await post(flow, ONE)
    close(flow)
    refused = await post(flow, ONE, headers={"idempotency-key": "new"})
    assert refused.status_code in {422, 429, 503}
    again = await post(flow, ONE)
    assert is_replay(again)
    assert again.content == first.content
    assert code_of(await post(flow, {**ONE, "text": "x"})) == (422, "idempotency.mismatch")


async def test_a_refused_request_does_not_use_up_its_key(flow):
    flow.limiter.left = 0.0
    assert (await post(flow, ONE)).status_code == 429
    assert (await post(flow, {**ONE, "to": "x"})).status_code == 422
    flow.limiter.left = 10.0
    answer = await post(flow, ONE)
    assert answer.status_code == 202
    assert not is_replay(answer)


async def test_on_the_good_path_nothing_is_looked_up(flow):
    await post(flow, ONE)
    assert flow.intake.looks == 0


async def test_a_refusal_stands_while_the_store_is_away_and_is_a_503(flow):
    flow.limiter.left = 0.0
    flow.intake.error = StoreUnavailable("away")
    answer = await post(flow, ONE)
    assert code_of(answer) == (503, "store.unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_outcome_unknown_is_told_as_it_is_and_the_retry_resolves_it(flow):
    flow.error = OutcomeUnknown("in doubt")
    assert code_of(await post(flow, ONE)) == (503, "outcome_unknown")
    assert flow.intake.looks == 0
    flow.error = None
    assert (await post(flow, ONE)).status_code == 202


# -- at the same time ------------------------------------------------------------------------------


async def test_the_second_waits_for_the_first_and_gets_its_answer(flow):
    key = await request_key(flow)
    held = flow.intake.held[key.slot] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(post(flow, ONE))
    await asyncio.sleep(0)
    assert not waiting.done()
    del flow.intake.held[key.slot]
    first = await post(flow, ONE)
    held.set_result(None)
    again = await waiting
    assert is_replay(again)
    assert again.content == first.content
    assert len(flow.accepted) == 1


async def test_when_the_first_is_refused_the_second_is_the_first(flow):
    key = await request_key(flow)
    held = flow.intake.held[key.slot] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(post(flow, ONE))
    await asyncio.sleep(0)
    del flow.intake.held[key.slot]
    held.set_result(None)
    answer = await waiting
    assert answer.status_code == 202
    assert not is_replay(answer)
    assert len(flow.accepted) == 1


async def test_a_first_that_does_not_end_is_in_progress(flow, monkeypatch):
    monkeypatch.setattr(once, "WAIT_S", 0.01)
    key = await request_key(flow)
    flow.intake.held[key.slot] = asyncio.get_running_loop().create_future()
    answer = await post(flow, ONE)
    assert code_of(answer) == (409, "idempotency.in_progress")
    assert answer.headers["retry-after"] == "1"
    assert flow.accepted == []
    assert flow.limiter.left == flow.limiter.depth


async def test_a_first_of_another_process_that_does_not_end_is_in_progress(flow, monkeypatch):
    monkeypatch.setattr(once, "WAIT_S", 0.001)
    flow.error = KeyBusy("busy")
    answer = await post(flow, ONE)
    assert code_of(answer) == (409, "idempotency.in_progress")
    assert flow.limiter.left == flow.limiter.depth
    assert flow.free[MessageClass.TRANSACTIONAL] == 10_000
    flow.error = None
    first = await post(flow, ONE)
    flow.error = KeyBusy("busy")
    assert (await post(flow, ONE)).content == first.content


async def test_what_another_process_commits_within_two_seconds_is_replayed(flow, monkeypatch):
    monkeypatch.setattr(once, "LOOK_S", 0.0)
    first = await post(flow, ONE)
    stored, flow.intake.stored = flow.intake.stored, {}
    find, looks = flow.intake.find, []

    async def later(key):
        looks.append(key)
        if len(looks) == 3:
            flow.intake.stored = stored
        return await find(key)

    flow.intake.find = later
    flow.error = KeyBusy("busy")
    again = await post(flow, ONE)
    assert is_replay(again)
    assert again.content == first.content
    assert len(looks) == 3


async def test_a_client_ref_under_way_is_waited_for(flow, monkeypatch):
    monkeypatch.setattr(once, "WAIT_S", 0.01)
    body = {**ONE, "client_ref": "r"}
    [key] = flow.intake.hasher.refs([_message(flow, "r")])
    flow.intake.held[key.slot] = asyncio.get_running_loop().create_future()
    answer = await post(flow, body, headers={})
    assert code_of(answer) == (409, "client_ref.in_progress")
    assert flow.limiter.left == flow.limiter.depth
    assert flow.free[MessageClass.TRANSACTIONAL] == 10_000
    del flow.intake.held[key.slot]
    assert (await post(flow, body, headers={})).status_code == 202


def _message(flow, ref):
    class Fake:
        tenant, client_ref = SHOP, ref

    return Fake()


# -- client_ref ------------------------------------------------------------------------------------


async def test_a_client_ref_twice_is_a_conflict_that_names_the_first(flow):
    first = await post(flow, {**ONE, "client_ref": "r"}, headers={})
    left = flow.limiter.left
    answer = await post(flow, {**ONE, "client_ref": "r", "text": "new"}, headers={})
    assert code_of(answer) == (409, "client_ref.duplicate")
    [error] = answer.json()["errors"]
    assert error["pointer"] == "/client_ref"
    assert first.json()["id"] in answer.json()["detail"]
    assert flow.limiter.left == left
    assert flow.free[MessageClass.TRANSACTIONAL] == 10_000 - 1
    assert (await post(flow, {**ONE, "client_ref": "r"}, key="other", headers={})).is_success


async def test_the_key_is_asked_before_the_client_ref(flow):
    body = {**ONE, "client_ref": "r"}
    first = await post(flow, body)
    assert (await post(flow, body)).content == first.content
    other = await post(flow, body, headers={"idempotency-key": "k-2"})
    assert code_of(other) == (409, "client_ref.duplicate")
    fresh = await post(flow, {**body, "client_ref": "s"}, headers={"idempotency-key": "k-2"})
    assert fresh.status_code == 202  # the refused one did not use up its key


@pytest.mark.parametrize(
    ("ref", "code"),
    [("", "field.value"), ("x" * 257, "field.value"), (7, "field.type"), (None, "field.null")],
)
async def test_a_client_ref_is_1_to_256_characters(flow, ref, code):
    answer = await post(flow, {**ONE, "client_ref": ref}, headers={})
    assert code_of(answer) == (422, code)
    assert answer.json()["errors"][0]["pointer"] == "/client_ref"
    assert (await post(flow, {**ONE, "client_ref": "汉" * 256}, headers={})).status_code == 202


# -- batches ---------------------------------------------------------------------------------------


async def batch(flow, entries, headers=KEY, **more):
    return await post(flow, {"messages": entries, **more}, "/v1/batches", headers=headers)


async def test_a_batch_is_replayed_with_its_ids_and_verdicts(flow):
    entries = [ONE, {"to": "nonsense", "text": 5}, {**ONE, "client_ref": "r"}, 7, ONE]
    first = await batch(flow, entries, defaults={"class": "otp"})
    assert [entry["index"] for entry in first.json()["accepted"]] == [0, 2, 4]
    assert [entry["index"] for entry in first.json()["rejected"]] == [1, 3]
    left = flow.limiter.left
    again = await batch(flow, entries, defaults={"class": "otp"})
    assert is_replay(again)
    assert again.content == first.content
    assert flow.limiter.left == left
    assert code_of(await batch(flow, entries)) == (422, "idempotency.mismatch")
    assert code_of(await batch(flow, entries[::-1], defaults={"class": "otp"})) == (
        422,
        "idempotency.mismatch",
    )


async def test_the_second_entry_with_a_client_ref_is_refused_in_its_place(flow):
    entries = [{**ONE, "client_ref": ref} for ref in "abacaa"]
    told = (await batch(flow, entries, headers={})).json()
    assert [entry["index"] for entry in told["accepted"]] == [0, 1, 3]
    assert [(e["index"], e["code"]) for e in told["rejected"]] == [
        (index, "client_ref.duplicate") for index in (2, 4, 5)
    ]
    for entry in told["rejected"]:
        assert told["accepted"][0]["id"] in entry["detail"]
        assert entry["errors"][0]["pointer"] == f"/messages/{entry['index']}/client_ref"


async def test_entries_whose_client_ref_is_taken_leave_the_batch_and_pay_nothing(flow):
    first = (await post(flow, {**ONE, "client_ref": "b"}, headers={})).json()["id"]
    left = flow.limiter.left
    entries = [{**ONE, "client_ref": ref} for ref in "abcb"] + [{"to": "x"}, ONE]
    answer = await batch(flow, entries)
    told = answer.json()
    assert [entry["index"] for entry in told["accepted"]] == [0, 2, 5]
    assert [(e["index"], e["code"]) for e in told["rejected"]] == [
        (1, "client_ref.duplicate"),
        (3, "client_ref.duplicate"),
        (4, "recipient.invalid"),
    ]
    assert [first in entry["detail"] for entry in told["rejected"]] == [True, True, False]
    assert flow.limiter.left == left - 3
    assert flow.free[MessageClass.TRANSACTIONAL] == 10_000 - 4
    assert (await batch(flow, entries)).content == answer.content


async def test_a_batch_of_nothing_but_duplicates_is_422(flow):
    entries = [{**ONE, "client_ref": ref} for ref in "ab"]
    assert (await batch(flow, entries, headers={})).status_code == 202
    left = flow.limiter.left
    answer = await batch(flow, entries, headers={})
    assert code_of(answer) == (422, "client_ref.duplicate")
    assert answer.json()["status"] == 422
    assert [e["pointer"] for e in answer.json()["errors"]] == [
        "/messages/0/client_ref",
        "/messages/1/client_ref",
    ]
    assert flow.limiter.left == left


async def test_more_than_a_bucket_holds_is_said_before_the_store_is_asked(flow):
    flow.limiter.depth = 2
    answer = await batch(flow, [ONE] * 3)
    assert code_of(answer) == (422, "quota.message_too_large")
    assert flow.limiter.left <= 1000
    assert not math.isinf(flow.limiter.left)
