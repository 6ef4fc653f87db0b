"""What a campaign plans, writes and leaves on a disk whose power was cut."""

import struct
import xml.etree.ElementTree as ElementTree
from random import Random

import pytest

from loadtest.campaign import faults, planning, report
from loadtest.campaign.__main__ import arguments, plan_of
from loadtest.campaign.course import Outcome
from loadtest.campaign.judge import Fault, Verdict
from loadtest.campaign.place import LOG_SEGMENT, age_journals, zero_log_behind
from loadtest.campaign.records import Records, Tail
from loadtest.campaign.timeline import Timeline
from store.journal import Journal
from telemetry.failpoints import POINTS

# -- plans -------------------------------------------------------------------------------------


def names(chosen):
    return [fault.name for fault in chosen]


def test_every_place_of_the_path_is_a_fault():
    assert {faults.fault_of(point) for point in POINTS} <= set(names(faults.CATALOGUE))
    assert len(set(names(faults.CATALOGUE))) == len(faults.CATALOGUE)


def test_with_kills_enough_each_fault_comes_and_the_kills_are_full():
    planned = planning.schedule(planning.choose(None, (1, 3)), 300, Random(1))
    assert set(names(planned)) == set(names(faults.CATALOGUE))
    assert sum(fault.kills for fault in planned) == 300
    assert names(planned).count("disk.full") == 5


def test_with_fewer_kills_the_dice_choose_and_no_kind_comes_twice():
    planned = planning.schedule(planning.choose(None), 7, Random(1))
    killing = [fault for fault in planned if fault.kills]
    assert len(killing) == len(set(names(killing))) == 7


def test_a_seed_is_a_plan():
    one, same, other = (
        names(planning.schedule(planning.choose(None), 60, Random(seed))) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_only_takes_patterns():
    assert names(planning.choose("kill.post*, power.cut")) == [
        *("kill.postmaster", "kill.postgres", "power.cut"),
    ]
    with pytest.raises(ValueError, match="--list"):
        plan_of(arguments().parse_args(["--only", "nonsense"]), 1)


def test_what_needs_more_workers_waits_for_a_round_that_has_them():
    chosen = planning.schedule(planning.choose(None, (1, 3)), 80, Random(1))
    shared = planning.rounds(chosen, (1, 3), 10)
    assert [one.workers for one in shared[:4]] == [1, 3, 1, 3]
    assert all(fault.workers <= one.workers for one in shared for fault in one.faults)
    assert sorted(names(f for one in shared for f in one.faults)) == sorted(names(chosen))
    assert all(0 < len(one.faults) <= 10 for one in shared)


def test_with_one_worker_nothing_is_planned_that_needs_more():
    assert "failpoint.handover.given" not in names(planning.choose(None, (1,)))
    assert "failpoint.handover.given" in names(planning.choose(None, (3,)))


# -- reports -----------------------------------------------------------------------------------


def outcome():
    fault = Fault(1, "kill.worker", 1000.0, 1002.0, 1, notes={"killed": ["<worker>"]})
    line = Timeline(3.0, 5.0, 0.25, (1, 5, 0), (0, 3, 2), (0, 0, 4))
    found = Outcome(7, "directory", [Verdict(fault, accepted=6)], [line])
    found.total.add(found.verdicts[0])
    return found


def test_the_report_is_one_file_with_a_plot_per_fault():
    page = report.html(outcome())
    assert page.count("<svg") == 1
    assert "&lt;worker&gt;" in page
    assert "nothing lost" in page
    assert "http" not in page  # it needs nothing from elsewhere
    found = outcome()
    found.verdicts[0].fault.problems.append("not done")
    found.total.add(found.verdicts[0])
    assert "something is wrong" in report.html(found)


def test_a_plot_shows_three_lines_and_two_marks():
    picture = ElementTree.fromstring(report.plot(outcome().timelines[0]))
    assert len(picture.findall("polyline")) == 3
    assert len([line for line in picture.findall("line") if line.get("stroke") != "#bbb"]) == 2


def test_a_row_has_a_cell_for_each_column():
    assert len(report.cells(outcome().verdicts[0])) == len(report.COLUMNS)
    assert report.table(outcome()).row_count == 1


def test_the_json_holds_everything():
    told = outcome().as_json()
    assert told["is_good"]
    assert told["total"]["kills"] == 1
    assert told["faults"][0]["timeline"]["accepted"] == (1, 5, 0)


# -- records -----------------------------------------------------------------------------------


def test_a_record_is_read_on_and_a_half_line_waits(tmp_path):
    path = tmp_path / "a.jsonl"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes(b"one\ntwo\nthr")
    assert list(tail.lines()) == [b"one\n", b"two\n"]
    with path.open("ab") as file:
        file.write(b"ee\n")
    assert list(tail.lines()) == [b"three\n"]


def test_submits_and_events_are_read_as_they_are_written(tmp_path):
    (tmp_path / "carrier-a.jsonl").write_text(
        '{"at":"2026-11-22T02:00:00.5Z","to":"8613810000001","segment_ref":7,"index":2,"total":3,'
        '"carrier_id":"x1","status":0,"from":"","text":"","hex":""}\n'
    )
    (tmp_path / "sink.jsonl").write_text(
        '{"id":"evt_1","type":"message.delivered","data":{"id":"msg_00000000000000ff",'
        '"sequence":3,"status":"delivered","final_at":null,"duplicate_risk":true}}\n'
    )
    records = Records(tmp_path)
    [submit] = records.submits()
    assert (submit.number, submit.segment, submit.is_taken) == ("8613810000001", 1, True)
    [event] = records.events()
    assert (event.message_id, event.sequence, event.final_at, event.is_marked) == (255, 3, 0, True)
    assert records.submits() == []
    assert records.events() == []


# -- a power cut -------------------------------------------------------------------------------


def test_a_journal_of_another_boot_says_nothing(tmp_path):
    journal = Journal(tmp_path, 0, 1)
    journal.write_lines([(5, 0, 1, 0, 1)])
    assert Journal.replay(tmp_path, 0).is_present
    age_journals(tmp_path)
    replay = Journal.replay(tmp_path, 0)
    assert not replay.is_present
    assert replay.writes.keys() == {5}  # nothing else was touched


def test_the_log_behind_the_flushed_position_is_zeroed(tmp_path):
    for number in (4, 5, 6):
        (tmp_path / f"00000001{0:08X}{number:08X}").write_bytes(b"x" * 1000)
    (tmp_path / "archive_status").mkdir()
    zero_log_behind(tmp_path, 5 * LOG_SEGMENT + 300)
    held = [(tmp_path / f"00000001{0:08X}{number:08X}").read_bytes() for number in (4, 5, 6)]
    assert held == [b"x" * 1000, b"x" * 300 + bytes(700), bytes(1000)]


def test_a_position_beyond_four_gigabytes_finds_its_segment(tmp_path):
    name = f"00000001{1:08X}{2:08X}"  # the third segment of the second log id
    (tmp_path / name).write_bytes(b"x" * 10)
    zero_log_behind(tmp_path, (1 << 32) + 2 * LOG_SEGMENT + 4)
    assert (tmp_path / name).read_bytes() == struct.pack("4s6x", b"xxxx")
