"""HTTP for one channel: pooled connections, and certainty about what was written.

A request passes `Flight.leave` on its connection (TCP, proxy and TLS stand) just before its first
byte. What fails before that was not sent, whatever the exception; what fails after it may have
arrived, whatever the exception. aiohttp would send a GET again by itself when a kept connection
turns out closed: the second passage is refused, so each request leaves at most once.

    exchange ─▶ pool │ connect ─▶ Flight.leave ─▶ first byte ─▶ answer
               └── UNREACHED ──┘└ HELD ┘        └ CUT, UNREADABLE ┘
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum

import aiohttp
from yarl import URL

from adapters.http.settings import HttpSettings
from adapters.http.vendor import MAX_ANSWER, Reply, Request

# Below the 5 s after which some servers close an idle connection: a request that crosses such a
# close is Uncertain.
KEEPALIVE_S = 4.0
# A connection that was idle takes so much into the socket at once; within TLS nobody can see what
# the socket did not take.
TAKEN_AT_ONCE = 8 * 1024
_UNREACHED = "check the address, and that the vendor lets ours in"


class Fail(Enum):
    """How an exchange failed."""

    UNREACHED = "no connection; nothing was written"
    HELD = "nothing was written, for we did not let it"
    CUT = "written, and the connection ended before its answer"
    UNREADABLE = "written, and its answer is too long or no HTTP"


@dataclass(slots=True)  # not frozen: one per failed request
class Failed:
    """No answer, and why in words, with a remedy where nothing was written."""

    fail: Fail
    reason: str


class _HeldBack(Exception):
    pass


class Flight:
    """One request on its way."""

    __slots__ = ("_may_leave", "left_at", "size", "transport")

    def __init__(self, may_leave: Callable[[], bool], size: int = 0) -> None:
        """`may_leave` is asked on the connection, before the first byte."""
        self.left_at = 0.0  # monotonic; 0.0 while nothing was written
        self.size = size  # octets of its body
        self.transport: asyncio.Transport | None = None
        self._may_leave = may_leave

    def leave(self, transport: asyncio.Transport) -> None:
        """Its first byte is next; raises when it must not be written, or was before."""
        if self.left_at or not self._may_leave():
            raise _HeldBack
        self.left_at = time.monotonic()
        self.transport = transport

    def has_unwritten(self) -> bool:
        """Whether bytes of it may still leave us."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        is_hidden = transport.get_extra_info("ssl_object") is not None and self.size > TAKEN_AT_ONCE
        return is_hidden or transport.get_write_buffer_size() > 0

    def abort(self) -> None:
        """Drop its connection with all that was not written."""
        if self.transport is not None:
            self.transport.abort()


_FLIGHT: ContextVar[Flight] = ContextVar("flight")


