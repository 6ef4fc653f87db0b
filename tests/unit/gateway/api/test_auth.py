"""API keys: form, check, secrets."""

from __future__ import annotations

import pytest

from gateway.api.auth import authenticate, hash_secret, new_key, new_key_id, parse_key
from gateway.api.problems import Problem
from sms.config import ApiKey, Snapshot

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
        return authenticate({b"authorization": value}, snapshot, PEPPER)

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
