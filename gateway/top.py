"""What `smsgw top` shows, decided from the text of `/metrics`; no clock, no socket.

    text ── toprates.read() ──▶ snapshot ─┐
                                          ├─▶ History.take() ─▶ Picture   (drawn by topview)
    a failure, in words ──────────────────┘

Several nodes are added up as the supervisor adds up its processes: by `telemetry.metrics.merge`,
after each node's own rates were taken, so that the restart of one is not a fall of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.toprates import CATALOGUE, keep, percentile, rates
from sms.model import MessageClass, State
from telemetry.metrics import Snapshot, merge
from telemetry.series import OTHER, Histogram

HELD = "held"  # the queue of what has no channel, shown as one
PAUSED, DOWN, UP, NOWHERE = "paused", "down", "up", "nowhere"
# The first that holds is the state: what an operator did, what the link says, the breaker.
_STATES = (PAUSED, DOWN, "open", "half_open", "ramp", UP)
_SENDS = ("/v1/messages", "/v1/batches")
_NO_FAULT = (State.DELIVERED.value, State.CANCELED.value)
_DELIVERED, _GIVEN_UP = "delivered", "dead"  # outcomes of webhooks; the second is no attempt
CLASSES = tuple(kind.value for kind in MessageClass)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said at `at` (monotonic seconds): its numbers, or why there are none."""

    url: str
    at: float
    snapshot: Snapshot | None = None
    fault: str = ""  # with the remedy


@dataclass(frozen=True, slots=True)
class Node:
    """One node, as it is there or not."""

    url: str
    fault: str
    processes: int
    processes_up: int
    workers: int
    workers_ready: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """All of it together. Rates are per second, shares 0 to 1; None: not known (yet)."""

    accepted: float | None
    finals: float | None
    refused: dict[str, float] | None  # by code
    failed_share: float | None  # of the finals: neither delivered nor canceled
    errors_share: float | None  # of the sends: answered with 5xx
    send_p99_s: float | None
    residual: float  # sizes added up: a surplus does not hide a deficit
    stray: float
    parked_reports: float
    store_write_age_s: float
    loop_lag_s: float
    disk_used: float
    processes: float  # living ones of all nodes, as the store knows them


@dataclass(frozen=True, slots=True)
class Waiting:
    """What stands in a queue and for how long."""

    messages: float = 0.0
    oldest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel; `held` is the queue of what no channel takes."""

    name: str
    state: str
    is_receiving: bool
    smg_sessions: float | None  # logins at our port (SGIP only)
    submits: dict[str, float] | None  # segments per second by outcome
    answer_p95_s: float | None
    queue: dict[str, Waiting]  # by class
    pace: float | None  # segments per second; None: not throttled
    missing_receipts: float | None  # share of those that were due


@dataclass(frozen=True, slots=True)
class Lane:
    """One class over all channels."""

    message_class: str
    waiting: float
    oldest_s: float
    spilled: float
    spilled_oldest_s: float
    uncertain: float
    uncertain_oldest_s: float
    retries_waiting: float


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant by name (the 50 busiest), or `other`."""

    name: str
    accepted: float | None
    throttled: dict[str, float] | None  # by the limit that refused
    residual: float


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Of all endpoints together."""

    oldest_s: float
    delivered: float | None
    failed: dict[str, float] | None  # by outcome
    given_up: float | None
    given_up_total: float
    disabled_total: float  # endpoints, since the nodes started


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything at one moment; `span_s` is what the rates are measured over, None: nothing yet."""

    span_s: float | None
    nodes: list[Node]
    traffic: Traffic
    channels: list[Channel]
    lanes: list[Lane]
    tenants: list[Tenant]
    webhooks: Webhooks

    @property
    def is_blind(self) -> bool:
        """Whether no node answered."""
        return all(node.fault for node in self.nodes)

    def document(self) -> dict[str, Any]:
        """For JSON, by the names of the fields; a class is called `class` there."""
        return asdict(self, dict_factory=_named)


