"""The asyncio shell round the sessions of a wire protocol: sockets, clocks and the door of
`adapters.base`.

One long-lived task per session keeps it connected; everything on the path is a callback over a
whole burst: no task, future, lock or timer per PDU.

    data_received ─▶ WireSession.receive ─▶ sink.outcomes │ sink.reports │ sink.inbound
    WireChannel.submit ─▶ may_submit, journal_writes ─▶ WireSession.submit ─▶ one write

A protocol's channel says where its sessions connect and how each is made; nothing here knows a
command.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import Enum
from typing import assert_never, cast

from adapters.backoff import Backoff
from adapters.base import ChannelSink, LinkTests, Lost
from adapters.session import (
    LOGIN_UNANSWERED,
    Answered,
    Bound,
    Ended,
    Event,
    Received,
    Reported,
    SessionPolicy,
    SessionState,
    WireSession,
)
from adapters.tls import Tls, make_context, tls_of
from sms import config
from sms.errors import ConnectFailed, RemoteProtocolError
from sms.model import Submit
from sms.outcomes import Outcome
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger, mask_words

log = get_logger(__name__)

TICK_S = 1.0
LOGOUT_S = 2.0  # the answer to unbind is awaited so long; nothing depends on it
WRITE_BUFFER_HIGH = 256 * 1024  # octets unread by the carrier before we stop submitting
USER_TIMEOUT_MS = 10_000  # RELIABILITY section 4: TCP_USER_TIMEOUT 10 s, keepalive 5 s + 3 × 2 s
KEEPALIVE_IDLE_S = 5
KEEPALIVE_INTERVAL_S = 2
KEEPALIVE_PROBES = 3
LEASE_LOOK_S = 0.5  # how often a process without a lease looks whether it may log in again
REMIND_S = 60.0  # a failure that lasts is logged again this often


_UNREACHED = "check host and port, and that the carrier lets our address in"
# Whoever answers in another language, or not at all, may be somebody else.
_NOT_OURS = "check `host`, `port` and `protocol`"
_NO_ANSWER = f"before it answered our login: ask whether it lets our address in, {_NOT_OURS}"
_BEFORE_LOGIN = (SessionState.UNBOUND, SessionState.BINDING)
_NOT_TLS = (
    "check that port is the TLS one and has TLS 1.2, and tls_cert_file where the carrier wants one"
)


class Close(Enum):
    """How a session that was bound came to its end."""

    LOST = "the link broke, or one side logged out"
    REFUSED = "it did not last: the carrier took the login and refused it after all"
    IDLE = "nothing was under way: no fault of anybody"


class Link(asyncio.Protocol):
    """One TCP connection carrying one session, within TLS where the channel has it."""

    def __init__(self, channel: WireChannel, session: WireSession, tls: Tls | None = None) -> None:
        self.session = session
        self.was_bound = False
        self.was_heard = False  # the carrier said anything
        self.reason = ""  # why it ended
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel = channel
        self._transport: asyncio.Transport | None = None
        self._is_full = False  # the carrier does not read: write nothing more
        self._tls = tls
        self._opened_at = 0.0  # monotonic

    def free(self) -> int:
        """Free slots; none while the carrier does not read or the socket closes."""
        if self._is_full or self._transport is None or self._transport.is_closing():
            return 0
        return self.session.free()

    def flush(self) -> None:
        """Write what the session has queued, in one call."""
        data = self.session.to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data if self._tls is None else self._tls.seal(data))

    def has_unwritten(self) -> bool:
        """Whether bytes wait that the socket did not take yet."""
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() > 0

    def close(self, reason: str) -> None:
        """Report the losses, write what is left and close; later calls do nothing."""
        transport = self._transport
        if transport is None:
            return
        self.reason = self.reason or reason
        self.flush()
        if self._tls is not None and not transport.is_closing():
            transport.write(self._tls.good_bye())
        self._transport = None
        # An unread rest means a peer that does not read: waiting for it could last for ever.
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()
        self._channel.link_ended(self)

    # -- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket's options and log in."""
        # a cast, because uvloop's transports are no subclass of asyncio's
        self._transport = tcp = cast("asyncio.Transport", transport)
        set_options(tcp.get_extra_info("socket"))
        tcp.set_write_buffer_limits(high=WRITE_BUFFER_HIGH)
        self._opened_at = time.monotonic()
        if self._tls is not None:
            tcp.write(self._tls.start())
            return
        self.session.connected(self._opened_at)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """One burst from the carrier."""
        tls = self._tls
        if tls is not None:
            data = self._unseal(tls, data)
        if data:
            self.was_heard = True
            events = self.session.receive(data, time.monotonic())
            if failpoints.is_armed and events:
                failpoints.hit("session.received")
            self._channel.act(self, events)
        if tls is not None and tls.is_over:
            self.close(self._why_lost(None))

    def _unseal(self, tls: Tls, data: bytes) -> bytes:
        """What the carrier said within TLS; its handshake goes on, and then we log in."""
        was_open, plain, reason = tls.is_open, b"", ""
        try:
            plain = tls.receive(data)
        except ConnectFailed as error:
            reason = str(error)
        if self._transport is not None and (own := tls.to_send()):
            self._transport.write(own)
        if tls.is_open and not was_open:
            self.session.connected(time.monotonic())
            self.flush()
        if reason:
            self.close(reason)
        return plain

    def tick(self, now: float, timeout_s: float) -> None:
        """Once a second: time-outs of the session, or of the TLS handshake before it."""
        if self.session.state is not SessionState.UNBOUND:
            self._channel.act(self, self.session.tick(now))
        elif self._opened_at and now - self._opened_at >= timeout_s:
            self.close(f"TLS: no handshake in {timeout_s:g} s, {_NOT_TLS}")

    def pause_writing(self) -> None:
        """The carrier reads too slowly: what it asks of us would only pile up, so read less."""
        self._is_full = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._is_full = False
        if self._transport is not None:
            self._transport.resume_reading()
        self._channel.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, by us or by the carrier."""
        if self._transport is not None:
            self._transport = None
            if self._tls is not None and self.session.state in _BEFORE_LOGIN:
                # Of TLS 1.3 we may have no word: it looks at our certificate after our handshake.
                self.reason = f"TLS: closed before the carrier answered our login, {_NOT_TLS}"
            self.reason = self.reason or self._why_lost(exc)
            self._channel.link_ended(self)
        if not self.ended.done():
            self.ended.set_result(None)

    def _why_lost(self, exc: Exception | None) -> str:
        reason = f"link lost: {'closed by the carrier' if exc is None else mask_words(exc)}"
        return reason if self.session.was_taken() else f"{reason} {_NO_ANSWER}"


def log_fault(error: RemoteProtocolError | None, channel: str) -> None:
    """Log the traceback of a PDU that our own code failed on; other ends speak for themselves."""
    cause = error.__cause__ if error is not None else None
    if cause is not None:
        log.error("a PDU crashed its parser", channel=channel, exc_info=cause)


def set_options(sock: socket.socket) -> None:
    """No delay, and a dead peer is noticed by the kernel (RELIABILITY section 4)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (  # Linux names; another system keeps its own times
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class WireChannel(ABC):
    """One account at one carrier: `config.sessions` sessions (adapters.base.Channel)."""

    sends_whole = False
    can_ask = False
    has_sessions = True

    def __init__(
        self,
        channel: config.Channel,
        sink: ChannelSink,
        policy: SessionPolicy,
        *,
        response_timeout_s: float | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """`response_timeout_s` is the channel's own, over the policy's.

        Raises ConfigError when its certificates cannot be read.
        """
        self.id = channel.id
        self.last_reason = ""  # why the newest link ended or could not be opened
        self.failures = 0  # connects and logins that failed, in all
        self._told = ("", -REMIND_S)  # the reason logged last, and when (monotonic)
        self._config = channel
        self._sink = sink
        self._policy = policy
        self._response_s = response_timeout_s or policy.response_timeout_s
        self._dice = dice
        self._tls = tls_of(channel.settings)
        self._context = None if self._tls is None else make_context(self._tls)
        self._links: list[Link] = []  # bound ones
        self._dialling: set[Link] = set()  # not bound yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()
        self._quiet = asyncio.Event()  # while stopping: no submit is unanswered
        self._settled = asyncio.Event()  # … and nothing that the carrier brought
        self._tests_s: list[float] = []  # of links that ended since they were asked for …
        self._tests_lost = 0
        self._is_answering = False  # answers wait for the end of this turn of the loop

    # -- what a protocol writes ------------------------------------------------------------

    @abstractmethod
    def address(self, number: int) -> tuple[str, int]:
        """Host and port that session `number` (from 0) connects to."""

    @abstractmethod
    def make_session(self, number: int) -> WireSession:
        """A new session, not yet connected, for place `number` (from 0)."""

    def make_tls(self) -> Tls | None:
        """The TLS of a new connection; None where the channel has none."""
        if self._tls is None or self._context is None:
            return None
        return Tls(self._context, self._tls.server_name)

    def places(self) -> int:
        """How many connections it keeps; a protocol may need two for a session."""
        return self._config.sessions

    def closed(self, number: int, session: WireSession, now: float) -> Close:
        """How the session of place `number`, which was bound, ended just now.

        Without a look at how long it lasted, a carrier that takes each login and closes it would
        be asked every second for ever.
        """
        return Close.REFUSED if session.was_refused(now) else Close.LOST

    # -- adapters.base.Channel -------------------------------------------------------------

    def start(self) -> None:
        """Begin connecting; returns at once, keeps trying with backoff and jitter."""
        loop = asyncio.get_running_loop()
        for number in range(self.places()):
            name = f"{self._config.protocol} {self._config.name} {number}"
            task = loop.create_task(self._keep(number), name=name)
            self._tasks.add(task)
        self._timer = loop.call_later(TICK_S, self._tick)

    def is_up(self) -> bool:
        """Whether at least one session is bound that takes submits."""
        return any(link.session.window.capacity for link in self._links)

    def is_receiving(self) -> bool:
        """Whether at least one session is bound that reports come over."""
        return any(link.session.role != "transmitter" for link in self._links)

    def why_down(self) -> str:
        """Why there is no session, with a remedy where one is known; "" while there is one."""
        return "" if self.is_up() else self.last_reason or "still connecting"

    def free(self) -> int:
        """Free slots of all sessions."""
        if self._stopping.is_set():
            return 0
        return sum(link.free() for link in self._links)

    def window(self) -> int:
        """The sum of the bound sessions' windows."""
        return sum(link.session.window.capacity for link in self._links)

    def waiting(self) -> Iterator[Submit]:
        """The submits without an answer, of all sessions."""
        for link in self._links:
            yield from link.session.window.unanswered()

    def congestion(self) -> int:
        """The highest that any session heard since this was last asked, 0 for nothing."""
        highest = 0
        for link in self._links:
            highest = max(highest, link.session.congestion)
            link.session.congestion = 0
        return highest

    def link_tests(self) -> LinkTests:
        """What the sessions' link tests have told since this was last asked."""
        for link in self._links:
            self._take_tests(link.session)
        tests = LinkTests(self._tests_s, self._tests_lost)
        self._tests_s, self._tests_lost = [], 0
        return tests

    def _take_tests(self, session: WireSession) -> None:
        self._tests_s += session.tests_s
        self._tests_lost += session.tests_lost
        session.tests_s, session.tests_lost = [], 0

    def submit(self, submits: Sequence[Submit]) -> list[Submit]:
        """Journal and write one burst; returns its tail that did not leave, in order.

        Segments of one message that stand together go to one session. A message with more
        segments than a window holds goes out window by window. What a session cannot pack is
        reported through the sink, after this call.
        """
        if not submits or self._stopping.is_set() or not self._sink.may_submit():
            return list(submits)
        plan, leaving = self._spread(submits)
        if not leaving:
            return list(submits)
        if not self._sink.journal_writes(self.id, submits[:leaving]):
            return list(submits)
        if failpoints.is_armed:
            failpoints.hit("submit.journaled")
        now = time.monotonic()
        refused: list[tuple[Submit, Outcome]] = []
        for link, part in plan:
            refused += link.session.submit(part, now)
            link.flush()
        if failpoints.is_armed:
            failpoints.hit_soon("submit.written")
        if refused:
            asyncio.get_running_loop().call_soon(self._sink.outcomes, self.id, refused)
        return list(submits[leaving:])

    def answer(self, tokens: Sequence[object], *, accepted: bool) -> None:
        """Answer reports and texts; those of a session that is over are left to come again."""
        by_session: dict[object, list[tuple[object, ...]]] = {}
        for token in tokens:
            if isinstance(token, tuple) and token:
                by_session.setdefault(token[0], []).append(token)
        for session, own in by_session.items():
            if isinstance(session, WireSession):
                session.answer(own, accepted=accepted)
        # One flush of the store answers several bursts: one write for all of them.
        if by_session and not self._is_answering:
            self._is_answering = True
            asyncio.get_running_loop().call_soon(self._write_answers)

    def ask(self, lost: Sequence[Lost]) -> None:
        """A lost answer of a wire protocol cannot be asked for: the id stood in it."""
        return

    def cut_unwritten(self) -> None:
        """Drop the connections that still hold submits; those are Uncertain then.

        What the socket did not take would go out when the carrier reads again, and by then the
        messages may be another process's.
        """
        for link in list(self._links):
            if link.has_unwritten():
                link.close("the lease of this process is over")

    def _write_answers(self) -> None:
        self._is_answering = False
        for link in self._links:
            link.flush()
        if self._stopping.is_set():
            self._look_quiet()
        if failpoints.is_armed:
            failpoints.hit_soon("settle.answered")

    async def stop(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for answers, log out, close. What stays open is Uncertain.

        Reports and texts that are being committed are answered before: nobody knows when the
        carrier would bring them again.
        """
        self._stopping.set()
        self._look_quiet()
        await _within(self._quiet.wait(), timeout_s)
        await _within(self._settled.wait(), min(timeout_s, LOGOUT_S))
        now = time.monotonic()
        for link in list(self._links):
            link.session.unbind(now)
            link.flush()
        for link in list(self._dialling):
            link.close("stopped")
        if self._links:
            endings = [link.ended for link in self._links]
            await _within(asyncio.wait(endings), min(timeout_s, LOGOUT_S))
        for link in list(self._links):
            link.close("stopped")
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    # -- called by links -------------------------------------------------------------------

    def act(self, link: Link, events: list[Event]) -> None:
        """Carry one burst's events across the door; answers first, the end last."""
        has_room = False
        for event in events:
            match event:
                case Answered(results):
                    self._sink.outcomes(self.id, results)
                    has_room = True
                case Reported(reports):
                    self._sink.reports(self.id, reports)
                case Received(texts):
                    self._sink.inbound(self.id, texts)
                case Bound(peer):
                    self._bound(link, peer)
                    has_room = True
                case Ended(reason, error):
                    log_fault(error, self._config.name)
                    is_strange = error is not None or reason == LOGIN_UNANSWERED
                    if is_strange and not link.session.was_taken():
                        reason = f"{reason}, {_NOT_OURS}"
                    link.close(reason)
                case _:
                    assert_never(event)
        link.flush()
        if has_room:
            self.opened()

    def opened(self) -> None:
        """There may be room again."""
        if self._stopping.is_set():
            self._look_quiet()
        elif self.is_up():
            self._sink.window_open(self.id)

    def link_ended(self, link: Link) -> None:
        """Forget a link; its unanswered submits are Uncertain, the last one takes us down."""
        role = link.session.role
        self.last_reason = f"{role}: {link.reason}" if role else link.reason
        self._dialling.discard(link)
        was_up = self.is_up()
        if link in self._links:
            self._links.remove(link)
            if self._links:  # that the last one is gone says the link's fall
                self._take_tests(link.session)
        for event in link.session.lost("channel.link_lost"):
            if isinstance(event, Answered):
                self._sink.outcomes(self.id, event.results)
        # Who stops a channel knows that it is down; its successor has the same id.
        if was_up and not self.is_up() and not self._stopping.is_set():
            self._sink.link_changed(self.id, False, link.reason)
        if self._stopping.is_set():
            self._look_quiet()

    # -- inside ----------------------------------------------------------------------------

    def _bound(self, link: Link, peer: str) -> None:
        log.info(
            "session bound",
            channel=self._config.name,
            protocol=self._config.protocol,
            peer=peer,
            role=link.session.role,
        )
        self._dialling.discard(link)
        link.was_bound = True
        self._told = ("", -REMIND_S)
        was_up = self.is_up()
        self._links.append(link)
        if not was_up and self.is_up():
            self._sink.link_changed(self.id, True, "bound")

    def _spread(self, submits: Sequence[Submit]) -> tuple[list[tuple[Link, Sequence[Submit]]], int]:
        """Share a burst out, each message to the session with most room: (plan, how many go)."""
        room = {link: link.free() for link in self._links}
        if not room:
            return [], 0
        best = max(room, key=room.__getitem__)
        if len(submits) <= room[best]:
            return [(best, submits)], len(submits)
        shares: dict[Link, list[Submit]] = {}
        start, total = 0, len(submits)
        while start < total:
            stop = start + 1
            message = submits[start].message
            while stop < total and submits[stop].message is message:
                stop += 1
            best = max(room, key=room.__getitem__)
            size = stop - start
            if size > room[best]:
                size = room[best] if size > self._config.window else 0
                stop = start + size
                total = stop
            if size:
                shares.setdefault(best, []).extend(submits[start:stop])
                room[best] -= size
            start = stop
        return list(shares.items()), start

    async def _keep(self, number: int) -> None:
        """Keep one session: connect, wait for its end, back off, again."""
        backoff = Backoff(self._policy, self._dice)
        while not self._stopping.is_set():
            if not self._sink.may_submit():  # no login for a process that owns nothing just now
                self.last_reason = "the lease of this process is over"
                await _within(self._stopping.wait(), LEASE_LOOK_S)
                continue
            link = await self._dial(number)
            close = Close.REFUSED
            if link is not None:
                await link.ended
                if link.was_bound:
                    close = self.closed(number, link.session, time.monotonic())
            match close:
                case Close.IDLE:
                    backoff.held()
                    continue  # log in again at once
                case Close.LOST:
                    wait_s = backoff.fell()
                case Close.REFUSED:
                    self.failures += 1
                    was_heard = link is not None and link.was_heard
                    wait_s = backoff.refused() if was_heard else backoff.unreached()
            self._tell(time.monotonic())
            await _within(self._stopping.wait(), wait_s)

    def _tell(self, now: float) -> None:
        """Log why a session is missing: each reason when it is new, then once a minute."""
        reason, at = self._told
        if self._stopping.is_set() or (reason == self.last_reason and now - at < REMIND_S):
            return
        self._told = (self.last_reason, now)
        log.warning(
            "channel cannot hold a session",
            channel=self._config.name,
            protocol=self._config.protocol,
            reason=self.last_reason,
            failures=self.failures,
            sessions=len(self._links),
        )

    async def _dial(self, number: int) -> Link | None:
        session = self.make_session(number)
        session.submit_timeout_s = self._config.submit_timeout_s
        link = Link(self, session, self.make_tls())
        self._dialling.add(link)
        try:
            await _connect(link, *self.address(number), self._response_s)
        except ConnectFailed as error:
            link.close(str(error))  # it may have been opened in the last instant
            self._dialling.discard(link)
            self.last_reason = str(error)
            return None
        return link

    def _tick(self) -> None:
        """Once a second: time-outs and link tests of all sessions."""
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        now = time.monotonic()
        for link in (*self._links, *self._dialling):
            link.tick(now, self._response_s)
        if self._stopping.is_set():
            self._look_quiet()  # a report over another connection may have been the last answer

    def _look_quiet(self) -> None:
        if not any(link.session.window.open for link in self._links):
            self._quiet.set()
        if any(link.session.owed > 0 for link in self._links):
            self._settled.clear()
        else:
            self._settled.set()


async def _connect(link: Link, host: str, port: int, timeout_s: float) -> None:
    """Open the socket; ConnectFailed says why not."""
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().create_connection(lambda: link, host, port)
    except TimeoutError:
        detail = f"no connection to {host}:{port} in {timeout_s:g} s"
        raise ConnectFailed(f"{detail}, {_UNREACHED}") from None
    except OSError as error:
        why = (error.strerror or "none of its addresses answers").lower()
        raise ConnectFailed(f"no connection to {host}:{port} ({why}), {_UNREACHED}") from None


async def _within(waiting: Awaitable[object], timeout_s: float) -> None:
    """Await at most `timeout_s`; time over is no error."""
    try:
        async with asyncio.timeout(timeout_s):
            await waiting
    except TimeoutError:
        pass
