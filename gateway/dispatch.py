"""Fill the carriers' free windows from the lanes.

    lanes ─▶ take ─▶ claimed? ──no──▶ claims row in the next flush ─▶ back here
                        │ yes
                        ▼
              segments ─▶ Channel.submit (journal, then bytes)

A message is bound to a channel when it enters a lane and chosen again when that channel goes
down. The lane of a channel that only another process has is emptied by `gateway.remote`. Nothing
is written to a carrier before its claim is committed (DESIGN decision 5). One call of `pump`
handles a whole burst; there is no task and no timer per message.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from failover.budget import BudgetPolicy, RetryBudget
from failover.start import Start
from gateway.canaries import Meter
from gateway.channel import ChannelRuntime
from gateway.choosing import ChannelChoice
from gateway.cutting import cut, joined
from gateway.delayed import Delayed
from gateway.detours import detour_of
from gateway.ending import Ends
from gateway.holds import Hold, begin, end, end_throttling
from gateway.lanes import HELD, Lanes
from gateway.lastlook import SLICE, LastLook
from gateway.ledger import Ledger
from gateway.moving import Moves
from gateway.references import References
from gateway.retries import Retries
from gateway.routes import are_same
from gateway.watching import feed, glance, link_fell, link_tests, tell
from receipts.state import Path, begin_attempt
from sms import config
from sms.model import FINAL_STATES, Carrier, Message, MessageClass, State, Submit
from sms.outcomes import Outcome, Submitted, Uncertain
from telemetry.failpoints import failpoints
from telemetry.metrics import Metrics

CLAIM_BLOCK = 256  # per accept lane beyond the free windows; what a power cut may make uncertain
MIN_DEPTH_SEGMENTS = 255  # a bucket must hold the longest message
WATCH_S = 1.0  # between two looks at the channels' health
SWEEP_S = 1.0  # between two looks at the validity of what waits
END_SLICE = 500  # messages expired in one turn of the loop, some 2 ms
# Longer than a reconnect (1 s, then 2 s) and than a carrier's restart that every process feels.
LEND_AFTER_S = 5.0
# A text that no channel of its route has is looked for again so often, and so long after accept:
# a configuration is in force everywhere within 5 s, more where the store is slow.
LOOK_AGAIN_S, NEWS_S = 1.0, 30.0
REPAIR_S = 60.0  # missing segments wait this long for their channel (RELIABILITY section 2)

_OTP = MessageClass.OTP  # as a global for the path: a call in Python 3.11


class Claimer(Protocol):
    """The claim book, as far as dispatch needs it."""

    def block(self, ids: list[int], on_claimed: Callable[[], None] | None) -> int:
        """Claim ids with the next flush; returns the block's number."""


