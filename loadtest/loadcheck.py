"""What one `make load` came to: every message traced, and the table that passes or fails. No I/O.

    locust's record ─┐
    carriers' records├─▶ Trace ─▶ judge() ─▶ rows (what, value, limit, passed)
    the sink's record┘      └──▶ series()  by second, for the plots

Messages are told apart by their number, which is another one for each (loadtest/traffic.py).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from loadtest.measure import spread
from loadtest.traffic import RANGES, TENANTS, index_of, number_of

ANSWER_LIMIT_MS: Final = 500.0  # p99 of an answer, from when its request was due
FAILED_LIMIT: Final = 0.001  # share of the messages that were due
SWITCH_LIMIT_S: Final = 1.0  # hard down to the first success on a backup (RELIABILITY section 7)
RATE_SHARE: Final = 0.99  # of the planned rate that must have been accepted
WINDOW_S: Final = 5.0  # of the answer times over time
MUST_STAY_ZERO: Final = ("illegal_transition_total", "quarantined_total", "process_restarts_total")

_NO, _YES, _MAYBE = 0, 1, 2  # whether a message was accepted
# Which carrier a route of the scenario prefers for which network (its backups follow in a ring).
HOME: Final = {"CM": 0, "CU": 1, "CT": 2, "CB": 3, "other": 3}


class Submitted(msgspec.Struct, gc=False):
    """A line of a carrier's record."""

    at: str
    to: str
    index: int
    total: int
    status: int = 0


class _Data(msgspec.Struct, gc=False):
    to: str = ""
    channel: str | None = None
    duplicate_risk: bool = False
    created_at: str = ""


class Told(msgspec.Struct, gc=False):
    """A line of the sink's record: one event."""

    type: str
    timestamp: str = ""
    data: _Data = msgspec.field(default_factory=_Data)


read_submit = msgspec.json.Decoder(Submitted).decode
read_event = msgspec.json.Decoder(Told).decode
read_sent = msgspec.json.Decoder(tuple[float, float, float, int, int, int, int, int, str]).decode


def home_of(index: int) -> int:
    """The place of the channel that message `index` goes to while all are up."""
    number = number_of(index)
    carrier = RANGES[index % len(RANGES)][1] if number.startswith("86") else "other"
    return HOME[carrier]


@dataclass(slots=True)
class Switch:
    """When a carrier was switched off and on again, Unix seconds; 0 = never."""

    carrier: str = ""
    place: int = 0  # of its channel
    off_at: float = 0.0
    on_at: float = 0.0


@dataclass(slots=True)
class Row:
    """One line of the table; `is_good` None = told, not judged."""

    name: str
    value: str
    limit: str = ""
    is_good: bool | None = None


