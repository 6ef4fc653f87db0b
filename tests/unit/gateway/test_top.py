"""What `smsgw top` counts: rates, restarts of nodes, percentiles, several nodes in one picture."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.top import HELD, Answer, History, Picture
from gateway.toprates import CATALOGUE, percentile, rates, read
from telemetry.metrics import Metrics, render
from telemetry.series import FAST, Histogram

URL = "http://127.0.0.1:8081"
counts = st.integers(0, 10**9)
rows = st.lists(counts, min_size=4, max_size=4)


def filled(*, factor=1, tenants=("acme",)):
    """A node's metrics after `factor` times the same work."""
    metrics = Metrics()
    for tenant in tenants:
        metrics.accepted_total.inc((tenant, "otp"), 20 * factor)
        metrics.throttled_total.inc((tenant, "tenant"), 4 * factor)
    metrics.refused_total.inc(("recipient.invalid",), 6 * factor)
    metrics.final_total.inc(("delivered", "otp", "one"), 15 * factor)
    metrics.final_total.inc(("undelivered", "otp", "one"), 4 * factor)
    metrics.final_total.inc(("canceled", "otp", "one"), factor)
    metrics.http_request_seconds.observe(("/v1/messages", "POST", "202"), 0.02, 99 * factor)
    metrics.http_request_seconds.observe(("/v1/messages", "POST", "503"), 0.3, factor)
    metrics.http_request_seconds.observe(("/v1/messages/{id}", "GET", "200"), 9.0, 500 * factor)
    metrics.submits_total.inc(("one", "answered_ok"), 18 * factor)
    metrics.submits_total.inc(("one", "throttled"), 2 * factor)
    metrics.submit_seconds.observe(("one",), 0.002, 20 * factor)
    metrics.receipts_expected_total.inc(("one",), 10 * factor)
    metrics.receipts_in_time_total.inc(("one",), 9 * factor)
    metrics.webhook_attempts_total.inc(("delivered",), 8 * factor)
    metrics.webhook_attempts_total.inc(("timeout",), 2 * factor)
    metrics.webhook_attempts_total.inc(("dead",), factor)
    metrics.webhook_notices_total.inc(("gone",), 1)
    metrics.webhook_notices_total.inc(("warned",), 5)
    metrics.channel_pace.set(("one",), 12.5)
    for state in ("up", "down", "open", "half_open", "ramp", "paused"):
        metrics.channel_state.set(("one", state), float(state == "up"))
    metrics.channel_receiving.set(("one",), 1.0)
    metrics.queue_messages.set(("otp", "one"), 7)
    metrics.queue_oldest_age_seconds.set(("otp", "one"), 3.0)
    metrics.spilled_messages.set(("otp",), 11)
    metrics.uncertain_messages.set(("otp",), 2)
    metrics.webhook_oldest_age_seconds.set((), 40.0)
    metrics.process_up.set(("worker-0",), 1.0)
    metrics.process_up.set(("worker-1",), 0.0)
    metrics.worker_ready.set(("worker-0",), 1.0)
    metrics.conservation_residual.set(("acme",), -3.0)
    return metrics


def answer(metrics, at, url=URL) -> Answer:
    return Answer(url, at, read(render(metrics.snapshot()).decode()))


def seen(*looks: list[Answer]) -> Picture:
    history = History()
    pictures = [history.take(look) for look in looks]
    return pictures[-1]


def test_what_is_read_is_what_was_rendered():
    snapshot = filled().snapshot()
    told = read(render(snapshot).decode())
    for name, samples in snapshot.items():
        assert sorted(told.get(name, [])) == sorted(samples), name