def _named(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {"class" if name == "message_class" else name: value for name, value in pairs}


@dataclass(slots=True)
class History:
    """What each node said before: rates are differences."""

    _last: dict[str, tuple[float, Snapshot]] = field(default_factory=dict)

    def take(self, answers: Sequence[Answer]) -> Picture:
        """The picture after one look at all nodes."""
        moved: list[Snapshot] = []
        spans: list[float] = []
        for answer in answers:
            if answer.snapshot is None:
                continue
            last = self._last.get(answer.url)
            if last is not None:
                spans.append(answer.at - last[0])
                moved.append(rates(last[1], answer.snapshot, spans[-1]))
            kept = answer.snapshot if last is None else keep(last[1], answer.snapshot)
            self._last[answer.url] = answer.at, kept
        standing = merge(answer.snapshot for answer in answers if answer.snapshot is not None)
        flowing = merge(moved) if moved else None
        return _picture(answers, standing, flowing, max(spans, default=None))


class _Numbers:
    """A snapshot to ask questions of."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def rows(self, name: str, **wanted: str) -> list[tuple[dict[str, str], list[float]]]:
        """Label sets with these values."""
        names = CATALOGUE[name].labels
        found = []
        for labels, numbers in self._snapshot.get(name, []):
            named = dict(zip(names, labels, strict=True))
            if wanted.items() <= named.items():
                found.append((named, numbers))
        return found

    def by(
        self,
        name: str,
        label: str,
        join: Callable[[Iterable[float]], float] = math.fsum,
        **wanted: str,
    ) -> dict[str, float]:
        """Values by one label, those of its label sets joined."""
        groups: dict[str, list[float]] = {}
        for labels, numbers in self.rows(name, **wanted):
            groups.setdefault(labels[label], []).append(numbers[0])
        return {key: join(values) for key, values in groups.items()}

    def total(self, name: str, **wanted: str) -> float:
        """The sum of them."""
        return math.fsum(numbers[0] for _, numbers in self.rows(name, **wanted))

    def largest(self, name: str) -> float:
        """The highest of them, 0 when there is none."""
        return max((numbers[0] for _, numbers in self.rows(name)), default=0.0)


def _picture(
    answers: Sequence[Answer], standing: Snapshot, flowing: Snapshot | None, span_s: float | None
) -> Picture:
    now = _Numbers(standing)
    flow = None if flowing is None else _Numbers(flowing)
    names = {labels["channel"] for labels, _ in now.rows("channel_state")}
    if now.total("queue_messages", channel=HELD):
        names.add(HELD)
    channels = [_channel(name, now, flow) for name in names]
    tenants = now.by("accepted_total", "tenant").keys() | now.by("throttled_total", "tenant").keys()
    return Picture(
        span_s=span_s,
        nodes=[_node(answer) for answer in answers],
        traffic=_traffic(now, flow),
        # Trouble first, and else always at the same place.
        channels=sorted(channels, key=lambda channel: (channel.state == UP, channel.name)),
        lanes=[_lane(kind, now) for kind in CLASSES],
        tenants=sorted(
            (_tenant(name, now, flow) for name in tenants),
            key=lambda tenant: (tenant.name == OTHER, -(tenant.accepted or 0.0), tenant.name),
        ),
        webhooks=_webhooks(now, flow),
    )


def _node(answer: Answer) -> Node:
    own = _Numbers(answer.snapshot or {})
    up = own.by("process_up", "process")
    ready = own.by("worker_ready", "process")
    return Node(
        url=answer.url,
        fault=answer.fault,
        processes=len(up),
        processes_up=sum(value > 0 for value in up.values()),
        workers=len(ready),
        workers_ready=sum(value > 0 for value in ready.values()),
    )


def _traffic(now: _Numbers, flow: _Numbers | None) -> Traffic:
    finals = {} if flow is None else flow.by("final_total", "status")
    failed = {status: value for status, value in finals.items() if status not in _NO_FAULT}
    sends = [] if flow is None else flow.rows("http_request_seconds", method="POST")
    sends = [row for row in sends if row[0]["route"] in _SENDS]
    broken = [row for row in sends if row[0]["code"].startswith("5")]
    return Traffic(
        accepted=None if flow is None else flow.total("accepted_total"),
        finals=None if flow is None else math.fsum(finals.values()),
        refused=None if flow is None else _moving(flow.by("refused_total", "code")),
        failed_share=_share(math.fsum(failed.values()), math.fsum(finals.values())),
        errors_share=_share(_observed(broken), _observed(sends)),
        send_p99_s=_percentile("http_request_seconds", 0.99, sends),
        residual=math.fsum(abs(row[0]) for _, row in now.rows("conservation_residual")),
        stray=now.total("stray_messages"),
        parked_reports=now.total("parked_reports"),
        store_write_age_s=now.largest("store_write_age_seconds"),
        loop_lag_s=now.largest("loop_lag_seconds"),
        disk_used=now.largest("disk_used_ratio"),
        processes=now.total("processes"),
    )


def _channel(name: str, now: _Numbers, flow: _Numbers | None) -> Channel:
    states = now.by("channel_state", "state", channel=name)
    state = next((word for word in _STATES if states.get(word)), NOWHERE)
    ages = now.by("queue_oldest_age_seconds", "class", max, channel=name)
    logins = now.by("smg_sessions", "channel", channel=name)
    paces = now.by("channel_pace", "channel", channel=name)
    answers, due, came = [], 0.0, 0.0
    if flow is not None:
        answers = flow.rows("submit_seconds", channel=name)
        due = flow.total("receipts_expected_total", channel=name)
        came = flow.total("receipts_in_time_total", channel=name)
    return Channel(
        name=name,
        state=HELD if name == HELD and not states else state,
        is_receiving=now.total("channel_receiving", channel=name) > 0,
        smg_sessions=logins.get(name),
        submits=None if flow is None else flow.by("submits_total", "outcome", channel=name),
        answer_p95_s=_percentile("submit_seconds", 0.95, answers),
        queue={
            kind: Waiting(messages, ages.get(kind, 0.0))
            for kind, messages in now.by("queue_messages", "class", channel=name).items()
        },
        pace=paces.get(name),
        missing_receipts=_share(max(0.0, due - came), due),
    )


def _lane(kind: str, now: _Numbers) -> Lane:
    def one(name: str) -> float:
        return now.total(name, **{"class": kind})

    return Lane(
        message_class=kind,
        waiting=one("queue_messages"),
        oldest_s=now.by("queue_oldest_age_seconds", "class", max).get(kind, 0.0),
        spilled=one("spilled_messages"),
        spilled_oldest_s=one("spilled_oldest_age_seconds"),
        uncertain=one("uncertain_messages"),
        uncertain_oldest_s=one("uncertain_oldest_age_seconds"),
        retries_waiting=one("retries_waiting"),
    )


def _tenant(name: str, now: _Numbers, flow: _Numbers | None) -> Tenant:
    return Tenant(
        name=name,
        accepted=None if flow is None else flow.total("accepted_total", tenant=name),
        throttled=None
        if flow is None
        else _moving(flow.by("throttled_total", "scope", tenant=name)),
        residual=now.total("conservation_residual", tenant=name),
    )


def _webhooks(now: _Numbers, flow: _Numbers | None) -> Webhooks:
    outcomes = {} if flow is None else flow.by("webhook_attempts_total", "outcome")
    delivered = outcomes.pop(_DELIVERED, 0.0)
    given_up = outcomes.pop(_GIVEN_UP, 0.0)
    noticed = now.by("webhook_notices_total", "what")
    return Webhooks(
        oldest_s=now.largest("webhook_oldest_age_seconds"),
        delivered=None if flow is None else delivered,
        failed=None if flow is None else _moving(outcomes),
        given_up=None if flow is None else given_up,
        given_up_total=now.total("webhook_attempts_total", outcome=_GIVEN_UP),
        disabled_total=math.fsum(n for what, n in noticed.items() if what != "warned"),
    )


def _moving(values: dict[str, float]) -> dict[str, float]:
    """Those above 0, the largest first."""
    pairs = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
    return {name: value for name, value in pairs if value > 0}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _observed(rows: Iterable[tuple[dict[str, str], list[float]]]) -> float:
    return math.fsum(math.fsum(numbers[:-1]) for _, numbers in rows)


def _percentile(
    name: str, share: float, rows: Sequence[tuple[dict[str, str], list[float]]]
) -> float | None:
    series = CATALOGUE[name]
    if not rows or not isinstance(series, Histogram):
        return None
    counts = [math.fsum(column) for column in zip(*(row[1][:-1] for row in rows), strict=True)]
    return percentile(share, counts, series.buckets)
