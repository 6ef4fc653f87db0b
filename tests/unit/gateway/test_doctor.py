import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from gateway import doctor
from gateway.certificate_dates import Dates
from gateway.doctor import Disk, Finding, Verdict
from gateway.settings import Settings
from gateway.terminal import Terminal
from store.retention import Standing
from store.vitals import Vitals

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL
GOOD = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "max_connections": "100",
}


def vitals(**fields):
    both = frozenset({"20261122", "20261123"})
    told = {
        "version": "18.1",
        "ahead_s": 0.0,
        "round_trip_s": 0.001,
        "settings": GOOD,
        "connections": 20,
        "oldest_transaction_s": 1.0,
        "migrations": (),
        "days": {"messages": both, "events": both},
        "processes": 2,
    }
    return Vitals(**{**told, **fields})


def remedied(found):
    """Its verdict; whatever is not well says what to do."""
    assert (found.remedy is None) == (found.verdict is OK), found
    return found.verdict


@pytest.mark.parametrize(
    ("ahead", "round_trip", "expected"),
    [
        (0.2, 0.0, OK),
        (-0.3, 0.0, WARN),
        (0.3, 0.2, OK),  # it may be the way there
        (1.2, 0.0, FAIL),
        (-1.2, 0.1, FAIL),
    ],
)
def test_clocks(ahead, round_trip, expected):
    found = doctor.judge_clock(ahead, round_trip)
    assert remedied(found) is expected
    assert ("ahead" if ahead > 0 else "behind") in found.text


@pytest.mark.parametrize(("most", "expected"), [(65536, OK), (4096, WARN), (1023, FAIL)])
def test_descriptors(most, expected):
    assert remedied(doctor.judge_files(most)) is expected


@pytest.mark.parametrize(
    ("free", "inodes_free", "expected"),
    [(50, 500, OK), (15, 500, WARN), (50, 50, WARN), (5, 500, FAIL)],
)
def test_disks(free, inodes_free, expected):
    disk = Disk("/data", 100, free, 1000, inodes_free, "ext4")
    assert remedied(doctor.judge_disk("disk", disk, stop_share=0.95)) is expected


def test_a_disk_that_counts_no_inodes_has_enough():
    disk = Disk("/data", 100, 50, 0, 0, "btrfs")
    assert remedied(doctor.judge_disk("disk", disk, stop_share=0.95)) is OK


@pytest.mark.parametrize(
    ("kind", "is_writable", "expected"),
    [("ext4", True, OK), ("nfs4", True, WARN), ("", True, OK), ("ext4", False, FAIL)],
)
def test_the_journal_s_directory(kind, is_writable, expected):
    disk = Disk("/data/journal", 100, 50, 0, 0, kind)
    assert remedied(doctor.judge_journal(disk, is_writable=is_writable)) is expected


@pytest.mark.parametrize(("left", "expected"), [(50, OK), (10, WARN), (4, FAIL)])
def test_memory(left, expected):
    assert remedied(doctor.judge_memory(left, 100)) is expected


@pytest.mark.parametrize(("days", "expected"), [(60, OK), (20, WARN), (6, FAIL), (-1, FAIL)])
def test_certificates(days, expected):
    dates = Dates(NOW - timedelta(days=90), NOW + timedelta(days=days))
    found = doctor.judge_certificate("http", dates, NOW)
    assert found.name == "certificate http"
    assert remedied(found) is expected
    assert f"{abs(days)} days" in found.text


def test_a_certificate_of_tomorrow():
    dates = Dates(NOW + timedelta(days=1), NOW + timedelta(days=90))
    assert remedied(doctor.judge_certificate("http", dates, NOW)) is FAIL


@pytest.mark.parametrize(
    ("label", "place"),
    [
        ("http", "SMSGW_TLS_CERT_FILE"),
        ("database:ca", "SMSGW_DATABASE_URL"),
        ("valkey:client", "SMSGW_REDIS_URL"),
        ("channel:vendor:d:client", "the file of channel vendor:d, then `smsgw apply`"),
    ],
)
def test_it_says_where_a_certificate_is_to_be_renewed(label, place):
    dates = Dates(NOW - timedelta(days=90), NOW)
    assert place in str(doctor.judge_certificate(label, dates, NOW).remedy)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fsync", FAIL),
        ("synchronous_commit", FAIL),
        ("full_page_writes", WARN),
        ("autovacuum", WARN),
    ],
)
def test_settings_of_postgresql(name, expected):
    assert remedied(doctor.judge_servers(vitals())) is OK
    found = doctor.judge_servers(vitals(settings={**GOOD, name: "off"}))
    assert remedied(found) is expected
    assert f"{name}=on" in (found.remedy or "")


