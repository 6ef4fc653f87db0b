"""One SMPP session as a client: what `adapters.session` leaves to a protocol.

Here are the SMPP commands and the loop that reads a burst of them; states, clocks and the window
are the shared session's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from adapters.session import (
    Answered,
    Bound,
    Burst,
    Ended,
    Event,
    Move,
    SessionPolicy,
    SessionState,
    WireSession,
)
from adapters.smpp import pdu
from adapters.smpp.alphabet import charset_of, recoding
from adapters.smpp.asking import FINAL_STATES, Book, Open
from adapters.smpp.codes import StatusTable, login_refused
from adapters.smpp.pdu import DELIVER_SM, HEADER_SIZE, PDU_MAXIMUM, SUBMIT_SM_RESP, parse_header
from adapters.smpp.receipt import (
    ID_FORMS,
    TEXT_FIRST,
    echoed_reference,
    is_international,
    parse_receipt,
    parse_text,
    parse_usual_receipt,
)
from adapters.smpp.references import MASK, NOBODY, LostSubmits, Named, is_same_phone, named
from adapters.smpp.settings import NumberFormat, SmppSettings
from adapters.smpp.template import DataTemplate, SubmitTemplate, source_ton
from adapters.wire import Framer, build_tlvs
from sms.errors import RemoteProtocolError
from sms.model import Inbound, Report, Submit
from sms.outcomes import NotSent, Outcome, Submitted

_MESSAGE_ID_END = HEADER_SIZE + 64
QUERIES = 10  # unanswered at a time; so many a second at most


# What an answer to the peer needs: (session, sequence number, command_id of the request). A
# session that is over ignores its tokens.
Token = tuple["Session", int, int]


class Session(WireSession):
    """One login: a transceiver's, or a transmitter's or receiver's of a pair."""

    link_test = "enquire_link"
    sequence_maximum = pdu.SEQUENCE_MAXIMUM

    def __init__(
        self,
        channel: int,
        settings: SmppSettings,
        policy: SessionPolicy,
        window: int,
        *,
        bind: int = pdu.BIND_TRANSCEIVER,
        book: Book | None = None,
    ) -> None:
        """`bind` is the command_id of the login; `book` is the channel's, where it asks."""
        super().__init__(
            channel,
            policy,
            Framer(HEADER_SIZE, PDU_MAXIMUM),
            window=0 if bind == pdu.BIND_RECEIVER else window,
            link_test_s=settings.enquire_link_s,
            response_timeout_s=settings.response_timeout_s,
        )
        self._settings = settings
        self._bind = bind
        self._book = book
        # The channel's, where its submits have a user_message_reference; set from outside.
        self.lost_submits: LostSubmits | None = None
        # Ours without an answer, by sequence number: about which id, and since when.
        self._queries: dict[int, tuple[str, float]] = {}
        self._told: list[Report] = []  # of this burst, because we had asked
        self._spelled: dict[str, str] = {}  # ids of this burst as the carrier spelled them
        self.role = _ROLES[bind]
        self._codes = StatusTable(settings.status_classes)
        self._answer_id, self._receipt_id = ID_FORMS[settings.id_match]
        self._is_text_first = settings.id_match in TEXT_FIRST
        kind = DataTemplate if settings.look.is_data else SubmitTemplate
        build_into = kind(settings.look, _NUMBERS[settings.number_format]).build_into
        charset = charset_of(settings.look.gsm7_data_coding, settings.default_alphabet)
        self._build_into = recoding(build_into, charset) if charset else build_into

    def _login(self) -> None:
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
        self._out.append(pdu.build_pdu(self._bind, self._next(), fields))

    def _test_link(self, sequence: int) -> None:
        self._out.append(pdu.pack_header(HEADER_SIZE, pdu.ENQUIRE_LINK, 0, sequence))

    def tick(self, now: float) -> list[Event]:
        """As `WireSession.tick`; receipts that stay away are asked for."""
        events = super().tick(now)
        book = self._book
        if book is not None and self.state is SessionState.BOUND and self.window.capacity:
            for sequence, (_, at) in list(self._queries.items()):
                if now - at >= self._response_s:
                    del self._queries[sequence]  # its turn comes again
            for carrier_id, one in book.due(now, QUERIES - len(self._queries)):
                self._query(carrier_id, one, now)
        return events

    def _query(self, carrier_id: str, one: Open, now: float) -> None:
        look = self._settings.look
        fields: dict[str, str | int | bytes] = {
            "message_id": one.asked_as,
            "source_addr_ton": source_ton(look, one.sender),
            "source_addr_npi": look.source_addr_npi,
            "source_addr": one.sender,
        }
        sequence = self._next()
        self._queries[sequence] = carrier_id, now
        self._out.append(pdu.build_pdu(pdu.QUERY_SM, sequence, fields))

    def _logout(self) -> None:
        self._out.append(pdu.pack_header(HEADER_SIZE, pdu.UNBIND, 0, self._next()))

    def _answer(self, tokens: Sequence[tuple[object, ...]], *, accepted: bool) -> None:
        """Queue the responses to reports and texts: 0, or 0x64 for "send it again later"."""
        if self._book is not None:
            tokens = self._own_answers(tokens, accepted=accepted)
        status = pdu.ESME_ROK if accepted else pdu.ESME_RX_T_APPN
        pack, out = pdu.pack_header, self._out
        for _, sequence, command_id in cast("Sequence[Token]", tokens):
            out.append(pack(HEADER_SIZE + 1, command_id | pdu.RESPONSE, status, sequence) + b"\0")

    def _own_answers(
        self, tokens: Sequence[tuple[object, ...]], *, accepted: bool
    ) -> list[tuple[object, ...]]:
        """What we had asked for needs no response; kept, it is not asked for again."""
        others: list[tuple[object, ...]] = []
        for token in tokens:
            if token[2] != pdu.QUERY_SM_RESP:
                others.append(token)
            elif accepted and self._book is not None:
                self._book.settle(str(token[1]))
        return others

    # -- the peer's moves ------------------------------------------------------------------

    def _read(self, frames: list[bytes], burst: Burst) -> Ended | None:
        take, results, reports = self.window.open.pop, burst.results, burst.reports
        channel, receipt_id, is_text_first = self.channel, self._receipt_id, self._is_text_first
        for frame in frames:
            _, command_id, status, sequence = parse_header(frame)
            if command_id == SUBMIT_SM_RESP:
                submit = take(sequence, None) or self.window.take_late(sequence)
                if submit is None:
                    self.strays += 1
                else:
                    results.append((submit, self._outcome(frame, status)))
            elif command_id == DELIVER_SM:
                usual = parse_usual_receipt(frame, is_text_first=is_text_first)
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
                    return ended
        if self._book is not None:
            self._book.taken(results, self._spelled, self._heard_at)
            self._spelled.clear()
            self._book.heard(reports)
            reports += self._told
            self._told.clear()
        return None

    def _outcome(self, frame: bytes, status: int) -> Outcome:
        # The body may be missing, its NUL too; TLVs after the id are congestion hints (5.0).
        end = frame.find(0, HEADER_SIZE, _MESSAGE_ID_END + 1)
        if end > 0 and len(frame) > end + 1:
            self._hear_load(frame, end + 1)
        if status:
            self._hear_load(frame, HEADER_SIZE)  # 5.0 may leave the id out and tell its load
            if status == pdu.ESME_RINVBNDSTS:
                return self._unbound_answer(status)
            return self._codes.outcome(status)
        # A longer id than the standard's 64 is cut, as it is in its report: the submit was taken.
        carrier_id = frame[HEADER_SIZE : end if end >= 0 else _MESSAGE_ID_END].decode("latin-1")
        if self._answer_id is not None:
            spelled, carrier_id = carrier_id, self._answer_id(carrier_id)
            if self._book is not None:
                self._spelled[carrier_id] = spelled
        return Submitted(carrier_id)

    def _hear_load(self, frame: bytes, position: int) -> None:
        """How busy the carrier says it is, in the TLVs from `position` (SMPP 5.0)."""
        self.congestion = max(self.congestion, pdu.congestion_of(frame, position))

    def _unbound_answer(self, status: int) -> Outcome:
        """The carrier forgot our login, so it took nothing: no more of ours until we bound again.

        A channel that gives the code a class of its own is believed.
        """
        if self.state is SessionState.BOUND:
            self._move(Move.PEER_UNBOUND, self._heard_at)  # the rest may still be answered
        if status in self._settings.status_classes:
            return self._codes.outcome(status)
        return NotSent("channel.link_lost")

    def _deliver(
        self,
        frame: bytes,
        short: pdu.Short,
        sequence: int,
        burst: Burst,
        command_id: int = DELIVER_SM,
    ) -> None:
        kind = short[2] & pdu.ESM_TYPE
        token = (self, sequence, command_id)
        if kind == pdu.ESM_RECEIPT:
            parsed = parse_receipt(frame, short, is_text_first=self._is_text_first)
            if parsed is not None:
                carrier_id, state, error = parsed
                if self._receipt_id is not None:
                    carrier_id = self._receipt_id(carrier_id)
                number = short[0].decode("latin-1").lstrip("+")
                word = self._named(frame, short, number)
                one = Report(self.channel, carrier_id, state, error, number, token, *word)
                burst.reports.append(one)
            else:  # it says nothing: counted, answered and dropped
                burst.reports.append(Report(self.channel, "", "", "", "", token))
            return
        if kind == 0:
            number = short[0].decode("latin-1")
            if command_id == DELIVER_SM and number.isdigit() and is_international(frame):
                number = f"+{number}"  # so that nobody takes it for a national one
            to = short[1].decode("latin-1").lstrip("+")
            text, mark = parse_text(frame, short, self._settings.default_alphabet)
            burst.texts.append(Inbound(self.channel, number, to, text, token, mark=mark))
            return
        # Acknowledgements of other machines and intermediate notices: kept unanswered they would
        # only come again.
        self._answer((token,), accepted=True)

    def _given_up(self, unanswered: Sequence[tuple[int, Submit]], reason: str) -> Answered:
        """As `WireSession._given_up`; a receipt may name them by their reference."""
        if self.lost_submits is not None:
            for sequence, submit in unanswered:
                self.lost_submits.note(sequence, submit)
        return super()._given_up(unanswered, reason)

    def _named(self, frame: bytes, short: pdu.Short, number: str) -> Named:
        """Our word for the attempt that a receipt echoes the reference of, its answer lost or not
        there yet; `NOBODY` where it echoes none that is known.
        """
        if self.lost_submits is None:
            return NOBODY
        bits = echoed_reference(frame, short)
        if bits is None:
            return NOBODY
        submit = self.window.open.get(self._sequence - ((self._sequence - bits) & MASK))
        if submit is not None and is_same_phone(submit, number):
            return named(submit)
        return self.lost_submits.find(bits, number)

    def _data(self, frame: bytes, burst: Burst) -> None:
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

    def _data_answered(self, frame: bytes, burst: Burst) -> None:
        _, _, status, sequence = parse_header(frame)
        submit = self.window.open.pop(sequence, None) or self.window.take_late(sequence)
        if submit is None:
            self.strays += 1
        else:
            burst.results.append((submit, self._outcome(frame, status)))

    def _queried(self, frame: bytes, _burst: Burst) -> None:
        """What became of a submit without a receipt: an end is as good as its report."""
        answer = pdu.parse_pdu(frame)
        asked = self._queries.pop(answer.sequence, None)
        if asked is None:
            self.strays += 1
            return
        carrier_id = asked[0]
        state, error = answer.number("message_state"), answer.number("error_code")
        if answer.status or state not in FINAL_STATES:
            return  # it does not know, or does not know yet
        token = (self, carrier_id, pdu.QUERY_SM_RESP)
        word = str(error) if error else ""
        self._told.append(Report(self.channel, carrier_id, str(state), word, "", token))

    def _nack(self, frame: bytes, burst: Burst) -> Ended | None:
        _, _, status, sequence = parse_header(frame)
        submit = self.window.open.pop(sequence, None) or self.window.take_late(sequence)
        if submit is not None:
            burst.results.append((submit, self._codes.nack(status)))
        elif self._queries.pop(sequence, None) is not None:
            if self._book is not None:
                self._book.refuse()  # it knows no query_sm
        elif self._link_answered(sequence):
            pass  # it knows no enquire_link, but it is there
        elif self.state is SessionState.BINDING:
            return self._end(login_refused(status, is_nack=True))
        else:
            self.strays += 1
        return None

    def _enquired(self, frame: bytes, _burst: Burst) -> None:
        self._respond(pdu.ENQUIRE_LINK_RESP, pdu.ESME_ROK, frame)

    def _enquiry_answered(self, frame: bytes, _burst: Burst) -> None:
        self._link_answered(parse_header(frame)[3])
        self._hear_load(frame, HEADER_SIZE)

    def _unbound(self, frame: bytes, burst: Burst) -> Ended | None:
        sequence = parse_header(frame)[3]
        farewell = pdu.pack_header(HEADER_SIZE, pdu.UNBIND_RESP, pdu.ESME_ROK, sequence)
        return self._peer_unbound(farewell, burst)

    def _unbind_answered(self, _frame: bytes, _burst: Burst) -> Ended | None:
        return self._end("unbound") if self.state is SessionState.UNBINDING else None

    def _bind_answered(self, frame: bytes, burst: Burst) -> Ended | None:
        status = parse_header(frame)[2]
        if self.state is not SessionState.BINDING:
            self.strays += 1
            return None
        if status:
            return self._end(login_refused(status))
        # Whatever form it has, no name is worth a login.
        system_id = frame[HEADER_SIZE : HEADER_SIZE + 16].partition(b"\0")[0].decode("latin-1")
        self._move(Move.BOUND, self._heard_at)
        burst.bound.append(Bound(system_id))
        return None

    def _other(self, frame: bytes, _burst: Burst) -> None:
        command_id = parse_header(frame)[1]
        if command_id & pdu.RESPONSE:
            self.strays += 1
        elif command_id not in _NO_ANSWER_DUE:
            self._respond(pdu.GENERIC_NACK, pdu.ESME_RINVCMDID, frame)

    def _respond(self, command_id: int, status: int, frame: bytes) -> None:
        sequence = parse_header(frame)[3]
        self._out.append(pdu.pack_header(HEADER_SIZE, command_id, status, sequence))

    def _broken(self, error: RemoteProtocolError) -> Ended:
        """A PDU that cannot be read: say so, then close (SMPP 3.4 section 4.3)."""
        self._out.append(pdu.pack_header(HEADER_SIZE, pdu.GENERIC_NACK, pdu.ESME_RINVCMDLEN, 0))
        self.state = SessionState.CLOSED
        return Ended(str(error), error)


