"""One CMPP session as a client: what `adapters.session` leaves to a protocol.

Submits go out and reports come in on the same connection. The carrier's requests count their own
sequence, so theirs and ours may be equal: answers are matched among ours only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from adapters.cmpp import pdu
from adapters.cmpp.auth import authenticator_source, authenticators_ismg
from adapters.cmpp.codes import ResultTable, login_refused
from adapters.cmpp.pdu import (
    ACTIVE_TEST,
    CONNECT_RESP_SIZES,
    DELIVER,
    HEADER_SIZE,
    ID_SIZE,
    PDU_MAXIMUM,
    SUBMIT_RESP,
    Layout,
    pack_header,
    parse_header,
)
from adapters.cmpp.report import parse_report
from adapters.cmpp.settings import VERSION_3, CmppSettings, NumberFormat
from adapters.mainland import e164, national, stamp_of, text_of
from adapters.session import Bound, Burst, Ended, Move, SessionPolicy, SessionState, WireSession
from adapters.wire import Framer
from sms.concatenation import split_header
from sms.errors import RemoteProtocolError
from sms.model import Inbound, Report, Submit
from sms.outcomes import Outcome, Submitted

_ID_END = HEADER_SIZE + ID_SIZE
_NO_ID = bytes(ID_SIZE)
_RESULT_MAXIMUM = 4  # octets: 1 in 2.0, 4 in 3.0

# What an answer to the peer needs: (session, sequence number, Msg_Id of the DELIVER).
Token = tuple["Session", int, bytes]


class Session(WireSession):
    """One login of a long connection."""

    link_test = "active test"
    link_test_tries = 3  # N of the standard

    def __init__(
        self,
        channel: int,
        settings: CmppSettings,
        policy: SessionPolicy,
        window: int,
        *,
        login_at: float,
    ) -> None:
        """`login_at`: the wall clock (Unix seconds) for the login's time stamp."""
        super().__init__(
            channel,
            policy,
            Framer(HEADER_SIZE, PDU_MAXIMUM),
            window=window,
            link_test_s=settings.active_test_s,
            response_timeout_s=settings.response_timeout_s,
        )
        self.layout = settings.layout
        self._settings = settings
        self._codes = ResultTable(settings.status_classes)
        self._stamp = stamp_of(login_at)
        self._authenticator = authenticator_source(
            settings.source_addr, settings.shared_secret, self._stamp
        )
        self._use(settings.layout)

    def _use(self, layout: Layout) -> None:
        """Lay out what is sent and read from now on as this version does."""
        self.layout = layout
        number_of = _NUMBERS[self._settings.number_format]
        self._build_into = pdu.SubmitTemplate(self._settings.look, layout, number_of).build_into

    # -- our moves -------------------------------------------------------------------------

    def _login(self) -> None:
        own = self._settings
        fields: dict[str, pdu.Value] = {
            "source_addr": own.source_addr,
            "authenticator_source": self._authenticator,
            "version": own.version,
            "timestamp": self._stamp,
        }
        self._out.append(pdu.build_pdu(pdu.CONNECT, self._next(), fields, self.layout))

    def _test_link(self, sequence: int) -> None:
        self._out.append(pack_header(HEADER_SIZE, ACTIVE_TEST, sequence))

    def _logout(self) -> None:
        self._out.append(pack_header(HEADER_SIZE, pdu.TERMINATE, self._next()))

    def _answer(self, tokens: Sequence[tuple[object, ...]], *, accepted: bool) -> None:
        """Queue the responses to reports and texts: 0, or 8 (flow control) for "again later"."""
        size = 4 if self.layout is Layout.V3 else 1
        result = (pdu.RESULT_OK if accepted else pdu.RESULT_FLOW_CONTROL).to_bytes(size, "big")
        length, out = _ID_END + size, self._out
        for _, sequence, msg_id in cast("Sequence[Token]", tokens):
            out += (pack_header(length, pdu.DELIVER_RESP, sequence), msg_id, result)

    # -- the peer's moves ------------------------------------------------------------------

    def _read(self, frames: list[bytes], burst: Burst) -> Ended | None:
        take, results = self.window.open.pop, burst.results
        for frame in frames:
            _, command_id, sequence = parse_header(frame)
            if command_id == SUBMIT_RESP:
                # Read first: one that is cut answers nothing, its submit stays in the window.
                # By its length, not by the version: one octet of Result or four.
                result = frame[_ID_END : _ID_END + _RESULT_MAXIMUM]
                if not result:
                    raise RemoteProtocolError("the SUBMIT_RESP is cut")
                submit = take(sequence, None) or self.window.take_late(sequence)
                if submit is None:
                    self.strays += 1
                else:
                    results.append((submit, self._outcome(submit, result, frame)))
            elif command_id == DELIVER:
                self._deliver(frame, sequence, burst)
            else:
                ended = _CONTROLS.get(command_id, Session._other)(self, frame, burst)
                if ended is not None:
                    return ended
        return None

    def _outcome(self, submit: Submit, result: bytes, frame: bytes) -> Outcome:
        if any(result):
            is_first = not submit.message.throttled
            return self._codes.answered(int.from_bytes(result, "big"), is_first=is_first)
        msg_id = frame[HEADER_SIZE:_ID_END]
        # Some carriers give none: shared by all, it would tie a report to the wrong message.
        return Submitted("" if msg_id == _NO_ID else msg_id.hex())

    def _deliver(self, frame: bytes, sequence: int, burst: Burst) -> None:
        msg_id, dest, udhi, fmt, source, registered, content = pdu.parse_deliver(frame, self.layout)
        token = (self, sequence, msg_id)
        if registered:
            parsed = parse_report(content)
            if parsed is not None:
                carrier_id, state, number = parsed
                number = number or e164(pdu.unpad(source))
                burst.reports.append(Report(self.channel, carrier_id, state, "", number, token))
            else:  # it says nothing: counted, answered and dropped
                burst.reports.append(Report(self.channel, "", "", "", "", token))
            return
        number, to = e164(pdu.unpad(source)), pdu.unpad(dest)
        mark, body = split_header(content) if udhi & 1 else (None, content)
        text = text_of(fmt, body)
        burst.texts.append(Inbound(self.channel, number, to, text, token, msg_id.hex(), mark))

    def _connect_answered(self, frame: bytes, burst: Burst) -> Ended | None:
        if self.state is not SessionState.BINDING:
            self.strays += 1
            return None
        # Its length says how it is laid out: a carrier may not speak the version we asked for.
        layout = CONNECT_RESP_SIZES.get(len(frame), self.layout)
        status = _status_of(frame, layout)
        if status:
            return self._end(login_refused(status))
        answer = pdu.parse_pdu(frame, layout)
        self._use(self._agreed(answer.number("version"), len(frame)))
        self._move(Move.BOUND, self._heard_at)
        forms = authenticators_ismg(status, self._authenticator, self._settings.shared_secret)
        is_known = answer.octets("authenticator_ismg") in forms
        proof = "" if is_known else ", with an authenticator of its own kind"
        burst.bound.append(Bound(f"CMPP {self.layout.value}{proof}"))
        return None

    def _agreed(self, version: int, length: int) -> Layout:
        """The layout both sides speak: the lower of ours and the carrier's.

        An answer laid out as in 2.0 is one, whatever its version says: some copy ours.
        """
        asked = self._settings.layout
        if asked is Layout.V2 or CONNECT_RESP_SIZES.get(length) is Layout.V2:
            return Layout.V2
        if version:
            return Layout.V3 if version >= VERSION_3 else Layout.V2
        return asked

    def _tested(self, frame: bytes, _burst: Burst) -> None:
        self._out.append(
            pack_header(HEADER_SIZE + 1, pdu.ACTIVE_TEST_RESP, parse_header(frame)[2]) + b"\0"
        )

    def _test_answered(self, frame: bytes, _burst: Burst) -> None:
        self._link_answered(parse_header(frame)[2])

    def _terminated(self, frame: bytes, burst: Burst) -> Ended | None:
        sequence = parse_header(frame)[2]
        return self._peer_unbound(pack_header(HEADER_SIZE, pdu.TERMINATE_RESP, sequence), burst)

    def _terminate_answered(self, _frame: bytes, _burst: Burst) -> Ended | None:
        return self._end("unbound") if self.state is SessionState.UNBINDING else None

    def _other(self, _frame: bytes, _burst: Burst) -> None:
        # CMPP has no way to say "what is this?": requests between gateways are left alone.
        self.strays += 1


# What is not the answer to a submit or a DELIVER, by command; others go to `_other`.
_CONTROLS: dict[int, Callable[[Session, bytes, Burst], Ended | None]] = {
    pdu.CONNECT_RESP: Session._connect_answered,
    ACTIVE_TEST: Session._tested,
    pdu.ACTIVE_TEST_RESP: Session._test_answered,
    pdu.TERMINATE: Session._terminated,
    pdu.TERMINATE_RESP: Session._terminate_answered,
}


def _status_of(frame: bytes, layout: Layout) -> int:
    """The status of a CONNECT_RESP; a refusal may end behind it, in either version's form."""
    body = frame[HEADER_SIZE:]
    if layout is Layout.V2 and (len(frame) in CONNECT_RESP_SIZES or body[:1] != b"\0"):
        return int.from_bytes(body[:1], "big")
    return int.from_bytes(body[:4], "big")


_NUMBERS = {
    NumberFormat.NATIONAL_CN: national,
    NumberFormat.E164: None,
    NumberFormat.PLUS: "+{}".format,
}
