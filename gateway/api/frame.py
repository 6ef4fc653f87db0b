"""What every HTTP answer shares: the request id, the problem document, the limit headers."""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping, Sequence
from itertools import count
from typing import Any
from urllib.parse import unquote_plus

from gateway.api.port import TakenPort
from gateway.api.problems import (
    NAME_LIKE,
    FieldError,
    Header,
    Problem,
    ProblemError,
    build_body,
    of_fields,
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON_TYPE = (b"content-type", b"application/json")
PROBLEM_TYPE = (b"content-type", b"application/problem+json")
CLOSE = (b"connection", b"close")
BODY_TIMEOUT_S = 30.0
_WATCH_S = 1.0
# Labels of a metric are bounded: a method of the caller's invention counts as "other".
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_DRAIN_BYTES = 16 << 20  # read and dropped before a 413, so that the answer is not lost in a reset
_DRAIN_TIMEOUT_S = 3.0
MAX_PARAMETERS = 100  # named in one refusal

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_id_prefix = secrets.token_hex(6)  # a new one per process: ids of two processes never meet
_id_numbers = count(1)

_SECRET_NAMES = re.compile(
    r"key|token|secret|pass|pwd|(?<![a-z])sig|auth|bearer|jwt|credential", re.IGNORECASE
)
_SECRET_VALUES = re.compile(r"smsgw_|whsec_|\bbearer\b", re.IGNORECASE)
# Of these one is meant; a second one could say something else to a proxy than to us.
_SINGLE_HEADERS = frozenset(
    {
        b"authorization",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"idempotency-key",
        b"x-request-id",
        b"if-match",
        b"x-smsgw-key",
        b"x-smsgw-timestamp",
        b"x-smsgw-nonce",
        b"x-smsgw-signature",
    }
)


def check_host(scope: Scope) -> None:
    """Raise the 400 unless HTTP/1.1 names one host (RFC 9112, section 3.2)."""
    if scope.get("http_version") == "1.1":
        count = sum([name == b"host" for name, _ in scope["headers"]])
        if count != 1:
            detail = f"The request has {count} Host headers; send one."
            raise ProblemError(Problem("request.malformed", detail))


class DisconnectedError(Exception):
    """The client went away before the request was whole: there is nobody to answer."""


def request_id_of(headers: dict[bytes, bytes]) -> str:
    """The caller's id when it is well formed, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return f"{_id_prefix}-{next(_id_numbers):x}"


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by lower-case name; raises `ProblemError` when one of ours stands there twice."""
    pairs = list(raw)
    headers = dict(pairs)
    if len(headers) != len(pairs):
        names = [name for name, _ in pairs]
        for name in _SINGLE_HEADERS:
            if names.count(name) > 1:
                detail = f"The header {name.decode()} stands in the request twice; send it once."
                raise ProblemError(Problem("request.header_repeated", detail))
    return headers


def refuse_secret_in_query(query: bytes) -> None:
    """Raise the 400 when a secret seems to stand in the URL."""
    for pair in re.split("[&;]", unquote_plus(query.decode("latin-1"))):
        name, is_given, _ = pair.partition("=")
        if (is_given and _SECRET_NAMES.search(name)) or _SECRET_VALUES.search(pair):
            raise ProblemError(
                Problem(
                    "auth.secret_in_query",
                    "A secret stands in the query string; send it in the Authorization header.",
                )
            )


def check_parameters(names: Iterable[str], known: Collection[str] = ()) -> None:
    """Raise the 422 that names every parameter of the URL that is unknown or repeated.

    A parameter is pointed to as a member of the body would be: `/limit`.
    """
    errors: list[FieldError] = []
    allowed = ", ".join(sorted(known)) or "none"
    for name, times in Counter(names).items():
        if name not in known:
            is_shown = NAME_LIKE.fullmatch(name) is not None
            detail = f"The query parameter `{name}`" if is_shown else "A query parameter"
            pointer = f"/{name}" if is_shown else ""
            detail += f" is not known here; known are: {allowed}."
            errors.append(FieldError(pointer, "query.unknown", detail))
        elif times > 1:
            detail = f"The query parameter `{name}` is given {times} times; give it once."
            errors.append(FieldError(f"/{name}", "query.repeated", detail))
    if errors:
        raise ProblemError(of_fields(errors[:MAX_PARAMETERS]))


# The send routes tell limits in every answer behind the key; an admin key has no bucket to tell of.
NO_LIMITS: Sequence[Header] = (
    (b"ratelimit-policy", b'"segments";q=0;w=1'),
    (b"ratelimit", b'"segments";r=0;t=0'),
)


def limit_headers(taken: TakenPort) -> list[Header]:
    """RateLimit fields in the form of draft-ietf-httpapi-ratelimit-headers-10.

    q = the bucket's depth, w = seconds to fill it, r = whole segments left, t = seconds until it
    is full again. Limits by class and quotas follow in the same lists under their own names.
    """
    depth = int(taken.depth)
    left = max(0, min(depth, int(taken.left)))
    rate = taken.rate
    policies = b'"segments";q=%d;w=%d' % (depth, max(1, math.ceil(depth / rate)))
    limits = b'"segments";r=%d;t=%d' % (left, math.ceil((depth - left) / rate))
    for other in taken.others:
        name = other.name.encode()
        policies += b', "%b";q=%d;w=%d' % (name, other.quota, max(1, other.window_s))
        limits += b', "%b";r=%d;t=%d' % (name, other.left, other.reset_s)
    return [(b"ratelimit-policy", policies), (b"ratelimit", limits)]


class BodyReader:
    """Reads bodies, counted on the stream, each within `timeout_s`.

    One look a second at who is still reading: a timer per request would cost ten times as much
    (4 µs against 0.3).
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, timeout_s: float = BODY_TIMEOUT_S
    ) -> None:
        self._monotonic = monotonic
        self._timeout_s = timeout_s
        self._reading: dict[asyncio.Task[Any], float] = {}  # and since when
        self._late: set[asyncio.Task[Any]] = set()
        self._is_watching = False

    async def read(self, receive: Receive, limit: int) -> bytes:
        """The whole body; raises the 408 or 413 as `ProblemError`, or `DisconnectedError`."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a body is read outside a task")
        self._reading[task] = self._monotonic()
        if not self._is_watching:
            self._is_watching = True
            asyncio.get_running_loop().call_later(_WATCH_S, self._watch)
        try:
            event = await receive()
            if event["type"] == "http.request" and not event.get("more_body", False):
                body: bytes = event.get("body", b"")
                if len(body) <= limit:
                    return body
            return await _read_parts(event, receive, limit)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            detail = f"The body did not arrive within {self._timeout_s:.0f} s; send it faster."
            raise ProblemError(Problem("request.slow", detail, headers=[CLOSE])) from None
        finally:
            del self._reading[task]
            self._late.discard(task)

    def _watch(self) -> None:
        """Give up those who have been reading for too long; runs while anybody reads."""
        oldest = self._monotonic() - self._timeout_s
        for task, since in self._reading.items():
            if since < oldest and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._is_watching = bool(self._reading)
        if self._is_watching:
            asyncio.get_running_loop().call_later(_WATCH_S, self._watch)


