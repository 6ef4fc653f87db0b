"""One SMGP session as a client, sans I/O: bytes and `now` in, events and bytes out.

The login's mode says which way texts travel: 0 ours only, 1 the carrier's only, 2 both. The
carrier's own authenticator is not looked at: implementations compute it in four ways.
"""

from __future__ import annotations

from collections.abc import Sequence

from adapters.layout import Fields
from adapters.mainland import absolute_time, content_of, e164, national, stamp_of, text_of
from adapters.session import Bound, Burst, Ended, Move, SessionPolicy, SessionState, WireSession
from adapters.smgp import pdu
from adapters.smgp.codes import StatusTable, login_refused
from adapters.smgp.pdu import DELIVER, HEADER_SIZE, PDU_MAXIMUM, SUBMIT_RESP, parse_header
from adapters.smgp.receipt import parse_report
from adapters.smgp.settings import NumberFormat, SmgpSettings, Validity
from adapters.wire import Framer, parse_tlvs
from sms.concatenation import split_header
from sms.errors import RemoteProtocolError
from sms.model import Inbound, Report, Submit
from sms.outcomes import Outcome, Submitted

_ROLES = {pdu.MODE_BOTH: "", pdu.MODE_SEND: "transmitter", pdu.MODE_RECEIVE: "receiver"}

Token = tuple["SmgpSession", int, bytes]  # who must answer, the Deliver's SequenceID and MsgID

_NO_ID = pdu.MSG_ID_NONE.hex()


