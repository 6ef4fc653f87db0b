"""`smsgw doctor`: is this machine fit, and what is to be done where it is not.

    smsgw check ─▶ ok / fail ┐
    measured here ─▶ judged ─┴▶ one line each: verdict, what was seen, what to do

Everything of `smsgw check`, and what becomes wrong by itself: clocks that part, certificates that
end, disks that fill, partitions that nobody made. It changes nothing. What judges takes what was
measured as arguments; what measures stands below.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

import psutil

from gateway import check
from gateway.certificate_dates import Dates, dates_of, files_of, of_channels, of_files
from gateway.descriptors import connection_limit
from gateway.server_tls import HTTP
from gateway.settings import Settings
from gateway.terminal import Terminal
from sms.config import Channel
from sms.errors import GatewayError
from store import schema, vitals
from store.config import ConfigStore
from store.database import Pool
from store.roles import RUNTIME_ROLE
from store.seal import Keyring
from store.vitals import Vitals

CLOCK_WARN_S: Final = 0.25
CLOCK_FAIL_S: Final = 1.0  # a lease whose clocks part further is given up (decision 0010)
FILES_WARN, FILES_FAIL = 8192, 1024
DISK_WARN: Final = 0.85  # used; the alert DiskFilling
INODES_WARN: Final = 0.90
MEMORY_WARN, MEMORY_FAIL = 0.15, 0.05  # available
CERT_WARN_DAYS, CERT_FAIL_DAYS = 30, 7  # the alerts CertificateEnds and CertificateEndsNow
TRANSACTION_WARN_S: Final = 300.0
RETENTION_WARN_H: Final = 48.0
CONNECTIONS_WARN: Final = 0.8  # of max_connections
_NETWORK: Final = ("nfs", "cifs", "smb", "9p", "ceph", "glusterfs", "fuse.sshfs")
_GB: Final = 1e9


class Verdict(StrEnum):
    """What is to be done: nothing, something soon, something now."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` where it is not well."""

    name: str
    verdict: Verdict
    text: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system; bytes and inodes, 0 inodes where it counts none."""

    path: str
    size: int
    free: int
    inodes: int
    inodes_free: int
    kind: str  # as "ext4"


def run(settings: Settings, terminal: Terminal) -> int:
    """Look at everything; 0 = nothing is to be done now, 1 = something fails."""
    counts = dict.fromkeys(Verdict, 0)
    for found in findings(settings):
        counts[found.verdict] += 1
        does = f"; {found.remedy}" if found.remedy else ""
        terminal.say(
            f"{found.verdict:<4}  {found.name:<12} {found.text}{does}",
            "doctor",
            name=found.name,
            verdict=found.verdict,
            text=found.text,
            remedy=found.remedy,
        )
    terminal.say(
        f"{counts[Verdict.FAIL]} to be done now, {counts[Verdict.WARN]} soon",
        "diagnosed",
        **{str(verdict): count for verdict, count in counts.items()},
    )
    return 1 if counts[Verdict.FAIL] else 0


def findings(settings: Settings) -> Iterator[Finding]:
    """What `smsgw check` sees, then what is measured here."""
    for name, is_ok, text in check.results(settings):
        yield Finding(name, Verdict.OK if is_ok else Verdict.FAIL, text)  # the text says what to do
    looks: dict[str, Callable[[Settings], Iterator[Finding]]] = {
        "machine": _machine,
        "certificates": _certificates,
        "key copy": _key_copy,
        "servers": _servers,
    }
    for name, look in looks.items():
        try:
            yield from look(settings)
        except (GatewayError, OSError, ValueError) as error:
            why = str(error) if isinstance(error, GatewayError) else type(error).__name__
            yield Finding(name, Verdict.WARN, f"could not be looked at: {why}")


# ---- judging ----


def judge_clock(ahead_s: float, round_trip_s: float) -> Finding:
    """The database's clock against ours."""
    surely = max(0.0, abs(ahead_s) - round_trip_s / 2)
    text = f"PostgreSQL's is {abs(ahead_s):.3f} s {'ahead' if ahead_s > 0 else 'behind'}"
    remedy = "let the same NTP servers set both machines (chronyc tracking, timedatectl)"
    return _judged(
        "clock", text, remedy, is_bad=surely > CLOCK_FAIL_S, is_poor=surely > CLOCK_WARN_S
    )


