"""Every setting of the gateway, read from the environment once, checked, frozen.

This file alone reads `SMSGW_…`; rooms get the values they need from wiring. Secrets come as
files and never stand here. A wrong value is a `ConfigError` that names the variable and says
what to do; a variable that looks like a mistyped one is refused too, because
`SMSGW_DATABSE_URL` would silently start an embedded server.
"""

from __future__ import annotations

import difflib
import math
import os
import secrets
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from sms.errors import ConfigError
from sms.model import UncertainPolicy
from store.durable import write_once
from telemetry import failpoints

PREFIX = "SMSGW_"
RELIABILITY_PREFIX = "SMSGW_RELIABILITY__"

Seconds = Annotated[float, Field(gt=0, le=10_000_000, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Hour = Annotated[float, Field(ge=0, le=24)]
Count = Annotated[int, Field(ge=1, le=100_000_000)]


MAX_WORKERS = 64
_SHARE_OF_CORES = 0.75  # the rest is PostgreSQL's (DESIGN decision 7)


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores this process may use: its affinity and, in a container, the quota of its cgroup."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # not Linux
        cores = float(os.cpu_count() or 1)
    try:  # version 2; its root has no such file, so outside of a container there is no quota
        quota, period = (cgroup / "cpu.max").read_text("utf-8").split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text("utf-8").strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text("utf-8").strip()
        except (OSError, ValueError):
            return cores
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        return min(cores, int(quota) / int(period))
    return cores


def default_workers(cores: float | None = None) -> int:
    """Workers for so many cores: three quarters, at least one; on two cores one."""
    cores = usable_cores() if cores is None else cores
    return min(MAX_WORKERS, max(1, math.floor(cores * _SHARE_OF_CORES)))


class Reliability(BaseModel):
    """The numbers of RELIABILITY.md; each is settable as `SMSGW_RELIABILITY__NAME`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease_s: Seconds = 15  # a process owns its messages this long after a renewal
    lease_renew_s: Seconds = 5  # renewed this often: two renewals may fail
    takeover_grace_s: Seconds = 2  # so long after its lease a process is taken over by another
    submit_timeout_otp_s: Seconds = 10  # no answer for so long: uncertain
    submit_timeout_s: Seconds = 60  # the same for the other classes
    uncertain_wait_otp_s: Seconds = 8  # evidence is awaited so long before the second copy
    uncertain_wait_transactional_s: Seconds = 120  # the same for transactional
    # What follows a lost answer, where neither message, template nor tenant says (RELIABILITY 5).
    on_uncertain_otp: UncertainPolicy = UncertainPolicy.RESEND
    on_uncertain_transactional: UncertainPolicy = UncertainPolicy.PROBE_THEN_RESEND  # the same
    on_uncertain_marketing: UncertainPolicy = UncertainPolicy.HOLD  # the same
    orphan_window_s: Seconds = 120  # a receipt with an unknown id is of an attempt so long before
    uncertain_slot_s: Seconds = 120  # the window slot of an uncertain submit stays taken
    receipt_deadline_s: Seconds = 259_200  # 72 h without a receipt: unknown
    overdue_after_s: Seconds = 3600  # without a receipt so long after accept: its vendor is asked …
    reconcile_per_s: Count = 5  # … at most so many questions a second to one channel
    otp_min_validity_s: Seconds = 60  # an otp with less left gets no second copy
    flush_rows: Count = 2000  # rows of one COPY at most
    submitted_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 5  # `submitted` rows may wait
    lane_otp: Count = 20_000  # messages of the class in memory, per process
    lane_transactional: Count = 60_000  # the same
    lane_marketing: Count = 60_000  # the same
    spill_ids: Count = 5_000_000  # messages kept beyond it as ids, 12 bytes each; more: 503
    parked_after_s: Seconds = 600  # what stood in a lane so long moves to `parked`
    conservation_s: Seconds = 10  # every owner says what it holds so often; a reading after it
    max_attempts: Annotated[int, Field(ge=1, le=16)] = 4  # one per channel, the copy included
    retry_share: Share = 0.1  # extra attempts, of the first ones …
    retry_window_s: Seconds = 60  # … of so long, of a tenant and in total; beyond it they wait
    retry_least: Count = 10  # so many in any case
    drain_before_s: Annotated[float, Field(ge=0, le=600)] = 5  # not ready, still accepting
    drain_answers_s: Seconds = 20  # waiting for carriers' answers
    drain_requests_s: Seconds = 5  # requests under way get their answer
    drain_idle_s: Annotated[float, Field(ge=0, le=600)] = 2  # then idle connections are closed
    drain_total_s: Seconds = 30  # SIGTERM to exit
    # how often the files of our certificate are looked at
    tls_reload_s: Annotated[float, Field(gt=0, le=60)] = 10
    watchdog_s: Seconds = 15  # a worker that says nothing for so long is killed and replaced
    restart_ready_s: Seconds = 60  # a restarted worker is ready by then, or the restart stops
    channel_drain_s: Seconds = 60  # a draining channel logs out with nothing open for so long
    enquire_link_s: Seconds = 15  # link test of an idle session
    probe_s: Seconds = 10  # probe of an idle vendor over HTTP: a connection, no request
    response_timeout_s: Seconds = 10  # answer to bind and enquire_link
    reconnect_min_s: Seconds = 1  # backoff of a session, first step
    reconnect_max_s: Seconds = 60  # and its cap, where the carrier refuses our login …
    reconnect_link_max_s: Seconds = 5  # … and where nobody answers
    config_poll_s: Seconds = 1  # configuration version asked so often (in force <= 5 s)
    statement_timeout_s: Seconds = 2  # one database statement
    webhook_connect_s: Seconds = 3  # connecting to an endpoint, TLS included
    webhook_total_s: Seconds = 15  # a whole request to an endpoint, its answer included
    webhook_in_flight: Count = 32  # requests per endpoint
    webhook_warn_s: Seconds = 86_400  # an endpoint to which all has failed for so long: warned of
    webhook_disable_s: Seconds = 432_000  # … and disabled
    webhook_changes_per_min: Count = 30  # changes of endpoints by a tenant's own keys, a process
    webhook_linger_ms: Annotated[float, Field(ge=0, le=10_000)] = 50  # batch gathers so long
    restart_max_s: Seconds = 10  # a child that keeps ending is started again after so long
    partitions_ahead_days: Annotated[int, Field(ge=1, le=40)] = 2  # made before they are needed
    # How long what is kept (RELIABILITY 12); below the least of the law nothing starts.
    retention_messages_days: Annotated[int, Field(ge=191, le=3650)] = (
        225  # from accept, receipts too
    )
    retention_optouts_days: Annotated[int, Field(ge=153, le=3650)] = 184  # after the opt-out's end
    retention_audit_days: Annotated[int, Field(ge=184, le=3650)] = 184  # the audit log
    retention_attempts_days: Annotated[int, Field(ge=7, le=400)] = 30  # what webhooks were tried
    match_cache: Count = 200_000  # carrier ids in memory
    marketing_opens_h: Hour = 9  # marketing goes to +86 from this hour of Asia/Shanghai …
    marketing_closes_h: Hour = 21  # … to this one; outside it waits. The law's: do not widen it
    inbound_join_s: Seconds = 600  # a long text from a phone waits so long for its segments
    inbound_repeat_s: Seconds = 3600  # the same text without an id, maybe unanswered, is a repeat
    suppress_bad_numbers: bool = True  # what a carrier refuses for good gets no more texts but otp
    suppressions_poll_s: Seconds = 1  # changes of the suppression list (in force <= 5 s)
    portability_poll_s: Seconds = 1  # changes of ported numbers (in force <= 5 s)
    shed_write_age_s: Seconds = 1  # a database write older than this: 503
    shed_loop_lag_s: Seconds = 0.2  # event loop later than this: 503
    shed_storage_share: Share = 0.95  # disk fuller than this: 503
    shed_queue_s: Seconds = 600  # queue longer than this at the channel's rate: 503
    # The same while no channel of a route takes messages: it is held, and intake closes by class.
    shed_held_marketing_s: Seconds = 60
    shed_held_transactional_s: Seconds = 300  # the same
    shed_held_otp_s: Seconds = 600  # the same
    valkey_timeout_s: Seconds = 0.05  # of a question about limits; then each process by itself
    # When a channel is left and come back to (RELIABILITY 7); `failover.health.HealthPolicy`.
    health_link_errors: Count = 5  # connects, logins or links lost, in a row
    health_link_test_s: Seconds = 5  # a link test or probe answered later is a link error as well
    health_config_errors: Count = 3  # answers that refuse the account, none taken in between
    health_no_answer_s: Seconds = 10  # nothing heard for so long …
    health_no_answer_waiting: Count = 8  # … while so many submits wait
    health_failure_share: Share = 0.5  # failed of the answers …
    health_failure_s: Seconds = 10  # … of so many seconds …
    health_failure_least: Count = 20  # … of which there are so many
    health_failure_long_share: Share = 0.2  # the same over a longer time
    health_failure_long_s: Seconds = 60  # … of so many seconds …
    health_failure_long_least: Count = 100  # … of which there are so many
    health_slow_answer_s: Seconds = 10  # p95 of the answers above this …
    health_slow_s: Seconds = 30  # … for so long …
    health_slow_least: Count = 3  # … and, of answers fewer than `health_failure_least`, so many
    health_head_age_s: Seconds = 300  # the oldest message waits so long for a slot, unthrottled
    health_receipts_from_s: Seconds = 300  # of the submits made so long ago …
    health_receipts_until_s: Seconds = 360  # … up to so long …
    health_receipts_least: Count = 100  # … if they are so many …
    health_receipts_part: Share = 0.5  # … less than this part of what is usual has its receipt
    health_receipts_baseline_s: Seconds = 86_400  # what is usual, over so long
    health_alarm_failure_share: Share = 0.05  # above it, of `health_failure_long_s`: an alarm
    health_alarm_failure_least: Count = 200  # … if there are so many
    health_alarm_delivery_share: Share = 0.95  # delivered of the receipts, below it: an alarm
    health_alarm_delivery_s: Seconds = 300  # … of so many seconds …
    health_alarm_delivery_least: Count = 200  # … if there are so many
    health_open_s: Seconds = 30  # nothing goes over it for so long, doubled each time in a row …
    health_open_cap_s: Seconds = 600  # … up to this
    health_jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.2  # either way
    health_probes: Count = 10  # then so many ordinary messages try it …
    health_probes_good: Count = 9  # … of which so many must be answered well
    health_half_open_s: Seconds = 60  # fewer came in so long: those that came decide
    health_ramp: tuple[Share, ...] = (0.01, 0.1, 0.5, 1.0)  # then these shares of the messages …
    health_ramp_step_s: Seconds = 60  # … for so long each
    channel_start_step_s: Seconds = 1  # a crowd waits for a link: 1/16 of the window, 1/8 …
    health_switches: Annotated[int, Field(ge=2, le=1000)] = 4  # at most, away and back, …
    health_switches_s: Seconds = 600  # … in so long; beyond it stays on the backup
    # When a canary goes on and when it goes back (RELIABILITY 8); `failover.canary.CanaryPolicy`.
    canary_check_s: Seconds = 30  # from gate to gate
    canary_flush_s: Seconds = 5  # counts are brought to the store so often
    canary_step_s: Seconds = 600  # a step lasts so long at least …
    canary_step_finals: Count = 500  # … and has so many segments with a final receipt
    canary_least: Count = 100  # nothing is called bad by fewer segments
    canary_bad_checks: Count = 2  # so many in a row take it back
    canary_delivery_lower: Share = 0.02  # the delivered share may be so much lower, absolute
    canary_failure_share: Share = 0.05  # of the submits
    canary_answer_factor: Annotated[float, Field(ge=1, le=100)] = 1.5  # p95 against the primary's
    canary_answer_floor_s: Seconds = 0.1  # below it a p95 makes no difference
    canary_complaint_share: Share = 0.001  # opt-outs, of what was taken

    @field_validator("health_ramp", mode="before")
    @classmethod
    def _split_shares(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.lease_renew_s * 2 > self.lease_s:
            raise ValueError("lease_renew_s must be at most half of lease_s")
        if self.drain_before_s + self.drain_answers_s > self.drain_total_s:
            raise ValueError("drain_before_s + drain_answers_s must fit into drain_total_s")
        held = self.shed_held_marketing_s, self.shed_held_transactional_s, self.shed_held_otp_s
        if list(held) != sorted(held):
            raise ValueError("shed_held_… must not fall from marketing over transactional to otp")
        if self.marketing_opens_h >= self.marketing_closes_h:
            raise ValueError("marketing_opens_h must be below marketing_closes_h")
        if self.reconnect_min_s > self.reconnect_max_s:
            raise ValueError("reconnect_min_s must not be above reconnect_max_s")
        if self.health_receipts_from_s >= self.health_receipts_until_s:
            raise ValueError("health_receipts_from_s must be below health_receipts_until_s")
        if self.health_probes_good > self.health_probes:
            raise ValueError("health_probes_good must not be above health_probes")
        if not self.health_ramp or self.health_ramp[-1] != 1.0:
            raise ValueError("health_ramp must end with 1, as 0.01,0.1,0.5,1")
        return self


Port = Annotated[int, Field(ge=0, le=65_535)]


_TLS_1_2 = 771  # as the address has it: the protocol's own number


def _check_redis_tls(url: str) -> None:
    """What the query of a Valkey address says of TLS; ValueError with a remedy."""
    query = {name: text for name, text in parse_qsl(urlsplit(url).query) if name.startswith("ssl_")}
    if query and urlsplit(url).scheme != "rediss":
        raise ValueError("names certificates and no TLS: write rediss:// in place of redis://")
    is_checked = query.get("ssl_check_hostname", "true").lower() in ("true", "1", "yes")
    if query.get("ssl_cert_reqs", "required") != "required" or not is_checked:
        raise ValueError("must leave ssl_cert_reqs and ssl_check_hostname out: give ssl_ca_certs")
    oldest = query.get("ssl_min_version", str(_TLS_1_2))
    if not oldest.isdecimal() or int(oldest) < _TLS_1_2:
        raise ValueError("ssl_min_version must be 771 (TLS 1.2) or 772 (1.3)")


class Settings(BaseModel):
    """One frozen object; `Settings.load()` makes it. Paths are absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Path(".smsgw")  # everything this node keeps, 0700
    host: str = "127.0.0.1"  # address both ports listen on; loopback until told otherwise
    port: Port = 8080  # the public door; 0 = any free one
    admin_port: Port = 8081  # health and metrics of the node; 0 = any free one
    # where carriers' SMGs connect (SGIP); None = nowhere, 0 = any free one
    smg_port: Annotated[int | None, Field(ge=0, le=65_535)] = None
    smg_host: str | None = None  # its address; None = `host`
    smg_tls: bool = False  # the certificate of tls_cert_file there too; SMGs come within TLS only
    database_url: str | None = None  # None = embedded PostgreSQL in data_dir
    # The owner of the schema: migrations, upkeep. None = the role of database_url is it
    migrate_database_url: str | None = None
    redis_url: str | None = None  # None = embedded Valkey in data_dir
    node: str | None = None  # None = a random name kept in data_dir (see `node_name`)
    master_key_file: Path = Path("master.key")  # default: master.key in data_dir
    tls_cert_file: Path | None = None  # PEM, the chain after it: HTTPS directly
    tls_key_file: Path | None = None  # its private key
    # PEM: whose clients' certificates the public port takes (mTLS); None = asks for none
    tls_client_ca_file: Path | None = None
    admin_tls: bool = False  # the same certificate at the admin port: https for probes and scrapes
    public_metrics: bool = True  # /metrics on the public port too
    webhook_allow: tuple[str, ...] = ()  # origins exempt from the HTTPS, port, address rules
    trusted_proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For is believed
    url: str | None = None  # client commands: the gateway's address
    api_key_file: Path | None = None  # client commands: file with the bearer key
    # worker processes of this node, also `smsgw up --workers N`
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = Field(default_factory=default_workers)
    role: Literal["all", "api", "carrier"] = "all"  # carrier: no public port; api: no sessions
    is_sandbox: bool = False  # simulated carriers, as `smsgw up --sandbox`
    worker_slot: Annotated[int, Field(ge=0, le=63)] = 0  # set by the supervisor
    listen_fds: tuple[int, ...] = ()  # sockets inherited from the supervisor
    smg_fds: tuple[int, ...] = ()  # as well, of `smg_port`
    run_dir: Path | None = None  # sockets of this node; set by the supervisor for its workers
    sandbox_ports: tuple[int, ...] = ()  # the sandbox's own ports: no webhook may go there
    log_level: Literal["debug", "info", "warning", "error"] = "info"  # least that is logged
    # how long the access log is kept; law and contract ask for 184 at least
    access_log_days: Annotated[int, Field(ge=1, le=3660)] = 184
    access_log_mb: Annotated[int, Field(ge=100)] = 20_000  # of all its files; the oldest goes first
    access_log_sends: bool = False  # sends stand in it, too: they then take the slower way in
    core_dumps: bool = False  # let a crashed process leave one: it holds texts, numbers and keys
    failpoint: str | None = None  # test runs: where a worker ends (telemetry.failpoints)
    allow_failpoints: bool = False  # also without --sandbox
    reliability: Reliability = Reliability()

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None, **overrides: object) -> Self:
        """Read `env` (default `os.environ`); `overrides` (from the command line) win.

        An empty variable counts as not set. Raises ConfigError naming the variable and the
        remedy.
        """
        env = os.environ if env is None else env
        _refuse_mistyped(env)
        values: dict[str, object] = {}
        for name in cls.model_fields:
            text = env.get(variable(name), "")
            if text.strip() and name != "reliability":
                values[name] = text.strip()
        numbers = {
            name: env[key].strip()
            for name in Reliability.model_fields
            if env.get(key := RELIABILITY_PREFIX + name.upper(), "").strip()
        }
        values.update(overrides)
        try:
            if "reliability" not in overrides:
                values["reliability"] = Reliability.model_validate(numbers)
        except ValidationError as error:
            raise ConfigError(_explain(error, RELIABILITY_PREFIX)) from None
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(error, PREFIX)) from None

    @field_validator("webhook_allow", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part for part in value.replace(",", " ").split() if part)
        return value

    @field_validator("listen_fds", "smg_fds", "sandbox_ports", mode="before")
    @classmethod
    def _split_numbers(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("log_level", "role", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url", "migrate_database_url")
    @classmethod
    def _is_postgres(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("postgresql", "postgres"):
            raise ValueError("must start with postgresql://, as postgresql://name:pw@host/db")
        oldest = dict(parse_qsl(urlsplit(value or "").query)).get("ssl_min_protocol_version", "")
        if oldest in ("TLSv1", "TLSv1.1", "SSLv3"):
            raise ValueError("ssl_min_protocol_version must be TLSv1.2 or TLSv1.3")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("must start with redis://, rediss:// or unix://")
        _check_redis_tls(value or "")
        return value

    @field_validator("failpoint")
    @classmethod
    def _is_failpoint(cls, value: str | None) -> str | None:
        if value is not None and value != failpoints.WATCH:
            failpoints.parse(value)
        return value

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname:
            raise ValueError("must be an address such as http://127.0.0.1:8080")
        return value.rstrip("/")

    @field_validator("webhook_allow")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path:
                raise ValueError("must list origins such as http://127.0.0.1:9900")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                found = ip_network(network)
            except ValueError:
                raise ValueError("must list networks such as 10.0.0.0/8") from None
            if not found.prefixlen:
                raise ValueError("must not trust everybody: list the networks of your proxies")
        return value

    @field_validator("node")
    @classmethod
    def _is_node(cls, value: str | None) -> str | None:
        allowed = value is None or (
            len(value) <= 64 and all(c.isascii() and (c.isalnum() or c in "-_.") for c in value)
        )
        if not allowed:
            raise ValueError("must be at most 64 letters, digits, '-', '_' or '.'")
        return value

    @model_validator(mode="after")
    def _finish(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together: set both or none")
        if self.migrate_database_url is not None and self.database_url is None:
            raise ValueError("migrate_database_url needs database_url: set both or none")
        for name in ("admin_tls", "smg_tls"):
            if getattr(self, name) and self.tls_cert_file is None:
                raise ValueError(f"{name} needs a certificate: set tls_cert_file and tls_key_file")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_client_ca_file needs tls_cert_file and tls_key_file beside it")
        if self.smg_tls and self.is_sandbox:
            raise ValueError("smg_tls is not for --sandbox, whose SMG has no TLS: unset one")
        if self.port and self.port == self.admin_port:
            raise ValueError("port and admin_port must differ: set one of them to another number")
        if self.smg_port and self.smg_port in (self.port, self.admin_port):
            raise ValueError("port and admin_port are taken: set smg_port to another number")
        if self.failpoint is not None and not (self.is_sandbox or self.allow_failpoints):
            raise ValueError("failpoint is for test runs: start with --sandbox, or unset it")
        data_dir = self.data_dir.expanduser().absolute()
        is_default = "master_key_file" not in self.model_fields_set
        key_file = data_dir / "master.key" if is_default else self.master_key_file.expanduser()
        # the object is frozen for everybody else; paths become absolute once, here
        object.__setattr__(self, "data_dir", data_dir)
        object.__setattr__(self, "master_key_file", key_file.absolute())
        return self

    @property
    def log_dir(self) -> Path:
        """Logs of every process of this node."""
        return self.data_dir / "log"

    @property
    def failpoint_dir(self) -> Path:
        """What is armed, and what acted already."""
        return self.data_dir / "failpoints"

    @property
    def lock_file(self) -> Path:
        """Held by the supervisor of this data directory; its pid stands in it."""
        return self.data_dir / "supervisor.lock"

    @property
    def carriers_dir(self) -> Path:
        """Records of the simulated carriers."""
        return self.data_dir / "carriers"

    @property
    def sandbox_file(self) -> Path:
        """What scripts read about a sandbox: addresses and keys, 0600."""
        return self.data_dir / "sandbox.json"


def variable(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    return PREFIX + ("SANDBOX" if field == "is_sandbox" else field.upper())


def child_environment(settings: Settings) -> dict[str, str]:
    """Our environment for a child process, with exactly these settings as its `SMSGW_…`.

    Our own packages are found by the child wherever it is started.
    """
    env = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if name != "reliability" and value not in (None, ()):
            env[variable(name)] = _as_text(value)
    for name in Reliability.model_fields:
        value = getattr(settings.reliability, name)
        env[RELIABILITY_PREFIX + name.upper()] = _as_text(value)
    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    env["PYTHONPATH"] = os.pathsep.join([root, *paths])
    return env


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(int(value)) if isinstance(value, bool) else str(value)


def node_name(settings: Settings) -> str:
    """`SMSGW_NODE`, else the random name kept in the data directory (made when missing).

    Two nodes must never share one: process leases are held by node and slot.
    """
    if settings.node:
        return settings.node
    path = settings.data_dir / "node"
    try:
        kept = path.read_text("utf-8").strip()
    except FileNotFoundError:
        kept = ""
    if not kept:
        kept = "node-" + secrets.token_hex(6)
        path.unlink(missing_ok=True)  # an empty one
        write_once(path, f"{kept}\n".encode())  # the processes of this node are found by it
    return kept


def _known() -> list[str]:
    return [variable(name) for name in Settings.model_fields if name != "reliability"] + [
        RELIABILITY_PREFIX + name.upper() for name in Reliability.model_fields
    ]


def _refuse_mistyped(env: Mapping[str, str]) -> None:
    # not every unknown SMSGW_ name is refused: Kubernetes adds its own for a service "smsgw"
    known = _known()
    for name in env:
        if not name.startswith(PREFIX) or name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        if near:
            raise ConfigError(f"{name} is not a setting; did you mean {near[0]}?")
        if name.startswith(RELIABILITY_PREFIX):
            raise ConfigError(f"{name} is not a setting; {_nearest_number(name)}")


def _nearest_number(name: str) -> str:
    # without the prefix, which would make everything look alike
    asked = name.removeprefix(RELIABILITY_PREFIX).lower()
    near = difflib.get_close_matches(asked, Reliability.model_fields, n=1, cutoff=0.6)
    if near:
        return f"did you mean {RELIABILITY_PREFIX}{near[0].upper()}?"
    return "unset it (`class Reliability` in gateway/settings.py has all names)"


def unknown_variables(env: Mapping[str, str] | None = None) -> list[str]:
    """Names that begin as ours and are no setting; they are no mistypings, so they are let be."""
    known = _known()
    return sorted(
        name
        for name in (os.environ if env is None else env)
        if name.startswith(PREFIX) and name not in known
    )


_PLAIN = {  # pydantic's words for the usual mistakes, as a person says them
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be 1 or 0",
}


_OUTSIDE = ("greater_than_equal", "greater_than", "less_than_equal", "finite_number")


def _bounds(field: FieldInfo) -> str:
    """What a number may be, as `give 1 to 64`; empty when it has no bounds."""
    found: dict[str, float] = {}
    for rule in field.metadata:
        for name in ("ge", "gt", "le"):
            if (bound := getattr(rule, name, None)) is not None:
                found[name] = bound
    if "le" not in found:
        return ""
    least = f"{found['ge']:g}" if "ge" in found else f"more than {found.get('gt', 0):g}"
    return f"give {least}{' to ' if 'ge' in found else ' and at most '}{found['le']}"


def _explain(error: ValidationError, prefix: str) -> str:
    """One line for the first wrong value; the value itself is not shown (it may be a secret)."""
    first = error.errors(include_input=False, include_url=False)[0]
    text = first["msg"].removeprefix("Value error, ")
    text = _PLAIN.get(first["type"], text)
    if first["type"] == "literal_error":
        text = f"give {first.get('ctx', {}).get('expected', '')}"
    if not first["loc"]:
        words = text.split()
        fields = Settings.model_fields.keys() | Reliability.model_fields.keys()
        named = [prefix + word.upper() if word in fields else word for word in words]
        return " ".join(named)
    field = str(first["loc"][0])
    model = Settings if prefix == PREFIX else Reliability
    if first["type"] in _OUTSIDE and field in model.model_fields:
        text = _bounds(model.model_fields[field]) or text
    name = variable(field) if prefix == PREFIX else prefix + field.upper()
    return f"{name}: {text[:1].lower()}{text[1:]}; set it right or unset it for the default"
