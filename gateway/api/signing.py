"""Signed requests: what is signed, and whether it is (API section 1).

    METHOD LF PATH LF SORTED-QUERY LF hex SHA256(body) LF TIMESTAMP LF NONCE
        │ HMAC-SHA256 with the key's signing secret
        ▼
    X-Smsgw-Signature, beside X-Smsgw-Key, X-Smsgw-Timestamp, X-Smsgw-Nonce

PATH is as sent, never decoded; SORTED-QUERY is the raw pairs in the order of their bytes. Pure:
the clock is an argument, and the nonce is somebody else's to remember.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from gateway.api.problems import Problem, unauthorized
from sms.ids import from_text

MAX_SKEW_S = 300
NONCE_KEPT_S = 600
MAX_NONCE = 128
KEY, TIMESTAMP, NONCE, SIGNATURE = HEADERS = (
    b"x-smsgw-key",
    b"x-smsgw-timestamp",
    b"x-smsgw-nonce",
    b"x-smsgw-signature",
)
_TIMESTAMP = re.compile(rb"[0-9]{1,12}")
_NONCE = re.compile(rb"[!-~]{1,%d}" % MAX_NONCE)
_SIGNATURE = re.compile(rb"[0-9a-f]{64}")
_SECRET = re.compile(r"(smsgw_signing_[0-9A-Za-z]{43})([0-9a-f]{8})")
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase


class Signed(NamedTuple):
    """What the headers of a signed request say; nothing of it is proven yet."""

    key_id: int
    timestamp: bytes
    nonce: bytes
    signature: bytes


def new_signing_secret() -> str:
    """A secret to show once; its characters are the key of the HMAC. 256 bits and a check."""
    head = "smsgw_signing_" + "".join(secrets.choice(_ALPHABET) for _ in range(43))
    return f"{head}{zlib.crc32(head.encode()):08x}"


def is_signing_secret(text: str) -> bool:
    """Whether it has the form and the check of one of ours."""
    match = _SECRET.fullmatch(text)
    return match is not None and f"{zlib.crc32(match[1].encode()):08x}" == match[2]


def string_to_sign(
    method: str, path: bytes, query: bytes, body_digest: str, timestamp: bytes, nonce: bytes
) -> bytes:
    """The six lines. `path` and `query` are raw, as they stood in the request line.

    `body_digest`: SHA-256 of the body in hex; an empty body has one too.
    """
    pairs = b"&".join(sorted(query.split(b"&")))
    return b"\n".join(
        (method.encode("latin-1"), path, pairs, body_digest.encode(), timestamp, nonce)
    )


def sign(secret: bytes, message: bytes) -> bytes:
    """The signature, 64 hex digits."""
    return hmac.digest(secret, message, "sha256").hex().encode()


def is_signature(secret: bytes, message: bytes, signature: bytes) -> bool:
    """Compare in a time that tells nothing of where they differ."""
    return hmac.compare_digest(sign(secret, message), signature)


def parse_signed(headers: Mapping[bytes, bytes], now: float) -> Signed | Problem:
    """Read the four headers; the 401 when one is missing or not right, or the clock is."""
    missing = [name.decode() for name in HEADERS if name not in headers]
    if missing:
        return _refuse(f"A signed request carries {', '.join(missing)} too.")
    key_id = from_text("key", headers[KEY].decode("latin-1"))
    if key_id is None:
        return _refuse("X-Smsgw-Key is not the id of a key (key_ and 16 hex digits).")
    timestamp, nonce, signature = headers[TIMESTAMP], headers[NONCE], headers[SIGNATURE].lower()
    for pattern, value, wrong in (
        (_TIMESTAMP, timestamp, "X-Smsgw-Timestamp is not a number of whole Unix seconds."),
        (_NONCE, nonce, f"X-Smsgw-Nonce is not 1 to {MAX_NONCE} visible ASCII characters."),
        (_SIGNATURE, signature, "X-Smsgw-Signature is not 64 hex digits."),
    ):
        if pattern.fullmatch(value) is None:
            return _refuse(wrong)
    if abs(int(timestamp) - now) > MAX_SKEW_S:
        detail = f"X-Smsgw-Timestamp is more than {MAX_SKEW_S} s away from the gateway's clock."
        return unauthorized("auth.timestamp", detail)
    return Signed(key_id, timestamp, nonce, signature)


def _refuse(detail: str) -> Problem:
    return unauthorized("auth.signature_malformed", detail)
