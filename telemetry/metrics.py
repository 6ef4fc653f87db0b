"""The gateway's metrics: plain dictionaries that a collector reads at scrape.

An increment is a dictionary add (DESIGN 12: 0.04 µs; prometheus-client's `.labels()` costs 1.2,
its multiprocess mode 2), so the path counts without counting its cost. A process gives its
numbers as a `Snapshot`, plain JSON; the supervisor merges the snapshots of all processes of the
node and renders them once, through prometheus-client's own exposition:

    worker ── snapshot() ──┐
    worker ── snapshot() ──┼─▶ merge() ─▶ render() ─▶ GET /metrics
    supervisor snapshot() ─┘

Labels are bounded: never a number, never a message id. A tenant label names the 50 busiest
tenants, the rest are `other`; every other series stops growing at `MAX_LABEL_SETS`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from typing import Literal

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from telemetry.logs import written

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4  # of what `render` returns
PREFIX = "smsgw_"
OTHER = "other"
TENANTS_BY_NAME = 50
_FADE = 0.98  # of a tenant's weight, from look to look
_UNIT_MAXIMUM = 1e100
MAX_LABEL_SETS = 2000  # a carrier that invents codes must not fill memory

Labels = tuple[str, ...]
Sample = tuple[list[str], list[float]]  # label values; a histogram: bucket counts, then the sum
Snapshot = dict[str, list[Sample]]  # by series name without the prefix
Rule = Literal["sum", "max", "min"]  # how a gauge's values of several processes become one
# Another rule for some values of the last label. One process with a session is a channel that is
# up, and a channel is down only when none has one.
_RULES: dict[str, Mapping[str, Rule]] = {"channel_state": {"down": "min"}}

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
    ) -> None:
        super().__init__(name, text, labels, tenants)
        self.rule = rule
        # A process that never sets a "min" gauge has no say in it.
        self._start: dict[Labels, float] = {} if labels or rule == "min" else {(): 0.0}
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


class Metrics:
    """Every series of one process, an attribute each, named without the `smsgw_` prefix.

    Append to `before_scrape` a function that sets gauges from what its owner knows; it is called
    at each snapshot, on the event loop, and must not wait.
    """

    def __init__(self) -> None:
        top = self._top = TopTenants()
        self.before_scrape: list[Callable[[], None]] = []

        self.http_request_seconds = Histogram(
            "http_request_seconds", "Time to answer an HTTP request.", ("route", "method", "code")
        )
        self.accepted_total = Counter(
            "accepted_total", "Messages accepted (committed).", ("tenant", "class"), top
        )
        self.accepted_segments_total = Counter(
            "accepted_segments_total", "Segments of accepted messages.", ("tenant", "class"), top
        )
        self.refused_total = Counter("refused_total", "Messages refused, by code.", ("code",))
        self.throttled_total = Counter(
            "throttled_total", "Messages refused by a limit, by which.", ("tenant", "scope"), top
        )
        self.limit_calls_total = Counter(
            "limit_calls_total",
            "Calls to Valkey for shared rate limits and otp counts.",
            ("outcome",),
        )
        self.limits_local = Gauge(
            "limits_local", "Processes that go by their share of the rates: Valkey is away."
        )
        self.queue_messages = Gauge(
            "queue_messages", "Messages that wait to be submitted.", ("class", "channel")
        )
        self.queue_oldest_age_seconds = Gauge(
            "queue_oldest_age_seconds",
            "How long the oldest message has been waiting.",
            ("class", "channel"),
            "max",
        )
        self.spilled_messages = Gauge(
            "spilled_messages", "Messages that wait beyond memory, kept as ids only.", ("class",)
        )
        self.spilled_oldest_age_seconds = Gauge(
            "spilled_oldest_age_seconds",
            "How long the oldest spilled message has been waiting, to 8 s.",
            ("class",),
            "max",
        )
        self.submit_seconds = Histogram(
            "submit_seconds", "Time from submit to the carrier's answer.", ("channel",)
        )
        self.submits_total = Counter("submits_total", "Submits by outcome.", ("channel", "outcome"))
        self.uncertain_total = Counter(
            "uncertain_total", "Submits whose answer was lost, by cause.", ("channel", "cause")
        )
        self.duplicate_copies_total = Counter(
            "duplicate_copies_total", "Second copies sent after a lost answer, all marked."
        )
        self.final_total = Counter(
            "final_total", "Messages that reached a final status.", ("status", "class", "channel")
        )
        self.receipt_lag_seconds = Histogram(
            "receipt_lag_seconds", "Time from submit to receipt.", ("channel", "carrier"), SLOW
        )
        self.reports_total = Counter(
            "reports_total", "Carrier reports, by what became of them.", ("channel", "end")
        )
        self.carrier_calls_total = Counter(
            "carrier_calls_total",
            "Calls of vendors to our callbacks, by what became of them.",
            ("channel", "kind", "result"),
        )
        self.parked_reports = Gauge(
            "parked_reports",
            "Reports that wait for their message and were due at the last look.",
            rule="max",
        )
        self.unmapped_codes_total = Counter(
            "unmapped_codes_total", "Carrier codes that no table knows.", ("channel", "code")
        )
        self.channel_state = Gauge(
            "channel_state",
            "Whether any process of the node (up), or none (down), has a session of the channel; "
            "whether one has left it (open), tries it (half_open) or comes back (ramp); whether an "
            "operator has paused it or drains it (paused).",
            ("channel", "state"),
            "max",
        )
        self.failover_total = Counter(
            "failover_total",
            "Messages that went to another channel than their primary.",
            ("from", "to", "cause"),
        )
        self.handovers_total = Counter(
            "handovers_total",
            "Messages handed to other processes (given), taken from them, taken back.",
            ("end",),
        )
        for end in ("given", "taken", "taken_back"):  # from 0: a rate sees the first one too
            self.handovers_total.inc((end,), 0)
        self.handover_oldest_age_seconds = Gauge(
            "handover_oldest_age_seconds",
            "Age of the oldest block handed over and not taken yet.",
            rule="max",
        )
        self.commands_total = Counter(
            "commands_total",
            "Commands of other processes, by what became of them here.",
            ("kind", "outcome"),
        )
        self.command_oldest_age_seconds = Gauge(
            "command_oldest_age_seconds",
            "Age of the oldest command that is not carried out, as last seen.",
            rule="max",
        )
        self.processes = Gauge(
            "processes", "Living processes of all nodes, as the store knows them.", ("role",), "max"
        )
        self.takeovers_total = Counter(
            "takeovers_total", "Dead processes whose debts this one took over."
        )
        self.webhook_seconds = Histogram(
            "webhook_seconds", "Time of one webhook request.", ("outcome",)
        )
        self.webhook_attempts_total = Counter(
            "webhook_attempts_total", "Webhook requests made.", ("outcome",)
        )
        self.webhook_oldest_age_seconds = Gauge(
            "webhook_oldest_age_seconds", "Age of the oldest undelivered event.", rule="max"
        )
        self.illegal_transition_total = Counter(
            "illegal_transition_total", "Events that the state table forbids. Must stay 0."
        )
        self.conservation_residual = Gauge(
            "conservation_residual",
            "Accepted minus final minus open, per tenant. Must settle at 0.",
            ("tenant",),
            tenants=top,
        )
        self.conservation_readings_total = Counter(
            "conservation_readings_total",
            "Readings of the conservation law that could be judged; the gauge is of the last one.",
        )
        self.stray_messages = Gauge(
            "stray_messages", "Messages that a process owns and that stand nowhere. Must be 0."
        )
        self._more()

    def _silence(self) -> None:
        """Receipts that do not come."""
        self.receipts_expected_total = Counter(
            "receipts_expected_total",
            "Segments that were submitted health_receipts_until_s ago.",
            ("channel",),
        )
        self.receipts_in_time_total = Counter(
            "receipts_in_time_total",
            "Final receipts that had come by then for such segments, here or elsewhere submitted.",
            ("channel",),
        )
        self.overdue_total = Counter(
            "overdue_total",
            "Messages found without an end overdue_after_s after their accept.",
            ("channel",),
        )
        self.overdue_messages = Gauge(
            "overdue_messages",
            "Overdue messages that are watched; one process of all says it.",
            ("channel",),
            "max",
        )
        self.overdue_oldest_age_seconds = Gauge(
            "overdue_oldest_age_seconds",
            "Time since the submit of the oldest overdue message that is watched.",
            ("channel",),
            "max",
        )
        self.reconciled_total = Counter(
            "reconciled_total",
            "Overdue messages whose vendor was asked, by what they were soon after.",
            ("channel", "outcome"),
        )
        self.deadline_ended_total = Counter(
            "deadline_ended_total",
            "Messages that the receipt deadline ended.",
            ("channel", "status"),
        )
        self.deadline_behind_seconds = Gauge(
            "deadline_behind_seconds",
            "How much later than it should the search for silent messages looks at them.",
            (),
            "max",
        )

    def _outcomes(self) -> None:
        """What carriers' answers led to, beyond the message."""
        self.retries_denied_total = Counter(
            "retries_denied_total",
            "Extra attempts that had to wait, by whose budget was used up: tenant or total.",
            ("budget",),
        )
        self.retries_waiting = Gauge(
            "retries_waiting", "Messages that wait for a retry budget.", ("class",)
        )
        self.retries_oldest_age_seconds = Gauge(
            "retries_oldest_age_seconds",
            "Age of the oldest message that waits for a retry budget.",
            ("class",),
            "max",
        )
        self.content_refused_total = Counter(
            "content_refused_total",
            "Texts that a carrier refused for what they say, by template where it is known.",
            ("channel", "template"),
        )

    def _procedures(self) -> None:
        """What the gateway does to its own configuration."""
        self.canary_share = Gauge(
            "canary_share",
            "Percent of its route's destinations that a live canary has.",
            ("canary",),
            "max",
        )
        self.canary_checks_total = Counter(
            "canary_checks_total", "Gates of canaries, by what they said.", ("verdict",)
        )
        self.canary_rollbacks_total = Counter(
            "canary_rollbacks_total", "Canaries taken back by two bad gates. Each one pages."
        )

    def _more(self) -> None:
        """What channels cost and carry, and the process's own health."""
        self._outcomes()
        self._silence()
        self._procedures()
        self.smg_sessions = Gauge(
            "smg_sessions",
            "Logins of SMGs at our port, which bring reports and texts (SGIP).",
            ("channel",),
        )
        self.submitted_cost_total = Counter(
            "submitted_cost_total",
            "Price of the segments that a channel took, in the operator's currency.",
            ("channel",),
        )
        self.channel_receiving = Gauge(
            "channel_receiving",
            "Whether any process of the node has a session that the channel's receipts come over.",
            ("channel",),
            "max",
        )
        self.channel_pages_total = Counter(
            "channel_pages_total",
            "Times that a person must look at a channel now: it stays left, or its account fails.",
            ("channel", "cause"),
        )
        self.channel_alarms_total = Counter(
            "channel_alarms_total",
            "Times that a channel's failures or deliveries became strange; it is not left for it.",
            ("channel", "carrier", "cause"),
        )
        self.link_test_seconds = Histogram(
            "link_test_seconds",
            "Time of a link test's answer, or of a connection to a vendor that is idle.",
            ("channel",),
        )
        self.channel_heard_age_seconds = Gauge(
            "channel_heard_age_seconds",
            "Seconds since a channel's carrier last answered a submit, a link test or a probe.",
            ("channel",),
            "max",
        )
        self.channel_pace = Gauge(
            "channel_pace",
            "Segments per second that throttling answers leave of a channel; absent without any.",
            ("channel",),
        )
        self.bad_numbers_total = Counter(
            "bad_numbers_total",
            "Numbers that a carrier refused for good: suppressed, or left as they are (too many).",
            ("channel", "end"),
        )
        self.flush_rows = Histogram("flush_rows", "Rows in one store flush.", ("lane",), ROWS)
        self.flush_seconds = Histogram("flush_seconds", "Time of one store flush.", ("lane",))
        self.quota_calls_total = Counter(
            "quota_calls_total", "Calls to PostgreSQL for daily and monthly quotas.", ("outcome",)
        )
        self.inbound_total = Counter(
            "inbound_total", "Texts from phones, by what became of them.", ("channel", "end")
        )
        self.inbound_oldest_age_seconds = Gauge(
            "inbound_oldest_age_seconds",
            "How long the oldest text from a phone has been waiting to be kept and answered.",
            rule="max",
        )
        self.inbound_joins = Gauge(
            "inbound_joins", "Long texts from phones that wait for segments.", rule="max"
        )
        self.scheduled_late_seconds = Gauge(
            "scheduled_late_seconds",
            "How long the oldest scheduled message that is due has been so and not taken up.",
            ("class",),
            "max",
        )
        self.scheduled_due_total = Counter(
            "scheduled_due_total", "Scheduled messages taken up at their hour."
        )
        self.suppressed_numbers = Gauge(
            "suppressed_numbers", "Entries of the suppression list, by class.", ("class",), "max"
        )
        self.suppressions_age_seconds = Gauge(
            "suppressions_age_seconds",
            "Since the suppression list was last compared with the store; the oldest process's.",
            rule="max",
        )
        self.ported_numbers = Gauge(
            "ported_numbers", "Numbers with a carrier of their own, not by prefix.", (), "max"
        )
        self.portability_age_seconds = Gauge(
            "portability_age_seconds",
            "Since the ported numbers were last compared with the store; the oldest process's.",
            rule="max",
        )
        self.quarantined_total = Counter(
            "quarantined_total", "Rows set aside because they could not be written.", ("step",)
        )
        self.journal_failures_total = Counter(
            "journal_failures_total", "Writes that the attempt journal did not take."
        )
        self.signed_requests_total = Counter(
            "signed_requests_total",
            "Requests with a right signature, by what is known of their nonce; new_here: Valkey "
            "did not answer.",
            ("nonce",),
        )
        self.loop_lag_seconds = Gauge(
            "loop_lag_seconds", "How late the event loop runs its timers.", rule="max"
        )
        self.process_cpu_seconds_total = Counter(
            "process_cpu_seconds_total", "CPU time used, by process.", ("process",)
        )
        self.process_up = Gauge(
            "process_up", "Whether the process runs, by name.", ("process",), "max"
        )
        self.process_restarts_total = Counter(
            "process_restarts_total", "Times the supervisor started it again.", ("process",)
        )
        self.worker_ready = Gauge(
            "worker_ready", "Whether the worker can take traffic, by name.", ("process",), "max"
        )
        self.http_connections = Gauge(
            "http_connections", "Connections open at the public port.", ("process",)
        )
        self.watchdog_kills_total = Counter(
            "watchdog_kills_total", "Workers killed because they did not answer.", ("process",)
        )
        self.config_version = Gauge(
            "config_version", "Configuration in force; the oldest of all processes.", rule="min"
        )
        self.log_lines_total = Counter(
            "log_lines_total", "Log lines of warnings and worse, by logger.", ("level", "logger")
        )
        self.webhook_notices_total = Counter(
            "webhook_notices_total",
            "Webhook endpoints warned of, and disabled because all failed or it was gone.",
            ("what",),
        )
        self.webhook_attempts_unlogged_total = Counter(
            "webhook_attempts_unlogged_total",
            "Webhook requests that no list of attempts shows: the store was away for too long.",
        )

    def series(self) -> Iterator[Series]:
        """Every series, in the order of definition."""
        return (value for value in vars(self).values() if isinstance(value, Series))

    def snapshot(self) -> Snapshot:
        """Everything as it stands now, fit for JSON. Calls `before_scrape` first."""
        for refresh in self.before_scrape:
            refresh()
        for level_and_logger, lines in written.items():
            self.log_lines_total.set_total(level_and_logger, lines)
        traffic = self.accepted_total.news()
        for tenant, count in self.throttled_total.news().items():
            traffic[tenant] = traffic.get(tenant, 0.0) + count
        self._top.rerank(traffic)
        return {series.name: series.samples() for series in self.series()}


