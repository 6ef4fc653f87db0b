"""SQL that rides with a COPY: small tables changed in the same commit as the rows.

A simple query takes no parameters, so nothing but integers and hexadecimal bytes is ever
formatted into it. Every fragment is idempotent: a flush whose connection broke runs again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from sms.attempts import reference
from sms.model import CLASS_CODES, MessageClass
from store.seal import Keyring


class Why(IntEnum):
    """Why a message stands in `parked`. Append only: the store holds these numbers."""

    SCHEDULED = 0  # send_at, or outside the hours of its class
    HELD = 1  # a paused batch and the like
    UNCERTAIN = 2  # waits for evidence, then for its policy
    QUEUED = 3  # stood in a lane too long, or came back with an id below the low-water mark
    SPILLED = 4  # found no room in memory: its owner keeps the id only


# Their owner has them in memory beside the row, as messages or as ids; of what stands aside the
# row is all there is, and whoever looks after it lets go of it before it can be sent.
STOOD = frozenset({Why.QUEUED, Why.SPILLED})
ASIDE = frozenset({Why.SCHEDULED, Why.HELD})


@dataclass(slots=True)
class ParkedReport:
    """A carrier's report that found no message yet; `due` is when to look again, Unix seconds."""

    id: int
    channel: int
    carrier_id: str
    state: str
    error: str
    number: str
    tries: int
    due: float
    reference: str = ""
    part: tuple[int, int] | None = None
    is_orphan: bool = False  # it might have been about a lost answer of ours


@dataclass(slots=True)
class ParkedWebhook:
    """An event an endpoint did not take; `due` is its next try, Unix seconds, inf for never."""

    endpoint: int
    event_id: int
    message_id: int
    sequence: int
    tries: int
    due: float


def park_sql(process: int, rows: Iterable[tuple[int, float, int, MessageClass, int]]) -> str:
    """Put messages into `parked`, or move them: (message_id, due, Why, class, tenant).

    `process` looks after them from now on, whoever did before.
    """
    values = ",".join(
        f"({int(message_id)},{int(process)},{moment_sql(due)},{int(why)},{CLASS_CODES[cls]},"
        f"{int(tenant)})"
        for message_id, due, why, cls, tenant in rows
    )
    if not values:
        return ""
    return (
        f"INSERT INTO parked (message_id,process,due,why,class,tenant) VALUES {values}"
        " ON CONFLICT (message_id) DO UPDATE"
        " SET process=excluded.process, due=excluded.due, why=excluded.why;"
    )


def repark_sql(
    process: int, rows: Iterable[tuple[int, float, Why]], only: Collection[Why] = tuple(Why)
) -> str:
    """Move what `process` still looks after in `parked`: (message_id, due, Why).

    A row that is gone by then stays away: its message was handed over or has ended. So does what
    stands there for another reason than `only` by then.
    """
    values = ",".join(
        f"({int(message_id)},{moment_sql(due)},{int(why)})" for message_id, due, why in rows
    )
    if not values:
        return ""
    return (
        "UPDATE parked p SET due=v.due, why=v.why"
        f" FROM (VALUES {values}) AS v (message_id,due,why)"
        f" WHERE p.message_id=v.message_id AND p.process={int(process)} AND {_for(only)};"
    )


def unpark_sql(message_ids: Iterable[int], process: int | None = None) -> str:
    """Take messages out of `parked`; with `process`, only those that it looks after."""
    ids = ",".join(str(int(message_id)) for message_id in message_ids)
    whose = "" if process is None else f" AND process={int(process)}"
    return f"DELETE FROM parked WHERE message_id IN ({ids}){whose};" if ids else ""


def unpark_stood_sql(message_ids: Iterable[int], process: int) -> str:
    """The same for rows of `process` that stand beside its memory: what is put off stays."""
    ids = ",".join(str(int(message_id)) for message_id in message_ids)
    return (
        f"DELETE FROM parked p WHERE message_id IN ({ids}) AND process={int(process)}"
        f" AND {_for(STOOD)};"
        if ids
        else ""
    )


def _for(reasons: Iterable[Why]) -> str:
    return f"p.why IN ({','.join(str(int(why)) for why in sorted(reasons))})"


def park_reports_sql(keyring: Keyring, reports: Iterable[ParkedReport]) -> str:
    """Put reports into `parked_reports`, or move them by id; their content is sealed."""
    values = ",".join(
        f"({int(report.id)},{int(report.channel)},{_text(report.carrier_id)},"
        f"{_bytes(seal_report(keyring, report))},{int(report.tries)},{moment_sql(report.due)},"
        f"{_text(report.reference)},{_smallint(report.part, 0)},{_smallint(report.part, 1)})"
        for report in reports
    )
    if not values:
        return ""
    return (
        "INSERT INTO parked_reports (id,channel,carrier_id,raw,tries,due,reference,part,parts)"
        f" VALUES {values}"
        " ON CONFLICT (id) DO UPDATE SET tries=excluded.tries, due=excluded.due;"
    )


def hasten_reports_sql(message_id: int, attempt: int) -> str:
    """Look again at once at parked reports with our word for this attempt.

    For the commit that makes the attempt one that a report can be about. The word is a literal of
    its own (letters, digits, - and _): the planner does not look an expression up in the index.
    One that is being looked at just now is due again as well: that look may have come too early.
    """
    return (
        "UPDATE parked_reports SET due = now()"
        f" WHERE reference = '{reference(int(message_id), int(attempt))}';"
    )


