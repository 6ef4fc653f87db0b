"""docs/scaling.md says what was recorded, and its arithmetic is this."""

import pytest

from docs import sizing


def test_the_page_is_up_to_date():
    """When it fails, after a new record: `python -m docs.sizing`."""
    text = sizing.PAGE.read_text("utf-8")
    assert sizing.page(text) == text


def test_both_records_are_of_the_same_loads():
    names = [run["name"] for run in sizing.read("bench")["runs"]]
    assert [run["name"] for run in sizing.read("footprint")["runs"]] == names


def test_the_arithmetic_of_one_row():
    """1,000 a second at 120 µs are 0.12 cores of work: 0.2 where a core is used to 60 %."""
    cost = {"worker": 120.0, "postgres": 40.0, "stored": 1000.0, "wal": 2000.0}
    of = sizing.needed(1000, cost)
    assert of["workers"] == pytest.approx(0.2)
    assert of["postgres"] == pytest.approx(0.08)
    assert of["wal_mb"] == pytest.approx(2.0)
    assert of["day_m"] == pytest.approx(25.92)
    assert of["day_gb"] == pytest.approx(25.92)


def test_without_its_marks_a_page_is_not_overwritten():
    with pytest.raises(ValueError, match="marks"):
        sizing.page("# Nothing here\n")
