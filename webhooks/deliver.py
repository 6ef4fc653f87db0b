"""Send one webhook request and say what became of it.

Connections are pooled. Each new one is checked on its final socket address by the connector's
socket factory, after all name resolution and just before connect (RELIABILITY section 10); the
operator's allowed origins use a connector of their own, which asks nothing, so that an exempt
connection is never shared with a tenant's URL. A bad peer is a value here, never an exception.

    open for later < kept ──yes──▶ a connection that stays open for a while after its answer
                          └─no───▶ one that is closed with it: descriptors are few
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import aiohttp
from multidict import CIMultiDict

from webhooks import sign
from webhooks.address import refusal
from webhooks.names import Names
from webhooks.schedule import parse_retry_after
from webhooks.target import Target as Target  # `as`: who sends is given targets from here too
from webhooks.target import parse_target as parse_target

# Below the 5 s after which uvicorn and Node close an idle connection: a request that crosses such
# a close is lost and waits for its first retry.
KEEPALIVE_S = 4.0
EXCERPT_BYTES = 512  # of an answer's body, kept for who looks for a fault


class Fault(StrEnum):
    """Why a request did not succeed; also the label of its metric."""

    ADDRESS_REFUSED = "webhook.address_refused"
    NAME = "webhook.name_unresolved"
    CONNECT = "webhook.connect_failed"
    TLS = "webhook.tls_failed"
    TIMEOUT = "webhook.timeout"
    CUT = "webhook.connection_lost"
    PROTOCOL = "webhook.bad_answer"
    REDIRECT = "webhook.redirect_refused"
    STATUS = "webhook.status"
    INTERNAL = "webhook.internal"  # a bug of ours


@dataclass(frozen=True, slots=True)
class Delivered:
    """A 2xx status was read. `answer` is the beginning of what came with it."""

    status: int
    answer: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Failed:
    """Try again later; `status` when one was read, `retry_after_s` from a 429 or 503."""

    fault: Fault
    status: int | None = None
    retry_after_s: float | None = None
    answer: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Gone:
    """410: the endpoint wants nothing any more."""

    answer: bytes = field(default=b"", compare=False, repr=False)


Delivery = Delivered | Failed | Gone


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """Limits of one request."""

    connect_s: float = 3.0  # for TCP and TLS; as much for the name before
    total_s: float = 15.0  # until the answer's end
    kept: int = 2048  # connections that may stay open after their answer
    answer_bytes: int = 65536  # read of the answer's body; the rest is cut off


class _AddressRefused(OSError):
    """The final socket address is not one we call."""

    def __init__(self) -> None:
        # One text for all: happy eyeballs then raises this type when every address is refused.
        super().__init__("address refused")


class _Open:
    """Sockets that are open, of connections that may be kept."""

    def __init__(self) -> None:
        self.count = 0


class _CountedSocket(socket.socket):
    """One of them; event loops either close it or take its descriptor away and close that."""

    open: _Open | None = None

    def _over(self) -> None:
        if self.open is not None:
            self.open.count -= 1
            self.open = None

    def close(self) -> None:
        """Close it; a second time does nothing."""
        self._over()
        super().close()

    def detach(self) -> int:
        """Give its descriptor to the event loop, which does so when it closes it."""
        self._over()
        return super().detach()


def _socket(
    info: aiohttp.AddrInfoType, *, is_checked: bool, is_open: _Open | None
) -> socket.socket:
    """aiohttp's socket factory: the last thing that runs before connect."""
    family, kind, protocol, _, address = info
    if is_checked and refusal(str(address[0]), int(address[1])) is not None:
        raise _AddressRefused
    if is_open is None:
        return socket.socket(family, kind, protocol)
    made = _CountedSocket(family, kind, protocol)
    made.open = is_open
    is_open.count += 1
    return made


