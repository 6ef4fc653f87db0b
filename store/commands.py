"""What one process asks of another, and what it needs to know for that (DESIGN decision 7).

    requester: give() ═COMMIT═▶ a row per process ─wake─▶ owner: open() ─▶ carried out ═COMMIT═▶
               answers() ◀─────────────wake─ answer() ═COMMIT═

A row stands until it is answered, so a command survives the owner and moves to whoever takes it
over; what it says must bear being carried out twice. `places` tells where messages stand, in one
snapshot: who must be asked, and what has ended already.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from sms.ids import process_of
from store.database import Pool, acquire
from store.fragments import Why

Json = dict[str, Any]

_COLUMNS = "id, requester, process, kind, tenant, first_id, last_id, payload"
# Of each tenant the oldest few, so that nobody's commands stand behind all of another one's.
OPEN_SQL = (
    f"SELECT {_COLUMNS} FROM (SELECT {_COLUMNS},"
    "  row_number() OVER (PARTITION BY tenant ORDER BY id) AS place FROM commands"
    "  WHERE process = $1 AND answered_at IS NULL AND id <> ALL($4) AND tenant <> ALL($5)) waiting"
    " WHERE place <= $3 ORDER BY id LIMIT $2"
)
# Rows that wait for a batch that is not paused any more: whoever should have let them go was away.
STRANDED_SQL = (
    "SELECT message_id FROM parked WHERE process = $1 AND why = $2 AND why <> 0 AND NOT EXISTS ("
    " SELECT FROM batches WHERE state = 1 AND first_id <= message_id AND last_id >= message_id)"
    " ORDER BY message_id LIMIT $3"
)


class Kind(IntEnum):
    """What is asked. Append only: the store holds these numbers."""

    CANCEL = 0  # the messages first_id … last_id
    BATCH = 1  # look at the batch's row and act on its state
    RESEND = 2  # an operator wants a second copy of the message first_id


class BatchState(IntEnum):
    """The state of a batch's row."""

    RUNNING = 0
    PAUSED = 1  # what was not submitted yet waits
    CANCELED = 2  # … is canceled, for good; some of it may still be on its way somewhere
    SETTLED = 3  # canceled, and nothing of it waits any more


@dataclass(frozen=True, slots=True)
class Command:
    """One row, without its answer."""

    id: int  # of the requester's clock
    requester: int
    process: int  # who is to carry it out
    kind: int  # of `Kind`; a newer process may know more of them
    tenant: int
    first_id: int
    last_id: int
    payload: Json | None = None


class Place(NamedTuple):
    """Where one message stands."""

    id: int
    path: int | None  # of its newest row that moved it, None without one
    keeper: int | None  # the process that looks after its row in `parked`
    why: Why | None  # it is parked
    claimer: int | None  # the process that claims it
    is_handed: bool  # on its way: nobody's memory holds it

    def owner(self) -> int | None:
        """The process that alone may bring it to a carrier; None while it is on its way."""
        if self.is_handed:
            return None
        if self.claimer is not None:
            return self.claimer
        return process_of(self.id) if self.keeper is None else self.keeper


class Halted(NamedTuple):
    """A batch that does not run."""

    first_id: int
    last_id: int
    tenant: int
    state: BatchState


