"""The carrier's side of SGIP 1.2, sans I/O: what a simulated SMG says on one connection.

    open ──BIND of type 1 taken──▶ bound: SUBMITs come in                     (SgipServer)
    open ──our BIND of type 2 taken──▶ bound: REPORTs and DELIVERs go out     (SgipCaller)

Built on the gateway's own tables, so it is no independent judge of them: the recorded vectors are.
The interface is that of `loadtest.smpp_server.ServerSession`; a sequence number of 12 octets is one
number here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from adapters.mainland import stamp_of
from adapters.sgip import pdu
from adapters.sgip.pdu import HEADER_SIZE, PDU_MAXIMUM, parse_header
from adapters.wire import Framer
from loadtest.smpp_server import (
    DELIVER_WINDOW,
    BindAsked,
    Ended,
    Event,
    ReportsAnswered,
    Submits,
)
from sms.errors import RemoteProtocolError

NODE = 100100  # of the simulated SMG
_RESP_TAIL = bytes(8)


def _number(frame: bytes) -> int:
    return int.from_bytes(frame[8:HEADER_SIZE], "big")


def carrier_id(_prefix: str, _count: int, sequence: int) -> str:
    """A submit's id: its own 12 octets."""
    return f"{sequence:024x}"


def build_report(
    carrier_id: bytes, to: bytes, sender: bytes, *, submitted: bytes, done: bytes, is_good: bool
) -> bytes:
    """The body of a REPORT."""
    state = b"\0\0" if is_good else bytes((pdu.STATE_FAILED, 29))
    user = to.ljust(21, b"\0")
    return bytes.fromhex(carrier_id.decode("ascii")) + b"\0" + user + state + bytes(8)


class _Side:
    """What both kinds of connection do with reports."""

    def __init__(self) -> None:
        self.system_id = ""  # once bound
        self.may_submit = False
        self.may_deliver = False
        self.is_closed = False
        self.heard_at = 0.0
        self.unanswered = 0  # submits taken and not answered
        self._framer = Framer(HEADER_SIZE, PDU_MAXIMUM)
        self._out: list[bytes] = []
        self._counter = 0
        self._waiting: dict[int, tuple[bytes, float]] = {}  # reports in flight, by counter

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
        submits, answered = Submits(), ReportsAnswered(0, [])
        events: list[Event] = []
        try:
            for frame in self._framer.feed(data):
                command_id = parse_header(frame)[1]
                if command_id == pdu.SUBMIT and self.may_submit:
                    submits.submits.append((_number(frame), frame, _short(frame)))
                elif command_id == pdu.REPORT_RESP:
                    self._report_answered(frame, answered)
                else:
                    events += self._control(command_id, frame)
        except RemoteProtocolError as error:
            events.append(self._end(str(error)))
        if self._framer.error is not None and not self.is_closed:
            events.append(self._end(str(self._framer.error)))
        if submits.submits:
            self.unanswered += len(submits.submits)
            events.insert(0, submits)
        if answered.taken or answered.again:
            events.insert(0, answered)
        return events

    def _report_answered(self, frame: bytes, answered: ReportsAnswered) -> None:
        waiting = self._waiting.pop(parse_header(frame)[4], None)
        if waiting is None:
            return
        if frame[HEADER_SIZE]:
            answered.again.append(waiting[0])
        else:
            answered.taken += 1

    def _control(self, command_id: int, frame: bytes) -> list[Event]:
        if command_id == pdu.UNBIND:
            self._out.append(pdu.build_answer(frame, pdu.OK))
            return [self._end("unbound")]
        if not command_id & pdu.RESPONSE:
            self._out.append(pdu.build_answer(frame, pdu.COMMAND_NOT_SERVED))
        return []

    def _end(self, reason: str) -> Ended:
        self.is_closed = True
        return Ended(reason)

    def _sequence(self) -> pdu.Sequence:
        self._counter = (self._counter + 1) & 0xFFFFFFFF
        return NODE, stamp_of(time.time()), self._counter

    def answer_bind(self, asked: BindAsked, status: int, server_id: str) -> None:
        """Take or refuse a login."""
        header = pdu.pack_header(HEADER_SIZE, pdu.BIND, *_parts(asked.sequence))
        self._out.append(pdu.build_answer(header, status))
        if not status:
            self.system_id = asked.system_id
            self.may_submit = True

    def answer_submits(self, answers: Sequence[tuple[int, int, bytes]]) -> None:
        """Answer submits: (sequence, result, carrier id, which the answer does not carry)."""
        self.unanswered -= len(answers)
        out, resp = self._out, pdu.SUBMIT_RESP.to_bytes(4, "big")
        head = (HEADER_SIZE + 9).to_bytes(4, "big") + resp
        for sequence, result, _ in answers:
            out.append(head + sequence.to_bytes(12, "big") + bytes((result,)) + _RESP_TAIL)

    def deliver_room(self) -> int:
        """How many reports may be sent now."""
        if self.is_closed or not self.may_deliver:
            return 0
        return DELIVER_WINDOW - len(self._waiting)

    def deliver(self, bodies: Sequence[bytes], now: float) -> None:
        """Send reports; each is kept until it is answered."""
        for body in bodies:
            sequence = self._sequence()
            self._waiting[sequence[2]] = (body, now)
            self._out.append(pdu.pack_header(HEADER_SIZE + len(body), pdu.REPORT, *sequence) + body)

    def overdue(self, now: float, timeout_s: float) -> list[bytes]:
        """Take back the reports that nobody answered in time, oldest first."""
        late = [key for key, (_, at) in self._waiting.items() if now - at >= timeout_s]
        return [self._waiting.pop(key)[0] for key in late]

    def enquire(self) -> None:
        """SGIP has no link test."""

    def lost(self) -> list[bytes]:
        """The connection is gone: the reports that nobody answered, oldest first."""
        self.is_closed = True
        kept = [body for body, _ in self._waiting.values()]
        self._waiting.clear()
        return kept