async def _read_parts(event: MutableMapping[str, Any], receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        if event["type"] != "http.request":
            raise DisconnectedError
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        is_whole = not event.get("more_body", False)
        if size > limit:
            raise await refuse_too_large(receive, limit, is_whole=is_whole)
        if is_whole:
            return b"".join(parts)
        event = await receive()


async def refuse_too_large(receive: Receive, limit: int, *, is_whole: bool) -> ProblemError:
    """The 413. What is under way is read for a moment: closing at once would reset the answer."""
    headers = []
    if not is_whole:
        dropped = 0
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                while dropped < _DRAIN_BYTES and not is_whole:
                    event = await receive()
                    dropped += len(event.get("body", b""))
                    is_whole = not event.get("more_body", False)
        except TimeoutError:
            is_whole = False
        headers = [] if is_whole else [CLOSE]
    detail = f"The body is larger than {limit} bytes; send less in one request."
    return ProblemError(Problem("body.too_large", detail, headers=headers))


async def answer(send: Send, status: int, body: bytes, headers: list[Header]) -> None:
    """Write one whole answer."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_problem(
    send: Send, problem: Problem, request_id: str, headers: Iterable[Header] = ()
) -> None:
    """Write a problem document."""
    await answer(
        send,
        problem.status,
        build_body(problem, request_id),
        [PROBLEM_TYPE, (b"x-request-id", request_id.encode()), *problem.headers, *headers],
    )
