"""Signed requests: the published vectors, the headers, the doors, and who tries to get around."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.nonces import Nonce, Nonces
from gateway.api.access import Access
from gateway.api.app import build, build_doors
from gateway.api.problems import Problem
from gateway.api.signing import (
    is_signature,
    is_signing_secret,
    new_signing_secret,
    parse_signed,
    sign,
    string_to_sign,
)
from sms.config import ApiKey, Snapshot
from sms.ids import to_text
from tests.support import sign_vectors
from tests.support.fake_flow import NOW, SHOP, FakeFlow

VECTORS = json.loads((Path(__file__).parents[4] / "docs" / "signing-vectors.json").read_text())
SIGNER, READER, BARE, OLD, OPS = 500, 501, 502, 503, 504
SECRET = VECTORS["signing_secret"]
BODY = json.dumps({"to": "+8613800138000", "text": "secret words"}).encode()


@pytest.fixture
def flow():
    made = FakeFlow()
    secret = SECRET.encode()
    keys = {
        SIGNER: ApiKey(
            SIGNER, "signer", SHOP, frozenset({"send", "read"}), b"", signing_secret=secret
        ),
        READER: ApiKey(READER, "reader", SHOP, frozenset({"read"}), b"", signing_secret=secret),
        BARE: ApiKey(BARE, "bare", SHOP, frozenset({"send"}), b""),
        OLD: ApiKey(OLD, "old", SHOP, frozenset({"send"}), b"", NOW, secret),
        OPS: ApiKey(OPS, "ops", 0, frozenset({"admin"}), b"", signing_secret=secret),
    }  # fmt: skip
    made.snapshot = replace(made.snapshot, api_keys={**made.snapshot.api_keys, **keys})
    made.access = Access(now=lambda: NOW)
    return made


_nonces = iter(range(1, 1_000_000))


def headers(
    method="POST", path="/v1/messages", query="", body=BODY, *, key=SIGNER, at=NOW, nonce=None
):
    nonce = nonce or f"nonce-{next(_nonces)}"
    _, signature = sign_vectors.sign(SECRET, method, path, query, body, int(at), nonce)
    return {
        "x-smsgw-key": to_text("key", key),
        "x-smsgw-timestamp": str(int(at)),
        "x-smsgw-nonce": nonce,
        "x-smsgw-signature": signature,
    }


async def call(flow, sent, method="POST", path="/v1/messages", body=BODY):
    """`sent`: headers as a dict or as pairs."""
    pairs = [*(sent.items() if isinstance(sent, dict) else sent)]
    pairs.append(("content-type", "application/json"))
    transport = httpx.ASGITransport(build(flow))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        return await http.request(method, path, content=body, headers=pairs)


def code(answer):
    return answer.status_code, answer.json()["code"]


# ---- the vectors ----


def test_the_published_vectors_are_what_another_implementation_makes():
    assert sign_vectors.document() == VECTORS
    assert is_signing_secret(SECRET)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: v["shows"])
def test_the_published_vectors_verify(vector):
    given_headers = {k.lower().encode(): v.encode() for k, v in vector["headers"].items()}
    now = float(vector["headers"]["X-Smsgw-Timestamp"])
    signed = parse_signed(given_headers, now)
    assert not isinstance(signed, Problem)
    digest = hashlib.sha256(vector["body"].encode()).hexdigest()
    text = string_to_sign(
        vector["method"], vector["path"].encode(), vector["query"].encode(),
        digest, signed.timestamp, signed.nonce,
    )  # fmt: skip
    assert text.decode() == vector["string_to_sign"]
    assert is_signature(SECRET.encode(), text, signed.signature)


@given(
    st.lists(st.binary(max_size=6).filter(lambda b: b"\n" not in b), min_size=6, max_size=6),
    st.integers(0, 5),
)
def test_whatever_differs_makes_another_signature(parts, at):
    method, path, query, digest, timestamp, nonce = parts
    first = string_to_sign(method.decode("latin-1"), path, query, digest.hex(), timestamp, nonce)
    parts[at] += b"x"
    method, path, query, digest, timestamp, nonce = parts
    second = string_to_sign(method.decode("latin-1"), path, query, digest.hex(), timestamp, nonce)
    assert first != second
    assert sign(b"k", first) != sign(b"k", second)


def test_secrets_have_a_check():
    made = {new_signing_secret() for _ in range(20)}
    assert len(made) == 20
    for text in made:
        assert is_signing_secret(text)
        assert not is_signing_secret(text[:-1] + ("0" if text[-1] != "0" else "1"))
        assert not is_signing_secret(text[:20] + text[21:])


# ---- the doors ----


async def test_a_signed_send_is_accepted(flow):
    answer = await call(flow, headers())
    assert answer.status_code == 202, answer.text
    assert "ratelimit" in answer.headers
    assert flow.accepted[0][0].tenant == SHOP
    assert flow.metrics.signed_requests_total.values == {("new_here",): 1}


async def test_a_signed_read_and_a_signed_query(flow):
    path = f"/v1/messages/msg_{7:016x}"
    answer = await call(flow, headers("GET", path, body=b""), "GET", path, b"")
    assert code(answer) == (404, "resource.not_found")  # in, but there is none
    signed = headers("GET", path, "b=1&a=2", b"")
    answer = await call(flow, signed, "GET", f"{path}?b=1&a=2", b"")
    assert code(answer) == (422, "query.unknown")
    moved = await call(flow, headers("GET", path, "a=2&b=1", b""), "GET", f"{path}?b=1&a=2", b"")
    assert code(moved) == (422, "query.unknown")  # the same pairs, sorted
    other = await call(flow, headers("GET", path, "a=2", b""), "GET", f"{path}?a=3", b"")
    assert code(other) == (401, "auth.signature")


async def test_the_path_is_signed_as_it_is_sent(flow):
    path = f"/v1/messages/%6dsg_{7:016x}"
    answer = await call(flow, headers("GET", path, body=b""), "GET", path, b"")
    assert answer.status_code == 404
    decoded = headers("GET", path.replace("%6d", "m"), body=b"")
    assert code(await call(flow, decoded, "GET", path, b"")) == (401, "auth.signature")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"x-smsgw-signature": "0" * 64}, "auth.signature"),
        ({"x-smsgw-nonce": "another"}, "auth.signature"),
        ({"x-smsgw-timestamp": str(int(NOW) + 1)}, "auth.signature"),
        ({"x-smsgw-key": to_text("key", READER)}, "auth.scope"),  # the same secret: proven, 403
        ({"x-smsgw-key": to_text("key", BARE)}, "auth.invalid"),
        ({"x-smsgw-key": to_text("key", OLD)}, "auth.invalid"),
        ({"x-smsgw-key": to_text("key", 999)}, "auth.invalid"),
        ({"x-smsgw-key": "key_1"}, "auth.signature_malformed"),
        ({"x-smsgw-key": to_text("msg", SIGNER)}, "auth.signature_malformed"),
        ({"x-smsgw-key": ""}, "auth.signature_malformed"),
        ({"x-smsgw-timestamp": f"{NOW}"}, "auth.signature_malformed"),
        ({"x-smsgw-timestamp": f"+{NOW:.0f}"}, "auth.signature_malformed"),
        ({"x-smsgw-timestamp": "1" * 13}, "auth.signature_malformed"),
        ({"x-smsgw-timestamp": "-1"}, "auth.signature_malformed"),
        ({"x-smsgw-nonce": ""}, "auth.signature_malformed"),
        ({"x-smsgw-nonce": "a b"}, "auth.signature_malformed"),
        ({"x-smsgw-nonce": "x" * 129}, "auth.signature_malformed"),
        ({"x-smsgw-signature": "0" * 63}, "auth.signature_malformed"),
        ({"x-smsgw-signature": "g" * 64}, "auth.signature_malformed"),
        ({"x-smsgw-signature": ""}, "auth.signature_malformed"),
    ],
)  # fmt: skip
async def test_what_is_not_right_is_refused(flow, change, what):
    answer = await call(flow, {**headers(), **change})
    assert code(answer) == (403 if what == "auth.scope" else 401, what)
    assert flow.accepted == []
    assert "ratelimit" not in answer.headers or what == "auth.scope"  # nothing of the tenant
    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)


@pytest.mark.parametrize("name", ["key", "timestamp", "nonce", "signature"])
async def test_a_header_that_is_missing_or_stands_twice(flow, name):
    sent = headers()
    dropped = {k: v for k, v in sent.items() if k != f"x-smsgw-{name}"}
    assert code(await call(flow, dropped)) == (401, "auth.signature_malformed")
    for path in ("/v1/messages", "/v1/messages/msg_1"):
        twice = [*headers().items(), (f"x-smsgw-{name}", sent[f"x-smsgw-{name}"])]
        answer = await call(flow, twice, path=path)
        assert code(answer) == (400, "request.header_repeated")
    # what a careless proxy would take for the header is none
    under = {**dropped, f"x_smsgw_{name}": sent[f"x-smsgw-{name}"]}
    assert code(await call(flow, under)) == (401, "auth.signature_malformed")


async def test_two_identities_in_one_request_are_refused(flow):
    bearer = {"authorization": f"Bearer {flow.keys['both']}"}
    for path in ("/v1/messages", "/v1/batches", "/v1/messages/msg_1"):
        assert code(await call(flow, {**headers(), **bearer}, path=path)) == (401, "auth.ambiguous")
        stray = {**bearer, "x-smsgw-nonce": "n"}
        assert code(await call(flow, stray, path=path)) == (401, "auth.ambiguous")


@pytest.mark.parametrize("name", ["x-smsgw-key", "x-smsgw-timestamp", "x-smsgw-signature"])
async def test_the_short_way_takes_no_request_with_two_identities(flow, name):
    _, quick = build_doors(flow)
    sent = [
        (b"host", b"x"),
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer " + flow.keys["both"].encode()),
    ]
    assert quick.take([*sent, (name.encode(), b"x")], BODY) is None
    assert flow.accepted == []
    assert quick.take(sent, BODY) is not None


@pytest.mark.parametrize(
    ("off", "is_good"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)]
)
async def test_the_clock_may_be_five_minutes_off(flow, off, is_good):
    answer = await call(flow, headers(at=NOW + off))
    assert answer.status_code == (202 if is_good else 401)
    if not is_good:
        assert code(answer) == (401, "auth.timestamp")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/batches", "/v1/usage"])
async def test_another_method_is_told_only_to_a_signature_that_is_right(flow, path):
    right, wrong = headers("PUT", path), headers("PUT", path) | {"x-smsgw-signature": "0" * 64}
    assert code(await call(flow, wrong, "PUT", path)) == (401, "auth.signature")
    answer = await call(flow, right, "PUT", path)
    assert code(answer) == (405, "method.not_allowed")
    assert answer.headers["allow"]


async def test_head_is_signed_as_head(flow):
    path = "/v1/messages/msg_0000000000000007"
    answer = await call(flow, headers("HEAD", path, body=b""), "HEAD", path, b"")
    assert answer.status_code == 404
    answer = await call(flow, headers("GET", path, body=b""), "HEAD", path, b"")
    assert answer.status_code == 401


async def test_every_401_says_how_to_come_in(flow):
    both = headers() | {"authorization": f"Bearer {flow.keys['both']}"}
    once = headers()
    assert (await call(flow, once)).status_code == 202
    nobody: dict[str, str] = {}
    for sent in (both, once, headers(at=NOW - 900), nobody):
        answer = await call(flow, sent)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="smsgw"'


async def test_a_nonce_is_good_once_and_only_for_its_key(flow):
    sent = headers(nonce="once")
    assert (await call(flow, sent)).status_code == 202
    assert code(await call(flow, sent)) == (401, "auth.nonce_used")
    # another request with it as well, and at another time
    assert code(await call(flow, headers(nonce="once", at=NOW + 200))) == (401, "auth.nonce_used")
    path = "/v1/messages/msg_1"
    other = headers("GET", path, body=b"", key=READER, nonce="once")
    assert (await call(flow, other, "GET", path, b"")).status_code == 404
    assert len(flow.accepted) == 1


async def test_a_wrong_signature_uses_no_nonce_up(flow):
    sent = headers(nonce="mine")
    assert code(await call(flow, {**sent, "x-smsgw-signature": "0" * 64})) == (
        401,
        "auth.signature",
    )
    assert (await call(flow, sent)).status_code == 202


async def test_sent_at_the_same_time_one_goes_through(flow):
    sent = headers(nonce="race")
    answers = await asyncio.gather(*[call(flow, sent) for _ in range(20)])
    assert sorted(answer.status_code for answer in answers) == [202, *[401] * 19]


async def test_a_changed_body_is_refused_after_it_was_read(flow):
    for body in (BODY + b" ", b"", BODY[:-1], b"x" * 500_000):
        assert code(await call(flow, headers(), body=body)) == (401, "auth.signature")
    assert flow.accepted == []


async def test_a_signature_in_capitals_is_one(flow):
    sent = headers()
    sent["x-smsgw-signature"] = sent["x-smsgw-signature"].upper()
    assert (await call(flow, sent)).status_code == 202


async def raw(flow, sent, path="/v1/messages", method="POST"):
    """Status of a request whose body is counted: (status, events of the body that were asked)."""
    asked, answered = 0, []

    async def receive():
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"x" * 65536, "more_body": asked < 1000}

    async def send(event):
        answered.append(event)

    pairs = [(k.encode(), v.encode()) for k, v in sent.items()]
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "client": ("192.0.2.1", 5),
        "headers": [(b"host", b"x"), (b"content-type", b"application/json"), *pairs],
    }  # fmt: skip
    await build(flow)(scope, receive, send)
    return answered[0]["status"], asked


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/batches", "/v1/tenants", "/v1/nothing"])
@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"authorization": "Bearer smsgw_1_x"},
        {**headers(), "x-smsgw-key": to_text("key", 999)},
        {**headers(), "x-smsgw-timestamp": "1"},
        {**headers(), "authorization": "Bearer x"},
    ],
)
async def test_a_401_comes_before_the_body_is_read(flow, path, sent):
    assert await raw(flow, sent, path) == (401, 0)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/tenants"])
async def test_an_unproven_body_is_bounded_too(flow, path):
    status, asked = await raw(flow, headers(path=path), path)
    assert status == 413
    assert asked * 65536 <= (1 << 20) + (16 << 20) + 3 * 65536  # the limit, and what is dropped


async def test_a_key_that_is_revoked_while_its_body_arrives(flow):
    sent = headers()
    before = flow.snapshot
    transport_body = asyncio.Event()

    async def slow():
        yield BODY[:5]
        flow.snapshot = Snapshot(9, before.tenants, {}, before.channels, before.routes)
        transport_body.set()
        yield BODY[5:]

    answer = await call(flow, sent, body=slow())
    assert code(answer) == (401, "auth.invalid")
    assert flow.accepted == []


async def test_a_large_body_is_hashed_beside_the_loop(flow, monkeypatch):
    beside = []
    real = asyncio.to_thread

    async def to_thread(work):
        beside.append(work)
        return await real(work)

    monkeypatch.setattr("gateway.api.access.asyncio.to_thread", to_thread)
    body = json.dumps({"to": "+8613800138000", "text": "x", "metadata": {"a": "b"}}).encode()
    large = body + b" " * 600_000
    assert (await call(flow, headers(body=large), body=large)).status_code == 202
    assert len(beside) == 1


async def test_when_nonces_cannot_be_told_apart_nothing_is_accepted(flow):
    class Full:
        async def take(self, key_id, nonce):
            return Nonce.UNSURE

    flow.access.nonces = Full()
    answer = await call(flow, headers())
    assert code(answer) == (503, "auth.nonce_unsure")
    assert int(answer.headers["retry-after"]) >= 1
    assert flow.accepted == []


# ---- nonces of one process ----


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


async def test_a_process_remembers_each_nonce_long_enough():
    clock = Clock()
    nonces = Nonces(None, clock)
    for second in range(0, 3000, 100):
        clock.now = float(second)
        assert await nonces.take(1, b"%d" % second) is Nonce.NEW_HERE
        for earlier in range(max(0, second - 600), second, 100):
            assert await nonces.take(1, b"%d" % earlier) is Nonce.USED
    clock.now += 5000
    assert await nonces.take(1, b"0") is Nonce.NEW_HERE
    assert await nonces.take(1, b"2900") is Nonce.NEW_HERE


async def test_what_a_process_remembers_is_bounded_and_it_says_so():
    clock = Clock()
    nonces = Nonces(None, clock, remembered=10)
    verdicts = [await nonces.take(1, b"%d" % n) for n in range(12)]
    assert verdicts == [Nonce.NEW_HERE] * 10 + [Nonce.UNSURE] * 2
    assert await nonces.take(1, b"3") is Nonce.USED
    clock.now = 611.0
    assert await nonces.take(1, b"11") is Nonce.NEW_HERE
    assert await nonces.take(1, b"3") is Nonce.USED  # the generation before
