"""What makes one vendor different from another: its words for what all vendors do.

A shape checks credentials and signatures by the vendor's documentation, written anew here: nothing
of the gateway's own signing is used, so each is an independent judge of it.

    request ─▶ read ─▶ Sending ─▶ (Desk decides) ─▶ taken | throttled | refused | broken ─▶ Answer
                   └─▶ Answer (a wrong signature, a query, a pull)
    kept texts ─▶ receipts ─▶ Push          a phone's text ─▶ inbound ─▶ Push
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from loadtest.phone import PhoneText
from loadtest.vendors.http import Answer, Asked

KEPT = 100_000  # taken texts that can be asked about
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
encode: Final = msgspec.json.encode


class Text(NamedTuple):
    """One message of a request."""

    to: str  # digits with the country code
    sender: str
    text: str
    reference: str = ""  # the client's own word for it, echoed in its receipt
    notify_url: str = ""  # where the request wants its receipt, "" = where the account says
    carrier_id: str = ""  # the id, where the client chooses it


class Sending(NamedTuple):
    """A request that asks to send."""

    texts: Sequence[Text]
    asked: Any = None  # what the shape needs again for the answer


class End(Enum):
    """How a taken text stands."""

    WAITING = "waiting"
    GOOD = "good"
    BAD = "bad"


@dataclass(slots=True)
class Kept:
    """A text that was taken."""

    carrier_id: str
    text: Text
    at: float  # Unix seconds
    number: int  # of this vendor's texts
    end: End = End.WAITING
    done_at: float = 0.0


class Push(NamedTuple):
    """A call of the client's callback."""

    url: str
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Brought(NamedTuple):
    """A phone's text as the vendor brings it."""

    phone: PhoneText
    carrier_id: str
    at: float
    number: int


@dataclass(slots=True)
class Ledger:
    """What the vendor remembers of its texts, for who asks."""

    by_id: dict[str, Kept] = field(default_factory=dict)
    by_number: dict[str, list[Kept]] = field(default_factory=dict)
    # What nobody was told, for pulls; the oldest are lost when there are too many.
    receipts: deque[Kept] = field(default_factory=lambda: deque(maxlen=KEPT))
    texts: deque[Brought] = field(default_factory=lambda: deque(maxlen=KEPT))
    _order: deque[Kept] = field(default_factory=deque)

    def keep(self, kept: Kept) -> None:
        """From now on; the oldest is forgotten for it."""
        self._order.append(kept)
        self.by_id[kept.carrier_id] = kept
        self.by_number.setdefault(kept.text.to, []).append(kept)
        if len(self._order) > KEPT:
            self._forget(self._order.popleft())

    def _forget(self, old: Kept) -> None:
        if self.by_id.get(old.carrier_id) is old:
            del self.by_id[old.carrier_id]
        same = self.by_number[old.text.to]
        same.remove(old)
        if not same:
            del self.by_number[old.text.to]

    def pull_receipts(self, most: int) -> list[Kept]:
        """Receipts nobody was told, each handed out once."""
        return [self.receipts.popleft() for _ in range(min(most, len(self.receipts)))]

    def pull_texts(self, most: int) -> list[Brought]:
        """Phones' texts nobody was told, each handed out once."""
        return [self.texts.popleft() for _ in range(min(most, len(self.texts)))]

    def found(self, number: str, most: int) -> list[Kept]:
        """The newest texts to a number first."""
        return list(islice(reversed(self.by_number.get(number, ())), most))


class Shape(ABC):
    """One vendor account: whose it is, and the vendor's forms."""

    push_most = 1  # receipts in one push
    has_one_verdict = False  # for the whole request, whatever its numbers

    def __init__(self, account: str, secret: str) -> None:
        """`secret` empty takes any."""
        self.account = account
        self.secret = secret

    @abstractmethod
    def read(self, asked: Asked, ledger: Ledger, now: float) -> Sending | Answer:
        """What a request asks for, or its answer when nothing is to be sent. Never raises."""

    @abstractmethod
    def taken(self, sending: Sending, ids: Sequence[str], at: float) -> Answer:
        """The answer with a verdict per text: its id, "" for a refusal."""

    @abstractmethod
    def throttled(self) -> Answer:
        """Too fast; nothing was taken."""

    @abstractmethod
    def refused(self, status: int) -> Answer:
        """The whole request is refused with this HTTP status (4xx)."""

    @abstractmethod
    def broken(self, status: int) -> Answer:
        """A failure of the vendor's own (5xx) that says that nothing was accepted."""

    @abstractmethod
    def ids(self, sending: Sequence[Text], first: int, at: float) -> list[str]:
        """An id per text, unique over restarts; `first` is the first one's number."""

    @abstractmethod
    def receipts(self, kept: Sequence[Kept], url: str) -> Push:
        """At most `push_most` receipts as they are pushed."""

    @abstractmethod
    def inbound(self, text: Brought, url: str) -> Push:
        """A phone's text as it is pushed."""

    def is_heard(self, status: int, body: bytes) -> bool:
        """Whether the client's answer to a push says that it has it."""
        return 200 <= status < 300


def form_of(body: bytes) -> dict[str, str]:
    """The fields of a form, empty ones too; the last of a repeated name."""
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def json_of(body: bytes) -> Mapping[str, Any]:
    """A JSON object; an empty one for what is none."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def utc(text: str, form: str) -> float:
    """Unix seconds of a date in UTC; ValueError when it is none of that form."""
    return datetime.strptime(f"{text} +0000", f"{form} %z").timestamp()


def digits(number: object) -> str:
    """A number as the record has it: without + or 00."""
    return str(number).strip().removeprefix("+").removeprefix("00")
