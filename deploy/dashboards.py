"""Grafana's dashboards, from here into deploy/grafana/dashboards/*.json.

    python -m deploy.dashboards       write them anew after a change here

The files are read by provisioning (deploy/grafana/provisioning) or imported by hand; both ask for
a Prometheus as data source. Their form: deploy/grafana_model.py.

Every query names series of telemetry/metrics.py or deploy/prometheus/recording.yml;
tests/unit/telemetry/test_dashboards.py looks that up, tests/flow/test_first_light.py asks each of
a real Prometheus at a running gateway. Thresholds are the numbers that alerts.yml has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypedDict, Unpack

from deploy.grafana_model import Dashboard, Panel, Query, Row, text

FOLDER: Final = Path(__file__).parent / "grafana" / "dashboards"
_RATE: Final = "$__rate_interval"
STATES: Final = ("unknown", "up", "ramp", "half_open", "open", "down", "paused")


class _More(TypedDict, total=False):
    """What else a panel may have."""

    about: str
    width: int
    warn: float
    bad: float
    is_low_bad: bool
    is_stacked: bool


def _stat(title: str, expression: str, unit: str = "short", **more: Unpack[_More]) -> Panel:
    more.setdefault("width", 4)
    return Panel(title, [Query(expression)], unit, kind="stat", **more)


def _line(
    title: str, expression: str, legend: str, unit: str = "short", **more: Unpack[_More]
) -> Panel:
    return Panel(title, [Query(expression, legend)], unit, **more)


def _rare(
    title: str, expression: str, legend: str, unit: str = "short", **more: Unpack[_More]
) -> Panel:
    """One that shows nothing while all is well."""
    return Panel(title, [Query(expression, legend, is_rare=True)], unit, **more)


def _per_second(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{where}[{_RATE}]))"


def _states(where: str) -> str:
    """Each channel's state as its place in `STATES`, the last of them if several hold."""
    each = [
        f"smsgw_channel_state{where % state} * {place}"
        for place, state in enumerate(STATES)
        if place
    ]
    return f"max by (channel) ({' or '.join(each)})"


def _quantiles(metric: str, where: str = "", by: str = "") -> list[Query]:
    keep = f"le, {by}" if by else "le"
    name = f" {{{{{by}}}}}" if by else ""
    return [
        Query(
            f"histogram_quantile({share}, sum by ({keep}) (rate({metric}_bucket{where}[{_RATE}])))",
            f"p{round(share * 100)}{name}",
        )
        for share in (0.5, 0.99)
    ]


_SEND: Final = '{route=~"/v1/(messages|batches)", method="POST"}'
_CHANNEL: Final = '{channel=~"$channel"}'
_TENANT: Final = '{tenant=~"$tenant"}'

