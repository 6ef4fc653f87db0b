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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from telemetry.logs import written
from telemetry.series import (
    ROWS,
    SLOW,
    Counter,
    Gauge,
    Histogram,
    Labels,
    Rule,
    Sample,
    Series,
    TopTenants,
)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4  # of what `render` returns
PREFIX = "smsgw_"
Snapshot = dict[str, list[Sample]]  # by series name without the prefix
# Another rule for some values of the last label. One process with a session is a channel that is
# up, and a channel is down only when none has one.
_RULES: dict[str, Mapping[str, Rule]] = {"channel_state": {"down": "min"}}


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
        self._reports()
        self.carrier_calls_total = Counter(
            "carrier_calls_total",
            "Calls of vendors to our callbacks, by what became of them.",
            ("channel", "kind", "result"),
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

    def _reports(self) -> None:
        """Status reports: what came, what became of it, what waits."""
        self.reports_received_total = Counter(
            "reports_received_total", "Carrier reports that came.", ("channel",)
        )
        self.reports_total = Counter(
            "reports_total",
            "Carrier reports that are at their end, by which: each is counted once.",
            ("channel", "end"),
        )
        self.reports_parked_total = Counter(
            "reports_parked_total",
            "Carrier reports kept because nobody knew their message yet.",
            ("channel",),
        )
        self.report_lookups_failed_total = Counter(
            "report_lookups_failed_total", "Look-ups of reports put off: PostgreSQL was away."
        )
        self.row_conflicts_total = Counter(
            "row_conflicts_total",
            "Rows that another process's row came before, by what became of them.",
            ("result",),
        )
        self.parked_reports = Gauge(
            "parked_reports",
            "Reports in the store that wait for their message, all processes' together; "
            "new: for less than six minutes.",
            ("channel", "age"),
            "max",
        )
        self.parked_reports_oldest_age_seconds = Gauge(
            "parked_reports_oldest_age_seconds",
            "Age of the oldest report that waits for its message.",
            ("channel",),
            "max",
        )

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
            rule="max",
            is_blank=True,  # nobody searches: the alert asks whether anybody says it
        )

    def _outcomes(self) -> None:
        """What carriers' answers led to, beyond the message."""
        self.uncertain_messages = Gauge(
            "uncertain_messages", "Messages whose answer was lost and is waited for.", ("class",)
        )
        self.uncertain_oldest_age_seconds = Gauge(
            "uncertain_oldest_age_seconds",
            "How long ago the oldest of them lost its answer.",
            ("class",),
            "max",
        )
        self.retries_denied_total = Counter(
            "retries_denied_total",
            "Extra attempts that had to wait, each once: by whose budget, tenant or total.",
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

    def _disks(self) -> None:
        """What a message is written to."""
        self.store_write_age_seconds = Gauge(
            "store_write_age_seconds",
            "Age of the oldest accept that PostgreSQL has not committed, or how long it is away.",
            rule="max",
        )
        self.disk_used_ratio = Gauge(
            "disk_used_ratio",
            "Used share of the fullest disk below the data directory, of blocks or inodes, 0 to 1.",
            rule="max",
        )
        self.journal_failures_total = Counter(
            "journal_failures_total", "Writes that the attempt journal did not take."
        )

    def _retention(self) -> None:
        """What ends after its time; said by every process, from one table."""
        self.retention_oldest_age_seconds = Gauge(
            "retention_oldest_age_seconds",
            "Age of the oldest partition, from where its day begins.",
            ("table",),
            "max",
        )
        self.retention_dropped = Gauge(
            "retention_dropped",
            "Partitions or rows that ended after their time, since the database was made.",
            ("table",),
            "max",
        )
        self.retention_done_timestamp_seconds = Gauge(
            "retention_done_timestamp_seconds",
            "Unix time when a round of upkeep last ended all of this kind that was over.",
            ("table",),
            "max",
        )
        self.retention_held = Gauge(
            "retention_held",
            "1 while something is over that may not end: a message of its day is under way.",
            ("table",),
            "max",
        )

    def _certificates(self) -> None:
        """TLS: what is shown, what is trusted, until when."""
        self.certificate_expiry_timestamp_seconds = Gauge(
            "certificate_expiry_timestamp_seconds",
            "Unix time at which a certificate in use ends, the first of its file.",
            ("certificate",),
            "min",
        )
        self.tls_reloads_total = Counter(
            "tls_reloads_total",
            "New certificates at our ports: loaded, or failed and still not in use (each look).",
            ("result",),
        )

    def _node(self) -> None:
        """What a node stands on."""
        self._certificates()
        self._disks()
        self._retention()
        self._procedures()

    def _more(self) -> None:
        """What channels cost and carry, and the process's own health."""
        self._outcomes()
        self._silence()
        self._node()
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
