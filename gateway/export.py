"""`smsgw export TENANT`: a tenant's send log as CSV or JSON lines, into a file or a pipe.

    PostgreSQL ─ a page ─▶ fold, mask ─▶ FILE.part ─ when all of it is there ─▶ FILE

A process of its own that the workers do not know of: one read-only connection, niced, at a rate.
Numbers are masked. Whole ones need a reason, which stands in the audit log before the first of
them is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Final, TextIO

from gateway.apply import operator
from gateway.exportrow import csv_head, csv_rows, json_rows, row_of
from gateway.settings import Settings
from gateway.terminal import Terminal
from gateway.views import rfc3339
from receipts.state import come_due, fold
from sms.errors import ConfigError
from sms.ids import from_text
from sms.model import Message
from store.durable import sync_directory
from store.export import Export, Owner, Page, Span, bounds, record
from store.probe import pending_migrations
from store.seal import Keyring, must_fit, read_master_key

COMMAND: Final = "smsgw export"
PAGE: Final = 500  # messages in memory at once
DEFAULT_DAYS: Final = 90
DEFAULT_RATE: Final = 5000
_NICE: Final = 10
_LEAST_REASON, _MOST_REASON = 5, 200
_CHINA: Final = timezone(timedelta(hours=8))
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_BAR: Final = 30


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be exported and where to; times as given, None leaves them open."""

    tenant: str
    output: Path | None = None  # None: stdout
    since: str | None = None
    until: str | None = None
    days: int = DEFAULT_DAYS  # back from `until`, unless `since` is given
    unmask: str | None = None  # the reason for whole numbers
    rate: int = DEFAULT_RATE  # messages a second at most; 0 = as fast as it goes
    is_json: bool = False


@dataclass(slots=True)
class Sums:
    """What was written."""

    rows: int = 0
    unreadable: int = 0


def run(settings: Settings, order: Order, terminal: Terminal) -> int:
    """Export; 0, or 1 when who reads the pipe went away. `terminal` is not stdout.

    Raises ConfigError for what is given wrong, StoreUnavailable when PostgreSQL is away; FILE is
    then as it was.
    """
    after, before = span_of(order, time.time())
    reason = None if order.unmask is None else reason_of(order.unmask)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    started = time.monotonic()
    try:
        with opened(order.output) as out:
            sums = asyncio.run(_export(settings, order, Copying(out, after, before, terminal)))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing to flush into
        return 1
    seconds = time.monotonic() - started
    where = "" if order.output is None else f" into {order.output}"
    told = f"{sums.rows:,} messages{where} in {seconds:.0f} s"
    if sums.unreadable:
        told += f"; {sums.unreadable:,} left out, the keys of their days are destroyed"
    if reason is not None:
        told += "; with whole numbers, as the audit log says"
    terminal.say(
        told,
        "exported",
        rows=sums.rows,
        unreadable=sums.unreadable,
        seconds=round(seconds, 1),
        unmasked=reason is not None,
        since=rfc3339(after),
        until=rfc3339(before),
    )
    return 0


# ---- what is given ----


def span_of(order: Order, now: float) -> tuple[float, float]:
    """From when (included) to when (excluded), Unix seconds; raises ConfigError."""
    before = now if order.until is None else min(_moment("--until", order.until, is_end=True), now)
    if order.since is None:
        return before - order.days * 86_400, before
    after = _moment("--since", order.since, is_end=False)
    if after >= before:
        raise ConfigError("--since is not before --until (or now): nothing was accepted there")
    return after, before


def _moment(option: str, text: str, *, is_end: bool) -> float:
    """A day of China, whole, or a time with its zone, as Unix seconds."""
    with contextlib.suppress(ValueError, OverflowError):
        if _DAY.fullmatch(text):
            day = date.fromisoformat(text) + timedelta(days=is_end)
            return datetime(day.year, day.month, day.day, tzinfo=_CHINA).timestamp()
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.astimezone(UTC).timestamp()
    raise ConfigError(
        f"{option}: write a day, such as 2026-11-22 (of UTC+8, included), or a time with its "
        "zone, such as 2026-11-22T08:00:00Z"
    )