OVERVIEW: Final = Dashboard(
    "overview",
    "smsgw: overview",
    "Is it keeping its promises? Green on top, and nothing else needs a look.",
    [
        Row(
            "Promises",
            [
                _stat(
                    "Pages firing",
                    'count(ALERTS{alertstate="firing", severity="page"}) or vector(0)',
                    bad=1,
                ),
                _stat(
                    "Messages missing",
                    "sum(abs(smsgw_conservation_residual)) + sum(smsgw_stray_messages)"
                    " or sum(smsgw_stray_messages)",
                    bad=1,
                    about="Accepted minus final minus open, and what stands nowhere. Must be 0.",
                ),
                _stat("Forbidden steps", "sum(smsgw_illegal_transition_total)", bad=1),
                _stat("Usable channels", "smsgw:channels_usable:count", bad=1, is_low_bad=True),
                _stat(
                    "Failed sends, 1 h",
                    "smsgw:send_errors:ratio_rate1h",
                    "percentunit",
                    warn=0.001,
                    bad=0.0144,
                ),
                _stat("Send p99, 5 min", "max(smsgw:send_seconds:p99_5m)", "s", warn=0.25, bad=0.5),
            ],
        ),
        Row(
            "Traffic",
            [
                _line("Accepted", "smsgw:accepted:rate5m", "{{class}}", "mps", is_stacked=True),
                _line(
                    "Ended",
                    "sum by (status) (smsgw:finals:rate5m)",
                    "{{status}}",
                    "mps",
                    is_stacked=True,
                ),
                _rare(
                    "Refused",
                    _per_second("smsgw_refused_total", "code"),
                    "{{code}}",
                    "mps",
                ),
            ],
        ),
        Row(
            "How fast",
            [
                Panel(
                    "Answer to a send",
                    _quantiles("smsgw_http_request_seconds", _SEND),
                    "s",
                    bad=0.5,
                ),
                Panel("Carrier's answer", _quantiles("smsgw_submit_seconds"), "s", bad=10),
                Panel("Receipt", _quantiles("smsgw_receipt_lag_seconds"), "s"),
                _line(
                    "Oldest waiting message",
                    "smsgw:queue_oldest_age_seconds:max",
                    "{{class}}",
                    "s",
                    warn=10,
                    bad=300,
                ),
                _line("Waiting messages", "sum by (class) (smsgw_queue_messages)", "{{class}}"),
                _line(
                    "Failed sends against the 0.1 % of the contract",
                    "smsgw:send_errors:ratio_rate5m",
                    "5 min",
                    "percentunit",
                    bad=0.001,
                ),
            ],
        ),
        Row(
            "Processes",
            [
                _line(
                    "CPU",
                    f"sum by (instance, process) (rate(smsgw_process_cpu_seconds_total[{_RATE}]))",
                    "{{instance}} {{process}}",
                    "percentunit",
                    is_stacked=True,
                ),
                _line("Event loop late", "smsgw_loop_lag_seconds", "{{instance}}", "s", bad=0.2),
                _rare(
                    "Errors and warnings logged",
                    f"sum by (level, logger) (increase(smsgw_log_lines_total[{_RATE}]))",
                    "{{level}} {{logger}}",
                ),
            ],
        ),
    ],
)

