"""Small files that must outlive a power cut. What is synced is read off the descriptors."""

import os
import stat
from pathlib import Path

import pytest

from store.durable import sync_directory, write_once


@pytest.fixture
def synced(monkeypatch):
    """Paths behind the descriptors given to fsync, and what each held by then."""
    found = []
    real = os.fsync

    def fsync(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        found.append((path, None if path.is_dir() else path.read_bytes()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_content_and_name_are_synced_in_this_order(tmp_path, synced):
    path = tmp_path / "key"
    write_once(path, b"secret\n")
    assert path.read_bytes() == b"secret\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (draft, held), (directory, _) = synced
    assert (draft.parent, held) == (tmp_path, b"secret\n")
    assert directory == tmp_path
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_is_never_overwritten(tmp_path):
    path = tmp_path / "key"
    write_once(path, b"first")
    with pytest.raises(FileExistsError):
        write_once(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_that_a_kill_left_is_no_hindrance(tmp_path):
    path = tmp_path / "key"
    (tmp_path / f"key.{os.getpid()}.new").write_bytes(b"ha")
    write_once(path, b"whole")
    assert path.read_bytes() == b"whole"


def test_a_directory_is_synced_itself(tmp_path, synced):
    sync_directory(tmp_path)
    assert synced == [(tmp_path, None)]


def test_the_nodes_name_is_durable(tmp_path, synced):
    from gateway.settings import Settings, node_name

    (tmp_path / "node").write_bytes(b"")  # as an older version left it in a power cut
    settings = Settings.load({"SMSGW_DATA_DIR": str(tmp_path)})
    name = node_name(settings)
    assert name == (tmp_path / "node").read_text("utf-8").strip() == node_name(settings)
    assert synced[-1] == (tmp_path, None)
