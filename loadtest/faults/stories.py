"""What is done to the primary in each row. A story begins with the traffic and ends before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from loadtest.faults.row import FAULT, HEALED, Row
from loadtest.faults.stage import FAILURES, LATENCY_MS, REFUSALS, TENANT, Link, Stage
from loadtest.linkfault import LinkFault

Story = Callable[[Row, Stage], Coroutine[Any, Any, None]]
FLAP_S: Final = 6.0
REFUSED_SHARE: Final = 0.3  # more than what opens a breaker by failures
SLOW_MS: Final = 3000
WORSE: Final = 0.05  # of the candidate's messages are not delivered, of the primary's all are


async def reset(row: Row, stage: Stage) -> None:
    """The primary's connections are reset and its port refuses."""
    await _away(row, stage, stage.primary)


async def dark(row: Row, stage: Stage) -> None:
    """All four are reset and refused at once."""
    await _away(row, stage, *stage.links)


async def _away(row: Row, stage: Stage, *links: Link) -> None:
    await stage.at(row.before_s)
    stage.mark(FAULT)
    for link in links:
        await link.proxy.set(LinkFault(door="refused"))
        link.proxy.reset()
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await asyncio.gather(*(link.proxy.heal() for link in links))


def _behaving(name: str, bad: object, good: object) -> Story:
    """The primary behaves otherwise for the time of the fault."""

    async def story(row: Row, stage: Stage) -> None:
        await stage.at(row.before_s)
        stage.mark(FAULT)
        await stage.behave(stage.primary, **{name: bad})
        await stage.at(row.before_s + row.fault_s)
        stage.mark(HEALED)
        await stage.behave(stage.primary, **{name: good})

    return story


hang: Final = _behaving("silent", bad=True, good=False)
receipts: Final = _behaving("receipts", bad=False, good=True)
slow: Final = _behaving("latency_ms", SLOW_MS, LATENCY_MS)


async def errors(row: Row, stage: Stage) -> None:
    """The primary fails 30 % by its own fault."""
    await stage.behave(stage.primary, failure_status=FAILURES[stage.protocol])
    await _behaving("failure_share", 0.3, 0.0)(row, stage)


async def flap(row: Row, stage: Stage) -> None:
    """It fails and recovers by turns."""
    await stage.behave(stage.primary, failure_status=FAILURES[stage.protocol])
    await stage.at(row.before_s)
    stage.mark(FAULT)
    at, is_bad = row.before_s, False
    while at < row.before_s + row.fault_s:
        is_bad = not is_bad
        await stage.behave(stage.primary, failure_share=float(is_bad))
        at += FLAP_S
        await stage.at(at)
    stage.mark(HEALED)
    await stage.behave(stage.primary, failure_share=0.0)


async def throttle(row: Row, stage: Stage) -> None:
    """It takes half of our rate."""
    await _behaving("takes_per_s", int(row.rate / 2), 0)(row, stage)


async def refused(row: Row, stage: Stage) -> None:
    """It refuses numbers and texts for good, one reason after the other."""
    codes = REFUSALS[stage.protocol]
    for step, code in enumerate(codes):
        await stage.at(row.before_s + step * row.fault_s / len(codes))
        stage.mark(FAULT if not step else f"code {code:#x}")
        await stage.behave(stage.primary, failure_share=REFUSED_SHARE, failure_status=code)
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
    await stage.behave(stage.primary, failure_share=0.0)


async def canary(row: Row, stage: Stage) -> None:
    """The first backup is tried in front of the primary, and delivers five points less."""
    candidate = stage.links[1]
    await stage.behave(candidate, undelivered_share=WORSE)
    await stage.at(row.before_s)
    stage.mark(FAULT)
    body = {"name": "worse", "route": f"{TENANT}/*/*/*", "channel": candidate.name}
    await stage.ask("/v1/canaries", body)
    await stage.at(row.before_s + row.fault_s)
    stage.mark(HEALED)
