"""Reports whose message nobody knows yet: kept first, answered then, and looked up again.

    nobody's ─▶ park() ═COMMIT═▶ answer
                   │ 1 s, 5 s, 30 s, 5 min, then every hour; one process at a time has it
                   ▼
                take ─▶ known by now ─▶ settled, deleted after its row is stored
                   ├─▶ can only be about one lost answer: orphans.py ─▶ the same
                   ├─▶ nobody's ─▶ its next step
                   └─▶ nobody's for 72 h ─▶ deleted, counted as orphan or foreign

A flood of strangers is bounded: of one channel at most `MAX_PARKED` are kept, and what is beyond
is refused, so the carrier keeps it. Ours do not wait behind them for long: an id that is known is
settled without being parked, and what is parked is looked at in the order in which it falls due,
a page at a time between two pages of new ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from gateway.ledger import Ledger
from gateway.matches import Match
from gateway.orphans import LOOK_S, Orphans
from gateway.reportbatch import Answerer, Batch, Desk, Settled, is_kept
from receipts import ends
from sms.errors import Unavailable
from sms.ids import IdClock, id_at, unix_of
from sms.model import Report
from store.fragments import (
    ParkedReport,
    delete_reports_sql,
    park_reports_sql,
)
from store.parked_reports import Stock, later_sql
from store.seal import Keyring
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

RETRY_AFTER_S: Final = (1.0, 5.0, 30.0, 300.0)  # waits between two looks; then hourly
HOURLY_S: Final = 3600.0
KEPT_S: Final = 259_200.0  # 72 h, then counted and dropped
PAGE: Final = 500
MAX_PARKED: Final = 200_000  # of one channel; beyond, the carrier is told "later"
OLD_S: Final = sum(RETRY_AFTER_S)  # what waits longer than the first steps is nobody's, as it seems
HASTEN_S: Final = 3.0  # between two such hurries, while answers are lost
HASTEN_LATER_S: Final = 60.0  # after one that failed
STOCK_S: Final = 10.0  # between two counts of what is parked, at least …
STOCK_SHARE: Final = 200.0  # … and so many times what one takes: half a per cent of the time

log = get_logger(__name__)


class Store(Protocol):
    """`parked_reports`, as far as it is asked here."""

    async def take(self, now: float, limit: int) -> list[ParkedReport]:
        """What is due and nobody has. Raises Unavailable."""
        ...

    async def hasten(self, channels: Collection[int], since: int) -> None:
        """Make some due now, with an id from `since` on. Raises Unavailable."""
        ...

    async def stock(self, old_before: int) -> dict[int, Stock]:
        """What waits, by channel. Raises Unavailable."""
        ...


class ParkedReports:
    """Keeps reports, and looks at them again when they are due."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        desk: Desk,
        ledger: Ledger,
        store: Store,
        keyring: Keyring,
        ids: IdClock,
        metrics: Metrics,
        answer: Answerer,
        lately_lost: Callable[[], Collection[int]],
        unix: Callable[[], float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`lately_lost` names the channels that lost answers since it was last asked."""
        self._desk = desk
        self._ledger = ledger
        self._store = store
        self._keyring = keyring
        self._ids = ids
        self._metrics = metrics
        self._answer = answer
        self._lately_lost = lately_lost
        self._unix = unix
        self._clock = clock
        self.orphans: Orphans | None = None  # joined by wiring
        self._adopted: set[tuple[int, str]] = set()  # channel and id; their rows are on their way
        self._hasten_due = 0.0  # Unix; when parked reports may be again, for lost answers
        self._to_hasten: set[int] = set()  # channels whose lost answers have their rows
        self._stock: dict[int, Stock] = {}  # by channel, as last counted
        self._added: dict[int, int] = {}  # parked here since
        self._stock_due = 0.0  # Unix

    # -- in ----------------------------------------------------------------------------------

    def park(self, reports: Sequence[Report]) -> None:
        """Nobody knows these: keep them, then answer them. What finds no room is refused."""
        by_channel: dict[int, list[Report]] = {}
        for report in reports:
            by_channel.setdefault(report.channel, []).append(report)
        unix = self._unix()
        parked: list[ParkedReport] = []
        kept: dict[int, list[object]] = {}
        for channel, some in by_channel.items():
            room = self._room(channel)
            if some[room:]:
                self._refuse(channel, some[room:])
            if some[:room]:
                kept[channel] = [report.token for report in some[:room]]
                self._added[channel] = self._added.get(channel, 0) + len(kept[channel])
                parked += [self._new(report, unix) for report in some[:room]]
        if not parked:
            return

        def done() -> None:
            for channel, tokens in kept.items():
                self._answer(channel, tokens, accepted=True)
                self._metrics.reports_parked_total.inc((self._name(channel),), len(tokens))

        self._ledger.commit([], sql=park_reports_sql(self._keyring, parked), done=done)

    def _room(self, channel: int) -> int:
        stock = self._stock.get(channel)
        count = 0 if stock is None else stock.waiting
        return max(0, MAX_PARKED - count - self._added.get(channel, 0))

    def _refuse(self, channel: int, reports: Sequence[Report]) -> None:
        self._answer(channel, [report.token for report in reports], accepted=False)
        self._desk.count(channel, ends.REFUSED, len(reports))

    def _new(self, report: Report, unix: float) -> ParkedReport:
        return ParkedReport(
            self._ids.next(),
            report.channel,
            report.carrier_id,
            report.state,
            report.error,
            report.number,
            0,
            unix + RETRY_AFTER_S[0],
            report.reference,
            report.part,
        )

    # -- looks -------------------------------------------------------------------------------

    async def round(self) -> bool:
        """Look at one page of what is due; True when there may be more. Raises Unavailable."""
        unix = self._unix()
        due = await self._store.take(unix, PAGE)
        if due:
            await self._look_at(due, unix)
        await self._hasten(unix)
        if unix >= self._stock_due:
            await self._count_stock(unix)
        return len(due) == PAGE

    async def _hasten(self, unix: float) -> None:
        """Answers were lost: a receipt may have been quicker, and waits.

        Behind the commit that says that they were, and beside the lane: no message waits for it.
        """
        if unix < self._hasten_due:
            return
        channels, self._to_hasten = self._to_hasten, set()
        if lost := set(self._lately_lost()):
            self._ledger.commit([], done=partial(self._lost_for_sure, lost))
        if not channels:
            return
        self._hasten_due = unix + HASTEN_S
        try:
            await self._store.hasten(channels, id_at(unix - LOOK_S))
        except Unavailable as error:
            log.warning("parked reports not hastened", error=str(error))
            self._to_hasten |= channels
            self._hasten_due = unix + HASTEN_LATER_S

    def _lost_for_sure(self, channels: set[int]) -> None:
        self._to_hasten |= channels

    async def _look_at(self, due: Sequence[ParkedReport], unix: float) -> None:
        was_due = {parked.id: parked.due for parked in due}
        pairs = [(_report_of(parked), parked) for parked in due]
        parked_of = {id(report): parked for report, parked in pairs}
        owners = await self._desk.owners([report for report, _ in pairs])
        left = self._settle(owners.found + owners.early, parked_of, unix)
        left += await self._match_orphans(owners.missing, parked_of, unix)
        over = [(parked_of[id(report)], ends.GONE) for report in owners.gone]
        later: list[tuple[ParkedReport, float]] = []
        for report in left:
            parked = parked_of[id(report)]
            if unix >= unix_of(parked.id) + KEPT_S:
                over.append((parked, ends.ORPHAN if parked.is_orphan else ends.FOREIGN))
            else:
                parked.tries += 1
                parked.due = next_due(parked, unix)
                later.append((parked, was_due[parked.id]))
        if later:
            self._ledger.commit([], sql=later_sql(later))
        self._end(over)

    def _settle(
        self,
        found: Sequence[tuple[Report, Match]],
        parked_of: Mapping[int, ParkedReport],
        unix: float,
    ) -> list[Report]:
        """Settle those whose owner is known; returns those that crashed, to be tried again."""
        crashed: list[Report] = []
        batches: dict[int, Batch] = {}
        settled_ones: list[tuple[ParkedReport, Settled, str]] = []
        for report, match in found:
            batch = batches.setdefault(report.channel, Batch(unix))
            settled, end = self._desk.settle(batch, report, match, has_waited=True)
            if settled is False:
                crashed.append(report)
            else:
                settled_ones.append((parked_of[id(report)], settled, end))
        self._commit(batches, settled_ones)
        return crashed

    def _commit(
        self,
        batches: Mapping[int, Batch],
        settled_ones: Sequence[tuple[ParkedReport, Settled, str]],
    ) -> None:
        for channel, batch in batches.items():
            self._desk.finish(channel, batch, [])
        if settled_ones:
            self._ledger.commit([], done=partial(self._forget, settled_ones))

    def _forget(self, settled_ones: Sequence[tuple[ParkedReport, Settled, str]]) -> None:
        """Only stored rows make a parked report needless; until then it is tried again."""
        self._end([(parked, end) for parked, settled, end in settled_ones if is_kept(settled)])

    def _end(self, over: Sequence[tuple[ParkedReport, str]]) -> None:
        """Delete and count them; of what nobody knew for 72 h the log has a line."""
        if not over:
            return

        def done() -> None:
            numbers: dict[tuple[int, str], int] = {}
            for parked, end in over:
                key = parked.channel, end
                numbers[key] = numbers.get(key, 0) + 1
            for (channel, end), number in numbers.items():
                self._desk.count(channel, end, number)
                if end in {ends.ORPHAN, ends.FOREIGN}:
                    name = self._name(channel)
                    log.warning("reports dropped", channel=name, end=end, reports=number)

        sql = delete_reports_sql([parked.id for parked, _ in over])
        self._ledger.commit([], sql=sql, done=done)

    # -- lost answers ------------------------------------------------------------------------

    async def _match_orphans(
        self, missing: list[Report], parked_of: Mapping[int, ParkedReport], unix: float
    ) -> list[Report]:
        """Settle those that can only be about one lost answer; returns the others."""
        young = [one for one in missing if unix - unix_of(parked_of[id(one)].id) <= LOOK_S]
        orphans = self.orphans
        if orphans is None or not young:
            return missing
        candidates = await orphans.candidates(young)
        ids = sorted({one for some in candidates.values() for one in some})
        messages = await self._desk.standing(ids)

        def match_of(report: Report) -> Match | None:
            at = unix_of(parked_of[id(report)].id)
            return orphans.match(report, at, candidates, messages)

        for report in young:
            parked = parked_of[id(report)]
            if not parked.is_orphan:
                at = unix_of(parked.id)
                parked.is_orphan = orphans.is_near_one(report, at, candidates, messages)
        likely = [report for report in missing if match_of(report) is not None]
        # A row that says whose it is may have come since it was looked for: then that one is at
        # its end for the candidates, and not in doubt.
        found = (await self._desk.owners(likely))[:2] if likely else ([], [])
        known = [*found[0], *found[1]]
        left = self._settle(known, parked_of, unix)
        is_known = {id(report) for report, _ in known}
        others = [report for report in missing if id(report) not in is_known]
        return left + self._adopt(others, parked_of, match_of, unix)

    def _adopt(
        self,
        reports: Sequence[Report],
        parked_of: Mapping[int, ParkedReport],
        match_of: Callable[[Report], Match | None],
        unix: float,
    ) -> list[Report]:
        """One after the other: what one of them settles, the next one is not about.

        A report that was kept twice, for its first answer was lost, waits until the row of the
        other one is there, which has its id: then it is a repeat.
        """
        keys: set[tuple[int, str]] = set()
        left: list[Report] = []
        batches: dict[int, Batch] = {}
        settled_ones: list[tuple[ParkedReport, Settled, str]] = []
        for report in reports:
            key = report.channel, report.carrier_id
            match = None if key in self._adopted else match_of(report)
            if match is None:
                left.append(report)
                continue
            batch = batches.setdefault(report.channel, Batch(unix))
            settled, end = self._desk.settle(batch, report, match, is_orphan=True)
            if settled is False:
                left.append(report)
            else:
                keys.add(key)
                self._adopted.add(key)
                settled_ones.append((parked_of[id(report)], settled, end))
        self._commit(batches, settled_ones)
        if keys:
            self._ledger.commit([], done=partial(self._adopted.difference_update, keys))
        return left

    # -- how many ----------------------------------------------------------------------------

    async def _count_stock(self, unix: float) -> None:
        """Count what the table holds: true for all processes, seldom when it is long.

        A count that is cut off for it takes too long leaves the last one: looks come first.
        """
        began = self._clock()
        try:
            self._stock = await self._store.stock(id_at(unix - OLD_S))
        except Unavailable as error:
            log.warning("parked reports not counted", error=str(error))
        else:
            self._added.clear()
        self._stock_due = unix + max(STOCK_S, (self._clock() - began) * STOCK_SHARE)

    def set_gauges(self) -> None:
        """Before a scrape."""
        counts, ages = self._metrics.parked_reports, self._metrics.parked_reports_oldest_age_seconds
        counts.clear()
        ages.clear()
        unix = self._unix()
        for channel, stock in self._stock.items():
            name = self._name(channel)
            counts.set((name, "new"), stock.waiting - stock.old)
            counts.set((name, "old"), stock.old)
            ages.set((name,), max(0.0, unix - unix_of(stock.oldest)))

    def _name(self, channel: int) -> str:
        return self._ledger.channel_names.get(channel, "")


def retry_after_s(tries: int) -> float:
    """How long a parked report waits for its next look after so many of them."""
    return RETRY_AFTER_S[tries] if tries < len(RETRY_AFTER_S) else HOURLY_S


def next_due(parked: ParkedReport, unix: float) -> float:
    """When it is looked at again; the last look is at the end of its 72 h.

    Counted from when it was due, so that looks which come a little late do not add up; after an
    outage from now, so that nothing is looked at twice in a row.
    """
    step_s = retry_after_s(parked.tries)
    begin = parked.due if unix - parked.due < step_s else unix
    return min(begin + step_s, max(unix, unix_of(parked.id) + KEPT_S))


def _report_of(parked: ParkedReport) -> Report:
    return Report(
        parked.channel,
        parked.carrier_id,
        parked.state,
        parked.error,
        parked.number,
        None,
        parked.reference,
        parked.part,
    )
