"""`smsgw restored`: once, after the database was put back to an earlier moment, before `smsgw up`.

What the database calls unsent may have been sent after that moment. It becomes uncertain and is
held: `store.restored` has the how, docs/operations.md the whole of a restore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from gateway.apply import operator
from gateway.settings import Settings
from gateway.terminal import Terminal
from sms.errors import ConfigError
from store.probe import pending_migrations
from store.restored import Restored, mark_restored
from store.seal import Keyring, must_fit, read_master_key

_LINES: Final = (
    ("uncertain", "may have been sent after that moment: uncertain now, held for you"),
    ("held", "were uncertain before: held, no second copy by itself"),
    ("scheduled", "are due later: they stay scheduled"),
)


def run(settings: Settings, terminal: Terminal, *, is_dry: bool) -> int:
    """Mark and tell; returns the exit code. Raises ConfigError, StoreUnavailable."""
    done = asyncio.run(_mark(settings, is_dry=is_dry))
    counts = {"uncertain": done.uncertain, "held": done.held, "scheduled": done.scheduled}
    lines = [f"{_told(counts[name])} {words}" for name, words in _LINES]
    lines.append(
        "nothing was changed (--dry-run)"
        if is_dry
        else "now: smsgw up; then GET /v1/messages?status=uncertain lists them"
    )
    terminal.say("\n".join(lines), "restored", dry_run=is_dry, **counts)
    return 0


async def _mark(settings: Settings, *, is_dry: bool) -> Restored:
    dsn, keyring = settings.database_url or "", Keyring(read_master_key(settings.master_key_file))
    await must_fit(dsn, keyring)
    if await pending_migrations(dsn):
        raise ConfigError("the database waits for migrations: run `smsgw migrate` first")
    author = operator("smsgw restored")
    return await mark_restored(
        dsn,
        keyring,
        author,
        receipt_deadline_s=settings.reliability.receipt_deadline_s,
        is_dry=is_dry,
    )


def _told(counts: Mapping[str, int]) -> str:
    by_class = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return f"{sum(counts.values()):,} messages" + (f" ({by_class})" if by_class else "")
