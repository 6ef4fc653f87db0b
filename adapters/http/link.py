"""Whether a vendor can be reached: told from connections that stood or failed, and probed for.

    down ──a connection stood──▶ up ──FAILURES in a row failed──▶ down: probed with backoff
                                └──no request for `probe_s`: probed too, so that nobody is told
                                   "up" of a backup that has been away since the last message

What a vendor answers is no matter of the link: an account that it refuses is said once a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from adapters.backoff import Backoff
from adapters.base import ChannelSink
from adapters.http.client import Client, Failed, names_host
from adapters.http.vendor import Reply
from adapters.session import SessionPolicy
from adapters.shell import LEASE_LOOK_S, REMIND_S
from sms import config
from sms.outcomes import Cause, Outcome, Rejected, Uncertain
from telemetry.logs import get_logger

log = get_logger(__name__)

FAILURES = 5  # in a row, and the link is down (RELIABILITY section 7)
JITTER = 0.2  # of the time between two probes, either way: they come from many processes


class Link:
    """The way to one vendor."""

    def __init__(
        self,
        channel: config.Channel,
        sink: ChannelSink,
        policy: SessionPolicy,
        dice: Callable[[], float],
    ) -> None:
        self.is_up = False
        self.failures = 0  # connections that failed, in all
        self.last_reason = ""  # why the newest one did
        self.probes_s: list[float] = []  # how long each that worked took, until taken
        self._channel = channel
        self._sink = sink
        self._policy = policy
        self._dice = dice
        self._row = 0  # failures since the last success
        self._was_used = False  # a connection stood since the last look
        self._told = ("", -REMIND_S)  # the reason logged last, and when (monotonic)
        self._refusal_told_at = -REMIND_S
        self._unclear_told_at = -REMIND_S
        self._went_down = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, client: Client, url: str) -> None:
        """Probe until it is up, and whenever it goes down."""
        name = f"{self._channel.protocol} {self._channel.name}"
        self._task = asyncio.get_running_loop().create_task(self._keep(client, url), name=name)

    async def stop(self) -> None:
        """Probe no more; who stops a channel knows that it is down."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def why_down(self) -> str:
        """Why there is no connection, with a remedy; "" while there is one."""
        return "" if self.is_up else self.last_reason or "still connecting"

    def reached(self) -> None:
        """A connection stands."""
        self._row = 0
        self._was_used = True
        if self.is_up or self._stopping.is_set():
            return
        self.is_up = True
        self._told = ("", -REMIND_S)
        self._went_down.clear()
        log.info("vendor reached", channel=self._channel.name, protocol=self._channel.protocol)
        self._sink.link_changed(self._channel.id, True, "connected")
        self._sink.window_open(self._channel.id)

    def unreached(self, reason: str) -> None:
        """A connection could not be made."""
        self._row += 1
        self.failures += 1
        self.last_reason = reason
        if not self.is_up or self._row < FAILURES:
            return
        self.is_up = False
        self._tell_down()
        self._went_down.set()
        if not self._stopping.is_set():
            self._sink.link_changed(self._channel.id, False, reason)

    def answered(self, reply: Reply, outcomes: Sequence[Outcome]) -> None:
        """The vendor answered; when it refuses our account or says nothing clear, tell."""
        self._tell_unclear(reply, outcomes)
        is_refused = reply.status in (401, 403) or any(
            isinstance(one, Rejected) and one.cause is Cause.CONFIG for one in outcomes
        )
        now = time.monotonic()
        if not is_refused or now - self._refusal_told_at < REMIND_S:
            return
        self._refusal_told_at = now
        codes = {one.code for one in outcomes if isinstance(one, Rejected)}
        log.warning(
            "the vendor refuses our account; check its keys, balance, sender and the addresses"
            " that it lets in",
            channel=self._channel.name,
            protocol=self._channel.protocol,
            status=reply.status,
            codes=sorted(codes)[:5],
        )

    def _tell_unclear(self, reply: Reply, outcomes: Sequence[Outcome]) -> None:
        """Once a minute: an answer that does not say whether the messages were taken."""
        unclear = sum(isinstance(one, Uncertain) for one in outcomes)
        now = time.monotonic()
        if not unclear or now - self._unclear_told_at < REMIND_S:
            return
        self._unclear_told_at = now
        log.warning(
            "the vendor's answer does not say whether it took the messages: they are uncertain;"
            " ask the vendor, and if it took none have its code mapped",
            channel=self._channel.name,
            protocol=self._channel.protocol,
            status=reply.status,
            octets=len(reply.body),
            messages=unclear,
        )

    async def _keep(self, client: Client, url: str) -> None:
        """Probe with backoff while it is down; wait for its next fall while it is up."""
        backoff = Backoff(self._policy, self._dice)
        while not self._stopping.is_set():
            if self.is_up:
                if not await self._has_fallen(client, url):
                    continue
                wait_s = backoff.fell()
            elif not self._sink.may_submit():  # a process that owns nothing need not be up
                self.last_reason = "the lease of this process is over"
                await _pause(self._stopping, LEASE_LOOK_S)
                continue
            else:
                failed = await self._probe(client, url)
                if failed is None:
                    backoff.held()
                    self.reached()
                    continue
                wait_s = backoff.unreached()
                self.unreached(failed.reason)
                self._tell_down()
            await _pause(self._stopping, wait_s)

    async def _has_fallen(self, client: Client, url: str) -> bool:
        """Wait for its fall, and probe once when nothing was sent meanwhile; whether it fell."""
        spread = 1.0 + JITTER * (2.0 * self._dice() - 1.0)
        longest = min(self._policy.probe_s * spread, self._policy.reconnect_max_s)
        if await _pause(self._went_down, self._policy.reconnect_min_s if self._row else longest):
            return True
        is_idle, self._was_used = not self._was_used, False
        if not is_idle or not self._sink.may_submit():
            return False
        failed = await self._probe(client, url)
        if failed is None:
            self._row = 0
        else:
            self.unreached(failed.reason)
        return not self.is_up

    async def _probe(self, client: Client, url: str) -> Failed | None:
        """An address that parts of a message complete is known when there is one: no doubt of it
        before."""
        if not names_host(url):
            return None
        began = time.monotonic()
        failed = await client.reach(url)
        if failed is None:
            self.probes_s.append(time.monotonic() - began)
        return failed

    def _tell_down(self) -> None:
        """Log why: each reason when it is new, then once a minute."""
        now = time.monotonic()
        reason, at = self._told
        if self._stopping.is_set() or (reason == self.last_reason and now - at < REMIND_S):
            return
        self._told = (self.last_reason, now)
        log.warning(
            "channel cannot hold a session",
            channel=self._channel.name,
            protocol=self._channel.protocol,
            reason=self.last_reason,
            failures=self.failures,
            sessions=0,
        )


async def _pause(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait so long, or until that happened; whether it did."""
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False