class SmgpSession(WireSession):
    """One login."""

    link_test = "Active_Test"
    link_test_tries = 3  # N of the standard

    def __init__(
        self,
        channel: int,
        settings: SmgpSettings,
        policy: SessionPolicy,
        window: int,
        *,
        unix_offset: float,
        mode: int = pdu.MODE_BOTH,
    ) -> None:
        """`unix_offset` is Unix time minus the clock of `now`, for the time in our PDUs."""
        super().__init__(
            channel,
            policy,
            Framer(HEADER_SIZE, PDU_MAXIMUM),
            window=0 if mode == pdu.MODE_RECEIVE else window,
            link_test_s=settings.active_test_s,
            response_timeout_s=settings.response_timeout_s,
        )
        self._settings = settings
        self._mode = mode
        self.role = _ROLES[mode]
        self._unix_offset = unix_offset
        self._codes = StatusTable(settings.status_classes)
        self._template = pdu.SubmitTemplate(settings.look)
        is_plain = settings.number_format is NumberFormat.E164
        self._number_of = e164 if is_plain else national
        self._build_into = self._build
        self._submitted_at = 0.0  # `now` of the burst being packed

    # -- our moves -------------------------------------------------------------------------

    def submit(self, submits: Sequence[Submit], now: float) -> list[tuple[Submit, Outcome]]:
        """As `WireSession.submit`."""
        self._submitted_at = now
        return super().submit(submits, now)

    def _answer(self, tokens: Sequence[tuple[object, ...]], *, accepted: bool) -> None:
        """Queue the responses to reports and texts: 0, or 1 for "send it again later"."""
        status = pdu.OK if accepted else pdu.BUSY
        for _, sequence, msg_id in tokens:
            if isinstance(sequence, int) and isinstance(msg_id, bytes):
                self._out.append(pdu.build_deliver_resp(sequence, msg_id, status))

    def _login(self) -> None:
        own = self._settings
        stamp = stamp_of(self._since + self._unix_offset)
        proof = pdu.authenticator(
            own.client_id, own.shared_secret, stamp, is_padded=own.pad_client_id
        )
        fields: Fields = {
            "client_id": own.client_id,
            "authenticator_client": proof,
            "login_mode": self._mode,
            "timestamp": stamp,
            "client_version": own.client_version,
        }
        self._out.append(pdu.build_pdu(pdu.LOGIN, self._next(), fields))

    def _test_link(self, sequence: int) -> None:
        self._out.append(pdu.pack_header(HEADER_SIZE, pdu.ACTIVE_TEST, sequence))

    def _logout(self) -> None:
        self._out.append(pdu.pack_header(HEADER_SIZE, pdu.EXIT, self._next()))

    def _build(self, out: list[bytes], sequence: int, submit: Submit) -> None:
        own = self._settings
        msg_format, content = content_of(submit, own.content_maximum)
        valid = ""
        if own.validity_period is Validity.ABSOLUTE:
            valid = absolute_time(self._submitted_at + self._unix_offset + submit.validity_s)
        self._template.build_into(
            out,
            sequence,
            sender=submit.sender,
            number=self._number_of(submit.number),
            msg_format=msg_format,
            content=content,
            has_udh=submit.has_udh,
            part=submit.segment + 1,
            parts=submit.total,
            valid_time=valid,
        )

    # -- the peer's moves ------------------------------------------------------------------

    def _read(self, frames: list[bytes], burst: Burst) -> Ended | None:
        take, results = self.window.open.pop, burst.results
        for frame in frames:
            _, request_id, sequence = parse_header(frame)
            if request_id == SUBMIT_RESP:
                carrier_id, status = pdu.parse_submit_resp(frame)
                submit = take(sequence, None) or self.window.take_late(sequence)
                if submit is None:
                    self.strays += 1
                elif status:
                    is_first = not submit.message.throttled
                    results.append((submit, self._codes.answered(status, is_first=is_first)))
                else:
                    # Some carriers give none: shared by all, it would tie reports to the wrong one.
                    results.append((submit, Submitted("" if carrier_id == _NO_ID else carrier_id)))
            elif request_id == DELIVER:
                self._deliver(frame, sequence, burst)
            else:
                ended = self._control(request_id, frame, burst)
                if ended is not None:
                    return ended
        return None

    def _deliver(self, frame: bytes, sequence: int, burst: Burst) -> None:
        msg_id, is_report, msg_format, source, to, content, tail = pdu.parse_deliver(frame)
        token = (self, sequence, msg_id)
        number = e164(source)
        if not is_report:
            has_udh = any(
                tag == pdu.TLV_TP_UDHI and value == b"\1" for tag, value in parse_tlvs(frame, tail)
            )
            mark, body = split_header(content) if has_udh else (None, content)
            text, to = text_of(msg_format, body), to.lstrip("+")
            burst.texts.append(Inbound(self.channel, number, to, text, token, msg_id.hex(), mark))
            return
        # Its TLVs say nothing, and a tail that nobody can read must not lose it.
        parsed = parse_report(content, msg_id)
        if parsed is None:  # it says nothing: counted, answered and dropped
            burst.reports.append(Report(self.channel, "", "", "", "", token))
            return
        carrier_id, word, error = parsed
        burst.reports.append(Report(self.channel, carrier_id, word, error, number, token))

    def _control(self, request_id: int, frame: bytes, burst: Burst) -> Ended | None:
        sequence = parse_header(frame)[2]
        if request_id == pdu.ACTIVE_TEST:
            self._out.append(pdu.pack_header(HEADER_SIZE, pdu.ACTIVE_TEST_RESP, sequence))
        elif request_id == pdu.ACTIVE_TEST_RESP:
            self._link_answered(sequence)
        elif request_id == pdu.LOGIN_RESP:
            return self._login_answered(frame, burst)
        elif request_id == pdu.EXIT:
            return self._peer_unbound(pdu.pack_header(HEADER_SIZE, pdu.EXIT_RESP, sequence), burst)
        elif request_id == pdu.EXIT_RESP:
            if self.state is SessionState.UNBINDING:
                return self._end("unbound")
        else:
            self.strays += 1  # there is no answer to a command that nobody knows
        return None

    def _login_answered(self, frame: bytes, burst: Burst) -> Ended | None:
        if self.state is not SessionState.BINDING:
            self.strays += 1
            return None
        if len(frame) < HEADER_SIZE + 4:
            raise RemoteProtocolError("the PDU ends inside a Login_Resp")
        status = int.from_bytes(frame[HEADER_SIZE : HEADER_SIZE + 4], "big")
        if status:
            return self._end(login_refused(status))
        self._move(Move.BOUND, self._heard_at)
        burst.bound.append(Bound())
        return None
