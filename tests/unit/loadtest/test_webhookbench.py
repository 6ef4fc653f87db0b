from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loadtest.hookplace import Arrival, Customer, Seen
from loadtest.hooksink import Notes, obey, read_dump
from loadtest.measure import Spread
from loadtest.sender import Result
from loadtest.webhookbench import mixed
from loadtest.webhookreport import Round, Turn, compare, judge, slow, speed_of


def turn(p99: float, count: int = 1000) -> Turn:
    return Turn(Spread(5.0, p99, 2 * p99, count), 0.0)


def rounds(*pairs: tuple[float, float]) -> list[Round]:
    return [Round(turn(well), turn(ill)) for well, ill in pairs]


def test_the_median_of_the_rounds_is_judged_not_the_worst():
    verdict = judge(rounds((10, 11), (10, 90), (10, 12), (10, 9), (10, 14)))
    assert verdict.median_moved_ms == 2
    assert verdict.median_allowed_ms == 5
    assert not verdict.problems


def test_a_p99_that_moves_by_five_milliseconds_or_a_fifth_is_too_much():
    assert judge(rounds((10, 15), (10, 15), (10, 15))).problems
    assert not judge(rounds((100, 119), (100, 119), (100, 119))).problems
    assert judge(rounds((100, 120), (100, 120), (100, 120))).problems


def test_a_turn_without_events_is_no_proof():
    nothing = [Round(turn(0, 0), turn(0, 0))]
    assert judge(nothing).problems == ["a turn without a single event shows nothing"]


def seen(worker_s: float, arrivals: int) -> Seen:
    told = [Arrival("a", 100 + n / 10, 100 + n / 10 + 0.02) for n in range(arrivals)]
    result = Result(accepted=100, first_sent_at=100.0, last_answer_at=110.0)
    return Seen(result, told, cpu_s={"worker": worker_s, "postgres": 0.01, "sink": 0.001})


def test_a_webhook_costs_what_a_message_costs_more_with_it():
    speed = speed_of([seen(0.030, 100), seen(0.032, 100)], [seen(0.020, 0), seen(0.020, 0)])
    assert speed.cpu_us["worker"] == 310.0
    assert speed.webhook_us["worker"] == 110.0
    assert speed.p50_ms == 20.0
    assert speed.events == 200
    assert 9.9 < speed.events_per_s < 10.2
    assert slow(speed, 10.0) == []
    assert len(slow(speed, 20.0)) == 1


def test_costs_are_compared_only_over_the_same_transport():
    found: dict[str, Any] = {"transport": "TLS", "speed": {"one": {"cpu_us": {"worker": 200.0}}}}
    then = {"transport": "http", "speed": {"one": {"cpu_us": {"worker": 100.0}}}}
    compare(found, then)
    assert "of_record" not in found["speed"]["one"]
    compare(found, {**then, "transport": "TLS"})
    assert found["speed"]["one"]["of_record"] == {"worker": 2.0}


@pytest.mark.parametrize(("good", "others"), [(10, 2), (10, 20), (3, 1)])
def test_the_good_ones_have_three_quarters_evenly_spread(good: int, others: int):
    some = [Customer(f"g{n}", "k", 1) for n in range(good)]
    rest = [Customer(f"o{n}", "k", 1) for n in range(others)]
    counts = Counter(one.name for one in mixed(some, rest))
    assert len({counts[one.name] for one in some}) == 1
    share = sum(counts[one.name] for one in some) / counts.total()
    assert share == pytest.approx(0.75, abs=0.08)


def test_the_sink_notes_events_and_forgets_what_was_dumped(tmp_path: Path):
    notes = Notes(b"k" * 32)
    single = b'{"id":"evt_00000000000000ff","data":{"id":"msg_0000000000000001"}}'
    notes.take(9001, b'{"type":"batch","data":[%b,%b]}' % (single, single.replace(b"ff", b"fe")))
    assert obey(notes, {"do": "count"}) == {"events": 2}
    file = tmp_path / "notes"
    assert obey(notes, {"do": "dump", "file": str(file)}) == {"events": 2}
    assert [(event, port) for event, _, port in read_dump(file)] == [(255, 9001), (254, 9001)]
    assert obey(notes, {"do": "count"}) == {"events": 0}
    assert obey(notes, json.loads('{"do": "behave", "ports": [9001], "how": "hang"}')) == {}
    assert notes.how == {9001: "hang"}