class CommandTable:
    """The commands of one process, over a pool that speaks in its name and epoch.

    Every method raises StoreUnavailable while PostgreSQL is away, and LeaseLost from a write when
    the process has a newer owner.
    """

    def __init__(self, pool: Pool, process: int) -> None:
        self._pool = pool
        self._process = process

    async def give(self, commands: Sequence[Command]) -> None:
        """Write them down; after an error they may stand there all the same."""
        async with acquire(self._pool) as conn:
            await conn.executemany(
                f"INSERT INTO commands ({_COLUMNS}) VALUES ($1,$2,$3,$4,$5,$6,$7,$8)",
                [
                    (
                        one.id,
                        one.requester,
                        one.process,
                        int(one.kind),
                        one.tenant,
                        one.first_id,
                        one.last_id,
                        None if one.payload is None else json.dumps(one.payload),
                    )
                    for one in commands
                ],
            )

    async def open(
        self,
        limit: int,
        of_tenant: int,
        but: Collection[int] = (),
        but_tenants: Collection[int] = (),
    ) -> list[Command]:
        """What this process is still to carry out, oldest first, `but` for these.

        At most `limit`, and of each tenant at most `of_tenant`.
        """
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                OPEN_SQL, self._process, limit, of_tenant, list(but), list(but_tenants)
            )
        return [
            Command(
                row["id"],
                row["requester"],
                row["process"],
                row["kind"],
                row["tenant"],
                row["first_id"],
                row["last_id"],
                None if row["payload"] is None else json.loads(row["payload"]),
            )
            for row in rows
        ]

    async def answer(self, answers: Mapping[int, Json]) -> None:
        """Say what became of commands, by id; after the commit of what they changed."""
        async with acquire(self._pool) as conn:
            await conn.execute(
                "UPDATE commands c SET answer = v.answer::jsonb, answered_at = clock_timestamp()"
                " FROM unnest($1::bigint[], $2::text[]) AS v (id, answer) WHERE c.id = v.id",
                list(answers),
                [json.dumps(answer) for answer in answers.values()],
            )

    async def answers(self, ids: Sequence[int]) -> dict[int, Json]:
        """The answers that are there, by command."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT id, answer FROM commands WHERE id = ANY($1) AND answered_at IS NOT NULL",
                list(ids),
            )
        return {row["id"]: json.loads(row["answer"]) for row in rows}

    async def forget(self, ids: Sequence[int]) -> None:
        """Their answers were read."""
        async with acquire(self._pool) as conn:
            await conn.execute(
                "DELETE FROM commands WHERE id = ANY($1) AND answered_at IS NOT NULL", list(ids)
            )

    async def sweep(self, kept_s: float) -> None:
        """Remove answers that nobody reads any more."""
        async with acquire(self._pool) as conn:
            await conn.execute(
                "DELETE FROM commands WHERE answered_at < now() - make_interval(secs => $1)", kept_s
            )

    async def oldest_open_s(self) -> float:
        """Age of the oldest command that this process has not carried out, 0 without one."""
        async with acquire(self._pool) as conn:
            age = await conn.fetchval(
                "SELECT extract(epoch FROM clock_timestamp() - min(at)) FROM commands"
                " WHERE process = $1 AND answered_at IS NULL",
                self._process,
            )
        return 0.0 if age is None else max(0.0, float(age))

    async def owners(self) -> list[int]:
        """Every process that may still send something: those that own a number.

        Also one whose lease is over: until it is taken over it may renew it.
        """
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT process FROM processes WHERE node IS NOT NULL ORDER BY process"
            )
        return [row["process"] for row in rows]

    # -- where messages stand --------------------------------------------------------------

    async def places(self, ids: Sequence[int]) -> list[Place]:
        """Where these messages stand, by id; those that do not exist are left out.

        All of one batch, or a few: one range of ids is looked at.
        """
        if not ids:
            return []
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(places_sql(min(ids), max(ids)), list(ids))
        return [
            Place(
                row["id"],
                row["path"],
                row["keeper"],
                None if row["why"] is None else Why(row["why"]),
                row["claimer"],
                row["is_handed"],
            )
            for row in rows
        ]

    async def paths(self, first_id: int, last_id: int) -> dict[int, int | None]:
        """The newest row's path of each message of a range (None: no row), for its status."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(paths_sql(first_id, last_id))
        return {row["id"]: row["path"] for row in rows}

    async def standings(self, first_id: int, last_id: int) -> dict[int | None, float]:
        """The newest rows' paths in a range (None: no row), and until when (Unix seconds) the
        last of the messages behind each is valid.
        """
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(standings_sql(first_id, last_id))
        return {row["path"]: row["valid_until"].timestamp() for row in rows}

    # -- batches ---------------------------------------------------------------------------

    async def set_state(self, first_id: int, tenant: int, state: BatchState) -> BatchState | None:
        """Change a batch's state; gives what it is now: one that was canceled stays so.

        None when there is none, or another tenant's.
        """
        async with acquire(self._pool) as conn:
            now = await conn.fetchval(
                "UPDATE batches SET state = CASE WHEN state >= 2 THEN state ELSE $3::smallint END"
                " WHERE first_id = $1 AND tenant = $2 RETURNING least(state, 2::smallint)",
                first_id,
                tenant,
                int(state),
            )
        return None if now is None else BatchState(now)

    async def settle(self, first_id: int) -> None:
        """Nothing of a canceled batch waits or may come back: nobody needs to know of it."""
        async with acquire(self._pool) as conn:
            await conn.execute(
                "UPDATE batches SET state = 3 WHERE first_id = $1 AND state = 2", first_id
            )

    async def halted(self, first_id: int | None = None) -> list[Halted]:
        """The batches that do not run, or this one whatever its state."""
        columns = "SELECT first_id, last_id, tenant, state FROM batches"
        async with acquire(self._pool) as conn:
            if first_id is None:
                rows = await conn.fetch(f"{columns} WHERE state IN (1, 2) ORDER BY first_id")
            else:
                rows = await conn.fetch(f"{columns} WHERE first_id = $1", first_id)
        return [Halted(first, last, whose, BatchState(state)) for first, last, whose, state in rows]

    async def stranded(self, limit: int) -> list[int]:
        """Messages that this process holds for batches which run again."""
        async with acquire(self._pool) as conn:
            rows = await conn.fetch(STRANDED_SQL, self._process, int(Why.HELD), limit)
        return [row["message_id"] for row in rows]


