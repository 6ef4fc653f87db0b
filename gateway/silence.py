"""What looks after messages that nothing more is heard of, joined: deadline and reconciler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

from gateway.deadline import Deadlines
from gateway.flow import Flow
from gateway.reconcile import Reconciler
from store.database import Pool
from store.silence import SilenceStore

ROUND_S = 1.0  # between two questions' turns
DEADLINE_S, DEADLINE_SHARE = 10.0, 0.1  # between two looks for what is over its deadline

Every = Callable[[float, str, Callable[[], Awaitable[None]]], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Silence:
    """Its loops are the worker's."""

    flow: Flow
    deadlines: Deadlines
    reconciler: Reconciler

    def loops(self, every: Every) -> list[Coroutine[None, None, None]]:
        """For the worker's life; `every` runs a step again and again."""
        wait_s = min(DEADLINE_S, self.flow.reliability.receipt_deadline_s * DEADLINE_SHARE)
        return [
            every(wait_s, "receipt deadline", self._end),
            every(ROUND_S, "overdue receipts", self._ask),
        ]

    async def _end(self) -> None:
        if not self.flow.is_draining:
            await self.deadlines.round()

    async def _ask(self) -> None:
        if not self.flow.is_draining:
            await self.reconciler.round()


def open_silence(flow: Flow, pool: Pool) -> Silence:
    """Join them to a worker's flow."""
    numbers, ledger = flow.reliability, flow.ledger
    store = SilenceStore(pool, ledger.process)
    deadlines = Deadlines(
        store=store,
        reader=flow.reader,
        ledger=ledger,
        metrics=flow.metrics,
        deadline_s=numbers.receipt_deadline_s,
    )
    deadlines.is_stopped = lambda: flow.is_draining
    reconciler = Reconciler(
        store=store,
        reader=flow.reader,
        ledger=ledger,
        channels=flow.dispatcher.channels,
        asks=flow.evidence.asks,
        metrics=flow.metrics,
        after_s=numbers.overdue_after_s,
        deadline_s=numbers.receipt_deadline_s,
        per_s=numbers.reconcile_per_s,
    )
    return Silence(flow, deadlines, reconciler)
