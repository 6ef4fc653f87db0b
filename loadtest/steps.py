"""DESIGN's steps of a message beside what they really cost: sorts a worker's CPU samples. No I/O.

A sample belongs to the step of the innermost frame whose file stands in the table; what is between
the rooms (asyncio, the loop, small shared files) belongs to whoever called it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

# DESIGN, "Where a message's microseconds go": CPU µs per message, single and in batches of 100.
FLOORS: Final[Mapping[str, tuple[float, float]]] = {
    "HTTP in, parse, validate, answer": (37.0, 1.3),
    "number, encoding, segments, words, encryption, row": (3.7, 3.7),
    "limits, metrics": (1.0, 0.5),
    "store: rows, claims, fence, two events": (60.0, 46.0),
    "submit and answer": (1.7, 1.2),
    "receipt: frame, decode, match, answer": (1.5, 1.5),
    "webhook in batches of 100": (1.5, 1.5),
}
_HTTP, _ROW, _LIMITS, _STORE, _SUBMIT, _RECEIPT, _WEBHOOK = FLOORS
REST: Final = "the rest: event loop, renewals, timers"

# The first that fits: a file, a folder, or a function in a file.
_TABLE: Final = (
    ("gateway/admit.py:charge", _LIMITS),
    ("gateway/pumping.py", _LIMITS),
    ("gateway/admit.py", _ROW),
    ("sms/numbers.py", _ROW),
    ("sms/segmentation.py:payload", _SUBMIT),
    ("sms/segmentation.py", _ROW),
    ("sms/gsm.py:pack", _SUBMIT),
    ("sms/gsm.py", _ROW),
    ("compliance/", _ROW),
    ("store/seal.py", _ROW),
    ("store/copying.py:build_messages", _ROW),
    ("ratelimit/", _LIMITS),
    ("telemetry/", _LIMITS),
    ("store/", _STORE),
    ("asyncpg/", _STORE),
    ("adapters/smpp/receipt.py", _RECEIPT),
    ("adapters/cmpp/report.py", _RECEIPT),
    ("gateway/reports.py", _RECEIPT),
    ("gateway/matches.py", _RECEIPT),
    ("receipts/", _RECEIPT),
    ("gateway/dispatch.py", _SUBMIT),
    ("gateway/lanes.py", _SUBMIT),
    ("gateway/settle.py", _SUBMIT),
    ("failover/", _SUBMIT),
    ("adapters/", _SUBMIT),
    ("gateway/notify.py", _WEBHOOK),
    ("gateway/notices.py", _WEBHOOK),
    ("gateway/notice_store.py", _WEBHOOK),
    ("gateway/endpoint_queue.py", _WEBHOOK),
    ("gateway/courier.py", _WEBHOOK),
    ("webhooks/", _WEBHOOK),
    ("aiohttp/", _WEBHOOK),
    ("yarl/", _WEBHOOK),
    ("gateway/api/", _HTTP),
    ("gateway/http_protocol.py", _HTTP),
    ("uvicorn/", _HTTP),
)


def step_of(frames: str) -> str:
    """The step that a sampled stack belongs to; frames from the innermost, joined by `;`."""
    for frame in frames.split(";"):
        for prefix, step in _TABLE:
            if frame.startswith(prefix):
                return step
    return REST


def steps_us(
    lines: Iterable[str], between: tuple[float, float], worker_us: float, postgres_us: float
) -> dict[str, float]:
    """CPU µs per message by step; empty when nothing was sampled.

    `lines` are the sampler's, `between` the Unix seconds of the run, `worker_us` what a message
    cost the worker. PostgreSQL's own CPU belongs to the store's step, as in DESIGN's table.
    """
    counts: Counter[str] = Counter()
    for line in lines:
        at, count, frames = line.rstrip("\n").split("\t")
        if between[0] <= int(at) <= between[1]:
            counts[step_of(frames)] += int(count)
    total = counts.total()
    if not total:
        return {}
    found = {step: worker_us * counts[step] / total for step in (*FLOORS, REST)}
    found[_STORE] += postgres_us
    return {step: round(us, 1) for step, us in found.items()}
