"""Rows for COPY: exact segment boundaries, bad rows refused, fragments free of foreign text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sms.model import EventRow, MessageClass, State
from store.copying import BAD_ROW, body_of, build_event, build_events, payload, texts_of
from store.fragments import (
    ParkedReport,
    batch_sql,
    deltas_sql,
    drop_claims_sql,
    holdings_sql,
    open_report,
    park_reports_sql,
    park_sql,
    seal_report,
    unpark_sql,
)
from store.seal import Keyring


def row(**fields):
    event = EventRow(1, 2, 3, 4, 1, State.SUBMITTED, 1.8e9)
    for name, value in fields.items():
        setattr(event, name, value)
    return event


@given(st.lists(st.text(), min_size=1, max_size=10))
def test_texts_come_back_cut_where_they_were(texts):
    assert texts_of(body_of(texts), len(texts)) == tuple(texts)


@given(st.text())
def test_one_segment_is_just_its_bytes(text):
    assert body_of([text]) == text.encode("utf-8", "surrogatepass")


def test_a_lone_surrogate_is_no_loss():
    assert texts_of(body_of(["a\ud800", "b"]), 2) == ("a\ud800", "b")


@pytest.mark.parametrize(
    "fields",
    [
        {"sequence": 1 << 15},
        {"message_id": 1 << 63},
        {"tenant": 1 << 31},
        {"copy": 1 << 15},
        {"segment": 256},
        {"at": float("nan")},
        {"at": float("inf")},
        {"times": tuple(range(9))},
        {"times": (1 << 31,)},
        {"status": "nonsense"},
    ],
)
def test_a_row_that_fits_no_column_is_bad(fields):
    with pytest.raises(BAD_ROW):
        build_events([row(**fields)])


def test_a_reason_nobody_listed_does_not_cost_the_row():
    assert build_event(row(reason="no.such.reason")) == build_event(row(reason="internal.error"))


def test_a_stream_has_head_and_tail():
    data = bytes(payload([b"row"]))
    assert data == b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"row\xff\xff"


@given(st.text(), st.text(), st.binary(max_size=40))
def test_no_foreign_text_reaches_the_sql(carrier_id, word, verdicts):
    ring = Keyring(bytes(32))
    report = ParkedReport(1, 2, carrier_id, word, word, word, 3, 4.0)
    sql = park_reports_sql(ring, [report]) + batch_sql(1, 2, 3, 4.0, verdicts)
    literals = re.findall(r"'[^']*'", sql)
    assert all(re.fullmatch(r"'(UTF8|\\x[0-9a-f]*)'", literal) for literal in literals)
    assert re.fullmatch(r"[\x20-\x7e]*", sql)
    assert ";" not in sql.replace(");", "").rstrip(";") or sql.count(";") == 2


@given(st.text(), st.text(), st.text())
def test_a_parked_report_opens_again(state, error, number):
    ring = Keyring(bytes(32))
    report = ParkedReport(9, 2, "x", state, error, number, 3, 4.0)
    sealed = seal_report(ring, report)
    assert open_report(ring, 9, sealed) == (state, error, number)


def test_a_process_that_holds_nothing_has_spoken():
    sql = holdings_sql(3, {1: (0, 0)})
    assert sql.startswith("DELETE FROM holdings WHERE process=3 AND tenant NOT IN (0);")
    assert "(3,0,0,0,clock_timestamp())" in sql


def test_nothing_to_do_is_no_sql():
    assert park_sql(0, []) == unpark_sql([]) == deltas_sql(0, {}) == drop_claims_sql(0, []) == ""
    assert park_reports_sql(Keyring(bytes(32)), []) == ""
    assert park_sql(0, [(1, 2.5, 3, MessageClass.OTP, 4)]).startswith("INSERT INTO parked")
