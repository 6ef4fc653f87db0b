"""The attempt journal: what was written whole is read back, at any point of truncation."""

import itertools
import os
import resource
import stat
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import journal as module
from store.claims import ClaimBook
from store.journal import NOT_SENT, SUBMITTED, UNCERTAIN, AnswerLine, Journal, WriteLine

ids = st.integers(1, (1 << 62) - 1) | st.integers(1, 3)
small = st.integers(0, 254) | st.just(0)
attempts = st.integers(1, 40) | st.just(1)
writes = st.tuples(ids, small, attempts, st.integers(0, 1), st.integers(1, 30_000))
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
answers = st.tuples(ids, small, attempts, st.integers(0, 1), st.integers(0, 4), words, words)
bursts = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(writes, min_size=1, max_size=5)),
        st.tuples(st.just("answer"), st.lists(answers, min_size=1, max_size=5)),
    ),
    max_size=8,
)
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def files(directory):
    return sorted(path for path in directory.rglob("*-*") if path.is_file())


def fill(directory, pieces, **knobs):
    journal = Journal(directory, 3, 1, **knobs)
    sizes = [files(directory)[-1].stat().st_size]
    for kind, entries in pieces:
        assert (journal.write_lines if kind == "write" else journal.answer_lines)(entries)
        sizes.append(files(directory)[-1].stat().st_size)
    journal.close()
    return sizes


def expected(pieces):
    write_lines: dict[int, list[WriteLine]] = {}
    answer_lines: dict[int, list[AnswerLine]] = {}
    for kind, entries in pieces:
        for message_id, *rest in entries:
            if kind == "write":
                write_lines.setdefault(message_id, []).append(WriteLine(*rest))
            elif any(line[:3] == tuple(rest[:3]) for line in write_lines.get(message_id, ())):
                answer_lines.setdefault(message_id, []).append(AnswerLine(*rest))
    return write_lines, answer_lines


@quick
@given(pieces=bursts)
def test_what_was_written_is_read_back(tmp_path_factory, pieces):
    directory = tmp_path_factory.mktemp("j")
    fill(directory, pieces)
    replay = Journal.replay(directory, 3)
    assert replay.is_present
    assert (replay.writes, replay.answers) == expected(pieces)


@quick
@given(pieces=bursts, data=st.data())
def test_only_the_lines_of_what_is_wanted_are_kept(tmp_path_factory, pieces, data):
    directory = tmp_path_factory.mktemp("j")
    fill(directory, pieces)
    known = sorted({entry[0] for _, entries in pieces for entry in entries})
    wanted = data.draw(st.lists(st.sampled_from(known), unique=True) if known else st.just([]))
    replay = Journal.replay(directory, 3, wanted)
    assert replay.is_present
    for found, all_lines in zip((replay.writes, replay.answers), expected(pieces), strict=True):
        assert found == {id: lines for id, lines in all_lines.items() if id in wanted}


def test_when_nothing_is_wanted_only_the_heads_are_read(tmp_path, monkeypatch):
    fill(tmp_path, [("write", [(5, 0, 1, 0, 2)])])
    monkeypatch.setattr(module, "_READERS", {})
    monkeypatch.setattr("store.journal.zlib", None)
    assert Journal.replay(tmp_path, 3, []) == module.Replay(is_present=True)
    assert not Journal.replay(tmp_path, 4, []).is_present
    [path] = files(tmp_path)
    path.write_bytes(path.read_bytes()[:20])  # half a head
    assert not Journal.replay(tmp_path, 3, []).is_present


def test_a_segment_that_is_full_is_cut(tmp_path):
    journal = Journal(tmp_path, 3, 1)
    burst = [(message_id, 0, 1, 0, 2) for message_id in range(1, 2001)]
    for _ in range(400):  # 12 MB
        assert journal.write_lines(burst)
    sizes = [path.stat().st_size for path in files(tmp_path)]
    assert len(sizes) > 2
    assert max(sizes) <= module.SEGMENT_BYTES + 2000 * 15 + 100 < 5 << 20
    journal.note_low_water(3000)  # of what nobody needs one segment stays
    assert len(files(tmp_path)) == 1
    assert Journal.replay(tmp_path, 3, []).is_present
    journal.close()


@quick
@given(pieces=bursts, data=st.data(), tail=st.binary(max_size=60))
def test_any_truncation_with_any_garbage_keeps_the_whole_bursts_before_it(
    tmp_path_factory, pieces, data, tail
):
    directory = tmp_path_factory.mktemp("j")
    sizes = fill(directory, pieces)
    at = data.draw(st.integers(0, sizes[-1]))
    [path] = files(directory)
    path.write_bytes(path.read_bytes()[:at] + tail)
    replay = Journal.replay(directory, 3)
    whole = sum(size <= at for size in sizes) - 1
    if whole < 0:  # not even the head: as if there were none
        assert not replay.is_present or path.read_bytes()[: sizes[0]] != b""
        return
    # garbage that happens to continue a cut frame correctly is that frame
    for kept in range(whole, len(pieces) + 1):
        if (replay.writes, replay.answers) == expected(pieces[:kept]):
            return
    raise AssertionError("a whole burst before the damage was lost, or garbage was believed")


