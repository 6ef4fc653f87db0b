"""When each alert fires and when it does not, as promtool's series of one value a minute.

`"1x10"` is eleven times 1, `"0+2x10"` counts up by 2, `"_x20 1x10"` is born after 20 minutes. Where
a series names no instance it is node `a`, which is scraped all the time.
"""

from dataclasses import dataclass

Series = dict[str, str]


@dataclass(frozen=True, slots=True)
class Case:
    """What is scraped, and what the alert makes of it at minute `at`."""

    alert: str
    series: Series
    fires: dict[str, str] | None  # the labels its summary shows; None: it is silent
    at: int = 30


def single(alert: str, series: str, bad: str, good: str, **labels: str) -> list[Case]:
    """An alert on one series: bad and good values of it."""
    return [Case(alert, {series: bad}, labels), Case(alert, {series: good}, None)]


def grown(alert: str, series: str, **labels: str) -> list[Case]:
    """An alert on single events: grown, born with the first one; long ago is over."""
    return [
        Case(alert, {series: "0x25 1x5"}, labels),
        Case(alert, {series: "_x25 1x5"}, labels),
        Case(alert, {series: "3x200"}, None, at=180),
        Case(alert, {series: "_x25 1x155"}, None, at=170),
        # Scraped for the first time: what happened before is no news.
        Case(alert, {series: "_x25 1x5", 'up{job="smsgw",instance="a"}': "_x25 1x5"}, None),
    ]


SENDS = 'smsgw_http_request_seconds_count{route="/v1/messages",method="POST",code="%s"}'
QUICK = 'smsgw_http_request_seconds_bucket{route="/v1/messages",method="POST",code="202",le="0.5"}'


def errors(good: str, bad: str) -> Series:
    return {SENDS % "202": good, SENDS % "503": bad}


def slow(all_of_them: str, quick: str) -> Series:
    return {SENDS % "202": all_of_them, QUICK: quick}


def receipts(expected: str, in_time: str) -> Series:
    return {
        'smsgw_receipts_expected_total{channel="c"}': expected,
        'smsgw_receipts_in_time_total{channel="c"}': in_time,
    }


_DAY = 86_400  # seconds; promtool's clock begins at 0
_ENDS = 'smsgw_certificate_expiry_timestamp_seconds{certificate="http"}'
_SHOWN = {"instance": "a", "certificate": "http"}
_STATE = 'smsgw_channel_state{channel="c",state="%s"}'
_UP, _DOWN, _OPEN, _PAUSED = (_STATE % state for state in ("up", "down", "open", "paused"))
_SUBMITS = 'smsgw_submits_total{channel="c",outcome="answered_ok"}'
_UNCERTAIN = 'smsgw_uncertain_total{channel="c",cause="channel.timeout"}'
_HEARD = 'smsgw_channel_heard_age_seconds{channel="c"}'
_TESTED = 'smsgw_link_test_seconds_count{channel="c"}'