@pytest.mark.parametrize("text", ["", "<html>", "process_cpu_seconds_total 1.0\n", "smsgw_x 1\n"])
def test_what_is_no_gateway_is_said_to_be_none(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the parser's own, of many words
        read(text)


def test_a_series_of_another_version_is_left_out():
    told = read('smsgw_accepted_total{new="1"} 5\nsmsgw_stray_messages 2\n')
    assert told == {"stray_messages": [([], [2.0])]}


def test_rates_are_differences_by_the_second():
    picture = seen([answer(filled(), 100.0)], [answer(filled(factor=3), 104.0)])
    traffic, [channel] = picture.traffic, picture.channels
    assert picture.span_s == 4.0
    assert (traffic.accepted, traffic.finals) == (10.0, 10.0)
    assert traffic.refused == {"recipient.invalid": 3.0}
    assert traffic.failed_share == pytest.approx(0.2)  # undelivered; canceled is no fault
    assert traffic.errors_share == pytest.approx(0.01)
    assert traffic.residual == 3.0
    assert 0.01 < (traffic.send_p99_s or 0) <= 0.025  # sends only: the reads took 9 s
    assert channel.submits == {"answered_ok": 9.0, "throttled": 1.0}
    assert channel.missing_receipts == pytest.approx(0.1)
    assert (channel.pace, channel.queue["otp"].messages) == (12.5, 7.0)
    assert (picture.lanes[0].waiting, picture.lanes[0].spilled) == (7.0, 11.0)
    assert picture.lanes[0].uncertain == 2.0
    [tenant] = picture.tenants
    assert (tenant.accepted, tenant.throttled) == (10.0, {"tenant": 2.0})
    hooks = picture.webhooks
    assert (hooks.delivered, hooks.failed, hooks.given_up) == (4.0, {"timeout": 1.0}, 0.5)
    assert (hooks.oldest_s, hooks.given_up_total, hooks.disabled_total) == (40.0, 3.0, 1.0)
    [node] = picture.nodes
    assert (node.processes_up, node.processes, node.workers_ready) == (1, 2, 1)


def test_a_first_look_has_no_rates_and_says_so():
    picture = seen([answer(filled(), 100.0)])
    assert picture.span_s is None
    assert picture.traffic.accepted is None
    assert picture.channels[0].submits is None
    assert picture.lanes[0].waiting == 7.0


def test_a_restarted_node_counts_from_zero():
    picture = seen([answer(filled(factor=9), 100.0)], [answer(filled(), 102.0)])
    assert picture.traffic.accepted == 10.0
    assert picture.channels[0].submits == {"answered_ok": 9.0, "throttled": 1.0}
    assert 0.01 < (picture.traffic.send_p99_s or 0) <= 0.025


def test_several_nodes_are_added_up_and_one_restart_does_not_hide_the_others():
    other = "http://127.0.0.1:9081"
    picture = seen(
        [answer(filled(factor=9), 100.0), answer(filled(), 100.0, other)],
        [answer(filled(), 102.0), answer(filled(factor=2), 102.0, other)],
    )
    assert picture.traffic.accepted == 20.0
    assert picture.channels[0].queue["otp"].messages == 14.0
    assert picture.channels[0].queue["otp"].oldest_s == 3.0
    assert picture.channels[0].state == "up"


def test_a_node_that_is_away_is_named_and_its_rate_goes_on_when_it_is_back():
    history = History()
    history.take([answer(filled(), 100.0)])
    away = history.take([Answer(URL, 102.0, fault="nothing listens there")])
    assert away.is_blind
    assert away.nodes[0].fault == "nothing listens there"
    assert away.traffic.accepted is None
    back = history.take([answer(filled(factor=3), 110.0)])
    assert back.traffic.accepted == 4.0
    assert not back.is_blind


def test_a_tenant_who_was_not_shown_for_a_while_makes_no_peak():
    history = History()
    history.take([answer(filled(factor=1000, tenants=("acme", "rare")), 0.0)])
    history.take([answer(filled(factor=1000), 2.0)])
    picture = history.take([answer(filled(factor=1001, tenants=("acme", "rare")), 4.0)])
    assert {tenant.name: tenant.accepted for tenant in picture.tenants} == {
        "acme": 10.0,
        "rare": 10.0,
    }


@pytest.mark.parametrize(
    ("on", "state"),
    [
        ((), "nowhere"),
        (("up",), "up"),
        (("up", "ramp"), "ramp"),
        (("up", "half_open"), "half_open"),
        (("up", "open", "half_open"), "open"),
        (("down", "open"), "down"),
        (("paused", "up", "down"), "paused"),
    ],
)
def test_a_channel_has_the_state_that_matters_most(on, state):
    metrics = Metrics()
    for word in ("up", "down", "open", "half_open", "ramp", "paused"):
        metrics.channel_state.set(("one", word), float(word in on))
    assert seen([answer(metrics, 0.0)]).channels[0].state == state


def test_trouble_stands_first_and_what_is_held_is_shown():
    metrics = filled()
    metrics.queue_messages.set(("otp", HELD), 5)
    metrics.channel_state.set(("zed", "down"), 1.0)
    assert [channel.name for channel in seen([answer(metrics, 0.0)]).channels] == [
        HELD,
        "zed",
        "one",
    ]


def test_the_document_is_json_and_names_classes_as_the_contract_does():
    picture = seen([answer(filled(), 0.0)], [answer(filled(factor=2), 2.0)])
    told = json.loads(json.dumps(picture.document(), allow_nan=False))
    assert [lane["class"] for lane in told["lanes"]] == ["otp", "transactional", "marketing"]
    assert told["channels"][0]["queue"]["otp"] == {"messages": 7.0, "oldest_s": 3.0}


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, [0, 0, 0], None),
        (0.5, [10, 0, 0], 0.5),
        (0.5, [5, 5, 0], 1.0),
        (0.75, [5, 5, 0], 1.5),
        (0.99, [0, 0, 3], 2.0),  # beyond the last bound: at least that
    ],
)
def test_percentiles_are_those_of_prometheus(share, buckets, expected):
    assert percentile(share, buckets, (1.0, 2.0)) == expected


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_in_the_bucket_of_the_value_it_is_of(values, share):
    histogram = Histogram("x", "y")
    for value in values:
        histogram.observe((), value)
    [(_, row)] = histogram.samples()
    told = percentile(share, row[:-1], FAST)
    assert told is not None
    exact = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    above = next((bound for bound in FAST if exact <= bound), FAST[-1])
    below = max([0.0, *(bound for bound in FAST if bound < above)])
    assert below - 1e-9 <= told <= above + 1e-9


@given(rows, rows, st.floats(0.1, 1000))
def test_a_rate_is_never_negative_and_adds_up_to_what_was_counted(first, more, span_s):
    labels = ["delivered", "otp", "one"]
    before = {"final_total": [(labels, [float(first[0])])]}
    after = {"final_total": [(labels, [float(first[0] + more[0])])]}
    [(_, [rate])] = rates(before, after, span_s)["final_total"]
    assert rate >= 0
    assert rate * span_s == pytest.approx(more[0])
    [(_, [again])] = rates(after, before, span_s)["final_total"]
    assert again * span_s == pytest.approx(first[0] if more[0] else 0)


def test_gauges_have_no_rate():
    snapshot = filled().snapshot()
    assert {CATALOGUE[name].kind for name in rates(snapshot, snapshot, 1.0)} == {
        "counter",
        "histogram",
    }
    assert rates(snapshot, snapshot, 0.0) == {}
