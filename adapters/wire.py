"""Bytes shared by the carriers' protocols: cutting a stream into frames, C strings, TLVs.

Every one of SMPP, CMPP, SGIP and SMGP starts a PDU with its whole length as a big-endian u32:

    ┌──────────┬───────────────────────────┬──────────┬────────────────
    │ length 4 │ the rest, length − 4 long │ length 4 │ …
    └──────────┴───────────────────────────┴──────────┴────────────────

Nothing here reads a socket or knows a command.
"""

from __future__ import annotations

import struct

from sms.errors import RemoteProtocolError

_LENGTH = struct.Struct(">I").unpack_from
_TLV = struct.Struct(">HH").unpack_from


class Framer:
    """Cuts a byte stream into whole frames and refuses impossible lengths.

    A wrong length leaves no way to find the next frame: `error` is set, the frames before it
    are still returned, and everything after it is ignored.
    """

    __slots__ = ("_maximum", "_minimum", "_rest", "error")

    def __init__(self, minimum: int, maximum: int) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._rest = b""
        self.error: RemoteProtocolError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes from the peer and return the frames they complete, oldest first."""
        frames: list[bytes] = []
        if self.error is not None:
            return frames
        if self._rest:
            data = self._rest + data
        start, end = 0, len(data)
        minimum, maximum = self._minimum, self._maximum
        while end - start >= 4:
            length = _LENGTH(data, start)[0]
            if not minimum <= length <= maximum:
                shown = _shown(data[start : start + 4], length)
                self.error = RemoteProtocolError(f"frame length {shown} is impossible")
                self._rest = b""
                return frames
            stop = start + length
            if stop > end:
                break
            frames.append(data[start:stop])
            start = stop
        self._rest = data[start:]
        return frames


def _shown(octets: bytes, length: int) -> str:
    """A length as a reason names it: long ones in hexadecimal groups, which no log takes for a
    phone number, and with its name the one that is the first word of an HTTP server."""
    if length <= 0xFFFF:
        return str(length)
    return f"{length:#_x}" + (' ("HTTP")' if octets == b"HTTP" else "")


def parse_cstring(frame: bytes, position: int, limit: int) -> tuple[bytes, int]:
    """Read a NUL-terminated string of at most `limit` octets, its NUL included.

    Returns the octets without the NUL and the position after it. Raises RemoteProtocolError
    when no NUL stands within the limit.
    """
    end = frame.find(0, position, position + limit)
    if end < 0:
        raise RemoteProtocolError(f"no end of string within {limit} octets at {position}")
    return frame[position:end], end + 1


def build_cstring(value: bytes, limit: int) -> bytes:
    """NUL-terminate `value`; ValueError when it holds a NUL or is longer than `limit` − 1."""
    if len(value) >= limit or 0 in value:
        raise ValueError(f"at most {limit - 1} octets without NUL")
    return value + b"\0"


def parse_tlvs(frame: bytes, position: int) -> list[tuple[int, bytes]]:
    """Read the optional parameters from `position` to the end, in wire order.

    A cut or overlong last one ends the list: carriers pad PDUs with stray octets.
    """
    found: list[tuple[int, bytes]] = []
    end = len(frame)
    while end - position >= 4:
        tag, length = _TLV(frame, position)
        position += 4
        if length > end - position:
            break
        found.append((tag, frame[position : position + length]))
        position += length
    return found


def build_tlvs(values: list[tuple[int, bytes]]) -> bytes:
    """The octets of optional parameters, in the order given."""
    return b"".join(struct.pack(">HH", tag, len(value)) + value for tag, value in values)
