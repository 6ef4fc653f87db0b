"""What one measured run came to, and whether it adds up. No I/O.

    accepted (202) = submitted at the carriers = final at the sink, message by message

A message whose answer the load client never saw may exist or not; nothing else may differ.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from loadtest.measure import GATEWAY, Group, Spread, spread
from loadtest.sender import Result, index_of
from loadtest.steps import FLOORS, steps_us
from loadtest.stock_gateway import Counts

MUST_STAY_ZERO: Final = (
    "illegal_transition_total",
    "quarantined_total",
    "process_restarts_total",
    "duplicate_copies_total",
    "uncertain_total",
)


def floor_us(batch: int) -> float:
    """The sum of DESIGN's floors for single sends (`batch` 1) or batches."""
    return round(sum(floors[batch != 1] for floors in FLOORS.values()), 1)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen round one run; counts and metrics are differences over it."""

    result: Result
    sent_at: Sequence[float]  # Unix time per message from `first` on, 0 = not accepted
    first: int
    submits: Sequence[tuple[int, float]]  # (digits, Unix time) at the carriers
    finals: Sequence[tuple[float, int]]  # (Unix time, messages final at the sink by then)
    counts: Counts
    metrics: Mapping[str, float]
    cpu_s: Mapping[Group, float]
    others_share: float  # of the machine's CPU, used by processes that have nothing to do with it
    samples: Iterable[str] = ()  # of the worker's CPU, see loadtest/sampler


@dataclass(frozen=True, slots=True)
class Figures:
    """One run; times in ms, CPU in µs per accepted message."""

    name: str
    connections: int
    batch: int
    accepted: int
    submitted: int  # distinct messages at the carriers
    received: int  # distinct messages whose final event is at the sink
    refused: Mapping[str, int]
    unknown: int
    accepted_per_second: float
    end_to_end_per_second: float  # first send to last final event at the sink
    answer_ms: Spread  # request to 202
    submit_ms: Spread  # request to the submit at the carrier
    webhook_ms: Spread  # request to the final event at the sink, from counts (first in, first out)
    cpu_us: Mapping[str, float]
    gateway_us: float  # worker, supervisor, PostgreSQL and Valkey together
    floor_us: float
    steps_us: Mapping[str, float]  # DESIGN's steps, PostgreSQL's CPU with the store's
    others_share: float
    rows_per_flush: Mapping[str, float]
    flush_ms: Mapping[str, float]
    events_per_message: float
    events_per_webhook: float
    problems: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """For machines and records."""
        return asdict(self)


def difference(before: Counts, after: Counts) -> Counts:
    """What came in between."""
    kinds = {
        kind: total - before.by_type.get(kind, 0)
        for kind, total in after.by_type.items()
        if total != before.by_type.get(kind, 0)
    }
    return Counts(
        submits=after.submits - before.submits,
        finals=after.finals - before.finals,
        events=after.events - before.events,
        requests=after.requests - before.requests,
        duplicates=after.duplicates - before.duplicates,
        refused=after.refused - before.refused,
        by_type=kinds,
    )


def work_out(name: str, seen: Seen, connections: int, batch: int) -> Figures:
    """The figures of a run; raises ValueError when nothing was accepted."""
    result = seen.result
    if not result.accepted:
        raise ValueError(f"{name}: nothing was accepted; {result.first_refusal or 'no answer'}")
    at_carrier, repeats, strangers = _by_index(seen)
    cpu_us: dict[str, float] = {
        group: round(1e6 * used / result.accepted, 2)
        for group, used in seen.cpu_s.items()
        if used or group != "other"
    }
    last_final = seen.finals[-1][0] if seen.finals else result.last_answer_at
    return Figures(
        name=name,
        connections=connections,
        batch=batch,
        accepted=result.accepted,
        submitted=len(at_carrier),
        received=seen.counts.finals,
        refused=result.refused,
        unknown=result.unknown,
        accepted_per_second=_rate(result.accepted, result.last_answer_at - result.first_sent_at),
        end_to_end_per_second=_rate(seen.counts.finals, last_final - result.first_sent_at),
        answer_ms=result.answer_ms,
        submit_ms=spread(
            [
                1000 * (at - seen.sent_at[index])
                for index, at in at_carrier.items()
                if seen.sent_at[index]
            ]
        ),
        webhook_ms=_webhook_ms(seen),
        cpu_us={**cpu_us, "client": round(1e6 * result.cpu_s / result.accepted, 2)},
        gateway_us=round(sum(cpu_us.get(group, 0.0) for group in GATEWAY), 1),
        floor_us=floor_us(batch),
        steps_us=steps_us(
            seen.samples,
            (result.first_sent_at, last_final),
            cpu_us["worker"],
            cpu_us["postgres"],
        ),
        others_share=round(seen.others_share, 2),
        rows_per_flush=_per_flush(seen.metrics, "flush_rows", 1.0),
        flush_ms=_per_flush(seen.metrics, "flush_seconds", 1000.0),
        events_per_message=_ratio(seen.counts.events, seen.counts.finals),
        events_per_webhook=_ratio(seen.counts.events, seen.counts.requests),
        problems=_problems(seen, at_carrier, repeats, strangers),
    )


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds > 0 else 0.0


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 2) if whole else 0.0


def _by_index(seen: Seen) -> tuple[dict[int, float], int, int]:
    """First submit of each message of this run, how many came again, how many are not ours."""
    found: dict[int, float] = {}
    repeats = strangers = 0
    for digits, at in seen.submits:
        index = index_of(str(digits)) - seen.first
        if not 0 <= index < len(seen.sent_at):
            strangers += 1
        elif index in found:
            repeats += 1
        else:
            found[index] = at
    return found, repeats, strangers


def _webhook_ms(seen: Seen) -> Spread:
    """The n-th sent is taken for the n-th received: good where the gateway keeps the order."""
    if len(seen.finals) < 2:
        return spread([])
    sent = sorted(at for at in seen.sent_at if at)
    counts = [count for _, count in seen.finals]
    found = []
    for place in range(0, min(len(sent), counts[-1]), max(1, len(sent) // 5000)):
        after = bisect_left(counts, place + 1)
        until, high = seen.finals[after]
        since, low = seen.finals[after - 1] if after else (until, 0)
        share = (place + 1 - low) / (high - low)
        found.append(1000 * (since + share * (until - since) - sent[place]))
    return spread(found)


def _per_flush(metrics: Mapping[str, float], name: str, unit: float) -> dict[str, float]:
    sums = {
        key.removeprefix(f"{name}_sum{{").removesuffix("}"): value
        for key, value in metrics.items()
        if key.startswith(f"{name}_sum{{")
    }
    return {
        lane: round(unit * total / flushes, 2)
        for lane, total in sums.items()
        if (flushes := metrics.get(f"{name}_count{{{lane}}}", 0.0))
    }


def _problems(
    seen: Seen, at_carrier: Mapping[int, float], repeats: int, strangers: int
) -> list[str]:
    result, counts = seen.result, seen.counts
    accepted = {index for index, at in enumerate(seen.sent_at) if at}
    found = [
        (len(accepted - at_carrier.keys()), "accepted, but never submitted to a carrier"),
        (len(at_carrier.keys() - accepted) - result.unknown, "submitted, but not accepted"),
        (repeats, "submitted twice"),
        (strangers, "submits of numbers that were not sent in this run"),
        (result.accepted - counts.finals, "accepted, but their final event is not at the sink"),
        (counts.finals - result.accepted - result.unknown, "final at the sink, but not accepted"),
        (counts.duplicates, "events at the sink twice"),
        (counts.refused, "webhook requests that the sink refused (signature or body)"),
        *((_sum_of(seen.metrics, name), f"more in {name}") for name in MUST_STAY_ZERO),
        *(
            (count, f"events at the sink of type {kind}: these carriers deliver everything")
            for kind, count in counts.by_type.items()
            if kind not in ("message.delivered", "message.submitted")
        ),
    ]
    return [f"{count:,} {what}" for count, what in found if count > 0]


def _sum_of(metrics: Mapping[str, float], name: str) -> int:
    return int(sum(v for k, v in metrics.items() if k == name or k.startswith(name + "{")))


def ratios(now: Mapping[str, Any], then: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """How the figures of a run compare with those of the same name recorded before: now / then."""
    for old in then:
        if old.get("name") != now["name"]:
            continue
        pairs = {
            "accepted_per_second": (now, old),
            "end_to_end_per_second": (now, old),
            "gateway_us": (now, old),
            "p50": (now["answer_ms"], old.get("answer_ms", {})),
            "p99": (now["answer_ms"], old.get("answer_ms", {})),
        }
        return {
            key: round(new[key] / was[key], 2) for key, (new, was) in pairs.items() if was.get(key)
        }
    return {}
