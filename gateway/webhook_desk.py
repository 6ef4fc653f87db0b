"""What a tenant can see and do of its webhook endpoints, beside their path.

    request made ─▶ note() ─▶ webhook_attempts (batches)          shown by /attempts, timeline
                       └────▶ webhook_health ─▶ warned, disabled  all failing: 24 h, 5 days
    410 ─▶ note() ─▶ disabled                                     a version of the object
    :replay ─▶ webhook_replays ─▶ webhook_parked ─▶ sent as parked events are

Nothing here is waited for by a message. What is not written yet at a kill is missing from the list
of attempts, never an event: events are done by their cursor and `webhook_parked` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from gateway.allowlist import allow_list
from gateway.changelimit import ChangeLimit
from gateway.courier import Tried
from gateway.notices import type_of_path
from gateway.settings import Settings
from sms.config import WebhookEndpoint, wants_event
from sms.errors import LeaseLost, StoreUnavailable, Unavailable
from sms.ids import id_at
from store.attempts import Attempt, AttemptStore, Noted
from store.audit import Author
from store.config import ConfigStore
from store.database import Pool
from store.objects import Upsert
from store.processes import ProcessLease
from store.replays import Replay, ReplayStore
from store.seal import Keyring
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger
from telemetry.metrics import Metrics
from webhooks.address import AllowList
from webhooks.deliver import Delivered, Failed, Gone

ROUND_S = 0.5
MAINTENANCE_S = 3600.0
DEFAULT_CHANGES_PER_MIN = 30
MOST_WAITING = 20_000  # attempts in memory while the store is away; more are only counted
_ROWS = 500  # of one COPY, made ready in one turn of the loop: some 2 ms
_PAGES = 5  # of replays in one round
_LOOKS = 25  # at replays in one round; endpoints that have enough are passed over
_DELIVERED_S = 60.0  # between two words about an endpoint that takes everything
_STOP_S = 1.0
_AWAY_S = 5.0  # after a round that failed as none should
_KIND = "webhook_endpoint"
GONE, FAILING = "gone", "failing"  # why an endpoint is disabled
AUTHOR = Author("gateway", "webhooks")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When an endpoint to which everything fails is told of, and left alone; seconds."""

    warn_s: float = 86_400.0
    disable_s: float = 432_000.0