_EXPECTED: Final = f"sum by (channel) (rate(smsgw_receipts_expected_total{_CHANNEL}[1h]))"
CHANNELS: Final = Dashboard(
    "channels",
    "smsgw: channels and failover",
    "Which carrier does what, and where messages go instead.",
    [
        Row(
            "State",
            [
                Panel(
                    "State",
                    [Query(_states('{channel=~"$channel", state="%s"}'), "{{channel}}")],
                    about="The worst of what any process sees of it.",
                    kind="state-timeline",
                    width=16,
                    names=STATES,
                ),
                _line(
                    "Heard from the carrier",
                    f"min by (channel) (smsgw_channel_heard_age_seconds{_CHANNEL})",
                    "{{channel}}",
                    "s",
                    warn=60,
                    bad=300,
                ),
            ],
        ),
        Row(
            "Submits",
            [
                _line(
                    "Submits",
                    f"smsgw:submits:rate5m{_CHANNEL}",
                    "{{channel}} {{outcome}}",
                    "mps",
                ),
                _line(
                    "Failures",
                    f"smsgw:submit_failures:ratio_rate5m{_CHANNEL}",
                    "{{channel}}",
                    "percentunit",
                    warn=0.05,
                    bad=0.2,
                ),
                Panel(
                    "Answer time",
                    _quantiles("smsgw_submit_seconds", _CHANNEL, "channel"),
                    "s",
                    bad=10,
                ),
                Panel("Link test", _quantiles("smsgw_link_test_seconds", _CHANNEL, "channel"), "s"),
                _line(
                    "Waiting",
                    f"sum by (channel) (smsgw_queue_messages{_CHANNEL})",
                    "{{channel}}",
                    about="`held`: for any channel of their route.",
                ),
                _line(
                    "Oldest waiting",
                    f"max by (channel, class) (smsgw_queue_oldest_age_seconds{_CHANNEL})",
                    "{{channel}} {{class}}",
                    "s",
                    warn=10,
                    bad=300,
                ),
                _rare(
                    "Pace left by throttling",
                    f"sum by (channel) (smsgw_channel_pace{_CHANNEL})",
                    "{{channel}}",
                    about="Segments per second; absent where no carrier throttles.",
                ),
                _rare(
                    "Answers lost",
                    f"sum by (channel, cause) (increase(smsgw_uncertain_total{_CHANNEL}[{_RATE}]))",
                    "{{channel}} {{cause}}",
                ),
                _line(
                    "Oldest lost answer",
                    "max by (class) (smsgw_uncertain_oldest_age_seconds)",
                    "{{class}}",
                    "s",
                    warn=900,
                ),
            ],
        ),
        Row(
            "Receipts",
            [
                _line(
                    "Delivered",
                    f"smsgw:delivered:ratio_rate5m{_CHANNEL}",
                    "{{channel}}",
                    "percentunit",
                    warn=0.95,
                    bad=0.5,
                    is_low_bad=True,
                ),
                Panel("Receipt", _quantiles("smsgw_receipt_lag_seconds", _CHANNEL, "channel"), "s"),
                _line(
                    "Reports by end",
                    _per_second("smsgw_reports_total", "channel, end", _CHANNEL),
                    "{{channel}} {{end}}",
                    "mps",
                ),
                _rare(
                    "Reports parked",
                    "max by (channel, age) (smsgw_parked_reports)",
                    "{{channel}} {{age}}",
                    bad=1000,
                ),
                _rare(
                    "Oldest parked report",
                    "max by (channel) (smsgw_parked_reports_oldest_age_seconds)",
                    "{{channel}}",
                    "s",
                ),
                _rare(
                    "Codes nobody mapped",
                    f"sum by (channel, code) (increase(smsgw_unmapped_codes_total{_CHANNEL}[1h]))",
                    "{{channel}} {{code}}",
                ),
                _rare(
                    "Vendors' calls",
                    _per_second("smsgw_carrier_calls_total", "channel, kind, result", _CHANNEL),
                    "{{channel}} {{kind}} {{result}}",
                    "reqps",
                ),
            ],
        ),
        Row(
            "Receipts that do not come",
            [
                _rare(
                    "Without a receipt after 6 min",
                    f"1 - (sum by (channel) (rate(smsgw_receipts_in_time_total{_CHANNEL}[1h]))"
                    f" or 0 * {_EXPECTED}) / ({_EXPECTED} > 0)",
                    "{{channel}}",
                    "percentunit",
                    bad=0.2,
                ),
                _rare(
                    "Overdue messages that are watched",
                    f"max by (channel) (smsgw_overdue_messages{_CHANNEL})",
                    "{{channel}}",
                ),
                _rare(
                    "Ended by the deadline",
                    f"sum by (channel) (increase(smsgw_deadline_ended_total{_CHANNEL}[1h]))",
                    "{{channel}}",
                ),
            ],
        ),
        Row(
            "Failover",
            [
                _rare(
                    "To a backup",
                    _per_second("smsgw_failover_total", "from, to, cause", '{from=~"$channel"}'),
                    "{{from}} to {{to}} ({{cause}})",
                    "mps",
                ),
                _line(
                    "Second copies",
                    f"sum(increase(smsgw_duplicate_copies_total[{_RATE}]))",
                    "copies",
                ),
                _line(
                    "Waiting for the retry budget",
                    "sum by (class) (smsgw_retries_waiting)",
                    "{{class}}",
                ),
            ],
        ),
    ],
    ("channel",),
)

