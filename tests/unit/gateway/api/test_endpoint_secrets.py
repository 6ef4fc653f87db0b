"""Secrets of an endpoint over any number of rotations."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from gateway.api.endpoint_secrets import MAX_KEYS, given_key, rotated
from gateway.api.fields import Checked
from sms.config import WebhookEndpoint
from store.objects import StoredObject
from store.snapshot import endpoint_of
from webhooks.sign import parse_secret

SPEC = {"tenant": "shop", "url": "https://backend.example/h"}


def keys(stored, now):
    made = StoredObject(1, 1, SPEC, stored, "webhook_endpoint", "shop https://backend.example/h")
    return list(endpoint_of(made, 7).keys(now))


@given(st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 86_400)), max_size=8))
def test_the_newest_always_signs_and_each_other_until_its_end_and_no_longer(rotations):
    text, stored = given_key({}, Checked())
    ends = {parse_secret(text): float("inf")}
    now = 1_800_000_000.0
    for wait_s, overlap_s in rotations:
        now += wait_s
        text, stored = rotated(stored, now, overlap_s)
        ends = {key: min(end, now + overlap_s) for key, end in ends.items()}
        ends[parse_secret(text)] = float("inf")
        signing = keys(stored, now)
        assert signing[0] == parse_secret(text)
        assert 1 <= len(signing) <= MAX_KEYS
        due = [key for key, end in ends.items() if now < end]
        assert set(signing) == set(due[-MAX_KEYS:])  # of more than that the oldest sign no more
        ends = {key: ends[key] for key in due[-MAX_KEYS:]}
        for later in (now + 60.0, now + 86_401.0):
            assert set(keys(stored, later)) == {key for key, end in ends.items() if later < end}


def test_a_secret_that_is_given_is_kept_as_it_is():
    text = "whsec_" + base64.b64encode(b"s" * 24).decode()
    shown, stored = given_key({"secret": f" {text}\n"}, Checked())
    assert shown == text
    assert stored == {"secrets": [base64.b64encode(b"s" * 24).decode()]}
    assert WebhookEndpoint(1, 7, "https://x.example", secrets=(b"k",)).keys(0.0) == (b"k",)