class Trace:
    """Follows every message through the three records."""

    def __init__(self) -> None:
        self.due = 0  # messages that the timetable had
        self.accepted = 0
        self.unknown = 0  # nobody can say whether they were accepted
        self.refused: Counter[str] = Counter()
        self.by_tenant: Counter[str] = Counter()
        self.answers_ms: dict[str, list[float]] = {"single": [], "batch": []}
        self.own_ms: list[float] = []  # how late the client itself was
        self.asked: list[tuple[float, float]] = []  # (due, answer ms) of all, for the plot
        self.per_second: dict[str, Counter[int]] = {"due": Counter(), "accepted": Counter()}
        self.submitted: dict[str, Counter[int]] = {}
        self.delivered: dict[str, Counter[int]] = {}
        self.finals: Counter[str] = Counter()  # messages by their final event
        self.events = 0
        self.strangers = 0
        self.repeats: set[int] = set()  # a segment went out twice
        self.told_risk: set[int] = set()
        self.uncertain: set[int] = set()
        self.delivered_ms = array("d")  # from due to the receipt
        self.switched_s: float | None = None  # from the switch to the first submit on a backup
        self._state = bytearray()  # by index: _NO, _YES, _MAYBE
        self._due_at = array("d")
        self._segments = array("I")  # by index: a bit for each segment at a carrier
        self._is_final = bytearray()

    # -- reading ---------------------------------------------------------------------------

    def read_sent(self, lines: Iterable[bytes]) -> None:
        """Locust's record, first of all."""
        for line in lines:
            due, began, ended, tenant, first, messages, accepted, status, told = read_sent(line)
            self.due += messages
            self.per_second["due"][int(due)] += messages
            if first < 0:
                self.refused[told] += messages
                continue
            self._note_answer(due, began, ended, messages)
            self.accepted += accepted
            self.by_tenant[TENANTS[tenant].name] += accepted
            self.per_second["accepted"][int(ended)] += accepted
            is_unknown = status == 0 or told == "outcome_unknown"
            if accepted != messages:
                self.refused[f"{status} {told}"] += messages - accepted
            state = _YES if accepted == messages else _MAYBE if accepted or is_unknown else _NO
            if is_unknown:
                self.unknown += messages
            self._grow(first + messages)
            for index in range(first, first + messages):
                self._state[index] = state
                self._due_at[index] = due

    def _note_answer(self, due: float, began: float, ended: float, messages: int) -> None:
        answer_ms = 1000 * (ended - due)
        self.answers_ms["single" if messages == 1 else "batch"].append(answer_ms)
        self.own_ms.append(1000 * (began - due))
        self.asked.append((due, answer_ms))

    def _grow(self, size: int) -> None:
        more = size - len(self._state)
        if more > 0:
            self._state.extend(bytes(more))
            self._is_final.extend(bytes(more))
            self._due_at.extend([0.0] * more)
            self._segments.extend([0] * more)

    def read_submits(self, channel: str, place: int, lines: Iterable[bytes], off: Switch) -> None:
        """One carrier's record."""
        seconds = self.submitted.setdefault(channel, Counter())
        moments: dict[str, float] = {}
        for line in lines:
            submit = read_submit(line)
            if submit.status:
                continue
            if submit.at not in moments:  # bursts share one
                moments = {submit.at: datetime.fromisoformat(submit.at).timestamp()}
            at = moments[submit.at]
            index = index_of(submit.to)
            if index is None or index >= len(self._state) or self._state[index] == _NO:
                self.strangers += 1
                continue
            seconds[int(at)] += 1
            bit = 1 << submit.index
            if self._segments[index] & bit:
                self.repeats.add(index)
            self._segments[index] |= bit | (submit.total << 8)
            if place != off.place and off.off_at <= at < (off.on_at or at + 1):
                self._note_switch(index, at, off)

    def _note_switch(self, index: int, at: float, off: Switch) -> None:
        after_s = at - off.off_at
        is_first = self.switched_s is None or after_s < self.switched_s
        if off.off_at and is_first and home_of(index) == off.place:
            self.switched_s = after_s

    def read_events(self, lines: Iterable[bytes]) -> None:
        """The sink's record."""
        for line in lines:
            event = read_event(line)
            index = index_of(event.data.to)
            if index is None or index >= len(self._state):
                self.strangers += 1
                continue
            self.events += 1
            if event.data.duplicate_risk:
                self.told_risk.add(index)
            if event.type == "message.uncertain":
                self.uncertain.add(index)
            elif event.type != "message.submitted" and not self._is_final[index]:
                self._is_final[index] = 1
                self._ended(index, event)

    def _ended(self, index: int, event: Told) -> None:
        self.finals[event.type.removeprefix("message.")] += 1
        if event.type == "message.delivered":
            at = datetime.fromisoformat(event.timestamp).timestamp()
            channel = event.data.channel or ""
            self.delivered.setdefault(channel, Counter())[int(at)] += 1
            self.delivered_ms.append(1000 * (at - self._due_at[index]))

    # -- what it came to -------------------------------------------------------------------

    def missing(self) -> tuple[int, int]:
        """Accepted and not final: (of which nothing is told, told to be uncertain)."""
        silent = held = 0
        for index, state in enumerate(self._state):
            if state == _YES and not self._is_final[index]:
                if index in self.uncertain:
                    held += 1
                else:
                    silent += 1
        return silent, held

    def incomplete(self) -> int:
        """Delivered messages of which some carrier never got a segment."""
        return sum(
            1
            for index, bits in enumerate(self._segments)
            if self._is_final[index] and bits and (bits & 0xFF) != (1 << ((bits >> 8) + 1)) - 2
        )

    def never_submitted(self) -> int:
        """Accepted messages that no carrier ever got."""
        return sum(
            1
            for index, state in enumerate(self._state)
            if state == _YES and not self._segments[index]
        )


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked for, and what is known beside the records."""

    planned: int  # messages of the timetable
    seconds: float
    off: Switch
    metrics: Mapping[str, float] = field(default_factory=dict)  # differences over the run
    others_share: float = 0.0  # of the machine, used by processes that have nothing to do with it


def _count(name: str, value: int, limit: int = 0) -> Row:
    return Row(name, f"{value:,}", f"{limit:,}", value <= limit)


def judge(trace: Trace, run: Run) -> list[Row]:
    """The table, worst news not first: in the order of the path."""
    rows = [_rate_row(trace, run)]
    for kind, values in trace.answers_ms.items():
        if values:
            seen = spread(values)
            name = f"{kind}: answer p99 (p50 {seen.p50:,.0f} ms)"
            limit = f"< {ANSWER_LIMIT_MS:g} ms"
            rows.append(Row(name, f"{seen.p99:,.1f} ms", limit, seen.p99 < ANSWER_LIMIT_MS))
    failed = trace.due - trace.accepted
    share = failed / trace.due if trace.due else 1.0
    rows.append(
        Row(
            "messages not accepted",
            f"{failed:,} ({share:.3%})",
            f"< {FAILED_LIMIT:.1%}",
            share < FAILED_LIMIT,
        )
    )
    silent, held = trace.missing()
    rows += [
        _count("without a final event at the sink", silent),
        _count("never at a carrier", max(0, trace.never_submitted() - held)),
        _count("delivered without all segments", trace.incomplete()),
        _count("sent twice and not told", len(trace.repeats - trace.told_risk)),
        _count("known outside, but never accepted", trace.strangers),
        _count("final, but not delivered", trace.finals.total() - trace.finals["delivered"]),
        Row("uncertain, told, evidence awaited", f"{held:,}"),
        Row("sent twice, told as duplicate_risk", f"{len(trace.told_risk):,}"),
    ]
    if run.off.off_at:
        rows.append(_switch_row(trace, run.off))
    rows += [_count(name, _sum_of(run.metrics, name)) for name in MUST_STAY_ZERO]
    seen = spread(trace.delivered_ms)
    rows.append(Row("due to delivered, p50 · p99", f"{seen.p50:,.0f} · {seen.p99:,.0f} ms"))
    late = spread(trace.own_ms)
    rows.append(Row("of it the client's own lateness, p99", f"{late.p99:,.1f} ms"))
    rows.append(Row("of the machine used by others", f"{run.others_share:.0%}"))
    return rows


def _rate_row(trace: Trace, run: Run) -> Row:
    per_minute = 60 * trace.accepted / run.seconds
    wanted = 60 * run.planned / run.seconds
    return Row(
        "accepted a minute",
        f"{per_minute:,.0f}",
        f"≥ {RATE_SHARE * wanted:,.0f}",
        per_minute >= RATE_SHARE * wanted,
    )


def _switch_row(trace: Trace, off: Switch) -> Row:
    seconds = trace.switched_s
    return Row(
        f"{off.carrier} off: backup after",
        "never" if seconds is None else f"{seconds:.2f} s",
        f"≤ {SWITCH_LIMIT_S:g} s",
        seconds is not None and seconds <= SWITCH_LIMIT_S,
    )


def _sum_of(metrics: Mapping[str, float], name: str) -> int:
    return int(sum(v for k, v in metrics.items() if k == name or k.startswith(name + "{")))


def series(trace: Trace, start: float, until: float) -> dict[str, Any]:
    """Everything by second (answers by five) from `start` on, for the plots."""
    seconds = range(int(start), int(until) + 1)

    def line(counts: Mapping[int, int]) -> list[int]:
        return [counts.get(second, 0) for second in seconds]

    def total(by_channel: Mapping[str, Counter[int]]) -> list[int]:
        return line(sum(by_channel.values(), Counter()))

    return {
        "seconds": [second - int(start) for second in seconds],
        "due": line(trace.per_second["due"]),
        "accepted": line(trace.per_second["accepted"]),
        "submitted": total(trace.submitted),
        "delivered": total(trace.delivered),
        "delivered_by_channel": {name: line(c) for name, c in sorted(trace.delivered.items())},
        "answers": _answers(trace.asked, start),
    }


def _answers(asked: Sequence[tuple[float, float]], start: float) -> dict[str, list[float]]:
    windows: dict[int, list[float]] = {}
    for due, answer_ms in asked:
        windows.setdefault(int((due - start) // WINDOW_S), []).append(answer_ms)
    found: dict[str, list[float]] = {"seconds": [], "p50": [], "p99": [], "maximum": []}
    for window, values in sorted(windows.items()):
        seen = spread(values)
        found["seconds"].append((window + 0.5) * WINDOW_S)
        found["p50"].append(seen.p50)
        found["p99"].append(seen.p99)
        found["maximum"].append(seen.maximum)
    return found
