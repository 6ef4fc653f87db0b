"""Encryption at rest: what is sealed opens in its place and nowhere else."""

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms.errors import ConfigError
from sms.ids import DAY_MS, TIME_SHIFT
from store.seal import (
    COLUMN_BODY,
    COLUMN_NUMBER,
    COLUMN_OPTIONS,
    Keyring,
    Sealer,
    day_of,
    load_or_create_master_key,
    read_master_key,
)

MASTER = bytes(range(32))
ids = st.integers(0, (1 << 63) - 1)
tenants = st.integers(0, (1 << 31) - 1)


@given(tenants, ids, st.sampled_from([COLUMN_NUMBER, COLUMN_BODY, COLUMN_OPTIONS]), st.binary())
def test_a_sealed_column_opens_in_its_place_only(tenant, message_id, column, plain):
    sealer = Sealer(bytes(32))
    sealed = sealer.seal(tenant, message_id, column, plain)
    assert sealer.open(tenant, message_id, column, sealed) == plain
    places = [
        (tenant ^ 1, message_id, column),
        (tenant, message_id ^ 1, column),
        (tenant, message_id, column % 3 + 1),
    ]
    for place in places:
        with pytest.raises(ValueError, match="does not open"):
            sealer.open(*place, sealed)
    with pytest.raises(ValueError, match="does not open"):
        Sealer(b"\1" * 32).open(tenant, message_id, column, sealed)


@given(tenants, ids, st.binary(), st.binary())
def test_the_hot_path_seals_as_the_plain_one_does(tenant, message_id, number, body):
    sealer = Sealer(bytes(32))
    for _ in range(2):  # the second time from its cache
        assert sealer.seal_message(tenant, message_id, number, body) == (
            sealer.seal(tenant, message_id, COLUMN_NUMBER, number),
            sealer.seal(tenant, message_id, COLUMN_BODY, body),
        )


@given(tenants, ids, st.binary(), st.binary())
def test_the_hot_path_opens_as_the_plain_one_does(tenant, message_id, number, body):
    sealer = Sealer(bytes(32))
    both = sealer.seal_message(tenant, message_id, number, body)
    for _ in range(2):
        assert sealer.open_message(tenant, message_id, *both) == (number, body)
    for place in ((tenant ^ 1, message_id), (tenant, message_id ^ 1)):
        with pytest.raises(ValueError, match="does not open"):
            sealer.open_message(*place, *both)
    with pytest.raises(ValueError, match="does not open"):
        sealer.open_message(tenant, message_id, *reversed(both))


def test_the_blind_index_tells_tenants_and_keys_apart():
    ring = Keyring(MASTER)
    index = ring.number_index(1, "8613800138000")
    assert ring.number_index(1, "8613800138000") == index
    assert index.to_bytes(8, "big", signed=True) == ring.number_index_bytes(1, "8613800138000")
    others = {
        ring.number_index(2, "8613800138000"),
        ring.number_index(1, "8613800138001"),
        Keyring(bytes(32)).number_index(1, "8613800138000"),
    }
    assert index not in others
    assert len(others) == 3


def test_derived_keys_differ_and_are_stable():
    ring = Keyring(MASTER)
    assert ring.pepper != ring.index_key
    assert (ring.pepper, ring.index_key) == (Keyring(MASTER).pepper, Keyring(MASTER).index_key)


def test_a_secret_opens_in_its_context_only():
    ring = Keyring(MASTER)
    sealed = ring.seal_secret(b"pw", "channel a")
    assert sealed != ring.seal_secret(b"pw", "channel a")
    assert ring.open_secret(sealed, "channel a") == b"pw"
    for wrong in (lambda: ring.open_secret(sealed, "channel b"), lambda: ring.open_secret(b"", "")):
        with pytest.raises(ValueError, match="does not open"):
            wrong()
    with pytest.raises(ValueError, match="does not open"):
        Keyring(bytes(32)).open_secret(sealed, "channel a")


def test_a_day_without_keys_has_no_sealer():
    assert Keyring(MASTER).sealer(0, 5) is None
    assert Keyring(MASTER).sealer_for(3, 1 << 60) is None


def test_the_day_of_an_id():
    assert day_of(0) == 0
    assert day_of((DAY_MS << TIME_SHIFT) - 1) == 0
    assert day_of(DAY_MS << TIME_SHIFT) == 1


def test_the_master_key_is_made_once_and_private(tmp_path):
    path = tmp_path / "keys" / "master.key"
    key = load_or_create_master_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_master_key(path) == read_master_key(path) == key
    assert [entry.name for entry in path.parent.iterdir()] == ["master.key"]


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"x", 0o600, "does not hold a key"),
        (b"", 0o600, "does not hold a key"),
        (b"AAAA\n", 0o600, "does not hold a key"),
        (b"\xff" * 44, 0o600, "does not hold a key"),
        (b"A" * 43 + b"=", 0o644, "chmod 600"),
    ],
)
def test_a_wrong_key_file_names_the_setting_and_the_remedy(tmp_path, content, mode, says):
    path = tmp_path / "master.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=says) as caught:
        load_or_create_master_key(path)
    assert "SMSGW_MASTER_KEY_FILE" in str(caught.value)


def test_a_missing_key_file_is_not_made_by_reading(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_master_key(tmp_path / "master.key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "we", "mode", "is_taken"),
    [
        (0, 10001, 0o440, True),  # an orchestrator's secret: root's, and our group reads it
        (0, 10001, 0o444, False),
        (0, 10001, 0o460, False),
        (0, 0, 0o440, False),  # root's own file: its group would be somebody else
        (10001, 10001, 0o440, False),
    ],
)
def test_a_mounted_secret_may_be_read_by_our_group(
    tmp_path, monkeypatch, owner, we, mode, is_taken
):
    path = tmp_path / "master.key"
    path.write_bytes(b"A" * 43 + b"=")
    path.chmod(mode)
    status = os.stat_result([path.stat().st_mode, 0, 0, 1, owner, owner, 44, 0, 0, 0])
    monkeypatch.setattr(type(path), "stat", lambda self: status)
    monkeypatch.setattr(os, "geteuid", lambda: we)
    if is_taken:
        assert len(read_master_key(path)) == 32
    else:
        with pytest.raises(ConfigError, match="read by others"):
            read_master_key(path)
