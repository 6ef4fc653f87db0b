"""A text travels the whole way: HTTP, PostgreSQL, CMPP or SMPP, receipt, signed webhook."""

import functools
import itertools
import time
from datetime import datetime
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from deploy.dashboards import DASHBOARDS
from gateway.sandbox_config import ROUTES
from tests.support.gateway_process import GatewayProcess, eventually
from tests.support.hooks import Hooks
from tests.support.pdus import UCS2, UNPACKED_GSM7, parse_cmpp3_submit, parse_submit
from tests.support.prometheus import Prometheus

pytestmark = pytest.mark.flow

SIGNED = "【沙箱】"
THROTTLED = (8, 11, 1, 0x58)  # of CMPP, SGIP, SMGP and SMPP
SERVICE_CODE = 7  # of CMPP: a fault of the channel, told at once

_numbers = itertools.count(10_000_000)


def a_number(prefix: str = "+86138") -> str:
    """A number no other test has."""
    return f"{prefix}{next(_numbers)}"


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# -- one text ----------------------------------------------------------------------------------


def test_a_text_is_delivered_within_three_seconds_and_says_what_happened(gateway):
    for _ in range(3):  # a moment in which the machine has other work is not judged
        to = a_number()
        began = time.monotonic()
        answer = gateway.send(to=to, text="您的验证码是 482915", **{"class": "otp"})
        assert answer.status_code == 202, answer.text
        told = answer.json()
        message = gateway.wait_for_status(told["id"], "delivered")
        took_s = time.monotonic() - began
        if took_s < 3:
            break
    assert took_s < 3
    assert told["status"] == "accepted"
    assert (told["class"], told["to"], told["segments"], told["encoding"]) == ("otp", to, 1, "ucs2")

    assert message["channel"] == "mobile-a"
    assert message["duplicate_risk"] is False
    assert message["segment_states"][0]["status"] == "delivered"
    (submit,) = gateway.submits_of(to, taken=False)
    assert submit["carrier"] == "mobile-a"
    assert submit["text"] == f"{SIGNED}您的验证码是 482915"

    steps = gateway.timeline(told["id"])
    assert [step["at"] for step in steps] == sorted(step["at"] for step in steps)
    own = [step for step in steps if step["step"] != "webhook"]  # those follow within seconds
    assert [step["step"] for step in own] == [
        "accepted", "policy", "queued", "attempt", "receipt",
    ]  # fmt: skip
    attempt, receipt = own[3:]
    assert attempt["channel"] == receipt["channel"] == "mobile-a"
    assert attempt["carrier_id"] == receipt["carrier_id"] == submit["carrier_id"]
    assert attempt["ms"] is not None
    assert receipt["ms"] >= 250  # what the carrier waits before its report
    assert receipt["code"].startswith("DELIVRD")


def test_the_command_line_shows_the_same(gateway):
    to = a_number()
    sent = gateway.command("send", to, "Guten Tag")
    assert sent.returncode == 0, sent.stderr
    message_id = sent.stdout.split()[0]
    gateway.wait_for_status(message_id, "delivered")
    told = gateway.command("status", message_id, "--timeline")
    assert told.returncode == 0, told.stderr
    assert "delivered" in told.stdout
    assert "mobile-a" in told.stdout


def test_webhooks_verify_with_the_independent_library(gateway):
    with Hooks() as hooks:
        secret = "whsec_" + "c21zZ3ctdGVzdC1vZi13ZWJob29rLXNpZ25hdHVyZXM="
        (gateway.folder / "hook.secret").write_text(secret)
        gateway.apply(
            "tenants:\n"
            "  - name: hooked\n"
            "    signatures: [某商城]\n"
            "    limits: {segments_per_second: 100, burst_segments: 400}\n"
            "    api_keys: [{name: k, scopes: [send, read], secret_file: hooked.key}]\n"
            "webhook_endpoints:\n"
            f'  - {{tenant: hooked, url: "{hooks.url}", events: ["message.*"], batch: false,\n'
            "     secret_file: hook.secret}\n"
        )
        key = (gateway.folder / "hooked.key").read_text().strip()
        message_id = in_force(gateway, key)
        seen = eventually(
            lambda: [*hooks.about(message_id)] if len(hooks.about(message_id)) >= 2 else [],
            "two webhooks",
        )
    judge = Webhook(secret)
    events = {}
    for headers, body, event in seen:
        judge.verify(body, dict(headers))
        assert event["id"] == headers["webhook-id"]
        events[event["type"]] = event["data"]
    assert events["message.submitted"]["status"] == "submitted"
    delivered = events["message.delivered"]
    assert delivered["status"] == "delivered"
    assert delivered["sequence"] > events["message.submitted"]["sequence"]
    assert delivered["metadata"] == {"order": "7"}
    assert "*" in delivered["to"]  # the whole number only where the endpoint asked for it


