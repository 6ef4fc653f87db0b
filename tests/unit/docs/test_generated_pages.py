"""docs/reasons.md and docs/settings.md say what the code says."""

import pytest

from docs import reasons, settings
from gateway.settings import PREFIX, Reliability, Settings
from sms.reasons import BY_CODE


def rows(page):
    return {
        line.split("`")[1]: [cell.strip() for cell in line.split(" | ")]
        for line in page.splitlines()
        if line.startswith("| `")
    }


@pytest.mark.parametrize("maker", [reasons, settings])
def test_the_page_is_up_to_date(maker):
    """When it fails: `python -m docs.reasons`, `python -m docs.settings`."""
    assert maker.PAGE.read_text("utf-8") == maker.page()


def test_every_reason_has_a_row_that_says_how_it_ends_and_what_to_do():
    told = rows(reasons.page())
    assert told.keys() == BY_CODE.keys()
    assert [code for code, cells in told.items() if not all(cells[:5])] == []
    assert all(reasons.ends(code) for code in BY_CODE)


def test_every_setting_has_a_row_and_a_meaning():
    """When it fails: a comment behind the new field in gateway/settings.py is missing."""
    told = rows(settings.page())
    count = len(Settings.model_fields) - 1 + len(Reliability.model_fields)
    assert len(told) == count
    assert all(variable.startswith(PREFIX) for variable in told)
    assert [variable for variable, cells in told.items() if cells[3].strip("| ") == ""] == []


def test_a_meaning_is_the_comment_behind_a_field_and_the_one_above_it():
    source = (
        'class A(B):\n    x: int = 1  # how "#" many\n    # Above.\n    # And on.\n    y: int = 2\n'
    )
    assert settings.meanings(source) == {"A": {"x": 'how "#" many', "y": "Above. And on"}}
