"""The one place where a message's next row is made, committed and told.

    decision ─▶ row() ─▶ commit() ═COMMIT═▶ committed(): counted, room given back, webhooks

Rows are numbered and applied to the live object when they are decided, so that two decisions in
one flush follow one another; nothing outside the process learns of a row before its commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from gateway.lanes import Lanes
from receipts.state import STATES_OF_PATH, Path, apply_row
from sms.ids import IdClock
from sms.model import FINAL_STATES, EventRow, Message, MessageClass, State
from telemetry.failpoints import failpoints
from telemetry.metrics import Metrics

# Where each path ends, and after which ends the owner has nothing more to bring to a carrier.
ENDS = [STATES_OF_PATH[path][-1] if STATES_OF_PATH[path] else None for path in Path]
_LEAVES = frozenset({State.SUBMITTED, State.UNCERTAIN}) | FINAL_STATES
# By (state before, path): what a row adds to the messages that are submitted now, and that ended.
MOVES: dict[tuple[State | None, int], tuple[int, int]] = {
    (before, int(path)): moves
    for path, end in enumerate(ENDS)
    for before in (None, *State)
    if end is not None
    and any(
        moves := (
            (end is State.SUBMITTED) - (before is State.SUBMITTED),
            int(end in FINAL_STATES and before not in FINAL_STATES),
        )
    )
}


def tally(rows: Iterable[EventRow]) -> dict[int, tuple[int, int]]:
    """Per tenant: submitted (net) and newly final, for the conservation counts.

    What leaves `submitted` is taken off again, and a correction of a final state (19) counts
    nothing: so each message is open, submitted or final once.
    """
    counts: dict[int, tuple[int, int]] = {}
    for row in rows:
        moves = MOVES.get((row.previous, row.path))
        if moves is not None:
            submitted, final = counts.get(row.tenant, (0, 0))
            counts[row.tenant] = (submitted + moves[0], final + moves[1])
    return counts


class EventSink(Protocol):
    """The event lane of the store, as far as the ledger needs it."""

    def add(
        self,
        rows: list[EventRow],
        *,
        urgent: bool,
        sql: str = "",
        done: Callable[[], None] | None = None,
    ) -> None:
        """Join the next flush; `done` is called after its commit."""
        ...


class ClaimRelease(Protocol):
    """The claim book, as far as the ledger needs it."""

    def settled(self, block: int, count: int) -> None:
        """Tell that `count` messages of a block no longer need their claim."""
        ...

    def strip_sql(self, ids: Iterable[int]) -> str:
        """Take ids out of our blocks, with the commit that makes them another process's."""
        ...

    def strip_all_sql(self, message_id: int, sequence: int, event_id: int) -> str:
        """Take a message out of everybody's blocks, with the row that makes it ours."""
        ...


class Told(Protocol):
    """Who must hear of committed rows: the webhooks."""

    def rows_committed(self, rows: Sequence[EventRow]) -> None:
        """Called once per flush, after the commit."""
        ...