def test_an_endpoint_is_made_tested_and_looked_at_over_the_api(gateway):
    def ask(method: str, path: str, body: object = None) -> httpx.Response:
        answer: httpx.Response = gateway.request(method, f"/v1/webhook-endpoints{path}", body)
        return answer

    with Hooks() as hooks:
        made = ask("POST", "", {"url": hooks.url, "events": ["message.delivered"]})
        assert made.status_code == 201, made.text
        one = f"/{made.json()['id']}"
        secret = Webhook(made.json()["secret"])
        rotated = ask("POST", f"{one}:rotate-secret").json()["secret"]
        sent = ask("POST", f"{one}:test")
        assert sent.status_code == 202, sent.text
        event = sent.json()["event_id"]

        def attempt() -> dict[str, Any]:
            listed = ask("GET", f"{one}/attempts").json()["data"]
            return next((row for row in listed if event in row["event_ids"]), {})

        row = eventually(attempt, "the attempt of the test event")
        [(headers, body, told)] = hooks.about(made.json()["id"])
        message_id = gateway.accept(to=a_number(), text="到货通知")
        gateway.wait_for_status(message_id, "delivered")
        eventually(lambda: hooks.about(message_id), "its event")
        again = hooks.about(message_id)[0][2]["id"]
        assert ask("POST", f"{one}:replay", {"event_id": again}).status_code == 202
        eventually(lambda: len(hooks.about(message_id)) >= 2, "the same event again")
        assert ask("DELETE", one).status_code == 204
    assert (row["status"], row["outcome"], row["test"]) == (204, "delivered", True)
    assert (told["id"], told["type"]) == (event, "webhook.test")
    for judge in (secret, Webhook(rotated)):
        judge.verify(body, dict(headers))


def in_force(gateway: GatewayProcess, key: str) -> str:
    """Send with a key that was just applied, as soon as the worker knows it."""

    def try_it() -> str | None:
        answer = gateway.send(key, to=a_number(), text="新的租户", metadata={"order": "7"})
        assert answer.status_code in (202, 401), answer.text
        return str(answer.json()["id"]) if answer.status_code == 202 else None

    found = eventually(try_it, "the new key is known", 5)  # API section 5: within 5 s
    assert found is not None
    return found


def both_events(gateway: GatewayProcess, message_id: str) -> list[dict[str, Any]]:
    """What the sink has of a message; nothing before it has both."""
    events = gateway.sink.events(message_id)
    return events if len(events) >= 2 else []


def test_the_sandboxes_sink_gets_every_event_once_and_signed(gateway):
    ids = [gateway.accept(to=a_number(), text="到货通知") for _ in range(5)]
    for message_id in ids:
        gateway.wait_for_status(message_id, "delivered")
        events = eventually(
            functools.partial(both_events, gateway, message_id),
            "both events at the sink",
        )
        assert [event["type"] for event in events] == ["message.submitted", "message.delivered"]
        assert len({event["id"] for event in events}) == 2
    assert gateway.sink.counts()["bad_signatures"] == 0


def test_a_webhook_that_fails_is_tried_again(gateway):
    gateway.sink.behave(fail_share=1.0, status=503)
    message_id = gateway.accept(to=a_number(), text="稍后再试")
    gateway.wait_for_status(message_id, "delivered")
    time.sleep(0.5)
    assert gateway.sink.events(message_id) == []
    gateway.sink.behave(fail_share=0)
    eventually(
        lambda: (
            {e["type"] for e in gateway.sink.events(message_id)}
            == {"message.submitted", "message.delivered"}
        ),
        "both events at the sink after all",
        20,
    )


# -- texts and segments ------------------------------------------------------------------------