def judge_files(most: int) -> Finding:
    """How many descriptors a process may have."""
    text = f"{most:,} a process: {connection_limit(most):,} connections of callers"
    remedy = "raise it: LimitNOFILE=65536 in systemd, --ulimit nofile=65536 of a container"
    return _judged("files", text, remedy, is_bad=most < FILES_FAIL, is_poor=most < FILES_WARN)


def judge_disk(name: str, disk: Disk, *, stop_share: float) -> Finding:
    """Whether there is room; at `stop_share` used the node refuses messages."""
    used = 1 - disk.free / max(1, disk.size)
    inodes = 1 - disk.inodes_free / disk.inodes if disk.inodes else 0.0
    text = f"{disk.path}: {used:.0%} used, {disk.free / _GB:.1f} GB free"
    if inodes > INODES_WARN:
        text += f", {inodes:.0%} of its inodes used"
    remedy = f"make room: at {stop_share:.0%} it refuses messages (docs/runbook/DiskFilling.md)"
    is_poor = used >= DISK_WARN or inodes > INODES_WARN
    return _judged(name, text, remedy, is_bad=used >= stop_share, is_poor=is_poor)


def judge_journal(disk: Disk, *, is_writable: bool) -> Finding:
    """Whether the attempt journal's directory holds what is asked of it: quick writes and locks."""
    if not is_writable:
        remedy = "give it to the account that runs `smsgw up`, mode 0700"
        return Finding("journal", Verdict.FAIL, f"{disk.path} is not ours to write", remedy)
    text = f"{disk.path}, on {disk.kind or 'a file system of unknown kind'}"
    remedy = "put SMSGW_DATA_DIR on a local disk: locks and writes over a network stand still"
    return _judged("journal", text, remedy, is_poor=disk.kind.startswith(_NETWORK))


def judge_memory(available: int, total: int) -> Finding:
    """What is left of the machine's memory, or of the container's."""
    share = available / max(1, total)
    text = f"{available / _GB:.1f} of {total / _GB:.1f} GB available"
    remedy = "fewer workers (SMSGW_WORKERS), or more memory"
    return _judged("memory", text, remedy, is_bad=share < MEMORY_FAIL, is_poor=share < MEMORY_WARN)


def judge_certificate(label: str, dates: Dates, now: datetime) -> Finding:
    """Whether a certificate that we show or trust is good, and for how long."""
    days = (dates.ends - now) / timedelta(days=1)
    name, remedy = f"certificate {label}", f"renew it ({_renewed_in(label)})"
    if dates.begins > now:
        text = f"is good from {dates.begins:%Y-%m-%d %H:%M} UTC only"
        return Finding(name, Verdict.FAIL, text, f"{remedy}, or set the clock right")
    text = f"ends {dates.ends:%Y-%m-%d %H:%M} UTC, " + (
        f"in {days:.0f} days" if days >= 0 else f"{-days:.0f} days ago"
    )
    is_poor = days < CERT_WARN_DAYS
    return _judged(name, text, remedy, is_bad=days < CERT_FAIL_DAYS, is_poor=is_poor)


def _renewed_in(label: str) -> str:
    """Where the certificate of a label is named."""
    place, _, rest = label.partition(":")
    if place == "channel":
        return f"the file of channel {rest.rpartition(':')[0]}, then `smsgw apply`"
    return {"database": "SMSGW_DATABASE_URL", "valkey": "SMSGW_REDIS_URL"}.get(
        place, "SMSGW_TLS_CERT_FILE"
    )


def judge_servers(seen: Vitals) -> Finding:
    """Version and settings of PostgreSQL: whether what it confirms is kept."""
    values = seen.settings
    text = f"{seen.version}, " + ", ".join(
        f"{name}={values[name]}"
        for name in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")
    )
    off = [name for name, value in values.items() if value == "off"]
    remedy = f"set {'; '.join(f'{name}=on' for name in off)} in postgresql.conf"
    is_bad = bool({"fsync", "synchronous_commit"} & set(off))
    return _judged("postgresql", text, remedy, is_bad=is_bad, is_poor=bool(off))