class Ledger:
    """Makes rows, hands them to the event lane and acts when they are committed."""

    def __init__(
        self, *, ids: IdClock, lanes: Lanes, claims: ClaimRelease, metrics: Metrics
    ) -> None:
        self.process = ids.process  # who looks after what this process parks
        self._ids = ids
        self._lanes = lanes
        self._claims = claims
        self._metrics = metrics
        self.events: EventSink | None = None  # joined by wiring: the lane calls back `committed`
        self.told: Told | None = None
        self.live: dict[int, Message] = {}  # what this process must still bring to a carrier
        # What a command has ended, for as long as an older read of it may still come back.
        self.gone: dict[int, State] = {}
        self.adopted = 0  # how many of them came from another process
        # By tenant: accepted less submitted less final, of the flushes of this process that it
        # knows to be committed. Wiring sets what its number had counted before this life.
        self.opened: dict[int, int] = {}
        self.channel_names: dict[int, str] = {}

    def row(  # noqa: PLR0913 - the columns of a row; a row costs 1.8 µs, with **columns 3.6
        self,
        message: Message,
        path: Path,
        status: State,
        at: float,
        *,
        segment: int | None = None,
        copy: int = 0,
        channel: int = 0,
        carrier_id: str | None = None,
        code: str | None = None,
        reason: str | None = None,
        times: tuple[int, ...] = (),
    ) -> EventRow | None:
        """Make the message's next row and apply it; None when the move is illegal (counted).

        The columns are those of `EventRow`; `at` is Unix seconds.
        """
        row = EventRow(
            message.id,
            message.sequence + 1,
            self._ids.next(),
            message.tenant,
            path,
            status,
            at,
            segment,
            copy,
            channel,
            carrier_id,
            code,
            reason,
            times,
            message,
            message.state,
        )
        if not apply_row(message, row):
            self._metrics.illegal_transition_total.inc()
            return None
        return row

    def commit(
        self,
        rows: list[EventRow],
        *,
        urgent: bool = True,
        sql: str = "",
        done: Callable[[], None] | None = None,
    ) -> None:
        """Join the next flush; `sql` is integer-only text that rides in the same transaction."""
        events = self.events
        if events is None:
            raise RuntimeError("the ledger is not joined to an event lane")
        if failpoints.is_armed and rows:
            failpoints.hit("state.applied")
        events.add(rows, urgent=urgent, sql=sql, done=done)

    def took(self, messages: Iterable[Message]) -> None:
        """Own what was just committed; it was reserved before."""
        live = self.live
        kept: dict[MessageClass, int] = {}
        for message in messages:
            live[message.id] = message
            message_class = message.message_class
            kept[message_class] = kept.get(message_class, 0) + 1
        for message_class, count in kept.items():
            self._lanes.keep(message_class, count)

    def pass_on(self, message: Message) -> None:
        """Do not own what was just committed: its id was spilled, its owner stays this process."""
        self.live.pop(message.id, None)
        self._lanes.cancel(message.message_class)

    def unclaim_sql(self, ids: Iterable[int]) -> str:
        """For the commit that hands these over: no claim of ours lists them any more.

        Asked by id, for a claim that was settled stands as long as others of its block do.
        """
        return self._claims.strip_sql(ids)

    def reclaim_sql(self, row: EventRow) -> str:
        """For the commit of a row that makes a message ours again: no older claim lists it."""
        return self._claims.strip_all_sql(row.message_id, row.sequence, row.event_id)

    def release_claim(self, message: Message) -> None:
        """Its claim is not needed any more; the block goes when all of it are released.

        What came from another process keeps it until a commit says that it has left: nothing
        else finds it.
        """
        if message.claim and not message.is_adopted:
            self._claims.settled(message.claim, 1)
            message.claim = 0

    def _disown(self, message: Message) -> None:
        if message.is_adopted:
            message.is_adopted = False
            self.adopted -= 1

    def forget(self, messages: Iterable[Message]) -> None:
        """They are not ours any more: a committed handover holds them, or another process's row
        has ended them. Room and claims are given back.
        """
        left: dict[MessageClass, int] = {}
        for message in messages:
            message.is_parked = False
            if self.live.pop(message.id, None) is not None:
                left[message.message_class] = left.get(message.message_class, 0) + 1
            if message.claim:
                self._claims.settled(message.claim, 1)
                message.claim = 0
            self._disown(message)
        for message_class, count in left.items():
            self._lanes.release(message_class, count)

    def take_back(self, message: Message) -> None:
        """Own again what had left (resend, recovery): room beyond the limit, it is promised.

        Not what a command ended after it was read: that takes its final state, and nobody sends it.
        """
        if self.gone and (ended := self.gone.get(message.id)) is not None:
            message.state = ended
            return
        if message.id not in self.live:
            self.live[message.id] = message
            self._lanes.force(message.message_class)
            self.adopted += message.is_adopted

    def committed(self, rows: Sequence[EventRow]) -> None:
        """After a commit: give room and claims back, count finals, tell the webhooks."""
        live = self.live
        left: dict[MessageClass, int] = {}
        settled: dict[int, int] = {}  # by block of claims
        finals: dict[tuple[State, MessageClass, int], int] = {}
        self._count(rows)
        for row in rows:
            row.is_stored = True
            end = ENDS[row.path]
            message = row.message
            if end is None or end not in _LEAVES or message is None:
                continue
            message_class = message.message_class
            if live.pop(row.message_id, None) is not None:
                left[message_class] = left.get(message_class, 0) + 1
            block = message.claim
            if block:
                settled[block] = settled.get(block, 0) + 1
                message.claim = 0
                self._disown(message)
            if end in FINAL_STATES:
                key = end, message_class, row.channel
                finals[key] = finals.get(key, 0) + 1
        for message_class, count in left.items():
            self._lanes.release(message_class, count)
        for block, count in settled.items():
            self._claims.settled(block, count)
        names = self.channel_names
        for (end, message_class, channel), count in finals.items():
            labels = end.value, message_class.value, names.get(channel, "")
            self._metrics.final_total.inc(labels, count)
        if self.told is not None:
            self.told.rows_committed(rows)

    def _count(self, rows: Sequence[EventRow]) -> None:
        opened = self.opened
        for tenant, (submitted, final) in tally(rows).items():
            opened[tenant] = opened.get(tenant, 0) - submitted - final


def low_water(live: Mapping[int, Message], pending: int | None, next_id: int) -> int:
    """The lowest id that still needs its owner: everything below needs no recovery.

    What stands in `parked` is found there, and what came from another process by its claim, so
    neither holds the mark back.
    """
    lowest = min(
        (key for key, message in live.items() if not (message.is_parked or message.is_adopted)),
        default=next_id,
    )
    return lowest if pending is None else min(lowest, pending)
