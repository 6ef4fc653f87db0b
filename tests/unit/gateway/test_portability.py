"""Files of ported numbers: what is read, and how what is wrong is told."""

from __future__ import annotations

import io

import pytest

from gateway.portability import SHOWN, BadRow, Row, load, rows_of
from gateway.settings import Settings
from gateway.terminal import Terminal
from sms.errors import ConfigError
from sms.model import Carrier


def read(text: str) -> list[Row | BadRow]:
    return list(rows_of(io.StringIO(text, newline="")))


def test_rows_with_and_without_a_carrier():
    assert read("number,carrier\r\n13800138000,CU\r\n\r\n +8613900139000 , \n") == [
        Row("8613800138000", Carrier.CU),
        Row("8613900139000", None),
    ]


def test_the_head_may_be_missing_and_stands_only_first():
    assert read("13800138000,CB") == [Row("8613800138000", Carrier.CB)]
    assert [type(row) for row in read("13800138000,CB\nnumber,carrier\n")] == [Row, BadRow]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("13800138000", "1 fields; write two"),
        ("13800138000,CU,x", "3 fields; write two"),
        ("13800138000,cu", "write one of CM, CU, CT, CB"),
        ("13800138000,other", "write one of CM, CU, CT, CB"),
        ("13700137,CU", "+ and digits only"),
        ("+15551234567,CU", "only mainland numbers"),
        ("16000160000,CU", "no carrier has been given"),
    ],
)
def test_a_bad_row_has_its_line_and_a_remedy(line: str, told: str):
    good, bad, last = read(f"13800138000,CM\n{line}\n13800138001,CM\n")
    assert isinstance(good, Row)
    assert isinstance(last, Row)
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert told in bad.detail
    assert line.split(",", maxsplit=1)[0] not in bad.detail  # a number is nobody's business


def test_what_is_no_csv_ends_the_file():
    assert [type(row) for row in read('13800138000,CM\n"138\x00')] == [Row, BadRow]


def test_a_file_with_bad_rows_loads_nothing_and_names_the_first(tmp_path, capsys):
    path = tmp_path / "ported.csv"
    path.write_text("13800138000,CU\n" + "1,CU\n" * (SHOWN + 3), "utf-8")
    # No database is named: what is wrong is found before one is asked for.
    assert load(Settings(), path, Terminal()) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"{path}:2: ")
    assert len(told) == SHOWN + 2
    assert told[-2] == "… and 3 more"
    assert told[-1].startswith("23 rows to correct, 1 are right; nothing was loaded")


def test_a_file_that_is_not_there_is_said_in_a_line(tmp_path):
    with pytest.raises(ConfigError, match="name a CSV file"):
        load(Settings(), tmp_path / "none.csv", Terminal())