class SgipServer(_Side):
    """One connection that an SP opened; `pushes_here`: reports go over it too, as some do."""

    def __init__(self, *, pushes_here: bool = False) -> None:
        super().__init__()
        self._pushes_here = pushes_here

    def _control(self, command_id: int, frame: bytes) -> list[Event]:
        if command_id != pdu.BIND:
            return super()._control(command_id, frame)
        asked = pdu.parse_pdu(frame)
        name, password = asked.text("login_name"), asked.text("login_password")
        if asked.number("login_type") != pdu.LOGIN_SP:
            self._out.append(pdu.build_answer(frame, pdu.BAD_LOGIN_TYPE))
            return [self._end("login type")]
        return [BindAsked(_number(frame), command_id, name, password)]

    def answer_bind(self, asked: BindAsked, status: int, server_id: str) -> None:
        """Take or refuse a login."""
        super().answer_bind(asked, status, server_id)
        self.may_deliver = self.may_submit and self._pushes_here


class SgipCaller(_Side):
    """One connection that the SMG opened to the SP: it logs in and brings reports."""

    def __init__(self, login_name: str, password: str) -> None:
        super().__init__()
        self._login = login_name, password
        self.is_refused = False

    def connected(self) -> None:
        """The socket is open: log in."""
        name, password = self._login
        fields: dict[str, str | int | bytes | tuple[str, ...]] = {
            "login_type": pdu.LOGIN_SMG,
            "login_name": name,
            "login_password": password,
        }
        self._out.append(pdu.build_pdu(pdu.BIND, self._sequence(), fields))

    def _control(self, command_id: int, frame: bytes) -> list[Event]:
        if command_id != pdu.BIND_RESP:
            return super()._control(command_id, frame)
        if frame[HEADER_SIZE]:
            self.is_refused = True
            return [self._end(f"login refused with {frame[HEADER_SIZE]}")]
        self.system_id = self._login[0]
        self.may_deliver = True
        return []


def _parts(sequence: int) -> pdu.Sequence:
    return sequence >> 64, sequence >> 32 & 0xFFFFFFFF, sequence & 0xFFFFFFFF


def _short(frame: bytes) -> tuple[bytes, bytes, int, int, int, bytes, int]:
    """A SUBMIT to one number as (sender, number, UDH flag, report wanted, coding, content, end)."""
    parsed = pdu.parse_pdu(frame)
    users = parsed.texts("user_number")
    if len(users) != 1:
        raise RemoteProtocolError(f"a SUBMIT to {len(users)} numbers: one is served")
    return (
        parsed.text("sp_number").encode("latin-1"),
        users[0].encode("latin-1"),
        0x40 if parsed.number("tp_udhi") else 0,
        int(parsed.number("report_flag") == 1),
        parsed.number("message_coding"),
        parsed.octets("content"),
        len(frame),
    )
