"""Lists of messages, newest first: a look at a time, each bounded, whatever is stored.

    look ─▶ at most n messages of the tenant (index (tenant, id)) ─▶ those that match, and how far

A look goes through one window of days: the day it starts in, then twice as many, … so a tenant
without messages is known after a few statements, and a busy one never plans more than its day. What
a look costs depends on n alone: not on what is stored, not on how rare a match is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sms.errors import StoreUnavailable
from sms.ids import DAY_MS, TIME_SHIFT, id_at
from sms.model import CLASS_CODES, MessageClass
from store.database import Pool, acquire
from store.fragments import Why
from store.seal import day_of

_DAY = DAY_MS << TIME_SHIFT
_HALF_MS = 0.0005  # times are shown in whole milliseconds and compared as they are shown
# How far a message's id may be ahead of its created_at: ids are reserved 15 s ahead of a restart.
_ID_AHEAD_S = 60.0
_ID_BEHIND_S = 5.0
_PAGE = (
    "SELECT id, tenant, class, created_at, options IS NOT NULL AS has_options,"
    " send_at IS NOT NULL AS has_hour FROM messages"
    " WHERE {where} AND id >= {low} AND id < {high} ORDER BY id DESC LIMIT {limit}"
)
# What is uncertain now stands in `parked` too: a few rows instead of all messages.
_UNCERTAIN = (
    "SELECT m.id, m.tenant, m.class, m.created_at, m.options IS NOT NULL AS has_options,"
    " m.send_at IS NOT NULL AS has_hour FROM ("
    "  SELECT found.id FROM processes p CROSS JOIN LATERAL ("
    "   SELECT message_id AS id FROM parked WHERE process = p.process AND why = {why}"
    "    AND message_id >= {low} AND message_id < {high} ORDER BY message_id DESC LIMIT {limit}"
    "  ) found ORDER BY found.id DESC LIMIT {limit}"
    ") ids JOIN messages m ON m.id = ids.id AND m.id >= {low} AND m.id < {high}"
)
_LOOK = (
    "WITH page AS MATERIALIZED ({page}), matched AS MATERIALIZED ("
    " SELECT p.id, {path} AS path FROM page p {rows}"
    " WHERE {match})"
    " SELECT (SELECT count(*) FROM page) AS examined, (SELECT min(id) FROM page) AS lowest,"
    " (SELECT array_agg(id ORDER BY id DESC) FROM matched) AS ids,"
    " (SELECT array_agg(path ORDER BY id DESC) FROM matched) AS paths"
)
NO_ROW, NO_ROW_YET = 0, -1  # in place of a path: nothing moved it; it has an hour to go at
_PATH = f"coalesce(newest.path, CASE WHEN p.has_hour THEN {NO_ROW_YET} ELSE {NO_ROW} END)"
_NEWEST = (
    "LEFT JOIN LATERAL (SELECT path FROM events WHERE message_id = p.id"
    " AND message_id >= {low} AND message_id < {high} AND path <> 0"
    " ORDER BY sequence DESC LIMIT 1) newest ON true"
)
# LATERAL and LIMIT here too: of an EXISTS the planner makes a join with all events of the window.
_TOUCHED = (
    " LEFT JOIN LATERAL (SELECT true AS is_touched FROM events WHERE message_id = p.id"
    " AND message_id >= {low} AND message_id < {high} AND channel = ANY({channels})"
    " LIMIT 1) touched ON true"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list is about; None leaves it open. Times are Unix seconds: after <= t < before."""

    tenant: int | None  # None: of all tenants
    paths: tuple[int, ...] | None = None  # of the newest row that moved it, NO_ROW, NO_ROW_YET
    is_uncertain: bool = False  # only what waits for evidence: `paths` say so too
    message_class: MessageClass | None = None
    channels: tuple[int, ...] | None = None  # one of these took part
    number_index: int | None = None
    after: float | None = None
    before: float | None = None
    has_options: bool = False  # only what has a client_ref, metadata or the like


class Look(NamedTuple):
    """What one statement found."""

    ids: list[int]  # that match, newest first
    paths: list[int]  # of the newest row of each, when `Wanted.paths` asked for them
    examined: int
    below: int  # where the next look goes on; 0 = there is nothing older


