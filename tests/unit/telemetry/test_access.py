"""The access log: masked lines, a file a day, kept so long and no longer."""

import json
from datetime import UTC, datetime

import pytest

from telemetry import access
from telemetry.access import AccessLog, Keep

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
FIELDS = {
    "method": "GET",
    "route": "/v1/messages/{id:oid}",
    "status": 200,
    "key": "key_" + "0" * 16,
}


class Clock:
    def __init__(self):
        self.unix = NOON

    def __call__(self):
        return self.unix


@pytest.fixture
def clock():
    return Clock()


def open_log(folder, clock, **keep):
    return AccessLog(folder, "worker-0", Keep(**keep), unix=clock)


def lines(folder):
    paths = sorted(folder.glob("access-*"))
    return [json.loads(line) for path in paths for line in path.read_text("utf-8").splitlines()]


def test_a_line_says_when_and_what(tmp_path, clock):
    open_log(tmp_path, clock).write(FIELDS, is_proven=True)
    assert lines(tmp_path) == [{"at": "2026-11-22T12:00:00.000Z", **FIELDS}]
    [path] = tmp_path.iterdir()
    assert path.name == "access-worker-0-20261122.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_number_in_a_path_is_masked_and_no_line_is_forged(tmp_path, clock):
    log = open_log(tmp_path, clock)
    path = "/v1/messages/+8613800138000\n{}\u202e"
    log.write({**FIELDS, "path": path, "request_id": "8613800138000"}, is_proven=True)
    [line] = lines(tmp_path)
    assert line["path"] == "/v1/messages/138****8000\n{}\u202e"
    [file] = tmp_path.iterdir()
    assert "\u202e" not in file.read_text("utf-8")
    assert line["request_id"] == "138****8000"
    assert line["key"] == FIELDS["key"]


def test_a_day_has_a_file_of_its_own(tmp_path, clock):
    log = open_log(tmp_path, clock)
    log.write(FIELDS, is_proven=True)
    clock.unix += access.DAY_S
    log.write(FIELDS, is_proven=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.split("-")[-1] for name in names] == ["20261122.jsonl", "20261123.jsonl"]


def test_a_long_file_is_set_aside(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(access, "PART_BYTES", 300)
    log = open_log(tmp_path, clock)
    for _ in range(10):
        log.write(FIELDS, is_proven=True)
    assert len(lines(tmp_path)) == 10
    assert len(list(tmp_path.iterdir())) > 2
    assert all(path.stat().st_size < 600 for path in tmp_path.iterdir())


def test_what_is_older_than_its_days_goes_of_every_process(tmp_path, clock):
    for name in ("worker-0-20260522", "worker-3-20260521", "worker-3-20260720"):
        (tmp_path / f"access-{name}.jsonl").write_text("{}\n")
    (tmp_path / "access-worker-3-20260101.jsonl.4").write_text("{}\n")
    (tmp_path / "worker-0.log").write_text("{}\n")
    open_log(tmp_path, clock).write(FIELDS, is_proven=True)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [
        "access-worker-0-20260522.jsonl",  # the 184th day
        "access-worker-0-20261122.jsonl",
        "access-worker-3-20260720.jsonl",
        "worker-0.log",
    ]


def test_the_oldest_goes_first_when_there_is_too_much_but_never_an_open_one(tmp_path, clock):
    for day in ("20261120", "20261121"):
        (tmp_path / f"access-worker-1-{day}.jsonl").write_text("x" * 1000)
    (tmp_path / "access-worker-1-20261122.jsonl").write_text("x" * 5000)
    log = open_log(tmp_path, clock, most_bytes=1500)
    log.write(FIELDS, is_proven=True)
    assert {path.name.split("-")[-1] for path in tmp_path.iterdir()} == {"20261122.jsonl"}


def test_a_day_alone_does_not_take_more_room_than_all_may(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(access, "PART_BYTES", 300)
    log = open_log(tmp_path, clock, most_bytes=2000)
    (tmp_path / "access-worker-7-20261122.jsonl").write_text("{}\n")  # another process's, open
    for number in range(200):
        log.write({**FIELDS, "number": number}, is_proven=True)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2000 + 600
    kept = [line["number"] for line in lines(tmp_path) if line]
    assert sorted(kept) == list(range(200 - len(kept), 200))  # the newest
    assert len(kept) > 5
    names = {path.name for path in tmp_path.iterdir()}
    assert {"access-worker-0-20261122.jsonl", "access-worker-7-20261122.jsonl"} < names


def test_who_has_no_key_cannot_fill_it(tmp_path, clock):
    log = open_log(tmp_path, clock)
    for _ in range(500):
        log.write({"status": 401}, is_proven=False)
    log.write(FIELDS, is_proven=True)
    clock.unix += 1
    log.write({"status": 401}, is_proven=False)
    written = lines(tmp_path)
    assert len(written) == access.UNPROVEN_PER_S + 2
    assert written[-2]["left_out"] == 500 - access.UNPROVEN_PER_S
    assert "left_out" not in written[-1]


def test_a_disk_that_is_full_costs_lines_and_nothing_else(tmp_path, clock):
    folder = tmp_path / "gone"
    log = open_log(folder, clock)
    log.write(FIELDS, is_proven=True)
    assert log.lost == 1
    folder.mkdir()
    log.write(FIELDS, is_proven=True)
    assert len(lines(folder)) == 1


def test_without_a_folder_nothing_is_written():
    log = AccessLog(has_sends=True)
    log.write(FIELDS, is_proven=True)
    assert not log.has_sends
    assert log.lost == 0
