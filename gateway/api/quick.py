"""The ordinary POST /v1/messages without an ASGI task: admitted in the parser's callback.

uvicorn starts a task, an event and a dozen dictionaries for each request; at single sends that was
a third of a worker's time. What this door sees is a whole request that arrived in one piece. When
anything about it is out of the ordinary it answers None before it has changed anything, and the
raw ASGI door (`send.py`) takes the request from the start: one set of rules, one set of refusals.

    whole request ─▶ take ─┬─ None ────────────────────────────────────▶ the raw ASGI door
      tokens asked for, if │                                                     ▲
      there may be enough  ├─ wait ─▶ none after all ────────────────────────────┘
                           └─ accept ─┬─ stored ─▶ 202
                                      └─ its key or client_ref is taken ─▶ the raw ASGI door, from
                                         (nothing was stored)              here: replay, 409 or 422
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Coroutine, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.admit import Refused, admit
from gateway.api.answers import build_accepted
from gateway.api.auth import allow, authenticate
from gateway.api.bodies import THREAD_BYTES, parse_one
from gateway.api.frame import (
    JSON_TYPE,
    PROBLEM_TYPE,
    limit_headers,
    request_id_of,
)
from gateway.api.once import digest_small, parse_key
from gateway.api.port import FlowPort, TakenPort
from gateway.api.problems import Header, Problem, ProblemError, build_body, retry_after
from gateway.api.send import MESSAGES, STORE_RETRY_S, TAKEN, SendDoor, whole_ms
from gateway.pumping import Pumping, is_certain
from ratelimit.otp_guard import Counted
from sms.config import Snapshot, Tenant
from sms.errors import KeyTaken, NotFirst, OutcomeUnknown, StoreUnavailable
from sms.model import Message, MessageClass
from telemetry.failpoints import failpoints
from telemetry.logs import get_logger

if TYPE_CHECKING:
    from store.intake import IntakeKey

log = get_logger(__name__)

_OTP = MessageClass.OTP
MAX_KNOWN = 4096  # bearer headers kept with their tenants
# A request that has one of these goes the other way.
_UNUSUAL = frozenset(
    {
        b"content-encoding",
        b"transfer-encoding",
        b"expect",
        b"upgrade",
        b"x-smsgw-key",
        b"x-smsgw-timestamp",
        b"x-smsgw-nonce",
        b"x-smsgw-signature",
    }
)


# A bearer header that was looked up: under which configuration, how long it is good, whose it is.
_Seen = tuple[Snapshot, float, Tenant]
_Answer = tuple[int, list[Header], bytes]


class Quick:
    """One request on its way to the commit: `stored` is done when the promise can be given."""

    __slots__ = (
        "_door",
        "_message",
        "_request_id",
        "_started",
        "_tenant",
        "late",
        "stored",
        "taken",
    )

    def __init__(  # noqa: PLR0913, PLR0917 (one call, on the hot path: keywords cost)
        self,
        door: QuickDoor,
        tenant: Tenant,
        message: Message,
        taken: TakenPort,
        request_id: str,
        started: float,
        stored: Future[None],
    ) -> None:
        self._door = door
        self._tenant = tenant
        self._message = message
        self.taken = taken
        self._request_id = request_id
        self._started = started
        self.stored = stored
        self.late: _Answer | None = None  # what the other door said, where the key was taken

    def answer(self) -> _Answer:
        """Status, headers and body once `stored` is done."""
        if self.late is not None:
            return self.late
        door = self._door
        try:
            self.stored.result()
        except StoreUnavailable:
            door.put_back(self._tenant, self._message, self.taken)
            detail = "The store does not answer; nothing was accepted."
            status, headers, body = self._refusal(
                retry_after("store.unavailable", detail, STORE_RETRY_S)
            )
        except OutcomeUnknown:
            detail = "The store went away during the commit; nobody can say whether it holds this."
            status, headers, body = self._refusal(Problem("outcome_unknown", detail))
        else:
            status, headers, body = 202, [JSON_TYPE], build_accepted(self._message)
        headers.append((b"x-request-id", self._request_id.encode()))
        headers += limit_headers(self.taken)
        door.count(status, self._started)
        return status, headers, body

    def _refusal(self, problem: Problem) -> tuple[int, list[Header], bytes]:
        self._door.refused(problem.code)
        body = build_body(problem, self._request_id)
        return problem.status, [PROBLEM_TYPE, *problem.headers], body


class _Sent(NamedTuple):
    """A request whose answer has to wait for more than its commit."""

    quick: Quick
    tenant: Tenant
    message: Message
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    peer: tuple[str, int] | None
    keys: Sequence[IntakeKey]

    @property
    def own(self) -> IntakeKey | None:
        """The request's own key, which stands first; a client_ref's has no digest."""
        return self.keys[0] if self.keys and self.keys[0].digest else None


class QuickDoor:
    """Knows the keys it has seen; everything else is the send door's."""

    def __init__(self, flow: FlowPort, door: SendDoor, monotonic: Callable[[], float]) -> None:
        self._flow = flow
        self._door = door
        self._monotonic = monotonic
        self._snapshot: Snapshot | None = None
        self._known: dict[bytes | None, _Seen] = {}
        # Requests whose key was taken or whose tokens are asked for; a drain waits for their
        # connections, which are busy.
        self._late: set[asyncio.Task[None]] = set()
        self._is_off = flow.access.log.has_sends  # the long way alone writes the access log

    def take(  # noqa: PLR0911, PLR0912, PLR0915, C901 (each way out is one thing out of the ordinary)
        self,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        peer: tuple[str, int] | None = None,
    ) -> Quick | None:
        """Admit and hand over one message; None = not an ordinary one, nothing was done."""
        started = self._monotonic()
        known = dict(headers)
        if (
            self._is_off
            or len(known) != len(headers)
            or b"host" not in known
            or known.get(b"content-type") != b"application/json"
            or not _UNUSUAL.isdisjoint(known)
            or len(body) > THREAD_BYTES
        ):
            return None
        flow = self._flow
        now = self._door.now()
        seen = self._known.get(known.get(b"authorization"))
        if seen is None or seen[0] is not flow.snapshot or now >= seen[1]:
            seen = self._look_up(known, now)
        if seen is None:
            return None
        tenant = seen[2]
        is_guarded = tenant.allowed_ips or tenant.client_certificates
        if is_guarded and not self._is_allowed(tenant, peer, headers):
            return None
        try:
            entry, errors = parse_one(body)
            name = parse_key(known.get(b"idempotency-key"))
        except ProblemError:
            return None
        if failpoints.is_armed:
            failpoints.hit("door.parsed")
        message = admit(entry, tenant, self._door.rules(), whole_ms(now))
        if errors or isinstance(message, Refused) or flow.shed(message.message_class) is not None:
            return None
        keys = self._keys(message, name, body)
        if flow.route_full(message) is not None or (keys and flow.holder(keys) is not None):
            return None
        segments = len(message.texts)
        taken = flow.limiter.take(tenant.id, message.message_class, segments, started)
        is_asked = taken is None and flow.limiter.expects(tenant.id, segments, started)
        if is_asked:
            taken = flow.limiter.look(tenant.id, started)  # until the answer is there
        if taken is None or taken.retry_after_s:
            return None
        if is_asked:
            stored = asyncio.get_running_loop().create_future()
            quick = Quick(self, tenant, message, taken, request_id_of(known), started, stored)
            self._later(self._wait(_Sent(quick, tenant, message, headers, body, peer, keys)))
            return quick
        if failpoints.is_armed:
            failpoints.hit("admit.charged")
        if not flow.room(message.message_class, 1):
            self.put_back(tenant, message, taken)
            return None
        # Nothing after this line may fail: the long way would accept the message a second time.
        request_id = request_id_of(known)
        if not keys and (message.message_class is not _OTP or not self._is_watched(tenant)):
            stored = flow.accept([message])
            return Quick(self, tenant, message, taken, request_id, started, stored)
        stored = asyncio.get_running_loop().create_future()
        quick = Quick(self, tenant, message, taken, request_id, started, stored)
        self._begin(_Sent(quick, tenant, message, headers, body, peer, keys))
        return quick

    async def _wait(self, sent: _Sent) -> None:
        """A call to Valkey decides, one for all that wait; the other door says a refusal."""
        try:
            is_taken = await self._charge(sent)
        except Exception:  # as of the short way itself: the other door meets it again
            log.exception("short way failed")
            self.crashed()
            is_taken = False
        if not is_taken:
            await self._ask(sent, None)
            return
        try:
            self._begin(sent)
        except Exception:  # not asked again: it may have been accepted
            log.exception("request failed")
            sent.quick.late = self._failure(sent)
            sent.quick.stored.set_result(None)

    async def _charge(self, sent: _Sent) -> bool:
        """Take tokens and room for a message; False = nothing was taken."""
        flow, quick, message = self._flow, sent.quick, sent.message
        wanted = {message.message_class: len(message.texts)}
        try:
            taken = await flow.limiter.ask(sent.tenant.id, wanted, self._monotonic())
        except StoreUnavailable:
            return False
        if taken.retry_after_s:
            return False
        quick.taken = taken
        if failpoints.is_armed:
            failpoints.hit("admit.charged")
        is_held = bool(sent.keys) and flow.holder(sent.keys) is not None
        if is_held or not flow.room(message.message_class, 1):
            self.put_back(sent.tenant, message, taken)
            return False
        return True

    def _failure(self, sent: _Sent) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """The answer to a request that failed; status, headers, body."""
        problem = Problem("internal.error", "The gateway failed while it answered.")
        self.refused(problem.code)
        request_id = request_id_of(dict(sent.headers))
        kept = [PROBLEM_TYPE, (b"x-request-id", request_id.encode())]
        return problem.status, kept, build_body(problem, request_id)

    def _is_watched(self, tenant: Tenant) -> bool:
        pumping = self._flow.pumping
        return pumping is not None and pumping.watches(tenant, _OTP)

    def _begin(self, sent: _Sent) -> None:
        """An otp message is counted first; one with keys may be of another class."""
        pumping = self._flow.pumping
        if pumping is None or not pumping.watches(sent.tenant, sent.message.message_class):
            self._accept(sent)
            return
        try:
            counted = pumping.ask_one(sent.tenant, sent.message, sent.own)
        except BaseException:  # told on; the message was certainly not accepted
            self._flow.give_back(sent.message.message_class, 1)
            self.put_back(sent.tenant, sent.message, sent.quick.taken)
            raise
        counted.add_done_callback(partial(self._counted, pumping, sent))

    def _counted(
        self, pumping: Pumping, sent: _Sent, counted: asyncio.Future[list[Counted]]
    ) -> None:
        """An otp message was counted: accept it, or let the other door say why not."""
        if failpoints.is_armed:
            failpoints.hit("otp.counted")
        if sent.quick.stored.done():  # nobody waits any more: nothing was promised
            pumping.guard.give_back(counted.result())
            self._flow.give_back(sent.message.message_class, 1)
            self.put_back(sent.tenant, sent.message, sent.quick.taken)
            return
        found = counted.result()
        if not found[0].wait_s and not (sent.keys and self._flow.holder(sent.keys) is not None):
            self._accept(sent, found)
            return
        pumping.guard.give_back(found)
        self._flow.give_back(sent.message.message_class, 1)
        self.put_back(sent.tenant, sent.message, sent.quick.taken)
        self._again(sent, None)

    def _accept(self, sent: _Sent, counted: list[Counted] | None = None) -> None:
        accepted = self._flow.accept([sent.message], None, sent.keys)
        accepted.add_done_callback(partial(self._spoken, sent, counted))

    def _keys(self, message: Message, name: bytes | None, body: bytes) -> list[IntakeKey]:
        """What the request is known by; mostly nothing."""
        if name is None and message.client_ref is None:
            return []
        hasher = self._flow.intake.hasher
        keys = hasher.refs([message])
        if name is not None:
            digest = digest_small(hasher, body)
            keys.insert(0, hasher.request(message.tenant, MESSAGES, name, digest))
        return keys

    def _spoken(self, sent: _Sent, counted: list[Counted] | None, accepted: Future[None]) -> None:
        """The store has spoken: pass it on, or let the other door answer who was not first."""
        stored = sent.quick.stored
        if accepted.cancelled():
            stored.cancel()
            return
        error = accepted.exception()
        pumping = self._flow.pumping
        if error is not None and counted and pumping is not None and is_certain(error, sent.own):
            pumping.guard.give_back(counted)
        if isinstance(error, NotFirst):
            self.put_back(sent.tenant, sent.message, sent.quick.taken)
            self._again(sent, error)
        elif error is not None:
            stored.set_exception(error)
        else:
            stored.set_result(None)

    def _again(self, sent: _Sent, error: NotFirst | None) -> None:
        """Let the other door answer; it finds the same, or what changed meanwhile."""
        self._later(self._ask(sent, error))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _ask(self, sent: _Sent, error: NotFirst | None) -> None:
        """The whole request once more, by the raw ASGI door."""
        told = _Told()
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": MESSAGES,
            "query_string": b"",
            "headers": list(sent.headers),
            "client": sent.peer,
        }
        if isinstance(error, KeyTaken):
            scope[TAKEN] = error

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": sent.body}

        try:
            await self._door(scope, receive, told)
        except Exception:  # the outermost frame of a request, as the app's own is
            log.exception("request failed")
            told.answer = self._failure(sent)
        sent.quick.late = told.answer
        sent.quick.stored.set_result(None)

    def _look_up(self, headers: dict[bytes, bytes], now: float) -> _Seen | None:
        """The sender of a bearer key not seen under this configuration: here is the HMAC."""
        snapshot = self._flow.snapshot
        key = authenticate(headers, snapshot, self._flow.keyring.pepper, now)
        if isinstance(key, Problem) or allow(key, "send", snapshot) is not None:
            return None
        tenant = snapshot.tenants.get(key.tenant)
        if tenant is None:
            return None
        if snapshot is not self._snapshot or len(self._known) >= MAX_KNOWN:
            self._snapshot = snapshot  # what was known under another one is of no use
            self._known.clear()
        seen = self._known[headers[b"authorization"]] = snapshot, key.valid_until, tenant
        return seen

    def _is_allowed(
        self, tenant: Tenant, peer: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]]
    ) -> bool:
        return self._door.gate.is_allowed(tenant.id, peer[0] if peer else None, headers)

    def put_back(self, tenant: Tenant, message: Message, taken: TakenPort) -> None:
        """Give tokens back: the message was certainly not accepted."""
        wanted = {message.message_class: len(message.texts)}
        self._flow.limiter.put_back(tenant.id, wanted, self._monotonic(), taken.charged_at)

    def crashed(self) -> None:
        """Count a request that the short way could not even judge."""
        self._flow.metrics.quarantined_total.inc(("short_way",))

    def refused(self, code: str) -> None:
        """Count a refusal."""
        self._flow.metrics.refused_total.inc((code,))

    def count(self, status: int, started: float) -> None:
        """Count one answer with the seconds it took."""
        self._flow.metrics.http_request_seconds.observe(
            (MESSAGES, "POST", str(status)), self._monotonic() - started
        )


class _Told:
    """Takes an ASGI answer down."""

    def __init__(self) -> None:
        self.answer: _Answer = 0, [], b""

    async def __call__(self, event: MutableMapping[str, Any]) -> None:
        status, headers, body = self.answer
        if event["type"] == "http.response.start":
            status = event["status"]
            # The protocol counts the body itself.
            headers = [pair for pair in event["headers"] if pair[0] != b"content-length"]
        else:
            body += event.get("body", b"")
        self.answer = status, headers, body
