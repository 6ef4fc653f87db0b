"""What the flow tells the watch of a channel, and what it does when a breaker moves.

    Flow.outcomes ─▶ feed ─────────┐
    Reports ─▶ Watching.receipted  ├─▶ failover.watch.Watch ─▶ Move ─▶ log, other lanes
    once a second ─▶ glance ───────┘

Each process judges a channel by its own sessions. `gateway.choosing` asks the watch what a message
may do; `gateway.dispatch` moves what waits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from failover.breaker import BreakerState
from failover.health import Answers, HealthPolicy
from failover.watch import Glance, Move, Watch
from gateway.channel import OTP_SHARE, ChannelRuntime
from gateway.lanes import Lane
from gateway.settings import Reliability
from sms import config
from sms.model import Carrier, Submit
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Throttled, Uncertain
from telemetry.logs import get_logger
from telemetry.metrics import Metrics

log = get_logger(__name__)

# What we gave up ourselves says nothing of the channel.
_OURS = frozenset({"channel.removed", "process.lost", "internal.error"})
_LINK_LOST = "channel.link_lost"
_ACCOUNT = "channel.account"  # whose codes surely speak of the account as a whole


def health_policy(numbers: Reliability) -> HealthPolicy:
    """The numbers of `failover` from the settings `reliability.health_…`."""
    named = {one.name: getattr(numbers, f"health_{one.name}") for one in fields(HealthPolicy)}
    return HealthPolicy(**named)


class Watches:
    """The watch of each channel, kept while its configuration stays the same."""

    def __init__(self, policy: HealthPolicy, monotonic: Callable[[], float]) -> None:
        self._policy = policy
        self._monotonic = monotonic
        self._known: dict[int, tuple[config.Channel, Watch]] = {}

    def of(self, channel: config.Channel) -> Watch:
        """The channel's; a new one when anything but the number of sessions was changed.

        Processes that come and go change how many sessions of a channel each holds, and who
        changed a password wants to see at once whether it helped.
        """
        channel = replace(channel, sessions=1)
        known = self._known.get(channel.id)
        if known is None or known[0] != channel:
            known = channel, Watch(self._policy, self._monotonic(), random.random)
            self._known[channel.id] = known
        return known[1]

    def forget(self, channel: int) -> None:
        """It was removed from the configuration."""
        self._known.pop(channel, None)


def feed(
    watch: Watch,
    results: Sequence[tuple[Submit, Outcome]],
    now: float,
    *,
    has_sessions: bool = True,
) -> None:
    """Count one burst of outcomes, carrier by carrier; 0.12 µs for each of them.

    `has_sessions`: a lost link is one link error for all that were under way. A cut request, of a
    channel without sessions, is a failure of its own.
    """
    slow_at = now - watch.slow_answer_s
    parts: list[tuple[Carrier, Answers, float]] = []
    carrier: Carrier | None = None
    answers, since = Answers(), 0.0
    for submit, outcome in results:
        if not submit.sent_at:  # it never left, or nobody knows when
            continue
        if submit.message.carrier is not carrier:
            carrier = submit.message.carrier
            answers, since = _part(parts, carrier, watch)
        kind = type(outcome)
        if kind is Submitted:
            answers.is_heard = True
            if submit.sent_at >= since:
                answers.total += 1
                answers.taken += 1
                if submit.sent_at < slow_at:
                    answers.slow += 1
        elif submit.sent_at >= since:
            count_refused(
                answers, outcome, is_slow=submit.sent_at < slow_at, has_sessions=has_sessions
            )
        elif kind is Rejected or kind is Throttled:
            answers.is_heard = True
    for known, counted, _ in parts:
        watch.answered(known, counted, now)


def _part(
    parts: list[tuple[Carrier, Answers, float]], carrier: Carrier, watch: Watch
) -> tuple[Answers, float]:
    for known, answers, since in parts:
        if known is carrier:
            return answers, since
    made = carrier, Answers(), watch.since(carrier)
    parts.append(made)
    return made[1], made[2]


def count_refused(answers: Answers, outcome: Outcome, *, is_slow: bool, has_sessions: bool) -> None:
    """What was not taken: whose fault is it?"""
    match outcome:
        case Rejected(cause=cause):
            answers.is_heard = True
            answers.total += 1
            answers.slow += is_slow
            answers.failed += _HALVES.get(cause, 0)
            answers.config += cause is Cause.CONFIG
            answers.is_account |= outcome.reason == _ACCOUNT
        case Throttled():
            answers.is_heard = True
        case Uncertain(reason=reason):
            if reason not in _OURS and not (has_sessions and reason == _LINK_LOST):
                answers.total += 1
                answers.failed += 2
                answers.slow += is_slow
        case _:
            pass  # taken: counted by the caller; not sent: nothing left


_HALVES = {Cause.CHANNEL: 2, Cause.CONFIG: 2, Cause.UNKNOWN: 1}


def glance(runtime: ChannelRuntime, lane: Lane, now: float) -> Glance:
    """What a channel looks like; called once a second."""
    adapter = runtime.adapter
    failures, runtime.link_failures = runtime.link_failures, adapter.failures
    if not runtime.is_up and adapter.failures > failures:
        # each of its sessions tries by itself: together they are one channel's error
        sessions = runtime.config.sessions if adapter.has_sessions else 1
        runtime.watch.link_failed((adapter.failures - failures) / sessions)
    waiting: dict[Carrier, list[float]] = {}
    for submit in adapter.waiting():
        waiting.setdefault(submit.message.carrier, []).append(submit.sent_at)
    return Glance(runtime.is_up, adapter.free() > 0, waiting, _head_age_s(runtime, lane, now))


def link_fell(runtime: ChannelRuntime) -> None:
    """Its last session was lost; without sessions so many connections in a row have failed."""
    failed = 1 if runtime.adapter.has_sessions else runtime.adapter.failures - runtime.link_failures
    runtime.watch.link_failed(max(1, failed))


def link_tests(runtime: ChannelRuntime, metrics: Metrics, now: float) -> None:
    """Take note of what link tests and probes came to; called once a second."""
    tests = runtime.adapter.link_tests()
    part = 1.0 / runtime.config.sessions if runtime.adapter.has_sessions else 1.0
    if tests.lost:
        runtime.watch.link_failed(tests.lost * part)
    for seconds in tests.answered_s:
        metrics.link_test_seconds.observe((runtime.config.name,), seconds)
        runtime.watch.link_tested(seconds, now, part)


def _head_age_s(runtime: ChannelRuntime, lane: Lane, now: float) -> float:
    """How long the oldest message has waited for nothing but a slot; marketing is meant to wait."""
    adapter = runtime.adapter
    has_room = adapter.free() > adapter.window() // OTP_SHARE
    if has_room or not runtime.is_up or not runtime.throttle.is_free:
        return 0.0
    ages = [now - at for queue in (lane.otp, lane.transactional) if (at := queue.oldest_at())]
    return min(max(ages, default=0.0), now - runtime.up_at)


def tell(runtime: ChannelRuntime, moves: Sequence[Move], metrics: Metrics) -> None:
    """Log what moved and what a person should look at; errors are what pages."""
    name = runtime.config.name
    for carrier, change in moves:
        about = {"channel": name, "carrier": "all" if carrier is None else carrier.value}
        about |= {"state": change.state.value, "why": change.words}
        if change.signal is not None:
            about["cause"] = change.signal.value
        if change.is_page:
            cause = "switches" if change.signal is None else change.signal.value
            metrics.channel_pages_total.inc((name, cause))
            log.error("channel degraded: look at it now", **about)
        elif change.state is BreakerState.OPEN:
            log.warning("channel degraded", **about)
        elif change.state is BreakerState.CLOSED:
            log.info("channel recovered", **about)
        else:
            log.info("channel comes back", **about)
    for alarm in runtime.watch.alarms:
        labels = name, alarm.carrier.value, alarm.fault.signal.value
        metrics.channel_alarms_total.inc(labels)
        log.warning(
            "channel alarm",
            channel=name,
            carrier=alarm.carrier.value,
            cause=alarm.fault.signal.value,
            why=alarm.fault.words,
        )