_CATALOGUE: dict[str, Series] = {series.name: series for series in Metrics().series()}


def _add(held: list[float], more: list[float]) -> list[float]:
    return [a + b for a, b in zip(held, more, strict=True)]


def _largest(held: list[float], more: list[float]) -> list[float]:
    return [max(a, b) for a, b in zip(held, more, strict=True)]


def _smallest(held: list[float], more: list[float]) -> list[float]:
    return [min(a, b) for a, b in zip(held, more, strict=True)]


_JOIN: dict[Rule, Callable[[list[float], list[float]], list[float]]] = {
    "sum": _add,
    "max": _largest,
    "min": _smallest,
}


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Make one snapshot of many: counters and histograms add up, gauges by their rule.

    Associative, and forgiving: a series or a shape that this version does not know (a worker of
    another version during an upgrade) is left out.
    """
    merged: dict[str, dict[Labels, list[float]]] = {}
    for snapshot in snapshots:
        for name, samples in snapshot.items():
            series = _CATALOGUE.get(name)
            if series is None:
                continue
            rules = _RULES.get(name, {})
            held = merged.setdefault(name, {})
            for values, numbers in samples:
                if not _fits(series, values, numbers):
                    continue
                key = tuple(values)
                before = held.get(key)
                join = _JOIN[rules.get(values[-1], series.rule) if rules else series.rule]
                held[key] = list(numbers) if before is None else join(before, numbers)
    return {
        name: [(list(key), numbers) for key, numbers in held.items()]
        for name, held in merged.items()
    }


def lasting(snapshot: Snapshot) -> Snapshot:
    """What outlives its process: counters and histograms, without the gauges.

    The supervisor keeps this of a worker that ended and merges it into every later answer, so that
    a restart is not a fall of the node's totals.
    """
    return {
        name: samples
        for name, samples in snapshot.items()
        if name in _CATALOGUE and _CATALOGUE[name].kind != "gauge"
    }


def _fits(series: Series, values: Sequence[str], numbers: Sequence[float]) -> bool:
    wanted = len(series.buckets) + 2 if isinstance(series, Histogram) else 1
    return len(values) == len(series.labels) and len(numbers) == wanted


class _SnapshotCollector(Collector):
    """Shows a snapshot to prometheus-client."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for name, series in _CATALOGUE.items():
            samples = [s for s in self._snapshot.get(name, []) if _fits(series, *s)]
            if samples:
                yield _family(series, samples)


def _family(series: Series, samples: list[Sample]) -> Metric:
    name, labels = PREFIX + series.name, series.labels
    if isinstance(series, Histogram):
        histogram = HistogramMetricFamily(name, series.help, labels=labels)
        bounds = [*(str(bound) for bound in series.buckets), "+Inf"]
        for values, numbers in samples:
            total, cumulative = 0.0, []
            for bound, count in zip(bounds, numbers[:-1], strict=True):
                total += count
                cumulative.append((bound, total))
            histogram.add_metric(values, cumulative, sum_value=numbers[-1])
        return histogram
    family: CounterMetricFamily | GaugeMetricFamily
    if series.kind == "counter":
        family = CounterMetricFamily(name, series.help, labels=labels)
    else:
        family = GaugeMetricFamily(name, series.help, labels=labels)
    for values, numbers in samples:
        family.add_metric(values, numbers[0])
    return family


def render(snapshot: Snapshot) -> bytes:
    """Prometheus text; to be served with `CONTENT_TYPE`."""
    registry = CollectorRegistry()
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry)