class Deliverer:
    """Holds the connections; made inside a running loop, closed with `close`."""

    def __init__(self, policy: DeliveryPolicy, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls` replaces the system's trust roots (tests, private authorities)."""
        self._policy = policy
        if tls is None:
            tls = ssl.create_default_context()
            tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._resolver = Names(policy.connect_s)
        self._open = _Open()
        self._sessions = {
            (is_exempt, is_kept): self._session(tls, is_checked=not is_exempt, is_kept=is_kept)
            for is_exempt in (False, True)
            for is_kept in (False, True)
        }

    def _session(
        self, tls: ssl.SSLContext, *, is_checked: bool, is_kept: bool
    ) -> aiohttp.ClientSession:
        policy = self._policy
        is_open = self._open if is_kept else None
        connector = aiohttp.TCPConnector(
            limit=0,  # the notifier bounds what is in flight, endpoint by endpoint
            ssl=tls,
            resolver=self._resolver,
            ttl_dns_cache=30,
            force_close=not is_kept,
            keepalive_timeout=KEEPALIVE_S if is_kept else None,
            socket_factory=partial(_socket, is_checked=is_checked, is_open=is_open),
        )
        return aiohttp.ClientSession(
            connector=connector,
            # `connect` would be one more timer per request, for a pool that never makes wait.
            timeout=aiohttp.ClientTimeout(total=policy.total_s, sock_connect=policy.connect_s),
            # Named all of them: to leave out what aiohttp adds costs it a twentieth of a request.
            headers={
                "user-agent": "smsgw",
                "content-type": "application/json",
                "accept": "*/*",
                "accept-encoding": "identity",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # the answer is not looked at: nothing to unpack, no bomb
            trust_env=False,  # no proxy and no .netrc from the environment
            read_bufsize=policy.answer_bytes,
        )

    async def deliver(
        self, target: Target, keys: Sequence[bytes], webhook_id: str, body: bytes
    ) -> Delivery:
        """Sign and send; never raises for what a peer does."""
        now = time.time()
        headers = CIMultiDict(sign.headers(keys, webhook_id, int(now), body))
        session = self._sessions[target.is_exempt, self._open.count < self._policy.kept]
        try:
            answer = await session.post(
                target.url, data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:  # OSError: TimeoutError too
            return Failed(_fault_of(error))
        excerpt = await self._drain(answer)
        return _judge(answer.status, answer.headers.get("retry-after"), now, excerpt)

    async def _drain(self, answer: aiohttp.ClientResponse) -> bytes:
        """Read the answer's body away so that the connection can be used again; its beginning.

        The status has decided already: a body that is cut, slow or endless only costs the
        connection.
        """
        left = self._policy.answer_bytes
        excerpt = b""
        try:
            while left > 0:
                chunk = await answer.content.read(left)
                if not chunk:
                    break
                left -= len(chunk)
                if len(excerpt) < EXCERPT_BYTES:
                    excerpt += chunk[: EXCERPT_BYTES - len(excerpt)]
        except (aiohttp.ClientError, OSError):
            pass  # closed below; the outcome stands
        finally:
            if not answer.content.is_eof():
                answer.close()
        return excerpt

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        await self._resolver.close()


def _judge(status: int, retry_after: str | None, now: float, excerpt: bytes) -> Delivery:
    if 200 <= status < 300:
        return Delivered(status, excerpt)
    if status == 410:
        return Gone(excerpt)
    if 300 <= status < 400:
        return Failed(Fault.REDIRECT, status, answer=excerpt)
    wait_s = parse_retry_after(retry_after, now) if status in (429, 503) else None
    return Failed(Fault.STATUS, status, wait_s, excerpt)


def _fault_of(error: BaseException) -> Fault:
    """Which fault an exception of aiohttp or the socket means."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, _AddressRefused
    ):
        return Fault.ADDRESS_REFUSED
    for kind, fault in _FAULTS:
        if isinstance(error, kind):
            return fault
    return Fault.PROTOCOL


_FAULTS: tuple[tuple[type[BaseException], Fault], ...] = (  # the first that fits
    (TimeoutError, Fault.TIMEOUT),
    (aiohttp.ClientConnectorDNSError, Fault.NAME),
    (aiohttp.InvalidURL, Fault.NAME),  # a numeric host that is no address, such as 127.1
    (aiohttp.ClientSSLError, Fault.TLS),
    (aiohttp.ClientConnectorError, Fault.CONNECT),
    (aiohttp.ServerDisconnectedError, Fault.CUT),
    (aiohttp.ClientOSError, Fault.CUT),
    (aiohttp.ClientPayloadError, Fault.CUT),
    (aiohttp.ClientError, Fault.PROTOCOL),
    (UnicodeError, Fault.NAME),  # a name IDNA cannot encode
    (OSError, Fault.CONNECT),
)
