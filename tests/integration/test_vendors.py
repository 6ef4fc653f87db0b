"""Simulated vendors judged by the vendors' own SDKs: requests, verdicts, receipts, faults."""

import asyncio
import json
import secrets
import time
import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from adapters.http.vendor import Asked, Call, CallKind, Reply, Request, Verdict
from adapters.http.vendors import VENDORS
from loadtest.carrier import arguments, open_carrier
from loadtest.control import Controlled
from loadtest.phone import PhoneText
from loadtest.wirebench import ring
from receipts.normalise import ReportCodes
from sms import config
from sms.model import Filled, State
from sms.outcomes import Submitted
from tests.support.vendor_sdks import ACCOUNT, SECRET, SENDS, TEXT, Refused

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("protocol", sorted(SENDS))]
NUMBER = "+8613800138000"
# What a client hears: of a wrong secret, a throttle, a refusal, a failure that says so.
SAID = {
    "aliyun": ("SignatureDoesNotMatch", "Throttling.User", "isp.SYSTEM_ERROR"),
    "http": ("1", "8", "50"),
    "huawei": ("APIG.0301", "APIG.0308", "E000510"),
    "infobip": ("401", "429", "REJECTED_SYSTEM_ERROR"),
    "tencent": (
        "AuthFailure.SignatureFailure",
        "RequestLimitExceeded",
        "FailedOperation.InsufficientBalanceInSmsPackage",
    ),
    "twilio": ("20003", "20429", "21612"),
}


class Callbacks:
    """Our side's callbacks: what came, answered as each vendor wants to hear it."""

    def __init__(self) -> None:
        self.came: list[tuple[str, bytes, dict[str, str]]] = []
        self.refuses = 0  # so many are not taken first
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        if self.refuses:
            self.refuses -= 1
            return web.Response(status=503)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.came.append((request.path, await request.read(), headers))
        return web.json_response({"code": 0, "result": 0})

    async def first(self) -> tuple[str, bytes, dict[str, str]]:
        async with asyncio.timeout(10):
            while not self.came:  # noqa: ASYNC110 – the other side of a socket
                await asyncio.sleep(0.002)
        return self.came[0]


class Vendor:
    """A simulated vendor in this process, its callbacks, and its SDK as a client."""

    def __init__(self, protocol: str, carrier: Controlled, record: Path) -> None:
        self.carrier = carrier
        self.callbacks = Callbacks()
        self._send = SENDS[protocol]
        self._record = record

    async def send(self, secret: str = SECRET) -> str:
        def call() -> str:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what SDKs do with themselves is theirs
                return self._send(self.carrier.port, NUMBER, secret)

        return await asyncio.to_thread(call)

    async def refusal(self, secret: str = SECRET) -> str:
        with pytest.raises(Refused) as refused:
            await self.send(secret)
        return str(refused.value)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._record.read_text("utf-8").splitlines()]

    def behave(self, **changes: Any) -> None:
        desk = self.carrier._desk
        desk.behaviour = replace(desk.behaviour, **changes)