class WebhookDesk:
    """One of each process, on its event loop."""

    def __init__(  # noqa: PLR0913 - what it is joined to, all by keyword
        self,
        *,
        attempts: AttemptStore,
        replays: ReplayStore,
        config: ConfigStore,
        metrics: Metrics,
        next_id: Callable[[], int],
        allow: AllowList,
        policy: HealthPolicy | None = None,
        changes: ChangeLimit | None = None,
        unix: Callable[[], float] = time.time,
    ) -> None:
        """`next_id` gives attempts and replays their ids."""
        self.allow = allow
        self.changes = changes or ChangeLimit(DEFAULT_CHANGES_PER_MIN)
        self.next_id = next_id
        self.hurry: Callable[[int], None] = lambda _: None  # the notifier's: look at its due events
        self.send_test: Callable[[WebhookEndpoint, int], bool] = lambda _config, _id: False
        self.forget_health = attempts.forget_health
        self._attempts = attempts
        self._replays = replays
        self._config = config
        self._metrics = metrics
        self._policy = policy or HealthPolicy()
        self._unix = unix
        self._endpoints: Mapping[int, WebhookEndpoint] = {}
        self._off: set[int] = set()  # whose waiting events are to become dead letters
        self._waiting: deque[Attempt] = deque()
        self._seen: dict[int, Noted] = {}  # since the last word to the store
        self._said_at: dict[int, float] = {}  # when a delivery was told last
        self._to_disable: dict[int, tuple[WebhookEndpoint, str]] = {}  # … and why
        self._disable_from = 0.0  # Unix; later after one that could not be
        self._soon = asyncio.Event()
        self._maintained_at = -MAINTENANCE_S
        self._task: asyncio.Task[None] | None = None

    # -- from the path ---------------------------------------------------------------------

    def note(self, tried: Tried) -> None:
        """A request was made. Returns at once; the row follows with the next batch."""
        code, status, answer = _told(tried)
        if answer and self.allow.lists(tried.endpoint.url):
            answer = b""  # what stands in the operator's network says is not for tenants to read
        if len(self._waiting) >= MOST_WAITING:
            self._metrics.webhook_attempts_unlogged_total.inc()
        else:
            self._waiting.append(
                Attempt(
                    id=self.next_id(),
                    endpoint=tried.endpoint.id,
                    event_ids=tried.event_ids,
                    is_batch=tried.endpoint.batch,
                    at=tried.at,
                    ms=tried.ms,
                    tries=tried.tries,
                    status=status,
                    code=code,
                    next_at=tried.next_at,
                    answer=answer,
                )
            )
        if tried.tries:  # a test says nothing of the endpoint's health
            self._note_health(tried)

    def _note_health(self, tried: Tried) -> None:
        number = tried.endpoint.id
        if isinstance(tried.delivery, Delivered):
            before = self._seen.get(number)
            if before is None or before.failing_since is not None:  # the first of a round says it
                self._seen[number] = Noted(number, tried.at, None)
            return
        if isinstance(tried.delivery, Gone):
            self._to_disable[number] = tried.endpoint, GONE
        seen = self._seen.get(number, Noted(number, None, None))
        if seen.failing_since is None:
            self._seen[number] = seen._replace(failing_since=tried.at)

    def reconfigure(self, endpoints: Mapping[int, WebhookEndpoint]) -> None:
        """Take over the endpoints of a new configuration."""
        self._endpoints = endpoints
        self._off = {one.id for one in endpoints.values() if one.is_disabled}

    # -- from the API ----------------------------------------------------------------------

    async def replay(
        self, config: WebhookEndpoint, after: int, until: int, *, is_failed: bool
    ) -> bool:
        """Send the events above `after`, up to `until`, again; durable when this returns.

        `is_failed`: only dead letters. False, and nothing follows: the endpoint has a replay that
        is not done. Raises StoreUnavailable, OutcomeUnknown.
        """
        is_taken = await self._replays.add(
            Replay(self.next_id(), config.id, config.tenant, is_failed, after, until)
        )
        self._soon.set()
        return is_taken

    async def replay_one(self, config: WebhookEndpoint, event_id: int) -> bool:
        """Send one event again, whatever the filter says; False when the tenant has none such."""
        found = await self._replays.one(
            config.id, config.tenant, event_id, lambda _, path: type_of_path(path) is not None
        )
        if found:
            self.hurry(config.id)
        return found

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; called on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Write what is not written yet; at most a second."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(Unavailable, LeaseLost, TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await self._write()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._soon.wait()
            self._soon.clear()
            try:
                await self.round()
            except (Unavailable, LeaseLost) as error:  # of a lost lease others make an end
                log.warning("webhook desk waits for the store", error=str(error))
            except Exception:
                # Its list of attempts must not end a process that delivers.
                log.exception("webhook desk")
                await asyncio.sleep(_AWAY_S)

    async def round(self) -> None:
        """Write, judge, replay, clean: one of each."""
        await self._write()
        await self._judge()
        await self._disable_some()
        while self._off:
            if await self._replays.give_up(self._off) == 0:
                self._off = set()
        await self._replay()
        now = self._unix()
        if now - self._maintained_at >= MAINTENANCE_S:
            self._maintained_at = now
            await self._maintain(now)

    async def _write(self) -> None:
        while self._waiting:
            rows = [self._waiting[place] for place in range(min(len(self._waiting), _ROWS))]
            if failpoints.is_armed:
                failpoints.hit("notify.logged")
            try:
                await self._attempts.write(rows)
            except StoreUnavailable:
                raise
            except Exception:
                log.exception("webhook attempts not kept", rows=len(rows))
                self._metrics.webhook_attempts_unlogged_total.inc((), len(rows))
            for _ in rows:
                self._waiting.popleft()

    async def _judge(self) -> None:
        """Tell what was seen, and act on endpoints to which everything has failed for long."""
        now = self._unix()
        said = self._said_at
        told = [
            one
            for one in self._seen.values()
            if one.failing_since is not None or now - said.get(one.endpoint, 0.0) >= _DELIVERED_S
        ]
        if not told:
            self._seen.clear()
            return
        self._seen = {}
        try:
            standing = await self._attempts.note(told)
        except StoreUnavailable:
            for one in told:
                self._seen.setdefault(one.endpoint, one)
            raise
        for one in told:
            said[one.endpoint] = 0.0 if one.failing_since is not None else now
        for number, stands in standing.items():
            config = self._endpoints.get(number)
            if config is None or config.is_disabled or stands.failing_since is None:
                continue
            for_s = now - stands.failing_since
            if for_s >= self._policy.disable_s:
                self._to_disable.setdefault(number, (config, FAILING))
            elif for_s >= self._policy.warn_s and stands.warned_at is None:
                await self._warn(config, for_s)

    async def _warn(self, config: WebhookEndpoint, for_s: float) -> None:
        if await self._attempts.warn_once(config.id):
            self._metrics.webhook_notices_total.inc(("warned",))
            log.warning(
                "webhook endpoint takes nothing",
                endpoint=config.id,
                tenant=config.tenant,
                for_s=round(for_s),
            )

    async def _disable_some(self) -> None:
        # One that cannot be disabled ends the round for nobody: it goes behind the others.
        now = self._unix()
        if now < self._disable_from:
            return
        for number, (config, why) in list(self._to_disable.items()):
            try:
                await self._disable(config, why)
            except LeaseLost:
                raise
            except Exception:
                log.exception("webhook endpoint not disabled yet", endpoint=number, why=why)
                self._to_disable[number] = self._to_disable.pop(number)
                self._disable_from = now + _AWAY_S
                return
            del self._to_disable[number]

    async def _disable(self, config: WebhookEndpoint, why: str) -> None:
        """Switch it off for all processes: a version of the object, by us."""
        async with self._config.change(AUTHOR) as change:
            standing = await change.by_id(_KIND, config.id)
            if (
                standing is None
                or standing.spec["url"] != config.url
                or "disabled" in standing.spec
            ):
                return
            spec = standing.spec | {"disabled": why}
            await change.put(Upsert(_KIND, standing.name, spec, standing.secrets, "disabled"))
        self._metrics.webhook_notices_total.inc((why,))
        log.error("webhook endpoint disabled", endpoint=config.id, tenant=config.tenant, why=why)

    async def _replay(self) -> None:
        endpoints = self._endpoints  # others may come while a step waits
        known = {one.id for one in endpoints.values() if not one.is_disabled}

        def wants(endpoint: int, path: int) -> bool:
            kind = type_of_path(path)
            return kind is not None and wants_event(endpoints[endpoint].events, kind)

        pages = looks = 0
        while known and pages < _PAGES and looks < _LOOKS:
            looks += 1
            step = await self._replays.step(known, wants)
            if step is None:
                return
            if step.parked:
                self.hurry(step.endpoint)
            if step.has_more or step.parked:
                pages += 1
            if not step.has_more:
                known.discard(step.endpoint)  # the others' turn

    async def _maintain(self, now: float) -> None:
        self._off |= {one.id for one in self._endpoints.values() if one.is_disabled}
        self._said_at = {n: at for n, at in self._said_at.items() if n in self._endpoints}
        await self._replays.clean(now)


