"""Builders and a sink for tests of channels: messages, submits, a bound session."""

from collections.abc import Sequence

from adapters.session import Event, SessionPolicy
from adapters.smpp import pdu
from adapters.smpp.session import Session
from adapters.smpp.settings import parse
from sms.model import Carrier, Encoding, Inbound, Message, MessageClass, Report, Submit
from sms.outcomes import Outcome

SETTINGS = {"host": "127.0.0.1", "port": 2775, "system_id": "esme01", "password": "secret08"}


def a_message(
    *, message_class: MessageClass = MessageClass.TRANSACTIONAL, segments: int = 1
) -> Message:
    """A message to a mainland number."""
    return Message(
        1,
        1,
        message_class,
        "8613800138000",
        Carrier.CM,
        86,
        Encoding.UCS2,
        ("你好",) * segments,
        valid_until=1e12,
        created_at=0.0,
    )


def submits_of(message: Message, sender: str = "10690001") -> list[Submit]:
    """All its segments."""
    total = len(message.texts)
    return [
        Submit(
            message,
            index,
            total,
            message.number,
            sender,
            message.encoding,
            (bytes((5, 0, 3, 7, total, index + 1)) if total > 1 else b"")
            + text.encode("utf-16-be"),
            total > 1,
            300,
        )
        for index, text in enumerate(message.texts)
    ]


def some_submits(
    count: int, message_class: MessageClass = MessageClass.TRANSACTIONAL
) -> list[Submit]:
    """Submits of as many messages of one segment."""
    return [submits_of(a_message(message_class=message_class))[0] for _ in range(count)]


def bound_session(
    window: int = 16, policy: SessionPolicy | None = None, **settings: object
) -> Session:
    """A session at time 0 whose login was just taken; nothing left to send."""
    session = Session(7, parse({**SETTINGS, **settings}), policy or SessionPolicy(), window)
    session.connected(0.0)
    session.to_send()
    session.receive(pdu.build_pdu(pdu.BIND_TRANSCEIVER_RESP, 1, {"system_id": "SMSC"}), 0.0)
    return session


def frames(data: bytes) -> list[pdu.Pdu]:
    """What was written, parsed."""
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        found.append(pdu.parse_pdu(data[:length]))
        data = data[length:]
    return found


def submit_answer(sequence: int, carrier_id: str = "", status: int = 0) -> bytes:
    """A submit_sm_resp; an error one has no body."""
    fields: dict[str, str | int | bytes] | None = None if status else {"message_id": carrier_id}
    return pdu.build_pdu(pdu.SUBMIT_SM_RESP, sequence, fields, status=status)


def report(sequence: int, carrier_id: str, state: str = "DELIVRD") -> bytes:
    """A deliver_sm with a report in text and TLV form."""
    text = (
        f"id:{carrier_id} sub:001 dlvrd:001 submit date:2611212028 done date:2611212028"
        f" stat:{state} err:000 text:"
    )
    return pdu.build_pdu(
        pdu.DELIVER_SM,
        sequence,
        {
            "source_addr": "8613800138000",
            "destination_addr": "10690001",
            "esm_class": 4,
            "short_message": text.encode(),
        },
        tlvs=[(pdu.TLV_RECEIPTED_MESSAGE_ID, carrier_id.encode() + b"\0")],
    )


def outcomes(events: Sequence[Event]) -> list[Outcome]:
    """The outcomes in a list of events."""
    return [outcome for event in events for _, outcome in getattr(event, "results", ())]


class FakeSink:
    """A ChannelSink that remembers what came through the door."""

    def __init__(self) -> None:
        self.lease = True
        self.journal_works = True
        self.written: list[Submit] = []
        self.results: list[tuple[Submit, Outcome]] = []
        self.bursts: list[int] = []
        self.received: list[Report] = []
        self.texts: list[Inbound] = []
        self.links: list[tuple[bool, str]] = []
        self.openings = 0

    def may_submit(self) -> bool:
        return self.lease

    def journal_writes(self, channel: int, submits: Sequence[Submit]) -> bool:
        if self.journal_works:
            self.written += submits
        return self.journal_works

    def outcomes(self, channel: int, results: Sequence[tuple[Submit, Outcome]]) -> None:
        self.results += results
        self.bursts.append(len(results))

    def reports(self, channel: int, reports: Sequence[Report]) -> None:
        self.received += reports

    def inbound(self, channel: int, texts: Sequence[Inbound]) -> None:
        self.texts += texts

    def window_open(self, channel: int) -> None:
        self.openings += 1

    def link_changed(self, channel: int, is_up: bool, reason: str) -> None:
        self.links.append((is_up, reason))
