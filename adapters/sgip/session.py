"""SGIP sessions, sans I/O, in both directions: ours to the SMG, and the SMG's to us.

    SgipSession   we connect and log in (login type 1), then SUBMIT
    SgipGuest     the SMG connects and logs in (login type 2), then DELIVER and REPORT

By the book nothing is pushed over the first; some platforms do, so both read every PDU. There is
no heartbeat: a peer may close a connection that was idle, which is no fault. The 12 octets of a
SUBMIT's header are the message's id, so they must never be given twice: `Common` holds the counter
of all sessions of one process, which has a part of the counters to itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct

from adapters.layout import Fields
from adapters.mainland import absolute_time, content_of, e164, national, stamp_of, text_of
from adapters.session import (
    PROBATION_S,
    Bound,
    Burst,
    Ended,
    Event,
    Move,
    SessionPolicy,
    SessionState,
    WireSession,
)
from adapters.sgip import pdu
from adapters.sgip.codes import ResultTable, login_refused
from adapters.sgip.pdu import HEADER_SIZE, PDU_MAXIMUM, REPORT, SUBMIT_RESP, parse_header
from adapters.sgip.settings import NumberFormat, SgipSettings, Validity
from adapters.wire import Framer
from sms.concatenation import split_header
from sms.errors import RemoteProtocolError
from sms.model import Inbound, Report, Submit
from sms.outcomes import Outcome, Submitted

PROCESS_BITS = 10
COUNTER_BITS = 32 - PROCESS_BITS
# Two lives of one process number in the same second begin so far apart.
_LIFE_STEP = 1 << 16

SMG_IDLE_S = 300.0  # an SMG that says nothing for so long is logged out; the standard lets us at 60
IDLE_S = 5.0  # so long without a word is idle; peers close after 60 s and the like
BUSY_AGAIN = pdu.BUSY  # what "send it again later" is on this wire

_STATES = {
    pdu.STATE_DELIVERED: "DELIVRD",
    pdu.STATE_WAITING: "ACCEPTD",
    pdu.STATE_FAILED: "UNDELIV",
}
_DELIVER_BODY = Struct(">21s21sBBBI").unpack_from
_CONTENT_AT = HEADER_SIZE + 49


class Common:
    """What the sessions of one process share: the counter, and who waits for which answer.

    Counters are `process` (10 bits) and 22 bits of its own: processes with one node id never give
    the same. `life` is another number at each start of the process.
    """

    __slots__ = ("highest", "last", "lowest", "sessions")

    def __init__(self, process: int = 0, life: int = 0) -> None:
        self.lowest = process << COUNTER_BITS
        self.highest = self.lowest + (1 << COUNTER_BITS) - 1
        self.last = self.lowest + life * _LIFE_STEP % (1 << COUNTER_BITS)
        self.sessions: dict[int, list[SgipSession]] = {}  # by channel

    def witness(self, channel: int, carrier_id: str) -> Submit | None:
        """The submit this report is the first word about, taken out of its window.

        Its own answer may come later, on the other connection, or never.
        """
        counter = int(carrier_id[16:], 16)
        for session in self.sessions.get(channel, ()):
            submit = session.take_if(counter, carrier_id)
            if submit is not None:
                return submit
        return None


Token = tuple["_Talk", bytes]  # who must answer, and the header of what it answers


class _Talk(WireSession):
    """What both directions read: reports, texts, logouts and what nobody serves."""

    link_test = "no link test"  # there is none in SGIP

    def __init__(  # noqa: PLR0913 – keyword-only behind the third
        self,
        channel: int,
        policy: SessionPolicy,
        common: Common,
        *,
        node: int,
        window: int,
        unix_offset: float,
        response_timeout_s: float | None = None,
    ) -> None:
        """`unix_offset` is Unix time minus the clock of `now`, for the time in our PDUs."""
        self.sequence_minimum, self.sequence_maximum = common.lowest, common.highest
        framer = Framer(HEADER_SIZE, PDU_MAXIMUM)
        super().__init__(
            channel, policy, framer, window=window, response_timeout_s=response_timeout_s
        )
        self._common = common
        self._node = node
        self._unix_offset = unix_offset
        self._build_into = self._build

    def _build(self, out: list[bytes], sequence: int, submit: Submit) -> None:
        raise ValueError("nothing is submitted over this connection")

    def _answer(self, tokens: Sequence[tuple[object, ...]], *, accepted: bool) -> None:
        """Queue the responses to reports and texts: 0, or 11 for "send it again later"."""
        result = pdu.OK if accepted else BUSY_AGAIN
        for _, header in tokens:
            if isinstance(header, bytes):
                self._out.append(pdu.build_answer(header, result))

    # -- the peer's moves ------------------------------------------------------------------

    def _report(self, frame: bytes, burst: Burst) -> None:
        carrier_id, kind, user, state, error = pdu.parse_report(frame)
        if kind:  # of a text that was passed on: nothing of ours
            self._out.append(pdu.build_answer(frame, pdu.OK))
            return
        submit = self._common.witness(self.channel, carrier_id)
        if submit is not None:
            burst.results.append((submit, Submitted(carrier_id)))
        word = _STATES.get(state) or f"STATE{state}"
        code = str(error) if state == pdu.STATE_FAILED and error else ""
        token = (self, frame[:HEADER_SIZE])
        burst.reports.append(Report(self.channel, carrier_id, word, code, e164(user), token))

    def _text(self, frame: bytes, burst: Burst) -> None:
        if len(frame) < _CONTENT_AT:
            raise RemoteProtocolError("the PDU ends inside a DELIVER")
        user, sp_number, _, has_udh, coding, size = _DELIVER_BODY(frame, HEADER_SIZE)
        if size > len(frame) - _CONTENT_AT:
            raise RemoteProtocolError("the PDU ends inside MessageContent")
        content = frame[_CONTENT_AT : _CONTENT_AT + size]
        mark, body = split_header(content) if has_udh else (None, content)
        burst.texts.append(
            Inbound(
                self.channel,
                e164(user.partition(b"\0")[0].decode("latin-1")),
                sp_number.partition(b"\0")[0].decode("latin-1").lstrip("+"),
                text_of(coding, body),
                (self, frame[:HEADER_SIZE]),
                frame[8:HEADER_SIZE].hex(),
                mark,
            )
        )

    def _control(self, frame: bytes, burst: Burst) -> Ended | None:
        command_id = parse_header(frame)[1]
        if command_id == REPORT:
            self._report(frame, burst)
        elif command_id == pdu.DELIVER:
            self._text(frame, burst)
        elif command_id == pdu.UNBIND:
            return self._peer_unbound(pdu.build_answer(frame, pdu.OK), burst)
        elif command_id == pdu.UNBIND_RESP:
            # Whatever stands in its sequence: SMGs put a time of their own there.
            if self.state is SessionState.UNBINDING:
                return self._end("unbound")
        elif command_id == pdu.USERRPT:
            self._out.append(pdu.build_answer(frame, pdu.OK))
        elif command_id & pdu.RESPONSE:
            self.strays += 1
        else:
            self._out.append(pdu.build_answer(frame, pdu.COMMAND_NOT_SERVED))
        return None

    # -- the inside ------------------------------------------------------------------------

    def _next(self) -> int:
        self._sequence = self._common.last
        self._common.last = super()._next()
        return self._sequence

    def _stamp(self, now: float) -> int:
        return stamp_of(int(now + self._unix_offset))

    def _logout(self) -> None:
        sequence = (self._node, self._stamp(self._since), self._next())
        self._out.append(pdu.build_pdu(pdu.UNBIND, sequence))

    def _must_ask(self, now: float) -> bool:
        return False

    def _test_link(self, sequence: int) -> None:
        raise AssertionError("SGIP has no link test")


class SgipSession(_Talk):
    """Our login at the SMG."""

    def __init__(  # noqa: PLR0913 – keyword-only behind the fourth
        self,
        channel: int,
        settings: SgipSettings,
        policy: SessionPolicy,
        window: int,
        *,
        common: Common,
        unix_offset: float,
        is_doubtful: bool = False,
    ) -> None:
        """`is_doubtful`: the last login was taken and closed at once, so this one must last a
        second before anything is sent over it."""
        super().__init__(
            channel,
            policy,
            common,
            node=settings.node_id,
            window=window,
            unix_offset=unix_offset,
            response_timeout_s=settings.response_timeout_s,
        )
        self._settings = settings
        self._codes = ResultTable(settings.status_classes)
        self._template = pdu.SubmitTemplate(settings.look)
        is_plain = settings.number_format is NumberFormat.E164
        self._number_of: Callable[[str], str] = e164 if is_plain else national
        self._is_doubtful = is_doubtful
        self._taken_at: float | None = None  # a doubtful login was answered with 0
        self._submitted_at = 0.0
        self._had_open = False  # at the end: a submit had no answer
        self._second = -1  # of the stamp below
        self._stamp_now = 0
        self._id_head = ""

    # -- our moves -------------------------------------------------------------------------

    def submit(self, submits: Sequence[Submit], now: float) -> list[tuple[Submit, Outcome]]:
        """As `WireSession.submit`; the counters come from all our sessions' common one."""
        self._sequence = self._common.last
        self._submitted_at = now
        self._stamp_at(now)
        refused = super().submit(submits, now)
        self._common.last = self._sequence
        return refused

    def lost(self, reason: str) -> list[Event]:
        """As `WireSession.lost`; nobody's report is looked for here any more: who hears of the
        loss hears the ids too."""
        self._had_open = bool(self.window.taken())
        own = self._common.sessions.get(self.channel, [])
        if self in own:
            own.remove(self)
        return super().lost(reason)

    def was_taken(self) -> bool:
        """As `WireSession.was_taken`; a doubtful login was answered too."""
        return self._taken_at is not None or super().was_taken()

    def was_idle(self, now: float) -> bool:
        """Whether nothing was under way when it was closed."""
        active_at = max(self._heard_at, self._submitted_at)
        return not self._had_open and now - active_at >= IDLE_S

    def take_if(self, counter: int, carrier_id: str) -> Submit | None:
        """Take the unanswered submit with this whole id out of the window."""
        submit = self.window.open.get(counter) or self.window.late(counter)
        if submit is None or self._id_of(submit, counter) != carrier_id:
            return None
        return self.window.open.pop(counter, None) or self.window.take_late(counter)

    # -- the wire --------------------------------------------------------------------------

    def _login(self) -> None:
        own = self._settings
        fields: Fields = {
            "login_type": pdu.LOGIN_SP,
            "login_name": own.login_name,
            "login_password": own.password,
        }
        sequence = (self._node, self._stamp(self._since), self._next())
        self._out.append(pdu.build_pdu(pdu.BIND, sequence, fields))

    def _build(self, out: list[bytes], sequence: int, submit: Submit) -> None:
        own = self._settings
        coding, content = content_of(submit, own.content_maximum)
        expire = ""
        if own.validity_period is Validity.ABSOLUTE:
            expire = absolute_time(self._second + submit.validity_s)
        self._template.build_into(
            out,
            (self._node, self._stamp_now, sequence),
            sender=submit.sender,
            number=self._number_of(submit.number),
            coding=coding,
            has_udh=submit.has_udh,
            content=content,
            expire_time=expire,
        )

    def _read(self, frames: list[bytes], burst: Burst) -> Ended | None:
        take, results = self.window.open.pop, burst.results
        for frame in frames:
            _, command_id, _, _, counter = parse_header(frame)
            if command_id != SUBMIT_RESP:
                ended = self._other(command_id, frame, burst)
                if ended is not None:
                    return ended
                continue
            if len(frame) <= HEADER_SIZE:
                raise RemoteProtocolError("the PDU ends before Result")
            submit = take(counter, None) or self.window.take_late(counter)
            if submit is None:
                self.strays += 1
            else:
                results.append((submit, self._outcome(submit, counter, frame[HEADER_SIZE])))
        return None

    def _outcome(self, submit: Submit, counter: int, result: int) -> Outcome:
        if not result:
            return Submitted(self._id_of(submit, counter))
        return self._codes.answered(result, is_first=not submit.message.throttled)

    def _other(self, command_id: int, frame: bytes, burst: Burst) -> Ended | None:
        if command_id != pdu.BIND_RESP:
            return self._control(frame, burst)
        if self.state is not SessionState.BINDING:
            self.strays += 1
            return None
        result = frame[HEADER_SIZE] if len(frame) > HEADER_SIZE else pdu.OK
        if result:
            return self._end(login_refused(result))
        if self._is_doubtful:
            self._taken_at = self._heard_at
        else:
            self._bind(self._heard_at, burst.bound)
        return None

    def tick(self, now: float) -> list[Event]:
        """As `WireSession.tick`; a doubtful login that held so long counts now."""
        bound: list[Bound] = []
        if self._taken_at is not None and now - self._taken_at >= PROBATION_S:
            self._taken_at = None
            if self.state is SessionState.BINDING:
                self._bind(now, bound)
        return [*bound, *super().tick(now)]

    def _bind(self, now: float, bound: list[Bound]) -> None:
        self._move(Move.BOUND, now)
        self._common.sessions.setdefault(self.channel, []).append(self)
        bound.append(Bound())

    # -- ids -------------------------------------------------------------------------------

    def _id_before_answer(self, sequence: int, submit: Submit) -> str:
        return self._id_of(submit, sequence)

    def _stamp_at(self, now: float) -> None:
        second = int(now + self._unix_offset)
        if second != self._second:
            self._second = second
            self._stamp_now = stamp_of(second)
            self._id_head = f"{self._node:08x}{self._stamp_now:08x}"

    def _id_of(self, submit: Submit, counter: int) -> str:
        """The 12 octets that its SUBMIT had, whatever its answer copied."""
        self._stamp_at(submit.sent_at)
        return f"{self._id_head}{counter:08x}"


