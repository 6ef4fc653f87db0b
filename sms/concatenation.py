"""Long texts: the header in front of each segment's user data (3GPP TS 23.040, 9.2.3.24).

    05 00 03 RR TT NN  text        8-bit reference, total, number of this segment
    06 08 04 RR RR TT NN  text     16-bit reference

Reading is patient: a header that says nothing usable leaves a whole text, since an odd octet must
not cost an opt-out. Joining is pure; where the segments wait is the store's matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import groupby

from sms.model import SegmentMark

MAX_TOTAL = 255  # one octet
MAX_REFERENCE = 0xFFFF  # two
# How a segment ends whose last character is cut, octets written by `surrogateescape`: the first of
# two or four, the first two of four, or three.
_CUT = re.compile("[\udc81-\udcfe](?:[0-9][\udc81-\udcfe]?)?\\Z")
_UDH_8, _UDH_16 = 0x00, 0x08
GAP = "[…]"  # stands where segments never came


def split_header(body: bytes) -> tuple[SegmentMark | None, bytes]:
    """User data that begins with a header: what it says of the place, and the text behind it."""
    if not body:
        return None, body
    stop = 1 + body[0]
    if stop > len(body):  # no header at all, whatever the flag said
        return None, body
    mark: SegmentMark | None = None
    position = 1
    while position + 2 <= stop:
        kind, size = body[position], body[position + 1]
        value = body[position + 2 : min(position + 2 + size, stop)]
        if kind == _UDH_8 and len(value) == size == 3:
            mark = mark_of(value[0], value[1], value[2], 8)
        elif kind == _UDH_16 and len(value) == size == 4:
            mark = mark_of(int.from_bytes(value[:2], "big"), value[2], value[3], 16)
        position += 2 + size
    return mark, body[stop:]


def mark_of(reference: int, total: int, number: int, form: int) -> SegmentMark | None:
    """The place of a segment; None when the numbers make no long text (23.040: ignore them).

    The bounds are the header's own widths, whatever field they were read from: who joins counts
    up to the total, and the store keeps it.
    """
    if not 2 <= total <= MAX_TOTAL or not 1 <= number <= total:
        return None
    if not 0 <= reference <= MAX_REFERENCE:
        return None
    return SegmentMark(reference, total, number, form)


def join(texts: Mapping[int, str], total: int) -> str:
    """The text of what came, by index from 1; what is missing in a row shows as one `GAP`.

    Halves of a UTF-16 pair, and octets of a GB18030 character, that a cut separated are one
    character again; a lone one is U+FFFD.
    """
    pieces: list[str] = []
    for is_there, indexes in groupby(range(1, total + 1), texts.__contains__):
        pieces.append(_adjacent([texts[index] for index in indexes]) if is_there else GAP)
    return whole("".join(pieces))


def _adjacent(segments: list[str]) -> str:
    """Segments without a gap between them.

    One of GB18030 that a cut left in the middle of a character ends with escaped octets, and those
    behind it are read one octet beside their characters: all of them again, from their octets. A
    segment of UTF-16 never ends so, with the lower half of a pair alone.
    """
    text = "".join(segments)
    if any(_CUT.search(segment, max(0, len(segment) - 3)) for segment in segments[:-1]):
        with suppress(UnicodeEncodeError):  # not all of GB18030
            return text.encode("gb18030", "surrogateescape").decode("gb18030", "replace")
    return text


def utf16(body: bytes) -> str:
    """UTF-16BE of a segment: half a pair stays, for the cut may go through one; an odd octet at
    the end is U+FFFD.
    """
    text = body[: len(body) & ~1].decode("utf-16-be", "surrogatepass")
    return text + "\ufffd" * (len(body) & 1)


def whole(text: str) -> str:
    """The text without lone surrogates and NULs, which neither JSON nor a database holds."""
    return (
        text.encode("utf-16-le", "surrogatepass")
        .decode("utf-16-le", "replace")
        .replace("\0", "\ufffd")
    )