class _GatedRequest(aiohttp.ClientRequest):
    """A request that asks its flight before its first byte; the proxy's CONNECT is none of it."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        transport = conn.transport
        if transport is None:  # closed since the pool gave it
            raise aiohttp.ClientConnectionResetError("the connection was closed")
        _FLIGHT.get().leave(transport)
        return await super().send(conn)


class Client:
    """The connections of one channel; made inside a running loop, closed with `close`."""

    def __init__(self, settings: HttpSettings, tls: ssl.SSLContext, connections: int) -> None:
        """`connections` is how many requests the caller has under way at most: none waits here."""
        self._proxy = settings.proxy or None
        self._proxy_login: tuple[tuple[str, str], ...] = ()
        if settings.proxy_user:
            word = aiohttp.encode_basic_auth(settings.proxy_user, settings.proxy_password)
            self._proxy_login = (("Proxy-Authorization", word),)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections,
                limit_per_host=connections,
                ssl=tls,
                ttl_dns_cache=30,
                keepalive_timeout=KEEPALIVE_S,
            ),
            # `connect` is all of name, TCP, proxy and TLS; the answer is the channel's to wait for
            timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout_s),
            request_class=_GatedRequest,
            headers={"User-Agent": "smsgw"},
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type"),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # no proxy and no .netrc from the environment
        )

    async def exchange(self, request: Request, flight: Flight) -> Reply | Failed:
        """Send and read the whole answer, however long it takes; cancel it to give it up.

        Other exceptions than of network and peer are bugs and go through.
        """
        _FLIGHT.set(flight)
        headers = request.headers
        if self._proxy_login and request.url.startswith("http://"):
            headers += self._proxy_login  # the proxy reads the request itself: there is no CONNECT
        try:
            async with self._session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=headers,
                data=request.body or None,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers=self._proxy_login or None,
            ) as answer:
                body = await _read(answer)
                if body is None:
                    return Failed(Fail.UNREADABLE, f"an answer of more than {MAX_ANSWER} octets")
                named = {name.lower(): value for name, value in answer.headers.items()}
                return Reply(answer.status, named, body)
        except _HeldBack:
            # of a request that was written once, this was aiohttp's second try
            return Failed(Fail.CUT if flight.left_at else Fail.HELD, "closed by the vendor")
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError too
            if not flight.left_at:
                return Failed(Fail.UNREACHED, _explain(error, _place(request.url)))
            is_strange = isinstance(error, aiohttp.ClientResponseError)
            kind = Fail.UNREADABLE if is_strange else Fail.CUT
            return Failed(kind, f"link lost: {type(error).__name__}")

    async def reach(self, url: str) -> Failed | None:
        """Connect as a request would, and write nothing of one; None when that worked."""
        is_there = False

        def stop() -> bool:
            nonlocal is_there
            is_there = True
            return False

        result = await self.exchange(Request("GET", url), Flight(stop))
        return None if is_there or not isinstance(result, Failed) else result

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


async def _read(answer: aiohttp.ClientResponse) -> bytes | None:
    """The whole body; None when it is too long, and then its connection is used no more."""
    content = answer.content
    body = await content.readany()
    if content.at_eof():
        return body if len(body) <= MAX_ANSWER else None
    chunks, size = [body], len(body)
    while not content.at_eof():
        chunk = await content.readany()
        size += len(chunk)
        if size > MAX_ANSWER:
            answer.close()
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def names_host(url: str) -> bool:
    """Whether an address says where to connect."""
    try:
        found = URL(url, encoded=True)
    except ValueError:
        return False
    return found.scheme in ("http", "https") and bool(found.host)


def _place(url: str) -> str:
    """Host and port of an address: of a query nothing may be told."""
    if not names_host(url):
        return "the vendor"
    found = URL(url, encoded=True)
    return f"{found.host}:{found.port}"


def _explain(error: Exception, place: str) -> str:
    """Why there is no connection, and what to do."""
    for kind, text in _WORDS:
        if isinstance(error, kind):
            return text.format(place=place)
    why = error.strerror if isinstance(error, OSError) else None
    shown = (why or "none of its addresses answers").lower()
    return f"no connection to {place} ({shown}), {_UNREACHED}"


_WORDS: tuple[tuple[type[Exception], str], ...] = (  # the first that fits
    (aiohttp.InvalidURL, "its address is none; correct `url`"),
    (
        aiohttp.ClientHttpProxyError,
        "the proxy refused the way to {place}; check proxy_user and proxy_password, or ask its"
        " operator",
    ),
    (aiohttp.ClientProxyConnectionError, "no connection to the proxy; check `proxy`"),
    (
        aiohttp.ClientConnectorDNSError,
        "no address for {place}; check the name in `url`, and this machine's resolver",
    ),
    (
        aiohttp.ClientConnectorCertificateError,
        "TLS: the certificate of {place} cannot be trusted; set ca_file to its authority's"
        " certificate where it is a private one, and check this machine's clock",
    ),
    (aiohttp.ClientSSLError, "TLS: {place} broke it off; check that this port speaks TLS"),
    (TimeoutError, f"no connection to {{place}} in time, {_UNREACHED}"),
)