@dataclass(frozen=True, slots=True)
class Account:
    """Who may log in at our listener, and which channel's reports it brings."""

    channel: int
    node: int
    login_name: str
    password: str = field(repr=False)


class SgipGuest(_Talk):
    """The SMG's login at our listener."""

    def __init__(
        self,
        accounts: Callable[[], Sequence[Account]],
        policy: SessionPolicy,
        *,
        common: Common,
        unix_offset: float,
    ) -> None:
        """`accounts` are those whose allow-list has the peer's address, asked for at its BIND."""
        super().__init__(0, policy, common, node=0, window=0, unix_offset=unix_offset)
        self.account: Account | None = None  # once it is logged in
        self._accounts = accounts

    def _login(self) -> None:
        """It is the peer who logs in."""

    def _read(self, frames: list[bytes], burst: Burst) -> Ended | None:
        for frame in frames:
            command_id = parse_header(frame)[1]
            if command_id == REPORT and self.account is not None:
                self._report(frame, burst)
                continue
            if command_id == pdu.BIND:
                ended = self._bind_asked(frame, burst)
            elif self.account is None:
                raise RemoteProtocolError("something else than a BIND came first")
            else:
                ended = self._control(frame, burst)
            if ended is not None:
                return ended
        return None

    def tick(self, now: float) -> list[Event]:
        """As `WireSession.tick`; one that brought nothing for long is logged out: it opens another
        connection when it has something."""
        is_idle = self.owed <= 0 and self.quiet_s(now) >= SMG_IDLE_S
        if is_idle and self.state is SessionState.BOUND:
            self.unbind(now)
        return super().tick(now)

    def quiet_s(self, now: float) -> float:
        """Seconds since it said anything."""
        return now - self._heard_at

    def _bind_asked(self, frame: bytes, burst: Burst) -> Ended | None:
        if self.state is not SessionState.BINDING:
            self._out.append(pdu.build_answer(frame, 2))
            return None
        asked = pdu.parse_pdu(frame)
        if asked.number("login_type") != pdu.LOGIN_SMG:
            self._out.append(pdu.build_answer(frame, pdu.BAD_LOGIN_TYPE))
            return self._end(f"a login of type {asked.number('login_type')}, not 2, was refused")
        account = self._account(asked.text("login_name"), asked.text("login_password"))
        if account is None:
            self._out.append(pdu.build_answer(frame, pdu.BAD_LOGIN))
            return self._end("a login with another name or password was refused")
        self.account = account
        self.channel, self._node = account.channel, account.node
        self._move(Move.BOUND, self._heard_at)
        self._out.append(pdu.build_answer(frame, pdu.OK))
        burst.bound.append(Bound(account.login_name))
        return None

    def _account(self, name: str, password: str) -> Account | None:
        given = password.encode("latin-1")
        for account in self._accounts():
            is_same = hmac.compare_digest(account.password.encode("latin-1"), given)
            if is_same and account.login_name == name:
                return account
        return None