class Lists:
    """Reads pages; raises StoreUnavailable when PostgreSQL is away or a look takes over 2 s."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def look(self, wanted: Wanted, below: int, count: int, days: int) -> Look:
        """Look at `count` messages with an id under `below`, at most `days` days back."""
        low, high = _bounds(wanted, below, days)
        if low >= high:
            return Look([], [], 0, 0)
        sql, arguments = look_sql(wanted, low, high, count)
        async with acquire(self._pool) as conn:
            row = await conn.fetchrow(sql, *arguments)
        if row is None:
            raise StoreUnavailable("a look gave no answer")  # an aggregate always has one row
        floor = _floor(wanted)
        following = row["lowest"] if row["examined"] >= count else low
        return Look(
            row["ids"] or [],
            row["paths"] or [],
            row["examined"],
            following if following > floor else 0,
        )


def newest_id(wanted: Wanted, now: float) -> int:
    """Where the first look begins: above every id there is, or below what is asked for."""
    if wanted.before is None:
        return id_at(now) + _DAY
    return min(id_at(wanted.before + _ID_AHEAD_S), id_at(now) + _DAY)


def look_sql(wanted: Wanted, low: int, high: int, count: int) -> tuple[str, list[Any]]:
    """The statement of one look and its arguments; only integers are formatted into it."""
    span: dict[str, Any] = {"low": low, "high": high, "limit": int(count)}
    arguments = _Arguments()
    page = _page_sql(wanted, span, arguments)
    match = _match_sql(wanted, arguments)
    rows, path = "", "0"
    if wanted.paths is not None:
        rows, path = _NEWEST.format(**span), _PATH
        match.append(f"{_PATH} = ANY({arguments.put(list(wanted.paths))}::int[])")
    if wanted.channels is not None:
        channels = f"{arguments.put(list(wanted.channels))}::smallint[]"
        rows += _TOUCHED.format(channels=channels, **span)
        match.append("touched.is_touched")
    sql = _LOOK.format(page=page, path=path, rows=rows, match=" AND ".join(match))
    return sql, arguments.values


class _Arguments:
    """The arguments of a statement, in the order in which they are put into it."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: object) -> str:
        """Add one; returns its place holder."""
        self.values.append(value)
        return f"${len(self.values)}"


def _page_sql(wanted: Wanted, span: Mapping[str, Any], arguments: _Arguments) -> str:
    """Which messages are looked at: the index that bounds the look is chosen here."""
    if wanted.is_uncertain:
        return _UNCERTAIN.format(why=int(Why.UNCERTAIN), **span)
    where = ["true"]
    if wanted.number_index is not None:
        where.append(f"number_index = {arguments.put(wanted.number_index)}::bigint")
    if wanted.tenant is not None:
        where.append(f"tenant = {arguments.put(wanted.tenant)}::int")
    return _PAGE.format(where=" AND ".join(where), **span)


def _match_sql(wanted: Wanted, arguments: _Arguments) -> list[str]:
    """What is asked of each message that is looked at."""
    match = ["true"]
    if wanted.is_uncertain and wanted.tenant is not None:
        match.append(f"p.tenant = {arguments.put(wanted.tenant)}::int")
    if wanted.message_class is not None:
        match.append(f"p.class = {CLASS_CODES[wanted.message_class]}")
    if wanted.has_options:
        match.append("p.has_options")
    if wanted.after is not None:
        after = arguments.put(wanted.after - _HALF_MS)
        match.append(f"p.created_at >= to_timestamp({after}::float8)")
    if wanted.before is not None:
        before = arguments.put(wanted.before - _HALF_MS)
        match.append(f"p.created_at < to_timestamp({before}::float8)")
    return match


def _floor(wanted: Wanted) -> int:
    return 0 if wanted.after is None else max(id_at(wanted.after - _ID_BEHIND_S), 0)


def _bounds(wanted: Wanted, below: int, days: int) -> tuple[int, int]:
    """The ids of a window that ends at `below` and begins where a day begins."""
    first_day = day_of(below - 1) - days + 1
    return max(first_day * _DAY, _floor(wanted), 0), below
