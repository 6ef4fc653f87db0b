import io
import os
import stat

import pytest

from gateway.export import Order, opened, pause_s, reason_of, share_of, span_of
from gateway.terminal import Terminal
from sms.errors import ConfigError
from sms.ids import id_at
from store.export import Span, bounds

NOW = 1_795_392_000.0  # 2026-11-23T00:00:00Z
DAY = 86_400


def span(**given):
    return span_of(Order("shop", **given), NOW)


def test_without_times_it_is_ninety_days():
    assert span() == (NOW - 90 * DAY, NOW)
    assert span(days=7) == (NOW - 7 * DAY, NOW)


def test_days_are_those_of_china_and_whole():
    after, before = span(since="2026-11-01", until="2026-11-02")
    assert before - after == 2 * DAY
    assert (after + 8 * 3600) % DAY == 0


def test_times_have_their_zone_and_nothing_is_read_from_the_future():
    assert span(since="2026-11-22T08:00:00+08:00") == (NOW - DAY, NOW)
    assert span(since="2026-11-22T00:00:00Z", until="2030-01-01") == (NOW - DAY, NOW)


@pytest.mark.parametrize(
    "word", ["", "yesterday", "2026-11-31", "2026-11-22T08:00:00", "20261122", "2026-W47-7"]
)
def test_what_is_no_time_is_said_with_its_option(word):
    with pytest.raises(ConfigError, match="--since"):
        span(since=word)


def test_an_empty_span_is_refused():
    with pytest.raises(ConfigError, match="--until"):
        span(since="2026-11-20", until="2026-11-19")


@pytest.mark.parametrize("word", ["", "x", "    a    ", "a" * 201, "why\x00not"])
def test_whole_numbers_need_a_reason_that_says_something(word):
    with pytest.raises(ConfigError, match="--unmask"):
        reason_of(word)
    assert reason_of("  the court's order\n 7 ") == "the court's order 7"


def test_the_rate_is_kept_since_the_beginning():
    assert pause_s(1000, 500, 0.5) == 1.5
    assert pause_s(1000, 500, 3.0) == 0
    assert pause_s(1000, 0, 0.0) == 0


def test_progress_is_the_share_of_the_time():
    wanted = Span(1, NOW - 10 * DAY, NOW)
    low, high = bounds(wanted)
    assert low < id_at(wanted.after) < id_at(wanted.before) < high
    assert share_of(wanted, low - 1) == 0
    assert share_of(wanted, id_at(NOW - 5 * DAY)) == pytest.approx(0.5, abs=0.01)
    assert share_of(wanted, high + 1000) == 1


def test_a_file_appears_when_all_of_it_is_there(tmp_path):
    path = tmp_path / "log.csv"
    with opened(path) as out:
        out.write("订单\r\n")
        assert not path.exists()
    assert path.read_bytes() == "订单\r\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["log.csv"]


def test_what_stood_there_stays_when_it_fails(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old")

    def interrupted():
        with opened(path) as out:
            out.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["log.csv"]


def test_a_place_that_is_none_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"), opened(tmp_path / "no" / "x.csv"):
        pass


def test_stdout_has_the_rows_and_nothing_else(capsysbinary):
    with opened(None) as out:
        out.write("a,单\r\n")
    assert capsysbinary.readouterr().out == "a,单\r\n".encode()


def test_no_bar_without_a_terminal():
    assert not Terminal(stream=io.StringIO()).is_live
