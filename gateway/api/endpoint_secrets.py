"""The secrets of a webhook endpoint: given, made, rotated. Stored newest first, with their ends.

{"secrets": [newest, one before], "ends": [null, 1764000000.0]}     Unix; null = for good
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from gateway.api.fields import Checked
from webhooks.sign import new_secret, parse_secret, secret_text

MAX_KEYS = 4  # that sign at once: the header stays short


def given_key(good: Mapping[str, Any], checked: Checked) -> tuple[str, dict[str, Any]]:
    """The secret as text, given or made, and what is stored; adds the fault of a wrong one."""
    given = good.get("secret")
    if given is None:
        text, raw = new_secret()
        return text, {"secrets": [_stored(raw)]}
    try:
        raw = parse_secret(given.strip())
    except ValueError as error:
        checked.add("/secret", "field.value", f"`secret`: {error}; leave it out to get one.")
        return "", {}
    return secret_text(raw), {"secrets": [_stored(raw)]}


def rotated(
    standing: Mapping[str, Any], now: float, overlap_s: float
) -> tuple[str, dict[str, Any]]:
    """A new secret as text, and what is stored: those before sign until their end."""
    text, raw = new_secret()
    keys = standing.get("secrets", [])
    ends = standing.get("ends", [None] * len(keys))
    kept = [
        (key, min(math.inf if end is None else end, now + overlap_s))
        for key, end in zip(keys, ends, strict=True)
    ]
    kept = [(key, end) for key, end in kept if end > now][: MAX_KEYS - 1]
    stored: dict[str, Any] = {"secrets": [_stored(raw), *(key for key, _ in kept)]}
    if kept:
        stored["ends"] = [None, *(end for _, end in kept)]
    return text, stored


def _stored(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
