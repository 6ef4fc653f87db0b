"""What one process asks of the others: cancel, pause, resume, resend (DESIGN decision 7).

    API ─▶ whose is it? ─ ours ─▶ withdraw ═COMMIT═▶ answer
                        └ another's ─▶ a row in `commands` ═COMMIT═▶ owner ─▶ withdraw ═COMMIT═▶
                                       answer row ═COMMIT═▶ answer            2 s, else 503

A batch's state stands in its row before anybody is asked, and the command only says: look there.
So whoever comes too late for the command, after a restart or a takeover, does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from gateway.copies import Copies
from gateway.ledger import ENDS, Ledger
from gateway.lostanswer import CopyVerdict
from gateway.withdraw import BY_TENANT, Verdict, Withdrawals
from sms.errors import LeaseLost, OutcomeUnknown, StoreUnavailable, Unavailable
from sms.ids import IdClock
from sms.model import State
from store.commands import BatchState, Command, CommandTable, Json, Kind
from store.read import Reader
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

ANSWER_S: Final = 1.9  # of the 2 s in which a caller is answered
AGAIN_S: Final = 0.05  # until whoever has a message is looked for again
ANSWER_POLL_S: Final = 0.05  # wake-ups make both quicker, without Valkey they are all there is
POLL_S: Final = 0.25
AWAY_S: Final = 0.5
SIDE_BY_SIDE: Final = 50  # commands carried out at the same time
OF_TENANT: Final = 10  # of one tenant at most: the others' are begun though its are slow
KEPT_S: Final = 60.0  # answers that nobody read
CLOSE_S: Final = 1.0
REFRESH_S: Final = 10.0
COMMAND, ANSWER = "command", "answer"  # what others are woken with

_FAILED: Final[Json] = {"failed": True}
_ON_ITS_WAY = {State.ACCEPTED: State.QUEUED, **{s: s for s in (State.QUEUED, State.SUBMITTING)}}

T = TypeVar("T")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BatchLook:
    """A batch as its tenant sees it."""

    first_id: int
    created_at: float  # Unix seconds
    is_paused: bool
    counts: Mapping[State, int]


class _Running(NamedTuple):
    """A command that is being carried out, or is and has no committed answer yet."""

    command: Command
    task: asyncio.Task[Json | None]


class CommandDesk:
    """Asks, carries out, answers; `run` is its one long-lived loop."""

    def __init__(
        self,
        *,
        table: CommandTable,
        withdrawals: Withdrawals,
        reader: Reader,
        ledger: Ledger,
        ids: IdClock,
        metrics: Metrics,
    ) -> None:
        self._table = table
        self.withdrawals = withdrawals
        self._reader = reader
        self._ledger = ledger
        self._ids = ids
        self._metrics = metrics
        self._process = ids.process
        self._tasks: set[asyncio.Task[Any]] = set()  # carried out here for our own callers
        self._open = asyncio.Event()  # there may be commands for us, or answers to write
        self._running: dict[int, _Running] = {}  # by command, until its answer is committed
        self._answered = asyncio.Event()  # replaced when it is set: each waiter has its own
        self._handlers: dict[int, Callable[[Command], Awaitable[Json]]] = {
            Kind.CANCEL: self._cancel_here,
            Kind.BATCH: self._follow_batch,
            Kind.RESEND: self._resend_here,
        }
        self.copies: Copies  # joined by wiring
        self.wake: Callable[[int, str], None] = lambda process, what: None  # joined by wiring

    # -- asking ----------------------------------------------------------------------------

    async def cancel(self, tenant: int, message_id: int) -> Verdict:
        """Cancel one message of a tenant, wherever it is; ENDED or BUSY.

        ENDED: it is final and that is committed; read it to see how it ended. Raises
        OutcomeUnknown when nobody could say so within 2 s.
        """
        return await _in_time(self._cancel(tenant, message_id))

    async def _cancel(self, tenant: int, message_id: int) -> Verdict:
        while True:
            verdict = await self._cancel_once(tenant, message_id)
            if verdict is not Verdict.ELSEWHERE:
                return verdict
            await asyncio.sleep(AGAIN_S)

    async def _cancel_once(self, tenant: int, message_id: int) -> Verdict:
        places = await self._table.places([message_id])
        if not places:
            return Verdict.ELSEWHERE
        owner = places[0].owner()
        if owner is None or owner == self._process:
            found = await self._whole(self.withdrawals.end(tenant, [message_id], BY_TENANT))
            return found[message_id]
        answers = await self._ask([owner], Kind.CANCEL, tenant, message_id, message_id)
        return next((v for v in Verdict if answers[owner].get(v)), Verdict.ELSEWHERE)

    async def resend(self, tenant: int, message_id: int) -> CopyVerdict:
        """An operator wants a second copy of a tenant's uncertain message, wherever it is.

        MADE: it is committed. Raises OutcomeUnknown when nobody could say so within 2 s: it may
        be made yet.
        """
        return await _in_time(self._resend(tenant, message_id))

    async def _resend(self, tenant: int, message_id: int) -> CopyVerdict:
        was_lost = False
        while True:
            verdict = await self._resend_once(tenant, message_id)
            if verdict is CopyVerdict.DONE and was_lost:
                return CopyVerdict.MADE  # by this very wish, behind the row it had lost to
            was_lost |= verdict is CopyVerdict.LOST
            if verdict not in (CopyVerdict.ELSEWHERE, CopyVerdict.LOST):
                return verdict
            await asyncio.sleep(AGAIN_S)

    async def _resend_once(self, tenant: int, message_id: int) -> CopyVerdict:
        places = await self._table.places([message_id])
        owner = places[0].owner() if places else None
        if owner is None:
            return CopyVerdict.ELSEWHERE
        if owner == self._process:
            return await self._whole(self.copies.make(message_id))
        answers = await self._ask([owner], Kind.RESEND, tenant, message_id, message_id)
        return CopyVerdict(answers[owner]["verdict"])

    async def switch(self, tenant: int, first_id: int, state: BatchState) -> BatchState | None:
        """Pause, resume or cancel a batch; gives its state now: one that was canceled stays so.

        When it returns, every process acts on it: nothing of a paused or canceled batch leaves
        any more but what had an attempt open. None when there is none, or another tenant's.
        Raises OutcomeUnknown when not every process has answered within 2 s.
        """
        return await _in_time(self._switch(tenant, first_id, state))

    async def _switch(self, tenant: int, first_id: int, state: BatchState) -> BatchState | None:
        now = await self._table.set_state(first_id, tenant, state)
        if now is not state:
            return now
        others = [other for other in await self._table.owners() if other != self._process]
        await asyncio.gather(
            self._ask(others, Kind.BATCH, tenant, first_id, first_id),
            self._whole(self.withdrawals.follow(first_id)),
        )
        return now

    async def _whole(self, work: Coroutine[None, None, T]) -> T:
        """Finish it, though its caller is answered: half of it may leave messages to nobody."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_seen)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait a moment for what nobody waits for any more; the next life finds the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)

    async def _ask(
        self, processes: Sequence[int], kind: Kind, tenant: int, first_id: int, last_id: int
    ) -> dict[int, Json]:
        """Give each process a command and wait for the answers, however long it takes.

        By process; raises OutcomeUnknown when one of them failed.
        """
        commands = {self._ids.next(): process for process in processes}
        if not commands:
            return {}
        await self._table.give(
            [
                Command(command_id, self._process, process, kind, tenant, first_id, last_id)
                for command_id, process in commands.items()
            ]
        )
        for process in processes:
            self.wake(process, COMMAND)
        answers: dict[int, Json] = {}
        while len(answers) < len(commands):
            heard = self._answered
            answers |= await self._table.answers([one for one in commands if one not in answers])
            if len(answers) < len(commands):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(heard.wait(), ANSWER_POLL_S)
        with contextlib.suppress(StoreUnavailable):  # swept later
            await self._table.forget(list(commands))
        if any(answer == _FAILED for answer in answers.values()):
            raise OutcomeUnknown("a process failed while it carried the command out")
        return {commands[command_id]: answer for command_id, answer in answers.items()}

    # -- batches, to look at ---------------------------------------------------------------

    async def look(self, tenant: int, first_id: int) -> BatchLook | None:
        """A batch and where its messages stand; None when absent or another tenant's.

        Raises StoreUnavailable.
        """
        batch = await self._reader.batch(first_id, tenant)
        if batch is None:
            return None
        counts: dict[State, int] = {}
        for message_id, path in (await self._table.paths(first_id, batch.last_id)).items():
            state = self._state(message_id, path)
            counts[state] = counts.get(state, 0) + 1
        return BatchLook(first_id, batch.at, batch.state == BatchState.PAUSED, counts)

    def _state(self, message_id: int, path: int | None) -> State:
        """As the store has it, except that an owner knows what no row tells: queued, submitting."""
        stored = (None if path is None else ENDS[path]) or State.ACCEPTED
        if stored not in (State.ACCEPTED, State.QUEUED):
            return stored
        live = self._ledger.live.get(message_id)
        if live is None or live.is_handed:
            return stored
        return _ON_ITS_WAY.get(live.state, stored)

    def is_held(self, message_id: int) -> bool:
        """Whether the message's batch is paused."""
        return self.withdrawals.halts.state_of(message_id) is BatchState.PAUSED

    # -- carrying out ----------------------------------------------------------------------

    def woken(self, what: str) -> None:
        """Another process has something for us: a command or an answer."""
        if what == COMMAND:
            self._open.set()
        elif what == ANSWER:
            heard, self._answered = self._answered, asyncio.Event()
            heard.set()

    def look_again(self) -> None:
        """There may be commands of a process that we have taken over."""
        self._open.set()

    async def load(self) -> None:
        """Know which batches do not run; before anything is recovered. Raises StoreUnavailable."""
        await self.withdrawals.load()

    async def run(self) -> None:
        """Carry out what others ask until cancelled."""
        refresh_at = time.monotonic()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._open.wait(), POLL_S)
                self._open.clear()
                try:
                    await self.step()
                    if time.monotonic() >= refresh_at:
                        await self.refresh()
                        refresh_at = time.monotonic() + REFRESH_S
                except Unavailable as error:
                    log.warning("commands wait for the store", error=str(error))
                    await asyncio.sleep(AWAY_S)
        finally:
            tasks = [one.task for one in self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def step(self) -> None:
        """Answer what is carried out, begin what waits; raises Unavailable, LeaseLost.

        Nothing is waited for: a slow command holds up none but its own tenant's.
        """
        await self._answer()
        running = self._running
        if len(running) >= SIDE_BY_SIDE:
            return
        counts = Counter(one.command.tenant for one in running.values())
        busy = [tenant for tenant, count in counts.items() if count >= OF_TENANT]
        commands = await self._table.open(SIDE_BY_SIDE, OF_TENANT, running.keys(), busy)
        if failpoints.is_armed and commands:
            failpoints.hit("commands.taken")
        for command in commands:
            if counts[command.tenant] < OF_TENANT and len(running) < SIDE_BY_SIDE:
                counts[command.tenant] += 1
                task = asyncio.create_task(self._carry_out(command))
                task.add_done_callback(self._carried_out)
                running[command.id] = _Running(command, task)

    def _carried_out(self, task: asyncio.Task[Json | None]) -> None:
        """Look soon, unless the store is away: then whatever polls comes soon enough."""
        if task.cancelled() or task.exception() is not None or task.result() is not None:
            self._open.set()

    async def _answer(self) -> None:
        """Write the answers of all that is carried out by now, in one statement."""
        answers: dict[int, Json] = {}
        for command_id, one in list(self._running.items()):
            if not one.task.done():
                continue
            answer = one.task.result()  # raises LeaseLost
            if answer is None:
                del self._running[command_id]
            else:
                answers[command_id] = answer
        if not answers:
            return
        await self._table.answer(answers)
        if failpoints.is_armed:
            failpoints.hit("commands.answered")
        for requester in {self._running.pop(one).command.requester for one in answers}:
            self.wake(requester, ANSWER)
        self._open.set()  # there is room for more

    async def _carry_out(self, command: Command) -> Json | None:
        """The answer; None = not now, the store went away."""
        handler = self._handlers.get(command.kind)
        name = Kind(command.kind).name.lower() if handler is not None else "unknown"
        try:
            answer = _FAILED if handler is None else await handler(command)
            if failpoints.is_armed:
                failpoints.hit("commands.applied")
        except Unavailable:
            answer = None
        except LeaseLost:
            raise
        except Exception:  # the one of this loop: a command that crashes must not stop the others
            log.exception("a command failed", command_id=command.id)
            answer = _FAILED
        end = "later" if answer is None else "failed" if answer == _FAILED else "done"
        self._metrics.commands_total.inc((name, end))
        return answer

    async def _cancel_here(self, command: Command) -> Json:
        ids = range(command.first_id, command.last_id + 1)
        found = await self.withdrawals.end(command.tenant, ids, BY_TENANT)
        verdicts = list(found.values())
        return {verdict.value: verdicts.count(verdict) for verdict in Verdict}

    async def _resend_here(self, command: Command) -> Json:
        return {"verdict": str(await self.copies.make(command.first_id))}

    async def _follow_batch(self, command: Command) -> Json:
        await self.withdrawals.follow(command.first_id)
        return {}

    async def refresh(self) -> None:
        """What was missed, answers that nobody reads, and the age of what is open."""
        await self.withdrawals.refresh()
        await self._table.sweep(KEPT_S)
        age_s = await self._table.oldest_open_s()
        self._metrics.command_oldest_age_seconds.set((), age_s)


def _seen(task: asyncio.Task[Any]) -> None:
    """Whoever waited was told, and nobody else has to be: the store was away."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("a command was broken off", error=type(error).__name__)


async def _in_time(work: Coroutine[None, None, T]) -> T:
    """Whatever keeps us from an answer leaves the outcome open: a command may stand."""
    try:
        return await asyncio.wait_for(work, ANSWER_S)
    except TimeoutError as error:
        raise OutcomeUnknown(f"no answer within {ANSWER_S:g} s") from error
    except StoreUnavailable as error:
        raise OutcomeUnknown("the store went away during a command") from error
