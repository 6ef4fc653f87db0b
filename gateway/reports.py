"""Whose report is it, and what does it change? Answered to the carrier only when durable.

report ─▶ id, or our own word for the attempt, in memory? ──yes──▶ row ═COMMIT═▶ answer
             │ no
             ▼
          look-up in the store, in batches ──found──▶ fold, row ═COMMIT═▶ answer
             │ nobody's yet: another process may just be committing it; once more after 0.2 s
             ▼
          parked_reports ═COMMIT═▶ answer; tried again 1 s, 5 s, 30 s, 5 min, hourly, dropped,
                                   and when an answer was lost: orphans.py
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from adapters.http.vendors import VENDORS
from gateway.carrier_words import CarrierWords
from gateway.conflicts import refresh
from gateway.dispatch import Dispatcher
from gateway.echoed import match_stored, match_waiting, message_of, segments_of
from gateway.evidence import Evidence
from gateway.ledger import Ledger
from gateway.matches import Match, Matches
from gateway.orphans import LOOK_S, Orphans
from receipts.normalise import ReportCodes, Verdict
from receipts.state import Path, come_due, fold, report_path
from sms.config import Channel
from sms.errors import Unavailable
from sms.ids import IdClock, id_at, unix_of
from sms.model import FINAL_STATES, Carrier, EventRow, Message, MessageClass, Report, State
from sms.outcomes import Submitted, Uncertain
from store.fragments import (
    ParkedReport,
    Why,
    delete_reports_sql,
    hasten_orphans_sql,
    park_reports_sql,
    park_sql,
    unpark_sql,
)
from store.read import Reader, Stored
from store.seal import Keyring
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

RETRY_AFTER_S = (1.0, 5.0, 30.0, 300.0)  # then hourly (issue of receipts: decision 2)
HOURLY_S = 3600.0
SECOND_LOOK_S = 0.2  # what another process submitted is in the store by then
PARKED_POLL_S = 0.5
HASTEN_S = 3.0  # between two such hurries, while answers are lost
ELSEWHERE_S = 10.0  # between two looks at what waits here and may have ended in another process
KEPT_S = 259_200.0  # 72 h, then counted and dropped
LOOKUP_BATCH = 500
MAX_PENDING = 50_000  # reports that wait for a look-up; beyond, the carrier is told "later"
REPARK_S = 600.0

CRASHES = 5  # a report that crashes its handler so often is given up
MAX_CRASHES = 1000  # reports whose crashes are counted

_USUAL = ReportCodes()  # for what a channel that was removed still brings

# The rows that a report's answer waits for, or whether it may be answered without one.
Settled = list[EventRow] | bool
Pending = tuple[object, Settled]  # with the report's token

log = get_logger(__name__)


class Answerer(Protocol):
    """How reports are answered: through the channel that brought them."""

    def __call__(self, channel: int, tokens: Sequence[object], *, accepted: bool) -> None:
        """Tell the carrier that these reports are kept (or to send them again later)."""
        ...


@dataclass(slots=True)
class Batch:
    """What one burst of reports amounts to; mutable, one per burst."""

    unix: float
    rows: list[EventRow] = field(default_factory=list)
    sql: list[str] = field(default_factory=list)
    # transition 17, after the commit, if that row is stored then
    back: list[tuple[Message, EventRow]] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    # what was submitted in one burst, Unix seconds, waited equally long for its reports
    sent: dict[tuple[Carrier, float], int] = field(default_factory=dict)
    undelivered: dict[Carrier, int] = field(default_factory=dict)  # of those in `sent`


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
        unix: Callable[[], float],
        max_attempts: int = 4,
    ) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._evidence = evidence
        self._matches = matches
        self._reader = reader
        self._keyring = keyring
        self._ids = ids
        self._words = words
        self._metrics = metrics
        self._answer = answer
        self._unix = unix
        self._max_attempts = max_attempts
        self._pending: list[Report] = []
        self._second: deque[tuple[float, list[Report]]] = deque()  # unknown once, and until when
        self._returning: list[Message] = []
        self._crashes: dict[tuple[int, str], int] = {}
        self._codes: dict[int, ReportCodes] = {}  # by channel
        self._wake = asyncio.Event()
        self._looked_at = 0.0  # Unix; when the store was asked about what waits
        self._polled_at = 0.0  # Unix; when parked reports were looked for
        self.parked = 0  # how many stand in parked_reports, as last seen
        self._hastened_at = 0.0  # Unix; when parked reports were, for lost answers
        self.orphans: Orphans | None = None  # joined by wiring
        self.share = (0, 1)  # (our index, how many) among the living processes

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
        for report in reports:
            match = self._matches.get(channel, report.carrier_id)
            if match is None and report.reference:
                match = match_waiting(report, self._evidence.waiting.get(message_of(report) or 0))
            if match is not None:
                tokens.append((report.token, self._settle(batch, report, match)))
            elif report.carrier_id or message_of(report):
                self._pending.append(report)
            else:  # it names nothing that anybody could ever look for
                batch.ends["dropped"] = batch.ends.get("dropped", 0) + 1
                tokens.append((report.token, True))
        if tokens:
            self._finish(channel, batch, tokens)
        if self._pending:
            self._refuse_overflow(channel)
            self._wake.set()

    def _refuse_overflow(self, channel: int) -> None:
        most = max(0, MAX_PENDING - sum(len(reports) for _, reports in self._second))
        beyond = self._pending[most:]
        if beyond:
            del self._pending[most:]
            tokens = [report.token for report in beyond if report.channel == channel]
            self._answer(channel, tokens, accepted=False)
            self._count(channel, {"refused": len(beyond)})

    def _finish(self, channel: int, batch: Batch, tokens: list[Pending]) -> None:
        back = batch.back
        self._count(channel, batch.ends)
        self._observe(channel, batch)

        def done() -> None:
            self._answer_after(channel, tokens)
            for message, row in back:
                if row.is_stored:
                    self._come_back(message)

        self._ledger.commit(batch.rows, sql="".join(batch.sql), done=done)

    def _answer_after(self, channel: int, tokens: list[Pending]) -> None:
        """A report whose row lost its key is not durable yet: the carrier sends it again."""
        kept: list[object] = []
        later: list[object] = []
        for token, settled in tokens:
            (kept if _is_kept(settled) else later).append(token)
        if kept:
            self._answer(channel, kept, accepted=True)
        if later:
            self._answer(channel, later, accepted=False)

    def _count(self, channel: int, ends: dict[str, int]) -> None:
        name = self._ledger.channel_names.get(channel, "")
        for end, number in ends.items():
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

    def _settle(
        self, batch: Batch, report: Report, match: Match, *, is_orphan: bool = False
    ) -> Settled:
        """Judge one report; returns its rows, or whether it may be answered without one.

        A report that crashes its handler is sent again by the carrier and given up after five
        times (RELIABILITY section 4), so that it cannot take the others with it.
        """
        before = len(batch.rows)
        try:
            end = self._judge(batch, report, match, report.carrier_id if is_orphan else None)
        except Exception:  # one bad report must not end the session or the worker
            log.exception("report crashed its handler", message_id=match[0].id)
            return self._crashed(report)
        batch.ends[end] = batch.ends.get(end, 0) + 1
        return batch.rows[before:] or True

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
        """One word about all segments that it is about: what became of the last.

        `new_id`: the carrier's id, where it is not known yet and is to be kept.
        """
        message, _, copy, attempt = match
        codes = self._codes.get(report.channel, _USUAL)
        verdict, code = codes.read(report.state, report.error)
        name = self._ledger.channel_names.get(report.channel, "")
        if not verdict.is_known:
            self._words.unmapped(name, report.error or report.state)
        end = "intermediate"
        if verdict.state is None:
            if attempt and verdict.is_known:
                self._adopt(batch, report, match)
            return end
        is_delivered = verdict.state is State.DELIVERED
        if attempt and attempt < message.attempt and copy == message.copy and not is_delivered:
            return "duplicate"  # the vendor says no more of an attempt that a newer one replaced
        for segment in segments_of(report, match, is_delivered=is_delivered):
            about = message, segment, copy, attempt
            end = self._judge_one(batch, report, about, verdict, verdict.state, code, new_id)
        if end == "matched" and verdict.is_bad_number and verdict.state is State.UNDELIVERED:
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
        path = report_path(message, segment, copy, state, carrier_id=carrier_id)
        if path is None:
            return "duplicate"
        if verdict.is_temporary and self._may_resend(message, path, report.channel):
            return self._resend(batch, report, message, verdict)
        submitted_at = message.submitted_at
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
            return "illegal"
        batch.rows.append(row)
        if submitted_at is not None:
            sent = message.carrier, submitted_at
            batch.sent[sent] = batch.sent.get(sent, 0) + 1
            if state is not State.DELIVERED:
                batch.undelivered[sent[0]] = batch.undelivered.get(sent[0], 0) + 1
        if message.state in FINAL_STATES:
            self._ended(batch, report, message)
        return "matched"

    def _adopt(self, batch: Batch, report: Report, match: Match) -> None:
        """Transition 13: not an end yet, but whoever reports about a text has it."""
        message, segments, copy, attempt = match
        if message.state is not State.UNCERTAIN or (attempt, copy) != (
            message.attempt,
            message.copy,
        ):
            return
        for segment in segments:
            row = self._ledger.row(
                message,
                Path.SUBMITTED_LATE if segment == segments[-1] else Path.NOTE,
                State.SUBMITTED,
                batch.unix,
                segment=segment,
                copy=copy,
                channel=report.channel,
                carrier_id=report.carrier_id or None,
            )
            if row is not None:
                batch.rows.append(row)
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
            self._matches.forget(report.channel, report.carrier_id)
        elif message.state is State.DELIVERED:  # no segment's receipt is outstanding
            for answer in message.answers:
                if isinstance(answer, Submitted | Uncertain):
                    self._matches.forget(report.channel, answer.carrier_id)

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
            return "illegal"
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
        return "resent"

    def _come_back(self, message: Message) -> None:
        """The text was dropped when the carrier took it: read it back, then queue."""
        self._returning.append(message)
        self._wake.set()

    # -- look-ups --------------------------------------------------------------------------

    async def run(self) -> None:
        """Look up unknown ids and retry parked reports until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._wait_s())
            self._wake.clear()
            try:
                await self._round()
            except Unavailable:
                self._metrics.reports_total.inc(("", "lookup_failed"))
                await asyncio.sleep(0.5)

    def _wait_s(self) -> float:
        if not self._second:
            return PARKED_POLL_S
        return min(PARKED_POLL_S, max(0.001, self._second[0][0] - self._unix()))

    async def _round(self) -> None:
        while self._pending:
            batch = self._pending[:LOOKUP_BATCH]
            missing = await self._look_up(batch)
            del self._pending[: len(batch)]
            if missing:
                self._second.append((self._unix() + SECOND_LOOK_S, missing))
        while self._second and self._second[0][0] <= self._unix():
            missing = await self._look_up(self._second[0][1])
            self._second.popleft()
            if missing:
                self._park(missing)
        while self._returning:
            await self._read_back(self._returning[:LOOKUP_BATCH])
        if self._unix() - self._polled_at >= PARKED_POLL_S:
            self._polled_at = self._unix()
            await self._retry_parked()
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

    async def _look_up(self, reports: list[Report]) -> list[Report]:
        """Settle those whose message is known; returns the others."""
        found, missing = await self._owners(reports)
        by_channel: dict[int, list[tuple[Report, Match]]] = {}
        for report, match in found:
            by_channel.setdefault(report.channel, []).append((report, match))
        for channel, pairs in by_channel.items():
            batch = Batch(self._unix())
            tokens = [(report.token, self._settle(batch, report, match)) for report, match in pairs]
            self._finish(channel, batch, tokens)
        return missing

    async def _owners(
        self, reports: Sequence[Report]
    ) -> tuple[list[tuple[Report, Match]], list[Report]]:
        """Which of the reports are whose: memory once more, then the store.

        By the carrier's id first; our own word is asked where that says nothing.
        """
        found: list[tuple[Report, Match]] = []
        asked: list[Report] = []
        for report in reports:
            match = self._matches.get(report.channel, report.carrier_id)
            if match is None:
                asked.append(report)
            else:
                found.append((report, match))
        if not asked:
            return found, []
        pairs = list({(one.channel, one.carrier_id) for one in asked if one.carrier_id})
        ids = await self._reader.by_carrier_ids(pairs, now=self._unix()) if pairs else {}
        named = {message_of(one) for one in asked if (one.channel, one.carrier_id) not in ids}
        wanted = {owner[0] for owner in ids.values() if self._at_hand(owner[0]) is None}
        stored = await self._reader.messages(list(wanted | {one for one in named if one}))
        folded = {message_id: fold_stored(record) for message_id, record in stored.items()}
        for one in folded.values():  # whoever made it uncertain parked it in that commit
            one.is_parked = one.state is State.UNCERTAIN
        missing: list[Report] = []
        for report in asked:
            match = None
            hit = ids.get((report.channel, report.carrier_id))
            message_id = message_of(report) if hit is None else hit[0]
            message = self._at_hand(message_id or 0) or folded.get(message_id or 0)
            if message is not None and hit is not None:
                match = message, hit[1], hit[2], 0
            elif message is not None and message.id in stored:
                match = match_stored(report, message, stored[message.id].rows)
            if match is None:
                missing.append(report)
            else:
                found.append((report, match))
        return found, missing

    def _at_hand(self, message_id: int) -> Message | None:
        return self._ledger.live.get(message_id) or self._evidence.waiting.get(message_id)

    # -- parked reports --------------------------------------------------------------------

    def _park(self, reports: Sequence[Report]) -> None:
        """Nobody knows the id yet: keep the report, then answer it."""
        unix = self._unix()
        parked = [
            ParkedReport(
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
            for report in reports
        ]
        by_channel: dict[int, list[object]] = {}
        for report in reports:
            by_channel.setdefault(report.channel, []).append(report.token)
        for channel, tokens in by_channel.items():
            self._count(channel, {"parked": len(tokens)})

        def done() -> None:
            for channel, tokens in by_channel.items():
                self._answer(channel, tokens, accepted=True)

        self._ledger.commit([], sql=park_reports_sql(self._keyring, parked), done=done)

    def _forget_parked(self, parked_id: int, settled: Settled) -> None:
        """Only stored rows make the parked report needless; until then it is tried again."""
        if _is_kept(settled):
            self._ledger.commit([], sql=delete_reports_sql([parked_id]))

    async def _match_orphans(
        self, missing: list[Report], parked_of: Mapping[int, ParkedReport]
    ) -> list[Report]:
        """Settle those that can only be about one lost answer; returns the others."""
        unix = self._unix()
        young = [one for one in missing if unix - unix_of(parked_of[id(one)].id) <= LOOK_S]
        orphans = self.orphans
        if orphans is None or not young:
            return missing
        candidates = await orphans.candidates(young)
        ids = sorted({one for some in candidates.values() for one in some})
        stored = await self._reader.messages(ids)
        messages: dict[int, tuple[Message, Stored]] = {}
        for message_id, record in stored.items():
            fresh = fold_stored(record)
            fresh.is_parked = fresh.state is State.UNCERTAIN
            messages[message_id] = self._at_hand(message_id) or fresh, record

        def match_of(report: Report) -> Match | None:
            at = unix_of(parked_of[id(report)].id)
            return orphans.match(report, at, candidates, messages)

        likely = [report for report in missing if match_of(report) is not None]
        # A row that says whose it is may have come since it was looked for: then that one is at
        # its end for the candidates, and not in doubt.
        found, _ = await self._owners(likely) if likely else ([], [])
        left = self._settle_parked(found, parked_of)
        known = {id(report) for report, _ in found}
        for report in missing:
            if id(report) in known:
                continue
            parked_id, match, batch = parked_of[id(report)].id, match_of(report), Batch(unix)
            settled = match is not None and self._settle(batch, report, match, is_orphan=True)
            if settled is False:
                left.append(report)
                continue
            self._finish(report.channel, batch, [])
            self._count(report.channel, {"adopted": 1})
            self._ledger.commit([], done=partial(self._forget_parked, parked_id, settled))
        return left

    def _settle_parked(
        self, found: Sequence[tuple[Report, Match]], parked_of: Mapping[int, ParkedReport]
    ) -> list[Report]:
        """Settle those whose owner is known; returns those that crashed, to be tried again."""
        crashed: list[Report] = []
        for report, match in found:
            batch = Batch(self._unix())
            settled = self._settle(batch, report, match)
            if settled is False:
                crashed.append(report)
                continue
            self._finish(report.channel, batch, [])
            parked_id = parked_of[id(report)].id
            self._ledger.commit([], done=partial(self._forget_parked, parked_id, settled))
        return crashed

    def _hasten(self, unix: float) -> None:
        """Answers were lost: a receipt may have been quicker, and waits."""
        if unix - self._hastened_at < HASTEN_S:
            return
        if channels := self._evidence.lately_lost():
            self._hastened_at = unix
            sql = hasten_orphans_sql(channels, id_at(unix - LOOK_S), len(RETRY_AFTER_S))
            self._ledger.commit([], sql=sql)

    async def _retry_parked(self) -> None:
        unix = self._unix()
        self._hasten(unix)
        due = await self._reader.due_reports(unix, LOOKUP_BATCH, share=self.share)
        self.parked = len(due)
        if not due:
            return
        reports = [_unpark(parked) for parked in due]
        by_report = {id(report): parked for report, parked in zip(reports, due, strict=True)}
        found, missing = await self._owners(reports)
        crashed = self._settle_parked(found, by_report)
        missing = crashed + await self._match_orphans(missing, by_report)
        later: list[ParkedReport] = []
        dropped: list[int] = []
        for report in missing:
            parked = by_report[id(report)]
            if unix - unix_of(parked.id) > KEPT_S:
                dropped.append(parked.id)
                self._count(parked.channel, {"dropped": 1})
            else:
                parked.tries += 1
                parked.due = unix + retry_after_s(parked.tries)
                if parked.tries == len(RETRY_AFTER_S):
                    self._count(parked.channel, {"orphan": 1})
                later.append(parked)
        sql = park_reports_sql(self._keyring, later) if later else ""
        if dropped:
            sql += delete_reports_sql(dropped)
        if sql:
            self._ledger.commit([], sql=sql)


def _is_kept(settled: Settled) -> bool:
    """Whether what a report says is durable, or needs no row."""
    if isinstance(settled, bool):
        return settled
    return all(row.is_stored for row in settled)


def retry_after_s(tries: int) -> float:
    """How long a parked report waits before its next look-up."""
    return RETRY_AFTER_S[tries] if tries < len(RETRY_AFTER_S) else HOURLY_S


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


def _unpark(parked: ParkedReport) -> Report:
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
