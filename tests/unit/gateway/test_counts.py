from gateway.counts import COUNTED, Counts
from telemetry.metrics import Metrics


def test_totals_and_rates_of_two_looks():
    metrics = Metrics()
    metrics.accepted_total.inc(("shop", "otp"), 10)
    counts = Counts()
    first = counts.take(metrics.snapshot(), 100.0)
    assert first["accepted"] == 10
    assert first["accepted_per_second"] == 0.0
    metrics.accepted_total.inc(("shop", "otp"), 30)
    metrics.final_total.inc(("delivered", "otp", "a"), 20)
    metrics.final_total.inc(("failed", "otp", "a"), 2)
    metrics.queue_messages.set(("otp", "a"), 7)
    metrics.webhook_seconds.observe(("ok",), 0.01, 3)
    second = counts.take(metrics.snapshot(), 102.0)
    assert second["accepted_per_second"] == 15.0
    assert second["delivered_per_second"] == 10.0
    assert (second["not_delivered"], second["queued"], second["webhooks"]) == (2, 7, 3)
    assert "accepted 40 (15/s) · delivered 20 (10/s)" in counts.line(second)


def test_a_restarted_worker_makes_no_negative_rate():
    counts = Counts()
    metrics = Metrics()
    metrics.accepted_total.inc(("shop", "otp"), 10)
    counts.take(metrics.snapshot(), 1.0)
    assert counts.take(Metrics().snapshot(), 2.0)["accepted_per_second"] == 0.0


def test_nothing_known_yet_is_shown_as_zero():
    counts = Counts()
    assert counts.line(counts.take({}, 1.0)).startswith("accepted 0 (0/s)")


def test_counts_and_what_is_missing_stand_together():
    counts = Counts()
    text = counts.line(counts.take({}, 1.0), ["route 1: no session"])
    assert text.startswith("accepted 0 (0/s)")
    assert text.endswith("\nnot ready: route 1: no session")


def test_the_line_needs_no_other_series_than_it_says():
    metrics = Metrics()
    metrics.accepted_total.inc(("a", "otp"), 3)
    metrics.final_total.inc(("delivered", "otp", "mobile-a"), 2)
    metrics.refused_total.inc(("field.value",), 1)
    metrics.queue_messages.set(("otp", "mobile-a"), 4)
    metrics.webhook_seconds.observe(("delivered",), 0.1)
    whole = metrics.snapshot()
    part = {name: whole[name] for name in COUNTED}
    assert Counts().take(part, 1.0) == Counts().take(whole, 1.0)
