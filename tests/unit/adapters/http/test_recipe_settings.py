"""What `smsgw apply` says of a recipe that is wrong: everything at once, each with its place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.http import recipe
from sms.config import Channel
from sms.errors import ConfigError
from tests.support.recipe_kit import NAMES, SECRET, shipped, small, submits, wrong_of

URL = "https://api.example.com/send"
PUSH = {"id": "$.i", "state": "$.s"}
HMAC = {"type": "hmac", "key": "{api_key}", "sign": "{body}", "in": {"header": "X-Sign"}}


def put(settings: dict[str, Any], pointer: str, value: object) -> dict[str, Any]:
    """The settings with a value at that place."""
    changed = copy.deepcopy(settings)
    *way, last = pointer.strip("/").split("/")
    inner = changed
    for name in way:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return changed


@pytest.mark.parametrize(
    ("at", "value", "pointer", "hint"),
    [
        ("recipts", {}, "/recipts", "did you mean `receipts`?"),
        ("send", [], "/send", "give a mapping"),
        ("send/bdoy", {}, "/send/bdoy", "not known here"),
        ("send/heders", {}, "/send/heders", "did you mean headers?"),
        ("send/method", "DELETE", "/send/method", "give one of GET, POST, PUT"),
        ("send/method", "GET", "/send/json", "use `query`"),
        ("send/url", "api.example.com", "/send/url", "give https://"),
        ("send/url", "https://{account}.example.com/", "/send/url", "a host without places"),
        ("send/url", "https://a.example/?x=1", "/send/url", "goes into `query`"),
        ("send/url", "https://a.example/\n", "/send/url", "give https://"),
        ("send/url", "http://api.example.com/send", "/send/url", "plain_http: true"),
        ("send/url", "{url}/send", "/send/url", "give the channel its `url`"),
        ("send/form", {"a": "b"}, "/send/form", "a request has one body"),
        ("send/json/to", "{numbr}", "/send/json/to", "did you mean number"),
        ("send/json/text", "{message}", "/send/json/text", "did you mean text? there are: account"),
        ("send/json/text", "{zzz}", "/send/json/text", "text, unix"),
        ("send/json/text", {"text": None}, "/send/json/text", 'in quotes: "{text}"'),
        ("send/json/to", [{"number|json": None}], "/send/json/to/0", 'in quotes: "{number}"'),
        ("send/json/text", "hello", "/send", "no place for the text"),
        ("send/json/to", "13800138000", "/send", "no place for the number"),
        ("send/headers", {"X-Api-Key": "k-0123456789"}, "/send/headers/X-Api-Key", "in clear"),
        ("send/json/password", "k-0123456789", "/send/json/password", "in clear"),
        ("api_secret", SECRET, "/api_secret", "no template uses it; write {api_secret}"),
        ("send/json/to", "{number|jsno}", "/send/json/to", "did you mean json?"),
        ("send/json/deep", [{"x": "{a.b}"}], "/send/json/deep/0/x", "not known"),
        ("send/json/to", "x{number|int}", "/send/json/to", "one place and nothing else"),
        ("send/query", {"a": {"b": "c"}}, "/send/query/a", "give text, or a list of texts"),
        ("send/query", {"flash": True}, "/send/query/flash", "put it in quotes"),
        ("send/headers", {"X Y": "a"}, "/send/headers/X Y", "no name of a header"),
        ("send/headers", {"Content-Length": "1"}, "/send/headers/Content-Length", "by itself"),
        ("send/headers", {"X": "{nope}"}, "/send/headers/X", "not known here"),
        ("send/auth", {"type": "basicc"}, "/send/auth/type", "give one of none, basic"),
        ("send/auth", "bearer", "/send/auth/type", "give one of"),
        ("send/auth/token", "my-secret-token", "/send/auth/token", "uses no secret"),
        ("send/auth", HMAC | {"algorithm": "crc"}, "/send/auth/algorithm", "sha256"),
        ("send/auth", HMAC | {"sign": "{bdy}"}, "/send/auth/sign", "did you mean body"),
        ("send/auth", HMAC | {"value": "x"}, "/send/auth/value", "has no {signature}"),
        ("send/auth", HMAC | {"in": {"header": "a b"}}, "/send/auth/in/header", "no name"),
        ("send/auth", HMAC | {"in": {"field": "s"}}, "/send/auth/sign", "{params_sorted}"),
        ("send/auth", HMAC | {"key": "abc"}, "/send/auth/key", "uses no secret"),
        ("send/batch", {"max": 5, "each": "{number}"}, "/send/batch", "write {each}"),
        ("answer/accepted", {}, "/answer/accepted", "give conditions"),
        ("answer/accepted", [], "/answer/accepted", "is empty"),
        ("answer/accepted", {"code": 0}, "/answer/accepted/code", "begins with $"),
        ("answer/accepted", {"$.a[x]": 0}, "/answer/accepted/$.a[x]", "from character 4"),
        ("answer/accepted", {"$.a": {"like": "x"}}, "/answer/accepted/$.a", "one of equals, in"),
        ("answer/accepted", {"$.a": None}, "/answer/accepted/$.a", "null is {exists: false}"),
        ("answer/id", "id", "/answer/id", "begins with $"),
        ("answer/format", "xml", "/answer/format", "give one of json, form"),
        ("answer/items", {"path": "$.x", "by": "number"}, "/answer/items/key", "is missing"),
        ("answer/items", {"path": "$.x", "by": "name"}, "/answer/items/by", "index, reference"),
        ("status_classes", {"5": "perm_nummer"}, "/status_classes/5", "perm_number"),
        ("status_classes", {5: "perm_number"}, "/status_classes/5", "in quotes"),
        ("send/json/deep", [{True: "x"}], "/send/json/deep/0/True", "in quotes"),
        ("receipts", {"state": "$.s"}, "/receipts/id", "our reference"),
        ("receipts", {"id": "$.i"}, "/receipts/state", "is missing"),
        (
            "receipts",
            {"id": "$.i", "state": "$.s", "states": {"a": "delivered"}},
            "/receipts/states/a",
            "DELIVRD",
        ),
        (
            "receipts",
            {"id": "$.i", "state": "$.s", "verify": {"type": "secret", "in": {"query": "t"}}},
            "/callback_secret",
            "(or callback_secret_file)",
        ),
        (
            "receipts",
            PUSH | {"verify": HMAC | {"sign": "{body}", "timestamp": "X-Time"}},
            "/receipts/verify/timestamp",
            "is not signed",
        ),
        ("receipts", PUSH | {"json_field": "x"}, "/receipts/json_field", "format: form"),
        ("receipts", PUSH | {"answer": {"status": 404}}, "/receipts/answer/status", "200 to 299"),
        ("inbound", {"number": "$.n"}, "/inbound/text", "is missing"),
        ("query", {"url": URL, "answer": {"state": "$.s"}}, "/query/answer/states", "is missing"),
        ("query", {"url": URL, "answer": {}}, "/query", "names no message"),
        ("query", {"url": URL, "json": {"t": "{text}"}}, "/query/json/t", "not known here"),
        ("examples", [{"means": "ok", "body": ""}], "/examples/0/means", "accepted, refused"),
        ("examples", [{"means": "accepted", "body": "{}"}], "/examples/0", "read as uncertain"),
        (
            "examples",
            [{"means": "accepted", "body": {"code": 0, "id": "a"}, "id": "b"}],
            "/examples/0/id",
            'another id is found: expected "b", found "a"',
        ),
        (
            "examples",
            [{"means": "accepted", "body": {"code": 0, "id": SECRET}, "id": "b"}],
            "/examples/0/id",
            'expected "b", found ***',
        ),
        (
            "examples",
            [{"means": "accepted", "body": {"code": 17, "id": "a"}}],
            "/examples/0",
            'is read as refused with code "17", not as accepted',
        ),
        ("api_secret", 5, "/api_secret", "in quotes"),
        ("send/json/key", "{api_secret}", "/api_secret", "(or api_secret_file)"),
        ("send/json/user", "{username}", "/username", "is missing; a template uses"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_a_remedy(at, value, pointer, hint):
    wrong = recipe.validate(put(small(), at, value))
    said = [detail for where, detail in wrong if where == pointer]
    assert said, wrong
    assert any(hint in detail for detail in said), said


def test_a_raw_text_body_escapes_what_comes_from_outside():
    send = {"url": URL, "auth": {"type": "none"}, "text": "<sms>{text}</sms>"}
    [(pointer, detail)] = wrong_of(small(send=send))
    assert pointer == "/send/text"
    assert "xml" in detail
    for safe in ("{text|xml}", "{text|raw}", "{text|hex_utf16}"):
        assert wrong_of(small(send={**send, "text": f"<sms>{safe}</sms>"})) == []


def test_what_is_different_in_every_message_stands_in_each():
    send: dict[str, Any] = {
        "url": URL,
        "json": {"to": "{each}", "ref": "{reference}", "text": "{text}"},
        "batch": {"max": 5, "each": "{number}", "shares_id": True},
    }
    [(pointer, detail)] = wrong_of(small(send=send))
    assert (pointer, "{reference}" in detail) == ("/send/batch", True)
    send["json"] = {"to": "{each}", "text": "{text}"}
    assert wrong_of(small(send=send)) == []
    del send["batch"]["shares_id"]
    assert [pointer for pointer, _ in wrong_of(small(send=send))] == ["/answer/items"]


def test_a_callback_address_needs_to_be_known():
    settings = put(small(), "send/json/hook", "{callback_url}")
    assert [pointer for pointer, _ in recipe.validate(settings)] == ["/public_url"]


def test_pushes_without_any_proof_are_refused_with_both_remedies():
    receipts = {"id": "$.i", "state": "$.s"}
    settings = small(receipts=receipts)
    del settings["callbacks"]
    [(pointer, detail)] = recipe.validate(settings)
    assert pointer == "/callback_secret"
    assert "callback_sources" in detail
    for remedy in (
        {"callback_secret": SECRET},
        {"callback_sources": ["203.0.113.0/24"]},
        {"callbacks": False},
        {"receipts": {**receipts, "verify": HMAC | {"sign": "{body}"}}},
    ):
        assert recipe.validate({**settings, **remedy}) == []


def test_everything_wrong_is_said_at_once():
    settings = small(
        sned={},
        send={"url": "nowhere", "json": {"a": "{x}", "b": "{y}"}, "auth": {"type": "magic"}},
        answer={"accepted": {"$": 1, "what": 2}, "id": 5},
    )
    pointers = {pointer for pointer, _ in recipe.validate(settings)}
    assert pointers >= {
        *("/sned", "/send/url", "/send/json/a", "/send/json/b", "/send/auth/type"),
        *("/answer/accepted/what", "/answer/id"),
    }


def test_nothing_of_a_value_is_echoed():
    hidden = "hunter2-hunter2"
    for at in ("send/json/to", "send/auth/token", "send/url", "answer/id", "answer/format"):
        wrong = recipe.validate(put(small(), at, f"{{{hidden}}}"))
        assert wrong
        assert hidden not in str(wrong)


def test_make_refuses_what_validation_refuses():
    with pytest.raises(ConfigError, match="/send/url"):
        recipe.make(Channel(1, "a", "http", put(small(), "send/url", "x")))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_takes_any_single_part_away_without_a_crash(name):
    settings = shipped(name)
    for part in settings:
        without = {key: value for key, value in settings.items() if key != part}
        assert isinstance(recipe.validate(without), list)


WORDS = st.sampled_from(
    ["$.a", "{number}", "{text|int}", "hmac", "basic", URL, "json", "number", "", "{", "200", "2xx"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
PLACES = st.sampled_from(
    [
        f"{part}/{name}"
        for part, names in {
            "send": "url method query headers auth json form text batch encoding_words",
            "answer": "accepted refused code id items format separator retry_after",
            "receipts": "id state number states verify answer only items examples pull format",
            "inbound": "number text text_form examples json_field",
            "query": "url answer json query",
        }.items()
        for name in names.split()
    ]
    + ["status_classes", "examples", "receipts", "query", "account", "url", "one_callback"]
)


@given(st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=4))
@settings(max_examples=40)
def test_any_configuration_is_judged_without_raising_and_then_works(changes):
    settings = small(callback_secret=SECRET, receipts={"id": "$.id", "state": "$.s"})
    settings |= {"inbound": {"number": "$.n", "text": "$.t"}}
    settings |= {"query": {"url": URL, "query": {"i": "{carrier_id}"}}}
    settings["query"]["answer"] = {"state": "$.s", "states": {"a": "DELIVRD"}}
    for at, value in changes:
        if isinstance(settings.get(at.split("/")[0], {}), dict) or "/" not in at:
            settings = put(settings, at, value)
    if recipe.validate(settings) == []:
        made = recipe.make(Channel(1, "a", "http", settings))
        made.send(submits(1), 0.0, "n")
        assert recipe.rehearse(settings)


def test_a_slip_elsewhere_does_not_hide_behind_a_missing_place():
    """`{text: null}` is told as what it is, and not also as a request without a text."""
    wrong = recipe.validate(put(small(), "send/json/text", {"text": None}))
    assert [pointer for pointer, _ in wrong] == ["/send/json/text"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Api-Key", "{api_key}"),
        ("X-Api-Key", "v1"),
        ("App-Key", "0123456789"),
        ("X-Trace", "a" * 20),
    ],
)
def test_what_is_no_secret_may_stand_in_a_header(name, value):
    assert recipe.validate(put(small(), "send/headers", {name: value})) == []


def test_a_null_that_is_no_place_stays_one():
    assert recipe.validate(put(small(), "send/json/extra", {"note": None})) == []


def test_a_registered_template_needs_no_text():
    send = small()["send"] | {"json": {"to": "{number}", "code": "{template_code}"}}
    assert recipe.validate(small(send=send)) == []


def receipts_example(**example: Any) -> list[tuple[str, str]]:
    part = PUSH | {"states": {"ok": "DELIVRD", "bad": "UNDELIV"}, "examples": [example]}
    return recipe.validate(small(receipts=part))


def test_an_example_of_a_push_says_what_was_expected_and_found():
    body = {"i": "a1", "s": "bad"}
    assert receipts_example(body=body, means="UNDELIV", id="a1") == []
    [(pointer, detail)] = receipts_example(body=body, means="DELIVRD")
    assert pointer == "/receipts/examples/0/means"
    assert 'expected "DELIVRD", found "UNDELIV"' in detail
    [(_, detail)] = receipts_example(body=body, error="12")
    assert 'expected "12", found nothing' in detail
    [(_, detail)] = receipts_example(body={"i": "x" * 500, "s": "ok"}, id="a1")
    assert len(detail) < 250


def test_what_is_somebodys_is_not_shown():
    example = {"body": {"n": "13800138000", "t": "secret words"}, "number": "13800138001"}
    part = {"number": "$.n", "text": "$.t", "examples": [example | {"text": "other"}]}
    wrong = dict(recipe.validate(small(inbound=part)))
    assert set(wrong) == {"/inbound/examples/0/number", "/inbound/examples/0/text"}
    assert "138" not in str(wrong)
    assert "words" not in str(wrong)
    assert "expected 5 characters, found 12 characters" in wrong["/inbound/examples/0/text"]


def test_http_to_a_public_host_is_for_those_who_say_so():
    settings = put(small(plain_http=True), "send/url", "http://api.example.com/send")
    assert recipe.validate(settings) == []
    assert recipe.validate(put(small(), "send/url", "http://127.0.0.1:8080/send")) == []


def test_a_rehearsal_sends_from_the_channels_own_sender():
    settings = put(small(), "send/json/from", "{sender|optional}")
    assert '"from":"Example"' in "\n".join(recipe.rehearse(settings, "Example"))
    assert "from" not in "\n".join(recipe.rehearse(settings))