CASES: list[Case] = [
    *single("MessagesMissing", 'smsgw_conservation_residual{tenant="shop"}', "2x30", "0x30"),
    *single("MessagesMissing", "smsgw_stray_messages", "1x30", "0x30"),
    Case("MessagesMissing", {'smsgw_conservation_residual{tenant="shop"}': "-1x30"}, {}),
    *single("ConservationNotJudged", "smsgw_conservation_readings_total", "7x30", "0+6x30"),
    Case("ConservationNotJudged", {}, {}),
    *single("IllegalTransition", "smsgw_illegal_transition_total", "0x25 1x5", "0x30"),
    *grown("RowsQuarantined", 'smsgw_quarantined_total{step="events"}', step="events"),
    *single(
        "UncertainOld",
        'smsgw_uncertain_oldest_age_seconds{class="otp"}',
        "1000+60x30",
        "800x30",
        **{"class": "otp"},
    ),
    Case(
        "UncertainOld", {'smsgw_uncertain_oldest_age_seconds{class="marketing"}': "9000x30"}, None
    ),
    Case("AnswersLost", {_SUBMITS: "0+100x30", _UNCERTAIN: "0+1x30"}, {"channel": "c"}),
    Case("AnswersLost", {_SUBMITS: "0+9000x30", _UNCERTAIN: "0+1x30"}, None),
    Case("AnswersLost", {_SUBMITS: "0+100x30", _UNCERTAIN: "0x28 1x2"}, None),
    *single("SecondCopies", "smsgw_duplicate_copies_total", "0+1x30", "0x20 1x10"),
    *single(
        "ReportsParked",
        'smsgw_parked_reports{channel="c",age="new"}',
        "2000x30",
        "900x30",
        channel="c",
    ),
    # Old ones are most likely another system's.
    Case("ReportsParked", {'smsgw_parked_reports{channel="c",age="old"}': "2000x30"}, None),
    *grown(
        "ReportsUnreadable",
        'smsgw_reports_total{channel="c",end="contradictory"}',
        channel="c",
        end="contradictory",
    ),
    Case("ReportsUnreadable", {'smsgw_reports_total{channel="c",end="matched"}': "0+90x30"}, None),
    *single(
        "ReportsForeign",
        'smsgw_parked_reports{channel="c",age="old"}',
        "150x30",
        "90x30",
        channel="c",
    ),
    *single(
        "ReportsRefused",
        'smsgw_reports_total{channel="c",end="refused"}',
        "0+100x30",
        "0+20x30",
        channel="c",
    ),
    *single(
        "ReportsRefused",
        'smsgw_parked_reports{channel="c",age="old"}',
        "160000x30",
        "100000x30",
        channel="c",
    ),
    *single("ReportsNotLookedUp", "smsgw_report_lookups_failed_total", "0+1x30", "5x30"),
    Case("ReceiptsMissing", receipts("0+10x60", "0+7x60"), {"channel": "c"}, at=50),
    Case("ReceiptsMissing", receipts("0+10x60", "_x60"), {"channel": "c"}, at=50),  # not one
    Case("ReceiptsMissing", receipts("0+10x60", "0+9x60"), None, at=50),
    Case("ReceiptsMissing", receipts("0+1x60", "0x60"), None, at=50),  # too few to say
    *single("DeadlineBehind", "smsgw_deadline_behind_seconds", "4000x30", "60x30"),
    Case("DeadlineBehind", {}, {}),
    *single(
        "DeadlineEnds",
        'smsgw_deadline_ended_total{channel="c",status="unknown"}',
        "0+10x30",
        "0x20 50x10",
        channel="c",
    ),
    # -- the contract
    Case("SendErrorsFast", errors("0+1000x70", "0+20x70"), {}, at=65),
    Case("SendErrorsFast", errors("0+1000x70", "0+2x70"), None, at=65),
    # Over, so the short window is clean again.
    Case("SendErrorsFast", errors("0+1000x80", "0+50x40 2000x40"), None, at=75),
    Case("SendErrorsFast", errors("0+1000x400", "0+7x400"), {}, at=390),
    # A tenant's own mistakes are no failures.
    Case("SendErrorsFast", {SENDS % "202": "0+1000x70", SENDS % "422": "0+900x70"}, None, at=65),
    Case("SendErrorsSlow", errors("0+10000x400", "0+15x400"), {}, at=390),
    Case("SendErrorsSlow", errors("0+10000x400", "0+5x400"), None, at=390),
    Case("SendsSlowFast", slow("0+1000x70", "0+800x70"), {}, at=65),
    Case("SendsSlowFast", slow("0+1000x70", "0+980x70"), None, at=65),
    Case("SendsSlowSlow", slow("0+1000x400", "0+980x400"), {}, at=390),
    Case("SendsSlowSlow", slow("0+1000x400", "0+995x400"), None, at=390),
    *single(
        "IntakeClosed",
        'smsgw_refused_total{code="shed.queue_full"}',
        "0+5x30",
        "7x30",
        code="shed.queue_full",
    ),
    Case("IntakeClosed", {'smsgw_refused_total{code="recipient.invalid"}': "0+5x30"}, None),
    *single(
        "OtpWaits",
        'smsgw_queue_oldest_age_seconds{class="otp",channel="c"}',
        "20x30",
        "3x30",
        channel="c",
    ),
    Case(
        "OtpWaits",
        {'smsgw_spilled_oldest_age_seconds{class="otp"}': "20x30"},
        {"channel": "spilled"},
    ),
    *single(
        "QueueHeadOld",
        'smsgw_queue_oldest_age_seconds{class="transactional",channel="c"}',
        "400x30",
        "200x30",
        channel="c",
    ),
    Case(
        "QueueHeadOld",
        {'smsgw_queue_oldest_age_seconds{class="marketing",channel="c"}': "4000x30"},
        None,
    ),
    *single(
        "ScheduledLate",
        'smsgw_scheduled_late_seconds{class="otp"}',
        "90x30",
        "30x30",
        **{"class": "otp"},
    ),
    *single(
        "RetriesWait",
        'smsgw_retries_oldest_age_seconds{class="otp"}',
        "200x30",
        "60x30",
        **{"class": "otp"},
    ),
    # -- channels
    Case("NoUsableChannel", {_UP: "0x30", _DOWN: "1x30"}, {}),
    Case("NoUsableChannel", {_UP: "1x30", _OPEN: "1x30"}, {}),
    Case("NoUsableChannel", {_UP: "1x30", _OPEN: "0x30", _PAUSED: "0x30"}, None),
    Case("NoUsableChannel", {}, None),
    *single(
        "MessagesHeld",
        'smsgw_queue_messages{class="otp",channel="held"}',
        "4x30",
        "0x30",
        **{"class": "otp"},
    ),
    *single("ChannelDown", _DOWN, "1x30", "0x30", channel="c"),
    Case("ChannelDown", {_DOWN: "1x30", _PAUSED: "1x30"}, None),
    # A session of any node is enough.
    Case(
        "ChannelDown",
        {_DOWN: "1x30", 'smsgw_channel_state{channel="c",state="down",instance="b"}': "0x30"},
        None,
    ),
    *single("ChannelLeft", _OPEN, "1x30", "0x20 1x10", channel="c"),
    *grown(
        "ChannelNeedsPerson",
        'smsgw_channel_pages_total{channel="c",cause="config"}',
        channel="c",
        cause="config",
    ),
    *grown(
        "ChannelDoesBadly",
        'smsgw_channel_alarms_total{channel="c",carrier="CM",cause="delivery"}',
        channel="c",
        cause="delivery",
    ),
    Case(
        "ChannelDeaf",
        {'smsgw_channel_receiving{channel="c"}': "0x30", _UP: "1x30"},
        {"channel": "c"},
    ),
    Case("ChannelDeaf", {'smsgw_channel_receiving{channel="c"}': "1x30", _UP: "1x30"}, None),
    Case("ChannelDeaf", {'smsgw_channel_receiving{channel="c"}': "0x30", _UP: "0x30"}, None),
    *single("SmgAway", 'smsgw_smg_sessions{channel="c"}', "0x30", "1x27 0x3", channel="c"),
    Case("BackupUntested", {_HEARD: "400x30", _TESTED: "5x30"}, {"channel": "c"}),
    Case("BackupUntested", {_HEARD: "20x30", _TESTED: "5x30"}, None),
    Case("BackupUntested", {_HEARD: "400x30"}, None),  # an idle SGIP channel has no link tests
    Case("BackupUntested", {_HEARD: "400x30", _TESTED: "5x30", _DOWN: "1x30"}, None),
    Case("CarrierSlowsUs", {'smsgw_channel_pace{channel="c"}': "40x40"}, {"channel": "c"}, at=35),
    Case("CarrierSlowsUs", {'smsgw_channel_pace{channel="c"}': "_x20 40x20"}, None, at=35),
    *grown(
        "CodesUnmapped",
        'smsgw_unmapped_codes_total{channel="c",code="MK:0099"}',
        channel="c",
        code="MK:0099",
    ),
    *grown("NumbersRefused", 'smsgw_bad_numbers_total{channel="c",end="left"}', channel="c"),
    Case(
        "NumbersRefused", {'smsgw_bad_numbers_total{channel="c",end="suppressed"}': "0+5x30"}, None
    ),
    *single(
        "ContentRefused",
        'smsgw_content_refused_total{channel="c",template="tpl_1"}',
        "0+1x30",
        "0x25 4x5",
        channel="c",
        template="tpl_1",
    ),
    *single(
        "CallbacksRefused",
        'smsgw_carrier_calls_total{channel="c",kind="receipts",result="source"}',
        "0+1x30",
        "8x30",
        channel="c",
        kind="receipts",
        result="source",
    ),
    *single("CanaryRolledBack", "smsgw_canary_rollbacks_total", "0x25 1x5", "1x30"),
    Case("CanaryStands", {'smsgw_canary_share{canary="x"}': "5x1500"}, {"canary": "x"}, at=1460),
    Case("CanaryStands", {'smsgw_canary_share{canary="x"}': "5x700 30x800"}, None, at=1460),
    # -- webhooks and texts from phones
    *single("WebhooksStand", "smsgw_webhook_oldest_age_seconds", "700x30", "400x30"),
    *grown("WebhookDeadLetters", 'smsgw_webhook_attempts_total{outcome="dead"}'),
    Case("WebhookDeadLetters", {'smsgw_webhook_attempts_total{outcome="timeout"}': "0+9x30"}, None),
    *grown("WebhookEndpointDisabled", 'smsgw_webhook_notices_total{what="gone"}', what="gone"),
    *single("InboundWaits", "smsgw_inbound_oldest_age_seconds", "40x30", "5x30"),
    # -- stores
    *single("DatabaseSlow", "smsgw_store_write_age_seconds", "3x30", "0.2x30", instance="a"),
    *single("ValkeyAway", "smsgw_limits_local", "2x30", "0x30", instance="a"),
    *single("JournalFails", "smsgw_journal_failures_total", "0x27 2x3", "2x30", instance="a"),
    *single("DiskFilling", "smsgw_disk_used_ratio", "0.9x30", "0.7x30", instance="a"),
    Case("DiskFilling", {"smsgw_disk_used_ratio": "0.62+0.0005x60"}, {"instance": "a"}, at=55),
    # promtool's clock begins at 0: what was done at -200,000 s is two days and seven hours ago.
    *single(
        "RetentionStands",
        'smsgw_retention_done_timestamp_seconds{table="events"}',
        "-200000x30",
        "-7200+60x30",
        table="events",
    ),
    *single("DiskFull", "smsgw_disk_used_ratio", "0.94x30", "0.92x30", instance="a"),
    # 12 % in an hour: full in four; the same rise from far below, and one that has ended
    Case("DiskFullSoon", {"smsgw_disk_used_ratio": "0.5+0.002x60"}, {"instance": "a"}, at=55),
    Case("DiskFullSoon", {"smsgw_disk_used_ratio": "0.1+0.002x60"}, None, at=55),
    Case("DiskFullSoon", {"smsgw_disk_used_ratio": "0.5+0.005x40 0.7x20"}, None, at=58),
    *single("StorageRefuses", "smsgw_disk_used_ratio", "0.96x30", "0.94x30", instance="a"),
    *single(
        "CertificateNotTaken",
        'smsgw_tls_reloads_total{result="failed"}',
        "0x20 1+6x10",
        "3x30",
        instance="a",
    ),
    Case("CertificateNotTaken", {'smsgw_tls_reloads_total{result="loaded"}': "1+6x30"}, None),
    *single("CertificateEnds", _ENDS, f"{20 * _DAY}x90", f"{40 * _DAY}x90", **_SHOWN)[1:],
    Case("CertificateEnds", {_ENDS: f"{20 * _DAY}x90"}, _SHOWN, at=80),
    # Renewed in time: the other one's last minutes of patience.
    Case("CertificateEnds", {_ENDS: f"{20 * _DAY}x40 {90 * _DAY}x40"}, None, at=80),
    *single("CertificateEndsNow", _ENDS, f"{6 * _DAY}x30", f"{8 * _DAY}x30", **_SHOWN),
    Case("CertificateEndsNow", {_ENDS: "60x30"}, _SHOWN),  # it has ended
    *single("ListsStale", "smsgw_suppressions_age_seconds", "100x30", "2x30"),
    *single("ListsStale", "smsgw_portability_age_seconds", "100x30", "2x30"),
    # -- processes
    Case("NodeAway", {'up{job="smsgw",instance="b"}': "0x30"}, {"instance": "b"}),
    Case("NodeAway", {'up{job="smsgw",instance="b"}': "1x30"}, None),
    *single(
        "WorkerNotReady",
        'smsgw_worker_ready{process="worker-0"}',
        "0x30",
        "1x29 0x1",
        instance="a",
        process="worker-0",
    ),
    *grown(
        "ProcessRestarts",
        'smsgw_process_restarts_total{process="worker-0"}',
        instance="a",
        process="worker-0",
    ),
    *single(
        "WorkerHung",
        'smsgw_watchdog_kills_total{process="worker-0"}',
        "0x25 1x5",
        "1x30",
        instance="a",
        process="worker-0",
    ),
    *single("ProcessDied", "smsgw_takeovers_total", "0x25 1x5", "1x30"),
    *single("HandoverWaits", "smsgw_handover_oldest_age_seconds", "40x30", "5x30"),
    *single("CommandsWait", "smsgw_command_oldest_age_seconds", "90x30", "5x30"),
    *single("LoopLag", "smsgw_loop_lag_seconds", "0.3x30", "0.1x30", instance="a"),
    Case(
        "ConfigBehind",
        {"smsgw_config_version": "7x30", 'smsgw_config_version{instance="b"}': "6x30"},
        {},
    ),
    Case(
        "ConfigBehind",
        {"smsgw_config_version": "7x30", 'smsgw_config_version{instance="b"}': "7x30"},
        None,
    ),
    *grown(
        "ErrorsLogged",
        'smsgw_log_lines_total{level="error",logger="gateway.flow"}',
        logger="gateway.flow",
    ),
    Case(
        "ErrorsLogged",
        {'smsgw_log_lines_total{level="warning",logger="gateway.flow"}': "0+9x30"},
        None,
    ),
]
