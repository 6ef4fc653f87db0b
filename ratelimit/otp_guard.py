"""The pumping guard of all processes together: counted in Valkey, and here.

    ask ─▶ this process's book ──too many──▶ refused, Valkey is not asked
                 │ free
                 ▼                   one call at a time, for everybody who waits
           one script in Valkey ──▶ counted, or refused and taken back here

A call must answer within 50 ms; without an answer the book of this process decides alone, until
Valkey answers an empty call that nobody waits for: one a second while messages come. Whoever
wipes Valkey allows each number at most one cap more; so does, per process, the time in which it
is away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ratelimit.limiter import CALL_TIMEOUT_S, Script
from ratelimit.otp_caps import CapBook, Wanted
from sms.errors import ClusterUnavailable
from telemetry.metrics import Metrics

PREFIX = "{smsgw:otp:1}:"  # the number is the format's; in braces: one node of a cluster has all
# Between two calls: what comes meanwhile goes together. Nobody waits who comes later than that
# after the last call. A call costs as much as twenty messages in it, so many of them wait longer.
GAP_S = 0.004
MANY = 4  # messages of the last call, from which the gap is
LONG_GAP_S = 0.01
PROBE_S = 1.0
MAX_MESSAGES = 256  # of one call; Valkey does nothing else meanwhile (some 10 µs each)
_LOOK, _TAKE = -1, 0

# One text for all messages: each has its two keys – the number's log, "milliseconds:token" oldest
# first, and when the prefix's bucket is full again, in µs –, the caps, a token, and what to do:
# -1 look, 0 take, else the moment that is given back. One text comes back: for each milliseconds
# to wait, and the moment that was counted (0 = none, or its token stood there). Texts, because
# each value by itself would cost the client 3 µs. All keys are on the node of the one that is
# named. Times are Valkey's own. Run twice it counts once, by the token.
SCRIPT = """
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local LENGTHS = {60000, 3600000, 86400000}
local answer = {}
local each = '(%S+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%-?%d+)'
for name, block, minute, hour, day, burst, token, act in string.gmatch(ARGV[1], each) do
  local number, prefix = KEYS[1] .. name, KEYS[1] .. block
  local caps = {tonumber(minute), tonumber(hour), tonumber(day)}
  act, burst = tonumber(act), tonumber(burst)
  local longest, most = 0, 0
  for w = 1, 3 do
    if caps[w] > 0 then longest = LENGTHS[w]; most = math.max(most, caps[w]) end
  end
  local log, n, known, removed = {}, 0, false, false
  for at, whose in string.gmatch(redis.call('GET', number) or '', '(%d+):(%d+)') do
    local moment = tonumber(at)
    if act > 0 and not removed and moment == act and whose == token then removed = true
    elseif moment <= now and moment > now - longest then
      n = n + 1
      log[n] = {moment, whose}
      if token ~= '0' and whose == token then known = true end
    end
  end
  local full = 0
  if burst > 0 then
    full = math.max(us, tonumber(redis.call('GET', prefix) or '0'))
    if full > us + 60000000 then full = us + 60000000 end
  end
  local wait, stamp = 0, 0
  if act <= 0 and not known then
    for w = 1, 3 do
      if caps[w] > 0 and n >= caps[w] then
        wait = math.max(wait, log[n - caps[w] + 1][1] + LENGTHS[w] - now)
      end
    end
    if burst > 0 then
      wait = math.max(wait, math.ceil((full - us + 60000000 / burst - 60000000) / 1000))
    end
  end
  local is_new = act == 0 and not known and wait == 0
  if is_new then stamp = now end
  if is_new and longest > 0 then
    n = n + 1
    log[n] = {now, token}
  end
  if longest > 0 and (is_new or removed) then
    local words = {}
    for k = math.max(1, n - most + 1), n do
      words[#words + 1] = string.format('%.0f', log[k][1]) .. ':' .. log[k][2]
    end
    if #words > 0 then redis.call('SET', number, table.concat(words, ' '), 'PX', longest)
    else redis.call('DEL', number) end
  end
  if burst > 0 and (is_new or removed or act > 0 and longest == 0) then
    local step = 60000000 / burst
    full = is_new and full + step or full - step
    if full > us then
      local ttl = math.ceil((full - us) / 1000) + 1
      redis.call('SET', prefix, string.format('%.0f', full), 'PX', ttl)
    else redis.call('DEL', prefix) end
  end
  answer[#answer + 1] = string.format('%.0f %.0f', wait, stamp)
end
return table.concat(answer, ' ')
"""


class Call(Protocol):
    """What runs the script: `OtpScript`, or a test's."""

    async def __call__(self, asked: Sequence[str]) -> Sequence[int]:
        """Messages as the script takes them to two whole numbers each.

        Raises ClusterUnavailable.
        """
        ...

    async def close(self) -> None:
        """Let go."""
        ...


class OtpScript(Script):
    """The script on a Valkey or Redis server."""

    def __init__(self, url: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        super().__init__(url, timeout_s, SCRIPT)

    async def __call__(self, asked: Sequence[str]) -> Sequence[int]:
        """Count, look, give back; raises ClusterUnavailable when there is no answer in time."""
        answer = await self.run((PREFIX,), (" ".join(asked),))
        words = answer.split() if isinstance(answer, bytes) else []
        if len(words) != 2 * len(asked) or not all(word.isdigit() for word in words):
            raise ClusterUnavailable("Valkey answers something else")
        return list(map(int, words))


@dataclass(slots=True)
class Counted:
    """What came of one message: `wait_s` 0.0 = it may be sent and was counted."""

    wanted: Wanted
    wait_s: float = 0.0
    at: float = 0.0  # counted here at this moment (monotonic); 0.0 = its token was counted before
    stamp: int = 0  # counted in Valkey at this moment of its own; 0 = not


@dataclass(slots=True, eq=False)
class _Waiter:
    counted: list[Counted]
    act: int
    future: asyncio.Future[list[Counted]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class OtpGuard:
    """Counts otp messages. `call` None: there is no Valkey, and no other process."""

    def __init__(
        self,
        call: Call | None,
        *,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call = call
        self._metrics = metrics
        self._now = monotonic
        self._book = CapBook()
        self._waiters: list[_Waiter] = []
        self._is_away = False
        self._is_probe_due = False
        self._probe_at = 0.0
        self._wake = asyncio.Event()

    def ask(self, wanted: Sequence[Wanted]) -> asyncio.Future[list[Counted]]:
        """Count those that may be sent; the others have a `wait_s`. Never fails, 50 ms at most."""
        now = self._now()
        found, open_ones = [], []
        for one in wanted:
            counted = Counted(one, self._book.wait_s(one, now))
            found.append(counted)
            if not counted.wait_s:
                counted.at = now if self._book.count(one, now) else 0.0
                open_ones.append(counted)
        waiter = _Waiter(found, _TAKE)
        if not open_ones or self._is_alone(now):
            waiter.future.set_result(found)
        else:
            self._enqueue(waiter)
        return waiter.future

    async def look(self, wanted: Wanted) -> float:
        """The seconds that such a message would have to wait; counts nothing."""
        now = self._now()
        counted = Counted(wanted, self._book.wait_s(wanted, now))
        if not counted.wait_s and not self._is_alone(now):
            waiter = _Waiter([counted], _LOOK)
            self._enqueue(waiter)
            await waiter.future
        return counted.wait_s

    def give_back(self, counted: Sequence[Counted]) -> None:
        """These were counted and certainly not accepted; the others in it do not matter."""
        mine = [one for one in counted if not one.wait_s]
        for one in mine:
            if one.at:
                self._book.give_back(one.wanted, one.at)
        for one in mine:
            if one.stamp:
                self._enqueue(_Waiter([one], one.stamp))

    def _is_alone(self, now: float) -> bool:
        if self._is_away and now >= self._probe_at:
            self._probe_at = now + PROBE_S
            self._is_probe_due = True
            self._wake.set()
        return self._call is None or self._is_away

    def _enqueue(self, waiter: _Waiter) -> None:
        self._waiters.append(waiter)
        self._wake.set()

    # -- calls ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Call Valkey whenever somebody waits; for as long as the process lives."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._is_probe_due:
                await self._probe()
            while self._waiters:
                began = self._now()
                count = await self._round()
                gap_s = GAP_S if count < MANY else LONG_GAP_S
                await asyncio.sleep(max(0.0, began + gap_s - self._now()))

    async def close(self) -> None:
        """Tell what is still to be told; after `run` was ended."""
        while self._waiters:
            await self._round()
        if self._call is not None:
            await self._call.close()

    async def _probe(self) -> None:
        """Whether Valkey is back; until it is, nobody waits for it."""
        self._is_probe_due = False
        try:
            await self._exchange([])
        except ClusterUnavailable:
            self._failed()
        else:
            self._is_away = False

    def _failed(self) -> None:
        self._metrics.limit_calls_total.inc(("failed",))
        self._is_away = True
        self._probe_at = self._now() + PROBE_S

    async def _round(self) -> int:
        """One call; returns how many messages were in it."""
        count = size = 0
        for waiter in self._waiters:
            size += len(waiter.counted)
            if count and size > MAX_MESSAGES:
                break
            count += 1
        waiters, self._waiters = self._waiters[:count], self._waiters[count:]
        asked = [
            (one, waiter.act)
            for waiter in waiters
            for one in waiter.counted
            if waiter.act != _TAKE or not one.wait_s
        ]
        try:
            if self._is_away:  # what was asked before that was known
                raise ClusterUnavailable("Valkey is away")
            answer = await self._exchange(asked)
        except ClusterUnavailable:
            self._failed()
        else:
            for place, (one, act) in enumerate(asked):
                self._told(one, act, *answer[2 * place : 2 * place + 2])
        for waiter in waiters:
            if not waiter.future.done():
                waiter.future.set_result(waiter.counted)
            elif waiter.act == _TAKE:  # nobody waits any more: nothing was accepted
                self.give_back(waiter.counted)
        return len(asked)

    async def _exchange(self, asked: Sequence[tuple[Counted, int]]) -> Sequence[int]:
        if self._call is None:
            raise ClusterUnavailable("there is no Valkey")
        texts = []
        for one, act in asked:
            wanted, caps = one.wanted, one.wanted.caps
            texts.append(
                f"{wanted.number:x} {wanted.prefix:x} {caps.per_minute} {caps.per_hour} "
                f"{caps.per_day} {caps.prefix_burst} {wanted.token} {act}"
            )
        answer = await self._call(texts)
        self._metrics.limit_calls_total.inc(("answered",))
        return answer

    def _told(self, one: Counted, act: int, wait_ms: int, stamp: int) -> None:
        wait_s = wait_ms / 1000
        if act == _LOOK:
            one.wait_s = wait_s
        elif act == _TAKE and wait_s:
            if one.at:
                self._book.give_back(one.wanted, one.at)
            one.wait_s, one.at = wait_s, 0.0
        elif act == _TAKE:
            one.stamp = stamp
