"""What the runs of `make bench-webhooks` come to: figures, verdicts, tables. No I/O but the tables.

moved = p99 with bad endpoints − p99 without, of the same round      judged: the median
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtest.hookplace import Seen
from loadtest.measure import Spread, spread

SHARE: Final = 0.20  # of the p99 without bad endpoints, RELIABILITY promise 6
LEAST_MS: Final = 5.0
KEPT_UP: Final = 0.98  # of the offered rate
LATE_MS: Final = 1000.0  # a p99 above it means that a queue grew
OURS: Final = ("worker", "postgres", "sink")


@dataclass(frozen=True, slots=True)
class Turn:
    """Half a round: the good endpoints."""

    ms: Spread  # commit to sink
    others_share: float  # of the machine


@dataclass(frozen=True, slots=True)
class Round:
    """Without bad endpoints, then with them."""

    well: Turn
    ill: Turn


@dataclass(slots=True)
class Verdict:
    """All rounds, and what they come to; milliseconds of p99."""

    rounds: list[Round]
    moved_ms: list[float]
    allowed_ms: list[float]
    median_moved_ms: float
    median_allowed_ms: float
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Speed:
    """One form of delivery; medians of its rounds, CPU in µs per event."""

    events: int  # of all rounds
    events_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: Mapping[str, float]  # of the whole message, by process
    webhook_us: Mapping[str, float]  # what the webhook adds: less the form that tells nobody
    others_share: float


def turn_of(seen: Seen) -> Turn:
    """The figures of one load."""
    return Turn(
        spread([one.ms for one in seen.arrivals if one.ms is not None]), round(seen.others_share, 2)
    )


def judge(rounds: Sequence[Round]) -> Verdict:
    """How far the p99 moved, round by round; raises statistics.StatisticsError without rounds."""
    moved = [round(one.ill.ms.p99 - one.well.ms.p99, 3) for one in rounds]
    allowed = [round(max(SHARE * one.well.ms.p99, LEAST_MS), 3) for one in rounds]
    verdict = Verdict(
        list(rounds),
        moved,
        allowed,
        round(statistics.median(moved), 3),
        round(statistics.median(allowed), 3),
    )
    if any(not turn.ms.count for one in rounds for turn in (one.well, one.ill)):
        verdict.problems.append("a turn without a single event shows nothing")
    if verdict.median_moved_ms >= verdict.median_allowed_ms:
        verdict.problems.append(
            f"bad endpoints moved the p99 of the others by {verdict.median_moved_ms} ms "
            f"(allowed {verdict.median_allowed_ms})"
        )
    return verdict


def speed_of(runs: Sequence[Seen], nobody: Sequence[Seen]) -> Speed:
    """The figures of one form beside those of the messages alone, round by round."""
    spreads = [turn_of(seen).ms for seen in runs]
    costs = [_cost(seen) for seen in runs]
    bare = [_cost(seen) for seen in nobody]
    added = [
        {name: cost[name] - base.get(name, 0.0) for name in OURS}
        for cost, base in zip(costs, bare, strict=True)
    ]
    return Speed(
        events=sum(one.count for one in spreads),
        events_per_s=round(statistics.median(_rate(seen) for seen in runs), 1),
        p50_ms=round(statistics.median(one.p50 for one in spreads), 2),
        p99_ms=round(statistics.median(one.p99 for one in spreads), 2),
        cpu_us=_medians(costs),
        webhook_us=_medians(added) if any(one.count for one in spreads) else {},
        others_share=round(max(seen.others_share for seen in runs), 2),
    )


def _cost(seen: Seen) -> dict[str, float]:
    return {name: 1e6 * used / seen.result.accepted for name, used in seen.cpu_s.items()}


def _medians(many: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in many), 1) for name in many[0]}


def _rate(seen: Seen) -> float:
    """Events a second, from the first commit to the last arrival; messages where none is told."""
    arrived = [one.arrived for one in seen.arrivals if one.arrived is not None]
    if not arrived:
        result = seen.result
        return result.accepted / (result.last_answer_at - result.first_sent_at)
    return len(arrived) / (max(arrived) - min(one.committed for one in seen.arrivals))


def slow(speed: Speed, rate: float) -> list[str]:
    """What is wrong with a form at that offered rate."""
    found = []
    if speed.events_per_s < KEPT_UP * rate:
        found.append(f"{speed.events_per_s:,.0f} a second, {rate:,.0f} were offered")
    if speed.p99_ms > LATE_MS:
        found.append(f"a p99 of {speed.p99_ms:,.0f} ms: a queue grew")
    return found


def compare(found: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    """Write `of_record` beside the costs that were recorded over the same transport: now / then."""
    if found["transport"] != then.get("transport"):
        return
    for name, speed in found.get("speed", {}).items():
        before = then.get("speed", {}).get(name)
        if before:
            pairs = ((key, before["cpu_us"].get(key)) for key in OURS)
            speed["of_record"] = {
                key: round(speed["cpu_us"][key] / was, 2) for key, was in pairs if was
            }


def show(found: Mapping[str, Any], then: Mapping[str, Any], console: Console) -> None:
    """Tables for a person."""
    cores = found["machine"]["cores"]
    console.print(f"{cores} cores, {found['transport']}; ms from commit to sink", markup=False)
    if "speed" in found:
        console.print(_speed_table(found["speed"]))
    if "fairness" in found:
        told = found["fairness"]
        table = Table("round", title="the good endpoints, ms p50 · p99")
        for name in ("without", "with bad ones", "p99 moved", "allowed", "others"):
            table.add_column(name, justify="right")
        for number, one in enumerate(told["rounds"]):
            cells = [f"{one[k]['ms']['p50']:.1f} · {one[k]['ms']['p99']:.1f}" for k in _TURNS]
            moved, allowed = told["moved_ms"][number], told["allowed_ms"][number]
            others = max(one[k]["others_share"] for k in _TURNS)
            cells += [f"{moved:+.1f}", f"{allowed:.1f}", f"{others:.0%}"]
            table.add_row(str(number + 1), *cells)
        medians = f"{told['median_moved_ms']:+.1f}", f"{told['median_allowed_ms']:.1f}"
        table.add_row("median", "", "", *medians, "", style="bold")
        console.print(table)
    if "at" in then:
        console.print(f"× = compared with the record of {then['at']}.", markup=False)


_TURNS: Final = ("well", "ill")


def _speed_table(speeds: Mapping[str, Any]) -> Table:
    table = Table("endpoints", title="CPU µs per event: of the whole message (+ the webhook's)")
    for name in ("events/s", "ms p50 · p99", "worker", "PostgreSQL", "sink", "others"):
        table.add_column(name, justify="right")
    for name, speed in speeds.items():
        table.add_row(
            name,
            f"{speed['events_per_s']:,.0f}",
            f"{speed['p50_ms']:.1f} · {speed['p99_ms']:.1f}" if speed["events"] else "–",
            *(_cost_cell(speed, key) for key in OURS),
            f"{speed['others_share']:.0%}",
        )
    return table


def _cost_cell(speed: Mapping[str, Any], key: str) -> str:
    added = speed["webhook_us"].get(key)
    ratio = speed.get("of_record", {}).get(key)
    cell = f"{speed['cpu_us'].get(key, 0.0):.1f}"
    cell += "" if added is None else f" ({added:+.1f})"
    return cell + (f" × {ratio:g}" if ratio else "")
