"""What the sessions of every wire protocol share, sans I/O: bytes and `now` in, events out.

    unbound ──connected──▶ binding ──bound──▶ bound ──logout from the peer──▶ draining
                              │                 │                                │
                              │                 └──our logout──▶ unbinding       │
                              └────────────┬────────────────────────┴────────────┘
                                        closed

Answers come in any order and are matched on the sequence number. A submit without an answer is
reported Uncertain once, by its time-out or by the loss of the session; an answer after that is
reported again. Status reports and texts from phones are answered only when the caller says so.

A protocol's own session says how a login, a link test and a logout are written and reads the
frames of a burst; clocks, window, states and events are here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from adapters.window import Window
from adapters.wire import Framer
from sms.errors import LocalProtocolError, RemoteProtocolError
from sms.model import Inbound, MessageClass, Report, Submit
from sms.outcomes import Cause, Outcome, Rejected, Uncertain

# A login that does not hold for so long was refused after all, whatever its answer said.
PROBATION_S = 1.0
LOGIN_UNANSWERED = "the login was not answered"


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """Times of every session, in seconds (RELIABILITY sections 2, 4 and 5)."""

    submit_timeout_otp_s: float = 10.0
    submit_timeout_s: float = 60.0
    uncertain_slot_s: float = 120.0  # a timed-out submit keeps its slot this long
    link_test_s: float = 15.0  # of silence from the peer
    probe_s: float = 10.0  # of silence towards a vendor over HTTP
    response_timeout_s: float = 10.0  # connect, login, link test, logout
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 60.0  # between two logins that are refused
    reconnect_link_max_s: float = 5.0  # between two tries that nobody answers
    # Which process of the cluster this is, and which of its lives, for a protocol whose messages
    # are named by the sender's own numbers.
    process: int = 0
    life: int = 0


class SessionState(StrEnum):
    """Where a session stands."""

    UNBOUND = "unbound"
    BINDING = "binding"
    BOUND = "bound"
    DRAINING = "draining"  # the peer logged out: its last answers may still come
    UNBINDING = "unbinding"
    CLOSED = "closed"


class Move(StrEnum):
    """What moves a session."""

    CONNECTED = "connected"
    BOUND = "bound"
    PEER_UNBOUND = "peer_unbound"
    UNBIND = "unbind"


_MOVES: dict[tuple[SessionState, Move], SessionState] = {
    (SessionState.UNBOUND, Move.CONNECTED): SessionState.BINDING,
    (SessionState.BINDING, Move.BOUND): SessionState.BOUND,
    (SessionState.BINDING, Move.UNBIND): SessionState.UNBINDING,
    (SessionState.BOUND, Move.PEER_UNBOUND): SessionState.DRAINING,
    (SessionState.BOUND, Move.UNBIND): SessionState.UNBINDING,
}


@dataclass(slots=True)
class Bound:
    """The carrier took our login; `peer` is what it calls itself, "" when it does not say."""

    peer: str = ""


@dataclass(slots=True)
class Answered:
    """What became of submits, in the order it was learnt."""

    results: list[tuple[Submit, Outcome]]


@dataclass(slots=True)
class Reported:
    """Status reports; their tokens wait for `WireSession.answer`."""

    reports: list[Report]


@dataclass(slots=True)
class Received:
    """Texts from phones; their tokens wait for `WireSession.answer`."""

    texts: list[Inbound]


@dataclass(slots=True)
class Ended:
    """Write what is left, then close: the session is over."""

    reason: str
    error: RemoteProtocolError | None = None


Event = Bound | Answered | Reported | Received | Ended


@dataclass(slots=True)
class Burst:
    """What one `receive` has found so far."""

    results: list[tuple[Submit, Outcome]]
    reports: list[Report]
    texts: list[Inbound]
    bound: list[Bound]

    def events(self, ended: Ended | None) -> list[Event]:
        """One event of each kind that was found, the end last."""
        events: list[Event] = [*self.bound]
        if self.results:
            events.append(Answered(self.results))
        if self.reports:
            events.append(Reported(self.reports))
        if self.texts:
            events.append(Received(self.texts))
        if ended is not None:
            events.append(ended)
        return events


# Appends one submit's bytes under a sequence number; ValueError, with the list as it was, when
# sender, number or payload does not fit the PDU.
BuildInto = Callable[[list[bytes], int, Submit], None]

UNFIT = Rejected("", Cause.CONFIG, "channel.misconfigured")


class WireSession(ABC):
    """One login. Not thread-safe, no clock of its own.

    A protocol sets `_build_into` and writes the five abstract methods. The token of a report or
    a text is a tuple with its session first; a session that is over ignores its tokens.
    """

    link_test = "link test"  # what the protocol calls it
    link_test_tries = 1  # unanswered ones before the link counts as dead
    role = ""  # "transmitter" or "receiver" where each direction has a session of its own
    sequence_minimum = 1
    sequence_maximum = 0xFFFFFFFF

    def __init__(
        self,
        channel: int,
        policy: SessionPolicy,
        framer: Framer,
        *,
        window: int,
        link_test_s: float | None = None,
        response_timeout_s: float | None = None,
    ) -> None:
        """`link_test_s` and `response_timeout_s` are the channel's own, over the policy's."""
        self.channel = channel
        self.state = SessionState.UNBOUND
        self.window = Window(window)
        self.congestion = 0  # the highest that the peer told since it was last asked for
        self.strays = 0  # answers that nobody waited for
        self.owed = 0  # reports and texts that wait for our answer
        self.faults = 0  # bursts whose reading failed by an error of ours
        self.submit_timeout_s: float | None = None  # the channel's own, over the class's
        self._policy = policy
        self._link_test_s = link_test_s or policy.link_test_s
        self._response_s = response_timeout_s or policy.response_timeout_s
        self._framer = framer
        self._build_into: BuildInto
        self._out: list[bytes] = []
        self._sequence = self.sequence_minimum - 1
        self.bound_at: float | None = None  # monotonic; None before
        self._since = 0.0  # when the present state began
        self._heard_at = 0.0
        self._asked: tuple[int, float] | None = None  # our open link test
        self._asks = 0  # link tests in a row without an answer …
        self._asked_since = 0.0  # … and when the first of them left
        self.tests_s: list[float] = []  # how long their answers took, until somebody takes these
        self.tests_lost = 0  # unanswered ones, likewise
        self._farewell = b""  # our answer to the peer's logout, behind what we owe it

    # -- what a protocol writes ------------------------------------------------------------

    @abstractmethod
    def _login(self) -> None:
        """Queue the login."""

    @abstractmethod
    def _test_link(self, sequence: int) -> None:
        """Queue a link test; its answer calls `_link_answered`."""

    @abstractmethod
    def _logout(self) -> None:
        """Queue the logout; its answer returns `_end`."""

    @abstractmethod
    def _read(self, frames: list[bytes], burst: Burst) -> Ended | None:
        """Read whole frames into `burst` until the session ends; may raise RemoteProtocolError."""

    @abstractmethod
    def _answer(self, tokens: Sequence[tuple[object, ...]], *, accepted: bool) -> None:
        """Queue the responses to reports and texts; not accepted = "send it again later"."""

    def _broken(self, error: RemoteProtocolError) -> Ended:
        """What is said to a peer whose bytes cannot be read; here nothing."""
        self.state = SessionState.CLOSED
        return Ended(str(error), error)

    # -- what the shell asks ---------------------------------------------------------------

    def was_refused(self, now: float) -> bool:
        """Whether it ended like a login that was refused although its answer said yes."""
        return self.bound_at is None or now - self.bound_at < PROBATION_S

    def was_taken(self) -> bool:
        """Whether the peer ever said yes to a login, so speaks our protocol."""
        return self.bound_at is not None

    def free(self) -> int:
        """How many submits it takes now."""
        return self.window.free() if self.state is SessionState.BOUND else 0

    def to_send(self) -> bytes:
        """The bytes to write now; handed out once."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return b"".join(out)

    # -- our moves -------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The socket is open: log in."""
        self._move(Move.CONNECTED, now)
        self._heard_at = now
        self._login()

    def submit(self, submits: Sequence[Submit], now: float) -> list[tuple[Submit, Outcome]]:
        """Queue one burst; the caller has journalled it and counted `free`.

        Returns the outcome of those that cannot be packed (a number or sender that no PDU of
        the protocol can hold): they took no slot. Raises LocalProtocolError over the window.
        """
        if len(submits) > self.free():
            raise LocalProtocolError(f"{len(submits)} submits into {self.free()} free slots")
        refused: list[tuple[Submit, Outcome]] = []
        waiting, out, build_into = self.window.open, self._out, self._build_into
        sequence, lowest, highest = self._sequence, self.sequence_minimum, self.sequence_maximum
        for submit in submits:
            sequence = sequence + 1 if sequence < highest else lowest
            try:
                build_into(out, sequence, submit)
            except ValueError:
                refused.append((submit, UNFIT))
                continue
            submit.sent_at = now
            waiting[sequence] = submit
        self._sequence = sequence
        return refused

    def unbind(self, now: float) -> None:
        """Log out; the peer's answer ends the session."""
        if (self.state, Move.UNBIND) in _MOVES:
            self._move(Move.UNBIND, now)
            self._logout()

    def lost(self, reason: str) -> list[Event]:
        """The socket is gone: every submit that nobody heard of is Uncertain, once."""
        self.state = SessionState.CLOSED
        self._out.clear()
        unanswered = self.window.clear()
        if not unanswered:
            return []
        return [self._given_up(unanswered, reason)]

    def tick(self, now: float) -> list[Event]:
        """Look at the clocks; once a second is enough."""
        events: list[Event] = []
        expired = self.window.expire(
            now,
            self._timeout_of,
            shortest_s=self._shortest_s(),
            slot_s=self._policy.uncertain_slot_s,
        )
        if expired:
            events.append(self._given_up(expired, "channel.timeout"))
        reason = self._overdue(now)
        if reason:
            self.tests_lost += self._asked is not None
            events.append(self._end(reason))
        elif self._must_ask(now):
            self.tests_lost += self._asked is not None
            if not self._asks:
                self._asked_since = now
            self._asks += 1
            self._asked = (self._next(), now)
            self._test_link(self._asked[0])
        return events

    def answer(self, tokens: Sequence[tuple[object, ...]], *, accepted: bool) -> None:
        """Queue the responses to reports and texts that were told; not accepted = "send it again
        later". The tokens of a session that is over are ignored."""
        if self.state is SessionState.CLOSED:
            return
        self.owed -= len(tokens)
        self._answer(tokens, accepted=accepted)
        self._part()

    # -- the peer's moves ------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the peer; at most one event of each kind per call, Ended last."""
        if self.state is SessionState.CLOSED:
            return []
        self._heard_at = now
        if self.link_test_tries > 1 and self._asked is not None:
            self._test_over()  # whoever speaks is there, however late its answers
        burst = Burst([], [], [], [])
        ended: Ended | None = None
        try:
            ended = self._read(self._framer.feed(data), burst)
        except RemoteProtocolError as error:
            ended = self._broken(error)
        except Exception as error:  # noqa: BLE001 – ours, but it must cost this session only:
            # what the burst held before is told, the shell logs what went wrong
            self.faults += 1
            wrong = RemoteProtocolError(f"a PDU could not be read: {type(error).__name__}")
            wrong.__cause__ = error
            ended = self._broken(wrong)
        if ended is None and self._framer.error is not None:
            ended = self._broken(self._framer.error)
        self.owed += len(burst.reports) + len(burst.texts)
        if self._farewell:
            self._part()
        if ended is None and self.state is SessionState.DRAINING and not self._is_awaited():
            ended = self._end("unbound by the carrier")
        return burst.events(ended)

    def _link_answered(self, sequence: int) -> bool:
        """Whether `sequence` answers our open link test, which is over then."""
        if self._asked is None or self._asked[0] != sequence:
            return False
        self._test_over()
        return True

    def _test_over(self) -> None:
        self.tests_s.append(self._heard_at - self._asked_since)
        self._asked, self._asks = None, 0

    def _peer_unbound(self, farewell: bytes, burst: Burst) -> Ended | None:
        """The peer logged out; `farewell` is our answer.

        It may close when it has that, so what we owe goes first, of this burst too; and its open
        submits may still be answered.
        """
        if self.state is not SessionState.BOUND:
            self._out += [self._farewell, farewell]  # it could not wait
            self._farewell = b""
            return self._end("unbound by the carrier")
        self._move(Move.PEER_UNBOUND, self._heard_at)
        if self.owed > 0 or burst.reports or burst.texts:
            self._farewell = farewell
        else:
            self._out.append(farewell)
        return None

    # -- the inside ------------------------------------------------------------------------

    def _is_awaited(self) -> bool:
        """Whether one side still waits for an answer of the other."""
        return bool(self.window.open) or self.owed > 0

    def _part(self) -> None:
        """Answer the peer's logout, once all that it brought is answered."""
        if self._farewell and self.owed <= 0:
            self._out.append(self._farewell)
            self._farewell = b""

    def _given_up(self, unanswered: Sequence[tuple[int, Submit]], reason: str) -> Answered:
        """Nobody heard of these; with the ids that are ours to know."""
        known = self._id_before_answer
        return Answered(
            [(submit, Uncertain(reason, known(number, submit))) for number, submit in unanswered]
        )

    def _id_before_answer(self, sequence: int, submit: Submit) -> str:
        """The carrier's id of a submit without an answer; "" where only an answer tells it."""
        return ""

    def _next(self) -> int:
        is_last = self._sequence >= self.sequence_maximum
        self._sequence = self.sequence_minimum if is_last else self._sequence + 1
        return self._sequence

    def _move(self, move: Move, now: float) -> None:
        try:
            self.state = _MOVES[self.state, move]
        except KeyError:
            raise LocalProtocolError(f"{move} while {self.state}") from None
        self._since = now
        if move is Move.BOUND:
            self.bound_at = now

    def _end(self, reason: str) -> Ended:
        if self._farewell:
            self._out.append(self._farewell)
        self.state = SessionState.CLOSED
        return Ended(reason)

    def _timeout_of(self, submit: Submit) -> float:
        if self.submit_timeout_s is not None:
            return self.submit_timeout_s
        if submit.message.message_class is MessageClass.OTP:
            return self._policy.submit_timeout_otp_s
        return self._policy.submit_timeout_s

    def _shortest_s(self) -> float:
        if self.submit_timeout_s is not None:
            return self.submit_timeout_s
        return min(self._policy.submit_timeout_otp_s, self._policy.submit_timeout_s)

    def _must_ask(self, now: float) -> bool:
        if self.state is not SessionState.BOUND:
            return False
        if self._asked is not None:  # once more, as long as `_overdue` lets it live
            return now - self._asked[1] >= self._response_s
        return now - self._heard_at >= self._link_test_s

    def _overdue(self, now: float) -> str:
        """Why the session must end now, "" when it need not."""
        asked = self._asked
        is_late = asked is not None and now - asked[1] >= self._response_s
        if is_late and self._asks >= self.link_test_tries:
            return f"{self.link_test} was not answered"
        waited = now - self._since >= self._response_s
        match self.state:
            case SessionState.BINDING if waited:
                return LOGIN_UNANSWERED
            case SessionState.UNBINDING if waited:
                return "the logout was not answered"
            case SessionState.DRAINING if waited or not self._is_awaited():
                return "unbound by the carrier"
            case _:
                return ""


def is_linked(token: object) -> bool:
    """Whether the session that a report or a text came over is logged in still."""
    session = token[0] if isinstance(token, tuple) and token else None
    return isinstance(session, WireSession) and session.state is SessionState.BOUND