def reason_of(text: str) -> str:
    """The reason for whole numbers; raises ConfigError when it says nothing."""
    reason = " ".join(text.split())
    if not _LEAST_REASON <= len(reason) <= _MOST_REASON or not reason.isprintable():
        raise ConfigError(
            f"--unmask: say in {_LEAST_REASON} to {_MOST_REASON} characters why whole numbers are "
            "needed; the audit log keeps it"
        )
    return reason


# ---- reading ----


@dataclass(frozen=True, slots=True)
class Copying:
    """Where to, of what time, and whom to tell."""

    out: TextIO
    after: float
    before: float
    terminal: Terminal


async def _export(settings: Settings, order: Order, copying: Copying) -> Sums:
    dsn, keyring = settings.database_url or "", Keyring(read_master_key(settings.master_key_file))
    if await pending_migrations(dsn):
        raise ConfigError("the database waits for migrations: run `smsgw migrate` first")
    await must_fit(dsn, keyring)
    export = await Export.open(dsn, keyring)
    try:
        owner = await _owner(export, order.tenant)
        if order.unmask is not None:
            told = {
                "reason": reason_of(order.unmask),
                "since": rfc3339(copying.after),
                "until": rfc3339(copying.before),
            }
            await record(dsn, keyring, operator(COMMAND), owner, told)
        return await _copy(export, owner, order, copying)
    finally:
        await export.close()


async def _owner(export: Export, given: str) -> Owner:
    owner = await export.tenant(given, from_text("ten", given))
    if owner is None:
        raise ConfigError(f"there is no tenant {given}: name one, or give its id (ten_…)")
    return owner


async def _copy(export: Export, owner: Owner, order: Order, copying: Copying) -> Sums:
    channels = await export.channels()
    span = Span(owner.id, copying.after, copying.before)
    size = min(PAGE, order.rate) if order.rate else PAGE
    write, sums = copying.out.write, Sums()
    if not order.is_json:
        write(csv_head())
    began = time.monotonic()
    async for page in export.pages(span, size):
        rows = [
            row_of(
                message,
                owner.name,
                channels.get(message.channel) if message.channel else None,
                is_unmasked=order.unmask is not None,
            )
            for message in _folded(page, time.time())
        ]
        write(json_rows(rows) if order.is_json else csv_rows(rows))
        sums.rows += len(rows)
        sums.unreadable += page.unreadable
        _tell(copying.terminal, share_of(span, page.through), sums.rows)
        pause = pause_s(sums.rows, order.rate, time.monotonic() - began)
        if pause > 0:
            await asyncio.sleep(pause)
    return sums


def _folded(page: Page, now: float) -> Iterator[Message]:
    for stored in page.messages:
        message = stored.message
        fold(message, stored.rows)
        if message.send_at is not None and message.send_at <= now:
            come_due(message)  # no row tells of it: from its hour on it waits for a channel
        yield message


def pause_s(rows: int, rate: int, elapsed_s: float) -> float:
    """How long to wait so that `rows` since the beginning keep to the rate (0: none)."""
    return max(0.0, rows / rate - elapsed_s) if rate else 0.0


def share_of(span: Span, through: int) -> float:
    """How much of the time is done, 0 to 1: counting the rows first would read them twice."""
    low, high = bounds(span)
    return min(1.0, max(0.0, (through + 1 - low) / max(1, high - low)))


def _tell(terminal: Terminal, share: float, rows: int) -> None:
    if terminal.is_live:
        filled = int(_BAR * share)
        bar = "█" * filled + "░" * (_BAR - filled)
        terminal.live(f"exporting: {bar} {share:4.0%}, {rows:,} messages")


# ---- writing ----


@contextlib.contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    """Where to write: stdout, or a file of mode 0600 that appears when all of it is there.

    A file of that name is replaced then, and untouched when anything goes wrong before.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # whatever the terminal's language is
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        yield sys.stdout
        sys.stdout.flush()
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); name a file") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror})") from None
    finally:
        draft.unlink(missing_ok=True)