def open_desk(
    settings: Settings,
    lease: ProcessLease,
    pool: Pool,
    keyring: Keyring,
    metrics: Metrics,
    next_id: Callable[[], int],
) -> WebhookDesk:
    """The desk of one worker; the notifier joins it."""
    numbers = settings.reliability
    return WebhookDesk(
        attempts=AttemptStore(pool, keyring),
        replays=ReplayStore(pool, lease.process),
        config=ConfigStore(pool, keyring),
        metrics=metrics,
        next_id=next_id,
        allow=allow_list(settings),
        policy=HealthPolicy(numbers.webhook_warn_s, numbers.webhook_disable_s),
        changes=ChangeLimit(numbers.webhook_changes_per_min),
    )


def first_id(unix_s: float) -> int:
    """The id before all of that moment: an end, or a beginning, of a replay."""
    return max(id_at(unix_s) - 1, 0)


def _told(tried: Tried) -> tuple[str, int | None, bytes]:
    """Code, HTTP status, and the beginning of the answer."""
    delivery = tried.delivery
    match delivery:
        case Delivered():
            return "webhook.delivered", delivery.status, delivery.answer
        case Failed():
            return delivery.fault.value, delivery.status, delivery.answer
        case Gone():
            return "webhook.gone", 410, delivery.answer
        case _:
            assert_never(delivery)
