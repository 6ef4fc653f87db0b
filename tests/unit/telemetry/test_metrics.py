"""Counting, merging and showing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import metrics as m
from telemetry import series


def lines(text: bytes) -> list[str]:
    return [line for line in text.decode().splitlines() if not line.startswith("#")]


def test_a_snapshot_survives_json_and_is_shown_with_the_prefix() -> None:
    one = m.Metrics()
    one.submits_total.inc(("mobile-a", "submitted"), 3)
    one.queue_messages.set(("otp", "mobile-a"), 7)
    shown = lines(m.render(json.loads(json.dumps(one.snapshot()))))
    assert 'smsgw_submits_total{channel="mobile-a",outcome="submitted"} 3.0' in shown
    assert 'smsgw_queue_messages{channel="mobile-a",class="otp"} 7.0' in shown


def test_series_without_labels_are_there_from_the_start() -> None:
    shown = lines(m.render(m.Metrics().snapshot()))
    assert "smsgw_illegal_transition_total 0.0" in shown
    assert "smsgw_webhook_oldest_age_seconds 0.0" in shown


def test_every_series_of_the_contract_exists() -> None:
    promised = {
        "http_request_seconds": ("route", "method", "code"),
        "accepted_total": ("tenant", "class"),
        "accepted_segments_total": ("tenant", "class"),
        "refused_total": ("code",),
        "queue_messages": ("class", "channel"),
        "queue_oldest_age_seconds": ("class", "channel"),
        "submit_seconds": ("channel",),
        "submits_total": ("channel", "outcome"),
        "final_total": ("status", "class", "channel"),
        "receipt_lag_seconds": ("channel", "carrier"),
        "channel_state": ("channel", "state"),
        "failover_total": ("from", "to", "cause"),
        "webhook_seconds": ("outcome",),
        "webhook_oldest_age_seconds": (),
        "throttled_total": ("tenant", "scope"),
        "illegal_transition_total": (),
        "conservation_residual": ("tenant",),
    }
    held = {series.name: series.labels for series in m.Metrics().series()}
    assert {name: held.get(name) for name in promised} == promised


def test_the_attribute_of_a_series_is_its_name() -> None:
    one = m.Metrics()
    for each in one.series():
        assert getattr(one, each.name) is each


def test_counters_add_up_and_gauges_follow_their_rule() -> None:
    one, two = m.Metrics(), m.Metrics()
    for process, value in ((one, 2), (two, 5)):
        process.duplicate_copies_total.inc((), value)
        process.queue_messages.set(("otp", "a"), value)
        process.queue_oldest_age_seconds.set(("otp", "a"), value)
        process.config_version.set((), value)
        process.submit_seconds.observe(("a",), 0.2, value)
    merged = m.merge([one.snapshot(), two.snapshot(), m.Metrics().snapshot()])
    assert merged["duplicate_copies_total"] == [([], [7.0])]
    assert merged["queue_messages"] == [(["otp", "a"], [7])]
    assert merged["queue_oldest_age_seconds"] == [(["otp", "a"], [5])]
    assert merged["config_version"] == [([], [2])]
    [(labels, numbers)] = merged["submit_seconds"]
    assert labels == ["a"]
    assert sum(numbers[:-1]) == 7
    assert numbers[-1] == pytest.approx(1.4)


def test_merging_leaves_its_parts_alone() -> None:
    one = m.Metrics()
    one.submit_seconds.observe(("a",), 0.2)
    part = one.snapshot()
    before = json.dumps(part)
    m.merge([part, part])
    assert json.dumps(part) == before


def test_what_another_version_says_is_left_out() -> None:
    strange: m.Snapshot = {
        "unheard_of": [([], [1.0])],
        "submit_seconds": [(["a"], [1.0, 2.0])],
        "refused_total": [(["x", "y"], [1.0])],
    }
    merged = m.merge([strange])
    assert "unheard_of" not in merged
    assert merged["submit_seconds"] == []
    assert merged["refused_total"] == []
    assert lines(m.render(strange)) == []


def test_what_outlives_a_process_has_no_gauges() -> None:
    one = m.Metrics()
    one.queue_messages.set(("otp", "a"), 4)
    one.refused_total.inc(("content.too_long",))
    kept = m.lasting(one.snapshot())
    assert "queue_messages" not in kept
    assert kept["refused_total"] == [(["content.too_long"], [1])]


def test_a_histogram_is_cumulative_when_shown() -> None:
    one = m.Metrics()
    one.submit_seconds.observe(("a",), 0.001)  # a bound belongs to its own bucket
    one.submit_seconds.observe(("a",), 0.3)
    one.submit_seconds.observe(("a",), 99.0)
    shown = lines(m.render(one.snapshot()))
    assert 'smsgw_submit_seconds_bucket{channel="a",le="0.001"} 1.0' in shown
    assert 'smsgw_submit_seconds_bucket{channel="a",le="0.5"} 2.0' in shown
    assert 'smsgw_submit_seconds_bucket{channel="a",le="10.0"} 2.0' in shown
    assert 'smsgw_submit_seconds_bucket{channel="a",le="+Inf"} 3.0' in shown
    assert 'smsgw_submit_seconds_count{channel="a"} 3.0' in shown


def test_owners_set_their_gauges_before_a_scrape() -> None:
    one = m.Metrics()
    one.before_scrape.append(lambda: one.inbound_joins.set((), 11))
    assert one.snapshot()["inbound_joins"] == [([], [11])]


def test_a_cleared_gauge_forgets_channels_that_are_gone() -> None:
    one = m.Metrics()
    one.channel_state.set(("old", "up"), 1)
    one.channel_state.clear()
    one.channel_state.set(("new", "up"), 1)
    assert one.snapshot()["channel_state"] == [(["new", "up"], [1])]


def test_a_wrong_number_of_labels_is_a_bug() -> None:
    with pytest.raises(ValueError, match="submits_total"):
        m.Metrics().submits_total.inc(("a",))


def test_a_carrier_that_invents_codes_does_not_fill_memory() -> None:
    one = m.Metrics()
    for code in range(series.MAX_LABEL_SETS + 500):
        one.unmapped_codes_total.inc(("a", str(code)))
    samples = one.snapshot()["unmapped_codes_total"]
    assert len(samples) <= series.MAX_LABEL_SETS + 1
    assert sum(numbers[0] for _, numbers in samples) == series.MAX_LABEL_SETS + 500


def test_the_busiest_tenants_have_a_name_and_the_rest_are_other() -> None:
    one = m.Metrics()
    for number in range(80):
        one.accepted_total.inc((f"t{number}", "otp"), number + 1)
    samples = {labels[0]: numbers[0] for labels, numbers in one.snapshot()["accepted_total"]}
    assert len(samples) == series.TENANTS_BY_NAME + 1
    assert samples["t79"] == 80
    assert "t0" not in samples
    assert samples["other"] == sum(range(1, 31))


def test_a_tenant_that_grows_busy_takes_the_place_of_the_idlest() -> None:
    one = m.Metrics()
    for number in range(series.TENANTS_BY_NAME):
        one.accepted_total.inc((f"t{number}", "otp"), 100 + number)
    one.snapshot()
    one.accepted_total.inc(("late", "otp"), 150)
    samples = {x[0]: n[0] for x, n in one.snapshot()["accepted_total"]}
    assert "late" not in samples  # not twice as busy: series must not flicker
    assert samples["other"] == 150
    one.accepted_total.inc(("late", "otp"), 1000)
    samples = {x[0]: n[0] for x, n in one.snapshot()["accepted_total"]}
    assert samples["late"] == 1000
    assert samples["other"] == 150  # what was told as `other` stays there
    assert "t0" not in samples


@given(
    st.lists(
        st.dictionaries(st.sampled_from([f"t{i}" for i in range(8)]), st.integers(0, 1000)),
        max_size=8,
    )
)
def test_no_shown_total_ever_goes_back(rounds: list[dict[str, int]]) -> None:
    top = series.TopTenants(limit=3)
    counter = series.Counter("accepted_total", "", ("tenant", "class"), top)
    last: dict[str, float] = {}
    for traffic in rounds:
        for tenant, n in traffic.items():
            counter.inc((tenant, "otp"), n)
        top.rerank(counter.news())
        for labels, [value] in counter.samples():
            assert value >= last.get(labels[0], 0.0)
            last[labels[0]] = value
    assert len(top.names) <= 3
    assert sum(last.values()) == sum(sum(traffic.values()) for traffic in rounds)


def test_a_quiet_tenant_gives_its_place_to_a_busy_one_and_not_the_other_way() -> None:
    top = series.TopTenants(limit=1)
    top.rerank({"early": 100})
    top.rerank({"later": 150})
    assert top.names == {"early"}  # not twice as busy
    for _ in range(60):
        top.rerank({})
    top.rerank({"later": 60})
    assert top.names == {"later"}
    top.rerank({})
    assert top.names == {"later"}


def test_weights_keep_their_order_when_their_unit_is_made_small_again() -> None:
    top = series.TopTenants(limit=2)
    top.rerank({"a": 4, "b": 8})
    for _ in range(12_000):  # beyond _UNIT_MAXIMUM
        top.rerank({})
    top.rerank({"c": 1})
    assert top.names == {"b", "c"}


def test_a_look_costs_what_was_busy_and_not_how_many_tenants_there_are() -> None:
    top = series.TopTenants(limit=3)
    counter = series.Counter("accepted_total", "", ("tenant", "class"), top)
    for number in range(1000):
        counter.inc((f"t{number}", "otp"))
    assert len(counter.news()) == 1000
    top.rerank(counter.news())
    assert sum(value for _, [value] in counter.samples()) == 1000
    counter.inc(("t5", "otp"))
    assert counter.news() == {"t5": 1}


def test_a_blank_gauge_says_nothing_before_it_is_set_and_after_it_is_cleared() -> None:
    gauge = series.Gauge("deadline_behind_seconds", "", rule="max", is_blank=True)
    assert gauge.samples() == []
    gauge.set((), 0.0)
    assert gauge.samples() == [([], [0.0])]
    gauge.clear()
    assert gauge.samples() == []


def test_residuals_of_unnamed_tenants_do_not_cancel_out() -> None:
    top = series.TopTenants(limit=0)
    gauge = series.Gauge("conservation_residual", "", ("tenant",), tenants=top)
    gauge.set(("a",), 3)
    gauge.set(("b",), -3)
    assert gauge.samples() == [(["other"], [6])]


@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("0x00000400", "0x00000400"),
        ("nack:0x00000400", "nack:0x00000400"),
        ("4711", "4711"),
        ("-1012", "-1012"),
        ("MK:0005", "MK:0005"),
        ("DB00141", "DB00141"),
        ("MK:100C", "MK:100C"),
        ("DISTURB", "DISTURB"),
        ("13800138000", "other"),
        ("TO:13800138000", "other"),
        ("138001", "other"),
        ("hello world", "other"),
    ],
)
def test_a_code_is_named_and_nothing_longer_than_a_code(code: str, label: str) -> None:
    assert series.code_label(code) == label
