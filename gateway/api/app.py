"""The whole HTTP face of a worker: the send door in front, FastAPI behind it.

    request ─▶ guard ─▶ SendDoor ─▶ POST /v1/messages, POST /v1/batches
               │           └──────▶ FastAPI: reading, health, metrics, OpenAPI
               └ whatever falls through becomes a 500 that says nothing of the inside

Every answer carries X-Request-Id, and every "no" is a problem document.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from adapters.http.callbacks import CALLBACKS
from gateway.api.access import Caller, Gate
from gateway.api.admin import Admin
from gateway.api.batches import Batches
from gateway.api.callbacks import Callbacks
from gateway.api.canaries import CanaryRoutes
from gateway.api.channels import ChannelRoutes
from gateway.api.events import Events
from gateway.api.frame import (
    METHODS,
    App,
    BodyReader,
    DisconnectedError,
    Receive,
    Scope,
    Send,
    answer_problem,
    check_host,
    headers_of,
    refuse_secret_in_query,
    request_id_of,
)
from gateway.api.health import Health
from gateway.api.inbound import InboundMessages
from gateway.api.lists import MessageLists
from gateway.api.messages import Messages
from gateway.api.openapi import build_document
from gateway.api.port import FlowPort
from gateway.api.ported import PortedNumbers
from gateway.api.preview import Previews
from gateway.api.problems import Problem, ProblemError, not_allowed
from gateway.api.quick import QuickDoor
from gateway.api.reply import check_query, problem_response
from gateway.api.resends import Resends
from gateway.api.routes import RouteRoutes
from gateway.api.routing import add_route
from gateway.api.send import SendDoor
from gateway.api.suppressions import SuppressionRoutes
from gateway.api.templates import TemplateRoutes
from gateway.api.usage import UsageReport
from gateway.api.webhooks import EndpointRoutes
from sms.errors import OutcomeUnknown, StoreUnavailable
from telemetry.logs import get_logger

log = get_logger(__name__)

_STORE_RETRY_S = b"2"
MAX_SIGNED_BODY = 1 << 20  # of the routes behind the send door; each may allow less
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})


def build(flow: FlowPort, monotonic: Callable[[], float] = time.monotonic) -> App:
    """The ASGI app of one worker, for uvicorn."""
    return build_doors(flow, monotonic)[0]


def build_doors(
    flow: FlowPort, monotonic: Callable[[], float] = time.monotonic
) -> tuple[App, QuickDoor]:
    """The ASGI app, and the short way in front of it (`gateway.http_protocol`)."""
    behind = _timed(flow, _behind(flow), monotonic)
    door = SendDoor(flow, behind)
    return _guarded(flow, door), QuickDoor(flow, door, monotonic)


def _behind(flow: FlowPort) -> FastAPI:
    """What FastAPI answers; its own documentation pages are off, `/openapi.json` is ours."""
    app = FastAPI(title="smsgw", openapi_url=None, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(StoreUnavailable, _on_store_away)
    app.add_exception_handler(OutcomeUnknown, _on_outcome_unknown)
    app.add_exception_handler(DisconnectedError, _on_disconnect)
    app.add_exception_handler(Exception, _on_bug)
    MessageLists(flow).register(app)
    Messages(flow).register(app)
    Resends(flow).register(app)
    Batches(flow).register(app)
    Events(flow).register(app)
    InboundMessages(flow).register(app)
    UsageReport(flow).register(app)
    Previews(flow).register(app)
    Admin(flow).register(app)
    TemplateRoutes(flow).register(app)
    ChannelRoutes(flow).register(app)
    RouteRoutes(flow).register(app)
    EndpointRoutes(flow).register(app)
    CanaryRoutes(flow).register(app)
    SuppressionRoutes(flow).register(app)
    PortedNumbers(flow).register(app)
    Callbacks(flow).register(app)
    Health(flow).register(app)
    document = build_document(app)

    async def openapi(request: Request) -> Response:
        check_query(request)
        return Response(document, media_type="application/json")

    add_route(app, "/openapi.json", openapi, name="readDocument")
    return app


def _guarded(flow: FlowPort, app: App) -> App:
    """The last resort: an error nobody foresaw is logged and becomes a plain 500."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        try:
            await app(scope, receive, send)
        except Exception:
            known = scope.get("state", {}).get("request_id")
            request_id = known or request_id_of(dict(scope["headers"]))
            log.exception("request failed", request_id=request_id)
            flow.metrics.refused_total.inc((_broken().code,))
            if not scope.get("state", {}).get("is_answered"):
                await answer_problem(send, _broken(), request_id)

    return guard


