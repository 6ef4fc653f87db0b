"""What every channel offers and what it calls back: the door between a protocol and the flow.

A channel is a thin asyncio shell round sans-IO sessions. It owns its connections, windows and
time-outs; it decides nothing about routes, retries or states. Everything crosses this door in
lists, one call per burst.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from sms.model import Inbound, Report, Submit
from sms.outcomes import Outcome

# How a protocol's check of settings begins what it says about a name that it does not know.
NOT_A_SETTING = "is not a setting"
# difflib's ratio from which an unknown name may be a slip of the pen: `wimdow` is one of `window`,
# `bind` (0.6) and `source_ton` for `source_addr` (0.67) are other words.
CLOSE_SPELLING = 0.8


class Lost(NamedTuple):
    """A submit whose answer was lost; with a `carrier_id`, one whose receipt stays away."""

    submit: Submit
    sent_unix: float  # when it left; the latest moment where that is not known
    unsure_s: float  # it may have left so long before that; 0.0 = the moment is known
    carrier_id: str = ""


class LinkTests(NamedTuple):
    """What a channel's link tests, or its probes of a vendor, came to."""

    answered_s: Sequence[float] = ()  # how long each answer took
    lost: int = 0  # unanswered ones that did not take the channel down


class ChannelSink(Protocol):
    """What the flow offers a channel; all calls are synchronous and must not raise."""

    def may_submit(self) -> bool:
        """Whether our lease still holds; asked before each socket burst."""
        ...

    def journal_writes(self, channel: int, submits: Sequence[Submit]) -> bool:
        """One write() of the burst's write lines, before its first byte; False stops it."""
        ...

    def outcomes(self, channel: int, results: Sequence[tuple[Submit, Outcome]]) -> None:
        """Answers, time-outs and losses of one burst, each submit exactly once.

        A late answer after `Uncertain` comes as a second call with the same submit
        (RELIABILITY transition 13); the window slot stays taken until then, 120 s or the close.
        """
        ...

    def reports(self, channel: int, reports: Sequence[Report]) -> None:
        """Status reports of one burst; answered later through `Channel.answer`."""
        ...

    def inbound(self, channel: int, texts: Sequence[Inbound]) -> None:
        """Texts from phones; answered later through `Channel.answer`."""
        ...

    def window_open(self, channel: int) -> None:
        """The channel can take more: a session was bound, or answers freed slots."""
        ...

    def link_changed(self, channel: int, is_up: bool, reason: str) -> None:
        """The first session was bound or the last one lost."""
        ...


class Channel(Protocol):
    """One account at one carrier."""

    id: int
    sends_whole: bool  # it takes a long text in one submit: the carrier cuts it
    can_ask: bool  # it can find out what became of a submit whose answer was lost
    has_sessions: bool  # many submits share a link, so that its loss says nothing of each of them

    @property
    def failures(self) -> int:
        """Connects and logins that failed, in all."""
        ...

    def start(self) -> None:
        """Begin connecting; returns at once, keeps trying with backoff and jitter."""
        ...

    def is_up(self) -> bool:
        """Whether at least one session is bound."""
        ...

    def is_receiving(self) -> bool:
        """Whether a session is bound that reports and texts can come over."""
        ...

    def why_down(self) -> str:
        """Why there is no session, in words and with a remedy; "" while there is one."""
        ...

    def free(self) -> int:
        """How many segments may be submitted now, over all sessions (windows' free slots)."""
        ...

    def window(self) -> int:
        """The sum of the bound sessions' windows."""
        ...

    def waiting(self) -> Iterable[Submit]:
        """The submits whose answer did not come, also those given up that hold their slot."""
        ...

    def congestion(self) -> int:
        """How busy the carrier says it is, 0 to 100: the highest since this was last asked.

        0 when it said nothing; SMPP 5.0 has it (congestion_state), the others have not.
        """
        ...

    def link_tests(self) -> LinkTests:
        """What link tests and probes have told since this was last asked."""
        ...

    def submit(self, submits: Sequence[Submit]) -> list[Submit]:
        """Journal and write one burst; returns those that did not leave (in order).

        All segments of one message given together go to one session. What is returned was not
        written; nothing of it counts as an attempt.
        """
        ...

    def answer(self, tokens: Sequence[object], *, accepted: bool) -> None:
        """Answer reports or inbound texts: accepted = durable; otherwise "try again later"."""
        ...

    def ask(self, lost: Sequence[Lost]) -> None:
        """Find out what became of submits whose answers were lost, or whose receipts stay away.

        Answers come by the sink as late outcomes: `Submitted` when the vendor has it (13),
        `NotSent` when it says that it never accepted it (14a). It asks again by itself until it
        knows, for as long as evidence is awaited; asking twice about one submit changes nothing.
        About a receipt it asks once, and what it hears comes by the sink as a report. Their text
        may be forgotten. Without `can_ask` nothing happens.
        """
        ...

    def cut_unwritten(self) -> None:
        """Our lease is over: drop every connection that still holds bytes it could not write."""
        ...

    async def stop(self, timeout_s: float) -> None:
        """Log out gracefully: no new submits, wait for answers, unbind, close."""
        ...
