import json
from datetime import UTC, datetime

import pytest

from loadtest.loadcheck import Run, Switch, Trace, home_of, judge, series
from loadtest.traffic import number_of

START = 1_790_000_000.0
NO_SWITCH = Switch()


def sent(first, messages, *, status=202, accepted=None, ms=20.0, told="msg_1", due=START):
    taken = messages if accepted is None else accepted
    line = [due, due + 0.001, due + ms / 1000, 0, first, messages, taken, status, told]
    return json.dumps(line).encode()


def stamp(at):
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def submit(index, *, part=1, total=1, status=0, at=START + 0.1):
    line = {"at": stamp(at), "to": number_of(index), "index": part, "total": total}
    return json.dumps({**line, "status": status, "carrier_id": "x", "hex": "00"}).encode()


def event(index, kind="delivered", *, risk=False, at=START + 0.5):
    data = {"to": "+" + number_of(index), "channel": "a", "duplicate_risk": risk}
    return json.dumps({"type": f"message.{kind}", "timestamp": stamp(at), "data": data}).encode()


def verdicts(trace, *, planned=10, switch=NO_SWITCH, metrics=None):
    rows = judge(trace, Run(planned, 60.0, switch, metrics or {}))
    return {row.name: row for row in rows}


def failed(trace, **how):
    return [name for name, row in verdicts(trace, **how).items() if row.is_good is False]


def good_trace(skip_submit=(), skip_event=()):
    trace = Trace()
    trace.read_sent([sent(0, 1), sent(1, 9)])
    trace.read_submits("a", 0, [submit(i) for i in range(10) if i not in skip_submit], NO_SWITCH)
    trace.read_events([event(i) for i in range(10) if i not in skip_event])
    return trace


def test_a_good_run_passes_every_row():
    trace = good_trace()
    assert failed(trace) == []
    assert trace.finals == {"delivered": 10}


def test_a_message_without_a_final_event_fails():
    assert failed(good_trace(skip_event={3})) == ["without a final event at the sink"]


def test_a_message_that_no_carrier_got_fails():
    assert failed(good_trace(skip_submit={3})) == ["never at a carrier"]


def test_an_uncertain_message_is_told_and_not_missing():
    trace = good_trace(skip_submit={3}, skip_event={3})
    trace.read_events([event(3, "uncertain")])
    assert failed(trace) == []
    assert verdicts(trace)["uncertain, told, evidence awaited"].value == "1"


def test_answers_count_from_when_they_were_due():
    trace = Trace()
    trace.read_sent([sent(0, 1, ms=501.0)])
    trace.read_submits("a", 0, [submit(0)], NO_SWITCH)
    trace.read_events([event(0)])
    assert failed(trace, planned=1) == ["single: answer p99 (p50 501 ms)"]


def test_what_was_not_sent_in_time_counts_as_not_accepted():
    trace = good_trace()
    trace.read_sent([sent(-1, 2, accepted=0, status=0, told="unsent")])
    assert failed(trace, planned=10) == ["messages not accepted"]
    assert trace.refused == {"unsent": 2}


def test_a_refused_message_at_a_carrier_is_a_stranger():
    trace = Trace()
    trace.read_sent([sent(0, 1, accepted=0, status=503, told="shed.overloaded")])
    trace.read_submits("a", 0, [submit(0)], NO_SWITCH)
    assert "known outside, but never accepted" in failed(trace, planned=1)


def test_a_message_with_an_unknown_answer_may_exist():
    trace = Trace()
    trace.read_sent([sent(0, 1, accepted=0, status=0, told="no answer")])
    trace.read_submits("a", 0, [submit(0)], NO_SWITCH)
    assert trace.unknown == 1
    assert trace.strangers == 0


def test_a_segment_twice_is_forgiven_only_when_it_is_told():
    trace = good_trace()
    trace.read_submits("b", 1, [submit(4)], NO_SWITCH)
    assert failed(trace) == ["sent twice and not told"]
    trace.read_events([event(4, risk=True)])
    assert failed(trace) == []


def test_a_throttled_submit_is_no_submit():
    trace = good_trace()
    trace.read_submits("b", 1, [submit(4, status=0x58)], NO_SWITCH)
    assert failed(trace) == []


def test_a_long_message_needs_all_its_segments():
    trace = Trace()
    trace.read_sent([sent(0, 1)])
    trace.read_submits("a", 0, [submit(0, part=1, total=3), submit(0, part=3, total=3)], NO_SWITCH)
    trace.read_events([event(0)])
    assert failed(trace, planned=1) == ["delivered without all segments"]
    trace.read_submits("a", 0, [submit(0, part=2, total=3)], NO_SWITCH)
    assert failed(trace, planned=1) == []


def test_too_few_messages_fail():
    assert failed(good_trace(), planned=11) == ["accepted a minute"]


@pytest.mark.parametrize("name", ["illegal_transition_total", "quarantined_total{events}"])
def test_what_must_stay_zero_fails_when_it_does_not(name):
    assert failed(good_trace(), metrics={name: 1.0}) == [name.partition("{")[0]]


def test_the_switch_is_timed_by_messages_whose_home_went():
    off = Switch("carrier-a", 0, START, START + 10)
    at_home = next(i for i in range(100) if home_of(i) == 0)
    elsewhere = next(i for i in range(100) if home_of(i) == 1)
    trace = Trace()
    trace.read_sent([sent(0, 100)])
    trace.read_submits("carrier-b", 1, [submit(elsewhere, at=START + 0.1)], off)
    assert trace.switched_s is None
    lines = [submit(at_home, at=START + 1.5), submit(at_home, part=2, at=START + 0.4)]
    trace.read_submits("carrier-b", 1, lines, off)
    assert trace.switched_s == pytest.approx(0.4, abs=1e-4)
    row = verdicts(trace, planned=100, switch=off)["carrier-a off: backup after"]
    assert row.is_good


def test_the_series_cover_every_second():
    found = series(good_trace(), START, START + 2)
    assert found["seconds"] == [0, 1, 2]
    assert found["due"] == [10, 0, 0]
    assert found["delivered_by_channel"] == {"a": [10, 0, 0]}
    assert found["answers"]["p99"] == [20.0]
