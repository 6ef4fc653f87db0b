"""The carrier's side of SMPP 3.4, sans I/O: what a simulated SMSC says on one connection.

    open ──bind taken──▶ bound ──unbind, bad PDU, close──▶ closed

It is built on the gateway's own tables, so it is no independent judge of them: the vectors and
smpp34's server are. It checks logins only through its caller, decides no answers, and keeps every
report that the client has not answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapters.smpp import pdu
from adapters.smpp.pdu import HEADER_SIZE, PDU_MAXIMUM, pack_header, parse_header
from adapters.wire import Framer
from sms.errors import RemoteProtocolError

DELIVER_WINDOW = 1000  # reports in flight per session
_BINDS = (pdu.BIND_TRANSCEIVER, pdu.BIND_TRANSMITTER, pdu.BIND_RECEIVER)
# deliver_sm of a report: service_type, source 1/1, destination 0/0, esm_class 4, eight zero octets
_REPORT = (
    b"\0\1\1%b\0\0\0%b\0\4\0\0\0\0\0\0\0\0%cid:%b sub:001 dlvrd:%b submit date:%b done date:%b"
    b" stat:%b err:%b text:\x00\x1e\x00%c%b\0\x04\x27\x00\x01%c"
)
REPORT_TEXT_SIZE = 92  # octets of the text around the id, its dates, state and error included


@dataclass(slots=True)
class BindAsked:
    """A login to decide; answer with `answer_bind`."""

    sequence: int
    command_id: int
    system_id: str
    password: str

    def is_password(self, password: str) -> bool:
        """Whether the client knows this password."""
        return self.password == password


@dataclass(slots=True)
class Submits:
    """Submits of one burst, as (sequence, whole frame, parsed short message)."""

    submits: list[tuple[int, bytes, pdu.Short]] = field(default_factory=list)


@dataclass(slots=True)
class ReportsAnswered:
    """How many reports were taken, and the bodies of those to send again later."""

    taken: int
    again: list[bytes]


@dataclass(slots=True)
class Ended:
    """Write what is left and close."""

    reason: str


Event = BindAsked | Submits | ReportsAnswered | Ended


def build_report(
    carrier_id: bytes, to: bytes, sender: bytes, *, submitted: bytes, done: bytes, is_good: bool
) -> bytes:
    """The body of a deliver_sm with a report in text and TLV form; dates are YYMMDDhhmm."""
    size = len(carrier_id) + REPORT_TEXT_SIZE
    return _REPORT % (
        to,
        sender,
        size,
        carrier_id,
        b"001" if is_good else b"000",
        submitted,
        done,
        b"DELIVRD" if is_good else b"UNDELIV",
        b"000" if is_good else b"001",
        len(carrier_id) + 1,
        carrier_id,
        2 if is_good else 5,
    )


class ServerSession:
    """One client's connection."""

    def __init__(self) -> None:
        self.system_id = ""  # once bound
        self.may_submit = False
        self.may_deliver = False
        self.is_closed = False
        self.heard_at = 0.0
        self.unanswered = 0  # submits taken and not answered
        self._framer = Framer(HEADER_SIZE, PDU_MAXIMUM)
        self._out: list[bytes] = []
        self._sequence = 0
        self._waiting: dict[int, tuple[bytes, float]] = {}  # reports in flight

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
        try:
            for frame in self._framer.feed(data):
                _, command_id, status, sequence = parse_header(frame)
                if command_id == pdu.SUBMIT_SM and self.may_submit:
                    submits.submits.append((sequence, frame, pdu.parse_short(frame)))
                elif command_id == pdu.DELIVER_SM_RESP:
                    self._report_answered(sequence, status, answered)
                else:
                    events += self._control(frame)
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

    def _report_answered(self, sequence: int, status: int, answered: ReportsAnswered) -> None:
        waiting = self._waiting.pop(sequence, None)
        if waiting is None:
            return
        if status:
            answered.again.append(waiting[0])
        else:
            answered.taken += 1

    def _control(self, frame: bytes) -> list[Event]:
        _, command_id, _, sequence = parse_header(frame)
        if command_id in _BINDS:
            asked = pdu.parse_pdu(frame)
            return [
                BindAsked(sequence, command_id, asked.text("system_id"), asked.text("password"))
            ]
        if command_id == pdu.ENQUIRE_LINK:
            self._respond(pdu.ENQUIRE_LINK_RESP, pdu.ESME_ROK, sequence)
        elif command_id == pdu.UNBIND:
            self._respond(pdu.UNBIND_RESP, pdu.ESME_ROK, sequence)
            self.is_closed = True
            return [Ended("unbound")]
        elif command_id == pdu.SUBMIT_SM:
            self._respond(pdu.SUBMIT_SM_RESP, pdu.ESME_RINVBNDSTS, sequence)
        elif not command_id & pdu.RESPONSE:
            self._respond(pdu.GENERIC_NACK, pdu.ESME_RINVCMDID, sequence)
        return []

    def _respond(self, command_id: int, status: int, sequence: int) -> None:
        self._out.append(pack_header(HEADER_SIZE, command_id, status, sequence))

    def _broken(self, error: RemoteProtocolError) -> Ended:
        self._respond(pdu.GENERIC_NACK, pdu.ESME_RINVCMDLEN, 0)
        self.is_closed = True
        return Ended(str(error))

    def answer_bind(self, asked: BindAsked, status: int, server_id: str) -> None:
        """Take or refuse a login."""
        command_id = asked.command_id | pdu.RESPONSE
        if status:
            self._respond(command_id, status, asked.sequence)
            return
        self.system_id = asked.system_id
        self.may_submit = asked.command_id != pdu.BIND_RECEIVER
        self.may_deliver = asked.command_id != pdu.BIND_TRANSMITTER
        self._out.append(
            pdu.build_pdu(
                command_id,
                asked.sequence,
                {"system_id": server_id},
                tlvs=[(pdu.TLV_SC_INTERFACE_VERSION, b"\x34")],
            )
        )

    def answer_submits(self, answers: Sequence[tuple[int, int, bytes]]) -> None:
        """Answer submits: (sequence, status, carrier id); an error answer has no body."""
        out = self._out
        self.unanswered -= len(answers)
        for sequence, status, carrier_id in answers:
            if status:
                out.append(pack_header(HEADER_SIZE, pdu.SUBMIT_SM_RESP, status, sequence))
            else:
                size = HEADER_SIZE + len(carrier_id) + 1
                out.append(pack_header(size, pdu.SUBMIT_SM_RESP, 0, sequence) + carrier_id + b"\0")

    def deliver_room(self) -> int:
        """How many reports may be sent now."""
        if self.is_closed or not self.may_deliver:
            return 0
        return DELIVER_WINDOW - len(self._waiting)

    def deliver(self, bodies: Sequence[bytes], now: float) -> None:
        """Send reports; each is kept until it is answered."""
        out, waiting, sequence = self._out, self._waiting, self._sequence
        for body in bodies:
            sequence = sequence + 1 if sequence < pdu.SEQUENCE_MAXIMUM else 1
            waiting[sequence] = (body, now)
            out.append(pack_header(HEADER_SIZE + len(body), pdu.DELIVER_SM, 0, sequence) + body)
        self._sequence = sequence

    def overdue(self, now: float, timeout_s: float) -> list[bytes]:
        """Take back the reports that nobody answered in time, oldest first."""
        late: list[int] = []
        for sequence, (_, sent_at) in self._waiting.items():
            if now - sent_at < timeout_s:
                break
            late.append(sequence)
        return [self._waiting.pop(sequence)[0] for sequence in late]

    def enquire(self) -> None:
        """Ask whether the client is still there."""
        self._sequence = self._sequence + 1 if self._sequence < pdu.SEQUENCE_MAXIMUM else 1
        self._respond(pdu.ENQUIRE_LINK, pdu.ESME_ROK, self._sequence)

    def lost(self) -> list[bytes]:
        """The connection is gone: the reports that nobody answered, oldest first."""
        self.is_closed = True
        kept = [body for body, _ in self._waiting.values()]
        self._waiting.clear()
        return kept
