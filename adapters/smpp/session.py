"""One SMPP session as a client, sans I/O: bytes and `now` in, events and bytes out.

    unbound ──connected──▶ binding ──bound──▶ bound ──unbind from the peer──▶ draining
                              │                 │                                │
                              │                 └──our unbind──▶ unbinding       │
                              └────────────┬────────────────────────┴────────────┘
                                        closed

Answers come in any order and are matched on the sequence number. A submit without an answer is
reported Uncertain once, by its time-out or by the loss of the session; an answer after that is
reported again. Status reports and texts from phones are answered only when the caller says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from adapters.smpp import pdu
from adapters.smpp.codes import StatusTable, login_refused
from adapters.smpp.pdu import DELIVER_SM, HEADER_SIZE, PDU_MAXIMUM, SUBMIT_SM_RESP, parse_header
from adapters.smpp.receipt import ID_FORMS, parse_receipt, parse_text, parse_usual_receipt
from adapters.smpp.settings import NumberFormat, SmppSettings
from adapters.window import Window
from adapters.wire import Framer, build_tlvs
from sms.errors import LocalProtocolError, RemoteProtocolError
from sms.model import Inbound, MessageClass, Report, Submit
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Uncertain

_MESSAGE_ID_END = HEADER_SIZE + 64


@dataclass(frozen=True, slots=True)
class SmppPolicy:
    """Times of every session, in seconds (RELIABILITY sections 2, 4 and 5)."""

    submit_timeout_otp_s: float = 10.0
    submit_timeout_s: float = 60.0
    uncertain_slot_s: float = 120.0  # a timed-out submit keeps its slot this long
    enquire_link_s: float = 15.0  # of silence from the peer
    response_timeout_s: float = 10.0  # connect, bind, enquire_link, unbind
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 60.0


class SessionState(StrEnum):
    """Where a session stands."""

    UNBOUND = "unbound"
    BINDING = "binding"
    BOUND = "bound"
    DRAINING = "draining"  # the peer unbound: its last answers may still come
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
    """The carrier took our login."""

    system_id: str


@dataclass(slots=True)
class Answered:
    """What became of submits, in the order it was learnt."""

    results: list[tuple[Submit, Outcome]]


@dataclass(slots=True)
class Reported:
    """Status reports; their tokens wait for `Session.answer`."""

    reports: list[Report]


@dataclass(slots=True)
class Received:
    """Texts from phones; their tokens wait for `Session.answer`."""

    texts: list[Inbound]


@dataclass(slots=True)
class Ended:
    """Write what is left, then close: the session is over."""

    reason: str
    error: RemoteProtocolError | None = None


Event = Bound | Answered | Reported | Received | Ended


@dataclass(slots=True)
class _Burst:
    """What one `receive` has found so far."""

    results: list[tuple[Submit, Outcome]]
    reports: list[Report]
    texts: list[Inbound]
    bound: list[Bound]

    def events(self, ended: Ended | None) -> list[Event]:
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


# What an answer to the peer needs: (session, sequence number, command_id of the request). A
# session that is over ignores its tokens.
Token = tuple["Session", int, int]


class Session:
    """One login. Not thread-safe, no clock of its own."""

    def __init__(
        self, channel: int, settings: SmppSettings, policy: SmppPolicy, window: int
    ) -> None:
        self.channel = channel
        self.state = SessionState.UNBOUND
        self.window = Window(window)
        self.strays = 0  # answers that nobody waited for
        self.unreadable = 0  # reports without an id or a state, answered and dropped
        self.submit_timeout_s: float | None = None  # the channel's own, over the class's
        self._settings = settings
        self._policy = policy
        self._enquire_s = settings.enquire_link_s or policy.enquire_link_s
        self._response_s = settings.response_timeout_s or policy.response_timeout_s
        self._codes = StatusTable(settings.status_classes)
        self._answer_id, self._receipt_id = ID_FORMS[settings.id_match]
        self._template = pdu.SubmitTemplate(settings.look, _NUMBERS[settings.number_format])
        self._framer = Framer(HEADER_SIZE, PDU_MAXIMUM)
        self._out: list[bytes] = []
        self._sequence = 0
        self._since = 0.0  # when the present state began
        self._heard_at = 0.0
        self._asked: tuple[int, float] | None = None  # our open enquire_link

    # -- what the shell asks ---------------------------------------------------------------

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
        """The socket is open: bind."""
        self._move(Move.CONNECTED, now)
        self._heard_at = now
        own = self._settings
        fields: dict[str, str | int | bytes] = {
            "system_id": own.system_id,
            "password": own.password,
            "system_type": own.system_type,
            "interface_version": own.interface_version,
            "addr_ton": own.addr_ton,
            "addr_npi": own.addr_npi,
            "address_range": own.address_range,
        }
        self._out.append(pdu.build_pdu(pdu.BIND_TRANSCEIVER, self._next(), fields))

    def submit(self, submits: Sequence[Submit], now: float) -> list[tuple[Submit, Outcome]]:
        """Queue one burst; the caller has journalled it and counted `free`.

        Returns the outcome of those that cannot be packed (a number or sender that no
        submit_sm can hold): they took no slot. Raises LocalProtocolError over the window.
        """
        if len(submits) > self.free():
            raise LocalProtocolError(f"{len(submits)} submits into {self.free()} free slots")
        refused: list[tuple[Submit, Outcome]] = []
        waiting, out, build_into = self.window.open, self._out, self._template.build_into
        sequence = self._sequence
        for submit in submits:
            sequence = sequence + 1 if sequence < pdu.SEQUENCE_MAXIMUM else 1
            try:
                build_into(out, sequence, submit)
            except ValueError:
                refused.append((submit, _UNFIT))
                continue
            submit.sent_at = now
            waiting[sequence] = submit
        self._sequence = sequence
        return refused

    def answer(self, tokens: Sequence[Token], status: int) -> None:
        """Queue the responses to reports and texts: 0, or 0x64 for "send it again later"."""
        if self.state is SessionState.CLOSED:
            return
        pack, out = pdu.pack_header, self._out
        for _, sequence, command_id in tokens:
            out.append(pack(HEADER_SIZE + 1, command_id | pdu.RESPONSE, status, sequence) + b"\0")

    def unbind(self, now: float) -> None:
        """Log out; the peer's unbind_resp ends the session."""
        if (self.state, Move.UNBIND) in _MOVES:
            self._move(Move.UNBIND, now)
            self._out.append(pdu.pack_header(HEADER_SIZE, pdu.UNBIND, 0, self._next()))

    def lost(self, reason: str) -> list[Event]:
        """The socket is gone: every submit that nobody heard of is Uncertain, once."""
        self.state = SessionState.CLOSED
        self._out.clear()
        unanswered = self.window.clear()
        if not unanswered:
            return []
        return [Answered([(submit, Uncertain(reason)) for submit in unanswered])]

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
            events.append(Answered([(submit, Uncertain("channel.timeout")) for submit in expired]))
        reason = self._overdue(now)
        if reason:
            events.append(self._end(reason))
        elif self._is_silent(now):
            self._asked = (self._next(), now)
            self._out.append(pdu.pack_header(HEADER_SIZE, pdu.ENQUIRE_LINK, 0, self._asked[0]))
        return events

    # -- the peer's moves ------------------------------------------------------------------

    def receive(  # noqa: C901, PLR0912 – the codec loop: a call per PDU would cost a third more
        self, data: bytes, now: float
    ) -> list[Event]:
        """Bytes from the peer; at most one event of each kind per call, Ended last."""
        if self.state is SessionState.CLOSED:
            return []
        self._heard_at = now
        burst = _Burst([], [], [], [])
        ended: Ended | None = None
        take, results, reports = self.window.open.pop, burst.results, burst.reports
        channel, receipt_id = self.channel, self._receipt_id
        try:
            for frame in self._framer.feed(data):
                _, command_id, status, sequence = parse_header(frame)
                if command_id == SUBMIT_SM_RESP:
                    submit = take(sequence, None) or self.window.take_late(sequence)
                    if submit is None:
                        self.strays += 1
                    else:
                        results.append((submit, self._outcome(frame, status)))
                elif command_id == DELIVER_SM:
                    usual = parse_usual_receipt(frame)
                    if usual is None:
                        self._deliver(frame, pdu.parse_short(frame), sequence, burst)
                        continue
                    number, carrier_id, state, error = usual
                    if receipt_id is not None:
                        carrier_id = receipt_id(carrier_id)
                    token = (self, sequence, DELIVER_SM)
                    reports.append(Report(channel, carrier_id, state, error, number, token))
                else:
                    ended = _CONTROLS.get(command_id, Session._other)(self, frame, burst)
                    if ended is not None:
                        break
        except RemoteProtocolError as error:
            ended = self._broken(error)
        if ended is None and self._framer.error is not None:
            ended = self._broken(self._framer.error)
        if ended is None and self.state is SessionState.DRAINING and not self.window.open:
            ended = self._end("unbound by the carrier")
        return burst.events(ended)

    def _outcome(self, frame: bytes, status: int) -> Outcome:
        if status:
            if status == pdu.ESME_RINVBNDSTS and self.state is SessionState.BOUND:
                # It forgot our login: take no more, let the rest be answered, bind again.
                self._move(Move.PEER_UNBOUND, self._heard_at)
            return self._codes.outcome(status)
        # The body may be missing, its NUL too; TLVs after the id are congestion hints (5.0).
        # A longer id than the standard's 64 is cut, as it is in its report: the submit was taken.
        end = frame.find(0, HEADER_SIZE, _MESSAGE_ID_END + 1)
        carrier_id = frame[HEADER_SIZE : end if end >= 0 else _MESSAGE_ID_END].decode("latin-1")
        if self._answer_id is not None:
            carrier_id = self._answer_id(carrier_id)
        return Submitted(carrier_id)

    def _deliver(
        self,
        frame: bytes,
        short: pdu.Short,
        sequence: int,
        burst: _Burst,
        command_id: int = DELIVER_SM,
    ) -> None:
        kind = short[2] & pdu.ESM_TYPE
        token = (self, sequence, command_id)
        if kind == pdu.ESM_RECEIPT:
            parsed = parse_receipt(frame, short)
            if parsed is not None:
                carrier_id, state, error = parsed
                if self._receipt_id is not None:
                    carrier_id = self._receipt_id(carrier_id)
                number = short[0].decode("latin-1").lstrip("+")
                burst.reports.append(Report(self.channel, carrier_id, state, error, number, token))
                return
            self.unreadable += 1
        elif kind == 0:
            number = short[0].decode("latin-1").lstrip("+")
            to = short[1].decode("latin-1").lstrip("+")
            burst.texts.append(Inbound(self.channel, number, to, parse_text(frame, short), token))
            return
        # Acknowledgements of other machines, intermediate notices and reports that say nothing:
        # kept unanswered they would only come again.
        self.answer((token,), pdu.ESME_ROK)

    def _data(self, frame: bytes, burst: _Burst) -> None:
        parsed = pdu.parse_pdu(frame)
        short = (
            parsed.text("source_addr").encode("latin-1"),
            parsed.text("destination_addr").encode("latin-1"),
            parsed.number("esm_class"),
            0,
            parsed.number("data_coding"),
            b"",  # its text is the message_payload
            0,
        )
        self._deliver(build_tlvs(parsed.tlvs), short, parsed.sequence, burst, pdu.DATA_SM)

    def _nack(self, frame: bytes, burst: _Burst) -> Ended | None:
        _, _, status, sequence = parse_header(frame)
        submit = self.window.open.pop(sequence, None) or self.window.take_late(sequence)
        if submit is not None:
            burst.results.append((submit, self._codes.outcome(status, is_nack=True)))
        elif self._asked is not None and self._asked[0] == sequence:
            self._asked = None  # it knows no enquire_link, but it is there
        elif self.state is SessionState.BINDING:
            return self._end(login_refused(status, is_nack=True))
        else:
            self.strays += 1
        return None

    def _enquired(self, frame: bytes, _burst: _Burst) -> None:
        self._respond(pdu.ENQUIRE_LINK_RESP, pdu.ESME_ROK, frame)

    def _enquiry_answered(self, frame: bytes, _burst: _Burst) -> None:
        if self._asked is not None and self._asked[0] == parse_header(frame)[3]:
            self._asked = None

    def _unbound(self, frame: bytes, _burst: _Burst) -> Ended | None:
        self._respond(pdu.UNBIND_RESP, pdu.ESME_ROK, frame)
        if self.state is not SessionState.BOUND:
            return self._end("unbound by the carrier")
        self._move(Move.PEER_UNBOUND, self._heard_at)
        return None

    def _unbind_answered(self, _frame: bytes, _burst: _Burst) -> Ended | None:
        return self._end("unbound") if self.state is SessionState.UNBINDING else None

    def _bind_answered(self, frame: bytes, burst: _Burst) -> Ended | None:
        status = parse_header(frame)[2]
        if self.state is not SessionState.BINDING:
            self.strays += 1
            return None
        if status:
            return self._end(login_refused(status))
        system_id = pdu.parse_pdu(frame).text("system_id")
        self._move(Move.BOUND, self._heard_at)
        burst.bound.append(Bound(system_id))
        return None

    def _other(self, frame: bytes, _burst: _Burst) -> None:
        command_id = parse_header(frame)[1]
        if command_id & pdu.RESPONSE:
            self.strays += 1
        elif command_id not in _NO_ANSWER_DUE:
            self._respond(pdu.GENERIC_NACK, pdu.ESME_RINVCMDID, frame)

    def _respond(self, command_id: int, status: int, frame: bytes) -> None:
        sequence = parse_header(frame)[3]
        self._out.append(pdu.pack_header(HEADER_SIZE, command_id, status, sequence))

    # -- the inside ------------------------------------------------------------------------

    def _next(self) -> int:
        self._sequence = self._sequence + 1 if self._sequence < pdu.SEQUENCE_MAXIMUM else 1
        return self._sequence

    def _move(self, move: Move, now: float) -> None:
        try:
            self.state = _MOVES[self.state, move]
        except KeyError:
            raise LocalProtocolError(f"{move} while {self.state}") from None
        self._since = now

    def _end(self, reason: str) -> Ended:
        self.state = SessionState.CLOSED
        return Ended(reason)

    def _broken(self, error: RemoteProtocolError) -> Ended:
        """A PDU that cannot be read: say so, then close (SMPP 3.4 section 4.3)."""
        self._out.append(pdu.pack_header(HEADER_SIZE, pdu.GENERIC_NACK, pdu.ESME_RINVCMDLEN, 0))
        self.state = SessionState.CLOSED
        return Ended(str(error), error)

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

    def _is_silent(self, now: float) -> bool:
        is_open = self.state is SessionState.BOUND and self._asked is None
        return is_open and now - self._heard_at >= self._enquire_s

    def _overdue(self, now: float) -> str:
        """Why the session must end now, "" when it need not."""
        if self._asked is not None and now - self._asked[1] >= self._response_s:
            return "enquire_link was not answered"
        waited = now - self._since >= self._response_s
        match self.state:
            case SessionState.BINDING if waited:
                return "the login was not answered"
            case SessionState.UNBINDING if waited:
                return "the logout was not answered"
            case SessionState.DRAINING if waited or not self.window.open:
                return "unbound by the carrier"
            case _:
                return ""


_NO_ANSWER_DUE = frozenset((pdu.ALERT_NOTIFICATION, pdu.OUTBIND))
# What is not the answer to a submit or a deliver_sm, by command; others go to `_other`.
_CONTROLS: dict[int, Callable[[Session, bytes, _Burst], Ended | None]] = {
    pdu.DATA_SM: Session._data,
    pdu.GENERIC_NACK: Session._nack,
    pdu.ENQUIRE_LINK: Session._enquired,
    pdu.ENQUIRE_LINK_RESP: Session._enquiry_answered,
    pdu.BIND_TRANSCEIVER_RESP: Session._bind_answered,
    pdu.UNBIND: Session._unbound,
    pdu.UNBIND_RESP: Session._unbind_answered,
}
_UNFIT = Rejected("", Cause.CONFIG, "channel.misconfigured")


def _national_cn(number: str) -> str:
    return number[2:] if number.startswith("86") and len(number) == 13 else number


_NUMBERS = {
    NumberFormat.E164: None,
    NumberFormat.PLUS: "+{}".format,
    NumberFormat.NATIONAL_CN: _national_cn,
}
