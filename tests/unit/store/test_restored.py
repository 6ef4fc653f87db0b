"""What a node remembers of its database, and the numbers that are written here and meant there."""

from receipts.state import Path as StatePath
from store.restored import UNCERTAIN_PATH, Origin, Seen, _seen

OURS = Origin("5b1f", 77, 16384)


def test_the_row_is_the_path_that_the_table_of_states_has():
    assert StatePath(UNCERTAIN_PATH) is StatePath.UNCERTAIN


def test_the_last_mark_of_each_number_is_kept(tmp_path):
    folder = tmp_path / "seen"
    Seen(folder, 3, OURS).note(1000)
    Seen(folder, 3, OURS).note(2000)
    Seen(folder, 12, OURS).note(5)
    assert sorted(_seen(folder)) == [(3, OURS, 2000), (12, OURS, 5)]


def test_a_torn_file_says_nothing(tmp_path):
    folder = tmp_path / "seen"
    Seen(folder, 3, OURS).note(1000)
    (folder / "0004").write_text('{"lineage": "5b1f", "sys')
    (folder / "0005.new").write_text("")
    assert _seen(folder) == [(3, OURS, 1000)]


def test_without_a_folder_there_is_nothing_to_compare(tmp_path):
    assert _seen(tmp_path / "seen") == []


def test_a_disk_that_cannot_be_written_is_no_fault_of_the_worker(tmp_path):
    (tmp_path / "seen").write_text("a file where a folder should be")
    Seen(tmp_path / "seen", 3, OURS).note(1000)


def test_a_state_of_the_same_database_is_known_and_another_database_is_not():
    assert Origin("5b1f", 78, 1).is_of(OURS)  # a dump of it on another server
    assert Origin("c3d4", 77, 16384).is_of(OURS)  # put back to before it had a lineage
    assert not Origin("c3d4", 77, 16390).is_of(OURS)  # a new one on the same server
    assert not Origin("c3d4", 0, 16384).is_of(Origin("5b1f", 0, 16384))  # nobody tells the server
