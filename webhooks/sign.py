"""Sign a webhook as Standard Webhooks 1.0.0 says.

    signed content     webhook-id "." webhook-timestamp "." body
    webhook-signature  "v1," base64(HMAC-SHA256(key, signed content)), one per key, by spaces

The exact bytes that are sent are signed. While a secret is rotated both keys sign, so that the
receiver may change over at any moment.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Sequence

PREFIX = "whsec_"
MIN_BYTES = 24  # Standard Webhooks 1.0.0, "Signature scheme": 24 to 64 random bytes
MAX_BYTES = 64
NEW_BYTES = 32


def secret_text(key: bytes) -> str:
    """`whsec_` and the key in base64: what the tenant keeps."""
    return PREFIX + base64.b64encode(key).decode("ascii")


def new_secret() -> tuple[str, bytes]:
    """Make a secret of 32 random bytes: as text for the tenant, and as the key that signs."""
    key = os.urandom(NEW_BYTES)
    return secret_text(key), key


def parse_secret(text: str) -> bytes:
    """Return the key inside `whsec_…`.

    Raises ValueError, which never repeats the text, when the prefix, the base64 or the length
    (24 to 64 bytes) is wrong.
    """
    if not text.startswith(PREFIX):
        raise ValueError(f"a webhook secret begins with {PREFIX}")
    digits = text[len(PREFIX) :]
    try:  # padding may be missing: several libraries of the standard leave it out
        key = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"a webhook secret is {PREFIX} and base64") from None
    if not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise ValueError(f"a webhook secret holds {MIN_BYTES} to {MAX_BYTES} bytes, not {len(key)}")
    return key


def signature(keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`; `timestamp` is Unix seconds, of this attempt."""
    content = b"%b.%d.%b" % (webhook_id.encode("ascii"), timestamp, body)
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode("ascii")
        for key in keys
    )


def headers(
    keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes
) -> tuple[tuple[str, str], ...]:
    """The three headers of the standard for one request."""
    return (
        ("webhook-id", webhook_id),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", signature(keys, webhook_id, timestamp, body)),
    )
