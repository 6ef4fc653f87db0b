import os
import subprocess
import sys

import pytest

from store.logfiles import open_log, shorten

WRITER = """
import itertools, os
for n in itertools.count():
    os.write(1, b"%d\\n" % n)
"""


def test_a_log_is_for_its_owner_alone_and_is_appended_to(tmp_path):
    for line in (b"one\n", b"two\n"):
        log = open_log(tmp_path / "a.log")
        os.write(log, line)
        os.close(log)
    assert (tmp_path / "a.log").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "a.log").stat().st_mode & 0o777 == 0o600


def test_a_long_log_is_set_aside_under_a_writer_that_holds_it(tmp_path):
    long, short = open_log(tmp_path / "long.log"), open_log(tmp_path / "short.log")
    (tmp_path / "long.log.1").write_text("older\n")
    os.write(long, b"x" * 101)
    os.write(short, b"x" * 100)
    assert shorten(tmp_path, 100) == ["long.log"]
    os.write(long, b"next\n")
    assert (tmp_path / "long.log").read_bytes() == b"next\n"
    assert (tmp_path / "long.log.1").read_bytes() == b"x" * 101
    assert (tmp_path / "long.log.1").stat().st_mode & 0o777 == 0o600
    assert shorten(tmp_path, 100) == []
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "long.log", "long.log.1", "short.log",
    ]  # fmt: skip
    os.close(long)
    os.close(short)


def test_a_process_that_writes_all_the_time_has_short_files_of_whole_lines(tmp_path):
    path, limit = tmp_path / "a.log", 50_000
    log = open_log(path)
    writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=log)
    os.close(log)
    try:
        times = 0
        while times < 5:
            assert writer.poll() is None
            times += len(shorten(tmp_path, limit))
    finally:
        writer.kill()
        writer.wait()
    shorten(tmp_path, limit)
    assert path.stat().st_size <= limit
    for one in (path, tmp_path / "a.log.1"):
        numbers = [int(line) for line in one.read_bytes().split()]
        assert numbers == sorted(set(numbers))
        assert b"\0" not in one.read_bytes()


def test_where_no_copy_can_be_made_the_log_stays(tmp_path):
    log = open_log(tmp_path / "a.log")
    os.write(log, b"x" * 101)
    os.close(log)
    (tmp_path / "a.log.new").mkdir()
    with pytest.raises(IsADirectoryError):
        shorten(tmp_path, 100)
    assert (tmp_path / "a.log").read_bytes() == b"x" * 101
