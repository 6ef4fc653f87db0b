"""The GSM 7-bit default alphabet and its extension table (3GPP TS 23.038, 6.2.1).

One septet per octet, unpacked, as SMPP carries it with data_coding 0; an extension character is
ESC (0x1B) and one more septet. Packing into 140 octets is the SMSC's work. National language
tables are not used.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ESCAPE = 0x1B

_DATA = json.loads((Path(__file__).parent / "data" / "gsm0338.json").read_text("utf-8"))
_BASIC: dict[str, int] = {char: int(code, 16) for code, char in _DATA["basic"].items()}
_EXTENSION: dict[str, int] = {char: int(code, 16) for code, char in _DATA["extension"].items()}

ALPHABET = frozenset(_BASIC) | frozenset(_EXTENSION)

_ENCODE: dict[int, str] = {ord(char): chr(code) for char, code in _BASIC.items()}
_ENCODE |= {ord(char): chr(ESCAPE) + chr(code) for char, code in _EXTENSION.items()}
# An ASCII character outside the alphabet must not slip through `encode` as the septet it looks
# like, so it becomes something that ASCII cannot hold.
_ENCODE |= {code: "\ufffd" for code in range(128) if code not in _ENCODE}

_DECODE: dict[int, str] = {code: char for char, code in _BASIC.items()}
_DECODE |= dict.fromkeys(range(128, 256), "�")
_DECODE[ESCAPE] = " "
_DECODE_EXTENDED: dict[str, str] = {chr(code): char for char, code in _EXTENSION.items()}

_OUTSIDE = re.compile(f"[^{re.escape(''.join(sorted(ALPHABET)))}]")
_EXTENDED = re.compile(f"[{re.escape(''.join(sorted(_EXTENSION)))}]")
_ESCAPED = re.compile("\x1b(.)", re.DOTALL)


def is_gsm7(text: str) -> bool:
    """Whether every character is in the alphabet or its extension."""
    return _OUTSIDE.search(text) is None


def outside(text: str) -> tuple[str, ...]:
    """The characters that keep a text from being GSM-7, each once, in order of appearance."""
    return tuple(char for char in dict.fromkeys(text) if char not in ALPHABET)


def has_extended(text: str) -> bool:
    """Whether a character of a GSM-7 text costs two septets."""
    return _EXTENDED.search(text) is not None


def septets(text: str) -> int:
    """How many septets a GSM-7 text takes."""
    return len(text) + len(_EXTENDED.findall(text))


def encode(text: str) -> bytes:
    """One septet per octet; UnicodeEncodeError (a ValueError) when a character has none."""
    return text.translate(_ENCODE).encode("ascii")


def decode(data: bytes) -> str:
    """The text behind unpacked septets; never fails.

    An escape before a code without an extension shows the basic character of that code, an escape
    before another one or at the end a space (TS 23.038, 6.2.1.1 and its notes); an octet above
    0x7F is U+FFFD.
    """
    text = data.decode("latin-1")
    if ESCAPE not in data:
        return text.translate(_DECODE)
    parts = _ESCAPED.split(text)
    parts[::2] = [part.translate(_DECODE) for part in parts[::2]]
    parts[1::2] = [
        _DECODE_EXTENDED.get(char) or _DECODE.get(ord(char), "\ufffd") for char in parts[1::2]
    ]
    return "".join(parts)
