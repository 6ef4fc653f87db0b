"""What a process owes after a crash, before it sends anything (RELIABILITY section 4).

    claimed?  no ───────────────────────────────────────────▶ back to its lane
       │ yes    (also what came from another process: its claim is all there is of it here)
    journal of this boot?  no ──────────────────────────────▶ uncertain
       │ yes
    write line?  no ────────────────────────────────────────▶ back to its lane
       │ yes
    answer line?  yes ─▶ applied as if it had just arrived   no ─▶ uncertain

It costs what was in flight: everything below the low-water mark is left alone. What was never
claimed is kept as an id and read when a lane wants it (`gateway/backlog.py`), so that a backlog of
any length is taken up in bounded memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from gateway.flow import Flow
from gateway.reports import fold_owned
from gateway.settle import Settler, is_repairable
from receipts.state import begin_attempt
from sms.model import Message, State, Submit
from sms.outcomes import (
    Cause,
    NotSent,
    Outcome,
    Rejected,
    Submitted,
    Throttled,
    Uncertain,
)
from store.claims import ClaimBook
from store.fragments import Why, unpark_sql
from store.journal import AnswerLine, Replay, WriteLine
from store.read import Head, Reader
from telemetry.failpoints import failpoints

LOST = "process.lost"
PAGE = 5000  # messages looked at in one go; nobody is served yet
_ADOPTED_PAGE = 1000
OPEN = frozenset({State.ACCEPTED, State.QUEUED})


@dataclass(slots=True)
class Recovered:
    """What was found, for the log; mutable while counting."""

    queued: int = 0
    answered: int = 0
    uncertain: int = 0
    is_journal_present: bool = False


async def recover(
    flow: Flow, claims: ClaimBook, replay_of: Callable[[Collection[int]], Awaitable[Replay]]
) -> Recovered:
    """Bring every unfinished message of this process into a defined state and commit that.

    `replay_of` reads what the journal says of the claimed messages. It is asked after the claims
    are known, and only what was claimed then is judged by it.
    """
    process = flow.lease.process
    reader = flow.reader
    blocks = await reader.claims(process)
    block_of: dict[int, int] = {}
    for block, ids in blocks.items():
        claims.adopt(block, ids)
        for message_id in ids:
            older = block_of.get(message_id)
            if older is not None:  # handed over, and taken again before that claim was deleted
                claims.settled(older)
            block_of[message_id] = block
    replay = await replay_of(block_of.keys())
    found = Recovered(is_journal_present=replay.is_present)
    for why in (Why.QUEUED, Why.SPILLED):  # what came back, or stood for long: whatever its id
        after = 0
        while heads := await reader.parked_heads(process, why, after, PAGE):
            after = heads[-1].id
            heads = await _owned(flow, heads)
            await _page(flow, heads, block_of, replay, found, is_parked=True)
    async for heads in reader.unfinished_heads(process, flow.lease.low_water, page=PAGE):
        await _page(flow, heads, block_of, replay, found, is_parked=False)
    await _adopted(flow, reader, block_of, replay, found)
    for block in block_of.values():  # the rest of each block had ended before the crash
        claims.settled(block)
    if failpoints.is_armed:
        failpoints.hit("recover.decided")
    await _committed(flow)
    return found


async def _owned(flow: Flow, heads: list[Head]) -> list[Head]:
    """Those of a parked page that nobody else is to send; the rows of the others go."""
    process = flow.lease.process
    mine = set(await flow.reader.still_mine(process, [head.id for head in heads]))
    gone = [head.id for head in heads if head.id not in mine]
    if gone:
        flow.ledger.commit([], sql=unpark_sql(gone, process))
    return [head for head in heads if head.id in mine]


async def _page(
    flow: Flow,
    heads: list[Head],
    block_of: dict[int, int],
    replay: Replay,
    found: Recovered,
    *,
    is_parked: bool,
) -> None:
    """Ids suffice for what was never claimed; the rest is read and asked of the journal."""
    claimed = [head.id for head in heads if head.id in block_of]
    flow.backlog.take_up((head for head in heads if head.id not in block_of), is_parked=is_parked)
    found.queued += len(heads) - len(claimed)
    if claimed:
        stored = await flow.reader.messages(claimed)
        messages = [fold_owned(record) for record in stored.values()]
        for message in messages:
            message.is_parked = is_parked
        _settle_page(flow, messages, block_of, replay, found)


async def _adopted(
    flow: Flow, reader: Reader, block_of: dict[int, int], replay: Replay, found: Recovered
) -> None:
    """What is ours by its claim only: taken from other processes, or back from them."""
    ids = sorted(block_of)
    for start in range(0, len(ids), _ADOPTED_PAGE):
        mine = await reader.still_mine(flow.lease.process, ids[start : start + _ADOPTED_PAGE])
        stored = await reader.messages(mine)
        messages = [fold_owned(record) for record in stored.values()]
        for message in messages:
            message.is_adopted = True
        _settle_page(flow, messages, block_of, replay, found)


def _settle_page(
    flow: Flow,
    messages: Iterable[Message],
    block_of: dict[int, int],
    replay: Replay,
    found: Recovered,
) -> None:
    queued: list[Message] = []
    for message in messages:
        if message.state not in OPEN:
            continue
        message.claim = block_of.pop(message.id, 0)
        results = results_of(message, replay) if message.claim else []
        flow.ledger.take_back(message)
        if not results:
            queued.append(message)
            found.queued += 1
            continue
        is_lost = any(isinstance(outcome, Uncertain) for _, outcome, _ in results)
        found.uncertain += is_lost
        found.answered += not is_lost
        apply_results(flow.settler, message, results)
    flow.dispatcher.put(queued)


def apply_results(
    settler: Settler, message: Message, results: Sequence[tuple[int, Outcome, int]]
) -> None:
    """Settle what the journal knows, as if the answers had just arrived."""
    channel = results[0][2]
    known = message.carrier_ids, message.segment_states  # reports of this very attempt
    begin_attempt(message, channel)
    message.carrier_ids, message.segment_states = known
    total = message.segments
    message.open_segments = total
    message.answers = [None] * total
    pairs = [
        (
            Submit(
                message,
                segment,
                total,
                message.number,
                "",
                message.encoding,
                b"",
                has_udh=False,
                validity_s=1,
                attempt=message.attempt,
                copy=message.copy,
            ),
            outcome,
        )
        for segment, outcome, _ in results
    ]
    settler.outcomes(channel, pairs)


def results_of(message: Message, replay: Replay) -> list[tuple[int, Outcome, int]]:
    """(segment, outcome, channel) of the attempt that was open; empty when nothing was written."""
    if not replay.is_present:
        return [(index, Uncertain(LOST), message.channel) for index in range(message.segments)]
    writes = [
        line
        for line in replay.writes.get(message.id, ())
        if line.attempt > message.attempt and line.copy == message.copy
    ]
    if not writes:
        return []
    newest = max(line.attempt for line in writes)
    writes = [line for line in writes if line.attempt == newest]
    answers = [
        line
        for line in replay.answers.get(message.id, ())
        if line.attempt == newest and line.copy == message.copy
    ]
    outcomes = [
        _outcome(
            [line for line in writes if line.segment == index],
            [line for line in answers if line.segment == index],
        )
        for index in range(message.segments)
    ]
    if any(isinstance(outcome, Submitted | Uncertain) for outcome in outcomes):
        # part of it may be on the air and the reference of its segments is gone with the process
        outcomes = [Uncertain(LOST) if is_repairable(outcome) else outcome for outcome in outcomes]
    return [(index, outcome, writes[-1].channel) for index, outcome in enumerate(outcomes)]


def _outcome(writes: list[WriteLine], answers: list[AnswerLine]) -> Outcome:
    """One segment: as many answers as writes means the last answer counts."""
    if not writes:
        return NotSent(LOST)
    if len(answers) < len(writes):
        return Uncertain(LOST)
    return from_line(answers[-1])


# A newer version's journal may name a cause that we do not know.
_CAUSES: dict[str, Cause] = {cause.value: cause for cause in Cause}


def from_line(line: AnswerLine) -> Outcome:
    """The outcome behind a journal line (kinds as in `store.journal`)."""
    if line.kind == 0:
        return Submitted(line.carrier_id)
    if line.kind == 1:
        cause, _, rest = line.code.partition("|")
        reason, _, code = rest.partition("|")
        return Rejected(code, _CAUSES.get(cause, Cause.UNKNOWN), reason)
    if line.kind == 2:
        return Throttled(1.0, line.code)
    return NotSent(LOST) if line.kind == 3 else Uncertain(LOST, line.carrier_id)


async def _committed(flow: Flow) -> None:
    """Wait until every row decided so far is durable."""
    done = asyncio.Event()
    flow.ledger.commit([], done=done.set)
    await done.wait()
