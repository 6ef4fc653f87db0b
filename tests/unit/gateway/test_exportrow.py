import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exportrow import COLUMNS, csv_head, csv_rows, json_rows, row_of, safe_cell
from sms.model import State
from tests.support.postgres import text


def row(**fields):
    message = text(id=1 << 40, created_at=1_790_000_000.5, number="8613800138000", **fields)
    return row_of(message, "shop", "mobile-a")


def cells(told):
    return list(csv.reader(io.StringIO(told, newline="")))


def test_a_row_has_every_column_and_a_masked_number():
    [told] = cells(csv_rows([row(client_ref="order 7", state=State.DELIVERED, final_at=1.79e9)]))
    by_name = dict(zip(COLUMNS, told, strict=True))
    assert by_name["to"] == "86138****8000"
    assert by_name["client_ref"] == "order 7"
    assert by_name["status"] == "delivered"
    assert by_name["accepted_at"] == "2026-09-21T14:13:20.500Z"
    assert by_name["ended_at"] == "2026-09-21T14:13:20.000Z"
    assert by_name["send_at"] == by_name["reason"] == ""
    assert by_name["duplicate_risk"] == "false"


def test_a_whole_number_only_where_it_was_asked_for():
    message = text(id=1 << 40, number="8613800138000")
    assert "13800138000" not in csv_rows([row_of(message, "shop", None)])
    assert "8613800138000" in csv_rows([row_of(message, "shop", None, is_unmasked=True)])


def test_json_says_the_same_with_types():
    told = json.loads(json_rows([row(client_ref="单号=1")]))
    assert tuple(told) == COLUMNS
    assert told["to"].startswith("+86")
    assert told["client_ref"] == "单号=1"
    assert (told["segments"], told["duplicate_risk"], told["send_at"]) == (1, False, None)


@pytest.mark.parametrize(
    "word", ["=1+1", "+1", "-1", "@x", " =1", "\t=1", "\rx", "\nx", "＝1", "　=1"]
)
def test_what_a_spreadsheet_takes_for_a_formula_is_text(word):
    assert safe_cell("client_ref", word) == f"'{word}"


@pytest.mark.parametrize("word", ["", "a=1", "order-7", "订单", "'x", " x", "7"])
def test_other_words_stay_as_they_are(word):
    assert safe_cell("client_ref", word) == word


def test_a_number_has_no_plus_and_is_no_formula():
    assert safe_cell("to", "+8613800138000") == "8613800138000"
    assert safe_cell("to", "=cmd") == "'=cmd"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_client_ref_is_one_cell_of_one_line(word):
    read = cells(csv_head() + csv_rows([row(client_ref=word)]))
    assert [len(line) for line in read] == [len(COLUMNS)] * 2
    cell = read[1][COLUMNS.index("client_ref")]
    assert cell in (word, f"'{word}")
    assert not cell.lstrip().startswith(("=", "+", "-", "@"))
