"""One series of metrics: its name, its labels, its values; and which tenants have a name.

An increment is a dictionary add. What there is to count: telemetry/metrics.py.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from heapq import nlargest
from typing import Literal

OTHER = "other"
TENANTS_BY_NAME = 50
_FADE = 0.98  # of a tenant's weight, from look to look
_UNIT_MAXIMUM = 1e100
MAX_LABEL_SETS = 2000  # a carrier that invents codes must not fill memory

Labels = tuple[str, ...]
Sample = tuple[list[str], list[float]]  # label values; a histogram: bucket counts, then the sum
Rule = Literal["sum", "max", "min"]  # how a gauge's values of several processes become one

# Bounds in seconds. The answer to a send and to a submit live between 1 ms and a few seconds …
FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# … a receipt comes after a second or after three days …
SLOW = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0, 259200.0)
# … and a flush holds 1 to 2,000 rows.
ROWS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)


class TopTenants:
    """Which tenants are shown by name: the busiest ones lately, with some inertia.

    A tenant takes another's place only when it is twice as busy, so that series do not flicker.
    A look costs what was busy since the last one, not how many tenants there are.
    """

    def __init__(self, limit: int = TENANTS_BY_NAME) -> None:
        self._limit = limit
        self._weight: dict[str, float] = {}
        self._unit = 1.0  # grows instead of all weights fading
        self.names: set[str] = set()

    def rerank(self, new: Mapping[str, float]) -> None:
        """Take what each tenant did since the last look and choose again."""
        self._unit /= _FADE
        if self._unit > _UNIT_MAXIMUM:
            self._weight = {name: weight / self._unit for name, weight in self._weight.items()}
            self._unit = 1.0
        weight = self._weight
        for tenant, count in new.items():
            weight[tenant] = weight.get(tenant, 0.0) + count * self._unit
        # Who did nothing fades like everybody else and so overtakes nobody.
        for tenant in nlargest(self._limit, new, key=weight.__getitem__):
            if tenant in self.names:
                continue
            if len(self.names) >= self._limit:
                idlest = min(self.names, key=lambda name: weight.get(name, 0.0))
                if weight[tenant] <= 2 * weight.get(idlest, 0.0):
                    continue
                self.names.discard(idlest)
            self.names.add(tenant)


# CMPP's `MK:0005`, `DB00141`, `MK:100C` too: at most five digits in a row, a phone number has more.
_CODE = re.compile(
    r"[A-Za-z][A-Za-z_:-]{0,11}[0-9]{0,5}[A-Za-z]?|(nack:)?0x[0-9A-Fa-f]{1,8}|-?[0-9]{1,5}"
)


def code_label(code: str) -> str:
    """A carrier's code as a label: a word or a short number; what else it sends is `other`.

    A carrier chooses these words: without a rule one could put a phone number or a text there.
    """
    return code if _CODE.fullmatch(code) else "other"


class Series:
    """One metric: its name without the prefix, its help, its label names and its values."""

    kind: Literal["counter", "gauge", "histogram"]
    rule: Rule = "sum"

    def __init__(
        self, name: str, text: str, labels: Labels = (), tenants: TopTenants | None = None
    ) -> None:
        self.name = name
        self.help = text
        self.labels = labels
        # A tenant label is bounded by the configuration and folded when shown.
        self._tenants = tenants
        self._max = MAX_LABEL_SETS if tenants is None else 1 << 62

    def _admit(self, labels: Labels, held: int) -> Labels:
        """The label values to use for a set seen for the first time."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has labels {self.labels}, got {labels}")
        return labels if held < self._max else (OTHER,) * len(labels)

    def samples(self) -> list[Sample]:
        """What a snapshot shows."""
        raise TypeError(f"{type(self).__name__} shows nothing")


