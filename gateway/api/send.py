"""The raw ASGI door of POST /v1/messages and POST /v1/batches: JSON in, HTTP status out.

    headers: method, key, scope, media type ─▶ body ─▶ decode ─▶ admit ─▶ charge ─▶ accept ─▶ 202
             nothing of the body is read before the key is known to be good

What has an Idempotency-Key or a client_ref goes through `once` from the decoded body on: it may
get the answer of an earlier request, or have to wait for it.

It stands in front of FastAPI because these two routes carry the traffic (DESIGN decision 8): one
decode, one admit, one await until the commit. Everything else goes on to the app behind it. The
promise of a 202 is made by the await on `accept` and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from gateway.admit import Refused, Rules, admit, charge, check_defaults
from gateway.api.access import Caller, Gate
from gateway.api.answers import build_accepted, build_batch_accepted
from gateway.api.auth import allow
from gateway.api.bodies import (
    MAX_MESSAGE,
    THREAD_BYTES,
    Batch,
    check_media_type,
    parse_batch,
    parse_one_beside,
)
from gateway.api.explain import MAX_ERRORS
from gateway.api.frame import (
    JSON_TYPE,
    METHODS,
    NO_LIMITS,
    App,
    BodyReader,
    DisconnectedError,
    Receive,
    Scope,
    Send,
    answer,
    answer_problem,
    check_host,
    check_parameters,
    headers_of,
    limit_headers,
    refuse_secret_in_query,
    refuse_too_large,
    request_id_of,
)
from gateway.api.models import UNSET, SendRequest
from gateway.api.once import HeldError, Once, digest_batch, digest_one, parse_key, replayed
from gateway.api.port import FlowPort, TakenPort
from gateway.api.problems import (
    FieldError,
    Header,
    Problem,
    ProblemError,
    duplicate_ref,
    not_allowed,
    of_fields,
    retry_after,
)
from gateway.api.turns import Turns
from gateway.api.verdicts import Verdicts
from gateway.pumping import Tally, is_certain
from gateway.pumping import problem as over_cap
from gateway.pumping import refusal as cap_refusal
from sms.config import ApiKey, Tenant
from sms.errors import KeyTaken, NotFirst, OutcomeUnknown, RefsTaken, StoreUnavailable
from sms.model import Message, MessageClass
from telemetry.failpoints import failpoints

if TYPE_CHECKING:
    from store.intake import IntakeKey

MESSAGES = "/v1/messages"
BATCHES = "/v1/batches"
MAX_BODY = {MESSAGES: MAX_MESSAGE, BATCHES: 8 << 20}
STORE_RETRY_S = 2
TAKEN = "smsgw.taken"  # in a scope: the KeyTaken that the short way has met
_BATCH_SLICE_S = 0.003  # of the loop, then others have a turn (DESIGN 8: never above 5 ms)
_OF_A_ROUTE = ("route.missing", "content.no_template")
_LOOK_BYTES = 4096  # of messages between two looks at the clock


@dataclass(slots=True)
class _Request:
    """One request on its way through the door."""

    scope: Scope
    receive: Receive
    send: Send
    headers: dict[bytes, bytes]
    request_id: str
    signed: Caller | None = None  # not proven before its body is there
    is_known: bool = False  # its key is proven: limits are told
    key: ApiKey | None = None  # once it is proven
    tenant: Tenant | None = None
    taken: TakenPort | None = None  # what the bucket said last
    name: bytes | None = None  # its Idempotency-Key
    is_replay: bool = False  # the answer is that of an earlier request


class SendDoor:
    """The ASGI app; `app` gets what is not one of the two routes."""

    def __init__(
        self,
        flow: FlowPort,
        app: App,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flow = flow
        self._app = app
        self.now = now
        self._monotonic = monotonic
        self._rules = Rules(flow.snapshot, flow.policy, flow.porting.known)
        self.gate = Gate(flow)
        self._bodies = BodyReader(monotonic)
        self._once = Once(flow, monotonic)
        self._turns = Turns()
        self._handlers: dict[str, Callable[[_Request, Tenant, bytes], Awaitable[bytes]]] = {
            MESSAGES: self._send_one,
            BATCHES: self._send_batch,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        handler = self._handlers.get(scope["path"]) if scope["type"] == "http" else None
        # An address is ours as it is written, not in a spelling (%2f) that a proxy let pass.
        if handler is not None and scope["method"] in ("GET", "HEAD") and scope["path"] == MESSAGES:
            handler = None  # the list of messages
        if handler is None or scope.get("raw_path") not in (None, scope["path"].encode()):
            await self._app(scope, receive, send)
            return
        started = self._monotonic()
        headers = dict(scope["headers"])
        request = _Request(scope, receive, send, headers, request_id_of(headers))
        status = 500
        try:
            self._enter(request)
            body = await self._body(request)
            tenant = request.tenant or await self._prove(request, body)
            reply = await handler(request, tenant, body)
        except ProblemError as refusal:
            status = await self._refuse(request, refusal.problem)
        except DisconnectedError:
            status = 499  # only the metric sees it: there is nobody to answer
        else:
            status = 202
            await answer(send, status, reply, self._answer_headers(request))
            if failpoints.is_armed:
                failpoints.hit_soon("door.answered")
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            took_s = self._monotonic() - started
            self._flow.metrics.http_request_seconds.observe(
                (scope["path"], method, str(status)), took_s
            )
            if self._flow.access.log.has_sends or status in (401, 403):
                state = scope.setdefault("state", {})
                state |= {"request_id": request.request_id, "method": method, "key": request.key}
                self.gate.note(scope, scope["path"], status, took_s)

    def rules(self) -> Rules:
        """What admit asks of the configuration in force."""
        if self._flow.snapshot is not self._rules.snapshot:
            self._rules = Rules(self._flow.snapshot, self._flow.policy, self._flow.porting.known)
        return self._rules

    # -- before the body -----------------------------------------------------------------------

    def _enter(self, request: _Request) -> None:
        """Everything that needs no body; raises the refusal."""
        scope = request.scope
        check_host(scope)
        query: bytes = scope.get("query_string", b"")
        if query:
            refuse_secret_in_query(query)
        headers = request.headers
        if len(headers) != len(scope["headers"]):
            headers_of(scope["headers"])
        self.rules()
        caller = self.gate.identify(headers)
        if caller.signed is None:
            self._let_in(request, caller.key)
        else:
            request.signed = caller
            if scope["method"] != "POST":
                return  # told once the signature is proven
        if query:
            check_parameters(
                name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)
            )
        if headers.get(b"content-type") != b"application/json" or b"content-encoding" in headers:
            check_media_type(headers)
        request.name = parse_key(headers.get(b"idempotency-key"))

    def _let_in(self, request: _Request, key: ApiKey) -> Tenant:
        """The tenant of a key that is proven; raises the 403, or the 405."""
        snapshot = self._flow.snapshot
        request.key = key
        tenant = request.tenant = snapshot.tenants.get(key.tenant)
        request.is_known = True
        self.gate.check_address(key, request.scope)
        if request.scope["method"] != "POST":
            raise ProblemError(
                not_allowed(["GET", "POST"] if request.scope["path"] == MESSAGES else ["POST"])
            )
        problem = allow(key, "send", snapshot)
        if problem is not None or tenant is None:
            raise ProblemError(problem or Problem("auth.scope", "The key belongs to no tenant."))
        return tenant

    async def _prove(self, request: _Request, body: bytes) -> Tenant:
        """The tenant of a signed request; raises the 401 or 403."""
        if request.signed is None:
            raise RuntimeError("the request came in without a key")
        key = await self.gate.verify(request.signed, request.scope, body)
        return self._let_in(request, key)

    async def _body(self, request: _Request) -> bytes:
        limit = MAX_BODY[request.scope["path"]]
        declared = request.headers.get(b"content-length", b"")
        if len(declared) > 6 and (not declared.isdigit() or int(declared[:20]) > limit):
            raise await refuse_too_large(request.receive, limit, is_whole=False)
        return await self._bodies.read(request.receive, limit)

    # -- one message ---------------------------------------------------------------------------

    async def _send_one(self, request: _Request, tenant: Tenant, body: bytes) -> bytes:
        now = whole_ms(self.now())
        entry, errors = await parse_one_beside(body)
        if failpoints.is_armed:
            failpoints.hit("door.parsed")
        if request.name is None and entry.client_ref is UNSET:
            return await self._one(request, tenant, entry, errors, now, None)
        key = None
        if request.name is not None:
            hasher = self._flow.intake.hasher
            digest = await digest_one(hasher, body)
            key = hasher.request(tenant.id, MESSAGES, request.name, digest)
        replay = partial(self._once.one, tenant.id)
        taken: KeyTaken | None = request.scope.get(TAKEN)
        if taken is not None:
            request.is_replay = True
            return await replayed(key, taken, replay)
        work = partial(self._one, request, tenant, entry, errors, now, key)
        reply, request.is_replay = await self._once.do(key, work, replay)
        return reply

    async def _one(
        self,
        request: _Request,
        tenant: Tenant,
        entry: SendRequest,
        errors: list[FieldError],
        now: float,
        key: IntakeKey | None,
    ) -> bytes:
        verdict = admit(entry, tenant, self._rules, now)
        if errors or isinstance(verdict, Refused):
            raise ProblemError(of_fields(merge(errors, verdict)))
        tally: Tally = ()
        if verdict.message_class is MessageClass.OTP:
            tally = await self._count(tenant, [verdict], [0], key)
        if tally and tally[0][1].wait_s:
            raise ProblemError(over_cap(tally[0][1].wait_s))
        try:
            with self._given_back(tally, key):
                await self._accept(request, tenant, [verdict], "/text", key)
        except RefsTaken as refs:
            raise ProblemError(of_fields([duplicate_ref(refs.taken[0])])) from None
        return build_accepted(verdict)

    # -- a batch -------------------------------------------------------------------------------

    async def _send_batch(self, request: _Request, tenant: Tenant, body: bytes) -> bytes:
        await self._turns.mine()
        now = whole_ms(self.now())
        batch = await parse_batch(body)
        if failpoints.is_armed:
            failpoints.hit("door.parsed")
        key = None
        if request.name is not None:
            hasher = self._flow.intake.hasher
            digest = await digest_batch(hasher, batch, self._monotonic)
            key = hasher.request(tenant.id, BATCHES, request.name, digest)
        work = partial(self._batch, request, tenant, batch, now, key)
        reply, request.is_replay = await self._once.do(
            key, work, partial(self._once.batch, tenant.id)
        )
        return reply

    async def _batch(
        self, request: _Request, tenant: Tenant, batch: Batch, now: float, key: IntakeKey | None
    ) -> bytes:
        found = check_defaults(batch.defaults, tenant, self._rules)
        wrong = merge(batch.default_errors, Refused(found))
        if wrong:
            raise ProblemError(of_fields(_below("/defaults", wrong)))
        verdicts = await self._admit_batch(batch, tenant, now)
        tally = await self._count(tenant, verdicts.messages, verdicts.indexes, key)
        if tally:
            _take_over_caps(verdicts, tally)
        with self._given_back(tally, key):
            await self._store_batch(request, tenant, verdicts, key)
        if tally and self._flow.pumping is not None:
            self._flow.pumping.give_back(tally, verdicts.messages)
        for _, errors in verdicts.told:
            self._flow.metrics.refused_total.inc((errors[0].code,))
        messages = verdicts.messages
        accepted = [
            (index, message.id, len(message.texts))
            for index, message in zip(verdicts.indexes, messages, strict=True)
        ]
        return build_batch_accepted(accepted, messages[0].id, verdicts.rejected)

    async def _store_batch(
        self, request: _Request, tenant: Tenant, verdicts: Verdicts, key: IntakeKey | None
    ) -> None:
        """Accept what is left of it; raises the refusal when nothing is."""
        is_stored = False
        while not is_stored:
            if not verdicts.messages:
                raise ProblemError(verdicts.problem())
            try:
                await self._accept(
                    request, tenant, verdicts.messages, "/messages", key, verdicts.settle
                )
                is_stored = True
            except RefsTaken as refs:  # the others are tried again without them
                verdicts.take_out(refs.taken)

    async def _admit_batch(self, batch: Batch, tenant: Tenant, now: float) -> Verdicts:
        """A verdict for each entry; long batches let others have the loop in between."""
        verdicts = Verdicts()
        rules = self._rules
        errors_left = MAX_ERRORS
        unlooked = 0
        turn_ends = self._monotonic() + _BATCH_SLICE_S
        for index, raw in enumerate(batch.entries):
            unlooked += len(raw)
            if unlooked > _LOOK_BYTES:
                unlooked = 0
                if self._monotonic() > turn_ends:
                    await self._turns.mine()
                    turn_ends = self._monotonic() + _BATCH_SLICE_S
            if len(raw) > THREAD_BYTES:
                entry, errors = await batch.entry_beside(index)
            else:
                entry, errors = batch.entry(index)
            verdict = admit(entry, tenant, rules, now)
            if errors or isinstance(verdict, Refused):
                found = merge(errors, verdict)[: max(1, errors_left)]
                errors_left -= len(found)
                verdicts.refuse(index, found)
            else:
                verdicts.admit(index, verdict)
        return verdicts

    # -- the pumping guard ---------------------------------------------------------------------

    async def _count(
        self,
        tenant: Tenant,
        messages: Sequence[Message],
        indexes: Sequence[int],
        key: IntakeKey | None,
    ) -> Tally:
        """Count the otp messages among them; some may be over a cap."""
        pumping = self._flow.pumping
        if pumping is None:
            return ()
        tally = await pumping.ask(tenant, messages, indexes, key)
        if tally and failpoints.is_armed:
            failpoints.hit("otp.counted")
        return tally

    @contextmanager
    def _given_back(self, tally: Tally, key: IntakeKey | None) -> Iterator[None]:
        """What was counted is given back when nothing was accepted for certain."""
        try:
            yield
        except Exception as error:  # whatever it was: it goes on below
            is_unknown = isinstance(error, ProblemError) and error.problem.code == "outcome_unknown"
            pumping = self._flow.pumping
            if tally and pumping is not None and not is_unknown and is_certain(error, key):
                pumping.give_back(tally)
            raise

    # -- the promise ---------------------------------------------------------------------------

    async def _accept(
        self,
        request: _Request,
        tenant: Tenant,
        messages: list[Message],
        pointer: str,
        key: IntakeKey | None,
        verdicts: Callable[[], bytes] | None = None,
    ) -> None:
        """Reserve, charge, store; returns after COMMIT or raises the refusal.

        Raises NotFirst or HeldError when another request has the key or a client_ref.
        """
        flow = self._flow
        keys = flow.intake.hasher.refs(messages)
        if key is not None:
            keys.insert(0, key)
        wanted = _by_class(messages)
        self._refuse_shed(wanted, messages)
        segments = await self._charge(request, tenant, wanted, pointer)
        if not self._take_room(wanted):
            self._put_back(request, tenant, segments)
            detail = "The queue of this class is full; the message was not accepted."
            raise ProblemError(retry_after("shed.queue_full", detail, STORE_RETRY_S))
        holder = flow.holder(keys) if keys else None
        if holder is not None:
            for message_class, (count, _) in wanted.items():
                flow.give_back(message_class, count)
            self._put_back(request, tenant, segments)
            raise HeldError(holder)
        try:
            await flow.accept(messages, verdicts, keys)
        except NotFirst:
            self._put_back(request, tenant, segments)
            raise
        except StoreUnavailable:
            self._put_back(request, tenant, segments)
            detail = "The store does not answer; nothing was accepted."
            raise ProblemError(retry_after("store.unavailable", detail, STORE_RETRY_S)) from None
        except OutcomeUnknown:
            detail = "The store went away during the commit; nobody can say whether it holds this."
            raise ProblemError(Problem("outcome_unknown", detail)) from None

    def _refuse_shed(self, wanted: Iterable[MessageClass], messages: Sequence[Message]) -> None:
        """Raise the refusal where intake of a class, or of a route, is closed just now."""
        flow = self._flow
        for message_class in wanted:
            closed = flow.shed(message_class)
            if closed is not None:
                raise ProblemError(retry_after(*closed))
        for message in messages:
            closed = flow.route_full(message)
            if closed is not None:
                raise ProblemError(retry_after(*closed))

    async def _charge(
        self,
        request: _Request,
        tenant: Tenant,
        wanted: Mapping[MessageClass, tuple[int, int]],
        pointer: str,
    ) -> Mapping[MessageClass, int]:
        """Take the tokens; returns the segments by class, or raises the refusal."""
        flow = self._flow
        segments = {message_class: parts for message_class, (_, parts) in wanted.items()}
        try:
            taken, problem = await charge(
                flow.limiter, tenant, segments, pointer, self._monotonic()
            )
        except StoreUnavailable:
            detail = "The store does not answer, so the quota is not known; nothing was accepted."
            raise ProblemError(retry_after("store.unavailable", detail, STORE_RETRY_S)) from None
        request.taken = taken
        if problem is not None:
            messages = sum([count for count, _ in wanted.values()])
            flow.metrics.throttled_total.inc((tenant.name, taken.scope), messages)
            raise ProblemError(problem)
        return segments

    def _take_room(self, wanted: Mapping[MessageClass, tuple[int, int]]) -> bool:
        taken: list[tuple[MessageClass, int]] = []
        for message_class, (count, _) in wanted.items():
            if not self._flow.room(message_class, count):
                for other, held in taken:
                    self._flow.give_back(other, held)
                return False
            taken.append((message_class, count))
        return True

    def _put_back(
        self, request: _Request, tenant: Tenant, segments: Mapping[MessageClass, int]
    ) -> None:
        now = self._monotonic()
        charged_at = 0.0 if request.taken is None else request.taken.charged_at
        self._flow.limiter.put_back(tenant.id, segments, now, charged_at)
        request.taken = self._flow.limiter.look(tenant.id, now)

    # -- answers -------------------------------------------------------------------------------

    async def _refuse(self, request: _Request, problem: Problem) -> int:
        self._flow.metrics.refused_total.inc((problem.code,))
        headers: list[Header] = []
        if request.tenant is not None:
            taken = request.taken
            if taken is None:
                taken = self._flow.limiter.look(request.tenant.id, self._monotonic())
            headers = limit_headers(taken)
        elif request.is_known:
            headers = list(NO_LIMITS)
        await answer_problem(request.send, problem, request.request_id, headers)
        return problem.status

    def _answer_headers(self, request: _Request) -> list[Header]:
        headers: list[Header] = [JSON_TYPE, (b"x-request-id", request.request_id.encode())]
        if request.is_replay:
            headers.append((b"idempotent-replayed", b"true"))
            if request.taken is None and request.tenant is not None:
                request.taken = self._flow.limiter.look(request.tenant.id, self._monotonic())
        if request.taken is not None:
            headers += limit_headers(request.taken)
        return headers


def merge(errors: list[FieldError], verdict: object) -> list[FieldError]:
    """What the decoder found and what `admit` found beside it, each field once.

    After a wrong type `admit` saw the field as absent: what it says about that field, or about a
    route it could not know and what that takes, is left out.
    """
    found = verdict.errors if isinstance(verdict, Refused) else []
    if not errors:
        return found
    seen = {error.pointer for error in errors}
    if "" in seen:
        return errors
    return errors + [
        e
        for e in found
        if _whole(e.pointer) not in seen and e.pointer not in seen and e.code not in _OF_A_ROUTE
    ]


def _whole(pointer: str) -> str:
    """The field that a member is in: `variables` of the wrong type lack none of its members."""
    return pointer[: pointer.find("/", 1)] if pointer.count("/") > 1 else pointer


def _take_over_caps(verdicts: Verdicts, tally: Tally) -> None:
    """What is over a cap gets its verdict."""
    places = {id(message): place for place, message in enumerate(verdicts.messages)}
    verdicts.take_away(
        {places[id(one)]: cap_refusal(told.wait_s) for one, told in tally if told.wait_s}
    )


def _below(parent: str, errors: list[FieldError]) -> list[FieldError]:
    return [error._replace(pointer=parent + error.pointer) for error in errors]


def _by_class(messages: list[Message]) -> dict[MessageClass, tuple[int, int]]:
    """Messages and segments of each class."""
    if len(messages) == 1:
        return {messages[0].message_class: (1, len(messages[0].texts))}
    found: dict[MessageClass, tuple[int, int]] = {}
    for message in messages:
        count, segments = found.get(message.message_class, (0, 0))
        found[message.message_class] = (count + 1, segments + len(message.texts))
    return found


def whole_ms(now: float) -> float:
    """Milliseconds are all that answers show: so kept, a time reads the same ever after."""
    return int(now * 1000) / 1000
