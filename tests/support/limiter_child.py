"""One process of the distributed test: spends as much of one bucket as it is given.

    python -m tests.support.limiter_child URL RATE DEPTH LIVE SECONDS PAUSE

Says "ready", waits for a line on standard input, takes single segments for so long, and prints
the moment of every take, and how many calls failed, as JSON. The clock is the machine's, so that
those of several processes can be put together. PAUSE is the time after a refusal; "idle" takes
nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from ratelimit.lease import Lease
from ratelimit.leases import Leases
from ratelimit.limiter import Valkey
from telemetry.metrics import Metrics


async def spend(leases: Leases, lease: Lease, until: float, pause_s: float) -> list[float]:
    taken: list[float] = []
    while (now := time.monotonic()) < until:
        if await leases.ask([(lease, 1)], now) is None:
            taken.append(time.monotonic())
            if len(taken) % 50 == 0:
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(pause_s)
    return taken


async def main() -> None:
    url, rate, depth, live, seconds, pause = sys.argv[1:]
    metrics = Metrics()
    leases = Leases(Valkey(url), metrics=metrics, live=lambda: int(live))
    running = asyncio.create_task(leases.run())
    lease = leases.lease("t1", float(rate), int(depth))
    print("ready", flush=True)
    sys.stdin.readline()
    until = time.monotonic() + float(seconds)
    taken: list[float] = []
    if pause == "idle":
        await asyncio.sleep(float(seconds))
    else:
        taken = await spend(leases, lease, until, float(pause))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await leases.close()
    failed = metrics.limit_calls_total.values.get(("failed",), 0)
    print(json.dumps({"taken": taken, "failed": failed}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
