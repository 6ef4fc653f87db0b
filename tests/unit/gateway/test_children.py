import json
import signal

from gateway.children import backoff_s, ended_how, tail


def test_the_first_start_after_a_death_is_at_once_then_ever_later():
    assert [backoff_s(deaths) for deaths in (0, 1, 2, 3, 4, 5, 6, 7, 99)] == [
        0.0,
        0.0,
        0.5,
        1.0,
        2.0,
        4.0,
        8.0,
        10.0,
        10.0,
    ]


def test_an_end_is_told_in_words():
    assert ended_how(3) == "exit code 3"
    assert ended_how(-signal.SIGKILL) == "SIGKILL"
    assert ended_how(-99) == "signal 99"


def test_the_last_lines_of_a_log(tmp_path):
    log = tmp_path / "x.log"
    assert tail(log) == []
    log.write_text("".join(f"line {n}\n" for n in range(5000)) + "\n")
    assert tail(log, 2) == ["line 4998", "line 4999"]


def test_of_a_structured_line_the_point_is_shown(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("earlier life\n")
    start = log.stat().st_size
    line = {"event": "uncaught exception", "exception": "  File x\nTypeError: no"}
    with log.open("a") as more:
        more.write(json.dumps(line) + "\n" + json.dumps({"event": "a", "error": "b"}) + "\n[1]\n")
    assert tail(log, since=start) == ["uncaught exception: TypeError: no", "a: b", "[1]"]
