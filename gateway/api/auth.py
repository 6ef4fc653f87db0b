"""Bearer keys: `smsgw_<key id>_<secret><check>`.

    smsgw_ 281474976710655 _ 43 characters of base62 . 8 hex digits
           key id, decimal   the secret, 256 bits      CRC-32 of what stands before it, hex

The store knows HMAC-SHA256(pepper, secret) and nothing else (RELIABILITY section 11). The check
tells a mistyped key, and lets scanners find leaked ones, without asking the store. The key id
travels inside the key, so it is chosen before the key is stored.
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
from sms.config import ApiKey, Snapshot

SCOPES = ("send", "read", "admin")
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_CHARS = 43  # 43 · log2(62) = 256 bits
_KEY = re.compile(rb"(smsgw_([0-9]{1,19})_([0-9A-Za-z]{43}))([0-9a-f]{8})")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(.*)")
_MAX_HEADER = 128  # a bearer header longer than this is not one of our keys
# Compared when the id is unknown, so that an unknown id takes as long as a wrong secret.
_NOBODY = bytes(32)


class ParsedKey(NamedTuple):
    """A key whose form and check are right; whether it is valid is another question."""

    id: int
    secret: bytes


def new_key_id() -> int:
    """A key id that no other gateway uses: 48 random bits, never 0."""
    return secrets.randbits(48) | 1 << 47


def new_key(pepper: bytes, key_id: int) -> tuple[str, bytes]:
    """Make a key: the text to show once, and the hash to store."""
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARS))
    head = f"smsgw_{key_id}_{secret}"
    return f"{head}{zlib.crc32(head.encode()):08x}", hash_secret(pepper, secret.encode())


def parse_key(text: bytes) -> ParsedKey | None:
    """Take a key apart; None when its form or its check is wrong."""
    match = _KEY.fullmatch(text)
    if match is None or b"%08x" % zlib.crc32(match[1]) != match[4]:
        return None
    return ParsedKey(int(match[2]), match[3])


def hash_secret(pepper: bytes, secret: bytes) -> bytes:
    """What the store keeps of a secret."""
    return hmac.digest(pepper, secret, "sha256")


def authenticate(
    headers: Mapping[bytes, bytes], snapshot: Snapshot, pepper: bytes, now: float
) -> ApiKey | Problem:
    """Find the key of a request, or the 401 to answer; reads headers only, never the body.

    `now` is Unix seconds: a key that was rotated out ends by itself.
    """
    header = headers.get(b"authorization")
    if header is None:
        return unauthorized("auth.missing", "The request carries no API key.")
    bearer = _BEARER.fullmatch(header) if len(header) <= _MAX_HEADER else None
    if bearer is None and parse_key(header.strip()) is not None:
        detail = "The Authorization header holds a key without the word Bearer before it."
        return unauthorized("auth.invalid", f"{detail[:-1]}; write `Bearer <api key>`.")
    if bearer is None:
        return unauthorized("auth.invalid", "The Authorization header is not a bearer API key.")
    parsed = parse_key(bearer[1])
    if parsed is None:
        return unauthorized("auth.invalid", "The API key is incomplete or mistyped.")
    key = snapshot.api_keys.get(parsed.id)
    stored = _NOBODY if key is None else key.secret_hash
    is_right = hmac.compare_digest(hash_secret(pepper, parsed.secret), stored)
    if not is_right or key is None or now >= key.valid_until:
        return unauthorized("auth.invalid", "The API key is not known here, or was revoked.")
    return key


def allow(
    key: ApiKey, scope: str, snapshot: Snapshot, *, only_stops: bool = False
) -> Problem | None:
    """None when the key may do what `scope` names for its tenant, else the 403.

    `only_stops`: it lets nothing be sent, so a suspended tenant may do it as well.
    """
    if scope not in key.scopes:
        return Problem("auth.scope", f"This needs a key with the scope `{scope}`.")
    if scope == "admin":
        if key.tenant:  # nobody can make such a key; were there one, it would not be let in
            return Problem("auth.scope", "Administration needs a key of the platform.")
        return None
    tenant = snapshot.tenants.get(key.tenant)
    if tenant is None:
        return Problem("auth.scope", "An admin key belongs to no tenant; use a tenant's key.")
    if tenant.is_suspended and scope == "send" and not only_stops:
        return Problem("tenant.suspended", "The tenant is suspended and may not send.")
    return None
