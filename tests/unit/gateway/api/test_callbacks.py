"""Vendors' calls: who is let in, what becomes of what they bring, and what they are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from adapters.http.callbacks import address_of, path_of
from adapters.http.settings import HttpSettings
from adapters.http.vendor import Call, CallAnswer, CallKind, Pushed, Traits
from adapters.http.vendors import VendorKind
from gateway import calls
from gateway.api import callbacks
from gateway.api.access import Access
from gateway.api.address import Addresses
from gateway.api.app import build
from gateway.api.problems import ProblemError
from gateway.vendors import Vendors
from sms import config
from sms.errors import CallRefused, ConfigError
from sms.model import Inbound, Report
from tests.support.fake_flow import FakeFlow

CHANNEL = 7
RECEIPTS = path_of(CHANNEL, CallKind.RECEIPTS)
INBOUND = path_of(CHANNEL, CallKind.INBOUND)


class FakeVendor:
    """Brings what the body lists; its word is the secret in a header."""

    traits = Traits(asks=True)

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def pushed(self, call: Call) -> Pushed:
        self.calls.append(call)
        if call.headers.get("x-word", "") != "right" and "word=right" not in call.url:
            raise CallRefused(401, "the word is missing or wrong")
        try:
            told = json.loads(call.body or b"[]")
        except ValueError:
            raise CallRefused(400, "the body is no JSON") from None
        if told == "bug":
            raise KeyError("told")
        answer = CallAnswer(200, "text/plain; charset=utf-8", "好".encode())
        if call.kind is CallKind.INBOUND:
            texts = tuple(Inbound(99, one, "1069", "T") for one in told)
            return Pushed(texts=texts, answer=answer)
        reports = tuple(Report(99, str(one), "DELIVRD", "", "", "foreign") for one in told)
        return Pushed(reports=reports, answer=answer)


class World:
    """A flow with one HTTP channel of a fake vendor."""

    def __init__(self, **settings: Any) -> None:
        self.flow = FakeFlow()
        self.vendor = FakeVendor()
        vendor: Any = self.vendor
        self.kinds: Mapping[str, VendorKind] = {
            "fake": VendorKind(lambda raw: [], lambda channel: vendor, "login")
        }
        self.flow.vendors = Vendors(self.kinds)
        self.configure(**settings)
        self.app = build(self.flow)

    def configure(self, protocol: str = "fake", **settings: object) -> None:
        self.flow.vendors.use([config.Channel(CHANNEL, "vendor-d", protocol, settings)])

    async def call(
        self,
        path: str = RECEIPTS,
        body: object = None,
        method: str = "POST",
        peer: str = "203.0.113.9",
        **headers: str,
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body or []).encode()
        transport = httpx.ASGITransport(self.app, client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            said = {"x-word": "right"} | {k.replace("_", "-"): v for k, v in headers.items()}
            return await http.request(method, path, content=content, headers=said)

    async def begin(self, *args: Any, **more: Any) -> asyncio.Task[httpx.Response]:
        """A call that has handed over what it brought."""
        task = asyncio.create_task(self.call(*args, **more))
        for _ in range(100):
            await asyncio.sleep(0)
        return task

    def results(self) -> dict[tuple[str, ...], float]:
        samples = self.flow.metrics.carrier_calls_total.samples()
        return {tuple(labels): numbers[0] for labels, numbers in samples}


async def test_the_answer_is_the_vendors_own_and_comes_when_everything_is_durable() -> None:
    world = World()
    task = await world.begin(body=["a", "b"])
    tokens = [report.token for report in world.flow.reported]
    assert [(one.channel, one.carrier_id) for one in world.flow.reported] == [
        (CHANNEL, "a"),
        (CHANNEL, "b"),
    ]
    assert world.flow.calls.answer(tokens[:1], accepted=True) == []
    await asyncio.sleep(0)
    assert not task.done()
    world.flow.calls.answer(tokens[1:], accepted=True)
    answer = await task
    assert (answer.status_code, answer.text) == (200, "好")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-request-id"]
    assert world.results() == {("vendor-d", "receipts", "kept"): 1.0}


async def test_texts_go_to_the_desk_of_texts() -> None:
    world = World()
    task = await world.begin(INBOUND, ["8613800138000"])
    [text] = world.flow.brought
    assert (text.channel, text.number) == (CHANNEL, "8613800138000")
    world.flow.calls.answer([text.token], accepted=True)
    assert (await task).status_code == 200


async def test_a_call_that_brings_nothing_is_answered_at_once() -> None:
    assert (await World().call()).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_proves_a_call_may_stand_in_its_address(method: str) -> None:
    world = World(public_url="https://sms.example.com/base/")
    answer = await world.call(f"{RECEIPTS}?word=right&token=x", method=method, x_word="")
    assert answer.status_code == 200
    expected = f"https://sms.example.com/base{RECEIPTS}?word=right&token=x"
    assert world.vendor.calls[0].url == expected


async def test_without_a_public_url_the_address_is_what_was_asked_for() -> None:
    world = World()
    await world.call(f"{RECEIPTS}?a=%E5%A5%BD")
    assert world.vendor.calls[0].url == f"http://gateway{RECEIPTS}?a=%E5%A5%BD"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/carrier-callbacks/chn_0000000000000008/receipts",
        "/v1/carrier-callbacks/7/receipts",
        "/v1/carrier-callbacks/vendor-d/receipts",
        "/v1/carrier-callbacks/CHN_0000000000000007/receipts",
        "/v1/carrier-callbacks/chn_0000000000000007/other",
        "/v1/carrier-callbacks/chn_0000000000000007/Receipts",
        "/v1/carrier-callbacks/chn_0000000000000007/receipts/",
        "/v1/carrier-callbacks/chn_0000000000000007/receipts/x",
        "/v1/carrier-callbacks/chn_0000000000000007%2Freceipts",
        "/v1/carrier-callbacks/chn_0000000000000007/receipts%00",
        "/v1/carrier-callbacks/../carrier-callbacks/x/receipts",
        "/v1/carrier-callbacks/",
        "/v1/carrier-callbacks//receipts",
    ],
)
async def test_other_addresses_do_not_exist(path: str) -> None:
    world = World()
    answer = await world.call(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "resource.not_found"
    assert world.vendor.calls == []


@pytest.mark.parametrize("path", ["/v1/carrier-callbacksX/a/receipts", "/v1/carrier-callbacks"])
async def test_what_only_looks_like_a_callback_asks_for_a_key(path: str) -> None:
    assert (await World().call(path)).status_code == 401


async def test_a_channel_of_another_protocol_or_without_callbacks_has_none() -> None:
    world = World()
    world.configure("smpp")
    assert (await world.call()).status_code == 404
    world.configure(callbacks=False)
    assert (await world.call()).status_code == 404
    world.configure()
    assert (await world.call()).status_code == 200


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
async def test_other_methods_bring_nothing(method: str) -> None:
    world = World()
    answer = await world.call(body=["a"], method=method)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
    assert world.vendor.calls == []


async def test_only_listed_sources_may_call_whatever_they_send() -> None:
    world = World(callback_sources=["203.0.113.0/28", "2001:db8::/32"])
    assert (await world.call()).status_code == 200
    assert (await world.call(peer="2001:db8::1")).status_code == 200
    assert (await world.call(peer="::ffff:203.0.113.9")).status_code == 200
    for peer, said in (("203.0.113.16", ""), ("198.51.100.1", "203.0.113.9")):
        answer = await world.call(body=b"x" * 100, peer=peer, x_forwarded_for=said, method="PUT")
        assert (answer.status_code, answer.json()["code"]) == (403, "callback.not_allowed")
    assert len(world.vendor.calls) == 3


async def test_behind_a_trusted_proxy_its_word_counts() -> None:
    world = World(callback_sources=["203.0.113.0/28"])
    world.flow.access = Access(addresses=Addresses(["10.0.0.0/8"]))
    world.app = build(world.flow)
    forged = "203.0.113.9, 198.51.100.1"
    assert (await world.call(peer="10.0.0.1", x_forwarded_for=forged)).status_code == 403
    true = "198.51.100.1, 203.0.113.9"
    assert (await world.call(peer="10.0.0.1", x_forwarded_for=true)).status_code == 200


async def test_a_call_that_is_not_proven_brings_nothing_and_is_not_echoed() -> None:
    world = World()
    answer = await world.call(body=["secret-id"], x_word="wrong")
    assert (answer.status_code, answer.json()["code"]) == (401, "callback.unproven")
    assert b"secret-id" not in answer.content
    assert b"wrong" not in answer.content.replace(b"missing or wrong", b"")
    assert world.flow.reported == []
    assert world.results() == {("vendor-d", "receipts", "unproven"): 1.0}


@pytest.mark.parametrize(
    "body", [b"{", b"\xff\xfe", b"[" * 100_000, b"[" * 500_000 + b"]" * 500_000]
)
async def test_what_cannot_be_read_is_a_400(body: bytes) -> None:
    answer = await World().call(body=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "callback.unreadable")


async def test_a_body_that_is_too_large_or_packed_is_not_read() -> None:
    world = World()
    assert (await world.call(body=b"1" * (callbacks.MAX_BODY + 1))).status_code == 413
    packed = await world.call(body=b"\x1f\x8b", content_encoding="gzip")
    assert (packed.status_code, packed.json()["code"]) == (415, "body.encoding")
    assert world.vendor.calls == []


async def test_a_defect_of_ours_is_a_500_so_that_the_vendor_calls_again() -> None:
    world = World()
    answer = await world.call(body="bug")
    assert answer.status_code == 500
    assert world.results() == {("vendor-d", "receipts", "crashed"): 1.0}


async def test_what_is_refused_or_not_kept_in_time_is_called_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    task = await world.begin(body=["a", "b"])
    world.flow.calls.answer([world.flow.reported[0].token], accepted=False)
    answer = await task
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert world.flow.calls.answer([world.flow.reported[1].token], accepted=True) == []
    monkeypatch.setattr(calls, "KEPT_S", 0.01)
    assert (await world.call(body=["c"])).status_code == 503
    late = world.flow.reported[-1].token
    assert world.flow.calls.answer([late, "wire"], accepted=True) == ["wire"]
    assert world.flow.calls.answer(["wire"], accepted=True) == ["wire"]
    assert world.results() == {("vendor-d", "receipts", "not_kept"): 2.0}


async def test_ten_thousand_reports_in_one_call_leave_the_loop_in_between() -> None:
    world = World()
    task = asyncio.create_task(world.call(body=list(range(10_000))))
    turns = 0
    while len(world.flow.reported) < 10_000:
        before = len(world.flow.reported)
        await asyncio.sleep(0)
        turns += len(world.flow.reported) > before
    assert turns == 10_000 // calls.SLICE
    world.flow.calls.answer([one.token for one in world.flow.reported], accepted=True)
    assert (await task).status_code == 200


async def test_a_flood_is_bounded_and_one_channel_does_not_shut_others_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callbacks, "MAX_OPEN_OF_ONE", 2)
    world = World()
    channels = [config.Channel(number, f"v{number}", "fake", {}) for number in (CHANNEL, 8)]
    world.flow.vendors.use(channels)
    open_ones = [await world.begin(body=[number]) for number in range(2)]
    assert (await world.call(body=["beyond"])).status_code == 503
    other = await world.begin("/v1/carrier-callbacks/chn_0000000000000008/receipts", ["x"])
    world.flow.calls.answer([one.token for one in world.flow.reported], accepted=True)
    for task in (*open_ones, other):
        assert (await task).status_code == 200
    again = await world.begin(body=["after"])
    world.flow.calls.answer([world.flow.reported[-1].token], accepted=True)
    assert (await again).status_code == 200


def unread(world: World, peer: str, path: str = RECEIPTS) -> asyncio.Task[Any]:
    """A call whose body does not come: who makes it keeps it open."""

    async def never() -> Any:
        await asyncio.Event().wait()

    async def ignored(_: Any) -> None:
        pass

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path.partition("?")[0],
        "raw_path": path.encode(), "query_string": path.partition("?")[2].encode(),
        "headers": [(b"host", b"gateway")], "client": (peer, 4711), "server": ("gateway", 80),
        "scheme": "http", "root_path": "",
    }  # fmt: skip
    return asyncio.create_task(world.app(scope, never, ignored))  # type: ignore[arg-type]  # ASGI


async def turn() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_calls_that_nothing_proves_take_no_place_of_the_vendors() -> None:
    world = World()  # its vendor signs
    slow = [unread(world, "198.51.100.1") for _ in range(callbacks.MAX_OPEN)]
    await turn()
    assert (await world.call()).status_code == 200  # from another address
    answer = await world.call(peer="198.51.100.1")
    assert (answer.status_code, answer.json()["code"]) == (503, "callback.later")
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert (await world.call(peer="198.51.100.1")).status_code == 200


async def test_a_secret_is_looked_at_before_a_place_is_taken_and_a_body_read() -> None:
    world = World(callback_secret="s" * 16)
    slow = [unread(world, "198.51.100.1") for _ in range(callbacks.MAX_OPEN)]
    await turn()
    assert all(task.done() for task in slow)  # refused: their bodies were never waited for
    assert world.results() == {("vendor-d", "receipts", "unproven"): float(callbacks.MAX_OPEN)}
    assert (await world.call(f"{RECEIPTS}?secret={'s' * 16}")).status_code == 200
    assert len(world.vendor.calls) == 1


async def test_a_secret_that_a_vendor_shows_in_its_own_way_is_its_to_look_at() -> None:
    world = World(callback_secret="s" * 16)
    world.vendor.traits = Traits(shows_secret=False)
    assert (await world.call()).status_code == 200


async def test_a_vendor_is_made_anew_when_its_channel_changed_and_only_then() -> None:
    made: list[config.Channel] = []

    def make(channel: config.Channel) -> Any:
        made.append(channel)
        if channel.settings.get("is_bad"):
            raise ConfigError("is_bad: leave it out")
        return FakeVendor()

    vendors = Vendors({"fake": VendorKind(lambda raw: [], make, "login")})
    first = config.Channel(1, "a", "fake", {"url": "https://a.example"})
    vendors.use([first])
    account = vendors.account(1)
    assert account is not None
    vendors.use([config.Channel(1, "a", "fake", {"url": "https://a.example"})])
    assert vendors.account(1) is account
    vendors.use([config.Channel(1, "a", "fake", {"url": "https://b.example"})])
    assert vendors.account(1) is not account
    vendors.use([config.Channel(1, "a", "fake", {"is_bad": True})])
    assert [vendors.account(1), vendors.account(1), vendors.account(2)] == [None, None, None]
    assert (vendors.is_vendor(1), vendors.asks(1), vendors.is_vendor(2)) == (True, False, False)
    assert len(made) == 3


def test_the_address_that_a_vendor_is_told_holds_no_secret() -> None:
    own = HttpSettings(public_url="https://sms.example.com/", callback_secret="s" * 16)
    assert address_of(own, CHANNEL, CallKind.INBOUND) == f"https://sms.example.com{INBOUND}"
    assert address_of(HttpSettings(), CHANNEL, CallKind.INBOUND) == ""


async def test_a_refusal_is_logged_once_a_minute_and_channel_and_says_whose_and_why() -> None:
    now = [1000.0]
    world = World()
    door = callbacks.Callbacks(world.flow, lambda: now[0])
    world.app = FastAPI()
    door.register(world.app)
    with capture_logs() as lines:
        for word, body in (("", b"[]"), ("wrong", b"[]"), ("right", b"{13800138000")):
            with pytest.raises(ProblemError):
                await world.call(body=body, x_word=word)
        now[0] += callbacks.LOG_EVERY_S
        with pytest.raises(ProblemError):
            await world.call(body=b"{13800138000")
    told = [(one["channel"], one["result"], one["reason"], one["peer"]) for one in lines]
    assert told == [
        ("vendor-d", "unproven", "the word is missing or wrong", "203.0.113.9"),
        ("vendor-d", "unreadable", "the body is no JSON", "203.0.113.9"),
    ]
    assert "13800138000" not in str(lines)
    assert {key[2]: count for key, count in world.results().items()} == {
        "unproven": 2.0,
        "unreadable": 2.0,
    }


async def test_an_address_that_is_not_listed_is_logged_as_such() -> None:
    world = World(callback_sources=["198.51.100.0/24"])
    with capture_logs() as lines:
        assert (await world.call()).status_code == 403
    assert [(one["result"], one["kind"], one["peer"]) for one in lines] == [
        ("source", "receipts", "203.0.113.9")
    ]