TENANTS: Final = Dashboard(
    "tenants",
    "smsgw: tenants",
    "Who sends how much, and who is stopped by a limit. The 50 busiest by name.",
    [
        Row(
            "Traffic",
            [
                _line(
                    "Accepted",
                    f"smsgw:tenant_accepted:rate5m{_TENANT}",
                    "{{tenant}}",
                    "mps",
                    width=12,
                    is_stacked=True,
                ),
                _line(
                    "Segments",
                    _per_second("smsgw_accepted_segments_total", "tenant", _TENANT),
                    "{{tenant}}",
                    "mps",
                    width=12,
                    is_stacked=True,
                ),
                _line(
                    "By class",
                    _per_second("smsgw_accepted_total", "tenant, class", _TENANT),
                    "{{tenant}} {{class}}",
                    "mps",
                    width=12,
                ),
                _rare(
                    "Stopped by a limit",
                    _per_second("smsgw_throttled_total", "tenant, scope", _TENANT),
                    "{{tenant}} {{scope}}",
                    "mps",
                    width=12,
                ),
            ],
        ),
        Row(
            "Is every message there?",
            [
                _rare(
                    "Residual",
                    f"max by (tenant) (abs(smsgw_conservation_residual{_TENANT}))",
                    "{{tenant}}",
                    width=12,
                    bad=1,
                    about="Must be 0. No series: nobody could judge, or no tenant is off.",
                ),
                _line(
                    "Readings",
                    "sum(increase(smsgw_conservation_readings_total[5m]))",
                    "in 5 min",
                    width=12,
                    bad=1,
                    is_low_bad=True,
                ),
            ],
        ),
        Row(
            "Requests",
            [
                _line(
                    "By answer",
                    _per_second("smsgw_http_request_seconds_count", "code"),
                    "{{code}}",
                    "reqps",
                    width=12,
                ),
                Panel(
                    "Answer by route",
                    _quantiles("smsgw_http_request_seconds", "", "route"),
                    "s",
                    width=12,
                    bad=0.5,
                ),
            ],
        ),
    ],
    ("tenant",),
)

WEBHOOKS: Final = Dashboard(
    "webhooks",
    "smsgw: webhooks and texts from phones",
    "Whether tenants hear what became of their messages.",
    [
        Row(
            "Webhooks",
            [
                _stat(
                    "Oldest event", "max(smsgw_webhook_oldest_age_seconds)", "s", warn=60, bad=600
                ),
                _stat(
                    "Dead letters, 1 h",
                    'sum(increase(smsgw_webhook_attempts_total{outcome="dead"}[1h])) or vector(0)',
                    warn=1,
                ),
                _stat(
                    "Disabled or warned, 1 h",
                    "sum(increase(smsgw_webhook_notices_total[1h])) or vector(0)",
                    warn=1,
                ),
                _line(
                    "Requests",
                    _per_second("smsgw_webhook_attempts_total", "outcome"),
                    "{{outcome}}",
                    "reqps",
                    width=12,
                ),
                Panel(
                    "Time of a request",
                    _quantiles("smsgw_webhook_seconds", "", "outcome"),
                    "s",
                    width=12,
                    bad=15,
                ),
                _line(
                    "Oldest event",
                    "max by (instance) (smsgw_webhook_oldest_age_seconds)",
                    "{{instance}}",
                    "s",
                    width=12,
                    bad=600,
                ),
            ],
        ),
        Row(
            "Texts from phones",
            [
                _rare(
                    "Texts",
                    _per_second("smsgw_inbound_total", "channel, end"),
                    "{{channel}} {{end}}",
                    "mps",
                ),
                _line(
                    "Oldest that is not kept",
                    "max(smsgw_inbound_oldest_age_seconds)",
                    "age",
                    "s",
                    bad=30,
                ),
                _line("Long texts that wait for segments", "max(smsgw_inbound_joins)", "texts"),
            ],
        ),
    ],
)

