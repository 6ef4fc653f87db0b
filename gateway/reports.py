"""Whose report is it, and what does it change? Answered to the carrier only when durable.

report ─▶ id, or our own word for the attempt, in memory? ──yes──▶ row ═COMMIT═▶ answer
             │ no
             ▼
          look-up in the store, in batches ──found──▶ fold, row ═COMMIT═▶ answer
             │ nobody's yet: another process may just be committing it; once more after 0.2 s
             ▼
          parked_reports ═COMMIT═▶ answer; looked up again for 72 h: parked.py

Each report comes to one end (receipts/ends.py) and is counted there, when it is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from adapters.http.vendors import VENDORS
from gateway.carrier_words import CarrierWords
from gateway.conflicts import refresh
from gateway.dispatch import Dispatcher
from gateway.echoed import match_stored, match_waiting, message_of, segments_of
from gateway.evidence import Evidence
from gateway.ledger import Ledger
from gateway.matches import Match, Matches, is_answered
from gateway.orphans import open_segments
from gateway.parked import ParkedReports
from gateway.parked import Store as ParkedStore
from gateway.reportbatch import Answerer, Batch, Owners, Pending, Settled, is_kept
from gateway.slices import SLICE
from gateway.unknown import Unknown
from receipts import ends
from receipts.normalise import ReportCodes, Verdict
from receipts.state import Path, come_due, fold, report_path
from sms.config import Channel
from sms.errors import LeaseLost, Unavailable
from sms.ids import IdClock
from sms.model import FINAL_STATES, Message, MessageClass, Report, State
from sms.outcomes import Submitted, Uncertain
from store.fragments import Why, park_sql, unpark_sql
from store.read import Reader, Stored
from store.seal import Keyring
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

SECOND_LOOK_S = 0.2  # what another process submitted is in the store by then
PARKED_POLL_S = 0.5
ELSEWHERE_S = 10.0  # between two looks at what waits here and may have ended in another process
LOOKUP_BATCH = 500
MAX_PENDING = 100_000  # reports that wait for a look-up; beyond, the carrier is told "later"
REPARK_S = 600.0

CRASHES = 5  # a report that crashes its handler so often is given up
MAX_CRASHES = 1000  # reports whose crashes are counted

_SUBMITTING = State.SUBMITTING  # as a global for the path: `State.X` is a function call
_USUAL = ReportCodes()  # for what a channel that was removed still brings

# What an orphan must have done to its message to have found it.
_ADOPTS = frozenset({ends.MATCHED, ends.INTERMEDIATE})

log = get_logger(__name__)


def _vendor_words(protocol: str) -> Mapping[str, str]:
    """What an HTTP vendor's words mean; a wire protocol's stand in receipts."""
    kind = VENDORS.get(protocol)
    return kind.reports if kind else {}


class Reports:
    """Settles reports; `receive` is synchronous, look-ups run in one long-lived loop."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        ledger: Ledger,
        dispatcher: Dispatcher,
        evidence: Evidence,
        matches: Matches,
        reader: Reader,
        keyring: Keyring,
        ids: IdClock,
        words: CarrierWords,
        metrics: Metrics,
        answer: Answerer,
        parked: ParkedStore,
        unix: Callable[[], float],
        max_attempts: int = 4,
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._evidence = evidence
        self._matches = matches
        self._reader = reader
        self._words = words
        self._metrics = metrics
        self._answer = answer
        self._unix = unix
        self._max_attempts = max_attempts
        self._unknown = Unknown(MAX_PENDING)
        self._second: deque[tuple[float, list[Report]]] = deque()  # unknown once, and until when
        self._returning: list[Message] = []
        self._crashes: dict[tuple[int, str], int] = {}
        self._codes: dict[int, ReportCodes] = {}  # by channel
        self._wake = asyncio.Event()
        self._looked_at = 0.0  # Unix; when the store was asked about what waits
        self._polled_at = 0.0  # Unix; when parked reports were looked for
        self.parked = ParkedReports(
            desk=self,
            ledger=ledger,
            store=parked,
            keyring=keyring,
            ids=ids,
            metrics=metrics,
            answer=answer,
            lately_lost=evidence.lately_lost,
            unix=unix,
        )

    def use(self, channels: Iterable[Channel]) -> None:
        """Judge the channels' reports by what is configured now."""
        self._codes = {
            channel.id: ReportCodes(
                channel.protocol, {**_vendor_words(channel.protocol), **channel.report_classes}
            )
            for channel in channels
        }

    # -- from a channel --------------------------------------------------------------------

    def receive(self, channel: int, reports: Sequence[Report]) -> None:
        """Status reports of one burst of one channel."""
        batch = Batch(self._unix())
        tokens: list[Pending] = []
        unknown: list[Report] = []
        name = self._ledger.channel_names.get(channel, "")
        self._metrics.reports_received_total.inc((name,), len(reports))
        for report in reports:
            match = self._matches.get(channel, report.carrier_id)
            if match is None and report.reference:
                match = match_waiting(report, self._evidence.waiting.get(message_of(report) or 0))
            if match is not None:
                tokens.append((report.token, *self.settle(batch, report, match)))
            elif report.carrier_id or message_of(report):
                unknown.append(report)
            else:  # it names nothing that anybody could ever look for
                tokens.append((report.token, True, ends.UNREADABLE))
        if tokens:
            self.finish(channel, batch, tokens)
        if unknown:
            beyond = self._unknown.put(channel, unknown)
            self._wake.set()
            if beyond:
                self._answer(channel, [report.token for report in beyond], accepted=False)
                self.count(channel, ends.REFUSED, len(beyond))

    def finish(self, channel: int, batch: Batch, tokens: list[Pending]) -> None:
        """Commit the batch, then answer and count its reports."""
        back, over = batch.back, batch.over
        self._observe(channel, batch)

        def done() -> None:
            self._answer_after(channel, tokens)
            for of_channel, carrier_id in over:
                self._matches.forget(of_channel, carrier_id)
            for message, row in back:
                if row.is_stored:
                    self._come_back(message)

        self._ledger.commit(batch.rows, sql="".join(batch.sql), done=done)

    def _answer_after(self, channel: int, tokens: list[Pending]) -> None:
        """A report whose row lost its key is not durable yet: the carrier sends it again."""
        kept: list[object] = []
        later: list[object] = []
        numbers: dict[str, int] = {}
        for token, settled, end in tokens:
            if is_kept(settled):
                kept.append(token)
                numbers[end] = numbers.get(end, 0) + 1
            else:
                later.append(token)
        if kept:
            self._answer(channel, kept, accepted=True)
        if later:
            self._answer(channel, later, accepted=False)
            numbers[ends.REFUSED] = len(later)
        for end, number in numbers.items():
            self.count(channel, end, number)

    def count(self, channel: int, end: str, number: int = 1) -> None:
        """Reports of a channel came to this end."""
        name = self._ledger.channel_names.get(channel, "")
        self._metrics.reports_total.inc((name, end), number)

    def _observe(self, channel: int, batch: Batch) -> None:
        """How long the reports took."""
        name = self._ledger.channel_names.get(channel, "")
        for (carrier, submitted_at), number in batch.sent.items():
            lag_s = max(0.0, batch.unix - submitted_at)
            self._metrics.receipt_lag_seconds.observe((name, carrier.value), lag_s, number)
            bad = min(number, batch.undelivered.get(carrier, 0))
            if bad:
                batch.undelivered[carrier] -= bad
            self._dispatcher.receipted(channel, carrier, number - bad, bad, lag_s)

    # -- one report ------------------------------------------------------------------------

    def settle(
        self,
        batch: Batch,
        report: Report,
        match: Match,
        *,
        has_waited: bool = False,
        is_orphan: bool = False,
    ) -> tuple[Settled, str]:
        """Judge one report: its rows, or whether it may be answered without one; and its end.

        A report that crashes its handler is sent again by the carrier and given up after five
        times (RELIABILITY section 4), so that it cannot take the others with it.
        """
        before = len(batch.rows)
        try:
            end = self._judge(batch, report, match, report.carrier_id if is_orphan else None)
        except Exception:  # one bad report must not end the session or the worker
            log.exception("report crashed its handler", message_id=match[0].id)
            return self._crashed(report), ends.GIVEN_UP
        rows = batch.rows[before:]
        if is_orphan and rows:
            end = ends.ADOPTED if end in _ADOPTS else end
        elif has_waited and end == ends.MATCHED:
            end = ends.EARLY
        return rows or True, end

    def _crashed(self, report: Report) -> bool:
        key = (report.channel, report.carrier_id or report.reference)
        times = self._crashes.get(key, 0) + 1
        if len(self._crashes) > MAX_CRASHES:
            self._crashes.clear()
        self._crashes[key] = times
        if times < CRASHES:
            return False
        self._metrics.quarantined_total.inc(("report",))
        return True

    def _judge(self, batch: Batch, report: Report, match: Match, new_id: str | None) -> str:
        """One word about all segments that it is about: the most that it did to one of them.

        `new_id`: the carrier's id, where it is not known yet and is to be kept.
        """
        message, _, copy, attempt = match
        codes = self._codes.get(report.channel, _USUAL)
        verdict, code = codes.read(report.state, report.error)
        name = self._ledger.channel_names.get(report.channel, "")
        if not verdict.is_known:
            self._words.unmapped(name, report.error or report.state)
        end = ends.INTERMEDIATE
        if verdict.state is None:
            if attempt and verdict.is_known:
                self._adopt(batch, report, match)
            return end
        is_delivered = verdict.state is State.DELIVERED
        if attempt and attempt < message.attempt and copy == message.copy and not is_delivered:
            return ends.SUPERSEDED  # the vendor says no more of what a newer attempt replaced
        for segment in segments_of(report, match, is_delivered=is_delivered):
            about = message, segment, copy, attempt
            one = self._judge_one(batch, report, about, verdict, verdict.state, code, new_id)
            if ends.RANK[one] > ends.RANK[end]:
                end = one
        if end == ends.MATCHED and verdict.is_bad_number and verdict.state is State.UNDELIVERED:
            self._words.bad_number(name, message, verdict.reason)
        return end

    def _judge_one(  # noqa: PLR0913, PLR0917 (what `_judge` knows, once for each segment)
        self,
        batch: Batch,
        report: Report,
        about: tuple[Message, int, int, int],
        verdict: Verdict,
        state: State,
        code: str,
        new_id: str | None,
    ) -> str:
        message, segment, copy, attempt = about
        # Found by our own word: that says which attempt it is about, whatever id it has beside.
        carrier_id = None if attempt else report.carrier_id
        is_submitting = message.state is _SUBMITTING and not attempt and copy == message.copy
        is_its_own = is_submitting and is_answered(message.answers, segment, report.carrier_id)
        if is_submitting and not is_its_own and state is not State.DELIVERED:
            return ends.SUPERSEDED  # an id that the open attempt did not get is an earlier one's
        path = report_path(message, segment, copy, state, carrier_id=carrier_id)
        if path is None:
            return ends.end_without_row(message, segment, copy, state)
        if verdict.is_temporary and self._may_resend(message, path, report.channel):
            return self._resend(batch, report, message, verdict)
        before, submitted_at = message.state, message.submitted_at
        if is_its_own:
            # Its segment was answered, others of the text were not: the row that keeps the id is
            # not made yet, and never will be where this life ends now. A repeat is known by this.
            new_id = report.carrier_id
        row = self._ledger.row(
            message,
            path,
            state,
            batch.unix,
            segment=segment,
            copy=copy,
            channel=report.channel,
            carrier_id=new_id,
            code=code,
            reason=verdict.reason,
        )
        if row is None:
            return ends.ILLEGAL
        row.heard_as = carrier_id
        batch.rows.append(row)
        if submitted_at is not None:
            sent = message.carrier, submitted_at
            batch.sent[sent] = batch.sent.get(sent, 0) + 1
            if state is not State.DELIVERED:
                batch.undelivered[sent[0]] = batch.undelivered.get(sent[0], 0) + 1
        if message.state in FINAL_STATES:
            self._ended(batch, report, message)
        return ends.end_of_row(before, row.path)

    def _adopt(self, batch: Batch, report: Report, match: Match) -> None:
        """Transition 13: not an end yet, but whoever reports about a text has it.

        About one segment of several it is a note, until something is known of each of them.
        """
        message, segments, copy, attempt = match
        if message.state is not State.UNCERTAIN or (attempt, copy) != (
            message.attempt,
            message.copy,
        ):
            return
        is_whole = not set(open_segments(message, copy)) - set(segments)
        for segment in segments:
            row = self._ledger.row(
                message,
                Path.SUBMITTED_LATE if is_whole and segment == segments[-1] else Path.NOTE,
                State.SUBMITTED,
                batch.unix,
                segment=segment,
                copy=copy,
                channel=report.channel,
                carrier_id=report.carrier_id or None,
            )
            if row is not None:
                batch.rows.append(row)
        if is_whole:
            self._found(batch, message)

    def _found(self, batch: Batch, message: Message) -> None:
        """Nothing is awaited in `parked` any more."""
        if message.is_parked:
            message.is_parked = False
            self._evidence.found(message)
            batch.sql.append(unpark_sql([message.id]))

    def _ended(self, batch: Batch, report: Report, message: Message) -> None:
        self._found(batch, message)
        if len(message.texts) == 1:
            batch.over.append((report.channel, report.carrier_id))
        elif message.state is State.DELIVERED:  # no segment's receipt is outstanding
            for answer in message.answers:
                if isinstance(answer, Submitted | Uncertain):
                    batch.over.append((report.channel, answer.carrier_id))

    def _may_resend(self, message: Message, path: Path, channel: int) -> bool:
        """Transition 17: the receipt names a temporary or channel fault, and another may do."""
        return (
            path is Path.UNDELIVERED
            and message.state is State.SUBMITTED
            and not message.copy
            and message.message_class is not MessageClass.MARKETING
            and message.attempt < self._max_attempts
            and message.valid_until > self._unix()
            and self._dispatcher.has_other(message, channel)
        )

    def _resend(self, batch: Batch, report: Report, message: Message, verdict: Verdict) -> str:
        row = self._ledger.row(
            message,
            Path.QUEUED,
            State.QUEUED,
            batch.unix,
            copy=message.copy,
            channel=report.channel,
            code=f"{report.state} {report.error}".strip(),
            reason=verdict.reason,
        )
        if row is None:
            return ends.ILLEGAL
        batch.rows.append(row)
        message.is_parked = True
        parked = (
            message.id,
            batch.unix + REPARK_S,
            Why.QUEUED,
            message.message_class,
            message.tenant,
        )
        batch.sql.append(park_sql(self._ledger.process, [parked]))
        batch.sql.append(self._ledger.reclaim_sql(row))  # the submitter's block may stand yet
        batch.back.append((message, row))
        return ends.RESENT

    def _come_back(self, message: Message) -> None:
        """The text was dropped when the carrier took it: read it back, then queue."""
        self._returning.append(message)
        self._wake.set()

    # -- look-ups --------------------------------------------------------------------------

    async def run(self) -> None:
        """Look up unknown ids and parked reports until cancelled. Raises LeaseLost."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._wait_s())
            self._wake.clear()
            try:
                await self._round()
            except Unavailable:
                self._metrics.report_lookups_failed_total.inc(())
                await asyncio.sleep(0.5)

    def _wait_s(self) -> float:
        if self._unknown or self._returning:
            return 0.0
        unix = self._unix()
        wait_s = max(0.001, min(PARKED_POLL_S, self._polled_at + PARKED_POLL_S - unix))
        if self._second:
            wait_s = min(wait_s, max(0.001, self._second[0][0] - unix))
        return wait_s

    async def _round(self) -> None:
        """A page of each kind: none of them waits behind all of another, however much comes."""
        if page := self._unknown.page(LOOKUP_BATCH):
            try:
                missing = await self._look_up(page)
            except Unavailable:
                self._unknown.back(page)
                raise
            if missing:
                self._second.append((self._unix() + SECOND_LOOK_S, missing))
        if self._second and self._second[0][0] <= self._unix():
            missing = await self._look_up(self._second[0][1], has_waited=True)
            self._second.popleft()
            if missing:
                self.parked.park(missing)
                self._unknown.gone(missing)
        if self._returning:
            await self._read_back(self._returning[:LOOKUP_BATCH])
        if self._unix() - self._polled_at >= PARKED_POLL_S:
            is_more = await self.parked.round()
            self._polled_at = 0.0 if is_more else self._unix()
        if self._unix() - self._looked_at >= ELSEWHERE_S:
            self._looked_at = self._unix()
            await self._look_elsewhere()

    async def _look_elsewhere(self) -> None:
        """What ended in another process is over here as well: its vendor is asked no more."""
        waiting = self._evidence.unheard(self._unix(), LOOKUP_BATCH)
        stored = await self._reader.messages([one.id for one in waiting]) if waiting else {}
        for live in waiting:
            record = stored.get(live.id)
            if record is None or self._evidence.waiting.get(live.id) is not live:
                continue
            fresh = fold_stored(record)
            if fresh.state in FINAL_STATES and fresh.sequence > live.sequence:
                refresh(live, fresh)
                self._evidence.found(live)

    async def _read_back(self, messages: list[Message]) -> None:
        stored = await self._reader.messages([message.id for message in messages])
        for message in messages:
            found = stored.get(message.id)
            if found is not None and message.id not in self._ledger.live:
                message.texts = found.message.texts
                self._dispatcher.resend(message)
        del self._returning[: len(messages)]

    async def _look_up(self, reports: list[Report], *, has_waited: bool = False) -> list[Report]:
        """Settle those whose message is known; returns the others."""
        owners = await self.owners(reports)
        self._unknown.gone(report for report, _ in (*owners.found, *owners.early))
        self._unknown.gone(owners.gone)
        for pairs, waited in ((owners.found, has_waited), (owners.early, True)):
            for start in range(0, len(pairs), SLICE):
                self._settle_some(pairs[start : start + SLICE], has_waited=waited)
                await asyncio.sleep(0)
        gone: dict[int, list[Pending]] = {}
        for report in owners.gone:
            gone.setdefault(report.channel, []).append((report.token, True, ends.GONE))
        for channel, tokens in gone.items():
            self.finish(channel, Batch(self._unix()), tokens)
        return owners.missing

    def _settle_some(self, pairs: Sequence[tuple[Report, Match]], *, has_waited: bool) -> None:
        batches: dict[int, tuple[Batch, list[Pending]]] = {}
        for report, match in pairs:
            batch, tokens = batches.setdefault(report.channel, (Batch(self._unix()), []))
            settled = self.settle(batch, report, match, has_waited=has_waited)
            tokens.append((report.token, *settled))
        for channel, (batch, tokens) in batches.items():
            self.finish(channel, batch, tokens)

    async def owners(self, reports: Sequence[Report]) -> Owners:
        """Which of the reports are whose: memory once more, then the store. Raises Unavailable.

        By the carrier's id first; our own word is asked where that says nothing.
        """
        owners = Owners([], [], [], [])
        asked: list[Report] = []
        for report in reports:
            match = self._matches.get(report.channel, report.carrier_id)
            if match is None:
                asked.append(report)
            else:
                owners.early.append((report, match))
        if not asked:
            return owners
        pairs = list({(one.channel, one.carrier_id) for one in asked if one.carrier_id})
        ids = await self._reader.by_carrier_ids(pairs, now=self._unix()) if pairs else {}
        named = {message_of(one) for one in asked if (one.channel, one.carrier_id) not in ids}
        # Held while the store is asked: what leaves memory meanwhile is not in the answer either.
        held = {owner[0]: self._at_hand(owner[0]) for owner in ids.values()}
        wanted = [message_id for message_id, one in held.items() if one is None]
        spoiled: set[int] = set()
        found = await self._stand([*wanted, *(one for one in named if one)], spoiled)
        for report in asked:
            hit = ids.get((report.channel, report.carrier_id))
            message_id = message_of(report) if hit is None else hit[0]
            stood = found.get(message_id or 0)
            message = self._at_hand(message_id or 0) or held.get(message_id or 0)
            message = message or (stood and stood[0])
            match = None
            if hit is not None and hit[0] not in spoiled:
                if message is None:  # its row stands, or stood a moment ago, and it is no more
                    owners.gone.append(report)
                    continue
                match = message, hit[1], hit[2], 0
            elif message is not None and stood is not None:
                match = match_stored(report, message, stood[1].rows)
            if match is None:
                owners.missing.append(report)
            else:
                owners.found.append((report, match))
        return owners

    async def standing(self, ids: Sequence[int]) -> dict[int, tuple[Message, Stored]]:
        """These messages as they stand now, with their stored rows. Raises Unavailable.

        Those whose day was dropped, or whose keys were, are left out: nobody can end them.
        """
        return await self._stand(ids, set())

    async def _stand(
        self, ids: Sequence[int], spoiled: set[int]
    ) -> dict[int, tuple[Message, Stored]]:
        """The same; one that cannot be read joins `spoiled` and does not stop the others."""
        found: dict[int, tuple[Message, Stored]] = {}
        try:
            for message_id, record in (await self._reader.readable(ids) if ids else {}).items():
                fresh = fold_stored(record)
                fresh.is_parked = fresh.state is State.UNCERTAIN  # whoever made it so parked it
                found[message_id] = self._at_hand(message_id) or fresh, record
        except (Unavailable, LeaseLost):
            raise
        except Exception:  # one bad row must not end the worker
            if len(ids) > 1:
                return {k: v for one in ids for k, v in (await self._stand([one], spoiled)).items()}
            log.exception("message cannot be read", message_id=ids[0])
            self._metrics.quarantined_total.inc(("report",))
            spoiled.add(ids[0])
        return found

    def _at_hand(self, message_id: int) -> Message | None:
        return self._ledger.live.get(message_id) or self._evidence.waiting.get(message_id)


def fold_stored(stored: Stored) -> Message:
    """The message of a record with its rows applied."""
    message = stored.message
    fold(message, stored.rows)
    for row in reversed(stored.rows):
        if row.path == Path.UNCERTAIN:
            message.uncertain_at = row.at
            message.left_at = row.at - row.times[1] / 1000 if len(row.times) > 1 else 0.0
            break
    return message


def fold_owned(stored: Stored) -> Message:
    """The same for one that its owner takes into memory to send it: its hour has come."""
    message = fold_stored(stored)
    come_due(message)
    return message
