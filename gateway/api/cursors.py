"""Cursors: where the next page of a list goes on, in a form that only we can make.

    base64url( position (8 bytes) ‖ first 12 bytes of a keyed BLAKE2b over place and position )

The place names list, tenant and filters, so a cursor works with exactly these and a changed one
with none. It holds no secret and needs no memory: every process opens it, also after a restart.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from hashlib import blake2b
from struct import Struct

_POSITION = Struct(">q")
_MAC_BYTES = 12
_LENGTH = _POSITION.size + _MAC_BYTES


def place_of(name: str, tenant: int, filters: Mapping[str, object]) -> bytes:
    """One text for each list, tenant and set of filters."""
    return json.dumps([name, tenant, sorted(filters.items())], default=str).encode()


def seal_cursor(key: bytes, place: bytes, position: int) -> str:
    """The cursor of a position (0 … 2^63 - 1) in a place."""
    packed = _POSITION.pack(position)
    return base64.urlsafe_b64encode(packed + _mac(key, place, packed)).rstrip(b"=").decode()


def open_cursor(key: bytes, place: bytes, text: str) -> int | None:
    """The position again; None when it is not a cursor that this place gave."""
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    packed, mac = raw[: _POSITION.size], raw[_POSITION.size :]
    # Not a secret compared: who guesses a cursor learns nothing but a place in a list of his own.
    if len(raw) != _LENGTH or mac != _mac(key, place, packed):
        return None
    position: int = _POSITION.unpack(packed)[0]
    return position


def _mac(key: bytes, place: bytes, packed: bytes) -> bytes:
    return blake2b(packed + place, digest_size=_MAC_BYTES, key=key).digest()
