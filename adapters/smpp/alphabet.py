"""Which characters stand behind a data_coding, out and in (SMPP 3.4 section 5.2.19).

Coding 0 is the carrier's own alphabet: GSM 03.38 nearly everywhere, Latin-1 or ASCII at some, so a
channel says it. A text of GSM-7 is sent in the characters of the coding that the channel gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Final

from sms import gsm
from sms.concatenation import utf16
from sms.model import Encoding, Submit


class Alphabet(StrEnum):
    """What a carrier's data_coding 0 is."""

    GSM7 = "gsm7"
    LATIN1 = "latin1"
    ASCII = "ascii"


CODING_ASCII: Final = 1
CODING_LATIN1: Final = 3
CODING_UCS2: Final = 8
_CODING_GBK: Final = 15  # reserved by the standard; some Asian carriers write GBK under it
_BINARY: Final = (2, 4)
_CLASSES: Final = 0xF0  # message classes: 0xF0 to 0xF3 in GSM 03.38, from 0xF4 on octets
_UCS2_MAXIMUM: Final = 140  # octets of a segment

_CHARSETS: Final = {Alphabet.GSM7: "", Alphabet.LATIN1: "latin-1", Alphabet.ASCII: "ascii"}
BuildInto = Callable[[list[bytes], int, Submit], None]


def charset_of(coding: int, default: Alphabet) -> str:
    """Python's name of the characters a coding has; "" for GSM 03.38, and for what is not known.

    `default` is the carrier's alphabet.
    """
    if coding == CODING_ASCII:
        return "ascii"
    if coding == CODING_LATIN1:
        return "latin-1"
    return "" if coding & 0x0F else _CHARSETS[default]


def recoding(build_into: BuildInto, charset: str) -> BuildInto:
    """`build_into` for submits whose GSM-7 goes out in another charset."""

    def build(out: list[bytes], sequence: int, submit: Submit) -> None:
        build_into(out, sequence, recoded(submit, charset))

    return build


def recoded(submit: Submit, charset: str) -> Submit:
    """The submit as it is written: GSM-7 in that charset, or UCS-2 where a character is not in it.

    ValueError when it is too long for a segment then.
    """
    if submit.encoding is not Encoding.GSM7:
        return submit
    stop = 1 + submit.payload[0] if submit.has_udh else 0
    header, text = submit.payload[:stop], gsm.decode(submit.payload[stop:])
    try:
        return replace(submit, payload=header + text.encode(charset))
    except UnicodeEncodeError:
        payload = header + text.encode("utf-16-be")
    if len(payload) > _UCS2_MAXIMUM and not submit.parts:  # what leaves whole has no such bound
        raise ValueError(f"{len(payload)} octets as UCS-2, at most {_UCS2_MAXIMUM} fit a segment")
    return replace(submit, payload=payload, encoding=Encoding.UCS2)


def text_of(coding: int, content: bytes, default: Alphabet) -> str:
    """The text of what a phone sent, without its user data header.

    Never an error, since an odd character must not cost an opt-out. An unknown coding is read as
    the carrier's alphabet.
    """
    if coding >= _CLASSES:
        return content.decode("latin-1") if coding & 0x04 else gsm.decode(content)
    kind = coding & 0x0F
    if kind == CODING_UCS2:
        return utf16(content)
    if kind == _CODING_GBK:
        return content.decode("gb18030", "surrogateescape")  # a cut character: join reads it
    is_octets = kind in (CODING_ASCII, CODING_LATIN1, *_BINARY) or default is not Alphabet.GSM7
    return content.decode("latin-1") if is_octets else gsm.decode(content)
