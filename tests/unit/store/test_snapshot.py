"""From stored objects to the objects that run: canaries, which may outlive what they name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import asyncpg
import pytest

from sms.config import Canary, CanaryState
from store.objects import StoredObject
from store.snapshot import Loaded

CHANNEL = {"protocol": "smpp34", "settings": {}}
ROUTE = {"tenant": "*", "class": "otp", "carrier": "*", "country": 86, "channels": ["old"]}
CANARY = {
    "route": "*/otp/*/86",
    "channels": ["new", "old"],
    "share": 5,
    "state": "running",
    "since": "2026-11-22T18:00:00Z",
    "of_a_newer_version": True,
}
NEW, OLD = 1, 2


def row(kind: str, number: int, name: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": kind, "id": number, "name": name, "spec": spec, "deleted_at": None, **more}


EVERYTHING = [
    row("canary", 7, "to-new", CANARY),
    row("channel", NEW, "new", CHANNEL),
    row("channel", OLD, "old", CHANNEL),
    row("route", 3, "*/otp/*/86", ROUTE),
]


def load(known: Loaded, version: int, *rows: dict[str, Any]) -> Loaded:
    def open_row(one: asyncpg.Record) -> StoredObject:
        return StoredObject(one["id"], version, one["spec"], {}, one["kind"], one["name"])

    return asyncio.run(known.with_rows(version, cast("list[asyncpg.Record]", rows), open_row))


def test_a_live_canary_runs_with_ids_in_place_of_names() -> None:
    since = datetime(2026, 11, 22, 18, tzinfo=UTC).timestamp()
    [canary] = load(Loaded(), 1, *EVERYTHING).snapshot().canaries
    assert canary == Canary(7, "to-new", 3, (NEW, OLD), 5, CanaryState.RUNNING, since)
    paused = row("canary", 7, "to-new", {**CANARY, "state": "paused"})
    [canary] = load(load(Loaded(), 1, *EVERYTHING), 2, paused).snapshot().canaries
    assert canary.state is CanaryState.PAUSED


@pytest.mark.parametrize("state", ["promoted", "rolled_back", "aborted"])
def test_one_that_is_over_has_no_share_and_may_outlive_what_it_names(state: str) -> None:
    over = row("canary", 7, "to-new", {**CANARY, "state": state})
    loaded = load(load(Loaded(), 1, *EVERYTHING), 2, over)
    assert loaded.snapshot().canaries == ()
    gone = row("channel", NEW, "new", CHANNEL, deleted_at=datetime.now(UTC))
    assert load(loaded, 3, gone).snapshot().canaries == ()
    assert load(Loaded(), 3, over, *EVERYTHING[2:]).snapshot().canaries == ()


def test_a_live_one_whose_channel_is_gone_has_no_share_and_stops_nobody() -> None:
    loaded = load(Loaded(), 1, *EVERYTHING)
    gone = row("channel", NEW, "new", CHANNEL, deleted_at=datetime.now(UTC))
    assert load(loaded, 2, gone).snapshot().canaries == ()
    assert load(Loaded(), 2, EVERYTHING[0], *EVERYTHING[2:]).snapshot().canaries == ()
