from __future__ import annotations

import base64
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from webhooks.sign import headers, new_secret, parse_secret, secret_text, signature


def test_a_new_secret_is_32_bytes_and_reads_back():
    text, key = new_secret()
    assert text.startswith("whsec_")
    assert len(key) == 32
    assert parse_secret(text) == key
    assert new_secret()[1] != key


def test_a_secret_without_padding_is_read():
    key = bytes(range(32))
    assert parse_secret(secret_text(key).rstrip("=")) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "whsec_!!!!",
        "secret_" + base64.b64encode(bytes(32)).decode(),
        secret_text(bytes(23)),
        secret_text(bytes(65)),
        "whsec_" + base64.b64encode(bytes(32)).decode() + "ü",
    ],
)
def test_a_wrong_secret_is_refused_without_being_repeated(text: str):
    with pytest.raises(ValueError, match="webhook secret") as caught:
        parse_secret(text)
    assert len(text) < 8 or text[6:] not in str(caught.value)


@given(key=st.binary(min_size=24, max_size=64), body=st.text(max_size=300))
def test_the_independent_library_computes_the_same_signature(key: bytes, body: str):
    at = 1_800_000_000
    theirs = Webhook(key).sign("evt_1", datetime.fromtimestamp(at, UTC), body)
    assert signature((key,), "evt_1", at, body.encode()) == theirs


def test_while_a_secret_is_rotated_both_keys_verify():
    old, new = bytes(range(32)), bytes(range(1, 33))
    body = '{"text": "短信"}'
    sent = dict(headers((new, old), "evt_2", int(time.time()), body.encode()))
    for key in (old, new):
        assert Webhook(key).verify(body, sent) == {"text": "短信"}
    with pytest.raises(WebhookVerificationError):
        Webhook(bytes(32)).verify(body, sent)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify(body + " ", sent)
