"""The carrier's side of SMGP 3.0, sans I/O: what a simulated SMGW says on one connection.

    open ──Login taken──▶ bound, by its mode for submits, for reports or for both

Built on the gateway's own tables, so it is no independent judge of them: the recorded vectors are.
The interface is that of `loadtest.smpp_server.ServerSession`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.smgp import pdu
from adapters.smgp.pdu import HEADER_SIZE, PDU_MAXIMUM, pack_header, parse_header
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

_ANSWER_SIZE = HEADER_SIZE + 14
_IDS_A_MINUTE = 1_000_000


@dataclass(slots=True)
class LoginAsked(BindAsked):
    """A login to decide; its password is a proof."""

    proof: bytes = b""
    stamp: int = 0

    def is_password(self, password: str) -> bool:
        """Whether the client knows this secret."""
        return pdu.authenticator(self.system_id, password, self.stamp) == self.proof


def carrier_id(prefix: str, count: int, _sequence: int) -> str:
    """A MsgID: gateway 6 digits, MMDDHHMM, 6 digits of sequence; `prefix` is hexadecimal."""
    gateway = int(prefix, 16) % _IDS_A_MINUTE
    return f"{gateway:06}{time.strftime('%m%d%H%M')}{count % _IDS_A_MINUTE:06}"


def build_report(
    carrier_id: bytes, to: bytes, sender: bytes, *, submitted: bytes, done: bytes, is_good: bool
) -> bytes:
    """The body of a Deliver with a report; its own MsgID is another one."""
    msg_id = bytes.fromhex(carrier_id.decode("ascii"))
    content = b"id:%b sub:001 dlvrd:%b submit date:%b done date:%b stat:%b err:%b text:%b" % (
        msg_id,
        b"001" if is_good else b"000",
        submitted,
        done,
        b"DELIVRD" if is_good else b"UNDELIV",
        b"000" if is_good else b"003",
        bytes(20),
    )
    outer = bytes((msg_id[0] ^ 0xFF,)) + msg_id[1:]
    return b"%b\x01\x00%b%b%b%c%b%b" % (
        outer,
        time.strftime("%Y%m%d%H%M%S").encode(),
        to.ljust(21, b"\0"),
        sender.ljust(21, b"\0"),
        len(content),
        content,
        bytes(8),
    )


class SmgpServer:
    """One client's connection."""

    def __init__(self) -> None:
        self.system_id = ""  # once bound
        self.may_submit = False
        self.may_deliver = False
        self.is_closed = False
        self.heard_at = 0.0
        self.unanswered = 0  # submits taken and not answered
        self._mode = pdu.MODE_BOTH
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
        submits, answered = Submits(), ReportsAnswered(0, [])
        events: list[Event] = []
        try:
            for frame in self._framer.feed(data):
                _, request_id, sequence = parse_header(frame)
                if request_id == pdu.SUBMIT and self.may_submit:
                    submits.submits.append((sequence, frame, _short(frame)))
                elif request_id == pdu.DELIVER_RESP:
                    self._report_answered(frame, answered)
                else:
                    events += self._control(frame)
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
        parsed = pdu.parse_pdu(frame)
        waiting = self._waiting.pop(parsed.sequence, None)
        if waiting is None or waiting[0][:10] != parsed.octets("msg_id"):
            return
        if parsed.number("status"):
            answered.again.append(waiting[0])
        else:
            answered.taken += 1

    def _control(self, frame: bytes) -> list[Event]:
        _, request_id, sequence = parse_header(frame)
        if request_id == pdu.LOGIN:
            asked = pdu.parse_pdu(frame)
            self._mode = asked.number("login_mode")
            proof = asked.octets("authenticator_client")
            name, stamp = asked.text("client_id"), asked.number("timestamp")
            return [LoginAsked(sequence, request_id, name, "", proof, stamp)]
        if request_id == pdu.ACTIVE_TEST:
            self._out.append(pack_header(HEADER_SIZE, pdu.ACTIVE_TEST_RESP, sequence))
        elif request_id == pdu.EXIT:
            self._out.append(pack_header(HEADER_SIZE, pdu.EXIT_RESP, sequence))
            return [self._end("unbound")]
        elif request_id == pdu.SUBMIT:
            self._answer(sequence, 11, pdu.MSG_ID_NONE)
        return []

    def _end(self, reason: str) -> Ended:
        self.is_closed = True
        return Ended(reason)

    def _answer(self, sequence: int, status: int, msg_id: bytes) -> None:
        header = pack_header(_ANSWER_SIZE, pdu.SUBMIT_RESP, sequence)
        self._out.append(header + msg_id + status.to_bytes(4, "big"))

    def answer_bind(self, asked: BindAsked, status: int, server_id: str) -> None:
        """Take or refuse a login; the authenticator is as wrong as some carriers'."""
        fields: dict[str, str | int | bytes | tuple[str, ...]] = {
            "status": status,
            "authenticator_server": server_id.encode("ascii"),
            "server_version": pdu.VERSION,
        }
        self._out.append(pdu.build_pdu(pdu.LOGIN_RESP, asked.sequence, fields))
        if not status:
            self.system_id = asked.system_id
            self.may_submit = self._mode != pdu.MODE_RECEIVE
            self.may_deliver = self._mode != pdu.MODE_SEND

    def answer_submits(self, answers: Sequence[tuple[int, int, bytes]]) -> None:
        """Answer submits: (sequence, status, MsgID as 20 digits)."""
        self.unanswered -= len(answers)
        for sequence, status, msg_id in answers:
            octets = pdu.MSG_ID_NONE if status else bytes.fromhex(msg_id.decode("ascii"))
            self._answer(sequence, status, octets)

    def deliver_room(self) -> int:
        """How many reports may be sent now."""
        if self.is_closed or not self.may_deliver:
            return 0
        return DELIVER_WINDOW - len(self._waiting)

    def deliver(self, bodies: Sequence[bytes], now: float) -> None:
        """Send reports; each is kept until it is answered."""
        for body in bodies:
            self._sequence = (self._sequence + 1) & pdu.SEQUENCE_MAXIMUM
            self._waiting[self._sequence] = (body, now)
            size = HEADER_SIZE + len(body)
            self._out.append(pack_header(size, pdu.DELIVER, self._sequence) + body)

    def overdue(self, now: float, timeout_s: float) -> list[bytes]:
        """Take back the reports that nobody answered in time, oldest first."""
        late = [key for key, (_, at) in self._waiting.items() if now - at >= timeout_s]
        return [self._waiting.pop(key)[0] for key in late]

    def enquire(self) -> None:
        """Ask whether the client is still there."""
        self._sequence = (self._sequence + 1) & pdu.SEQUENCE_MAXIMUM
        self._out.append(pack_header(HEADER_SIZE, pdu.ACTIVE_TEST, self._sequence))

    def lost(self) -> list[bytes]:
        """The connection is gone: the reports that nobody answered, oldest first."""
        self.is_closed = True
        kept = [body for body, _ in self._waiting.values()]
        self._waiting.clear()
        return kept


def _short(frame: bytes) -> tuple[bytes, bytes, int, int, int, bytes, int]:
    """A Submit to one number as (sender, number, UDH flag, report wanted, format, content, end)."""
    parsed = pdu.parse_pdu(frame)
    numbers = parsed.texts("dest_term_id")
    if len(numbers) != 1:
        raise RemoteProtocolError(f"a Submit to {len(numbers)} numbers: one is served")
    return (
        parsed.text("src_term_id").encode("latin-1"),
        numbers[0].encode("latin-1"),
        0x40 if parsed.tlv(pdu.TLV_TP_UDHI) == b"\1" else 0,
        parsed.number("need_report"),
        parsed.number("msg_format"),
        parsed.octets("content"),
        len(frame),
    )
