"""The flow's core on fakes with a clock by hand: no socket, no store, no sleeping."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from adapters.base import LinkTests, Lost
from gateway.carrier_words import CarrierWords
from gateway.channel import ChannelRuntime
from gateway.dispatch import Dispatcher
from gateway.evidence import Evidence, EvidencePolicy
from gateway.lanes import Lanes
from gateway.ledger import Ledger
from gateway.matches import Matches
from gateway.settle import AnswerLine, SettlePolicy, Settler
from ratelimit.bucket import Bucket
from sms import config
from sms.ids import IdClock
from sms.model import Carrier, Encoding, EventRow, Message, MessageClass, OnUncertain, Submit
from sms.outcomes import Outcome
from telemetry.metrics import Metrics

UNIX = 1_800_000_000.0


class Clock:
    """Monotonic and Unix time that move only by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return UNIX + self.now


class FakeChannel:
    """A channel with one window that remembers what it was given."""

    def __init__(self, channel_id: int, clock: Clock, window: int = 16) -> None:
        self.id = channel_id
        self.clock = clock
        self.size = window
        self.open: list[Submit] = []
        self.seen: list[Submit] = []
        self.answered: list[tuple[object, bool]] = []
        self.busy = 0  # what it tells of its load, once
        self.sends_whole = False
        self.can_ask = False
        self.failures = 0
        self.tests = LinkTests()
        self.has_sessions = True

    def start(self) -> None:
        return None

    def is_up(self) -> bool:
        return True

    def is_receiving(self) -> bool:
        return True

    def why_down(self) -> str:
        return ""

    def free(self) -> int:
        return self.size - len(self.open)

    def window(self) -> int:
        return self.size

    def waiting(self) -> list[Submit]:
        return self.open

    def congestion(self) -> int:
        state, self.busy = self.busy, 0
        return state

    def link_tests(self) -> LinkTests:
        tests, self.tests = self.tests, LinkTests()
        return tests

    def submit(self, submits: Sequence[Submit]) -> list[Submit]:
        room = self.free()
        gone, left = list(submits[:room]), list(submits[room:])
        for submit in gone:
            submit.sent_at = self.clock.now
        self.open += gone
        self.seen += gone
        return left

    def answer(self, tokens: Sequence[object], *, accepted: bool) -> None:
        self.answered += [(token, accepted) for token in tokens]

    def ask(self, lost: Sequence[Lost]) -> None:
        pass

    def cut_unwritten(self) -> None:
        return None

    async def stop(self, timeout_s: float) -> None:
        return None