def places_sql(first: int, last: int) -> str:
    """Where the messages $1 (all from `first` to `last`) stand.

    One statement, so one snapshot: what moves between owners stands in exactly one of these tables
    at every moment. Literal bounds prune partitions when the plan is made.
    """
    first, last = int(first), int(last)
    return (
        "SELECT m.id, newest.path, parked.process AS keeper, parked.why,"
        " claimed.process AS claimer, handed.id IS NOT NULL AS is_handed"
        f" FROM (SELECT id FROM messages WHERE id >= {first} AND id <= {last}"
        f"  AND id = ANY($1::bigint[])) m {_newest_sql(first, last)}"
        f" LEFT JOIN (SELECT * FROM parked WHERE message_id >= {first} AND message_id <= {last})"
        "  parked ON parked.message_id = m.id"
        " LEFT JOIN (SELECT DISTINCT ON (c.id) c.id, process FROM claims, unnest(ids) AS c (id)"
        "  WHERE ids && $1 AND c.id = ANY($1) ORDER BY c.id, block DESC) claimed"
        "  ON claimed.id = m.id"
        " LEFT JOIN (SELECT DISTINCT h.id FROM handovers, unnest(ids) AS h (id)"
        f"  WHERE first_id <= {last} AND last_id >= {first} AND h.id = ANY($1)) handed"
        "  ON handed.id = m.id ORDER BY m.id"
    )


def paths_sql(first: int, last: int) -> str:
    """The newest path of each message of a range."""
    first, last = int(first), int(last)
    return (
        f"SELECT m.id, newest.path FROM (SELECT id FROM messages WHERE id >= {first}"
        f" AND id <= {last}) m {_newest_sql(first, last)} ORDER BY m.id"
    )


def standings_sql(first: int, last: int) -> str:
    """The newest paths in a range, with the latest validity behind each."""
    first, last = int(first), int(last)
    return (
        "SELECT newest.path, max(m.valid_until) AS valid_until FROM (SELECT id, valid_until"
        f" FROM messages WHERE id >= {first} AND id <= {last}) m {_newest_sql(first, last)}"
        " GROUP BY newest.path"
    )


def _newest_sql(first: int, last: int) -> str:
    """Beside each message `m`, its newest row that moved it."""
    return (
        "LEFT JOIN (SELECT DISTINCT ON (message_id) message_id, path FROM events"
        f"  WHERE message_id >= {first} AND message_id <= {last} AND path <> 0"
        "  ORDER BY message_id, sequence DESC) newest ON newest.message_id = m.id"
    )


async def move_commands(pool: Pool, old: int, new: int) -> int:
    """What a seized process was to do is its taker's; how many commands that were."""
    async with acquire(pool) as conn:
        done = await conn.execute(
            "UPDATE commands SET process = $2 WHERE process = $1 AND answered_at IS NULL", old, new
        )
    return int(done.rsplit(" ", 1)[-1])


def in_pages(ids: Iterable[int], size: int) -> Iterable[list[int]]:
    """Ids in pages, in order."""
    ordered = sorted(ids)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