_NODE: Final = '{instance=~"$instance"}'
STORES: Final = Dashboard(
    "stores",
    "smsgw: stores and processes",
    "PostgreSQL, Valkey, journal, disk, and the processes in front of them.",
    [
        Row(
            "PostgreSQL",
            [
                Panel("Flush", _quantiles("smsgw_flush_seconds", _NODE, "lane"), "s", bad=1),
                _line(
                    "Rows per flush",
                    f"sum by (lane) (rate(smsgw_flush_rows_sum{_NODE}[{_RATE}]))"
                    f" / sum by (lane) (rate(smsgw_flush_rows_count{_NODE}[{_RATE}]))",
                    "{{lane}}",
                ),
                _line(
                    "Oldest write that is not committed",
                    f"max by (instance) (smsgw_store_write_age_seconds{_NODE})",
                    "{{instance}}",
                    "s",
                    warn=0.5,
                    bad=1,
                ),
                _rare(
                    "Rows set aside",
                    f"sum by (step) (increase(smsgw_quarantined_total{_NODE}[1h]))",
                    "{{step}}",
                    bad=1,
                ),
                _line(
                    "Since the opt-outs were compared",
                    f"max(smsgw_suppressions_age_seconds{_NODE})",
                    "oldest",
                    "s",
                    bad=60,
                ),
                _line(
                    "Spilled: messages beyond memory",
                    f"sum by (class) (smsgw_spilled_messages{_NODE})",
                    "{{class}}",
                ),
            ],
        ),
        Row(
            "Valkey, journal, disk",
            [
                _line(
                    "Calls to Valkey",
                    _per_second("smsgw_limit_calls_total", "outcome", _NODE),
                    "{{outcome}}",
                    "ops",
                ),
                _line(
                    "Processes without Valkey",
                    f"sum by (instance) (smsgw_limits_local{_NODE})",
                    "{{instance}}",
                    bad=1,
                ),
                _line(
                    "Journal failures",
                    f"sum by (instance) (increase(smsgw_journal_failures_total{_NODE}[5m]))",
                    "{{instance}}",
                    bad=1,
                ),
                _line(
                    "Disk used",
                    f"max by (instance) (smsgw_disk_used_ratio{_NODE})",
                    "{{instance}}",
                    "percentunit",
                    warn=0.85,
                    bad=0.93,
                ),
                _line(
                    "Command not carried out",
                    f"max(smsgw_command_oldest_age_seconds{_NODE})",
                    "age",
                    "s",
                    bad=60,
                ),
                _line(
                    "Handover not taken",
                    f"max(smsgw_handover_oldest_age_seconds{_NODE})",
                    "age",
                    "s",
                    bad=30,
                ),
            ],
        ),
        Row(
            "Processes",
            [
                _line("Living, all nodes", "max by (role) (smsgw_processes)", "{{role}}"),
                _line(
                    "Ready",
                    f"min by (instance, process) (smsgw_worker_ready{_NODE})",
                    "{{instance}} {{process}}",
                    bad=1,
                    is_low_bad=True,
                ),
                _rare(
                    "Started again",
                    f"sum by (process) (increase(smsgw_process_restarts_total{_NODE}[1h]))",
                    "{{process}}",
                ),
                _line(
                    "CPU",
                    _per_second("smsgw_process_cpu_seconds_total", "instance, process", _NODE),
                    "{{instance}} {{process}}",
                    "percentunit",
                    is_stacked=True,
                ),
                _line(
                    "Event loop late",
                    f"max by (instance) (smsgw_loop_lag_seconds{_NODE})",
                    "{{instance}}",
                    "s",
                    bad=0.2,
                ),
                _line(
                    "Connections",
                    f"sum by (instance) (smsgw_http_connections{_NODE})",
                    "{{instance}}",
                ),
            ],
        ),
    ],
    ("instance",),
)

DASHBOARDS: Final = (OVERVIEW, CHANNELS, TENANTS, WEBHOOKS, STORES)


def main() -> None:
    """Write all files, and remove those that nobody makes any more."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.name}.json").write_text(text(dashboard), "utf-8")


if __name__ == "__main__":
    main()