CHINESE = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。" * 21  # 24 characters each
ENGLISH = "The quick brown fox jumps over the lazy dog [costs 5 EUR: €5]. " * 8
EMOJI = "Hello 👨‍👩‍👧‍👦 family 🇨🇳 and 👍🏽, 你好 😀! " * 6

# (to, text, encoding, segments): signed and in UCS-2 for the mainland (67 a segment), plain
# GSM-7 for +1 (153 a segment; [ ] and € cost two).
TEXTS = [
    pytest.param("+86138", CHINESE[:500], "ucs2", 8, id="500 Chinese characters"),
    pytest.param("+86138", CHINESE[:66], "ucs2", 1, id="exactly one UCS-2 segment"),
    pytest.param("+86138", CHINESE[:67], "ucs2", 2, id="one character too many"),
    pytest.param("+1212", ENGLISH[:500], "gsm7", 4, id="500 English characters"),
    pytest.param("+1212", "a" * 160, "gsm7", 1, id="exactly one GSM-7 segment"),
    pytest.param("+1212", "a" * 161, "gsm7", 2, id="one septet too many"),
    pytest.param("+86138", EMOJI[:200], "ucs2", 4, id="emoji among letters"),
]


@pytest.mark.parametrize(("prefix", "text", "encoding", "segments"), TEXTS)
def test_the_segments_joined_give_the_text_back(gateway, prefix, text, encoding, segments):
    to = f"{prefix}{next(_numbers) % 10_000_000:07d}" if prefix == "+1212" else a_number(prefix)
    answer = gateway.send(to=to, text=text)
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert (told["encoding"], told["segments"]) == (encoding, segments)
    message = gateway.wait_for_status(told["id"], "delivered")
    assert [s["status"] for s in message["segment_states"]] == ["delivered"] * segments

    rows = gateway.submits_of(to, taken=False)
    assert len(rows) == segments
    shown = (SIGNED if prefix == "+86138" else "") + text
    assert "".join(row["text"] for row in rows) == shown
    parse = parse_cmpp3_submit if prefix == "+86138" else parse_submit
    submits = [parse(bytes.fromhex(row["hex"])) for row in rows]
    assert "".join(submit.text() for submit in submits) == shown
    assert {submit.data_coding for submit in submits} == {
        UCS2 if encoding == "ucs2" else UNPACKED_GSM7
    }
    assert all(submit.octets_on_air() <= 140 for submit in submits)
    assert all(submit.to == to.lstrip("+") for submit in submits)
    assert all(submit.registered_delivery & 3 == 1 for submit in submits)
    if segments == 1:
        assert submits[0].header is None
        return
    headers = [submit.header for submit in submits if submit.header is not None]
    assert len(headers) == segments
    assert len({header[0] for header in headers}) == 1  # one reference
    assert [header[1:] for header in headers] == [(segments, n + 1) for n in range(segments)]


def test_joined_emoji_are_not_cut(gateway):
    to = a_number()
    family = "👨‍👩‍👧‍👦"
    gateway.wait_for_status(gateway.accept(to=to, text=family * 14), "delivered")
    rows = gateway.submits_of(to)
    assert len(rows) > 1
    for row in rows:
        assert row["text"].removeprefix(SIGNED).replace(family, "") == ""


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_text_is_refused_and_says_where(gateway, text):
    answer = gateway.send(to=a_number(), text=text)
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["errors"][0]["pointer"] == "/text"
    assert problem["code"] == problem["errors"][0]["code"]
    assert problem["action"]


def test_a_batch_has_a_verdict_for_each_entry(gateway):
    numbers = [a_number() for _ in range(3)]
    answer = gateway.batch(
        [
            {"to": numbers[0], "text": "第一"},
            {"to": "12345", "text": "没有这个号码"},
            {"to": numbers[1], "text": "第三", "class": "otp"},
            {"to": numbers[2], "text": ""},
        ],
        **{"class": "marketing"},
    )
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert told["id"].startswith("bat_")
    assert [entry["index"] for entry in told["accepted"]] == [0, 2]
    rejected = {entry["index"]: entry for entry in told["rejected"]}
    assert sorted(rejected) == [1, 3]
    assert rejected[1]["code"].startswith("recipient.")
    assert all(entry["detail"] for entry in rejected.values())
    classes = []
    for entry in told["accepted"]:
        message = gateway.wait_for_status(entry["id"], "delivered")
        classes.append(message["class"])
    assert classes == ["marketing", "otp"]
    assert len(gateway.submits_of(*numbers)) == 2


