"""What the measuring commands share: their exit codes and what stands on stdout."""

import asyncio
import json
from argparse import Namespace

import pytest
from rich.console import Console

from loadtest.command import measured, print_found, print_problems
from loadtest.stock_gateway import NotStock

FOUND = {"rate": 7.5, "name": "沙箱"}


def raising(error):
    def measure(bar):
        raise error

    return measure


def test_what_was_found_comes_back():
    assert measured("bench", lambda bar: FOUND, Console()) is FOUND


@pytest.mark.parametrize("error", [NotStock("a"), OSError("a"), RuntimeError("a")])
def test_what_cannot_be_measured_is_a_line_and_exit_code_1(error, capsys):
    with pytest.raises(SystemExit) as ended:
        measured("bench", raising(error), Console(stderr=True))
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "bench: a\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_an_interrupted_one_ends_with_130_and_says_nothing(error, capsys):
    with pytest.raises(SystemExit) as ended:
        measured("bench", raising(error), Console(stderr=True))
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_json_only_when_asked_for(capsys):
    shown: list[object] = []
    print_found(FOUND, Namespace(json=False), shown.append)
    assert shown == [FOUND]
    assert capsys.readouterr().out == ""
    print_found(FOUND, Namespace(json=True), shown.append)
    assert shown == [FOUND]
    printed = capsys.readouterr().out
    assert json.loads(printed) == FOUND
    assert "沙箱" in printed


def test_problems_go_to_stderr_a_line_each(capsys):
    print_problems(["3 messages [lost]", "slow"], Console(stderr=True))
    assert capsys.readouterr() == ("", "WRONG  3 messages [lost]\nWRONG  slow\n")
