"""What the carrier's side of every wire protocol shares, sans I/O: one client's connection.

    open ──login taken──▶ bound ──logout, bad PDU, close──▶ closed

A protocol reads frames and writes answers. It is built on the gateway's own tables, so it is no
independent judge of them: the vectors and other implementations are. It checks logins only through
its caller, decides no answers, and keeps every report that the client has not answered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from adapters.wire import Framer
from sms.errors import RemoteProtocolError
from sms.model import SegmentMark

DELIVER_WINDOW = 1000  # reports in flight per session


@dataclass(slots=True)
class LoginAsked:
    """A login to decide; answer with `answer_login`."""

    sequence: int
    command_id: int
    system_id: str
    knows: Callable[[str], bool]  # whether it proved to know this password
    version: int = 0


@dataclass(slots=True)
class Submits:
    """Submits of one burst, as (sequence, whole frame, what the protocol parsed of it)."""

    submits: list[tuple[int, bytes, Any]] = field(default_factory=list)


class OwedReport(NamedTuple):
    """A report to a client: about which submit, its dates as YYMMDDhhmm, and how it ended."""

    carrier_id: bytes
    to: bytes
    sender: bytes
    submitted: bytes
    done: bytes
    is_good: bool
    is_waiting: bool = False  # taken, and no end yet

    @property
    def state(self) -> bytes:
        """Its word for how the submit stands."""
        return b"ACCEPTD" if self.is_waiting else b"DELIVRD" if self.is_good else b"UNDELIV"


class OwedText(NamedTuple):
    """A text from a phone to a client, or one segment of it."""

    carrier_id: bytes  # as a submit's
    number: bytes
    to: bytes
    is_ucs2: bool
    header: bytes  # in front of the text, b"" for none
    data: bytes  # UTF-16BE, or GSM-7 septets
    mark: SegmentMark | None = None  # its place, when no header says it
    is_payload: bool = False  # the text stands outside the short message


Delivery = OwedReport | OwedText


@dataclass(slots=True)
class ReportsAnswered:
    """How many reports and texts were taken, and those to send again later."""

    taken: int
    again: list[Delivery]


@dataclass(slots=True)
class Ended:
    """Write what is left and close."""

    reason: str


Event = LoginAsked | Submits | ReportsAnswered | Ended


class Facts(NamedTuple):
    """What a record line says of a submit."""

    sender: bytes
    to: bytes
    reference: int | None
    number: int  # of the segment, from 1
    total: int
    text: str
    wants_report: bool


class ServerSession(ABC):
    """One client's connection."""

    sequence_maximum = 0xFFFFFFFF
    is_call = False  # we opened the connection, not the client

    def __init__(self, framer: Framer) -> None:
        self.system_id = ""  # once bound
        self.may_submit = False
        self.may_deliver = False
        self.is_closed = False
        self.heard_at = 0.0
        self.unanswered = 0  # submits taken and not answered
        self.states: Mapping[bytes, int] = {}  # of submits that get no report, for who asks
        self.congestion: int | None = None  # how busy to say we are, where the protocol can
        self._framer = framer
        self._out: list[bytes] = []
        self._sequence = 0
        self._waiting: dict[int, tuple[Delivery, float]] = {}  # reports and texts in flight

    # -- what a protocol writes ------------------------------------------------------------

    @abstractmethod
    def _frame(
        self, frame: bytes, submits: Submits, answered: ReportsAnswered
    ) -> LoginAsked | Ended | None:
        """Take one whole frame; may raise RemoteProtocolError."""

    @abstractmethod
    def answer_login(self, asked: LoginAsked, status: int, server_id: str) -> None:
        """Take (status 0) or refuse a login; the protocol may still refuse it by its version."""

    @abstractmethod
    def answer_submits(self, answers: Sequence[tuple[int, int, bytes]]) -> None:
        """Answer submits: (sequence, status, carrier id)."""

    @abstractmethod
    def enquire(self) -> None:
        """Ask whether the client is still there."""

    @abstractmethod
    def _build_report(self, sequence: int, report: OwedReport) -> bytes:
        """The whole PDU of a report."""

    @abstractmethod
    def _build_text(self, sequence: int, text: OwedText) -> bytes:
        """The whole PDU of a text from a phone."""

    @abstractmethod
    def _say_broken(self) -> None:
        """Queue what is said to a client whose bytes cannot be read."""

    # -- what all share --------------------------------------------------------------------

    def to_send(self) -> bytes:
        """The bytes to write now; handed out once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the client; events in the order that a caller should take them."""
        if self.is_closed:
            return []
        self.heard_at = now
        submits = Submits()
        answered = ReportsAnswered(0, [])
        events: list[Event] = []
        take = self._frame
        try:
            for frame in self._framer.feed(data):
                event = take(frame, submits, answered)
                if event is not None:
                    events.append(event)
        except RemoteProtocolError as error:
            events.append(self._broken(error))
        if self._framer.error is not None and not self.is_closed:
            events.append(self._broken(self._framer.error))
        if submits.submits:
            self.unanswered += len(submits.submits)
            events.insert(0, submits)
        if answered.taken or answered.again:
            events.insert(0, answered)
        return events

    def _broken(self, error: RemoteProtocolError) -> Ended:
        self._say_broken()
        self.is_closed = True
        return Ended(str(error))

    def _report_answered(self, sequence: int, status: int, answered: ReportsAnswered) -> None:
        waiting = self._waiting.pop(sequence, None)
        if waiting is None:
            return
        if status:
            answered.again.append(waiting[0])
        else:
            answered.taken += 1

    def deliver_room(self) -> int:
        """How many reports may be sent now."""
        if self.is_closed or not self.may_deliver:
            return 0
        return DELIVER_WINDOW - len(self._waiting)

    def deliver(self, owed: Sequence[Delivery], now: float) -> None:
        """Send reports and texts; each is kept until it is answered."""
        for one in owed:
            sequence = self._sequence_of(one)
            self._waiting[sequence] = (one, now)
            if isinstance(one, OwedText):
                self._out.append(self._build_text(sequence, one))
            else:
                self._out.append(self._build_report(sequence, one))

    def overdue(self, now: float, timeout_s: float) -> list[Delivery]:
        """Take back the reports that nobody answered in time, oldest first."""
        late: list[int] = []
        for sequence, (_, sent_at) in self._waiting.items():
            if now - sent_at < timeout_s:
                break
            late.append(sequence)
        return [self._waiting.pop(sequence)[0] for sequence in late]

    def lost(self) -> list[Delivery]:
        """The connection is gone: the reports that nobody answered, oldest first."""
        self.is_closed = True
        kept = [report for report, _ in self._waiting.values()]
        self._waiting.clear()
        return kept

    def _sequence_of(self, _one: Delivery) -> int:
        """What it goes out under, and its answer comes back under."""
        return self._next()

    def _next(self) -> int:
        self._sequence = self._sequence + 1 if self._sequence < self.sequence_maximum else 1
        return self._sequence


