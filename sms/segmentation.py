"""Cut a text into segments: 160 or 153 septets of GSM-7, 70 or 67 UTF-16 units of UCS-2.

    140 octets on the air = 160 septets = 70 units           a text that fits one segment
    6 octets of header (05 00 03 RR TT NN) leave 134 octets = 153 septets = 67 units

(3GPP TS 23.040, 9.2.3.24.1: concatenation with an 8-bit reference.) Cuts are greedy. A cut never
falls inside a surrogate pair or between an escape and its character, and an emoji made of several
code points – joined by ZWJ, with a skin tone, a variation selector or tags, a keycap, a flag –
moves whole to the next segment when it fits one at all. Nothing is lost: the segments joined are
the text.

A text without such characters is sliced, one that fits one segment is not even measured when its
length says enough: about 1 µs for a one-segment text. The walk over code points is only for the
rest; the tests hold the two together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from sms import gsm
from sms.model import Encoding

GSM7_ONE = 160  # septets
GSM7_EACH = 153  # behind a header of 6 octets (8-bit reference)
GSM7_EACH_WIDE = 152  # of 7 octets (16-bit reference)
UCS2_ONE = 70  # UTF-16 units
UCS2_EACH = 67
UCS2_EACH_WIDE = 66
MAX_SEGMENTS = 255  # the total is one octet of the header

_GSM7 = Encoding.GSM7
_UCS2 = Encoding.UCS2

_LOOKALIKES: dict[int, str] = {
    int(code[2:], 16): plain
    for code, plain in json.loads(
        (Path(__file__).parent / "data" / "lookalikes.json").read_text("utf-8")
    )["replacements"].items()
}

# What a plain slice of a UCS-2 text could tear: surrogate pairs and the parts of an emoji.
_FRAGILE = re.compile("[\u200d\u20e3\ufe00-\ufe0f\U00010000-\U0010ffff]")
_PICTURE = "[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff]"
_AFTER = "[\ufe00-\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
_CLUSTER = re.compile(
    "[\U0001f1e6-\U0001f1ff]{2}"  # a flag: two regional indicators
    "|[0-9#*]\ufe0f?\u20e3"  # a keycap
    f"|{_PICTURE}(?={_AFTER}|\u200d){_AFTER}*(?:\u200d{_PICTURE}{_AFTER}*)*"
    "|[\U00010000-\U0010ffff]",
)


@dataclass(slots=True)  # not frozen: one per message on the hot path
class Segmentation:
    """The text of each segment (joined: the final text), and how they travel."""

    encoding: Encoding
    texts: tuple[str, ...]


@dataclass(slots=True)
class TooLong:
    """More segments than allowed; `segments` is how many it would take at least."""

    segments: int


@dataclass(slots=True)
class NotGsm7:
    """`gsm7` was asked for and these characters have no septet, each once, in order."""

    characters: tuple[str, ...]


def segment(
    text: str,
    encoding: str = "auto",
    *,
    smart: bool = False,
    max_segments: int = 10,
    is_wide: bool = False,
) -> Segmentation | TooLong | NotGsm7:
    """Choose the encoding and cut; an empty text is one empty segment.

    `encoding` is `auto` (GSM-7 when every character fits, else UCS-2), `gsm7` or `ucs2`. With
    `smart` typographic look-alikes are replaced (data/lookalikes.json) if the whole text is GSM-7
    afterwards, else it stays unchanged. `max_segments` above 255 means 255. `is_wide`: each segment
    leaves room for a 16-bit reference.
    """
    if encoding != "ucs2":
        if gsm.is_gsm7(text):
            return _as_gsm7(text, max_segments, GSM7_EACH_WIDE if is_wide else GSM7_EACH)
        if smart:
            plain = text.translate(_LOOKALIKES)
            if gsm.is_gsm7(plain):
                return _as_gsm7(plain, max_segments, GSM7_EACH_WIDE if is_wide else GSM7_EACH)
        if encoding == "gsm7":
            return NotGsm7(gsm.outside(text.translate(_LOOKALIKES) if smart else text))
    return _as_ucs2(text, max_segments, UCS2_EACH_WIDE if is_wide else UCS2_EACH)


def payload(
    texts: tuple[str, ...], index: int, encoding: Encoding, reference: int, bits: int = 8
) -> tuple[bytes, bool]:
    """The user data of one segment and whether it begins with the concatenation header.

    `index` from 0; `reference` is the same for all segments of one message, its low `bits` (8 or
    16, as `usable_bits` said of the whole text) are used. GSM-7 as unpacked septets, UCS-2 as
    UTF-16BE. UnicodeEncodeError when the text does not fit the encoding.
    """
    text = texts[index]
    body = gsm.encode(text) if encoding is _GSM7 else text.encode("utf-16-be")
    if len(texts) == 1:
        return body, False
    if bits == 16:
        octets = (reference & 0xFFFF).to_bytes(2, "big")
        return bytes((6, 8, 4, *octets, len(texts), index + 1)) + body, True
    return bytes((5, 0, 3, reference & 0xFF, len(texts), index + 1)) + body, True


def usable_bits(texts: tuple[str, ...], encoding: Encoding, bits: int) -> int:
    """The wanted bits of a text's reference; 8 when it was cut without room for 16.

    Asked once for each text: it measures all its segments.
    """
    if bits == 8:
        return bits
    if encoding is _GSM7:
        has_room = all(gsm.septets(text) <= GSM7_EACH_WIDE for text in texts)
    else:
        has_room = all(_units(text) <= UCS2_EACH_WIDE for text in texts)
    return bits if has_room else 8


def _as_gsm7(text: str, max_segments: int, each: int) -> Segmentation | TooLong:
    length = len(text)
    if length <= GSM7_ONE // 2:
        return Segmentation(_GSM7, (text,))
    if gsm.has_extended(text):
        length = gsm.septets(text)
        is_plain = False
    else:
        is_plain = True
    if length <= GSM7_ONE:
        return Segmentation(_GSM7, (text,))
    allowed = min(max_segments, MAX_SEGMENTS)
    if length > allowed * each:
        return TooLong(-(-length // each))
    texts = _sliced(text, each) if is_plain else _cut_septets(text, each)
    return Segmentation(_GSM7, texts) if len(texts) <= allowed else TooLong(len(texts))


def _as_ucs2(text: str, max_segments: int, each: int) -> Segmentation | TooLong:
    length = len(text)
    if length <= UCS2_ONE // 2:  # also when each character takes a surrogate pair
        return Segmentation(_UCS2, (text,))
    is_plain = _FRAGILE.search(text) is None
    if not is_plain:
        length = _units(text)
    if length <= UCS2_ONE:
        return Segmentation(_UCS2, (text,))
    allowed = min(max_segments, MAX_SEGMENTS)
    if length > allowed * each:
        return TooLong(-(-length // each))
    texts = _sliced(text, each) if is_plain else _cut_units(text, each)
    return Segmentation(_UCS2, texts) if len(texts) <= allowed else TooLong(len(texts))


def _sliced(text: str, size: int) -> tuple[str, ...]:
    return tuple([text[start : start + size] for start in range(0, len(text), size)])


def _cut_septets(text: str, each: int) -> tuple[str, ...]:
    """Slices of the septets, one shorter where the cut would follow an escape."""
    data = gsm.encode(text)
    texts = []
    start = 0
    while start < len(data):
        end = start + each
        if end < len(data) and data[end - 1] == gsm.ESCAPE:
            end -= 1
        texts.append(gsm.decode(data[start:end]))
        start = end
    return tuple(texts)


def _cut_units(text: str, each: int) -> tuple[str, ...]:
    """Greedy; an emoji moves whole, and only one too long for a segment is cut itself."""
    cuts = [0]
    used = position = 0
    for start, end in _clusters(text):
        # What stands before it is one unit a character: sliced.
        while start - position > each - used:
            position += each - used
            cuts.append(position)
            used = 0
        used += start - position
        position = start
        whole = text[start:end]
        size = _units(whole)
        for piece in (whole,) if size <= each else whole:
            size = _units(piece)
            if used + size > each:
                cuts.append(position)
                used = 0
            position += len(piece)
            used += size
    cuts.append(len(text))
    return tuple([text[start:end] for start, end in pairwise(cuts)])


def _clusters(text: str) -> Iterator[tuple[int, int]]:
    """Where the emoji and the surrogate pairs stand; an empty one at the end."""
    for match in _CLUSTER.finditer(text):
        yield match.span()
    yield len(text), len(text)


def _units(text: str) -> int:
    """Length in UTF-16 units; a lone surrogate counts as one."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
