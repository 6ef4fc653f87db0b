"""What the protocols of the mainland's networks share: how moments, numbers and texts are written.

Moments are in UTC+8, whatever the node's own zone. A text of the GSM alphabet goes out as ASCII
where it can: none of these protocols packs septets, and 140 octets are what a segment holds.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from sms import gsm
from sms.concatenation import utf16
from sms.model import Encoding, Submit

CONTENT_MAXIMUM: Final = 140  # octets of user data in one segment, its header included

CODING_ASCII: Final = 0
CODING_BINARY: Final = 4
CODING_UCS2: Final = 8
CODING_GBK: Final = 15

_CHINA = timezone(timedelta(hours=8))
_GSM7 = Encoding.GSM7  # as a global for the path: a call in Python 3.11


def stamp_of(unix: float) -> int:
    """MMDDHHMMSS as one number: 1121203230 is 21 November, 20:32:30; at most 1231235959."""
    at = datetime.fromtimestamp(unix, UTC).astimezone(_CHINA)
    return (((at.month * 100 + at.day) * 100 + at.hour) * 100 + at.minute) * 100 + at.second


def absolute_time(unix: float) -> str:
    """YYMMDDhhmmss032+, 16 characters: 32 quarters of an hour before UTC, rounded up to minutes.

    Whole minutes, because a PDU's part that holds it is built once and used for all its submits.
    """
    at = datetime.fromtimestamp(-(-unix // 60) * 60, UTC).astimezone(_CHINA)
    return f"{at:%y%m%d%H%M%S}032+"


def e164(number: str) -> str:
    """The digits of a number as a carrier writes it, with its country: 138… is 86138….

    Behind `+` or 00 the country is there already: +1 347… is a phone in New York.
    """
    text = number.strip()
    digits = text.lstrip("+")
    if digits.startswith("00"):
        return digits[2:]
    is_bare = len(digits) == len(text) == 11
    return f"86{digits}" if is_bare and digits[0] == "1" else digits


def national(number: str) -> str:
    """A mainland number without its 86, any other one as it is."""
    return number[2:] if number.startswith("86") and len(number) == 13 else number


_UNLIKE: Final = 0xFF  # a septet that is no ASCII character by itself


def _ascii_of(septet: int) -> int:
    character = gsm.decode(bytes((septet,))) if septet < 0x80 and septet != gsm.ESCAPE else ""
    return ord(character) if len(character) == 1 and character.isascii() else _UNLIKE


_TO_ASCII: Final = bytes(_ascii_of(septet) for septet in range(256))


def content_of(submit: Submit, most: int = CONTENT_MAXIMUM) -> tuple[int, bytes]:
    """(coding, octets) of a submit's user data, its header first.

    GSM-7 becomes ASCII, or UCS-2 where a character has none. Raises ValueError when it is longer
    than `most` octets then.
    """
    payload = submit.payload
    coding = CODING_UCS2
    if submit.encoding is _GSM7:
        stop = 1 + payload[0] if submit.has_udh else 0
        header, body = payload[:stop], payload[stop:]
        plain = body.translate(_TO_ASCII)
        if _UNLIKE not in plain:
            coding, payload = CODING_ASCII, header + plain
        else:
            text = gsm.decode(body)
            is_ascii = text.isascii()
            coding = CODING_ASCII if is_ascii else CODING_UCS2
            payload = header + text.encode("ascii" if is_ascii else "utf-16-be")
    if len(payload) > most:
        raise ValueError(f"{len(payload)} octets of content, at most {most} fit a segment")
    return coding, payload


def text_of(coding: int, content: bytes) -> str:
    """The text of what a phone sent, without its user data header (`sms.concatenation`).

    Never an error, since an odd character must not cost an opt-out: GB18030 reads ASCII too, and
    is what phones' texts come in when the coding says 0. Octets that are no character are escaped:
    a cut went through one, and `sms.concatenation.join` reads it whole.
    """
    if coding == CODING_UCS2:
        text = utf16(content)
    elif coding == CODING_BINARY:
        text = content.decode("latin-1")
    else:
        text = content.decode("gb18030", "surrogateescape")
    return text.rstrip("\0")