def test_a_journal_that_is_absent_is_not_present(tmp_path):
    assert not Journal.replay(tmp_path, 3).is_present
    assert not Journal.replay(tmp_path / "nowhere", 3).is_present


def test_a_journal_of_before_the_last_boot_is_not_present(tmp_path, monkeypatch):
    fill(tmp_path, [("write", [(5, 0, 1, 0, 2)])])
    other = tmp_path / "boot_id"
    other.write_text("00000000-0000-0000-0000-000000000000\n")
    monkeypatch.setattr(module, "_BOOT_ID", other)
    replay = Journal.replay(tmp_path, 3)
    assert not replay.is_present
    assert replay.writes == {5: [WriteLine(0, 1, 0, 2)]}


def test_another_process_number_has_its_own_journal(tmp_path):
    fill(tmp_path, [("write", [(5, 0, 1, 0, 2)])])
    assert not Journal.replay(tmp_path, 4).is_present
    Journal(tmp_path, 4, 1).close()
    assert Journal.replay(tmp_path, 3).writes == {5: [WriteLine(0, 1, 0, 2)]}


def test_a_new_epoch_removes_the_old_ones_only_when_it_opens(tmp_path):
    fill(tmp_path, [("write", [(5, 0, 1, 0, 2)])])
    assert Journal.replay(tmp_path, 3).writes
    journal = Journal(tmp_path, 3, 2)
    assert Journal.replay(tmp_path, 3) == module.Replay(is_present=True)
    assert [path.name for path in files(tmp_path)] == ["2-000000"]
    journal.close()


def test_the_same_epoch_again_does_not_collide(tmp_path):
    Journal(tmp_path, 3, 1).close()
    Journal(tmp_path, 3, 1).close()
    assert [path.name for path in files(tmp_path)] == ["1-000001"]


def test_segments_are_read_in_order_and_dropped_when_wholly_below_the_mark(tmp_path):
    journal = Journal(tmp_path, 3, 1, segment_bytes=100)
    for message_id in range(1, 13):
        journal.write_lines([(message_id, 0, 1, 0, 2)])
        journal.answer_lines([(message_id, 0, 1, 0, SUBMITTED, f"id{message_id}", "")])
    assert len(files(tmp_path)) > 3
    assert list(Journal.replay(tmp_path, 3).writes) == list(range(1, 13))
    journal.note_low_water(6)
    kept = Journal.replay(tmp_path, 3)
    assert kept.is_present
    assert set(range(6, 13)) <= set(kept.writes)
    assert 1 not in kept.writes
    journal.note_low_water(1 << 60)  # the open segment stays
    assert len(files(tmp_path)) == 1
    journal.close()


def test_a_late_line_about_an_old_message_keeps_its_segment(tmp_path):
    journal = Journal(tmp_path, 3, 1, segment_bytes=60)
    journal.write_lines([(100, 0, 1, 0, 2)])
    journal.answer_lines([(7, 0, 1, 0, UNCERTAIN, "", "timeout")])
    journal.write_lines([(101, 0, 1, 0, 2)])
    journal.note_low_water(90)
    assert Journal.replay(tmp_path, 3).writes[100]
    journal.close()


def test_an_old_message_claimed_anew_keeps_its_lines_and_nothing_older(tmp_path):
    """Without dates a message of yesterday, held here, would keep every segment since."""
    clock = itertools.count(1000)
    book = ClaimBook(3, moment=lambda: next(clock))
    journal = Journal(tmp_path, 3, 1, segment_bytes=60, moment=lambda: next(clock))

    def burst(message_id):
        journal.write_lines([(message_id, 0, 1, 0, 2)])

    for _ in range(20):
        burst(next(clock))
    assert len(files(tmp_path)) > 5
    book.adopt(1, [7])
    burst(7)
    for _ in range(4):
        burst(next(clock))
    floor = book.floor()
    assert floor is not None
    journal.note_low_water(floor)
    replay = Journal.replay(tmp_path, 3)
    assert 7 in replay.writes
    assert len(replay.writes) <= 7
    assert book.older_than(next(clock)) == {1}
    journal.close()


