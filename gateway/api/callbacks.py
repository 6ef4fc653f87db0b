"""/v1/carrier-callbacks/{channel_id}/{receipts|inbound}: HTTP vendors bring receipts and texts.

    channel ─▶ source ─▶ method ─▶ secret ─▶ body ─▶ Vendor.pushed ─▶ flow ═COMMIT═▶ its own answer
      404       403        405       401      413      401, 400, 403     503: call again

No key: the channel's source list, its secret or the vendor's signature says whose call it is. Any
worker takes it, whoever runs the channel. The answer is written when everything is durable.

The channel's places are for the vendor's own calls. One that neither source nor secret proves is
read beside them, in less time and few of one address, until its signature was seen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from fastapi import FastAPI
from starlette.routing import Route

from adapters.http.callback import require_secret
from adapters.http.callbacks import CALLBACKS, CHANNEL_PREFIX
from adapters.http.vendor import Call, CallKind, Pushed
from gateway.api.access import Gate
from gateway.api.address import Address, is_in
from gateway.api.bodies import THREAD_BYTES, run_beside
from gateway.api.frame import BodyReader, DisconnectedError, Receive, Scope, Send, answer
from gateway.api.problems import Problem, ProblemError, retry_after
from gateway.vendors import Account
from sms.errors import CallRefused
from sms.ids import from_text
from telemetry.logs import get_logger

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

log = get_logger(__name__)

MAX_BODY: Final = 1 << 20
MAX_OPEN: Final = 64  # calls of one worker at once, from their first octet to their answer
MAX_OPEN_OF_ONE: Final = 32  # of one channel: a vendor that floods us must not shut others out
MAX_UNPROVEN: Final = 64  # calls beside those that are read before anything proves them
MAX_UNPROVEN_OF_ONE: Final = 16  # of one address
UNPROVEN_S: Final = 5.0  # for the body of one
AGAIN_S: Final = 5
# By the vendor's status: the problem's code, and the result that is counted.
_REFUSALS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("callback.unreadable", "unreadable"),
    401: ("callback.unproven", "unproven"),
    403: ("callback.not_allowed", "not_allowed"),
}
LOG_EVERY_S: Final = 60.0  # a channel's refusals: anybody can call, and the log is no counter


class Places:
    """How many calls are under way, bounded in all and for each of somebody's."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._taken: Counter[str] = Counter()

    def take(self, whose: str) -> bool:
        """Whether there was one."""
        if self._taken.total() >= self._most or self._taken[whose] >= self._most_of_one:
            return False
        self._taken[whose] += 1
        return True

    def give_back(self, whose: str) -> None:
        """One that was taken; who has none is forgotten."""
        self._taken[whose] -= 1
        if not self._taken[whose]:
            del self._taken[whose]


