"""One account at one vendor over HTTP: the door of `adapters.base` over a `Vendor`.

    submit ─▶ may_submit, journal_writes ─▶ requests, a task each ─▶ Vendor.send ─▶ Client
                                             sink.outcomes ◀─ Vendor.read ◀─ Reply │ Failed

Nothing here knows a vendor. Every submit that was not given back ends in one outcome, and in
another one when its answer comes after its time-out: a request is not cancelled then, since what
it was told may still be heard; its slots stay taken until the answer, 120 s or the close.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import assert_never

from adapters.base import ChannelSink, LinkTests, Lost
from adapters.http import settings
from adapters.http.asking import ASKS, NEVER_ACCEPTED, Asker
from adapters.http.book import Book, Key, key_of
from adapters.http.client import Client, Fail, Failed, Flight
from adapters.http.link import Link
from adapters.http.pulling import Puller
from adapters.http.vendor import Asked, CallKind, Vendor
from adapters.session import SessionPolicy
from adapters.tls import trusting
from sms import config
from sms.errors import CannotSend
from sms.model import MessageClass, Report, Submit
from sms.outcomes import Cause, NotSent, Outcome, Rejected, Submitted, Uncertain
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger

log = get_logger(__name__)

TICK_S = 1.0
LOGOUT_S = 2.0  # what is being committed is awaited so long when the channel stops

_UNREACHED = NotSent("channel.not_connected")
_HELD = NotSent("process.lost")
_CUT = Uncertain("channel.link_lost")
_UNREADABLE = Uncertain("channel.error")
_TIMEOUT = Uncertain("channel.timeout")
_BUG_BEFORE = Rejected("", Cause.CHANNEL, "internal.error")
_BUG_AFTER = Uncertain("internal.error")


class Sending:
    """One request that carries submits."""

    __slots__ = ("flight", "is_given_up", "submits", "task", "timeout_s")

    def __init__(self, submits: Sequence[Submit], flight: Flight, timeout_s: float) -> None:
        self.submits = submits
        self.flight = flight
        self.timeout_s = timeout_s
        self.is_given_up = False  # its submits are Uncertain; a late answer may still come
        self.task: asyncio.Task[None] | None = None


class HttpChannel:
    """One vendor account (adapters.base.Channel)."""

    sends_whole = True
    has_sessions = False

    def __init__(
        self,
        channel: config.Channel,
        sink: ChannelSink,
        policy: SessionPolicy,
        vendor: Vendor,
        *,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """`vendor` was made of the same settings; raises ConfigError when `ca` cannot be read."""
        self.id = channel.id
        self.can_ask = vendor.traits.asks
        self.faults = 0  # requests and answers that our own code failed on
        self._config = channel
        self._sink = sink
        self._policy = policy
        self._vendor = vendor
        self._settings = common = settings.parse(channel.settings)
        self._capacity = channel.sessions * channel.window
        self._batch = min(vendor.traits.batch, common.max_batch)
        self._taken = 0  # slots: submits whose request is not over
        self._sendings: set[Sending] = set()
        # given up, and the request is not over; with the id that was found by asking meanwhile
        self._late: dict[Key, str] = {}
        self._results: list[tuple[Submit, Outcome]] = []  # told at the end of this turn of the loop
        self._client: Client | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._quiet = asyncio.Event()  # while stopping: nothing is under way
        absent_s = common.absent_after_s or vendor.traits.absent_after_s
        self._asker = Asker(
            vendor,
            Book(common.ask_after_s if self.can_ask else None),
            absent_s,
            may_ask=sink.may_submit,
            is_open=self._late.__contains__,
        )
        self._asker.name = channel.name
        self._asker.on_outcome, self._asker.on_report = self._found, self._report
        self._puller = Puller(
            vendor, common.pull_every_s, sink, (self.id, channel.name), sink.may_submit
        )
        self._tls = trusting(common.ca)
        self._link = Link(channel, sink, policy, dice)

    # -- adapters.base.Channel -------------------------------------------------------------

    def start(self) -> None:
        """Begin connecting; returns at once, keeps trying with backoff and jitter."""
        loop = asyncio.get_running_loop()
        # one for the probe: nothing waits inside the pool, where a lease could end unseen
        connections = self._capacity + ASKS + len(CallKind) + 1
        self._client = client = Client(self._settings, self._tls, connections)
        self._asker.start(client)
        self._puller.start(client)
        self._link.start(client, self._vendor.endpoint)
        self._timer = loop.call_later(TICK_S, self._tick)

    def is_up(self) -> bool:
        """Whether the vendor could be reached when last tried."""
        return self._link.is_up

    def is_receiving(self) -> bool:
        """Whether pulls work; pushes come by the gateway's own port and ask for no link."""
        return self._link.is_up

    def why_down(self) -> str:
        """Why there is no connection, with a remedy; "" while there is one."""
        return self._link.why_down()

    def free(self) -> int:
        """How many submits may be under way beside those that are."""
        if self._is_stopping or not self._link.is_up:
            return 0
        return max(0, self._capacity - self._taken)

    def window(self) -> int:
        """How many submits may be under way; 0 while the vendor cannot be reached."""
        return self._capacity if self._link.is_up else 0

    def waiting(self) -> Iterator[Submit]:
        """The submits whose request is not over."""
        for sending in self._sendings:
            yield from sending.submits

    @property
    def failures(self) -> int:
        """Connections that failed, in all."""
        return self._link.failures

    def congestion(self) -> int:
        """No vendor says how busy it is."""
        return 0

    def link_tests(self) -> LinkTests:
        """What the probes of an idle vendor have told; those that failed are `failures`."""
        probes_s, self._link.probes_s = self._link.probes_s, []
        return LinkTests(probes_s)

    def submit(self, submits: Sequence[Submit]) -> list[Submit]:
        """Journal one burst and send it; returns its tail that did not leave, in order.

        What cannot be said in a request of this vendor is reported through the sink.
        """
        leaving = min(len(submits), self.free())
        if not leaving or not self._sink.may_submit():
            return list(submits)
        burst = submits[:leaving]
        if not self._sink.journal_writes(self.id, burst):
            return list(submits)
        if failpoints.is_armed:
            failpoints.hit("submit.journaled")
        now = time.monotonic()
        for submit in burst:
            submit.sent_at = now  # also what a settled NotSent is known by: its line was written
        self._taken += leaving
        for part in self._parts(burst):
            self._begin(part)
        return list(submits[leaving:])

    def answer(self, tokens: Sequence[object], *, accepted: bool) -> None:
        """What was pulled is durable, or is handed over again later; pushes are not ours."""
        self._puller.answer(tokens, accepted=accepted)
        self._look_quiet()

    def ask(self, lost: Sequence[Lost]) -> None:
        """Ask the vendor what became of submits whose answers were lost (adapters.base)."""
        if self.can_ask:
            for one in lost:
                self._asker.lost(Asked(one.submit, one.sent_unix, one.carrier_id, one.unsure_s))

    def cut_unwritten(self) -> None:
        """Our lease is over: drop the connections whose requests may not have left whole.

        A request that is still connecting asks for the lease itself, before its first byte.
        """
        for sending in list(self._sendings):
            if sending.flight.has_unwritten():
                sending.flight.abort()

    async def stop(self, timeout_s: float) -> None:
        """No new request; wait up to `timeout_s` for answers, then close.

        What was written and is open then is Uncertain, what was not is NotSent.
        """
        self._is_stopping = True
        await self._link.stop()
        self._look_quiet()
        await _within(self._quiet, timeout_s if self._sendings else min(timeout_s, LOGOUT_S))
        if self._timer is not None:
            self._timer.cancel()
        await self._asker.stop()
        await self._puller.stop()
        tasks = [sending.task for sending in self._sendings if sending.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for sending in list(self._sendings):  # cancelled before its first step
            self._end(sending, [_UNREACHED] * len(sending.submits))
        self._flush()
        if self._client is not None:
            await self._client.close()

    # -- requests --------------------------------------------------------------------------

    def _parts(self, burst: Sequence[Submit]) -> list[list[Submit]]:
        """What goes into one request each, in order; two to one number never share one."""
        size = self._batch
        if size == 1 or len(burst) == 1:
            return [[submit] for submit in burst]
        parts: list[list[Submit]] = []
        filling: dict[Hashable, tuple[list[Submit], set[str]]] = {}
        for submit in burst:
            key = self._together(submit)
            part, numbers = filling.get(key, ([], set()))
            if not part or len(part) >= size or submit.number in numbers:
                part, numbers = [], set()
                parts.append(part)
                filling[key] = part, numbers
            part.append(submit)
            numbers.add(submit.number)
        return parts

    def _together(self, submit: Submit) -> Hashable:
        try:
            return self._vendor.together(submit)
        except Exception:  # ours: it goes alone, and nothing of it is lost
            self.faults += 1
            log.exception("a submit fits no batch", channel=self._config.name, faults=self.faults)
            return key_of(submit)

    def _begin(self, submits: Sequence[Submit]) -> None:
        flight = Flight(self._may_leave)
        sending = Sending(submits, flight, min(map(self._timeout_of, submits)))
        self._sendings.add(sending)
        sending.task = asyncio.get_running_loop().create_task(self._send(sending))

    def _timeout_of(self, submit: Submit) -> float:
        if self._config.submit_timeout_s is not None:
            return self._config.submit_timeout_s
        if submit.message.message_class is MessageClass.OTP:
            return self._policy.submit_timeout_otp_s
        return self._policy.submit_timeout_s

    def _may_leave(self) -> bool:
        """Asked on a connection that stands, before a request's first byte."""
        self._link.reached()
        if not self._sink.may_submit():
            return False
        if failpoints.is_armed:  # behind the write, which takes aiohttp a few turns of the loop
            asyncio.get_running_loop().call_later(0.002, failpoints.hit, "submit.written")
        return True

    async def _send(self, sending: Sending) -> None:
        """One request from its rendering to its end; every submit of it gets its outcome."""
        outcomes: Sequence[Outcome | None] | None = None
        try:
            outcomes = await self._exchange(sending)
        except Exception:
            self.faults += 1
            log.exception("a request crashed", channel=self._config.name, faults=self.faults)
        finally:  # cancelled, too: the channel stops, or the answer was waited for long enough
            was_written = bool(sending.flight.left_at)
            if outcomes is None:
                is_bug = sending.task is None or not sending.task.cancelling()
                outcomes = [_lost(was_written, is_bug)] * len(sending.submits)
            self._end(sending, outcomes)

    async def _exchange(self, sending: Sending) -> Sequence[Outcome | None]:
        submits = sending.submits
        if self._client is None:
            return [_HELD] * len(submits)
        try:
            request = self._vendor.send(submits, time.time(), secrets.token_hex(16))
        except CannotSend as error:
            if len(submits) > 1:
                return self._again(sending, [None] * len(submits))
            return [_cannot(error)]
        sending.flight.size = len(request.body)
        result = await self._client.exchange(request, sending.flight)
        if isinstance(result, Failed):
            return [self._failed(result)] * len(submits)
        outcomes = self._vendor.read(submits, result)
        if len(outcomes) != len(submits):
            raise ValueError(f"{len(outcomes)} outcomes for {len(submits)} submits")
        self._link.answered(result, [outcome for outcome in outcomes if outcome is not None])
        return self._again(sending, outcomes)

    def _again(
        self, sending: Sending, outcomes: Sequence[Outcome | None]
    ) -> Sequence[Outcome | None]:
        """Send again what was not judged, without those that were; in halves when none was.

        So one bad member of n is found in about 2 log n requests, and the others are taken. What
        has no time for that is put back: the gateway knows what has become of it meanwhile.
        """
        again = [one for one, said in zip(sending.submits, outcomes, strict=True) if said is None]
        if not again:
            return outcomes
        if len(sending.submits) == 1:
            raise ValueError("a submit that is alone was not judged")
        if sending.is_given_up or self._is_stopping or not _has_time(again, sending.timeout_s):
            return [_HELD if said is None else said for said in outcomes]
        middle = len(again) // 2 if len(again) == len(sending.submits) else len(again)
        for part in (again[:middle], again[middle:]):
            if part:
                self._begin(part)
        return outcomes

    def _failed(self, failed: Failed) -> Outcome:
        match failed.fail:
            case Fail.UNREACHED:
                self._link.unreached(failed.reason)
                return _UNREACHED
            case Fail.HELD:
                return _HELD
            case Fail.CUT:
                return _CUT
            case Fail.UNREADABLE:
                log.warning(
                    "an answer cannot be read; its messages are uncertain",
                    channel=self._config.name,
                    reason=failed.reason,
                )
                return _UNREADABLE
            case _:
                assert_never(failed.fail)

    def _end(self, sending: Sending, outcomes: Sequence[Outcome | None]) -> None:
        """A request is over and its slots are free, but for those that went into another one."""
        self._sendings.discard(sending)
        for submit, outcome in zip(sending.submits, outcomes, strict=True):
            if outcome is None:
                continue
            self._taken -= 1
            if not sending.is_given_up:
                self._tell(submit, outcome)
            elif (key := key_of(submit)) in self._late:
                found = self._late.pop(key)
                if isinstance(outcome, Submitted):
                    if outcome.carrier_id != found:  # its receipt may name either
                        self._tell(submit, outcome)
                elif not found and not isinstance(outcome, Uncertain):  # never accepted (14a)
                    self._tell(submit, NEVER_ACCEPTED)
        if not self._results:
            self._opened()
        self._look_quiet()

    # -- outcomes --------------------------------------------------------------------------

    def _tell(self, submit: Submit, outcome: Outcome) -> None:
        """Tell the sink at the end of this turn of the loop: one call for many answers."""
        if self.can_ask:
            self._asker.heard(submit, outcome)
        if not self._results:
            asyncio.get_running_loop().call_soon(self._flush)
        self._results.append((submit, outcome))

    def _flush(self) -> None:
        results, self._results = self._results, []
        if results:
            self._sink.outcomes(self.id, results)
            self._opened()

    def _opened(self) -> None:
        if self._link.is_up and not self._is_stopping:
            self._sink.window_open(self.id)

    def _found(self, submit: Submit, outcome: Outcome) -> None:
        """The vendor, asked, told what became of a submit whose answer was lost."""
        if isinstance(outcome, Submitted) and key_of(submit) in self._late:
            self._late[key_of(submit)] = outcome.carrier_id
        self._tell(submit, outcome)

    def _report(self, report: Report) -> None:
        """The vendor, asked, told how a message ended; that it has it goes first."""
        self._flush()
        self._puller.bring([report])

    def _look_quiet(self) -> None:
        if self._is_stopping and not self._sendings and self._puller.is_settled():
            self._quiet.set()

    # -- time ------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Once a second: time-outs, questions, pulls."""
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        now = time.monotonic()
        for sending in self._sendings:
            left_at = sending.flight.left_at
            if not left_at or now - left_at < sending.timeout_s:
                continue  # what was not written ends by the time-out of connecting
            if not sending.is_given_up:
                self._give_up(sending)
            elif now - left_at >= self._policy.uncertain_slot_s and sending.task:
                sending.task.cancel()
        self._puller.hand_over_again(now)
        if self._link.is_up and not self._is_stopping:
            if self.can_ask:
                self._asker.ask_due()
            if self._vendor.traits.pulls:
                self._puller.pull_due(now)

    def _give_up(self, sending: Sending) -> None:
        """No answer in time: its submits are Uncertain, its slots stay taken."""
        sending.is_given_up = True
        for submit in sending.submits:
            self._late[key_of(submit)] = ""
            self._tell(submit, _TIMEOUT)


def _has_time(submits: Sequence[Submit], timeout_s: float) -> bool:
    """Whether there is time for another request, after the one that they were in."""
    is_soon = time.monotonic() - min(one.sent_at for one in submits) < timeout_s
    return is_soon and min(one.message.valid_until for one in submits) > time.time()


def _lost(was_written: bool, is_bug: bool) -> Outcome:
    """The outcome of a request that ended without one."""
    if is_bug:
        return _BUG_AFTER if was_written else _BUG_BEFORE
    return _CUT if was_written else _UNREACHED


def _cannot(error: CannotSend) -> Outcome:
    cause = Cause.NETWORK if error.is_channel else Cause.CONTENT
    return Rejected(error.code, cause, error.reason)


async def _within(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for it at most so long; time over is no error."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
