"""Buckets shared over Valkey: the one script that takes, gives back and counts, and its call.

The script is atomic and goes by Valkey's own clock, so that processes need not agree on the time.
Valkey may forget everything at any moment: a bucket that is not there is full, which costs at
most one depth. Who calls, when and for whom is `ratelimit.leases`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from typing import Protocol

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ratelimit.lease import LEASE_S
from sms.errors import ClusterUnavailable
from sms.tlswords import VALKEY, tls_trouble

CALL_TIMEOUT_S = 0.05  # RELIABILITY section 9
_LATE_S = 0.01
# What a server that is away, refuses us or is none at all ends in.
_TROUBLE = (redis.exceptions.RedisError, OSError, EOFError, ValueError, TypeError)
# The number is the format's. In braces, so that the nodes of a cluster keep all keys together.
PREFIX = "{smsgw:limits:1}:"

# One hash per bucket: `level` in billionths of a segment, `at` in µs of Valkey's clock, and per
# process "granted spent expires". Only whole numbers below 2^53, so nothing is ever rounded.
# A bucket that is not there is full. A key outlives the time in which its bucket would fill.
# It fills beside all that was held until this call: when that was spent, nobody can tell.
# A clock that went back must neither stop the bucket nor keep a dead process's tokens for long.
SCRIPT = """
local UNIT = 1000000000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local client, ttl = ARGV[1], tonumber(ARGV[2])
local answer = {}
for i = 1, #KEYS do
  local key, a = KEYS[i], 3 + (i - 1) * 8
  local rate = tonumber(ARGV[a])
  local depth, reserve = ARGV[a + 1] * UNIT, ARGV[a + 2] * UNIT
  local spent, granted, hold = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local want, least = tonumber(ARGV[a + 6]), tonumber(ARGV[a + 7])
  local level, at, others, before = depth, now, 0, 0
  local mine = math.min(0, granted - spent)
  local row = redis.call('HGETALL', key)
  for f = 1, #row, 2 do
    local name, value = row[f], row[f + 1]
    if name == 'level' then level = tonumber(value)
    elseif name == 'at' then at = tonumber(value)
    else
      local g, s, expires = string.match(value, '(%S+) (%S+) (%S+)')
      expires = tonumber(expires)
      before = before + g - s
      if expires <= now or expires > now + 2 * ttl then
        redis.call('HDEL', key, name)
      elseif name == client then mine = g - spent
      else others = others + g - s end
    end
  end
  local room = math.max(0, depth - before * UNIT)
  if now > at and level < room then
    if (now - at) >= (room - level) / rate then level = room
    else level = level + (now - at) * rate end
  end
  local debt = math.max(0, -mine)
  mine = math.max(0, mine)
  local back = math.max(0, mine - hold)
  mine = mine - back
  room = math.max(0, depth - (others + mine) * UNIT)
  level = math.min(room, math.max(0, level + (back - debt) * UNIT))
  local free = math.floor(math.max(0, level - reserve) / UNIT)
  local new = math.min(want - mine, free)
  if new > 0 and free >= least then
    mine = mine + new
    level = level - new * UNIT
  end
  local record = string.format('%.0f %.0f %.0f', spent + mine, spent, now + ttl)
  redis.call('HSET', key, 'level', string.format('%.0f', level), 'at', string.format('%.0f', now),
             client, record)
  redis.call('PEXPIRE', key, math.ceil((depth - level) / rate / 1000) + ttl / 1000 + 1000)
  answer[2 * i - 1] = mine
  answer[2 * i] = math.floor(level / 1000000)
end
return answer
"""


class Call(Protocol):
    """What runs the script: `Valkey`, or a test's."""

    async def __call__(self, keys: Sequence[str], args: Sequence[int]) -> Sequence[int]:
        """Keys and eight whole numbers each to two whole numbers each.

        Raises ClusterUnavailable.
        """
        ...

    async def close(self) -> None:
        """Let go."""
        ...


class Script:
    """One script on a Valkey or Redis server; one call at a time."""

    def __init__(self, url: str, timeout_s: float, text: str) -> None:
        self._timeout_s = timeout_s
        self._text = text
        self._client = redis.asyncio.Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),  # a second try would come after the 50 ms
            socket_connect_timeout=timeout_s,
            single_connection_client=True,
        )
        self._sha = ""

    async def run(self, keys: Sequence[str], args: Sequence[int | str]) -> object:
        """Run it; raises ClusterUnavailable when there is no answer in time.

        It may run twice, when a connection broke: what it is told must be worth the same then.
        """
        task = asyncio.ensure_future(self._twice(keys, args))
        try:
            await asyncio.wait({task}, timeout=self._timeout_s - _LATE_S)
            if not task.done():  # when our own loop was late, the answer has come meanwhile
                await asyncio.wait({task}, timeout=_LATE_S)
            if not task.done():
                raise ClusterUnavailable("Valkey did not answer in time")
            return task.result()
        except _TROUBLE as error:
            why = tls_trouble(error, VALKEY) or type(error).__name__
            raise ClusterUnavailable(f"Valkey fails: {why}") from error
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _twice(self, keys: Sequence[str], args: Sequence[int | str]) -> object:
        try:
            return await self._evaluate(keys, args)
        except redis.exceptions.ConnectionError:  # the other end may have closed it long ago
            return await self._evaluate(keys, args)

    async def _evaluate(self, keys: Sequence[str], args: Sequence[int | str]) -> object:
        if self._sha:
            with contextlib.suppress(redis.exceptions.NoScriptError):  # it was restarted
                return await self._client.evalsha(self._sha, len(keys), *keys, *args)
        self._sha = str(await self._client.script_load(self._text))
        return await self._client.evalsha(self._sha, len(keys), *keys, *args)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


class Valkey(Script):
    """The buckets' script. It runs twice without harm: what we say is absolute."""

    def __init__(self, url: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        super().__init__(url, timeout_s, SCRIPT)
        self.name = secrets.token_hex(6)  # of this process in this life

    async def __call__(self, keys: Sequence[str], args: Sequence[int]) -> Sequence[int]:
        """Take and give back; raises ClusterUnavailable when there is no answer in time."""
        answer = await self.run(keys, (self.name, int(LEASE_S * 1_000_000), *args))
        if (
            not isinstance(answer, list)
            or len(answer) != 2 * len(keys)
            or not all(isinstance(n, int) for n in answer)
        ):
            raise ClusterUnavailable("Valkey answers something else")
        return answer