@pytest.mark.parametrize(("used", "expected"), [(20, OK), (81, WARN), (97, FAIL)])
def test_connections(used, expected):
    assert remedied(doctor.judge_connections(vitals(connections=used))) is expected


def test_an_old_transaction():
    assert remedied(doctor.judge_transactions(vitals())) is OK
    assert remedied(doctor.judge_transactions(vitals(oldest_transaction_s=301.0))) is WARN
    partly, more = vitals(hidden=frozenset({7, 8})), vitals(hidden=frozenset({8}), role="smsgw")
    found = doctor.judge_transactions(partly, more)
    assert remedied(found) is WARN
    assert found.text.endswith("; 1 connections of other roles cannot be seen")
    assert (found.remedy or "").endswith("GRANT pg_read_all_stats TO smsgw")
    assert remedied(doctor.judge_transactions(partly, vitals())) is OK


def test_migrations():
    assert remedied(doctor.judge_migrations({"1", "2"}, {"1", "2"})) is OK
    assert remedied(doctor.judge_migrations({"1"}, {"1", "2"})) is WARN
    newer = doctor.judge_migrations({"1", "2", "3"}, {"1", "2"})
    assert remedied(newer) is WARN
    assert "3" in newer.text


def test_partitions_are_there_for_today_and_tomorrow():
    assert "2026-11-23" in doctor.judge_partitions(vitals(), NOW).text
    days = {"messages": frozenset({"20261122"}), "events": frozenset({"20261122", "20261123"})}
    found = doctor.judge_partitions(vitals(days=days), NOW)
    assert remedied(found) is FAIL
    assert "messages_20261123" in found.text
    assert doctor.judge_partitions(vitals(days=days, processes=0), NOW).verdict is OK
    assert doctor.judge_partitions(vitals(days={}), NOW).verdict is OK


@pytest.mark.parametrize(("verdicts", "code"), [([OK], 0), ([OK, WARN], 0), ([WARN, FAIL, OK], 1)])
def test_only_what_fails_is_in_the_exit_code(verdicts, code, monkeypatch):
    found = [Finding(f"f{n}", verdict, "seen", "do this") for n, verdict in enumerate(verdicts)]
    monkeypatch.setattr(doctor, "findings", lambda _: iter(found))
    stream = io.StringIO()
    settings = Settings.load({})
    assert doctor.run(settings, Terminal(is_json=True, stream=stream)) == code
    *lines, last = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["verdict"] for line in lines] == [str(verdict) for verdict in verdicts]
    assert last["fail"] == verdicts.count(FAIL)
    plain = io.StringIO()
    doctor.run(settings, Terminal(stream=plain))
    assert plain.getvalue().startswith(f"{verdicts[0]:<4}  f0 ")
    assert "seen; do this" in plain.getvalue()


def test_a_container_s_limit_counts_without_what_is_only_cached(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 500\n")
    assert doctor._memory(tmp_path) == (600, 1000)
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor._memory(tmp_path)[1] > 1000


def ended(hours, held=None):
    return [
        Standing("events", None, 3, NOW.timestamp() - 3600, None),
        Standing("messages", 0.0, 3, NOW.timestamp() - hours * 3600, held),
    ]


@pytest.mark.parametrize(
    ("hours", "held", "processes", "expected"),
    [
        (1, None, 2, OK),
        (47, None, 2, OK),
        (49, None, 2, WARN),
        (1, "2026-01-05: a parked message", 2, WARN),
        (900, None, 0, OK),  # nothing runs here: the next start ends it
    ],
)
def test_retention(hours, held, processes, expected):
    seen = vitals(ended=ended(hours, held), processes=processes)
    found = doctor.judge_retention(seen, NOW.timestamp())
    assert remedied(found) is expected
    assert f"{hours} h ago" in found.text
    assert held is None or held in found.text


def test_what_keeps_the_audit_log_append_only():
    alone = vitals(ended=ended(1), role="smsgw", excess="owns the tables")
    found = doctor.judge_grant(alone, is_embedded=False)
    assert remedied(found) is WARN
    assert "smsgw owns the tables" in found.text
    assert "CREATE ROLE smsgw_run" in str(found.remedy)
    assert remedied(doctor.judge_grant(alone, is_embedded=True)) is OK
    two = vitals(ended=ended(1), role="runs")
    assert doctor.judge_grant(two, is_embedded=False).text == "runs: append-only by grant"
    empty = doctor.judge_grant(vitals(), is_embedded=False)
    assert "before the migrations" in empty.text
    assert "before the migrations" in doctor.judge_retention(vitals(), 0.0).text
