"""Prometheus text to numbers, and two of them to rates: what `smsgw top` counts with.

No clock and no socket: the text and the seconds between are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from telemetry.metrics import PREFIX, Metrics, Snapshot, lasting
from telemetry.series import Histogram, Labels, Series

CATALOGUE: dict[str, Series] = {series.name: series for series in Metrics().series()}


def read(text: str) -> Snapshot:
    """The numbers in an answer to `/metrics`; raises ValueError when they are not a gateway's.

    Forgiving as `merge` is: what this version does not know is left out.
    """
    found: Snapshot = {}
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix(PREFIX)
        series = CATALOGUE.get(name) or CATALOGUE.get(f"{name}_total")
        if series is None or not family.name.startswith(PREFIX):
            continue
        try:
            found[series.name] = (
                _histogram(series, family)
                if isinstance(series, Histogram)
                else [
                    (_labels(series, sample.labels), [float(sample.value)])
                    for sample in family.samples
                    if sample.name == PREFIX + series.name
                ]
            )
        except KeyError:  # other labels or bounds: another version's
            continue
    if not found:
        raise ValueError("no series of a gateway")
    return found


def _labels(series: Series, labels: dict[str, str]) -> list[str]:
    return [labels[name] for name in series.labels]


def _histogram(series: Histogram, family: Metric) -> list[tuple[list[str], list[float]]]:
    """Counts of each bucket alone, and the sum."""
    cumulative: dict[Labels, dict[float, float]] = {}
    sums: dict[Labels, float] = {}
    for sample in family.samples:
        key = tuple(_labels(series, sample.labels))
        if sample.name.endswith("_bucket"):
            cumulative.setdefault(key, {})[float(sample.labels["le"])] = float(sample.value)
        elif sample.name.endswith("_sum"):
            sums[key] = float(sample.value)
    rows = []
    for key, counts in cumulative.items():
        totals = [counts[bound] for bound in (*series.buckets, math.inf)]
        alone = [after - before for before, after in zip([0.0, *totals], totals, strict=False)]
        rows.append((list(key), [*alone, sums[key]]))
    return rows


def rates(before: Snapshot, after: Snapshot, span_s: float) -> Snapshot:
    """Counters and histograms per second between two answers of one node.

    What fell has begun again at 0 (the node was restarted), what is new has begun there.
    """
    if span_s <= 0:
        return {}
    found: Snapshot = {}
    for name, samples in lasting(after).items():
        known = {tuple(labels): numbers for labels, numbers in before.get(name, [])}
        found[name] = [
            (labels, [number / span_s for number in _grown(known.get(tuple(labels)), numbers)])
            for labels, numbers in samples
        ]
    return found


def _grown(before: Sequence[float] | None, after: Sequence[float]) -> Sequence[float]:
    if before is None or len(before) != len(after):
        return after
    grown = [new - old for old, new in zip(before, after, strict=True)]
    return after if min(grown) < 0 else grown


def percentile(share: float, counts: Sequence[float], bounds: Sequence[float]) -> float | None:
    """As Prometheus' histogram_quantile: even within a bucket; beyond the last bound, that bound.

    `counts` are of each bucket alone, that of +Inf last; None when nothing was counted.
    """
    rank, below, floor = share * sum(counts), 0.0, 0.0
    if rank <= 0:
        return None
    for bound, count in zip(bounds, counts[:-1], strict=True):
        if count and below + count >= rank:
            return floor + (bound - floor) * (rank - below) / count
        below, floor = below + count, bound
    return floor


def keep(before: Snapshot, after: Snapshot) -> Snapshot:
    """`after`, and the totals that it does not show: a tenant's, who is not among the busiest now.

    When he is again his total goes on where it stood.
    """
    kept = dict(after)
    for name, samples in lasting(before).items():
        shown = {tuple(labels) for labels, _ in after.get(name, [])}
        hidden = [sample for sample in samples if tuple(sample[0]) not in shown]
        kept[name] = [*after.get(name, []), *hidden]
    return kept
