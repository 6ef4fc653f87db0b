"""PDUs of fixed-width fields as tables: SGIP and SMGP are laid out alike.

Texts stand in fields of fixed width, left aligned and padded with 0x00; numbers of one octet or
four, big-endian; a list of addresses and the message's content are as long as a field before them
says. One parser and one builder walk the table; what travels once per segment has a flat form of
its own beside it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from sms.errors import RemoteProtocolError

Value = str | int | bytes | tuple[str, ...]
Fields = dict[str, Value]


class Kind(Enum):
    """How a field is laid out."""

    TEXT = "`length` octets of text, padded with 0x00"
    NUMBER = "`length` octets of unsigned big-endian number"
    OCTETS = "`length` octets as they are"
    TEXTS = "texts of `length` octets each, as many as the field `count` says"
    CONTENT = "octets, as many as the field `count` says"


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a PDU's table; `most` bounds what a `count` may say."""

    name: str
    kind: Kind
    length: int = 0
    count: str = ""
    most: int = 0


def texts(*rows: tuple[str, int]) -> tuple[Field, ...]:
    """Rows of text: (name, width)."""
    return tuple(Field(name, Kind.TEXT, length) for name, length in rows)


def octets(*names: str) -> tuple[Field, ...]:
    """Rows of one octet each."""
    return tuple(Field(name, Kind.NUMBER, 1) for name in names)


def parse_fields(rows: Sequence[Field], frame: bytes, position: int) -> tuple[Fields, int]:
    """Read the rows from `position` on: (fields by name, position after them).

    Raises RemoteProtocolError when the frame ends inside a field or a count is over its bound.
    """
    fields: Fields = {}
    for row in rows:
        size = _size(row, fields)
        after = position + size
        if after > len(frame):
            raise RemoteProtocolError(f"the PDU ends inside {row.name}")
        fields[row.name] = _parse(row, frame[position:after])
        position = after
    return fields, position


def _size(row: Field, fields: Mapping[str, Value]) -> int:
    if not row.count:
        return row.length
    count = fields[row.count]
    if not isinstance(count, int) or count > row.most:
        raise RemoteProtocolError(f"{row.count} says more than the {row.most} that may stand there")
    return count * (row.length or 1)


def _parse(row: Field, data: bytes) -> Value:
    match row.kind:
        case Kind.TEXT:
            return data.partition(b"\0")[0].decode("latin-1")
        case Kind.NUMBER:
            return int.from_bytes(data, "big")
        case Kind.TEXTS:
            width = row.length
            pieces = (data[start : start + width] for start in range(0, len(data), width))
            return tuple([piece.partition(b"\0")[0].decode("latin-1") for piece in pieces])
        case Kind.OCTETS | Kind.CONTENT:
            return data


def build_fields(rows: Sequence[Field], fields: Mapping[str, Value]) -> bytes:
    """The octets of the rows; fields left out are empty or 0, counts follow what they count.

    Raises ValueError when a field does not fit its row.
    """
    counts = {row.count: _count(row, fields.get(row.name)) for row in rows if row.count}
    return b"".join([_build(row, counts.get(row.name, fields.get(row.name))) for row in rows])


def _count(row: Field, value: Value | None) -> int:
    size = len(value) if isinstance(value, bytes | tuple) else 0
    if size > row.most:
        raise ValueError(f"{row.name} holds at most {row.most}")
    return size


def _build(row: Field, value: Value | None) -> bytes:
    match row.kind:
        case Kind.TEXT:
            return padded(value if isinstance(value, str) else "", row.length)
        case Kind.NUMBER:
            number = value if isinstance(value, int) else 0
            if not 0 <= number < 1 << 8 * row.length:
                raise ValueError(f"{row.name} does not fit {row.length} octets")
            return number.to_bytes(row.length, "big")
        case Kind.TEXTS:
            many = value if isinstance(value, tuple) else ()
            return b"".join([padded(one, row.length) for one in many])
        case Kind.OCTETS:
            return (value if isinstance(value, bytes) else b"").ljust(row.length, b"\0")
        case Kind.CONTENT:
            return value if isinstance(value, bytes) else b""


def padded(text: str, width: int) -> bytes:
    """Text in a field of fixed width; ValueError when it is longer, not Latin-1 or has a NUL."""
    data = text.encode("latin-1")
    if len(data) > width or 0 in data:
        raise ValueError(f"at most {width} octets without NUL")
    return data.ljust(width, b"\0")
