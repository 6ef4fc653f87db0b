import json
import signal
from typing import Any

import pytest

from gateway.children import Child, CpuTotal, backoff_s, ended_how, tail


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


def test_of_a_log_that_was_set_aside_meanwhile_the_new_one_is_shown(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("new\n")
    assert tail(log, since=1000) == ["new"]


class Process:
    """A process that ends when the test says so, and keeps the signals it was sent."""

    pid = 4711

    def __init__(self):
        self.code = None
        self.signals = []

    def poll(self):
        return self.code

    def send_signal(self, number):
        self.signals.append(number)


def started(tmp_path, now=0.0):
    child = Child("worker-0", [], {}, tmp_path / "log")
    process: Any = Process()
    child.process = process
    child.started_at = now
    return child, process


def test_asked_to_end_twice_it_hears_it_once(tmp_path):
    child, process = started(tmp_path)
    child.ask_to_end()
    child.ask_to_end()
    assert process.signals == [signal.SIGTERM]  # a second one means "now" to a worker


def test_an_end_that_was_asked_for_is_no_death(tmp_path):
    child, process = started(tmp_path)
    child.deaths = 5
    child.ask_to_end()
    process.code = 0
    assert child.reap(1.0) == 0
    assert (child.deaths, child.due_at) == (0, 1.0)


def test_deaths_are_counted_for_each_child_alone(tmp_path):
    bad, good = started(tmp_path)[0], started(tmp_path)[0]
    for now in (1.0, 2.0, 3.0):
        process: Any = Process()
        bad.process = process
        bad.started_at = now
        process.code = 1
        bad.reap(now)
    assert (bad.deaths, bad.due_at, bad.last_code) == (3, 4.0, 1)
    assert (good.deaths, good.last_code) == (0, None)


def test_cpu_seconds_go_on_over_the_lives_of_a_name():
    total = CpuTotal()
    assert total.add(10, 2.0) == 2.0
    assert total.add(10, 3.0) == 3.0
    assert total.add(11, 0.5) == 3.5
    assert total.add(11, 1.0) == 4.0


def test_one_that_cannot_be_started_is_tried_again_ever_later(tmp_path):
    child = Child("a", ["true"], {}, tmp_path / "away" / "a.log")
    waits = []
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            child.start(100.0)
        child.put_off(100.0)
        waits.append(child.due_at - 100.0)
    assert child.pid is None
    assert waits == [0.0, 0.5, 1.0]