class Counter(Series):
    """A number that only grows."""

    kind = "counter"

    def __init__(
        self, name: str, text: str, labels: Labels = (), tenants: TopTenants | None = None
    ) -> None:
        super().__init__(name, text, labels, tenants)
        self.values: dict[Labels, float] = {} if labels else {(): 0.0}
        # By tenant: what was counted since the last look, and what is shown so far.
        self._moved: set[Labels] = set()
        self._seen: dict[Labels, float] = {}
        self._shown: dict[str, dict[Labels, float]] = {}

    def inc(self, labels: Labels = (), n: float = 1) -> None:
        """Add `n`. For a batch, count first and call once."""
        try:
            self.values[labels] += n
        except KeyError:
            labels = self._admit(labels, len(self.values))
            self.values[labels] = self.values.get(labels, 0.0) + n
        if self._tenants is not None:
            self._moved.add(labels)

    def set_total(self, labels: Labels, total: float) -> None:
        """Take over a total kept elsewhere, such as a process's CPU seconds."""
        if labels not in self.values:
            labels = self._admit(labels, len(self.values))
        self.values[labels] = total

    def news(self) -> dict[str, float]:
        """What was counted by tenant since `samples` was asked last."""
        found: dict[str, float] = {}
        for labels in self._moved:
            new = self.values[labels] - self._seen.get(labels, 0.0)
            found[labels[0]] = found.get(labels[0], 0.0) + new
        return found

    def samples(self) -> list[Sample]:
        """Totals by label set; what is counted while a tenant is not among the top is `other`."""
        values = self.values if self._tenants is None else self._folded(self._tenants.names)
        return [(list(labels), [value]) for labels, value in values.items()]

    def _folded(self, names: set[str]) -> dict[Labels, float]:
        # Only what was counted since the last look moves, so no shown total ever goes back.
        for labels in self._moved:
            total = self.values[labels]
            new = total - self._seen.get(labels, 0.0)
            self._seen[labels] = total
            shown = labels if labels[0] in names else (OTHER, *labels[1:])
            sums = self._shown.setdefault(shown[0], {})
            sums[shown] = sums.get(shown, 0.0) + new
        self._moved.clear()
        found: dict[Labels, float] = {}
        for name in (*names, OTHER):
            found.update(self._shown.get(name, {}))
        return found


class Gauge(Series):
    """A number that goes up and down; `rule` says what several processes make together."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        text: str,
        labels: Labels = (),
        rule: Rule = "sum",
        tenants: TopTenants | None = None,
        *,
        is_blank: bool = False,
    ) -> None:
        """`is_blank`: without labels, too, there is no sample before it is set."""
        super().__init__(name, text, labels, tenants)
        self.rule = rule
        # A process that never sets a "min" gauge has no say in it.
        is_blank = is_blank or rule == "min"
        self._start: dict[Labels, float] = {} if labels or is_blank else {(): 0.0}
        self.values = self._start.copy()

    def set(self, labels: Labels, value: float) -> None:
        """Say how it stands now."""
        if labels not in self.values:
            labels = self._admit(labels, len(self.values))
        self.values[labels] = value

    def clear(self) -> None:
        """Forget all label sets: an owner that sets everything anew at each scrape begins here."""
        self.values = self._start.copy()

    def samples(self) -> list[Sample]:
        """Values by label set; for tenants that are not shown, the sum of their sizes."""
        if self._tenants is None:
            return [(list(labels), [value]) for labels, value in self.values.items()]
        shown: dict[Labels, float] = {}
        for labels, value in self.values.items():
            if labels[0] in self._tenants.names:
                shown[labels] = value
            else:  # sizes: a surplus of one must not hide a deficit of another
                key = (OTHER, *labels[1:])
                shown[key] = shown.get(key, 0.0) + abs(value)
        return [(list(labels), [value]) for labels, value in shown.items()]


class Histogram(Series):
    """Counts by upper bound, and the sum."""

    kind = "histogram"

    def __init__(
        self, name: str, text: str, labels: Labels = (), buckets: Sequence[float] = FAST
    ) -> None:
        super().__init__(name, text, labels)
        self.buckets = tuple(buckets)
        self._blank = [0.0] * (len(self.buckets) + 2)  # one more for +Inf, one for the sum
        self.values: dict[Labels, list[float]] = {}

    def observe(self, labels: Labels, seconds: float, n: int = 1) -> None:
        """Count `n` things that took `seconds` each (or held so many rows)."""
        row = self.values.get(labels)
        if row is None:
            labels = self._admit(labels, len(self.values))
            row = self.values.setdefault(labels, self._blank.copy())
        row[bisect_left(self.buckets, seconds)] += n
        row[-1] += seconds * n

    def samples(self) -> list[Sample]:
        """Bucket counts (not cumulative) with the sum at the end, by label set."""
        return [(list(labels), row.copy()) for labels, row in self.values.items()]