# -- carriers that do not ----------------------------------------------------------------------


def test_what_no_carrier_could_take_in_time_expires_and_is_not_sent_late(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(link="down")
    eventually(lambda: gateway.metric("channel_state", state="up") == 0, "all links are down")
    to = a_number()
    message_id = gateway.accept(to=to, text="只在五秒内有效", valid_for_s=5)
    assert gateway.status(message_id)["status"] == "queued"
    message = gateway.wait_for_status(message_id, "expired")
    assert message["reason"] == "validity.expired"
    for carrier in gateway.carriers.values():
        carrier.behave(link="up")
    eventually(gateway.all_links_up, "the links are back")
    later = a_number()
    gateway.wait_for_status(gateway.accept(to=later, text="之后"), "delivered")
    assert gateway.submits_of(to, taken=False) == []
    eventually(
        lambda: [e["type"] for e in gateway.sink.events(message_id)] == ["message.expired"],
        "its event",
    )


def test_what_waits_while_all_are_down_is_sent_when_one_returns(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(link="down")
    eventually(lambda: gateway.metric("channel_state", state="up") == 0, "all links are down")
    numbers = [a_number() for _ in range(20)]
    ids = [gateway.accept(to=number, text="请稍候") for number in numbers]
    gateway.carriers["telecom-a"].behave(link="up")
    for message_id in ids:
        gateway.wait_for_status(message_id, "delivered")
    rows = gateway.submits_of(*numbers, taken=False)
    assert len(rows) == 20
    assert {row["carrier"] for row in rows} == {"telecom-a"}


def test_a_primary_that_is_down_is_passed_over(gateway):
    gateway.carriers["mobile-a"].behave(link="down")
    eventually(
        lambda: gateway.metric("channel_state", channel="mobile-a", state="down") == 1,
        "mobile-a is known to be down",
    )
    to = a_number()
    message = gateway.wait_for_status(gateway.accept(to=to, text="走备用"), "delivered")
    assert message["channel"] == "unicom-a"
    assert message["duplicate_risk"] is False
    (row,) = gateway.submits_of(to, taken=False)
    assert row["carrier"] == "unicom-a"


def test_throttled_messages_come_through_later_and_once(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(throttle_share=0.5)
    numbers = [a_number() for _ in range(30)]
    ids = [gateway.accept(to=number, text="限速") for number in numbers]
    for message_id in ids:
        message = gateway.wait_for_status(message_id, "delivered")
        assert message["duplicate_risk"] is False
    assert sorted(row["to"] for row in gateway.submits_of(*numbers)) == [
        number.lstrip("+") for number in numbers
    ]
    tried = gateway.submits_of(*numbers, taken=False)
    assert len(tried) > len(numbers)
    assert {row["status"] for row in tried} <= {0, *THROTTLED, 429}


def test_a_failing_channel_is_left_for_the_next_one(gateway):
    gateway.carriers["mobile-a"].behave(failure_share=1.0, failure_status=SERVICE_CODE)
    to = a_number()
    message = gateway.wait_for_status(gateway.accept(to=to, text="另一条路"), "delivered")
    assert message["channel"] == "unicom-a"
    rows = gateway.submits_of(to, taken=False)
    assert [(row["carrier"], row["status"]) for row in rows] == [
        ("mobile-a", SERVICE_CODE),
        ("unicom-a", 0),
    ]


def test_when_every_channel_fails_the_message_ends_with_a_reason(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(failure_share=1.0)
    gateway.carriers["mobile-a"].behave(failure_status=SERVICE_CODE)  # its usual one is asked twice
    to = a_number()
    message = gateway.wait_for_status(gateway.accept(to=to, text="都不行"), "failed")
    assert message["reason"]
    assert message["carrier_code"]
    rows = gateway.submits_of(to, taken=False)
    assert sorted(row["carrier"] for row in rows) == sorted(ROUTES["*"])  # each asked once
    attempts = [s for s in gateway.timeline(message["id"]) if s["step"] == "attempt"]
    assert [step["channel"] for step in attempts] == [row["carrier"] for row in rows]


def test_a_number_the_carrier_refuses_is_final_at_once(gateway):
    gateway.carriers["mobile-a"].behave(failure_share=1.0, failure_status=13)  # Dest_terminal_Id
    to = a_number()
    message = gateway.wait_for_status(gateway.accept(to=to, text="空号"), "failed")
    assert message["reason"] == "recipient.invalid"
    assert message["retryable"] is False
    assert len(gateway.submits_of(to, taken=False)) == 1


def test_undelivered_says_why(gateway):
    for carrier in gateway.carriers.values():
        carrier.behave(undelivered_share=1.0)
    message = gateway.wait_for_status(
        gateway.accept(to=a_number(), text="关机", **{"class": "marketing"}), "undelivered"
    )
    assert message["reason"]
    assert message["carrier_code"].startswith("UNDELIV")


@pytest.mark.parametrize(
    ("message_class", "copies"), [("otp", 2), ("transactional", 2), ("marketing", 1)]
)
def test_a_lost_answer_is_followed_by_what_the_class_says(gateway, message_class, copies):
    silent = gateway.carriers["mobile-a"]
    silent.behave(silent=True)
    to = a_number()
    message_id = gateway.accept(to=to, text="没有回音", **{"class": message_class})
    eventually(lambda: gateway.submits_of(to, taken=False), "it is with the carrier")
    silent.behave(link="down")  # the link breaks before the answer
    silent.behave(silent=False)
    if copies == 1:
        message = gateway.wait_for_status(message_id, "uncertain")
        time.sleep(3)  # longer than the others wait for evidence
        message = gateway.status(message_id)
        assert message["status"] == "uncertain"
        assert message["duplicate_risk"] is False
        assert len(gateway.submits_of(to, taken=False)) == 1
        return
    message = gateway.wait_for_status(message_id, "delivered")
    assert message["duplicate_risk"] is True
    rows = gateway.submits_of(to, taken=False)
    assert [row["carrier"] for row in rows] == ["mobile-a", "unicom-a"]
    assert len({row["text"] for row in rows}) == 1
    steps = [step["step"] for step in gateway.timeline(message_id)]
    assert "attempt" in steps
    types = eventually(
        lambda: [e for e in gateway.sink.events(message_id) if e["type"] == "message.delivered"],
        "its last event",
    )
    assert types[0]["data"]["duplicate_risk"] is True


# -- configuration -----------------------------------------------------------------------------


def test_apply_is_in_force_without_a_restart(gateway):
    worker = gateway.pids()["worker-0"]
    file = (
        "tenants:\n"
        "  - name: fresh\n"
        "    signatures: [新店]\n"
        "    limits: {segments_per_second: 100, burst_segments: 400}\n"
        "    api_keys: [{name: k, scopes: [send, read], secret_file: fresh.key}]\n"
        "routes:\n"
        '  - {tenant: fresh, class: "*", carrier: "*", channels: [vendor-a, mobile-a]}\n'
    )
    gateway.apply(file)
    key = (gateway.folder / "fresh.key").read_text().strip()
    message_id = in_force(gateway, key)

    def look() -> str | None:
        told = gateway.request("GET", f"/v1/messages/{message_id}", key=key).json()
        return str(told["channel"]) if told["status"] == "delivered" else None

    assert eventually(look, "delivered over the new route") == "vendor-a"
    assert gateway.request("GET", f"/v1/messages/{message_id}").status_code == 404  # not theirs
    assert "unchanged" in gateway.apply(file)
    assert gateway.pids()["worker-0"] == worker


def test_a_paused_primary_is_passed_over_under_traffic_and_takes_over_again(gateway):
    admin = gateway.sandbox["admin_key"]
    listed = gateway.request("GET", "/v1/channels", key=admin).json()["data"]
    [mobile] = [one for one in listed if one["name"] == "mobile-a"]
    path = f"/v1/channels/{mobile['id']}"
    carrier = gateway.carriers["mobile-a"]

    def told(action: str, body: object = None) -> str:
        answer = gateway.request("POST", f"{path}:{action}", body, key=admin)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["admin_state"])

    def send(count: int) -> dict[str, str]:
        numbers = [a_number() for _ in range(count)]
        messages = [{"to": number, "text": "换通道"} for number in numbers]
        entries = gateway.batch(messages, **{"class": "transactional"}).json()["accepted"]
        return dict(zip(numbers, (entry["id"] for entry in entries), strict=True))

    def over(sent: dict[str, str]) -> set[str]:
        return {gateway.wait_for_status(one, "delivered")["channel"] for one in sent.values()}

    headers = {"authorization": f"Bearer {admin}", "if-match": f'"{mobile["version"]}"'}
    narrow = gateway.client.patch(gateway.url + path, json={"window": 4}, headers=headers)
    assert narrow.status_code == 200, narrow.text
    eventually(gateway.all_links_up, "its sessions have the new window")
    carrier.behave(latency_ms=500)  # some are under way and most wait
    first = send(100)
    assert told("pause") == "paused"
    at_pause = send(5)  # in force with the answer, for there is one worker
    assert over(at_pause) == {"unicom-a"}
    assert over(first) == {"mobile-a", "unicom-a"}  # what was under way ended where it was
    assert gateway.metric("channel_state", channel="mobile-a", state="paused") == 1
    assert gateway.all_links_up()

    assert told("drain") == "draining"
    eventually(lambda: carrier.counts()["sessions"] == 0, "its sessions log out")
    assert gateway.request("GET", "/readyz").status_code == 200
    drained = send(5)
    assert over(drained) == {"unicom-a"}
    assert told("resume") == "active"
    assert told("rollback", {"version": mobile["version"]}) == "active"
    eventually(gateway.all_links_up, "its sessions are back")
    last = send(5)
    assert over(last) == {"mobile-a"}

    every = [*first, *at_pause, *drained, *last]
    rows = gateway.submits_of(*every, taken=False)
    assert sorted(row["to"] for row in rows) == sorted(number.lstrip("+") for number in every)


def test_nothing_illegal_happened_in_all_of_this(gateway):
    assert gateway.metric("illegal_transition_total") == 0
    assert gateway.metric("quarantined_total") == 0
    assert gateway.metric("journal_failures_total") == 0


# -- what an operator sees of all that ---------------------------------------------------------


@pytest.fixture(scope="module")
def prometheus(running, tmp_path_factory):
    """A real one that scrapes the module's gateway while a text a network is under way."""
    running.calm()
    target = running.admin_url.removeprefix("http://")

    def send() -> None:
        for prefix in ("+86139", "+86186", "+86189"):
            running.accept(to=a_number(prefix), text="到货通知")
        running.accept(to=f"+1202555{next(_numbers) % 10_000:04d}", text="hello")

    with Prometheus(target=target, folder=tmp_path_factory.mktemp("prometheus")) as made:

        def is_measured() -> bool:
            send()  # a rate needs two scrapes with something between them
            asked = (
                "count(smsgw:delivered:ratio_rate5m) >= 4 and on () smsgw:send_slow:ratio_rate3d"
            )
            return bool(made.query(asked))

        eventually(is_measured, "all channels have delivered between two scrapes", step_s=0.5)
        yield made


def test_prometheus_evaluates_every_rule_and_no_page_is_near(prometheus):
    rules = prometheus.settled_rules()
    wrong = {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"}
    assert wrong == {}
    [target] = prometheus.get("/targets")["activeTargets"]
    assert (target["health"], target["labels"]["job"]) == ("up", "smsgw")
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert [name for name in sorted(recorded) if not prometheus.query(name)] == []
    alerts = {one["metric"]["alertname"]: one["metric"] for one in prometheus.query("ALERTS")}
    assert alerts["AlertingWorks"]["alertstate"] == "firing"
    # Neither firing nor about to.
    assert [name for name, one in alerts.items() if one["severity"] == "page"] == []


def test_every_panel_of_the_dashboards_shows_something(prometheus):
    empty = []
    for dashboard in DASHBOARDS:
        for title, query in dashboard.queries():
            asked = query.expression.replace("$__rate_interval", "1m")
            for name in dashboard.variables:
                asked = asked.replace(f"${name}", ".+")
            if not prometheus.query(asked) and not query.is_rare:
                empty.append(f"{dashboard.name}: {title}")
    assert empty == []