_ROLES = {
    pdu.BIND_TRANSCEIVER: "",
    pdu.BIND_TRANSMITTER: "transmitter",
    pdu.BIND_RECEIVER: "receiver",
}
_NO_ANSWER_DUE = frozenset((pdu.ALERT_NOTIFICATION, pdu.OUTBIND))
# What is not the answer to a submit_sm or a deliver_sm, by command; others go to `_other`.
_CONTROLS: dict[int, Callable[[Session, bytes, Burst], Ended | None]] = {
    pdu.DATA_SM: Session._data,
    pdu.DATA_SM_RESP: Session._data_answered,
    pdu.GENERIC_NACK: Session._nack,
    pdu.QUERY_SM_RESP: Session._queried,
    pdu.ENQUIRE_LINK: Session._enquired,
    pdu.ENQUIRE_LINK_RESP: Session._enquiry_answered,
    pdu.BIND_TRANSCEIVER_RESP: Session._bind_answered,
    pdu.BIND_TRANSMITTER_RESP: Session._bind_answered,
    pdu.BIND_RECEIVER_RESP: Session._bind_answered,
    pdu.UNBIND: Session._unbound,
    pdu.UNBIND_RESP: Session._unbind_answered,
}


def _national_cn(number: str) -> str:
    return number[2:] if number.startswith("86") and len(number) == 13 else number


_NUMBERS = {
    NumberFormat.E164: None,
    NumberFormat.PLUS: "+{}".format,
    NumberFormat.NATIONAL_CN: _national_cn,
}
