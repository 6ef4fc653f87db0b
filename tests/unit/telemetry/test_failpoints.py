import ast
import json
import os
import signal
import time
from functools import cache
from pathlib import Path

import pytest

from gateway.settings import Settings
from sms.errors import ConfigError
from telemetry.failpoints import POINTS, Failpoints, armed_file, fired_file, parse

ROOT = Path(__file__).parents[3]
ROOMS = ("adapters", "cluster", "failover", "gateway", "ratelimit", "receipts", "store", "webhooks")


@pytest.fixture
def signals(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


@pytest.fixture
def points():
    return Failpoints()


# -- the list and the code ---------------------------------------------------------------------


def sources():
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "failpoints" in path.read_text():
                yield path


@cache
def hits(path):
    """(name, is guarded) of every `failpoints.hit("…")`, the way it stands in the file."""
    return list(hits_in(ast.parse(path.read_text())))


def hits_in(tree):
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "failpoints.is_armed" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("failpoints.hit"):
            [name] = node.args
            assert isinstance(name, ast.Constant), ast.unparse(node)
            yield name.value, id(node) in guarded


def test_the_list_names_what_stands_in_the_code_and_nothing_else():
    found = {name for path in sources() for name, _ in hits(path)}
    assert found == set(POINTS)


def test_no_place_costs_a_call_while_nothing_is_armed():
    loose = [
        (path.name, name) for path in sources() for name, is_guarded in hits(path) if not is_guarded
    ]
    assert loose == []


def test_every_step_of_the_path_has_a_place():
    steps = {text.partition(":")[0] for text in POINTS.values()}
    assert {str(number) for number in range(1, 13)} <= steps


def test_the_page_lists_every_place():
    page = (ROOT / "docs" / "campaign.md").read_text()
    assert [name for name in POINTS if f"`{name}`" not in page] == []


# -- specs -------------------------------------------------------------------------------------


def test_a_spec_is_read():
    spec = parse("accept.committed=kill:7#a1")
    assert (spec.point, spec.action, spec.hit) == ("accept.committed", "kill", 7)
    spec = parse("notify.sent=sleep:250:3")
    assert (spec.action, spec.ms, spec.hit) == ("sleep", 250, 3)
    assert parse("lanes.put=stop").hit == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "accept.committed",
        "accept.committed=kill:0",
        "accept.committed=burn",
        "accept.committed=sleep",
        "no.such.place=kill",
        "accept.committed=kill:1#../x",
    ],
)
def test_what_is_no_spec_is_refused(text):
    with pytest.raises(ValueError, match="must"):
        parse(text)


# -- acting ------------------------------------------------------------------------------------


def test_it_acts_at_its_hit_and_only_there(points, signals, tmp_path):
    points.arm("lanes.put=kill:3", tmp_path / "f")
    for _ in range(5):
        points.hit("choose.done")
    points.hit("lanes.put")
    points.hit("lanes.put")
    assert signals == []
    points.hit("lanes.put")
    assert signals == [(os.getpid(), signal.SIGKILL)]
    points.hit("lanes.put")
    assert len(signals) == 1
    assert not points.is_armed


def test_it_says_so_before_it_acts(points, monkeypatch, tmp_path):
    seen = []
    fired = fired_file(tmp_path, "lanes.put=stop")
    monkeypatch.setattr(os, "kill", lambda *_: seen.append(json.loads(fired.read_text())))
    points.arm("lanes.put=stop", tmp_path)
    points.hit("lanes.put")
    [told] = seen
    assert told["point"] == "lanes.put"
    assert told["pid"] == os.getpid()
    assert abs(told["at"] - time.time()) < 10


def test_the_next_process_is_not_armed_with_what_acted(points, signals, tmp_path):
    points.arm("lanes.put=kill", tmp_path)
    points.hit("lanes.put")
    after = Failpoints()
    after.arm("lanes.put=kill", tmp_path)
    assert not after.is_armed
    after.arm("lanes.put=kill#again", tmp_path)
    assert after.is_armed


def test_of_two_armed_processes_one_acts(points, signals, tmp_path):
    other = Failpoints()
    for one in (points, other):
        one.arm("lanes.put=kill", tmp_path)
    points.hit("lanes.put")
    other.hit("lanes.put")
    assert len(signals) == 1
    assert not other.is_armed


def test_an_error_and_a_delay(points, monkeypatch, tmp_path):
    points.arm("lanes.put=error", tmp_path)
    with pytest.raises(RuntimeError, match=r"lanes\.put"):
        points.hit("lanes.put")
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    points.arm("lanes.put=sleep:1500", tmp_path)
    points.hit("lanes.put")
    assert slept == [1.5]


async def test_what_is_hit_soon_acts_after_this_turn_of_the_loop(points, signals, tmp_path):
    import asyncio

    points.arm("door.answered=kill", tmp_path)
    points.hit_soon("door.answered")
    assert signals == []
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(signals) == 1


def test_a_watching_process_takes_what_the_file_says(points, signals, tmp_path):
    points.arm("watch", tmp_path)
    assert not points.is_armed
    armed_file(tmp_path).write_text("lanes.put=kill:2#1")
    points.look()
    assert points.is_armed
    points.hit("lanes.put")
    points.look()  # the same words: the count goes on
    points.hit("lanes.put")
    assert len(signals) == 1
    points.look()
    assert not points.is_armed
    armed_file(tmp_path).write_text("lanes.put=kill:2#2")
    points.look()
    assert points.is_armed
    armed_file(tmp_path).unlink()
    points.look()
    assert not points.is_armed


def test_who_does_not_watch_takes_nothing(points, tmp_path):
    points.arm("lanes.put=kill", tmp_path)
    points.disarm()
    armed_file(tmp_path).write_text("lanes.put=kill#1")
    points.look()
    assert not points.is_armed


# -- settings ----------------------------------------------------------------------------------


def test_only_a_test_run_may_arm():
    env = {"SMSGW_FAILPOINT": "lanes.put=kill"}
    with pytest.raises(ConfigError, match="SMSGW_FAILPOINT is for test runs"):
        Settings.load(env)
    assert Settings.load(env, is_sandbox=True).failpoint == "lanes.put=kill"
    assert Settings.load(env | {"SMSGW_ALLOW_FAILPOINTS": "1"}).allow_failpoints


def test_a_wrong_spec_names_the_setting():
    with pytest.raises(ConfigError, match="SMSGW_FAILPOINT: must be POINT=ACTION"):
        Settings.load({"SMSGW_FAILPOINT": "nonsense"}, is_sandbox=True)
    assert Settings.load({"SMSGW_FAILPOINT": "watch"}, is_sandbox=True).failpoint == "watch"
