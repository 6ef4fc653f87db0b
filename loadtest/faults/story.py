"""One row told: a gateway, the stage, the traffic with the fault in it, and what was seen."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.command import started
from loadtest.faults import judging
from loadtest.faults.judging import Check, Seen
from loadtest.faults.row import Row
from loadtest.faults.senders import Sent, send
from loadtest.faults.stage import Stage, staged
from loadtest.faults.trace import Trace
from loadtest.progress import Bar

LEAD_S: Final = 1.0  # before the first message
LOOK_S: Final = 0.3
STEP_S: Final = 0.5  # of the plot


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row over one protocol, judged."""

    row: str
    protocol: str
    title: str
    must: str
    scaled: str
    seconds: float
    checks: tuple[Check, ...]
    moments: tuple[tuple[float, str], ...]  # seconds from the start of the traffic
    series: Mapping[str, Any]  # submits taken per second and channel

    @property
    def is_good(self) -> bool:
        """Whether every judged number holds."""
        return all(check.is_good is not False for check in self.checks)

    @property
    def problems(self) -> list[str]:
        """A line for each number that does not hold."""
        return [
            f"{self.row}/{self.protocol}: {check.name}: {check.value} ({check.limit})"
            for check in self.checks
            if check.is_good is False
        ]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {"is_good": self.is_good, **asdict(self)}


async def tell(row: Row, protocol: str, options: argparse.Namespace, bar: Bar) -> Verdict:
    """Run one row on a gateway of its own; raises NotStock when it could not be run."""
    name = f"{row.name}/{protocol}"
    async with (
        started(options, bar, numbers=row.numbers) as gateway,
        staged(gateway, protocol, options.seed, row.channel) as stage,
    ):
        before = await gateway.metrics()
        bar.step(f"{name}: {row.title}", row.seconds)
        sent = await _play(row, stage, bar)
        bar.step(f"{name}: until everything has arrived")
        await _drain(stage, sent, row.stall_s + row.evidence_s, bar)
        after = await gateway.metrics()
        seen = Seen(
            protocol=protocol,
            rate=row.rate,
            seconds=row.seconds,
            started_at=stage.started_at,
            sent=sent,
            trace=_read(stage, sent),
            moments=stage.moments,
            metrics={key: value - before.get(key, 0.0) for key, value in after.items()},
        )
    return judge(row, seen)


def judge(row: Row, seen: Seen) -> Verdict:
    """All checks of a row, and its plot."""
    own = row.judge(row, seen)
    shared = judging.common(seen, is_shed=row.is_shed, are_receipts_lost=row.are_receipts_lost)
    moments = [(moment.at - seen.started_at, moment.text) for moment in seen.moments]
    moments += [
        (move.at - seen.started_at, f"{move.carrier} {move.state}")
        for move in seen.trace.moves
        if move.channel == seen.primary
    ]
    return Verdict(
        row=row.name,
        protocol=seen.protocol,
        title=row.title,
        must=row.must,
        scaled=row.scaled,
        seconds=row.seconds,
        checks=(
            *own,
            *shared,
            judging.waits_by_class(seen),
            judging.switched(seen),
            judging.by_channel(seen),
        ),
        moments=tuple((round(at, 2), text) for at, text in sorted(moments)),
        series=series(seen),
    )


def series(seen: Seen) -> dict[str, Any]:
    """By step of half a second: messages accepted, and taken by each channel, a second."""
    last = max((copy.at for _, copy in seen.trace.copies()), default=seen.ended_at)
    steps = int(max(last, seen.ended_at) - seen.started_at) * int(1 / STEP_S) + 2
    names = ["primary", "backup 1", "backup 2", "backup 3", "refused"]
    counts = [[0] * steps for _ in names]
    accepted = [0] * steps
    for life in seen.trace.lives.values():
        _count(accepted, life.sent_at - seen.started_at)
        for copy in life.copies:
            _count(counts[4 if copy.status else copy.place], copy.at - seen.started_at)
    return {
        "seconds": [step * STEP_S for step in range(steps)],
        "accepted": [count / STEP_S for count in accepted],
        **{
            name: [count / STEP_S for count in column]
            for name, column in zip(names, counts, strict=True)
        },
    }


def _count(column: list[int], seconds: float) -> None:
    step = int(seconds / STEP_S)
    if 0 <= step < len(column):
        column[step] += 1


async def _play(row: Row, stage: Stage, bar: Bar) -> Sent:
    """The traffic, and the story beside it."""
    stage.started_at = time.time() + LEAD_S
    async with asyncio.TaskGroup() as group:
        showing = group.create_task(_show(stage, bar))
        acting = group.create_task(row.act(row, stage))
        await stage.at(0)
        sending = group.create_task(send(stage, row.rate, row.seconds))
        await asyncio.wait([sending, acting])
        showing.cancel()
    return sending.result()


async def _show(stage: Stage, bar: Bar) -> None:
    while True:
        last = stage.moments[-1].text if stage.moments else ""
        bar.tell(max(0.0, time.time() - stage.started_at), last)
        await asyncio.sleep(LOOK_S)


async def _drain(stage: Stage, sent: Sent, stall_s: float, bar: Bar) -> None:
    """Until all is final at the sink, or nothing more comes."""
    wanted = len(sent.sent_at)
    changed, last = time.monotonic(), -1
    while last < wanted and time.monotonic() - changed < stall_s:
        finals = await stage.gateway.sink_finals()
        if finals != last:
            changed, last = time.monotonic(), finals
        bar.tell(0.0, f"{wanted - finals:,} under way")
        await asyncio.sleep(LOOK_S)
    await asyncio.sleep(LOOK_S)  # a copy that should not be there would come now


def _read(stage: Stage, sent: Sent) -> Trace:
    trace = Trace(sent.sent_at)
    for place, link in enumerate(stage.links):
        trace.read_carrier(place, _lines(link.record))
    trace.sort()
    folder = stage.gateway.data_dir
    trace.read_sink(_lines(folder / "carriers" / "sink.jsonl"))
    for log in sorted((folder / "log").glob("worker-*.log")):
        trace.read_log(line.decode("utf-8", "replace") for line in _lines(log))
    return trace


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file
