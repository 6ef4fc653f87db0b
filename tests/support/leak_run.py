"""One whole run of a gateway with everything personal that there is, and all that it emitted.

Sends by every door, lets carriers, vendors and receivers of webhooks talk back, breaks what can be
broken while numbers and texts are in its hands, and then collects what is left of it: files,
answers, memory. What may stand where is said in `ALLOWED`, with the reason.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import httpx
import psutil

from tests.support import sign_vectors
from tests.support.gateway_process import ROOT, GatewayProcess, Json, eventually
from tests.support.leak_world import BadCarrier, BadVendor, EchoHooks
from tests.support.leaks import Personal, as_json, dump_memory

SABOTAGE = ROOT / "tests" / "support" / "sabotage"
NONE: frozenset[str] = frozenset()
PATIENCE_S = 120  # a machine with much else to do: what is waited for takes some seconds
# What may stand where. Everything else must be nowhere.
ALLOWED: dict[str, frozenset[str]] = {
    # The tenant is told its own references; a text from a phone is for the tenant (RELIABILITY 10).
    "webhooks/masked": frozenset({"reference", "inbound"}),
    # This endpoint opted in to whole numbers.
    "webhooks/full": frozenset({"reference", "inbound", "number"}),
    # The sandbox hands out its own keys there, for scripts (mode 0600).
    "sandbox.json": frozenset({"secret"}),
    # `up --sandbox` prints how to send, with the sandbox's key (API section 6).
    "stdout": frozenset({"secret"}),
    "master.key": frozenset({"secret"}),
    # `export --unmask` is asked for whole numbers and tells the audit log who did.
    "commands/export-unmasked": frozenset({"number", "reference"}),
    "commands/export": frozenset({"reference"}),
    # The operator's list names the tenant's own reference of a message.
    "answers/admin": frozenset({"reference"}),
}
# Not looked at. The simulated carriers and the sandbox's receiver are other people's: they record
# what they were sent. `sandbox/` holds the sandbox's own secrets in files of mode 0600.
OTHERS = ("carriers", "sandbox", "run", "sandbox.yaml")

TENANT = "leaky"
PLACES = (  # (who, place, error)
    ("worker", "gateway.api.quick:QuickDoor.take", "ValueError"),
    ("worker", "gateway.api.suppressions:parse_number", "ValueError"),
    ("worker", "gateway.api.lists:parse_number", "KeyError"),
    ("worker", "gateway.settle:Settler._submitted", "RuntimeError"),
    ("worker", "gateway.reports:Reports._judge", "ValueError"),
    ("worker", "gateway.inbound_commit:InboundCommit.keep", "ValueError"),
    ("worker", "adapters.session:WireSession.receive", "ValueError"),
    ("worker", "adapters.http.channel:HttpChannel._exchange", "RuntimeError"),
    ("worker", "webhooks.deliver:sign.headers", "ValueError"),
    ("worker", "gateway.dispatch:Dispatcher._submits", "ValueError"),
)
WORDS = (  # what no handler of ours is around
    "forgotten_task",
    "callback",
    "thread",
    "unraisable",
    "warning",
    "library",
    "own",
    "database",
)


class LeakRun:
    """The run, step by step; `sinks` at the end."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.personal = Personal.roll(seed)
        self.orders = folder / "orders"
        self.orders.mkdir()
        self.emitted = folder / "emitted"
        self.gateway = GatewayProcess(workers=2, inbound_join_s="1", overdue_after_s="2")
        self.gateway.env |= {
            "SMSGW_LOG_LEVEL": "debug",
            "PYTHONASYNCIODEBUG": "1",
            "PYTHONFAULTHANDLER": "1",
            "SABOTAGE_FOLDER": str(self.orders),
            "PYTHONPATH": str(SABOTAGE),
        }
        self.key = ""
        self.ids: list[str] = []
        self.fired: list[str] = []
        self.began = time.time()
        self.stack = contextlib.ExitStack()
        self._client = httpx.Client(timeout=15, trust_env=False)

    def __enter__(self) -> LeakRun:
        self.stack.enter_context(self._client)
        self.hooks = self.stack.enter_context(EchoHooks(self.personal.text("收到")))
        self.bad_carrier = self.stack.enter_context(BadCarrier(self.personal))
        self.bad_vendor = self.stack.enter_context(BadVendor(self.personal))
        self.stack.enter_context(self.gateway)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    # -- small things --------------------------------------------------------------------------

    def put(self, name: str, data: bytes | str) -> None:
        """Keep what was emitted under the name of its sink."""
        path = self.emitted / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.write(b"\n\n")

    def call(
        self, method: str, path: str, body: object = None, key: str | None = None, **heads: str
    ) -> httpx.Response:
        """One request; a refusal is kept as a sink."""
        headers = {"authorization": f"Bearer {self.key if key is None else key}"}
        headers |= {"content-type": "application/json"} | heads
        content = body if isinstance(body, bytes) or body is None else as_json(body)
        answer = self._client.request(
            method, self.gateway.url + path, content=content, headers=headers
        )
        if answer.status_code >= 400:
            self.keep("answers/errors", method, answer)
        return answer

    def keep(self, sink: str, method: str, answer: httpx.Response) -> None:
        """An answer, its headers too, but for the request id that the caller gave."""
        told = f"{method} {answer.status_code} {answer.headers.multi_items()} {answer.text}"
        own_id = answer.request.headers.get("x-request-id")
        self.put(sink, told.replace(own_id, "") if own_id else told)

    def admin(self, method: str, path: str, body: object = None, **heads: str) -> httpx.Response:
        """As the operator; the answer is a sink."""
        answer = self.call(method, path, body, self.gateway.sandbox["admin_key"], **heads)
        if not (method == "POST" and path.endswith("keys")):
            self.keep("answers/admin", method, answer)
        return answer

    def send(self, **fields: object) -> str:
        """What must be accepted; its id."""
        answer = self.call("POST", "/v1/messages", fields)
        assert answer.status_code == 202, answer.text
        self.ids.append(str(answer.json()["id"]))
        return self.ids[-1]

    def order(self, who: str, place: str, error: str = "ValueError") -> None:
        """Have the next process that comes there fail, with something personal in its hands."""
        name = f"{who}.{place.replace(':', '_')}"
        number = self.personal.number("+86139", 92)
        text = self.personal.text("您的验证码是")
        quoted = {"ValueError": repr(text), "KeyError": text}.get(error, f'"{text}')
        told = {
            "who": who,
            "place": place,
            "error": error,
            "message": f"cannot digest {quoted} of {number}",
            "number": number,
        }
        fresh = self.orders / f"new-{name}"
        fresh.write_text(json.dumps(told))
        fresh.rename(self.orders / f"arm-{name}")

    def until_fired(self, who: str, place: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until it did."""
        fired = self.orders / f"fired-{who}.{place}"
        try:
            eventually(fired.exists, f"{place} failed", timeout_s)
        except AssertionError as error:
            for trouble in self.orders.glob("trouble-*"):
                error.add_note(trouble.read_text("utf-8"))
            raise
        self.fired.append(place)

    # -- the steps -------------------------------------------------------------------------------

    def configure(self) -> None:
        """A tenant with two endpoints, a signing key, and ways to those who talk nonsense."""
        gateway, made = self.gateway, secrets.token_hex
        kept = self.personal.secrets
        kept["webhook"] = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        kept["carrier"], kept["vendor"] = made(4), made(20)
        for name in ("webhook", "carrier", "vendor"):
            (gateway.folder / f"{name}.secret").write_text(kept[name])
        channel = {"segments_per_second": 1000, "classes": ["otp", "transactional", "marketing"]}
        spec = {
            "tenants": [
                {
                    "name": TENANT,
                    "signatures": ["某商城"],
                    "countries": [86, 1],
                    "inbound_numbers": ["10690001"],
                    "limits": {"segments_per_second": 1000, "burst_segments": 4000},
                    "otp_caps": {"prefix_burst": 0},
                    "api_keys": [
                        {"name": "k", "scopes": ["send", "read"], "secret_file": "leaky.key"},
                        {
                            "name": "signing",
                            "scopes": ["send", "read"],
                            "signing": True,
                            "secret_file": "signing.key",
                            "signing_secret_file": "signing.secret",
                        },
                    ],
                }
            ],
            "channels": [
                {
                    "name": "bad-smpp",
                    "protocol": "smpp",
                    "host": "127.0.0.1",
                    "port": self.bad_carrier.port,
                    "system_id": "bad",
                    "password_file": "carrier.secret",
                    "bind": "trx",
                    "sessions": 1,
                    "window": 4,
                    "submit_timeout_s": 1,
                    **channel,
                },
                {
                    "name": "bad-vendor",
                    "protocol": "infobip",
                    "url": f"http://127.0.0.1:{self.bad_vendor.port}",
                    "api_key_file": "vendor.secret",
                    "callback_secret_file": "vendor.secret",
                    "sender": "10690001",
                    "window": 4,
                    "submit_timeout_s": 1,
                    **channel,
                },
            ],
            "routes": [
                {"tenant": TENANT, "class": "*", "carrier": "CB", "channels": ["bad-smpp"]},
                {
                    "tenant": TENANT,
                    "class": "transactional",
                    "carrier": "CB",
                    "channels": ["bad-vendor"],
                },
            ],
            "templates": [
                {
                    "name": "login-code",
                    "tenant": TENANT,
                    "class": "otp",
                    "text": "您的验证码是{code}，{minutes}分钟内有效。",
                }
            ],
            "webhook_endpoints": [
                {
                    "tenant": TENANT,
                    "url": f"{self.hooks.url}/{name}",
                    "events": ["message.*", "inbound.received", "recipient.opted_out"],
                    "full_number": name == "full",
                    "secret_file": "webhook.secret",
                }
                for name in ("masked", "full")
            ],
        }
        self.put("commands/apply", gateway.apply(json.dumps(spec, ensure_ascii=False)))
        self.key = (gateway.folder / "leaky.key").read_text().strip()
        kept["API key"] = self.key.rsplit("_", 1)[-1]
        kept["signing key"] = (gateway.folder / "signing.key").read_text().strip().rsplit("_")[-1]
        kept["signing secret"] = (
            (gateway.folder / "signing.secret").read_text().strip().rsplit("_")[-1]
        )
        kept["sandbox key"] = str(gateway.sandbox["api_key"]).rsplit("_", 1)[-1]
        kept["admin key"] = str(gateway.sandbox["admin_key"]).rsplit("_", 1)[-1]
        kept["callback"] = (gateway.data_dir / "sandbox" / "callback.secret").read_text().strip()
        raw = (gateway.data_dir / "master.key").read_text().strip()
        self.personal.keys["master key"] = _key_bytes(raw)
        eventually(
            lambda: self.call("GET", "/v1/messages").status_code == 200,
            "the key is known",
            PATIENCE_S,
        )

    def good_sends(self) -> None:
        """Every kind of message that is accepted."""
        me = self.personal
        reference = me.reference
        common: Json = {"metadata": {"order": reference}}
        for n, (prefix, words) in enumerate(
            [
                ("+86139", "您的验证码是"),
                ("+86186", "到货通知"),
                ("+86189", "余额"),
                ("+1212", "Code"),
            ]
        ):
            text = me.text(words) if prefix != "+1212" else f"{words} {me.code} is yours"
            to = me.number(prefix, n)
            self.send(to=to, text=text, **{"class": "otp"}, client_ref=f"{reference}-{n}", **common)
            self.send(to=to, text=me.text("长" * 90), **{"class": "transactional"})
        self.send(to=me.number("+86139", 5), text=me.text("促销"), **{"class": "marketing"})
        self.send(
            to=me.number("+86139", 6),
            template_id=self._template(),
            variables={"code": me.code, "minutes": "5"},
        )
        later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 7200))
        self.send(to=me.number("+86139", 7), text=me.text("稍后"), send_at=later)
        heads = {"idempotency-key": f'"{reference}"'}
        body = {"to": me.number("+86139", 8), "text": me.text("一次")}
        for _ in range(2):
            assert self.call("POST", "/v1/messages", body, **heads).status_code == 202
        batch = [{"to": me.number("+86139", n), "text": me.text("群发")} for n in (9, 10, 11)]
        batch.append({"to": me.number("+86139", 12) + "9", "text": me.text("错")})
        answer = self.call("POST", "/v1/batches", {"messages": batch, "defaults": {}})
        assert len(answer.json()["accepted"]) == 3
        self.put("answers/errors", json.dumps(answer.json()["rejected"], ensure_ascii=False))
        assert self._signed(me.number("+86139", 13)).status_code == 202

    def _signed(self, to: str, *, secret: str = "") -> httpx.Response:
        folder = self.gateway.folder
        name = (folder / "signing.key").read_text().strip()
        keys = self.admin("GET", f"/v1/tenants/{self.tenant_id()}/api-keys").json()["data"]
        [key_id] = [one["id"] for one in keys if one["name"] == "signing"]
        assert name
        secret = secret or (folder / "signing.secret").read_text().strip()
        body = as_json({"to": to, "text": self.personal.text("签名")})
        stamp, nonce = int(time.time()), secrets.token_hex(16)
        _, signature = sign_vectors.sign(secret, "POST", "/v1/messages", "", body, stamp, nonce)
        heads = {
            "x-smsgw-key": key_id,
            "x-smsgw-timestamp": str(stamp),
            "x-smsgw-nonce": nonce,
            "x-smsgw-signature": signature,
            "content-type": "application/json",
        }
        answer = self._client.post(self.gateway.url + "/v1/messages", content=body, headers=heads)
        if answer.status_code >= 400:
            self.keep("answers/errors", "POST", answer)
        return answer

    def _template(self) -> str:
        found = self.admin("GET", "/v1/templates").json()["data"]
        return next(str(one["id"]) for one in found if one["name"] == "login-code")

    def tenant_id(self) -> str:
        """The id of the run's tenant."""
        found = self.gateway.request("GET", "/v1/tenants", key=self.gateway.sandbox["admin_key"])
        return next(str(one["id"]) for one in found.json()["data"] if one["name"] == TENANT)

    def refused(self) -> None:
        """Everything wrong that holds a number, a text or a key."""
        me, call = self.personal, self.call
        to, text = me.number("+86139", 20), me.text("您的验证码是")
        bad_key = self.key[:-6] + "AAAAAA"
        good = {"to": to, "text": text}
        for body in (
            {**good, "to": to + "99"},
            {**good, "to": f"+999{to[3:]}"},
            {**good, "class": text},
            {**good, text: to, to: text, to[1:]: 1},
            {**good, "valid_for_s": text},
            {**good, "send_at": text},
            {**good, "signature": text},
            {**good, "client_ref": f"{me.reference}-0"},
            {**good, "text": "【别人】" + text},
            {**good, "encoding": "gsm7"},
            {**good, "max_segments": 1, "text": text * 5},
            {"to": [to], "text": {"a": text}},
            {**good, "template_id": text, "variables": {to: text}},
            {**good, "metadata": {text: [to]}},
        ):
            assert call("POST", "/v1/messages", body).status_code >= 400
        raw = as_json(good)
        for octets in (
            raw[:-3],
            raw + raw,
            b"[" * 30 + raw,
            raw.replace(b'"text"', b'"to"'),
            raw.replace(b"}", f', "{to}": NaN}}'.encode()),
            raw[:40] + b"\xff\xfe" + raw[40:],
            f'{{"to": "{to}", "text": "\\ud800{text}"}}'.encode(),
            text.encode(),
        ):
            assert call("POST", "/v1/messages", octets).status_code >= 400
            assert call("POST", "/v1/batches", octets).status_code >= 400
            assert call("POST", "/v1/suppressions", octets).status_code >= 400
        plus, quoted = to.replace("+", "%2B"), httpx.QueryParams({"q": text})
        for path in (
            f"/v1/messages/{plus}",
            f"/v1/messages/{to[1:]}",
            f"/v1/messages?to={plus}",
            f"/v1/messages?{to[1:]}={quoted}",
            f"/v1/messages?cursor={to[1:]}&status={quoted}",
            f"/v1/messages?api_key={self.key}",
            f"/v1/suppressions/{plus}",
            f"/v1/{quoted}/{to[1:]}",
            f"/v1/messages/{to[1:]}/timeline",
            f"/{to[1:]}",
            f"/v1/batches/{to[1:]}",
        ):
            assert call("GET", path).status_code >= 400
            self.keep("answers/errors", "GET", self._client.get(self.gateway.admin_url + path))
        heads = {"x-request-id": to[1:], "idempotency-key": f'"{to}"', "x-to": to}
        call("POST", "/v1/messages", good, bad_key, **heads)
        call("POST", "/v1/messages", good, f"{to} {me.code}", **heads)
        call("POST", "/v1/messages", {**good, "class": "x"}, **heads)
        call("POST", "/v1/messages", {**good, "text": text + "!"}, **{"idempotency-key": to})
        self._signed(to, secret=f"smsgw_signing_{me.code}{me.code}{me.code}")
        same = {"idempotency-key": f'"{me.reference}"'}
        assert call("POST", "/v1/messages", good, **same).status_code == 422
        self._raw(f"POST /v1/messages?{to} {text} HTTP/1.1\r\n\r\n".encode())
        self._raw(f"{to} {text}\r\n\r\n".encode())
        self._raw(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nX: " + to.encode() * 2000)

    def _raw(self, octets: bytes) -> None:

        with socket.create_connection(("127.0.0.1", self.gateway.port)) as link:
            link.sendall(octets)
            link.settimeout(3)
            with contextlib.suppress(OSError):
                self.put("answers/errors", link.recv(65536))

    def lists(self) -> None:
        """Suppressions, ported numbers, searches, and what the operator reads."""
        me = self.personal
        entry = self.call("POST", "/v1/suppressions", {"to": me.number("+86139", 30)})
        assert entry.status_code == 201
        self.call("POST", "/v1/messages", {"to": me.number("+86139", 30), "text": me.text("促"),
                                           "class": "marketing"})  # fmt: skip
        self.call("DELETE", f"/v1/suppressions/{entry.json()['id']}")
        self.call("POST", "/v1/suppressions", {"to": me.number("+86139", 31)})
        ported = {"numbers": [{"to": me.number("+86139", 32), "carrier": "CU"}]}
        assert self.admin("POST", "/v1/ported-numbers", ported).status_code == 200
        found = self.call("POST", "/v1/messages:search", {"to": me.number("+86139", 0)})
        assert found.json()["data"]
        preview = {"to": me.number("+86139", 33), "text": me.text("预览")}
        assert self.call("POST", "/v1/messages:preview", preview).status_code == 200
        for path in ("/v1/messages?limit=1000", "/v1/audit-events", "/v1/tenants", "/v1/channels",
                     "/v1/routes", "/v1/templates", f"/v1/tenants/{self.tenant_id()}/api-keys",
                     "/v1/usage"):  # fmt: skip
            self.admin("GET", path)
        cancel = self.send(
            to=me.number("+86139", 34),
            text=me.text("撤回"),
            send_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 9000)),
        )
        assert self.call("POST", f"/v1/messages/{cancel}:cancel").status_code == 200

    def from_phones(self) -> None:
        """Texts from phones over each protocol, long ones and half ones; an opt-out; callbacks."""
        me = self.personal
        for n, name in enumerate(("mobile-a", "unicom-a", "telecom-a", "global-a")):
            carrier = self.gateway.carriers[name]
            sender = me.number("+86139", 40 + n)
            carrier.phone(sender=sender, to="10690001", text=me.inbound("查询"))
            carrier.phone(sender=sender, to="10690001", text=me.inbound("长" * 90), reference=n + 1)
        half = me.number("+86139", 45)
        self.gateway.carriers["mobile-a"].phone(
            sender=half, to="10690001", text=me.inbound("半" * 90), only=[1], reference=9
        )
        self.gateway.carriers["global-a"].phone(sender=half, to="10690001", text="TD")
        channels = self.gateway.request(
            "GET", "/v1/channels", key=self.gateway.sandbox["admin_key"]
        ).json()["data"]
        [vendor] = [one["id"] for one in channels if one["name"] == "vendor-a"]
        secret = me.secrets["callback"]
        to, text = half.lstrip("+"), me.inbound("查询")
        inbound = {"results": [{"messageId": text, "from": to, "to": "10690001", "text": text,
                                "cleanText": text, "receivedAt": "2026-11-22T10:00:00.000+0000",
                                "smsCount": 1}], "messageCount": 1}  # fmt: skip
        status = {"groupName": to, "name": text, "groupId": 5, "id": 1, "description": text}
        # The id is the vendor's to choose, and stays as it is: reports are matched by it.
        receipt = {"results": [{"messageId": "v-1", "to": to, "status": status, "error": status}]}
        for kind, body, key in (
            ("inbound", inbound, secret),
            ("inbound", inbound, me.code),
            ("receipts", receipt, secret),
            ("receipts", {to: text}, secret),
            ("receipts", receipt, ""),
        ):
            path = f"/v1/carrier-callbacks/{vendor}/{kind}?secret={key}"
            self.call("POST", path, body)
            self.call("POST", path, as_json(body)[:-9])
            self.call("GET", f"{path}&to={to}&text={text}")

    def nonsense(self) -> None:
        """The carrier and the vendor that talk nonsense; the receiver that says everything back."""
        me = self.personal
        for n in range(16):
            kind = "otp" if n % 2 else "transactional"
            self.send(to=me.number("+86192", 50 + n), text=me.text("胡言"), **{"class": kind})

    def failures(self) -> None:
        """Everything that can fail, with something personal in its hands."""
        me = self.personal
        for who, place, error in PLACES:
            self.order(who, place, error)
        time.sleep(0.2)  # until both workers have armed them
        n = 66
        waiting = {f"{who}.{place.replace(':', '_')}" for who, place, _ in PLACES}
        end = time.monotonic() + PATIENCE_S
        while waiting and time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError, AssertionError):
                self._provoke(66 + n % 20)
            n += 1
            waiting = {one for one in waiting if not (self.orders / f"fired-{one}").exists()}
        assert not waiting, waiting
        self.fired += [place for _, place, _ in PLACES]
        self.gateway.wait_ready()
        for who in ("worker", "supervisor"):
            for word in WORDS if who == "worker" else ("forgotten_task", "thread", "unraisable"):
                self.order(who, word)
                self.until_fired(who, word)
        asyncio.run(self._statements())
        assert me.given

    def _provoke(self, n: int) -> None:
        me = self.personal
        to = me.number("+86139", n)
        with httpx.Client(timeout=5, trust_env=False) as client:  # any worker
            heads = {"authorization": f"Bearer {self.key}"}
            url = self.gateway.url
            for path, body in (
                ("/v1/messages", {"to": to, "text": me.text("故障")}),
                ("/v1/messages", {"to": me.number("+86192", n), "text": me.text("故障")}),
                ("/v1/suppressions", {"to": to, "classes": ["marketing"]}),
                ("/v1/messages:search", {"to": to}),
                ("/v1/messages", {"to": me.number("+1212", n % 10), "text": me.code}),
            ):
                answer = client.post(url + path, json=body, headers=heads)
                if answer.status_code >= 400:
                    self.keep("answers/errors", "POST", answer)
            # the sandbox's own receiver is always well: something is delivered to it
            heads = {"authorization": f"Bearer {self.gateway.sandbox['api_key']}"}
            client.post(url + "/v1/messages", json={"to": to, "text": me.text("故")}, headers=heads)
        self.gateway.carriers["mobile-a"].phone(
            sender=to, to="10690001", text=me.inbound(f"查询{n}")
        )

    async def _statements(self) -> None:
        """What PostgreSQL says in its own log of statements that fail with values."""
        me = self.personal
        number, text = me.number("+86139", 93), me.text("您的验证码是")
        conn = await asyncpg.connect(self.gateway.dsn)
        try:
            await conn.execute("CREATE TEMP TABLE held (n text PRIMARY KEY, i bigint)")
            await conn.execute("INSERT INTO held VALUES ($1, 1)", number + text)
            for sql, values in (
                ("INSERT INTO held VALUES ($1, 2)", (number + text,)),
                ("INSERT INTO held VALUES ($1, NULL), ($1, 3)", (text,)),
                ("SELECT 1 / (length($1) - length($1))", (number + text,)),
            ):
                with contextlib.suppress(asyncpg.PostgresError):
                    await conn.execute(sql, *values)
            await conn.execute("SET statement_timeout = 50")
            with contextlib.suppress(asyncpg.PostgresError):
                await conn.execute("SELECT pg_sleep(2), $1::text", number + text)
            with contextlib.suppress(asyncpg.PostgresError):
                await conn.copy_records_to_table("held", records=[(number + text, 4)] * 2)
        finally:
            await conn.close()

    def deaths(self) -> None:
        """A worker that crashes with faulthandler, and one that is killed, with texts under way."""
        me = self.personal
        for n in range(5):
            self.send(to=me.number("+86139", 86), text=me.text(f"之前{n}"))
        self.order("worker", "crash")
        self.until_fired("worker", "crash")
        eventually(self._is_replaced, "it is back", PATIENCE_S)
        self.gateway.kill("worker-0")
        self.gateway.wait_ready()
        eventually(lambda: self._may_send(87), "texts are accepted again", PATIENCE_S)

    def _is_replaced(self) -> bool:
        """Whether who crashed is gone from the list, and the one to be killed stands in it."""
        crashed, pids = (self.orders / "fired-worker.crash").read_text(), self.gateway.pids()
        return bool(crashed) and int(crashed) not in pids.values() and "worker-0" in pids

    def _may_send(self, n: int) -> bool:
        try:
            self.send(to=self.personal.number("+86139", n), text=self.personal.text("之后"))
        except (httpx.TransportError, AssertionError):
            return False
        return True

    def commands(self) -> None:
        """What the operator's commands print; `doctor` is `check` and more."""
        run = self.gateway.command
        commands = {
            "top": ("top", "--once"),
            "doctor": ("doctor",),
            "export": ("export", TENANT, "--days", "1"),
            "export-unmasked": ("export", TENANT, "--days", "1", "--unmask", "a test"),
        }
        with ThreadPoolExecutor(3) as pool:
            done = list(pool.map(lambda words: run(*words), commands.values()))
        for name, one in zip(commands, done, strict=True):
            self.put(f"commands/{name}", one.stdout + one.stderr)

    # -- what is left ----------------------------------------------------------------------------

    def look_at_the_living(self) -> None:
        """Metrics, processes' arguments and environments, Valkey's keys and memory."""
        gateway = self.gateway
        for url in (gateway.url, gateway.admin_url):
            for path in ("/metrics", "/readyz", "/healthz", "/openapi.json"):
                self.put("metrics", self._client.get(url + path).text)
        pids = gateway.pids()
        for name, pid in pids.items():
            if name in gateway.carriers or name == "sink":
                continue  # not ours
            process = psutil.Process(pid)
            for one in (process, *process.children()):
                with contextlib.suppress(psutil.Error):
                    self.put("processes", f"{one.cmdline()} {one.environ()}")
        (self.emitted / "valkey.core").parent.mkdir(exist_ok=True)
        assert dump_memory(pids["valkey"], self.emitted / "valkey.core") > 1_000_000
        asyncio.run(self._look_into_servers())

    async def _look_into_servers(self) -> None:
        import redis.asyncio

        from store.embedded import endpoints_of, run_directory

        found = endpoints_of(run_directory(self.gateway.data_dir))
        client = redis.asyncio.from_url(found.redis_url)
        keys = 0
        async for name in client.scan_iter(count=1000):
            keys += 1
            self.put("valkey.keys", name + b" " + (await client.dump(name) or b""))
        self.put("valkey.keys", str(await client.info()))
        await client.bgrewriteaof()
        await client.aclose()
        assert keys > 0
        conn = await asyncpg.connect(found.database_url)
        try:
            await conn.execute("CHECKPOINT")
            (self.emitted / "tables").mkdir(exist_ok=True)
            for row in await conn.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            ):
                name = row["tablename"]
                await conn.copy_from_query(
                    f'SELECT * FROM "{name}"', output=self.emitted / "tables" / name
                )
            rows = await conn.fetch("SELECT query FROM pg_stat_activity")
            self.put("activity", str([row["query"] for row in rows]))
        finally:
            await conn.close()

    def collect(self) -> dict[str, Path]:
        """Every file by the name of its sink; the gateway has ended."""
        for path, bodies in self.hooks.bodies.items():
            for body in bodies:
                self.put(f"webhooks/{path.strip('/')}", body)
        found = {_name(path, self.emitted): path for path in _files(self.emitted)}
        data = self.gateway.data_dir
        kept = self.folder / "data"
        shutil.copytree(data, kept, ignore=lambda folder, names: _others(folder, data, names))
        shutil.copy(self.gateway.folder / "up.out", kept / "stdout")
        found |= {
            _name(path, kept): path
            for path in _files(kept)
            if path.stat().st_mtime >= self.began  # what initdb made, and nobody has touched since
        }
        return found

    def stop(self) -> int:
        """SIGTERM with texts under way."""
        for n in range(5):
            self._may_send(88 + n % 2)
        code, _ = self.gateway.stop()
        return code


def _others(folder: str, data: Path, names: list[str]) -> set[str]:
    return {name for name in names if Path(folder) == data and name in OTHERS}


def _files(folder: Path) -> Iterator[Path]:
    for top, _, names in os.walk(folder):
        yield from (Path(top) / name for name in names if (Path(top) / name).is_file())


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _key_bytes(text: str) -> bytes:
    with contextlib.suppress(ValueError):
        return bytes.fromhex(text)
    return base64.b64decode(text)