def _timed(flow: FlowPort, app: App, monotonic: Callable[[], float]) -> App:
    """Add the request id to scope and answer, check the key and the query, measure."""
    gate = Gate(flow)
    bodies = BodyReader(monotonic)

    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        started = monotonic()
        request_id = request_id_of(dict(scope["headers"]))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["method"] = scope["method"] if scope["method"] in METHODS else "other"
        status, asked = 500, scope

        async def with_id(event: Scope) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
                scope["state"]["is_answered"] = True
                if all(name != b"x-request-id" for name, _ in event["headers"]):
                    event["headers"] = [
                        *event["headers"],
                        (b"x-request-id", request_id.encode()),
                    ]
            await send(event)

        try:
            caller = _enter(gate, scope)
            if caller is not None:
                receive = await _let_in(gate, caller, scope, receive, bodies)
            _check_spelling(scope)
        except ProblemError as refusal:
            await answer_problem(with_id, refusal.problem, request_id)
        except DisconnectedError:
            status = 499  # only the metric sees it: there is nobody to answer
        else:
            # HEAD is GET without the body, which the server leaves out (RFC 9110 section 9.3.2).
            # Not where a GET brings something.
            is_head = scope["method"] == "HEAD" and not _is_callback(scope)
            asked = {**scope, "method": "GET"} if is_head else scope
            await app(asked, receive, with_id)
        finally:
            _tell(flow, gate, asked, status, monotonic() - started)

    return timed


def _tell(flow: FlowPort, gate: Gate, scope: Scope, status: int, took_s: float) -> None:
    """Count an answer, and write the access log."""
    route = getattr(scope.get("route"), "path_format", "other")
    method = scope["state"]["method"]
    flow.metrics.http_request_seconds.observe((route, method, str(status)), took_s)
    if scope["path"] not in _OPEN_PATHS:
        gate.note(scope, route, status, took_s)


def _enter(gate: Gate, scope: Scope) -> Caller | None:
    """What holds for every route: no secret in the URL, and a key before anything under /v1.

    None where no key is asked for. Vendors' calls have none; what proves them may stand in the URL.
    """
    check_host(scope)
    if _is_callback(scope):
        return None
    query: bytes = scope.get("query_string", b"")
    if query:
        refuse_secret_in_query(query)
    headers = headers_of(scope["headers"])
    if scope["path"] in _OPEN_PATHS:
        return None
    return gate.identify(headers)


def _is_callback(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.startswith(f"{CALLBACKS}/")


def _check_spelling(scope: Scope) -> None:
    """Raise the 404 for an address in another spelling than ours.

    %2F decoded is a slash: what a proxy took for an id would be another route here.
    """
    if b"%" in (scope.get("raw_path") or b""):
        raise ProblemError(_no_route())


async def _let_in(
    gate: Gate, caller: Caller, scope: Scope, receive: Receive, bodies: BodyReader
) -> Receive:
    """Prove the key and check the address; what then gives the body.

    A signature covers the body, so that is read first, and given again to whoever handles it.
    """
    key = caller.key
    if caller.signed is not None:
        body = await bodies.read(receive, MAX_SIGNED_BODY)
        key = await gate.verify(caller, scope, body)
        receive = _again(body, receive)
    gate.check_address(key, scope)
    scope["state"]["key"] = key
    return receive


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read already."""
    left = [body]

    async def again() -> Scope:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return again


async def _on_problem(request: Request, error: Exception) -> Response:
    if not isinstance(error, ProblemError):
        raise error
    return problem_response(request, error.problem)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the router says no to: an unknown path, a method that is not there."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 405:
        allowed = dict(error.headers or {}).get("Allow", "GET")
        return problem_response(request, not_allowed(allowed.replace(" ", "").split(",")))
    return problem_response(request, _no_route())


def _no_route() -> Problem:
    detail = "There is no such route; /openapi.json names them all."
    return Problem("resource.not_found", detail)


async def _on_store_away(request: Request, _: Exception) -> Response:
    problem = Problem("store.unavailable", "The store does not answer just now.")
    problem.headers.append((b"retry-after", _STORE_RETRY_S))
    return problem_response(request, problem)


async def _on_outcome_unknown(request: Request, _: Exception) -> Response:
    detail = "The store went away during the commit: the change may have been made."
    return problem_response(request, Problem("outcome_unknown", detail))


async def _on_disconnect(request: Request, _: Exception) -> Response:
    """Nobody reads this answer."""
    problem = Problem("request.disconnected", "The request ended before its body was whole.")
    return problem_response(request, problem)


async def _on_bug(request: Request, _: Exception) -> Response:
    return problem_response(request, _broken())  # Starlette raises it again: `_guarded` logs it


def _broken() -> Problem:
    return Problem("internal.error", "The gateway failed while it answered.")
