"""What an HTTP channel asks of a vendor: requests made, answers and pushes read.

Sans-IO: a vendor object is made once per channel, holds its settings, does no I/O and takes time
and chance as arguments, so that a test can give the same inputs to the vendor's own SDK.

    submits ─▶ together ─▶ send ─▶ Request ─▶ (HttpChannel) ─▶ Reply ─▶ read ─▶ outcomes
    vendor ─▶ our callback ─▶ Call ─▶ pushed ─▶ Pushed ─▶ ═COMMIT═▶ Pushed.answer
    uncertain or unheard of ─▶ question ─▶ Request ─▶ Reply ─▶ told ─▶ Told

`read` decides exactly as RELIABILITY section 6: 429 and the vendor's flow codes are `Throttled`; a
5xx is `Rejected` only when the body says that the message was not accepted, else `Uncertain`; what
cannot be read is `Uncertain`, never "taken" and never "refused". Timeouts and cuts are the shell's.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from sms import gsm
from sms.attempts import reference
from sms.concatenation import utf16
from sms.model import Encoding, Inbound, Report, Submit
from sms.outcomes import Outcome

MAX_ANSWER = 1024 * 1024  # octets of a vendor's answer that are read; a longer one is unreadable


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, complete: nothing is added to it but Host, Content-Length, User-Agent."""

    method: str
    url: str  # whole, with its query, as signed
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, read whole (at most MAX_ANSWER octets)."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class CallKind(StrEnum):
    """Which of a channel's two callbacks was called: the last part of its path."""

    RECEIPTS = "receipts"
    INBOUND = "inbound"


@dataclass(frozen=True, slots=True)
class Call:
    """A vendor's call of our callback. Its peer address was let in by the channel's source list."""

    kind: CallKind
    method: str
    # As the vendor was given it: public address, path and query (some sign it).
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)  # names in lower case
    body: bytes = field(repr=False)
    unix: float  # when it came


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """What the vendor wants to hear once what it brought is durable."""

    status: int = 200
    content_type: str = "application/json"
    body: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push or a pull brought. Their `token` is the shell's to set."""

    reports: tuple[Report, ...] = ()
    texts: tuple[Inbound, ...] = ()
    answer: CallAnswer = CallAnswer()


@dataclass(frozen=True, slots=True)
class Asked:
    """A submit that is asked about: its answer was lost, or its receipt stays away."""

    submit: Submit  # its text may be forgotten; number, message id, attempt and copy are there
    sent_unix: float  # when its request left, about; the latest moment where that is not known
    carrier_id: str = ""  # "" when the answer was lost
    unsure_s: float = 0.0  # it may have left so long before: after a kill nobody knows when

    @property
    def since_unix(self) -> float:
        """The earliest moment at which its request can have left, by our clock."""
        return self.sent_unix - self.unsure_s


class Verdict(StrEnum):
    """What the vendor, asked, says of a submit."""

    TAKEN = "taken"  # it has it, no end yet
    ENDED = "ended"  # it has it, and `report` says how it ended
    ABSENT = "absent"  # it knows of none: proof only after `absent_after_s`, where that is set
    SILENT = "silent"  # no usable answer: ask again later


@dataclass(frozen=True, slots=True)
class Told:
    """One answer to one question."""

    verdict: Verdict
    carrier_id: str = ""  # with TAKEN and ENDED
    report: Report | None = None  # with ENDED


@dataclass(frozen=True, slots=True)
class Traits:
    """What a vendor can do, so that the shell and the configuration need not know its name."""

    batch: int = 1  # most messages in one request
    demands_template: bool = False  # it sends registered templates only (Submit.filled)
    asks: bool = False  # `question` works
    pulls: bool = False  # `pull` works
    # Its calls show `callback_secret`, where there is one, as `callback.require_secret` reads it.
    shows_secret: bool = True
    absent_after_s: float | None = None  # ABSENT this long after sending proves "never accepted"
    inherent: Mapping[str, object] = field(default_factory=dict)  # e.g. adds_signature: True


class Vendor(Protocol):
    """One vendor account. Made by `make(channel, templates)` of its module; see vendors.py."""

    traits: Traits
    endpoint: str  # where submits go; one that names a host is probed while nothing is sent

    def together(self, submit: Submit) -> Hashable:
        """Submits with equal keys may share a request, where `traits.batch` allows it.

        Two of one number never do, unless the vendor gives each an id of its own.
        """
        ...

    def send(self, submits: Sequence[Submit], unix: float, nonce: str) -> Request:
        """The request for these; CannotSend (sms.errors) when one of them cannot be said."""
        ...

    def read(self, submits: Sequence[Submit], reply: Reply) -> Sequence[Outcome | None]:
        """One outcome per submit, in order. Never raises: what cannot be read is Uncertain.

        None, never of a submit that was alone: it was certainly not taken, and for nothing that is
        known to be its own fault; it is to be sent again in another request (`reading.refused`).
        """
        ...

    def question(self, asked: Sequence[Asked], unix: float, nonce: str) -> Request:
        """Ask what became of these (one per request unless the vendor takes several).

        CannotSend when it cannot be asked about one of them, as without its id.
        """
        ...

    def told(self, asked: Sequence[Asked], reply: Reply) -> list[Told]:
        """One answer per question, in order. Never raises."""
        ...

    def pull(self, kind: CallKind, unix: float, nonce: str) -> Request | None:
        """Ask for what was not pushed; None where this kind is not pulled."""
        ...

    def pulled(self, kind: CallKind, reply: Reply) -> Pushed:
        """What a pull brought; raises RemoteProtocolError when it cannot be read."""
        ...

    def pushed(self, call: Call) -> Pushed:
        """What a push brought; raises CallRefused when it is not the vendor's or unreadable."""
        ...


def reference_of(submit: Submit) -> str:
    """Our own word for one attempt, which vendors that can echo it get: `msg_…-1`.

    A receipt that carries it (`Report.reference`) finds its message also when the answer to the
    submit was lost (RELIABILITY section 5). A second copy is another attempt, so another word.
    """
    return reference(submit.message.id, submit.attempt)


def text_of(submit: Submit) -> str:
    """The whole text as the vendor is to send it, without a signature that the vendor adds.

    HTTP channels are given whole texts (`sends_whole`): the payload is one piece without header.
    """
    if submit.encoding is Encoding.GSM7:
        return gsm.decode(submit.payload)
    return utf16(submit.payload)