class Side(ABC):
    """One protocol as a simulated carrier speaks it: its words for what all carriers do."""

    name: str
    throttled: int  # what a submit that comes too fast is answered with
    failure: int  # what a failing one is answered with, when nothing else is said
    unknown_account: int  # what a login of nobody's is answered with
    wrong_password: int

    @abstractmethod
    def session(self) -> ServerSession:
        """A new client's connection."""

    @abstractmethod
    def facts(self, parsed: Any) -> Facts:  # noqa: ANN401 – the protocol's own tuple
        """What the record says of a submit that `Submits` carries."""

    @abstractmethod
    def carrier_id(self, number: int, sequence: int) -> str:
        """The id of the carrier's submit `number`, unique over carriers and restarts.

        `sequence` is the client's: some protocols have no other id.
        """

    def text_id(self, number: int) -> str:
        """The id of the carrier's text `number` from a phone; kept when it goes out again."""
        return self.carrier_id(number, number)


def segment_of(has_header: bool, body: bytes) -> tuple[int | None, int, int, bytes]:
    """(reference, index, total, user data) of a segment, by its user data header (23.040)."""
    if not has_header or not body:
        return None, 1, 1, body
    stop = 1 + body[0]
    header, data = body[1:stop], body[stop:]
    position = 0
    while position + 2 <= len(header):
        kind, size = header[position], header[position + 1]
        value = header[position + 2 : position + 2 + size]
        if kind == 0x00 and len(value) == 3:
            return value[0], value[2], value[1], data
        if kind == 0x08 and len(value) == 4:
            return int.from_bytes(value[:2], "big"), value[3], value[2], data
        position += 2 + size
    return None, 1, 1, data
