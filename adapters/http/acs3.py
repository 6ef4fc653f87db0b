"""Aliyun's signature of a request, version 3 (ACS3-HMAC-SHA256).

    signature = hex(HMAC(secret, "ACS3-HMAC-SHA256\\n" + hex(SHA256(canonical request))))
    canonical request: method, path, query, headers with their names, hex(SHA256(body))

(help.aliyun.com/zh/sdk/product-overview/v3-request-structure-and-signature.) Signed are the headers
that the vendor's SDK signs and we send; Host is the shell's, which sends that of the address.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlencode

from adapters.http.vendor import Request

ALGORITHM: Final = "ACS3-HMAC-SHA256"
FORM: Final = "application/x-www-form-urlencoded"
_NOTHING: Final = hashlib.sha256(b"").hexdigest()


class Acs3:
    """Signs the requests of one account to one endpoint."""

    __slots__ = ("_head", "_host", "_key", "_path", "_version")

    def __init__(self, key_id: str, secret: str, version: str, host: str, path: str) -> None:
        self._key = secret.encode()
        self._version = version
        self._host = host
        self._path = path
        self._head = f"{ALGORITHM} Credential={key_id},SignedHeaders="

    def request(
        self,
        action: str,
        url: str,
        parameters: tuple[Mapping[str, str], Mapping[str, str]],
        unix: float,
        nonce: str,
    ) -> Request:
        """A signed POST of (query, form) to `url`, whose host and path are those of this signer."""
        query = "&".join(
            f"{quote(name, safe='~')}={quote(value, safe='~')}"
            for name, value in sorted(parameters[0].items())
        )
        body = urlencode(sorted(parameters[1].items())).encode()
        headers = {
            "accept": "application/json",
            "host": self._host,
            "x-acs-action": action,
            "x-acs-content-sha256": hashlib.sha256(body).hexdigest() if body else _NOTHING,
            "x-acs-date": f"{datetime.fromtimestamp(int(unix), UTC):%Y-%m-%dT%H:%M:%SZ}",
            "x-acs-signature-nonce": nonce,
            "x-acs-version": self._version,
        }
        if body:
            headers["content-type"] = FORM
        authorization = self._sign(query, headers)
        del headers["host"]
        whole = f"{url}?{query}" if query else url
        return Request("POST", whole, (*headers.items(), ("authorization", authorization)), body)

    def _sign(self, query: str, headers: Mapping[str, str]) -> str:
        names = sorted(headers)
        signed = ";".join(names)
        lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
        digest = headers["x-acs-content-sha256"]
        canonical = f"POST\n{self._path}\n{query}\n{lines}\n{signed}\n{digest}"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(self._key, f"{ALGORITHM}\n{hashed}".encode(), "sha256").hex()
        return f"{self._head}{signed},Signature={signature}"