@pytest.fixture
async def vendor(protocol: str, tmp_path: Path) -> AsyncIterator[Vendor]:
    record = tmp_path / "vendor.jsonl"
    told = tmp_path / "callback"
    words = ["--name", "v", "--protocol", protocol, "--port", "0", "--control-port", "0"]
    words += ["--record", str(record), "--system-id", ACCOUNT, "--password", SECRET]
    words += ["--latency-ms", "0", "--receipt-delay-ms", "0", "--callback-file", str(told)]
    carrier = open_carrier(arguments().parse_args(words))
    found = Vendor(protocol, carrier, record)
    application = web.Application()
    application.add_routes([web.post("/v1/{kind}", found.callbacks.take)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.callbacks.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/{{kind}}"
    told.write_text(found.callbacks.url)
    await carrier.listen()
    tasks = [asyncio.create_task(one) for one in carrier.work()]
    yield found
    await carrier.set_link("down")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await runner.cleanup()
    carrier.close()


async def test_the_sdk_is_understood_and_understands(protocol: str, vendor: Vendor) -> None:
    assert await vendor.refusal("another") == SAID[protocol][0]
    assert vendor.rows() == []
    carrier_id = await vendor.send()
    [row] = vendor.rows()
    assert (row["to"], row["carrier_id"]) == (NUMBER[1:], carrier_id)
    assert (row["index"], row["total"], row["segment_ref"]) == (1, 1, None)
    assert "482915" in row["text"]
    assert bytes.fromhex(row["hex"]).decode("utf-16-be") == row["text"]
    if protocol in ("http", "infobip", "twilio"):
        assert row["text"] == TEXT
    _, body, headers = await vendor.callbacks.first()
    is_delivered = read_receipt(protocol, vendor, body, headers) == carrier_id
    assert is_delivered, body


OURS: dict[str, dict[str, Any]] = {
    "aliyun": {"access_key_id": ACCOUNT, "access_key_secret": SECRET},
    "http": {
        "account": ACCOUNT,
        "api_secret": SECRET,
        "send": {
            "url": "{url}/sms",
            "headers": {"X-Account": "{account}", "X-Timestamp": "{unix}"},
            "auth": {
                "type": "hmac",
                "algorithm": "sha256",
                "encoding": "hex",
                "key": "{api_secret}",
                "sign": "{unix}\n{method}\n{path}\n{body}",
                "in": {"header": "X-Signature"},
            },
            "json": {"messages": "{each}"},
            "batch": {
                "max": 500,
                "each": {"to": "{number}", "text": "{text}", "ref": "{reference}"},
            },
        },
        "answer": {
            "accepted": {"status": 200},
            "items": {
                "path": "$.messages",
                "by": "reference",
                "key": "$.ref",
                "accepted": {"$.code": 0},
                "refused": {"$.code": {"not": 0}},
                "code": "$.code",
                "id": "$.id",
            },
        },
        "receipts": {
            "items": "$.receipts",
            "id": "$.id",
            "reference": "$.ref",
            "number": "$.to",
            "state": "$.status",
            "error": "$.error",
        },
    },
    "huawei": {"app_key": ACCOUNT, "app_secret": SECRET},
    "infobip": {"api_key": SECRET},
    "tencent": {"secret_id": ACCOUNT, "secret_key": SECRET, "sdk_app_id": "1400006666"},
    "twilio": {"account_sid": ACCOUNT, "auth_token": SECRET},
}


async def test_our_own_channel_is_understood_and_understands(protocol: str, vendor: Vendor) -> None:
    """The gateway's requests, receipts and queries against checks that know nothing of it."""
    settings = {**OURS[protocol], "url": f"http://127.0.0.1:{vendor.carrier.port}"}
    settings["callback_sources"] = ["127.0.0.1/32"]
    sender = "+15017122661" if protocol == "twilio" else "10690001"
    ours = VENDORS[protocol].make(config.Channel(7, "c", protocol, settings, sender=sender))
    filled = Filled("SMS_1", (("code", "482915"),))
    submit = replace(ring(1)[0], filled=filled, sender=sender, number=NUMBER[1:])
    sent = await exchange(ours.send([submit], time.time(), secrets.token_hex(16)))
    [outcome] = ours.read([submit], sent)
    assert isinstance(outcome, Submitted), sent
    _, body, headers = await vendor.callbacks.first()
    url = vendor.callbacks.url.replace("{kind}", "receipts")
    call = Call(CallKind.RECEIPTS, "POST", url, headers, body, time.time())
    [report] = ours.pushed(call).reports
    assert report.carrier_id == outcome.carrier_id
    assert (
        ReportCodes(protocol, VENDORS[protocol].reports).read(report.state, report.error)[0].state
        is State.DELIVERED
    )
    if ours.traits.asks:
        asked = [Asked(submit, time.time(), outcome.carrier_id)]
        question = ours.question(asked, time.time(), secrets.token_hex(16))
        [told] = ours.told(asked, await exchange(question))
        assert told.verdict is Verdict.ENDED
        assert told.carrier_id == outcome.carrier_id


async def exchange(request: Request) -> Reply:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            request.method,
            URL(request.url, encoded=True),
            headers=dict(request.headers),
            data=request.body or None,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type"),
        ) as answer,
    ):
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(answer.status, headers, await answer.read())


def read_receipt(protocol: str, vendor: Vendor, body: bytes, headers: dict[str, str]) -> str:
    """The id of a receipt of a delivery, as the vendor documents the push."""
    match protocol:
        case "aliyun":
            [told] = json.loads(body)
            assert (told["success"], told["err_code"]) == (True, "DELIVERED")
            assert (told["phone_number"], told["out_id"]) == (NUMBER[3:], "msg_1-1")
            return str(told["biz_id"])
        case "tencent":
            [told] = json.loads(body)
            assert (told["report_status"], told["errmsg"], told["ext"]) == (
                *("SUCCESS", "DELIVRD"),
                "msg_1-1",
            )
            return str(told["sid"])
        case "huawei":
            form = dict(parse_qsl(body.decode()))
            assert (form["status"], form["extend"]) == ("DELIVRD", "msg_1-1")
            return form["smsMsgId"]
        case "twilio":
            from twilio.request_validator import RequestValidator

            form = dict(parse_qsl(body.decode()))
            url = vendor.callbacks.url.replace("{kind}", "receipts")
            good = RequestValidator(SECRET).validate(url, form, headers["x-twilio-signature"])
            assert good
            assert form["MessageStatus"] == "delivered"
            return form["MessageSid"]
        case "infobip":
            from infobip_api_client import SmsDeliveryResult

            result = SmsDeliveryResult.from_json(body.decode())
            assert result is not None
            [report] = result.results or []
            assert report.status is not None
            assert (report.status.group_name, report.callback_data) == ("DELIVERED", "msg_1-1")
            return str(report.message_id)
        case _:
            [told] = json.loads(body)["receipts"]
            assert (told["status"], told["ref"]) == ("DELIVRD", "msg_1-1")
            return str(told["id"])


async def test_it_fails_in_its_own_words(protocol: str, vendor: Vendor) -> None:
    _, throttled, failed = SAID[protocol]
    vendor.behave(throttle_share=1)
    assert await vendor.refusal() == throttled
    vendor.behave(throttle_share=0, failure_share=1)
    assert await vendor.refusal() == failed
    assert [row["carrier_id"] for row in vendor.rows()] == [None, None]
    assert vendor.carrier.counts()["accepted"] == 0
    await vendor.carrier.set_link("down")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", vendor.carrier.port)


async def test_a_phones_text_is_pushed_until_it_is_heard(
    protocol: str, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.vendors.pusher.AGAIN_S", 0.01)
    vendor.callbacks.refuses = 2
    assert vendor.carrier.phone(PhoneText(NUMBER[1:], "10690001", "退订")) == 1
    path, body, _ = await vendor.callbacks.first()
    assert path == "/v1/inbound"
    told = dict(parse_qsl(body.decode())) if protocol in ("huawei", "twilio") else json.loads(body)
    assert "退订" in json.dumps(told, ensure_ascii=False)
    assert vendor.carrier.counts()["reports_again"] == 2