@dataclass
class FakeEvents:
    """An event lane that commits when the test says so."""

    committed: Callable[[Sequence[EventRow]], None] | None = None
    waiting: list[tuple[list[EventRow], str, Callable[[], None] | None]] = field(
        default_factory=list
    )
    rows: list[EventRow] = field(default_factory=list)
    sql: list[str] = field(default_factory=list)

    def add(
        self,
        rows: list[EventRow],
        *,
        urgent: bool,
        sql: str = "",
        done: Callable[[], None] | None = None,
    ) -> None:
        self.waiting.append((rows, sql, done))

    def flush(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting, []
            rows = [row for entry in batch for row in entry[0]]
            self.rows += rows
            self.sql += [entry[1] for entry in batch if entry[1]]
            if self.committed is not None:
                self.committed(rows)
            for _, _, done in batch:
                if done is not None:
                    done()


class FakeClaims:
    """A claim book whose blocks are claimed by the next flush."""

    def __init__(self, events: FakeEvents) -> None:
        self._events = events
        self._next = itertools.count(1)
        self.blocks: dict[int, int] = {}

    def block(self, ids: list[int], on_claimed: Callable[[], None] | None) -> int:
        number = next(self._next)
        self.blocks[number] = len(ids)
        self._events.add([], urgent=True, done=on_claimed)
        return number

    def settled(self, block: int, count: int = 1) -> None:
        self.blocks[block] -= count

    def strip_sql(self, ids: Iterable[int]) -> str:
        return ""

    def strip_all_sql(self, message_id: int, sequence: int, event_id: int) -> str:
        return ""


class FakeJournal:
    """Remembers answer lines."""

    def __init__(self) -> None:
        self.lines: list[AnswerLine] = []

    def answer_lines(self, entries: Sequence[AnswerLine]) -> bool:
        self.lines += entries
        return True


class Kit:
    """Dispatcher, settler and evidence joined over fakes; channels 1…n, one route over all."""

    def __init__(
        self,
        channels: int = 2,
        window: int = 16,
        rate: float = 1e6,
        *,
        process: int = 1,
        clock: Clock | None = None,
    ) -> None:
        """`process` and `clock`: of one of several that share a store."""
        self.clock = clock or Clock()
        self.metrics = Metrics()
        self.events = FakeEvents()
        self.claims = FakeClaims(self.events)
        self.lanes = Lanes(dict.fromkeys(MessageClass, 1000))
        self.ids = IdClock(process, 0, self.clock.unix)
        self.ledger = Ledger(
            ids=self.ids, lanes=self.lanes, claims=self.claims, metrics=self.metrics
        )
        self.ledger.events = self.events
        self.events.committed = self.ledger.committed
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.dispatcher = Dispatcher(
            lanes=self.lanes,
            ledger=self.ledger,
            claims=self.claims,
            metrics=self.metrics,
            monotonic=self.clock.monotonic,
            unix=self.clock.unix,
            call_later=lambda delay, call: self.timers.append((delay, call)),
        )
        self.evidence = Evidence(
            ledger=self.ledger,
            dispatcher=self.dispatcher,
            metrics=self.metrics,
            policy=EvidencePolicy(),
            unix=self.clock.unix,
        )
        self.matches = Matches(1000)
        self.journal = FakeJournal()
        self.words = CarrierWords(self.metrics)
        self.settler = Settler(
            words=self.words,
            ledger=self.ledger,
            dispatcher=self.dispatcher,
            evidence=self.evidence,
            matches=self.matches,
            journal=self.journal,
            metrics=self.metrics,
            policy=SettlePolicy(),
            unix=self.clock.unix,
            monotonic=self.clock.monotonic,
        )
        self.channels: dict[int, FakeChannel] = {}
        configured: dict[int, config.Channel] = {}
        for number in range(1, channels + 1):
            adapter = self.channels[number] = FakeChannel(number, self.clock, window)
            known = config.Channel(
                number, f"c{number}", "smpp", {}, classes=frozenset(MessageClass)
            )
            configured[number] = known
            self.ledger.channel_names[number] = known.name
            bucket = Bucket(rate, max(rate, 255.0), self.clock.now)
            self.dispatcher.add_channel(ChannelRuntime(known, adapter, bucket))
        route = config.Route(1, 0, None, None, 0, tuple(self.channels))
        self.dispatcher.reconfigure(
            config.Snapshot(version=1, channels=configured, routes=(route,))
        )
        for number in self.channels:
            self.dispatcher.link_changed(number, is_up=True)

    def message(
        self,
        cls: MessageClass = MessageClass.TRANSACTIONAL,
        texts: tuple[str, ...] = ("hello",),
        valid_s: float = 300.0,
        on_uncertain: OnUncertain | None = None,
        tenant: int = 1,
    ) -> Message:
        return Message(
            id=self.ids.next(),
            tenant=tenant,
            message_class=cls,
            number="8613800138000",
            carrier=Carrier.CM,
            country=86,
            encoding=Encoding.GSM7,
            texts=texts,
            valid_until=self.clock.unix() + valid_s,
            created_at=self.clock.unix(),
            on_uncertain=on_uncertain,
        )

    def accept(self, *messages: Message) -> None:
        """What the acceptor does after its commit, claims not ridden along."""
        for message in messages:
            self.lanes.reserve(message.message_class, 1)
        self.ledger.took(messages)
        self.dispatcher.put(messages)
        self.events.flush()

    def answer(self, channel: int, outcome: Outcome, submit: Submit | None = None) -> Submit:
        """One answer of a carrier, for its oldest open submit unless one is named."""
        adapter = self.channels[channel]
        submit = adapter.open[0] if submit is None else submit
        if submit in adapter.open:
            adapter.open.remove(submit)
        self.settler.outcomes(channel, [(submit, outcome)])
        self.events.flush()
        self.dispatcher.pump(channel)
        self.events.flush()
        return submit

    def paths(self, message: Message) -> list[int]:
        return [int(row.path) for row in self.events.rows if row.message_id == message.id]
