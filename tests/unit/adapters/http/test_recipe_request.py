"""Requests: every value arrives exactly as it is, and nothing else can come of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sms.errors import CannotSend
from tests.support.recipe_kit import SECRET, small, submits, vendor

UNIX = 1_767_225_600.25
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
HOSTILE = '"}, {"to": "1"}, {\n\r\t\\"{number}{{ %00 & = ? #'


def made(**parts: Any) -> Any:
    return vendor(small(send={"url": "https://api.example.com/send", **parts}))


def of(vendor_made: Any, text: str | None = None, count: int = 1) -> Any:
    return vendor_made.send(submits(count, text), UNIX, "n0nce")


JSON = made(json={"text": "{text}", "deep": [{"again": "x{text}y"}], "n": 5, "no": None})
FORM = made(form={"text": "{text}", "list": ["a", "{text}"]})
QUERY = made(method="GET", query={"text": "{text}"})
RAW = made(text='<sms to="{number}">{text|xml}</sms>', content_type="application/xml")
RAW_JSON = made(text='{{"text": "{text|json}"}}')
PATH = vendor(small(send={"url": "https://api.example.com/to/{text}/send"}))


@given(TEXTS)
def test_any_text_arrives_exactly_in_json(text):
    assert json.loads(of(JSON, text).body) == {
        "text": text,
        "deep": [{"again": f"x{text}y"}],
        "n": 5,
        "no": None,
    }


@given(TEXTS)
def test_any_text_arrives_exactly_in_forms_queries_paths_and_raw_texts(text):
    body = of(FORM, text).body.decode("ascii")
    expected = [("text", text), ("list", "a"), ("list", text)]
    assert parse_qsl(body, keep_blank_values=True) == expected
    url = of(QUERY, text).url
    assert parse_qsl(urlsplit(url).query, keep_blank_values=True) == [("text", text)]
    parts = of(PATH, text).url.split("/")
    assert (len(parts), unquote(parts[4])) == (6, text)
    assert json.loads(of(RAW_JSON, text).body) == {"text": text}
    assert b"<sms to=" in of(RAW, text).body


def test_hostile_text_stays_one_value():
    assert json.loads(of(JSON, HOSTILE).body)["text"] == HOSTILE
    assert "<b>" not in of(RAW, "<b>").body.decode()


@given(st.text(st.characters(categories=["Cs", "Lu"]), max_size=10))
@settings(max_examples=40)
def test_half_a_pair_breaks_nothing(text):
    for one in (JSON, FORM, QUERY, RAW, PATH):
        of(one, text)


def test_members_may_be_numbers_missing_or_whole_objects():
    body = {
        "ttl": "{validity_s|int}",
        "name": "{sender|optional}",
        "maybe": "{template_code|optional}",
        "variables": "{variables}",
        "list": "{variables_list}",
        "code": "{template_code}",
    }
    settings = small(send={"url": "https://api.example.com/send", "json": body | {"t": "{text}"}})
    one = vendor(settings)
    assert json.loads(of(one).body) == {
        "ttl": 600,
        "name": "10690001",
        "maybe": "TEMPLATE-1",
        "variables": {"code": "123456"},
        "list": ["123456"],
        "code": "TEMPLATE-1",
        "t": "【Example】Your code is 123456",
    }
    [plain] = submits()
    plain.filled, plain.sender = None, ""
    body = json.loads(one.send([plain], UNIX, "n").body)
    assert not {"maybe", "name"} & body.keys()
    assert (body["variables"], body["list"], body["code"]) == ({}, [], "")


def test_a_header_with_a_control_character_is_not_sent():
    one = made(headers={"X-From": "{sender}"}, json={"t": "{text}"})
    assert ("X-From", "10690001") in of(one).headers
    for sender in ("a\r\nX-Other: b", "发件人", " a"):
        [submit] = submits()
        submit.sender = sender
        with pytest.raises(CannotSend):
            one.send([submit], UNIX, "n")


def test_messages_of_one_text_share_a_request():
    batch = {"max": 3, "each": "{number}", "joint": ";", "shares_id": True}
    one = made(form={"to": "{each}", "text": "{text}"}, batch=batch)
    assert one.traits.batch == 3
    same, other = submits(2), submits(1, "another")
    assert one.together(same[0]) == one.together(same[1]) != one.together(other[0])
    body = parse_qsl(one.send(same, UNIX, "n").body.decode())
    assert body[0] == ("to", "8613800138000;8613800138001")


def test_what_stands_in_each_need_not_be_equal_and_max_batch_bounds_it():
    each = {"to": "{number}", "t": "{text}"}
    send = {"url": "https://a.example/", "json": "{each}", "batch": {"max": 9, "each": each}}
    items = {"path": "$", "accepted": {"$.ok": True}}
    answer = {"accepted": {"status": 200}, "items": items}
    one = vendor(small(send=send, max_batch=4, answer=answer))
    assert one.traits.batch == 4
    assert one.together(submits()[0]) == one.together(submits(1, "another")[0])


SIGNED = {
    "api_secret": SECRET,
    "account": "acme",
    "send": {
        "url": "https://api.example.com/v1/send",
        "query": {"b": "2 x", "a": "{unix_ms}"},
        "json": {"to": "{number}", "text": "{text}"},
        "headers": {"X-Time": "{unix}"},
        "auth": {
            "type": "hmac",
            "algorithm": "sha256",
            "encoding": "hex",
            "key": "{api_secret}",
            "sign": "{method}\n{host}{path}\n{query_sorted}\n{unix}\n{nonce}\n{body_sha256}",
            "in": {"header": "Authorization"},
            "value": "HMAC {account}:{nonce}:{signature}",
        },
    },
}


def test_an_hmac_signs_what_is_sent():
    request = of(vendor(small(**SIGNED)))
    assert request.url == "https://api.example.com/v1/send?b=2%20x&a=1767225600250"
    signed = (
        "POST\napi.example.com/v1/send\na=1767225600250&b=2%20x\n1767225600\nn0nce\n"
        + hashlib.sha256(request.body).hexdigest()
    )
    proof = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).hexdigest()
    headers = dict(request.headers)
    assert headers["Authorization"] == f"HMAC acme:n0nce:{proof}"
    assert headers["X-Time"] == "1767225600"


def test_a_digest_of_sorted_parameters_goes_into_a_field():
    auth = {
        "type": "digest",
        "algorithm": "md5",
        "encoding": "hex_upper",
        "sign": "{params_sorted}&key={api_key}",
        "in": {"field": "sign"},
    }
    form = {"to": "{number}", "app": "acme", "ts": "{unix}"}
    request = of(made(form=form, auth=auth))
    signed = f"app=acme&to=8613800138000&ts=1767225600&key={SECRET}".encode()
    fields = parse_qsl(request.body.decode())
    assert fields[-1] == ("sign", hashlib.md5(signed).hexdigest().upper())


@pytest.mark.parametrize("encoding", ["base64", "base64url", "hex"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512", "md5"])
def test_every_algorithm_and_encoding_signs(algorithm, encoding):
    auth = {
        "type": "hmac",
        "algorithm": algorithm,
        "encoding": encoding,
        "key": "{api_key}",
        "sign": "{body}",
        "in": {"query": "sig"},
    }
    request = of(made(json={"t": "{text}"}, auth=auth))
    digest = hmac.new(SECRET.encode(), request.body, algorithm).digest()
    written = {
        "hex": digest.hex(),
        "base64": base64.b64encode(digest).decode(),
        "base64url": base64.urlsafe_b64encode(digest).decode(),
    }
    assert dict(parse_qsl(urlsplit(request.url).query))["sig"] == written[encoding]


def test_the_channels_own_url_stands_in_front_where_the_recipe_says_so():
    settings = small(
        url="https://proxy.example.com/sms/",
        send={"url": "{url}/v2/{account}/send", "json": {}},
        account="a/b",
    )
    request = of(vendor(settings))
    assert request.url == "https://proxy.example.com/sms/v2/a%2Fb/send"


def test_providers_words_for_encodings():
    words = {"gsm7": "0", "ucs2": "8"}
    request = of(made(json={"dcs": "{encoding|int}", "t": "{text}"}, encoding_words=words))
    assert json.loads(request.body)["dcs"] == 8