def judge_connections(seen: Vitals) -> Finding:
    """Whether there is room for more processes."""
    most = int(seen.settings["max_connections"])
    text = f"{seen.connections} of PostgreSQL's {most}"
    remedy = "raise max_connections, or find who keeps them (pg_stat_activity)"
    is_bad = seen.connections >= most - 3  # of the superuser
    is_poor = seen.connections > most * CONNECTIONS_WARN
    return _judged("connections", text, remedy, is_bad=is_bad, is_poor=is_poor)


def judge_transactions(*views: Vitals) -> Finding:
    """Whether somebody keeps vacuum from cleaning, as far as one of the roles sees it."""
    oldest_s = max(seen.oldest_transaction_s for seen in views)
    hidden = len(frozenset.intersection(*(seen.hidden for seen in views)))
    text = f"the oldest that is open has been so for {oldest_s:.0f} s"
    remedy = "find it in pg_stat_activity (xact_start) and end it: vacuum cannot clean behind it"
    if hidden:
        text += f"; {hidden} connections of other roles cannot be seen"
    if hidden and oldest_s <= TRANSACTION_WARN_S:
        remedy = f"as a superuser, to see them too: GRANT pg_read_all_stats TO {views[-1].role}"
    is_poor = oldest_s > TRANSACTION_WARN_S or hidden > 0
    return _judged("transactions", text, remedy, is_poor=is_poor)


def judge_migrations(ran: set[str], ours: set[str]) -> Finding:
    """Whether the schema is this code's."""
    pending, newer = sorted(ours - ran), sorted(ran - ours)
    if newer:
        text = f"{newer[-1]} ran, which this code does not know: newer code works on this database"
        return Finding("migrations", Verdict.WARN, text, "install the same version everywhere")
    text = f"{len(ours) - len(pending)} of {len(ours)} have run"
    return _judged("migrations", text, "run `smsgw migrate`", is_poor=bool(pending))


def judge_partitions(seen: Vitals, now: datetime) -> Finding:
    """Whether today's and tomorrow's rows have a place; a living gateway makes them hourly."""
    wanted = {f"{now + timedelta(days=ahead):%Y%m%d}" for ahead in (0, 1)}
    lacking = sorted(f"{table}_{day}" for table, days in seen.days.items() for day in wanted - days)
    if not seen.days:
        return Finding("partitions", Verdict.OK, "none before the migrations")
    if not lacking:
        last = min(max(days, default="") for days in seen.days.values())
        return Finding("partitions", Verdict.OK, f"made up to {last[:4]}-{last[4:6]}-{last[6:]}")
    text = f"{', '.join(lacking)} lacking"
    if not seen.processes:
        return Finding("partitions", Verdict.OK, f"{text}: `smsgw up` makes them at its start")
    remedy = "look into the workers' log for `partitions`: without them nothing can be accepted"
    return Finding("partitions", Verdict.FAIL, text, remedy)


def judge_retention(seen: Vitals, now_s: float) -> Finding:
    """Whether what was kept long enough has ended; the alert RetentionStands."""
    if not seen.ended:
        return Finding("retention", Verdict.OK, "none before the migrations")
    oldest = min(seen.ended, key=lambda one: one.done_at)
    hours = max(0.0, now_s - oldest.done_at) / 3600
    held = next((one for one in seen.ended if one.held), None)
    text = f"last round {hours:.0f} h ago"
    if held is not None:
        text += f"; {held.what} held back: {held.held}"
    remedy = "`smsgw upkeep` as the owner of the tables, and read what it says (docs/retention.md)"
    is_poor = held is not None or hours > RETENTION_WARN_H
    return _judged("retention", text, remedy, is_poor=is_poor and seen.processes > 0)


def judge_grant(seen: Vitals, *, is_embedded: bool) -> Finding:
    """What keeps the audit log append-only: PostgreSQL's grants, or a trigger alone."""
    if not seen.ended:
        return Finding("audit grant", Verdict.OK, "none before the migrations")
    if is_embedded:
        text = f"the workers run as {RUNTIME_ROLE}: append-only by grant"
        return Finding("audit grant", Verdict.OK, text)
    if seen.excess is None:
        return Finding("audit grant", Verdict.OK, f"{seen.role}: append-only by grant")
    text = f"append-only by a trigger alone: {seen.role} {seen.excess}"
    remedy = (
        f"CREATE ROLE {RUNTIME_ROLE} LOGIN PASSWORD '…'; name it in SMSGW_DATABASE_URL and "
        f"{seen.role} in SMSGW_MIGRATE_DATABASE_URL; `smsgw migrate` grants (docs/retention.md)"
    )
    return Finding("audit grant", Verdict.WARN, text, remedy)


