"""The traffic: single sends at a steady rate, a process for each class (loadtest/sender.py).

Numbers tell messages, and so their class, apart: each class has a range of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from loadtest.faults.stage import Stage
from loadtest.sender import Plan, sent_times
from loadtest.stock_gateway import NotStock, environment

CLASSES: Final[Mapping[str, float]] = {"otp": 0.3, "transactional": 0.5, "marketing": 0.2}
RANGE: Final = 30_000_000  # indexes of a class
CONNECTIONS: Final = 12  # of each class
HEADROOM: Final = 1.06  # more is sent than was asked for: the judged rate is that of the 202s


@dataclass(slots=True)
class Sent:
    """What the senders were told."""

    sent_at: dict[int, float]  # index → when its request left, of those that were accepted
    refused: dict[str, int]  # messages by code
    unknown: int  # messages whose answer is missing


def class_of(index: int) -> str:
    """The class of a message."""
    return tuple(CLASSES)[index // RANGE]


async def send(stage: Stage, rate: float, seconds: float) -> Sent:
    """Send for so long; raises NotStock when a sender could not work."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_send(stage, place, name, HEADROOM * rate * share, seconds))
            for place, (name, share) in enumerate(CLASSES.items())
        ]
    whole = Sent({}, {}, 0)
    for task in tasks:
        told, first, path = task.result()
        whole.unknown += told["unknown"]
        for code, count in told["refused"].items():
            whole.refused[code] = whole.refused.get(code, 0) + count
        times = enumerate(sent_times(path), first)
        whole.sent_at |= {index: at for index, at in times if at}
    return whole


async def _send(
    stage: Stage, place: int, name: str, rate: float, seconds: float
) -> tuple[dict[str, Any], int, Any]:
    host, port = stage.gateway.address
    path = stage.gateway.data_dir / f"sent-{name}.bin"
    plan = Plan(
        host=host,
        port=port,
        api_key=stage.api_key,
        connections=CONNECTIONS,
        batch=1,
        seconds=seconds,
        messages=0,
        first=place * RANGE,
        sent_file=str(path),
        message_class=name,
        rate=rate,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "loadtest.sender"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(stage.gateway.data_dir),
    )
    assert process.stdin is not None  # noqa: S101 - asked for above
    assert process.stdout is not None  # noqa: S101 - asked for above
    try:
        process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
        async for line in process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told["event"] == "result":
                return told, plan.first, path
            if told["event"] == "error":
                raise NotStock(f"a sender could not work: {told['text']}")
        raise NotStock("a sender ended without a result")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
