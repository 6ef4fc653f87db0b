"""Nonces of signed requests, each good once: asked of Valkey, and remembered here as well.

    take() ─▶ seen here? ─yes─▶ USED
                 │ no: remembered here
                 ▼
              SET NX EX, all that wait in one flight ─▶ NEW, or USED by another process
                 │ no answer in 50 ms
                 ▼
              NEW_HERE: only this process knows it

While Valkey is away a replay is found by the process that took the first one, and by no other:
that is what is lost. A process remembers a bounded number; when so many come within the time that
it would have to forget some while Valkey is away, it says UNSURE and the request is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from asyncio import Future
from collections.abc import Callable
from enum import StrEnum
from hashlib import blake2b
from time import monotonic

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sms.tlswords import VALKEY, tls_trouble
from telemetry.logs import get_logger

log = get_logger(__name__)

KEPT_S = 610  # the 600 s that are promised, and what clocks may differ
REMEMBERED = 250_000  # digests of one generation, 20 MB; there are two
TIMEOUT_S = 0.05  # RELIABILITY section 9
PAUSE_S = 1.0  # Valkey is not asked again so soon after it did not answer
_MAX_FLIGHT = 500
_TROUBLE = (RedisError, OSError, TimeoutError)


class Nonce(StrEnum):
    """What is known of a nonce."""

    NEW = "new"
    NEW_HERE = "new_here"  # Valkey did not answer: another process may have seen it
    USED = "used"
    UNSURE = "unsure"


class Nonces:
    """The nonces of this process and, through Valkey at `url`, of all others."""

    def __init__(
        self, url: str | None, now: Callable[[], float] = monotonic, remembered: int = REMEMBERED
    ) -> None:
        self._now = now
        self._remembered = remembered
        self._salt = secrets.token_bytes(16)
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        self._turned_at = now()
        self._waiting: list[tuple[str, Future[Nonce]]] = []
        self._flight: asyncio.Task[None] | None = None
        self._away_until = 0.0
        self._is_reported = False
        self._redis: Redis | None = None
        if url is not None:
            self._redis = Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=None
            )

    async def take(self, key_id: int, nonce: bytes) -> Nonce:
        """Use a nonce up; only NEW and NEW_HERE may pass. Takes at most `TIMEOUT_S`, twice."""
        name = f"smsgw:nonce:{key_id:x}:{nonce.decode('ascii')}"
        digest = blake2b(name.encode(), digest_size=16, key=self._salt).digest()
        if digest in self._young or digest in self._old:
            return Nonce.USED
        is_shared = self._redis is not None and self._now() >= self._away_until
        if not self._remember(digest, is_shared=is_shared):
            return Nonce.UNSURE
        if not is_shared:
            return Nonce.NEW_HERE
        future: Future[Nonce] = asyncio.get_running_loop().create_future()
        self._waiting.append((name, future))
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly(), name="nonces")
        return await future

    async def close(self) -> None:
        """End the connection; who waits is told NEW_HERE."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)
        if self._redis is not None:
            with contextlib.suppress(*_TROUBLE):
                await self._redis.aclose()

    def _remember(self, digest: bytes, *, is_shared: bool) -> bool:
        """Two generations: each nonce stays here for at least `KEPT_S`, unless there are too many.

        Forgetting early is allowed only while Valkey remembers.
        """
        now = self._now()
        is_full = len(self._young) >= self._remembered
        if now - self._turned_at >= KEPT_S or (is_full and is_shared):
            is_old_over = now - self._turned_at >= 2 * KEPT_S
            self._old = set() if is_old_over else self._young
            self._young = set()
            self._turned_at = now
        elif is_full:
            return False
        self._young.add(digest)
        return True

    async def _fly(self) -> None:
        """Ask for all that wait, again and again while there are some."""
        flight: list[tuple[str, Future[Nonce]]] = []
        try:
            while self._waiting:
                flight, self._waiting = self._waiting[:_MAX_FLIGHT], self._waiting[_MAX_FLIGHT:]
                verdicts = await self._ask([name for name, _ in flight])
                for (_, future), verdict in zip(flight, verdicts, strict=True):
                    if not future.done():
                        future.set_result(verdict)
        finally:
            self._flight = None
            left, self._waiting = flight + self._waiting, []
            for _, future in left:  # open ones only when we were canceled, or are broken
                if not future.done():
                    future.set_result(Nonce.NEW_HERE)

    async def _ask(self, names: list[str]) -> list[Nonce]:
        redis = self._redis
        if redis is None or self._now() < self._away_until:
            return [Nonce.NEW_HERE] * len(names)
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                redis.pipeline(transaction=False) as pipeline,
            ):
                for name in names:
                    pipeline.set(name, b"", nx=True, ex=KEPT_S)
                answers = await pipeline.execute()
        except _TROUBLE as error:
            await self._went_away(redis, error)
            return [Nonce.NEW_HERE] * len(names)
        if self._is_reported:
            self._is_reported = False
            log.info("nonces are shared again")
        return [Nonce.NEW if answer else Nonce.USED for answer in answers]

    async def _went_away(self, redis: Redis, error: BaseException) -> None:
        self._away_until = self._now() + PAUSE_S
        with contextlib.suppress(*_TROUBLE):
            # A late answer must not be read as that of a later question.
            await redis.connection_pool.disconnect(inuse_connections=True)
        if not self._is_reported:
            self._is_reported = True
            what = "Valkey does not answer: a replay is found by the process that took the first"
            log.warning(what, error=tls_trouble(error, VALKEY) or type(error).__name__)
