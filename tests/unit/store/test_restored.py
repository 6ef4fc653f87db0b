"""What a node remembers of its database, and the numbers that are written here and meant there."""

from receipts.state import Path as StatePath
from store.restored import UNCERTAIN_PATH, Seen, _seen


def test_the_row_is_the_path_that_the_table_of_states_has():
    assert StatePath(UNCERTAIN_PATH) is StatePath.UNCERTAIN


def test_the_last_mark_of_each_number_is_kept(tmp_path):
    folder = tmp_path / "seen"
    Seen(folder, 3, 77).note(1000)
    Seen(folder, 3, 77).note(2000)
    Seen(folder, 12, 77).note(5)
    assert sorted(_seen(folder)) == [(3, 77, 2000), (12, 77, 5)]


def test_a_torn_file_says_nothing(tmp_path):
    folder = tmp_path / "seen"
    Seen(folder, 3, 77).note(1000)
    (folder / "0004").write_text('{"system": 77, "id_hi')
    (folder / "0005.new").write_text("")
    assert _seen(folder) == [(3, 77, 1000)]


def test_without_a_folder_there_is_nothing_to_compare(tmp_path):
    assert _seen(tmp_path / "seen") == []


def test_a_disk_that_cannot_be_written_is_no_fault_of_the_worker(tmp_path):
    (tmp_path / "seen").write_text("a file where a folder should be")
    Seen(tmp_path / "seen", 3, 77).note(1000)