def delete_reports_sql(ids: Iterable[int]) -> str:
    """Take reports out of `parked_reports`."""
    listed = ",".join(str(int(value)) for value in ids)
    return f"DELETE FROM parked_reports WHERE id IN ({listed});" if listed else ""


def park_webhooks_sql(process: int, rows: Iterable[ParkedWebhook]) -> str:
    """Put events into `webhook_parked`, or move them to their next try.

    `process` looks after them from now on, whoever did before.
    """
    values = ",".join(
        f"({int(row.endpoint)},{int(row.event_id)},{int(process)},{int(row.message_id)},"
        f"{int(row.sequence)},{int(row.tries)},{moment_sql(row.due)})"
        for row in rows
    )
    if not values:
        return ""
    return (
        "INSERT INTO webhook_parked (endpoint,event_id,process,message_id,sequence,tries,due)"
        f" VALUES {values}"
        " ON CONFLICT (endpoint,event_id) DO UPDATE"
        " SET process=excluded.process, tries=excluded.tries, due=excluded.due;"
    )


def delete_webhooks_sql(keys: Iterable[tuple[int, int]]) -> str:
    """Take events out of `webhook_parked`: (endpoint, event_id)."""
    listed = ",".join(f"({int(endpoint)},{int(event_id)})" for endpoint, event_id in keys)
    return f"DELETE FROM webhook_parked WHERE (endpoint,event_id) IN ({listed});" if listed else ""


def deltas_sql(process: int, counts: Mapping[int, tuple[int, int, int]]) -> str:
    """Count a flush: tenant to (accepted, submitted, final).

    `submitted` is net, what entered that state less what left it; `final` counts first ends
    only. So their sums tell how many messages somebody must still hold.
    """
    values = ",".join(
        f"({process},{tenant},{accepted},{submitted},{final})"
        for tenant, (accepted, submitted, final) in counts.items()
    )
    if not values:
        return ""
    return f"INSERT INTO deltas (process,tenant,accepted,submitted,final) VALUES {values};"


def holdings_sql(process: int, said: Mapping[int, tuple[int, int]]) -> str:
    """What a process says of its tenants, in place of what it said before: (held, opened).

    held: messages in its memory, not those that also stand in `parked` or `handovers`, which
    conservation adds. opened: accepted less submitted less final of its own committed flushes.
    Tenant 0 stands for the process itself: it has spoken, also when it has nothing to say.
    """
    rows = {0: (0, 0)} | {tenant: both for tenant, both in said.items() if any(both)}
    values = ",".join(
        f"({int(process)},{int(tenant)},{int(held)},{int(opened)},clock_timestamp())"
        for tenant, (held, opened) in rows.items()
    )
    listed = ",".join(str(int(tenant)) for tenant in rows)
    return (
        f"DELETE FROM holdings WHERE process={int(process)} AND tenant NOT IN ({listed});"
        f"INSERT INTO holdings (process,tenant,held,opened,at) VALUES {values}"
        " ON CONFLICT (process,tenant) DO UPDATE"
        " SET held=excluded.held, opened=excluded.opened, at=excluded.at;"
    )


def low_water_sql(process: int, mark: int, *, by: int) -> str:
    """Raise the low-water mark of a seized process: what lies below was handed over or ended."""
    return (
        f"UPDATE processes SET low_water=greatest(low_water,{int(mark)})"
        f" WHERE process={int(process)} AND owed_to={int(by)};"
    )


def event_cursor_sql(process: int, cursor: int, *, by: int) -> str:
    """Raise the event cursor of a seized process: what lies below is parked for the taker."""
    return (
        f"UPDATE processes SET event_cursor=greatest(event_cursor,{int(cursor)})"
        f" WHERE process={int(process)} AND owed_to={int(by)};"
    )


def drop_claims_sql(process: int, blocks: Iterable[int]) -> str:
    """Remove claims of a seized process, together with what became of their messages."""
    listed = ",".join(str(int(block)) for block in blocks)
    if not listed:
        return ""
    return f"DELETE FROM claims WHERE process={int(process)} AND block IN ({listed});"


def batch_sql(first_id: int, last_id: int, tenant: int, at: float, verdicts: bytes) -> str:
    """A batch's own row: its contiguous ids and the verdicts of its entries."""
    return (
        "INSERT INTO batches (first_id,last_id,tenant,at,verdicts)"
        f" VALUES ({first_id},{last_id},{tenant},{moment_sql(at)},{_bytes(verdicts)});"
    )


def seal_report(keyring: Keyring, report: ParkedReport) -> bytes:
    """What the carrier said, sealed: it names the destination."""
    plain = json.dumps([report.state, report.error, report.number]).encode()
    return keyring.seal_secret(plain, f"parked_report {report.id}")


def open_report(keyring: Keyring, report_id: int, raw: bytes) -> tuple[str, str, str]:
    """State, error and number again."""
    state, error, number = json.loads(keyring.open_secret(raw, f"parked_report {report_id}"))
    return state, error, number


def moment_sql(unix_s: float) -> str:
    """A moment as an expression; inf is 'infinity'."""
    if unix_s == math.inf:
        return "'infinity'::timestamptz"
    return f"to_timestamp({int(unix_s * 1000)}/1000.0)"


def _bytes(data: bytes) -> str:
    return f"'\\x{data.hex()}'::bytea"


def _smallint(part: tuple[int, int] | None, place: int) -> int:
    return 0 if part is None else max(0, min(int(part[place]), 0x7FFF))


def _text(text: str) -> str:
    data = text.encode("utf-8", "replace").replace(b"\0", b"?")
    return f"convert_from('\\x{data.hex()}','UTF8')"
