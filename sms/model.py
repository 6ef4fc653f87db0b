"""The nouns every room shares: message, segment states, submit, classes, states.

Nothing here does I/O and nothing here knows a room. Times are Unix seconds (float) unless a
name says otherwise; ids are the 64-bit integers of DESIGN decision 3, shown as text by
`sms.ids`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple, NewType

MessageId = NewType("MessageId", int)
TenantId = NewType("TenantId", int)
ChannelId = NewType("ChannelId", int)
EventId = NewType("EventId", int)
EndpointId = NewType("EndpointId", int)


class MessageClass(StrEnum):
    """What kind of text it is: it decides lane, validity and the policy for a lost answer."""

    OTP = "otp"
    TRANSACTIONAL = "transactional"
    MARKETING = "marketing"


class Encoding(StrEnum):
    """How the text travels on the air."""

    GSM7 = "gsm7"
    UCS2 = "ucs2"


class Carrier(StrEnum):
    """The network a number lives in, by prefix or by portability override."""

    CM = "CM"
    CU = "CU"
    CT = "CT"
    CB = "CB"
    OTHER = "other"


CARRIERS: tuple[Carrier, ...] = tuple(Carrier)  # append only: their places are stored


class OnUncertain(StrEnum):
    """What to do when the answer to a submit was lost (RELIABILITY section 5)."""

    RESEND = "resend"
    PROBE_THEN_RESEND = "probe_then_resend"
    HOLD = "hold"


class UncertainPolicy(StrEnum):
    """The same as platform and tenants may choose it: an operator may be asked as well."""

    RESEND = "resend"
    PROBE_THEN_RESEND = "probe_then_resend"
    HOLD = "hold"
    ASK = "ask"  # hold, until an operator says `:resend`

    @property
    def is_resending(self) -> bool:
        """Whether a second copy follows by itself."""
        return self is UncertainPolicy.RESEND or self is UncertainPolicy.PROBE_THEN_RESEND


class State(StrEnum):
    """The states of a message (RELIABILITY section 2)."""

    ACCEPTED = "accepted"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    SUBMITTING = "submitting"
    UNCERTAIN = "uncertain"
    SUBMITTED = "submitted"
    DELIVERED = "delivered"
    PARTIALLY_DELIVERED = "partially_delivered"
    UNDELIVERED = "undelivered"
    EXPIRED = "expired"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELED = "canceled"
    UNKNOWN = "unknown"


FINAL_STATES = frozenset(
    {
        State.DELIVERED,
        State.PARTIALLY_DELIVERED,
        State.UNDELIVERED,
        State.EXPIRED,
        State.REJECTED,
        State.FAILED,
        State.CANCELED,
        State.UNKNOWN,
    }
)

# The small numbers the store writes. Append only: a number, once used, keeps its meaning.
STATE_CODES: dict[State, int] = {state: index for index, state in enumerate(State)}
STATES_BY_CODE: tuple[State, ...] = tuple(State)
CLASS_CODES: dict[MessageClass, int] = {cls: index for index, cls in enumerate(MessageClass)}
CLASSES_BY_CODE: tuple[MessageClass, ...] = tuple(MessageClass)
ENCODING_CODES: dict[Encoding, int] = {enc: index for index, enc in enumerate(Encoding)}
ENCODINGS_BY_CODE: tuple[Encoding, ...] = tuple(Encoding)


class Held(IntEnum):
    """Why a number stands on the suppression list; stored by its number."""

    ASKED = 0  # somebody asked for it: the recipient, the tenant or the operator
    INVALID = 1  # a carrier says that it does not exist
    BLOCKED = 2  # a carrier has it on its blacklist


@dataclass(slots=True)  # mutable and not frozen: one object per message lives on the hot path
class Message:
    """One text to one number, as the tenant asked, and where it stands.

    The first block is written once, at accept, and stored (number, texts and options sealed).
    The second block is the live part that only the owning process keeps; after a restart it is
    folded from the event rows.
    """

    id: int  # 0 until the acceptor gives it one
    tenant: int
    message_class: MessageClass
    number: str  # E.164 digits without '+'
    carrier: Carrier
    country: int  # calling code, 86 for the mainland
    encoding: Encoding
    texts: tuple[str, ...]  # the text of each segment, signature included; joined = final text
    valid_until: float
    created_at: float
    sender_ext: str | None = None
    client_ref: str | None = None
    metadata: dict[str, str] | None = None
    on_uncertain: OnUncertain | None = None  # the tenant's override, None = class default
    send_at: float | None = None  # when it is to go; None = at once. Then it begins `scheduled`

    state: State = State.ACCEPTED
    sequence: int = 1  # of the newest event row; the messages row itself is 1
    attempt: int = 0  # counted from 1 when the first submit leaves
    tried: tuple[int, ...] = ()  # channel ids that refused or lost it
    channel: int = 0  # channel id of the newest attempt, 0 = none yet
    copy: int = 0  # 1 once the marked second copy exists
    duplicate_risk: bool = False
    claim: int = 0  # block number of its claims row, 0 = not claimed
    throttled: int = 0  # throttled and not-sent tries since the last row
    throttled_at: float = 0.0  # monotonic; since when its channel throttles it, 0 = it does not
    not_before: float = 0.0  # monotonic; earliest next try
    queued_at: float = 0.0  # monotonic; for queue wait and age
    sent_at: float = 0.0  # monotonic; first byte of the newest attempt
    carrier_ids: list[str | None] = field(default_factory=list)  # per segment
    segment_states: list[State] = field(default_factory=list)  # per segment, once submitted
    first_states: list[State] = field(default_factory=list)  # those of copy 0 once copy is 1
    segment_codes: tuple[str | None, ...] = ()  # of several segments: the newest raw word on each
    open_segments: int = 0  # segments of this attempt still unanswered
    answers: list[object] = field(default_factory=list)  # per segment, outcomes of this attempt
    parts: list[Submit] = field(default_factory=list)  # a long message's segments of this attempt
    # On a route whose channels do not take every text: the version of the configuration by which
    # it was found, and the channels that take this one. None = not looked for yet.
    takers: tuple[int, tuple[int, ...]] | None = None
    # Why it is bound to another channel than its first (gateway.detours); () = it is not.
    detour: tuple[int, ...] = ()
    # What it waited for beside its turn (gateway.holds): since when (monotonic; 0 = for nothing),
    # and how long for what, where that is over.
    held_at: float = 0.0
    holds: tuple[int, ...] = ()
    is_parked: bool = False  # a row in `parked` waits for it
    is_adopted: bool = False  # taken over from another process: its claim is what we find it by
    is_handed: bool = False  # handed over: this object is nobody's, wherever it still stands
    uncertain_at: float = 0.0  # Unix seconds, when the newest attempt's answer was given up
    left_at: float = 0.0  # Unix seconds, when that attempt left; 0 = nobody knows any more
    reason: str | None = None  # a dotted code of sms.reasons
    carrier_code: str | None = None  # the carrier's raw word beside it
    # Status and channel of its newest row: where usage counts it. Who makes a message that begins
    # in another state sets it as well.
    counted: tuple[State, int] = (State.ACCEPTED, 0)
    submitted_at: float | None = None  # Unix seconds, the row that made it `submitted`
    final_at: float | None = None  # Unix seconds, the row that made it final

    @property
    def segments(self) -> int:
        """How many segments the text takes on the air."""
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Filled:
    """A text as a vendor's own template says it: the vendor's code, and the variables' values.

    `values` are (name, value) in the order in which this vendor wants them.
    """

    code: str
    values: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)  # not frozen: made per segment on the hot path (1.1 against 0.23 µs)
class Submit:
    """One segment handed to one channel, or a long text that the carrier cuts itself.

    `payload` is the user data as it goes on the wire: UDH first when `has_udh`, GSM-7 as
    unpacked septets (one per octet), UCS-2 as UTF-16BE.
    """

    message: Message
    segment: int  # from 0
    total: int
    number: str  # digits without '+'
    sender: str  # access code plus extension, or alphanumeric
    encoding: Encoding
    payload: bytes
    has_udh: bool
    validity_s: int  # what is left of valid_for_s, > 0
    attempt: int = 1  # of the message, when this submit was made
    copy: int = 0  # 1 for the marked second copy
    sent_at: float = 0.0  # monotonic, set by the session when its bytes are handed out
    # Of a long text that leaves whole: its segments, of which each ends as this one submit does.
    parts: tuple[Submit, ...] = ()
    filled: Filled | None = None  # for a channel whose vendor sends registered templates only


@dataclass(slots=True)  # not frozen: see Submit
class Report:
    """A carrier's raw status report, as read from the wire and not yet judged.

    `token` is what the channel needs to answer it (the peer's sequence number and session);
    it is answered only after the report is durable.
    """

    channel: int
    carrier_id: str
    state: str  # the carrier's own word: DELIVRD, UNDELIV, or a number as text
    error: str  # the carrier's own error code, "" when absent
    number: str  # digits the report names, "" when absent
    token: object = None
    reference: str = ""  # our own word for the attempt, where the vendor echoes it
    # Of a long text under one id of which the carrier reports each segment: (place from 1, of how
    # many); None = it is about all that the id stands for.
    part: tuple[int, int] | None = None


class SegmentMark(NamedTuple):
    """What a segment of a long text from a phone says of its place in it."""

    reference: int  # the same for all segments of the text
    total: int  # 2…255
    number: int  # of this one, from 1
    form: int  # where it stood: in a header of 8 or 16 bits, or 0 = beside the text (SAR)


@dataclass(slots=True)  # not frozen: see Submit
class Inbound:
    """A text from a phone (MO), or one segment of it, as read from the wire.

    `carrier_id` is the carrier's own id of this delivery where the protocol has one: a repeat has
    the same. UTF-16 of a segment is decoded with `surrogatepass`: a cut may go through a pair.
    """

    channel: int
    number: str
    to: str
    text: str
    token: object = None
    carrier_id: str = ""  # "" = the protocol has none
    mark: SegmentMark | None = None  # None = the whole text


@dataclass(slots=True)
class InboundMessage:
    """A text from a phone as it is kept: whole, or what had come of it when the wait ended."""

    id: int
    tenant: int  # 0 = nobody's: no tenant is known by the number it was sent to
    number: str  # E.164 digits of the phone; other senders as the carrier writes them
    to: str  # the number it was sent to: access code and extension
    text: str
    channel: int
    received_at: float  # Unix seconds, of the last segment
    segments: int = 1  # of the whole text
    missing: int = 0  # of them, never came
    parent: int | None = None  # the message that it probably answers
    suppressed: frozenset[MessageClass] = frozenset()  # what it, an opt-out, newly suppressed


@dataclass(slots=True)  # not frozen: two per message on the hot path
class EventRow:
    """One appended row of a message's life, key (message_id, sequence) (DESIGN decision 2).

    `path` is a code of `receipts.state.Path`: the states the message passes through with this
    row (none for a row that only notes something about one segment). `status` is the segment's
    state when `segment` is given, else the message's. `times` are milliseconds: for a submit
    (queue wait, answer time).
    """

    message_id: int
    sequence: int
    event_id: int
    tenant: int
    path: int
    status: State
    at: float  # Unix seconds
    segment: int | None = None
    copy: int = 0
    channel: int = 0  # 0 = none
    carrier_id: str | None = None  # only on rows that a report must find
    code: str | None = None
    reason: str | None = None
    times: tuple[int, ...] = ()
    message: Message | None = None  # the owner's live object, never stored
    previous: State | None = None  # where the message stood before this row, never stored
    counted_before: tuple[State, int] | None = None  # Message.counted before this row, never stored
    is_stored: bool = False  # its commit is known; a row that lost its key is not
    tries: int = 0  # how often it lost its key to another writer
    heard_as: str | None = None  # the id by which a report found this segment, never stored
