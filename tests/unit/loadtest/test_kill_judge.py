"""What the judge of `tests/flow/test_kill.py` makes of a carrier's record."""

from tests.support.campaign import Json, count_copies


def row(number: str, index: int, total: int) -> Json:
    return {"to": number, "index": index, "total": total}


def test_segments_are_counted_one_by_one():
    copies = {"861": [0, 0, 0]}
    count_copies(copies, [row("861", 1, 3), row("861", 3, 3), row("861", 3, 3)])
    assert copies == {"861": [1, 0, 2]}


def test_one_line_about_a_whole_long_text_is_all_its_segments():
    copies = {"861": [0, 0, 0], "862": [0]}
    count_copies(copies, [row("861", 1, 1), row("862", 1, 1)])
    assert copies == {"861": [1, 1, 1], "862": [1]}


def test_a_text_in_segments_and_as_a_whole_was_taken_twice():
    copies = {"861": [0, 0]}
    count_copies(copies, [row("861", 1, 2), row("861", 2, 2), row("861", 1, 1)])
    assert copies == {"861": [2, 2]}
