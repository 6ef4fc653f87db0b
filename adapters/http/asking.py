"""The asyncio shell round a channel's questions: what became of a submit, asked of its vendor.

    Book.due ─▶ Vendor.question ─▶ Client ─▶ Vendor.told ─▶ told (late outcomes, reports)

At most ASKS questions are under way; a vendor that does not answer one is asked again later.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from adapters.http.book import FIRST_S, Book, Key, Question, key_of
from adapters.http.client import Client, Failed, Flight
from adapters.http.vendor import Asked, Told, Vendor, Verdict
from sms.errors import CannotSend
from sms.model import Report, Submit
from sms.outcomes import NotSent, Outcome, Submitted, Uncertain
from telemetry.logs import get_logger

log = get_logger(__name__)

ASKS = 4  # questions under way at once
ANSWER_S = 30.0  # for the answer to one
NEVER_ACCEPTED = NotSent("evidence.not_accepted")


class Asker:
    """Asks for one channel, and tells what it heard by two callbacks."""

    def __init__(
        self,
        vendor: Vendor,
        book: Book,
        absent_after_s: float | None,
        *,
        may_ask: Callable[[], bool],
        is_open: Callable[[Key], bool],
    ) -> None:
        """`is_open`: the request of this submit is still under way, so it may yet be taken."""
        self.book = book
        self.on_outcome: Callable[[Submit, Outcome], None] = lambda *_: None
        self.on_report: Callable[[Report], None] = lambda *_: None
        self.name = ""  # of the channel, for the log
        self._vendor = vendor
        self._absent_after_s = absent_after_s
        self._may_ask = may_ask
        self._is_open = is_open
        self._client: Client | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, client: Client) -> None:
        """Questions may be asked from now on."""
        self._client = client

    async def stop(self) -> None:
        """Ask nothing any more."""
        self._client = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def lost(self, asked: Asked) -> None:
        """Its answer was lost, or its receipt is overdue: ask soon."""
        if asked.carrier_id:
            self.book.overdue(asked, time.monotonic())
        else:
            self.book.lost(asked, time.monotonic())

    def heard(self, submit: Submit, outcome: Outcome) -> None:
        """A submit was answered: its answer is not lost, and its receipt is awaited."""
        if isinstance(outcome, Submitted):
            asked = Asked(submit, time.time(), outcome.carrier_id)
            self.book.taken(asked, time.monotonic())
        elif not isinstance(outcome, Uncertain):
            self.book.settle(key_of(submit))

    def ask_due(self) -> None:
        """Ask what is due, as much as may be under way."""
        while self._client is not None and len(self._tasks) < ASKS and self._may_ask():
            question = self.book.due(time.time(), time.monotonic())
            if question is None:
                return
            task = asyncio.get_running_loop().create_task(self._ask(self._client, question))
            self._tasks.add(task)
            task.add_done_callback(self._asked)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is None:
            self.ask_due()

    async def _ask(self, client: Client, question: Question) -> None:
        try:
            told = await self._answer(client, question)
        except CannotSend:  # as without the vendor's id: it cannot be asked about this one, ever
            if self.book.is_open(question):
                self.book.settle(question.key)
            return
        except Exception:
            log.exception("a question to the vendor failed", channel=self.name)
            return
        if told is not None:
            self._hear(question, told)

    async def _answer(self, client: Client, question: Question) -> Told | None:
        request = self._vendor.question([question.asked], time.time(), secrets.token_hex(16))
        try:
            async with asyncio.timeout(ANSWER_S):
                reply = await client.exchange(request, Flight(self._may_ask))
        except TimeoutError:
            return None
        return None if isinstance(reply, Failed) else self._vendor.told([question.asked], reply)[0]

    def _hear(self, question: Question, told: Told) -> None:
        key, asked, book = question.key, question.asked, self.book
        if not book.is_open(question):  # heard of otherwise while it was asked
            return
        match told.verdict:
            case Verdict.TAKEN | Verdict.ENDED:
                carrier_id = told.carrier_id or asked.carrier_id
                if question.is_lost:
                    book.taken(replace(asked, carrier_id=carrier_id), time.monotonic())
                    self.on_outcome(asked.submit, Submitted(carrier_id))
                if told.report is not None:
                    book.settle(key)
                    self.on_report(told.report)
            case Verdict.ABSENT:
                if question.is_lost and self._proves_absence(question):
                    book.settle(key)
                    self.on_outcome(asked.submit, NEVER_ACCEPTED)
            case Verdict.SILENT:
                pass  # it comes again

    def _proves_absence(self, question: Question) -> bool:
        """Whether "I know of none" is the truth by now: its request is over, and long ago."""
        after_s = self._absent_after_s
        if after_s is None or self._is_open(question.key):
            return False
        return time.time() - question.asked.sent_unix >= max(after_s, FIRST_S[0])