class Callbacks:
    """The route, as an ASGI application: it answers every method itself."""

    path_format = f"{CALLBACKS}/{{channel_id}}/{{kind}}"

    def __init__(self, flow: FlowPort, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._flow = flow
        self._gate = Gate(flow)
        self._bodies = BodyReader(monotonic)
        self._unproven_bodies = BodyReader(monotonic, UNPROVEN_S)
        self._open = Places(MAX_OPEN, MAX_OPEN_OF_ONE)  # by channel
        self._unproven = Places(MAX_UNPROVEN, MAX_UNPROVEN_OF_ONE)  # by address
        self._monotonic = monotonic
        self._logged: dict[int, float] = {}  # by channel: when its last refusal was logged

    def register(self, app: FastAPI) -> None:
        """Add the route."""
        app.router.routes.append(Route(f"{CALLBACKS}/{{channel_id:oid}}/{{kind:oid}}", self))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call; raises `ProblemError`."""
        scope["route"] = self
        name, kind = scope["path_params"]["channel_id"], scope["path_params"]["kind"]
        account = self._account(name)
        if account is None or kind not in tuple(CallKind):
            self._count("", "", "unknown")
            raise ProblemError(Problem("resource.not_found", "There is no such callback."))
        peer = self._gate.address_of(scope)
        self._check_source(account, kind, peer)
        if scope["method"] not in ("GET", "POST"):
            allowed = [(b"allow", b"GET, POST")]
            detail = "Only GET and POST are answered here."
            raise ProblemError(Problem("method.not_allowed", detail, headers=allowed))
        if any(header == b"content-encoding" for header, _ in scope["headers"]):
            self._refused(account, kind, peer, "unreadable", "Content-Encoding")
            detail = "The Content-Encoding header is not supported; send the body as it is."
            raise ProblemError(Problem("body.encoding", detail))
        call = Call(
            CallKind(kind), scope["method"], _url(account, scope), _headers(scope), b"", time.time()
        )
        if self._is_proven(account, call, peer):
            with self._place(account, call, self._open, account.channel.name):
                pushed = await self._read(account, call, peer, receive, self._bodies)
                await self._keep(account, call, pushed)
        else:
            with self._place(account, call, self._unproven, str(peer)):
                pushed = await self._read(account, call, peer, receive, self._unproven_bodies)
            with self._place(account, call, self._open, account.channel.name):
                await self._keep(account, call, pushed)
        self._count(account.channel.name, kind, "kept")
        told = pushed.answer
        headers = [(b"content-type", told.content_type.encode("latin-1"))]
        await answer(send, told.status, told.body, headers)

    def _account(self, name: str) -> Account | None:
        channel = from_text(CHANNEL_PREFIX, name)
        account = None if channel is None else self._flow.vendors.account(channel)
        return account if account is not None and account.settings.callbacks else None

    def _check_source(self, account: Account, kind: str, peer: Address | None) -> None:
        if account.sources and not is_in(peer, account.sources):
            reason = "the address is not in callback_sources"
            self._refused(account, kind, peer, "source", reason)
            detail = "The channel's `callback_sources` do not list the address this call is from."
            raise ProblemError(Problem("callback.not_allowed", detail))

    def _is_proven(self, account: Account, call: Call, peer: Address | None) -> bool:
        """Whether it is the vendor's by its source or secret; raises the 401 by a wrong secret."""
        own = account.settings
        if not own.callback_secret or not account.vendor.traits.shows_secret:
            return bool(account.sources)
        try:
            require_secret(own, call)
        except CallRefused as refused:
            self._refuse(account, call, refused, peer)
        return True

    @contextmanager
    def _place(self, account: Account, call: Call, places: Places, whose: str) -> Iterator[None]:
        """One place among the calls under way; raises the 503 when there is none."""
        if not places.take(whose):
            self._later(account, call.kind, "busy", "Too many calls are under way just now.")
        try:
            yield
        finally:
            places.give_back(whose)

    async def _read(
        self,
        account: Account,
        call: Call,
        peer: Address | None,
        receive: Receive,
        bodies: BodyReader,
    ) -> Pushed:
        """What the call brings, once it is proven; raises `ProblemError`."""
        name, kind = account.channel.name, call.kind
        try:
            body = await bodies.read(receive, MAX_BODY)
        except (ProblemError, DisconnectedError):
            self._count(name, kind, "cut_off")
            raise
        call = replace(call, body=body, unix=time.time())
        try:
            if len(body) > THREAD_BYTES:
                return await run_beside(account.vendor.pushed, call)
            return account.vendor.pushed(call)
        except CallRefused as refused:
            self._refuse(account, call, refused, peer)
        except RecursionError:
            self._refused(account, kind, peer, "unreadable", "nested too deeply")
            detail = "The body is nested too deeply."
            raise ProblemError(Problem("callback.unreadable", detail)) from None
        except Exception:  # a defect of ours: logged by the last resort, the vendor calls again
            self._count(name, kind, "crashed")
            raise

    async def _keep(self, account: Account, call: Call, pushed: Pushed) -> None:
        if not await self._flow.calls.bring(account.channel.id, pushed):
            self._later(account, call.kind, "not_kept", "It could not be kept in time; call again.")

    def _refuse(
        self, account: Account, call: Call, refused: CallRefused, peer: Address | None
    ) -> NoReturn:
        code, result = _REFUSALS.get(refused.status, _REFUSALS[400])
        self._refused(account, call.kind, peer, result, refused.detail)
        raise ProblemError(Problem(code, refused.detail)) from None

    def _later(self, account: Account, kind: str, result: str, detail: str) -> NoReturn:
        self._count(account.channel.name, kind, result)
        raise ProblemError(retry_after("callback.later", detail, AGAIN_S))

    def _refused(
        self, account: Account, kind: str, peer: Address | None, result: str, reason: str
    ) -> None:
        """Count a call that is turned away, and log the channel's first of each minute."""
        channel, now = account.channel, self._monotonic()
        self._count(channel.name, kind, result)
        if now - self._logged.get(channel.id, -LOG_EVERY_S) < LOG_EVERY_S:
            return
        self._logged[channel.id] = now
        log.warning(
            "carrier callback refused",
            channel=channel.name,
            kind=kind,
            result=result,
            reason=reason,
            peer="unknown" if peer is None else str(peer),
        )

    def _count(self, channel: str, kind: str, result: str) -> None:
        self._flow.metrics.carrier_calls_total.inc((channel, kind, result))


def _url(account: Account, scope: Scope) -> str:
    """The address as the vendor was given it: some sign it."""
    base = account.settings.public_url.rstrip("/")
    if not base:
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        base = f"{scope.get('scheme', 'http')}://{host.decode('latin-1')}"
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{base}{scope['path']}{'?' if query else ''}{query}"


def _headers(scope: Scope) -> dict[str, str]:
    """By lower-case name; what stands there twice is joined (RFC 9110 section 5.3)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
