"""Who may come in: the key of a request, its signature, and where it comes from.

    headers ─▶ identify ─┬─ bearer: proven by its hash
                         └─ signed: proven only by `verify`, once the body is there
            ─▶ check_address (the tenant's allow-list) ─▶ the route's scope (`auth.allow`)

`Access` joins what this needs beside the configuration snapshot; wiring fills it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from cluster.nonces import Nonce, Nonces
from gateway.api.address import Address, Addresses, is_in
from gateway.api.auth import authenticate
from gateway.api.problems import Problem, ProblemError, retry_after, unauthorized
from gateway.api.signing import (
    HEADERS,
    Signed,
    is_signature,
    parse_signed,
    string_to_sign,
)
from sms.config import ApiKey, Snapshot
from sms.ids import to_text
from telemetry.access import AccessLog

if TYPE_CHECKING:
    from gateway.api.port import FlowPort
    from store.config import ConfigStore

_UNSURE_RETRY_S = 10
CERTIFICATE: Final = "smsgw.certificate"  # in a scope: the SHA-256 of what the client showed
_KEPT_SAID = 256  # octets of X-Forwarded-For remembered; what is longer is asked each time
_ID_IN_PATH = re.compile(r"(?<=/)[a-z]{3}_[0-9a-f]{16}(?=[/:]|\Z)")
_LOOP_BYTES = 1 << 18  # hashed on the loop; what is larger is hashed beside it


class NoncesPort(Protocol):
    """Remembers the nonces of signed requests."""

    async def take(self, key_id: int, nonce: bytes) -> Nonce:
        """Use a nonce up."""
        ...


async def _nothing() -> None:
    """No worker is joined: the configuration is taken up by whoever polls."""


@dataclass(slots=True)
class Access:
    """What the doors need of proxies, nonces and the configuration store."""

    addresses: Addresses = field(default_factory=Addresses)
    nonces: NoncesPort = field(default_factory=lambda: Nonces(None))
    config: ConfigStore | None = None  # for administration; None = not offered here
    refresh: Callable[[], Awaitable[None]] = _nothing  # take a changed configuration up now
    now: Callable[[], float] = time.time
    log: AccessLog = field(default_factory=AccessLog)  # writes nothing unless wiring says where
    has_client_ca: bool = True  # the public port asks clients for certificates


class Caller(NamedTuple):
    """Whose key a request names; with `signed`, that is not proven before `Gate.verify`."""

    key: ApiKey
    signed: Signed | None


class Gate:
    """Lets requests in, or raises the `ProblemError` that says why not."""

    def __init__(self, flow: FlowPort) -> None:
        self._flow = flow
        self._access = flow.access
        self._allowed: dict[tuple[int, str | None, bytes], bool] = {}
        self._allowed_under: Snapshot | None = None

    def identify(self, headers: Mapping[bytes, bytes]) -> Caller:
        """The key of a request; reads headers only, never the body. Raises the 401."""
        flow, now = self._flow, self._access.now()
        if not any(name in headers for name in HEADERS):
            found = authenticate(headers, flow.snapshot, flow.keyring.pepper, now)
            if isinstance(found, Problem):
                raise ProblemError(found)
            return Caller(found, None)
        if b"authorization" in headers:
            detail = "The request carries both an Authorization header and a signature; send one."
            raise ProblemError(unauthorized("auth.ambiguous", detail))
        signed = parse_signed(headers, now)
        if isinstance(signed, Problem):
            raise ProblemError(signed)
        key = flow.snapshot.api_keys.get(signed.key_id)
        if key is None or key.signing_secret is None or now >= key.valid_until:
            detail = "X-Smsgw-Key names no key that signs requests here, or it was revoked."
            raise ProblemError(unauthorized("auth.invalid", detail))
        return Caller(key, signed)

    async def verify(self, caller: Caller, scope: Mapping[str, Any], body: bytes) -> ApiKey:
        """Prove a signed request over its whole body, and use its nonce up.

        Returns the key as it stands now: reading the body took its time. Raises the 401.
        """
        key, signed = caller
        if signed is None or key.signing_secret is None:
            raise RuntimeError("there is no signature to verify")
        raw_path = scope.get("raw_path") or scope["path"].encode()
        query = scope.get("query_string", b"")
        digest = await _digest(body)
        message = string_to_sign(
            scope["method"], raw_path, query, digest, signed.timestamp, signed.nonce
        )
        if not is_signature(key.signing_secret, message, signed.signature):
            detail = "The signature is not that of this request; sign exactly the bytes you send."
            raise ProblemError(unauthorized("auth.signature", detail))
        # Only now: a stranger must not use up the nonces of others.
        nonce = await self._access.nonces.take(key.id, signed.nonce)
        self._flow.metrics.signed_requests_total.inc((nonce.value,))
        if nonce is Nonce.USED:
            detail = "X-Smsgw-Nonce was used before; sign every request, every retry too, anew."
            raise ProblemError(unauthorized("auth.nonce_used", detail))
        if nonce is Nonce.UNSURE:
            detail = "Whether the nonce was used before cannot be told just now."
            raise ProblemError(retry_after("auth.nonce_unsure", detail, _UNSURE_RETRY_S))
        standing = self._flow.snapshot.api_keys.get(key.id)
        if standing is None or standing.signing_secret != key.signing_secret:
            raise ProblemError(unauthorized("auth.invalid", "The key was revoked."))
        return standing

    def address_of(self, scope: Mapping[str, Any]) -> Address | None:
        """Where the request comes from; None when that cannot be known."""
        client = scope.get("client")
        return self._access.addresses.of(client[0] if client else None, scope["headers"])

    def note(self, scope: Mapping[str, Any], route: str, status: int, took_s: float) -> None:
        """One line of the access log; `scope["state"]` says which key was proven, if any.

        Of the path only our own ids: what else stands in an address is the caller's invention.
        """
        address, state = self.address_of(scope), scope["state"]
        key: ApiKey | None = state.get("key")
        fields: dict[str, object] = {
            "method": state["method"],
            "route": route,
            "ids": _ID_IN_PATH.findall(scope["path"]),
            "status": status,
            "ms": round(took_s * 1000, 1),
            "tenant": to_text("ten", key.tenant) if key is not None and key.tenant else None,
            "key": None if key is None else to_text("key", key.id),
            "address": None if address is None else str(address),
            "request_id": state["request_id"],
        }
        self._access.log.write(fields, is_proven=key is not None)

    def check_address(self, key: ApiKey, scope: Mapping[str, Any]) -> None:
        """Raise the 403 when the key's tenant has an allow-list and this address is not on it, or
        asks for certificates and this connection shows none of them."""
        tenant = self._flow.snapshot.tenants.get(key.tenant)
        if tenant is None:
            return
        wanted = tenant.client_certificates
        if wanted and scope.get(CERTIFICATE) not in wanted:
            shown = "another one" if scope.get(CERTIFICATE) else "none"
            detail = f"The tenant's `client_certificates` list what must be shown; {shown} was."
            raise ProblemError(Problem("auth.certificate", detail))
        if not tenant.allowed_ips:
            return
        if not is_in(self.address_of(scope), tenant.allowed_ips):
            raise ProblemError(
                Problem(
                    "auth.address_not_allowed",
                    "The tenant's `allowed_ips` do not list the address this request comes from.",
                )
            )

    def is_allowed(
        self, tenant_id: int, peer: str | None, headers: Iterable[tuple[bytes, bytes]]
    ) -> bool:
        """`check_address` for the short way: remembered by what it depends on.

        Certificates are looked at on the long way only.
        """
        snapshot = self._flow.snapshot
        if snapshot.tenants[tenant_id].client_certificates:
            return False
        if snapshot is not self._allowed_under or len(self._allowed) > 4096:
            self._allowed_under = snapshot
            self._allowed.clear()
        said = b",".join([value for name, value in headers if name == b"x-forwarded-for"])
        key = tenant_id, peer, said
        known = self._allowed.get(key)
        if known is None:
            networks = snapshot.tenants[tenant_id].allowed_ips
            known = is_in(self._access.addresses.of(peer, headers), networks)
            if len(said) <= _KEPT_SAID:  # the caller writes it: 4,096 times 16 KiB are too much
                self._allowed[key] = known
        return known


async def _digest(body: bytes) -> str:
    if len(body) <= _LOOP_BYTES:
        return hashlib.sha256(body).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())
