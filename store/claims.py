"""Which messages may have left for a carrier: blocks of claims (DESIGN decision 5).

    block() ─▶ new ─flush─▶ open ─settled() to 0─▶ ended ─flush─▶ gone
                └─ settled to 0 or dropped before its flush ─────▶ gone, nothing written

A block's INSERT commits before the first byte of any of its messages. The book only decides
and formats; the lanes carry its SQL with whatever they flush next and say how that ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from store.link import ask


class _Stage(IntEnum):
    NEW = 0  # INSERT not under way
    GOING = 1  # INSERT rides on a flush
    OPEN = 2  # in the table
    ENDED = 3  # DELETE not under way
    ENDING = 4  # DELETE rides on a flush


@dataclass(slots=True)
class _Block:
    number: int
    ids: list[int]
    left: int
    floor: int
    on_claimed: Callable[[], None] | None
    stage: _Stage = _Stage.NEW
    is_dropped: bool = False
    may_exist: bool = False  # an INSERT of it was in doubt
    stripped: list[int] = field(default_factory=list)  # ids that left it before the others


@dataclass(slots=True)
class ClaimToken:
    """What rides on one flush; handed back by `committed` or `failed`."""

    inserts: list[_Block] = field(default_factory=list)
    deletes: list[_Block] = field(default_factory=list)
    strips: list[_Block] = field(default_factory=list)


class ClaimBook:
    """The claims of one process; `first_block` lies above everything the table holds.

    `moment` gives ids that only rise: the journal's segments are dated by the same.
    """

    def __init__(
        self, process: int, first_block: int = 1, *, moment: Callable[[], int] = lambda: 0
    ) -> None:
        self._process = process
        self._moment = moment
        self._next = first_block
        self._blocks: dict[int, _Block] = {}
        self._inserts: list[_Block] = []
        self._deletes: list[_Block] = []
        self._strips: list[_Block] = []  # their INSERT may have brought what had left meanwhile

    def block(self, ids: list[int], on_claimed: Callable[[], None] | None = None) -> int:
        """Claim these messages: the number of their block; `on_claimed` runs after the commit."""
        block = _Block(self._next, ids, len(ids), self._floor_of(ids), on_claimed)
        self._next += 1
        self._blocks[block.number] = block
        self._inserts.append(block)
        return block.number

    def reserve(self) -> int:
        """A block number for claims that another statement inserts; `adopt` it afterwards."""
        number = self._next
        self._next += 1
        return number

    def adopt(self, number: int, ids: list[int]) -> None:
        """Take over a block that stands in the table, so that `settled` can delete it."""
        self._next = max(self._next, number + 1)
        self._blocks[number] = block = _Block(number, ids, len(ids), self._floor_of(ids), None)
        block.stage = _Stage.OPEN
        if not ids:
            self._end(block)

    def _floor_of(self, ids: Iterable[int]) -> int:
        """No line that this claim needs is older: not than its messages, nor than itself.

        A message of another process may be days old when it is claimed here.
        """
        return max(self._moment(), min(ids, default=0))

    def settled(self, number: int, count: int = 1) -> None:
        """`count` of the block's messages can no longer be uncertain by a crash.

        Called when what became of them is committed or rides on the same or an earlier flush.
        """
        block = self._blocks.get(number)
        if block is None:
            return
        block.left -= count
        if block.left <= 0:
            self._end(block)

    def drop(self, number: int) -> None:
        """The block's messages do not exist after all."""
        block = self._blocks.get(number)
        if block is not None:
            self._end(block)

    def strip_sql(self, ids: Iterable[int]) -> str:
        """Take ids out of whatever blocks list them: somebody else owns them after this commit.

        A block stands until its last message is settled; whoever owns one of the others by then
        would see it claimed by us. What is settled is counted as ever.
        """
        gone = set(ids)
        numbers: list[int] = []
        listed: set[int] = set()
        for block in self._blocks.values():
            if gone.isdisjoint(block.ids):
                continue
            leaving = gone.intersection(block.ids)
            listed |= leaving
            block.stripped += leaving
            block.ids = [message_id for message_id in block.ids if message_id not in gone]
            if block.stage is not _Stage.NEW or block.may_exist:
                numbers.append(block.number)
        return self._without(listed, numbers) if numbers else ""

    def strip_all_sql(self, message_id: int, sequence: int, event_id: int) -> str:
        """Take a message that is ours with this row out of the claims of every process.

        Not when another process's row won its place, nor out of what we claim from now on: the
        text may run again.
        """
        return (
            f"UPDATE claims SET ids=array_remove(ids,{int(message_id)}::bigint)"
            f" WHERE {int(message_id)}::bigint=ANY(ids)"
            f" AND (process<>{self._process} OR block<{self._next})"
            f" AND NOT EXISTS (SELECT FROM events WHERE message_id={int(message_id)}"
            f" AND sequence={int(sequence)} AND event_id<>{int(event_id)});"
        )

    def _without(self, ids: Iterable[int], numbers: Iterable[int]) -> str:
        return (
            "UPDATE claims SET ids=ARRAY(SELECT i FROM unnest(ids) AS i"
            f" WHERE i<>ALL('{{{_numbers(sorted(ids))}}}'::bigint[]))"
            f" WHERE process={self._process} AND block IN ({_numbers(numbers)});"
        )

    def open_in(self, number: int) -> int:
        """How many messages of a block still need their claim."""
        block = self._blocks.get(number)
        return max(0, block.left) if block is not None else 0

    def has_pending(self) -> bool:
        """Whether the next flush would carry something."""
        return bool(self._inserts or self._deletes or self._strips)

    def open_blocks(self) -> int:
        """How many blocks a crash now would find, or soon would."""
        return len(self._blocks)

    def older_than(self, moment: int) -> set[int]:
        """Blocks that have stood in the table since before `moment`: they hold the journal back."""
        return {
            block.number
            for block in self._blocks.values()
            if block.stage is _Stage.OPEN and block.floor < moment
        }

    def floor(self) -> int | None:
        """Since when there are blocks whose DELETE has not committed, as an id; None without.

        The journal keeps everything from here on.
        """
        return min((block.floor for block in self._blocks.values()), default=None)

    def take_new_sql(self) -> tuple[str, ClaimToken]:
        """The pending INSERTs alone, for a lane that must never wait for a row of another one.

        An UPDATE that takes ids out of several blocks, our own or another process's, locks them
        in whatever order it finds them. Only the event lane changes rows that stand: it is one,
        and it runs again what a deadlock broke, while an accept would be refused.
        """
        token = self._take_new()
        return self._sql(token), token

    def take_sql(self) -> tuple[str, ClaimToken]:
        """What is pending, as SQL made of integers only, for the flush about to run."""
        token = self._take_new()
        token.deletes, token.strips = self._deletes, self._strips
        self._deletes, self._strips = [], []
        return self._sql(token), token

    def _take_new(self) -> ClaimToken:
        # those in doubt may be on their way in an old connection: always in the same order
        token = ClaimToken(inserts=sorted(self._inserts, key=lambda block: block.number))
        self._inserts = []
        return token

    def _sql(self, token: ClaimToken) -> str:
        parts = []
        if token.inserts:
            values = ",".join(
                f"({self._process},{block.number},'{{{_numbers(block.ids)}}}')"
                for block in token.inserts
            )
            # a flush tried again after a lost connection may find its own block
            parts.append(
                f"INSERT INTO claims (process,block,ids) VALUES {values} ON CONFLICT DO NOTHING;"
            )
            for block in token.inserts:
                block.stage = _Stage.GOING
        if token.deletes:
            numbers = _numbers(block.number for block in token.deletes)
            parts.append(
                f"DELETE FROM claims WHERE process={self._process} AND block IN ({numbers});"
            )
            for block in token.deletes:
                block.stage = _Stage.ENDING
        parts += [self._without(block.stripped, [block.number]) for block in token.strips]
        return "".join(parts)

    def committed(self, token: ClaimToken) -> None:
        """The flush with this token is durable: run what waited for it."""
        for block in token.deletes:
            self._blocks.pop(block.number, None)
        for block in token.inserts:
            if block.is_dropped:
                block.stage = _Stage.ENDED
                self._deletes.append(block)
                continue
            block.stage = _Stage.OPEN
            if block.stripped:
                self._strips.append(block)
            if block.on_claimed is not None:
                ask(block.on_claimed, None)

    def failed(self, token: ClaimToken, *, is_certain: bool = True) -> None:
        """The flush with this token did not commit: all of it is pending again.

        Not `is_certain`: it may have; its SQL runs again all the same and changes nothing then.
        """
        self._strips += token.strips
        for block in token.deletes:
            block.stage = _Stage.ENDED
            self._deletes.append(block)
        for block in token.inserts:
            block.may_exist |= not is_certain
            block.stage = _Stage.NEW
            self._inserts.append(block)
            if block.is_dropped:
                self._end(block)

    def _end(self, block: _Block) -> None:
        block.is_dropped = True
        if block.stage is _Stage.NEW:
            self._inserts.remove(block)
            if block.may_exist:
                block.stage = _Stage.ENDED
                self._deletes.append(block)
            else:
                del self._blocks[block.number]
        elif block.stage is _Stage.OPEN:
            block.stage = _Stage.ENDED
            self._deletes.append(block)
        # GOING: decided when its flush has ended; ENDED, ENDING: already on its way


def _numbers(values: Iterable[int]) -> str:
    return ",".join(map(str, values))
