"""Buckets shared with other processes: who waits for a call, and what it says.

    take from what is held ──enough──▶ 0.0
          │ not enough                       one call at a time for all buckets together:
          ▼                                  at once when requests wait, else every 0.1 s
    wait for a call ──▶ Valkey: one script ──▶ held again, requests decided in their order

A call must answer within 50 ms; without an answer each bucket goes on with this process's share
(`ratelimit.lease`), and Valkey is tried again after 0.1 s, at last once a second. Nothing here
knows tenants: those are `ratelimit.tenants`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ratelimit.lease import Ask, Lease
from ratelimit.limiter import PREFIX, Call
from sms.errors import ClusterUnavailable
from telemetry.metrics import Metrics

GAP_S = 0.004  # between two calls while requests wait: what comes meanwhile goes together
REFILL_S = 0.02  # between two calls that only fetch the next block
TICK_S = 0.1
MAX_BUCKETS = 256  # of one call; Valkey does nothing else meanwhile (some 8 µs each)
FIRST_PROBE_S = 0.1
LAST_PROBE_S = 1.0
MAX_ROUNDS = 3  # calls that one request waits for at most


@dataclass(slots=True)
class Lack:
    """The bucket that had too little, and the seconds after which it may have enough."""

    lease: Lease
    wait_s: float


Needs = Sequence[tuple[Lease, int]]


@dataclass(slots=True, eq=False)
class _Waiter:
    needs: Needs
    future: asyncio.Future[Lack | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    rounds: int = 0


class Leases:
    """All shared buckets of this process. `call` None: there is no Valkey, and no other process."""

    def __init__(
        self,
        call: Call | None,
        *,
        metrics: Metrics,
        live: Callable[[], int] = lambda: 1,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_away = call is None
        self._call = call
        self._metrics = metrics
        self._count_live = live
        self._live = 1
        self._now = monotonic
        self._leases: dict[str, Lease] = {}
        self._listeners: dict[str, Callable[[], None]] = {}
        self._waiters: list[_Waiter] = []
        self._urgent: dict[Lease, None] = {}
        self._wanted: dict[Lease, None] = {}
        self._active: dict[Lease, None] = {}  # Valkey should hear of them at every tick
        self._local: dict[Lease, None] = {}
        self._wake = asyncio.Event()
        self._called_at = self._ticked_at = -1.0
        self._away_since = 0.0
        self._probe_at = 0.0
        self._probe_gap_s = FIRST_PROBE_S

    # -- buckets -------------------------------------------------------------------------------

    def lease(
        self, name: str, rate: float, depth: int, *, reserve: int = 0, is_eager: bool = False
    ) -> Lease:
        """Our side of the bucket of that name, made or given this rate and depth."""
        known = self._leases.get(name)
        if known is None:
            known = Lease(
                PREFIX + name, rate, depth, reserve=reserve, live=self._live, is_eager=is_eager
            )
            self._leases[name] = known
        else:
            known.configure(rate, depth, self._now(), reserve=reserve)
        return known

    def share(self, name: str, part: float) -> None:
        """A channel's part that is ours while Valkey is away: others may have no use for it."""
        self._leases[name].set_live(1 / part if part > 0 else self._live, self._now())

    def forget(self, name: str) -> None:
        """The bucket is no more; what we held of it runs out in Valkey by itself."""
        lease = self._leases.pop(name, None)
        if lease is None:
            return
        self._listeners.pop(lease.key, None)
        for group in (self._urgent, self._wanted, self._active, self._local):
            group.pop(lease, None)

    # -- taking --------------------------------------------------------------------------------

    def take(self, needs: Needs, now: float) -> Lack | None:
        """Take all or nothing from what is here; None = taken."""
        for index, (lease, n) in enumerate(needs):
            if self.is_away:
                self._localise(lease)
            wait_s = lease.take(n, now)
            if wait_s > 0.0:
                for other, taken in needs[:index]:
                    other.undo(taken, now)
                return Lack(lease, wait_s)
            self.spent(lease)
        return None

    def spent(self, lease: Lease) -> None:
        """Something was taken from it: fetch the next block in time."""
        if lease.held < lease.low and lease not in self._wanted and not self.is_away:
            self._wanted[lease] = None
            self._wake.set()

    async def ask(self, needs: Needs, now: float) -> Lack | None:
        """Take all or nothing; nothing is refused while Valkey may have it. None = taken."""
        for lease, n in needs:
            if n > lease.depth:
                return Lack(lease, lease.take(n, now))
        if self.is_away or not any(lease.waiting for lease, _ in needs):
            lack = self.take(needs, now)
            if lack is None or self.is_away:
                return lack
        waiter = _Waiter(needs)
        self._waiters.append(waiter)
        self._wake.set()
        for lease, _ in needs:
            lease.waiting += 1
        try:
            return await waiter.future
        finally:
            for lease, _ in needs:
                lease.waiting -= 1

    def put_back(self, lease: Lease, n: int, now: float) -> None:
        """Give back what was taken for messages that certainly were not accepted."""
        lease.put_back(n, now)
        if not self.is_away:
            self._wanted[lease] = None
            self._wake.set()

    def listen(self, name: str, on_tokens: Callable[[], None]) -> None:
        """Tell when tokens came that `want` had asked for."""
        self._listeners[PREFIX + name] = on_tokens

    def want(self, lease: Lease, n: int, now: float, *, is_otp: bool) -> float:
        """Take n or none, and fetch them in the background: 0.0 = taken, else ask again then."""
        if self.is_away:
            self._localise(lease)
        wait_s = lease.take(n, now, is_otp=is_otp)
        if wait_s == 0.0 or self.is_away:
            self.spent(lease)
            return wait_s
        lease.need, lease.need_is_otp = n, is_otp
        group = self._urgent if is_otp or lease.was_rich(n) else self._wanted
        group[lease] = None
        self._wake.set()
        return max(wait_s, TICK_S)  # the listener hears of tokens before

    # -- calls ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Call Valkey whenever there is something to say; for as long as the process lives."""
        await self._exchange(())  # the first request shall find a connection
        while True:
            await self._until_due()
            await self._round()

    async def close(self) -> None:
        """Give everything back."""
        for lease in self._leases.values():
            lease.idle = 1 << 30
        if not self.is_away:
            self._wanted.update(self._active)
            while self._wanted and not self.is_away:
                await self._round()
        if self._call is not None:
            await self._call.close()

    def _due_at(self) -> float:
        if self._call is None:
            return float("inf")
        if self.is_away:
            return self._probe_at
        due = float("inf")
        if self._waiters or self._urgent:
            due = self._called_at + GAP_S
        elif self._wanted:
            due = self._called_at + REFILL_S
        return min(due, self._ticked_at + TICK_S) if self._active else due

    async def _until_due(self) -> None:
        while (delay_s := self._due_at() - self._now()) > 0.0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(delay_s, LAST_PROBE_S)):
                    await self._wake.wait()

    async def _round(self) -> None:
        """One call for everything that is due, and the decisions that hang on it."""
        now = self._now()
        self._tick(now)
        waiters, asks = self._gather(now)
        if not asks and not self.is_away:
            return
        self._called_at = now
        if await self._exchange(asks):
            listeners = [self._listeners.get(lease.key) for lease, _ in asks if lease.need]
            for lease, _ in asks:
                lease.need = 0
            self._settle(waiters)
            for on_tokens in listeners:
                if on_tokens is not None:
                    on_tokens()
            self._tidy(lease for lease, _ in asks)
        else:
            self._settle(waiters)

    def _tick(self, now: float) -> None:
        live = max(1, self._count_live())
        if live != self._live:
            self._live = live
            for lease in self._leases.values():
                if not lease.is_eager:
                    lease.set_live(live, now)
        if now - self._ticked_at >= TICK_S:
            self._ticked_at = now
            for lease in self._active:
                if lease.tick(now):
                    self._wanted[lease] = None

    def _gather(self, now: float) -> tuple[list[_Waiter], list[tuple[Lease, Ask]]]:
        needs: dict[Lease, list[int]] = {}
        count = 0
        for waiter in self._waiters:
            if len(needs) >= MAX_BUCKETS:
                break
            count += 1
            for lease, n in waiter.needs:
                needs.setdefault(lease, []).append(n)
        waiters, self._waiters = self._waiters[:count], self._waiters[count:]
        for group in (self._urgent, self._wanted, self._local):
            for lease in group:
                if len(needs) >= MAX_BUCKETS:
                    break
                needs.setdefault(lease, [])
        asks = []
        for lease, sizes in needs.items():
            self._urgent.pop(lease, None)
            self._wanted.pop(lease, None)
            if lease.need:
                sizes.append(lease.need)
            asks.append((lease, lease.ask(now, sizes, is_otp=lease.need_is_otp and lease.need > 0)))
        return waiters, asks

    async def _exchange(self, asks: Sequence[tuple[Lease, Ask]]) -> bool:
        """One call; whether it was answered."""
        if self._call is None:
            return False
        args: list[int] = []
        for _, ask in asks:
            args += (ask.rate, ask.depth, ask.reserve, ask.spent, ask.granted)
            args += (ask.hold, ask.want, ask.least)
        sent_at = self._now()
        try:
            answer = await self._call([lease.key for lease, _ in asks], args)
        except ClusterUnavailable:
            self._metrics.limit_calls_total.inc(("failed",))
            self._lose(self._now())
            return False
        self._metrics.limit_calls_total.inc(("answered",))
        self._find()
        now = self._now()
        for index, (lease, ask) in enumerate(asks):
            lease.told(ask, answer[2 * index], answer[2 * index + 1] / 1000, sent_at, now)
        return True

    def _settle(self, waiters: Iterable[_Waiter]) -> None:
        """Decide what waited for the call, first come first served."""
        now = self._now()
        again: list[_Waiter] = []
        for waiter in waiters:
            if waiter.future.done():  # its client went away
                continue
            waiter.rounds += 1
            lack = self.take(waiter.needs, now)
            is_near = lack is not None and lack.wait_s <= GAP_S and not self.is_away
            if is_near and waiter.rounds < MAX_ROUNDS:
                again.append(waiter)
            else:
                waiter.future.set_result(lack)
        self._waiters = again + self._waiters

    def _tidy(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            self._active.pop(lease, None)
            if lease.has_news():
                # What is not held ahead is told soon, or the bucket would not fill meanwhile.
                group = self._active if lease.block or lease.is_eager else self._wanted
                group[lease] = None

    # -- away and back -------------------------------------------------------------------------

    def _localise(self, lease: Lease) -> None:
        if lease.is_local():
            return
        if self._call is None:
            lease.go_alone(self._now())
        else:
            lease.go_local(self._away_since)
            self._local[lease] = None

    def _lose(self, now: float) -> None:
        self._probe_gap_s = min(2 * self._probe_gap_s, LAST_PROBE_S)
        if not self.is_away:
            self.is_away = True
            self._away_since = now
            self._probe_gap_s = FIRST_PROBE_S
            self._metrics.limits_local.set((), 1.0)
            waiters, self._waiters = self._waiters, []
            self._settle(waiters)
        self._probe_at = now + self._probe_gap_s

    def _find(self) -> None:
        if not self.is_away:
            return
        self.is_away = False
        self._metrics.limits_local.set((), 0.0)
        for lease in self._local:
            lease.come_back()
        self._wanted.update(self._local)  # what they spent meanwhile is told
        self._local.clear()


class ChannelBucket:
    """A channel's bucket as the dispatcher sees it: it asks without waiting."""

    def __init__(self, leases: Leases, lease: Lease) -> None:
        self._leases = leases
        self.lease = lease

    def take(self, n: int, now: float, *, is_otp: bool = True) -> float:
        """Take n segments or none: 0.0 = taken, else the seconds after which to ask again."""
        lease = self.lease
        if lease.held >= n and now < lease.until:
            lease.held -= n
            lease.spent += n
            if lease.held < lease.low:
                self._leases.spent(lease)
            return 0.0
        return self._leases.want(lease, n, now, is_otp=is_otp)
