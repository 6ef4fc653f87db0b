"""Tencent Cloud's signature of a request, version 3 (TC3-HMAC-SHA256).

    signature = hex(HMAC(key of the day, algorithm, time, scope, hex(SHA256(canonical request))))
    key of the day = HMAC(HMAC(HMAC("TC3" + secret, date), service), "tc3_request")

(cloud.tencent.com/document/api/382/52072.) Signed are content-type and host, as the vendor's SDK
does; Host is the shell's, which sends that of the address.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from adapters.http.vendor import Request

ALGORITHM: Final = "TC3-HMAC-SHA256"
SERVICE: Final = "sms"
JSON: Final = "application/json"


class Tc3:
    """Signs the requests of one account to one endpoint."""

    __slots__ = ("_day", "_fixed", "_host", "_key", "_path", "_secret_id", "_secret_key")

    def __init__(
        self, login: tuple[str, str], region: str, version: str, url: tuple[str, str]
    ) -> None:
        """`login` is (SecretId, SecretKey), `url` is (host, path)."""
        self._secret_id, self._secret_key = login
        self._host, self._path = url
        self._fixed = (("x-tc-version", version), ("x-tc-region", region))
        self._day = ""
        self._key = b""

    def request(self, action: str, url: str, body: Mapping[str, object], unix: float) -> Request:
        """A signed POST of `body` to `url`, whose host and path are those of this signer."""
        seconds = int(unix)
        payload = json.dumps(body).encode()
        headers = (
            ("content-type", JSON),
            ("x-tc-action", action),
            ("x-tc-timestamp", str(seconds)),
            *self._fixed,
            ("authorization", self._sign(payload, seconds)),
        )
        return Request("POST", url, headers, payload)

    def _sign(self, payload: bytes, seconds: int) -> str:
        day = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
        scope = f"{day}/{SERVICE}/tc3_request"
        digest = hashlib.sha256(payload).hexdigest()
        canonical = (
            f"POST\n{self._path}\n\ncontent-type:{JSON}\nhost:{self._host}\n\n"
            f"content-type;host\n{digest}"
        )
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"{ALGORITHM}\n{seconds}\n{scope}\n{hashed}"
        signature = _hmac(self._key_of(day), text).hex()
        return (
            f"{ALGORITHM} Credential={self._secret_id}/{scope}, "
            f"SignedHeaders=content-type;host, Signature={signature}"
        )

    def _key_of(self, day: str) -> bytes:
        """The key of a day of UTC; three HMACs, so it is kept."""
        if day != self._day:
            key = _hmac(f"TC3{self._secret_key}".encode(), day)
            self._key = _hmac(_hmac(key, SERVICE), "tc3_request")
            self._day = day
        return self._key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
