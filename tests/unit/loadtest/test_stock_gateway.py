import os
from pathlib import Path

import pytest

from loadtest.stock_gateway import (
    IN_MEMORY,
    NotStock,
    environment,
    file_system,
    fresh_directory,
    is_readable,
)


def test_no_setting_of_the_caller_reaches_the_gateway(monkeypatch, tmp_path):
    monkeypatch.setenv("SMSGW_DATABASE_URL", "postgresql://elsewhere/db")
    monkeypatch.setenv("SMSGW_RELIABILITY__FLUSH_ROWS", "7")
    monkeypatch.setenv("KEPT", "yes")
    env = environment(tmp_path)
    ours = {name: text for name, text in env.items() if name.startswith("SMSGW_")}
    assert ours == {
        "SMSGW_DATA_DIR": str(tmp_path),
        "SMSGW_PORT": "0",
        "SMSGW_ADMIN_PORT": "0",
        "SMSGW_RELIABILITY__MARKETING_OPENS_H": "0",  # whatever the hour of the measurement
        "SMSGW_RELIABILITY__MARKETING_CLOSES_H": "24",
    }
    assert env["KEPT"] == "yes"


def test_the_directory_is_new_and_goes_away(tmp_path, monkeypatch):
    monkeypatch.setattr("loadtest.stock_gateway.file_system", lambda _: "ext4")
    with fresh_directory(tmp_path) as made:
        assert made.parent == tmp_path
        (made / "file").write_text("x")
    assert os.listdir(tmp_path) == []


def test_memory_is_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("loadtest.stock_gateway.file_system", lambda _: "tmpfs")
    with pytest.raises(NotStock, match="--data-parent"), fresh_directory(tmp_path):
        pass


def test_the_file_system_under_a_path_is_known():
    assert file_system(Path("/proc/sys")) == "proc"
    assert "ext4" not in IN_MEMORY


@pytest.mark.parametrize(
    ("value", "is_plain"),
    [
        (b"\x01\x9f8613800138000\x00", True),
        ("【沙箱】您".encode(), True),
        ("您的订单".encode("utf-16-be"), True),
        (b"Your parcel", True),
        (os.urandom(80).translate(bytes.maketrans(b"0123456789", b"abcdefghij")), False),
    ],
)
def test_readable_numbers_and_texts_are_noticed(value, is_plain):
    assert is_readable(value) is is_plain