@quick
@given(st.lists(st.sampled_from(["claim", "adopt", "write", "settle", "note"]), max_size=60))
def test_no_line_of_an_open_claim_is_ever_dropped(tmp_path_factory, steps):
    directory = tmp_path_factory.mktemp("j")
    clock = itertools.count(1 << 30)
    old = itertools.count(1)  # ids of messages of other processes, days old
    book = ClaimBook(3, moment=lambda: next(clock))
    journal = Journal(directory, 3, 1, segment_bytes=100, moment=lambda: next(clock))
    claimed: dict[int, int] = {}  # block to its message
    written: dict[int, int] = {}
    for step in steps:
        if step == "claim":
            message_id = next(clock)
            claimed[book.block([message_id])] = message_id
            book.committed(book.take_sql()[1])
        elif step == "adopt":
            number = book.reserve()
            claimed[number] = next(old)
            book.adopt(number, [claimed[number]])
        elif step == "write":
            for message_id in claimed.values():
                journal.write_lines([(message_id, 0, 1, 0, 2)])
                written[message_id] = written.get(message_id, 0) + 1
        elif step == "settle" and claimed:
            number = next(iter(claimed))
            written.pop(claimed.pop(number), None)
            book.settled(number)
            book.committed(book.take_sql()[1])
        else:
            floor = book.floor()
            journal.note_low_water(1 << 60 if floor is None else floor)
        kept = Journal.replay(directory, 3).writes
        assert {m: len(kept.get(m, ())) for m in written} == written
    journal.close()


def test_an_answer_whose_write_line_is_gone_answers_no_later_write(tmp_path):
    journal = Journal(tmp_path, 3, 1, segment_bytes=70)
    journal.write_lines([(5, 0, 1, 0, 2), (5, 1, 1, 0, 2)])  # fills its segment
    journal.answer_lines([(5, 0, 1, 0, NOT_SENT, "", "link.lost")])
    journal.note_low_water(6)
    assert Journal.replay(tmp_path, 3).answers == {}
    journal.write_lines([(5, 0, 1, 0, 2)])  # the same attempt again, on its way
    replay = Journal.replay(tmp_path, 3)
    assert (len(replay.writes[5]), replay.answers) == (1, {})
    journal.close()


def test_a_failed_write_says_so_and_nothing_goes_behind_it(tmp_path, monkeypatch):
    journal = Journal(tmp_path, 3, 1)
    assert journal.write_lines([(1, 0, 1, 0, 2)])
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[:9]))
        assert not journal.write_lines([(2, 0, 1, 0, 2)])
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(os, "write", full)
        assert not journal.write_lines([(3, 0, 1, 0, 2)])
    assert journal.failures == 2
    assert journal.write_lines([(4, 0, 1, 0, 2)])
    replay = Journal.replay(tmp_path, 3)
    assert sorted(replay.writes) == [1, 4]
    journal.close()


def test_lines_that_cannot_be_packed_stop_the_burst(tmp_path):
    journal = Journal(tmp_path, 3, 1)
    assert not journal.write_lines([(1, 70_000, 1, 0, 2)])
    assert journal.write_lines([])
    assert journal.answer_lines([])
    journal.close()
    assert not journal.write_lines([(1, 0, 1, 0, 2)])


def test_files_are_private(tmp_path):
    Journal(tmp_path / "deep" / "er", 3, 1).close()
    [path] = files(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("count", [1, 500])
def test_one_burst_is_one_write(tmp_path, monkeypatch, count):
    journal = Journal(tmp_path, 3, 1)
    calls = []
    real = os.write

    def counted(handle, data):
        calls.append(len(data))
        return real(handle, data)

    monkeypatch.setattr(os, "write", counted)
    journal.write_lines([(number, 0, 1, 0, 2) for number in range(1, count + 1)])
    assert len(calls) == 1
    journal.close()


def test_its_folders_are_nobody_else_s(tmp_path):
    before = os.umask(0o022)
    try:
        Journal(tmp_path / "data" / "journal", 3, 1).close()
    finally:
        os.umask(before)
    for path in (tmp_path / "data" / "journal", tmp_path / "data" / "journal" / "0003"):
        assert path.stat().st_mode & 0o777 == 0o700


@contextmanager
def file_limit(size):
    """Files of this process may not grow beyond so many bytes: as on a disk that fills up.

    Inside the test only: what pytest writes between tests may go to a larger file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_gets_no_file_for_every_try_and_is_written_again(tmp_path):
    journal = Journal(tmp_path, 3, 1)
    assert journal.write_lines([(1, 0, 1, 0, 7)])
    for room in (60, 20, 0):  # half a frame, half a head, nothing
        with file_limit(room):
            told = [journal.write_lines([(2, 0, 1, 0, 7)]) for _ in range(5)]
        assert told == [False] * 5
    assert journal.failures == 15
    assert len(files(tmp_path)) <= 2
    assert journal.write_lines([(3, 0, 1, 0, 7)])
    journal.close()
    replay = Journal.replay(tmp_path, 3)
    assert replay.is_present
    assert replay.writes.keys() == {1, 3}


def test_half_a_head_makes_no_journal(tmp_path):
    """A start on a full disk says so; what would stand behind half a head, nobody could read."""
    with file_limit(20), pytest.raises(OSError, match="No space left"):
        Journal(tmp_path, 3, 1)
    assert files(tmp_path) == []