class Dispatcher(ChannelChoice):
    """Chooses channels, claims and submits. All methods are synchronous."""

    def __init__(  # noqa: PLR0913 (keyword-only, joined once by wiring)
        self,
        *,
        lanes: Lanes,
        ledger: Ledger,
        claims: Claimer,
        metrics: Metrics,
        monotonic: Callable[[], float],
        unix: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        super().__init__()
        self._lanes = lanes
        self._ledger = ledger
        self._claims = claims
        self._metrics = metrics
        self._monotonic = monotonic
        self._unix = unix
        self._call_later = call_later
        self._ends = Ends(ledger, unix)
        self.delayed = Delayed()
        self._moves = Moves(lanes, self.put_moved, call_later)
        self._references = References(int(unix() * 1000))
        self._waking: set[int] = set()
        self._late: deque[Message] = deque()  # out of their lanes, their last rows not made yet
        self._claiming: dict[int, list[Message]] = {}  # by first id: claims not committed yet
        now = monotonic()  # one class at a time: a look at 60,000 messages takes 4 ms
        self._sweep_at = {cls: now + SWEEP_S * n / 3 for n, cls in enumerate(MessageClass)}
        self._watch_at = now
        self.meters: Mapping[int, Meter] = {}  # of the channels that a canary compares
        self.spilled: Callable[[], int] = lambda: 0  # as well: how many wait in the store
        self.is_behind: Callable[[Message], bool] = lambda message: False  # set by the backlog
        # Of what enters a lane, what goes on: set while a batch is halted (gateway.withdraw).
        self.sift: Callable[[Iterable[Message]], list[Message]] | None = None
        self.withdrawn: dict[MessageClass, set[int]] = {}  # tenants with dead messages in lanes
        self.claim_soon: Callable[[], None] = lambda: None  # an idle accept lane may commit claims
        self.hungry: Callable[[int], None] = lambda channel: None  # there may be room again
        self.retries = Retries(RetryBudget(BudgetPolicy(), now), metrics, monotonic)
        self.last_look = LastLook(self._ends.reject, self.withdrawn)
        self.health_news: Callable[[], None] = lambda: None  # the other processes are told
        self.is_stopped = False
        self.start_step_s = 1.0  # of a channel that comes up with a crowd before it
        self.drain_after_s = math.inf  # without an open submit a draining channel logs out
        self.drained: Callable[[int], None] = lambda channel: None  # it is to log out
        self.not_sent: Callable[[int, Sequence[Submit], str], None] | None = None
        self.lost: Callable[[int, Sequence[Submit], str], None] | None = None

    # -- configuration ---------------------------------------------------------------------

    def reconfigure(self, snapshot: config.Snapshot) -> None:
        """Use the new routes; channels are added and removed by wiring before this."""
        has_other_texts = snapshot.templates != self.snapshot.templates
        has_other_routes = not are_same(self.snapshot, snapshot)
        self.snapshot = snapshot
        self.routes.use(snapshot)
        if self.remote is not None:
            self.remote.configure(snapshot)
        self._use_states(snapshot)
        for channel, _ in list(self._lanes.items()):
            # HELD has no runtime; a changed channel starts down
            is_open = bool(channel) and self.can_send(channel)
            is_stale = has_other_routes or (has_other_texts and channel in snapshot.demanding)
            if not is_open or is_stale:
                self._rechoose(channel)

    def _use_states(self, snapshot: config.Snapshot) -> None:
        """What waits for a channel that an operator has paused since is chosen again.

        Segments of a message that left in part are tried again on it: they are no new message.
        """
        changed: list[ChannelRuntime] = []
        for channel, runtime in self.channels.items():
            known = snapshot.channels.get(channel)
            if known is not None and known.admin_state is not runtime.state:
                runtime.use(known.admin_state)
                changed.append(runtime)
        for runtime in changed:  # once all know: nothing moves from one paused channel to another
            if runtime.is_paused:
                self._leave(runtime, "channel.unavailable")
            else:
                runtime.watch.try_soon(self._monotonic())

    def add_channel(self, runtime: ChannelRuntime) -> None:
        """Know a channel; it takes part once its link is up."""
        self.channels[runtime.config.id] = runtime

    def remove_channel(self, channel: int) -> ChannelRuntime | None:
        """Forget a channel; what waits for it is chosen again by `reconfigure`."""
        runtime = self.channels.pop(channel, None)
        if runtime is not None:
            self._give_up(runtime, "channel.removed")
        return runtime

    def _give_up(self, runtime: ChannelRuntime, reason: str) -> None:
        """Nothing more leaves over it: what left in part is uncertain, the rest is no attempt."""
        unsent, lost = list(runtime.unsent), list[Submit]()
        for _, _, submit in runtime.repairs:
            is_out = any(isinstance(one, Submitted | Uncertain) for one in submit.message.answers)
            (lost if is_out else unsent).append(submit)
        runtime.unsent, runtime.repairs = deque(), []
        if unsent and self.not_sent is not None:
            self.not_sent(runtime.config.id, unsent, reason)
        if lost and self.lost is not None:
            self.lost(runtime.config.id, lost, reason)

    # -- claims that ride in the accept flush ---------------------------------------------

    def choose_claims(self, messages: list[Message]) -> list[Message]:
        """Those of a flush that can go at once: at most the free windows plus one block.

        What already waits in the lane counts against the budget, so the number of claimed
        messages stays bounded without a counter that could drift.
        """
        if self.is_stopped:
            return []
        budgets: dict[int, int] = {}
        chosen: list[Message] = []
        for message in messages:
            if message.send_at is not None:  # it waits for its hour
                continue
            channel = self.choose(message)
            if not channel or self._moves.lanes or self.is_behind(message):
                continue
            budget = budgets.get(channel)
            if budget is None:
                runtime = self.channels.get(channel)
                if runtime is None or not runtime.is_up:
                    continue  # another process has it: that one claims
                waiting = self._lanes.lane(channel).size()
                budget = runtime.adapter.free() + CLAIM_BLOCK - waiting
            if budget > 0:
                chosen.append(message)
            budgets[channel] = budget - len(message.texts)
        if failpoints.is_armed:
            failpoints.hit("choose.done")
        return chosen

    # -- entering --------------------------------------------------------------------------

    def arrived(self, messages: Iterable[Message]) -> None:
        """Queue what was just committed, or read back, behind what moves between lanes."""
        if not self._moves.lanes:
            self.put(messages)
            return
        now = self._monotonic()
        for message in messages:
            message.queued_at = message.queued_at or now
            self._moves.join(message)

    def put(self, messages: Iterable[Message], *, first: bool = False) -> None:
        """Queue owned messages and fill the windows they may use.

        `first`: before all that waits, in the order given.
        """
        if self.sift is not None:
            messages = self.sift(messages)
        if first:
            messages = reversed(list(messages))
        now = self._monotonic()
        touched: set[int] = set()
        for message in messages:
            if message.state in FINAL_STATES or message.is_handed:
                continue  # its first copy ended it while the second came back
            if not message.queued_at:
                message.queued_at = now
            if message.not_before > now:
                self.delayed.put(message)
                continue
            channel = self._enter(message, first=first)
            if channel:
                touched.add(channel)
        if failpoints.is_armed:
            failpoints.hit("lanes.put")
        for channel in touched:
            self.pump(channel)

    def put_moved(self, messages: Iterable[Message]) -> None:
        """Queue what comes out of another lane where it belongs now, by age (`Lanes.put_moved`)."""
        if self.sift is not None:
            messages = self.sift(messages)
        now = self._monotonic()
        runs: dict[int, list[Message]] = {}
        for message in messages:
            if message.state in FINAL_STATES or message.is_handed:
                continue
            message.queued_at = message.queued_at or now
            channel = self._bind(message)
            if channel is not None:
                runs.setdefault(channel, []).append(message)
        for channel, run in runs.items():
            self._lanes.put_moved(channel, run)
        if failpoints.is_armed:
            failpoints.hit("lanes.put")
        for channel in runs:
            if channel:
                self.pump(channel)

    def put_adopted(self, messages: Iterable[Message]) -> None:
        """Queue what other processes had accepted, by turns with our own."""
        if self.sift is not None:
            messages = self.sift(messages)
        now = self._monotonic()
        touched: set[int] = set()
        for message in messages:
            if message.state in FINAL_STATES:
                continue
            message.queued_at = now
            channel = self._bind(message)
            if channel is not None:
                self._lanes.put_adopted(channel, message)
                touched.add(channel)
        for channel in touched:
            self.pump(channel)

    def _bind(self, message: Message) -> int | None:
        """The channel in whose lane it is to wait; None where it ended, or waits for news."""
        channel, primary = self.pick(message)
        if channel is None:
            if self._may_know_soon(message):
                message.not_before = self._monotonic() + LOOK_AGAIN_S
                self.delayed.put(message)
            else:
                self._ends.all([message], Path.QUEUE_FAILED, State.FAILED, "channel.unavailable")
            return None
        if channel != message.channel:
            message.detour = ()
            if primary and channel:
                cause = self.why_not(message, primary)
                message.detour = detour_of(cause, primary)
                if not message.is_adopted:
                    self._count_failover(primary, channel, cause)
            message.channel = channel
        if not channel:
            begin(message, self._monotonic())
        elif message.held_at:
            end(message, Hold.CHANNEL, self._monotonic())
        runtime = self.channels.get(channel)
        if runtime is not None and not runtime.watch.is_closed:
            runtime.watch.bound(message.carrier)
        return channel

    def _may_know_soon(self, message: Message) -> bool:
        """Whether its template may be in a configuration that its acceptor had read, and we not."""
        at = max(message.created_at, message.send_at or 0.0)
        return self._unix() - at < NEWS_S and self.is_text_unknown(message)

    def _count_failover(self, primary: int, channel: int, cause: str) -> None:
        names = self._ledger.channel_names
        self._metrics.failover_total.inc((names.get(primary, ""), names.get(channel, ""), cause))

    def _enter(self, message: Message, *, first: bool) -> int:
        channel = self._bind(message)
        if channel is None:
            return 0
        if first:
            self._lanes.put_first(channel, message)
        else:
            self._lanes.put(channel, message)
        return channel

    def spill(self, message: Message, channel: int, cause: str) -> None:
        """Put a message that its channel cannot take into a spare one's lane, at its head."""
        self._count_failover(message.channel, channel, cause)
        message.detour = detour_of(cause, message.channel)
        end_throttling(message, self._monotonic())
        message.not_before = 0.0
        if self.sift is not None and not self.sift([message]):
            return
        message.channel = channel
        self._lanes.put_first(channel, message)
        self.pump(channel)

    def expire(self, message: Message) -> None:
        """Its validity is over and nothing of it is with a carrier."""
        self.expire_all([message])

    def expire_all(self, messages: Iterable[Message]) -> None:
        """The same for many, in one commit."""
        self._ends.all(messages, Path.EXPIRED, State.EXPIRED, "validity.expired")

    # -- leaving ---------------------------------------------------------------------------

    def pump(self, channel: int) -> None:
        """Hand the channel as much as its windows, its bucket and the lanes allow."""
        runtime = self.channels.get(channel)
        if self.is_stopped:
            return
        if runtime is None or not runtime.is_up or runtime.is_lent:
            if self.remote is not None and self._is_elsewhere(channel):
                self.remote.pump(channel)
                return
            if runtime is None or not runtime.is_up:
                return
        if runtime.is_pumping:
            return
        runtime.is_pumping = True
        try:
            burst = self._collect(runtime)
            if burst:
                self._write(runtime, burst)
        finally:
            runtime.is_pumping = False
        self.hungry(channel)

    def _write(self, runtime: ChannelRuntime, burst: list[Submit]) -> None:
        left = runtime.adapter.submit(burst)
        if left:
            runtime.unsent.extendleft(reversed(left))
        now = self._monotonic()
        for submit in burst if not left else burst[: len(burst) - len(left)]:
            if not submit.message.sent_at:  # the first byte of the attempt: repairs count from it
                submit.message.sent_at = now

    def _collect(self, runtime: ChannelRuntime) -> list[Submit]:
        now, unix = self._monotonic(), self._unix()
        free, reserve = runtime.slots(now)
        burst = self._take_unsent(runtime, free) if runtime.unsent else []
        if runtime.unsent or runtime.is_paused:
            return burst
        free -= len(burst)
        lane = self._lanes.lane(runtime.config.id)
        free -= runtime.claiming
        to_claim: list[Message] = []
        look, strict_until = self.last_look, runtime.strict_until
        most = self.retries.size + SLICE  # may find no budget in one turn of the loop
        while free > 0 and len(look.stopped) < SLICE and self.retries.size < most:
            message = lane.take(otp_only=free <= reserve, strict_until=strict_until)
            if message is None:
                break
            if not self._may_leave(message, unix):
                continue
            segments = len(message.texts)
            wait_s = runtime.take(segments, now, is_otp=message.message_class is _OTP)
            if wait_s > 0.0:
                lane.queue(message.message_class).put_first(message)
                self._wake(runtime.config.id, wait_s)
                break
            free -= segments
            if message.claim:
                burst += self._submits(message, runtime, unix)
            else:
                to_claim.append(message)
        if to_claim:
            self._claim(runtime, to_claim)
        if (look.stopped and look.settle()) or self.retries.size >= most:
            self._wake(runtime.config.id, 0.0)
        return burst

    def _may_leave(self, message: Message, unix: float) -> bool:
        """The last look at what comes out of a lane; what may not leave is decided, or was."""
        if message.state in FINAL_STATES or message.is_handed:
            return False
        if message.valid_until <= unix:
            self.expire(message)
            return False
        look = self.last_look
        is_watched = message.message_class in look.policy.watched
        if is_watched and look.stops(message, unix):
            return False
        return not message.attempt or self.retries.may_leave(message)

    def withdraw(self) -> None:
        """We leave, and every answer is here: what still waits for a slot is decided."""
        for runtime in self.channels.values():
            self._give_up(runtime, "process.lost")

    def _take_unsent(self, runtime: ChannelRuntime, free: int) -> list[Submit]:
        """What found no slot before goes first; what is too late for goes back to expire."""
        burst: list[Submit] = []
        late: list[Submit] = []
        unix = self._unix()
        while runtime.unsent and len(burst) < free:
            submit = runtime.unsent.popleft()
            is_alone = submit.total == 1 or submit.parts  # nothing of it can have left before
            is_late = is_alone and submit.message.valid_until <= unix
            (late if is_late else burst).append(submit)
        if late and self.not_sent is not None:
            self.not_sent(runtime.config.id, late, "validity.expired")
        return burst

    def _claim(self, runtime: ChannelRuntime, messages: list[Message]) -> None:
        if failpoints.is_armed:
            failpoints.hit("dispatch.claiming")
        segments = sum(len(message.texts) for message in messages)
        runtime.claiming += segments
        channel, first = runtime.config.id, messages[0].id

        def claimed() -> None:
            if failpoints.is_armed:
                failpoints.hit("dispatch.claimed")
            runtime.claiming -= segments
            del self._claiming[first]
            self._send_claimed(channel, messages)

        self._claiming[first] = messages
        block = self._claims.block([message.id for message in messages], claimed)
        for message in messages:
            message.claim = block
        self._ledger.commit([])
        self.claim_soon()

    def _send_claimed(self, channel: int, messages: list[Message]) -> None:
        runtime = self.channels.get(channel)
        may_send = not self.is_stopped and self.can_send(channel) and not self.is_left(channel)
        if runtime is None or not may_send:
            self.put(messages, first=True)
            return
        unix = self._unix()
        for message in messages:
            if message.state in FINAL_STATES:
                self._ledger.release_claim(message)
            elif message.is_handed:  # held: what became of its claim is with that commit
                continue
            elif message.valid_until <= unix:
                self.expire(message)
            else:
                runtime.unsent.extend(self._submits(message, runtime, unix))
        self.pump(channel)

    def _submits(self, message: Message, runtime: ChannelRuntime, unix: float) -> list[Submit]:
        """The submits of one attempt, all with one reference."""
        total = len(message.texts)
        begin_attempt(message, runtime.config.id)
        if message.attempt == 1 and not message.throttled:  # it was not counted before
            self.retries.first(message.tenant)
        message.sent_at = 0.0
        message.open_segments = total
        message.answers = [None] * total
        submits = cut(message, runtime.config, self._references, unix, self.snapshot.book)
        if total > 1:
            message.parts = submits
            if runtime.adapter.sends_whole:
                return [joined(submits, runtime.config)]
        return submits

    def _wake(self, channel: int, wait_s: float) -> None:
        if channel in self._waking:
            return
        self._waking.add(channel)

        def wake() -> None:
            self._waking.discard(channel)
            self.pump(channel)

        self._call_later(min(wait_s, 1.0), wake)

    # -- segments that wait for their own channel -----------------------------------------

    def repair(self, channel: int, submits: Sequence[Submit], due: float, until: float) -> None:
        """Try missing segments of a partly taken message again on the same channel."""
        runtime = self.channels.get(channel)
        if runtime is None:
            if self.lost is not None:
                self.lost(channel, submits, "channel.removed")
            return
        runtime.repairs += [(due, until, submit) for submit in submits]

    def _repair_due(self, channel: int, runtime: ChannelRuntime, now: float) -> None:
        if not runtime.repairs:
            return
        keep: list[tuple[float, float, Submit]] = []
        lost: list[Submit] = []
        ready: list[Submit] = []
        for due, until, submit in runtime.repairs:
            if runtime.is_up and due <= now:
                ready.append(submit)
            elif until <= now:
                lost.append(submit)
            else:
                keep.append((due, until, submit))
        if ready and self.is_stopped:
            left = runtime.adapter.submit(ready)
            keep += [(now, submit.message.sent_at + REPAIR_S, submit) for submit in left]
        else:
            runtime.unsent.extend(ready)
        runtime.repairs = keep
        if lost and self.lost is not None:
            self.lost(channel, lost, "channel.link_lost")

    def stop(self) -> None:
        """We drain: nothing leaves any more but what a message lacks that left in part.

        Nobody can add to it after us: what joins its segments ends with the process.
        """
        self.is_stopped = True
        now = self._monotonic()
        for runtime in self.channels.values():
            unsent, runtime.unsent = runtime.unsent, deque()
            for submit in unsent:
                if submit.total > 1 and submit.message.sent_at:
                    until = submit.message.sent_at + REPAIR_S
                    runtime.repairs.append((now, until, submit))
                else:
                    runtime.unsent.append(submit)

    def is_mending(self) -> bool:
        """Whether a long message that left in part may still leave whole; a look at all of ours."""
        for message in self._ledger.live.values():
            if message.state is State.SUBMITTING and message.sent_at and len(message.texts) > 1:
                runtime = self.channels.get(message.channel)
                if runtime is not None and runtime.is_up:
                    return True
        return False

    def resend(self, message: Message) -> None:
        """Queue what came back (RELIABILITY 14, 14a, 17), after its row is committed."""
        self._ledger.take_back(message)
        message.queued_at = self._monotonic()
        message.throttled_at = 0.0
        self.put([message], first=True)

    # -- what happens to channels ----------------------------------------------------------

    def link_changed(self, channel: int, *, is_up: bool) -> None:
        """A channel's first session was bound or its last one lost."""
        runtime = self.channels.get(channel)
        if runtime is None or runtime.is_up == is_up:
            return
        now = self._monotonic()
        if is_up:
            waiting = self._lanes.lane(HELD).size() + self.spilled()
            is_crowd = waiting > runtime.adapter.window()
            runtime.came_up(now, Start(now, self.start_step_s) if is_crowd else None)
            self._rechoose_waiting()
            self.pump(channel)
            return
        runtime.is_up, runtime.is_lent, runtime.down_at = False, False, now
        link_fell(runtime)
        self._leave(runtime, "channel.link_lost")

    def _leave(self, runtime: ChannelRuntime, reason: str) -> None:
        """What waits for the channel is chosen again; what is under way follows its policy."""
        unsent = list(runtime.unsent)
        runtime.unsent.clear()
        if unsent and self.not_sent is not None:
            self.not_sent(runtime.config.id, unsent, reason)
        self._rechoose(runtime.config.id)

    def heard(self, channel: int, results: Sequence[tuple[Submit, Outcome]]) -> None:
        """What carriers answered, and what they did not: the channel's health."""
        runtime = self.channels.get(channel)
        if runtime is not None:
            has_sessions, now = runtime.adapter.has_sessions, self._monotonic()
            feed(runtime.watch, results, now, has_sessions=has_sessions)
            if channel in self.meters:
                self.meters[channel].answered(results, now)

    def receipted(
        self, channel: int, carrier: Carrier, delivered: int, undelivered: int, lag_s: float
    ) -> None:
        """Final receipts came for segments that were submitted `lag_s` ago."""
        runtime = self.channels.get(channel)
        if runtime is not None:
            now = self._monotonic()
            runtime.watch.receipted(carrier, delivered, undelivered, lag_s, now)
        if channel in self.meters:
            self.meters[channel].receipted(delivered, undelivered, lag_s)

    def _watch(self, now: float) -> None:
        """Once a second: breakers open, try, climb and close, and messages follow."""
        if now < self._watch_at or self.is_stopped:
            return
        self._watch_at = now + WATCH_S
        moved: list[ChannelRuntime] = []
        for channel, runtime in self.channels.items():
            link_tests(runtime, self._metrics, now)
            moves = runtime.watch.tick(glance(runtime, self._lanes.lane(channel), now), now)
            tell(runtime, moves, self._metrics)
            if moves:
                runtime.moved(now)
                moved.append(runtime)
        for runtime in moved:
            if self.is_left(runtime.config.id):
                self._leave(runtime, "channel.unavailable")
        if moved:
            self._rechoose_waiting()
            self.health_news()

    def remote_changed(self, came: Iterable[int], went: Iterable[int]) -> None:
        """Other processes have got or lost their last session of these channels."""
        for channel in went:
            if not self.can_send(channel):
                self._rechoose(channel)
        came = list(came)
        if came:
            self._rechoose_waiting()
        for channel in came:
            self.pump(channel)

    def _rechoose_waiting(self) -> None:
        """A channel can be used: it may take what is held, and what waits for a worse one.

        Worse is one that is lent, or that a breaker keeps: there messages wait as nothing else
        was up.
        """
        for channel, runtime in self.channels.items():
            if runtime.is_lent or not runtime.watch.is_closed:
                self._rechoose(channel)
        self._rechoose(HELD)

    def _rechoose(self, channel: int) -> None:
        """What waits in a lane is bound anew, also to the same channel: its probes are too."""
        runtime = self.channels.get(channel)
        if runtime is not None:
            runtime.watch.unbound()
        self._moves.rechoose(channel)

    def _lend(self, runtime: ChannelRuntime, now: float) -> None:
        """Ours stays away: what is held for want of it, or waits for it, may go elsewhere."""
        if runtime.is_lent or not runtime.is_away:
            return
        if now - runtime.down_at >= LEND_AFTER_S:
            runtime.is_lent = True
            if self.is_lent(runtime.config.id):
                self._rechoose(runtime.config.id)
                self._rechoose(HELD)

    def answered(self, channel: int, taken: int, throttled: int, answer_s: float) -> None:
        """What a burst of answers says of the carrier's pace: segments, and seconds for one."""
        runtime = self.channels.get(channel)
        if runtime is not None:
            runtime.throttle.answered(taken, throttled, answer_s, self._monotonic())

    # -- time ------------------------------------------------------------------------------

    def tick(self) -> None:
        """Ten times a second: delayed messages, repairs, the channels' pace, validity."""
        now = self._monotonic()
        self._watch(now)
        if due := self.delayed.due(now):
            self.put(sorted(due, key=_age), first=True)
        if again := self.retries.due():
            self.put(again, first=True)
        for channel, runtime in list(self.channels.items()):
            self._repair_due(channel, runtime, now)
            self._lend(runtime, now)
            runtime.tick(now)
            runtime.look_at(self._lanes.lane(channel))
            if runtime.is_drained(now, self.drain_after_s):
                self.drained(channel)
            if runtime.unsent or self._lanes.lane(channel).size():
                self.pump(channel)
        if self.remote is not None:
            for channel, lane in list(self._lanes.items()):
                if channel not in self.channels and lane.size():
                    self.pump(channel)
        self._sweep_due(now)

    def _sweep_due(self, now: float) -> None:
        for message_class, at in self._sweep_at.items():
            if now >= at:
                self._sweep_at[message_class] = now + SWEEP_S
                self._sweep(message_class)

    def _sweep(self, message_class: MessageClass) -> None:
        unix = self._unix()
        if tenants := self.withdrawn.pop(message_class, None):
            self._lanes.remove_withdrawn(message_class, tenants)
        late = self._lanes.remove_expired((message_class,), unix)
        late += self.retries.remove_expired(message_class, unix)
        late += self.delayed.remove_expired(unix)
        if late:
            is_ending = bool(self._late)
            self._late.extend(late)
            if not is_ending:
                self._end_some()

    def _end_some(self) -> None:
        """Thousands may expire in one second: their rows are made in slices."""
        late = self._late
        self.expire_all([late.popleft() for _ in range(min(END_SLICE, len(late)))])
        if late:
            self._call_later(0.0, self._end_some)

    def is_moving(self) -> bool:
        """Whether messages are on their way from one lane into others."""
        return bool(self._moves.lanes)

    def places(self) -> Iterator[Iterable[Message]]:
        """Everywhere a message may stand that waits to be submitted."""
        for lane in [lane for _, lane in self._lanes.items()] + list(self._moves.lanes):
            for _, queue in lane.queues():
                yield queue
        yield list(self.delayed)
        yield self.retries
        yield self._late
        yield from list(self._claiming.values())

    def delayed_ids(self) -> list[int]:
        """Ids of the messages that wait for their next try (for tests and the drain)."""
        return [message.id for message in self.delayed]


def _age(message: Message) -> int:
    """Sorts by age, the oldest first."""
    return message.id
