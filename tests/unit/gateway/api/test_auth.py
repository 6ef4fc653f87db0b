"""API keys: form, check, secrets."""

from __future__ import annotations

import pytest

from gateway.api.auth import allow, authenticate, hash_secret, new_key, new_key_id, parse_key
from gateway.api.problems import Problem
from sms.config import ApiKey, Snapshot, Tenant

PEPPER = b"p" * 32


def test_a_new_key_parses_and_its_hash_is_of_the_secret_alone():
    key_id = new_key_id()
    text, digest = new_key(PEPPER, key_id)
    parsed = parse_key(text.encode())
    assert parsed is not None
    assert parsed.id == key_id
    assert hash_secret(PEPPER, parsed.secret) == digest
    assert hash_secret(b"q" * 32, parsed.secret) != digest
    assert len(digest) == 32


def test_keys_differ():
    assert len({new_key(PEPPER, 1)[0] for _ in range(20)}) == 20
    assert len({new_key_id() for _ in range(20)}) == 20


def test_every_mistyped_character_is_noticed():
    text = new_key(PEPPER, 12345)[0]
    for at in range(len(text)):
        for other in "0aZ_":
            if text[at] != other:
                assert parse_key((text[:at] + other + text[at + 1 :]).encode()) is None


@pytest.mark.parametrize("text", [b"", b"smsgw_", b"smsgw_1_a", b"smsgw_\xd9\xa1_" + b"a" * 51])
def test_what_is_no_key_is_none(text):
    assert parse_key(text) is None


def test_only_the_right_secret_of_a_known_id_is_let_in():
    text, digest = new_key(PEPPER, 5)
    key = ApiKey(5, "k", 1, frozenset({"send"}), digest)
    snapshot = Snapshot(api_keys={5: key})

    def ask(value):
        return authenticate({b"authorization": value}, snapshot, PEPPER, 1000.0)

    assert ask(b"Bearer " + text.encode()) is key
    assert ask(b"bearer  " + text.encode()) is key
    for wrong in (
        text.encode(),
        b"Bearer " + new_key(PEPPER, 5)[0].encode(),
        b"Bearer " + new_key(PEPPER, 6)[0].encode(),
        b"Bearer " + text.encode() + b" x",
    ):
        refusal = ask(wrong)
        assert isinstance(refusal, Problem)
        assert refusal.status == 401
        assert refusal.headers[0][0] == b"www-authenticate"


def test_a_rotated_key_ends_by_itself_to_the_moment():
    text, digest = new_key(PEPPER, 5)
    key = ApiKey(5, "k", 1, frozenset({"send"}), digest, valid_until=1000.0)
    headers = {b"authorization": b"Bearer " + text.encode()}
    snapshot = Snapshot(api_keys={5: key})
    assert authenticate(headers, snapshot, PEPPER, 999.999) is key
    refusal = authenticate(headers, snapshot, PEPPER, 1000.0)
    assert isinstance(refusal, Problem)
    unknown = authenticate(headers, Snapshot(), PEPPER, 999.0)
    assert refusal == unknown  # who has an old key learns nothing more


def test_an_unknown_id_is_compared_like_a_known_one(monkeypatch):
    """Neither the time nor the answer tells whether a key id exists."""
    compared = []

    def compare(mine, stored):
        compared.append((len(mine), len(stored)))
        return False

    monkeypatch.setattr("gateway.api.auth.hmac.compare_digest", compare)
    text, digest = new_key(PEPPER, 5)
    snapshot = Snapshot(api_keys={5: ApiKey(5, "k", 1, frozenset({"send"}), digest)})
    headers = {b"authorization": b"Bearer " + text.encode()}
    assert authenticate(headers, snapshot, PEPPER, 0.0) == authenticate(
        headers, Snapshot(), PEPPER, 0.0
    )
    assert compared == [(32, 32), (32, 32)]


def test_scopes_are_denied_by_default():
    snapshot = Snapshot(tenants={1: Tenant(1, "shop")})
    for held in ("send", "read", "admin"):
        key = ApiKey(1, "k", 0 if held == "admin" else 1, frozenset({held}), b"")
        for asked in ("send", "read", "admin"):
            assert (allow(key, asked, snapshot) is None) == (held == asked)
    escalated = ApiKey(1, "k", 1, frozenset({"send", "read", "admin"}), b"")
    refusal = allow(escalated, "admin", snapshot)
    assert refusal is not None
    assert refusal.status == 403


def test_a_key_does_not_show_its_secrets():
    key = ApiKey(1, "k", 1, frozenset(), b"hash", signing_secret=b"hush")
    assert "hush" not in repr(key)
    assert "hash" not in repr(key).replace("secret_hash", "")
