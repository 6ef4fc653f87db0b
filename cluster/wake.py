"""Wake another process at once instead of at its next poll (DESIGN decision 7).

    wake() ─▶ pending ─▶ PUBLISH smsgw:wake:<process>          one task
    SUBSCRIBE smsgw:wake:<me> ─▶ on_wake(what)                 another

Nothing hangs on a wake-up: everything it announces stands in PostgreSQL and is polled anyway.
So while Valkey is away wake-ups are dropped, not kept; both tasks try again, quietly.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from sms.tlswords import VALKEY, tls_trouble
from telemetry.logs import get_logger

log = get_logger(__name__)

CHANNEL = "smsgw:wake:"
MAX_PENDING = 1000  # different wake-ups that wait for a PUBLISH; more are dropped
MAX_TEXT = 64  # characters of `what`
_TIMEOUT_S = 1.0  # connect, and the answer to one command
_QUIET_S = 5.0  # a subscription that heard nothing so long is tried
_ECHO = ""  # what we tell ourselves to try it
_BACKOFF_S = (0.1, 5.0)
_TROUBLE = (RedisError, OSError, TimeoutError)


class Wakes:
    """The wake-ups of one process; `start` inside a running loop, `close` at the end."""

    def __init__(self, url: str, process: int) -> None:
        self.sent = 0
        self.heard = 0
        self.dropped = 0  # not told: Valkey was away
        self.failures = 0  # connections that broke or could not be opened, wake-ups not taken
        self.is_up = False  # whether we would hear a wake-up now
        self._process = process
        self._redis = Redis.from_url(  # retries are ours: one try, then backoff
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            decode_responses=True,
        )
        self._on_wake: Callable[[str], None] = lambda _: None
        self._pending: dict[tuple[int, str], None] = {}  # a set that keeps its order
        self._has_pending = asyncio.Event()
        self._is_reported = False  # that Valkey is away: said once, until it is back
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, on_wake: Callable[[str], None]) -> None:
        """Listen and tell from now on; `on_wake` is synchronous and gets what `wake` was given."""
        self._on_wake = on_wake
        self._tasks = [
            asyncio.create_task(self._listen_forever(), name="wake-listen"),
            asyncio.create_task(self._tell_forever(), name="wake-tell"),
        ]

    def wake(self, process: int, what: str) -> None:
        """Tell a process that there is something for it; equal ones are told once.

        Never blocks and never raises. Ourselves we tell directly.
        """
        if process == self._process:
            self._on_wake(what)
            return
        if len(self._pending) >= MAX_PENDING:
            self.dropped += 1
            return
        self._tell(process, what[:MAX_TEXT])

    async def close(self) -> None:
        """Stop; what was not told yet is dropped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.is_up = False
        with contextlib.suppress(*_TROUBLE):
            await self._redis.aclose()

    # ---- telling ----

    def _tell(self, process: int, what: str) -> None:
        self._pending[process, what] = None
        self._has_pending.set()

    async def _tell_forever(self) -> None:
        while True:
            await self._has_pending.wait()
            self._has_pending.clear()
            pending, self._pending = self._pending, {}
            try:
                # not wait_for: in Python 3.11 it may swallow the cancelling of `close`
                async with (
                    asyncio.timeout(2 * _TIMEOUT_S),
                    self._redis.pipeline(transaction=False) as pipeline,
                ):
                    for process, what in pending:
                        pipeline.publish(f"{CHANNEL}{process}", what)
                    await pipeline.execute()
            except _TROUBLE as error:
                self.dropped += len(pending)
                self._failed(error)
                await asyncio.sleep(_BACKOFF_S[0])
            else:
                self.sent += len(pending)

    # ---- listening ----

    async def _listen_forever(self) -> None:
        wait_s = _BACKOFF_S[0]
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    async with asyncio.timeout(2 * _TIMEOUT_S):
                        await pubsub.subscribe(f"{CHANNEL}{self._process}")
                    self._came_up()
                    wait_s = _BACKOFF_S[0]
                    await self._listen(pubsub)
            except _TROUBLE as error:
                self.is_up = False
                self._failed(error)
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter only
            wait_s = min(wait_s * 2, _BACKOFF_S[1])

    async def _listen(self, pubsub: PubSub) -> None:
        """Until the connection breaks; while it is quiet we wake ourselves to see that it works."""
        loop = asyncio.get_running_loop()
        heard_at, is_asked = loop.time(), False
        while True:
            message = await pubsub.get_message(timeout=_TIMEOUT_S)
            quiet_s = loop.time() - heard_at
            if message is not None and message["type"] == "message":
                heard_at, is_asked = loop.time(), False
                self._heard(str(message["data"]))
            elif quiet_s > _QUIET_S + 2 * _TIMEOUT_S:
                raise TimeoutError("the subscription is deaf")
            elif quiet_s > _QUIET_S and not is_asked:
                is_asked = True
                self._tell(self._process, _ECHO)

    def _heard(self, what: str) -> None:
        if what == _ECHO:
            return
        self.heard += 1
        try:
            self._on_wake(what)
        except Exception:  # the one of this loop: a bug behind it must not deafen us
            self.failures += 1
            log.exception("a wake-up was not taken")

    def _came_up(self) -> None:
        self.is_up = True
        if self._is_reported:
            self._is_reported = False
            log.info("wake-ups are back")

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        if not self._is_reported:
            self._is_reported = True
            log.warning(
                "wake-ups do not work: others are polled",
                error=tls_trouble(error, VALKEY) or type(error).__name__,
            )
