import io
from dataclasses import replace

import pytest
from rich.console import Console

from loadtest import report
from loadtest.figures import Seen, difference, floor_us, ratios, work_out
from loadtest.measure import GROUPS, spread
from loadtest.sender import Result, phone_number
from loadtest.steps import REST
from loadtest.stock_gateway import Counts

FIRST = 1000


def counts(**changes):
    fields = {
        "submits": 4,
        "finals": 4,
        "events": 4,
        "requests": 2,
        "duplicates": 0,
        "refused": 0,
        "by_type": {"message.delivered": 4},
    }
    return Counts(**{**fields, **changes})


def submit(index, at):
    return int(phone_number(FIRST + index)[1:]), at


def seen(**changes):
    fields = {
        "result": Result(
            accepted=4,
            requests=4,
            used=4,
            first_sent_at=100.0,
            last_answer_at=102.0,
            answer_ms=spread([1.0, 2.0, 3.0, 4.0]),
            cpu_s=0.0004,
        ),
        "sent_at": [100.0, 100.5, 101.0, 101.5],
        "first": FIRST,
        "submits": [submit(index, 100.01 + index / 2) for index in range(4)],
        "finals": [(100.4, 0), (102.4, 4)],
        "counts": counts(),
        "metrics": {
            "flush_rows_sum{accept}": 40.0,
            "flush_rows_count{accept}": 4.0,
            "flush_seconds_sum{accept}": 0.01,
            "flush_seconds_count{accept}": 4.0,
            "flush_rows_sum{event}": 0.0,
            "flush_rows_count{event}": 0.0,
        },
        "cpu_s": {**dict.fromkeys(GROUPS, 0.0), "worker": 0.0002, "postgres": 0.0001, "sink": 1.0},
        "others_share": 0.25,
        "samples": ["100\t3\tuvloop/loop.py:run", "50\t9\tgateway/api/send.py:x"],
    }
    return Seen(**{**fields, **changes})


def test_a_run_that_adds_up():
    found = work_out("single", seen(), 64, 1)
    assert found.problems == []
    assert found.accepted == found.submitted == found.received == 4
    assert found.accepted_per_second == 2.0
    assert found.end_to_end_per_second == pytest.approx(4 / 2.4, abs=0.1)
    assert found.cpu_us["worker"] == 50.0
    assert found.cpu_us["client"] == 100.0
    assert found.gateway_us == 75.0
    assert found.submit_ms.p50 == pytest.approx(10.0, abs=0.1)
    assert found.rows_per_flush == {"accept": 10.0}
    assert found.flush_ms == {"accept": 2.5}
    assert found.events_per_webhook == 2.0
    assert found.others_share == 0.25
    assert found.steps_us[REST] == 50.0
    # received evenly between 100.4 and 102.4: the first after half a second, the last at the end
    assert found.webhook_ms.maximum == pytest.approx(900.0)
    assert found.webhook_ms.count == 4


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"submits": [submit(index, 101.0) for index in (0, 1, 2)]}, "1 accepted, but never"),
        ({"submits": [submit(i, 101.0) for i in (0, 1, 2, 3, 3)]}, "1 submitted twice"),
        ({"submits": [submit(i, 101.0) for i in (0, 1, 2, 3, 9)]}, "1 submits of numbers"),
        ({"counts": counts(finals=3)}, "1 accepted, but their final"),
        ({"counts": counts(finals=5)}, "1 final at the sink, but"),
        ({"counts": counts(duplicates=2)}, "2 events at the sink twice"),
        ({"counts": counts(refused=1)}, "1 webhook requests"),
        ({"counts": counts(by_type={"message.unknown": 1})}, "1 events at the sink of type"),
        ({"metrics": {"illegal_transition_total": 1.0}}, "1 more in illegal_transition_total"),
        ({"sent_at": [100.0, 0.0, 101.0, 101.5]}, "1 submitted, but not accepted"),
    ],
)
def test_every_difference_is_named(changes, word):
    [problem] = work_out("single", seen(**changes), 64, 1).problems
    assert problem.startswith(word)


def test_a_message_whose_answer_was_lost_may_exist_or_not():
    result = replace(seen().result, accepted=3, unknown=1)
    sent_at = [100.0, 0.0, 101.0, 101.5]
    assert work_out("single", seen(result=result, sent_at=sent_at), 64, 1).problems == []
    without = [submit(index, 101.0) for index in (0, 2, 3)]
    gone = seen(result=result, sent_at=sent_at, submits=without, counts=counts(finals=3))
    assert work_out("single", gone, 64, 1).problems == []


def test_nothing_accepted_is_no_figure():
    result = Result(first_refusal="503 shed")
    with pytest.raises(ValueError, match="503 shed"):
        work_out("single", seen(result=result), 64, 1)


def test_counts_are_taken_as_differences():
    before = counts(submits=1, finals=1, events=2, by_type={"message.delivered": 1, "x": 2})
    after = counts(submits=5, finals=5, events=9, by_type={"message.delivered": 5, "x": 2})
    found = difference(before, after)
    assert (found.submits, found.finals, found.events) == (4, 4, 7)
    assert found.by_type == {"message.delivered": 4}


def test_the_floors_are_those_of_the_design():
    assert floor_us(1) == pytest.approx(106.4)
    assert floor_us(100) == pytest.approx(55.7)


def test_ratios_compare_runs_of_the_same_name():
    now = work_out("single", seen(), 64, 1).as_json()
    then = {**now, "accepted_per_second": 1.0, "gateway_us": 150.0}
    assert ratios(now, [{"name": "other"}, then])["accepted_per_second"] == 2.0
    assert ratios(now, [then])["gateway_us"] == 0.5
    assert ratios(now, []) == {}
    assert ratios(now, [{"name": "single"}]) == {}


def test_the_report_shows_rates_costs_and_configuration():
    run = work_out("single", seen(), 64, 1).as_json()
    run["ratio_to_record"] = {"gateway_us": 0.5}
    found = {
        "machine": {"cores": 2, "python": "3.11"},
        "configuration": {
            "server_version": "18.4 (x)",
            "file_system": "ext4",
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "webhook_events": ["message.delivered"],
        },
        "runs": [run],
    }
    stream = io.StringIO()
    then = {"at": "2026-01-01", "machine": {"cores": 4}, "runs": [run]}
    report.show(found, then, Console(file=stream, width=120))
    text = stream.getvalue()
    for word in (
        "fsync on",
        "75 (× 0.5)",
        "106.4",
        "2026-01-01",
        "on ext4",
        "webhook sink",
        "25%",
        "event loop",
    ):
        assert word in text
