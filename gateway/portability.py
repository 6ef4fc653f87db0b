"""`smsgw portability load FILE`: numbers with a carrier of their own, by the million.

    number,carrier            CSV, UTF-8; the head is optional
    13800138000,CU            lives with China Unicom: CM, CU, CT or CB
    +8613900139000,           no carrier: with its prefix's again

The whole file is read first: a row that is wrong is named by its line, and nothing is loaded then,
unless `--skip-bad`. Then it goes into the store in blocks, each in force within 5 s. Whoever is
interrupted loads the same file again: what stands already changes nothing. A number that stands
in the file twice has its last carrier.
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, TextIO

from gateway.apply import operator
from gateway.settings import Settings
from gateway.terminal import Terminal
from sms.errors import ConfigError
from sms.model import Carrier
from sms.numbers import BadNumber
from sms.portability import NETWORKS, parse_portable
from store.database import open_pool
from store.ported import MOST, Counts, PortedStore
from store.seal import Keyring, must_fit, read_master_key

COMMAND: Final = "smsgw portability"
SHOWN: Final = 20  # bad rows that are named; the others are counted
STATEMENT_S: Final = 60.0  # of one block, beside whoever else changes numbers
_HEAD: Final = ("number", "carrier")
_WORDS: Final = {str(carrier): carrier for carrier in NETWORKS} | {"": None}
_NETWORKS: Final = ", ".join(str(carrier) for carrier in NETWORKS)
_TELL_EVERY: Final = 50_000  # rows between two words about progress


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be loaded, and what to do about it."""

    line: int
    detail: str


@dataclass(frozen=True, slots=True)
class Row:
    """A number's digits and its carrier, None: its prefix's."""

    number: str
    carrier: Carrier | None


@dataclass(slots=True)
class Checked:
    """What a whole file comes to."""

    good: int = 0
    bad: int = 0
    shown: list[BadRow] = field(default_factory=list)


def rows_of(lines: TextIO) -> Iterator[Row | BadRow]:
    """Every row of a file but its head and empty lines; about 2 µs a row."""
    reader = csv.reader(lines)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError):
            yield BadRow(reader.line_num, "no CSV in UTF-8: write number,carrier on a line")
            return
        if fields and not (reader.line_num == 1 and _is_head(fields)):
            yield _row(reader.line_num, fields)


def _is_head(fields: list[str]) -> bool:
    return tuple(text.strip().lower() for text in fields) == _HEAD


def _row(line: int, fields: list[str]) -> Row | BadRow:
    if len(fields) != 2:
        return BadRow(line, f"{len(fields)} fields; write two: number,carrier")
    word = fields[1].strip()
    if word not in _WORDS:
        return BadRow(line, f"no such carrier; write one of {_NETWORKS}, or nothing to end it")
    number = parse_portable(fields[0].strip())
    if isinstance(number, BadNumber):
        return BadRow(line, number.detail)
    return Row(number, _WORDS[word])


def load(settings: Settings, path: Path, terminal: Terminal, *, skip_bad: bool = False) -> int:
    """Check the file, then load it; 0, or 2 when rows are wrong and nothing was loaded."""
    checked = _check(path, terminal)
    for bad in checked.shown:
        terminal.fail(
            f"{path}:{bad.line}: {bad.detail}", "bad_row", line_number=bad.line, detail=bad.detail
        )
    if checked.bad > len(checked.shown):
        terminal.fail(f"… and {checked.bad - len(checked.shown):,} more", "more_bad_rows")
    if checked.bad and not skip_bad:
        told = (
            f"{checked.bad:,} rows to correct, {checked.good:,} are right; nothing was loaded. "
            "--skip-bad loads those that are right"
        )
        terminal.fail(told, "refused", bad=checked.bad, good=checked.good)
        return 2
    counts = asyncio.run(_load(settings, path, terminal, checked.good))
    told = (
        f"{counts.put:,} numbers have a new carrier, {counts.removed:,} have their prefix's "
        f"again, {counts.unchanged:,} stood so already; in force within 5 s"
    )
    terminal.say(told, "loaded", **counts._asdict(), bad=checked.bad)
    return 0


def _check(path: Path, terminal: Terminal) -> Checked:
    checked = Checked()
    with _opened(path) as lines:
        for row in rows_of(lines):
            if isinstance(row, Row):
                checked.good += 1
            else:
                checked.bad += 1
                if len(checked.shown) < SHOWN:
                    checked.shown.append(row)
            rows = checked.good + checked.bad
            if rows % _TELL_EVERY == 0:
                terminal.live(f"checking: {rows:,} rows", step="check", rows=rows)
    return checked


async def _load(settings: Settings, path: Path, terminal: Terminal, total: int) -> Counts:
    dsn, keyring = settings.database_url or "", Keyring(read_master_key(settings.master_key_file))
    await must_fit(dsn, keyring)
    pool = await open_pool(dsn, size=1, statement_timeout_s=STATEMENT_S)
    try:
        store, author = PortedStore(pool, keyring), operator(COMMAND)
        done, sums = 0, Counts(0, 0, 0)
        with _opened(path) as lines:
            good = (row for row in rows_of(lines) if isinstance(row, Row))
            while block := list(islice(good, MOST)):
                numbers = {row.number: row.carrier for row in block}
                counts = await store.put(author, numbers)
                sums = Counts(*(a + b for a, b in zip(sums, counts, strict=True)))
                done += len(block)
                bar = _bar(done, total)
                terminal.live(f"loading: {bar} {done:,} of {total:,}", step="load", rows=done)
        return sums
    finally:
        await pool.close()


def _bar(done: int, total: int, width: int = 30) -> str:
    filled = width * done // max(1, total)
    return "█" * filled + "░" * (width - filled)


def _opened(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); name a CSV file") from None