def _judged(
    name: str, text: str, remedy: str, *, is_bad: bool = False, is_poor: bool = False
) -> Finding:
    if not (is_bad or is_poor):
        return Finding(name, Verdict.OK, text)
    return Finding(name, Verdict.FAIL if is_bad else Verdict.WARN, text, remedy)


# ---- measuring ----


def _machine(settings: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # the soft one is raised by `up`
    yield judge_files(1_000_000 if hard == resource.RLIM_INFINITY else max(soft, hard))
    yield judge_memory(*_memory())
    stop = settings.reliability.shed_storage_share
    data = _nearest(settings.data_dir)
    yield judge_disk("disk", _disk(data), stop_share=stop)
    journal = _nearest(settings.data_dir / "journal")
    if journal.stat().st_dev != data.stat().st_dev:
        yield judge_disk("journal disk", _disk(journal), stop_share=stop)
    yield judge_journal(_disk(journal), is_writable=os.access(journal, os.W_OK | os.X_OK))


def _nearest(path: Path) -> Path:
    """The path, or what of it is there."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def _disk(path: Path) -> Disk:
    usage, counts = shutil.disk_usage(path), os.statvfs(path)
    mounts = [
        one for one in psutil.disk_partitions(all=True) if path.is_relative_to(one.mountpoint)
    ]
    kind = max(mounts, key=lambda one: len(one.mountpoint)).fstype if mounts else ""
    return Disk(str(path), usage.total, usage.free, counts.f_files, counts.f_favail, kind)


def _memory(cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Bytes available and in all: of our control group where it is narrower than the machine."""
    machine = psutil.virtual_memory()
    try:
        most = int((cgroup / "memory.max").read_text("ascii"))
        used = int((cgroup / "memory.current").read_text("ascii"))
        told = dict(
            line.split() for line in (cgroup / "memory.stat").read_text("ascii").splitlines()
        )
        used -= int(told.get("inactive_file", 0))  # given back when it is wanted
    except (OSError, ValueError):  # no limit ("max"), or no such group
        return machine.available, machine.total
    return min(machine.available, max(0, most - used)), min(machine.total, most)


def _certificates(settings: Settings) -> Iterator[Finding]:
    found: dict[str, Dates] = {}
    if settings.tls_cert_file is not None:  # `tls` of the check says whether there may be none
        found[HTTP] = dates_of(settings.tls_cert_file.read_bytes())
    found |= of_files(files_of(settings))
    channels = check.in_store(settings, _channels)
    found |= of_channels(channels or ())
    now = datetime.now(UTC)
    for label, dates in found.items():
        yield judge_certificate(label, dates, now)


async def _channels(pool: Pool, keyring: Keyring) -> list[Channel]:
    return list((await ConfigStore(pool, keyring).load()).channels.values())


def _key_copy(settings: Settings) -> Iterator[Finding]:
    path = settings.master_key_file
    if not path.exists():
        return  # told by the check
    mark = hashlib.sha256(path.read_bytes()).hexdigest()[:16]  # of 32 random bytes it tells nothing
    text = f"compare yours: sha256sum COPY | cut -c1-16 must say {mark}"
    yield Finding("key copy", Verdict.OK, text)


def _servers(settings: Settings) -> Iterator[Finding]:
    address = check.database_address(settings)
    if address is None:
        yield Finding("servers", Verdict.OK, "embedded, and not running: nothing to measure")
        return
    seen = asyncio.run(vitals.look(address))
    yield judge_clock(seen.ahead_s, seen.round_trip_s)
    yield judge_servers(seen)
    yield judge_connections(seen)
    owner = settings.migrate_database_url
    yield judge_transactions(seen, *([asyncio.run(vitals.look(owner))] if owner else []))
    ran = set(seen.migrations)
    ours = {one.name for one in schema.files() if not one.is_contracting or one.name in ran}
    yield judge_migrations(ran, ours)
    yield judge_partitions(seen, datetime.fromtimestamp(time.time(), UTC))
    yield judge_retention(seen, time.time())
    yield judge_grant(seen, is_embedded=settings.database_url is None)
